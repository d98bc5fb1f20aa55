"""Files on NFS: unstable writes, COMMIT, and a server that forgets."""

import numpy as np
import pytest

from netvm.mm.gfp import PF_MEMALLOC_NOFS
from netvm.mm.reclaim_throttle import CONGESTION_WAIT_NS
from netvm.pagecache.ports import WritebackControl
from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment, run_scenario
from storage_backends.nfs.messages.nfs3 import NfsStat3

_OF_OLD = ("nfs_commit_after_writeback", "unstable_is_writeback")


def writer(mib: int = 4, *, fault: tuple = (), vm: dict | None = None, **storage):
    """Return a program that writes a file over NFS and syncs it."""
    return scenario_from(
        {
            "machine": {"ram_mib": 32, "costs": {"scale": 0.0}},
            "vm": vm or {},
            "storage": {"kind": "nfs", "role": "fs", "size_mib": 64, **storage},
            "workload": [{"kind": "file-writer", "mib": mib, "chunk_kib": 64, "fsync": "end"}],
            "fault": list(fault),
        },
        origin="test",
    )


def run(scenario) -> Experiment:
    """Run a scenario to its end and return everything."""
    experiment = Experiment(scenario, name="nfs")
    run_virtual(experiment.run)
    return experiment


def content(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Return what the program wrote and what the server keeps of it."""
    (mapping,) = experiment.host.files.cache.mappings.values()
    kept = experiment.host.files.fs.server_content(mapping.name)
    return mapping.version[: mapping.nr_pages], kept[: mapping.nr_pages]


def test_a_file_is_written_and_safe() -> None:
    """After fsync every page is on the server's disk, its requests are gone, and the books balance."""
    experiment = run(writer())
    outcome = experiment.outcome()
    assert (outcome.verdict, outcome.audit) == ("COMPLETED", [])
    wrote, kept = content(experiment)
    assert np.array_equal(wrote, kept)
    fs = experiment.host.files.fs
    experiment.host.backend.service.restart(experiment.host.world.now_ns)
    assert np.array_equal(*content(experiment))
    assert fs.pools.nfs_pages.nr_active == 0
    assert (fs.nr_writeback, experiment.host.vmstat.nr_writeback) == (0, 0)


def test_a_restarted_server_is_sent_exactly_what_it_lost() -> None:
    """What was unstable when the server died is written again, nothing else, and the file is right.

    A WRITE that a COMMIT of the whole file reached in the server, but not yet in the client, would be sent again too.
    """
    experiment = run(
        writer(
            16,
            fault=({"at_ms": 0, "after_mib": 10, "kind": "server-restart", "for_ms": 500},),
            proxy_bandwidth_bytes_per_s=10_000_000,
            wsize_bytes=262144,
        )
    )
    outcome = experiment.outcome()
    assert (outcome.verdict, outcome.audit) == ("COMPLETED", [])
    assert np.array_equal(*content(experiment))
    fs, service = experiment.host.files.fs, experiment.host.backend.service
    assert fs.nr_resent_pages == service.nr_lost_blocks > 0


@pytest.mark.parametrize(("status", "at_fsync"), [(NfsStat3.NFS3ERR_IO, True), (NfsStat3.NFS3ERR_NOSPC, False)])
def test_a_server_that_cannot_keep_a_file_is_an_error(status: NfsStat3, at_fsync: bool) -> None:
    """The program is told, of a full server by write() itself; what could not be kept is counted as lost."""
    experiment = Experiment(writer(), name="nfs")
    experiment.host.backend.service.error = status
    run_virtual(experiment.run)
    assert experiment.outcome().verdict == "IO_ERROR"
    assert (experiment.host.files.cache.nr_lost == 1024) is at_fsync
    assert experiment.host.files.cache.nr_lost


def test_a_slow_commit_only_delays() -> None:
    """Pages that wait for it count as under writeback; the file is right in the end."""
    fast, slow = run_scenario(writer(), name="fast"), run_scenario(writer(commit_ms=300), name="slow")
    assert slow.verdict == "COMPLETED"
    assert slow.virtual_seconds >= 0.3 > fast.virtual_seconds


def test_a_congested_mount_turns_background_writeback_away() -> None:
    """Above the limit a round that need not wait does nothing; below three quarters of it all is as before."""
    experiment = Experiment(writer(12, proxy_bandwidth_bytes_per_s=5_000_000), name="nfs")
    fs = experiment.host.files.fs
    fs.congestion_on_pages, fs.congestion_off_pages = 64, 48
    seen = []
    add = fs._add

    def spy(*args):
        found = add(*args)
        seen.append((fs.nr_writeback, fs.write_congested))
        return found

    fs._add = spy
    run_virtual(experiment.run)
    assert experiment.outcome().verdict == "COMPLETED"
    assert any(congested for _, congested in seen)
    assert all(congested == (nr > 64) or congested for nr, congested in seen)
    assert not fs.write_congested


async def two_rounds(host, task):
    """Write to 16 pages of a file and have it written back twice; give each round's control when it is through."""
    files = host.host.files
    mapping = files.cache.create(files.fs, "log")
    await files.cache.generic_perform_write(task, mapping, 0, 16)
    for _ in range(2):
        wbc = WritebackControl(nr_to_write=64, reason="background")
        await files.fs.writepages(task, mapping, wbc)
        await files.cache.wait_on_writeback(task, mapping)
        await host.pause(task, 100)
        yield wbc


@pytest.mark.parametrize("by_itself", [True, False])
def test_who_sends_the_commit(mounted, by_itself) -> None:
    """A COMMIT follows a writepages by itself from 4.13 on; before, what was answered waits for who writes next."""
    off = () if by_itself else _OF_OLD
    host = mounted("storage.role=fs", "vm.dirty_writeback_centisecs=0", fixes=off)
    seen = []

    async def script(task) -> None:
        files = host.host.files
        throttle, bdi, vmstat = files.throttle, files.fs.bdi, host.host.vmstat
        seen.extend(
            [(throttle.nr_unstable, bdi.nr_reclaimable, vmstat.nr_writeback) async for _ in two_rounds(host, task)]
        )

    host.run(script)
    assert seen == ([(0, 0, 0)] * 2 if by_itself else [(16, 16, 0), (0, 0, 0)])


@pytest.mark.parametrize(("once", "left"), [(True, [48, 64]), (False, [32, 48])])
def test_how_often_a_page_counts_as_written(mounted, once: bool, left: list[int]) -> None:
    """Before 2.6.21 a page took two from what a round may write when it was sent and another when it was committed."""
    host = mounted(
        "storage.role=fs", "vm.dirty_writeback_centisecs=0", fixes=_OF_OLD if once else (*_OF_OLD, "nfs_congestion")
    )
    seen = []

    async def script(task) -> None:
        seen.extend([wbc.nr_to_write async for wbc in two_rounds(host, task)])

    host.run(script)
    assert seen == left


@pytest.mark.parametrize("signals", [True, False])
def test_the_end_of_a_write_ends_naps(mounted, signals: bool) -> None:
    """Whoever is in congestion_wait looks again when a WRITE is answered; before 2.6.21 it slept its time."""
    host = mounted(
        "storage.role=fs",
        "vm.dirty_writeback_centisecs=0",
        fixes=("oom_detection",) if signals else ("oom_detection", "nfs_congestion"),
    )
    slept_ns = []

    async def script(task) -> None:
        files = host.host.files
        mapping = files.cache.create(files.fs, "log")
        await files.cache.generic_perform_write(task, mapping, 0, 16)
        await files.fs.writepages(task, mapping, WritebackControl(nr_to_write=64, reason="background"))
        begun_ns = host.host.world.now_ns
        await host.host.vmscan.throttles.congestion_wait(task, host.host.pages.memory)
        slept_ns.append(host.host.world.now_ns - begun_ns)

    host.run(script)
    assert (slept_ns[0] < CONGESTION_WAIT_NS) is signals


def test_who_is_told_of_the_last_write_sends_the_commit(mounted) -> None:
    """It is nfsiod, in its NOFS scope and with the header of that WRITE: memory for it is not had by writing out."""
    host = mounted("storage.role=fs", "vm.dirty_writeback_centisecs=0", "storage.wsize_bytes=16384")
    fs = host.host.files.fs
    seen = []
    commit = fs._commit

    async def spy(task, inode) -> None:
        seen.append((task.flags & PF_MEMALLOC_NOFS, len(inode.commits), fs.pools.write_headers.pool.nr_out))
        await commit(task, inode)

    fs._commit = spy

    async def script(task) -> None:
        files = host.host.files
        mapping = files.cache.create(files.fs, "log")
        await files.cache.generic_perform_write(task, mapping, 0, 16)
        await files.fs.writepages(task, mapping, WritebackControl(nr_to_write=64, reason="background"))
        await files.cache.wait_on_writeback(task, mapping)

    host.run(script)
    ((scope, nr_uncommitted, nr_headers),) = seen
    assert scope == PF_MEMALLOC_NOFS
    assert nr_uncommitted == 4
    assert nr_headers == 1
