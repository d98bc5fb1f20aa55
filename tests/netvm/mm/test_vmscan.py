"""Reclaim above the level of pages: how much is scanned, who is held back, for how long."""

import numpy as np
import pytest

from netvm.mm.frames import PG_LRU
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
    PF_KSWAPD,
    PF_KTHREAD,
    PF_LOCAL_THROTTLE,
    PF_MEMALLOC,
)
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON, INACTIVE_FILE
from netvm.mm.scan_control import DEF_PRIORITY, SWAP_CLUSTER_MAX, ScanControl
from netvm.mm.zone import ZONE_NORMAL
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

P = 1024


def _sizes(host, *sizes: int) -> None:
    """Give inactive anon, active anon, inactive file and active file so many pages; only their number matters."""
    for lru, size in enumerate(sizes):
        host.lruvec.lists[lru].add_head(np.full(size, P))


def _swap(host, nr_free: int = 1000, nr_total: int = 1000) -> None:
    host.swap.nr_free, host.swap.nr_total = nr_free, nr_total


def _reclaim(host, gfp: int = GFP_KERNEL, *, flags: int = 0, order: int = 0, limit_s: int = 3600):
    """Run one direct reclaim as a task of its own; return what it reclaimed."""

    async def body(task):
        return await host.vmscan.try_to_free_pages(task, order, gfp)

    return host.run(body, flags=flags, limit_s=limit_s)


# -- what seems reclaimable --------------------------------------------------------------------------------------------


def test_reclaimable_pages(make_host) -> None:
    """Files always, anonymous pages while swap has room; what is free, if that makes nothing."""
    host = make_host(free=700)
    assert host.vmscan.zone_reclaimable_pages(host.zone) == 700
    _sizes(host, 10, 20, 3, 4)
    assert host.vmscan.zone_reclaimable_pages(host.zone) == 7
    _swap(host, 1, 1000)
    assert host.vmscan.zone_reclaimable_pages(host.zone) == 37


def _two_zones(make_host, nr_low: int, nr_normal: int, **options):
    """Return a host of two zones with so many anonymous pages on the list in each, and the zones."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 1536)), free=0, **options)
    low, normal = host.node.zones
    for zone, nr in ((low, nr_low), (normal, nr_normal)):
        pages = np.arange(zone.start_pfn, zone.start_pfn + nr)
        host.frames.flags[pages] = PG_LRU
        host.lruvec.lists[INACTIVE_ANON].add_head(pages)
    _swap(host, 1, 1000)
    return host, low, normal


def test_a_zone_has_its_own_pages_of_the_lists(make_host) -> None:
    """On a node of two zones each counts what lies in it, anonymous pages while swap has room."""
    host, low, normal = _two_zones(make_host, 30, 700)
    host.frames.mapping[normal.start_pfn : normal.start_pfn + 5] = -1
    host.frames.mapping[low.start_pfn : low.start_pfn + 2] = -1
    assert [host.vmscan.zone_reclaimable_pages(zone) for zone in (low, normal)] == [30, 700]
    assert host.vmscan.zones_with_reserve() == [low, normal]
    _swap(host, 0, 1000)
    assert host.vmscan.zone_reclaimable_pages(low) == 2


@pytest.mark.parametrize("fix", [True, False])
def test_free_pages_of_a_zone_without_others_count(make_host, fix: bool) -> None:
    """Fix ``reclaimable_free_pages``: without it DMA32, all free, is passed over, and Normal alone stays short.

    The node is balanced by DMA32 either way, so kswapd does nothing for who waits.
    """
    host, low, normal = _two_zones(make_host, 0, 700, switches={"reclaimable_free_pages": fix}, marks=(100, 120, 140))
    low.nr_free = 300
    normal.nr_free = 20
    assert host.vmscan.pgdat_balanced(0)
    assert host.vmscan.allow_direct_reclaim() is fix


# -- direct reclaim ----------------------------------------------------------------------------------------------------


async def _clean_pages(host, task, nr_pages: int):
    """Fill the inactive list with pages that were written to swap: each page scanned is a page freed."""
    await host.mapped(task, nr_pages, young=False)
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
    plug = host.swap.start_plug(task)
    while host.vmstat.pswpout < nr_pages:
        await host.shrinker.shrink_inactive_list(task, host.lruvec, SWAP_CLUSTER_MAX, sc, plug)
    plug.finish()
    await host.pause(task, NS_PER_S)
    host.lruvec.lru_add_drain()
    assert host.vmstat.nr_writeback == 0
    assert len(host.lruvec.lists[INACTIVE_ANON]) == nr_pages


def _expected_reclaim(nr_pages: int) -> int:
    """Return what goes when every page scanned is freed: whole priorities until 32 are reached, then a batch more."""
    total = 0
    for priority in range(DEF_PRIORITY, -1, -1):
        scan = nr_pages >> priority
        in_this_pass = 0
        while scan:
            batch = min(scan, SWAP_CLUSTER_MAX)
            scan -= batch
            in_this_pass += batch
            if in_this_pass >= SWAP_CLUSTER_MAX and priority < DEF_PRIORITY:
                break
        total += in_this_pass
        nr_pages -= in_this_pass
        if total >= SWAP_CLUSTER_MAX:
            return total
    return total


@pytest.mark.parametrize("nr_pages", [64, 500, 2000, 9100, 9800])
def test_a_direct_reclaim_frees_32_to_69_pages(make_host, nr_pages: int) -> None:
    """The goal of 32 is looked at between priorities and batches only: never fewer, at most 31 + 38 on such lists."""
    zones = (("DMA32", 2 * nr_pages + 600),)
    host = make_host(zones=zones, swap_pages=2 * nr_pages, marks=(1, 2, 99_999), nr_requests=1024)

    async def body(task):
        await _clean_pages(host, task, nr_pages)
        free = host.zone.nr_free + host.nr_pcp
        reclaimed = await host.vmscan.try_to_free_pages(task, 0, GFP_HIGHUSER_MOVABLE)
        assert host.zone.nr_free + host.nr_pcp == free + reclaimed
        return reclaimed

    reclaimed = host.run(body)
    assert reclaimed == _expected_reclaim(nr_pages)
    assert 32 <= reclaimed <= 69
    assert host.vmstat.allocstall == {"dma": 0, "dma32": 0, "normal": 0, "movable": 1}
    assert host.vmstat.pgsteal_direct == host.vmstat.pgsteal_anon == reclaimed
    assert host.vmscan.direct_reclaim_latency.summary().count == 1
    host.audit()


@pytest.mark.parametrize(("kswapd", "priority", "scanned"), [(False, 12, 80), (False, 11, 32), (True, 12, 32)])
def test_the_first_priority_never_stops_early(host, kswapd: bool, priority: int, scanned: int) -> None:
    """At priority 12 a direct reclaimer scans its whole share, beyond the 32 pages it wants; kswapd does not."""
    _swap(host)
    _sizes(host, 80 << priority)
    taken = 0

    async def shrink_list(task, lruvec, lru, nr, sc, plug):
        nonlocal taken
        taken += nr
        return nr

    host.vmscan.shrink_list = shrink_list
    sc = ScanControl(gfp=GFP_KERNEL, order=0, kswapd=kswapd, priority=priority, file_is_tiny=True)

    async def body(task):
        await host.vmscan.shrink_lruvec(task, host.lruvec, sc)

    host.run(body)
    assert taken == sc.nr_reclaimed == scanned


@pytest.mark.parametrize(
    ("sizes", "scanned"),
    [
        # enough is reclaimed after one batch of each: the smaller type stops, the other goes on to its share
        ((640, 0, 320, 0), {INACTIVE_ANON: 64, INACTIVE_FILE: 32}),
        ((320, 0, 640, 0), {INACTIVE_ANON: 32, INACTIVE_FILE: 64}),
        # with one type only there is nothing to keep in proportion
        ((640, 0, 0, 0), {INACTIVE_ANON: 32}),
        ((0, 0, 640, 0), {INACTIVE_FILE: 32}),
        # nothing is left of the smaller
        ((640, 0, 32, 0), {INACTIVE_ANON: 32, INACTIVE_FILE: 32}),
    ],
)
def test_what_is_enough_is_left_in_proportion(host, sizes: tuple[int, ...], scanned: dict[int, int]) -> None:
    """When the goal is reached the smaller type is stopped and the other gets one nudge towards its proportion."""
    _swap(host)
    _sizes(host, *sizes)
    found: dict[int, int] = {}

    async def shrink_list(task, lruvec, lru, nr, sc, plug):
        found[lru] = found.get(lru, 0) + nr
        return nr

    host.vmscan.shrink_list = shrink_list
    # at swappiness 100 and equal costs both types have their whole share
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0, kswapd=True)

    async def body(task):
        await host.vmscan.shrink_lruvec(task, host.lruvec, sc)

    host.run(body)
    assert found == scanned


def test_the_stack_of_a_reclaimer(make_host) -> None:
    """Within reclaim a task has PF_MEMALLOC and is listed; afterwards it is as before."""
    host = make_host(free=100)
    _swap(host)
    host.lru_pages(64)
    seen = []
    shrink_folio_list = host.shrinker.shrink_folio_list

    async def spy(task, taken, sc, plug, *, fate):
        seen.append((task.flags & PF_MEMALLOC, host.vmscan.reclaimers == [task]))
        return await shrink_folio_list(task, taken, sc, plug, fate=fate)

    host.shrinker.shrink_folio_list = spy

    async def body(task):
        await host.vmscan.try_to_free_pages(task, 0, GFP_KERNEL)
        assert not task.flags & PF_MEMALLOC

    host.run(body)
    assert set(seen) == {(PF_MEMALLOC, True)}
    assert host.vmscan.reclaimers == []


@pytest.mark.parametrize(("gfp", "counter"), [(GFP_KERNEL, "normal"), (GFP_HIGHUSER_MOVABLE, "movable")])
def test_a_reclaim_in_vain_goes_through_all_priorities_twice(make_host, gfp: int, counter: str) -> None:
    """Nothing reclaimed and an active list spared: once more with deactivation forced, which counts as a stall too."""
    host = make_host(free=100)
    _swap(host, 1000, 1000)
    host.lru_pages(64)
    host.lru_pages(32, ACTIVE_ANON)
    assert _reclaim(host, gfp) == 0
    assert host.vmstat.allocstall[counter] == 2
    assert host.vmscan.direct_reclaim_latency.summary().count == 1


def test_a_reclaim_of_nothing_tries_once(make_host) -> None:
    """Without any list to spare there is no second go."""
    host = make_host(free=100)
    assert _reclaim(host) == 0
    assert host.vmstat.allocstall["normal"] == 1


def test_success_of_a_direct_reclaimer_gives_kswapd_hope(make_host) -> None:
    """Any page reclaimed sets kswapd_failures back to zero."""
    host = make_host(swap_pages=512, marks=(1, 2, 2048))

    async def body(task):
        await _clean_pages(host, task, 100)
        host.node.kswapd_failures = 16
        return await host.vmscan.try_to_free_pages(task, 0, GFP_KERNEL)

    assert host.run(body) >= 32
    assert host.node.kswapd_failures == 0


# -- the reserve's throttle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boost", [0, 1024])
def test_the_throttle_stands_at_half_of_min(make_host, boost: int) -> None:
    """More than half of min, boost included, must be free: 135 pages, or 647 while a recorded machine is boosted."""
    line = (270 + boost) // 2
    for free, allowed in ((line + 1, True), (line, False)):
        host = make_host(free=free, marks=(270, 337, 404))
        host.zone.watermark_boost = boost
        host.lru_pages(10, INACTIVE_FILE)
        assert host.vmscan.allow_direct_reclaim() == allowed


def test_highatomic_pages_count_as_free_for_the_throttle(make_host) -> None:
    """allow_direct_reclaim looks at NR_FREE_PAGES alone."""
    host = make_host(free=136, marks=(270, 337, 404))
    host.zone.nr_reserved_highatomic = 64
    host.lru_pages(10, INACTIVE_FILE)
    assert host.vmscan.allow_direct_reclaim()


def test_a_zone_without_anything_reclaimable_is_left_out(make_host) -> None:
    """With no page on a list and none free there is no reserve to protect: reclaim is allowed."""
    host = make_host(free=0, marks=(270, 337, 404))
    assert host.vmscan.allow_direct_reclaim()
    host.lru_pages(1, INACTIVE_FILE)
    assert not host.vmscan.allow_direct_reclaim()


def test_the_sum_over_zones_counts(make_host) -> None:
    """Reserve and free are added up over all zones up to Normal; Movable memory is nobody's reserve."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 512), ("Movable", 512)), free=512, marks=(500, 600, 700))
    low, normal, _ = host.node.zones
    low.watermark[:] = [300, 300, 300]
    normal.watermark[:] = [1748, 1800, 1800]
    host.lru_pages(0)
    assert not host.vmscan.allow_direct_reclaim()
    normal.watermark[:] = [1746, 1800, 1800]
    assert host.vmscan.allow_direct_reclaim()


def test_a_hopeless_node_throttles_nobody(make_host) -> None:
    """After 16 failures of kswapd the line is gone, as nobody would wake who waits at it."""
    host = make_host(free=1, marks=(270, 337, 404))
    host.lru_pages(10, INACTIVE_FILE)
    host.node.kswapd_failures = 15
    assert not host.vmscan.allow_direct_reclaim()
    host.node.kswapd_failures = 16
    assert host.vmscan.allow_direct_reclaim()


def _throttled(make_host, **options):
    """Return a host far below the line, with something on its lists that reclaim does not get."""
    host = make_host(free=10, marks=(270, 337, 404), **options)
    host.lru_pages(4, INACTIVE_FILE)
    return host


def test_whoever_meets_the_line_wakes_kswapd(make_host) -> None:
    """Kswapd must be awake if processes are throttled."""
    host = _throttled(make_host)

    async def sleeper(task):
        await host.vmscan.kswapd_wait.wait(task)

    async def body(task):
        host.world.spawn("kswapd0", sleeper)
        await host.pause(task, 1)
        assert len(host.vmscan.kswapd_wait) == 1
        assert not host.vmscan.allow_direct_reclaim()
        assert len(host.vmscan.kswapd_wait) == 0
        assert host.vmscan.kswapd_highest == ZONE_NORMAL

    host.run(body)


@pytest.mark.parametrize("gfp", [GFP_NOIO, GFP_NOFS])
def test_a_request_without_fs_waits_a_second_at_most(make_host, gfp: int) -> None:
    """It may hold what kswapd needs: after one second it reclaims whatever the reserve."""
    host = _throttled(make_host)
    _reclaim(host, gfp)
    assert host.world.now_ns == 1024 * NS_PER_MS
    assert host.vmstat.pgscan_direct_throttle == 1
    assert host.vmstat.allocstall["normal"] == 1


def test_waking_it_early_does_not_renew_the_second(make_host) -> None:
    """Woken below the line it waits on, for what is left of its second."""
    host = _throttled(make_host)

    async def nudge(task):
        for _ in range(3):
            await host.pause(task, 300 * NS_PER_MS)
            host.vmscan.pfmemalloc_wait.wake_all()

    async def body(task):
        host.world.spawn("nudge", nudge)
        await host.vmscan.try_to_free_pages(task, 0, GFP_NOIO)

    host.run(body)
    assert host.world.now_ns == NS_PER_S + JIFFY_NS


def test_a_request_with_fs_waits_until_it_is_allowed(make_host) -> None:
    """No bound: only free memory and a wake-up end it."""
    host = _throttled(make_host)

    async def helper(task):
        await host.pause(task, 5 * NS_PER_S)
        host.vmscan.pfmemalloc_wait.wake_all()
        await host.pause(task, 5 * NS_PER_S)
        host.put_range(P + 512, 200)
        host.vmscan.pfmemalloc_wait.wake_all()

    async def body(task):
        host.world.spawn("helper", helper)
        await host.vmscan.try_to_free_pages(task, 0, GFP_KERNEL)

    host.run(body)
    assert host.world.now_ns == 10 * NS_PER_S
    assert host.vmstat.pgscan_direct_throttle == 1


def test_without_the_bound_noio_waits_as_long(make_host) -> None:
    """Fix ``throttle_noio_bounded``: without it a NOIO reclaimer waits for kswapd, who may wait for it."""
    host = _throttled(make_host, switches={"throttle_noio_bounded": False})

    async def helper(task):
        await host.pause(task, 7 * NS_PER_S)
        host.put_range(P + 512, 200)
        host.vmscan.pfmemalloc_wait.wake_all()

    async def body(task):
        host.world.spawn("helper", helper)
        await host.vmscan.try_to_free_pages(task, 0, GFP_NOIO)

    host.run(body)
    assert host.world.now_ns == 7 * NS_PER_S


def test_without_the_throttle_nobody_waits(make_host) -> None:
    """Fix ``throttle_direct_reclaim``: before 3.6 reclaimers ate the reserve unhindered."""
    host = _throttled(make_host, switches={"throttle_direct_reclaim": False})
    _reclaim(host)
    assert host.world.now_ns == 0
    assert host.vmstat.pgscan_direct_throttle == 0


@pytest.mark.parametrize(("fix", "waited_ns"), [(True, 0), (False, 1024 * NS_PER_MS)])
def test_kernel_threads_are_never_throttled(make_host, fix: bool, waited_ns: int) -> None:
    """Fix ``throttle_skips_kthreads``: a thread that cleans pages must not wait for clean pages."""
    host = _throttled(make_host, switches={"throttle_skips_kthreads": fix})
    _reclaim(host, GFP_NOIO, flags=PF_KTHREAD)
    assert host.world.now_ns == waited_ns
    assert host.vmstat.pgscan_direct_throttle == (not fix)


def test_a_killed_task_is_not_throttled(make_host) -> None:
    """With a fatal signal pending it passes, so that it can exit and free its memory."""
    host = _throttled(make_host)

    async def body(task):
        task.killed = True
        await host.vmscan.try_to_free_pages(task, 0, GFP_KERNEL)

    host.run(body)
    assert host.world.now_ns == 0
    assert host.vmstat.pgscan_direct_throttle == 0


@pytest.mark.parametrize("gfp", [GFP_KERNEL, GFP_NOIO])
def test_a_task_killed_at_the_line_leaves_it(make_host, gfp: int) -> None:
    """Both waits end with the signal, without any reclaim."""
    host = _throttled(make_host)
    ended_ns = []

    async def victim(task):
        try:
            await host.vmscan.try_to_free_pages(task, 0, gfp)
        finally:
            ended_ns.append(host.world.now_ns)
            assert not task.flags & PF_MEMALLOC

    async def body(task):
        target = host.world.spawn("victim", victim)
        await host.pause(task, 500 * NS_PER_MS)
        target.kill()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert ended_ns == [500 * NS_PER_MS]
    assert sum(host.vmstat.allocstall.values()) == 0
    assert host.vmscan.direct_reclaim_latency.summary().unfinished == 0


# -- naps between two attempts -----------------------------------------------------------------------------------------


def test_no_progress_at_the_last_but_one_priority_is_a_reason(make_host) -> None:
    """A direct reclaimer that reached priority 1 with nothing sleeps a jiffy, if much is under write."""
    host = make_host(free=100)
    host.lru_pages(4, INACTIVE_FILE)
    host.zone.nr_write_pending = 1000
    _reclaim(host)
    assert host.vmscan.throttles.count == {"VMSCAN_THROTTLE_NOPROGRESS": 1}
    assert host.world.now_ns == 2 * JIFFY_NS


def test_progress_of_one_wakes_those_without(make_host) -> None:
    """More than an eighth of what was scanned reclaimed: NOPROGRESS waiters look again."""
    host = make_host(swap_pages=512, marks=(1, 2, 2048))
    ended_ns = []

    async def waiter(task):
        await host.vmscan.throttles.queues["VMSCAN_THROTTLE_NOPROGRESS"].wait(task)
        ended_ns.append(host.world.now_ns)

    async def body(task):
        await _clean_pages(host, task, 100)
        host.world.spawn("waiter", waiter)
        await host.pause(task, NS_PER_S)
        now_ns = host.world.now_ns
        assert await host.vmscan.try_to_free_pages(task, 0, GFP_KERNEL) >= 32
        await host.pause(task, NS_PER_S)
        return now_ns

    now_ns = host.run(body)
    assert ended_ns == [now_ns]


# -- isolated pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gfp", "fix", "limit"),
    [
        (GFP_KERNEL, True, 10),
        (GFP_HIGHUSER_MOVABLE, True, 10),
        (GFP_NOIO, True, 80),
        (GFP_NOFS, True, 80),
        (GFP_KERNEL, False, 80),
        (GFP_NOIO, False, 80),
    ],
)
def test_how_many_pages_may_be_isolated(make_host, gfp: int, fix: bool, limit: int) -> None:
    """Fix ``noio_isolation_limit``: as many as are left on the list, but an eighth for masks with IO and FS.

    So restricted reclaimers never wait for unrestricted ones; before, all waited at the same number.
    """
    host = make_host(switches={"noio_isolation_limit": fix})
    _sizes(host, 80)
    sc = ScanControl(gfp=gfp, order=0)
    host.vmstat.nr_isolated_anon = limit
    assert not host.vmscan.too_many_isolated(sc)
    host.vmstat.nr_isolated_anon = limit + 1
    assert host.vmscan.too_many_isolated(sc)


def _shrink_one(host, *, kswapd: bool = False, kill: bool = False):
    """Scan one batch; return what it says was reclaimed."""
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0, kswapd=kswapd)

    async def body(task):
        if kill:
            task.killed = True
        return await host.vmscan.shrink_list(task, host.lruvec, INACTIVE_ANON, 32, sc, host.swap.start_plug(task))

    return host.run(body)


def test_too_many_isolated_pages_make_a_reclaimer_wait_once(make_host) -> None:
    """20 ms, and then it gives up on this batch if nothing has changed; kswapd does not look."""
    host = make_host(free=100)
    host.lru_pages(64)
    host.vmstat.nr_isolated_anon = 500
    assert _shrink_one(host) == 0
    assert host.world.now_ns == 24 * NS_PER_MS
    assert host.vmstat.pgscan_anon == 0
    other = make_host(free=100)
    other.lru_pages(64)
    other.vmstat.nr_isolated_anon = 500
    _shrink_one(other, kswapd=True)
    assert (other.world.now_ns, other.vmstat.pgscan_anon) == (0, 32)


def test_before_4_14_it_waits_until_there_are_fewer(make_host) -> None:
    """Without isolated_wait_once a reclaimer goes on waiting, and then takes its batch."""
    host = make_host(free=100, switches={"isolated_wait_once": False})
    host.lru_pages(64)
    host.vmstat.nr_isolated_anon = 500

    def fewer() -> None:
        host.vmstat.nr_isolated_anon = 0

    host.world.call_after(NS_PER_S, fewer)
    _shrink_one(host)
    assert host.world.now_ns == 1008 * NS_PER_MS
    assert host.vmstat.pgscan_anon == 32


def test_a_dying_task_does_not_insist(make_host) -> None:
    """A fatal signal ends it with a full batch of pretended progress."""
    host = make_host(free=100)
    host.lru_pages(64)
    host.vmstat.nr_isolated_anon = 500
    assert _shrink_one(host, kill=True) == SWAP_CLUSTER_MAX
    assert host.vmstat.pgscan_anon == 0


def test_a_reclaimer_that_finds_room_wakes_those_who_wait_for_it(make_host) -> None:
    """wake_throttle_isolated: whoever sees few isolated pages ends the others' 20 ms."""
    host = make_host(free=100)
    host.lru_pages(64)
    host.vmstat.nr_isolated_anon = 500
    ended_ns = []

    async def waiter(task):
        sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
        await host.vmscan.shrink_list(task, host.lruvec, INACTIVE_ANON, 32, sc, host.swap.start_plug(task))
        ended_ns.append(host.world.now_ns)

    async def body(task):
        host.world.spawn("waiter", waiter)
        await host.pause(task, 5 * NS_PER_MS)
        host.vmstat.nr_isolated_anon = 0
        assert not host.vmscan.too_many_isolated(ScanControl(gfp=GFP_KERNEL, order=0))
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert ended_ns == [5 * NS_PER_MS]


# -- one pass over the node --------------------------------------------------------------------------------------------


async def _under_writeback(host, task, nr_pages: int) -> None:
    """Leave so many pages on the inactive list, all of them being written."""
    host.device.held = True
    await host.mapped(task, nr_pages, young=False)
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
    plug = host.swap.start_plug(task)
    while host.vmstat.nr_writeback < nr_pages:
        await host.shrinker.shrink_inactive_list(task, host.lruvec, SWAP_CLUSTER_MAX, sc, plug)
    plug.finish()


def test_what_kswapd_concludes_from_pages_under_writeback(make_host) -> None:
    """Only pages under writeback were met: PGDAT_WRITEBACK. Met again they are *immediate*, and kswapd sleeps."""
    host = make_host(swap_pages=512, marks=(1, 2, 2048))

    async def body(task):
        await _under_writeback(host, task, 64)
        sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0, kswapd=True)
        await host.vmscan.shrink_node(task, sc)
        assert (sc.nr_writeback, sc.nr_taken, sc.nr_immediate) == (64, 64, 0)
        assert host.vmscan.flags.writeback
        assert host.vmscan.throttles.count == {}
        # activated meanwhile; give them a second scan
        await host.vmscan.shrink_node(task, ScanControl(gfp=GFP_KERNEL, order=0, priority=0, kswapd=True))
        await host.vmscan.shrink_node(task, ScanControl(gfp=GFP_KERNEL, order=0, priority=0, kswapd=True))

    host.run(body, flags=PF_KSWAPD | PF_KTHREAD | PF_MEMALLOC)
    assert host.vmscan.throttles.count["VMSCAN_THROTTLE_WRITEBACK"] >= 1


def test_a_direct_reclaimer_concludes_nothing(make_host) -> None:
    """Only kswapd sets the node's flags."""
    host = make_host(swap_pages=512, marks=(1, 2, 2048))

    async def body(task):
        await _under_writeback(host, task, 64)
        sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
        await host.vmscan.shrink_node(task, sc)
        assert sc.nr_writeback == 64

    host.run(body)
    assert not host.vmscan.flags.writeback
    assert not host.vmscan.flags.dirty


def test_a_pass_without_file_pages_counts_as_all_dirty(host) -> None:
    """None of none: PGDAT_DIRTY is set on every pass of kswapd that met no file pages, harmless without any."""
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=4, may_swap=False, kswapd=True)

    async def body(task):
        await host.vmscan.shrink_node(task, sc)

    host.run(body)
    assert host.vmscan.flags.dirty


@pytest.mark.parametrize(
    ("flags", "kswapd", "slept_ns"), [(0, False, 2 * JIFFY_NS), (PF_LOCAL_THROTTLE, False, 0), (0, True, 0)]
)
def test_a_congested_node_slows_direct_reclaimers(make_host, flags: int, kswapd: bool, slept_ns: int) -> None:
    """But not kswapd, nor who cleans pages for others (PF_LOCAL_THROTTLE)."""
    host = make_host()
    host.lruvec.congested = True
    host.zone.nr_write_pending = 5000
    sc = ScanControl(gfp=GFP_KERNEL, order=0, kswapd=kswapd)

    async def body(task):
        await host.vmscan.shrink_node(task, sc)

    host.run(body, flags=flags)
    assert host.world.now_ns == slept_ns


def _rounds(host, *, nr_inactive: int = 1000, **control) -> int:
    """Scan the node once; return how many rounds that took, each of which reclaims eight pages."""
    _swap(host)
    _sizes(host, nr_inactive)
    rounds = 0

    async def shrink_lruvec(task, lruvec, sc):
        nonlocal rounds
        rounds += 1
        sc.nr_reclaimed += 8 if rounds < 20 else 0

    host.vmscan.shrink_lruvec = shrink_lruvec
    sc = ScanControl(**({"gfp": GFP_KERNEL, "order": 3, "priority": 9} | control))

    async def body(task):
        await host.vmscan.shrink_node(task, sc)

    host.run(body)
    return rounds


def _in_small_pieces(make_host, free: int, marks: tuple[int, int, int] = (100, 200, 300)):
    """Return a host whose free memory is single pages only."""
    host = make_host(free=0, marks=marks)
    for pfn in range(P, P + 2 * free, 2):
        host.put(pfn, 0)
    return host


def test_a_high_order_reclaim_goes_on_while_compaction_could_not_start(make_host) -> None:
    """Too little free for compaction (min + twice the block): round after round, as long as pages come."""
    assert _rounds(_in_small_pieces(make_host, 116)) == 20


def test_a_high_order_reclaim_ends_when_compaction_could_start(make_host) -> None:
    """Enough single pages are compaction's business, not reclaim's."""
    assert _rounds(_in_small_pieces(make_host, 117)) == 1


def test_a_high_order_reclaim_ends_when_a_block_is_there(make_host) -> None:
    """The allocation would succeed: stop."""
    assert _rounds(make_host(free=108, marks=(100, 200, 300))) == 1
    assert _rounds(make_host(free=107, marks=(100, 200, 300))) == 20


@pytest.mark.parametrize(
    "control",
    [
        {"order": 0},
        {"order": 3, "priority": 10},
        {"gfp": GFP_NOIO},
    ],
    ids=["a single page", "early priorities", "no IO"],
)
def test_who_does_not_reclaim_for_compaction(make_host, control: dict) -> None:
    """Only orders above 0 that may do IO, late or costly, go on at a priority."""
    assert _rounds(_in_small_pieces(make_host, 50), **control) == 1


def test_costly_orders_reclaim_for_compaction_from_the_start(make_host) -> None:
    """Above order 3 the priority does not matter, and compaction starts from the low mark."""
    assert _rounds(_in_small_pieces(make_host, 264), order=5, priority=12) == 20
    assert _rounds(_in_small_pieces(make_host, 265), order=5, priority=12) == 1


def test_reclaim_for_compaction_ends_when_little_is_left(make_host) -> None:
    """An inactive list of no more than twice the block is not worth another round."""
    assert _rounds(_in_small_pieces(make_host, 50), nr_inactive=17) == 20
    assert _rounds(_in_small_pieces(make_host, 50), nr_inactive=16) == 1


def test_a_round_that_reclaimed_counts_although_the_last_did_not(make_host) -> None:
    """kswapd_failures are forgotten when any round of a pass had success."""
    host = _in_small_pieces(make_host, 50)
    host.node.kswapd_failures = 7
    assert _rounds(host) == 20
    assert host.node.kswapd_failures == 0


# -- waking kswapd -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "boost", "failures", "woken"),
    [
        pytest.param(300, 0, 0, True, id="below high"),
        pytest.param(404, 0, 0, True, id="at high"),
        pytest.param(405, 0, 0, False, id="balanced"),
        pytest.param(2000, 1024, 0, True, id="balanced but boosted"),
        pytest.param(300, 0, 15, True, id="nearly hopeless"),
        pytest.param(300, 0, 16, False, id="hopeless"),
        pytest.param(300, 1024, 16, False, id="hopeless and boosted"),
    ],
)
def test_when_kswapd_is_woken(make_host, free: int, boost: int, failures: int, woken: bool) -> None:
    """If it sleeps, there is work, and there is hope; the order asked for is remembered in any case."""
    host = make_host(free=free, marks=(270, 337, 404))
    host.zone.watermark_boost = boost
    host.node.kswapd_failures = failures
    awake = []

    async def sleeper(task):
        await host.vmscan.kswapd_wait.wait(task)
        awake.append(True)

    async def body(task):
        host.vmscan.wakeup_kswapd(GFP_ATOMIC, 2, ZONE_NORMAL)
        host.world.spawn("kswapd0", sleeper)
        await host.pause(task, 1)
        host.vmscan.wakeup_kswapd(GFP_ATOMIC, 0, ZONE_NORMAL)
        await host.pause(task, 1)

    host.run(body)
    assert bool(awake) == woken
    assert host.vmscan.kswapd_order == 2


def test_balanced_means_a_block_of_the_order_above_high(make_host) -> None:
    """One zone above its high mark for the order is enough; HIGHATOMIC pageblocks do not count."""
    host = make_host(free=405, marks=(270, 337, 404))
    assert host.vmscan.pgdat_balanced(0)
    assert not host.vmscan.pgdat_balanced(1)
    host.zone.nr_reserved_highatomic = 32
    assert not host.vmscan.pgdat_balanced(0)
    two = make_host(zones=(("DMA32", 512), ("Normal", 512)), free=10, marks=(270, 337, 404))
    assert two.vmscan.pgdat_balanced(3)
