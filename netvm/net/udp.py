"""UDP sockets: datagrams in and out, and the memory that either takes.

*Receiving* mirrors ``udp_queue_rcv_skb`` and ``__udp_enqueue_schedule_skb`` (net/ipv4/udp.c) of 6.1: a datagram is
refused if it came in reserve memory and the socket is an ordinary one (``sk_filter_trim_cap``), if the receive buffer
is over its limit, or if the protocol may not have more memory (``udp_mem``). What was sent in fragments comes here
whole, with the packets of all of them (:mod:`netvm.net.ip_fragment`).

*Sending* mirrors ``udp_sendmsg`` and ``udp_sendpage`` with ``ip_append_data`` and ``ip_append_page``
(net/ipv4/ip_output.c): a packet for each fragment, with headers of its own and the payload by reference. There is room
as long as ``sk_wmem_alloc`` is below ``sk_sndbuf`` when the first one is made; the others come with it. If a packet
cannot be had all are thrown away. Nothing waits for an acknowledgement: a packet goes when the wire has taken it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from netvm.errors import Errno
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, GFP_NOWARN
from netvm.net.ip_fragment import Datagram, FragmentCache, fragments_of
from netvm.net.sk_memory import SockMemory
from netvm.net.skb import Skb
from netvm.net.stack import NetStack
from netvm.net.wire import Endpoint, Packet
from netvm.runtime.task import Resource, Task
from netvm.runtime.wait import WaitQueue

__all__ = ["UdpSock"]

WMEM_DEFAULT_BYTES: Final = 212992
"""net.core.wmem_default."""


class UdpSock:
    """A UDP socket."""

    def __init__(self, stack: NetStack, name: str, *, rcvbuf: int, sndbuf: int = WMEM_DEFAULT_BYTES) -> None:
        self.stack = stack
        self.name = name
        self.mem = SockMemory(stack.udp_memory, rcvbuf=rcvbuf, stream=False)
        self.memalloc = False
        self.queue: deque[tuple[Packet, Skb]] = deque()
        self.nr_received = 0
        self.nr_dropped = 0
        self.readable = Resource("reply", f"{name}: datagram", external=True)
        self.readable_wait = WaitQueue(stack.world, self.readable)
        self.data_ready: Callable[[], None] | None = None
        """Called in softirq when there is something to read (sk_data_ready)."""
        self.write_space: Callable[[], None] | None = None
        """Called when half of the send buffer is free again (sk_write_space)."""
        self.sndbuf = sndbuf
        self.wmem_alloc = 0
        """Truesize of what the wire has not taken yet."""
        self.peer: Endpoint
        self.peer_fragments: FragmentCache
        """Where the other end puts fragments together."""
        self._ident = 0
        stack.sockets.append(self)

    # -- marks ----------------------------------------------------------------------------------------------------

    def sk_set_memalloc(self) -> None:
        """Make this a socket that memory is freed through (sk_set_memalloc)."""
        if self.stack.fixes.memalloc_sockets and not self.memalloc:
            self.memalloc = True
            self.stack.skbs.nr_memalloc_socks += 1

    # -- receiving ------------------------------------------------------------------------------------------------

    def take(self, packet: Packet, skb: Skb | None) -> None:
        """Queue a datagram if it may be charged (udp_queue_rcv_skb, __udp_enqueue_schedule_skb)."""
        assert skb is not None
        fixes = self.stack.fixes
        exempt = self.memalloc and skb.pfmemalloc and fixes.rmem_exempt
        if skb.pfmemalloc and not self.memalloc and fixes.pfmemalloc_drop:
            self._drop(skb, "PFMemallocDrop")
        elif self.mem.rmem_alloc > self.mem.rcvbuf:
            self._drop(skb, "UdpRcvbufErrors")
        elif not self.mem.rmem_schedule(skb.truesize, exempt=exempt):
            self._drop(skb, "UdpMemErrors")
        else:
            self.mem.charge_receive(skb.truesize)
            self.queue.append((packet, skb))
            self.nr_received += 1
            if self.data_ready is not None:
                self.data_ready()
            self.readable_wait.wake_one()

    def _drop(self, skb: Skb, reason: str) -> None:
        self.nr_dropped += 1
        self.stack.netstat.add(reason)
        self.stack.skbs.kfree_skb(skb)

    def read_one(self) -> Packet | None:
        """Take a datagram and free its memory (udp_recvmsg)."""
        if not self.queue:
            return None
        packet, skb = self.queue.popleft()
        self.mem.uncharge_receive(skb.truesize)
        self.stack.skbs.kfree_skb(skb)
        return packet

    # -- sending --------------------------------------------------------------------------------------------------

    def sendmsg_nowait(self, task: Task, content: Any, size_bytes: int) -> int:
        """Send a datagram with GFP_ATOMIC; 0, -EAGAIN without room, -ENOBUFS without memory."""
        stack = self.stack
        task.charge_ns += stack.costs.sendmsg
        if self.wmem_alloc >= self.sndbuf:
            return -int(Errno.EAGAIN)
        self._ident += 1
        packets = fragments_of(Datagram(self.name, self._ident, self.peer, size_bytes, content), self.peer_fragments)
        gfp = GFP_ATOMIC | GFP_NOWARN | (GFP_MEMALLOC if self.memalloc else 0)
        skbs: list[Skb] = []
        for _ in packets:
            skb = stack.skbs.try_alloc_tx(task, gfp, fclone=False)
            if skb is None:
                stack.netstat.add("IpOutDiscards")
                for made in skbs:
                    stack.skbs.kfree_skb(made)
                return -int(Errno.ENOBUFS)
            skbs.append(skb)
        if len(packets) > 1:
            stack.netstat.add("IpFragCreates", len(packets))
        for packet, skb in zip(packets, skbs, strict=True):
            task.charge_ns += stack.costs.tx_skb
            self.wmem_alloc += skb.truesize
            stack.world.call_at(stack.xmit_datagram(packet), self._sock_wfree, skb)
        return 0

    def _sock_wfree(self, skb: Skb) -> None:
        """The wire has taken a packet (sock_wfree, sock_def_write_space)."""
        self.wmem_alloc -= skb.truesize
        assert self.wmem_alloc >= 0
        self.stack.skbs.kfree_skb(skb)
        if self.write_space is not None and self.wmem_alloc < self.sndbuf // 2:
            self.write_space()

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self.queue), self.mem.rmem_alloc)
