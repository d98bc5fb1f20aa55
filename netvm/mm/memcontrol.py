"""Memory groups: a limit on what some programs hold together, whatever the machine has free.

Mirrors mm/memcontrol.c of 6.1 for groups of cgroup v1: ``try_charge_memcg``, ``mem_cgroup_oom``,
``mem_cgroup_uncharge``. A page that a member faults in, or that it brings into the page cache, is charged to its group
before it is used, and stays so until it is freed, whoever uses it meanwhile. At the limit the charging task reclaims
from the group's own lists, 32 pages at a time, whatever the machine has free. If sixteen rounds free nothing, the OOM
killer takes a member. Kernel threads belong to no group: what the flusher, the loop device or a server allocates is
never charged.

What the limit means for a request depends on its mask. ``__GFP_NOFAIL`` and ``__GFP_HIGH`` go over the limit rather
than fail. One that may not sleep fails. A task that reclaims already (PF_MEMALLOC) is never held.

The dirt of a v1 group has no limit of its own; what throttles its writers is that reclaim waits for the group's pages
under writeback (:mod:`netvm.mm.shrink_file`).

# MODEL: charges are met to the page: no stock of 64 pages for each CPU, which a limit may be short of.
# MODEL: groups of one level; no soft limit, no ``memory.high``, no limit on memory and swap together.
# MODEL: slab objects, page tables and stacks are not charged, as kernels did by default before cgroup v2.
"""

from typing import Final

import numpy as np

from netvm.fixes import Fixes
from netvm.mm.frames import PG_WRITEBACK, Frames, PfnArray
from netvm.mm.gfp import (
    GFP_DIRECT_RECLAIM,
    GFP_HIGH,
    GFP_NOFAIL,
    GFP_NORETRY,
    GFP_RETRY_MAYFAIL,
    PF_MEMALLOC,
    GfpScope,
    current_gfp_context,
)
from netvm.mm.lru import LRU_NAMES, Lruvec
from netvm.mm.page_alloc import MAX_RECLAIM_RETRIES, PageAllocator
from netvm.mm.scan_control import ScanControl
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.world import World
from netvm.trace.tracepoints import number_of
from netvm.units import JIFFY_NS

__all__ = ["MemCgroup", "MemControl", "alloc_swapin_page", "put_new_page"]

MEM_CGROUP_RECLAIM_RETRIES: Final = 5
"""Rounds without progress before 5.9."""
GROUPS_MAX: Final = 255
"""As many as a byte for each frame can name."""

_RECLAIM_BEGIN: Final = number_of("mm_vmscan_memcg_reclaim_begin")
_RECLAIM_END: Final = number_of("mm_vmscan_memcg_reclaim_end")


class MemCgroup:
    """One memory group (``struct mem_cgroup``)."""

    __slots__ = (
        "id",
        "limit_pages",
        "lruvec",
        "may_swap",
        "name",
        "nr_max",
        "nr_oom",
        "nr_oom_kill",
        "peak_pages",
        "resource",
        "usage_pages",
    )

    def __init__(self, memcg_id: int, name: str, *, limit_pages: int, may_swap: bool, lruvec: Lruvec) -> None:
        assert 0 < memcg_id <= GROUPS_MAX
        assert limit_pages > 0
        self.id = memcg_id
        self.name = name
        self.limit_pages = limit_pages
        self.may_swap = may_swap
        self.lruvec = lruvec
        self.usage_pages = 0
        """memory.current. Charges that may not fail take it over the limit."""
        self.peak_pages = 0
        """memory.peak: the most there ever was."""
        self.nr_max = 0
        """memory.events max: charges that met the limit."""
        self.nr_oom = 0
        """memory.events oom: times that reclaim was at its end."""
        self.nr_oom_kill = 0
        """memory.events oom_kill: members killed."""
        self.resource = Resource("memory", f"a page in memory group {name}")

    @property
    def margin_pages(self) -> int:
        """Pages that can be charged before the limit is met (mem_cgroup_margin)."""
        return max(0, self.limit_pages - self.usage_pages)

    def nr_writeback(self, frames: Frames) -> int:
        """Return its pages under writeback."""
        return int(np.count_nonzero((frames.memcg == self.id) & (frames.flags & np.uint16(PG_WRITEBACK) != 0)))

    def stat(self) -> dict[str, int]:
        """Return memory.current, memory.peak, memory.events and the lists of memory.stat, all in pages."""
        return {
            "current": self.usage_pages,
            "peak": self.peak_pages,
            "limit": self.limit_pages,
            "max": self.nr_max,
            "oom": self.nr_oom,
            "oom_kill": self.nr_oom_kill,
            **{name: len(lru) for name, lru in zip(LRU_NAMES, self.lruvec.lists, strict=True)},
        }


class MemControl:
    """The memory groups of one host."""

    def __init__(self, world: World, pages: PageAllocator, lruvec: Lruvec, *, fixes: Fixes) -> None:
        self.world = world
        self.pages = pages
        self.frames: Frames = pages.frames
        self.lruvec = lruvec
        self.fixes = fixes
        self.groups: list[MemCgroup] = []
        """By id, less one."""
        self._of_task: dict[int, MemCgroup] = {}
        """By number of the task."""
        self._swapless: set[Lruvec] = set()
        pages.memcg = self

    def create(self, name: str, *, limit_pages: int, may_swap: bool) -> MemCgroup:
        """Make a group without members."""
        if not self.groups:
            self.lruvec.by_memcg.append(self.lruvec)
        lruvec = Lruvec(self.frames, self.lruvec.vmstat, parent=self.lruvec)
        self.lruvec.by_memcg.append(lruvec)
        group = MemCgroup(len(self.groups) + 1, name, limit_pages=limit_pages, may_swap=may_swap, lruvec=lruvec)
        object.__setattr__(group.resource, "providers", lambda: self._providers(group))
        self.groups.append(group)
        if not may_swap:
            self._swapless.add(lruvec)
        return group

    def attach(self, task: Task, name: str) -> None:
        """Make a task a member; what it has been charged elsewhere stays there."""
        (self._of_task[task.number],) = (group for group in self.groups if group.name == name)

    def of_task(self, task: Task) -> MemCgroup | None:
        """Return a task's group; None for a kernel thread or a program of no group."""
        return self._of_task.get(task.number)

    def id_of(self, task: Task) -> int:
        """Return the id of a task's group, 0 for none."""
        group = self._of_task.get(task.number)
        return 0 if group is None else group.id

    def swapless(self, lruvec: Lruvec) -> bool:
        """Whether pages of this lruvec may not be swapped out."""
        return lruvec in self._swapless

    # -- charging -------------------------------------------------------------------------------------------------

    def margin(self, task: Task, nr_pages: int) -> int:
        """Return how many of ``nr_pages`` a task's group has room for at once."""
        group = self._of_task.get(task.number)
        return nr_pages if group is None else min(nr_pages, group.margin_pages)

    def charge_at_once(self, task: Task, pfns: PfnArray) -> None:
        """Charge pages there is room for to a task's group (mem_cgroup_charge without a sleep)."""
        group = self._of_task.get(task.number)
        if group is not None:
            assert group.margin_pages >= len(pfns)
            self._commit(group, pfns)

    async def charge(self, task: Task, pfn: int, gfp: int, *, fault: bool = False) -> bool:
        """Charge a page nobody uses yet to a task's group, reclaiming as the mask allows (mem_cgroup_charge).

        ``fault`` is a charge for a page fault. A page that cannot be charged is freed: then the answer is False.
        """
        return await self.charge_to(task, pfn, gfp, self.id_of(task), fault=fault)

    async def charge_to(self, task: Task, pfn: int, gfp: int, memcg: int, *, fault: bool) -> bool:
        """Charge a page to the group of this id, 0 for none, or free it."""
        if not memcg:
            return True
        group = self.groups[memcg - 1]
        if not await self.try_charge_memcg(task, group, gfp, fault=fault):
            self.pages.free_pages(pfn, 0)
            return False
        self._commit(group, np.array([pfn], dtype=np.intp))
        return True

    def _commit(self, group: MemCgroup, pfns: PfnArray) -> None:
        self.frames.memcg[pfns] = group.id
        group.usage_pages += len(pfns)
        group.peak_pages = max(group.peak_pages, group.usage_pages)

    def uncharge(self, pfns: PfnArray) -> None:
        """Take pages that are freed off their groups' accounts."""
        charged = self.frames.memcg[pfns]
        for memcg in np.unique(charged[charged != 0]).tolist():
            group = self.groups[memcg - 1]
            group.usage_pages -= int(np.count_nonzero(charged == memcg))
            assert group.usage_pages >= 0
        self.frames.memcg[pfns] = 0

    async def try_charge_memcg(self, task: Task, group: MemCgroup, gfp: int, *, fault: bool) -> bool:
        """Make room for one page in a group or say that there is none (try_charge_memcg)."""
        nr_retries = most_retries = self._nr_retries()
        passed_oom = False
        while not group.margin_pages:
            if task.flags & PF_MEMALLOC:
                break
            if not gfp & GFP_DIRECT_RECLAIM:
                return bool(gfp & (GFP_NOFAIL | GFP_HIGH))
            group.nr_max += 1
            nr_reclaimed = await self._try_to_free_mem_cgroup_pages(task, group, gfp)
            if group.margin_pages:
                break
            if gfp & GFP_NORETRY:
                return bool(gfp & (GFP_NOFAIL | GFP_HIGH))
            if nr_reclaimed:
                continue
            if nr_retries:
                nr_retries -= 1
                await self._cond_resched(task)
                continue
            if gfp & GFP_RETRY_MAYFAIL or (passed_oom and task.killed):
                return bool(gfp & (GFP_NOFAIL | GFP_HIGH))
            task.spins_at = f"{task.comm}-{task.pid}: mem_cgroup_oom"
            task.spins_on = group.resource
            self.world.retry_point(task.spins_at)
            if not await self._mem_cgroup_oom(task, group, gfp, fault=fault):
                task.spins_at = ""
                return bool(gfp & (GFP_NOFAIL | GFP_HIGH))
            passed_oom = True
            nr_retries = most_retries
        task.spins_at = ""
        return True

    def _nr_retries(self) -> int:
        return MAX_RECLAIM_RETRIES if self.fixes.memcg_sixteen_retries else MEM_CGROUP_RECLAIM_RETRIES

    async def _try_to_free_mem_cgroup_pages(self, task: Task, group: MemCgroup, gfp: int) -> int:
        """Reclaim from a group's lists, in the task that charges; return pages reclaimed."""
        vmscan = self.pages.vmscan
        gfp = current_gfp_context(task, gfp)
        with GfpScope(task, PF_MEMALLOC):
            sc = ScanControl(gfp=gfp, order=0, memcg=group, may_writepage=not vmscan.laptop_mode)
            if vmscan.tracer is not None:
                vmscan.tracer.emit(_RECLAIM_BEGIN, task, 0, vmscan.tracer.mask(gfp))
            nr_reclaimed = await vmscan.do_try_to_free_pages(task, sc)
            if vmscan.tracer is not None:
                vmscan.tracer.emit(_RECLAIM_END, task, nr_reclaimed)
        return nr_reclaimed

    async def _mem_cgroup_oom(self, task: Task, group: MemCgroup, gfp: int, *, fault: bool) -> bool:
        """Kill a member; return whether the charge should go on trying (mem_cgroup_oom).

        From 3.12 to 4.18 only a page fault did so, with no lock held; any other charge failed.
        """
        if self.fixes.memcg_oom_in_faults and not self.fixes.memcg_oom_in_charges and not fault:
            return False
        group.nr_oom += 1
        if group.margin_pages:
            return True
        going_on = self.pages.oom.out_of_memory(task, gfp, 0, memcg=group)
        if going_on:
            # the victim gets its turn
            await self.world.sleep_on(task, group.resource, timeout_ns=self.world.wheel_ns(JIFFY_NS))
        return going_on

    def _providers(self, group: MemCgroup) -> list[Provider | Task]:
        """Say who could give a page of a group back: whoever gives the machine one, but of victims only members."""
        memory = self.pages.memory
        found = list(memory.providers()) if memory.providers is not None else []
        strangers = [space for space in self.pages.oom.spaces.values() if space.memcg != group.id]
        others = {space.task for space in strangers}
        return [one for one in found if isinstance(one, Task) or others.isdisjoint(one.needs)]

    async def _cond_resched(self, task: Task) -> None:
        if task.cpus is not None:
            await task.cpus.cond_resched(task)


async def alloc_swapin_page(pages: PageAllocator, task: Task, gfp: int, owner: int, memcg: int) -> int:
    """Allocate a page to swap in to, charged to the group that was swapped out; -1 if there is none.

    Mirrors ``mem_cgroup_swapin_charge_folio``: whoever reads it ahead, it goes back where it was taken from.
    """
    pfn = await pages.alloc_pages(task, 0, gfp, owner)
    if pfn >= 0 and pages.memcg is not None and not await pages.memcg.charge_to(task, pfn, gfp, memcg, fault=True):
        return -1
    return pfn


def put_new_page(pages: PageAllocator, pfn: int) -> None:
    """Free a page that was taken for a program or file, and charged, and is not used after all (folio_put)."""
    if pages.memcg is not None:
        pages.memcg.uncharge(np.array([pfn], dtype=np.intp))
    pages.free_pages(pfn, 0)
