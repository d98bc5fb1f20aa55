"""Outcome: one line of JSON that equal runs share to the byte."""

import json

import msgspec
import pytest

from netvm.scenario.outcome import Outcome, PassReport, Progress, WorkloadReport, differences, outcome_json


def _outcome(**changes: object) -> Outcome:
    fields: dict[str, object] = {
        "scenario": "R1/nbd-broken",
        "kernel": "6.1",
        "seed": 0,
        "version": "0.1.0",
        "verdict": "HANG",
        "expected": ["HANG", "LIVELOCK"],
        "virtual_seconds": 12.5,
    }
    return Outcome(**(fields | changes))


def test_has_the_fields_of_the_command_line() -> None:
    """The object has every field that ``run --json`` promises."""
    assert set(json.loads(outcome_json(_outcome()))) >= {
        "scenario",
        "kernel",
        "seed",
        "verdict",
        "expected",
        "virtual_seconds",
        "wall_seconds",
        "zones",
        "vmstat",
        "direct_reclaim_latency_us",
        "reserve",
        "drops",
        "explanation",
        "replay",
        "version",
        "options",
        "workload",
        "audit",
        "longest_standstill_s",
        "partial",
    }


def test_equal_outcomes_have_equal_bytes() -> None:
    """The order in which counters were first counted does not show."""
    one = _outcome(vmstat={"pswpin": 1, "pswpout": 2}, options={"b": 1, "a": {"d": 1, "c": 2}})
    two = _outcome(vmstat={"pswpout": 2, "pswpin": 1}, options={"a": {"c": 2, "d": 1}, "b": 1})
    assert outcome_json(one) == outcome_json(two)
    assert "\n" not in outcome_json(one)


def test_reads_back() -> None:
    """The line decodes to the outcome it was made of."""
    passes = [PassReport(index=0, touches=3, total_ns=10, max_ns=7, hist_log2ns={"2": 3})]
    outcome = _outcome(workload=[WorkloadReport(name="hog", kind="anon-hog", finished=True, passes=passes)])
    assert msgspec.json.decode(outcome_json(outcome), type=Outcome) == outcome


def test_further_keys_stand_beside() -> None:
    """A comparison travels in the same object."""
    assert json.loads(outcome_json(_outcome(), against={"agree": True}))["against"] == {"agree": True}


def test_expected_means_verdict_and_audit() -> None:
    """A verdict out of the list, none at all, or books that do not balance are not as expected."""
    assert _outcome().as_expected
    assert _outcome(verdict="LIVELOCK").as_expected
    assert not _outcome(verdict="COMPLETED").as_expected
    assert not _outcome(verdict=None, partial="budget").as_expected
    assert not _outcome(audit=["zone DMA32: 3 pages have no owner"]).as_expected


def test_differences_leave_out_wall_time() -> None:
    """Two results differ in the fields named, and never for the time it took."""
    assert differences(_outcome(wall_seconds=1.0), _outcome(wall_seconds=2.0)) == []
    assert differences(_outcome(), _outcome(verdict="OOM", vmstat={"oom_kill": 1})) == ["verdict", "vmstat"]


def test_reports_are_immutable() -> None:
    """What a run told cannot be changed afterwards."""
    progress = Progress(
        virtual_seconds=1.0, free_pages=1, min_pages=1, low_pages=2, high_pages=3, pages_cleaned=0, swap_used_pages=0
    )
    with pytest.raises(AttributeError):
        progress.free_pages = 2  # type: ignore[misc]
