"""``netvm replay``: run a recorded result or a reproducer again and compare.

Run again what FILE records: the output of `netvm run --json` (each line of it), a reproducer of `netvm check`, or a
scenario in TOML. The result of the same version has to be the same to the byte, wall time excepted; replay says whether
it is. With --step a reproducer is walked through: who runs, and who could have run instead.

Exit code: 0 the result is the recorded one, 1 it is not; for a TOML scenario as of `netvm run`.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netvm.cli.arguments import add_property_files
from netvm.cli.output import complain, emit
from netvm.cli.run import add_output_arguments, execute, exit_code, tell
from netvm.errors import UsageError

if TYPE_CHECKING:
    from netvm.explore.reproducer import Reproducer
    from netvm.explore.subject import Subject
    from netvm.scenario.outcome import Outcome

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="output of `netvm run --json`, a reproducer, or a scenario"
    )
    parser.add_argument("--step", action="store_true", help="walk through a reproducer; on a terminal, step by step")
    add_property_files(parser, purpose="look at the properties of this file, not of those that a reproducer names")
    add_output_arguments(parser)


def call(arguments: argparse.Namespace) -> int:
    """Run each recorded result again."""
    from netvm.scenario.load import read_text

    text = read_text(arguments.file)
    is_reproducer = not text.lstrip().startswith("{") and re.search(r"^\[reproducer\]", text, re.MULTILINE)
    if arguments.property_files and not is_reproducer:
        raise UsageError(f"{arguments.file}: --property is for a reproducer of `netvm check`; this is none")
    if not text.lstrip().startswith("{"):
        if is_reproducer:
            return _reproducer(arguments)
        if arguments.step:
            raise UsageError(f"{arguments.file}: --step walks through a reproducer of `netvm check`; this is none")
        return _scenario(arguments)
    if arguments.step:
        raise UsageError(f"{arguments.file}: --step walks through a reproducer of `netvm check`; this is none")
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


def _reproducer(arguments: argparse.Namespace) -> int:
    """Run a failing schedule again and say whether it comes out the same."""
    import msgspec

    from netvm import __version__
    from netvm.explore.reproducer import digest_of, load
    from netvm.explore.subject import rerun
    from netvm.runtime.oracle import TapeMismatchError

    reproducer, subject = load(arguments.file, arguments.property_files)
    version = (
        "" if reproducer.version == __version__ else f" (written by netvm {reproducer.version}, this is {__version__})"
    )
    if arguments.step:
        _walk(reproducer, subject)
    try:
        schedule = rerun(subject, reproducer.tape)
    except TapeMismatchError as error:
        emit(f"replayed: NOT the schedule of {arguments.file}{version}: {error}")
        return 1
    outcome = msgspec.structs.replace(schedule.experiment.outcome(), replay=f"netvm replay {arguments.file}")
    tell(outcome, arguments)
    say = complain if arguments.json else emit
    fails = schedule.broken is not None and schedule.broken.property == reproducer.property
    files = reproducer.property_files.values()
    if schedule.broken is not None:
        say(f"fails: {schedule.broken.property}: {schedule.broken.what}")
    if reproducer.leaves_at is not None:
        say(f"leaves the last passing schedule at choice {reproducer.leaves_at}: {reproducer.leaves_how}")
    elif not any(reproducer.tape):
        say("the calm schedule, in which every choice is 0, fails")
    changed = [name for name, digest in subject.property_files.items() if digest not in files]
    if changed:
        say(f"{', '.join(changed)}: not the properties that the reproducer was written with")
    is_looked_at = reproducer.property in {prop.name for prop in subject.properties}
    if digest_of(outcome) == reproducer.digest and is_looked_at and not fails:
        say(f"replayed: the same result as {arguments.file}, byte for byte; but {reproducer.property!r} holds in it")
        return 1
    if digest_of(outcome) == reproducer.digest:
        say(f"replayed: the same result as {arguments.file}, byte for byte")
        return 0
    say(f"replayed: NOT the result of {arguments.file}{version}")
    return 1


def _walk(reproducer: "Reproducer", subject: "Subject") -> None:
    """Tell the schedule of a reproducer step by step; on a terminal, one at a time."""
    from netvm.explore.reproducer import walk

    waits = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    for step in walk(subject, reproducer.tape):
        mark = ">" if step.choice is not None and step.choice == reproducer.leaves_at else " "
        chosen = "" if step.choice is None else f"choice {step.choice}"
        others = f", not {', '.join(step.instead_of)}" if step.instead_of else ""
        emit(f"{mark} {step.number:6} {step.at_ns / 1e9:12.6f} s {chosen:12} {step.who} runs{others}")
        if waits and input() == "q":
            return


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
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{origin}: not the output of `netvm run --json`: {error}") from error
    if isinstance(data, dict):
        data.pop("against", None)
    for blame in blames(data, Outcome):
        raise refuse(origin, blame)
    return msgspec.convert(data, Outcome)
