"""What calls are made of."""

import pytest

from netvm.mm.gfp import GFP_KERNEL, GFP_NORETRY, GFP_NOWAIT, GFP_NOWARN, PF_MEMALLOC, GfpScope
from netvm.runtime.task import Task
from netvm.runtime.workqueue import PF_WQ_WORKER
from storage_backends.nfs.client.pools import (
    MIN_POOL_WRITE,
    RPC_BUFFER_POOLSIZE,
    kmalloc_cache,
    rpc_task_gfp_mask,
)
from storage_backends.nfs.connection.procedures import NULL


def test_a_worker_gives_up_early(mounted) -> None:
    """A workqueue's worker asks with NORETRY, anybody else with plain GFP_KERNEL."""
    host = mounted()
    task = host.host.softirq
    assert rpc_task_gfp_mask(task) == GFP_KERNEL
    with GfpScope(task, PF_WQ_WORKER):
        assert rpc_task_gfp_mask(task) == GFP_KERNEL | GFP_NORETRY | GFP_NOWARN


@pytest.mark.parametrize(("size", "name"), [(8, "kmalloc-128"), (512, "kmalloc-512"), (488, "kmalloc-512")])
def test_kmalloc_rounds_up(size: int, name: str) -> None:
    """A size comes from the smallest cache that holds it."""
    assert kmalloc_cache(size) == name
    assert kmalloc_cache(4096) == "kmalloc-4k"


def test_a_reserve_is_taken_when_the_cache_is_dry_and_refilled_first(mounted) -> None:
    """With no memory at all exactly the elements set aside are had, and what comes back goes to the reserve."""
    host = mounted()

    async def script(task) -> None:
        reserve = host.backend.pools.write_headers
        pages = host.drain()
        with GfpScope(task, PF_MEMALLOC):
            taken = []
            while (found := await reserve.alloc(task, GFP_KERNEL)) is not None:
                taken.append(found)
            assert len(taken) >= MIN_POOL_WRITE
            assert not reserve.pool.elements
            for found in taken:
                reserve.free(found)
        assert len(reserve.pool.elements) == MIN_POOL_WRITE
        assert len(host.backend.pools.buffers.pool.elements) == RPC_BUFFER_POOLSIZE
        host.give_back(pages)

    host.run(script)


def test_who_waits_in_a_pool_waits_for_who_has_its_objects(mounted) -> None:
    """First the task that took it, then the call it is for, then who ends that call; nobody when all are back."""
    host = mounted(fixes=("rpc_alloc_nowait", "nfs_alloc_nowait"))
    pools = host.backend.pools
    seen = {}

    def look(why: str) -> None:
        seen[why] = {
            reserve.cache.name: [
                one if isinstance(one, Task) else one.name for one in reserve.pool.resource.providers()
            ]
            for reserve in (pools.tasks, pools.buffers, pools.write_headers)
        }

    async def script(task) -> None:
        taken = await pools.header_alloc(task, write=True)
        look("taken")
        rpc = await host.client.call_async(task, NULL, None, done=lambda _rpc, _context: look("released"))
        taken.holder = rpc.provider
        look("called")
        await host.pause(task, 100)
        pools.header_free(taken, write=True)
        look("over")
        name = f"nfs: NULL {rpc.xid:#010x}"
        assert seen["taken"] == {"rpc_tasks": [], "rpc_buffers": [], "nfs_write_data": [task]}
        [queued] = seen["called"]["rpc_tasks"]
        assert queued.endswith(", queued on rpciod")
        assert seen["called"]["nfs_write_data"] == [queued]
        [released] = seen["released"]["rpc_tasks"]
        assert released.startswith(f"{name}, over, released by kworker/u")
        assert seen["over"] == {"rpc_tasks": [], "rpc_buffers": [], "nfs_write_data": []}

    host.run(script)


def test_pages_requests_come_all_or_none(mounted) -> None:
    """Where not every nfs_page can be had, none is kept."""
    host = mounted()

    async def script(task) -> None:
        pools = host.backend.pools
        pages = host.drain()
        before = pools.nfs_pages.nr_active
        with GfpScope(task, PF_MEMALLOC):
            assert await pools.nfs_pages_alloc(task, 64, GFP_KERNEL) is None
        assert pools.nfs_pages.nr_active == before
        host.give_back(pages)
        taken = await pools.nfs_pages_alloc(task, 64, GFP_KERNEL)
        assert len(taken) == 64
        pools.nfs_pages_free(taken)

    host.run(script)


@pytest.mark.parametrize("fixed", [True, False])
def test_who_finds_no_header_comes_again(mounted, fixed) -> None:
    """With neither memory nor elements WRITEs and COMMITs get none; without the fix they are waited for."""
    host = mounted(fixes=() if fixed else ("nfs_alloc_nowait",))
    pools = host.backend.pools
    got = {}

    async def script(task) -> None:
        reserves = {"write": pools.write_headers, "commit": pools.commit_headers}
        taken = {name: reserve.pool.elements[:] for name, reserve in reserves.items()}
        pages = host.drain()
        for reserve in reserves.values():
            reserve.pool.elements.clear()
            while reserve.cache.try_alloc(host.host.softirq, GFP_NOWAIT) >= 0:
                pass

        async def ask(asker, name: str) -> None:
            alloc = pools.header_alloc(asker, write=True) if name == "write" else pools.commitdata_alloc(asker)
            got[name] = await alloc

        for name in reserves:
            host.host.world.spawn(name, ask, name, cpus=None, flags=PF_WQ_WORKER)
        await host.pause(task, 1000)
        assert got == ({"write": None, "commit": None} if fixed else {})
        host.give_back(pages)
        for name, reserve in reserves.items():
            for element in taken[name]:
                reserve.pool.nr_out += 1
                reserve.pool.free(element)
        await host.pause(task, 6000)

    host.run(script)
    assert all(found is not None for found in got.values()) is not fixed
