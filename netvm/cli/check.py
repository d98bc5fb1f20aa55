"""``netvm check``: look for a schedule in which a scenario hangs, and say how sure it is that there is none.

Explore the schedules of a scenario: which ready task runs next, which event of an instant comes first, and with
--mishap which packet is lost, late or doubled, which allocation fails, which request overtakes another. The result is
one of proved (everything was looked at), bounded (all of a part was), statistical (a random sample was) and refuted; a
refuted one comes with a reproducer that `netvm replay` runs.

Exit code: 0 nothing found, 1 refuted, 2 usage or scenario error, 3 nothing decided, 130 interrupted; the first Ctrl-C
lets the schedule that is being run end and prints what the search has seen so far.
"""

import argparse
import math
import signal
import time  # noqa: TID251  # a budget of the user's time is wall time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from netvm.cli.arguments import add_overrides, add_property_files, natural, one_of
from netvm.cli.output import complain, emit, finish, save
from netvm.errors import UsageError

if TYPE_CHECKING:
    from netvm.explore.result import CheckResult
    from netvm.explore.subject import Subject

__all__ = ["STRATEGIES", "add_arguments", "add_subject_arguments", "call", "code_of", "mishap", "subject_of"]

STRATEGIES = ("random", "pct", "pos", "delay", "exhaustive")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", metavar="NAME|FILE", help="the scenario")
    parser.add_argument(
        "--strategy",
        metavar="|".join(STRATEGIES),
        type=one_of(*STRATEGIES),
        help="how schedules are chosen; default: exhaustive for an abstract scenario, else random",
    )
    parser.add_argument("--schedules", metavar="N", type=natural, help="schedules to run (default 1000)")
    parser.add_argument("--time", metavar="SECONDS", type=natural, help="wall time to spend")
    parser.add_argument(
        "--jobs", metavar="J", type=natural, default=1, help="processes side by side (random strategies)"
    )
    parser.add_argument("--seed", metavar="N", type=natural, default=0, help="seed of the search")
    parser.add_argument("--keep-going", action="store_true", help="count all failures, do not stop at the first")
    add_subject_arguments(parser)
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the reproducer goes")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is explored beside the scenario's name."""
    add_overrides(parser)
    parser.add_argument(
        "--mishap",
        metavar="KIND=N",
        dest="mishaps",
        type=mishap,
        action="append",
        default=[],
        help="let up to N packets (packet) be lost, late or doubled, allocations (alloc) fail, or requests (complete) "
        "be overtaken; may be repeated",
    )
    add_property_files(
        parser,
        purpose="also look at what a Python file declares under @always or @sometimes of netvm.explore.properties",
    )
    parser.add_argument(
        "--window-us",
        metavar="US",
        type=natural,
        default=0,
        help="events so close may come in any order: an arrival and the retry timer it beats",
    )
    parser.add_argument(
        "--calm-boot",
        action="store_true",
        help="explore from the first program on; the order in which the kernel's threads start is left as it is",
    )


def mishap(text: str) -> tuple[str, int]:
    """Read ``KIND=N``."""
    from netvm.runtime.choices import MISHAPS

    kind, equals, number = text.partition("=")
    if kind not in MISHAPS or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: must be KIND=N, KIND one of {', '.join(MISHAPS)}")
    return kind, natural(number)


def subject_of(arguments: argparse.Namespace, *, overrides: list[str] | None = None) -> "Subject":
    """Load what is to be explored. Raises UsageError."""
    from netvm.explore.properties import PROPERTIES, load_properties
    from netvm.explore.subject import Subject
    from netvm.scenario.catalog import find
    from netvm.scenario.load import load_scenario

    files = {path: load_properties(path) for path in arguments.property_files}
    named = find(arguments.name)
    if len(named) > 1:
        names = ", ".join(entry.name for entry in named)
        raise UsageError(f"{arguments.verb}: {arguments.name} is several scenarios: {names}; name one")
    scenario = load_scenario(named[0].path, overrides=[*arguments.overrides, *(overrides or [])])
    return Subject(
        scenario=scenario,
        name=named[0].name,
        mishaps=dict(arguments.mishaps),
        window_ns=arguments.window_us * 1000,
        calm_boot=arguments.calm_boot,
        properties=(*PROPERTIES, *(found for file in files.values() for found in file.properties)),
        property_files={str(path): file.digest for path, file in files.items()},
    )


def call(arguments: argparse.Namespace) -> int:
    """Search, and print what it came to."""
    import msgspec

    from netvm.explore.search import Budget, check

    arguments.verb = "check"
    subject = subject_of(arguments)
    strategy = arguments.strategy or ("random" if subject.scenario.abstract is None else "exhaustive")
    if not arguments.jobs:
        raise UsageError("check: --jobs 0: must be at least 1")
    if arguments.jobs > 1 and arguments.property_files:
        raise UsageError("check: --property is looked at in one process; leave out --jobs")
    schedules = arguments.schedules
    if schedules is None and arguments.time is None and strategy != "exhaustive":
        schedules = 1000
    deadline_s = math.inf if arguments.time is None else time.monotonic() + arguments.time
    with _until_ctrl_c() as interrupted:
        result = check(
            subject,
            strategy=strategy,
            seed=arguments.seed,
            budget=Budget(schedules, lambda: bool(interrupted) or time.monotonic() >= deadline_s),
            jobs=arguments.jobs,
            keep_going=arguments.keep_going,
        )
    result = msgspec.structs.replace(result, overrides=list(arguments.overrides))
    if result.failure is not None:
        result = _with_reproducer(subject, result, arguments.output)
    emit(msgspec.json.encode(result).decode() if arguments.json else text_of(result))
    finish()
    return 130 if interrupted and result.failure is None else code_of(result)


@contextmanager
def _until_ctrl_c() -> Iterator[list[int]]:
    """Give a list that the first Ctrl-C puts something in, so that a search can end and say what it has seen."""
    interrupted: list[int] = []

    def end(number: int, _frame: object) -> None:
        interrupted.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        complain("interrupted: the search ends with the schedules that are being run; Ctrl-C again leaves at once")

    before = signal.signal(signal.SIGINT, end)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def code_of(result: "CheckResult") -> int:
    """Return the exit code of a result."""
    if result.result == "refuted":
        return 1
    return 0 if result.decided else 3


def _with_reproducer(subject: "Subject", result: "CheckResult", path: Path | None) -> "CheckResult":
    """Write the reproducer and name it in the result."""
    import msgspec

    from netvm.explore.reproducer import reproducer_of, text_of

    reproducer = reproducer_of(subject, result)
    if path is None:
        path = Path(f"{subject.name.replace('/', '-').removesuffix('.toml').lstrip('.-')}.reproducer.toml")
    save(text_of(reproducer, subject), path)
    if reproducer.leaves_at is not None:
        complain(f"leaves the last passing schedule at choice {reproducer.leaves_at}: {reproducer.leaves_how}")
    elif not reproducer.tape:
        complain("the calm schedule, in which every choice is 0, fails; there is no passing one that it leaves")
    return msgspec.structs.replace(result, reproducer=str(path))


def text_of(result: "CheckResult") -> str:
    """Return what a user reads."""
    lines = [
        f"{result.scenario}: {result.result}",
        f"  {result.statement}",
        f"  strategy {result.strategy}, seed {result.seed}: {result.schedules} schedules ({result.distinct} distinct)"
        + (f", {result.states} states" if result.states is not None else "")
        + f", {result.steps} steps",
    ]
    if result.failure is not None:
        lines.append(f"  schedule {result.first_failure_at} fails; replayed {result.failure.replays} times, the same")
        lines.append(f"  run it again: netvm replay {result.reproducer}")
    lines += [f"  {key}: {value}" for key, value in result.bound.items()]
    lines += [f"  never seen, so nothing is said about it: {name}" for name in result.vacuous]
    return "\n".join(lines)
