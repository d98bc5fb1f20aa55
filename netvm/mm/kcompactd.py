"""kcompactd: the thread that compacts before anybody has to wait for a block.

Mirrors ``kcompactd``, ``kcompactd_do_work``, ``wakeup_kcompactd``, ``proactive_compact_node`` and
``should_proactive_compact_node`` (mm/compaction.c of 6.1). kswapd wakes it on its way to sleep, for the order that it
was woken for itself, and after a run that paid a boost back, for a whole pageblock; allocators do that may not sleep
and find a node that is balanced but has no such block. A request is kept if kcompactd is busy or it would be no use; so
it is looked at within half a second.

Since 5.9 it looks by itself, each half second while kswapd sleeps: if more than ninety of a hundred free pages are in
blocks smaller than a huge page, it compacts until eighty are (``vm.compaction_proactiveness`` 20). If that changed
nothing, it lets 64 looks pass.
"""

from typing import Final

from netvm.mm.compact_control import COMPACT_MAX_DEFER_SHIFT, CompactControl, CompactResult, MigrateMode
from netvm.mm.compaction import Compaction
from netvm.mm.gfp import GFP_KERNEL, PF_KTHREAD, gfp_migratetype
from netvm.mm.zone import ZONE_INDEX
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.trace.tracepoints import number_of
from netvm.units import NS_PER_S

__all__ = ["Kcompactd"]

HPAGE_FRAG_CHECK_NS: Final = NS_PER_S // 2

_SLEEP: Final = number_of("mm_compaction_kcompactd_sleep")
_WAKE: Final = number_of("mm_compaction_kcompactd_wake")
_WAKEUP: Final = number_of("mm_compaction_wakeup_kcompactd")


class Kcompactd:
    """The node's kcompactd thread."""

    def __init__(self, world: World, compaction: Compaction) -> None:
        self.world = world
        self.compaction = compaction
        self.vmscan = compaction.vmscan
        self.wait_queue = WaitQueue(world, Resource("work", "kcompactd_wait", external=True))
        self.max_order = 0
        """The largest order somebody asked for since it last worked (kcompactd_max_order)."""
        self.highest = self._last_zone = self.vmscan.node.zones[-1].index
        """The highest zone somebody asked for blocks in; the last one of the node until then."""

    def start(self, cpus: Cpus | None) -> Task:
        """Start the thread."""
        return self.world.spawn("kcompactd0", self.kcompactd, cpus=cpus, flags=PF_KTHREAD)

    def wakeup_kcompactd(self, order: int, highest: int) -> None:
        """Ask for blocks of an order in the zones up to this one (wakeup_kcompactd)."""
        if not order:
            return
        self.max_order = max(self.max_order, order)
        self.highest = min(self.highest, highest)
        if not len(self.wait_queue) or not self._node_suitable():
            return
        self._emit(_WAKEUP, self.world.current, order, highest)
        self.wait_queue.wake_one()

    def _node_suitable(self) -> bool:
        """Whether a zone lacks the block and could be compacted (kcompactd_node_suitable)."""
        return any(
            zone.index <= self.highest
            and self.compaction.suitable_at_min(zone, self.max_order, self.highest) == CompactResult.CONTINUE
            for zone in self.vmscan.node.zones
        )

    def _emit(self, event: int, task: Task | None, *args: int) -> None:
        recorder = self.compaction.trace.recorder
        if recorder is None:
            return
        if args:
            order, highest = args
            names = [name for name, index in ZONE_INDEX.items() if index == highest]
            args = (order, recorder.name(names[0]))
        recorder.emit(event, task, 0, *args)

    async def kcompactd(self, task: Task) -> None:
        """Sleep, compact what was asked for or what has become too fragmented, and start over for ever."""
        compaction = self.compaction
        # what was asked for before there was a thread is forgotten
        self.max_order = 0
        fruitless = False
        while True:
            self._emit(_SLEEP, task)
            timeout_ns = None
            if compaction.is_proactive:
                timeout_ns = HPAGE_FRAG_CHECK_NS << (COMPACT_MAX_DEFER_SHIFT if fruitless else 0)
            if not self.max_order:
                # A look that changed nothing will change nothing while free memory is as it is: who asks whether the
                # host is hung need not wait for the next one.
                await self.wait_queue.wait(
                    task,
                    timeout_ns=None if timeout_ns is None else self.world.wheel_ns(timeout_ns),
                    kind=TimerKind.CLOCK if fruitless else TimerKind.RETRY,
                )
            fruitless = False
            if self.max_order:
                await self.kcompactd_do_work(task)
            elif self._should_proactive_compact_node():
                before = compaction.fragmentation_score_node()
                await self.proactive_compact_node(task)
                fruitless = compaction.fragmentation_score_node() >= before

    async def kcompactd_do_work(self, task: Task) -> None:
        """Compact each zone that lacks the block that was asked for (kcompactd_do_work)."""
        compaction, vmscan, vmstat = self.compaction, self.vmscan, self.vmscan.vmstat
        order, highest = self.max_order, self.highest
        self._emit(_WAKE, task, order, highest)
        vmstat.compact_daemon_wake += 1
        zones = [zone for zone in vmscan.node.zones if zone.index <= highest]
        cc = CompactControl(
            zone=zones[0],
            order=order,
            mode=MigrateMode.SYNC_LIGHT,
            gfp=GFP_KERNEL,
            migratetype=gfp_migratetype(GFP_KERNEL),
            highest_zoneidx=highest,
        )
        for zone in zones:
            state = compaction.states[zone.name]
            if state.compaction_deferred(order):
                continue
            if compaction.suitable_at_min(zone, order, zone.index) != CompactResult.CONTINUE:
                continue
            cc.zone = zone
            result = await compaction.compact_zone(task, cc)
            if result == CompactResult.SUCCESS:
                state.compaction_defer_reset(order, alloc_success=False)
            elif result in (CompactResult.PARTIAL_SKIPPED, CompactResult.COMPLETE):
                compaction.pages.buddy.drain_all_pages([zone])
                state.defer_compaction(order)
            vmstat.compact_daemon_migrate_scanned += cc.nr_migrate_scanned
            vmstat.compact_daemon_free_scanned += cc.nr_free_scanned
        if self.max_order <= order:
            self.max_order = 0
        if self.highest >= highest:
            self.highest = self._last_zone

    def _should_proactive_compact_node(self) -> bool:
        """Whether free memory is in too small pieces, and kswapd not at work."""
        compaction = self.compaction
        if not compaction.is_proactive or compaction.kswapd_is_running():
            return False
        return compaction.fragmentation_score_node() > compaction.fragmentation_score_wmark(low=False)

    async def proactive_compact_node(self, task: Task) -> None:
        """Compact all zones from end to end until free memory is in large enough pieces."""
        zones = self.vmscan.node.zones
        cc = CompactControl(
            zone=zones[0],
            order=-1,
            mode=MigrateMode.SYNC_LIGHT,
            gfp=GFP_KERNEL,
            migratetype=gfp_migratetype(GFP_KERNEL),
            proactive=True,
            whole_zone=True,
            ignore_skip_hint=True,
        )
        for zone in zones:
            cc.zone = zone
            await self.compaction.compact_zone(task, cc)
