"""Faults: each begins at its time, does what it is named for, and ends."""

from types import SimpleNamespace
from typing import Any

import pytest

from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import Outcome
from netvm.scenario.run import Experiment, run_scenario
from netvm.scenario.schema import Scenario
from netvm.scenario.verdict import explain_io_error
from netvm.units import NS_PER_MS


def small(kind: str = "iscsi", **tables: Any) -> Scenario:
    """Return a small machine that swaps for some 50 ms of virtual time."""
    tables = {
        "machine": {"ram_mib": 16},
        "storage": {"kind": kind, "size_mib": 64, "disk": {"latency_us": 1000}},
        "workload": [{"kind": "anon-hog", "mib": 16, "passes": 2}],
    } | tables
    return scenario_from(tables, origin="small")


def run(storage: str, **fault: Any) -> Outcome:
    """Run the small machine with one fault."""
    return run_scenario(small(storage, fault=[fault]), name="small")


@pytest.mark.parametrize("kind", ["stall", "link-down", "loss-burst"])
def test_iscsi_gets_over_every_fault_of_the_wire(kind: str) -> None:
    """Swap over iSCSI completes whatever the wire does for a second, later than without, and every page is right."""
    calm = run_scenario(small(), name="small")
    outcome = run("iscsi", at_ms=20, kind=kind, for_ms=1000)
    assert outcome.verdict == "COMPLETED"
    assert outcome.audit == []
    assert outcome.virtual_seconds > calm.virtual_seconds


def test_an_error_of_the_storage_is_explained() -> None:
    """What could not be written, and what the kernel said last."""
    outcome = run("nbd", at_ms=20, kind="io-error", for_ms=20)
    assert outcome.verdict == "IO_ERROR"
    assert outcome.explanation[0].startswith("swap: ")
    assert "pages failed, and reads of 0" in outcome.explanation[0]
    calm = run_scenario(small("nbd"), name="small")
    assert (calm.verdict, calm.explanation) == ("COMPLETED", [])


def test_an_error_that_kills_is_explained() -> None:
    """Who got SIGBUS, what could not be read, and the last lines of the log."""
    experiment = Experiment(small("nbd"), name="small")
    experiment.host.swap.read_errors = 4
    experiment.host.log_lines += [f"[    0.{n}] line {n}" for n in range(5)]
    program = SimpleNamespace(name="hog", bus_error=True)
    told = explain_io_error(experiment.host, [program])
    assert told[:2] == ["swap: writes of 0 pages failed, and reads of 4", "hog was killed by SIGBUS"]
    assert told[2:] == [f"kernel log: [    0.{n}] line {n}" for n in (2, 3, 4)]


def test_what_the_wire_loses_is_counted() -> None:
    """A burst of losses is in the drops, a stall loses nothing."""
    burst = run("iscsi", at_ms=20, kind="loss-burst", for_ms=1000)
    assert burst.drops["link_lost"] > 0
    assert "link_lost" not in run("iscsi", at_ms=20, kind="stall", for_ms=1000).drops


def test_a_lost_session_is_not_recovered_under_pressure() -> None:
    """Iscsid allocates to log in again, and its memory comes back only over the session that it should bring back."""
    outcome = run("iscsi", at_ms=20, kind="reset")
    assert outcome.verdict == "IO_ERROR"
    assert outcome.virtual_seconds >= 120
    assert outcome.audit == []


def test_nbd_does_not_get_over_a_lost_connection() -> None:
    """A swap device without a second connection is gone: nothing can be swapped out any more."""
    outcome = run("nbd", at_ms=20, kind="reset")
    assert outcome.verdict in ("IO_ERROR", "OOM")
    assert outcome.audit == []


@pytest.mark.slow
def test_swap_to_a_full_device_ends_with_a_kill() -> None:
    """Pages that the server has no block for stay dirty and are tried again, until reclaim gives up and OOM ends it."""
    scenario = small(
        "nbd",
        storage={"kind": "nbd", "size_mib": 16},
        workload=[{"kind": "anon-hog", "mib": 12, "passes": 1}],
        fault=[{"at_ms": 0, "after_mib": 1, "kind": "disk-full", "for_ms": 100_000}],
        run={"max_virtual_s": 20},
    )
    outcome = run_scenario(scenario, name="small")
    assert outcome.verdict == "OOM"
    assert outcome.workload[0].oom_killed
    assert outcome.audit == []


def test_a_stall_holds_the_wire_until_it_is_over() -> None:
    """Nothing moves while it lasts, and the longest standstill is as long as the stall."""
    outcome = run("nbd", at_ms=20, kind="stall", for_ms=2000)
    assert outcome.verdict == "COMPLETED"
    assert 1.6 <= outcome.longest_standstill_s <= 2.3


@pytest.mark.parametrize(
    ("kind", "attribute", "during"), [("link-down", "is_down", True), ("loss-burst", "burst_loss", 0.5)]
)
def test_a_link_is_as_before_when_the_fault_is_over(kind: str, attribute: str, during: object) -> None:
    """Both directions have the fault for its time, and not before or after."""
    experiment = Experiment(small(fault=[{"at_ms": 10, "kind": kind, "for_ms": 30}]), name="small")
    link = experiment.host.link
    assert link is not None
    seen: dict[int, list[object]] = {}

    def look(at_ms: int) -> None:
        seen[at_ms] = [getattr(direction, attribute) for direction in (link.up, link.down)]

    for at_ms in (5, 80, 300):  # the storage is up after some 50
        experiment.world.call_after(at_ms * NS_PER_MS, look, at_ms)
    run_virtual(experiment.run)
    assert seen == {5: [not during if during is True else 0.0] * 2, 80: [during] * 2, 300: [seen[5][0]] * 2}


def test_a_local_disk_can_only_stall() -> None:
    """A stall is the one fault of a machine without a network, and it is survived."""
    assert run("disk", at_ms=1, kind="stall", for_ms=5).verdict == "COMPLETED"


@pytest.mark.parametrize(
    ("storage", "nic"),
    [
        ({"kind": "disk"}, "loopback"),
        ({"kind": "nbd"}, "e1000"),
        ({"kind": "iscsi"}, "e1000"),
        ({"kind": "nfs"}, "e1000"),
        ({"kind": "nfs", "place": "local"}, "loopback"),
    ],
)
@pytest.mark.parametrize(("fault", "errno"), [("disk-full", "ENOSPC"), ("io-error", "EIO")])
def test_a_writer_is_told_what_became_of_its_pages(storage: dict[str, Any], nic: str, fault: str, errno: str) -> None:
    """Of a full disk it is told ENOSPC, of any other error EIO; what could not be kept is clean, lost and counted.

    It is told at fsync, but for a full server: there the next write() says so, and the rest is never written.
    """
    scenario = small(
        storage={"role": "fs", "size_mib": 16} | storage,
        nic={"kind": nic},
        workload=[{"kind": "file-writer", "mib": 2}],
        fault=[{"at_ms": 0, "kind": fault, "for_ms": 60_000}],
    )
    outcome = run_scenario(scenario, name="small")
    assert outcome.verdict == "IO_ERROR"
    assert f"fwriter was told {errno}" in outcome.explanation
    lost = [int(line.split()[0]) for line in outcome.explanation if "were lost in writes that failed" in line]
    if storage["kind"] == "nfs" and fault == "disk-full":
        assert len(lost) == 1
        assert 0 < lost[0] < 512
    elif storage.get("place") != "local":
        assert lost == [512]
    assert outcome.vmstat.get("nr_dirty", 0) == 0


def _nfs(**fault: Any) -> Outcome:
    """Run a writer over NFS with one fault."""
    scenario = small(
        storage={"kind": "nfs", "role": "fs", "size_mib": 16, "disk": {"bandwidth_bytes_per_s": 20_000_000}},
        workload=[{"kind": "file-writer", "mib": 4}],
        fault=[fault],
    )
    outcome = run_scenario(scenario, name="small")
    assert outcome.audit == []
    assert outcome.verdict == "COMPLETED"
    return outcome


def test_a_slow_commit_is_slow_as_long_as_it_lasts() -> None:
    """An fsync waits for its COMMIT; once the fault is over, a COMMIT takes what it took before."""
    calm_s = _nfs(at_ms=60_000, kind="slow-commit").virtual_seconds
    slow_s = _nfs(at_ms=0, kind="slow-commit", commit_ms=3000, for_ms=60_000).virtual_seconds
    over_s = _nfs(at_ms=0, kind="slow-commit", commit_ms=3000, for_ms=1).virtual_seconds
    assert slow_s >= calm_s + 3
    assert over_s == calm_s


def test_a_half_open_connection_is_found_out_by_a_reset() -> None:
    """The client hears nothing while the server's end is silent, then a RST; it connects again and sends all anew."""
    calm_s = _nfs(at_ms=60_000, kind="half-open").virtual_seconds
    outcome = _nfs(at_ms=50, kind="half-open", for_ms=4000)
    assert 4 < outcome.virtual_seconds < 30
    assert outcome.virtual_seconds > calm_s + 3
