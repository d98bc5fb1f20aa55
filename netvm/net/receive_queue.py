"""The receive queue of a TCP socket: packets that nobody has read, those ahead of a hole, and the window they leave.

Mirrors ``tcp_data_queue``, ``tcp_try_rmem_schedule``, ``tcp_prune_queue``, ``tcp_rcv_space_adjust``
(net/ipv4/tcp_input.c) and ``tcp_win_from_space`` (include/net/tcp.h) of 6.1. A packet is charged with its truesize,
whatever it carries. The next packet in order is always taken while nothing is unread; otherwise the socket's buffer and
the protocol's limits decide. What they refuse is dropped, for the peer to send again, but not before the packets ahead
of a hole have made room: their peer has been told that they are here, and finds out that they are not.

Half of the buffer is window, the other half is for overhead. The buffer grows with what the reader takes in a round
trip, and to what lies in it while memory is plentiful, unless its size was set.

# MODEL: packets are not collapsed into fewer and fuller ones (``tcp_collapse``), which takes memory, before some are
# pruned. Before 4.9 all that lay ahead of a hole was pruned at once, here never more than an eighth of the buffer.
"""

from bisect import insort
from collections import deque
from typing import Final

from netvm.net.sk_memory import SockMemory
from netvm.net.skb import Skb, SkbAllocator
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.facts import Receipt
from netvm.net.tcp.receiver import Disposition
from netvm.net.tcp.segment import Segment

__all__ = ["ReceiveQueue"]

MAX_TCP_HEADER: Final = 256
SKB_OVERHEAD: Final = 576
"""SKB_TRUESIZE(0): sk_buff and shared info."""
_PRUNE_SHARE: Final = 8
"""Packets ahead of a hole are pruned until there is room, so much of the buffer at a time."""
_OUT_OF_ORDER: Final = Disposition.OUT_OF_ORDER


class ReceiveQueue:
    """Packets of the receive and out-of-order queues, and the size of their buffer."""

    __slots__ = (
        "_ahead",
        "_allocator",
        "_copied_bytes",
        "_locked",
        "_mem",
        "_rmem_max",
        "_since_ns",
        "_skbs",
        "_space_bytes",
    )

    def __init__(self, mem: SockMemory, allocator: SkbAllocator, *, rmem_max: int, locked: bool) -> None:
        self._mem = mem
        self._allocator = allocator
        self._rmem_max = rmem_max
        self._locked = locked
        self._skbs: deque[tuple[int, Skb, int]] = deque()
        """By the end of their data; and what each was charged: over loopback the sender's packet goes on growing."""
        self._ahead: list[tuple[int, int, Skb, int]] = []
        """Packets ahead of a hole, by the begin and end of their data, and what each was charged."""
        self._space_bytes = 0
        self._copied_bytes = 0
        self._since_ns = 0

    def __len__(self) -> int:
        return len(self._skbs) + len(self._ahead)

    def open(self, core: TcpConnection, now_ns: int) -> None:
        """Choose the window that a connection begins with."""
        self._space_bytes = core.open_window(self._mem.rcvbuf // 2, rmem_max_bytes=self._rmem_max)
        self._copied_bytes = 0
        self._since_ns = now_ns

    def take(self, core: TcpConnection, segment: Segment, skb: Skb, now_ns: int, *, exempt: bool) -> Receipt:
        """Charge a packet and give its segment to the connection, or only the header of one that is refused.

        It is kept until its data is read; a packet without anything new is freed. ``exempt`` is a reserve packet of a
        SOCK_MEMALLOC socket, to which only the socket's own limit applies.
        """
        ahead = segment.seq > core.rcv_nxt
        if not self.try_rmem_schedule(core, skb, ahead=ahead, exempt=exempt):
            self._mem.proto.netstat.add("TCPOFODrop" if ahead else "TCPRcvQDrop")
            self._allocator.kfree_skb(skb)
            return core.receive_ack_only(segment, now_ns)
        self._announce(core)
        receipt = core.receive(segment, now_ns, truesize_bytes=skb.truesize)
        end_seq = segment.seq + segment.size_bytes
        if receipt.readable_bytes:
            self._skbs.append((end_seq, skb, skb.truesize))
            while self._ahead and self._ahead[0][1] <= core.rcv_nxt:
                self._skbs.append(self._ahead.pop(0)[1:])
        elif receipt.disposition is _OUT_OF_ORDER:
            insort(self._ahead, (segment.seq, end_seq, skb, skb.truesize), key=lambda kept: kept[:2])
        else:
            self._free(skb, skb.truesize)
        return receipt

    def try_rmem_schedule(self, core: TcpConnection, skb: Skb, *, ahead: bool, exempt: bool) -> bool:
        """Charge a packet to the receive buffer (tcp_try_rmem_schedule).

        Since 4.2 (``tcp_one_skb``) what is next in order is always taken while nothing is unread, and so nobody starves
        by what others have unread.
        """
        mem = self._mem
        size = skb.truesize
        if not ahead and not self._skbs and self._allocator.pages.fixes.tcp_one_skb:
            mem.forced_mem_schedule(size)
        elif mem.rmem_alloc > mem.rcvbuf or not mem.rmem_schedule(size, exempt=exempt):
            if not self._prune_queue(core):
                return False
            while not mem.rmem_schedule(size, exempt=exempt):
                if not self._prune_ofo_queue(core):
                    return False
        mem.charge_receive(size)
        return True

    def _prune_queue(self, core: TcpConnection) -> bool:
        """Come back to the socket's limit: a larger buffer, or less in it (tcp_prune_queue, tcp_clamp_window)."""
        mem = self._mem
        proto = mem.proto
        proto.netstat.add("PruneCalled")
        plenty = not proto.under_pressure and proto.allocated < proto.low
        if mem.rmem_alloc >= mem.rcvbuf:
            if plenty and not self._locked:
                mem.rcvbuf = max(mem.rcvbuf, min(mem.rmem_alloc, self._rmem_max))
            if mem.rmem_alloc > mem.rcvbuf:
                core.window.restrain(2)
        elif proto.under_pressure:
            core.window.restrain(4)
        if mem.rmem_alloc > mem.rcvbuf:
            self._prune_ofo_queue(core)
        if mem.rmem_alloc > mem.rcvbuf:
            proto.netstat.add("RcvPruned")
        return mem.rmem_alloc <= mem.rcvbuf

    def _prune_ofo_queue(self, core: TcpConnection) -> bool:
        """Drop packets ahead of a hole, the last first, until there is room; False if there are none."""
        if not self._ahead:
            return False
        mem = self._mem
        mem.proto.netstat.add("OfoPruned")
        freed = 0
        while self._ahead:
            seq, _, skb, charged_bytes = self._ahead.pop()
            self._free(skb, charged_bytes)
            freed += charged_bytes
            if freed < mem.rcvbuf // _PRUNE_SHARE and self._ahead:
                continue
            freed = 0
            core.prune_out_of_order(seq)
            if mem.rmem_alloc <= mem.rcvbuf and not mem.proto.under_pressure:
                break
        return True

    def free_read(self, read_seq: int) -> None:
        """Free the packets whose data has been read."""
        while self._skbs and self._skbs[0][0] <= read_seq:
            self._free_first()

    def purge(self) -> None:
        """Free every packet."""
        while self._skbs:
            self._free_first()
        while self._ahead:
            self._free(*self._ahead.pop()[2:])

    def _free_first(self) -> None:
        _, skb, charged_bytes = self._skbs.popleft()
        self._free(skb, charged_bytes)

    def _free(self, skb: Skb, charged_bytes: int) -> None:
        self._mem.uncharge_receive(charged_bytes)
        self._allocator.kfree_skb(skb)

    def space_bytes(self) -> int:
        """Free receive space as the window sees it: half of the buffer is overhead (tcp_win_from_space)."""
        return max(0, self._mem.rcvbuf - self._mem.rmem_alloc) // 2

    def _announce(self, core: TcpConnection) -> None:
        mem = self._mem
        core.set_receive_space(self.space_bytes(), full_bytes=mem.rcvbuf // 2, under_pressure=mem.proto.under_pressure)

    def was_read(self, core: TcpConnection, copied_bytes: int, now_ns: int) -> None:
        """Say what space there is after the application has read."""
        self._space_adjust(core, copied_bytes, now_ns)
        self._announce(core)

    def _space_adjust(self, core: TcpConnection, copied_bytes: int, now_ns: int) -> None:
        """Grow the receive buffer with what the application reads in a round trip (tcp_rcv_space_adjust)."""
        self._copied_bytes += copied_bytes
        rtt_ns = core.window.rtt_ns
        if not rtt_ns or now_ns - self._since_ns < rtt_ns:
            return
        copied, self._copied_bytes = self._copied_bytes, 0
        self._since_ns = now_ns
        if copied <= self._space_bytes:
            return
        mss_bytes = core.config.mss_bytes
        window = 2 * copied + 16 * mss_bytes
        window += 2 * (window * (copied - self._space_bytes) // self._space_bytes)
        self._space_bytes = copied
        if self._locked:
            return
        # the memory of a packet of which half is window
        packet_bytes = mss_bytes + MAX_TCP_HEADER + SKB_OVERHEAD
        packet_bytes += max(0, -(-(2 * mss_bytes - packet_bytes) // 128)) * 128
        rcvbuf = min(window // mss_bytes * packet_bytes, self._rmem_max)
        if rcvbuf > self._mem.rcvbuf:
            self._mem.rcvbuf = rcvbuf
            core.window.clamp_bytes = rcvbuf // 2
