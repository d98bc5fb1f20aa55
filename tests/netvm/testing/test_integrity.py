"""Whatever is drawn runs, and nothing that must never be goes unseen."""

import signal
from typing import Any

import pytest

from netvm.scenario.load import scenario_from
from netvm.testing import integrity
from netvm.testing.integrity import draw_scenario, examine

SMALL = {
    "machine": {"ram_mib": 12, "reserved_pages": 0},
    "storage": {"kind": "nbd", "size_mib": 12},
    "nic": {"ring": 16},
    "workload": [{"kind": "anon-hog", "mib": 10}],
}


def test_every_draw_is_a_scenario_and_the_same_again() -> None:
    """A seed gives valid tables, and gives them again."""
    for seed in range(300):
        tables = draw_scenario(seed)
        scenario_from(tables, origin=f"seed {seed}")
        assert draw_scenario(seed) == tables


def test_draws_reach_every_corner() -> None:
    """Every storage, role, fault, and kind of program is drawn within some hundred seeds."""
    drawn = [draw_scenario(seed) for seed in range(300)]
    assert {(t["storage"]["kind"], t["storage"]["role"]) for t in drawn} == {
        (kind, role) for kind in ("nbd", "iscsi", "nfs", "disk") for role in ("swap", "fs")
    }
    assert {t["storage"].get("transport", "tcp") for t in drawn} == {"tcp", "udp"}
    assert {fault["kind"] for t in drawn for fault in t["fault"]} == {
        "stall",
        "reset",
        "server-restart",
        "link-down",
        "loss-burst",
    }
    assert len({workload["kind"] for t in drawn for workload in t["workload"]}) == 5


@pytest.mark.slow
def test_nothing_is_wrong_with_the_first_seeds() -> None:
    """Memory adds up and nothing is lost, however these hosts end."""
    found = [examine(seed) for seed in range(60)]
    assert [finding for finding in found if finding.wrong] == []
    assert sum(finding.nr_pages_written for finding in found) > 1000


def test_a_run_is_audited_on_the_way() -> None:
    """One scenario, swapping: several audits, pages written, nothing wrong."""
    finding = examine(1, SMALL)
    assert finding.verdict == "COMPLETED"
    assert finding.nr_audits > 2
    assert finding.nr_pages_written > 100
    assert finding.wrong == []


def test_what_does_not_add_up_on_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that fails while the host runs is a finding with its time."""
    monkeypatch.setattr(integrity, "audit_memory", lambda *_: ["a page too many"])
    assert examine(1, SMALL).wrong[0] == "at 1 ms: a page too many"


def test_a_page_that_the_storage_has_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage's content is held against what was acknowledged."""
    monkeypatch.setattr("netvm.scenario.run.lost_writes", lambda _: ["slot 3 is gone"])
    assert examine(1, SMALL).wrong == ["slot 3 is gone"]


def test_a_run_that_does_not_repeat_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sixteenth seed is run twice, and the two must be the same to the byte."""
    told = iter("ab")
    monkeypatch.setattr(integrity, "outcome_json", lambda _: next(told))
    assert examine(16, SMALL).wrong == ["run again, it gives other bytes"]


@pytest.mark.parametrize(
    ("tables", "cut"),
    [
        ({"run": {"max_steps": 10}}, "steps"),
        ({"run": {"max_virtual_s": 0.001}}, "virtual time"),
        (
            {
                "storage": SMALL["storage"] | {"disk": {"latency_us": 3_000_000}},
                "run": {"max_virtual_s": 0.00001},
            },
            "the storage did not come up",
        ),
    ],
)
def test_a_run_without_a_verdict_says_what_cut_it_off(tables: dict[str, Any], cut: str) -> None:
    """Steps, virtual time, or a storage that was not there in time; nothing is wrong with it for that."""
    finding = examine(1, SMALL | tables)
    assert (finding.verdict, finding.cut, finding.wrong) == (None, cut, [])


def test_what_was_found_before_a_run_was_given_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's alarm that raises SIGINT ends the run between two steps; the audits until then count."""
    nr_looks = 0

    def audit(*_: object) -> list[str]:
        nonlocal nr_looks
        nr_looks += 1
        if nr_looks == 2:
            signal.raise_signal(signal.SIGINT)
        return ["a page too many"] if nr_looks == 1 else []

    monkeypatch.setattr(integrity, "audit_memory", audit)
    # a shell that starts the tests in the background has them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        finding = examine(1, SMALL)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (finding.verdict, finding.cut, finding.wrong) == (None, "given up", ["at 1 ms: a page too many"])
    assert finding.nr_audits >= 2


def test_an_exception_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What escapes from a run is told with its place."""

    def fail(*_: object) -> list[str]:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr("netvm.scenario.run.lost_writes", fail)
    finding = examine(1, SMALL)
    assert finding.verdict is None
    assert finding.wrong[0] == "ZeroDivisionError: nothing to divide by"


def test_pages_freed_before_the_last_write_of_their_batch_is_sent_are_known() -> None:
    """Swap over NFS on four CPUs: a batch that has freed pages waits to be unplugged, and the sums are right then."""
    finding = examine(1505)
    assert finding.nr_audits > 5
    assert finding.wrong == []
