"""Network cards: rings, refills, interrupts, and what they cost in memory.

Mirrors, as far as memory goes, the drivers of the recorded runs.

*e1000*: 256 receive descriptors; each buffer is a slice of 1920 bytes of a page fragment block, 17 to an order-3
block, allocated with GFP_ATOMIC *without* ``__GFP_MEMALLOC``, the large block without the reserve at all. A frame of
up to 256 bytes is copied into a small packet and its buffer reused (copybreak); a larger one is handed on in its
buffer. The ring is refilled after every 16 frames and at the end of a poll; a watchdog retries every two seconds.

*virtio-net*: 256 descriptors, buffers of 1536 bytes cut from blocks by ``skb_page_frag_refill`` with GFP_ATOMIC,
whose order-3 attempt is a high-order atomic one and so reserves HIGHATOMIC pageblocks. It is refilled when more than
half of what one poll may take are missing (32, or half of a small ring); a refill that fails is retried by a worker
with GFP_KERNEL. Without offloads from its host it cuts GSO packets in software: one linear packet a frame, headroom,
payload and shared info together just above 2 KiB and so in kmalloc-4k (the recorded runs' slabinfo shows that cache
grow), with GFP_ATOMIC and no reserve. A burst that cannot be cut is dropped under the queueing discipline, and TCP
believes it was sent.

*igb*: 256 descriptors, buffers of half a page from ``dev_alloc_page``: always order 0, always with
``__GFP_MEMALLOC``, so its ring may take the last page of the reserve. Copybreak and watchdog are as e1000's.

A buffer is taken before anybody knows whose packet it is. With e1000 a frame whose packet cannot be made stays in the
ring until the next poll; when all descriptors are taken, frames are lost. virtio-net drops such a frame at once and
gives its buffers back (``receive_mergeable``).

With page recycling a block whose packets are all freed goes into the ring again instead of to the allocator. A block
that came from the reserve must not: its packets would carry the reserve's mark for ever, and ordinary sockets drop
them.

# MODEL: a poll runs when a packet arrives; interrupt moderation is left out.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_MEMALLOC, GFP_NOWARN, gfp_name
from netvm.mm.page_alloc import PageAllocator
from netvm.net.nic_model import NicModel
from netvm.net.skb import SK_BUFF_BYTES, PageFrag, Skb, SkbAllocator
from netvm.net.wire import LinkDirection, Packet
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.workqueue import WorkItem, Workqueue
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat
from netvm.units import NS_PER_MS, NS_PER_S

__all__ = ["Nic"]

REFILL_EVERY: Final = 16
NAPI_POLL_WEIGHT: Final = 64
E1000_WATCHDOG_NS: Final = 2 * NS_PER_S
VIRTIO_RETRY_NS: Final = 500 * NS_PER_MS
FRAME_OVERHEAD: Final = 66


class Nic:
    """One card: receive ring, poll, and the way out."""

    def __init__(
        self,
        world: World,
        name: str,
        model: NicModel,
        *,
        ring: int,
        retry: str,
        recycle: bool,
        skbs: SkbAllocator,
        pages: PageAllocator,
        netstat: NetStat,
        costs: CpuCosts,
        receive: Callable[[Packet, Skb], None],
        workqueue: Workqueue,
    ) -> None:
        self.world = world
        self.name = name
        self.model = model
        self.ring = ring
        self.retry = model.retry if retry == "driver" else retry
        self.recycle = recycle
        self.skbs = skbs
        self.pages = pages
        self.netstat = netstat
        self.costs = costs
        self.receive = receive
        self.link: LinkDirection
        self.owner = pages.ledger.owner(f"rx_ring:{name}")
        self.softirq = pages.softirq
        self._buffers: deque[PageFrag] = deque()
        """Filled descriptors."""
        self._pending: deque[Packet] = deque()
        """Packets in the ring that the stack has not got yet."""
        # invariant: their frames, each in one of the filled descriptors
        self._pending_frames = 0
        self._frag: PageFrag | None = None
        self._frag_left = 0
        # invariant: each block has one reference of this list's, and the list is no longer than two full rings
        self._recycled: deque[PageFrag] = deque()
        self._retry_armed = False
        self._retrying = False
        """The retry itself polls: if it fails, the next one is not at once."""
        self._refill_work = WorkItem(f"{name} refill_work", self.refill_work)
        self._workqueue = workqueue
        self._tx_segments: deque[tuple[int, list[Skb]]] = deque()
        self._polling = False

    @property
    def occupancy(self) -> int:
        """Descriptors with a buffer."""
        return len(self._buffers)

    @property
    def nr_pfmemalloc(self) -> int:
        """Descriptors whose buffer lies in a page of the reserve."""
        return sum(buffer.pfmemalloc for buffer in self._buffers)

    @property
    def is_stuck(self) -> bool:
        """Whether frames wait for memory, or no descriptor is left for the next one."""
        return bool(self._pending) or not self._buffers

    @property
    def stuck_on(self) -> str:
        """Say what reception waits for, in kernel words."""
        if not self._buffers:
            return "ring empty, no page for a buffer (GFP_ATOMIC)"
        mask = self.skbs.rx_head_gfp()
        told = "plain GFP_ATOMIC" if mask == GFP_ATOMIC else gfp_name(mask)
        return f"no sk_buff head: skbuff_head_cache with {told}"

    def fill_at_boot(self, pfns: list[int]) -> None:
        """Fill the ring from order-3 blocks that boot set aside."""
        for pfn in pfns:
            frag = PageFrag(self.pages, pfn, 3)
            frag.refs = 0
            for _ in range(min(frag.size_bytes // self.model.buffer_bytes, self.ring - len(self._buffers))):
                frag.get()
                self._buffers.append(frag)
        assert len(self._buffers) == self.ring

    def blocks_at_boot(self) -> int:
        """Return how many order-3 blocks a full ring takes."""
        per_block = (8 * 4096) // self.model.buffer_bytes
        return -(-self.ring // per_block)

    # -- receiving ------------------------------------------------------------------------------------------------

    def packet_arrived(self, packet: Packet) -> None:
        """Take a packet off the wire into the ring and poll (interrupt, then NET_RX softirq)."""
        free = len(self._buffers) - self._pending_frames
        if packet.nr_frames > free:
            self.netstat.add("rx_missed_errors", packet.nr_frames - free)
            if not free:
                self._arm_retry()
                return
            if packet.segment is None:
                # MODEL: the fragments that arrived are freed at once, not when IP gives up waiting for the others
                self.netstat.add("rx_missed_errors", free)
                return
            packet = self._truncated(packet, free)
        self._pending.append(packet)
        self._pending_frames += packet.nr_frames
        self.poll()

    def _truncated(self, packet: Packet, nr_frames: int) -> Packet:
        """Return what of a GSO burst fits in the ring: its first frames."""
        segment = packet.segment
        assert segment is not None
        size = min(packet.size_bytes, packet.size_bytes * nr_frames // packet.nr_frames)
        return packet._replace(nr_frames=nr_frames, size_bytes=size, segment=segment._replace(size_bytes=size))

    def poll(self) -> None:
        """Make packets of the frames in the ring and hand them on (NAPI poll)."""
        if self._polling:
            return
        self._polling = True
        cleaned = 0
        while self._pending:
            packet = self._pending[0]
            skb = self._make_skb(packet)
            if skb is None:
                self.netstat.add("rx_skb_alloc_failed")
                if not self.model.high_order_atomic:
                    break
                # receive_mergeable: what has no sk_buff is lost, and its buffers go back
                nr_frames = self._pending.popleft().nr_frames
                self.netstat.add("rx_drops", nr_frames)
                self._drop_frames(nr_frames)
                continue
            self._pending.popleft()
            cleaned += packet.nr_frames
            self._steal(self._receive_cost_ns(packet))
            self.receive(packet, skb)
            if cleaned >= REFILL_EVERY:
                self.refill()
                cleaned = 0
        self._polling = False
        self.refill()
        if self._pending:
            self._arm_retry()

    def _receive_cost_ns(self, packet: Packet) -> int:
        """A burst of data is one packet after GRO; acknowledgements come one by one."""
        if packet.segment is not None and not packet.segment.size_bytes:
            return packet.nr_frames * self.costs.rx_frame
        return self.costs.rx_frame + (packet.nr_frames - 1) * self.costs.rx_gro_frame

    def _steal(self, cost_ns: int) -> None:
        if self.softirq.cpus is not None:
            self.softirq.cpus.steal(cost_ns)

    def _make_skb(self, packet: Packet) -> Skb | None:
        """Make one packet of the frames: copied if small, in its buffers if not. None: they stay in the ring."""
        each_bytes = -(-packet.size_bytes // packet.nr_frames)
        if each_bytes + FRAME_OVERHEAD <= self.model.copybreak:
            skb = self._copied_skb(packet.nr_frames)
            if skb is not None or self.model.high_order_atomic:
                return skb
            # some of a burst of acknowledgements may have been copied before memory ran out
            packet = self._pending[0]
        first = self._frame_skb()
        if first is None:
            return None
        self._pending_frames -= 1
        others = packet.nr_frames - 1
        if others and not self.model.high_order_atomic:
            if self.skbs.has_napi_head(self.softirq):
                self._gro_buffers(first, others)
            else:
                self._drop_frames(others)
            return first
        for left in range(others, 0, -1):
            skb = self._frame_skb()
            if skb is None:
                self._drop_frames(left)
                break
            self._pending_frames -= 1
            self._gro(first, skb)
        return first

    def _drop_frames(self, nr_frames: int) -> None:
        """Lose the rest of a burst: GRO has handed its first part on."""
        for _ in range(nr_frames):
            self._buffers.popleft().put()
        self._pending_frames -= nr_frames
        self.netstat.add("rx_dropped", nr_frames)

    def _copied_skb(self, nr_frames: int) -> Skb | None:
        """Make a packet of each small frame and return the last: the others are pure acknowledgements before it."""
        for left in range(nr_frames, 0, -1):
            skb = self.skbs.napi_alloc_skb(self.softirq)
            if skb is None:
                self._pending[0] = self._pending[0]._replace(nr_frames=left)
                return None
            self._pending_frames -= 1
            if self.model.high_order_atomic:
                self._buffers.popleft().put()
            if left == 1:
                return skb
            self.skbs.kfree_skb(skb)
        raise AssertionError("a packet without frames")

    def _frame_skb(self) -> Skb | None:
        """Make a packet of one large frame: around its buffer (e1000), or a small head with the buffer attached."""
        buffer = self._buffers[0]
        if self.model.high_order_atomic:
            skb = self.skbs.napi_alloc_skb(self.softirq)
            if skb is not None:
                skb.frags.append(buffer)
                skb.truesize += self.model.buffer_bytes
                skb.pfmemalloc = skb.pfmemalloc or buffer.pfmemalloc
        else:
            skb = self.skbs.napi_build_skb(self.softirq, buffer, self.model.buffer_bytes)
        if skb is not None:
            self._buffers.popleft()
        return skb

    def _gro_buffers(self, first: Skb, nr_frames: int) -> None:
        """Let the buffers of a burst's other frames travel on in the first one's packet.

        Each frame's own head goes back to the NAPI cache it came from before the next one takes it out again.
        """
        buffers = [self._buffers.popleft() for _ in range(nr_frames)]
        self._pending_frames -= nr_frames
        first.frags += buffers
        first.truesize += nr_frames * (self.model.buffer_bytes + SK_BUFF_BYTES)
        first.pfmemalloc = first.pfmemalloc or any(buffer.pfmemalloc for buffer in buffers)

    def _gro(self, first: Skb, skb: Skb) -> None:
        """Let a frame of the same burst travel on in the first one's packet (napi_gro_receive)."""
        first.frags += skb.frags
        first.truesize += skb.truesize
        first.pfmemalloc = first.pfmemalloc or skb.pfmemalloc
        skb.frags = []
        self.skbs.kfree_skb(skb, napi=True)

    def refill(self) -> None:
        """Fill the ring from atomic context; what fails is left to the next poll or the retry."""
        missing = self.ring - self.occupancy
        if missing <= 0 or (self.model.high_order_atomic and missing <= min(NAPI_POLL_WEIGHT, self.ring) // 2):
            return
        while missing:
            if not self._frag_left and not self._try_recycle() and not self._new_block(GFP_ATOMIC):
                self.netstat.add("rx_alloc_failed")
                self._arm_retry()
                return
            missing -= self._add_buffers(missing)

    def _new_block(self, gfp: int) -> bool:
        if self.model.ring_memalloc:
            pfn = self.pages.try_alloc_pages(self.softirq, 0, gfp | GFP_MEMALLOC | GFP_NOWARN, self.owner)
            if pfn >= 0:
                self._take_block(PageFrag(self.pages, pfn, 0))
            return pfn >= 0
        frag = self.skbs.try_page_frag(
            self.softirq, gfp | GFP_NOWARN, self.owner, nomemalloc=not self.model.high_order_atomic
        )
        if frag is None:
            return False
        self._take_block(frag)
        return True

    def _take_block(self, frag: PageFrag) -> None:
        if self._frag is not None:
            self._retire(self._frag)
        self._frag = frag
        self._frag_left = frag.size_bytes // self.model.buffer_bytes

    def _retire(self, frag: PageFrag) -> None:
        """Let go of a block that is used up, or keep it for when its packets are freed (dev_page_is_reusable)."""
        reserve = frag.pfmemalloc and self.pages.fixes.rx_no_recycle_pfmemalloc
        full = len(self._recycled) >= 2 * self.blocks_at_boot() and not self.model.ring_memalloc
        if not self.recycle or reserve or full:
            frag.put()
        else:
            self._recycled.append(frag)

    def _try_recycle(self) -> bool:
        """Take the oldest block again if nothing but the card refers to it; else let it wait its next turn.

        igb forgets a page whose packets are still held and takes another in its place (igb_can_reuse_rx_page).
        """
        # of igb's pages those of a full ring are in it: the one before has been handed on
        if len(self._recycled) <= (self.ring // 2 if self.model.ring_memalloc else 0):
            return False
        if self._recycled[0].refs > 1:
            if self.model.ring_memalloc:
                self._recycled.popleft().put()
            else:
                self._recycled.rotate(-1)
            return False
        self._take_block(self._recycled.popleft())
        return True

    def _add_buffers(self, nr: int) -> int:
        """Cut up to ``nr`` buffers from the current block; return how many it had."""
        frag = self._frag
        assert frag is not None
        nr = min(nr, self._frag_left)
        frag.refs += nr
        self._frag_left -= nr
        self._buffers.extend([frag] * nr)
        return nr

    # -- retrying a refill ----------------------------------------------------------------------------------------

    def _arm_retry(self) -> None:
        if self._retry_armed or self.retry == "none" or not self.pages.fixes.rx_refill_retry:
            return
        self._retry_armed = True
        delay_ns = E1000_WATCHDOG_NS
        if self.retry == "worker":
            delay_ns = VIRTIO_RETRY_NS if self._retrying else 0
        if delay_ns:
            delay_ns = self.world.wheel_ns(delay_ns)
        self.world.call_after(delay_ns, self._retry, kind=TimerKind.RETRY, site=f"{self.name}: RX refill")

    def _retry(self) -> None:
        self._retry_armed = False
        if self.retry == "worker":
            self._retrying = True
            if self.occupancy < self.ring:
                self._workqueue.queue_work(self._refill_work)
            if self._pending:
                self.poll()
            self._retrying = False
        else:
            # the watchdog fires a software interrupt, which polls and refills
            self.poll()
            if self.occupancy < self.ring:
                self._arm_retry()

    async def refill_work(self, task: Task) -> None:
        """Fill the ring from a worker that may reclaim (virtio-net's refill_work)."""
        while self.occupancy < self.ring:
            if not self._frag_left and not self._try_recycle():
                frag = await self.skbs.skb_page_frag_refill(task, GFP_KERNEL, self.owner)
                if frag is None:
                    break
                self._take_block(frag)
            self._add_buffers(1)
        if self._pending:
            self.poll()
        if not self._buffers and not self._retry_armed:
            self._retry_armed = True
            site = f"{self.name}: RX refill"
            delay_ns = self.world.wheel_ns(VIRTIO_RETRY_NS)
            self.world.call_after(delay_ns, self._retry, kind=TimerKind.RETRY, site=site)

    # -- sending --------------------------------------------------------------------------------------------------

    def transmit(self, packet: Packet) -> int:
        """Send a packet; 0, or 1 if the queue dropped it."""
        self._free_old_tx()
        segments: list[Skb] = []
        if self.model.software_gso and packet.nr_frames > 1:
            for _ in range(packet.nr_frames):
                skb = self._segment_skb()
                if skb is None:
                    # validate_xmit_skb() drops it below the queueing discipline, which reports success
                    for done in segments:
                        self.skbs.kfree_skb(done)
                    self.netstat.add("tx_dropped")
                    return 0
                segments.append(skb)
            self._steal(packet.nr_frames * self.costs.tx_segment)
        if not self.link.send(packet):
            for done in segments:
                self.skbs.kfree_skb(done)
            return 1
        if segments:
            done_ns = max(self.link.free_at_ns, self.world.now_ns + 1)
            self._tx_segments.append((done_ns, segments))
            self.world.call_at(done_ns, self._free_old_tx)
        return 0

    def _segment_skb(self) -> Skb | None:
        """Allocate one frame's packet for software GSO (skb_segment): no reserve."""
        skbs = self.skbs
        head = skbs.head_cache.try_alloc(self.softirq, GFP_ATOMIC | GFP_NOWARN)
        if head < 0:
            return None
        data, _ = skbs.kmalloc_reserve(self.softirq, skbs.kmalloc_4k, GFP_ATOMIC)
        if data < 0:
            skbs.head_cache.free(head)
            return None
        skb = Skb(skbs.head_cache, head)
        skb.data_cache = skbs.kmalloc_4k
        skb.data = data
        skb.truesize = 4096 + SK_BUFF_BYTES
        skbs.nr_skbs += 1
        return skb

    def _free_old_tx(self) -> None:
        """Free what the wire has taken (TX completion)."""
        now_ns = self.world.now_ns
        while self._tx_segments and self._tx_segments[0][0] <= now_ns:
            for skb in self._tx_segments.popleft()[1]:
                self.skbs.kfree_skb(skb)

    def digest(self) -> tuple[int, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self._buffers), self._pending_frames, len(self._tx_segments))
