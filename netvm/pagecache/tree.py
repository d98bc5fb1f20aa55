"""The memory that a file's page tree takes: one node for 64 indices.

Mirrors lib/xarray.c as far as it allocates. The tree itself is columns (:mod:`netvm.pagecache.mapping`); what is kept
here is which nodes there would be. A node is made for the first page or shadow entry of its 64 places and freed with
the last. It comes from the slab ``radix_tree_node``: without sleeping if it can (the tree is locked), else outside the
lock and with the mask's full patience (``xas_nomem``).
"""

import numpy as np
import numpy.typing as npt

from netvm.mm.gfp import GFP_FS, GFP_IO, GFP_NOWAIT, GFP_NOWARN, GFP_RECLAIM
from netvm.mm.slab import SlabCache
from netvm.pagecache.mapping import NODE_SHIFT, Mapping
from netvm.runtime.task import Task

__all__ = ["PageTree"]


class PageTree:
    """The nodes of all files of a host."""

    __slots__ = ("_radix_nodes",)

    def __init__(self, radix_nodes: SlabCache) -> None:
        self._radix_nodes = radix_nodes

    def get(self, task: Task, mapping: Mapping, index: int, gfp: int) -> bool:
        """Make sure there is a node for an index, without sleeping."""
        node = index >> NODE_SHIFT
        if node in mapping.node_slab:
            return True
        slab = self._radix_nodes.try_alloc(task, gfp | GFP_NOWARN)
        if slab < 0:
            return False
        mapping.node_slab[node] = slab
        return True

    async def get_for_sure(self, task: Task, mapping: Mapping, index: int) -> bool:
        """Make sure there is a node for an index, sleeping for memory if need be (xas_nomem)."""
        if self.get(task, mapping, index, GFP_NOWAIT):
            return True
        slab = await self._radix_nodes.alloc(task, GFP_RECLAIM | GFP_IO | GFP_FS)
        if slab < 0:
            return False
        node = index >> NODE_SHIFT
        if node in mapping.node_slab:
            self._radix_nodes.free(slab)
        else:
            mapping.node_slab[node] = slab
        return True

    @staticmethod
    def count_new(mapping: Mapping, index: int, nr_pages: int) -> None:
        """Count the entries of a run of places that were empty."""
        end = index + nr_pages
        mapping.nr_reached = max(mapping.nr_reached, end)
        while index < end:
            stop = min(end, ((index >> NODE_SHIFT) + 1) << NODE_SHIFT)
            mapping.node_entries[index >> NODE_SHIFT] += stop - index
            index = stop

    def put_entries(self, mapping: Mapping, indices: npt.NDArray[np.intp], nr: int) -> None:
        """Count entries of nodes up or down; a node without any is freed."""
        nodes, counts = np.unique(indices >> NODE_SHIFT, return_counts=True)
        for node, count in zip(nodes.tolist(), counts.tolist(), strict=True):
            left = int(mapping.node_entries[node]) + nr * count
            mapping.node_entries[node] = left
            assert left >= 0
            if not left:
                self._radix_nodes.free(mapping.node_slab.pop(node))

    def trim(self, mapping: Mapping, start: int, end: int) -> None:
        """Give back nodes that were made for pages that did not come."""
        for node in range(start >> NODE_SHIFT, (end >> NODE_SHIFT) + 1):
            if node in mapping.node_slab and not mapping.node_entries[node]:
                self._radix_nodes.free(mapping.node_slab.pop(node))
