"""The OOM killer: when nothing can be reclaimed, somebody must go.

Mirrors mm/oom_kill.c of 6.1: ``out_of_memory``, ``oom_badness``, victim access to reserves, and the reaper. A request
that may not enter the file system kills nobody: it is told that progress was made and goes round again. While an
earlier victim has not gone, nobody else is killed. The victim is sent SIGKILL, which reaches it in its next killable
wait; until then it may use half of the min reserve (ALLOC_OOM). The reaper frees its anonymous memory two seconds
later without its help.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netvm.fixes import Fixes
from netvm.mm.address_space import OOM_SCORE_ADJ_MIN, AddressSpace
from netvm.mm.gfp import GFP_FS, PF_OOM_VICTIM, gfp_name
from netvm.mm.ports import LogPort
from netvm.mm.vmscan import Vmscan
from netvm.runtime.task import Provider, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import World
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of
from netvm.units import NS_PER_S

if TYPE_CHECKING:
    from netvm.mm.memcontrol import MemCgroup

__all__ = ["OomKill", "OomKiller", "oom_badness"]

_MARK_VICTIM: Final = number_of("mark_victim")
_WAKE_REAPER: Final = number_of("wake_reaper")
_START_REAPING: Final = number_of("start_task_reaping")
_FINISH_REAPING: Final = number_of("finish_task_reaping")

OOM_REAPER_DELAY_NS: Final = 2 * NS_PER_S
_PANIC_COMPULSORY: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OomKill:
    """One kill, as the log line reports it."""

    time_ns: int
    invoked_by: str
    gfp: int
    order: int
    victim: str
    anon_rss_pages: int
    swap_pages: int
    free_swap_pages: int
    pages_under_writeback: int
    free_pages: int
    swap_write_errors: int = 0
    """Writes of pages to swap that had failed by then."""
    memcg: str = ""
    """Memory group whose limit was met; empty if the machine was short."""
    memcg_pages: int = 0
    """What the group held then."""


def oom_badness(space: AddressSpace, total_pages: int) -> int:
    """Return how much killing this process would free, in pages, adjusted; the highest goes (oom_badness)."""
    points = space.nr_anon + space.nr_swap + space.nr_page_tables
    return points + space.oom_score_adj * (total_pages // 1000)


class OomKiller:
    """The OOM killer of one host."""

    def __init__(
        self,
        world: World,
        *,
        vmscan: Vmscan,
        fixes: Fixes,
        log: LogPort,
        panic_on_oom: int = 0,
        oom_kill_allocating_task: int = 0,
    ) -> None:
        self.world = world
        self.panic_on_oom = panic_on_oom
        self.oom_kill_allocating_task = oom_kill_allocating_task
        self.vmscan = vmscan
        self.fixes = fixes
        self.log = log
        self.spaces: dict[int, AddressSpace] = vmscan.shrinker.spaces
        self.kills: list[OomKill] = []
        self.unmap: Callable[[AddressSpace], None]
        """Frees a process's memory (``__oom_reap_task_mm``); set where the host is wired."""
        self.tracer: Recorder | None = None
        self.panicked = ""
        """What the machine panicked with; empty if it has not."""
        self._locked = False
        vmscan.pages.oom = self

    def trylock(self) -> bool:
        """Take oom_lock if it is free."""
        if self._locked:
            return False
        self._locked = True
        return True

    def unlock(self) -> None:
        """Release oom_lock."""
        self._locked = False

    def out_of_memory(self, task: Task, gfp: int, order: int, *, memcg: "MemCgroup | None" = None) -> bool:
        """Kill somebody if that is right; return whether the allocator should go on trying (out_of_memory).

        For a memory group at its limit only members are looked at, whatever the mask, and nobody panics unless
        ``panic_on_oom`` is 2.
        """
        if task.killed:
            task.flags |= PF_OOM_VICTIM
            return True
        if not gfp & GFP_FS and memcg is None:
            return True
        if self.panic_on_oom == _PANIC_COMPULSORY or (self.panic_on_oom and memcg is None):
            whose = "system-wide" if self.panic_on_oom != _PANIC_COMPULSORY else "compulsory"
            return self._panic(task, f"Out of memory: {whose} panic_on_oom is enabled")
        spaces = [space for space in self.spaces.values() if memcg is None or space.memcg == memcg.id]
        victim = self._allocating_task(task, spaces) if memcg is None else None
        if victim is None:
            victim = self._select_bad_process(spaces, memcg)
        if victim is None:
            if any(space.killed and not space.oom_reaped for space in spaces):
                # an earlier victim is still on its way out
                return True
            if memcg is not None:
                self.log("Memory cgroup out of memory and no killable processes", memcg=memcg.name)
                return False
            return self._panic(task, "System is deadlocked on memory")
        self._oom_kill_process(victim, task, gfp, order, memcg)
        return True

    def _panic(self, task: Task, why: str) -> bool:
        """Stop the machine; return False, as whoever asked must not go round again in a world that stands still."""
        self.panicked = f"Kernel panic - not syncing: {why}"
        self.log(self.panicked, invoked_by=f"{task.comm}-{task.pid}", free_pages=self.vmscan.node.nr_free)
        self.world.stop()
        return False

    def _allocating_task(self, task: Task, spaces: list[AddressSpace]) -> AddressSpace | None:
        """Return who asked, if the sysctl ``oom_kill_allocating_task`` says it goes and it may."""
        if not self.oom_kill_allocating_task:
            return None
        return next((mm for mm in spaces if task in mm.tasks and mm.oom_score_adj != OOM_SCORE_ADJ_MIN), None)

    def victims_on_their_way(self) -> list[Provider | Task]:
        """Return who was killed and still has its memory: it must run to give it back."""
        return [
            Provider(name=f"killed {space.comm}-{space.task.pid}, anon-rss {space.nr_anon * 4} kB", needs=(space.task,))
            for space in self.spaces.values()
            if space.killed and not space.oom_reaped and space.task is not None
        ]

    def _select_bad_process(self, spaces: list[AddressSpace], memcg: "MemCgroup | None") -> AddressSpace | None:
        swap = self.vmscan.swap.nr_total_slots()
        if memcg is None:
            total = self.vmscan.node.managed + swap
        else:
            total = memcg.limit_pages + (swap if memcg.may_swap else 0)
        chosen: AddressSpace | None = None
        most = 0
        for space in spaces:
            if space.oom_reaped or space.oom_score_adj == OOM_SCORE_ADJ_MIN or space.task is None:
                continue
            if space.killed:
                return None
            points = oom_badness(space, total)
            # any score will do, and of equal ones the youngest process goes
            if chosen is None or points >= most:
                chosen, most = space, points
        return chosen

    def _oom_kill_process(
        self, victim: AddressSpace, task: Task, gfp: int, order: int, memcg: "MemCgroup | None"
    ) -> None:
        vmscan, frames = self.vmscan, self.vmscan.pages.frames
        vmscan.vmstat.oom_kill += 1
        if memcg is not None:
            memcg.nr_oom_kill += 1
        self.kills.append(
            OomKill(
                time_ns=self.world.now_ns,
                invoked_by=f"{task.comm}-{task.pid}",
                gfp=gfp,
                order=order,
                victim=victim.comm,
                anon_rss_pages=victim.nr_anon,
                swap_pages=victim.nr_swap,
                free_swap_pages=vmscan.swap.nr_free_slots() if memcg is None else vmscan.nr_swap_pages(memcg.lruvec),
                pages_under_writeback=vmscan.vmstat.nr_writeback if memcg is None else memcg.nr_writeback(frames),
                free_pages=vmscan.node.nr_free,
                swap_write_errors=vmscan.swap.write_errors,
                memcg="" if memcg is None else memcg.name,
                memcg_pages=0 if memcg is None else memcg.usage_pages,
            )
        )
        assert victim.task is not None
        self.log(
            "Out of memory: Killed process" if memcg is None else "Memory cgroup out of memory: Killed process",
            pid=victim.task.pid,
            comm=victim.comm,
            anon_rss_kib=victim.nr_anon * 4,
            oom_score_adj=victim.oom_score_adj,
            invoked_by=task.comm,
            gfp_mask=f"{gfp:#x}({gfp_name(gfp)})",
            order=order,
        )
        if self.tracer is not None:
            self.tracer.emit(_MARK_VICTIM, task, victim.task.pid)
        victim.killed = True
        for thread in victim.tasks:
            thread.flags |= PF_OOM_VICTIM
            thread.kill()
        if self.fixes.oom_reaper:
            if self.tracer is not None:
                self.tracer.emit(_WAKE_REAPER, task, victim.task.pid)
            self.world.call_after(
                self.world.wheel_ns(OOM_REAPER_DELAY_NS), self._oom_reap, victim, kind=TimerKind.PROGRESS
            )

    def _oom_reap(self, victim: AddressSpace) -> None:
        """Free the victim's memory without its help (oom_reaper).

        # MODEL: the victim's mmap_lock is always free: no model task holds it for writing across a wait. The delay is
        # 6.1's; the first reaper, of 4.6, began at once.
        """
        if victim.id not in self.spaces or victim.oom_reaped:
            return
        assert victim.task is not None
        if self.tracer is not None:
            self.tracer.emit(_START_REAPING, None, victim.task.pid)
        self.unmap(victim)
        victim.oom_reaped = True
        if self.tracer is not None:
            self.tracer.emit(_FINISH_REAPING, None, victim.task.pid)
        self.log("oom_reaper: reaped process", comm=victim.comm, anon_rss_kib=victim.nr_anon * 4)
