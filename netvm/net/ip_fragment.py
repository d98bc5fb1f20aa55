"""IP fragments: a datagram larger than the wire takes, cut up by its sender and put together by its receiver.

Mirrors net/ipv4/ip_output.c (``ip_append_data``, ``ip_push_pending_frames``) and net/ipv4/ip_fragment.c
(``ip_defrag``, ``ip_evictor``, ``ip_expire``) with RFC 791, section 3.2. Each fragment is a packet of its own on the
wire, lost or late by itself, and comes in a receive buffer of its own; only when all are there is it known whose they
are. Until then they lie in the reassembly cache, which counts their truesize and a ``struct ipq`` a datagram.

The cache has two bounds. *Size*: a fragment that finds more than ``ipfrag_high_thresh`` in it first evicts the
datagrams that have got nothing for longest, down to ``ipfrag_low_thresh``; since 4.17 (``ipfrag_no_evictor``) there is
no evictor and the fragment itself is refused. *Time*: a datagram that is not whole after ``ipfrag_time`` is given up.
Neither bound asks whose memory it is: a fragment that was received from the reserve stays as long as any other, and an
evictor runs only when a fragment arrives, for which there must be a buffer.

# MODEL: a datagram's identification does not wrap round; no ICMP is sent for one that was given up.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from netvm.mm.gfp import GFP_ATOMIC, GFP_NOWARN
from netvm.mm.slab import SlabCache
from netvm.net.skb import Skb
from netvm.net.wire import Endpoint, Packet
from netvm.runtime.task import Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat
from netvm.units import NS_PER_S

__all__ = ["IPQ_BYTES", "Datagram", "Fragment", "FragmentCache", "FragmentMemory", "fragments_of"]

MTU_BYTES: Final = 1500
IP_HEADER_BYTES: Final = 20
UDP_HEADER_BYTES: Final = 8
FRAGMENT_BYTES: Final = (MTU_BYTES - IP_HEADER_BYTES) // 8 * 8
"""Data of a fragment that is not the last: a multiple of eight."""
IPQ_BYTES: Final = 256
"""``struct ipq`` in its slab cache, kmalloc-256."""


class Datagram(NamedTuple):
    """A UDP datagram."""

    source: str
    """Name of the sending socket: with ``ident`` it tells datagrams apart."""
    ident: int
    to: Endpoint
    size_bytes: int
    """Payload, without the UDP header."""
    content: Any


class Fragment(NamedTuple):
    """A piece of a datagram with its header."""

    datagram: Datagram
    offset: int
    size_bytes: int
    more: bool


def fragments_of(datagram: Datagram, cache: Endpoint) -> list[Packet]:
    """Return a datagram's packets: itself if it fits, else fragments for the reassembly cache of the other end."""
    total = UDP_HEADER_BYTES + datagram.size_bytes
    if total <= FRAGMENT_BYTES:
        return [Packet(datagram.to, None, datagram.size_bytes, 1, datagram.content)]
    packets = []
    for offset in range(0, total, FRAGMENT_BYTES):
        size = min(FRAGMENT_BYTES, total - offset)
        fragment = Fragment(datagram, offset, size, offset + size < total)
        packets.append(Packet(cache, None, size, 1, fragment))
    return packets


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentMemory:
    """What a cache may take of its machine, and from whom."""

    high_bytes: int
    """ipfrag_high_thresh."""
    low_bytes: int
    """ipfrag_low_thresh."""
    evicts: bool
    """Whether there is an evictor; else what is too much is refused."""
    softirq: Task
    queues: Callable[[], SlabCache]
    """Returns the cache that a ``struct ipq`` comes from."""
    free: Callable[[Skb], None]
    """kfree_skb."""


class _Queue:
    """``struct ipq``: what has come of one datagram."""

    __slots__ = ("got_bytes", "parts", "slab", "timer", "total_bytes", "truesize")

    def __init__(self, slab: int, timer: TimerHandle) -> None:
        self.slab = slab
        self.timer = timer
        self.parts: dict[int, Skb | None] = {}
        """Packets by offset."""
        self.got_bytes = 0
        self.total_bytes = -1
        """Known with the last fragment."""
        self.truesize = 0


class FragmentCache:
    """Where fragments wait for each other. ``memory`` is None for a machine that is never short of any."""

    def __init__(
        self, world: World, *, netstat: NetStat, memory: FragmentMemory | None, time_ns: int = 30 * NS_PER_S
    ) -> None:
        self.world = world
        self.netstat = netstat
        self.memory = memory
        self.time_ns = time_ns
        self.mem_bytes = 0
        """ip_frag_mem: truesize of what waits."""
        self.peak_bytes = 0
        # invariant: the datagram that got a fragment last is at the end
        self._queues: OrderedDict[tuple[str, int], _Queue] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queues)

    def take(self, packet: Packet, skb: Skb | None) -> None:
        """Take a fragment; the last one hands the datagram on (ip_defrag)."""
        fragment = packet.content
        assert isinstance(fragment, Fragment)
        self.netstat.add("IpReasmReqds")
        memory = self.memory
        if memory is not None and self.mem_bytes > memory.high_bytes:
            if not memory.evicts:
                self._refuse(skb)
                return
            self._evict(memory)
        key = (fragment.datagram.source, fragment.datagram.ident)
        queue = self._find(key)
        if queue is None or fragment.offset in queue.parts:
            # no memory for a struct ipq, or a fragment that came twice
            if queue is None:
                self._refuse(skb)
            else:
                self._free(skb)
            return
        self._queue(queue, fragment, skb)
        if queue.got_bytes == queue.total_bytes:
            self._reassemble(key, queue, fragment.datagram)
        else:
            self._queues.move_to_end(key)

    def _find(self, key: tuple[str, int]) -> _Queue | None:
        """Return a datagram's queue, made if there is none; None without memory for it (ip_find)."""
        queue = self._queues.get(key)
        if queue is not None:
            return queue
        slab = -1
        if self.memory is not None:
            slab = self.memory.queues().try_alloc(self.memory.softirq, GFP_ATOMIC | GFP_NOWARN)
            if slab < 0:
                return None
        expires_ns = self.world.wheel_ns(self.time_ns)
        timer = self.world.call_after(expires_ns, self._expire, key, kind=TimerKind.RETRY, site="ip_expire")
        queue = self._queues[key] = _Queue(slab, timer)
        self._charge(queue, IPQ_BYTES if self.memory is not None else 0)
        return queue

    def _queue(self, queue: _Queue, fragment: Fragment, skb: Skb | None) -> None:
        queue.parts[fragment.offset] = skb
        queue.got_bytes += fragment.size_bytes
        if not fragment.more:
            queue.total_bytes = fragment.offset + fragment.size_bytes
        if skb is not None:
            self._charge(queue, skb.truesize)

    def _charge(self, queue: _Queue, size_bytes: int) -> None:
        queue.truesize += size_bytes
        self.mem_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.mem_bytes)

    def _remove(self, key: tuple[str, int]) -> _Queue:
        """Take a datagram out (ipq_kill, ip_frag_destroy); its packets are the caller's."""
        queue = self._queues.pop(key)
        self.world.cancel(queue.timer)
        self.mem_bytes -= queue.truesize
        assert self.mem_bytes >= 0
        if self.memory is not None:
            self.memory.queues().free(queue.slab)
        return queue

    def _give_up(self, key: tuple[str, int]) -> None:
        for skb in self._remove(key).parts.values():
            self._free(skb)
        self.netstat.add("IpReasmFails")

    def _evict(self, memory: FragmentMemory) -> None:
        """Give up what has got nothing for longest (ip_evictor)."""
        while self._queues and self.mem_bytes > memory.low_bytes:
            self._give_up(next(iter(self._queues)))

    def _expire(self, key: tuple[str, int]) -> None:
        """Give up a datagram that was not whole in time (ip_expire)."""
        self.netstat.add("IpReasmTimeout")
        self._give_up(key)

    def _reassemble(self, key: tuple[str, int], queue: _Queue, datagram: Datagram) -> None:
        """Chain the fragments behind the first one and hand the datagram on (ip_frag_reasm)."""
        self._remove(key)
        head, *others = (queue.parts[offset] for offset in sorted(queue.parts))
        if head is not None:
            for skb in others:
                assert skb is not None
                head.chain(skb)
        self.netstat.add("IpReasmOKs")
        whole = Packet(datagram.to, None, datagram.size_bytes, len(queue.parts), datagram.content)
        datagram.to.take(whole, head)

    def _refuse(self, skb: Skb | None) -> None:
        self.netstat.add("IpReasmFails")
        self._free(skb)

    def _free(self, skb: Skb | None) -> None:
        if skb is not None:
            assert self.memory is not None
            self.memory.free(skb)

    def notes(self) -> list[str]:
        """Tell what came in fragments, by the names of /proc/net/snmp."""
        netstat = self.netstat
        if not netstat["IpReasmReqds"]:
            return []
        counts = ", ".join(
            f"{name} {netstat[f'Ip{name}']}" for name in ("ReasmReqds", "ReasmOKs", "ReasmFails", "ReasmTimeout")
        )
        waiting = f"{len(self)} datagrams with {self.mem_bytes} bytes wait for fragments"
        return [f"Ip: {counts}; {waiting}, {self.peak_bytes} bytes at the peak"]

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self._queues), self.mem_bytes)
