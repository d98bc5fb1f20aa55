"""TCP sockets: the way of a packet to and from a connection.

Mirrors net/ipv4/tcp.c (``tcp_sendmsg_locked``, ``tcp_recvmsg``), net/ipv4/tcp_ipv4.c (``tcp_v4_rcv``),
net/core/stream.c and net/core/filter.c (``sk_filter_trim_cap``) of 6.1 as far as memory goes. The protocol itself is
:mod:`netvm.net.tcp`, which knows no memory; this shell finds the memory for what it wants to send and refuses what
there is none for. Its parts are its own rooms: charges and limits (:mod:`netvm.net.sk_memory`), packets to be sent
(:mod:`netvm.net.write_queue`) and to be read (:mod:`netvm.net.receive_queue`), lock and backlog
(:mod:`netvm.net.sk_lock`).

*Priority*: a SOCK_MEMALLOC socket's masks carry ``__GFP_MEMALLOC`` and it may exceed the receive limits; a packet
that arrived in reserve memory is dropped at any other socket. *Locks*: a sender that sleeps for buffer space lets go
of the lock, one that sleeps in the page allocator does not.

# MODEL: small queues (TSQ) do not bind.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from netvm.errors import Errno
from netvm.mm.frames import PfnArray
from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_MEMALLOC, GFP_NOWARN
from netvm.net.receive_queue import ReceiveQueue
from netvm.net.sk_lock import SocketLock
from netvm.net.sk_memory import SockMemory
from netvm.net.skb import Skb
from netvm.net.stack import NetStack
from netvm.net.tcp.config import ETHERNET, LOOPBACK, TcpConfig
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.segment import SYN, Segment
from netvm.net.tcp.state import TcpState
from netvm.net.tcp_timer import TcpTimer
from netvm.net.wire import Content, Endpoint, Packet, StreamLog, content_part, content_size
from netvm.net.write_queue import WriteQueue
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.units import PAGE_SIZE

__all__ = ["TcpSock"]

_DATA_FLOWS: Final = (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)


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
        holder: str = "",
    ) -> None:
        self.stack = stack
        self.world = stack.world
        self.name = name
        self.holder = holder or name
        """Under whose name the ledger has the pages that it sends from."""
        self.loopback = loopback
        self.kernel = kernel
        self.allocation = GFP_KERNEL
        self.memalloc = False
        self.sndtimeo_ns: int | None = None
        """sk_sndtimeo: how long a sender waits for memory or room; None: for ever."""
        self.mem = SockMemory(
            stack.tcp_memory,
            sndbuf=stack.tcp_wmem[1] if sndbuf is None else sndbuf,
            sndbuf_locked=sndbuf is not None,
            rcvbuf=stack.tcp_rmem[1] if rcvbuf is None else rcvbuf,
        )
        self.config = config or (LOOPBACK if loopback else ETHERNET)
        self.core = TcpConnection(self.config, iss=0, counters=stack.tcp_counters)
        self.peer: Endpoint
        self.outgoing: StreamLog
        self.incoming: StreamLog
        self.readable_bytes = 0
        """In order and not yet read by the application."""
        self.write_queue = WriteQueue(self)
        self.receive_queue = ReceiveQueue(self.mem, stack.skbs, rmem_max=stack.tcp_rmem[2], locked=rcvbuf is not None)
        self.eof = self.orphan = False
        self.data_ready: Callable[[], None] | None = None
        """Called in softirq when there is something to read (sk_data_ready)."""
        self.write_space: Callable[[], None] | None = None
        self.state_change: Callable[[], None] | None = None
        self.listening = False
        """A SYN makes it the accepted end of a connection."""
        self.lock = SocketLock(stack, name, self.mem, self._tcp_rcv)
        self._timer = TcpTimer(
            stack.world,
            name,
            deadline_ns=lambda: self.core.timer_ns(),  # noqa: PLW0108  a listener's core is another later
            expire=self._timer_expired,
            is_owned=lambda: self.lock.owner is not None,
        )
        self.send_memory = Resource("reply", f"{name}: sk_stream_wait_memory", self._reply_providers)
        self.short_of = ""
        """What was missing when a sender last had to wait: room, a page, or leave by tcp_mem."""
        self.send_space_wait = WaitQueue(stack.world, self.send_memory)
        self.data = Resource("reply", f"{name}: data to read", self._reply_providers)
        self.readable_wait = WaitQueue(stack.world, self.data)
        self.peer_provider: Callable[[], Sequence[Task | Provider]] | None = None
        """Who makes the other end answer, if it is on this host."""
        stack.sockets.append(self)

    def _reply_providers(self) -> list[Task | Provider]:
        return [] if self.peer_provider is None else list(self.peer_provider())

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
        self.receive_queue.open(self.core, self.world.now_ns)
        self.core.connect(self.world.now_ns)
        self.tcp_push_pending(self.stack.softirq)

    def accept_syn(self, syn: Segment) -> None:
        """Answer a SYN that a listener received."""
        self.core = TcpConnection.from_syn(self.config, syn, self.world.now_ns, counters=self.stack.tcp_counters)
        self.receive_queue.open(self.core, self.world.now_ns)
        self.tcp_push_pending(self.stack.softirq)

    @property
    def established(self) -> bool:
        """Whether data can be sent."""
        return self.core.state in _DATA_FLOWS

    def close(self) -> None:
        """Send a FIN after what is queued."""
        if self.core.state is not TcpState.CLOSED:
            self.core.close()
            self.tcp_push_pending(self.stack.softirq)

    def tcp_close(self) -> None:
        """Close for good: unread data, now or later, is answered with a reset."""
        self.orphan = True
        (self.abort if self.readable_bytes else self.close)()

    def abort(self) -> None:
        """Drop the connection and all it holds (tcp_disconnect)."""
        if self.core.state is not TcpState.CLOSED:
            reset = self.core.abort()
            if reset is not None:
                self.stack.xmit(self.peer, reset, self.config.mss_bytes, None, loopback=self.loopback)
        self.destroy()

    def destroy(self) -> None:
        """Free every packet and charge (inet_csk_destroy_sock)."""
        self.write_queue.purge()
        self.receive_queue.purge()
        self.lock.purge()
        self._timer.cancel()
        self.mem.release()
        self.eof = True
        self.send_space_wait.wake_all()
        self.readable_wait.wake_all()
        if self.state_change is not None:
            self.state_change()

    @property
    def owner(self) -> Task | None:
        """Who holds the socket lock."""
        return self.lock.owner

    async def lock_sock(self, task: Task) -> None:
        """Own the socket: packets for it wait in the backlog."""
        await self.lock.lock_sock(task)

    def release_sock(self, task: Task) -> None:
        """Let go of the socket; what came meanwhile is processed in this task's context."""
        self.lock.release_sock(task)

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
        if self.lock.owner is not None:
            self.lock.add_backlog(packet, skb)
            return
        self._tcp_rcv(packet, skb, stack.softirq)

    def _tcp_rcv(self, packet: Packet, skb: Skb | None, context: Task) -> None:
        """Give a segment to the connection, its data only if there is room for it (tcp_rcv_established)."""
        segment = packet.segment
        assert segment is not None
        if self.orphan and segment.size_bytes:
            if skb is not None:
                self.stack.skbs.kfree_skb(skb)
            self.abort()
            return
        core = self.core
        now_ns = self.world.now_ns
        if segment.size_bytes and skb is not None:
            exempt = self.memalloc and self.stack.fixes.rmem_exempt and skb.pfmemalloc
            receipt = self.receive_queue.take(core, segment, skb, now_ns, exempt=exempt)
        else:
            receipt = core.receive(segment, now_ns)
            if skb is not None:
                self.stack.skbs.kfree_skb(skb)
        if receipt.acked_bytes:
            self.write_queue.free_acked()
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

    def consume(self, size_bytes: int, context: Task) -> list[Content]:
        """Take readable content and free the packets it came in; may open the window (tcp_cleanup_rbuf)."""
        assert size_bytes <= self.readable_bytes
        content = self.incoming.read(size_bytes)
        self.readable_bytes -= size_bytes
        read_seq = self.core.rcv_nxt - self.readable_bytes - (1 if self.eof else 0)
        self.receive_queue.free_read(read_seq)
        if self.core.state is not TcpState.CLOSED:
            self.receive_queue.was_read(self.core, size_bytes, self.world.now_ns)
            self.core.cleanup_rbuf(size_bytes, drained=not self.readable_bytes)
            if self.core.owes_ack:
                self.tcp_push_pending(context)
        return content

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

        ``more`` is MSG_MORE. ``nr_calls`` is how many calls the caller makes of it: each has its cost and takes the
        lock anew, so that what has come is processed and another task may run between two.
        """
        task.charge_ns += self.stack.costs.sendmsg * nr_calls
        await self.lock_sock(task)
        error = 0
        for piece in content:
            follows = more or piece is not content[-1]
            taken = await self.write_queue.tcp_sendmsg_locked(
                task, piece, 0, more=follows, timeo_ns=self.sndtimeo_ns, apart=nr_calls > 1
            )
            if taken < content_size(piece):
                error = -Errno.EAGAIN if self.established else -Errno.EPIPE
                break
        self.release_sock(task)
        if task.cpus is not None:
            await task.cpus.cond_resched(task)
        return error

    async def sk_stream_wait_memory(self, task: Task, timeo_ns: int | None = None) -> int:
        """Sleep without the lock: for space if the buffer is full, else for a moment, since memory was short.

        Return how long it was; without space ``timeo_ns`` at most.
        """
        vm_wait = self.mem.stream_memory_free()
        limit_ns = self.stack.vm_wait_ns() if vm_wait else timeo_ns
        limit_ns = None if limit_ns is None else self.world.wheel_ns(limit_ns)
        # whose time is bounded gets on when it is over
        kind = TimerKind.RETRY if timeo_ns is None else TimerKind.PROGRESS
        self.release_sock(task)
        begun_ns = self.world.now_ns
        if vm_wait or not self.mem.stream_memory_free():  # what had come meanwhile may have made room
            wait = self.send_space_wait.wait(task, timeout_ns=limit_ns, kind=kind, interruptible=True)
            await (wait if self.stack.tracer is None else self.stack.tracer.wait_memory(task, self, wait))
        slept_ns = self.world.now_ns - begun_ns
        await self.lock_sock(task)
        return slept_ns

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
        if self.lock.owner is not None:
            return -Errno.EAGAIN
        if header:
            task.charge_ns += self.stack.costs.sendmsg
            if not self.write_queue.try_copy(task, len(header)):
                return -Errno.EAGAIN
            self.outgoing.write(header)
        sent = 0
        if content is not None:
            assert pfns is not None
            total = content_size(content)
            sent = self.write_queue.try_attach(task, pfns, page_offset, total)
            if sent:
                self.outgoing.write(content if sent == total else content_part(content, 0, sent))
        self.push(task, more=more)
        return sent

    # -- the wire -------------------------------------------------------------------------------------------------

    def push(self, context: Task, *, more: bool) -> None:
        """Mark the end of what was written, unless ``more`` follows, and send what may go (tcp_push)."""
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
            skb = self.write_queue.skb_of(segment) if segment.size_bytes else None
            if segment.size_bytes and not self.write_queue.can_transmit(segment, skb, context):
                core.send_failed(segment, now_ns, congestion=False)
                break
            result = stack.xmit(self.peer, segment, mss, skb, loopback=self.loopback)
            if result:
                core.send_failed(segment, now_ns, congestion=result > 0)
                break
            stack.pages.charge(context, stack.costs.tx_skb)
            core.sent(segment, now_ns)
            stack.local_bh_enable(context)
        if core.owes_ack:
            self._send_ack(context)
        self._timer.follow(core.timer_ns())

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
        self.stack.pages.charge(context, self.stack.costs.tx_skb)
        self.stack.skbs.kfree_skb(skb)
        self.stack.local_bh_enable(context)

    def _new_space(self) -> None:
        """Acknowledged data made room: grow the buffer, wake the sender (tcp_new_space, sk_stream_write_space)."""
        mem = self.mem
        if not mem.sndbuf_locked and not mem.proto.under_pressure:
            mem.expand_sndbuf(self.core.cwnd, self.config.mss_bytes, self.stack.tcp_wmem[2])
        free = mem.sndbuf - mem.wmem_queued
        if free >= mem.wmem_queued >> 1:
            self.send_space_wait.wake_all()
            if self.write_space is not None:
                self.write_space()

    # -- time -----------------------------------------------------------------------------------------------------

    def _timer_expired(self) -> None:
        self.core.handle_timer(self.world.now_ns)
        if self.core.state is TcpState.CLOSED:
            self.destroy()
            return
        self.tcp_push_pending(self.stack.softirq)

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.core.digest(), self.mem.wmem_queued, self.mem.rmem_alloc, self.lock.digest(), self.readable_bytes)
