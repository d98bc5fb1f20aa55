"""The receive queue: what is taken, what makes room for it, when it is freed, and how the buffer grows."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netvm.net.receive_queue import ReceiveQueue
from netvm.net.sk_memory import SockMemory
from netvm.net.skb import Skb
from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.segment import ACK, Segment

Host = Any
TRUESIZE = 1280
SIZE_BYTES = 100


class Socket:
    """A receive queue with the connection and the memory of its socket; the peer sends packets of one size."""

    def __init__(self, host: Host, *, rcvbuf: int = 8192, locked: bool = False) -> None:
        self.host = host
        self.truesize = TRUESIZE
        self.mem = SockMemory(host.stack.tcp_memory, rcvbuf=rcvbuf)
        self.queue = ReceiveQueue(self.mem, host.skbs, rmem_max=1 << 20, locked=locked)
        peer = TcpConnection(TcpConfig())
        peer.connect(0)
        syn = peer.next_segment(0)
        assert syn is not None
        self.core = TcpConnection.from_syn(peer.config, syn, 0)
        self.core.set_receive_space(1 << 20, full_bytes=1 << 20)
        answer = self.core.next_segment(0)
        assert answer is not None
        self.core.sent(answer, 0)
        peer.sent(syn, 0)
        peer.receive(answer, 0)
        self.core.receive(peer.ack_segment(0), 0)
        self.first_seq = self.core.rcv_nxt
        self.ack = self.core.snd_nxt

    def skb(self) -> Skb:
        """Return a packet."""
        skb: Skb | None = self.host.skbs.napi_alloc_skb(self.host.softirq)
        assert skb is not None
        skb.truesize = self.truesize
        return skb

    def arrives(self, number: int, *, exempt: bool = False) -> int:
        """Let the peer's packet of this number come; return how many packets became readable."""
        seq = self.first_seq + number * SIZE_BYTES
        receipt = self.queue.take(
            self.core, Segment(seq, SIZE_BYTES, self.ack, 1 << 20, ACK), self.skb(), 0, exempt=exempt
        )
        return receipt.readable_bytes // SIZE_BYTES

    @property
    def held(self) -> list[int]:
        """Numbers of the packets ahead of a hole, as the peer is told."""
        told = [range(start, end, SIZE_BYTES) for start, end in self.core.out_of_order]
        return [(seq - self.first_seq) // SIZE_BYTES for block in told for seq in block]


def test_what_is_next_is_always_taken_while_nothing_is_unread(net_host: Callable[..., Host]) -> None:
    """Whatever the limits, and whatever is kept ahead of a hole; the one after it meets them."""
    socket = Socket(net_host(tcp_mem=(0, 0, 0)))
    socket.truesize = 4096
    assert socket.arrives(2) == 0
    assert socket.arrives(0) == 1
    assert socket.arrives(1) == 0
    assert (socket.mem.rmem_alloc, len(socket.queue)) == (4096, 1)
    assert (socket.host.netstat["TCPOFODrop"], socket.host.netstat["TCPRcvQDrop"]) == (1, 1)
    socket = Socket(net_host(), rcvbuf=3 * TRUESIZE, locked=True)
    for number in (1, 2, 3, 4):
        socket.arrives(number)
    assert socket.held == [1, 2, 3, 4]
    assert socket.arrives(0) == 5


@pytest.mark.parametrize("exempt", [False, True])
def test_before_it_an_empty_queue_met_the_limit_too(net_host: Callable[..., Host], exempt: bool) -> None:
    """Without the fix a socket that has nothing to read is refused above tcp_mem, unless the packet is exempt."""
    socket = Socket(net_host(tcp_mem=(0, 0, 0), switches={"tcp_one_skb": False}))
    assert socket.arrives(0, exempt=exempt) == int(exempt)
    assert socket.mem.rmem_alloc == (TRUESIZE if exempt else 0)


@pytest.mark.parametrize("exempt", [False, True])
def test_reserve_packets_pass_the_protocols_limit_not_the_sockets(net_host: Callable[..., Host], exempt: bool) -> None:
    """An exempt packet is taken above tcp_mem, but not above the receive buffer."""
    socket = Socket(net_host(tcp_mem=(0, 0, 0)), rcvbuf=3 * TRUESIZE)
    taken = 0
    for _ in range(8):
        taken += socket.arrives(taken, exempt=exempt)
    assert taken == (4 if exempt else 3)
    assert socket.mem.rmem_alloc == taken * TRUESIZE


def test_a_buffer_that_is_exceeded_grows_while_memory_is_plentiful(net_host: Callable[..., Host]) -> None:
    """To what lies in it (tcp_clamp_window); one whose size was set does not, and drops."""
    for locked in (False, True):
        socket = Socket(net_host(), rcvbuf=3 * TRUESIZE, locked=locked)
        assert [socket.arrives(number) for number in range(6)] == [1, 1, 1, 1, 0 if locked else 1, 0 if locked else 1]
        assert (socket.mem.rcvbuf > 3 * TRUESIZE) is not locked


def test_what_lies_ahead_of_a_hole_makes_room_for_what_fills_it(net_host: Callable[..., Host]) -> None:
    """With something unread and the buffer full, the last packets ahead go, and the peer is no longer told of them."""
    socket = Socket(net_host(), rcvbuf=4 * TRUESIZE, locked=True)
    assert socket.arrives(0) == 1
    for number in (2, 3, 4, 5, 6):
        socket.arrives(number)
    assert socket.held == [2, 3, 4, 6]
    assert socket.host.netstat["TCPOFODrop"] == 0
    socket.mem.rmem_alloc += TRUESIZE
    assert socket.arrives(1) == 3
    assert socket.host.netstat["OfoPruned"] >= 1
    assert socket.held == []
    socket.mem.rmem_alloc -= TRUESIZE
    socket.queue.purge()
    assert (socket.mem.rmem_alloc, socket.host.skbs.nr_skbs) == (0, 0)


def test_a_packet_with_nothing_new_is_freed(net_host: Callable[..., Host]) -> None:
    """What was read, what is unread and what lies ahead of a hole: none of it is kept twice."""
    socket = Socket(net_host(), rcvbuf=1 << 16)
    for number in (0, 2, 2, 0):
        socket.arrives(number)
    assert (len(socket.queue), socket.host.skbs.nr_skbs, socket.mem.rmem_alloc) == (2, 2, 2 * TRUESIZE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 11), max_size=60), room=st.integers(1, 6), one_skb=st.booleans())
def test_a_peer_that_sends_again_what_is_missing_always_gets_on(
    net_host: Callable[..., Host], order: list[int], room: int, one_skb: bool
) -> None:
    """Whatever arrives in whatever order, into a small buffer, each packet is read once, and the books balance."""
    host = net_host(switches={"tcp_one_skb": one_skb})
    socket = Socket(host, rcvbuf=room * TRUESIZE, locked=True)
    nr_read = 0

    def read() -> None:
        socket.queue.free_read(socket.core.rcv_nxt)

    for number in order:
        nr_read += socket.arrives(number)
        assert all(number > nr_read for number in socket.held)
        if number % 3:
            read()
    while nr_read < 12:
        read()
        arrived = socket.arrives(nr_read)
        assert arrived, "the next in order is taken once all is read"
        nr_read += arrived
    read()
    socket.queue.purge()
    socket.mem.release()
    assert (nr_read, socket.mem.rmem_alloc, host.skbs.nr_skbs, host.stack.tcp_memory.allocated) == (12, 0, 0, 0)


def test_packets_go_when_all_their_data_is_read(net_host: Callable[..., Host]) -> None:
    """Half a packet read frees nothing; everything comes back at the end."""
    socket = Socket(net_host())
    for number in range(3):
        socket.arrives(number)
    socket.queue.free_read(socket.first_seq + 2 * SIZE_BYTES - 1)
    assert (len(socket.queue), socket.host.skbs.nr_skbs) == (2, 2)
    socket.queue.free_read(socket.first_seq + 2 * SIZE_BYTES)
    assert len(socket.queue) == 1
    socket.queue.purge()
    socket.mem.release()
    assert (socket.mem.rmem_alloc, socket.host.skbs.nr_skbs, socket.host.stack.tcp_memory.allocated) == (0, 0, 0)


def test_a_packet_that_grows_gives_back_what_it_was_charged(net_host: Callable[..., Host]) -> None:
    """Over loopback the sender adds to a packet that lies in the receive queue: the books balance nevertheless."""
    socket = Socket(net_host())
    skb = socket.skb()
    segment = Segment(socket.first_seq, SIZE_BYTES, socket.ack, 1 << 20, ACK)
    socket.queue.take(socket.core, segment, skb, 0, exempt=False)
    skb.truesize += 48
    socket.queue.purge()
    assert socket.mem.rmem_alloc == 0


def test_window_is_half_of_what_is_free(net_host: Callable[..., Host]) -> None:
    """tcp_win_from_space with the default scale; never negative."""
    host = net_host()
    socket = Socket(host, rcvbuf=8192)
    queue, mem = socket.queue, socket.mem
    assert queue.space_bytes() == 4096
    mem.rmem_alloc = 8000
    assert queue.space_bytes() == 96
    mem.rmem_alloc = 9000
    assert queue.space_bytes() == 0


@pytest.mark.parametrize("locked", [False, True])
def test_buffer_grows_with_the_reader_unless_its_size_was_set(net_host: Callable[..., Host], locked: bool) -> None:
    """A reader that takes more in a round trip than ever gets a larger buffer, up to tcp_rmem[2]."""
    host = net_host()
    socket = Socket(host, rcvbuf=65536, locked=locked)
    queue, mem = socket.queue, socket.mem
    core = socket.core
    queue.open(core, 0)
    queue.was_read(core, 1 << 20, 5_000_000)
    assert mem.rcvbuf == 65536, "no round trip is known"
    core.window.echoed(0, 5_000_000)
    queue.open(core, 0)
    queue.was_read(core, 10_000, 5_000_000)
    assert mem.rcvbuf == 65536, "no more than the initial window"
    queue.was_read(core, 15_000, 7_000_000)
    assert mem.rcvbuf == 65536, "the round trip is not over"
    queue.was_read(core, 15_000, 10_000_000)
    assert (mem.rcvbuf > 65536) == (not locked)
    assert core.window.clamp_bytes == (mem.rcvbuf // 2 if not locked else 65536 // 2 - 1448)
    queue.was_read(core, 10_000_000, 20_000_000)
    assert mem.rcvbuf == (65536 if locked else 1 << 20)
