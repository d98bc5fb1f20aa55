"""A driver that cuts requests: content passes, and its bios never wait for themselves where there is a rescuer."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from netvm.block.split import SPLIT_POOL_SIZE, SplitDevice
from netvm.mm.gfp import GFP_NOWAIT
from netvm.runtime.hang import find_knot
from netvm.runtime.task import Task

CHUNK = 4


PutAbove: TypeAlias = Callable[..., None]
Submit: TypeAlias = Callable[..., Any]


def _stack(put_above: PutAbove, host: Any) -> SplitDevice:
    """Put a driver that cuts at every fourth page on the small host's device."""
    device = SplitDevice(host.queue, host.slabs["bio-160"], chunk_pages=CHUNK, rescuer=host.kblockd)
    device.fill(host.softirq)
    put_above(host, device)
    return device


def _no_memory(host: Any, device: SplitDevice) -> None:
    """Take every page, and every bio that a slab page still has."""
    while host.alloc() >= 0:
        pass
    while device.pool._allocator.try_alloc(host.softirq, GFP_NOWAIT) is not None:
        pass


def test_content_goes_down_in_parts_and_comes_back(put_above: PutAbove, submit: Submit, make_host: Any) -> None:
    """What was written is read, however the boundaries lie; every bio is back afterwards."""
    host = make_host(zones=(("DMA32", 4096),))
    device = _stack(put_above, host)

    async def body(task: Task) -> None:
        ended = await submit(device, task, write=True, slot=6, nr=21)
        await host.pause(task, 10_000_000)
        assert [(slot, nr, error) for slot, nr, _versions, error in ended] == [(6, 21, 0)]
        assert [host.device.store[slot] for slot in range(6, 27)] == list(range(1006, 1027))
        ended = await submit(device, task, write=False, slot=7, nr=10)
        await host.pause(task, 10_000_000)
        assert ended == [(7, 10, list(range(1007, 1017)), 0)]
        assert device.pool.nr_out == 0

    host.run(body)


@pytest.mark.parametrize("rescuer", [True, False])
@pytest.mark.parametrize("nr_parts", [1, SPLIT_POOL_SIZE, SPLIT_POOL_SIZE + 1, 3 * SPLIT_POOL_SIZE])
def test_more_parts_than_bios_hang_without_a_rescuer(
    put_above: PutAbove, submit: Submit, make_host: Any, rescuer: bool, nr_parts: int
) -> None:
    """No page is free: the pool's bios are all there is, and those on the list are not sent until the last is taken."""
    host = make_host(zones=(("DMA32", 4096),), max_pages=256, switches={"bio_rescuer": rescuer})
    device = _stack(put_above, host)
    ended: list[Any] = []
    knots: list[list[str]] = []

    async def body(task: Task) -> None:
        _no_memory(host, device)
        ended.extend(await submit(device, task, write=True, slot=0, nr=nr_parts * CHUNK))
        await host.pause(task, 60_000_000_000)
        knots.append([stuck.comm for stuck in find_knot(host.world.tasks.values()).tasks])

    host.run(body)
    hangs = not rescuer and nr_parts > SPLIT_POOL_SIZE
    assert bool(device._bio_list) is hangs
    assert device.queue.completed == (0 if hangs else 1)
    assert bool(knots[0]) is hangs


def test_who_waits_is_told_whose_list_it_waits_for(put_above: PutAbove, submit: Submit, make_host: Any) -> None:
    """The request that is being cut waits for the task that cuts, which waits for bios that are on its own list."""
    host = make_host(zones=(("DMA32", 4096),), max_pages=256, switches={"bio_rescuer": False})
    device = _stack(put_above, host)

    async def body(task: Task) -> None:
        _no_memory(host, device)
        await submit(device, task, write=True, slot=0, nr=(SPLIT_POOL_SIZE + 1) * CHUNK)
        await host.pause(task, 1_000_000)
        (rq,) = device.queue.outstanding.values()
        (cutter,) = device.needs(rq).needs
        assert "being cut" in device.needs(rq).name
        assert cutter.resource is device.pool.resource
        (holder,) = device._holders()
        assert holder.name == f"dm-0: 16 bios on the list of {cutter.comm}-{cutter.pid}"
        assert holder.needs == (cutter,)

    host.run(body)


def test_a_list_that_grows_is_told_by_the_queue_above(put_above: PutAbove, submit: Submit, make_host: Any) -> None:
    """The request stays what it is while its parts get their bios; the digest of its queue does not."""
    host = make_host(zones=(("DMA32", 4096),), max_pages=256, switches={"bio_rescuer": False})
    device = _stack(put_above, host)

    async def body(task: Task) -> None:
        _no_memory(host, device)
        await submit(device, task, write=True, slot=0, nr=(SPLIT_POOL_SIZE + 2) * CHUNK)
        await host.pause(task, 1_000_000)
        before = device.queue.digest()
        device._bio_list.pop()
        after = device.queue.digest()
        assert after[:-1] == before[:-1]
        assert after != before

    host.run(body)
