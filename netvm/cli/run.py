"""``netvm run``: run scenarios and say whether the host survives, and why.

Run scenarios, one after the other: shipped ones by name (see `netvm list`), a folder of them for all its arms, or TOML
files. Printed first: version, seed and every resolved option; then progress (on standard error), verdict, explanation,
counters, and the command that runs it again. With --json, one line with one object for each scenario instead.

Exit code: 0 every verdict is as expected, 1 one is not, 2 usage or scenario error, 3 a budget ran out, 130 interrupted.
"""

import argparse
import sys
import time  # noqa: TID251  # how long the user waited is wall time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from netvm.cli.arguments import add_overrides, natural, one_of
from netvm.cli.output import emit, finish, is_coloured
from netvm.cli.progress import ProgressLine
from netvm.cli.recording import Recording
from netvm.errors import UsageError

if TYPE_CHECKING:
    from netvm.runtime.world import World
    from netvm.scenario.outcome import Outcome, Progress
    from netvm.scenario.recorded import RecordedRun
    from netvm.scenario.schema import Scenario
    from netvm.trace.recorder import Recorder

__all__ = ["add_arguments", "add_output_arguments", "call", "execute", "exit_code", "runner", "tell"]


class RunScenario(Protocol):
    """What runs a scenario; on KeyboardInterrupt it returns what there is, marked as partial."""

    def __call__(
        self,
        scenario: "Scenario",
        *,
        name: str,
        progress: "Callable[[Progress], None] | None",
        **options: "Callable[[World], Recorder]",
    ) -> "Outcome": ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("names", metavar="NAME|FILE|FOLDER", nargs="+", help="what to run")
    parser.add_argument("--seed", metavar="N", type=natural, help="seed of every random stream (run.seed)")
    parser.add_argument(
        "--oracle", metavar="fifo|random", type=one_of("fifo", "random"), help="who chooses among tasks (run.oracle)"
    )
    add_overrides(parser, example="vm.min_free_kbytes=4096 or workload.0.mib=160")
    parser.add_argument("--against", metavar="DIR", type=Path, help="hold the result against this recorded run")
    parser.add_argument(
        "--trace", metavar="FILE", type=Path, help="record the run; the suffix of FILE names the format"
    )
    parser.add_argument(
        "--trace-groups",
        metavar="default|full",
        type=one_of("default", "full"),
        default="default",
        help="which tracepoints to record",
    )
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a result is told."""
    parser.add_argument("--json", action="store_true", help="print one JSON object a scenario, nothing else")
    parser.add_argument("--quiet", action="store_true", help="no options and no progress, only the result")
    parser.add_argument("--no-color", action="store_true", help="no colour on a terminal (nor with NO_COLOR set)")


def call(arguments: argparse.Namespace) -> int:
    """Load everything first, so that a mistake costs no run; then run."""
    from netvm.scenario.catalog import find
    from netvm.scenario.load import load_scenario
    from netvm.scenario.recorded import read_recorded_run

    files = [named for name in arguments.names for named in find(name)]
    jobs = [
        (named.name, _chosen(load_scenario(named.path, overrides=arguments.overrides), arguments)) for named in files
    ]
    recorded = None if arguments.against is None else read_recorded_run(arguments.against)
    if recorded is not None and len(jobs) > 1:
        raise UsageError(f"run: --against compares one scenario; {len(jobs)} are named")
    if arguments.trace is not None and len(jobs) > 1:
        raise UsageError(f"run: --trace records one scenario; {len(jobs)} are named")
    if arguments.trace is not None:
        from netvm.report.export import check_target

        check_target(arguments.trace)
    codes = []
    for name, scenario in jobs:
        outcome = execute(scenario, arguments, name=name, replay=_replay_command(name, scenario, arguments))
        tell(outcome, arguments, recorded=recorded)
        codes.append(exit_code(outcome))
        if outcome.partial == "interrupted":
            break
    return next((code for code in (130, 1, 3) if code in codes), 0)


def runner() -> RunScenario:
    """Return what runs a scenario: the one seam between the command line and the model."""
    run_scenario: RunScenario = import_module("netvm.scenario.run").run_scenario
    return run_scenario


def execute(
    scenario: "Scenario", arguments: argparse.Namespace, *, name: str, replay: str, with_options: bool = True
) -> "Outcome":
    """Run ``scenario``, telling its options and progress as asked, and return its outcome with the wall time."""
    import msgspec

    told = not (arguments.json or arguments.quiet)
    if told and with_options:
        from netvm.cli.report import options_text

        emit(options_text(name, scenario))
        finish()
    started_s = time.perf_counter()
    show = ProgressLine(name, no_color=arguments.no_color) if told else nullcontext()
    recording = Recording(arguments) if getattr(arguments, "trace", None) is not None else None
    with show as progress, recording or nullcontext():
        try:
            options = {} if recording is None else {"tracer": recording.start}
            outcome = runner()(scenario, name=name, progress=progress, **options)
        except MemoryError as error:
            raise UsageError(f"{name}: not enough memory here to emulate {_sizes(scenario)}") from error
        if recording is not None:
            recording.finish(outcome)
    wall_s = time.perf_counter() - started_s
    return msgspec.structs.replace(outcome, wall_seconds=round(wall_s, 3), replay=replay)


def _sizes(scenario: "Scenario") -> str:
    """Say what of a scenario takes memory of this computer."""
    programs_mib = sum(getattr(work, "mib", 0) * getattr(work, "processes", 1) for work in scenario.workload)
    machine = f"machine.ram_mib = {scenario.machine.ram_mib}, storage.size_mib = {scenario.storage.size_mib}"
    return f"{machine} and programs of {programs_mib} MiB"


def tell(outcome: "Outcome", arguments: argparse.Namespace, *, recorded: "RecordedRun | None" = None) -> None:
    """Print one outcome, and beside it the recorded run it is held against."""
    from netvm.cli.report import comparison_text, outcome_text, paint_of
    from netvm.scenario.against import compare
    from netvm.scenario.outcome import outcome_json

    comparison = None if recorded is None else compare(recorded, outcome)
    if arguments.json:
        emit(outcome_json(outcome, **({} if comparison is None else {"against": comparison})))
    else:
        coloured = is_coloured(sys.stdout, no_color=arguments.no_color)
        emit(outcome_text(outcome), paint=paint_of(outcome) if coloured else "")
        if comparison is not None:
            emit(comparison_text(comparison))
    finish()


def exit_code(outcome: "Outcome") -> int:
    """Return the exit code of one run."""
    if outcome.partial is not None:
        return 130 if outcome.partial == "interrupted" else 3
    return 0 if outcome.as_expected else 1


def _chosen(scenario: "Scenario", arguments: argparse.Namespace) -> "Scenario":
    """Return ``scenario`` with the seed and oracle of the command line."""
    from msgspec.structs import replace

    given = {key: getattr(arguments, key) for key in ("seed", "oracle") if getattr(arguments, key) is not None}
    return replace(scenario, run=replace(scenario.run, **given))


def _replay_command(name: str, scenario: "Scenario", arguments: argparse.Namespace) -> str:
    """Return the one command that runs this again."""
    import shlex

    words = ["netvm", "run", name, "--seed", str(scenario.run.seed), "--oracle", scenario.run.oracle]
    for override in arguments.overrides:
        words += ["--set", override]
    return shlex.join(words)
