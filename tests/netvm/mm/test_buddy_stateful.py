"""The buddy allocator against the dumbest model: the set of frames that somebody holds.

The properties of whole runs are here too: many pages at once are the pages that as many single requests get.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from netvm.mm.gfp import ALLOC_HIGHATOMIC, ALLOC_KSWAPD, ALLOC_NON_BLOCK, ALLOC_OOM
from netvm.mm.pageblock import FALLBACKS
from netvm.mm.zone import HIGHATOMIC, MAX_ORDER, MOVABLE, NR_MIGRATETYPES, NR_PCPTYPES, RECLAIMABLE, UNMOVABLE

P = 1024
NR_FRAMES = 600
TYPES = st.sampled_from([UNMOVABLE, MOVABLE, RECLAIMABLE])
ORDERS = st.one_of(st.integers(0, 3), st.integers(0, 6))
FLAGS = st.sampled_from([0, ALLOC_KSWAPD, ALLOC_NON_BLOCK, ALLOC_OOM, ALLOC_HIGHATOMIC | ALLOC_NON_BLOCK])


def _machine(make_host):
    class BuddyMachine(RuleBasedStateMachine):
        """Take, give back, drain and reserve in any order, on a zone whose ends are not aligned."""

        def __init__(self):
            super().__init__()
            self.host = make_host(
                zones=(("DMA32", NR_FRAMES),),
                pageblock_order=5,
                batch=3,
                high=24,
                marks=(20, 25, 30),
                boost_factor=15000,
            )
            self.held = {}
            self.reserved = set()
            """Pageblocks that are or were HIGHATOMIC: pages wait on per-cpu lists while theirs is given up."""
            self.host.buddy.boosted = lambda zone: None

        def _could_serve(self, order, kind, flags):
            """Whether some list that the request may use has a block large enough."""
            zone = self.host.zone
            kinds = [kind, *FALLBACKS[kind]]
            if flags & (ALLOC_HIGHATOMIC | ALLOC_OOM | ALLOC_NON_BLOCK):
                kinds.append(HIGHATOMIC)
            found = any(zone.free_lists[o][k] for o in range(order, MAX_ORDER + 1) for k in kinds)
            return found or (order <= 3 and bool(zone.pcp[0].lists[order * NR_PCPTYPES + kind]))

        @rule(order=ORDERS, kind=TYPES, flags=FLAGS)
        def take(self, order, kind, flags):
            """A request gets a block that nobody holds, and fails only if no list it may use has one."""
            if not 0 < order < 5:
                # no high-order atomic request is as large as a pageblock
                flags &= ~ALLOC_HIGHATOMIC
            could = self._could_serve(order, kind, flags)
            pfn = self.host.alloc(order, kind, flags)
            assert (pfn >= 0) == could
            if pfn < 0:
                return
            assert pfn % (1 << order) == 0
            assert self.host.zone.start_pfn <= pfn <= self.host.zone.end_pfn - (1 << order)
            frames = set(range(pfn, pfn + (1 << order)))
            assert not any(frames & set(range(p, p + (1 << o))) for p, o in self.held.items())
            self.held[pfn] = order
            if flags & ALLOC_HIGHATOMIC:
                self.host.buddy.pageblocks.reserve_highatomic_pageblock(self.host.zone, pfn)

        @rule(order=st.integers(0, 1), kind=TYPES, nr=st.integers(2, 40))
        def take_many(self, order, kind, nr):
            """Many small ones: the quickest way to break up pageblocks."""
            for _ in range(nr):
                self.take(order, kind, ALLOC_KSWAPD)

        @precondition(lambda self: self.held)
        @rule(data=st.data())
        def give_back(self, data):
            """Free any block."""
            pfn = data.draw(st.sampled_from(sorted(self.held)))
            self.host.pages.free_pages(pfn, self.held.pop(pfn))

        @precondition(lambda self: self.held)
        @rule(data=st.data(), every=st.integers(1, 3))
        def give_many_back(self, data, every):
            """Free every so-manyth block, from the bottom or from the top."""
            order = sorted(self.held, reverse=data.draw(st.booleans()))
            for pfn in order[::every]:
                self.host.pages.free_pages(pfn, self.held.pop(pfn))

        @precondition(lambda self: any(not order for order in self.held.values()))
        @rule()
        def give_singles_back_as_a_list(self):
            """Free all single pages as reclaim does."""
            pages = [pfn for pfn, order in self.held.items() if not order]
            for pfn in pages:
                del self.held[pfn]
            self.host.frames.owner[pages] = 1
            self.host.pages.free_singles(pages, self.host.owner_test, 0)

        @rule(active=st.booleans())
        def balance(self, active):
            """Kswapd begins or ends a run: per-cpu lists are short meanwhile."""
            self.host.zone.reclaim_active = active

        @rule()
        def drain(self):
            """Empty the per-cpu lists."""
            self.host.buddy.drain_all_pages(self.host.node.zones)
            assert self.host.nr_pcp == 0

        @rule(kind=TYPES, force=st.booleans())
        def unreserve(self, kind, force):
            """Give a HIGHATOMIC pageblock up, if there is one to give."""
            zone = self.host.zone
            before = zone.nr_reserved_highatomic
            moved = self.host.buddy.pageblocks.unreserve_highatomic_pageblock(self.host.node.zones, kind, force=force)
            assert not (moved and not force and before <= 32)
            given_up = before - zone.nr_reserved_highatomic
            assert given_up in (0, 32) or (given_up == 64 and NR_FRAMES // 32 in self.reserved), "one, but for the last"
            assert zone.nr_reserved_highatomic >= 0

        @invariant()
        def everything_adds_up(self):
            """Free lists, counters and frame marks agree, and no page is lost or made."""
            host = self.host
            host.audit()
            nr_held = sum(1 << order for order in self.held.values())
            assert host.zone.nr_free + host.nr_pcp + nr_held == NR_FRAMES
            assert host.owned("test") == nr_held

        @invariant()
        def the_reserve_is_what_pageblocks_say(self):
            """The counter covers the HIGHATOMIC pageblocks, within the cap; what is on their list is from one, or was.

            It may be more than they are: a page that waited on a per-cpu list while its pageblock became HIGHATOMIC is
            freed as what it was, and the block it merges into may be stolen whole, with the pageblock and without the
            counter. The kernel does the same.
            """
            zone = self.host.zone
            types = [zone.pageblock_type(pfn) for pfn in range(P, P + NR_FRAMES, 32)]
            assert 32 * types.count(HIGHATOMIC) <= zone.nr_reserved_highatomic <= NR_FRAMES // 100 + 32 + 31
            self.reserved |= {i for i, kind in enumerate(types) if kind == HIGHATOMIC}
            for lists in zone.free_lists:
                assert all((pfn - P) // 32 in self.reserved for pfn in lists[HIGHATOMIC])

        @invariant()
        def the_boost_is_capped(self):
            """No more than a pageblock or 150 % of high."""
            assert self.host.zone.watermark_boost in (0, 32, 45)

        def teardown(self):
            """Give everything back: the zone is whole again."""
            host = self.host
            for pfn, order in self.held.items():
                host.pages.free_pages(pfn, order)
            host.buddy.drain_all_pages(host.node.zones)
            while host.buddy.pageblocks.unreserve_highatomic_pageblock(host.node.zones, MOVABLE, force=True):
                pass
            assert host.zone.nr_free == NR_FRAMES

    return BuddyMachine


@pytest.mark.parametrize("examples", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_buddy_against_a_set_of_frames(make_host, examples: int) -> None:
    """Whatever is done in whatever order, every frame has one place."""
    run_state_machine_as_test(
        _machine(make_host), settings=settings(max_examples=examples, stateful_step_count=25, deadline=None)
    )


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "give", "drain"]), st.integers(0, 5), TYPES, st.integers(1, 40)), max_size=12
)


def _worn(make_host, steps: list, *, batch: int):
    """Return a host whose free lists have been through the same things as any other made from these steps."""
    host = make_host(zones=(("DMA32", NR_FRAMES),), batch=batch, high=8 * batch, marks=(20, 30, 40))
    held: list[tuple[int, int]] = []
    for what, order, kind, nr in steps:
        if what == "take":
            for _ in range(nr if not order else 1):
                pfn = host.alloc(order, kind)
                if pfn >= 0:
                    held.append((pfn, order))
        elif what == "give":
            for pfn, block in held[: nr : 1 + order]:
                host.pages.free_pages(pfn, block)
            del held[: nr : 1 + order]
        else:
            host.buddy.drain_all_pages(host.node.zones)
    return host


@given(steps=STEPS, kind=TYPES, sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_run_is_what_single_requests_get(make_host, steps: list, kind: int, sizes: list[int]) -> None:
    """``take_run`` gives the frames that as many requests of order 0 get one by one, and leaves the same lists."""
    many, single = (_worn(make_host, steps, batch=1) for _ in range(2))
    for host in (many, single):
        host.buddy.drain_all_pages(host.node.zones)
    taken = []
    for size in sizes:
        run = many.buddy.take_run(many.zone, size, kind)
        if run is None:
            break
        assert len(run) <= size
        taken += run
    own_type = sum(len(single.blocks(order, kind)) << order for order in range(MAX_ORDER + 1))
    assert len(taken) <= own_type
    assert [single.alloc(0, kind) for _ in taken] == taken
    assert [many.blocks(order, k) for order in range(MAX_ORDER + 1) for k in range(NR_MIGRATETYPES)] == [
        single.blocks(order, k) for order in range(MAX_ORDER + 1) for k in range(NR_MIGRATETYPES)
    ]
