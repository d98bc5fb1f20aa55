"""Sockets: buffers, accounting, locks, and the way of a packet to and from them.

Mirrors net/core/sock.c, net/core/stream.c, net/ipv4/tcp.c (``tcp_sendmsg_locked``, ``tcp_recvmsg``),
net/ipv4/tcp_ipv4.c (``tcp_v4_rcv``), net/core/filter.c (``sk_filter_trim_cap``) and net/ipv4/udp.c of 6.1 as far as
memory goes. The protocol itself is :mod:`netvm.net.tcp`, which knows no memory; this shell finds the memory for what
it wants to send and refuses what there is none for.

*Accounting*: each socket charges its packets' truesize to its own limits and, page by page, to its protocol's
(``tcp_mem``, ``udp_mem``). *Priority*: a SOCK_MEMALLOC socket's masks carry ``__GFP_MEMALLOC`` and it may exceed the
receive limits; a packet that arrived in reserve memory is dropped at any other socket. *Locks*: while a task owns a
socket, packets for it wait in a backlog; a sender that sleeps for buffer space lets go of the lock, one that sleeps
in the page allocator does not.

# MODEL: small queues (TSQ) do not bind.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import trio

from netvm.errors import Errno
from netvm.mm.frames import PfnArray
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_COMP,
    GFP_DIRECT_RECLAIM,
    GFP_KERNEL,
    GFP_MEMALLOC,
    GFP_NOWARN,
    PF_MEMALLOC,
    GfpScope,
)
from netvm.mm.page_alloc import PageAllocator
from netvm.net.nic import Nic
from netvm.net.skb import MAX_SKB_FRAGS, PageFrag, Skb, SkbAllocator
from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.receiver import AckDue
from netvm.net.tcp.rto import TimerKind as TcpTimerKind
from netvm.net.tcp.segment import SYN, Segment, packets_of
from netvm.net.tcp.state import TcpState
from netvm.net.wire import Content, Endpoint, Packet, StreamLog, content_size
from netvm.runtime.costs import CpuCosts
from netvm.runtime.seeds import Stream
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat
from netvm.units import JIFFY_NS, NS_PER_MS, PAGE_SIZE, pages_of

__all__ = ["NetStack", "ProtoMemory", "SocketStream", "TcpSock", "UdpSock"]

SOCK_MIN_SNDBUF: Final = 2048 * 2
MAX_TCP_HEADER: Final = 256
SKB_OVERHEAD: Final = 576
"""SKB_TRUESIZE(0): sk_buff and shared info."""
SK_BACKLOG_EXTRA: Final = 64 * 1024
VM_WAIT_JIFFIES: Final = 50


_ETHERNET: Final = TcpConfig(nodelay=True)
_LOOPBACK: Final = TcpConfig(mss_bytes=32741, nodelay=True)
"""An MTU of 65536, of which a segment takes half the first window (tcp_bound_to_half_wnd)."""


class ProtoMemory:
    """A protocol's memory limits in pages (``tcp_mem``, ``udp_mem``) and what its sockets have taken."""

    __slots__ = ("allocated", "high", "low", "name", "nr_sockets", "pressure", "under_pressure")

    def __init__(self, name: str, limits: Sequence[int]) -> None:
        self.name = name
        self.low, self.pressure, self.high = limits
        self.allocated = 0
        self.nr_sockets = 0
        self.under_pressure = False


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
        self.sockets: list[TcpSock | UdpSock] = []
        self._receive_memory = Resource("memory", "eth0 RX: memory to receive with", self._memory_providers)

    # -- packets in -----------------------------------------------------------------------------------------------

    def netif_receive(self, packet: Packet, skb: Skb) -> None:
        """Demultiplex a packet that has its memory; a reserve packet is processed with PF_MEMALLOC."""
        softirq = self.softirq
        if skb.pfmemalloc and self.skbs.memalloc_socks and self.fixes.softirq_memalloc:
            saved = softirq.flags
            softirq.flags |= PF_MEMALLOC
            packet.to.take(packet, skb)
            softirq.flags = saved
        else:
            packet.to.take(packet, skb)

    # -- packets out ----------------------------------------------------------------------------------------------

    def xmit(self, to: Endpoint, segment: Segment, mss_bytes: int, skb: Skb | None, *, loopback: bool) -> int:
        """Hand a segment to the device; 0, a negative errno, or 1 if the queue dropped it."""
        nr_frames = packets_of(segment.size_bytes, mss_bytes) if segment.size_bytes > mss_bytes else 1
        packet = Packet(to, segment, segment.size_bytes, nr_frames)
        if loopback:
            # the packet itself goes to the receiver, with its pages; only its pfmemalloc mark stays behind
            if skb is not None:
                self.skbs.get(skb)
            self.world.call_after(0, self._netif_rx, packet, skb)
            return 0
        assert self.nic is not None
        return self.nic.transmit(packet)

    def _netif_rx(self, packet: Packet, skb: Skb | None) -> None:
        """Receive a packet over loopback (netif_rx, process_backlog)."""
        if self.softirq.cpus is not None:
            self.softirq.cpus.steal(self.costs.rx_loopback)
        packet.to.take(packet, skb)

    # -- memory accounting ----------------------------------------------------------------------------------------

    def mem_schedule(self, sock: "TcpSock | UdpSock", size_bytes: int, *, receive: bool) -> bool:
        """Charge pages to the protocol for ``size_bytes`` more; False if it may not have them (__sk_mem_schedule)."""
        if size_bytes <= sock.forward_alloc:
            return True
        memory = sock.memory
        amount = pages_of(size_bytes - sock.forward_alloc)
        memory.allocated += amount
        sock.forward_alloc += amount * PAGE_SIZE
        if memory.allocated <= memory.low:
            memory.under_pressure = False
            return True
        if memory.allocated > memory.pressure and not memory.under_pressure:
            memory.under_pressure = True
            self.netstat.add("TCPMemoryPressures")
        if self._may_exceed(sock, memory, receive=receive):
            return True
        if not receive and isinstance(sock, TcpSock) and memory.allocated > memory.high:
            sock.moderate_sndbuf()
            if sock.wmem_queued + size_bytes >= sock.sndbuf:
                return True
        memory.allocated -= amount
        sock.forward_alloc -= amount * PAGE_SIZE
        return False

    def _may_exceed(self, sock: "TcpSock | UdpSock", memory: ProtoMemory, *, receive: bool) -> bool:
        """Between the limits: guarantees for small users, and fairness under pressure."""
        if memory.allocated > memory.high:
            return False
        if receive and sock.rmem_alloc < self.tcp_rmem[0]:
            return True
        if not receive and isinstance(sock, TcpSock) and sock.wmem_queued < self.tcp_wmem[0]:
            return True
        if not memory.under_pressure:
            return True
        wmem = sock.wmem_queued if isinstance(sock, TcpSock) else 0
        held = pages_of(wmem + sock.rmem_alloc + sock.forward_alloc)
        return memory.high > memory.nr_sockets * held

    def forced_mem_schedule(self, sock: "TcpSock | UdpSock", size_bytes: int) -> None:
        """Charge pages whatever the limits say (sk_forced_mem_schedule)."""
        if size_bytes > sock.forward_alloc:
            amount = pages_of(size_bytes - sock.forward_alloc)
            sock.memory.allocated += amount
            sock.forward_alloc += amount * PAGE_SIZE

    @staticmethod
    def mem_uncharge(sock: "TcpSock | UdpSock", size_bytes: int) -> None:
        """Give charges back; whole spare pages return to the protocol (sk_mem_uncharge, sk_mem_reclaim)."""
        sock.forward_alloc += size_bytes
        spare = sock.forward_alloc // PAGE_SIZE
        if spare > 1:
            sock.memory.allocated -= spare - 1
            sock.forward_alloc -= (spare - 1) * PAGE_SIZE
            if sock.memory.under_pressure and sock.memory.allocated < sock.memory.low:
                sock.memory.under_pressure = False

    def receive_blocked(self) -> Resource | None:
        """Return what packets from outside wait for, or None if they can be received."""
        nic = self.nic
        return self._receive_memory if nic is not None and nic.is_stuck else None

    def _memory_providers(self) -> list[Task | Provider]:
        providers = self.pages.memory.providers
        return list(providers()) if providers is not None else []

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        nic = self.nic.digest() if self.nic is not None else ()
        return (nic, tuple(sock.digest() for sock in self.sockets), self.tcp_memory.allocated, self.skbs.nr_skbs)


class TcpSock:
    """A TCP socket of the emulated host."""

    def __init__(
        self,
        stack: NetStack,
        name: str,
        *,
        config: TcpConfig | None = None,
        sndbuf: int | None = None,
        rcvbuf: int | None = None,
        loopback: bool = False,
        kernel: bool = True,
    ) -> None:
        self.stack = stack
        self.world = stack.world
        self.name = name
        self.memory = stack.tcp_memory
        self.memory.nr_sockets += 1
        self.loopback = loopback
        self.kernel = kernel
        self.allocation = GFP_KERNEL
        self.memalloc = False
        self.sndbuf = stack.tcp_wmem[1] if sndbuf is None else sndbuf
        self._sndbuf_locked = sndbuf is not None
        self.rcvbuf = stack.tcp_rmem[1] if rcvbuf is None else rcvbuf
        self._rcvbuf_locked = rcvbuf is not None
        self._rcv_space_bytes = self.rcvbuf // 2
        self._rcv_copied_bytes = 0
        self._rcv_since_ns = 0
        self.wmem_queued = 0
        self.rmem_alloc = 0
        self.forward_alloc = 0
        self.config = config or (_LOOPBACK if loopback else _ETHERNET)
        self.core = TcpConnection(self.config, iss=0)
        self.peer: Endpoint
        self.outgoing: StreamLog
        self.incoming: StreamLog
        self.readable_bytes = 0
        """In order and not yet read by the application."""
        self.received_skbs: deque[tuple[int, Skb | None]] = deque()
        """Packets of the receive and out-of-order queues, by the end of their data."""
        self.eof = False
        self.data_ready: Callable[[], None] | None = None
        """Called in softirq when there is something to read (sk_data_ready)."""
        self.write_space: Callable[[], None] | None = None
        self.state_change: Callable[[], None] | None = None
        self.listening = False
        """A SYN makes it the accepted end of a connection."""
        self.owner: Task | None = None
        """Who holds the socket lock."""
        self.owner_ledger = stack.pages.ledger.owner(f"skb:{name}")
        self._write_queue: deque[Skb] = deque()
        self._frag: PageFrag | None = None
        self._unsent_tail: Skb | None = None
        self._tail_bytes = 0
        self._backlog: deque[tuple[Packet, Skb | None]] = deque()
        self._backlog_bytes = 0
        self._timer: TimerHandle | None = None
        self.lock = Resource("lock", f"sk_lock of {name}", self._lock_owner)
        self._lock_wait = WaitQueue(stack.world, self.lock)
        self.send_memory = Resource("reply", f"{name}: sk_stream_wait_memory", self._ack_providers)
        self.send_space_wait = WaitQueue(stack.world, self.send_memory)
        self.data = Resource("reply", f"{name}: data to read", self._reply_providers)
        self.readable_wait = WaitQueue(stack.world, self.data)
        self.peer_provider: Callable[[], Sequence[Task | Provider]] | None = None
        """Who makes the other end answer, if it is on this host."""
        stack.sockets.append(self)

    def _lock_owner(self) -> list[Task]:
        return [self.owner] if self.owner is not None else []

    def _ack_providers(self) -> list[Task | Provider]:
        return self._reply_providers()

    def _reply_providers(self) -> list[Task | Provider]:
        if self.peer_provider is not None:
            return list(self.peer_provider())
        return []

    # -- marks ----------------------------------------------------------------------------------------------------

    def sk_set_memalloc(self) -> None:
        """Make this a socket that memory is freed through (sk_set_memalloc)."""
        if not self.stack.fixes.memalloc_sockets or self.memalloc:
            return
        self.memalloc = True
        self.allocation |= GFP_MEMALLOC
        self.stack.skbs.nr_memalloc_socks += 1

    def sk_clear_memalloc(self) -> None:
        """Make it an ordinary socket again."""
        if self.memalloc:
            self.memalloc = False
            self.allocation &= ~GFP_MEMALLOC
            self.stack.skbs.nr_memalloc_socks -= 1

    # -- opening and closing --------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Send a SYN."""
        self.core.set_receive_space(self._tcp_space(), full_bytes=self.rcvbuf // 2)
        self.core.connect(self.world.now_ns)
        self.tcp_push_pending(self.stack.softirq)

    def accept_syn(self, syn: Segment) -> None:
        """Answer a SYN that a listener received."""
        self.core = TcpConnection.from_syn(self.config, syn, self.world.now_ns)
        self.core.set_receive_space(self._tcp_space(), full_bytes=self.rcvbuf // 2)
        self.tcp_push_pending(self.stack.softirq)

    @property
    def established(self) -> bool:
        """Whether data can be sent."""
        return self.core.state in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)

    def close(self) -> None:
        """Send a FIN after what is queued."""
        if self.core.state is not TcpState.CLOSED:
            self.core.close()
            self.tcp_push_pending(self.stack.softirq)

    def abort(self) -> None:
        """Drop the connection and all it holds (tcp_disconnect)."""
        if self.core.state is not TcpState.CLOSED:
            reset = self.core.abort()
            if reset is not None:
                self.stack.xmit(self.peer, reset, self.config.mss_bytes, None, loopback=self.loopback)
        self.destroy()

    def destroy(self) -> None:
        """Free every packet and charge (inet_csk_destroy_sock)."""
        self._free_acked(everything=True)
        while self.received_skbs:
            self._uncharge_receive(self.received_skbs.popleft()[1])
        while self._backlog:
            _packet, skb = self._backlog.popleft()
            if skb is not None:
                self.stack.skbs.kfree_skb(skb)
        self._backlog_bytes = 0
        if self._frag is not None:
            self._frag.put()
            self._frag = None
        if self._timer is not None:
            self.world.cancel(self._timer)
            self._timer = None
        self.memory.allocated -= self.forward_alloc // PAGE_SIZE
        self.forward_alloc = 0
        self._closed()

    def _closed(self) -> None:
        self.eof = True
        self.send_space_wait.wake_all()
        self.readable_wait.wake_all()
        if self.state_change is not None:
            self.state_change()

    # -- the socket lock ------------------------------------------------------------------------------------------

    async def lock_sock(self, task: Task) -> None:
        """Own the socket: packets for it wait in the backlog."""
        while self.owner is not None:
            await self._lock_wait.wait(task)
        self.owner = task

    def release_sock(self, task: Task) -> None:
        """Let go of the socket; what came meanwhile is processed in this task's context."""
        assert self.owner is task
        while self._backlog:
            packet, skb = self._backlog.popleft()
            self._backlog_bytes -= skb.truesize if skb is not None else 0
            if skb is not None and skb.pfmemalloc and self.stack.skbs.memalloc_socks:
                with GfpScope(task, PF_MEMALLOC):
                    self._tcp_rcv(packet, skb, task)
            else:
                self._tcp_rcv(packet, skb, task)
        self.owner = None
        self._lock_wait.wake_one()

    # -- receiving ------------------------------------------------------------------------------------------------

    def take(self, packet: Packet, skb: Skb | None) -> None:
        """Take a packet that was found to be ours (tcp_v4_rcv): filter, then process or queue it."""
        stack = self.stack
        if (
            skb is not None
            and skb.pfmemalloc
            and not self.memalloc
            and not self.loopback
            and stack.fixes.pfmemalloc_drop
        ):
            stack.netstat.add("PFMemallocDrop")
            stack.skbs.kfree_skb(skb)
            return
        if self.listening and packet.segment is not None and packet.segment.flags & SYN:
            self.listening = False
            if skb is not None:
                stack.skbs.kfree_skb(skb)
            self.accept_syn(packet.segment)
            return
        if self.owner is not None:
            self._add_backlog(packet, skb)
            return
        self._tcp_rcv(packet, skb, stack.softirq)

    def _add_backlog(self, packet: Packet, skb: Skb | None) -> None:
        size = skb.truesize if skb is not None else 0
        if self._backlog_bytes + size > 2 * self.rcvbuf + self.sndbuf // 2 + SK_BACKLOG_EXTRA:
            self.stack.netstat.add("TCPBacklogDrop")
            if skb is not None:
                self.stack.skbs.kfree_skb(skb)
            return
        self._backlog.append((packet, skb))
        self._backlog_bytes += size

    def _tcp_rcv(self, packet: Packet, skb: Skb | None, context: Task) -> None:
        """Give a segment to the connection, its data only if there is room for it (tcp_rcv_established)."""
        segment = packet.segment
        assert segment is not None
        core = self.core
        now_ns = self.world.now_ns
        held = False
        if segment.size_bytes and skb is not None:
            held = self._try_rmem_schedule(skb)
            if held:
                core.set_receive_space(self._tcp_space())
                receipt = core.receive(segment, now_ns)
                if receipt.readable_bytes or core.out_of_order:
                    self.received_skbs.append((segment.seq + segment.size_bytes, skb))
                else:
                    self._uncharge_receive(skb)
            else:
                self.stack.netstat.add("TCPRcvQDrop")
                self.stack.skbs.kfree_skb(skb)
                receipt = core.receive_ack_only(segment, now_ns)
        else:
            receipt = core.receive(segment, now_ns)
            if skb is not None:
                self.stack.skbs.kfree_skb(skb)
        if receipt.acked_bytes:
            self._free_acked()
            self._new_space()
        self.readable_bytes += receipt.readable_bytes
        if receipt.fin:
            self.eof = True
        self.tcp_push_pending(context)
        if receipt.closed:
            self.destroy()
        elif receipt.established and self.state_change is not None:
            self.state_change()
        if receipt.readable_bytes or receipt.fin:
            self._sk_data_ready()

    def _sk_data_ready(self) -> None:
        if self.data_ready is not None:
            self.data_ready()
        self.readable_wait.wake_all()

    def _try_rmem_schedule(self, skb: Skb) -> bool:
        """Charge a packet to the receive buffer (tcp_try_rmem_schedule); an empty queue always takes one."""
        stack = self.stack
        size = skb.truesize
        exempt = self.memalloc and stack.fixes.rmem_exempt and skb.pfmemalloc
        if not self.received_skbs or exempt:
            stack.forced_mem_schedule(self, size)
        elif self.rmem_alloc > self.rcvbuf or not stack.mem_schedule(self, size, receive=True):
            return False
        self.rmem_alloc += size
        self.forward_alloc -= size
        return True

    def _uncharge_receive(self, skb: Skb | None) -> None:
        if skb is None:
            return
        self.rmem_alloc -= skb.truesize
        assert self.rmem_alloc >= 0
        self.stack.mem_uncharge(self, skb.truesize)
        self.stack.skbs.kfree_skb(skb)

    def _tcp_space(self) -> int:
        """Free receive space as the window sees it: half of the buffer is overhead (tcp_win_from_space)."""
        return max(0, self.rcvbuf - self.rmem_alloc) // 2

    def consume(self, size_bytes: int, context: Task) -> list[Content]:
        """Take readable content and free the packets it came in; may open the window (tcp_cleanup_rbuf)."""
        assert size_bytes <= self.readable_bytes
        content = self.incoming.read(size_bytes)
        self.readable_bytes -= size_bytes
        read_seq = self.core.rcv_nxt - self.readable_bytes - (1 if self.eof else 0)
        received = self.received_skbs
        while received and received[0][0] <= read_seq:
            self._uncharge_receive(received.popleft()[1])
        if self.core.state is not TcpState.CLOSED:
            self._rcv_space_adjust(size_bytes)
            self.core.set_receive_space(self._tcp_space(), full_bytes=self.rcvbuf // 2)
            self.core.cleanup_rbuf(size_bytes, drained=not self.readable_bytes)
            if self.core.ack_due is AckDue.NOW:
                self.tcp_push_pending(context)
        return content

    def _rcv_space_adjust(self, copied_bytes: int) -> None:
        """Grow the receive buffer with what the application reads in a round trip (tcp_rcv_space_adjust)."""
        self._rcv_copied_bytes += copied_bytes
        now_ns = self.world.now_ns
        if now_ns - self._rcv_since_ns < max(self.core.info().rtt_ns, NS_PER_MS):
            return
        copied, self._rcv_copied_bytes = self._rcv_copied_bytes, 0
        self._rcv_since_ns = now_ns
        if copied <= self._rcv_space_bytes:
            return
        mss = self.config.mss_bytes
        window = 2 * copied + 16 * mss
        window += 2 * (window * (copied - self._rcv_space_bytes) // self._rcv_space_bytes)
        self._rcv_space_bytes = copied
        if not self._rcvbuf_locked:
            # half of the buffer is window, and a segment's overhead comes on top
            wanted = window // mss * 2 * (mss + MAX_TCP_HEADER + SKB_OVERHEAD)
            self.rcvbuf = max(self.rcvbuf, min(wanted, self.stack.tcp_rmem[2]))

    async def recvmsg(self, task: Task, size_bytes: int, *, wait_all: bool) -> list[Content]:
        """Read, sleeping until there is something (or all of it); empty at the end of the stream."""
        got: list[Content] = []
        need = size_bytes
        costs = self.stack.costs
        task.charge_ns += costs.recvmsg
        await self.lock_sock(task)
        while need:
            take = min(need, self.readable_bytes)
            if take:
                got += self.consume(take, task)
                task.charge_ns += costs.copy_page * take // PAGE_SIZE
                need -= take
                if not wait_all:
                    break
                continue
            if self.eof or self.core.state is TcpState.CLOSED:
                break
            self.release_sock(task)
            await self.sk_wait_data(task)
            await self.lock_sock(task)
        self.release_sock(task)
        return got

    async def sk_wait_data(self, task: Task) -> None:
        """Sleep until there is something to read."""
        if not self.readable_bytes and not self.eof:
            await self.readable_wait.wait(task)

    # -- sending --------------------------------------------------------------------------------------------------

    async def sendmsg(self, task: Task, content: Sequence[Content], *, more: bool, nr_calls: int = 1) -> int:
        """Copy content into packets and send them; 0, or a negative errno (tcp_sendmsg_locked).

        ``more`` is MSG_MORE. ``nr_calls`` is how many system calls the caller makes of it, for their cost.
        """
        task.charge_ns += self.stack.costs.sendmsg * nr_calls
        await self.lock_sock(task)
        error = 0
        for piece in content:
            error = await self.tcp_sendmsg_locked(task, piece, more=more or piece is not content[-1])
            if error:
                break
        if not error:
            self._push(task, more=more)
        self.release_sock(task)
        if task.cpus is not None:
            await task.cpus.cond_resched(task)
        return error

    async def tcp_sendmsg_locked(self, task: Task, piece: Content, *, more: bool) -> int:
        """Copy one piece of content, fragment by fragment."""
        left = content_size(piece)
        self.outgoing.write(piece)
        while left:
            if not self.established:
                return -Errno.EPIPE
            skb = self._unsent_tail if self._tail_has_room() else None
            room = self.core.size_goal_bytes
            if skb is None:
                if not self._stream_memory_free():
                    await self.sk_stream_wait_memory(task, left, more=more)
                    continue
                skb = await self._new_tx_skb(task)
                if skb is None:
                    await self._no_memory(task, left, more=more)
                    continue
            else:
                room -= self._tail_bytes
            frag = await self._frag_refill(task)
            if frag is None:
                if not self._tail_bytes and skb is self._unsent_tail:
                    self._drop_empty_tail()
                await self._no_memory(task, left, more=more)
                continue
            copy = min(left, room, frag.size_bytes - frag.offset)
            if not self.stack.mem_schedule(self, copy, receive=False):
                await self.sk_stream_wait_memory(task, left, more=more)
                continue
            self._append(task, skb, frag, copy)
            left -= copy
            if not left or self._tail_bytes >= room or len(skb.frags) >= MAX_SKB_FRAGS:
                self._push(task, more=more or bool(left))
        return 0

    def _append(self, task: Task, skb: Skb, frag: PageFrag, copy: int) -> None:
        """Put copied bytes at the end of the tail packet."""
        new = not self._tail_bytes
        if not skb.frags or skb.frags[-1] is not frag:
            frag.get()
            skb.frags.append(frag)
        frag.offset += copy
        self._grow(skb, copy, new=new)
        task.charge_ns += self.stack.costs.copy_page * copy // PAGE_SIZE

    def _grow(self, skb: Skb, size: int, *, new: bool) -> None:
        skb.truesize += size
        self.wmem_queued += size
        self.forward_alloc -= size
        self.core.append(size, self.world.now_ns, new_skb=new)
        skb.end_seq = self.core.write_seq
        self._tail_bytes += size

    def _tail_has_room(self) -> bool:
        skb = self._unsent_tail
        return (
            skb is not None
            and (self.core.tail_extendable or not self._tail_bytes)
            and self._tail_bytes < self.core.size_goal_bytes
            and len(skb.frags) < MAX_SKB_FRAGS
        )

    def _stream_memory_free(self) -> bool:
        return self.wmem_queued < self.sndbuf

    async def _new_tx_skb(self, task: Task) -> Skb | None:
        """Begin a new packet at the end of the write queue (tcp_stream_alloc_skb)."""
        skb = await self.stack.skbs.alloc_tx(task, self.allocation)
        if skb is None:
            return None
        self._enqueue(skb)
        return skb

    def _enqueue(self, skb: Skb) -> None:
        self.stack.forced_mem_schedule(self, skb.truesize)
        self.wmem_queued += skb.truesize
        self.forward_alloc -= skb.truesize
        skb.end_seq = self.core.write_seq
        self._write_queue.append(skb)
        self._unsent_tail = skb
        self._tail_bytes = 0

    def _drop_empty_tail(self) -> None:
        """Take back a packet that got no data (tcp_remove_empty_skb)."""
        skb = self._write_queue.pop()
        self._unsent_tail = None
        self._release_tx(skb)

    async def _frag_refill(self, task: Task) -> PageFrag | None:
        """Have a fragment with room, from the socket's own block (sk_page_frag_refill)."""
        frag = self._frag
        if frag is not None:
            if frag.refs == 1:
                frag.offset = 0
            if frag.offset < frag.size_bytes:
                return frag
            frag.put()
            self._frag = None
        self._frag = await self.stack.skbs.skb_page_frag_refill(task, self.allocation, self.owner_ledger)
        return self._frag

    async def _no_memory(self, task: Task, left: int, *, more: bool) -> None:
        """No page for a packet: the socket shrinks its buffer and waits a while (sk_stream_wait_memory)."""
        self.memory.under_pressure = True
        self.moderate_sndbuf()
        await self.sk_stream_wait_memory(task, left, more=more)

    def moderate_sndbuf(self) -> None:
        """Shrink the send buffer to half of what is queued (sk_stream_moderate_sndbuf)."""
        if not self._sndbuf_locked:
            self.sndbuf = max(min(self.sndbuf, self.wmem_queued // 2), SOCK_MIN_SNDBUF)

    async def sk_stream_wait_memory(self, task: Task, _left: int, *, more: bool) -> None:
        """Sleep without the lock: for space if the buffer is full, else for a moment, since pages were short."""
        self._push(task, more=more)
        timeout_ns = None
        if self._stream_memory_free():
            timeout_ns = (self.stack.random.below(VM_WAIT_JIFFIES - 1) + 2) * JIFFY_NS
        self.release_sock(task)
        await self.send_space_wait.wait(task, timeout_ns=timeout_ns, interruptible=True)
        await self.lock_sock(task)

    def try_sendpages(
        self,
        task: Task,
        header: bytes,
        content: Content | None,
        pfns: PfnArray | None,
        *,
        page_offset: int = 0,
        more: bool,
    ) -> int:
        """Queue a header by copy and pages by reference without sleeping (do_tcp_sendpages); bytes of content taken.

        The content begins ``page_offset`` bytes into the first of ``pfns``. -EAGAIN if there was no space or memory for
        even the header, -EPIPE if the connection is not there. Pages are pinned until acknowledged.
        """
        if not self.established:
            return -Errno.EPIPE
        if self.owner is not None:
            return -Errno.EAGAIN
        if header:
            task.charge_ns += self.stack.costs.sendmsg
            if not self._try_copy(task, header):
                return -Errno.EAGAIN
        sent = 0
        if content is not None:
            assert pfns is not None
            total = content_size(content)
            sent = self._try_attach(task, pfns, page_offset, total)
            if sent:
                self.outgoing.write(content if sent == total else _part(content, 0, sent))
        self._push(task, more=more)
        return sent

    def _try_attach(self, task: Task, pfns: PfnArray, page_offset: int, size_bytes: int) -> int:
        """Put pages into packets as far as there is room and memory; return the bytes taken."""
        sent = 0
        while sent < size_bytes:
            skb = self._unsent_tail if self._tail_has_room() else self._try_new_tx(task)
            if skb is None:
                break
            first, offset = divmod(page_offset + sent, PAGE_SIZE)
            pinned = skb.pinned
            # the rest of a page whose first part ends this packet is no fragment of its own (skb_can_coalesce)
            joins = pinned is not None and bool(pinned[-1] == pfns[first])
            room = MAX_SKB_FRAGS - len(skb.frags) - (0 if pinned is None else len(pinned)) + joins
            size = min(size_bytes - sent, self.core.size_goal_bytes - self._tail_bytes, room * PAGE_SIZE - offset)
            if size <= 0:
                self._unsent_tail = None
                continue
            if not self.stack.mem_schedule(self, size, receive=False):
                if not self._tail_bytes:
                    self._drop_empty_tail()
                break
            last = (offset + size - 1) // PAGE_SIZE + first
            self._attach(skb, pfns[first + joins : last + 1], size)
            task.charge_ns += self.stack.costs.sendmsg * (last + 1 - first)
            sent += size
        return sent

    def _attach(self, skb: Skb, pfns: PfnArray, size: int) -> None:
        """Let a packet refer to pages; it holds them as often as it has them in ``pinned``."""
        new = not self._tail_bytes
        if len(pfns):
            self.stack.skbs.frames.pins[pfns] += 1
            skb.pinned = pfns if skb.pinned is None else np.concatenate([skb.pinned, pfns])
        self._grow(skb, size, new=new)

    def _try_new_tx(self, task: Task) -> Skb | None:
        if not self._stream_memory_free():
            return None
        skb = self.stack.skbs.try_alloc_tx(task, self.allocation)
        if skb is not None:
            self._enqueue(skb)
        return skb

    def _try_copy(self, task: Task, header: bytes) -> bool:
        """Queue a small header in the socket's fragment without sleeping."""
        skb = self._unsent_tail if self._tail_has_room() else self._try_new_tx(task)
        if skb is None:
            return False
        frag = self._frag
        if frag is not None and frag.refs == 1:
            frag.offset = 0
        if frag is None or frag.offset + len(header) > frag.size_bytes:
            fresh = self.stack.skbs.try_page_frag(
                task, self.allocation & ~GFP_DIRECT_RECLAIM, self.owner_ledger, nomemalloc=False
            )
            if fresh is None:
                if not self._tail_bytes:
                    self._drop_empty_tail()
                return False
            if frag is not None:
                frag.put()
            self._frag = frag = fresh
        self.stack.forced_mem_schedule(self, len(header))
        self.outgoing.write(header)
        self._append(task, skb, frag, len(header))
        return True

    # -- the wire -------------------------------------------------------------------------------------------------

    def _push(self, context: Task, *, more: bool) -> None:
        if not more:
            self.core.push()
        self.tcp_push_pending(context, more=more)

    def tcp_push_pending(self, context: Task, *, more: bool = False) -> None:
        """Send what the connection wants to send now (tcp_write_xmit), then an acknowledgement if one is due."""
        core = self.core
        world = self.world
        now_ns = world.now_ns
        stack = self.stack
        mss = self.config.mss_bytes
        while (segment := core.next_segment(now_ns, more=more)) is not None:
            skb = self._skb_of(segment) if segment.size_bytes else None
            if segment.size_bytes and not self._may_transmit(segment, skb, context):
                core.send_failed(segment, now_ns, congestion=False)
                break
            result = stack.xmit(self.peer, segment, mss, skb, loopback=self.loopback)
            if result:
                core.send_failed(segment, now_ns, congestion=result > 0)
                break
            self._charge_tx(context)
            core.sent(segment, now_ns)
        if core.state is not TcpState.CLOSED and core.ack_due is AckDue.NOW:
            self._send_ack(context)
        self._arm_timer()

    def _charge_tx(self, context: Task) -> None:
        if context is self.stack.softirq:
            if context.cpus is not None:
                context.cpus.steal(self.stack.costs.tx_skb)
        else:
            context.charge_ns += self.stack.costs.tx_skb

    def _skb_of(self, segment: Segment) -> Skb | None:
        end = segment.seq + segment.size_bytes
        for skb in self._write_queue:
            if skb.end_seq >= end:
                return skb
        return None

    def _may_transmit(self, segment: Segment, skb: Skb | None, context: Task) -> bool:
        """Whether there is memory for the clone that travels: only a segment that splits a packet needs any."""
        if skb is None:
            return False
        retransmission = segment.seq < self.core.snd_nxt
        if segment.seq + segment.size_bytes == skb.end_seq:
            return True
        gfp = GFP_ATOMIC | (0 if retransmission else self.allocation & GFP_MEMALLOC)
        # tso_fragment: the rest becomes a packet of its own
        extra = self.stack.skbs.try_alloc_tx(context, gfp | GFP_NOWARN)
        if extra is None:
            if retransmission:
                self.stack.netstat.add("TCPRetransFail")
            return False
        extra.end_seq = segment.seq + segment.size_bytes
        for frag in skb.frags:
            frag.get()
        extra.frags = list(skb.frags)
        self.stack.forced_mem_schedule(self, extra.truesize)
        self.wmem_queued += extra.truesize
        self.forward_alloc -= extra.truesize
        self._write_queue.insert(self._write_queue.index(skb), extra)
        return True

    def _send_ack(self, context: Task) -> None:
        """Send a pure acknowledgement, which needs a packet of its own (__tcp_send_ack)."""
        core = self.core
        now_ns = self.world.now_ns
        segment = core.ack_segment(now_ns)
        gfp = GFP_ATOMIC | GFP_NOWARN | (self.allocation & GFP_MEMALLOC)
        skb = self.stack.skbs.try_alloc_tx(context, gfp, fclone=False)
        if skb is None:
            core.ack_failed(now_ns)
            return
        core.sent(segment, now_ns)
        self.stack.xmit(self.peer, segment, self.config.mss_bytes, skb, loopback=self.loopback)
        self._charge_tx(context)
        self.stack.skbs.kfree_skb(skb)

    def _free_acked(self, *, everything: bool = False) -> None:
        """Free the packets below snd_una (tcp_clean_rtx_queue)."""
        una = self.core.snd_una
        queue = self._write_queue
        while queue and (everything or (queue[0].end_seq <= una and queue[0] is not self._filling)):
            skb = queue.popleft()
            if skb is self._unsent_tail:
                self._unsent_tail = None
                self._tail_bytes = 0
            self._release_tx(skb)

    @property
    def _filling(self) -> Skb | None:
        """The tail packet while it has no data yet."""
        return self._unsent_tail if not self._tail_bytes else None

    def _release_tx(self, skb: Skb) -> None:
        self.wmem_queued -= skb.truesize
        assert self.wmem_queued >= 0
        self.stack.mem_uncharge(self, skb.truesize)
        self.stack.skbs.kfree_skb(skb)

    def _new_space(self) -> None:
        """Acknowledged data made room: grow the buffer, wake the sender (tcp_new_space, sk_stream_write_space)."""
        if not self._sndbuf_locked and not self.memory.under_pressure:
            info = self.core.info()
            per_mss = _round_up_pow2(self.config.mss_bytes + 256 + 320) + 256
            demand = 2 * max(10, info.snd_cwnd, 4) * per_mss
            if demand > self.sndbuf:
                self.sndbuf = min(demand, self.stack.tcp_wmem[2])
        free = self.sndbuf - self.wmem_queued
        if free >= self.wmem_queued >> 1:
            self.send_space_wait.wake_all()
            if self.write_space is not None:
                self.write_space()

    # -- time -----------------------------------------------------------------------------------------------------

    def _arm_timer(self) -> None:
        deadline_ns = self.core.timer_ns()
        timer = self._timer
        if deadline_ns is None:
            return
        if timer is not None and self.world.is_pending(timer):
            if timer[0] <= deadline_ns:
                return
            self.world.cancel(timer)
        self._timer = self.world.call_at(
            max(deadline_ns, self.world.now_ns), self._timer_fired, kind=TimerKind.RETRY, site=f"{self.name}: TCP timer"
        )

    def _timer_fired(self) -> None:
        self._timer = None
        deadline_ns = self.core.timer_ns()
        if deadline_ns is None:
            return
        if deadline_ns > self.world.now_ns:
            self._arm_timer()
            return
        if self.owner is not None:
            # the timer of an owned socket is deferred to its release; look again soon
            self._timer = self.world.call_after(
                JIFFY_NS * 10, self._timer_fired, kind=TimerKind.RETRY, site=f"{self.name}: TCP timer"
            )
            return
        self.core.handle_timer(self.world.now_ns)
        if self.core.state is TcpState.CLOSED:
            self.destroy()
            return
        self.tcp_push_pending(self.stack.softirq)

    @property
    def timer_kind(self) -> TcpTimerKind | None:
        """What the connection's timer is for."""
        return self.core.timer_kind

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.core.digest(), self.wmem_queued, self.rmem_alloc, len(self._backlog), self.readable_bytes)


class UdpSock:
    """A UDP socket that receives."""

    def __init__(self, stack: NetStack, name: str, *, rcvbuf: int) -> None:
        self.stack = stack
        self.name = name
        self.memory = stack.udp_memory
        self.memory.nr_sockets += 1
        self.rcvbuf = rcvbuf
        self.rmem_alloc = 0
        self.forward_alloc = 0
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
        stack = self.stack
        if skb.pfmemalloc and not self.memalloc and stack.fixes.pfmemalloc_drop:
            self._drop(skb, "PFMemallocDrop")
        elif self.rmem_alloc > self.rcvbuf:
            self._drop(skb, "UdpRcvbufErrors")
        elif not stack.mem_schedule(self, skb.truesize, receive=True):
            self._drop(skb, "UdpMemErrors")
        else:
            self.rmem_alloc += skb.truesize
            self.forward_alloc -= skb.truesize
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
        self.rmem_alloc -= skb.truesize
        self.stack.mem_uncharge(self, skb.truesize)
        self.stack.skbs.kfree_skb(skb)
        return packet

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self.queue), self.rmem_alloc)


class SocketStream(trio.abc.Stream):
    """A socket as a trio stream: code written for trio runs unchanged over the emulated wire."""

    def __init__(self, sock: TcpSock) -> None:
        self.sock = sock

    def _task(self) -> Task:
        task = self.sock.world.current
        assert task is not None
        return task

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes. Raises trio.BrokenResourceError if the connection is gone."""
        if await self.sock.sendmsg(self._task(), [bytes(data)], more=False):
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the send buffer."""
        while self.sock.wmem_queued >= self.sock.sndbuf:
            await self.sock.send_space_wait.wait(self._task(), interruptible=True)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes; empty at the end of the stream."""
        got = await self.sock.recvmsg(self._task(), max_bytes or 65536, wait_all=False)
        return b"".join(c if isinstance(c, bytes) else c.to_bytes() for c in got)

    async def aclose(self) -> None:
        """Close the connection in order."""
        self.sock.close()


def _part(content: Content, start: int, stop: int) -> Content:
    return content[start:stop] if isinstance(content, bytes) else content.part(start, stop)


def _round_up_pow2(value: int) -> int:
    return 1 << (value - 1).bit_length()


assert GFP_COMP
