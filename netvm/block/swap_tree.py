"""The tree behind the swap cache: memory that swapping out takes itself.

Mirrors the xarray of ``swapper_spaces`` (mm/swap_state.c, lib/xarray.c) as far as memory goes: one ``radix_tree_node``
object for 64 slots, kept while it holds a page or a shadow entry. The levels above the leaves are left out.
"""

from typing import Final

from netvm.mm.gfp import GFP_NOWAIT, GFP_NOWARN
from netvm.mm.slab import SlabCache
from netvm.runtime.task import Task

__all__ = ["XA_CHUNK_SHIFT", "SwapTree"]

XA_CHUNK_SHIFT: Final = 6


class SwapTree:
    """Leaf nodes by number, each with its slab page and how many entries it holds."""

    __slots__ = ("_entries", "_radix_nodes", "_slab")

    def __init__(self, radix_nodes: SlabCache) -> None:
        self._radix_nodes = radix_nodes
        self._entries: dict[int, int] = {}
        self._slab: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slab)

    def has_node_for(self, slot: int) -> bool:
        """Whether the node of a slot is there."""
        return slot >> XA_CHUNK_SHIFT in self._slab

    def try_node_for(self, task: Task, slot: int, gfp: int) -> bool:
        """Make sure there is a tree node for a slot: first out of whatever reserve is open, then with the mask."""
        node = slot >> XA_CHUNK_SHIFT
        if node in self._slab:
            return True
        slab = self._radix_nodes.try_alloc(task, GFP_NOWAIT | GFP_NOWARN)
        if slab < 0:
            slab = self._radix_nodes.try_alloc(task, gfp | GFP_NOWARN)
            if slab < 0:
                return False
        self._slab[node] = slab
        self._entries[node] = 0
        return True

    def add(self, slot: int) -> None:
        """Count an entry in a slot's node."""
        self._entries[slot >> XA_CHUNK_SHIFT] += 1

    def add_run(self, slot: int, nr: int) -> None:
        """Count so many entries from a slot on."""
        while nr:
            in_node = min(nr, (1 << XA_CHUNK_SHIFT) - slot % (1 << XA_CHUNK_SHIFT))
            self._entries[slot >> XA_CHUNK_SHIFT] += in_node
            slot += in_node
            nr -= in_node

    def delete(self, slot: int) -> None:
        """Take an entry out of a slot's node; the last one frees the node."""
        node = slot >> XA_CHUNK_SHIFT
        self._entries[node] -= 1
        if not self._entries[node]:
            del self._entries[node]
            self._radix_nodes.free(self._slab.pop(node))
