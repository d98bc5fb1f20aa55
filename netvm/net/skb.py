"""sk_buffs: packets in memory, with every page and object they hold.

Mirrors net/core/skbuff.c of 6.1. A packet to be sent has its head in ``skbuff_fclone_cache`` (the clone that travels
is its companion and costs nothing), its linear part in kmalloc-1k, and its payload in slices of page fragments or in
pages it was given. A received packet has its head in ``skbuff_head_cache`` and its data in a slice of a page, or in
the ring buffer it arrived in.

Page fragments (:class:`PageFrag`) are blocks of order 3 where they can be had, else single pages; each packet cut
from one holds a reference, and the block goes back when the last is gone. A block that came from the reserve marks
every packet cut from it (``pfmemalloc``).

Data objects are first asked for without the reserve and then, if the mask is entitled to it, with it; in that case the
packet is pfmemalloc even if the object came from ordinary memory (``kmalloc_reserve``).
"""

from typing import Final

from netvm.mm.frames import PG_PFMEMALLOC, PfnArray
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_COMP,
    GFP_DIRECT_RECLAIM,
    GFP_MEMALLOC,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWARN,
)
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import SlabCache, SlabCaches
from netvm.runtime.task import Task
from netvm.units import PAGE_SIZE

__all__ = ["FRAG_ORDER", "MAX_SKB_FRAGS", "SKB_HEAD_TRUESIZE", "PageFrag", "Skb", "SkbAllocator"]

FRAG_ORDER: Final = 3
MAX_SKB_FRAGS: Final = 17
SKB_HEAD_TRUESIZE: Final = 1280
"""An empty packet to be sent: kmalloc-1k and 256 of sk_buff."""
SK_BUFF_BYTES: Final = 256
NAPI_SKB_CACHE_SIZE: Final = 64
NAPI_SKB_CACHE_BULK: Final = 16
NAPI_SKB_CACHE_HALF: Final = 32
SLICE_1K: Final = 1024


class PageFrag:
    """A block of pages that packets are cut from (``struct page_frag``)."""

    __slots__ = ("offset", "order", "pages", "pfmemalloc", "pfn", "refs", "size_bytes")

    def __init__(self, pages: PageAllocator, pfn: int, order: int) -> None:
        self.pages = pages
        self.pfn = pfn
        self.order = order
        self.size_bytes = PAGE_SIZE << order
        self.offset = 0
        self.refs = 1
        self.pfmemalloc = bool(pages.frames.flags_of[pfn] & PG_PFMEMALLOC)

    def get(self) -> None:
        """Take a reference."""
        self.refs += 1

    def put(self) -> None:
        """Drop a reference; the last one frees the block."""
        self.refs -= 1
        assert self.refs >= 0
        if not self.refs:
            self.pages.free_pages(self.pfn, self.order)


class Skb:
    """One packet's memory (``struct sk_buff`` with all it refers to)."""

    __slots__ = (
        "data",
        "data_cache",
        "end_seq",
        "frag_list",
        "frags",
        "head",
        "head_cache",
        "pfmemalloc",
        "pinned",
        "refs",
        "truesize",
    )

    def __init__(self, head_cache: SlabCache, head: int) -> None:
        self.head_cache = head_cache
        self.head = head
        self.data_cache: SlabCache | None = None
        self.data = -1
        self.frags: list[PageFrag] = []
        self.frag_list: list[Skb] = []
        """Packets that are fragments of the same datagram."""
        self.pinned: PfnArray | None = None
        """Pages of somebody else that are sent by reference (sendpage)."""
        self.truesize = SK_BUFF_BYTES
        self.pfmemalloc = False
        self.refs = 1
        self.end_seq = 0

    def chain(self, fragment: "Skb") -> None:
        """Let a further fragment of the datagram travel with this one; its memory goes when this one's does."""
        self.frag_list.append(fragment)
        self.truesize += fragment.truesize


class SkbAllocator:
    """Where one host's packets come from."""

    def __init__(self, pages: PageAllocator, slabs: SlabCaches) -> None:
        self.pages = pages
        self.frames = pages.frames
        self.head_cache = slabs["skbuff_head_cache"]
        self.fclone_cache = slabs["skbuff_fclone_cache"]
        self.kmalloc_1k = slabs["kmalloc-1k"]
        self.kmalloc_4k = slabs["kmalloc-4k"]
        self.owner_slice = pages.ledger.owner("skb:page_frag_1k")
        self.nr_memalloc_socks = 0
        """sk_memalloc_socks()."""
        self.nr_skbs = 0
        self._slice: PageFrag | None = None
        self._slices_left = 0
        self._napi_cache: list[int] = []

    @property
    def memalloc_socks(self) -> bool:
        """Whether any SOCK_MEMALLOC socket exists."""
        return self.nr_memalloc_socks > 0

    # -- freeing --------------------------------------------------------------------------------------------------

    def get(self, skb: Skb) -> None:
        """Take a reference (a clone in flight)."""
        skb.refs += 1

    def kfree_skb(self, skb: Skb, *, napi: bool = False) -> None:
        """Drop a reference; the last one frees everything. ``napi`` keeps the head for the next receive."""
        skb.refs -= 1
        assert skb.refs >= 0
        if skb.refs:
            return
        self.nr_skbs -= 1
        if napi and skb.head_cache is self.head_cache and self.pages.fixes.napi_skb_cache:
            self._napi_put(skb.head)
        else:
            skb.head_cache.free(skb.head)
        if skb.data_cache is not None:
            skb.data_cache.free(skb.data)
        for frag in skb.frags:
            frag.put()
        if skb.pinned is not None:
            self.frames.pins[skb.pinned] -= 1
        for fragment in skb.frag_list:
            self.kfree_skb(fragment)

    def _napi_put(self, head: int) -> None:
        cache = self._napi_cache
        cache.append(head)
        if len(cache) >= NAPI_SKB_CACHE_SIZE:
            for other in cache[NAPI_SKB_CACHE_HALF:]:
                self.head_cache.free(other)
            del cache[NAPI_SKB_CACHE_HALF:]

    # -- for sending ----------------------------------------------------------------------------------------------

    def kmalloc_reserve(self, task: Task, cache: SlabCache, gfp: int) -> tuple[int, bool]:
        """Try without the reserve, then with it if the mask is entitled; return object and pfmemalloc."""
        found = cache.try_alloc(task, gfp & ~GFP_DIRECT_RECLAIM | GFP_NOMEMALLOC | GFP_NOWARN)
        if found >= 0 or not self.pages.gfp_pfmemalloc_allowed(task, gfp):
            return found, False
        return cache.try_alloc(task, gfp & ~GFP_DIRECT_RECLAIM), True

    def try_alloc_tx(self, task: Task, gfp: int, *, fclone: bool = True) -> Skb | None:
        """Allocate an empty packet to be sent without sleeping (tcp_stream_alloc_skb, alloc_skb)."""
        cache = self.fclone_cache if fclone else self.head_cache
        head = cache.try_alloc(task, gfp & ~GFP_DIRECT_RECLAIM)
        if head < 0:
            return None
        data, pfmemalloc = self.kmalloc_reserve(task, self.kmalloc_1k, gfp)
        if data < 0:
            cache.free(head)
            return None
        return self._tx_skb(cache, head, data, pfmemalloc=pfmemalloc)

    async def alloc_tx(self, task: Task, gfp: int) -> Skb | None:
        """Allocate an empty packet to be sent, sleeping as the mask allows."""
        skb = self.try_alloc_tx(task, gfp | GFP_NOWARN)
        if skb is not None or not gfp & GFP_DIRECT_RECLAIM:
            return skb
        head = await self.fclone_cache.alloc(task, gfp)
        if head < 0:
            return None
        data, pfmemalloc = self.kmalloc_reserve(task, self.kmalloc_1k, gfp)
        if data < 0:
            data = await self.kmalloc_1k.alloc(task, gfp)
            if data < 0:
                self.fclone_cache.free(head)
                return None
        return self._tx_skb(self.fclone_cache, head, data, pfmemalloc=pfmemalloc)

    def _tx_skb(self, cache: SlabCache, head: int, data: int, *, pfmemalloc: bool) -> Skb:
        skb = Skb(cache, head)
        skb.data_cache = self.kmalloc_1k
        skb.data = data
        skb.truesize = SKB_HEAD_TRUESIZE
        skb.pfmemalloc = pfmemalloc
        self.nr_skbs += 1
        return skb

    def try_page_frag(self, task: Task, gfp: int, owner: int, *, nomemalloc: bool) -> PageFrag | None:
        """Allocate a block to cut from without sleeping: order 3 if that is easy, else one page.

        ``nomemalloc`` is how page_frag caches ask for the large block; ``skb_page_frag_refill`` does not.
        """
        gfp &= ~GFP_DIRECT_RECLAIM
        large = gfp | GFP_COMP | GFP_NOWARN | GFP_NORETRY | (GFP_NOMEMALLOC if nomemalloc else 0)
        pfn = self.pages.try_alloc_pages(task, FRAG_ORDER, large, owner)
        if pfn >= 0:
            return PageFrag(self.pages, pfn, FRAG_ORDER)
        pfn = self.pages.try_alloc_pages(task, 0, gfp, owner)
        return PageFrag(self.pages, pfn, 0) if pfn >= 0 else None

    async def skb_page_frag_refill(self, task: Task, gfp: int, owner: int) -> PageFrag | None:
        """Allocate a block for a socket to cut its payload from, sleeping as the mask allows."""
        if not gfp & GFP_DIRECT_RECLAIM:
            return self.try_page_frag(task, gfp, owner, nomemalloc=False)
        large = gfp & ~GFP_DIRECT_RECLAIM | GFP_COMP | GFP_NOWARN | GFP_NORETRY
        pfn = self.pages.try_alloc_pages(task, FRAG_ORDER, large, owner)
        if pfn >= 0:
            return PageFrag(self.pages, pfn, FRAG_ORDER)
        pfn = await self.pages.alloc_pages(task, 0, gfp, owner)
        return PageFrag(self.pages, pfn, 0) if pfn >= 0 else None

    # -- for receiving --------------------------------------------------------------------------------------------

    def rx_gfp(self) -> int:
        """The mask of receive data: with the reserve while a SOCK_MEMALLOC socket exists."""
        if self.memalloc_socks and self.pages.fixes.rx_memalloc:
            return GFP_ATOMIC | GFP_MEMALLOC
        return GFP_ATOMIC

    def rx_head_gfp(self) -> int:
        """The mask of the heads of received packets."""
        fixes = self.pages.fixes
        return self.rx_gfp() if fixes.rx_head_memalloc or not fixes.rx_build_skb else GFP_ATOMIC

    def napi_skb_cache_get(self, task: Task) -> int:
        """Take a head from the NAPI cache, refilling it by 16 with plain GFP_ATOMIC; -1 if there is none.

        Without ``napi_skb_cache`` one object comes from the slab for each packet. Without ``rx_build_skb`` its mask is
        that of the data.
        """
        return self._napi_cache.pop() if self.has_napi_head(task) else -1

    def has_napi_head(self, task: Task) -> bool:
        """Whether a head can be taken from the NAPI cache, which is refilled for it if need be."""
        cache = self._napi_cache
        if cache:
            return True
        gfp = self.rx_head_gfp()
        bulk = NAPI_SKB_CACHE_BULK if self.pages.fixes.napi_skb_cache else 1
        for _ in range(bulk):
            head = self.head_cache.try_alloc(task, gfp)
            if head < 0:
                break
            cache.append(head)
        if len(cache) == bulk:
            return True
        # kmem_cache_alloc_bulk gives all or nothing
        for head in cache:
            self.head_cache.free(head)
        cache.clear()
        return False

    def napi_alloc_skb(self, task: Task) -> Skb | None:
        """Allocate a small receive packet: a 1 KiB slice of a page, and a head."""
        if not self._slices_left:
            pfn = self.pages.try_alloc_pages(task, 0, self.rx_gfp() | GFP_NOWARN, self.owner_slice)
            if pfn < 0:
                return None
            if self._slice is not None:
                self._slice.put()
            self._slice = PageFrag(self.pages, pfn, 0)
            self._slices_left = PAGE_SIZE // SLICE_1K
        head = self.napi_skb_cache_get(task)
        if head < 0:
            return None
        frag = self._slice
        assert frag is not None
        self._slices_left -= 1
        frag.get()
        skb = Skb(self.head_cache, head)
        skb.frags.append(frag)
        skb.truesize = SLICE_1K + SK_BUFF_BYTES
        skb.pfmemalloc = frag.pfmemalloc
        self.nr_skbs += 1
        return skb

    def napi_build_skb(self, task: Task, buffer: PageFrag, buffer_bytes: int) -> Skb | None:
        """Make a packet around the ring buffer it arrived in; the buffer's reference moves to it."""
        head = self.napi_skb_cache_get(task)
        if head < 0:
            return None
        skb = Skb(self.head_cache, head)
        skb.frags.append(buffer)
        skb.truesize = buffer_bytes + SK_BUFF_BYTES
        skb.pfmemalloc = buffer.pfmemalloc
        self.nr_skbs += 1
        return skb
