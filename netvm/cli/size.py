"""``netvm size``: the smallest safe value of a knob.

Find by bisection the smallest value of a numeric key at which no schedule is found to fail: `--knob reserve.pages` (the
min watermark, or the reserve of an abstract machine) or the dotted path of any numeric key. Told are the class of proof
on both sides of the edge, the failure rate around it, and the analytic bound: the sum of what the consumers of the
cleaning path declare as their maxima.

Exit code: 0 found, 1 no value tried is safe, 2 usage or scenario error, 130 interrupted.
"""

import argparse
import time  # noqa: TID251  # a budget of the user's time is wall time

from netvm.cli.arguments import natural, one_of
from netvm.cli.check import STRATEGIES, add_subject_arguments, subject_of
from netvm.cli.output import emit, finish
from netvm.errors import UsageError

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", metavar="NAME|FILE", help="the scenario")
    parser.add_argument("--knob", metavar="KEY", required=True, help="reserve.pages, or the path of a numeric key")
    parser.add_argument("--low", metavar="N", type=natural, default=0, help="smallest value to try (default 0)")
    parser.add_argument("--high", metavar="N", type=natural, help="largest value to try (default: doubled until safe)")
    parser.add_argument(
        "--strategy",
        metavar="|".join(STRATEGIES),
        type=one_of(*STRATEGIES),
        help="of each probe; default: exhaustive for an abstract scenario, else random",
    )
    parser.add_argument("--schedules", metavar="N", type=natural, default=20, help="schedules a probe (default 20)")
    parser.add_argument("--time", metavar="SECONDS", type=natural, help="wall time for one probe")
    parser.add_argument(
        "--around", metavar="N", type=natural, default=2, help="values each side in the curve (default 2)"
    )
    parser.add_argument(
        "--jobs", metavar="J", type=natural, default=1, help="processes side by side (random strategies)"
    )
    parser.add_argument("--seed", metavar="N", type=natural, default=0, help="seed of the searches")
    add_subject_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _refuse_what_contradicts(arguments: argparse.Namespace) -> None:
    if not arguments.jobs:
        raise UsageError("size: --jobs 0: must be at least 1")
    if arguments.jobs > 1 and arguments.property_files:
        raise UsageError("size: --property is looked at in one process; leave out --jobs")
    if arguments.high is not None and arguments.high < arguments.low:
        raise UsageError(f"size: --high {arguments.high}: must be at least --low, which is {arguments.low}")


def call(arguments: argparse.Namespace) -> int:
    """Bisect, and print the edge."""
    import msgspec

    from netvm.explore.result import CheckResult
    from netvm.explore.sampling import SAMPLED
    from netvm.explore.search import Budget, check, confirmed
    from netvm.explore.size import knob_of, smallest_safe, text_of
    from netvm.explore.subject import Subject

    arguments.verb = "size"
    _refuse_what_contradicts(arguments)
    jobs = arguments.jobs
    base = subject_of(arguments)
    knob = knob_of(arguments.knob, base.scenario)
    abstract = base.scenario.abstract is not None
    strategy = arguments.strategy or ("exhaustive" if abstract else "random")
    side_by_side = jobs if strategy in SAMPLED else 1

    def budget(nr_schedules: int | None) -> Budget:
        deadline_s = None if arguments.time is None else time.monotonic() + arguments.time
        return Budget(nr_schedules, lambda: deadline_s is not None and time.monotonic() >= deadline_s)

    def search(subject: Subject) -> CheckResult:
        limit = None if strategy == "exhaustive" and abstract else arguments.schedules
        return check(
            subject, strategy=strategy, seed=arguments.seed, budget=budget(limit), jobs=side_by_side, confirm=False
        )

    def rate(subject: Subject, known: CheckResult | None) -> CheckResult:
        if (
            known is not None
            and known.strategy == "random"
            and known.decided
            and known.failure is None
            and "repeats_not_run" not in known.bound
        ):
            # the same schedules, of which none has failed
            return known
        measured = check(
            subject,
            strategy="random",
            seed=arguments.seed,
            budget=budget(arguments.schedules),
            jobs=jobs,
            keep_going=True,
            confirm=False,
        )
        seen = None if known is None else known.failure
        if seen is not None and seen.replays and measured.failure is not None and seen.tape == measured.failure.tape:
            # what the probe found, which has been replayed
            return measured
        return confirmed(subject, measured, jobs=jobs)

    result = smallest_safe(
        lambda override: subject_of(arguments, overrides=[override]),
        knob,
        search,
        rate,
        confirm=lambda subject, found: confirmed(subject, found, jobs=jobs),
        low=arguments.low,
        high=arguments.high,
        around=arguments.around,
    )
    emit(msgspec.json.encode(result).decode() if arguments.json else text_of(result))
    finish()
    return 0 if result.smallest_safe is not None else 1
