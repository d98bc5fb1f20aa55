"""The page allocator: which mark a request is held to, what it may draw on, and the order of its steps.

Reclaim and the OOM killer are scripts here that note when they are called: what they do themselves is tried elsewhere.
The min mark is 1000 pages where a floor is looked for, so floors read as in the kernel's table.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.frames import PG_PFMEMALLOC, PG_RESERVE
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_COMP,
    GFP_HIGH,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_KSWAPD_RECLAIM,
    GFP_MEMALLOC,
    GFP_MOVABLE,
    GFP_NOFAIL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWAIT,
    GFP_NOWARN,
    GFP_RECLAIMABLE,
    GFP_RETRY_MAYFAIL,
    GFP_ZERO,
    PF_MEMALLOC,
    PF_MEMALLOC_NOIO,
    PF_OOM_VICTIM,
    gfp_migratetype,
)
from netvm.mm.zone import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE
from netvm.runtime.workqueue import PF_WQ_WORKER
from netvm.units import JIFFY_NS

P = 1024
GFP_ANON = GFP_HIGHUSER_MOVABLE | GFP_COMP | GFP_ZERO
MARKS = (1000, 1250, 1500)


class Script:
    """Reclaim and OOM killer that do what a test says, and a log of who was asked."""

    def __init__(self, host, *, progress=0, reclaimable=0, kills=False):
        self.host = host
        self.log = []
        self.masks = []
        self.progress = progress
        self.reclaimable = reclaimable
        self.kills = kills
        self.on_reclaim = lambda nr: None
        self.on_trylock = lambda: None
        self.on_oom = lambda: None
        self.nr_locked = 0
        """So many attempts find oom_lock taken."""
        self.unlocked_ns = []
        self.naps = []
        """For each question whether to nap before a retry: the round it was asked after."""
        host.pages.vmscan = host.pages.oom = self.throttles = self.compaction = self

    async def between_rounds(self, task):
        """Go on at once."""
        self.host.world.retry_point(task.spins_at)

    async def naps_before_retry(self, task, zone, reclaimable_pages):
        """Note when it was asked; there is never a reason."""
        assert reclaimable_pages == self.reclaimable
        self.naps.append(self.nr_reclaims)
        return False

    @property
    def nr_reclaims(self):
        """Rounds of direct reclaim."""
        return self.log.count("reclaim")

    def wakeup_kswapd(self, gfp, order, highest):
        """Note it."""
        self.log.append("wake")

    async def try_to_free_pages(self, task, order, gfp):
        """Note it, do what the test says."""
        self.log.append("reclaim")
        self.masks.append(gfp)
        self.on_reclaim(self.nr_reclaims)
        return self.progress

    async def direct_compact(self, task, order, gfp, alloc_flags, tries, owner):
        """Note how hard, and find nothing."""
        self.log.append(f"compact {tries.priority.name}")
        return -1

    def should_compact_retry(self, task, order, gfp, tries):
        """Once is enough."""
        return False

    def zone_reclaimable_pages(self, zone):
        """What the test says."""
        return self.reclaimable

    def trylock(self):
        """Taken as long as the test says."""
        self.on_trylock()
        if self.nr_locked:
            self.nr_locked -= 1
            self.log.append("locked")
            return False
        return True

    def unlock(self):
        """Note when."""
        self.unlocked_ns.append(self.host.world.now_ns)

    def out_of_memory(self, task, gfp, order):
        """Note it."""
        self.log.append("oom")
        self.on_oom()
        return self.kills


def _request(host, gfp, *, order=0, flags=0):
    """Make one request that may sleep, as a task of its own; return its block."""

    async def body(task):
        return await host.pages.alloc_pages(task, order, gfp, host.owner_test)

    return host.run(body, flags=flags)


# -- who gets what: the reserve ladder end to end ----------------------------------------------------------------------

FLOORS = [
    # mask, task flags, order, floor
    pytest.param(GFP_KERNEL, 0, 1000, id="KERNEL"),
    pytest.param(GFP_NOFS, 0, 1000, id="NOFS"),
    pytest.param(GFP_NOIO, 0, 1000, id="NOIO"),
    pytest.param(GFP_NOWAIT, 0, 1000, id="NOWAIT"),
    pytest.param(GFP_ATOMIC, 0, 375, id="ATOMIC"),
    pytest.param(GFP_ATOMIC | GFP_NOMEMALLOC, 0, 500, id="ATOMIC-NOMEMALLOC"),
    pytest.param(GFP_KERNEL | GFP_HIGH, 0, 500, id="KERNEL-HIGH"),
    pytest.param(GFP_KERNEL | GFP_NOMEMALLOC, PF_MEMALLOC, 1000, id="KERNEL-NOMEMALLOC under PF_MEMALLOC"),
    pytest.param(GFP_NOIO | GFP_NOMEMALLOC, PF_MEMALLOC, 1000, id="NOIO-NOMEMALLOC under PF_MEMALLOC"),
    pytest.param(GFP_NOIO | GFP_NOMEMALLOC | GFP_MEMALLOC, PF_MEMALLOC, 1000, id="NOMEMALLOC beats MEMALLOC"),
    pytest.param(GFP_KERNEL, PF_OOM_VICTIM, 500, id="OOM victim"),
    pytest.param(GFP_KERNEL | GFP_HIGH, PF_OOM_VICTIM, 500, id="OOM victim, HIGH"),
    pytest.param(GFP_ATOMIC, PF_OOM_VICTIM, 375, id="OOM victim, atomic"),
    pytest.param(GFP_KERNEL | GFP_NOMEMALLOC, PF_OOM_VICTIM, 1000, id="OOM victim, NOMEMALLOC"),
    pytest.param(GFP_NOIO | GFP_MEMALLOC, 0, 0, id="NOIO-MEMALLOC"),
    pytest.param(GFP_ATOMIC | GFP_MEMALLOC, 0, 0, id="ATOMIC-MEMALLOC"),
    pytest.param(GFP_KERNEL, PF_MEMALLOC, 0, id="PF_MEMALLOC"),
    pytest.param(GFP_NOWAIT, PF_MEMALLOC, 0, id="NOWAIT under PF_MEMALLOC"),
]


@pytest.mark.parametrize(("gfp", "flags", "floor"), FLOORS)
def test_floors(make_host, gfp: int, flags: int, floor: int) -> None:
    """At one page above its floor a request gets a page; at the floor it does not."""
    for free, gets in ((floor + 1, True), (floor, False)):
        host = make_host(free=free, marks=MARKS)
        Script(host)
        assert (_request(host, gfp | GFP_NORETRY, flags=flags) >= 0) == gets


@pytest.mark.parametrize(("gfp", "flags", "floor"), FLOORS)
def test_a_request_goes_down_to_its_floor_and_no_further(make_host, gfp: int, flags: int, floor: int) -> None:
    """Page after page, until free memory stands at the floor exactly."""
    host = make_host(free=1010, marks=MARKS)
    Script(host)

    async def body(task):
        while await host.pages.alloc_pages(task, 0, gfp | GFP_NORETRY | GFP_NOWARN, host.owner_test) >= 0:
            pass

    host.run(body, flags=flags)
    assert host.zone.nr_free == floor
    host.audit()


@pytest.mark.parametrize(
    ("gfp", "flags", "floor"),
    [(GFP_NOWAIT, 0, 750), (GFP_ATOMIC, 0, 375), (GFP_KERNEL, 0, 1000), (GFP_KERNEL, PF_OOM_VICTIM, 500)],
)
def test_floors_before_the_ladder(make_host, gfp: int, flags: int, floor: int) -> None:
    """Without fix ``min_reserve_ladder`` every request that may not block gets ALLOC_HARDER's quarter."""
    for free, gets in ((floor + 1, True), (floor, False)):
        host = make_host(free=free, marks=MARKS, switches={"min_reserve_ladder": False})
        Script(host)
        assert (_request(host, gfp | GFP_NORETRY, flags=flags) >= 0) == gets


def test_a_victim_had_the_whole_reserve_once(make_host) -> None:
    """Without fix ``oom_half_reserve`` (before 4.14) an OOM victim has NO_WATERMARKS, and its pages are marked."""
    host = make_host(free=1, marks=MARKS, switches={"oom_half_reserve": False})
    Script(host)
    pfn = _request(host, GFP_KERNEL, flags=PF_OOM_VICTIM)
    assert host.frames.flags_of[pfn] == PG_PFMEMALLOC | PG_RESERVE


BOOSTED = [
    pytest.param(GFP_KERNEL, 0, 2000, id="KERNEL"),
    pytest.param(GFP_NOWAIT, 0, 2000, id="NOWAIT"),
    pytest.param(GFP_ATOMIC, 0, 375, id="ATOMIC ignores it"),
    pytest.param(GFP_ATOMIC | GFP_NOMEMALLOC, 0, 500, id="ATOMIC-NOMEMALLOC ignores it"),
    pytest.param(GFP_HIGH | GFP_KSWAPD_RECLAIM, 0, 750, id="HIGH without the atomic bit"),
    pytest.param(GFP_ATOMIC, 1, 751, id="ATOMIC of order 1"),
    pytest.param(GFP_KERNEL | GFP_HIGH, 0, 1000, id="KERNEL-HIGH"),
]


@pytest.mark.parametrize(("gfp", "order", "floor"), BOOSTED)
def test_floors_under_a_boost(make_host, gfp: int, order: int, floor: int) -> None:
    """A boost of 1000 counts for everybody but true GFP_ATOMIC requests for one page."""
    for free, gets in ((floor + 1, True), (floor, False)):
        host = make_host(zones=(("DMA32", 4096),), free=free, marks=MARKS)
        host.zone.watermark_boost = 1000
        Script(host)
        assert (_request(host, gfp | GFP_NORETRY, order=order) >= 0) == gets


def test_since_6_3_every_high_request_ignores_the_boost(make_host) -> None:
    """With __GFP_ATOMIC gone, an order-0 request with __GFP_HIGH at the min mark is re-tested without the boost."""
    host = make_host(zones=(("DMA32", 4096),), free=700, marks=MARKS, kernel="6.18")
    host.zone.watermark_boost = 1000
    Script(host)
    assert _request(host, GFP_HIGH | GFP_KSWAPD_RECLAIM) >= 0


def test_the_high_order_reserve_is_out_of_reach_for_the_reserves_users(make_host) -> None:
    """With only HIGHATOMIC pages left, MEMALLOC and PF_MEMALLOC get nothing and GFP_ATOMIC gets a page."""
    for gfp, flags, gets in (
        (GFP_NOIO | GFP_MEMALLOC | GFP_NORETRY, 0, False),
        (GFP_KERNEL, PF_MEMALLOC, False),
        (GFP_NOWAIT, PF_MEMALLOC, False),
        (GFP_ATOMIC, 0, True),
    ):
        host = make_host(free=0, marks=(40, 50, 60))
        host.zone.set_pageblock_type(P, HIGHATOMIC)
        host.zone.nr_reserved_highatomic = 32
        host.put(P, 5, HIGHATOMIC)
        Script(host)
        assert (_request(host, gfp, flags=flags) >= 0) == gets


# -- entitlement -------------------------------------------------------------------------------------------------------


def test_who_is_entitled_to_the_deep_reserve(host) -> None:
    """NOMEMALLOC, then MEMALLOC, then the softirq's flag, then the task's, then being an OOM victim."""
    allowed = host.pages.gfp_pfmemalloc_allowed
    plain, memalloc = host.task(), host.task(flags=PF_MEMALLOC)
    victim = host.task(flags=PF_OOM_VICTIM)
    assert not allowed(plain, GFP_KERNEL)
    assert not allowed(plain, GFP_ATOMIC)
    assert allowed(plain, GFP_NOIO | GFP_MEMALLOC)
    assert allowed(memalloc, GFP_NOWAIT)
    assert allowed(victim, GFP_KERNEL)
    for task in (plain, memalloc, victim):
        assert not allowed(task, GFP_KERNEL | GFP_NOMEMALLOC)
        assert not allowed(task, GFP_KERNEL | GFP_NOMEMALLOC | GFP_MEMALLOC)


def test_a_softirq_is_entitled_while_it_processes_a_reserve_packet(make_host) -> None:
    """Fix ``softirq_memalloc``: PF_MEMALLOC set around a pfmemalloc skb counts in softirq; before 3.6 it did not."""
    for fix in (True, False):
        host = make_host(free=1, marks=MARKS, switches={"softirq_memalloc": fix})
        Script(host)
        softirq = host.softirq
        assert host.pages.try_alloc_pages(softirq, 0, GFP_ATOMIC, host.owner_test) == -1
        softirq.flags |= PF_MEMALLOC
        assert host.pages.gfp_pfmemalloc_allowed(softirq, GFP_ATOMIC) == fix
        assert (host.pages.try_alloc_pages(softirq, 0, GFP_ATOMIC, host.owner_test) >= 0) == fix


def test_a_softirq_has_no_share_in_being_a_victim(host) -> None:
    """What is allocated in an interrupt of a dying task is not the task's."""
    host.softirq.flags |= PF_OOM_VICTIM
    assert not host.pages.gfp_pfmemalloc_allowed(host.softirq, GFP_ATOMIC)


@pytest.mark.parametrize(
    ("gfp", "flags", "free", "pfmemalloc", "reserve"),
    [
        pytest.param(GFP_NOIO | GFP_MEMALLOC, 0, 1251, False, False, id="MEMALLOC above low"),
        pytest.param(GFP_NOIO | GFP_MEMALLOC, 0, 1001, False, False, id="MEMALLOC above min"),
        pytest.param(GFP_NOIO | GFP_MEMALLOC, 0, 1000, True, True, id="MEMALLOC at min"),
        pytest.param(GFP_KERNEL, PF_MEMALLOC, 1001, False, False, id="PF_MEMALLOC above min"),
        pytest.param(GFP_KERNEL, PF_MEMALLOC, 1000, True, True, id="PF_MEMALLOC at min"),
        pytest.param(GFP_ATOMIC, 0, 1001, False, False, id="ATOMIC above min"),
        pytest.param(GFP_ATOMIC, 0, 1000, False, True, id="ATOMIC at min"),
        pytest.param(GFP_KERNEL, PF_OOM_VICTIM, 1000, False, True, id="OOM victim at min"),
        pytest.param(GFP_NOWAIT, 0, 1001, False, False, id="NOWAIT above min"),
    ],
)
def test_marks_of_a_page(make_host, gfp: int, flags: int, free: int, pfmemalloc: bool, reserve: bool) -> None:
    """A page is pfmemalloc iff the winning attempt ignored the watermarks; reserve, iff it needed a privilege.

    So __GFP_MEMALLOC above the marks gives an ordinary page.
    """
    host = make_host(free=free, marks=MARKS)
    Script(host)
    pfn = _request(host, gfp, flags=flags)
    assert bool(host.frames.flags_of[pfn] & PG_PFMEMALLOC) == pfmemalloc
    assert bool(host.frames.flags_of[pfn] & PG_RESERVE) == reserve
    assert host.ledger.reserve_table() == ({"test": 1} if reserve else {})
    host.audit()
    host.pages.free_pages(pfn, 0)
    assert host.ledger.reserve_used == 0
    assert host.ledger.reserve_peak == reserve
    assert not host.frames.flags_of[pfn] & (PG_PFMEMALLOC | PG_RESERVE)


def test_a_block_from_the_reserve_counts_all_its_pages(make_host) -> None:
    """One mark on the head frame, 2**order pages in the ledger."""
    host = make_host(free=1000, marks=MARKS)
    pfn = host.pages.try_alloc_pages(host.task(flags=PF_MEMALLOC), 3, GFP_NOWAIT, host.owner_test)
    assert host.ledger.reserve_table() == {"test": 8}
    assert host.ledger.by_owner_at_peak == {"test": 8}
    host.audit()
    host.pages.free_pages(pfn, 3)
    assert host.ledger.reserve_used == 0
    host.audit()


def test_the_reserve_begins_at_the_boosted_mark(make_host) -> None:
    """While a boost stands, what GFP_ATOMIC takes below min + boost is reserve."""
    host = make_host(free=1800, marks=MARKS)
    host.zone.watermark_boost = 1000
    pfn = host.pages.try_alloc_pages(host.softirq, 0, GFP_ATOMIC, host.owner_test)
    assert host.frames.flags_of[pfn] & PG_RESERVE


# -- the fast path -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "wakes"), [(1251, 0), (1250, 1)])
@pytest.mark.parametrize("gfp", [GFP_KERNEL, GFP_ATOMIC, GFP_NOIO | GFP_MEMALLOC])
def test_the_fast_path_stops_at_low(make_host, free: int, wakes: int, gfp: int) -> None:
    """Above low nobody is woken; at low kswapd is, and the request is served at min."""
    host = make_host(free=free, marks=MARKS)
    script = Script(host)
    assert _request(host, gfp) >= 0
    assert script.log == ["wake"] * wakes


def test_a_mask_without_the_kswapd_bit_wakes_nobody(make_host) -> None:
    """__GFP_KSWAPD_RECLAIM is what wakes kswapd, not the need for it."""
    host = make_host(free=1100, marks=MARKS)
    script = Script(host)
    assert _request(host, GFP_KERNEL & ~GFP_KSWAPD_RECLAIM) >= 0
    assert script.log == []


@pytest.mark.parametrize(
    ("gfp", "kind"),
    [
        (GFP_KERNEL, UNMOVABLE),
        (GFP_KERNEL | GFP_RECLAIMABLE, RECLAIMABLE),
        (GFP_ANON, MOVABLE),
        (GFP_MOVABLE | GFP_RECLAIMABLE, MOVABLE),
    ],
)
def test_the_mask_names_the_migrate_type(host, gfp: int, kind: int) -> None:
    """__GFP_MOVABLE, __GFP_RECLAIMABLE, or neither."""
    assert gfp_migratetype(gfp) == kind


def test_zones_are_tried_from_the_highest(make_host) -> None:
    """A lower zone helps when the higher stands at its mark, as far as its protection lets it."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 512)), free=200, marks=(100, 120, 140))
    low, high = host.node.zones
    low.watermark[:] = [100, 120, 140]
    low.lowmem_reserve[:] = [0, 0, 300, 300]
    script = Script(host)
    task = host.task()
    pages = [host.pages.try_alloc_pages(task, 0, GFP_NOWAIT, host.owner_test) for _ in range(250)]
    zones = [host.node.zone_of(pfn).name for pfn in pages if pfn >= 0]
    # the fast path: Normal down to low, DMA32 down to low + 300; then the slow path in the same order at min
    expected = ["Normal"] * 80 + ["DMA32"] * (512 - 420)
    assert zones == [*expected, *["Normal"] * 20, *["DMA32"] * 20]
    assert (high.nr_free, low.nr_free) == (100, 400)
    assert script.log[:2] == ["wake"] * 2


def test_kernel_memory_does_not_come_from_the_movable_zone(make_host) -> None:
    """gfp_zone: only __GFP_HIGHMEM | __GFP_MOVABLE reaches ZONE_MOVABLE."""
    host = make_host(zones=(("Normal", 512), ("Movable", 512)), free=500)
    pfn = host.pages.try_alloc_pages(host.task(), 0, GFP_NOWAIT, host.owner_test)
    assert host.node.zone_of(pfn).name == "Normal"


def test_a_task_uses_the_lists_of_its_cpu(make_host) -> None:
    """Two programs on two CPUs refill two lists."""
    host = make_host(free=512, batch=7, cpus=2)
    Script(host)

    async def body(task):
        first = await host.pages.alloc_pages(task, 0, GFP_KERNEL, host.owner_test)
        cpu = task.cpu.index
        assert host.zone.pcp[cpu].count == 6
        assert host.zone.pcp[1 - cpu].count == 0
        return first

    assert host.run(body) >= 0


# -- the slow path, step by step ---------------------------------------------------------------------------------------


def test_an_atomic_request_fails_at_once(make_host) -> None:
    """Kswapd is woken at the start and before the last attempt, and that is all."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host)
    assert host.pages.try_alloc_pages(host.softirq, 0, GFP_ATOMIC, host.owner_test) == -1
    assert script.log == ["wake", "wake"]


def test_a_request_that_may_sleep_is_not_made_without_sleeping(host) -> None:
    """The synchronous door takes no mask with __GFP_DIRECT_RECLAIM."""
    with pytest.raises(AssertionError, match="GFP_NOIO may sleep"):
        host.pages.try_alloc_pages(host.task(), 0, GFP_NOIO, host.owner_test)


def test_sixteen_retries_without_progress_and_then_the_killer(make_host) -> None:
    """Reclaim that frees nothing while enough seems reclaimable is tried 17 times; each round wakes kswapd again."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, reclaimable=2000)
    assert _request(host, GFP_KERNEL) == -1
    assert script.log == ["wake", "wake", "reclaim", *["wake", "reclaim"] * 16, "oom"]


def test_hope_ends_at_once_when_nothing_is_reclaimable(make_host) -> None:
    """Free and reclaimable pages together must pass the min mark, or the killer is called after one round."""
    for reclaimable, rounds in ((990, 1), (991, 17)):
        host = make_host(free=10, marks=MARKS)
        script = Script(host, reclaimable=reclaimable)
        assert _request(host, GFP_KERNEL) == -1
        assert script.nr_reclaims == rounds
        assert script.log[-1] == "oom"


def test_progress_starts_the_count_anew(make_host) -> None:
    """Each page reclaimed buys 16 more rounds, for orders that are not costly."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, reclaimable=2000)

    def reclaim(nr):
        script.progress = int(nr == 10)

    script.on_reclaim = reclaim
    assert _request(host, GFP_KERNEL) == -1
    assert script.nr_reclaims == 10 + 17
    # a nap before the retry is thought of after a round without progress alone
    assert script.naps == [*range(1, 10), *range(11, 27)]


def test_a_kill_starts_the_count_anew(make_host) -> None:
    """After the killer has acted the request goes round again, and gets the victim's pages when they come."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, kills=True)

    def reclaim(nr):
        if nr == 3:
            host.put_range(P + 512, 1024)

    script.on_reclaim = reclaim
    script.progress = 1
    assert _request(host, GFP_KERNEL) >= 0
    assert script.log == ["wake", "wake", *["reclaim", "oom", "wake"] * 2, "reclaim"]


def test_pf_memalloc_never_reclaims(make_host) -> None:
    """A reclaimer that finds no page fails instead of reclaiming within reclaim."""
    host = make_host(free=0, marks=MARKS)
    script = Script(host)
    assert _request(host, GFP_KERNEL, flags=PF_MEMALLOC) == -1
    assert script.log == ["wake", "wake"]


def test_noretry_reclaims_once_and_kills_nobody(make_host) -> None:
    """__GFP_NORETRY: one round, then failure, however much seems reclaimable."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, reclaimable=2000, kills=True)
    assert _request(host, GFP_KERNEL | GFP_NORETRY) == -1
    assert script.log == ["wake", "wake", "reclaim"]


def test_retry_mayfail_retries_and_kills_nobody(make_host) -> None:
    """__GFP_RETRY_MAYFAIL: all retries, then failure."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, reclaimable=2000, kills=True)
    assert _request(host, GFP_KERNEL | GFP_RETRY_MAYFAIL) == -1
    assert script.nr_reclaims == 17
    assert "oom" not in script.log


@pytest.mark.parametrize(("gfp", "rounds"), [(GFP_KERNEL, 1), (GFP_KERNEL | GFP_RETRY_MAYFAIL, 17)])
def test_costly_orders_give_up_early_and_kill_nobody(make_host, gfp: int, rounds: int) -> None:
    """Order 4 reclaims once, or with RETRY_MAYFAIL 17 times whatever the progress; never is anybody killed."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, progress=32, reclaimable=2000, kills=True)
    # a block there is, so that only the mark is in the way
    host.put(P + 512, 4)
    assert _request(host, gfp, order=4) == -1
    assert script.nr_reclaims == rounds
    assert "oom" not in script.log


def test_order_three_is_not_costly(make_host) -> None:
    """PAGE_ALLOC_COSTLY_ORDER itself is retried like a single page, and kills."""
    host = make_host(free=16, marks=MARKS)
    script = Script(host, reclaimable=2000)
    assert _request(host, GFP_KERNEL, order=3) == -1
    assert script.nr_reclaims == 17
    assert script.log[-1] == "oom"


def test_noio_loops_for_ever_rather_than_fail(make_host) -> None:
    """out_of_memory says progress to a mask without __GFP_FS, so the request goes round until memory comes."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, kills=True)

    def reclaim(nr):
        if nr == 200:
            host.put_range(P + 512, 1024)
            script.progress = 1

    script.on_reclaim = reclaim
    assert _request(host, GFP_NOIO) >= 0
    assert script.nr_reclaims == 200
    assert script.log.count("oom") == 199


def test_a_scope_reaches_reclaim(make_host) -> None:
    """A task with PF_MEMALLOC_NOIO reclaims with the narrowed mask."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host)
    _request(host, GFP_KERNEL | GFP_NORETRY, flags=PF_MEMALLOC_NOIO)
    assert script.masks == [GFP_NOIO | GFP_NORETRY]


def test_pages_on_per_cpu_lists_are_found_after_reclaim(make_host) -> None:
    """Progress without a page drains the lists: free rises by what they held, and the request is served."""
    host = make_host(free=1010, marks=MARKS, batch=4, high=64)
    pages = [host.alloc(0, UNMOVABLE) for _ in range(20)]
    for pfn in pages:
        host.pages.free_pages(pfn, 0)
    assert host.zone.nr_free <= 1000
    for progress in (0, 1):
        script = Script(host, progress=progress)
        pfn = host.pages.try_alloc_pages(host.task(), 0, GFP_NOWAIT | GFP_NOWARN, host.owner_test)
        assert pfn == -1
        if progress:
            assert _request(host, GFP_KERNEL) >= 0
            assert script.nr_reclaims == 1
    assert host.zone.nr_free > 1000


def _with_reserved_blocks(make_host, nr_blocks: int):
    """Return a host with free memory at the min mark and so many HIGHATOMIC pageblocks, all free."""
    host = make_host(zones=(("DMA32", 4096),), free=1000, marks=MARKS)
    for i in range(nr_blocks):
        pfn = P + 2048 + 32 * i
        host.put(pfn, 5)
        host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, pfn)
    assert host.zone.nr_reserved_highatomic == 32 * nr_blocks
    return host


def test_the_high_order_reserve_is_opened_after_reclaim(make_host) -> None:
    """Progress without a page gives one HIGHATOMIC pageblock back to ordinary use, but never the last."""
    host = _with_reserved_blocks(make_host, 2)
    script = Script(host, progress=1)
    assert _request(host, GFP_KERNEL) >= 0
    assert (script.nr_reclaims, host.zone.nr_reserved_highatomic) == (1, 32)


def test_the_last_reserved_block_goes_before_anybody_is_killed(make_host) -> None:
    """Giving up forces the last one out; that is a retry, not a failure."""
    host = _with_reserved_blocks(make_host, 1)
    script = Script(host)
    assert _request(host, GFP_KERNEL) >= 0
    assert script.log == ["wake", "wake", "reclaim", "wake"]
    assert host.zone.nr_reserved_highatomic == 0


def test_the_reserve_is_forced_open_after_sixteen_retries_too(make_host) -> None:
    """Both ways of giving up look there first."""
    host = _with_reserved_blocks(make_host, 1)
    script = Script(host, reclaimable=2000)
    assert _request(host, GFP_KERNEL) >= 0
    assert script.nr_reclaims == 17
    assert "oom" not in script.log


def test_a_success_of_a_high_order_atomic_request_reserves_its_block(make_host) -> None:
    """Only below low, of order > 0, with HIGH, without DIRECT_RECLAIM and without NOMEMALLOC."""
    for gfp, order, free, reserves in (
        (GFP_ATOMIC, 3, 1200, True),
        (GFP_ATOMIC, 3, 1600, False),
        (GFP_ATOMIC, 0, 1200, False),
        (GFP_ATOMIC | GFP_NOMEMALLOC, 3, 1200, False),
        (GFP_NOWAIT, 3, 1200, False),
        (GFP_KERNEL | GFP_HIGH, 3, 1200, False),
    ):
        host = make_host(free=free, marks=MARKS, batch=1)
        Script(host)
        pfn = _request(host, gfp, order=order)
        assert pfn >= 0
        assert (host.zone.nr_reserved_highatomic == 32) == reserves
        assert (host.zone.pageblock_type(pfn) == HIGHATOMIC) == reserves


def test_a_worker_sleeps_between_retries(make_host) -> None:
    """A workqueue's worker sleeps a jiffy so that its pool sees it; anybody else only looks whether to give way."""
    for flags, slept_ns in ((PF_WQ_WORKER, 16 * 2 * JIFFY_NS), (0, 0)):
        host = make_host(free=10, marks=MARKS)
        Script(host, reclaimable=2000)
        assert _request(host, GFP_KERNEL | GFP_RETRY_MAYFAIL, flags=flags) == -1
        assert host.world.now_ns == slept_ns


def test_a_worker_sleeps_before_it_gives_up(make_host) -> None:
    """should_reclaim_retry: the sleep comes after the zones were looked at, whatever was found."""
    host = make_host(free=10, marks=MARKS)
    Script(host)
    assert _request(host, GFP_KERNEL | GFP_RETRY_MAYFAIL, flags=PF_WQ_WORKER) == -1
    assert host.world.now_ns == 2 * JIFFY_NS


# -- the killer --------------------------------------------------------------------------------------------------------


def test_who_finds_the_killer_busy_waits_a_jiffy(make_host) -> None:
    """oom_lock taken counts as progress, after a sleep of one jiffy each time."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host)
    script.nr_locked = 3
    assert _request(host, GFP_KERNEL) == -1
    assert [step for step in script.log if step != "wake"] == [*["reclaim", "locked"] * 3, "reclaim", "oom"]
    assert host.world.now_ns == 3 * 2 * JIFFY_NS


@pytest.mark.parametrize(("freed", "killed"), [(1491, False), (1490, True)])
def test_the_last_attempt_is_at_the_high_mark(make_host, freed: int, killed: bool) -> None:
    """Somebody may have freed memory meanwhile, but it must be worth not killing: free above high."""
    host = make_host(zones=(("DMA32", 4096),), free=10, marks=MARKS)
    script = Script(host)
    script.on_trylock = lambda: host.put_range(P + 1024, freed)
    pfn = _request(host, GFP_KERNEL)
    assert (pfn >= 0) == (not killed)
    assert ("oom" in script.log) == killed
    assert len(script.unlocked_ns) == 1


def test_the_lock_is_released_whatever_happens(make_host) -> None:
    """Early returns of the killer's path release it as well."""
    for gfp, order in ((GFP_KERNEL | GFP_RETRY_MAYFAIL, 0), (GFP_KERNEL | GFP_RETRY_MAYFAIL, 4), (GFP_KERNEL, 0)):
        host = make_host(free=10, marks=MARKS)
        script = Script(host)
        assert _request(host, gfp, order=order) == -1
        assert len(script.unlocked_ns) == 1


def test_a_victim_with_its_reserve_gives_up(make_host) -> None:
    """An OOM victim that ran with ALLOC_OOM and still found nothing fails, so that it can die."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, kills=True)
    assert _request(host, GFP_KERNEL, flags=PF_OOM_VICTIM) == -1
    assert script.log.count("oom") == 1


def test_a_victim_kept_from_its_reserve_gives_up(make_host) -> None:
    """The same with __GFP_NOMEMALLOC, which never lets it try."""
    host = make_host(free=10, marks=MARKS)
    script = Script(host, kills=True)
    assert _request(host, GFP_KERNEL | GFP_NOMEMALLOC, flags=PF_OOM_VICTIM) == -1
    assert script.log.count("oom") == 1


def test_a_victim_with_the_whole_reserve_gave_up_too(make_host) -> None:
    """Before 4.14: a TIF_MEMDIE task whose attempt had NO_WATERMARKS and found nothing fails."""
    host = make_host(free=0, marks=MARKS, switches={"oom_half_reserve": False})
    script = Script(host, kills=True)

    def reclaim(nr):
        assert nr < 100, "the victim goes round for ever"

    script.on_reclaim = reclaim
    assert _request(host, GFP_KERNEL, flags=PF_OOM_VICTIM) == -1


def test_the_lock_is_not_held_while_giving_way(make_host) -> None:
    """__alloc_pages_may_oom unlocks before the slow path's cond_resched: others may look at once."""
    host = make_host(free=10, marks=MARKS, cpus=1)
    script = Script(host, kills=True)
    asked_ns = []

    def oom():
        asked_ns.append(host.world.now_ns)
        host.world.current.charge_ns += 10_000_000
        if len(asked_ns) == 2:
            host.put_range(P + 512, 1024)

    script.on_oom = oom
    assert _request(host, GFP_NOIO) >= 0
    assert script.unlocked_ns[:1] == asked_ns[:1]


# -- never failing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "rounds"), [(501, 1), (500, 2)])
def test_nofail_dips_into_half_the_reserve(make_host, free: int, rounds: int) -> None:
    """When everything else is exhausted a __GFP_NOFAIL request tries ALLOC_MIN_RESERVE, and starts over if need be."""
    host = make_host(free=free, marks=MARKS)
    script = Script(host)

    def oom():
        if script.log.count("oom") == 2:
            host.put_range(P + 1024, 600)

    script.on_oom = oom
    assert _request(host, GFP_KERNEL | GFP_NOFAIL) >= 0
    assert script.log.count("oom") == rounds


def test_nofail_gets_the_reserve_after_a_kill(make_host) -> None:
    """A kill is followed by one attempt without watermarks, whose page is marked."""
    host = make_host(free=1, marks=MARKS)
    script = Script(host, kills=True)
    pfn = _request(host, GFP_KERNEL | GFP_NOFAIL)
    assert host.frames.flags_of[pfn] == PG_PFMEMALLOC | PG_RESERVE
    assert script.log.count("oom") == 1


def test_nofail_of_pf_memalloc_waits_without_reclaiming(make_host) -> None:
    """It cannot reclaim; it tries the reserve again and again until a page is there."""
    host = make_host(free=0, marks=MARKS)
    script = Script(host)

    def retry(site):
        if site.endswith("NOFAIL"):
            script.log.append("again")
            if script.log.count("again") == 5:
                host.put(P, 0)

    host.world.retry_fired = retry
    assert _request(host, GFP_KERNEL | GFP_NOFAIL, flags=PF_MEMALLOC) == P
    assert script.nr_reclaims == 0


def test_nofail_has_patience(make_host) -> None:
    """A request that must not fail may go round any number of times."""
    host = make_host(free=0, marks=MARKS)
    Script(host)
    rounds = 0

    def retry(site):
        nonlocal rounds
        rounds += 1
        if rounds == 2000:
            host.put(P, 0)

    host.world.retry_fired = retry
    assert _request(host, GFP_KERNEL | GFP_NOFAIL, flags=PF_MEMALLOC) == P


# -- failure reports ---------------------------------------------------------------------------------------------------


def test_a_failure_is_counted_and_reported_once(make_host) -> None:
    """Every failure counts by task, order and mask; the log has the first of each kind."""
    host = make_host(free=10, marks=MARKS)
    Script(host)
    task = host.task("swapper/0")
    for order in (0, 0, 3):
        assert host.pages.try_alloc_pages(task, order, GFP_ATOMIC, host.owner_test) == -1
    assert host.pages.failures == {("swapper/0", 0, GFP_ATOMIC): 2, ("swapper/0", 3, GFP_ATOMIC): 1}
    assert [(event, facts["order"], facts["mode"]) for event, facts in host.logged] == [
        ("page allocation failure", 0, "0xa20(GFP_ATOMIC)"),
        ("page allocation failure", 3, "0xa20(GFP_ATOMIC)"),
    ]


def test_nowarn_is_silent(make_host) -> None:
    """__GFP_NOWARN: neither counted nor logged, sleeping or not."""
    host = make_host(free=10, marks=MARKS)
    Script(host)
    assert host.pages.try_alloc_pages(host.task(), 0, GFP_ATOMIC | GFP_NOWARN, host.owner_test) == -1
    assert _request(host, GFP_KERNEL | GFP_NOWARN) == -1
    assert (host.pages.failures, host.logged) == ({}, [])


# -- blocks for programs that touch much -------------------------------------------------------------------------------

WEAR = st.lists(st.tuples(st.sampled_from(["take", "give"]), st.integers(0, 3), st.integers(1, 60)), max_size=8)


def _worn(make_host, steps, *, batch: int, boost: int, nr_reserved: int):
    host = make_host(zones=(("DMA32", 1024),), batch=batch, high=6 * batch, marks=(300, 330, 360))
    Script(host)
    held = []
    for what, order, nr in steps:
        if what == "take":
            held += [(pfn, order) for pfn in (host.alloc(order) for _ in range(nr >> order)) if pfn >= 0]
        else:
            for pfn, block in held[:nr:2]:
                host.pages.free_pages(pfn, block)
            del held[:nr:2]
    if nr_reserved:
        host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, P + 512)
    host.zone.watermark_boost = boost
    return host


@given(
    steps=WEAR,
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    batch=st.sampled_from([1, 3, 7]),
    boost=st.sampled_from([0, 32, 200]),
    nr_reserved=st.integers(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_a_run_is_what_single_requests_get(make_host, steps, sizes, batch, boost, nr_reserved) -> None:
    """``try_alloc_run`` gives the frames that as many requests for one page get, and leaves the same lists behind."""
    many, single = (_worn(make_host, steps, batch=batch, boost=boost, nr_reserved=nr_reserved) for _ in range(2))
    task = many.task()
    runs = [many.pages.try_alloc_run(task, size, GFP_ANON, many.owner_test) for size in sizes]
    frames = [pfn for run in runs for pfn in run]
    assert all(len(run) <= size for run, size in zip(runs, sizes, strict=True))

    async def one_by_one(task):
        return [await single.pages.alloc_pages(task, 0, GFP_ANON, single.owner_test) for _ in frames]

    assert single.run(one_by_one) == frames
    assert many.zone.nr_free == single.zone.nr_free
    assert many.free_blocks() == single.free_blocks()
    assert [list(pages) for pages in many.zone.pcp[0].lists] == [list(pages) for pages in single.zone.pcp[0].lists]
    assert many.zone.pcp[0].free_factor == single.zone.pcp[0].free_factor
    assert many.ledger.table() == single.ledger.table()
    assert many.vmstat.pgalloc == single.vmstat.pgalloc


def test_a_run_is_not_shy(make_host) -> None:
    """Far above the low mark one call gives all that was asked for."""
    host = make_host(free=2048, marks=(100, 120, 140), batch=7)
    Script(host)
    assert len(host.pages.try_alloc_run(host.task(), 500, GFP_ANON, host.owner_test)) == 500
    assert host.owned("test") == 500


def test_a_run_goes_on_in_a_lower_zone_that_has_plenty(make_host) -> None:
    """With the highest zone at its low mark a run comes from the one below, as single requests do."""

    def low_host():
        return make_host(zones=(("DMA32", 8192), ("Normal", 2048)), free=140, marks=(100, 140, 180), batch=7)

    many, single = low_host(), low_host()
    frames = many.pages.try_alloc_run(many.task(), 300, GFP_ANON, many.owner_test)
    assert len(frames) == 300
    assert all(pfn < many.zone.start_pfn for pfn in frames)

    async def one_by_one(task):
        return [await single.pages.alloc_pages(task, 0, GFP_ANON, single.owner_test) for _ in frames]

    assert single.run(one_by_one) == frames
    assert many.vmstat.pgalloc == single.vmstat.pgalloc


def test_a_run_leaves_a_lower_zone_that_is_short_to_single_requests(make_host) -> None:
    """Near the marks of the zone below each page is asked for by itself."""
    host = make_host(zones=(("DMA", 4096), ("DMA32", 2048)), free=140, marks=(100, 140, 180), batch=7)
    assert host.pages.try_alloc_run(host.task(), 300, GFP_ANON, host.owner_test) == []


@pytest.mark.parametrize("preempted", [False, True])
def test_a_run_ends_with_the_page_that_wakes_kswapd(make_host, preempted: bool) -> None:
    """Where it preempts the program it runs before the next page; else the run goes on to the min mark."""
    host = make_host(free=1400, marks=(1000, 1400, 1800), batch=7, cpus=1)
    Script(host)

    async def body(task):
        task.cpus.need_resched = preempted
        found = host.pages.try_alloc_run(task, 50, GFP_ANON, host.owner_test)
        task.cpus.need_resched = False
        return len(found)

    assert host.run(body) == (1 if preempted else 50)


def test_a_run_takes_nothing_at_the_min_mark(make_host) -> None:
    """Where a single request would have to reclaim there is no run."""
    host = make_host(free=1000, marks=MARKS)
    script = Script(host)
    assert host.pages.try_alloc_run(host.task(), 10, GFP_ANON, host.owner_test) == []
    assert "reclaim" not in script.log
    assert host.zone.nr_free == 1000
