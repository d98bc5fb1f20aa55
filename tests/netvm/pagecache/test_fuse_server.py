"""The server of a FUSE mount: content goes through it and back, it is a program as any other, and its switches act."""

from typing import Any

import pytest

from netvm.mm.gfp import PF_LOCAL_THROTTLE, PF_MEMALLOC_NOIO
from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import Outcome
from netvm.scenario.run import Experiment, run_scenario


def _scenario(
    kernel: str = "6.1",
    switches: dict[str, bool] | None = None,
    *,
    ram_mib: int = 32,
    swap_mib: int = 32,
    fuse: Any = None,
    **more: Any,
) -> Any:
    data = {
        "kernel": {"preset": kernel, "fixes": switches or {}},
        "machine": {"ram_mib": ram_mib},
        "nic": {"kind": "loopback"},
        "storage": {
            "kind": "disk",
            "role": "fs",
            "size_mib": 96,
            "swap_mib": swap_mib,
            "disk": {"latency_us": 200, "bandwidth_bytes_per_s": 20_000_000},
            "fuse": {"max_ratio": 100} | (fuse or {}),
        },
    }
    return scenario_from(data | more, origin="test")


def _run(*args: Any, **how: Any) -> Outcome:
    outcome = run_scenario(_scenario(*args, **how), name="test")
    assert outcome.audit == []
    return outcome


@pytest.mark.parametrize("kernel", ["6.1", "6.18"])
def test_content_goes_through_the_server_and_back(kernel: str) -> None:
    """A reader gets what was written through the server's file below; every page was dirtied twice."""
    outcome = _run(kernel, workload=[{"kind": "file-reader", "mib": 2}])
    assert outcome.verdict == "COMPLETED"
    assert outcome.vmstat["nr_dirtied"] == 2 * 2 * 256


def test_a_full_disk_below_is_told_at_fsync() -> None:
    """What the server could not write is an error of its answer, and the program is told with its fsync."""
    fault = [{"at_ms": 0, "kind": "disk-full", "for_ms": 60_000}]
    outcome = _run(workload=[{"kind": "file-writer", "mib": 2}], fault=fault)
    assert outcome.verdict == "IO_ERROR"


@pytest.mark.parametrize("on", [False, True])
def test_a_server_can_be_marked_as_a_part_of_the_storage(on: bool) -> None:
    """PR_SET_IO_FLUSHER gives it a NOIO scope and the local throttle, for good; without it it has neither."""
    experiment = Experiment(
        _scenario(switches={"io_flusher_servers": on}, workload=[{"kind": "file-writer", "mib": 1}]), name="test"
    )
    fs = experiment.host.files.fs
    assert fs is not None
    flags: list[int] = []
    connection = experiment.host.files.fuse_server.connection  # type: ignore[union-attr]  # it has a mount
    end = connection.end

    def ended(req: Any, error: int, task: Any) -> None:
        flags.append(task.flags & (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE))
        end(req, error, task)

    connection.end = ended  # type: ignore[method-assign]  # looks in
    run_virtual(experiment.run)
    assert set(flags) == {PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE if on else 0}


def test_a_killed_server_fails_what_it_had_not_answered() -> None:
    """It is killed for memory like any program, and its clients are told EIO instead of waiting."""
    outcome = _run(
        ram_mib=16,
        swap_mib=4,
        fuse={"oom_score_adj": 1000},
        workload=[{"kind": "file-writer", "mib": 4}, {"kind": "anon-hog", "mib": 30, "oom_score_adj": -1000}],
    )
    assert any("killed fuse" in line for line in outcome.explanation), outcome.explanation
    assert any("the server is gone" in line for line in outcome.explanation)
    assert outcome.verdict != "HANG"


@pytest.mark.parametrize("strict", [False, True])
def test_strictlimit_holds_a_mount_to_its_share(strict: bool) -> None:
    """With it a writer to the mount is paused although the system as a whole is far below its limit."""
    experiment = Experiment(
        _scenario(
            "3.6",
            {"fuse_strictlimit": strict},
            ram_mib=96,
            fuse={"max_ratio": 1},
            workload=[{"kind": "file-writer", "mib": 4, "fsync": "never"}],
        ),
        name="test",
    )
    run_virtual(experiment.run)
    throttle = experiment.host.files.throttle
    assert (throttle.nr_pauses > 0) is strict


_PRESSURE: Any = {
    "machine": {"ram_mib": 32},
    "vm": {"dirty_background_ratio": 5, "dirty_ratio": 10},
    "workload": [
        {"kind": "file-writer", "mib": 8, "mmap": True},
        {"kind": "anon-hog", "mib": 18, "passes": 1, "start_ms": 100},
    ],
}


_SINCE_2_6_11 = ("dirtyable_memory", "per_bdi_dirty_limits", "vm_writeout_nofs_naps")
"""What matters of what a kernel with writable mappings over FUSE had (2.6.26)."""


@pytest.mark.parametrize(
    ("cures", "verdict"),
    [
        ((), "HANG"),
        (("fuse_temp_pages",), "COMPLETED"),
        (("no_vm_writeout_throttle",), "COMPLETED"),
        (("io_flusher_servers",), "COMPLETED"),
    ],
)
def test_the_server_waits_for_pages_that_only_it_can_write(cures: tuple[str, ...], verdict: str) -> None:
    """Under pressure it stands in throttle_vm_writeout for its own pages; any of three cures takes that away."""
    switches = dict.fromkeys((*_SINCE_2_6_11, *cures), True)
    outcome = _run("2.6.11", switches, **_PRESSURE)
    assert outcome.verdict == verdict
    told = "\n".join(outcome.explanation)
    assert ("at its server -> fuse-" in told and "throttle_vm_writeout" in told) is (verdict == "HANG")


@pytest.mark.parametrize(("marked", "verdict"), [(False, "HANG"), (True, "COMPLETED")])
def test_a_group_does_not_wait_for_writeback_that_may_last(marked: bool, verdict: str) -> None:
    """Without copies the server reclaims in its client's group and waits for itself, unless the mapping is marked."""
    switches = {"fuse_temp_pages": False, "fuse_writeback_indeterminate": marked}
    outcome = _run(
        "6.18",
        switches,
        ram_mib=96,
        fuse={"memory_group": "container"},
        memory_group=[{"name": "container", "limit_kib": 6144}],
        workload=[{"kind": "file-writer", "mib": 12, "memory_group": "container"}],
    )
    assert outcome.verdict == verdict
    told = "\n".join(outcome.explanation)
    assert ("at its server -> fuse-" in told and "folio_wait_writeback" in told) is not marked
