"""Tracepoints of the network: what sockets tell a recorder.

Mirrors ``sock_exceed_buf_limit`` (events/sock.h), ``tcp_retransmit_skb`` (events/tcp.h) and ``kfree_skb``
(events/skb.h) of 6.1. The kernel has none for a sender that sleeps for room or for pages; ours are
``socket_wait_begin`` and ``_end``.
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from netvm.net.sk_memory import SockMemory
from netvm.runtime.task import Task
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of

if TYPE_CHECKING:
    from netvm.net.sock import TcpSock

__all__ = ["NetTrace"]

_EXCEED: Final = number_of("sock_exceed_buf_limit")
_RETRANSMIT: Final = number_of("tcp_retransmit_skb")
_KFREE_SKB: Final = number_of("kfree_skb")
_WAIT_BEGIN: Final = number_of("socket_wait_begin")
_WAIT_END: Final = number_of("socket_wait_end")
_HIDDEN: Final = -1
"""An address that is not printed."""
_ETH_P_IP: Final = 0x0800
_REASONS: Final = {
    "PFMemallocDrop": "PFMEMALLOC",
    "TCPBacklogDrop": "SOCKET_BACKLOG",
    "TCPOFODrop": "PROTO_MEM",
    "TCPRcvQDrop": "PROTO_MEM",
    "UdpRcvbufErrors": "SOCKET_RCVBUFF",
    "rx_dropped": "CPU_BACKLOG",
    "tx_dropped": "QDISC_DROP",
}
"""skb_drop_reason by the counter that counts it; what the card drops before there is a packet has none."""


class NetTrace:
    """Writes the network's events to the recorder of a host."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def exceed_buf_limit(self, mem: SockMemory, *, receive: bool) -> None:
        """A socket may not have more memory."""
        recorder, proto = self.recorder, mem.proto
        recorder.emit(
            _EXCEED,
            recorder.world.current,
            recorder.name(proto.name),
            recorder.name(f"{proto.low},{proto.pressure},{proto.high}"),
            proto.allocated,
            proto.rmem_min,
            mem.rmem_alloc,
            proto.wmem_min,
            0 if mem.stream else mem.wmem_queued,
            mem.wmem_queued,
            recorder.name("SK_MEM_RECV" if receive else "SK_MEM_SEND"),
        )

    def retransmit_skb(self, state: str) -> None:
        """A segment of a connection in this state is sent again."""
        recorder = self.recorder
        address, mapped = recorder.name("10.0.2.15"), recorder.name("::ffff:10.0.2.15")
        peer, peer_mapped = recorder.name("10.0.2.2"), recorder.name("::ffff:10.0.2.2")
        recorder.emit(
            _RETRANSMIT,
            recorder.world.current,
            _HIDDEN,
            _HIDDEN,
            recorder.name("AF_INET"),
            0,
            0,
            address,
            peer,
            mapped,
            peer_mapped,
            recorder.name(f"TCP_{state}"),
        )

    def kfree_skb(self, counter: str, nr: int) -> None:
        """Packets were dropped and counted under this name."""
        reason = _REASONS.get(counter)
        if reason is None:
            return
        number = self.recorder.name(reason)
        for _ in range(nr):
            self.recorder.emit(_KFREE_SKB, self.recorder.world.current, _HIDDEN, _ETH_P_IP, _HIDDEN, number)

    async def wait_memory(self, task: Task, sock: "TcpSock", wait: Awaitable[object]) -> None:
        """Record a sender's sleep for room in its buffer, or for pages."""
        name = self.recorder.name(sock.name)
        self.recorder.emit(_WAIT_BEGIN, task, name, sock.mem.wmem_queued, sock.mem.sndbuf)
        await wait
        self.recorder.emit(_WAIT_END, task, name, sock.mem.wmem_queued, sock.mem.sndbuf)
