"""The other end of a wire: it answers at once, keeps nothing, and has all the memory it wants."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.net.ip_fragment import FragmentCache, FragmentMemory
from netvm.net.remote import RemoteDatagramSocket
from netvm.net.wire import Packet
from netvm.units import NS_PER_MS, NS_PER_S

Host = Any


def test_accepts_delivers_and_closes(net_host: Callable[..., Host]) -> None:
    """A SYN is answered, data is handed on in order at once, a FIN ends it."""
    host = net_host()
    events: list[Any] = []

    async def body(task: Any) -> None:
        sock, remote = host.remote_pair()
        remote.on_established = lambda: events.append("established")
        remote.on_data = lambda content: events.append(b"".join(content))
        remote.on_closed = lambda: events.append("closed")
        assert not remote.is_open
        sock.connect()
        await host.pause(task, 10 * NS_PER_MS)
        assert remote.is_open
        assert sock.established
        await sock.sendmsg(task, [b"one", b"two"], more=False)
        await host.pause(task, 10 * NS_PER_MS)
        sock.close()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert events[0] == "established"
    assert b"".join(event for event in events if isinstance(event, bytes)) == b"onetwo"
    assert events[-1] == "closed"


def test_refuses_when_it_is_not_there(net_host: Callable[..., Host]) -> None:
    """A server that is down answers no SYN; once it is back, the SYN sent again gets through."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, remote = host.remote_pair()
        remote.accepting = False
        sock.connect()
        await host.pause(task, 100 * NS_PER_MS)
        assert not sock.established
        remote.accepting = True
        await host.pause(task, 3 * NS_PER_S)
        assert sock.established

    host.run(body)


def test_a_forgotten_connection_is_silent_and_then_reset(net_host: Callable[..., Host]) -> None:
    """Who goes on after the other end has forgotten is not answered at first, and then with a RST."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, remote = host.remote_pair()
        sock.connect()
        await host.pause(task, 10 * NS_PER_MS)
        remote.forget(host.world.now_ns + 2 * NS_PER_S)
        assert not remote.is_open
        await sock.sendmsg(task, [b"one"], more=False)
        await host.pause(task, NS_PER_S)
        assert sock.established
        await host.pause(task, 4 * NS_PER_S)
        assert not sock.established

    host.run(body)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_what_it_writes_arrives_whole(net_host: Callable[..., Host], loss: float) -> None:
    """100 KB to the host, over a wire that loses or not: in order, exactly once, then acknowledged."""
    host = net_host()
    host.down.loss = loss
    text = bytes(index % 251 for index in range(100_000))

    async def body(task: Any) -> bytes:
        sock, remote = host.remote_pair()
        sock.connect()
        while not remote.is_open:
            await host.pause(task, NS_PER_S)
        remote.write([text[:70_000], text[70_000:]])
        assert remote.unsent_bytes == 100_000
        got = b"".join(await sock.recvmsg(task, 100_000, wait_all=True))
        await host.pause(task, 60 * NS_PER_S)
        assert remote.unsent_bytes == 0
        return got

    assert host.run(body) == text
    host.audit()


@pytest.mark.parametrize("each", [False, True])
def test_acknowledges_bursts_or_every_frame(net_host: Callable[..., Host], each: bool) -> None:
    """A user-mode network stack answers each frame of a burst: as many small frames come to the card."""
    host = net_host()
    frames: list[int] = []
    arrived = host.nic.packet_arrived

    def look(packet: Packet) -> None:
        frames.append(packet.nr_frames)
        arrived(packet)

    host.down.deliver = look

    async def body(task: Any) -> None:
        sock, remote = host.remote_pair()
        remote.acks_every_frame = each
        sock.connect()
        await host.pause(task, 10 * NS_PER_MS)
        frames.clear()
        await sock.sendmsg(task, [bytes(10 * 1448)], more=False)
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert (max(frames) > 1) == each
    if each:
        assert sum(frames) == 10


def test_abort_resets_the_host_and_a_new_connection_can_follow(net_host: Callable[..., Host]) -> None:
    """A reset frees everything at the host; digest() and unsent_bytes say there is nothing."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, remote = host.remote_pair()
        sock.connect()
        await host.pause(task, 10 * NS_PER_MS)
        remote.abort()
        await host.pause(task, 10 * NS_PER_MS)
        assert sock.eof
        assert not sock.established
        assert (remote.unsent_bytes, remote.digest(), remote.is_open) == (0, (), False)
        remote.write([b"to nobody"])
        remote.close()

    host.run(body)
    assert host.skbs.nr_skbs == 0


def test_close_is_orderly(net_host: Callable[..., Host]) -> None:
    """What was written before still arrives; then the host reads the end."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, remote = host.remote_pair()
        sock.connect()
        await host.pause(task, 10 * NS_PER_MS)
        remote.write([b"last words"])
        remote.close()
        assert b"".join(await sock.recvmsg(task, 100, wait_all=True)) == b"last words"
        assert await sock.recvmsg(task, 100, wait_all=True) == []

    host.run(body)


def test_a_datagram_from_elsewhere_arrives_whole(net_host: Callable[..., Host]) -> None:
    """A socket there sends fragments to this host's cache, which puts them together for the socket here."""
    host = net_host()
    sock = host.udp()
    memory = FragmentMemory(
        high_bytes=1 << 20,
        low_bytes=1 << 19,
        evicts=True,
        softirq=host.softirq,
        queues=lambda: host.slabs["kmalloc-256"],
        free=host.skbs.kfree_skb,
    )
    remote = RemoteDatagramSocket(host.world, "there", link=host.down)
    remote.peer = sock
    remote.peer_fragments = FragmentCache(host.world, netstat=host.netstat, memory=memory)

    async def body(task: Any) -> None:
        remote.send([b"small"], 100)
        remote.send([b"large"], 5000)
        await host.pause(task, 10 * NS_PER_MS)

    host.run(body)
    assert (host.netstat["IpReasmReqds"], host.netstat["IpReasmOKs"]) == (4, 1)
    assert [sock.read_one().content for _ in range(2)] == [[b"small"], [b"large"]]
    assert host.skbs.nr_skbs == 0
