"""The bisection against the formula of docs/reserve.md, and against made-up edges."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.errors import UsageError
from netvm.explore.result import CheckResult
from netvm.explore.size import Knob, SizeResult, consumers, knob_of, smallest_safe, text_of
from netvm.explore.subject import Subject
from netvm.scenario.load import scenario_from


def bisect(
    subject: Subject,
    is_safe: Callable[[int], bool],
    *,
    low: int = 0,
    ceiling: int = 10**6,
    confirmed: list[int] | None = None,
) -> SizeResult:
    """Bisect a knob whose safety is given; values above ``ceiling`` cannot be set."""
    value = 0

    def subject_at(override: str) -> Subject:
        nonlocal value
        value = int(override.partition("=")[2])
        if value > ceiling:
            raise UsageError("too large")
        return subject

    def search(_subject: Subject) -> CheckResult:
        safe = is_safe(value)
        return CheckResult(
            scenario="x",
            result="statistical" if safe else "refuted",
            strategy="random",
            seed=0,
            schedules=1,
            distinct=1,
            failures=not safe,
        )

    def rate(subject: Subject, _known: CheckResult | None) -> CheckResult:
        return search(subject)

    def confirm(_subject: Subject, found: CheckResult) -> CheckResult:
        if confirmed is not None:
            confirmed.append(value)
        return found

    return smallest_safe(subject_at, Knob("k", "k"), search, rate, confirm=confirm, low=low)


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(0, 5))
def test_every_edge_is_found(edge: int, low: int) -> None:
    """Wherever the edge is, it is found, and below it is unsafe."""
    subject = Subject(scenario=scenario_from({"abstract": {}}, origin="x"), name="x")
    result = bisect(subject, lambda value: value >= edge, low=low)
    assert result.smallest_safe == max(edge, low)
    if edge > low:
        assert result.below is not None
        assert not result.below.safe
        assert result.below.value == edge - 1


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_a_value_that_cannot_be_set_is_no_answer(edge: int, ceiling: int) -> None:
    """The largest value that can be set is tried before the search gives up."""
    subject = Subject(scenario=scenario_from({"abstract": {}}, origin="x"), name="x")
    result = bisect(subject, lambda value: value >= edge, ceiling=ceiling)
    assert result.smallest_safe == (edge if edge <= ceiling else None)
    assert str(edge) in text_of(result) or "no safe value" in text_of(result)


def test_what_is_told_is_what_is_replayed() -> None:
    """Of the values that fail only those are confirmed that the answer names: the one below the edge, and any above."""
    subject = Subject(scenario=scenario_from({"abstract": {}}, origin="x"), name="x")
    confirmed: list[int] = []
    bisect(subject, lambda value: value >= 37, confirmed=confirmed)
    assert 36 in confirmed
    assert min(confirmed) == 36


def test_a_second_unsafe_stretch_is_told() -> None:
    """Values above the edge that fail are named."""
    subject = Subject(scenario=scenario_from({"abstract": {}}, origin="x"), name="x")
    assert bisect(subject, lambda value: value in (3, 4)).not_monotone_at == [5]


def test_knobs_are_numeric_keys() -> None:
    """A path through tables and lists, or the reserve by its own name."""
    scenario = scenario_from({"storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 8}]}, origin="x")
    assert knob_of("workload.0.mib", scenario).override(9) == "workload.0.mib=9"
    assert knob_of("reserve.pages", scenario).override(100) == "vm.min_free_kbytes=400"
    assert knob_of("reserve.pages", scenario).pages(100) == knob_of("vm.min_free_kbytes", scenario).pages(400) == 100
    assert sum(consumers(scenario).values()) > scenario.nic.ring
    with pytest.raises(UsageError, match="no such key"):
        knob_of("workload.1.mib", scenario)
    for wrong, meant in (("vm.min_free_kbyte", "vm.min_free_kbytes"), ("reserve.page", "reserve.pages")):
        with pytest.raises(UsageError, match=f"no such key in this scenario; did you mean {meant}"):
            knob_of(wrong, scenario)
