"""Slab caches: objects cut from pages, whose pages come from where the request may take them."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from netvm.mm.frames import PG_PFMEMALLOC
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_MEMALLOC,
    GFP_NOIO,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWAIT,
    GFP_NOWARN,
    PF_MEMALLOC,
)
from netvm.mm.slab import CACHES, CacheSpec
from netvm.mm.zone import MOVABLE, RECLAIMABLE, UNMOVABLE
from netvm.units import PAGE_SIZE

P = 1024
MARKS = (1000, 1250, 1500)


def _objects(cache, task, nr: int, gfp: int = GFP_NOWAIT) -> list[int]:
    return [cache.try_alloc(task, gfp) for _ in range(nr)]


@pytest.mark.parametrize(
    ("name", "objects", "order"),
    [
        ("bio-160", 21, 0),
        ("bio-192", 16, 0),
        ("skbuff_head_cache", 16, 0),
        ("skbuff_fclone_cache", 9, 0),
        ("radix_tree_node", 14, 1),
        ("kmalloc-1k", 8, 1),
        ("kmalloc-2k", 8, 2),
        ("kmalloc-4k", 8, 3),
    ],
)
def test_objects_per_slab(make_host, name: str, objects: int, order: int) -> None:
    """As the recorded slabinfo counts them: 21 one-page bios to a page."""
    host = make_host(batch=1)
    cache = host.slabs[name]
    task = host.task()
    assert len(set(_objects(cache, task, objects))) == 1
    assert host.owned(f"slab:{name}") == 1 << order
    assert (cache.nr_slabs, cache.nr_active, cache.free_objects()) == (1, objects, 0)
    _objects(cache, task, 1)
    assert (cache.nr_slabs, cache.free_objects()) == (2, objects - 1)


def test_the_table_fits_its_pages() -> None:
    """No cache puts more objects into a slab than fit, nor leaves room for another."""
    for name, spec in CACHES.items():
        room = (PAGE_SIZE << spec.order) // spec.object_bytes
        assert spec.nr_objects == room, name
        assert spec.object_bytes <= PAGE_SIZE << spec.min_order


def test_a_cache_of_that_name_is_one(host) -> None:
    """Caches are made on first use, or added once."""
    assert host.slabs["bio-160"] is host.slabs["bio-160"]
    mine = host.slabs.add("bio-512", CacheSpec(512, 8, 0))
    assert host.slabs["bio-512"] is mine
    assert host.slabs.caches() == [host.slabs["bio-160"], mine]
    with pytest.raises(AssertionError):
        host.slabs.add("bio-512", CacheSpec(512, 8, 0))


def test_slab_pages_are_counted(host) -> None:
    """Reclaimable caches ask for reclaimable pages and show in their own counter."""
    task = host.task()
    host.zone.set_pageblock_type(P, UNMOVABLE)
    nodes, heads = host.slabs["radix_tree_node"], host.slabs["kmalloc-4k"]
    _objects(nodes, task, 1)
    assert (host.vmstat.nr_slab_reclaimable, host.vmstat.nr_slab_unreclaimable) == (2, 0)
    _objects(heads, task, 1)
    assert (host.vmstat.nr_slab_reclaimable, host.vmstat.nr_slab_unreclaimable) == (2, 8)


@pytest.mark.parametrize(("name", "kind"), [("radix_tree_node", RECLAIMABLE), ("kmalloc-1k", UNMOVABLE)])
def test_slabs_come_from_blocks_of_their_kind(make_host, name: str, kind: int) -> None:
    """A reclaimable cache takes from RECLAIMABLE pageblocks, the others from UNMOVABLE ones."""
    host = make_host(free=0)
    for i, block_kind in enumerate((MOVABLE, UNMOVABLE, RECLAIMABLE)):
        host.zone.set_pageblock_type(P + 64 * i, block_kind)
        host.put(P + 64 * i, 5, block_kind)
    (slab,) = _objects(host.slabs[name], host.task(), 1)
    assert host.zone.pageblock_type(slab) == kind


# -- which slab an object comes from -----------------------------------------------------------------------------------


def test_the_current_slab_serves_until_it_is_used_up(make_host) -> None:
    """Freed objects of the current slab are reused first; then the oldest partial slab becomes current."""
    host = make_host()
    cache, task = host.slabs["bio-160"], host.task()
    first, second, third = (_objects(cache, task, 21)[0] for _ in range(3))
    cache.free(third)
    assert _objects(cache, task, 1) == [third]
    for slab in (second, first, second):
        cache.free(slab)
    assert _objects(cache, task, 3) == [second, second, first]
    assert cache.slabs() == {first: 0, second: 0, third: 0}


def test_taking_many_is_taking_one_by_one(make_host) -> None:
    """Objects that are there, in the order single requests get them, and no new slab."""
    many, single = (make_host() for _ in range(2))
    for host in (many, single):
        cache, task = host.slabs["bio-160"], host.task()
        slabs = [_objects(cache, task, 21)[0] for _ in range(3)]
        for slab in [slabs[0]] * 3 + [slabs[2]] * 2 + [slabs[1]] * 4:
            cache.free(slab)
    for nr in (1, 2, 4, 9):
        taken = many.slabs["bio-160"].take_many(many.task(), GFP_NOWAIT, nr)
        ready = single.slabs["bio-160"].nr_ready()
        assert taken == _objects(single.slabs["bio-160"], single.task(), min(nr, ready))
    assert many.slabs["bio-160"].nr_ready() == 0
    assert many.slabs["bio-160"].nr_slabs == 3
    assert many.slabs["bio-160"].nr_active == 63


@pytest.mark.parametrize(("object_bytes", "kept"), [(192, 5), (1024, 5), (2048, 5), (4096, 6)])
def test_empty_slabs_are_kept_up_to_min_partial(make_host, object_bytes: int, kept: int) -> None:
    """Five partial slabs at least may lie empty (half the logarithm of the size, 5 to 10); the next goes back."""
    host = make_host()
    cache, task = host.slabs.add("test", CacheSpec(object_bytes, 2, 3)), host.task()
    assert cache.min_partial == kept
    slabs = [_objects(cache, task, 2)[0] for _ in range(12)]
    for nr_empty, slab in enumerate(slabs[:11], start=1):
        cache.free(slab)
        cache.free(slab)
        assert cache.nr_slabs == 12 - max(0, nr_empty - kept + 1)
    # eleven were emptied, and the full current one is there besides
    assert host.owned("slab:test") == 8 * cache.nr_slabs == 8 * kept
    assert host.vmstat.nr_slab_unreclaimable == 8 * kept
    host.audit()


def test_the_current_slab_is_never_given_back(make_host) -> None:
    """Empty or not: the next request needs it."""
    host = make_host()
    cache, task = host.slabs["bio-160"], host.task()
    slabs = [_objects(cache, task, 21)[0] for _ in range(8)]
    for slab in slabs:
        for _ in range(21):
            cache.free(slab)
    assert slabs[-1] in cache.slabs()
    assert cache.slabs()[slabs[-1]] == 21
    assert cache.nr_active == 0


def test_an_object_is_not_freed_twice(make_host) -> None:
    """More frees than allocations stop the run."""
    cache = make_host().slabs["bio-160"]
    (slab,) = _objects(cache, make_host().task(), 1)
    cache.free(slab)
    with pytest.raises(AssertionError):
        cache.free(slab)


def test_boot_may_set_a_slab_aside(make_host) -> None:
    """A block of boot's becomes the current slab, partly used."""
    host = make_host(free=0)
    cache = host.slabs["radix_tree_node"]
    host.ledger.change_owner(host.frames, P, 2, cache.owner)
    cache.adopt(P, 4)
    assert (cache.nr_slabs, cache.nr_active, cache.free_objects(), cache.nr_ready()) == (1, 4, 10, 10)
    assert host.vmstat.nr_slab_reclaimable == 2
    assert _objects(cache, host.task(), 11, GFP_NOWAIT | GFP_NOWARN) == [P] * 10 + [-1]
    host.audit()


# -- where its pages come from -----------------------------------------------------------------------------------------


def _in_single_pages(make_host, nr: int):
    host = make_host(free=0, marks=(1, 2, 3))
    for pfn in range(P, P + 2 * nr, 2):
        host.zone.set_pageblock_type(pfn, RECLAIMABLE)
        host.put(pfn, 0, RECLAIMABLE)
    return host


@pytest.mark.parametrize("blocking", [False, True])
def test_without_a_block_of_its_order_a_slab_is_smaller(make_host, blocking: bool) -> None:
    """ORDER_FALLBACK: a radix_tree_node slab of one page has 7 objects instead of 14 in two."""
    host = _in_single_pages(make_host, 20)
    cache = host.slabs["radix_tree_node"]

    async def body(task):
        for _ in range(8):
            assert (await cache.alloc(task, GFP_KERNEL) if blocking else cache.try_alloc(task, GFP_NOWAIT)) >= 0

    host.run(body)
    assert (cache.nr_slabs, cache.nr_active, cache.free_objects()) == (2, 8, 6)
    assert host.owned("slab:radix_tree_node") == 2
    assert host.pages.failures == {}


def test_a_blocking_request_tries_its_order_without_reserve_and_reclaim(make_host) -> None:
    """NOMEMALLOC and no reclaim for the large block, then the smallest order with the full mask."""
    host = make_host(free=1000, marks=MARKS)
    cache = host.slabs["kmalloc-4k"]

    async def body(task):
        return await cache.alloc(task, GFP_NOIO)

    slab = host.run(body, flags=PF_MEMALLOC)
    assert slab >= 0
    assert host.owned("slab:kmalloc-4k") == 1
    assert host.vmstat.allocstall["normal"] == 0


def test_a_request_that_may_not_block_keeps_its_rights_for_the_large_block(make_host) -> None:
    """GFP_NOWAIT under PF_MEMALLOC takes even the order-1 block out of the reserve, as the swap cache's nodes do."""
    host = make_host(free=1000, marks=MARKS)
    cache = host.slabs["radix_tree_node"]
    slab = cache.try_alloc(host.task(flags=PF_MEMALLOC), GFP_NOWAIT | GFP_NOWARN)
    assert host.frames.flags_of[slab] & PG_PFMEMALLOC
    assert host.owned("slab:radix_tree_node") == 2
    assert host.ledger.reserve_table() == {"slab:radix_tree_node": 2}


def test_nothing_comes_out_of_the_reserve_for_mempools(make_host) -> None:
    """NOMEMALLOC stops at min, whoever asks."""
    host = make_host(free=1000, marks=MARKS)
    cache = host.slabs["bio-160"]
    task = host.task(flags=PF_MEMALLOC)
    assert cache.try_alloc(task, GFP_NOWAIT | GFP_NOMEMALLOC | GFP_NOWARN) == -1
    assert cache.try_alloc(task, GFP_NOWAIT) >= 0


@pytest.mark.parametrize(("gfp", "counted"), [(GFP_ATOMIC, 1), (GFP_ATOMIC | GFP_NOWARN, 0)])
@pytest.mark.parametrize(("name", "order"), [("skbuff_head_cache", 0), ("kmalloc-1k", 0), ("kmalloc-4k", 0)])
def test_a_failure_is_reported_once_for_the_smallest_order(
    make_host, gfp: int, counted: int, name: str, order: int
) -> None:
    """The try for the large block is silent; the one that decides warns unless told not to."""
    host = make_host(free=10, marks=MARKS)
    assert host.slabs[name].try_alloc(host.task(), gfp) == -1
    assert sum(host.pages.failures.values()) == counted
    assert all(failed_order == order for _, failed_order, _ in host.pages.failures)


def test_an_order_0_cache_reclaims_once_as_asked(make_host) -> None:
    """The best order is the smallest: one attempt, with the mask of the request."""
    host = make_host(free=10, marks=MARKS)
    masks = []

    async def try_to_free_pages(task, order, gfp):
        masks.append(gfp)
        return 0

    host.vmscan.try_to_free_pages = try_to_free_pages
    cache = host.slabs["bio-160"]

    async def body(task):
        return await cache.alloc(task, GFP_NOIO | GFP_NORETRY)

    assert host.run(body) == -1
    assert masks == [GFP_NOIO | GFP_NORETRY]


# -- slabs from the reserve --------------------------------------------------------------------------------------------


def _with_reserve_slab(make_host, *, fix: bool = True, fast_path: bool = True, current: bool = False):
    """Return a host whose cache has a slab from the reserve with one free object, and its number."""
    host = make_host(free=1000, marks=MARKS, switches={"slab_pfmemalloc": fix, "slub_fast_path": fast_path})
    cache = host.slabs["bio-160"]
    slab = _objects(cache, host.task(flags=PF_MEMALLOC), 21)[0]
    assert host.frames.flags_of[slab] & PG_PFMEMALLOC
    if not current:
        # another slab takes its place; it is used up as well
        other = _objects(cache, host.task(flags=PF_MEMALLOC), 21)[0]
        assert other != slab
    cache.free(slab)
    return host, cache, slab


@pytest.mark.parametrize(
    ("fix", "flags", "gfp", "gets"),
    [
        (True, 0, GFP_ATOMIC | GFP_NOMEMALLOC, False),
        (True, 0, GFP_NOWAIT, False),
        (True, PF_MEMALLOC, GFP_NOWAIT | GFP_NOMEMALLOC, False),
        (True, PF_MEMALLOC, GFP_NOWAIT, True),
        (True, 0, GFP_ATOMIC | GFP_MEMALLOC, True),
        (False, 0, GFP_NOWAIT, True),
    ],
)
def test_partial_slabs_from_the_reserve_are_for_the_entitled(
    make_host, fix: bool, flags: int, gfp: int, gets: bool
) -> None:
    """Fix ``slab_pfmemalloc``: others must take a fresh slab; before 3.6 they ate the reserve object by object."""
    host, cache, slab = _with_reserve_slab(make_host, fix=fix)
    # so that nobody gets a fresh one
    host.zone.watermark[:] = [5000, 5000, 5000]
    found = cache.try_alloc(host.task(flags=flags), gfp | GFP_NOWARN)
    assert found == (slab if gets else -1)


@pytest.mark.parametrize(
    ("fix", "fast_path", "flags", "gets"),
    [
        (True, True, 0, True),
        (True, False, 0, False),
        (True, False, PF_MEMALLOC, True),
        (False, False, 0, True),
    ],
)
def test_the_current_slab_is_looked_at_off_the_fast_path_alone(
    make_host, fix: bool, fast_path: bool, flags: int, gets: bool
) -> None:
    """``slub_fast_path``: whose the CPU's slab is, is not asked since 3.6; before it, others left it to the entitled.

    Where slabs are not marked at all there is nothing to ask.
    """
    host, cache, slab = _with_reserve_slab(make_host, fix=fix, fast_path=fast_path, current=True)
    assert cache.nr_ready() == (1 if fast_path or not fix else 0)
    # so that nobody gets a fresh one
    host.zone.watermark[:] = [5000, 5000, 5000]
    task = host.task(flags=flags)
    assert cache.try_alloc(task, GFP_NOWAIT | GFP_NOWARN) == (slab if gets else -1)
    if not gets:
        # it lies with the partial ones now, where who is entitled finds it
        assert cache.take_many(task, GFP_NOWAIT, 1) == []
        assert cache.take_many(host.task(flags=PF_MEMALLOC), GFP_NOWAIT, 1) == [slab]
    host.audit()


def test_a_current_slab_without_objects_is_given_back_when_others_cannot_have_it(make_host) -> None:
    """Where enough partial slabs are there already, an empty one that leaves the CPU goes back to the allocator."""
    host, cache, slab = _with_reserve_slab(make_host, fast_path=False, current=True)
    cache.min_partial = 1
    for _ in range(20):
        cache.free(slab)
    host.zone.watermark[:] = [5000, 5000, 5000]
    assert cache.try_alloc(host.task(), GFP_NOWAIT | GFP_NOWARN) == -1
    assert cache.nr_slabs == 0
    host.audit()


def test_others_take_a_fresh_slab(make_host) -> None:
    """With memory above the marks an ordinary request gets its object from a new slab; the old one waits."""
    host, cache, slab = _with_reserve_slab(make_host)
    host.zone.watermark[:] = [10, 20, 30]
    fresh = cache.try_alloc(host.task(), GFP_NOWAIT)
    assert fresh not in (slab, -1)
    assert not host.frames.flags_of[fresh] & PG_PFMEMALLOC
    assert cache.nr_slabs == 3


def test_objects_ready_do_not_include_the_reserves(make_host) -> None:
    """What can be counted on is what anybody may take."""
    host, cache, slab = _with_reserve_slab(make_host)
    assert cache.free_objects() == 1
    assert cache.nr_ready() == 0
    assert cache.take_many(host.task(), GFP_NOWAIT, 1) == []
    assert cache.take_many(host.task(flags=PF_MEMALLOC), GFP_NOWAIT, 1) == [slab]


# -- at random ---------------------------------------------------------------------------------------------------------


def _machine(make_host, *, fast_path: bool):
    class SlabMachine(RuleBasedStateMachine):
        """Objects of two caches come and go while memory is sometimes short."""

        def __init__(self):
            super().__init__()
            switches = {"slub_fast_path": fast_path}
            self.host = make_host(zones=(("DMA32", 256),), marks=(30, 40, 50), batch=3, high=12, switches=switches)
            self.caches = [self.host.slabs["bio-160"], self.host.slabs["kmalloc-1k"]]
            self.held = [[], []]
            self.blocks = []

        @rule(which=st.integers(0, 1), nr=st.integers(1, 40), flags=st.sampled_from([0, PF_MEMALLOC]))
        def allocate(self, which, nr, flags):
            """Take some; they fail only when no page is to be had."""
            task = self.host.task(flags=flags)
            for _ in range(nr):
                slab = self.caches[which].try_alloc(task, GFP_NOWAIT | GFP_NOWARN)
                if slab >= 0:
                    self.held[which].append(slab)
                else:
                    assert self.host.zone.nr_free <= (0 if flags else 40)

        @rule(which=st.integers(0, 1), nr=st.integers(1, 40))
        def allocate_ready(self, which, nr):
            """Take what is there."""
            before = self.caches[which].nr_slabs
            taken = self.caches[which].take_many(self.host.task(), GFP_NOWAIT, nr)
            assert len(taken) <= nr
            assert self.caches[which].nr_slabs == before
            self.held[which] += taken

        @precondition(lambda self: self.held[0] or self.held[1])
        @rule(data=st.data(), nr=st.integers(1, 40))
        def free(self, data, nr):
            """Give some back."""
            which = data.draw(st.sampled_from([i for i in (0, 1) if self.held[i]]))
            for _ in range(min(nr, len(self.held[which]))):
                at = data.draw(st.integers(0, len(self.held[which]) - 1))
                self.caches[which].free(self.held[which].pop(at))

        @rule(nr=st.integers(1, 60))
        def take_memory(self, nr):
            """Somebody else uses pages."""
            self.blocks += [pfn for pfn in (self.host.alloc() for _ in range(nr)) if pfn >= 0]

        @rule()
        def give_memory(self):
            """And gives them back."""
            for pfn in self.blocks:
                self.host.pages.free_pages(pfn, 0)
            self.blocks = []

        @invariant()
        def objects_add_up(self):
            """Used and free objects fill the slabs, and the slabs are the cache's pages."""
            for cache, held in zip(self.caches, self.held, strict=True):
                assert cache.nr_active == len(held)
                assert len(cache.slabs()) == cache.nr_slabs
                assert set(held) <= set(cache.slabs())
                per_slab = {slab: held.count(slab) + free for slab, free in cache.slabs().items()}
                assert set(per_slab.values()) <= {21, 8, 4}
            self.host.audit()

    return SlabMachine


@pytest.mark.parametrize("examples", [12, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fast_path", [True, False])
def test_slabs_against_lists_of_objects(make_host, examples: int, fast_path: bool) -> None:
    """However objects come and go, none is lost and every slab's page has its owner."""
    run_state_machine_as_test(
        _machine(make_host, fast_path=fast_path),
        settings=settings(max_examples=examples, stateful_step_count=20, deadline=None),
    )
