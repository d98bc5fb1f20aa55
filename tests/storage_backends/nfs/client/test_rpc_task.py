"""One call on its way."""

from netvm.mm.gfp import GFP_NOWAIT, GFP_NOWARN, PF_MEMALLOC, PF_MEMALLOC_NOFS
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.procedures import NULL


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
            while (found := buffers.pool.try_alloc(task, GFP_NOWAIT | GFP_NOWARN)) is not None:
                taken.append(found)
            await host.pause(task, 20)
            assert not rpc.buffer >= 0
            assert rpc.sleeps_on == "" if is_held else rpc.sleeps_on == "rpc_delay: no memory for an RPC buffer"
            held.append(rpc.running_on is not None and "mempool_alloc" in rpc.running_on.stack())
            host.give_back(pages)
            for found in taken:
                buffers.free(found)
            await host.pause(task, 6000)
            assert ended == [rpc]

        host.run(script)
        assert held == [is_held]
