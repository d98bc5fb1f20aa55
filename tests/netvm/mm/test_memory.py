"""Page faults: what touching, mapping and unmapping memory costs and leaves behind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE, PTE_YOUNG
from netvm.mm.frames import PG_LRU, PG_RESERVE, PG_SWAPBACKED, PG_SWAPCACHE
from netvm.mm.gfp import GFP_KERNEL, PF_MEMALLOC, PF_OOM_VICTIM
from netvm.mm.lru import INACTIVE_ANON
from netvm.mm.memory import GFP_ANON
from netvm.mm.scan_control import SWAP_CLUSTER_MAX, ScanControl
from netvm.trace.latency import TouchRecorder
from netvm.units import NS_PER_S

ALL = PTE_YOUNG | PTE_WRITE | PTE_DIRTY


def _run(host, body, **options):
    result = host.run(body, **options)
    host.audit()
    return result


# -- first touch -------------------------------------------------------------------------------------------------------


def test_a_mapping_costs_nothing(host) -> None:
    """Mmap allocates no page."""

    async def body(task):
        space = host.memory.map_anonymous(task, 1000)
        assert task.mm is space
        assert space.task is task

    _run(host, body)
    assert host.zone.nr_free == 2048


def test_the_mask_of_a_new_page() -> None:
    """0x140dca, as the recorded traces print it."""
    assert GFP_ANON == 0x140DCA


def test_a_first_touch_maps_a_page(host) -> None:
    """Young, writable and dirty, swap-backed, on its way to the inactive list; one fault, one new version."""

    async def body(task):
        space = host.memory.map_anonymous(task, 1000)
        assert await host.memory.touch_run(task, space, 40, 3, write=True)
        assert space.resident().tolist() == [40, 41, 42]
        assert space.bits[40:43].tolist() == [ALL] * 3
        assert len(set(space.version[40:43].tolist())) == 3
        assert 0 not in space.version[40:43]
        return space

    space = _run(host, body)
    assert host.vmstat.pgfault == 3
    assert host.vmstat.pgmajfault == 0
    assert host.vmstat.nr_anon_pages == space.nr_anon == host.owned("anon") == 3
    for vpn in (40, 41, 42):
        pfn = space.pte_of[vpn] - 1
        assert host.frames.flags_of[pfn] & PG_SWAPBACKED
        assert (host.frames.mapping_of[pfn], host.frames.index_of[pfn]) == (space.id, vpn + 1)
    assert sorted(host.lruvec.batched) == sorted((space.pte[40:43] - 1).tolist())


def test_page_tables_take_pages(host) -> None:
    """One unmovable page for each 512 entries used, charged to their own owner."""

    async def body(task):
        space = host.memory.map_anonymous(task, 2000)
        for vpn, tables in ((0, 1), (511, 1), (1900, 2), (512, 3)):
            assert await host.memory.touch_run(task, space, vpn, 1, write=True)
            assert space.nr_page_tables == host.owned("page_tables") == tables
        assert host.vmstat.nr_page_table_pages == 3

    _run(host, body)


def test_pages_come_to_the_list_in_the_order_of_touching(host) -> None:
    """The oldest touch is the first to be scanned."""

    async def body(task):
        space = await host.mapped(task, 100)
        assert host.lruvec.lists[INACTIVE_ANON].pages().tolist() == (space.pte - 1).tolist()

    _run(host, body)


@given(cuts=st.lists(st.integers(1, 700), min_size=1, max_size=12), batch=st.sampled_from([1, 3, 7]))
@settings(max_examples=15, deadline=None)
def test_it_does_not_matter_how_a_run_is_cut(make_host, cuts: list[int], batch: int) -> None:
    """The same pages touched in one call or in many get the same frames, versions and places."""
    total = min(sum(cuts), 1500)
    seen = []
    for pieces in ([total], cuts):
        host = make_host(batch=batch, marks=(100, 130, 160))

        async def body(task, host=host, pieces=pieces):
            space = host.memory.map_anonymous(task, total)
            vpn = 0
            for piece in pieces:
                nr = min(piece, total - vpn)
                assert await host.memory.touch_run(task, space, vpn, nr, write=True)
                vpn += nr
            return space

        space = _run(host, body)
        seen.append(
            (
                space.pte.tolist(),
                space.version.tolist(),
                host.lruvec.lists[INACTIVE_ANON].pages().tolist(),
                host.lruvec.batched,
                host.zone.nr_free,
                host.vmstat.pgfault,
            )
        )
    assert seen[0] == seen[1]


# -- touching what is there --------------------------------------------------------------------------------------------


def test_reading_makes_a_page_young(host) -> None:
    """No fault, no new content; only the accessed bit."""

    async def body(task):
        space = await host.mapped(task, 10, young=False)
        before = space.version.tolist()
        assert await host.memory.touch_run(task, space, 2, 3, write=False)
        assert space.bits.tolist() == [PTE_WRITE | PTE_DIRTY] * 2 + [ALL] * 3 + [PTE_WRITE | PTE_DIRTY] * 5
        assert space.version.tolist() == before

    _run(host, body)
    assert host.vmstat.pgfault == 10


def test_writing_gives_new_content(host) -> None:
    """Each page written has a version nobody had before."""

    async def body(task):
        space = await host.mapped(task, 10)
        before = set(space.version.tolist())
        assert await host.memory.touch_run(task, space, 0, 10, write=True)
        assert len(set(space.version.tolist()) | before) == 20

    _run(host, body)
    assert host.vmstat.pgfault == 10


def test_writing_to_a_read_only_page_is_a_fault_that_reuses_it(host) -> None:
    """do_wp_page: the page is the program's alone, so it becomes writable in place (PGREUSE)."""

    async def body(task):
        space = await host.mapped(task, 10)
        space.bits[3:6] = PTE_YOUNG
        frames = space.pte.tolist()
        assert await host.memory.touch_run(task, space, 0, 10, write=True)
        assert space.pte.tolist() == frames
        assert space.bits.tolist() == [ALL] * 10

    _run(host, body)
    assert (host.vmstat.pgfault, host.vmstat.pgreuse) == (13, 3)


def test_the_programs_report_counts_touches(host) -> None:
    """As many touches as pages, however they were grouped."""

    async def body(task):
        space = host.memory.map_anonymous(task, 100)
        space.touches[task] = TouchRecorder()
        assert await host.memory.touch_run(task, space, 0, 100, write=True)
        assert await host.memory.touch_run(task, space, 50, 20, write=False)
        return space.touches[task]

    touches = _run(host, body)
    assert touches.nr_touches == 120
    assert sum(touches.histogram.values()) <= 120


def test_touching_takes_cpu_time(make_host) -> None:
    """On a host with CPUs a first touch costs its fault, a later one next to nothing."""
    host = make_host(cpus=1)

    async def body(task):
        space = host.memory.map_anonymous(task, 512)
        await host.memory.touch_run(task, space, 0, 512, write=True)
        await host.cpus.pay(task)
        first_ns = host.world.now_ns
        await host.memory.touch_run(task, space, 0, 512, write=True)
        await host.cpus.pay(task)
        return first_ns, host.world.now_ns - first_ns

    first_ns, again_ns = _run(host, body)
    assert first_ns == pytest.approx(512 * host.costs.fault_anon, rel=0.05)
    assert again_ns == 512 * host.costs.touch


# -- when there is no memory -------------------------------------------------------------------------------------------


def _poor(make_host, **options):
    return make_host(free=60, marks=(20, 25, 30), **options)


def test_an_event_finds_the_touches_before_it(make_host) -> None:
    """What falls due in the middle of a run of first touches sees those that were begun by then, and no other."""
    host = make_host(cpus=1)
    seen = []

    async def body(task):
        space = host.memory.map_anonymous(task, 400)
        await host.memory.touch_run(task, space, 0, 1, write=True)
        await task.cpus.pay(task)
        before = host.memory._next_version
        host.world.call_after(10 * host.costs.fault_anon - 1, lambda: seen.append(host.memory._next_version - before))
        await host.memory.touch_run(task, space, 1, 399, write=True)
        await task.cpus.pay(task)

    _run(host, body)
    assert seen == [10]


def test_a_program_without_memory_must_die(make_host) -> None:
    """When the allocator fails the touch fails, and what was touched before stays."""
    host = _poor(make_host)

    async def body(task):
        space = host.memory.map_anonymous(task, 100, oom_score_adj=-1000)
        # nobody else is there to be killed, so a killed task is what fails
        task.flags |= PF_OOM_VICTIM
        task.killed = True
        assert not await host.memory.touch_run(task, space, 0, 100, write=True)
        return space

    space = _run(host, body)
    assert 0 <= space.nr_anon < 60


def test_a_killed_program_does_not_keep_the_page(make_host) -> None:
    """A page that arrives after the signal goes back at once."""
    host = _poor(make_host)

    async def body(task):
        space = host.memory.map_anonymous(task, 100)
        space.killed = True
        assert await host.memory.pte_alloc(task, space, 0)
        before = host.zone.nr_free + host.nr_pcp
        assert await host.memory.do_anonymous_page(task, space, 0) == 0
        assert host.zone.nr_free + host.nr_pcp == before
        assert space.nr_anon == 0

    _run(host, body)


def test_marks_of_the_reserve_stay_on_the_page(make_host) -> None:
    """An anonymous page that came from the reserve is owed until it is freed."""
    host = make_host(free=100, marks=(90, 95, 98))

    async def body(task):
        space = host.memory.map_anonymous(task, 50)
        assert await host.memory.touch_run(task, space, 0, 30, write=True)
        used = host.ledger.reserve_used
        assert used >= 20
        flags = host.frames.flags[space.pte[:30] - 1]
        assert (
            np.count_nonzero(flags & PG_RESERVE) + int(bool(host.frames.flags_of[space.table_of[0]] & PG_RESERVE))
            == used
        )
        host.audit()
        host.memory.exit_mmap(space)

    _run(host, body, flags=PF_MEMALLOC)
    assert host.ledger.reserve_used == 0


# -- unmapping ---------------------------------------------------------------------------------------------------------


def test_exit_gives_everything_back(make_host) -> None:
    """Pages, page tables, lists and counters are as before the program began."""
    host = make_host(batch=7)

    async def body(task):
        space = await host.mapped(task, 1000)
        await host.memory.touch_run(task, space, 0, 5, write=True)
        host.memory.exit_mmap(space)
        assert task.mm is None

    _run(host, body)
    host.buddy.drain_all_pages(host.node.zones)
    assert host.zone.nr_free == 2048
    assert host.owned("anon") == host.owned("page_tables") == 0
    assert host.vmstat.nr_anon_pages == host.vmstat.nr_page_table_pages == 0
    assert len(host.lruvec.lists[INACTIVE_ANON]) == host.lruvec.nr_batched == 0
    assert host.shrinker.spaces == {}
    assert not (host.frames.flags & PG_LRU).any()


async def _scan(host, task, nr_batches: int = 1, **control) -> None:
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0, **control)
    plug = host.swap.start_plug(task)
    for _ in range(nr_batches):
        await host.shrinker.shrink_inactive_list(task, host.lruvec, SWAP_CLUSTER_MAX, sc, plug)
    plug.finish()


def test_exit_gives_swap_back(make_host) -> None:
    """Slots of pages that are in swap and nowhere else are free again."""
    host = make_host(swap_pages=1024)

    async def body(task):
        space = await host.mapped(task, 320, young=False)
        await _scan(host, task, 10)
        await host.pause(task, NS_PER_S)
        await _scan(host, task, 10)
        assert space.nr_swap == 320
        assert host.vmstat.nr_swapcached == 0
        host.memory.exit_mmap(space)

    _run(host, body)
    assert not host.swap.count.any()
    # what is left lies in the two slot caches
    assert host.swap.slots.nr_total - host.swap.slots.nr_free <= 128
    assert host.owned("anon") == 0


def test_exit_while_pages_are_being_written(make_host) -> None:
    """Pages under writeback outlive the program; reclaim frees them, and their slots, when the write has ended."""
    host = make_host(swap_pages=1024)
    host.device.held = True

    async def body(task):
        space = await host.mapped(task, 64, young=False)
        await _scan(host, task, 2)
        assert host.vmstat.nr_writeback == 64
        host.memory.exit_mmap(space)
        host.audit()
        assert host.owned("anon") == 64
        host.device.release()
        await host.pause(task, NS_PER_S)
        assert host.vmstat.nr_writeback == 0
        await _scan(host, task, 4)

    _run(host, body)
    assert host.owned("anon") == 0
    assert host.vmstat.nr_swapcached == 0
    assert not host.swap.count.any()


def test_exit_while_pages_are_isolated(make_host) -> None:
    """A program that ends while a reclaimer holds its pages leaves them to the reclaimer."""
    host = make_host(swap_pages=1024, nr_requests=1, max_pages=1)
    host.device.held = True
    state = {}

    async def reclaimer(task):
        await _scan(host, task, 1)

    async def body(task):
        space = await host.mapped(task, 32, young=False)
        state["task"] = host.world.spawn("reclaimer", reclaimer)
        await host.pause(task, 1000)
        # it waits for a request tag in the middle of its batch
        assert host.vmstat.nr_isolated_anon == 32
        host.memory.exit_mmap(space)
        assert host.vmstat.nr_isolated_anon == 32
        host.device.release()
        await host.pause(task, NS_PER_S)
        assert host.vmstat.nr_isolated_anon == 0
        await _scan(host, task, 4)
        await host.pause(task, NS_PER_S)
        await _scan(host, task, 4)

    _run(host, body)
    assert host.owned("anon") == 0
    assert not host.swap.count.any()


def test_exit_frees_cached_pages_of_its_slots(make_host) -> None:
    """free_swap_and_cache: the last reference to a slot takes its clean, unmapped swap cache page along."""
    host = make_host(swap_pages=1024)

    async def body(task):
        space = await host.mapped(task, 64, young=False)
        await _scan(host, task, 2)
        await host.pause(task, NS_PER_S)
        assert np.count_nonzero(host.frames.flags & np.uint16(PG_SWAPCACHE)) == 64
        host.memory.exit_mmap(space)

    _run(host, body)
    assert host.owned("anon") == 0
    assert host.vmstat.nr_swapcached == 0


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_vma_lock", [False, True])
def test_a_fault_waits_for_the_mmap_lock_unless_the_vma_has_one(make_host, per_vma_lock: bool) -> None:
    """Who changes the mapping keeps faults out, but not touches of what is mapped."""
    host = make_host(switches={"per_vma_lock": per_vma_lock})

    async def body(task):
        space = host.memory.map_anonymous(task, 64, nr_threads=2)
        assert await host.memory.touch_run(task, space, 0, 1, write=True)

        async def thread(other):
            host.memory.clone_vm(other, space)
            await space.mmap_lock.down_write(other)
            await host.pause(other, NS_PER_S)
            space.mmap_lock.up_write(other)

        host.world.spawn("thread", thread)
        await host.pause(task, 1)
        assert await host.memory.touch_run(task, space, 0, 1, write=True)
        assert host.world.now_ns == 1
        assert await host.memory.touch_run(task, space, 1, 1, write=True)
        assert host.world.now_ns == (1 if per_vma_lock else NS_PER_S)
        assert space.mmap_lock.readers == []

    _run(host, body)


def test_who_waits_for_a_read_lets_go_of_the_mmap_lock(make_host) -> None:
    """A swapped page comes back while a writer changes the mapping (folio_lock_or_retry)."""
    host = make_host(swap_pages=64, switches={"per_vma_lock": False})
    host.device.delay_ns = lambda _rq: NS_PER_S
    written_ns = []

    async def body(task):
        space = host.memory.map_anonymous(task, 4, nr_threads=2)
        assert await host.memory.touch_run(task, space, 0, 1, write=True)
        host.lruvec.lru_add_drain()
        space.bits[:] &= np.uint8(0xFE)
        await _scan(host, task)
        await host.pause(task, 2 * NS_PER_S)
        await _scan(host, task)
        assert space.nr_swap == 1
        begun_ns = host.world.now_ns

        async def thread(other):
            host.memory.clone_vm(other, space)
            await host.pause(other, NS_PER_S // 2)
            await space.mmap_lock.down_write(other)
            written_ns.append(host.world.now_ns - begun_ns)
            space.mmap_lock.up_write(other)

        host.world.spawn("thread", thread)
        assert await host.memory.touch_run(task, space, 0, 1, write=True)
        assert host.world.now_ns - begun_ns >= NS_PER_S

    host.run(body)
    assert written_ns == [NS_PER_S // 2]


def test_a_thread_that_ends_without_the_mmap_lock_gives_none_back(make_host) -> None:
    """What ends it where it waits for a page is what is told, not that the lock is another's by then."""
    host = make_host(switches={"per_vma_lock": False})

    async def body(task):
        space = host.memory.map_anonymous(task, 4, nr_threads=2)

        async def ends():
            raise ZeroDivisionError

        async def fault(task, *_args, **_how):
            await space.mmap_lock.drop_while(task, ends())

        host.memory.swap.do_swap_page = fault
        space.pte_of[0] = -1
        with pytest.raises(ZeroDivisionError):
            await host.memory.touch_run(task, space, 0, 1, write=True)
        assert space.mmap_lock.readers == []
        space.pte_of[0] = 0

    _run(host, body)


def test_a_page_that_another_thread_has_mapped_is_not_mapped_again(make_host) -> None:
    """Two faults on one page: who comes back from its readahead second finds it done (pte_same)."""
    host = make_host(swap_pages=64)

    async def body(task):
        space = host.memory.map_anonymous(task, 4)
        assert await host.memory.touch_run(task, space, 0, 1, write=True)
        host.lruvec.lru_add_drain()
        space.bits[:] &= np.uint8(0xFE)
        await _scan(host, task)
        await host.pause(task, NS_PER_S)
        await _scan(host, task)
        assert space.nr_swap == 1
        readahead = host.swap.swapin_readahead

        async def slow(*window):
            host.swap.swapin_readahead = readahead
            assert await host.swap.do_swap_page(task, space, 0, write=False)

        host.swap.swapin_readahead = slow
        assert await host.swap.do_swap_page(task, space, 0, write=True)
        assert (space.nr_anon, space.nr_swap) == (1, 0)

    _run(host, body)


def test_memory_goes_with_the_last_thread(host) -> None:
    """One that ends leaves it to the others; the process is known by one that is there."""

    async def body(task):
        space = host.memory.map_anonymous(task, 8, nr_threads=2)
        other = host.task("thread", 77)
        host.memory.clone_vm(other, space)
        assert await host.memory.touch_run(task, space, 0, 8, write=True)
        host.memory.mmput(task, space)
        assert (space.task, space.nr_anon, task.mm, other.mm) == (other, 8, None, space)
        host.memory.mmput(other, space)
        assert (space.nr_anon, other.mm) == (0, None)

    _run(host, body)
    assert host.zone.nr_free + host.nr_pcp == 2048


def test_a_touch_needs_the_hot_pages_of_the_programs_image(make_host) -> None:
    """They are young after it; those that have been swapped out come back first, and the others stay in swap."""
    host = make_host(swap_pages=1024)

    async def body(task):
        space = await host.mapped(task, 64)
        image = host.memory.map_image(space, 8, hot=((1, True), (2, False)))
        await host.memory.touch_run(task, image, 0, 8, write=True)
        image.bits[:] &= 0xFF ^ PTE_YOUNG
        assert await host.memory.touch_run(task, space, 0, 1, write=True)
        assert [vpn for vpn in range(8) if image.bits_of[vpn] & PTE_YOUNG] == [1, 2]
        image.bits[:] &= 0xFF ^ PTE_YOUNG
        await _scan(host, task, 10)
        await host.pause(task, NS_PER_S)
        await _scan(host, task, 10)
        assert image.nr_swap == 8
        before = host.vmstat.pgmajfault
        versions = image.version.copy()
        assert await host.memory.touch_run(task, space, 0, 1, write=False)
        assert host.vmstat.pgmajfault > before
        assert [vpn for vpn in range(8) if image.pte_of[vpn] > 0] == [1, 2]
        assert [vpn for vpn in range(8) if image.version_of[vpn] != versions[vpn]] == [1]
        # the one that is only read goes as it is, the other has to be written first
        nr_written = host.vmstat.nr_vmscan_write
        image.bits[:] &= 0xFF ^ PTE_YOUNG
        space.bits[:] &= 0xFF ^ PTE_YOUNG
        await _scan(host, task, 10)
        await host.pause(task, NS_PER_S)
        await _scan(host, task, 10)
        assert image.nr_swap == 8
        assert host.vmstat.nr_vmscan_write == nr_written + 1
        host.memory.exit_mmap(space)

    _run(host, body)
    assert host.shrinker.spaces == {}
    assert host.owned("anon") == host.owned("page_tables") == 0


def test_a_program_whose_own_page_is_lost_must_die(make_host) -> None:
    """A read error of a hot page is the program's end, as of any other page it needs."""
    host = make_host(swap_pages=1024)

    async def body(task):
        space = await host.mapped(task, 4)
        image = host.memory.map_image(space, 1, hot=((0, True),))
        await host.memory.touch_run(task, image, 0, 1, write=True)
        image.bits[:] &= 0xFF ^ PTE_YOUNG
        await _scan(host, task, 10)
        await host.pause(task, NS_PER_S)
        await _scan(host, task, 10)

        async def broken(*_args, **_how) -> bool:
            return False

        host.memory.swap.do_swap_page = broken
        assert not await host.memory.touch_run(task, space, 0, 1, write=True)

    _run(host, body)
