"""Two devices take bios, and who submits them need not know which."""

from typing import Any

import pytest

from netvm.block.bdev import BlockDevice, read_first_page
from netvm.block.blk_wbt import REQ_SWAP
from netvm.block.crypt import CryptDevice
from netvm.errors import UsageError
from netvm.runtime.task import Task


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_page_goes_out_and_comes_back(map_device: Any, make_host: Any, is_mapped: bool) -> None:
    """Through a request queue or a mapped device: the bio ends once, is known until then, and leaves nothing."""
    host = make_host(zones=(("DMA32", 4096),))
    device: BlockDevice = host.queue
    if is_mapped:
        crypt = CryptDevice(host.pages, host.queue, workqueue=host.kblockd, costs=host.costs)
        crypt.fill(host.softirq)
        device = map_device(host, crypt)
    ended: list[tuple[int, int]] = []

    async def body(task: Task) -> None:
        plug = device.start_plug(task)
        assert device.room(plug, 7, ended.append, 1) == 0
        assert not device.try_plug_merge(plug, 7, [1], [0], [1], ended.append)
        await device.submit_pages(
            task,
            plug,
            write=True,
            slot=7,
            pfns=[1],
            bios=[0],
            versions=[1001],
            end_io=lambda rq, error, _task: ended.append((rq.slot, error)),
            opf=REQ_SWAP,
        )
        plug.finish()
        assert [rq.slot for rq in device.outstanding.values()] == [7]
        assert len(device.providers()) == 1
        await host.pause(task, 10_000_000)
        assert (ended, host.device.store[7]) == ([(7, 0)], 1001)
        assert not device.outstanding
        assert not device.providers()
        assert device.wbt is None
        assert device.tracer is None

    host.run(body)


def test_a_device_is_read_before_it_is_used(make_host: Any) -> None:
    """Swapon and mount read its first page, wait for it, and leave nothing behind."""
    host = make_host(zones=(("DMA32", 4096),))
    host.device.held = True
    free = host.node.nr_free

    async def body(task: Task) -> None:
        host.world.call_after(3_000_000, host.device.release)
        await read_first_page(host.queue, task, host.pages)
        assert host.world.now_ns >= 3_000_000

    host.run(body)
    assert host.device.shapes == [("R", 0, 1)]
    assert host.node.nr_free + sum(pcp.count for zone in host.node.zones for pcp in zone.pcp) == free


def test_a_device_whose_first_page_finds_no_memory_is_refused(make_host: Any) -> None:
    """A machine with nothing free and nothing to reclaim cannot use its storage: the user is told."""
    host = make_host(zones=(("DMA32", 4096),))

    async def body(task: Task) -> None:
        async def nothing(*_: Any) -> int:
            return -1

        host.pages.alloc_pages = nothing
        with pytest.raises(UsageError, match="machine: too little memory is free to read the first page"):
            await read_first_page(host.queue, task, host.pages)

    host.run(body)
