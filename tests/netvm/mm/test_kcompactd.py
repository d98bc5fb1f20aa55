"""kcompactd: who wakes it and when, what it does then, and when it looks by itself.

Most hosts have a zone of 1024 frames in pageblocks of 64, of which every other frame is free and the rest a program's.
"""

from typing import Any

import pytest

from netvm.mm.compact_control import CompactControl, CompactResult, MigrateMode
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOWAIT,
    PF_KTHREAD,
)
from netvm.mm.kcompactd import HPAGE_FRAG_CHECK_NS, Kcompactd
from netvm.mm.zone import ZONE_INDEX, ZONE_MOVABLE, ZONE_NORMAL
from netvm.runtime.task import Task
from netvm.runtime.timer import TimerKind
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import TRACEPOINTS
from netvm.units import NS_PER_MS, NS_PER_S

P = 1024
BLOCK = 64
SLACK_NS = 20 * NS_PER_MS
"""By which the timer wheel may be late."""


def _pieces(make_host: Any, *, movable: bool = True, nr_free: int = 512, proactiveness: int = 0, **how: Any) -> Any:
    """Return a host with a kcompactd, whose free memory is single frames between a program's pages or the kernel's."""
    settled: dict[str, Any] = {
        "zones": (("DMA32", 1024),),
        "free": 0,
        "marks": (8, 9, 10),
        "pageblock_order": 6,
        "boost_factor": 0,
    }
    host = make_host(**(settled | how))
    start = host.zone.start_pfn
    for pfn in range(start, start + 2 * nr_free, 2):
        host.put(pfn, 0)
    if movable:
        host.program(list(range(start + 1, host.zone.end_pfn, 2)), host.task("owner", 998))
    host.vmscan.compaction.proactiveness = proactiveness
    host.vmscan.kcompactd = Kcompactd(host.world, host.vmscan.compaction)
    return host


def _wakes(host: Any) -> int:
    found: int = host.vmstat.compact_daemon_wake
    return found


async def _start(host: Any, task: Task) -> Task:
    """Start the thread and let it go to sleep."""
    kcompactd: Task = host.vmscan.kcompactd.start(host.cpus)
    await host.pause(task, 1)
    return kcompactd


def _run(host: Any, order: int = 3, *, pause_ns: int = NS_PER_MS, highest: int = ZONE_NORMAL) -> None:
    """Ask once for blocks of an order, and let time pass."""

    async def body(task: Task) -> None:
        await _start(host, task)
        host.vmscan.wakeup_kcompactd(order, highest)
        await host.pause(task, pause_ns)

    host.run(body)


# -- being asked -------------------------------------------------------------------------------------------------------


def test_it_makes_the_block_it_was_asked_for(make_host: Any) -> None:
    """KCOMPACTD_WAKE, and what it scanned is counted as its own; then nothing more is asked for."""
    host = _pieces(make_host)
    _run(host)
    vmstat, kcompactd = host.vmstat, host.vmscan.kcompactd
    assert _wakes(host) == 1
    assert any(heads for lists in host.zone.free_lists[3:] for heads in lists)
    assert vmstat.compact_daemon_migrate_scanned == vmstat.compact_migrate_scanned > 0
    assert vmstat.compact_daemon_free_scanned == vmstat.compact_free_scanned > 0
    assert (kcompactd.max_order, kcompactd.highest) == (0, ZONE_INDEX["DMA32"])
    assert host.vmscan.compaction.states["DMA32"].order_failed == 4
    host.audit()


def test_it_is_a_kernel_thread_that_may_not_use_the_reserve(make_host: Any) -> None:
    """Others wait for it in no queue of theirs."""
    host = _pieces(make_host)

    async def body(task: Task) -> tuple[str, int]:
        kcompactd = await _start(host, task)
        return kcompactd.comm, kcompactd.flags

    assert host.run(body) == ("kcompactd0", PF_KTHREAD)


@pytest.mark.parametrize(
    ("how", "order"),
    [({"nr_free": 24, "movable": False}, 3), ({"marks": (2000, 2000, 2000)}, 3), ({}, 0)],
    ids=["too little free", "below min", "a single page"],
)
def test_a_node_it_can_do_nothing_for_does_not_wake_it(make_host: Any, how: dict[str, Any], order: int) -> None:
    """The order is kept all the same; without a timeout nobody looks at it."""
    host = _pieces(make_host, **how)
    _run(host, order, pause_ns=100 * NS_PER_S)
    assert _wakes(host) == 0
    assert host.vmscan.kcompactd.max_order == order


def test_a_node_that_has_the_block_does_not_wake_it(make_host: Any) -> None:
    """Above the min mark, boost included; zones above the one asked for are not looked at."""
    host = make_host(free=1000)
    host.vmscan.kcompactd = Kcompactd(host.world, host.vmscan.compaction)
    host.vmscan.compaction.proactiveness = 0
    _run(host)
    assert _wakes(host) == 0
    two = _pieces(make_host, zones=(("DMA32", 64), ("Normal", 1024)))
    _run(two, highest=1)
    assert (_wakes(two), two.vmscan.kcompactd.highest) == (0, 1)


@pytest.mark.parametrize(("nr_free", "at_once"), [(24, 0), (512, 1)])
def test_a_request_that_was_of_no_use_is_looked_at_in_half_a_second(make_host: Any, nr_free: int, at_once: int) -> None:
    """Where kcompactd looks by itself its timeout finds the order: KCOMPACTD_WAKE, whatever comes of it."""
    host = _pieces(make_host, movable=False, nr_free=nr_free, proactiveness=20)

    async def body(task: Task) -> None:
        await _start(host, task)
        host.vmscan.wakeup_kcompactd(3, ZONE_NORMAL)
        await host.pause(task, NS_PER_MS)
        assert _wakes(host) == at_once
        await host.pause(task, HPAGE_FRAG_CHECK_NS + SLACK_NS)
        assert _wakes(host) == 1
        assert host.vmscan.kcompactd.max_order == 0

    host.run(body)


def test_a_request_before_it_runs_is_not_its_own(make_host: Any) -> None:
    """The thread begins with nothing asked for."""
    host = _pieces(make_host)

    async def body(task: Task) -> None:
        host.vmscan.wakeup_kcompactd(3, ZONE_NORMAL)
        await _start(host, task)
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert (_wakes(host), host.vmscan.kcompactd.max_order) == (0, 0)


@pytest.mark.parametrize(("order", "nr_wakes"), [(2, 1), (3, 1), (4, 2)])
def test_a_larger_order_while_it_works_is_served_next(make_host: Any, order: int, nr_wakes: int) -> None:
    """The largest that was asked for is reset only if it has been worked for; the highest zone likewise."""
    host = _pieces(make_host)
    orders = []

    async def compact_zone(task: Task, cc: CompactControl) -> CompactResult:
        orders.append(cc.order)
        await host.pause(task, NS_PER_MS)
        return CompactResult.SUCCESS

    host.vmscan.compaction.compact_zone = compact_zone

    async def body(task: Task) -> None:
        await _start(host, task)
        host.vmscan.wakeup_kcompactd(3, ZONE_NORMAL)
        await host.pause(task, NS_PER_MS // 2)
        host.vmscan.wakeup_kcompactd(order, 1)
        await host.pause(task, 10 * NS_PER_MS)

    host.run(body)
    assert orders == [3, order][:nr_wakes]
    assert _wakes(host) == nr_wakes
    assert (host.vmscan.kcompactd.max_order, host.vmscan.kcompactd.highest) == (0, ZONE_INDEX["DMA32"])


def test_zones_above_the_one_asked_for_are_left_alone(make_host: Any) -> None:
    """And those that have been in vain too often, or have the block."""
    host = _pieces(make_host, movable=False, zones=(("DMA32", 1024), ("Normal", 1024)), marks=(8, 9, 10))
    met: list[str] = []

    async def compact_zone(task: Task, cc: CompactControl) -> CompactResult:
        met.append(cc.zone.name)
        return CompactResult.COMPLETE

    compaction = host.vmscan.compaction
    compaction.compact_zone = compact_zone
    host.zone.watermark[:] = [8, 9, 10]
    low = host.node.zones[0]
    low.watermark[:] = [8, 9, 10]
    kcompactd = host.vmscan.kcompactd

    async def ask(task: Task) -> None:
        for highest in (1, ZONE_NORMAL, ZONE_NORMAL, ZONE_NORMAL):
            kcompactd.max_order, kcompactd.highest = 3, highest
            await kcompactd.kcompactd_do_work(task)

    host.run(ask)
    assert met == ["Normal", "Normal"], "the second of three was deferred"
    assert [compaction.states[name].defer_shift for name in ("DMA32", "Normal")] == [0, 2]


def test_a_run_in_vain_drains_what_it_freed(make_host: Any) -> None:
    """Per-cpu lists are given back, so that what moved may merge; the order is deferred."""
    host = _pieces(make_host, movable=False, high=50)
    host.program([P + 1], host.task("owner", 998))
    _run(host)
    assert host.vmstat.pgmigrate_success == 1
    assert host.nr_pcp == 0
    assert host.vmscan.compaction.states["DMA32"].defer_shift == 1
    host.audit()


def test_what_a_trace_tells_of_it(make_host: Any) -> None:
    """Sleep, wake-up and wake, with order and the name of the highest zone: that asked for, and one that there is."""
    host = _pieces(make_host)
    recorder = host.vmscan.compaction.trace.recorder = Recorder(host.world)
    _run(host)
    found = [
        (TRACEPOINTS[int(record["event"])].name.removeprefix("mm_compaction_"), record["args"].tolist())
        for batch in recorder.batches()
        for record in batch
    ]
    names = [name for name, _ in found if "kcompactd" in name]
    assert names == ["kcompactd_sleep", "wakeup_kcompactd", "kcompactd_wake", "kcompactd_sleep"]
    for name, zone in (("wakeup_kcompactd", "Normal"), ("kcompactd_wake", "DMA32")):
        args = dict(found)[name]
        assert (args[:2], recorder.recorded.names[args[2]]) == ([0, 3], zone)


# -- who asks ----------------------------------------------------------------------------------------------------------


def _asked(host: Any) -> list[tuple[int, int]]:
    """Return the list of what kcompactd will have been asked for."""
    asked: list[tuple[int, int]] = []
    host.vmscan.wakeup_kcompactd = lambda order, highest: asked.append((order, highest))
    return asked


@pytest.mark.parametrize(("boost", "asked"), [(64, [(6, ZONE_MOVABLE)]), (0, [])])
def test_kswapd_asks_for_a_pageblock_after_a_boost(make_host: Any, boost: int, asked: list[tuple[int, int]]) -> None:
    """The steal that raised it has mixed a pageblock: another is to become whole."""
    host = _pieces(make_host)
    host.zone.watermark_boost = boost
    found = _asked(host)

    async def body(task: Task) -> None:
        await host.kswapd.balance_pgdat(task, 3)

    host.run(body)
    assert found == asked


@pytest.mark.parametrize(("balanced", "asked"), [(True, [(3, 2)]), (False, [])])
def test_kswapd_asks_for_its_order_on_its_way_to_sleep(
    make_host: Any, balanced: bool, asked: list[tuple[int, int]]
) -> None:
    """What was passed over is looked at again then, if somebody has gone all the way; not where it runs on."""
    host = _pieces(make_host, marks=(8, 9, 10) if balanced else (600, 700, 800))
    state = host.vmscan.compaction.states["DMA32"]
    state.set_skip(P + 14 * BLOCK)
    state.blockskip_flush = True
    host.kswapd.highest = 2
    found = _asked(host)

    async def sleeper(task: Task) -> None:
        await host.kswapd.kswapd_try_to_sleep(task, 3, 0)

    async def body(task: Task) -> None:
        host.world.spawn("kswapd0", sleeper)
        await host.pause(task, NS_PER_MS)

    host.run(body)
    assert found == asked
    assert state.is_skipped(P + 14 * BLOCK) != balanced
    assert state.blockskip_flush != balanced


def test_hints_stay_where_nobody_has_gone_all_the_way(make_host: Any) -> None:
    """Kswapd's sleep alone does not have pageblocks looked at again."""
    host = _pieces(make_host)
    compaction = host.vmscan.compaction
    compaction.states["DMA32"].set_skip(P + 14 * BLOCK)
    compaction.reset_isolation_suitable()
    assert compaction.states["DMA32"].is_skipped(P + 14 * BLOCK)


@pytest.mark.parametrize(
    ("gfp", "free", "failures", "asked"),
    [
        (GFP_ATOMIC, 1000, 0, True),
        (GFP_NOWAIT, 300, 16, True),
        (GFP_KERNEL, 1000, 0, False),
        (GFP_KERNEL, 300, 16, False),
        (GFP_ATOMIC, 300, 0, False),
    ],
    ids=["atomic", "hopeless", "may compact itself", "hopeless, may itself", "kswapd is woken instead"],
)
def test_an_allocator_that_may_not_reclaim_asks(
    make_host: Any, gfp: int, free: int, failures: int, asked: bool
) -> None:
    """Where kswapd has nothing to do: the node is balanced, or nothing could be had."""
    host = make_host(free=free, marks=(270, 337, 404))
    host.node.kswapd_failures = failures
    found = _asked(host)

    async def sleeper(task: Task) -> None:
        await host.vmscan.kswapd_wait.wait(task)

    async def body(task: Task) -> None:
        host.vmscan.wakeup_kswapd(gfp, 2, ZONE_NORMAL)
        assert not found, "kswapd is awake"
        host.world.spawn("kswapd0", sleeper)
        await host.pause(task, 1)
        host.vmscan.wakeup_kswapd(gfp, 2, ZONE_NORMAL)

    host.run(body)
    assert found == [(2, ZONE_NORMAL)] * asked


def test_without_a_kcompactd_nobody_is_asked(host: Any) -> None:
    """Before 4.6 there is none."""
    assert host.vmscan.kcompactd is None
    host.vmscan.wakeup_kcompactd(3, ZONE_NORMAL)


@pytest.mark.parametrize(
    ("switches", "order", "compacts"),
    [
        ({"kcompactd": False}, 3, True),
        ({"kcompactd": False}, 0, False),
        ({"kcompactd": True}, 3, False),
        ({"kcompactd": False, "compaction": False}, 3, False),
    ],
)
def test_before_4_6_kswapd_compacts_itself(
    make_host: Any, switches: dict[str, bool], order: int, compacts: bool
) -> None:
    """For the order it was woken for, asynchronously, at the end of its run."""
    host = _pieces(make_host, switches=switches)

    async def body(task: Task) -> None:
        await host.kswapd.balance_pgdat(task, order)

    host.run(body)
    assert bool(host.vmstat.pgmigrate_success) == compacts
    assert any(heads for lists in host.zone.free_lists[3:] for heads in lists) == compacts
    assert (host.vmstat.compact_stall, _wakes(host)) == (0, 0)
    assert host.vmscan.compaction.states["DMA32"].order_failed == (4 if compacts else 0)


# -- looking by itself -------------------------------------------------------------------------------------------------


def _looks(host: Any) -> list[int]:
    """Return the list of the times at which kcompactd will have compacted by itself."""
    kcompactd = host.vmscan.kcompactd
    compact = kcompactd.proactive_compact_node
    looked_ns: list[int] = []

    async def spy(task: Task) -> None:
        looked_ns.append(host.world.now_ns)
        await compact(task)

    kcompactd.proactive_compact_node = spy
    return looked_ns


def _wait(host: Any, seconds: int) -> None:
    async def body(task: Task) -> None:
        await _start(host, task)
        await host.pause(task, seconds * NS_PER_S)

    host.run(body)


@pytest.mark.parametrize(
    ("proactiveness", "switches", "looks"),
    [(20, {}, True), (0, {}, False), (20, {"proactive_compaction": False}, False)],
    ids=["20", "0", "before 5.9"],
)
def test_it_looks_each_half_second(make_host: Any, proactiveness: int, switches: dict[str, bool], looks: bool) -> None:
    """And compacts where free memory is in too small pieces; KCOMPACTD_WAKE is not of it, nor its scan counts."""
    host = _pieces(make_host, proactiveness=proactiveness, switches=switches)
    looked_ns = _looks(host)
    _wait(host, 1)
    assert bool(looked_ns) == looks == bool(host.vmstat.compact_migrate_scanned)
    assert _wakes(host) == host.vmstat.compact_daemon_migrate_scanned == 0
    if looks:
        assert HPAGE_FRAG_CHECK_NS <= looked_ns[0] <= HPAGE_FRAG_CHECK_NS + SLACK_NS
    host.audit()


@pytest.mark.parametrize(("nr_small", "looks"), [(5300, False), (5900, True)])
def test_memory_in_large_pieces_is_left_alone(make_host: Any, nr_small: int, looks: bool) -> None:
    """Up to ninety of a hundred free pages may be in blocks smaller than a huge page, by default."""
    host = _pieces(make_host, zones=(("DMA32", 1 << 14),), movable=False, nr_free=nr_small, proactiveness=20)
    host.put(P + (1 << 14) - 512, 9)
    looked_ns = _looks(host)
    _wait(host, 1)
    assert bool(looked_ns) == looks


@pytest.mark.parametrize(("movable", "again_ns"), [(True, HPAGE_FRAG_CHECK_NS), (False, 64 * HPAGE_FRAG_CHECK_NS)])
def test_a_look_that_changed_nothing_lets_64_pass(make_host: Any, movable: bool, again_ns: int) -> None:
    """Free memory as it is will not become better: 32 s, on a timer that says nothing of progress."""
    host = _pieces(make_host, zones=(("DMA32", 4096),), nr_free=2048, movable=movable, proactiveness=20)
    looked_ns = _looks(host)
    kinds: list[tuple[int, int]] = []

    async def body(task: Task) -> None:
        await _start(host, task)
        kinds.append((host.world.nr_pending_retry, 0))
        await host.pause(task, HPAGE_FRAG_CHECK_NS + SLACK_NS)
        timers = [timer for timer in host.world.pending_timers() if timer[0] < 3000 * NS_PER_S]
        kinds.extend((int(kind), time_ns - host.world.now_ns) for time_ns, _, _, _, kind, _ in timers)

    host.run(body)
    (nr_retry, _), (kind, left_ns) = kinds
    assert len(looked_ns) == nr_retry == 1
    assert kind == (TimerKind.RETRY if movable else TimerKind.CLOCK)
    assert again_ns - SLACK_NS <= left_ns <= again_ns + 30 * SLACK_NS


def test_it_looks_again_when_its_time_has_come(make_host: Any) -> None:
    """In vain each time; a request in between is served at once, and has it look in half a second again."""
    host = _pieces(make_host, movable=False, proactiveness=20)
    looked_ns = _looks(host)

    async def body(task: Task) -> None:
        await _start(host, task)
        await host.pause(task, 40 * NS_PER_S)
        assert len(looked_ns) == 2
        host.vmscan.wakeup_kcompactd(3, ZONE_NORMAL)
        await host.pause(task, NS_PER_MS)
        assert _wakes(host) == 1
        await host.pause(task, NS_PER_S)
        assert len(looked_ns) == 3

    host.run(body)
    assert looked_ns[1] - looked_ns[0] >= 32 * NS_PER_S


@pytest.mark.parametrize(("order", "result"), [(-1, CompactResult.PARTIAL_SKIPPED), (3, CompactResult.SUCCESS)])
def test_it_does_not_look_while_kswapd_is_at_work(make_host: Any, order: int, result: CompactResult) -> None:
    """A run of its own ends as soon as kswapd runs; one for an order goes on."""
    host = _pieces(make_host, proactiveness=20)
    compaction, kcompactd = host.vmscan.compaction, host.vmscan.kcompactd
    proactive = order < 0
    sync = MigrateMode.SYNC_LIGHT
    cc = CompactControl(zone=host.zone, order=order, mode=sync, gfp=GFP_KERNEL, migratetype=0, proactive=proactive)
    cc.search_order, cc.whole_zone = order, proactive

    async def body(task: Task) -> CompactResult:
        assert not compaction.kswapd_is_running()
        assert kcompactd._should_proactive_compact_node()
        host.vmscan.kswapd = task
        assert not kcompactd._should_proactive_compact_node()
        found: CompactResult = await compaction.compact_zone(task, cc)
        host.vmscan.kswapd = None
        return found

    assert host.run(body) == result
    assert bool(host.vmstat.pgmigrate_success) == (order > 0)


def test_a_kswapd_that_sleeps_is_not_at_work(make_host: Any) -> None:
    """Wherever it sleeps; once woken it is."""
    host = make_host(free=10, marks=(20, 30, 40))

    async def body(task: Task) -> None:
        await host.pause(task, 1)
        assert not host.vmscan.compaction.kswapd_is_running()
        host.vmscan.wakeup_kswapd(GFP_ATOMIC, 0, ZONE_NORMAL)
        assert host.vmscan.compaction.kswapd_is_running()

    host.run(body, kswapd=True)
