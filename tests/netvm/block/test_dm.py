"""A mapped device: no tags, a clone for each bio from whoever submits, and a semaphore for swap."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from netvm.block.blk_wbt import REQ_SWAP
from netvm.block.crypt import CRYPT_PAGE_POOL, CryptDevice
from netvm.block.dm import RESERVED_BIO_BASED_IOS, SWAP_BIOS_LIMIT
from netvm.mm.gfp import PF_MEMALLOC
from netvm.runtime.task import Task

MapDevice: TypeAlias = Callable[..., Any]
Submit: TypeAlias = Callable[..., Any]


def _crypt(map_device: MapDevice, host: Any) -> CryptDevice:
    """Put dm-crypt on the small host's device."""
    device = CryptDevice(host.pages, host.queue, workqueue=host.kblockd, costs=host.costs)
    device.fill(host.softirq)
    map_device(host, device)
    return device


def test_nothing_but_memory_bounds_what_is_handed_down(map_device: MapDevice, submit: Submit, make_host: Any) -> None:
    """A thousand bios of a page each come to the target although the queue below has 8 tags, each with a clone."""
    host = make_host(zones=(("DMA32", 4096),), nr_requests=8)
    device = _crypt(map_device, host)
    host.device.held = True

    async def body(task: Task) -> None:
        ended = await submit(device, task, write=True, slot=0, nr=1000, opf=REQ_SWAP)
        assert len(device.queue.outstanding) == device.queue.pool.nr_out == 1000
        assert not ended
        host.device.release()
        await host.pause(task, 1_000_000_000)
        assert sum(nr for _slot, nr, _versions, error in ended if not error) == 1000
        assert device.queue.pool.nr_out == 0
        assert len(device.queue.pool.elements) == RESERVED_BIO_BASED_IOS

    host.run(body)


def test_a_long_bio_is_split(map_device: MapDevice, submit: Submit, make_host: Any) -> None:
    """The target is given no more pages at once than its pool has."""
    host = make_host(zones=(("DMA32", 4096),))
    device = _crypt(map_device, host)

    async def body(task: Task) -> None:
        ended = await submit(device, task, write=True, slot=0, nr=600)
        await host.pause(task, 1_000_000_000)
        assert sorted(nr for _slot, nr, _versions, _error in ended) == [88, CRYPT_PAGE_POOL, CRYPT_PAGE_POOL]

    host.run(body)


@pytest.mark.parametrize(("limited", "most"), [(True, SWAP_BIOS_LIMIT), (False, 3200)])
def test_the_semaphore_bounds_swap(
    map_device: MapDevice, submit: Submit, make_host: Any, limited: bool, most: int
) -> None:
    """With the semaphore no more than 2,048 bios of swap are under way, without it all that are submitted."""
    host = make_host(zones=(("DMA32", 16384),), switches={"swap_bios_limit": limited})
    device = _crypt(map_device, host)

    async def body(task: Task) -> None:
        await submit(device, task, write=True, slot=0, nr=3200, opf=REQ_SWAP)
        await host.pause(task, 3_000_000_000)

    host.device.delay_ns = lambda rq: 500_000_000
    host.run(body)
    assert device.queue.nr_swap_bios_peak == most
    assert device.queue.nr_swap_bios == 0


@pytest.mark.parametrize("spared", [True, False])
def test_whose_memory_a_reclaimer_clones_with(
    map_device: MapDevice, submit: Submit, make_host: Any, spared: bool
) -> None:
    """Below the min mark a reclaimer has the clones set aside, then waits for one; without the fix the reserve goes."""
    host = make_host(zones=(("DMA32", 4096),), switches={"mempool_nomemalloc": spared})
    device = _crypt(map_device, host)
    host.device.held = True

    async def reclaimer(task: Task) -> None:
        task.flags |= PF_MEMALLOC
        await submit(device, task, write=True, slot=0, nr=100, opf=REQ_SWAP)

    async def body(task: Task) -> None:
        while host.zone.nr_free > host.zone.watermark[0]:
            host.alloc()
        free = host.zone.nr_free
        host.world.spawn("reclaimer", reclaimer, cpus=host.cpus)
        await host.pause(task, 1_000_000)
        cloned = device.queue.pool.nr_out
        if spared:
            # four more are in the slabs of those that were set aside
            assert cloned == RESERVED_BIO_BASED_IOS + 4
            assert host.zone.nr_free == free
            bio = device.queue.outstanding[cloned + 1]
            waits = device.needs(bio)
            assert "being submitted" in waits.name
            assert waits.needs[0].comm == "reclaimer"
        else:
            assert cloned == 100
            assert host.zone.nr_free == free - 16
        host.device.release()
        await host.pause(task, 1_000_000_000)
        assert device.queue.outstanding == {}

    host.run(body)
