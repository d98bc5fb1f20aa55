"""``netvm replay``: run a recorded result again and compare.

Run again what FILE records: the output of `netvm run --json` (each line of it), or a scenario in TOML. The result of
the same version has to be the same to the byte, wall time excepted; replay says whether it is.

Exit code: 0 the result is the recorded one, 1 it is not; for a TOML scenario as of `netvm run`.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netvm.cli.output import complain, emit
from netvm.cli.run import add_output_arguments, execute, exit_code, tell
from netvm.errors import UsageError

if TYPE_CHECKING:
    from netvm.scenario.outcome import Outcome

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("file", metavar="FILE", type=Path, help="output of `netvm run --json`, or a scenario")
    add_output_arguments(parser)


def call(arguments: argparse.Namespace) -> int:
    """Run each recorded result again."""
    from netvm.scenario.load import read_text

    text = read_text(arguments.file)
    if not text.lstrip().startswith("{"):
        return _scenario(arguments)
    codes = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            codes.append(_result(line, f"{arguments.file}:{number}", arguments))
            if codes[-1] == 130:
                break
    return max(codes)


def _scenario(arguments: argparse.Namespace) -> int:
    """Run a scenario as it stands."""
    from netvm.scenario.load import load_scenario

    name = str(arguments.file)
    outcome = execute(load_scenario(arguments.file), arguments, name=name, replay=f"netvm replay {name}")
    tell(outcome, arguments)
    return exit_code(outcome)


def _result(line: str, origin: str, arguments: argparse.Namespace) -> int:
    """Run one result again and say whether it comes out the same."""
    from netvm import __version__
    from netvm.scenario.load import scenario_from
    from netvm.scenario.outcome import differences

    recorded = _recorded(line, origin)
    scenario = scenario_from(recorded.options, origin=f"{origin}: options")
    outcome = execute(scenario, arguments, name=recorded.scenario, replay=recorded.replay)
    tell(outcome, arguments)
    if outcome.partial == "interrupted":
        return 130
    say = complain if arguments.json else emit
    if recorded.partial == "interrupted":
        say(f"{origin} was interrupted: there is nothing to compare with")
        return exit_code(outcome)
    different = differences(recorded, outcome)
    if not different:
        say(f"replayed: the same result as {origin}, byte for byte but wall_seconds")
        return 0 if outcome.partial is None else exit_code(outcome)
    version = (
        "" if recorded.version == __version__ else f" (recorded by netvm {recorded.version}, this is {__version__})"
    )
    say(f"replayed: NOT the result of {origin}{version}: {', '.join(different)} differ")
    return 1


def _recorded(line: str, origin: str) -> "Outcome":
    import msgspec

    from netvm.scenario.blame import blames, refuse
    from netvm.scenario.outcome import Outcome

    try:
        data: Any = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise UsageError(f"{origin}: not the output of `netvm run --json`: {error}") from error
    if isinstance(data, dict):
        data.pop("against", None)
    for blame in blames(data, Outcome):
        raise refuse(origin, blame)
    return msgspec.convert(data, Outcome)
