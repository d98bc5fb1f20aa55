"""One host's network below its sockets: packets demultiplexed on their way in, handed to a device on their way out.

Mirrors ``__netif_receive_skb`` (net/core/dev.c) as far as memory goes: a packet that arrived in reserve memory is
processed with PF_MEMALLOC while a SOCK_MEMALLOC socket exists, so that what it makes its socket send may use the
reserve too. Whose packet it is becomes known only here, after it has its memory. Loopback hands the very packet that
was sent to the receiver, in softirq.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from netvm.mm.gfp import PF_MEMALLOC
from netvm.mm.page_alloc import PageAllocator
from netvm.net.ip_fragment import FragmentCache
from netvm.net.net_trace import NetTrace
from netvm.net.nic import Nic
from netvm.net.sk_memory import ProtoMemory
from netvm.net.skb import PageFrag, Skb, SkbAllocator
from netvm.net.tcp.config import new_counters
from netvm.net.tcp.segment import Segment, packets_of
from netvm.net.wire import Endpoint, Packet
from netvm.runtime.costs import CpuCosts
from netvm.runtime.seeds import Stream
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat
from netvm.units import JIFFY_NS

if TYPE_CHECKING:
    from netvm.net.sock import TcpSock

__all__ = ["NetStack", "TaskFrag"]

VM_WAIT_JIFFIES: Final = 50
TCP_HEADERS_BYTES: Final = 52
"""Of IP and TCP, with timestamps."""
UDP_HEADERS_BYTES: Final = 28


class Sock(Protocol):
    """A socket of any protocol."""

    name: str

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...


class TaskFrag:
    """A block that payload is cut from, kept from one call to the next (``struct page_frag`` of a task or socket)."""

    __slots__ = ("frag",)

    def __init__(self) -> None:
        self.frag: PageFrag | None = None

    def put(self) -> None:
        """Let go of the block."""
        if self.frag is not None:
            self.frag.put()
            self.frag = None


class NetStack:
    """One host's network: allocator, card, protocols' memory, counters."""

    def __init__(
        self,
        world: World,
        *,
        pages: PageAllocator,
        skbs: SkbAllocator,
        netstat: NetStat,
        costs: CpuCosts,
        tcp_memory: ProtoMemory,
        udp_memory: ProtoMemory,
        tcp_wmem: Sequence[int],
        tcp_rmem: Sequence[int],
        random: Stream,
    ) -> None:
        self.world = world
        self.pages = pages
        self.skbs = skbs
        self.netstat = netstat
        self.costs = costs
        self.fixes = pages.fixes
        self.softirq = pages.softirq
        self.tcp_memory = tcp_memory
        self.udp_memory = udp_memory
        self.tcp_wmem = tuple(tcp_wmem)
        self.tcp_rmem = tuple(tcp_rmem)
        self.random = random
        self.nic: Nic | None = None
        self.tracer: NetTrace | None = None
        self.ip_frags: FragmentCache | None = None
        """Where fragments from outside wait for each other."""
        self.sockets: list[Sock] = []
        self.tcp_counters = new_counters()
        """What all endpoints here count."""
        self.in_packets = self.in_octets = self.out_octets = 0
        """Over all devices: frames, and bytes with their headers, a GSO packet's once."""
        self._arrived: deque[tuple[Packet, Skb | None]] = deque()
        """What was sent over loopback and has not been received (softnet_data.input_pkt_queue)."""
        self._receiving = False
        self._task_frags: dict[int, TaskFrag] = {}
        self._receive_memory = Resource("memory", "eth0 RX: memory to receive with", self._memory_providers)

    # -- packets in -----------------------------------------------------------------------------------------------

    def netif_receive(self, packet: Packet, skb: Skb) -> None:
        """Demultiplex a packet that has its memory; a reserve packet is processed with PF_MEMALLOC."""
        softirq = self.softirq
        self._count_in(packet)
        if skb.pfmemalloc and self.skbs.memalloc_socks and self.fixes.softirq_memalloc:
            saved = softirq.flags
            softirq.flags |= PF_MEMALLOC
            packet.to.take(packet, skb)
            softirq.flags = saved
        else:
            packet.to.take(packet, skb)

    def _count_in(self, packet: Packet) -> None:
        self.in_packets += packet.nr_frames
        headers_bytes = UDP_HEADERS_BYTES if packet.segment is None else TCP_HEADERS_BYTES
        # frames without data are not merged
        nr_packets = 1 if packet.size_bytes else packet.nr_frames
        self.in_octets += packet.size_bytes + headers_bytes * nr_packets

    def netstat_values(self) -> dict[str, int]:
        """Return what was counted, under the names of /proc/net/netstat and snmp."""
        octets = {"InNoECTPkts": self.in_packets, "InOctets": self.in_octets, "OutOctets": self.out_octets}
        counted = self.tcp_counters | self.netstat.as_dict() | octets
        return {name: counted[name] for name in sorted(counted) if counted[name]}

    # -- packets out ----------------------------------------------------------------------------------------------

    def xmit(self, to: Endpoint, segment: Segment, mss_bytes: int, skb: Skb | None, *, loopback: bool) -> int:
        """Hand a segment to the device; 0, a negative errno, or 1 if the queue dropped it."""
        nr_frames = packets_of(segment.size_bytes, mss_bytes) if segment.size_bytes > mss_bytes else 1
        packet = Packet(to, segment, segment.size_bytes, nr_frames)
        self.out_octets += segment.size_bytes + TCP_HEADERS_BYTES
        if loopback:
            # the packet itself goes to the receiver, with its pages; only its pfmemalloc mark stays behind
            if skb is not None:
                self.skbs.get(skb)
            if not self._arrived and not self._receiving:
                self.world.call_after(0, self.net_rx_action)
            self._arrived.append((packet, skb))
            return 0
        assert self.nic is not None
        return self.nic.transmit(packet)

    def xmit_datagram(self, packet: Packet) -> int:
        """Hand a datagram or a fragment to the card, whose queue may drop it; return when the wire has taken it."""
        nic = self.nic
        assert nic is not None
        self.out_octets += packet.size_bytes + UDP_HEADERS_BYTES
        nic.transmit(packet)
        return max(nic.link.free_at_ns, self.world.now_ns + 1)

    def net_rx_action(self) -> None:
        """Receive what has come over loopback, and what that makes the sockets here send (process_backlog)."""
        self._receiving = True
        while self._arrived:
            packet, skb = self._arrived.popleft()
            self._count_in(packet)
            self.pages.charge(self.softirq, self.costs.rx_loopback)
            packet.to.take(packet, skb)
        self._receiving = False

    def local_bh_enable(self, context: Task) -> None:
        """Let softirqs run again after a packet was sent: over loopback it is received before a task goes on."""
        if self._arrived and context is not self.softirq and not self._receiving:
            self.net_rx_action()

    def close(self, sock: "TcpSock", site: str, is_kept: "Callable[[TcpSock], bool]") -> None:
        """Close a connection of a server here, and forget its socket unless it is to be kept.

        That takes the socket's lock, which a sender keeps while it allocates: until it is free ``site`` tries again.
        """
        if sock.owner is not None:
            self.world.call_after(JIFFY_NS, self.close, sock, site, is_kept, kind=TimerKind.RETRY, site=site)
            return
        sock.abort()
        if not is_kept(sock) and sock in self.sockets:
            self.sockets.remove(sock)
            sock.mem.proto.nr_sockets -= 1

    def vm_wait_ns(self) -> int:
        """Return how long who sends waits when pages were short: 2 to 51 jiffies (sk_stream_wait_memory)."""
        return (self.random.below(VM_WAIT_JIFFIES - 1) + 2) * JIFFY_NS

    def task_frag(self, task: Task) -> TaskFrag:
        """Return a task's own block to cut payload from; it goes when the task exits."""
        kept = self._task_frags.get(task.number)
        if kept is None:
            kept = self._task_frags[task.number] = TaskFrag()
            task.on_exit.append(self._put_task_frag)
        return kept

    def _put_task_frag(self, task: Task) -> None:
        self._task_frags.pop(task.number).put()

    def receive_blocked(self) -> Resource | None:
        """Return what packets from outside wait for, or None if they can be received."""
        nic = self.nic
        return self._receive_memory if nic is not None and nic.is_stuck else None

    def _memory_providers(self) -> list[Task | Provider]:
        providers = self.pages.memory.providers
        return list(providers()) if providers is not None else []

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed; packets are seen in the memory they take."""
        nic = self.nic.digest() if self.nic is not None else ()
        if self.ip_frags is not None and len(self.ip_frags):
            nic = (*nic, *self.ip_frags.digest())
        return (nic, tuple(sock.digest() for sock in self.sockets), self.tcp_memory.allocated)
