"""Packets in and out of a host: the reserve's privilege in softirq, loopback, and what reception waits for."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.mm.gfp import PF_MEMALLOC
from netvm.net.tcp.segment import ACK, Segment
from netvm.net.wire import Packet
from netvm.units import NS_PER_MS

Host = Any


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("memalloc_socks", [0, 1])
@pytest.mark.parametrize("pfmemalloc", [False, True])
def test_reserve_packet_is_processed_with_the_reserve(
    net_host: Callable[..., Host], fixed: bool, memalloc_socks: int, pfmemalloc: bool
) -> None:
    """PF_MEMALLOC is set while a reserve packet is processed and a storage socket exists, where softirq_memalloc is."""
    host = net_host(switches={"softirq_memalloc": fixed})
    host.skbs.nr_memalloc_socks = memalloc_socks
    seen: list[int] = []

    class Look:
        """Notes the context's flags."""

        def take(self, packet: Any, skb: Any) -> None:
            seen.append(host.softirq.flags & PF_MEMALLOC)

    skb = host.skbs.napi_alloc_skb(host.softirq)
    skb.pfmemalloc = pfmemalloc
    host.stack.netif_receive(Packet(Look(), None, 100), skb)
    assert seen == [PF_MEMALLOC if fixed and memalloc_socks and pfmemalloc else 0]
    assert not host.softirq.flags & PF_MEMALLOC


def segment(size_bytes: int) -> Segment:
    """Return a segment of so much data."""
    return Segment(seq=1, ack=1, size_bytes=size_bytes, window_bytes=65535, flags=ACK)


def test_loopback_hands_over_the_very_packet(net_host: Callable[..., Host]) -> None:
    """The receiver gets the sender's skb, held by both, in softirq: as soon as a task that sends lets softirqs run."""
    host = net_host()
    sink = host.sink()

    async def body(task: Any) -> None:
        skb = host.skbs.try_alloc_tx(task, 0)
        assert host.stack.xmit(sink, segment(100), 1448, skb, loopback=True) == 0
        host.stack.local_bh_enable(host.softirq)
        assert sink.got == []
        host.stack.local_bh_enable(task)
        packet, got = sink.got[0]
        assert got is skb
        assert skb.refs == 2
        assert (packet.size_bytes, packet.nr_frames) == (100, 1)
        host.skbs.kfree_skb(skb)
        sink.drop()

    host.run(body)
    assert host.skbs.nr_skbs == 0


@pytest.mark.parametrize(("size", "frames"), [(0, 1), (1448, 1), (1449, 2), (14480, 10)])
def test_segments_travel_as_bursts_of_frames(net_host: Callable[..., Host], size: int, frames: int) -> None:
    """A GSO segment is one packet of as many frames as it has MSS."""
    host = net_host()
    sink = host.sink()

    async def body(task: Any) -> None:
        assert host.stack.xmit(sink, segment(size), 1448, None, loopback=False) == 0
        await host.pause(task, 10 * NS_PER_MS)

    host.run(body)
    packet, skb = sink.got[0]
    assert (packet.size_bytes, packet.nr_frames, skb) == (size, frames, None)


def test_full_queue_says_so(net_host: Callable[..., Host]) -> None:
    """A packet that the queueing discipline dropped is no success."""
    host = net_host()
    host.up.queue_packets = 0
    assert host.stack.xmit(host.sink(), segment(10), 1448, None, loopback=False) == 1


def test_reception_is_blocked_while_the_card_is_stuck(net_host: Callable[..., Host]) -> None:
    """Who waits for a packet from outside waits for memory while the ring is empty or a frame has no head."""
    host = net_host(retry="none")
    assert host.stack.receive_blocked() is None
    taken = host.drain()
    host.arrive(host.sink(), 100)
    blocked = host.stack.receive_blocked()
    assert blocked.kind == "memory"
    host.give_back(taken)
    host.nic.poll()
    assert host.stack.receive_blocked() is None
    assert net_host(nic="").stack.receive_blocked() is None


def test_task_frag_goes_with_its_task(net_host: Callable[..., Host]) -> None:
    """A program's block to cut payload from is its own, and is freed when it exits."""
    host = net_host()
    owner = host.ledger.owner("frag")

    async def program(task: Any) -> None:
        kept = host.stack.task_frag(task)
        assert host.stack.task_frag(task) is kept
        kept.frag = host.skbs.try_page_frag(task, 0, owner, nomemalloc=False)
        assert host.owned("frag") == 8

    async def body(task: Any) -> None:
        host.world.spawn("program", program)
        await host.pause(task, NS_PER_MS)
        assert host.owned("frag") == 0

    host.run(body)


def test_digest_tells_states_apart(net_host: Callable[..., Host]) -> None:
    """A packet in the ring or in a socket changes it; freeing it all brings it back."""
    host = net_host()
    sock = host.udp()
    skb = host.skbs.napi_alloc_skb(host.softirq)
    host.skbs.kfree_skb(skb)
    before = host.stack.digest()
    host.arrive(sock, 100)
    assert host.stack.digest() != before
    sock.read_one()
    assert host.stack.digest() == before


@pytest.mark.parametrize("kept", [False, True])
def test_a_connection_is_closed_when_its_lock_is_free(net_host: Callable[..., Host], kept: bool) -> None:
    """While a sender holds the lock it stays open; then it is aborted once, and forgotten unless it is to be kept."""
    host = net_host()

    class Connection:
        """A socket somebody sends on."""

        owner: object = "a sender"
        nr_aborts = 0

        def abort(self) -> None:
            self.nr_aborts += 1

    sock: Any = Connection()
    proto = type("Proto", (), {"nr_sockets": 2})()
    sock.mem = type("Memory", (), {"proto": proto})()
    host.stack.sockets.append(sock)

    async def body(task: Any) -> None:
        host.stack.close(sock, "server: lock_sock", lambda _closed: kept)
        await host.pause(task, 20 * NS_PER_MS)
        assert (sock.nr_aborts, sock in host.stack.sockets) == (0, True)
        sock.owner = None
        await host.pause(task, 20 * NS_PER_MS)

    host.run(body)
    assert sock.nr_aborts == 1
    assert (sock in host.stack.sockets) is kept
    assert proto.nr_sockets == (2 if kept else 1)


@pytest.mark.parametrize(("size_bytes", "octets"), [(0, 5 * 52), (5000, 5052)])
def test_a_train_of_acknowledgements_has_a_header_each(
    net_host: Callable[..., Host], size_bytes: int, octets: int
) -> None:
    """Frames with data are merged before they are counted as octets, frames without are not."""
    host = net_host()

    class Sink:
        """Takes anything."""

        def take(self, packet: Any, skb: Any) -> None:
            """Do nothing."""

    segment = Segment(0, size_bytes, 0, 1000, ACK)
    host.stack._count_in(Packet(Sink(), segment, size_bytes, 5))
    assert host.stack.netstat_values() == {"InNoECTPkts": 5, "InOctets": octets}
