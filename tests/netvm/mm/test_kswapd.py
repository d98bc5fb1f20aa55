"""kswapd: when it runs, how far it goes, and when it sleeps.

Most hosts here have no swap: memory is made free or taken by the test, so each step of the thread is seen alone.
"""

import numpy as np
import pytest

from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL, PF_KSWAPD, PF_KTHREAD, PF_MEMALLOC
from netvm.mm.kswapd import NAP_NS
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_FILE
from netvm.mm.scan_control import SWAP_CLUSTER_MAX, ScanControl
from netvm.mm.zone import ZONE_NORMAL
from netvm.units import NS_PER_MS, NS_PER_S

P = 1024
MARKS = (100, 125, 150)


def _hits(host) -> tuple[int, int, int]:
    """Return runs, naps cut short, and naps or checks that found the node unbalanced."""
    vmstat = host.vmstat
    return vmstat.pageoutrun, vmstat.kswapd_low_wmark_hit_quickly, vmstat.kswapd_high_wmark_hit_quickly


async def _wake(host, task, order: int = 0) -> None:
    """Wake kswapd as an allocator does, once it sleeps."""
    await host.pause(task, 1)
    host.vmscan.wakeup_kswapd(GFP_ATOMIC, order, ZONE_NORMAL)


def test_the_thread_has_its_flags(make_host) -> None:
    """It always may use the reserve, is known to reclaim, and is a kernel thread."""
    host = make_host()

    async def body(task):
        await host.pause(task, 1)
        return host.vmscan.kswapd.flags, host.vmscan.kswapd.comm

    assert host.run(body, kswapd=True) == (PF_MEMALLOC | PF_KSWAPD | PF_KTHREAD, "kswapd0")


def test_it_sleeps_until_somebody_needs_memory(make_host) -> None:
    """Nobody asks: no run."""
    host = make_host(free=10, marks=MARKS)

    async def body(task):
        await host.pause(task, 100 * NS_PER_S)

    host.run(body, kswapd=True)
    assert _hits(host) == (0, 0, 0)
    assert host.kswapd.nr_sleeps == 1


# -- going to sleep ----------------------------------------------------------------------------------------------------


def test_a_balanced_node_lets_it_nap_and_then_sleep(make_host) -> None:
    """After a run that found enough free: a nap of 100 ms, another look, and a real sleep."""
    host = make_host(free=140, marks=MARKS)

    async def body(task):
        await _wake(host, task)
        host.put_range(P + 512, 64)
        await host.pause(task, host.world.wheel_ns(NAP_NS) - 1)
        assert host.kswapd.nr_sleeps == 1
        await host.pause(task, 10)
        assert host.kswapd.nr_sleeps == 2

    host.run(body, kswapd=True)
    assert _hits(host) == (1, 0, 0)


def test_a_nap_cut_short_is_counted(make_host) -> None:
    """Woken within its 100 ms it runs again: KSWAPD_LOW_WMARK_HIT_QUICKLY."""
    host = make_host(free=140, marks=MARKS)

    async def body(task):
        await _wake(host, task)
        host.put_range(P + 512, 64)
        await host.pause(task, 50 * NS_PER_MS)
        host.zone.watermark[:] = [200, 250, 300]
        host.vmscan.wakeup_kswapd(GFP_ATOMIC, 0, ZONE_NORMAL)
        host.zone.watermark[:] = MARKS
        await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    assert _hits(host) == (2, 1, 0)
    assert host.kswapd.nr_sleeps == 2


def test_a_nap_that_ends_unbalanced_is_counted(make_host) -> None:
    """Memory went during the nap and nobody woke it: KSWAPD_HIGH_WMARK_HIT_QUICKLY, and another run at once."""
    host = make_host(free=140, marks=MARKS)

    async def body(task):
        await _wake(host, task)
        host.put_range(P + 512, 64)
        await host.pause(task, 50 * NS_PER_MS)
        host.zone.watermark[:] = [200, 250, 300]
        await host.pause(task, 55 * NS_PER_MS)
        host.zone.watermark[:] = MARKS
        await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    runs, low, high = _hits(host)
    assert (low, runs - high) == (0, 1)
    assert high >= 1


def test_sixteen_runs_in_vain_make_the_node_hopeless(make_host) -> None:
    """A node where nothing can be reclaimed is tried 16 times in a row and then left alone, unbalanced as it is."""
    host = make_host(free=100, marks=MARKS)

    async def body(task):
        await _wake(host, task)
        await host.pause(task, NS_PER_S)
        assert host.node.kswapd_failures == 16
        for _ in range(3):
            host.vmscan.wakeup_kswapd(GFP_ATOMIC, 0, ZONE_NORMAL)
            await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    assert _hits(host) == (16, 0, 15)
    assert host.kswapd.nr_sleeps == 2
    assert host.vmscan.allow_direct_reclaim()


def test_hope_returns_with_a_direct_reclaimer(make_host) -> None:
    """Once somebody else has reclaimed, kswapd can be woken again."""
    host = make_host(free=100, marks=MARKS)

    async def body(task):
        await _wake(host, task)
        await host.pause(task, NS_PER_S)
        host.node.kswapd_failures = 0
        host.vmscan.wakeup_kswapd(GFP_ATOMIC, 0, ZONE_NORMAL)
        await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    assert host.vmstat.pageoutrun == 32


def test_going_to_sleep_clears_what_was_concluded(make_host) -> None:
    """A balanced node is neither congested nor full of pages under writeback."""
    host = make_host(free=140, marks=MARKS)

    async def body(task):
        await _wake(host, task)
        host.put_range(P + 512, 64)
        host.lruvec.congested = host.vmscan.flags.writeback = host.vmscan.flags.dirty = True
        await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    assert not host.lruvec.congested
    assert not host.vmscan.flags.writeback
    assert not host.vmscan.flags.dirty


# -- the order it balances for -----------------------------------------------------------------------------------------


def _pieces_and_a_block(make_host):
    """Return a host with one block of order 3 and single pages, boosted so that a wake-up counts."""
    host = make_host(free=0, marks=MARKS)
    for pfn in range(P, P + 600, 2):
        host.put(pfn, 0)
    host.put(P + 1024, 3)
    host.zone.watermark_boost = 1
    return host


def test_a_run_that_kept_its_order_sleeps_for_order_zero(make_host) -> None:
    """Balanced for order 3, it considers to sleep for what was asked meanwhile: the block may go during the nap."""
    host = _pieces_and_a_block(make_host)

    async def body(task):
        await _wake(host, task, order=3)
        await host.pause(task, 50 * NS_PER_MS)
        assert host.alloc(3) == P + 1024
        assert not host.vmscan.pgdat_balanced(3)
        await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    assert _hits(host) == (1, 0, 0)
    assert host.kswapd.nr_sleeps == 2


def test_an_order_asked_for_during_the_nap_is_served(make_host) -> None:
    """Whoever wakes it leaves an order behind, and that is what the next run is for."""
    host = _pieces_and_a_block(make_host)
    orders = []
    balance = host.kswapd.balance_pgdat

    async def spy(task, order):
        orders.append(order)
        return await balance(task, order)

    host.kswapd.balance_pgdat = spy

    async def body(task):
        await _wake(host, task)
        await host.pause(task, 50 * NS_PER_MS)
        host.zone.watermark_boost = 1
        host.vmscan.wakeup_kswapd(GFP_ATOMIC, 2, ZONE_NORMAL)
        await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    assert orders == [0, 2]


# -- balancing ---------------------------------------------------------------------------------------------------------


async def _clean_pages(host, task, nr_pages: int) -> None:
    """Fill the inactive list with pages that were written to swap."""
    await host.mapped(task, nr_pages, young=False)
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
    plug = host.swap.start_plug(task)
    while host.vmstat.pswpout < nr_pages:
        await host.shrinker.shrink_inactive_list(task, host.lruvec, SWAP_CLUSTER_MAX, sc, plug)
    plug.finish()
    await host.pause(task, NS_PER_S)
    host.lruvec.lru_add_drain()


def test_a_run_ends_above_high(make_host) -> None:
    """It goes on until free memory passes the high mark, and the sizes of the lists decide by how much."""
    host = make_host(zones=(("DMA32", 1200),), swap_pages=1024)

    async def body(task):
        await _clean_pages(host, task, 800)
        host.zone.watermark[:] = [300, 350, host.zone.nr_free + 100]
        await _wake(host, task)
        await host.pause(task, NS_PER_S)
        assert host.zone.nr_free > host.zone.high_wmark_pages()

    host.run(body, kswapd=True)
    assert _hits(host) == (1, 0, 0)
    assert host.node.kswapd_failures == 0
    assert host.vmstat.pgsteal_kswapd >= 100
    assert host.vmstat.pgsteal_direct == 0
    host.audit()


def test_per_cpu_lists_are_short_during_a_run(make_host) -> None:
    """ZONE_RECLAIM_ACTIVE stands while it balances and no longer."""
    host = make_host(zones=(("DMA32", 1200),), swap_pages=1024)
    active = []
    shrink_node = host.vmscan.shrink_node

    async def spy(task, sc):
        active.append(host.zone.reclaim_active)
        await shrink_node(task, sc)

    host.vmscan.shrink_node = spy

    async def body(task):
        await _clean_pages(host, task, 400)
        host.zone.watermark[:] = [300, 350, host.zone.nr_free + 100]
        await _wake(host, task)
        await host.pause(task, NS_PER_S)

    host.run(body, kswapd=True)
    assert active
    assert all(active)
    assert not host.zone.reclaim_active


def _goals(host, results) -> list:
    """Let each pass reclaim and scan what a test says; return what each pass was given."""
    seen = []
    results = iter(results)

    async def shrink_node(task, sc):
        scanned, reclaimed = next(results, (0, 0))
        seen.append((sc.priority, sc.nr_to_reclaim, sc.order, sc.may_swap, sc.may_writepage))
        sc.nr_scanned += scanned
        sc.nr_reclaimed += reclaimed

    host.vmscan.shrink_node = shrink_node
    return seen


def _balance(host, order: int = 0) -> int:
    async def body(task):
        return await host.kswapd.balance_pgdat(task, order)

    return host.run(body)


def test_priorities_of_a_run_in_vain(make_host) -> None:
    """From 12 to 1, each once, with the high mark as goal; one failure."""
    host = make_host(free=100, marks=MARKS)
    seen = _goals(host, [])
    assert _balance(host) == 0
    assert [priority for priority, *_ in seen] == list(range(12, 0, -1))
    assert {goal for _, goal, *_ in seen} == {150}
    assert host.node.kswapd_failures == 1


def test_the_goal_is_the_sum_over_zones(make_host) -> None:
    """At least 32 pages a zone, boost included."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 512)), free=0, marks=MARKS)
    low, high = host.node.zones
    low.watermark[:] = [1000, 1000, 3]
    low.watermark_boost = 20
    low.nr_free = 0
    high.watermark_boost = 50
    seen = _goals(host, [])
    _balance(host)
    assert {goal for _, goal, *_ in seen} == {32 + 200}


def test_the_priority_stays_while_scanning_suffices(make_host) -> None:
    """Enough scanned and something reclaimed: the same priority again; too little of either: the next."""
    host = make_host(free=100, marks=MARKS)
    seen = _goals(host, [(149, 5), (150, 5), (150, 1), (150, 0), (149, 1)])
    _balance(host)
    assert [priority for priority, *_ in seen] == [12, 11, 11, 11, 10, *range(9, 0, -1)]
    assert host.node.kswapd_failures == 0


def test_a_high_order_is_given_up_after_twice_its_pages(make_host) -> None:
    """compact_gap reclaimed: from then on order 0 counts, and the run says so."""
    for reclaimed, order in ((15, 3), (16, 0)):
        host = make_host(free=100, marks=MARKS)
        seen = _goals(host, [(0, reclaimed)])
        assert _balance(host, 3) == order
        assert seen[1][2] == order


def test_throttled_reclaimers_are_woken_as_soon_as_it_helps(make_host) -> None:
    """After each pass, if more than half of min is free; and in any case before it sleeps."""
    host = make_host(free=50, marks=MARKS)
    host.lru_pages(4, INACTIVE_FILE)

    async def throttled(task):
        await host.vmscan.throttle_direct_reclaim(task, GFP_KERNEL)

    passes = []

    async def shrink_node(task, sc):
        passes.append((sc.priority, len(host.vmscan.pfmemalloc_wait)))
        await host.world.sleep_ns(task, NS_PER_MS, host.pages.memory)
        if sc.priority == 10 and host.zone.nr_free < 90:
            host.put_range(P + 512, 40)
            sc.nr_reclaimed += 40

    host.vmscan.shrink_node = shrink_node

    async def body(task):
        await host.pause(task, 1)
        host.world.spawn("throttled", throttled)
        await host.pause(task, 500 * NS_PER_MS)

    host.run(body, kswapd=True)
    assert [waiting for _, waiting in passes[:4]] == [1, 1, 1, 0]
    assert host.vmstat.pgscan_direct_throttle == 1


# -- boosts ------------------------------------------------------------------------------------------------------------


def test_a_boost_is_paid_back_without_swapping(make_host) -> None:
    """A run that starts balanced and boosted neither swaps nor writes; what stood at its start is gone afterwards."""
    host = make_host(free=1000, marks=MARKS)
    host.zone.watermark_boost = 64
    seen = _goals(host, [(0, 40), (0, 24)])
    _balance(host)
    assert [row[3:] for row in seen] == [(False, False)] * 2
    assert host.zone.watermark_boost == 0
    assert host.node.kswapd_failures == 0


def test_a_boost_stays_above_priority_ten(make_host) -> None:
    """However little comes, boost reclaim goes no deeper than priority 10, so that it never has to write."""
    host = make_host(free=1000, marks=MARKS)
    host.zone.watermark_boost = 64
    seen = _goals(host, [(0, 1)] * 20 + [(0, 44)])
    _balance(host)
    assert [priority for priority, *_ in seen] == [12, 11, *[10] * 19]


def test_a_boost_that_brings_nothing_is_dropped_and_counts_as_failure(make_host) -> None:
    """Nothing to be had without IO: the run ends at once, and kswapd_failures has one more."""
    host = make_host(free=1000, marks=MARKS)
    host.zone.watermark_boost = 64
    seen = _goals(host, [])
    _balance(host)
    assert len(seen) == 1
    assert host.zone.watermark_boost == 0
    assert host.node.kswapd_failures == 1


def test_a_boost_that_brought_something_is_no_failure(make_host) -> None:
    """The failure counter looks at the whole run."""
    host = make_host(free=1000, marks=MARKS)
    host.zone.watermark_boost = 64
    _goals(host, [(0, 8), (0, 0)])
    _balance(host)
    assert host.node.kswapd_failures == 0


def test_a_node_short_of_memory_forgets_the_boost(make_host) -> None:
    """Unbalanced and boosted is an ordinary run from priority 12, with swap; the boost is taken off at its end."""
    host = make_host(free=160, marks=MARKS)
    host.zone.watermark_boost = 64
    seen = _goals(host, [])
    _balance(host)
    assert [row[0] for row in seen] == list(range(12, 0, -1))
    assert all(may_swap for *_, may_swap, _ in seen)
    assert host.zone.watermark_boost == 0


def test_what_was_reclaimed_for_the_boost_counts_after_a_restart(make_host) -> None:
    """Falling out of balance in the middle starts over, but not the sum of what was reclaimed."""
    host = make_host(free=1000, marks=MARKS)
    host.zone.watermark_boost = 64
    passes = 0

    async def shrink_node(task, sc):
        nonlocal passes
        passes += 1
        if passes == 1:
            sc.nr_reclaimed += 10
            host.zone.watermark[:] = [1000, 1100, 1200]

    host.vmscan.shrink_node = shrink_node
    _balance(host)
    assert passes == 1 + 12
    assert host.node.kswapd_failures == 0


def test_a_boost_raised_during_a_run_survives_it(make_host) -> None:
    """Only what stood at the start is paid back."""
    for at_start, left in ((0, 32), (32, 32)):
        host = make_host(free=100, marks=MARKS)
        host.zone.watermark_boost = at_start
        passes = []

        async def shrink_node(task, sc, host=host, passes=passes):
            passes.append(sc.priority)
            if len(passes) == 3:
                host.buddy.pageblocks.boost_watermark(host.zone)

        host.vmscan.shrink_node = shrink_node
        _balance(host)
        assert host.zone.watermark_boost == left


# -- aging -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nr_total", "sizes", "moved"), [(100, (40, 41), 32), (100, (41, 40), 0), (0, (40, 41), 0)])
@pytest.mark.parametrize("boost", [0, 64])
def test_each_pass_keeps_the_inactive_list_supplied(
    make_host, nr_total: int, sizes: tuple[int, int], moved: int, boost: int
) -> None:
    """32 active pages move over if the inactive list is low and there is a swap device, in boosted passes too."""
    host = make_host(free=1000 if boost else 100, marks=MARKS)
    host.zone.watermark_boost = boost
    host.swap.nr_total = nr_total
    host.lru_pages(sizes[0])
    host.lru_pages(sizes[1], ACTIVE_ANON)
    passes = []

    async def shrink_node(task, sc):
        passes.append(len(host.lruvec.lists[ACTIVE_ANON]))

    host.vmscan.shrink_node = shrink_node
    _balance(host)
    assert passes[0] == sizes[1] - moved
    assert host.vmstat.pgdeactivate == moved


def test_a_run_takes_note_of_refaults(make_host) -> None:
    """snapshot_refaults at its end: refaults from before no longer make anybody deactivate."""
    host = make_host(free=100, marks=MARKS)
    host.vmstat.workingset_activate_anon = 7
    _goals(host, [])
    _balance(host)
    assert host.lruvec.refaults_anon == 7


@pytest.mark.parametrize(("asked", "skipped"), [(("DMA",), True), (("DMA", "Normal"), False)])
def test_a_run_is_for_the_highest_zone_somebody_asked_for(make_host, asked: tuple[str, ...], skipped: bool) -> None:
    """A boost of the lowest zone alone, whose index is 0, asks for its pages only; others are passed over."""
    host = make_host(zones=(("DMA", 512), ("Normal", 512)), free=10, marks=(40, 60, 80), swap_pages=512)
    low, normal = host.node.zones
    low.watermark[:] = [40, 60, 80]
    host.lruvec.lists[INACTIVE_FILE].add_head(np.arange(normal.start_pfn, normal.start_pfn + 128))
    met = []

    async def shrink_node(task, sc):
        met.append(sc.zones_above)

    host.vmscan.shrink_node = shrink_node

    async def body(task):
        await host.pause(task, 1)
        for name in asked:
            zone = low if name == "DMA" else normal
            zone.watermark_boost = 64
            host.buddy.boosted(zone)
        await host.pause(task, 1)

    host.run(body, kswapd=True)
    assert set(met) == {(normal,) if skipped else ()}
    assert host.kswapd.highest == (low if skipped else normal).index


# -- the whole thing ---------------------------------------------------------------------------------------------------


def test_a_program_that_outgrows_memory_is_served_by_kswapd(make_host) -> None:
    """With a device fast enough kswapd alone keeps a slow program supplied: nobody reclaims directly."""
    host = make_host(
        zones=(("DMA32", 1024),),
        marks=(40, 80, 120),
        batch=3,
        swap_pages=2048,
        cpus=1,
        switches={"watermark_boost": False},
    )
    host.device.delay_ns = lambda rq: 50_000

    async def body(task):
        space = host.memory.map_anonymous(task, 1500)
        for vpn in range(0, 1500, 4):
            assert await host.memory.touch_run(task, space, vpn, 4, write=True)
            await host.pause(task, NS_PER_MS)
        host.audit()
        stored = space.swapped()
        slots = -space.pte[stored] - 1
        for vpn, slot in zip(stored.tolist(), slots.tolist(), strict=True):
            if not host.swap.cache[slot]:
                assert host.device.store[slot] == space.version_of[vpn]
        assert np.count_nonzero(stored) > 400
        host.memory.exit_mmap(space)

    host.run(body, kswapd=True)
    assert sum(host.vmstat.allocstall.values()) == 0
    assert host.vmstat.pgsteal_kswapd > 400
    runs, low, high = _hits(host)
    # each run ends in a sleep, a nap cut short, or a look that found the node unbalanced; the first sleep preceded all
    assert runs in (low + high + host.kswapd.nr_sleeps - 1, low + high + host.kswapd.nr_sleeps)
    assert host.swap.corrupt == []
