"""``netvm explain``: what an exhibit shows, where that is documented, what cured it, and its own broken run.

Tell the exhibit's mechanism, source and fix, run its broken arm, and print who waits for what and who holds that, down
to the shortest chain of the knot. A folder tells each of its pairs; any arm of a pair names the pair.

Exit code: 0 the broken arm ends as expected, 1 it does not, 2 usage or scenario error, 3 its budget ran out, 130
interrupted.
"""

import argparse

from netvm.cli.output import emit, finish
from netvm.cli.run import add_output_arguments, execute, exit_code

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", metavar="NAME|FILE|FOLDER", help="an exhibit, or one of its arms")
    add_output_arguments(parser)


def call(arguments: argparse.Namespace) -> int:
    """Tell each pair that is named."""
    from netvm.report.museum import exhibit_text
    from netvm.scenario.catalog import find
    from netvm.scenario.load import load_scenario
    from netvm.scenario.matrix import broken_arms
    from netvm.scenario.outcome import outcome_json

    codes = []
    for named in broken_arms(find(arguments.name)):
        scenario = load_scenario(named.path)
        outcome = execute(scenario, arguments, name=named.name, replay=f"netvm run {named.name}", with_options=False)
        if arguments.json:
            emit(outcome_json(outcome, exhibit=scenario.exhibit))
        else:
            emit(exhibit_text(named.name, scenario, outcome) + "\n")
        finish()
        codes.append(exit_code(outcome))
        if outcome.partial == "interrupted":
            break
    return next((code for code in (130, 1, 3) if code in codes), 0)
