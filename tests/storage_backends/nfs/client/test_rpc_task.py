"""One call on its way."""

import pytest

from netvm.mm.gfp import GFP_NOWAIT, GFP_NOWARN, PF_MEMALLOC, PF_MEMALLOC_NOFS
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.procedures import NULL, WRITE
from storage_backends.nfs.messages.data import StableHow, WriteArgs
from storage_backends.wire import Blocks


def flags_of_a_call(host) -> set[int]:
    """Return the flags that a swapper's call ran with."""
    seen = set()
    allocate = RpcTask.call_allocate

    async def spy(rpc, task) -> None:
        seen.add(task.flags & (PF_MEMALLOC | PF_MEMALLOC_NOFS))
        await allocate(rpc, task)

    async def script(task) -> None:
        RpcTask.call_allocate = spy
        try:
            await host.client.call_async(task, NULL, None, done=lambda rpc, context: None)
            await host.pause(task, 100)
        finally:
            RpcTask.call_allocate = allocate

    host.run(script)
    return seen


def test_a_task_of_a_swapper_may_use_the_reserve(mounted) -> None:
    """It runs with PF_MEMALLOC in a NOFS scope; without the fix in the scope only."""
    assert flags_of_a_call(mounted()) == {PF_MEMALLOC | PF_MEMALLOC_NOFS}
    assert flags_of_a_call(mounted(fixes=["rpc_swap_memalloc"])) == {PF_MEMALLOC_NOFS}


@pytest.mark.parametrize(("off", "scope"), [((), PF_MEMALLOC_NOFS), (("rpc_send_nofs",), 0)])
def test_who_asked_is_told_in_a_nofs_scope(mounted, off, scope) -> None:
    """From 5.1 on; the call's own object is given back after whatever had to be waited for then."""
    host = mounted(fixes=off)
    seen = []

    async def done(_rpc, context) -> None:
        tasks = host.client.pools.tasks.pool
        seen.append((context.flags & PF_MEMALLOC_NOFS, tasks.nr_out))
        await host.pause(context, 10)
        seen.append((context.flags & PF_MEMALLOC_NOFS, tasks.nr_out))

    async def script(task) -> None:
        held = host.client.pools.tasks.pool.nr_out
        await host.client.call_async(task, NULL, None, done=done)
        await host.pause(task, 100)
        assert seen == [(scope, held + 1)] * 2
        assert host.client.pools.tasks.pool.nr_out == held

    host.run(script)


def test_a_task_without_memory_comes_again(mounted) -> None:
    """It sleeps with its worker free, says on what, and goes on when there is memory."""
    host = mounted()

    async def script(task) -> None:
        pages = host.drain()
        calls = []
        for _ in range(40):
            rpc = await host.client.call_async(task, NULL, None, done=lambda rpc, context: calls.append(rpc))
            if rpc is None:
                break
        await host.pause(task, 50)
        asleep = [rpc for rpc in host.client.tasks.values() if rpc.sleeps_on.startswith("rpc_delay")]
        slotless = host.xprt.slots.nr_taken
        assert asleep or slotless < 40
        host.give_back(pages)
        await host.pause(task, 2000)
        assert host.client.tasks == {}
        assert host.xprt.slots.nr_taken == 0

    host.run(script)


def test_what_a_call_took_is_given_back(mounted) -> None:
    """Buffers, slots and tasks are where they were before."""
    host = mounted()

    async def script(task) -> None:
        pools = host.backend.pools
        before = [cache.nr_active for cache in pools.caches.values()]
        await host.client.call_async(task, NULL, None, done=lambda rpc, context: None)
        await host.pause(task, 100)
        assert [cache.nr_active for cache in pools.caches.values()] == before

    host.run(script)


def test_a_worker_without_a_buffer_is_free_for_others(mounted) -> None:
    """A call that finds no buffer comes again later; without the fix a worker sleeps in the mempool for it."""
    for fixes, is_held in (((), False), (("rpc_alloc_nowait",), True)):
        host = mounted(fixes=fixes)
        held = []

        async def script(task, host=host, held=held, is_held=is_held) -> None:
            host.client.nr_swapping = 0
            ended = []
            rpc = await host.client.call_async(task, NULL, None, done=lambda rpc, context: ended.append(rpc))
            pages = host.drain()
            buffers = host.client.pools.buffers
            taken = []
            while (found := buffers.try_alloc(task, GFP_NOWAIT | GFP_NOWARN)) is not None:
                taken.append(found)
            await host.pause(task, 20)
            assert rpc.buffer is None
            assert rpc.sleeps_on == "" if is_held else rpc.sleeps_on == "rpc_delay: no memory for an RPC buffer"
            held.append(rpc.running_on is not None and "mempool_alloc" in rpc.running_on.stack())
            host.give_back(pages)
            for found in taken:
                buffers.free(found)
            await host.pause(task, 6000)
            assert ended == [rpc]

        host.run(script)
        assert held == [is_held]


def vector_of_a_write(mounted, fixes: tuple[str, ...], nr_left: int) -> tuple[bool, bool, bool]:
    """Return what becomes of a WRITE of 64 pages on a mount with swap while memory is short but for ``nr_left`` pages.

    Whether it holds the transport, whether it is in ``alloc_bvec``, and whether it has its vector. It is sent in the
    end.
    """
    host = mounted(fixes=fixes)
    seen = []

    async def script(task) -> None:
        backend, xprt, slabs = host.backend, host.xprt, host.host.slabs
        args = WriteArgs(fh=backend.driver.fh, offset=0, stable=StableHow.FILE_SYNC, data=Blocks.of((1,) * 64))
        ended = []
        rpc = await host.client.call_async(
            task, WRITE, args, nr_pages=64, done=lambda rpc, context: ended.append(rpc.reply.result.status)
        )
        pages = host.drain()
        while slabs["kmalloc-1k"].try_alloc(host.host.softirq, 0) >= 0:
            pass
        for _ in range(nr_left):
            host.host.pages.free_pages(pages.pop(), 0)
        await host.pause(task, 100)
        is_in_it = rpc.running_on is not None and "alloc_bvec" in rpc.running_on.stack()
        seen.append((xprt.locked_by is rpc, is_in_it, rpc.bvec >= 0))
        host.give_back(pages)
        await host.pause(task, 3000)
        assert ended == [0]

    host.run(script)
    return seen[0]


def test_the_vector_of_a_call_is_asked_for_before_the_transport(mounted) -> None:
    """A call without memory for its vector leaves the transport to others; without the fix it waits with the lock."""
    assert vector_of_a_write(mounted, (), 0) == (False, False, False)
    assert vector_of_a_write(mounted, ("rpc_bvec_before_lock", "rpc_swap_memalloc"), 0) == (True, True, False)


def test_the_reserve_follows_the_transport(mounted) -> None:
    """Who holds the transport of a swap file has its vector from the reserve; without the fix it waits for more."""
    assert vector_of_a_write(mounted, ("rpc_bvec_before_lock",), 20)[1:] == (False, True)
    assert vector_of_a_write(mounted, ("rpc_bvec_before_lock", "rpc_swap_memalloc"), 20) == (True, True, False)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_kernel_that_sends_page_by_page_needs_no_vector(mounted, fixed) -> None:
    """Without ``rpc_sends_bvec`` a call goes without one."""
    host = mounted(fixes=() if fixed else ("rpc_sends_bvec",))

    async def script(task) -> None:
        args = WriteArgs(fh=host.backend.driver.fh, offset=0, stable=StableHow.FILE_SYNC, data=Blocks.of((1,) * 64))
        ended = []
        rpc = await host.client.call_async(
            task, WRITE, args, nr_pages=64, done=lambda rpc, context: ended.append(rpc.reply.result.status)
        )
        await host.pause(task, 1)
        assert rpc.buffer is not None
        assert (rpc.bvec >= 0) is fixed
        await host.pause(task, 1000)
        assert ended == [0]

    host.run(script)
