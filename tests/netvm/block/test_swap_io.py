"""Swap pages on their way to a block device."""

import numpy as np

from netvm.block.swap_io import BlockSwapIo
from netvm.mm.frames import PG_WRITEBACK
from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.scan_control import ScanControl


async def _swap_out(host, task, nr: int):
    space = await host.mapped(task, nr, young=False)
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
    plug = host.swap.start_plug(task)
    await host.shrinker.shrink_inactive_list(task, host.lruvec, nr, sc, plug)
    return space, plug


def test_a_block_device_gets_a_bio_a_page_and_needs_no_file_system(make_host) -> None:
    """Pages in a row leave as one request when the plug is finished, and every bio comes back."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))
    io = host.swap.io
    assert isinstance(io, BlockSwapIo)
    assert not host.swap.needs_fs

    async def script(task):
        _space, plug = await _swap_out(host, task, 8)
        assert host.bios.pool.nr_out == 8
        assert not host.device.shapes
        await io.unplug(task, plug)
        assert not host.device.shapes
        plug.finish()
        assert len(list(io.providers())) == len(io.outstanding) == 1
        await host.pause(task, 10_000_000)

    host.run(script)
    assert [(shape[0], shape[2]) for shape in host.device.shapes] == [("W", 8)]
    assert host.bios.pool.nr_out == 0
    assert not io.outstanding
    assert not np.any(host.frames.flags & np.uint16(PG_WRITEBACK))
    host.audit()
