"""A host that swaps to a file on NFS, from the outside."""

import numpy as np
import pytest

from netvm.scenario.load import scenario_from
from netvm.scenario.run import run_scenario
from storage_backends.nfs.messages.nfs3 import NfsStat3


def small(**storage):
    """Return a hog a third larger than its machine, swapping over NFS."""
    return scenario_from(
        {
            "machine": {"ram_mib": 32, "costs": {"scale": 0.3}},
            "storage": {"kind": "nfs", "size_mib": 48, **storage},
            "workload": [{"kind": "anon-hog", "mib": 24, "passes": 2}],
        },
        origin="test",
    )


def test_a_hog_survives_on_a_swap_file(mounted) -> None:
    """It completes, what it reads is what it wrote, and the books balance."""
    outcome = run_scenario(small(), name="nfs")
    assert outcome.verdict == "COMPLETED"
    assert outcome.audit == []
    assert outcome.vmstat["pswpin"] > 1000


def test_a_mount_swaps_and_holds_files_at_once(mounted) -> None:
    """A hog beside a file writer goes to the swap file, the writer's pages to its own, and nothing is lost."""
    scenario = scenario_from(
        {
            "machine": {"ram_mib": 32, "costs": {"scale": 0.3}},
            "storage": {"kind": "nfs", "role": "fs", "size_mib": 64, "swap_mib": 32},
            "workload": [{"kind": "anon-hog", "mib": 20, "passes": 2}, {"kind": "file-writer", "mib": 4}],
        },
        origin="test",
    )
    outcome = run_scenario(scenario, name="nfs")
    assert outcome.verdict == "COMPLETED"
    assert outcome.audit == []
    assert outcome.vmstat["pswpin"] > 1000
    count = outcome.vmstat
    assert count["nr_written"] + count["nr_writeback"] == count["pswpout"] + 4 * 256


def test_mounting_opens_the_swap_file_and_marks_the_socket(mounted) -> None:
    """Swapping on makes the socket a priority one; without the fix it stays ordinary."""

    async def look(task) -> None:
        return

    for fixes, memalloc in (((), True), (("nfs_swap_memalloc",), False)):
        host = mounted(fixes=fixes)
        host.run(look)
        assert host.xprt.sock.memalloc is memalloc
        assert host.backend.driver.fh == host.backend.file.fh
        assert host.client.nr_swapping == 1


def test_what_the_server_stores_is_what_was_written(mounted) -> None:
    """The file holds the newest version of each page; an error of the server reaches whoever asked."""
    host = mounted()

    async def script(task) -> None:
        host.take_completions()
        await host.swap_rw(task, 5, [11, 12, 13])
        await host.until_ended(task, 1)
        host.backend.service.error = NfsStat3.NFS3ERR_IO
        await host.swap_rw(task, 5, [21])
        await host.until_ended(task, 2)

    host.run(script)
    assert [error for _, error in host.ended] == [0, -5]
    assert np.array_equal(host.backend.stored()[4:9], [0, 11, 12, 13, 0])


@pytest.mark.slow
def test_swap_over_the_hosts_own_server_lives_on_memory_that_the_server_wants() -> None:
    """RPC takes the reserve to the last page; nfsd, without it, reclaims in GFP_NOFS and goes round for good."""
    scenario = scenario_from(
        {
            "machine": {"ram_mib": 24},
            "vm": {"hung_task_timeout_secs": 2},
            "storage": {"kind": "nfs", "place": "local", "size_mib": 32},
            "workload": [{"kind": "anon-hog", "mib": 20, "passes": 1}],
            "run": {"max_virtual_s": 30},
        },
        origin="test",
    )
    outcome = run_scenario(scenario, name="loop-back")
    assert outcome.verdict in ("LIVELOCK", "HANG")
    assert any(line.startswith("nfsd") and "out_of_memory without __GFP_FS" in line for line in outcome.explanation)
    assert outcome.audit == []
