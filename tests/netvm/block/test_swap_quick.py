"""New pages on their way to swap: what is at hand, and what it takes."""

import pytest

from netvm.mm.frames import PG_DIRTY, PG_LOCKED, PG_RECLAIM, PG_SWAPCACHE, PG_WRITEBACK
from netvm.mm.gfp import GFP_NOWAIT


async def _primed(host, task):
    """Return a plug with a request of one page, after which a CPU's cache has slots and the tree a node for them."""
    space = await host.mapped(task, 64, young=False)
    pages = (space.pte - 1).tolist()
    plug = host.swap.start_plug(task)
    assert host.swap.quick.look(task, plug, 32) == (0, 0)
    assert host.swap.add_to_swap(task, pages[:1]) == 1
    for pfn in pages[:1]:
        host.frames.flags_of[pfn] |= PG_LOCKED
    await host.swap.swap_writepages(task, pages[:1], plug)
    return plug, pages


def test_pages_that_continue_a_request_join_it(make_host) -> None:
    """They are clean, under writeback, in the swap cache and in the request, and one page table holds each slot."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task):
        plug, pages = await _primed(host, task)
        nr_at_hand, nr_merging = host.swap.quick.look(task, plug, 12)
        assert nr_at_hand == nr_merging == 12
        first = host.swap.quick.write(task, plug, pages[1:13], list(range(101, 113)))
        (rq,) = plug.requests
        assert rq.pfns == pages[:13]
        assert rq.versions[1:] == list(range(101, 113))
        assert len(rq.bios) == 13
        assert first == rq.slot + 1
        for slot, pfn in enumerate(pages[1:13], first):
            flags = host.frames.flags_of[pfn]
            assert flags & (PG_SWAPCACHE | PG_WRITEBACK | PG_RECLAIM) == PG_SWAPCACHE | PG_WRITEBACK | PG_RECLAIM
            assert not flags & (PG_DIRTY | PG_LOCKED)
            assert host.frames.swap_of[pfn] == slot + 1
            assert host.swap.cache[slot] == pfn + 1
            assert host.swap.count[slot] == 1
        assert host.vmstat.pswpout == host.vmstat.nr_writeback == 13
        assert host.vmstat.nr_swapcached == 13

    host.run(body)


@pytest.mark.parametrize("short_of", ["bios", "room", "node"])
def test_what_is_not_at_hand_is_the_bound(make_host, short_of: str) -> None:
    """No more pages go quickly than there are bios, tree nodes for their slots, and room in the request to merge."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3), max_pages=4 if short_of == "room" else 32)

    async def body(task):
        plug, _pages = await _primed(host, task)
        if short_of == "bios":
            while host.bios.nr_ready() > 3:
                host.bios.take_many(task, GFP_NOWAIT, 1)
            assert host.swap.quick.look(task, plug, 32) == (3, 3)
            host.bios.take_many(task, GFP_NOWAIT, 3)
            assert host.swap.quick.look(task, plug, 32) == (0, 0)
        elif short_of == "room":
            assert host.swap.quick.look(task, plug, 12) == (12, 3)
        else:
            slot, _ = host.swap.slots.upcoming(1)
            assert host.swap.quick.look(task, plug, 12)[0] == 12
            host.swap.tree.delete(slot - 1)
            assert host.swap.quick.look(task, plug, 12) == (0, 0)

    host.run(body)
