"""Batches of swap pages on their way to a file."""

import pytest

from netvm.mm.gfp import PF_MEMALLOC, GfpScope
from storage_backends.nfs.messages.nfs3 import NfsStat3


def test_a_batch_is_written_and_read_back(mounted) -> None:
    """What was written is read, and nothing that it took is kept."""
    host = mounted()

    async def script(task) -> None:
        host.take_completions()
        before = [cache.nr_active for cache in host.backend.pools.caches.values()]
        await host.swap_rw(task, 3, list(range(100, 132)))
        await host.until_ended(task, 1)
        found = await host.swap_rw(task, 3, None, 32)
        await host.until_ended(task, 2)
        assert found.versions == list(range(100, 132))
        await host.pause(task, 10)
        assert [cache.nr_active for cache in host.backend.pools.caches.values()] == before

    host.run(script)
    assert [error for _, error in host.ended] == [0, 0]


@pytest.mark.parametrize(("wsize", "nr_calls"), [(131072, 1), (65536, 2), (4096, 32)])
def test_wsize_cuts_a_batch(mounted, wsize: int, nr_calls: int) -> None:
    """A batch larger than wsize is as many WRITEs as it takes, and ends with the last of them."""
    host = mounted(f"storage.wsize_bytes={wsize}")
    served = []
    write = host.backend.service._write
    host.backend.service._procedures = {
        procedure: (lambda args: served.append(args.data.size_bytes) or write(args)) if function == write else function
        for procedure, function in host.backend.service._procedures.items()
    }

    async def script(task) -> None:
        host.take_completions()
        await host.swap_rw(task, 1, [9] * 32)
        await host.until_ended(task, 1)

    host.run(script)
    assert served == [131072 // nr_calls] * nr_calls


def test_without_memory_a_batch_fails_at_once(mounted) -> None:
    """Reclaim must not wait for its own requests: -ENOMEM, and all is given back."""
    host = mounted()

    async def script(task) -> None:
        host.take_completions()
        pages = host.drain()
        active = host.backend.pools.nfs_pages.nr_active
        with GfpScope(task, PF_MEMALLOC):
            for i in range(4):
                await host.swap_rw(task, 1 + 32 * i, [5] * 32)
        assert -12 in [error for _, error in host.ended]
        host.give_back(pages)
        await host.pause(task, 3000)
        assert host.backend.pools.nfs_pages.nr_active == active

    host.run(script)


def test_an_error_of_the_server_is_an_io_error(mounted) -> None:
    """A full disk is -EIO for the batch; a server that asks for patience is asked again after five seconds."""
    host = mounted()

    async def script(task) -> None:
        host.take_completions()
        host.backend.service.error = NfsStat3.NFS3ERR_NOSPC
        await host.swap_rw(task, 1, [1])
        await host.until_ended(task, 1)
        host.backend.service.error = NfsStat3.NFS3ERR_JUKEBOX
        begun_ns = host.world.now_ns
        await host.swap_rw(task, 1, [2])
        await host.pause(task, 1000)
        host.backend.service.error = NfsStat3.NFS3_OK
        await host.until_ended(task, 2)
        assert host.world.now_ns - begun_ns >= 5_000_000_000

    host.run(script)
    assert [error for _, error in host.ended] == [-5, 0]


def test_unstable_batches_are_committed_and_resent_after_a_restart(mounted) -> None:
    """A COMMIT follows a batch that took several calls; if the server was restarted in between, it is written again."""
    host = mounted("storage.commit_ms=500", "storage.wsize_bytes=8192", fixes=["nfs_swap_stable"])

    async def script(task) -> None:
        host.take_completions()
        await host.pause(task, 4000)
        await host.swap_rw(task, 1, [7] * 4)
        await host.pause(task, 100)
        assert host.ended == []
        host.backend.restart_server(host.world.now_ns)
        assert host.backend.stored()[1:5].tolist() == [0] * 4
        await host.until_ended(task, 1)

    host.run(script)
    assert [error for _, error in host.ended] == [0]
    assert host.backend.driver.nr_committed_again == 1
    assert host.backend.stored()[1:5].tolist() == [7] * 4
    host.backend.service.restart(host.world.now_ns)
    assert host.backend.stored()[1:5].tolist() == [7] * 4


def test_a_batch_that_fits_into_a_call_was_always_stable(mounted) -> None:
    """FLUSH_COND_STABLE: without the fix too, one call needs no COMMIT."""
    host = mounted("storage.commit_ms=500", fixes=["nfs_swap_stable"])

    async def script(task) -> None:
        host.take_completions()
        begun_ns = host.world.now_ns
        await host.swap_rw(task, 1, [7] * 4)
        await host.until_ended(task, 1)
        assert host.world.now_ns - begun_ns < 500_000_000

    host.run(script)
    assert [error for _, error in host.ended] == [0]


@pytest.mark.parametrize("fixed", [True, False])
def test_a_batch_of_several_calls_ends_without_memory_only_if_it_is_stable(mounted, fixed) -> None:
    """A stable one is over with its last reply; an unstable one is written again until there is a COMMIT for it."""
    host = mounted("storage.wsize_bytes=8192", fixes=[] if fixed else ["nfs_swap_stable"])
    pools, driver = host.client.pools, host.backend.driver
    asked = []

    async def none(asker) -> None:
        rq = next(iter(driver._direct.values())).rq
        asked.append((asker, driver.needs(rq)))

    async def script(task) -> None:
        host.take_completions()
        found = pools.commitdata_alloc
        pools.commitdata_alloc = none
        rq = await host.swap_rw(task, 1, [7] * 4)
        await host.pause(task, 200)
        assert bool(host.ended) is fixed
        assert len(asked) > 1 or fixed
        pools.commitdata_alloc = found
        await host.until_ended(task, 1)
        assert driver.needs(rq).needs == ()

    host.run(script)
    assert [error for _, error in host.ended] == [0]
    assert host.backend.stored()[1:5].tolist() == [7] * 4
    # while nfsiod asks, the batch waits for the worker that does
    assert all(provider.needs == (asker,) for asker, provider in asked)


def test_a_batch_waits_for_a_worker_to_commit_it(mounted) -> None:
    """Until a worker has begun, any of the pool's is waited for."""
    host = mounted("storage.wsize_bytes=8192", fixes=["nfs_swap_stable"])
    driver, nfsiod = host.backend.driver, host.client.nfsiod
    seen = []

    def look() -> None:
        waiting = [direct for direct in driver._direct.values() if direct.work is not None and direct.work.pending]
        seen.extend(driver.needs(direct.rq) for direct in waiting)

    async def script(task) -> None:
        host.take_completions()
        queue_work = nfsiod.queue_work

        def queue_and_look(item) -> bool:
            queued = queue_work(item)
            look()
            return queued

        nfsiod.queue_work = queue_and_look
        await host.swap_rw(task, 1, [7] * 4)
        await host.until_ended(task, 1)

    host.run(script)
    assert {provider.needs for provider in seen} == {(nfsiod.pool.needs_worker,)}
