"""Holding back those who dirty pages faster than the storage takes them.

Mirrors mm/page-writeback.c of 6.1: the limits (``global_dirtyable_memory``, ``domain_dirty_limits``) and the pause
(``balance_dirty_pages``), by the curve of :mod:`netvm.pagecache.position`.

A writer is looked at each time it has dirtied ``nr_dirtied_pause`` pages. Below *freerun*, half way between the
background threshold and the limit, it goes on. Above, it is to dirty at ``dirty_ratelimit`` scaled by how far the
system's and the device's dirty pages are from their setpoints, and sleeps as long as its last pages should have taken
less the time it was away: at most 200 ms, and not at all for less than the least worthwhile pause, which is booked
for next time. At the limit the ratio is zero and it sleeps again and again.

A task with PF_LOCAL_THROTTLE goes on while its own device is below its own freerun, whatever others have dirtied.
Before that (``local_throttle``, 5.7) such a task had a limit a quarter higher (``less_throttle``, 2.6.12), which is not
the same: once the others' dirt is past that too, it waits for them. A quarter is of the memory of the moment, and what
the others may is of the hard limit, which follows it slowly: the quarter was not always more, until a part of the hard
limit was added to it (``less_throttle_margin``, 4.7). Before all of them it was a writer like any other.

Before 3.2 (``io_less_throttle``) a writer over the limit wrote pages of its own device itself and waited in
congestion_wait for the rest to go down; before 2.6.24 (``per_bdi_dirty_limits``) for everybody's rest.

# MODEL: counters are exact, so the kernel's approximations of per-cpu counters are kept as slack only where its
# decisions use them (wb_stat_error); no memory groups. Of the old kernels the wait is modelled, not each of its limits.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netvm.fixes import Fixes
from netvm.mm.gfp import PF_LOCAL_THROTTLE
from netvm.mm.lru import ACTIVE_FILE, INACTIVE_FILE, Lruvec
from netvm.mm.reclaim_throttle import CONGESTION_WAIT_NS, Throttles
from netvm.mm.zone import Node
from netvm.pagecache.bdi import (
    BANDWIDTH_INTERVAL,
    RATELIMIT_CALC_SHIFT,
    BackingDevice,
    FlexProportion,
    jiffies,
)
from netvm.pagecache.position import (
    DirtyLimits,
    DirtySysctls,
    clamped_dirty_ratio,
    dirty_poll_interval,
    wb_max_pause,
    wb_min_pause,
    wb_position_ratio,
)
from netvm.pagecache.writeback_trace import WritebackTrace
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Resource, Task
from netvm.runtime.world import World
from netvm.trace.vmstat import VmStat
from netvm.units import HZ, JIFFY_NS, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from netvm.pagecache.flusher import Flusher

__all__ = ["DirtyThrottle"]

WRITE_CHUNK: Final = 1536
"""Pages that a writer over the limit had to write before 3.2 (sync_writeback_pages)."""
OLD_RATELIMIT_MAX: Final = 1024
RATELIMIT_EXCEEDED: Final = 32 >> (PAGE_SHIFT - 10)
"""Pages between two looks while a device is over its share."""
RATELIMIT_PAGES_MIN: Final = 16
DEFAULT_RATIO: Final = 20
INIT_PAGES: Final = 1748
"""Managed pages that are not free yet when the limit is first set."""
INITIAL_PAUSE_PAGES: Final = 128 >> (PAGE_SHIFT - 10)
"""nr_dirtied_pause of a new task."""


@dataclass(slots=True)
class _Dirtier:
    """What a task remembers of its dirtying (``struct task_struct``)."""

    nr_dirtied: int = 0
    nr_dirtied_pause: int = INITIAL_PAUSE_PAGES
    dirty_paused_when: int = 0


class DirtyThrottle:
    """``global_wb_domain`` and all that decides by it."""

    def __init__(
        self,
        world: World,
        *,
        node: Node,
        lruvec: Lruvec,
        vmstat: VmStat,
        fixes: Fixes,
        costs: CpuCosts,
        sysctls: DirtySysctls,
        nr_cpus: int = 1,
        laptop_mode: bool = False,
    ) -> None:
        self.world = world
        self.node = node
        self.lruvec = lruvec
        self.vmstat = vmstat
        self.fixes = fixes
        self.costs = costs
        self.sysctls = sysctls
        self.nr_cpus = nr_cpus
        self.laptop_mode = laptop_mode
        self.completions = FlexProportion()
        self.devices: list[BackingDevice] = []
        self.flusher: Flusher
        self.wb_stat_error = nr_cpus * 8 * nr_cpus.bit_length()
        """WB_STAT_BATCH of every CPU."""
        self.nr_unstable = 0
        """NR_UNSTABLE_NFS: pages that wait for a COMMIT, where they are counted by themselves."""
        self.dirty_limit = 0
        self.ratelimit_pages = 0
        self._set_ratelimit()
        self._dirty_limit_tstamp = jiffies(world)
        self._dirtiers: dict[int, _Dirtier] = {}
        self.tracer: WritebackTrace | None = None
        self._bdp_ratelimits = 0
        """Pages dirtied on this CPU since somebody was looked at."""
        self.nr_pauses = 0
        self.max_pause_ns = 0
        self.setpoint_seen = 0
        """Setpoint and dirty pages at the last look: what a reader of the tracepoint sees."""
        self.dirty_seen = 0
        self.reclaim_throttles: Throttles
        """Where writers of before 3.2 sleep, and reclaimers that are held back."""

    def _set_ratelimit(self) -> None:
        """Take the hard limit from the memory of the moment: at boot, or when dirty_ratio is set since.

        From then on it follows the threshold slowly (writeback_set_ratelimit).
        """
        thresh = self.limits().thresh
        if not self.sysctls.bytes and self.sysctls.ratio == DEFAULT_RATIO and self.fixes.dirtyable_memory:
            # MODEL: page_writeback_init finds all memory free but some init sections, by the recorded limit of D8
            at_boot = max(self.node.managed - INIT_PAGES, 0)
            thresh = max(thresh, self.sysctls.ratio * PAGE_SIZE // 100 * at_boot // PAGE_SIZE)
        self.dirty_limit = thresh
        self.ratelimit_pages = max(thresh // (self.nr_cpus * 32), RATELIMIT_PAGES_MIN)

    def add_device(
        self, name: str, *, min_ratio: int = 0, max_ratio: int = 100, strictlimit: bool = False
    ) -> BackingDevice:
        """Register a backing device (bdi_register)."""
        device = BackingDevice(
            self.world, name, self.completions, min_ratio=min_ratio, max_ratio=max_ratio, strictlimit=strictlimit
        )
        self.devices.append(device)
        return device

    # -- limits ---------------------------------------------------------------------------------------------------

    def dirtyable_memory(self) -> int:
        """Return the pages that could be dirty: free ones above the reserve, file lists (global_dirtyable_memory).

        Before ``dirtyable_memory`` all that is above the high marks, whoever has it (total_pages of get_dirty_limits).
        """
        if not self.fixes.dirtyable_memory:
            return sum(zone.managed - zone.watermark[2] for zone in self.node.zones)
        reserve = 0
        for zone in self.node.zones:
            most = max(zone.lowmem_reserve) + zone.watermark[2]
            reserve += min(most, zone.managed)
        files = self.lruvec.nr_pages(INACTIVE_FILE) + self.lruvec.nr_pages(ACTIVE_FILE)
        return max(0, self.node.nr_free - reserve) + files + 1

    def limits(self) -> DirtyLimits:
        """Return the thresholds and where the system stands (domain_dirty_limits)."""
        sysctls = self.sysctls
        available = self.dirtyable_memory()
        if sysctls.bytes:
            thresh = -(-sysctls.bytes // PAGE_SIZE)
        else:
            ratio = sysctls.ratio
            if not self.fixes.dirtyable_memory:
                ratio = clamped_dirty_ratio(ratio, self.vmstat.nr_anon_pages + self.vmstat.nr_mapped, available)
            thresh = ratio * PAGE_SIZE // 100 * available // PAGE_SIZE
        if sysctls.background_bytes:
            bg_thresh = -(-sysctls.background_bytes // PAGE_SIZE)
        else:
            bg_thresh = sysctls.background_ratio * PAGE_SIZE // 100 * available // PAGE_SIZE
        if bg_thresh >= thresh:
            bg_thresh = thresh // 2
        nr_dirty = self.vmstat.nr_dirty + self.nr_unstable
        return DirtyLimits(
            dirty=nr_dirty + self.vmstat.nr_writeback, nr_dirty=nr_dirty, thresh=thresh, bg_thresh=bg_thresh
        )

    def node_dirty_ok(self) -> bool:
        """Whether the node may take more dirty pages; if not, an allocation for one goes the slow way (node_dirty_ok).

        # MODEL: the only node is the system, so this differs from the limit of writers in that it does not lag.
        """
        look = self.limits()
        return look.dirty <= look.thresh

    def wb_calc_thresh(self, wb: BackingDevice, thresh: int) -> int:
        """Return a device's part of a threshold: by its part of recent completions (__wb_calc_thresh)."""
        part, whole = wb.fraction()
        all_min = sum(device.min_ratio for device in self.devices)
        share = thresh * (100 - all_min) // 100 * part // whole + thresh * wb.min_ratio // 100
        return min(share, thresh * wb.max_ratio // 100)

    def _wb_dirty_limits(self, wb: BackingDevice, look: DirtyLimits) -> None:
        look.wb_thresh = self.wb_calc_thresh(wb, look.thresh)
        look.wb_bg_thresh = look.wb_thresh * look.bg_thresh // look.thresh if look.thresh else 0
        look.wb_dirty = wb.nr_reclaimable + wb.nr_writeback

    def over_bg_thresh(self, wb: BackingDevice) -> bool:
        """Whether the flusher should write in the background (wb_over_bg_thresh)."""
        look = self.limits()
        if self.tracer is not None:
            self.tracer.global_dirty_state(self.world.current, look)
        if look.nr_dirty > look.bg_thresh:
            return True
        return wb.nr_reclaimable > self.wb_calc_thresh(wb, look.bg_thresh)

    def _update_dirty_limit(self, look: DirtyLimits) -> None:
        """Let the hard limit follow the threshold: up at once, down slowly (domain_update_dirty_limit)."""
        now = jiffies(self.world)
        if now < self._dirty_limit_tstamp + BANDWIDTH_INTERVAL:
            return
        self._dirty_limit_tstamp = now
        if self.dirty_limit < look.thresh:
            self.dirty_limit = look.thresh
            return
        thresh = max(look.thresh, look.dirty)
        if self.dirty_limit > thresh:
            self.dirty_limit -= (self.dirty_limit - thresh) >> 5

    def setpoint(self, look: DirtyLimits) -> int:
        """Return where the system's dirty pages should be."""
        return (look.freerun + max(look.thresh, self.dirty_limit)) // 2

    # -- pausing --------------------------------------------------------------------------------------------------

    def dirtied(self, task: Task, wb: BackingDevice, nr_pages: int) -> None:
        """Account newly dirtied pages (folio_account_dirtied)."""
        self.vmstat.nr_dirty += nr_pages
        self.vmstat.nr_dirtied += nr_pages
        wb.nr_reclaimable += nr_pages
        wb.nr_dirtied += nr_pages
        self._dirtier(task).nr_dirtied += nr_pages
        self._bdp_ratelimits += nr_pages

    def has_dirtied(self, task: Task) -> bool:
        """Whether a task is a writer."""
        return task.number in self._dirtiers

    def _dirtier(self, task: Task) -> _Dirtier:
        found = self._dirtiers.get(task.number)
        if found is None:
            found = self._dirtiers[task.number] = _Dirtier()
        return found

    def pages_until_look(self, task: Task, wb: BackingDevice) -> int:
        """Return how many pages a task may dirty before it is looked at."""
        if not self.fixes.io_less_throttle:
            return max(1, self._old_ratelimit() - self._bdp_ratelimits)
        dirtier = self._dirtier(task)
        ratelimit = dirtier.nr_dirtied_pause
        if wb.dirty_exceeded:
            ratelimit = min(ratelimit, RATELIMIT_EXCEEDED)
        return max(1, min(ratelimit - dirtier.nr_dirtied, self.ratelimit_pages - self._bdp_ratelimits))

    async def balance_dirty_pages_ratelimited(self, task: Task, wb: BackingDevice) -> None:
        """Look at a task that has dirtied enough pages since the last time."""
        if not self.fixes.io_less_throttle:
            if self._bdp_ratelimits >= self._old_ratelimit():
                self._bdp_ratelimits = 0
                await self._balance_by_writing(task, wb)
            return
        dirtier = self._dirtier(task)
        ratelimit = dirtier.nr_dirtied_pause
        if wb.dirty_exceeded:
            ratelimit = min(ratelimit, RATELIMIT_EXCEEDED)
        if dirtier.nr_dirtied >= ratelimit:
            self._bdp_ratelimits = 0
        elif self._bdp_ratelimits >= self.ratelimit_pages:
            self._bdp_ratelimits = 0
            ratelimit = 0
        if dirtier.nr_dirtied >= ratelimit:
            await self.balance_dirty_pages(task, wb, dirtier.nr_dirtied)

    async def balance_dirty_pages(self, task: Task, wb: BackingDevice, pages_dirtied: int) -> None:
        """Start the flusher if need be and let a writer sleep as long as it should (balance_dirty_pages)."""
        dirtier = self._dirtier(task)
        exceeded = False
        since = jiffies(self.world)
        while True:
            look = self.limits()
            if self.tracer is not None:
                self.tracer.global_dirty_state(task, look)
            task.charge_ns += self.costs.balance_dirty_pages
            if wb.strictlimit:
                self._wb_dirty_limits(wb, look)
            if not self.laptop_mode and look.nr_dirty > look.bg_thresh and not wb.in_progress:
                self.flusher.start_background_writeback(wb)
            if self._is_free_running(task, wb, look):
                self._free_run(dirtier, wb, look)
                break
            exceeded = look.wb_dirty > look.wb_thresh and (look.dirty > look.thresh or wb.strictlimit)
            wb.dirty_exceeded = wb.dirty_exceeded or exceeded
            look.pos_ratio = wb_position_ratio(wb, look, self.dirty_limit)
            if wb.is_estimate_due():
                self._update_estimates(task, wb, look)
            self.setpoint_seen, self.dirty_seen = self.setpoint(look), look.dirty
            task_ratelimit = wb.dirty_ratelimit * look.pos_ratio >> RATELIMIT_CALC_SHIFT
            before = dirtier.dirty_paused_when, dirtier.nr_dirtied_pause
            pause, next_pause_pages = self._pause(dirtier, wb, look, task_ratelimit, pages_dirtied)
            if self.tracer is not None:
                self.tracer.balance_dirty_pages(
                    task,
                    wb,
                    look,
                    task_ratelimit=task_ratelimit,
                    dirtied=pages_dirtied,
                    dirtied_pause=before[1],
                    paused_when=before[0],
                    since=since,
                    pause=pause,
                )
            if pause is None:
                break
            await self._sleep(task, wb, pause)
            dirtier.nr_dirtied = 0
            dirtier.nr_dirtied_pause = next_pause_pages
            if task_ratelimit or look.wb_dirty <= self.wb_stat_error or task.killed:
                break
        if not exceeded:
            wb.dirty_exceeded = False
        if not wb.in_progress and not self.laptop_mode and look.nr_dirty > look.bg_thresh:
            self.flusher.start_background_writeback(wb)

    def _old_ratelimit(self) -> int:
        """Return how many pages all writers of a CPU dirtied between two looks before 3.2."""
        if any(wb.dirty_exceeded for wb in self.devices):
            return RATELIMIT_EXCEEDED
        return min(max(self.node.managed // (self.nr_cpus * 32), RATELIMIT_PAGES_MIN), OLD_RATELIMIT_MAX)

    async def _balance_by_writing(self, task: Task, wb: BackingDevice) -> None:
        """Let a writer over the limit write pages of its own device until the dirt is down or its duty is done.

        balance_dirty_pages of 2.6.12 to 3.1: between two looks it sleeps in congestion_wait, which no signal ends.
        Whose dirt counts is everybody's at first, the device's own since 2.6.24.

        # MODEL: from 2.6.32 to 3.1 it was a pause of a jiffy that doubled up to a tenth of a second.
        """
        nr_left = WRITE_CHUNK
        while not self._may_go_on(task, wb):
            wb.dirty_exceeded = True
            if wb.nr_reclaimable:
                nr_left -= await self.flusher.writeback_inodes_wb(task, wb, nr_left)
                if nr_left <= 0 or self._may_go_on(task, wb):
                    break
            self._note_pause(wb, CONGESTION_WAIT_NS)
            wanted = self._less_dirt(wb if self.fixes.per_bdi_dirty_limits else None)
            await self.reclaim_throttles.congestion_wait(task, wanted)
        look = self.limits()
        if look.dirty <= look.thresh:
            wb.dirty_exceeded = False
        if look.nr_dirty > look.bg_thresh and not wb.in_progress:
            self.flusher.start_background_writeback(wb)

    def _may_go_on(self, task: Task, wb: BackingDevice) -> bool:
        """Whether there is little enough dirt for a writer of before 3.2."""
        look = self.limits()
        task.charge_ns += self.costs.balance_dirty_pages
        if task.flags & PF_LOCAL_THROTTLE and self.fixes.less_throttle:
            look.thresh += look.thresh // 4
        self._wb_dirty_limits(wb, look)
        if task.flags & PF_LOCAL_THROTTLE and self.fixes.local_throttle and look.wb_dirty <= _own_freerun(look):
            return True
        if self.fixes.per_bdi_dirty_limits:
            return look.wb_dirty <= look.wb_thresh or look.dirty <= look.freerun
        return look.dirty <= look.thresh

    def _is_free_running(self, task: Task, wb: BackingDevice, look: DirtyLimits) -> bool:
        """Whether a task need not be held back at all; fills in the device's limits if it might be."""
        if wb.strictlimit:
            return look.wb_dirty <= (look.wb_thresh + look.wb_bg_thresh) // 2
        local = bool(task.flags & PF_LOCAL_THROTTLE)
        if local and self.fixes.less_throttle and not self.fixes.local_throttle:
            margin = self.dirty_limit // 32 if self.fixes.less_throttle_margin else 0
            look.thresh += look.thresh // 4 + margin
            look.bg_thresh += look.bg_thresh // 4 + margin
        if look.dirty <= look.freerun:
            return True
        if not wb.in_progress:
            self.flusher.start_background_writeback(wb)
        self._wb_dirty_limits(wb, look)
        return local and self.fixes.local_throttle and look.wb_dirty < _own_freerun(look)

    def _free_run(self, dirtier: _Dirtier, wb: BackingDevice, look: DirtyLimits) -> None:
        dirty, thresh = (look.wb_dirty, look.wb_thresh) if wb.strictlimit else (look.dirty, look.thresh)
        dirtier.dirty_paused_when = jiffies(self.world)
        dirtier.nr_dirtied = 0
        dirtier.nr_dirtied_pause = dirty_poll_interval(dirty, thresh)

    def _update_estimates(self, task: Task, wb: BackingDevice, look: DirtyLimits) -> None:
        """Renew limit, ratelimit and bandwidth, in this order (__wb_update_bandwidth)."""
        elapsed = max(jiffies(self.world) - wb.bw_time_stamp, 1)
        self._update_dirty_limit(look)
        if wb.strictlimit:
            dirty = look.wb_dirty
            if dirty < 8:
                setpoint = dirty + 1
            else:
                setpoint = (look.wb_thresh + look.wb_bg_thresh) // 2
        else:
            dirty, setpoint = look.dirty, self.setpoint(look)
        wb.update_dirty_ratelimit(dirty=dirty, setpoint=setpoint, pos_ratio=look.pos_ratio, elapsed=elapsed)
        if self.tracer is not None:
            self.tracer.dirty_ratelimit(task, wb, pos_ratio=look.pos_ratio, elapsed=elapsed)
        wb.update_bandwidth()

    def _pause(
        self, dirtier: _Dirtier, wb: BackingDevice, look: DirtyLimits, task_ratelimit: int, pages_dirtied: int
    ) -> tuple[int | None, int]:
        """Return how long to sleep in jiffies, None for not at all, and after how many pages to look again."""
        now = jiffies(self.world)
        max_pause = wb_max_pause(wb, look.wb_dirty)
        min_pause, pause_pages = wb_min_pause(wb, max_pause, task_ratelimit)
        if not task_ratelimit:
            dirtier.dirty_paused_when = now + max_pause
            return max_pause, pause_pages
        period = HZ * pages_dirtied // task_ratelimit
        pause = period
        if dirtier.dirty_paused_when:
            pause -= now - dirtier.dirty_paused_when
        if pause < min_pause:
            if pause < -HZ:
                dirtier.dirty_paused_when = now
                dirtier.nr_dirtied = 0
            elif period:
                dirtier.dirty_paused_when += period
                dirtier.nr_dirtied = 0
            elif dirtier.nr_dirtied_pause <= pages_dirtied:
                dirtier.nr_dirtied_pause += pages_dirtied
            return None, 0
        if pause > max_pause:
            # for an occasional dropped task_ratelimit: part of what is clipped counts as slept
            now += min(pause - max_pause, max_pause)
            pause = max_pause
        dirtier.dirty_paused_when = now + pause
        return pause, pause_pages

    async def _sleep(self, task: Task, wb: BackingDevice, pause: int) -> None:
        """Sleep killably (io_schedule_timeout)."""
        pause_ns = pause * JIFFY_NS
        self._note_pause(wb, pause_ns)
        wake_ns = self.world.wheel_ns(pause_ns)
        await self.world.sleep_on(task, self._less_dirt(wb), timeout_ns=wake_ns, killable=True)

    def _note_pause(self, wb: BackingDevice, pause_ns: int) -> None:
        self.nr_pauses += 1
        self.max_pause_ns = max(self.max_pause_ns, pause_ns)
        wb.dirty_sleep_ns = self.world.now_ns

    def _less_dirt(self, wb: BackingDevice | None) -> Resource:
        """Return what a writer waits for: a device's dirty pages to go, or everybody's."""
        devices = self.devices if wb is None else [wb]
        whose = "all dirty pages over the limit" if wb is None else f"{wb.name} over its dirty setpoint"
        return Resource("memory", f"balance_dirty_pages: {whose}", lambda: self.flusher.cleaners(devices))


def _own_freerun(look: DirtyLimits) -> int:
    """Return dirty_freerun_ceiling of the device alone."""
    return (look.wb_thresh + look.wb_bg_thresh) // 2
