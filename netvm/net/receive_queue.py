"""The receive queue of a TCP socket: packets whose data nobody has read, and the window they leave.

Mirrors ``tcp_try_rmem_schedule``, ``tcp_rcv_space_adjust`` (net/ipv4/tcp_input.c) and ``tcp_win_from_space``
(include/net/tcp.h) of 6.1. A packet is charged with its truesize, whatever it carries. An empty queue always takes
one; after that the socket's buffer and the protocol's limits decide, and what they refuse is dropped, for the peer to
send again. Half of the buffer is window, the other half is for overhead. The buffer grows with what the reader takes
in a round trip, unless its size was set.

# MODEL: the out-of-order queue is not pruned when the buffer is full; its packets stay until they are in order.
"""

from collections import deque
from typing import Final

from netvm.net.sk_memory import SockMemory
from netvm.net.skb import Skb, SkbAllocator
from netvm.units import NS_PER_MS

__all__ = ["ReceiveQueue"]

MAX_TCP_HEADER: Final = 256
SKB_OVERHEAD: Final = 576
"""SKB_TRUESIZE(0): sk_buff and shared info."""


class ReceiveQueue:
    """Packets of the receive and out-of-order queues, and the size of their buffer."""

    __slots__ = ("_allocator", "_copied_bytes", "_locked", "_mem", "_rmem_max", "_since_ns", "_skbs", "_space_bytes")

    def __init__(self, mem: SockMemory, allocator: SkbAllocator, *, rmem_max: int, locked: bool) -> None:
        self._mem = mem
        self._allocator = allocator
        self._rmem_max = rmem_max
        self._locked = locked
        self._skbs: deque[tuple[int, Skb, int]] = deque()
        """By the end of their data; and what each was charged: over loopback the sender's packet goes on growing."""
        self._space_bytes = mem.rcvbuf // 2
        self._copied_bytes = 0
        self._since_ns = 0

    def __len__(self) -> int:
        return len(self._skbs)

    def try_rmem_schedule(self, skb: Skb, *, exempt: bool) -> bool:
        """Charge a packet to the receive buffer (tcp_try_rmem_schedule).

        Since 4.2 (``tcp_one_skb``) an empty queue always takes one, and so nobody starves by what others have unread.
        ``exempt`` is a reserve packet of a SOCK_MEMALLOC socket, to which only the socket's own limit applies.
        """
        mem = self._mem
        size = skb.truesize
        if not self._skbs and self._allocator.pages.fixes.tcp_one_skb:
            mem.forced_mem_schedule(size)
        elif mem.rmem_alloc > mem.rcvbuf or not mem.rmem_schedule(size, exempt=exempt):
            return False
        mem.charge_receive(size)
        return True

    def push(self, skb: Skb, end_seq: int) -> None:
        """Keep a packet that was charged until its data is read."""
        self._skbs.append((end_seq, skb, skb.truesize))

    def free(self, skb: Skb) -> None:
        """Free a packet that was charged."""
        self._mem.uncharge_receive(skb.truesize)
        self._allocator.kfree_skb(skb)

    def free_read(self, read_seq: int) -> None:
        """Free the packets whose data has been read."""
        while self._skbs and self._skbs[0][0] <= read_seq:
            self._free_first()

    def purge(self) -> None:
        """Free every packet."""
        while self._skbs:
            self._free_first()

    def _free_first(self) -> None:
        _, skb, charged_bytes = self._skbs.popleft()
        self._mem.uncharge_receive(charged_bytes)
        self._allocator.kfree_skb(skb)

    def space_bytes(self) -> int:
        """Free receive space as the window sees it: half of the buffer is overhead (tcp_win_from_space)."""
        return max(0, self._mem.rcvbuf - self._mem.rmem_alloc) // 2

    def space_adjust(self, copied_bytes: int, now_ns: int, *, rtt_ns: int, mss_bytes: int) -> None:
        """Grow the receive buffer with what the application reads in a round trip (tcp_rcv_space_adjust)."""
        self._copied_bytes += copied_bytes
        if now_ns - self._since_ns < max(rtt_ns, NS_PER_MS):
            return
        copied, self._copied_bytes = self._copied_bytes, 0
        self._since_ns = now_ns
        if copied <= self._space_bytes:
            return
        window = 2 * copied + 16 * mss_bytes
        window += 2 * (window * (copied - self._space_bytes) // self._space_bytes)
        self._space_bytes = copied
        if not self._locked:
            # half of the buffer is window, and a segment's overhead comes on top
            wanted = window // mss_bytes * 2 * (mss_bytes + MAX_TCP_HEADER + SKB_OVERHEAD)
            self._mem.rcvbuf = max(self._mem.rcvbuf, min(wanted, self._rmem_max))
