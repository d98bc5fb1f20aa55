"""The swap cache's tree takes one object for 64 slots and gives it back."""

from netvm.block.swap_tree import SwapTree
from netvm.mm.gfp import GFP_NOWAIT, PF_MEMALLOC


def test_node_serves_64_slots_and_goes_with_its_last_entry(make_host) -> None:
    """Entries are counted; an empty node is freed at once."""
    host = make_host()
    cache = host.slabs["radix_tree_node"]
    tree = SwapTree(cache)
    for slot in (64, 100, 127):
        assert tree.try_node_for(host.softirq, slot, GFP_NOWAIT)
        tree.add(slot)
    assert (len(tree), cache.nr_active) == (1, 1)
    assert tree.try_node_for(host.softirq, 128, GFP_NOWAIT)
    tree.add(128)
    assert (len(tree), cache.nr_active) == (2, 2)
    for slot in (100, 64, 127, 128):
        tree.delete(slot)
    assert (len(tree), cache.nr_active) == (0, 0)


def test_node_comes_from_the_reserve_where_that_is_open(make_host) -> None:
    """A reclaimer's first try has the whole reserve; who has none is refused below min."""
    host = make_host(marks=(4000, 4100, 4200))
    tree = SwapTree(host.slabs["radix_tree_node"])
    assert not tree.try_node_for(host.task(), 1, GFP_NOWAIT)
    assert len(tree) == 0
    assert tree.try_node_for(host.task(flags=PF_MEMALLOC), 1, GFP_NOWAIT)
    assert tree.try_node_for(host.task(), 2, GFP_NOWAIT), "the node is there"


def test_a_run_of_entries_is_counted_in_each_of_its_nodes(make_host) -> None:
    """Entries from 120 to 199 lie in three nodes, each of which goes with the last of its own."""
    host = make_host()
    tree = SwapTree(host.slabs["radix_tree_node"])
    for slot in (120, 128, 192):
        assert not tree.has_node_for(slot)
        assert tree.try_node_for(host.softirq, slot, GFP_NOWAIT)
        assert tree.has_node_for(slot)
    tree.add_run(120, 80)
    for slot in range(120, 200):
        assert tree.has_node_for(slot)
        tree.delete(slot)
    assert len(tree) == 0
