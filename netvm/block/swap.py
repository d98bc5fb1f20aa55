"""The swap area: slots, the swap cache, and pages going out and coming back.

Mirrors mm/swapfile.c, mm/swap_slots.c, mm/swap_state.c, mm/page_io.c, mm/workingset.c and ``do_swap_page`` of 6.1,
for one non-rotational block device.

Slots come in batches of 64 through a per-cpu cache; the allocator hands them out cluster by cluster (256 slots),
sequentially within one, from a list that starts at a random column at swapon. A freed slot is not reusable until 64
others were freed. So consecutive pages swapped out get consecutive slots, merge into requests, and can be read back by
one readahead window.

A page that is swapped in by a read keeps its slot and its place in the swap cache: if it is not written it can be
dropped without I/O. A write fault that finds itself alone frees the slot.

Swap-in reads a window around the fault (VMA readahead, ``page-cluster``), which grows with hits and halves without.

The radix tree behind the swap cache takes memory: one node for 64 slots, kept while it holds a page or a shadow entry.

Integrity: each slot remembers the version of the content that was unmapped into it (``slot_version``); what is read
back must be that version.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netvm.block.blk_mq import Request
from netvm.block.swap_io import SwapIo
from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE, PTE_YOUNG, PTRS_PER_PTE, AddressSpace
from netvm.mm.frames import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_READAHEAD,
    PG_RECLAIM,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_WORKINGSET,
    PG_WRITEBACK,
    Frames,
    PfnArray,
)
from netvm.mm.gfp import (
    GFP_COMP,
    GFP_HIGH,
    GFP_HIGHUSER_MOVABLE,
    GFP_NOMEMALLOC,
    GFP_NOWAIT,
    GFP_NOWARN,
)
from netvm.mm.lru import ACTIVE_ANON, ACTIVE_FILE, INACTIVE_FILE, Lruvec
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.ports import PlugPort
from netvm.mm.slab import SlabCache
from netvm.mm.vmscan import Vmscan
from netvm.runtime.costs import CpuCosts
from netvm.runtime.seeds import Stream
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.trace.vmstat import VmStat

__all__ = ["GFP_SWAPIN", "SWAPFILE_CLUSTER", "SwapArea"]

SWAPFILE_CLUSTER: Final = 256
SWAP_CLUSTER_COLS: Final = 64
SWAP_SLOTS_CACHE_SIZE: Final = 64
XA_CHUNK_SHIFT: Final = 6
GFP_SWAPIN: Final = GFP_HIGHUSER_MOVABLE | GFP_COMP
SWAP_RA_HITS_MAX: Final = 63

_U16 = np.uint16


class SwapArea:
    """One swap device or file."""

    needs_fs = False
    """Writing a page out enters a file system, and not only a block device."""

    def __init__(
        self,
        world: World,
        *,
        nr_pages: int,
        io: SwapIo,
        frames: Frames,
        pages: PageAllocator,
        lruvec: Lruvec,
        radix_nodes: SlabCache,
        vmstat: VmStat,
        costs: CpuCosts,
        page_cluster: int,
        rotational: bool,
        random: Stream,
    ) -> None:
        self.world = world
        self.io = io
        io.attach(self)
        self.needs_fs = io.needs_fs
        self.frames = frames
        self.pages = pages
        self.lruvec = lruvec
        self.radix_nodes = radix_nodes
        self.vmstat = vmstat
        self.costs = costs
        self.page_cluster = page_cluster
        self.rotational = rotational
        self._ra_hits = 4
        self._ra_offset = self._ra_win = 0
        self.vmscan: Vmscan
        self.nr_total = nr_pages - 1
        """Slot 0 is the header."""
        self.nr_free = self.nr_total
        """nr_swap_pages: slots in neither cache nor use."""
        self.count: npt.NDArray[np.uint8] = np.zeros(nr_pages, dtype=np.uint8)
        """swap_map: references from page tables."""
        self.taken: npt.NDArray[np.bool_] = np.zeros(nr_pages, dtype=np.bool_)
        """Handed out of the allocator (in use, in the swap cache, or in one of the slot caches)."""
        self.cache: npt.NDArray[np.int32] = np.zeros(nr_pages, dtype=np.int32)
        """Frame + 1 of the swap cache page, 0 for none."""
        self.shadow: npt.NDArray[np.int64] = np.zeros(nr_pages, dtype=np.int64)
        """Eviction time * 2 + workingset bit, + 2; 0 for none."""
        self.slot_version: npt.NDArray[np.int64] = np.zeros(nr_pages, dtype=np.int64)
        self.stored_version: npt.NDArray[np.int64] = np.zeros(nr_pages, dtype=np.int64)
        """Newest version whose write was acknowledged without error."""
        self._node_entries: dict[int, int] = {}
        self._node_slab: dict[int, int] = {}
        nr_clusters = -(-nr_pages // SWAPFILE_CLUSTER)
        self._cluster_used = [0] * nr_clusters
        self._cluster_used[0] = 1
        self.taken[0] = True
        self._free_clusters: deque[int] = deque()
        column = random.below(SWAP_CLUSTER_COLS)
        for j in range(SWAP_CLUSTER_COLS):
            start = (column + j) % SWAP_CLUSTER_COLS
            self._free_clusters += [c for c in range(start, nr_clusters, SWAP_CLUSTER_COLS) if c]
        self._current = -1
        self._next = 0
        self._slots: deque[int] = deque()
        self._slots_return: list[int] = []
        self._page_waits: dict[int, WaitQueue] = {}
        self._writers: dict[int, Task] = {}  # who holds the lock of a page it has no bio for yet
        self.corrupt: list[str] = []
        """What integrity checking found."""
        self.read_errors = 0
        self.write_errors = 0
        self.nr_cleaned = 0
        """Pages whose write has ended: progress."""
        self.nr_read = 0

    # -- slots ----------------------------------------------------------------------------------------------------

    def nr_free_slots(self) -> int:
        """Return get_nr_swap_pages()."""
        return self.nr_free

    def nr_total_slots(self) -> int:
        """Return total_swap_pages."""
        return self.nr_total

    def is_full(self) -> bool:
        """Return vm_swap_full(): less than half is free."""
        return self.nr_free * 2 < self.nr_total

    def _get_swap_pages(self, nr: int) -> list[int]:
        """Take up to ``nr`` slots from the clusters (get_swap_pages, scan_swap_map_slots)."""
        found: list[int] = []
        while len(found) < nr and self.nr_free > len(found):
            if self._current < 0 and not self._next_cluster():
                break
            end = min((self._current + 1) * SWAPFILE_CLUSTER, len(self.taken))
            free = np.flatnonzero(~self.taken[self._next : end])[: nr - len(found)]
            if not len(free):
                self._current = -1
                continue
            slots = (free + self._next).tolist()
            self._cluster_used[self._current] += len(slots)
            self.taken[slots] = True
            found += slots
            self._next = slots[-1] + 1
            if self._next >= end:
                self._current = -1
        self.nr_free -= len(found)
        return found

    def _next_cluster(self) -> bool:
        """Go on to a free cluster, else to any with room."""
        if self._free_clusters:
            self._current = self._free_clusters.popleft()
        else:
            free = np.flatnonzero(~self.taken)
            if not len(free):
                return False
            self._current = int(free[0]) // SWAPFILE_CLUSTER
        self._next = self._current * SWAPFILE_CLUSTER
        return True

    def _alloc_slots(self, nr: int) -> list[int]:
        """Take slots from the per-cpu cache, refilling it by batches (folio_alloc_swap)."""
        slots: list[int] = []
        cache = self._slots
        while len(slots) < nr:
            if not cache:
                cache.extend(self._get_swap_pages(SWAP_SLOTS_CACHE_SIZE))
                if not cache:
                    break
            slots.append(cache.popleft())
        return slots

    def _free_slots(self, slots: Sequence[int]) -> None:
        """Queue unused slots; 64 go back to their clusters at once (free_swap_slot)."""
        for slot in slots:
            if len(self._slots_return) >= SWAP_SLOTS_CACHE_SIZE:
                self._swapcache_free_entries()
            self._slots_return.append(slot)

    def _swapcache_free_entries(self) -> None:
        slots, self._slots_return = self._slots_return, []
        self.taken[slots] = False
        self.nr_free += len(slots)
        for slot in slots:
            cluster = slot // SWAPFILE_CLUSTER
            self._cluster_used[cluster] -= 1
            if not self._cluster_used[cluster] and cluster != self._current:
                self._free_clusters.append(cluster)

    def duplicate(self, slots: PfnArray, versions: PfnArray) -> None:
        """Note that page tables now hold these slots, for content of these versions (swap_duplicate)."""
        self.count[slots] += 1
        self.slot_version[slots] = versions

    def swap_free(self, slots: Sequence[int]) -> None:
        """Drop one reference to each slot; one that nothing refers to is freed."""
        unused = []
        for slot in slots:
            self.count[slot] -= 1
            if not self.count[slot] and not self.cache[slot]:
                unused.append(slot)
        self._free_slots(unused)

    # -- the swap cache and its tree ------------------------------------------------------------------------------

    def _node_for(self, task: Task, slot: int, gfp: int) -> bool:
        """Make sure there is a tree node for a slot: first out of whatever reserve is open, then with the mask."""
        node = slot >> XA_CHUNK_SHIFT
        if node in self._node_slab:
            return True
        slab = self.radix_nodes.try_alloc(task, GFP_NOWAIT | GFP_NOWARN)
        if slab < 0:
            slab = self.radix_nodes.try_alloc(task, gfp | GFP_NOWARN)
            if slab < 0:
                return False
        self._node_slab[node] = slab
        self._node_entries[node] = 0
        return True

    def _node_add(self, slot: int) -> None:
        self._node_entries[slot >> XA_CHUNK_SHIFT] += 1

    def _node_del(self, slot: int) -> None:
        node = slot >> XA_CHUNK_SHIFT
        self._node_entries[node] -= 1
        if not self._node_entries[node]:
            del self._node_entries[node]
            self.radix_nodes.free(self._node_slab.pop(node))

    def add_to_swap(self, task: Task, pfns: PfnArray) -> int:
        """Give the first pages of ``pfns`` slots and put them in the swap cache (add_to_swap); return how many."""
        slots = self._alloc_slots(len(pfns))
        good = 0
        last_node = -1
        for slot in slots:
            node = slot >> XA_CHUNK_SHIFT
            if node != last_node and not self._node_for(task, slot, GFP_HIGH | GFP_NOMEMALLOC):
                break
            last_node = node
            if self.shadow[slot]:
                self.shadow[slot] = 0
            else:
                self._node_entries[node] += 1
            good += 1
        if good < len(slots):
            self._free_slots(slots[good:])
            slots = slots[:good]
        if good:
            chunk = pfns[:good]
            where = np.array(slots, dtype=np.intp)
            self.cache[where] = chunk + 1
            self.frames.swap[chunk] = where + 1
            self.frames.flags[chunk] |= _U16(PG_SWAPCACHE | PG_DIRTY)
            self.vmstat.nr_swapcached += good
            self.vmstat.nr_file_pages += good
        return good

    def delete_from_swap_cache(self, pfns: PfnArray) -> None:
        """Take clean pages out of the swap cache, leaving shadows; free slots nobody holds (__remove_mapping)."""
        frames = self.frames
        slots = frames.swap[pfns] - 1
        state = frames.flags[pfns]
        working = state & _U16(PG_WORKINGSET) != 0
        frames.flags[pfns] = state & _U16(0xFFFF & ~PG_SWAPCACHE)
        age = self.lruvec.nonresident_age
        nr = len(pfns)
        self.cache[slots] = 0
        self.shadow[slots] = (np.arange(age, age + nr) * 2 + working) + 2
        self.lruvec.nonresident_age += nr
        frames.swap[pfns] = 0
        self.vmstat.nr_swapcached -= nr
        self.vmstat.nr_file_pages -= nr
        if not self.count[slots].all():
            self._free_slots([slot for slot in slots.tolist() if not self.count[slot]])

    def try_to_free_swap(self, pfn: int) -> bool:
        """Give up a page's slot if only the cache refers to it; the page is then dirty (folio_free_swap)."""
        frames = self.frames
        flags = frames.flags_of[pfn]
        slot = frames.swap_of[pfn] - 1
        if not flags & PG_SWAPCACHE or flags & PG_WRITEBACK or self.count[slot]:
            return False
        self.cache[slot] = 0
        self._node_del(slot)
        frames.swap_of[pfn] = 0
        frames.flags_of[pfn] = flags & ~PG_SWAPCACHE | PG_DIRTY
        self.vmstat.nr_swapcached -= 1
        self.vmstat.nr_file_pages -= 1
        self._free_slots([slot])
        return True

    # -- writing --------------------------------------------------------------------------------------------------

    def start_plug(self, task: Task) -> PlugPort:
        """Begin to collect a task's requests."""
        return self.io.start_plug(task)

    def nr_ready_writes(self) -> int:
        """Return how many pages could be written now without sleeping."""
        return self.io.nr_ready_writes()

    async def swap_writepages(self, task: Task, pfns: PfnArray, plug: PlugPort) -> None:
        """Start writing locked swap cache pages (swap_writepage); each is unlocked when it is under writeback."""
        await self.io.write(task, plug, pfns)

    async def swap_write_unplug(self, task: Task, plug: PlugPort) -> None:
        """Send what a swap file has collected at the end of a list of pages (swap_write_unplug)."""
        await self.io.unplug(task, plug)

    def blocked(self, pfns: PfnArray, task: Task | None) -> None:
        """Note who will write these locked pages once there is memory for it; None when there is."""
        if task is not None:
            self._writers.update(dict.fromkeys(pfns.tolist(), task))
            return
        for pfn in pfns.tolist():
            del self._writers[pfn]

    def begin_writeback(self, pfns: PfnArray) -> tuple[list[int], list[int]]:
        """Put locked pages under writeback and unlock them; return their slots and the versions of their content."""
        nr = len(pfns)
        frames = self.frames
        frames.flags[pfns] = frames.flags[pfns] & _U16(0xFFFF & ~PG_LOCKED) | _U16(PG_WRITEBACK)
        if self._page_waits:
            for pfn in pfns.tolist():
                self._wake_page(pfn)
        vmstat = self.vmstat
        vmstat.pswpout += nr
        vmstat.pgpgout += 4 * nr
        vmstat.nr_writeback += nr
        self._account_pending(pfns, nr)
        slots: list[int] = (frames.swap[pfns] - 1).tolist()
        versions: list[int] = self.slot_version[slots].tolist()
        return slots, versions

    def _account_pending(self, pfns: PfnArray, sign_nr: int) -> None:
        zones = self.pages.node.zones
        if len(zones) == 1:
            zones[0].nr_write_pending += sign_nr
            return
        sign = 1 if sign_nr > 0 else -1
        for pfn in pfns.tolist():
            self.pages.node.zone_of(pfn).nr_write_pending += sign

    def end_swap_write(self, rq: Request, error: int, task: Task) -> None:
        """End the writeback of a request's pages; those marked by reclaim rotate to the tail.

        Mirrors ``end_swap_bio_write`` and ``sio_write_complete``.
        """
        nr = rq.nr_pages
        task.charge_ns += nr * self.costs.end_writeback_page
        frames = self.frames
        pfns = np.array(rq.pfns, dtype=np.intp)
        state = frames.flags[pfns]
        vmstat = self.vmstat
        vmstat.nr_writeback -= nr
        vmstat.nr_written += nr
        self._account_pending(pfns, -nr)
        if error:
            self.write_errors += nr
            frames.flags[pfns] = state & _U16(0xFFFF & ~(PG_WRITEBACK | PG_RECLAIM)) | _U16(PG_DIRTY)
        else:
            self.nr_cleaned += nr
            self.stored_version[rq.slot : rq.end_slot] = rq.versions
            frames.flags[pfns] = state & _U16(0xFFFF & ~(PG_WRITEBACK | PG_RECLAIM))
            rotate = pfns[state & _U16(PG_RECLAIM) != 0]
            self.lruvec.folio_rotate_reclaimable(rotate.tolist())
        if self.vmscan.nr_writeback_throttled:
            self.vmscan.acct_reclaim_writeback(nr)

    # -- reading --------------------------------------------------------------------------------------------------

    async def do_swap_page(self, task: Task, space: AddressSpace, vpn: int, *, write: bool) -> bool:
        """Bring a page back and map it; False for a read error or a killed program (do_swap_page)."""
        vmstat = self.vmstat
        while space.pte_of[vpn] < 0:
            vmstat.pgfault += 1
            slot = -space.pte_of[vpn] - 1
            pfn = int(self.cache[slot]) - 1
            if pfn < 0:
                vmstat.pgmajfault += 1
                task.charge_ns += self.costs.fault_major
                if not await self.swapin_readahead(task, space, vpn, slot):
                    return False
                pfn = int(self.cache[slot]) - 1
                if pfn < 0:
                    continue
            else:
                self._note_cache_hit(space, vpn, pfn)
            if self.frames.flags_of[pfn] & PG_LOCKED:
                await self.folio_lock_or_retry(task, pfn)
                continue
            if task.killed:
                return False
            if self.read_failed(slot):
                return False
            task.charge_ns += self.costs.fault_swapcache
            self._map(space, vpn, pfn, slot, write=write)
        return True

    def read_failed(self, slot: int) -> bool:
        """Whether the page of a slot could not be read: the program gets SIGBUS."""
        return bool(self.slot_version[slot] < 0)

    def _note_cache_hit(self, space: AddressSpace, vpn: int, pfn: int) -> None:
        """Keep the readahead window's books on a hit (swap_cache_get_folio)."""
        space.ra_addr = vpn
        flags = self.frames.flags_of
        if flags[pfn] & PG_READAHEAD:
            flags[pfn] &= ~PG_READAHEAD
            if self.rotational:
                self._ra_hits += 1
            else:
                space.ra_hits = min(space.ra_hits + 1, SWAP_RA_HITS_MAX)
            self.vmstat.swap_ra_hit += 1

    async def folio_lock_or_retry(self, task: Task, pfn: int) -> None:
        """Drop the mmap lock and wait until the page is unlocked; the whole fault starts over."""
        queue = self._page_waits.get(pfn)
        if queue is None:
            resource = Resource("page", f"lock of page {pfn} (swap-in)", lambda: self._providers_of_page(pfn))
            queue = self._page_waits[pfn] = WaitQueue(self.world, resource)
        await queue.wait(task)

    def _wake_page(self, pfn: int) -> None:
        """Wake who waits for a page that has been unlocked (folio_unlock)."""
        queue = self._page_waits.pop(pfn, None)
        if queue is not None:
            queue.wake_all()

    def _providers_of_page(self, pfn: int) -> list[Provider | Task]:
        if pfn in self._writers:
            return [self._writers[pfn]]
        return list(self.io.providers(pfn))

    def _map(self, space: AddressSpace, vpn: int, pfn: int, slot: int, *, write: bool) -> None:
        frames = self.frames
        self.count[slot] -= 1
        frames.mapping_of[pfn] = space.id
        frames.index_of[pfn] = vpn + 1
        space.pte_of[vpn] = pfn + 1
        space.nr_anon += 1
        space.nr_swap -= 1
        self.vmstat.nr_anon_pages += 1
        space.bits_of[vpn] = PTE_YOUNG | (PTE_WRITE | PTE_DIRTY if write else 0)
        if self.is_full() or (write and not frames.pins_of[pfn]):
            self.try_to_free_swap(pfn)

    def _window(self, space: AddressSpace, vpn: int) -> tuple[int, int]:
        """Return the pages ``[start, end)`` to read for a fault (swap_ra_info)."""
        max_win = 1 << min(self.page_cluster, 5)
        if max_win == 1:
            return vpn, vpn + 1
        previous = space.ra_addr
        pages = _swapin_nr_pages(vpn, previous, hits=space.ra_hits, max_pages=max_win, previous_pages=space.ra_win)
        space.ra_addr, space.ra_win, space.ra_hits = vpn, pages, 0
        if pages == 1:
            return vpn, vpn + 1
        if vpn == previous + 1:
            start, end = vpn, vpn + pages
        elif vpn == previous - 1:
            start, end = vpn - pages + 1, vpn + 1
        else:
            left = (pages - 1) // 2
            start, end = vpn - left, vpn + pages - left
        table = vpn // PTRS_PER_PTE * PTRS_PER_PTE
        return max(start, table, 0), min(end, table + PTRS_PER_PTE, space.nr_pages)

    def _slot_window(self, target: int) -> range:
        """Return the slots to read for a fault: an aligned cluster around it (swapin_nr_pages)."""
        max_pages = 1 << self.page_cluster
        if max_pages == 1:
            return range(target, target + 1)
        hits, self._ra_hits = self._ra_hits, 0
        pages = _swapin_nr_pages(target, self._ra_offset, hits=hits, max_pages=max_pages, previous_pages=self._ra_win)
        if not hits:
            self._ra_offset = target
        self._ra_win = pages
        mask = pages - 1
        if not mask:
            return range(target, target + 1)
        return range(max(target & ~mask, 1), min((target | mask) + 1, len(self.count)))

    async def swapin_readahead(self, task: Task, space: AddressSpace, vpn: int, target: int) -> bool:
        """Start reading the window around a fault under one plug; False if no page could be had for the fault.

        The window is of virtual addresses, or of slots on a rotational device (swap_cluster_readahead).
        """
        if self.rotational:
            slots = list(self._slot_window(target))
        else:
            start, end = self._window(space, vpn)
            slots = [-entry - 1 for entry in space.pte[start:end].tolist() if entry < 0]
        plug = self.io.start_plug(task)
        ok = True
        for slot in slots:
            if self.cache[slot] or not self.count[slot]:
                continue
            pfn = await self.read_swap_cache_async(task, slot)
            if pfn < 0:
                ok = slot != target
                break
            if slot != target:
                self.frames.flags_of[pfn] |= PG_READAHEAD
                self.vmstat.swap_ra += 1
            await self._swap_readpage(task, plug, slot, pfn)
        await self.io.unplug(task, plug)
        plug.finish()
        self.lruvec.lru_add_drain()
        return ok or bool(self.cache[target])

    async def read_swap_cache_async(self, task: Task, slot: int) -> int:
        """Put a new, locked page for a slot in the swap cache; return it, or -1 (__read_swap_cache_async)."""
        pfn = await self.pages.alloc_pages(task, 0, GFP_SWAPIN, self.owner_anon)
        if pfn < 0:
            return -1
        if self.cache[slot] or not self.count[slot]:
            # somebody else was faster while we slept
            self.pages.free_pages(pfn, 0)
            return int(self.cache[slot]) - 1
        if not self._node_for(task, slot, GFP_NOWAIT):
            self.pages.free_pages(pfn, 0)
            return -1
        frames = self.frames
        frames.flags_of[pfn] |= PG_SWAPBACKED | PG_SWAPCACHE | PG_LOCKED
        frames.swap_of[pfn] = slot + 1
        frames.mapping_of[pfn] = 0
        frames.index_of[pfn] = 0
        self.cache[slot] = pfn + 1
        self.vmstat.nr_swapcached += 1
        self.vmstat.nr_file_pages += 1
        shadow = int(self.shadow[slot])
        if shadow:
            self.shadow[slot] = 0
            self._workingset_refault(pfn, shadow - 2)
        else:
            self._node_add(slot)
        self.lruvec.folio_add_lru(pfn)
        task.charge_ns += self.costs.swapin_page
        return pfn

    @property
    def owner_anon(self) -> int:
        """The ledger's id of anonymous memory."""
        return self.pages.ledger.owner("anon")

    def _workingset_refault(self, pfn: int, shadow: int) -> None:
        """Activate a page that comes back sooner than the lists are long (workingset_refault)."""
        vmstat = self.vmstat
        vmstat.workingset_refault_anon += 1
        lists = self.lruvec.lists
        distance = self.lruvec.nonresident_age - shadow // 2
        size = len(lists[ACTIVE_FILE]) + len(lists[INACTIVE_FILE])
        if self.nr_free > 0:
            size += len(lists[ACTIVE_ANON])
        if distance > size:
            return
        self.frames.flags_of[pfn] |= PG_ACTIVE
        self.lruvec.nonresident_age += 1
        vmstat.workingset_activate_anon += 1
        if shadow & 1:
            self.frames.flags_of[pfn] |= PG_WORKINGSET
            vmstat.workingset_restore_anon += 1
            self.lruvec.note_cost(file=False, nr_pages=1)

    async def _swap_readpage(self, task: Task, plug: PlugPort, slot: int, pfn: int) -> None:
        """Submit the read of one page (swap_readpage)."""
        self.vmstat.pswpin += 1
        self.vmstat.pgpgin += 4
        await self.io.read(task, plug, slot, pfn)

    def end_swap_read(self, rq: Request, error: int, task: Task) -> None:
        """Unlock what was read and wake who waits for it (end_swap_bio_read, sio_read_complete)."""
        nr = rq.nr_pages
        task.charge_ns += nr * self.costs.end_read_page
        flags = self.frames.flags_of
        self.nr_read += nr
        for i, pfn in enumerate(rq.pfns):
            slot = rq.slot + i
            if error:
                self.read_errors += 1
                self.slot_version[slot] = -1
            elif rq.versions[i] != self.slot_version[slot] and self.count[slot]:
                self.corrupt.append(
                    f"slot {slot}: read version {rq.versions[i]}, newest written {int(self.slot_version[slot])}"
                )
            flags[pfn] &= ~PG_LOCKED
            self._wake_page(pfn)

    # -- looking in -----------------------------------------------------------------------------------------------

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (
            self.nr_free,
            self.nr_cleaned,
            self.nr_read,
            self.io.digest(),
        )

    def nr_nodes(self) -> int:
        """Return the tree nodes in use."""
        return len(self._node_slab)


def _swapin_nr_pages(here: int, previous: int, *, hits: int, max_pages: int, previous_pages: int) -> int:
    """Return how many pages to read: more after hits, no fewer than half of last time (__swapin_nr_pages)."""
    if hits:
        pages = max(4, 1 << (hits + 1).bit_length())
    else:
        pages = 2 if here in (previous + 1, previous - 1) else 1
    return max(min(pages, max_pages), previous_pages // 2)
