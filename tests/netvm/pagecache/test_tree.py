"""The nodes of a file's tree: one for 64 places, made with the first entry, freed with the last."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.mm.gfp import GFP_NOWAIT
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.tree import PageTree
from netvm.runtime.task import Task


class _Slab:
    """A slab that counts its objects, and may be empty."""

    def __init__(self, limit: int = 1000) -> None:
        self.nr_out = 0
        self.limit = limit

    def try_alloc(self, _task: Task, _gfp: int) -> int:
        if self.nr_out >= self.limit:
            return -1
        self.nr_out += 1
        return self.nr_out

    def free(self, _slab: int) -> None:
        self.nr_out -= 1


def _tree(limit: int = 1000) -> tuple[PageTree, Any, Mapping]:
    slab: Any = _Slab(limit)
    nothing: Any = None
    return PageTree(slab), slab, Mapping(1, "file", nothing, nothing, 1000)


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(1, 90)), max_size=8), st.sets(st.integers(0, 989)))
def test_a_node_lives_as_long_as_one_of_its_places_is_taken(runs: list[tuple[int, int]], gone: set[int]) -> None:
    """However pages come and go, the nodes are those of the places that are taken, and each counts its own."""
    tree, slab, mapping = _tree()
    task: Any = None
    taken: set[int] = set()
    for index, nr in runs:
        new = [i for i in range(index, index + nr) if i not in taken]
        for i in new:
            assert tree.get(task, mapping, i, GFP_NOWAIT)
            tree.count_new(mapping, i, 1)
        taken.update(new)
    leave = sorted(taken & gone)
    tree.put_entries(mapping, np.array(leave, dtype=np.intp), -1)
    taken -= gone
    nodes = {i // 64 for i in taken}
    assert set(mapping.node_slab) == nodes
    assert slab.nr_out == len(nodes)
    assert all(mapping.node_entries[n] == sum(i // 64 == n for i in taken) for n in range(16))


@pytest.mark.parametrize(("index", "nr", "entries"), [(60, 10, [4, 6, 0]), (64, 64, [0, 64, 0]), (0, 130, [64, 64, 2])])
def test_a_run_counts_in_each_node_it_touches(index: int, nr: int, entries: list[int]) -> None:
    """A run that crosses nodes counts its part in each."""
    tree, _slab, mapping = _tree()
    tree.count_new(mapping, index, nr)
    assert mapping.node_entries[:3].tolist() == entries


def test_nodes_without_entries_are_trimmed() -> None:
    """A node that was made for pages that did not come is given back; one with entries stays."""
    tree, slab, mapping = _tree(limit=2)
    task: Any = None
    assert tree.get(task, mapping, 0, GFP_NOWAIT)
    assert tree.get(task, mapping, 64, GFP_NOWAIT)
    assert not tree.get(task, mapping, 128, GFP_NOWAIT), "no memory"
    tree.count_new(mapping, 0, 1)
    tree.trim(mapping, 0, 191)
    assert set(mapping.node_slab) == {0}
    assert slab.nr_out == 1
