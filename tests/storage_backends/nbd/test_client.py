"""The NBD client: its requests, the memory it sends with, and the end of its connection."""

import pytest

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK
from netvm.errors import UsageError
from netvm.mm.gfp import GFP_MEMALLOC, GFP_NOIO, PF_MEMALLOC
from netvm.units import JIFFY_NS, NS_PER_S

NBD = """
[storage]
kind = "nbd"
size_mib = 64
"""


@pytest.mark.parametrize("priority", [True, False])
def test_a_page_is_sent_under_pf_memalloc_over_a_priority_socket(device, priority):
    """Each send has PF_MEMALLOC and GFP_NOIO | __GFP_MEMALLOC over a priority socket, plain GFP_NOIO over another."""
    seen: set[tuple[bool, int]] = set()

    async def script(d, task):
        sock = d.host.backend.sock
        send = sock.sendmsg

        async def sendmsg(worker, chunks, **kwargs):
            seen.add((bool(worker.flags & PF_MEMALLOC), sock.allocation))
            return await send(worker, chunks, **kwargs)

        sock.sendmsg = sendmsg
        d.submit(0, [1] * 32)
        await d.until_ended(task, 1)
        assert not any(t.flags & PF_MEMALLOC for t in d.world.tasks.values() if "1H" in t.comm)

    device(NBD, [f"kernel.fixes.memalloc_sockets={str(priority).lower()}"]).run(script)
    assert seen == {(priority, GFP_NOIO | GFP_MEMALLOC if priority else GFP_NOIO)}


def test_priority_socket_sends_below_min(device):
    """With memory far below min a write still leaves over a priority socket."""

    async def script(d, task):
        held = d.drain()
        d.give_back(held[:16])
        d.submit(0, [1] * 2)
        assert await d.until_ended(task, 1, within_ms=400) == [BLK_STS_OK]
        d.give_back(held[16:])

    device(NBD).run(script)


def test_a_dead_connection_fails_what_is_outstanding(device):
    """There is no second connection: what waits for a reply fails, and so does every later request."""

    async def script(d, task):
        d.host.backend.stall(d.world.now_ns + 60 * NS_PER_S)
        first = d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=5)
        assert "reply awaited" in d.queue.driver.needs(first).name
        d.host.backend.reset_connection()
        assert await d.until_ended(task, 1, within_ms=2000) == [BLK_STS_IOERR]
        d.submit(8, [2])
        assert await d.until_ended(task, 2, within_ms=100) == [BLK_STS_IOERR] * 2

    d = device(NBD).run(script)
    assert d.log == ["block nbd0: Dead connection, failed to find a fallback"]


@pytest.mark.parametrize(("timeout_s", "ends"), [(0, False), (3, True)])
def test_a_request_waits_for_ever_without_a_timeout(device, timeout_s, ends):
    """With a timeout the connection is given up when its oldest request is that old; without, never."""

    async def script(d, task):
        d.host.backend.stall(d.world.now_ns + 60 * NS_PER_S)
        began_ns = d.world.now_ns
        d.submit(0, [1])
        assert await d.until(task, lambda: bool(d.ended), within_ms=20_000) is ends
        if ends:
            assert d.ended[0][1] == BLK_STS_IOERR
            assert 3 * NS_PER_S <= d.world.now_ns - began_ns <= 3 * NS_PER_S + 8 * 8 * JIFFY_NS

    d = device(NBD, [f"storage.timeout_s={timeout_s}"]).run(script)
    assert ("block nbd0: Connection timed out" in d.log) is ends


def test_a_server_that_hangs_up_is_told_in_a_line(device):
    """A connection that ends before it is set up refuses the run with one line."""
    d = device(NBD)
    greet = d.host.backend.remote.greet

    def hang_up():
        greet()
        d.host.backend.remote.sock.close()

    d.host.backend.remote.sock.on_established = hang_up
    with pytest.raises(UsageError, match="closed the connection before it was set up"):
        d.run(_nothing)


async def _nothing(_device, _task):
    """A script that only brings the device up."""
