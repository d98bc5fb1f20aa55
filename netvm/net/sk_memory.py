"""Socket memory: what one socket has charged, and what all sockets of a protocol may have.

Mirrors ``__sk_mem_raise_allocated``, ``sk_mem_uncharge`` and their kin (net/core/sock.c, include/net/sock.h),
``sk_stream_moderate_sndbuf`` and ``tcp_sndbuf_expand`` (net/ipv4/tcp_input.c) of 6.1.

A socket charges the truesize of its packets to its own counters (``sk_wmem_queued``, ``sk_rmem_alloc``) out of a
prepaid sum (``sk_forward_alloc``), which is bought from the protocol in whole pages. The protocol's three limits
(``tcp_mem``, ``udp_mem``) are: below the first all is granted; above the second the protocol is under pressure; above
the third nothing is granted. In between small users are guaranteed a minimum, and under pressure only those get more
who hold less than their share.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from netvm.trace.vmstat import NetStat
from netvm.units import PAGE_SIZE, pages_of

__all__ = ["SOCK_MIN_SNDBUF", "ExceedProbe", "ProtoMemory", "SockMemory"]

SOCK_MIN_SNDBUF: Final = 2048 * 2
MAX_TCP_HEADER: Final = 256
SK_BUFF_BYTES: Final = 256
SKB_SHARED_INFO_BYTES: Final = 320
TCP_INIT_CWND: Final = 10


class ExceedProbe(Protocol):
    """Who is told of a socket that gets no more memory; a recorder listens."""

    def __call__(self, mem: "SockMemory", *, receive: bool) -> None:
        """It was to receive, or to send."""
        ...


class ProtoMemory:
    """A protocol's memory limits in pages (``tcp_mem``, ``udp_mem``) and what its sockets have taken."""

    __slots__ = (
        "allocated",
        "exceeded",
        "has_pressure",
        "high",
        "low",
        "name",
        "netstat",
        "nr_sockets",
        "pressure",
        "rmem_min",
        "under_pressure",
        "wmem_min",
    )

    def __init__(
        self,
        name: str,
        limits: Sequence[int],
        *,
        rmem_min: int,
        wmem_min: int,
        netstat: NetStat,
        has_pressure: bool = True,
    ) -> None:
        self.name = name
        self.has_pressure = has_pressure
        """Whether it knows memory pressure: UDP does not, so above its first limit only small users get more."""
        self.low, self.pressure, self.high = limits
        self.rmem_min = rmem_min
        """Bytes a socket may hold for receiving between the limits (tcp_rmem[0])."""
        self.wmem_min = wmem_min
        """Bytes a stream socket may have queued between the limits (tcp_wmem[0])."""
        self.netstat = netstat
        self.allocated = 0
        self.nr_sockets = 0
        self.under_pressure = False
        self.exceeded: ExceedProbe | None = None

    def enter_pressure(self) -> None:
        """Note that memory is short (tcp_enter_memory_pressure); a protocol without the notion has none."""
        if self.has_pressure and not self.under_pressure:
            self.under_pressure = True
            self.netstat.add(f"{self.name}MemoryPressures")


class SockMemory:
    """One socket's buffers and charges, in bytes."""

    __slots__ = ("forward_alloc", "proto", "rcvbuf", "rmem_alloc", "sndbuf", "sndbuf_locked", "stream", "wmem_queued")

    def __init__(
        self, proto: ProtoMemory, *, rcvbuf: int, sndbuf: int = 0, sndbuf_locked: bool = False, stream: bool = True
    ) -> None:
        self.proto = proto
        self.rcvbuf = rcvbuf
        self.sndbuf = sndbuf
        self.sndbuf_locked = sndbuf_locked
        """SO_SNDBUF was set: the kernel leaves the size alone (SOCK_SNDBUF_LOCK)."""
        self.stream = stream
        self.wmem_queued = 0
        self.rmem_alloc = 0
        self.forward_alloc = 0
        proto.nr_sockets += 1

    def mem_schedule(self, size_bytes: int, *, receive: bool) -> bool:
        """Have ``size_bytes`` prepaid; False if the protocol may not have so much (__sk_mem_schedule)."""
        if size_bytes <= self.forward_alloc:
            return True
        proto = self.proto
        amount = pages_of(size_bytes - self.forward_alloc)
        proto.allocated += amount
        self.forward_alloc += amount * PAGE_SIZE
        if proto.allocated <= proto.low:
            proto.under_pressure = False
            return True
        if proto.allocated > proto.pressure:
            proto.enter_pressure()
        if self._may_exceed(receive=receive):
            return True
        if not receive and self.stream:
            self.moderate_sndbuf()
            if self.wmem_queued + size_bytes >= self.sndbuf:
                # a sender that has to wait for its buffer anyway gets this last one
                return True
        if proto.exceeded is not None:
            proto.exceeded(self, receive=receive)
        proto.allocated -= amount
        self.forward_alloc -= amount * PAGE_SIZE
        return False

    def _may_exceed(self, *, receive: bool) -> bool:
        """Between the limits: guarantees for small users, and fairness under pressure."""
        proto = self.proto
        if proto.allocated > proto.high:
            return False
        if receive and self.rmem_alloc < proto.rmem_min:
            return True
        if not receive and self.stream and self.wmem_queued < proto.wmem_min:
            return True
        if not proto.has_pressure:
            return False
        if not proto.under_pressure:
            return True
        held = pages_of(self.wmem_queued + self.rmem_alloc + self.forward_alloc)
        return proto.high > proto.nr_sockets * held

    def forced_mem_schedule(self, size_bytes: int) -> None:
        """Have ``size_bytes`` prepaid whatever the limits say (sk_forced_mem_schedule)."""
        if size_bytes > self.forward_alloc:
            amount = pages_of(size_bytes - self.forward_alloc)
            self.proto.allocated += amount
            self.forward_alloc += amount * PAGE_SIZE

    def mem_uncharge(self, size_bytes: int) -> None:
        """Give charges back; whole spare pages return to the protocol (sk_mem_uncharge, sk_mem_reclaim)."""
        self.forward_alloc += size_bytes
        proto = self.proto
        spare = self.forward_alloc // PAGE_SIZE
        if spare > 0:
            proto.allocated -= spare
            self.forward_alloc -= spare * PAGE_SIZE
            if proto.under_pressure and proto.allocated < proto.low:
                proto.under_pressure = False

    def charge_write(self, size_bytes: int) -> None:
        """Count prepaid bytes as queued to be sent (sk_wmem_queued_add, sk_mem_charge)."""
        self.wmem_queued += size_bytes
        self.forward_alloc -= size_bytes

    def uncharge_write(self, size_bytes: int) -> None:
        """Take a packet out of what is queued to be sent (tcp_wmem_free_skb)."""
        self.wmem_queued -= size_bytes
        assert self.wmem_queued >= 0
        self.mem_uncharge(size_bytes)

    def rmem_schedule(self, size_bytes: int, *, exempt: bool) -> bool:
        """Have a received packet prepaid; one that is exempt from the limits is in debt (sk_rmem_schedule)."""
        return self.mem_schedule(size_bytes, receive=True) or exempt

    def charge_receive(self, size_bytes: int) -> None:
        """Count prepaid bytes as received and not read (skb_set_owner_r)."""
        self.rmem_alloc += size_bytes
        self.forward_alloc -= size_bytes

    def uncharge_receive(self, size_bytes: int) -> None:
        """Take a packet out of what is received and not read (sock_rfree)."""
        self.rmem_alloc -= size_bytes
        assert self.rmem_alloc >= 0
        self.mem_uncharge(size_bytes)

    def stream_memory_free(self) -> bool:
        """Whether the send buffer has room (sk_stream_memory_free)."""
        return self.wmem_queued < self.sndbuf

    def moderate_sndbuf(self) -> None:
        """Shrink the send buffer to half of what is queued (sk_stream_moderate_sndbuf)."""
        if not self.sndbuf_locked:
            self.sndbuf = max(min(self.sndbuf, self.wmem_queued // 2), SOCK_MIN_SNDBUF)

    def expand_sndbuf(self, nr_segments: int, mss_bytes: int, sndbuf_max: int) -> None:
        """Grow the send buffer to twice what the congestion window holds (tcp_sndbuf_expand)."""
        per_mss = (1 << (mss_bytes + MAX_TCP_HEADER + SKB_SHARED_INFO_BYTES - 1).bit_length()) + SK_BUFF_BYTES
        demand = 2 * max(TCP_INIT_CWND, nr_segments) * per_mss
        if demand > self.sndbuf:
            self.sndbuf = min(demand, sndbuf_max)

    def release(self) -> None:
        """Give back what is prepaid, at the end of a connection (sk_mem_reclaim_final)."""
        self.proto.allocated -= self.forward_alloc // PAGE_SIZE
        self.forward_alloc = 0
