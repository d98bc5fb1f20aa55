"""The local disk: what is written is read again, in the disk's time, without memory and without a network."""

from netvm.block.blk_mq import BLK_STS_OK
from netvm.units import NS_PER_MS, NS_PER_S

DISK = """
[storage]
kind = "disk"
size_mib = 64
"""


def test_requests_take_the_disk_s_time(device):
    """One request after the other: each takes its share of the bandwidth, and the latency on top."""

    async def script(d, task):
        began_ns = d.world.now_ns
        for slot in range(0, 128, 32):
            d.submit(slot, [1] * 32)
        await d.until_ended(task, 4)
        # 512 KiB at 10 MiB/s are 50 ms
        assert 52 * NS_PER_MS <= d.world.now_ns - began_ns <= 55 * NS_PER_MS

    device(DISK, ["storage.disk.latency_us=2000", "storage.disk.bandwidth_bytes_per_s=10485760"]).run(script)


def test_it_needs_no_memory(device):
    """A request is served although not a single page is free."""

    async def script(d, task):
        held = d.drain()
        d.submit(0, [1] * 32)
        assert await d.until_ended(task, 1) == [BLK_STS_OK]
        d.give_back(held)

    device(DISK).run(script)


def test_a_stalled_disk_serves_nothing(device):
    """Until the stall is over nothing completes; then everything does."""

    async def script(d, task):
        until_ns = d.world.now_ns + NS_PER_S
        d.host.backend.stall(until_ns)
        rq = d.submit(0, [1])
        assert "at the disk" in d.queue.driver.needs(rq).name
        assert not await d.until(task, lambda: bool(d.ended), within_ms=900)
        assert await d.until_ended(task, 1) == [BLK_STS_OK]
        assert d.world.now_ns >= until_ns

    device(DISK).run(script)


def test_a_restart_is_a_stall(device):
    """There is no server and no connection to lose: the disk is away for that long, and no thread serves it."""

    async def script(d, task):
        until_ns = d.world.now_ns + 50 * NS_PER_MS
        d.host.backend.reset_connection()
        d.host.backend.restart_server(until_ns)
        d.submit(0, [5])
        assert await d.until_ended(task, 1) == [BLK_STS_OK]
        assert d.world.now_ns >= until_ns

    d = device(DISK).run(script)
    assert d.host.backend.tasks() == []
    assert d.host.backend.digest() == ()
