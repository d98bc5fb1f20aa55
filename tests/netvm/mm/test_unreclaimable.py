"""When memory is out before 4.7: pages scanned since one came free, kswapd's mark, and what an allocation makes of it.

Each kernel here is 3.6 but for what decides that memory is out: 2.6.11 looks at what a reclaim got, 3.6 at kswapd's
mark, 3.12 at the count itself, 4.7 at rounds without progress. Pages on the lists can be neither written nor freed, so
reclaim only counts them.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.gfp import (
    ALLOC_NO_WATERMARKS,
    ALLOC_OOM,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    PF_KSWAPD,
    PF_OOM_VICTIM,
    gfp_zone,
)
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON
from netvm.mm.memcontrol import MemControl
from netvm.mm.scan_control import ScanControl
from netvm.runtime.hang import HangDetector
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

P = 1024
FIXES = ("oom_unreclaimable_info", "oom_zone_reclaimable", "oom_detection")
KERNELS = ("2.6.11", "3.6", "3.12", "4.7")
"""Kernels that have none, one, two and all of the fixes."""
OLD = KERNELS[:3]
SCANS = {"2.6.11": 4, "3.6": 6, "3.12": 6, "4.7": 6}
"""How often a zone is scanned before it is hopeless."""


def _host(make_host, kernel: str = "3.6", inactive: int = 0, active: int = 0, *, scanned=0, mark=False, **options):
    """Return a host with so many pages on its lists, short of the min mark, but with more than half of it free."""
    switches = {fix: i < KERNELS.index(kernel) for i, fix in enumerate(FIXES)} | options.pop("switches", {})
    host = make_host(kernel="3.6", switches=switches, **{"free": 20, "marks": (32, 40, 48)} | options)
    host.lru_pages(inactive, INACTIVE_ANON)
    host.lru_pages(active, ACTIVE_ANON)
    if not options.get("swap_pages"):
        host.swap.nr_free = host.swap.nr_total = 1000
    for zone in host.node.zones:
        zone.pages_scanned, zone.all_unreclaimable = scanned, mark
    return host


def _two_zones(make_host, kernel: str = "3.6", **options):
    host = _host(make_host, kernel, zones=(("Normal", 512), ("Movable", 512)), **options)
    return host, *host.node.zones


def _control(host, gfp: int = GFP_KERNEL, **options) -> ScanControl:
    """Return a reclaim of the node for a mask."""
    highest = gfp_zone(gfp)
    above, counted = host.node.zones_above(highest), host.vmscan.unreclaimable.zones_counted(highest)
    return ScanControl(gfp=gfp, order=0, zones_above=above, zones_counted=counted, **options)


def _direct(host, gfp: int = GFP_KERNEL) -> int:
    """Run one direct reclaim; return what it reports."""
    return host.run(lambda task: host.vmscan.try_to_free_pages(task, 0, gfp))


def _balance(host) -> None:
    """Let kswapd make one run."""
    host.run(lambda task: host.kswapd.balance_pgdat(task, 0), flags=PF_KSWAPD)


def _free_to_buddy(host) -> None:
    """Take a block too large for the per-cpu lists and free it."""
    host.pages.free_pages(host.alloc(4), 4)


def _state(zone) -> tuple[int, bool]:
    return zone.pages_scanned, zone.all_unreclaimable


# -- the count ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reclaim", [_direct, _balance])
def test_the_pages_reclaim_takes_off_the_lists_are_counted(make_host, kernel: str, reclaim) -> None:
    """Those of the inactive and of the active list, in direct reclaim and by kswapd; none since 4.7."""
    host = _host(make_host, kernel, 40, 120)
    reclaim(host)
    scanned, refilled = host.vmstat.pgscan_anon, host.vmstat.pgrefill
    assert min(scanned, refilled) > 0
    assert host.zone.pages_scanned == (0 if kernel == "4.7" else scanned + refilled)


def test_reclaim_for_a_group_is_not_counted(make_host) -> None:
    """What a memory group at its limit scans says nothing about the zone."""
    host = _host(make_host, "3.12", 50)
    memcg = MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes)
    group = memcg.create("g", limit_pages=64, may_swap=True)
    group.lruvec.lists[INACTIVE_ANON].add_head(host.lruvec.lists[INACTIVE_ANON].isolate_tail(50))
    host.run(lambda task: memcg._try_to_free_mem_cgroup_pages(task, group, GFP_KERNEL))
    assert host.vmstat.pgscan_direct > 50
    assert host.zone.pages_scanned == 0


@pytest.mark.parametrize(
    ("gfp", "nr_movable", "counted"),
    [(GFP_KERNEL, 0, (20, 0)), (GFP_KERNEL, 100, (20, 0)), (GFP_HIGHUSER_MOVABLE, 100, (20, 20))],
)
def test_what_is_taken_counts_for_each_zone_it_is_for(make_host, gfp: int, nr_movable: int, counted) -> None:
    """Reclaim for the kernel's own memory leaves the count of Movable alone, and its pages do not count."""
    host, normal, movable = _two_zones(make_host)
    for start, nr in ((normal.start_pfn, 10), (movable.start_pfn, nr_movable), (normal.start_pfn + 10, 10)):
        host.lruvec.lists[INACTIVE_ANON].add_head(np.arange(start, start + nr))
    _control(host, gfp).isolate_lru_folios(host.lruvec, INACTIVE_ANON, 20, host.vmstat)
    assert (normal.pages_scanned, movable.pages_scanned) == counted


def test_a_page_freed_to_the_buddy_ends_the_count(make_host) -> None:
    """Count and mark of its zone are gone once the per-cpu list is emptied, not while the freed page waits on it."""
    host, normal, movable = _two_zones(make_host, scanned=77, mark=True, batch=8, high=64)
    host.pages.free_pages(host.alloc(), 0)
    assert host.nr_pcp > 0
    assert (_state(normal), _state(movable)) == ((77, True), (77, True))
    host.buddy.drain_all_pages(host.node.zones)
    assert (_state(normal), _state(movable)) == ((77, True), (0, False))


@pytest.mark.parametrize("kernel", OLD)
@pytest.mark.parametrize(("nr_pages", "short_of", "hope"), [(50, 1, True), (50, 0, False), (0, 0, False)])
def test_a_zone_scanned_so_often_is_hopeless(make_host, kernel: str, nr_pages: int, short_of: int, hope: bool) -> None:
    """Fix ``oom_unreclaimable_info``: six times, before 2.6.19 four times; one without such pages always is."""
    host = _host(make_host, kernel, nr_pages, scanned=SCANS[kernel] * nr_pages - short_of)
    assert host.vmscan.unreclaimable.zone_reclaimable(host.zone) == hope


STEP = st.tuples(st.just("scan"), st.integers(0, 40)) | st.tuples(st.sampled_from(["free", "mark"]), st.just(0))


@given(kernel=st.sampled_from(OLD), nr_pages=st.integers(0, 12), steps=st.lists(STEP, max_size=40))
@settings(max_examples=60, deadline=None)
def test_count_and_mark_are_those_of_a_simple_model(make_host, kernel: str, nr_pages: int, steps) -> None:
    """A number that scans raise, a mark that kswapd sets at the limit, and a freed page that clears both."""
    host = _host(make_host, kernel, nr_pages, zones=(("DMA32", 256),), free=200)
    unreclaimable, lru = host.vmscan.unreclaimable, host.lruvec.lists[INACTIVE_ANON]
    sc = _control(host)
    scanned, marked, limit = 0, False, SCANS[kernel] * nr_pages
    for what, nr in steps:
        if what == "scan":
            taken, _ = sc.isolate_lru_folios(host.lruvec, INACTIVE_ANON, nr, host.vmstat)
            lru.add_head(taken)
            scanned += min(nr, nr_pages)
        elif what == "free":
            _free_to_buddy(host)
            scanned, marked = 0, False
        else:
            unreclaimable.mark(sc)
            marked = marked or scanned >= limit
        assert _state(host.zone) == (scanned, marked)
        assert unreclaimable.zone_reclaimable(host.zone) == (scanned < limit)
        hopeless = scanned >= limit if kernel == "3.12" else marked
        assert unreclaimable.all_unreclaimable(sc.zones_counted) == hopeless
        for sc.priority in (12, 11, 0):
            assert unreclaimable.is_left_alone(sc) == (hopeless and sc.priority != 12)


# -- the mark ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_kswapd_sets_the_mark(make_host, kernel: str) -> None:
    """Direct reclaim scans past the limit and marks nothing, kswapd's next pass does; since 4.7 nobody."""
    host = _host(make_host, kernel, 50)

    async def body(task):
        for _ in range(20):
            await host.vmscan.try_to_free_pages(task, 0, GFP_KERNEL)
        marked = host.zone.all_unreclaimable
        await host.kswapd.balance_pgdat(task, 0)
        return marked, host.zone.all_unreclaimable

    assert host.run(body) == (False, kernel != "4.7")


def test_a_zone_that_lost_its_mark_is_marked_again(make_host) -> None:
    """A program that dies gives hope; when its memory is used up, kswapd is woken and sees that there is none."""
    host = _host(make_host)

    async def body(task):
        await host.pause(task, 1)
        marks = []
        for _ in range(2):
            host.pages.wake_all_kswapds(GFP_KERNEL, 0)
            await host.pause(task, NS_PER_S)
            marks.append(host.zone.all_unreclaimable)
            _free_to_buddy(host)
        return marks

    assert host.run(body, kswapd=True) == [True, True]


@pytest.mark.parametrize(("nr_pages", "free_count"), [(1, False), (0, True)])
def test_kswapd_comes_to_rest_where_there_is_nothing_to_scan(make_host, nr_pages: int, free_count: bool) -> None:
    """A node that is short, with hardly a page on its lists, does not keep it awake."""
    host = _host(make_host, "3.6", nr_pages, switches={"reclaimable_free_pages": free_count})
    host.kswapd._kswapd_age_node = lambda _task, _sc: host._retry_fired("kswapd")

    async def body(task):
        await host.pause(task, 1)
        host.pages.wake_all_kswapds(GFP_KERNEL, 0)
        await host.pause(task, NS_PER_S)
        return len(host.vmscan.kswapd_wait)

    assert host.run(body, kswapd=True) == 1


EVERY = list(range(12, -1, -1))


def _passes(host, reclaim) -> list[int]:
    """Let somebody reclaim; return the priorities at which the node was looked at."""
    priorities: list[int] = []

    async def shrink_node(task, sc):
        priorities.append(sc.priority)

    host.vmscan.shrink_node = shrink_node
    reclaim(host)
    return priorities


@pytest.mark.parametrize(
    ("kernel", "scanned", "mark", "passes"),
    [
        ("2.6.11", 400, False, EVERY),
        ("2.6.11", 0, True, [12]),
        ("3.6", 600, False, EVERY),
        ("3.6", 0, True, [12]),
        ("3.12", 599, True, EVERY),
        ("3.12", 600, False, [12]),
        ("4.7", 600, True, EVERY),
    ],
)
@pytest.mark.parametrize("reclaim", [_direct, _balance])
def test_a_hopeless_zone_is_looked_at_once(make_host, reclaim, kernel: str, scanned: int, mark: bool, passes) -> None:
    """Fix ``oom_zone_reclaimable``: from 3.12 on by the count, before by the mark, which kswapd sets in its own run."""
    host = _host(make_host, kernel, 100, scanned=scanned, mark=mark)
    marks = reclaim is _balance and kernel != "4.7" and scanned >= SCANS[kernel] * 100
    # kswapd never gets to priority 0
    assert _passes(host, reclaim) == ([12] if marks else passes)[: 12 if reclaim is _balance else 13]
    assert host.zone.all_unreclaimable == (mark or marks)


def test_kswapd_does_not_age_a_zone_that_it_leaves_alone(make_host) -> None:
    """The active list is gone over once, at priority 12."""
    host = _host(make_host, "3.6", 0, 200, mark=True)
    assert _passes(host, _balance) == [12]
    assert host.vmstat.pgrefill == 32


@pytest.mark.parametrize(
    ("kernel", "reclaimed", "scanned", "mark", "reported"),
    [
        ("2.6.11", 31, 0, False, 0),
        ("2.6.11", 32, 400, True, 32),
        ("3.6", 31, 600, True, 31),
        ("3.6", 0, 600, False, 1),
        ("3.6", 0, 0, True, 0),
        ("3.12", 0, 599, True, 1),
        ("3.12", 0, 600, False, 0),
        ("4.7", 31, 600, True, 31),
        ("4.7", 0, 0, False, 0),
    ],
)
def test_what_a_direct_reclaim_reports(make_host, kernel, reclaimed: int, scanned: int, mark: bool, reported) -> None:
    """All three fixes: 32 pages or nothing; what it got, or 1 by the mark or by the count; what it got alone."""
    host = _host(make_host, kernel, 100, scanned=scanned, mark=mark)

    async def shrink_node(task, sc):
        sc.nr_reclaimed = reclaimed

    host.vmscan.shrink_node = shrink_node
    assert _direct(host) == reported


@pytest.mark.parametrize(("marked", "reported"), [(1, 1), (2, 0)])
def test_one_zone_with_hope_is_enough(make_host, marked: int, reported: int) -> None:
    """Only when every zone of the request is hopeless there was no progress."""
    host, *zones = _two_zones(make_host)
    for zone in zones[:marked]:
        zone.all_unreclaimable = True
    assert _direct(host, GFP_HIGHUSER_MOVABLE) == reported


# -- the round ---------------------------------------------------------------------------------------------------------


def _retry(host, progress: int, gfp: int = GFP_KERNEL, *, order: int = 0, alloc_flags: int = 0, flags: int = 0):
    """Ask once what follows on a direct reclaim; return frame and answer. There is a program that can be killed."""
    host.memory.map_anonymous(host.task("program", 100), 10)
    ask = host.vmscan.unreclaimable.retry
    return host.run(lambda task: ask(task, order, gfp, alloc_flags, host.owner_test, progress), flags=flags)


def _under_writeback(host, nr_pages: int, *, written: bool) -> None:
    """Have pages under writeback; the first write ends after 10 ms, or none does."""
    host.vmstat.nr_writeback = nr_pages
    if written:
        host.world.call_after(10 * NS_PER_MS, host.vmscan.throttles.clear_bdi_congested)


@pytest.mark.parametrize("kernel", OLD)
@pytest.mark.parametrize(("free", "killed"), [(1501, False), (1500, True)])
def test_no_progress_leads_to_a_kill_and_a_jiffy_of_sleep(make_host, kernel: str, free: int, killed: bool) -> None:
    """Unless a last look finds a page above the high mark; the victim shall run, then the request goes round again."""
    host = _host(make_host, kernel, free=free, marks=(1000, 1250, 1500))
    pfn, answer = _retry(host, 0)
    assert (pfn < 0) == (answer == 0) == bool(host.oom.kills) == killed
    assert host.world.now_ns == (2 * JIFFY_NS if killed else 0)


IN_VAIN = [(GFP_NOFS, 0), (GFP_NOFS, 1), (GFP_KERNEL, 1), (GFP_KERNEL, 50)]


@pytest.mark.parametrize(("gfp", "progress"), IN_VAIN)
@pytest.mark.parametrize(("nr_writeback", "written", "slept_ms"), [(1, False, 24), (1, True, 10), (0, False, 0)])
def test_other_rounds_end_with_a_nap(make_host, gfp, progress, nr_writeback, written, slept_ms: int) -> None:
    """A fiftieth of a second, less if a write ends, none if there is none; nobody is killed."""
    host = _host(make_host)
    _under_writeback(host, nr_writeback, written=written)
    assert _retry(host, progress, gfp) == (-1, 0)
    assert host.world.now_ns == slept_ms * NS_PER_MS
    assert not host.oom.kills


@pytest.mark.parametrize(("order", "answer"), [(3, 0), (4, -1)])
def test_orders_above_three_give_up(make_host, order: int, answer: int) -> None:
    """Progress that did not give a page is not worth another round for a block as large as that."""
    assert _retry(_host(make_host), 50, order=order) == (-1, answer)


@pytest.mark.parametrize(
    ("gfp", "alloc_flags", "progress", "half", "answer"),
    [
        (GFP_KERNEL, 0, 0, False, 0),
        (GFP_KERNEL, ALLOC_NO_WATERMARKS, 0, False, -1),
        (GFP_KERNEL | GFP_NOMEMALLOC, 0, 0, False, -1),
        (GFP_KERNEL, ALLOC_OOM, 0, True, -1),
        (GFP_NOFS, ALLOC_NO_WATERMARKS, 0, False, -1),
        (GFP_KERNEL, ALLOC_NO_WATERMARKS, 1, False, -1),
    ],
)
def test_a_victim_that_had_its_reserve_gives_up(make_host, gfp, alloc_flags, progress, half, answer: int) -> None:
    """One that could use all that is there and found nothing must fail, so that it can die."""
    host = _host(make_host, switches={"oom_half_reserve": half})
    assert _retry(host, progress, gfp, alloc_flags=alloc_flags, flags=PF_OOM_VICTIM) == (-1, answer)


def _request(host, gfp: int = GFP_KERNEL, *, progress=None, nr_rounds: int = 100) -> tuple[int, list[int]]:
    """Make a request; return its frame, and after how many reclaims the killer was asked.

    Memory comes then, or with reclaim number ``nr_rounds``. Reclaim reports ``progress``, if given, else what it does.
    """
    asked: list[int] = []
    reclaim, nr_reclaims = host.vmscan.try_to_free_pages, 0

    async def try_to_free_pages(task, order, gfp):
        nonlocal nr_reclaims
        nr_reclaims += 1
        if nr_reclaims == nr_rounds:
            host.put_range(P + 1024, 512)
            return 1
        return progress if progress is not None else await reclaim(task, order, gfp)

    def out_of_memory(task, gfp, order):
        asked.append(nr_reclaims)
        host.put_range(P + 1024, 512)
        return True

    host.vmscan.try_to_free_pages, host.oom.out_of_memory = try_to_free_pages, out_of_memory
    return host.run(lambda task: host.pages.alloc_pages(task, 0, gfp, host.owner_test)), asked


@pytest.mark.parametrize(("kernel", "asked"), [("2.6.11", [1]), ("3.6", []), ("3.12", [4]), ("4.7", [17])])
def test_when_somebody_is_killed_while_kswapd_does_not_run(make_host, kernel: str, asked: list[int]) -> None:
    """All three fixes: after one reclaim, never, after six times 96 pages at 190 a reclaim, after sixteen retries."""
    pfn, killed = _request(_host(make_host, kernel, 96))
    assert (pfn >= 0, killed) == (True, asked)


@pytest.mark.parametrize(("gfp", "progress"), IN_VAIN)
def test_a_request_goes_round_until_there_is_a_page(make_host, gfp: int, progress: int) -> None:
    """A thousand times, say."""
    pfn, killed = _request(_host(make_host), gfp, progress=progress, nr_rounds=1000)
    assert (pfn >= 0, killed) == (True, [])


@pytest.mark.parametrize("progress", [0, 1, 50])
def test_a_request_that_shall_not_retry_does_not(make_host, progress: int) -> None:
    """__GFP_NORETRY: one reclaim, no nap, nobody is killed."""
    host = _host(make_host)
    assert _request(host, GFP_KERNEL | GFP_NORETRY, progress=progress, nr_rounds=2) == (-1, [])
    assert host.world.now_ns == 0


# -- naps after a pass -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "priority", "scanned", "reclaimed", "nr_writeback", "written", "slept_ms"),
    [
        ("3.6", 9, 1, 31, 1, False, 104),
        ("3.6", 9, 1, 0, 1, True, 10),
        ("3.6", 10, 1, 0, 1, False, 0),
        ("3.6", 9, 0, 0, 1, False, 0),
        ("3.6", 9, 1, 32, 1, False, 0),
        ("3.6", 9, 1, 0, 0, False, 0),
        ("4.7", 9, 1, 0, 1, False, 0),
    ],
)
def test_when_a_nap_follows(make_host, kernel, priority, scanned, reclaimed, nr_writeback, written, slept_ms) -> None:
    """Below priority 10, if it looked at something and has not got enough, while something is under writeback."""
    host = _host(make_host, kernel)
    _under_writeback(host, nr_writeback, written=written)
    sc = _control(host, priority=priority, nr_scanned=scanned, nr_reclaimed=reclaimed)
    host.run(lambda task: host.vmscan.unreclaimable.nap_after_pass(task, sc))
    assert host.world.now_ns == slept_ms * NS_PER_MS


@pytest.mark.parametrize(("reclaim", "nr_naps"), [(_direct, 7), (_balance, 6)])
def test_a_reclaim_in_vain_naps_between_its_passes(make_host, reclaim, nr_naps: int) -> None:
    """From priority 6 on, where 96 pages give one to look at, down to 0, for kswapd to 1."""
    host = _host(make_host, "3.6", 96)
    _under_writeback(host, 1, written=False)
    reclaim(host)
    assert host.world.now_ns == nr_naps * 104 * NS_PER_MS


# -- what proves a hang ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gfp", "scanned", "progress", "nr_retries"),
    [(GFP_KERNEL, 599, 1, 0), (GFP_KERNEL, 600, 1, 8), (GFP_KERNEL, 599, 50, 8), (GFP_NOFS, 599, 1, 8)],
)
def test_a_round_that_only_counts_is_no_retry(make_host, gfp: int, scanned: int, progress: int, nr_retries) -> None:
    """It leads to a kill; one at the limit, one that got something or one without __GFP_FS leads nowhere."""
    host = _host(make_host, "3.6", 100, scanned=scanned)
    sites: list[str] = []
    host.world.retry_fired = sites.append
    _request(host, gfp, progress=progress, nr_rounds=9)
    assert len([site for site in sites if not site.endswith("a free page")]) == nr_retries


def test_the_count_of_a_zone_that_is_not_asked_for_leads_nowhere(make_host) -> None:
    """Normal is at its limit, and what was once scanned for others in Movable kills nobody."""
    host, normal, movable = _two_zones(make_host, "3.6", inactive=100, scanned=1)
    unreclaimable = host.vmscan.unreclaimable
    assert [unreclaimable.zone_reclaimable(zone) for zone in (normal, movable)] == [False, True]
    assert _retry(host, 1) == (-1, 0)


@pytest.mark.parametrize(("kernel", "proved"), [("3.12", []), ("3.6", [True])])
@pytest.mark.parametrize("nr_writeback", [0, 1])
def test_no_hang_is_proved_while_a_kill_may_come(make_host, kernel: str, proved: list[bool], nr_writeback: int) -> None:
    """The killer is asked before three rounds are alike, unless kswapd is to set the mark and does not run."""
    host = _host(make_host, kernel, 96)
    _under_writeback(host, nr_writeback, written=False)
    told: list[bool] = []
    watched = {"digest": int, "progress": int, "timeout_ns": 3600 * NS_PER_S, "hung": told.append}
    host.world.call_after(0, lambda: HangDetector(host.world, **watched))
    _, killed = _request(host)
    assert (told, bool(killed)) == (proved, not proved)
