"""Sending without waiting for room."""

import importlib.util
from pathlib import Path

import pytest

from netvm.net.dontwait import sendmsg_dontwait, set_cork
from netvm.net.wire import content_size

_PATH = Path(__file__).parents[2] / "storage_backends" / "nfs" / "conftest.py"
_spec = importlib.util.spec_from_file_location("nfs_conftest", _PATH)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture
def mounted() -> type:
    """Return a small host with a connected socket: an NFS mount's."""
    return _module.Mounted


def test_a_full_buffer_takes_what_fits_and_says_so(mounted: type) -> None:
    """What has no room stays with the caller, who is told that it was room that was missing."""
    host = mounted("storage.proxy_bandwidth_bytes_per_s=100000")
    piece = bytes(1 << 20)

    async def script(task) -> None:
        sock = host.xprt.sock
        sent, nospace = await sendmsg_dontwait(sock, task, piece, 0, more=False)
        assert 0 < sent < content_size(piece)
        assert nospace
        assert sock.mem.wmem_queued >= sock.mem.sndbuf
        again, nospace = await sendmsg_dontwait(sock, task, piece, sent, more=False)
        assert (again, nospace) == (-11, True)

    host.run(script)


def test_without_memory_it_is_not_the_buffer(mounted: type) -> None:
    """No page for a packet: nothing is taken, the buffer shrinks, and it is not room that was missing."""
    host = mounted(fixes=["nfs_swap_memalloc"])

    async def script(task) -> None:
        sock = host.xprt.sock
        sock.allocation = 0x820
        before = sock.mem.sndbuf = 1 << 24
        pages = host.drain()
        found = []
        for _ in range(200):
            sent, nospace = await sendmsg_dontwait(sock, task, bytes(100_000), 0, more=False)
            found.append((sent, nospace))
            if sent < 0:
                break
        assert next(nospace for sent, nospace in found if sent < 100_000) is False
        assert found[-1][0] == -11
        assert sock.mem.sndbuf < before
        host.give_back(pages)

    host.run(script)


def test_a_connection_that_is_gone_takes_nothing(mounted: type) -> None:
    """-EPIPE."""
    host = mounted()

    async def script(task) -> None:
        sock = host.xprt.sock
        sock.state_change = None
        sock.abort()
        assert await sendmsg_dontwait(sock, task, b"abc", 0, more=False) == (-32, False)

    host.run(script)


def test_a_cork_lasts_until_it_is_taken_off(mounted: type) -> None:
    """Unlike MSG_MORE it outlives the call."""
    host = mounted()

    async def script(task) -> None:
        sock = host.xprt.sock
        begun = sock.core.snd_nxt
        await set_cork(sock, task, corked=True)
        await sendmsg_dontwait(sock, task, bytes(100), 0, more=False)
        sock.tcp_push_pending(task)
        assert sock.core.snd_nxt == begun
        await set_cork(sock, task, corked=False)
        assert sock.core.snd_nxt == begun + 100

    host.run(script)


@pytest.mark.parametrize("waits", [False, True])
def test_who_finds_no_memory_sends_what_there_is(mounted: type, waits: bool) -> None:
    """TCP_NAGLE_PUSH: what was copied until then is held by no cork and no MSG_MORE, may the sender sleep or not."""
    host = mounted()

    async def script(task) -> None:
        sock = host.xprt.sock
        sock.allocation = 0x820
        await sendmsg_dontwait(sock, task, bytes(100), 0, more=False)
        begun = sock.core.snd_nxt
        await set_cork(sock, task, corked=True)
        pages = host.drain()
        frag = await sock.write_queue.frag_refill(task)
        frag.offset = frag.size_bytes - 100
        if waits:
            sock.sndtimeo_ns = 1
            assert await sock.sendmsg(task, [bytes(300)], more=True) == -11
        else:
            assert await sendmsg_dontwait(sock, task, bytes(300), 0, more=True) == (100, False)
        assert sock.core.snd_nxt == begun + 100
        assert sock.core.set_cork(False)
        host.give_back(pages)

    host.run(script)
