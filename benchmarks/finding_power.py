"""How soon each strategy finds what is broken: the tables of ``docs/finding-power.md``.

*Exhibits*: schedules until the first failure, the median over seeds. *Switches*: each fix of preset 6.18 switched off
by itself in the small form of exhibit A2, searched by a few random schedules. Exhibits are given in their small forms
where they have one; ``--seconds`` bounds the CPU time of each line, and a line says how many seeds it is made of.
"""

import argparse
from collections.abc import Sequence
from statistics import median

from bench_explore import SMALL_A2, subject_of
from yardstick import seconds

from netvm.errors import UsageError
from netvm.explore.sampling import SAMPLED, sample
from netvm.explore.search import Budget, check
from netvm.explore.subject import Subject
from netvm.fixes import FIXES, preset

_RESERVE_8 = ("abstract.frames=8", "run.max_steps=400")
EXHIBITS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("abstract, R = 2, W = 2, drop", "abstract/reserve", (*_RESERVE_8, "abstract.reserve=2")),
    (
        "abstract, R = 3, W = 2, B = 1, parked",
        "abstract/reserve",
        (*_RESERVE_8, "abstract.reserve=3", "abstract.drop=false"),
    ),
    (
        "abstract, N = 12, R = 5, W = 3, B = 2, parked",
        "abstract/reserve",
        (
            "abstract.frames=12",
            "abstract.reserve=5",
            "abstract.writebacks=3",
            "abstract.bystanders=2",
            "abstract.drop=false",
            "run.max_steps=400",
        ),
    ),
    ("A2/nbd-broken, small", "A2/nbd-broken", SMALL_A2),
    ("A2/iscsi-broken, small", "A2/iscsi-broken", SMALL_A2),
    ("R1/iscsi-broken", "R1/iscsi-broken", ()),
    ("R4/nbd-broken", "R4/nbd-broken", ()),
    ("R4/iscsi-broken", "R4/iscsi-broken", ()),
    ("C1/loop-broken", "C1/loop-broken", ()),
)
_CAP = 1000
_SWITCH_BASE = ("kernel.fixes={}", 'kernel.preset="6.18"', "kernel.fixes.rx_head_memalloc=true")
"""6.18 as it is hangs here by mechanism R3, whose cure nobody has merged: with it nothing is left to be found."""


def exhibits(nr_seeds: int, seconds_max: float) -> None:
    """Print the first table."""
    print("| exhibit | random | pct | pos | delay | seeds |\n|---|---|---|---|---|---|")
    for title, name, overrides in EXHIBITS:
        try:
            subject = subject_of(name, *overrides)
        except UsageError as error:
            print(f"| {title} | cannot be run: {error} | | | | |")
            continue
        cells, fewest = [], nr_seeds
        for strategy in SAMPLED:
            found, done = _first_failures(subject, strategy, nr_seeds, seconds_max)
            cells.append(_median(found))
            fewest = min(fewest, done)
        cells.append(_delay(subject, seconds_max))
        print(f"| {title} | {' | '.join(cells)} | {fewest} |", flush=True)


def _first_failures(subject: Subject, strategy: str, nr_seeds: int, seconds_max: float) -> tuple[list[float], int]:
    found: list[float] = []
    begun = seconds()
    for seed in range(nr_seeds):
        if seconds() - begun > seconds_max:
            break
        budget = Budget(_CAP, lambda: seconds() - begun > seconds_max)
        result = sample(subject, strategy, seed, budget.is_spent, nr_schedules=_CAP)
        found.append(result.first_failure_at or float("inf"))
    return found, len(found)


def _median(found: Sequence[float]) -> str:
    if not found:
        return "-"
    middle = median(found)
    return f"{middle:g}" if middle < float("inf") else "not found"


def _delay(subject: Subject, seconds_max: float) -> str:
    begun = seconds()
    result = check(subject, strategy="delay", budget=Budget(_CAP, lambda: seconds() - begun > seconds_max))
    if result.first_failure_at is None:
        return f"not in {result.schedules}"
    return f"{result.first_failure_at} ({max(0, result.bound['delays'] + 1)} delays)"


def switches(nr_schedules: int) -> None:
    """Print the second table."""
    kernel = preset("6.18")
    print(f"| fix switched off in 6.18 | found in {nr_schedules} schedules | what |\n|---|---|---|")
    names = [name for name in FIXES if getattr(kernel, name)]
    for name in ["", *names]:
        overrides = [*_SWITCH_BASE, *([f"kernel.fixes.{name}=false"] if name else [])]
        subject = subject_of("A2/nbd-fixed", *SMALL_A2, *overrides)
        result = sample(subject, "random", 0, Budget(nr_schedules).is_spent, nr_schedules=nr_schedules)
        failure = result.failure
        what = "" if failure is None else f"{failure.property}: {failure.what.partition(':')[0]}"
        at = "no" if failure is None else f"at {failure.schedule}"
        print(f"| {name or '(none)'} | {at} | {what} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU time a cell")
    parser.add_argument("--schedules", type=int, default=2, help="schedules a switch")
    parser.add_argument("--only", choices=("exhibits", "switches"))
    arguments = parser.parse_args()
    if arguments.only != "switches":
        exhibits(arguments.seeds, arguments.seconds)
    if arguments.only != "exhibits":
        switches(arguments.schedules)


if __name__ == "__main__":
    main()
