"""The write queue of a TCP socket: packets that wait to be sent and to be acknowledged.

Mirrors ``sk_write_queue`` and ``tcp_rtx_queue`` with what fills and empties them: ``tcp_stream_alloc_skb``,
``sk_page_frag_refill``, ``do_tcp_sendpages``, ``tso_fragment`` and ``tcp_clean_rtx_queue`` (net/ipv4/tcp.c,
tcp_output.c, tcp_input.c, net/core/sock.c) of 6.1.

Data goes to the end of the last packet while that has room; a packet takes 17 fragments at most. Copied data is cut
from a block of pages (order 3 where it can be had, else a page), which is used again from its start once no packet
refers to it: the socket's own (``sk_frag``), or the sending task's (``task_frag``) for a socket whose mask may sleep,
unless it is a kernel socket and the kernel knows better. Data sent by reference pins its pages until it is
acknowledged. A packet that got no data, because the page for it could not be had, is taken back.
"""

from collections import deque
from typing import Protocol

import numpy as np

from netvm.mm.frames import PfnArray
from netvm.mm.gfp import GFP_ATOMIC, GFP_DIRECT_RECLAIM, GFP_MEMALLOC, GFP_NOWARN
from netvm.net.sk_lock import SocketLock
from netvm.net.sk_memory import SockMemory
from netvm.net.skb import MAX_SKB_FRAGS, PageFrag, Skb
from netvm.net.stack import NetStack, TaskFrag
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.segment import Segment
from netvm.net.wire import Content, StreamLog, content_part, content_size
from netvm.runtime.task import Task
from netvm.units import PAGE_SIZE

__all__ = ["WriteQueue"]


class _Sock(Protocol):
    """The socket whose queue it is."""

    holder: str
    stack: NetStack
    mem: SockMemory
    allocation: int
    core: TcpConnection
    lock: SocketLock
    outgoing: StreamLog
    short_of: str
    kernel: bool

    @property
    def established(self) -> bool:
        """Whether data can be sent."""
        ...

    def push(self, context: Task, *, more: bool) -> None:
        """Send what may go."""
        ...

    async def sk_stream_wait_memory(self, task: Task, timeo_ns: int | None = None) -> int:
        """Sleep without the lock; return how long."""
        ...


class WriteQueue:
    """Packets between a socket's writer and its peer's acknowledgement."""

    __slots__ = ("_own_frag", "_owner", "_skbs", "_sock", "tail", "tail_bytes")

    def __init__(self, sock: _Sock) -> None:
        self._sock = sock
        self._skbs: deque[Skb] = deque()
        self._own_frag = TaskFrag()
        self._owner = sock.stack.pages.ledger.owner(f"skb:{sock.holder}")
        self.tail: Skb | None = None
        """The last packet, while data may still be added to it."""
        self.tail_bytes = 0

    def __len__(self) -> int:
        return len(self._skbs)

    # -- making packets -------------------------------------------------------------------------------------------

    def _tail_has_room(self) -> bool:
        """Whether the last packet takes more data."""
        skb, core = self.tail, self._sock.core
        return (
            skb is not None
            and (core.tail_extendable or not self.tail_bytes)
            and self.tail_bytes < core.size_goal_bytes
            and len(skb.frags) < MAX_SKB_FRAGS
        )

    async def _new_skb(self, task: Task) -> Skb | None:
        """Begin a new packet at the end, sleeping as the socket's mask allows (tcp_stream_alloc_skb)."""
        skb = await self._sock.stack.skbs.alloc_tx(task, self._sock.allocation)
        if skb is not None:
            self._enqueue(skb)
        return skb

    def _try_new_skb(self, task: Task) -> Skb | None:
        if not self._sock.mem.stream_memory_free():
            return None
        skb = self._sock.stack.skbs.try_alloc_tx(task, self._sock.allocation)
        if skb is not None:
            self._enqueue(skb)
        return skb

    def _enqueue(self, skb: Skb) -> None:
        mem = self._sock.mem
        mem.forced_mem_schedule(skb.truesize)
        mem.charge_write(skb.truesize)
        skb.end_seq = self._sock.core.write_seq
        self._skbs.append(skb)
        self.tail = skb
        self.tail_bytes = 0

    def _drop_empty_tail(self) -> None:
        """Take back a packet that got no data, if there is one (tcp_remove_empty_skb)."""
        if self.tail is not None and not self.tail_bytes:
            skb = self._skbs.pop()
            assert skb is self.tail
            self.tail = None
            self._release(skb)

    # -- copied data ----------------------------------------------------------------------------------------------

    def _page_frag(self, task: Task) -> TaskFrag:
        """Return where the block to cut from is kept (sk_page_frag)."""
        sock = self._sock
        if not sock.allocation & GFP_DIRECT_RECLAIM or (sock.kernel and sock.stack.fixes.task_frag_off):
            return self._own_frag
        return sock.stack.task_frag(task)

    async def frag_refill(self, task: Task) -> PageFrag | None:
        """Have a fragment with room (sk_page_frag_refill)."""
        kept = self._page_frag(task)
        frag = kept.frag
        if frag is not None:
            if frag.refs == 1:
                frag.offset = 0
            if frag.offset < frag.size_bytes:
                return frag
            kept.put()
        kept.frag = await self._sock.stack.skbs.skb_page_frag_refill(task, self._sock.allocation, self._owner)
        return kept.frag

    def _append(self, task: Task, skb: Skb, frag: PageFrag, size_bytes: int) -> None:
        """Put copied bytes at the end of the last packet."""
        new = not self.tail_bytes
        if not skb.frags or skb.frags[-1] is not frag:
            frag.get()
            skb.frags.append(frag)
        frag.offset += size_bytes
        self._grow(skb, size_bytes, new=new)
        task.charge_ns += self._sock.stack.costs.copy_page * size_bytes // PAGE_SIZE

    def _grow(self, skb: Skb, size_bytes: int, *, new: bool) -> None:
        core = self._sock.core
        skb.truesize += size_bytes
        self._sock.mem.charge_write(size_bytes)
        core.append(size_bytes, self._sock.stack.world.now_ns, new_skb=new)
        skb.end_seq = core.write_seq
        self.tail_bytes += size_bytes

    async def tcp_sendmsg_locked(
        self, task: Task, piece: Content, start: int, *, more: bool, timeo_ns: int | None, apart: bool = False
    ) -> int:
        """Copy a piece of content from ``start`` on, fragment by fragment, and send it; return the bytes taken.

        Who finds no room or no memory first sends all there is, the partial packet that a cork or Nagle would hold as
        well (TCP_NAGLE_PUSH), and then waits, ``timeo_ns`` in all: None is without end, 0 is MSG_DONTWAIT. ``apart``:
        the piece is made of several calls, which each take the lock anew.
        """
        sock = self._sock
        at, end = start, content_size(piece)
        sock.short_of = ""
        while at < end and sock.established:
            sock.short_of = await self._make_room(task)
            size = 0 if sock.short_of else self._copy(task, piece, at)
            if size:
                at += size
                if not self._tail_has_room():
                    sock.push(task, more=more or at < end)
                if apart and at < end:
                    await sock.lock.take_anew(task)
                continue
            sock.short_of = sock.short_of or "tcp_mem"
            # each of several calls is for a page
            copied = (at - start) % PAGE_SIZE if apart else at - start
            if copied:
                corked = sock.core.set_cork(False)
                sock.push(task, more=False)
                sock.core.set_cork(corked)
            if timeo_ns is None:
                await sock.sk_stream_wait_memory(task)
            elif timeo_ns > 0:
                timeo_ns -= await sock.sk_stream_wait_memory(task, timeo_ns)
            if timeo_ns is not None and timeo_ns <= 0:
                return at - start
        if at > start:
            sock.push(task, more=more)
        return at - start

    async def _make_room(self, task: Task) -> str:
        """Have a packet and a fragment that take more data; return what was missing, if anything."""
        sock = self._sock
        skb = self.tail if self._tail_has_room() else None
        if skb is None:
            if not sock.mem.stream_memory_free():
                return "room"
            skb = await self._new_skb(task)
        if skb is not None and await self.frag_refill(task) is not None:
            return ""
        self._drop_empty_tail()
        sock.mem.proto.enter_pressure()
        sock.mem.moderate_sndbuf()
        return "a page"

    def _copy(self, task: Task, piece: Content, at: int) -> int:
        """Copy from ``at`` on what the last packet and the fragment take; 0 if tcp_mem does not allow it."""
        sock, skb, frag = self._sock, self.tail, self._page_frag(task).frag
        assert skb is not None
        assert frag is not None
        room = sock.core.size_goal_bytes - self.tail_bytes
        size = min(content_size(piece) - at, room, frag.size_bytes - frag.offset)
        if not sock.mem.mem_schedule(size, receive=False):
            self._drop_empty_tail()
            return 0
        sock.outgoing.write(content_part(piece, at, at + size))
        self._append(task, skb, frag, size)
        return size

    def try_copy(self, task: Task, size_bytes: int) -> bool:
        """Queue a small header in the socket's fragment without sleeping."""
        skb = self.tail if self._tail_has_room() else self._try_new_skb(task)
        if skb is None:
            return False
        kept = self._page_frag(task)
        frag = kept.frag
        if frag is not None and frag.refs == 1:
            frag.offset = 0
        if frag is None or frag.offset + size_bytes > frag.size_bytes:
            fresh = self._sock.stack.skbs.try_page_frag(
                task, self._sock.allocation & ~GFP_DIRECT_RECLAIM, self._owner, nomemalloc=False
            )
            if fresh is None:
                self._drop_empty_tail()
                return False
            kept.put()
            kept.frag = frag = fresh
        self._sock.mem.forced_mem_schedule(size_bytes)
        self._append(task, skb, frag, size_bytes)
        return True

    # -- data by reference ----------------------------------------------------------------------------------------

    def try_attach(self, task: Task, pfns: PfnArray, page_offset: int, size_bytes: int) -> int:
        """Put pages into packets as far as there is room and memory (do_tcp_sendpages); return the bytes taken."""
        sent = 0
        while sent < size_bytes:
            skb = self.tail if self._tail_has_room() else self._try_new_skb(task)
            if skb is None:
                break
            first, offset = divmod(page_offset + sent, PAGE_SIZE)
            pinned = skb.pinned
            # the rest of a page whose first part ends this packet is no fragment of its own (skb_can_coalesce)
            joins = pinned is not None and bool(pinned[-1] == pfns[first])
            room = MAX_SKB_FRAGS - len(skb.frags) - (0 if pinned is None else len(pinned)) + joins
            goal = self._sock.core.size_goal_bytes
            size = min(size_bytes - sent, goal - self.tail_bytes, room * PAGE_SIZE - offset)
            if size <= 0:
                self.tail = None
                continue
            if not self._sock.mem.mem_schedule(size, receive=False):
                self._drop_empty_tail()
                break
            last = (offset + size - 1) // PAGE_SIZE + first
            self._attach(skb, pfns[first + joins : last + 1], size)
            task.charge_ns += self._sock.stack.costs.sendmsg * (last + 1 - first)
            sent += size
        return sent

    def _attach(self, skb: Skb, pfns: PfnArray, size_bytes: int) -> None:
        """Let a packet refer to pages; it holds them as often as it has them in ``pinned``."""
        new = not self.tail_bytes
        if len(pfns):
            self._sock.stack.skbs.frames.pins[pfns] += 1
            skb.pinned = pfns if skb.pinned is None else np.concatenate([skb.pinned, pfns])
        self._grow(skb, size_bytes, new=new)

    # -- sending and acknowledgement ------------------------------------------------------------------------------

    def skb_of(self, segment: Segment) -> Skb | None:
        """Return the packet that a segment's data is in."""
        end = segment.seq + segment.size_bytes
        for skb in self._skbs:
            if skb.end_seq >= end:
                return skb
        return None

    def can_transmit(self, segment: Segment, skb: Skb | None, context: Task) -> bool:
        """Whether there is memory for the clone that travels: only a segment that splits a packet needs any.

        A retransmission asks without the reserve.
        """
        if skb is None:
            return False
        tracer = self._sock.stack.tracer
        if tracer is not None and segment.seq < self._sock.core.snd_nxt:
            tracer.retransmit_skb(self._sock.core.state.name)
        if segment.seq + segment.size_bytes == skb.end_seq:
            return True
        retransmission = segment.seq < self._sock.core.snd_nxt
        gfp = GFP_ATOMIC | (0 if retransmission else self._sock.allocation & GFP_MEMALLOC)
        return self._split(skb, segment, context, gfp)

    def _split(self, skb: Skb, segment: Segment, context: Task, gfp: int) -> bool:
        """Cut a packet after a segment that ends inside it, which takes a head of its own (tso_fragment)."""
        extra = self._sock.stack.skbs.try_alloc_tx(context, gfp | GFP_NOWARN)
        if extra is None:
            return False
        extra.end_seq = segment.seq + segment.size_bytes
        for frag in skb.frags:
            frag.get()
        extra.frags = list(skb.frags)
        self._sock.mem.forced_mem_schedule(extra.truesize)
        self._sock.mem.charge_write(extra.truesize)
        self._skbs.insert(self._skbs.index(skb), extra)
        return True

    def free_acked(self) -> None:
        """Free the packets below snd_una (tcp_clean_rtx_queue), but not one that still gets its first data."""
        una = self._sock.core.snd_una
        queue = self._skbs
        while queue and queue[0].end_seq <= una and not (queue[0] is self.tail and not self.tail_bytes):
            self._free_first()

    def _free_first(self) -> None:
        skb = self._skbs.popleft()
        if skb is self.tail:
            self.tail = None
            self.tail_bytes = 0
        self._release(skb)

    def _release(self, skb: Skb) -> None:
        self._sock.mem.uncharge_write(skb.truesize)
        self._sock.stack.skbs.kfree_skb(skb)

    def purge(self) -> None:
        """Free every packet and the block they are cut from (tcp_write_queue_purge)."""
        while self._skbs:
            self._free_first()
        self._own_frag.put()
