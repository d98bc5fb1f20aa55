"""The product's search, the numpy search and the formula of docs/reserve.md say the same of every small machine."""

from collections.abc import Callable, Iterator

import pytest

from netvm.explore.packed_reserve import search
from netvm.explore.result import CheckResult
from netvm.explore.search import Budget, check
from netvm.explore.subject import Subject


def is_safe(*, frames: int, reserve: int, writebacks: int, bystanders: int, priority: bool, drop: bool) -> bool:
    """Return what docs/reserve.md derives."""
    parked = 0 if drop else bystanders
    enough = reserve > parked + min(writebacks, frames - reserve)
    return priority and writebacks > 0 and enough and reserve < frames - parked


def machines(frames_max: int) -> Iterator[dict[str, int | bool]]:
    """Generate every machine up to this size."""
    for frames in range(1, frames_max + 1):
        for reserve in range(frames + 1):
            for writebacks in range(4):
                for bystanders in range(3):
                    for bits in range(4):
                        yield {
                            "frames": frames,
                            "reserve": reserve,
                            "writebacks": writebacks,
                            "bystanders": bystanders,
                            "priority": bool(bits & 1),
                            "drop": bool(bits & 2),
                        }


def test_the_formula_holds_for_every_small_machine() -> None:
    """The packed search over all N <= 8, W <= 3, B <= 2 finds a stuck state exactly where the formula says so."""
    assert [keys for keys in machines(8) if search(**keys).safe != is_safe(**keys)] == []  # type: ignore[arg-type]  # by name


def plainest(keys: dict[str, int | bool]) -> dict[str, int | bool]:
    """Leave out keys that nobody reads: none is parked where they are dropped, and nobody drops without bystanders."""
    if keys["drop"] and keys["bystanders"]:
        return {**keys, "bystanders": 1}
    return {**keys, "drop": False}


def agree(
    machine: Callable[..., Subject], keys: dict[str, int | bool], searched: dict[tuple[int | bool, ...], CheckResult]
) -> bool:
    """Return whether both searches say the same, states counted where both saw all."""
    packed = search(**keys)  # type: ignore[arg-type]  # keys by name
    alike = plainest(keys)
    result = searched.get(tuple(alike.values()))
    if result is None:
        result = searched[tuple(alike.values())] = check(machine(**alike), strategy="exhaustive", budget=Budget())
    if result.result == "refuted":
        return not packed.safe
    return result.result == "proved" and packed.safe and result.states == packed.nr_states


def test_both_searches_agree_on_the_smallest_machines(machine: Callable[..., Subject]) -> None:
    """Same verdict, and the same number of states where nothing is found: N <= 2, and some of N = 6."""
    some = [keys for i, keys in enumerate(machines(6)) if keys["frames"] == 6 and i % 97 == 0]
    searched: dict[tuple[int | bool, ...], CheckResult] = {}
    assert [keys for keys in [*machines(2), *some] if not agree(machine, keys, searched)] == []


def test_what_nobody_reads_changes_nothing(machine: Callable[..., Subject]) -> None:
    """A search is the same to the byte without the keys that nobody reads: all of N <= 2, some of N = 5."""
    some = [keys for i, keys in enumerate(machines(5)) if keys["frames"] == 5 and i % 53 == 0]
    others = [keys for keys in [*machines(2), *some] if plainest(keys) != keys]
    assert len(others) > 20

    def searched(keys: dict[str, int | bool]) -> CheckResult:
        return check(machine(**keys), strategy="exhaustive", budget=Budget())

    assert [keys for keys in others if searched(keys) != searched(plainest(keys))] == []


@pytest.mark.slow
def test_both_searches_agree_on_every_small_machine(machine: Callable[..., Subject]) -> None:
    """Same verdict, and the same number of states where nothing is found: all of N <= 8, W <= 3, B <= 2."""
    searched: dict[tuple[int | bool, ...], CheckResult] = {}
    assert [keys for keys in machines(8) if not agree(machine, keys, searched)] == []


def test_a_machine_without_writers_goes_round_and_is_no_deadlock() -> None:
    """With drop the bystander's packets come and go for ever; with a full park nothing steps at all."""
    rounds = search(frames=4, reserve=2, writebacks=0, bystanders=0, priority=True, drop=True)
    assert not rounds.safe
    assert rounds.deadlock
    assert rounds.nr_stuck == 1
