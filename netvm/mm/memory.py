"""Page faults and what a program sees of memory: touching, mapping, unmapping.

Mirrors mm/memory.c for anonymous memory: ``do_anonymous_page``, ``do_wp_page`` (reuse only: nothing is shared),
``do_swap_page`` (through the swap port), and exit. A program touches a run of consecutive pages; what needs no sleep is
done for as many of them at once as can be before anything else in the world could happen, so the result does not
depend on how the run is cut.

Every write gives the pages touched a new *version*, the content as integrity checking knows it.
"""

from typing import Final

import numpy as np

from netvm.mm.address_space import (
    OOM_SCORE_ADJ_MIN,
    PTE_DIRTY,
    PTE_WRITE,
    PTE_YOUNG,
    PTRS_PER_PTE,
    AddressSpace,
)
from netvm.mm.frames import PG_LRU, PG_SWAPBACKED, PG_SWAPCACHE, PfnArray, is_blank
from netvm.mm.gfp import GFP_COMP, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_ZERO
from netvm.mm.lru import Lruvec
from netvm.mm.memcontrol import put_new_page
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.ports import SwapPort
from netvm.mm.shrink import Shrinker
from netvm.runtime.costs import CpuCosts
from netvm.runtime.cpu import PAY_QUANTUM_NS
from netvm.runtime.task import Task
from netvm.runtime.wait import RwSemaphore
from netvm.runtime.world import World
from netvm.trace.vmstat import VmStat

__all__ = ["GFP_ANON", "Memory"]

GFP_ANON: Final = GFP_HIGHUSER_MOVABLE | GFP_COMP | GFP_ZERO
"""Mask of a new anonymous page."""

_BLOCK_MAX: Final = 4096


class Memory:
    """Anonymous memory of one host's programs."""

    def __init__(
        self,
        world: World,
        *,
        pages: PageAllocator,
        lruvec: Lruvec,
        shrinker: Shrinker,
        swap: SwapPort,
        vmstat: VmStat,
        costs: CpuCosts,
    ) -> None:
        self.world = world
        self.pages = pages
        self.frames = pages.frames
        self.lruvec = lruvec
        self.shrinker = shrinker
        self.swap = swap
        self.vmstat = vmstat
        self.costs = costs
        self.owner_anon = shrinker.owner_anon
        self.owner_tables = pages.ledger.owner("page_tables")
        self._next_space = 1
        self._next_version = 1

    # -- mapping --------------------------------------------------------------------------------------------------

    def map_anonymous(self, task: Task, nr_pages: int, *, oom_score_adj: int = 0, nr_threads: int = 1) -> AddressSpace:
        """Give a program an anonymous mapping; nothing is allocated yet (mmap).

        Of more than one thread the others join it with :meth:`clone_vm`.
        """
        space = self._new_space(task.comm, nr_pages, oom_score_adj)
        space.nr_threads = nr_threads
        if nr_threads > 1:
            space.mmap_lock = RwSemaphore(self.world, f"mmap_lock: {task.comm}")
        if self.pages.memcg is not None:
            space.memcg = self.pages.memcg.id_of(task)
        self.clone_vm(task, space)
        return space

    def map_image(self, space: AddressSpace, nr_pages: int, hot: tuple[tuple[int, bool], ...]) -> AddressSpace:
        """Give a program a stack and data of its own; ``hot``: which of these pages each step uses, and if it writes.

        # MODEL: the OOM killer neither counts nor reaps these few pages; they go when the program has ended.
        """
        image = space.image = self._new_space(space.comm, nr_pages, OOM_SCORE_ADJ_MIN)
        image.hot = hot
        image.memcg = space.memcg
        return image

    def _new_space(self, comm: str, nr_pages: int, oom_score_adj: int) -> AddressSpace:
        """Make a mapping that reclaim can find."""
        space = AddressSpace(self._next_space, comm, nr_pages, oom_score_adj=oom_score_adj)
        self._next_space += 1
        self.shrinker.spaces[space.id] = space
        return space

    def clone_vm(self, task: Task, space: AddressSpace) -> None:
        """Let a task use a program's memory: another of its threads (CLONE_VM)."""
        space.tasks.append(task)
        task.mm = space

    def mmput(self, task: Task, space: AddressSpace) -> None:
        """A thread has ended; with the last one the memory goes."""
        space.nr_threads -= 1
        if not space.nr_threads:
            self.exit_mmap(space)
            return
        space.tasks.remove(task)
        task.mm = None

    def exit_mmap(self, space: AddressSpace) -> None:
        """Free all of a program's memory (exit_mmap)."""
        self.unmap_all(space)
        for pfn in space.table_of:
            if pfn >= 0:
                self.pages.free_pages(pfn, 0)
        self.vmstat.nr_page_table_pages -= space.nr_page_tables
        space.nr_page_tables = 0
        space.table_of = [-1] * len(space.table_of)
        self.shrinker.spaces.pop(space.id, None)
        if space.image is not None:
            self.exit_mmap(space.image)
            space.image = None
        for task in space.tasks:
            task.mm = None
        space.tasks = []

    def unmap_all(self, space: AddressSpace) -> None:
        """Drop every page and swap entry of a mapping (unmap_vmas)."""
        slots = -space.pte[space.swapped()] - 1
        mapped = space.resident()
        pfns = (space.pte[mapped] - 1).astype(np.intp)
        for part in space.used():
            space.pte[part] = 0
            space.bits[part] = 0
        space.nr_swap -= len(slots)
        space.nr_anon -= len(pfns)
        self.vmstat.nr_anon_pages -= len(pfns)
        assert space.nr_anon == 0
        assert space.nr_swap == 0
        self._release_pages(pfns)
        uncached = self.swap.free_swap_and_cache(slots.tolist())
        if uncached:
            self.lruvec.lru_add_drain()
            self._free_unused(np.array(uncached, dtype=np.intp))

    def _release_pages(self, pfns: PfnArray) -> None:
        """Free unmapped pages, except those that reclaim has isolated or the swap cache keeps."""
        if not len(pfns):
            return
        frames = self.frames
        self.lruvec.lru_add_drain()
        frames.mapping[pfns] = 0
        state = frames.flags[pfns]
        cached = state & np.uint16(PG_SWAPCACHE) != 0
        for pfn in pfns[cached].tolist():
            self.swap.try_to_free_swap(pfn)
        self._free_unused(pfns[frames.flags[pfns] & np.uint16(PG_SWAPCACHE) == 0])

    def _free_unused(self, pfns: PfnArray) -> None:
        """Free pages that neither a page table nor the swap cache holds; reclaim frees those it has isolated."""
        isolated = self.frames.flags[pfns] & np.uint16(PG_LRU) == 0
        self.shrinker.nr_orphans += int(np.count_nonzero(isolated))
        dead = pfns[~isolated]
        if len(dead):
            self.lruvec.forget_many(dead)
            self.shrinker.free_anon(dead)

    # -- touching -------------------------------------------------------------------------------------------------

    async def touch_run(
        self, task: Task, space: AddressSpace, vpn: int, nr_pages: int, *, write: bool, read_first: bool = False
    ) -> bool:
        """Touch consecutive pages in order, faulting as needed; False if the program must die (SIGBUS or no memory).

        With ``read_first`` each page is read before it is written: a page that comes back from swap is mapped read-only
        and the write takes a write-protect fault.
        """
        lock = None if self.pages.fixes.per_vma_lock else space.mmap_lock
        touches = space.touches.get(task)
        end = vpn + nr_pages
        while vpn < end:
            first = vpn
            begun_ns = task.time_ns
            entry = space.pte_of[vpn]
            limit = min(end - vpn, self._budget_pages(task, entry))
            if entry > 0:
                vpn += self._touch_mapped(task, space, vpn, limit, write=write)
            else:
                if lock is not None:
                    await lock.down_read(task)
                try:
                    done = await self._handle_mm_fault(task, space, vpn, limit, write=write and not read_first)
                finally:
                    # not its own any more if the task ends while it waits for a page (drop_while)
                    if lock is not None and task in lock.readers:
                        lock.up_read(task)
                if not done:
                    return False
                vpn += done if not entry else self._touch_mapped(task, space, vpn, 1, write=write)
            if space.image is not None and not await self._use_image(task, space.image):
                return False
            if task.cpus is not None:
                # an event may fall into the last of so many new pages as were asked for
                if not entry and vpn - first == limit:
                    await task.cpus.pay(task)
                else:
                    await task.cpus.cond_resched(task)
            if touches is not None:
                touches.add(vpn - first, task.time_ns - begun_ns)
        return True

    async def _use_image(self, task: Task, image: AddressSpace) -> bool:
        """Use the hot pages of the program's own, which may have to come back from swap; False if it must die.

        The cost of the touch that they are used by has this in it.
        """
        for vpn, write in image.hot:
            if image.pte_of[vpn] <= 0 and not await self.swap.do_swap_page(task, image, vpn, write=write):
                return False
            self._touch_one(task, image, vpn, write=write)
        return True

    async def _handle_mm_fault(self, task: Task, space: AddressSpace, vpn: int, limit: int, *, write: bool) -> int:
        """Map a page that is not there, and new ones after it if they are at hand; return how many, 0 if none can."""
        if space.mmap_lock is not None and (space.killed or task.killed):
            # it may have waited for the lock, or another thread was chosen
            return 0
        if space.pte_of[vpn] < 0:
            return int(await self.swap.do_swap_page(task, space, vpn, write=write))
        return self._touch_new(task, space, vpn, limit) or await self.do_anonymous_page(task, space, vpn)

    def _budget_pages(self, task: Task, entry: int) -> int:
        """How many pages are touched before something else happens, up to a tick or a block."""
        # a new page may come by the slow path's first attempt
        cost_ns = self.costs.touch if entry > 0 else self.costs.fault_anon + self.costs.alloc_slow
        cpus = task.cpus
        if cpus is None:
            return _BLOCK_MAX
        nr = cpus.nr_undisturbed(task, cost_ns)
        if entry > 0:
            # nobody looks before the task pays
            nr = max(nr, PAY_QUANTUM_NS // (int(cost_ns * cpus.scale) or 1))
        return min(_BLOCK_MAX, nr)

    def _touch_mapped(self, task: Task, space: AddressSpace, vpn: int, limit: int, *, write: bool) -> int:
        """Touch mapped pages up to the first that is not; return how many."""
        if limit == 1:
            nr = self._touch_one(task, space, vpn, write=write)
            task.charge_ns += nr * self.costs.touch
            return nr
        entries = space.pte[vpn : vpn + limit]
        gaps = np.flatnonzero(entries <= 0)
        nr = int(gaps[0]) if len(gaps) else len(entries)
        here = slice(vpn, vpn + nr)
        bits = space.bits[here]
        task.charge_ns += nr * self.costs.touch
        if not write:
            bits |= np.uint8(PTE_YOUNG)
            return nr
        nr_protected = int(np.count_nonzero(bits & np.uint8(PTE_WRITE) == 0))
        if nr_protected:
            self.vmstat.pgfault += nr_protected
            self.vmstat.pgreuse += nr_protected
            task.charge_ns += nr_protected * self.costs.fault_wp
        bits |= np.uint8(PTE_YOUNG | PTE_WRITE | PTE_DIRTY)
        self.write_versions(space, vpn, nr)
        return nr

    def _touch_one(self, task: Task, space: AddressSpace, vpn: int, *, write: bool) -> int:
        """Touch one page if it is mapped: what comes back from swap comes page by page."""
        if space.pte_of[vpn] <= 0:
            return 0
        bits = space.bits_of[vpn]
        if not write:
            space.bits_of[vpn] = bits | PTE_YOUNG
            return 1
        if not bits & PTE_WRITE:
            self.vmstat.pgfault += 1
            self.vmstat.pgreuse += 1
            task.charge_ns += self.costs.fault_wp
        space.bits_of[vpn] = bits | PTE_YOUNG | PTE_WRITE | PTE_DIRTY
        space.version_of[vpn] = self._next_version
        self._next_version += 1
        return 1

    def write_versions(self, space: AddressSpace, vpn: int, nr_pages: int) -> None:
        """Give pages new content."""
        space.version[vpn : vpn + nr_pages] = np.arange(self._next_version, self._next_version + nr_pages)
        self._next_version += nr_pages

    def _touch_new(self, task: Task, space: AddressSpace, vpn: int, limit: int) -> int:
        """Map new pages as far as the fast path gives them at once; return how many."""
        if space.table_of[vpn // PTRS_PER_PTE] < 0:
            return 0
        limit = min(limit, PTRS_PER_PTE - vpn % PTRS_PER_PTE)
        entries = space.pte[vpn : vpn + limit]
        nr = len(entries) if is_blank(entries) else int(np.flatnonzero(entries)[0])
        memcg = self.pages.memcg
        nr = nr if memcg is None else memcg.margin(task, nr)
        found = self.pages.try_alloc_run(task, nr, GFP_ANON, self.owner_anon) if nr else []
        if not found:
            return 0
        pfns = np.array(found, dtype=np.intp)
        if memcg is not None:
            memcg.charge_at_once(task, pfns)
        self._map_new(task, space, vpn, pfns)
        return len(found)

    def _map_new(self, task: Task, space: AddressSpace, vpn: int, pfns: PfnArray) -> None:
        """Write new pages into the page table and on the LRU (do_anonymous_page)."""
        frames = self.frames
        nr = len(pfns)
        frames.flags[pfns] = PG_SWAPBACKED
        frames.block[pfns] = 0
        frames.owner[pfns] = self.owner_anon
        frames.mapping[pfns] = space.id
        frames.index[pfns] = np.arange(vpn + 1, vpn + nr + 1)
        space.pte[vpn : vpn + nr] = pfns + 1
        space.bits[vpn : vpn + nr] = PTE_YOUNG | PTE_WRITE | PTE_DIRTY
        space.nr_anon += nr
        self.write_versions(space, vpn, nr)
        self.vmstat.nr_anon_pages += nr
        self.vmstat.pgfault += nr
        self.lruvec.add_many(pfns)
        task.charge_ns += nr * self.costs.fault_anon

    async def do_anonymous_page(self, task: Task, space: AddressSpace, vpn: int) -> int:
        """Map one new page, sleeping for memory if need be; return 1, or 0 if there is none to be had."""
        if not await self.pte_alloc(task, space, vpn):
            return 0
        pfn = await self.pages.alloc_pages(task, 0, GFP_ANON, self.owner_anon)
        if pfn < 0:
            return 0
        memcg = self.pages.memcg
        if memcg is not None and not await memcg.charge(task, pfn, GFP_KERNEL, fault=True):
            return 0
        if space.killed or task.killed:
            put_new_page(self.pages, pfn)
            return 0
        state = self.frames.flags_of[pfn]
        self._map_new(task, space, vpn, np.array([pfn], dtype=np.intp))
        self.frames.flags_of[pfn] |= state
        return 1

    async def pte_alloc(self, task: Task, space: AddressSpace, vpn: int) -> bool:
        """Make sure there is a page table for this page (pte_alloc_one): one unmovable page for 512 PTEs."""
        table = vpn // PTRS_PER_PTE
        if space.table_of[table] >= 0:
            return True
        pfn = await self.pages.alloc_pages(task, 0, GFP_KERNEL | GFP_ZERO, self.owner_tables)
        if pfn < 0:
            return False
        space.table_of[table] = pfn
        space.nr_page_tables += 1
        self.vmstat.nr_page_table_pages += 1
        return True
