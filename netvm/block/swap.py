"""The swap area: the swap cache, and pages going out and coming back.

Mirrors mm/swap_state.c, mm/page_io.c and ``do_swap_page`` (mm/memory.c) of 6.1 for one device or
file. Its parts are rooms of their own: slots (:mod:`netvm.block.swap_slots`), the tree's nodes
(:mod:`netvm.block.swap_tree`), readahead (:mod:`netvm.block.swap_readahead`) and the two ways of input and output
(:mod:`netvm.block.swap_io`, :mod:`netvm.block.swap_file`).

A page that is swapped in by a read keeps its slot and its place in the swap cache: if it is not written it can be
dropped without I/O. A write fault that finds itself alone frees the slot.

Integrity: each slot remembers the version of the content that was unmapped into it (``slot_version``); what is read
back must be that version.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netvm.block.blk_mq import Request
from netvm.block.swap_io import SwapIo
from netvm.block.swap_quick import QuickWrites
from netvm.block.swap_readahead import SwapReadahead
from netvm.block.swap_slots import SwapSlots
from netvm.block.swap_tree import XA_CHUNK_SHIFT, SwapTree
from netvm.errors import Errno
from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE, PTE_YOUNG, AddressSpace
from netvm.mm.frames import (
    PG_DIRTY,
    PG_LOCKED,
    PG_READAHEAD,
    PG_RECLAIM,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_WORKINGSET,
    PG_WRITEBACK,
    Frames,
    scalar_view,
)
from netvm.mm.gfp import GFP_COMP, GFP_HIGH, GFP_HIGHUSER_MOVABLE, GFP_NOMEMALLOC, GFP_NOWAIT
from netvm.mm.lru import Lruvec
from netvm.mm.memcontrol import alloc_swapin_page, put_new_page
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.ports import PlugPort
from netvm.mm.slab import SlabCache
from netvm.mm.vmscan import Vmscan
from netvm.mm.workingset import workingset_refault
from netvm.runtime.costs import CpuCosts
from netvm.runtime.seeds import Stream
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.trace.recorder import Recorder
from netvm.trace.vmstat import VmStat

__all__ = ["GFP_SWAPIN", "SwapArea"]

GFP_SWAPIN: Final = GFP_HIGHUSER_MOVABLE | GFP_COMP


class SwapArea:
    """One swap device or file."""

    needs_fs = writes_synchronously = False

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
        self.needs_fs, self.writes_synchronously = io.needs_fs, io.writes_synchronously
        self.frames = frames
        self.pages = pages
        self.lruvec = lruvec
        self.vmstat = vmstat
        self.costs = costs
        self.readahead = SwapReadahead(page_cluster=page_cluster, rotational=rotational)
        self.vmscan: Vmscan
        self.tracer: Recorder | None = None
        self.slots = SwapSlots(nr_pages, random=random)
        self.count = self.slots.count
        """swap_map: references from page tables."""
        self.cache: npt.NDArray[np.int32] = np.zeros(nr_pages, dtype=np.int32)
        """Frame + 1 of the swap cache page, 0 for none."""
        self.shadow: npt.NDArray[np.int64] = np.zeros(nr_pages, dtype=np.int64)
        """Eviction time * 2 + workingset bit, + 2; 0 for none."""
        self.slot_version: npt.NDArray[np.int64] = np.zeros(nr_pages, dtype=np.int64)
        self.stored_version: npt.NDArray[np.int64] = np.zeros(nr_pages, dtype=np.int64)
        """Newest version whose write was acknowledged without error."""
        self.count_of, self.cache_of = scalar_view(self.count), scalar_view(self.cache)
        self.shadow_of, self.version_of = scalar_view(self.shadow), scalar_view(self.slot_version)
        self.tree = SwapTree(radix_nodes)
        self.quick = QuickWrites(self)
        self._page_waits: dict[int, WaitQueue] = {}
        self._writers: dict[int, Task] = {}  # who holds the lock of a page it has no bio for yet
        self.corrupt: list[str] = []
        """What integrity checking found."""
        self.read_errors = 0
        self.write_errors = 0
        self.failed_slots: set[int] = set()
        """Where a write has ever failed."""
        self.nr_write_refused = 0
        """Pages whose file system had no memory to write them: dirty again, not lost."""
        self.nr_cleaned = 0
        """Pages whose write has ended: progress."""
        self.nr_read = 0

    # -- slots ----------------------------------------------------------------------------------------------------

    def nr_free_slots(self) -> int:
        """Return get_nr_swap_pages()."""
        return self.slots.nr_free

    def nr_total_slots(self) -> int:
        """Return total_swap_pages."""
        return self.slots.nr_total

    def is_full(self) -> bool:
        """Return vm_swap_full(): less than half is free."""
        return self.slots.is_full()

    def duplicate(self, slot: int, version: int) -> None:
        """Note that a page table now holds this slot, for content of this version (swap_duplicate)."""
        self.count_of[slot] += 1
        self.version_of[slot] = version

    def free_swap_and_cache(self, slots: Sequence[int]) -> list[int]:
        """Drop one reference to each slot; one that nothing refers to is freed, with its page in the swap cache.

        Returns the pages that left the swap cache: nobody maps them. One that is locked or under writeback stays.
        """
        unused = []
        pages = []
        for slot in slots:
            self.count_of[slot] -= 1
            if self.count_of[slot]:
                continue
            pfn = self.cache_of[slot] - 1
            if pfn < 0:
                unused.append(slot)
            elif not self.frames.flags_of[pfn] & PG_LOCKED and self.try_to_free_swap(pfn):
                pages.append(pfn)
        self.slots.free(unused)
        return pages

    # -- the swap cache and its tree ------------------------------------------------------------------------------

    def add_to_swap(self, task: Task, pfns: list[int]) -> int:
        """Give the first pages of ``pfns`` slots and put them in the swap cache (add_to_swap); return how many."""
        frames = self.frames
        shadow_of = self.shadow_of
        slots = self.slots.alloc(len(pfns), 0 if task.cpu is None else task.cpu.index)
        good = 0
        last_node = -1
        for pfn, slot in zip(pfns, slots, strict=False):
            node = slot >> XA_CHUNK_SHIFT
            if node != last_node and not self.tree.try_node_for(task, slot, GFP_HIGH | GFP_NOMEMALLOC):
                break
            last_node = node
            if shadow_of[slot]:
                shadow_of[slot] = 0
            else:
                self.tree.add(slot)
            self.cache_of[slot] = pfn + 1
            frames.swap_of[pfn] = slot + 1
            frames.flags_of[pfn] |= PG_SWAPCACHE | PG_DIRTY
            good += 1
        if good < len(slots):
            self.slots.free(slots[good:])
        if self.pages.memcg is not None:
            self.slots.memcg[slots[:good]] = frames.memcg[pfns[:good]]
        self.vmstat.nr_swapcached += good
        self.vmstat.nr_file_pages += good
        return good

    def delete_from_swap_cache(self, pfns: list[int]) -> None:
        """Take clean pages out of the swap cache, leaving shadows; free slots nobody holds (__remove_mapping)."""
        flags_of, swap_of = self.frames.flags_of, self.frames.swap_of
        age = self.lruvec.nonresident_age
        unused = []
        for pfn in pfns:
            slot = swap_of[pfn] - 1
            state = flags_of[pfn]
            flags_of[pfn] = state & ~PG_SWAPCACHE
            swap_of[pfn] = 0
            self.cache_of[slot] = 0
            self.shadow_of[slot] = age * 2 + (1 if state & PG_WORKINGSET else 0) + 2
            age += 1
            if not self.count_of[slot]:
                unused.append(slot)
        self.lruvec.nonresident_age = age
        self.vmstat.nr_swapcached -= len(pfns)
        self.vmstat.nr_file_pages -= len(pfns)
        self.slots.free(unused)

    def move_in_swap_cache(self, src: int, dst: int) -> None:
        """Have the slot of a page find it in its new frame."""
        slot = self.frames.swap_of[dst] - 1
        assert self.cache_of[slot] == src + 1, f"frame {src} is not where its slot has it"
        self.cache_of[slot] = dst + 1

    def try_to_free_swap(self, pfn: int) -> bool:
        """Give up a page's slot if only the cache refers to it; the page is then dirty (folio_free_swap)."""
        frames = self.frames
        flags = frames.flags_of[pfn]
        slot = frames.swap_of[pfn] - 1
        if not flags & PG_SWAPCACHE or flags & PG_WRITEBACK or self.count_of[slot]:
            return False
        self.cache_of[slot] = 0
        self.tree.delete(slot)
        frames.swap_of[pfn] = 0
        frames.flags_of[pfn] = flags & ~PG_SWAPCACHE | PG_DIRTY
        self.vmstat.nr_swapcached -= 1
        self.vmstat.nr_file_pages -= 1
        self.slots.free([slot])
        return True

    # -- writing --------------------------------------------------------------------------------------------------

    def start_plug(self, task: Task) -> PlugPort:
        """Begin to collect a task's requests."""
        return self.io.start_plug(task)

    async def swap_writepages(
        self, task: Task, pfns: list[int], plug: PlugPort, begun: tuple[int, list[int]] | None = None
    ) -> None:
        """Start writing locked swap cache pages (swap_writepage); each is unlocked when it is under writeback.

        Where that is so already, ``begun`` says their first slot and their content.
        """
        await self.io.write(task, plug, pfns, begun)

    async def swap_write_unplug(self, task: Task, plug: PlugPort) -> None:
        """Send what a swap file has collected at the end of a list of pages (swap_write_unplug)."""
        await self.io.unplug(task, plug)

    def blocked(self, pfns: list[int], task: Task | None) -> None:
        """Note who will write these locked pages once there is memory for it; None when there is."""
        if task is not None:
            self._writers.update(dict.fromkeys(pfns, task))
            return
        for pfn in pfns:
            del self._writers[pfn]

    def begin_writeback(self, pfns: list[int]) -> tuple[list[int], list[int]]:
        """Put locked pages under writeback and unlock them; return their slots and the versions of their content."""
        flags_of, swap_of, version_of = self.frames.flags_of, self.frames.swap_of, self.version_of
        slots, versions = list[int](), list[int]()
        for pfn in pfns:
            flags_of[pfn] = flags_of[pfn] & ~PG_LOCKED | PG_WRITEBACK
            if self._page_waits:
                self._wake_page(pfn)
            slot = swap_of[pfn] - 1
            slots.append(slot)
            versions.append(version_of[slot])
        self.count_written(pfns)
        return slots, versions

    def count_written(self, pfns: list[int]) -> None:
        """Count pages whose write begins; kilobytes are counted by submit_bio, and a file is written without."""
        nr = len(pfns)
        vmstat = self.vmstat
        vmstat.pswpout += nr
        vmstat.pgpgout += 0 if self.io.needs_fs else 4 * nr
        vmstat.nr_writeback += nr
        self._account_pending(pfns, 1)

    def _account_pending(self, pfns: list[int], sign: int) -> None:
        zones = self.pages.node.zones
        if len(zones) == 1:
            zones[0].nr_write_pending += sign * len(pfns)
            return
        for pfn in pfns:
            self.pages.node.zone_of(pfn).nr_write_pending += sign

    def end_swap_write(self, rq: Request, error: int) -> None:
        """End the writeback of a request's pages; those marked by reclaim rotate to the tail.

        Mirrors ``end_swap_bio_write`` and ``sio_write_complete``.
        """
        pfns = rq.pfns
        nr = len(pfns)
        flags_of = self.frames.flags_of
        vmstat = self.vmstat
        vmstat.nr_writeback -= nr
        vmstat.nr_written += nr
        self._account_pending(pfns, -1)
        marked = [pfn for pfn in pfns if flags_of[pfn] & PG_RECLAIM]
        for pfn in pfns:
            flags_of[pfn] = flags_of[pfn] & ~(PG_WRITEBACK | PG_RECLAIM) | (PG_DIRTY if error else 0)
        if error == -Errno.ENOMEM:
            self.nr_write_refused += nr
        elif error:
            self.write_errors += nr
            self.failed_slots.update(range(rq.slot, rq.end_slot))
        else:
            self.nr_cleaned += nr
            self.stored_version[rq.slot : rq.end_slot] = rq.versions
            self.lruvec.folio_rotate_reclaimable(marked)
        self.vmscan.throttles.acct_reclaim_writeback(nr)
        if not self.io.needs_fs:
            self.vmscan.throttles.clear_bdi_congested()
        for pfn in pfns if self._page_waits else ():
            self._wake_page(pfn)

    # -- reading --------------------------------------------------------------------------------------------------

    async def do_swap_page(self, task: Task, space: AddressSpace, vpn: int, *, write: bool) -> bool:
        """Bring a page back and map it; False for a read error or a killed program (do_swap_page)."""
        vmstat = self.vmstat
        while space.pte_of[vpn] < 0:
            vmstat.pgfault += 1
            slot = -space.pte_of[vpn] - 1
            pfn = self.cache_of[slot] - 1
            if pfn < 0:
                vmstat.pgmajfault += 1
                task.charge_ns += self.costs.fault_major
                await self.swapin_readahead(task, space, vpn, slot)
                pfn = self.cache_of[slot] - 1
                if pfn < 0 or space.pte_of[vpn] != -(slot + 1):
                    # another thread has mapped it (pte_same), or there was no memory and the program faults again
                    if task.killed:
                        return False
                    await self.pages.cond_resched(task)
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
            self.readahead.hit(space)
            self.vmstat.swap_ra_hit += 1

    async def wait_on_page_writeback(self, task: Task, pfn: int) -> None:
        """Sleep until the writeback of a page has ended (folio_wait_writeback)."""
        await self._page_queue(pfn, f"writeback of page {pfn}").wait(task)

    def _page_queue(self, pfn: int, name: str) -> WaitQueue:
        if pfn not in self._page_waits:
            resource = Resource("page", name, lambda: self._providers_of_page(pfn))
            self._page_waits[pfn] = WaitQueue(self.world, resource)
        return self._page_waits[pfn]

    async def folio_lock_or_retry(self, task: Task, pfn: int) -> None:
        """Drop the mmap lock and wait until the page is unlocked; the whole fault starts over."""
        queue = self._page_queue(pfn, f"lock of page {pfn} (swap-in)")
        wait = queue.wait(task) if self.tracer is None else self.tracer.wait(task, pfn, queue.wait(task))
        lock = None if task.mm is None else task.mm.mmap_lock
        await (wait if lock is None else lock.drop_while(task, wait))

    def _wake_page(self, pfn: int) -> None:
        """Wake who waits for a page that has been unlocked (folio_unlock)."""
        queue = self._page_waits.pop(pfn, None)
        if queue is not None:
            queue.wake_all()

    def _providers_of_page(self, pfn: int) -> list[Provider | Task]:
        return [self._writers[pfn]] if pfn in self._writers else list(self.io.providers(pfn))

    def _map(self, space: AddressSpace, vpn: int, pfn: int, slot: int, *, write: bool) -> None:
        frames = self.frames
        self.count_of[slot] -= 1
        frames.mapping_of[pfn] = space.id
        frames.index_of[pfn] = vpn + 1
        space.pte_of[vpn] = pfn + 1
        space.nr_anon += 1
        space.nr_swap -= 1
        self.vmstat.nr_anon_pages += 1
        space.bits_of[vpn] = PTE_YOUNG | (PTE_WRITE | PTE_DIRTY if write else 0)
        if self.is_full() or (write and not frames.pins_of[pfn]):
            self.try_to_free_swap(pfn)

    async def swapin_readahead(self, task: Task, space: AddressSpace, vpn: int, target: int) -> None:
        """Start reading the window around a fault under one plug, as far as it is not cached and there is memory.

        The window is of virtual addresses, or of slots on a rotational device (swap_cluster_readahead).
        """
        if self.readahead.rotational:
            slots = list(self.readahead.slot_window(target, len(self.count)))
        else:
            start, end = self.readahead.window(space, vpn)
            slots = [-entry - 1 for entry in space.pte[start:end].tolist() if entry < 0]
        plug = self.io.start_plug(task)
        for slot in slots:
            if self.cache_of[slot] or not self.count_of[slot]:
                continue
            pfn = await self.read_swap_cache_async(task, slot)
            if pfn < 0:
                continue
            if slot != target:
                self.frames.flags_of[pfn] |= PG_READAHEAD
                self.vmstat.swap_ra += 1
            await self._swap_readpage(task, plug, slot, pfn)
        await self.io.unplug(task, plug)
        plug.finish()
        self.lruvec.lru_add_drain()

    async def read_swap_cache_async(self, task: Task, slot: int) -> int:
        """Put a new, locked page for a slot in the swap cache and return it (__read_swap_cache_async).

        -1 if there is nothing to read: no memory for it, or somebody else has it there by then.
        """
        pfn = await alloc_swapin_page(self.pages, task, GFP_SWAPIN, self.owner_anon, self.slots.memcg[slot])
        if pfn < 0:
            return -1
        if self.cache_of[slot] or not self.count_of[slot]:
            # somebody else was faster while we slept
            put_new_page(self.pages, pfn)
            return -1
        if not self.tree.try_node_for(task, slot, GFP_NOWAIT):
            put_new_page(self.pages, pfn)
            return -1
        frames = self.frames
        frames.flags_of[pfn] |= PG_SWAPBACKED | PG_SWAPCACHE | PG_LOCKED
        frames.swap_of[pfn] = slot + 1
        frames.mapping_of[pfn] = 0
        frames.index_of[pfn] = 0
        self.cache_of[slot] = pfn + 1
        self.vmstat.nr_swapcached += 1
        self.vmstat.nr_file_pages += 1
        shadow = self.shadow_of[slot]
        if shadow:
            self.shadow_of[slot] = 0
            workingset_refault(self.lruvec, pfn, shadow - 2, file=False, nr_free_slots=self.slots.nr_free)
        else:
            self.tree.add(slot)
        self.lruvec.folio_add_lru(pfn)
        task.charge_ns += self.costs.swapin_page
        return pfn

    @property
    def owner_anon(self) -> int:
        """The ledger's id of anonymous memory."""
        return self.pages.ledger.owner("anon")

    async def _swap_readpage(self, task: Task, plug: PlugPort, slot: int, pfn: int) -> None:
        """Submit the read of one page (swap_readpage)."""
        self.vmstat.pswpin += 1
        self.vmstat.pgpgin += 0 if self.io.needs_fs else 4
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
        return self.slots.nr_free, self.nr_cleaned, self.nr_read, self.io.digest()
