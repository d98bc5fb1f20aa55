"""UDP sockets that receive: what a flood fills.

Mirrors ``udp_queue_rcv_skb`` and ``__udp_enqueue_schedule_skb`` (net/ipv4/udp.c) of 6.1: a datagram is refused if it
came in reserve memory and the socket is an ordinary one (``sk_filter_trim_cap``), if the receive buffer is over its
limit, or if the protocol may not have more memory (``udp_mem``).
"""

from collections import deque
from typing import Any

from netvm.net.sk_memory import SockMemory
from netvm.net.skb import Skb
from netvm.net.stack import NetStack
from netvm.net.wire import Packet
from netvm.runtime.task import Resource
from netvm.runtime.wait import WaitQueue

__all__ = ["UdpSock"]


class UdpSock:
    """A UDP socket that receives."""

    def __init__(self, stack: NetStack, name: str, *, rcvbuf: int) -> None:
        self.stack = stack
        self.name = name
        self.mem = SockMemory(stack.udp_memory, rcvbuf=rcvbuf, stream=False)
        self.memalloc = False
        self.queue: deque[tuple[Packet, Skb]] = deque()
        self.nr_received = 0
        self.nr_dropped = 0
        self.readable = Resource("reply", f"{name}: datagram", external=True)
        self.readable_wait = WaitQueue(stack.world, self.readable)
        stack.sockets.append(self)

    def take(self, packet: Packet, skb: Skb | None) -> None:
        """Queue a datagram if it may be charged (udp_queue_rcv_skb, __udp_enqueue_schedule_skb)."""
        assert skb is not None
        if skb.pfmemalloc and not self.memalloc and self.stack.fixes.pfmemalloc_drop:
            self._drop(skb, "PFMemallocDrop")
        elif self.mem.rmem_alloc > self.mem.rcvbuf:
            self._drop(skb, "UdpRcvbufErrors")
        elif not self.mem.mem_schedule(skb.truesize, receive=True):
            self._drop(skb, "UdpMemErrors")
        else:
            self.mem.charge_receive(skb.truesize)
            self.queue.append((packet, skb))
            self.nr_received += 1
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

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self.queue), self.mem.rmem_alloc)
