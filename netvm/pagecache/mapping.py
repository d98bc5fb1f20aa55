"""An address space: one file's pages in memory, by index, with their tags.

Mirrors ``struct address_space`` and what of ``struct inode`` writeback needs. A file is a run of page indices; the
cache is columns over them instead of a tree: the frame, the tags (dirty, under writeback, and towrite for a sync that
must not chase a writer), the shadow entry of an evicted page, and the bits of a shared mapping's PTEs. The tree's nodes
still take memory, one for 64 indices, kept while one of them has a page or a shadow (:attr:`Mapping.nodes`).

Content is a version number: ``version`` is what a program last wrote to a page (it stays when the page is evicted, for
that is what a read must bring back), ``stored`` the newest version that the storage has acknowledged for good.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from netvm.mm.frames import grown, is_blank, scalar_view
from netvm.runtime.wait import Semaphore
from netvm.runtime.world import World

if TYPE_CHECKING:
    from netvm.pagecache.ports import FileSystem

__all__ = ["NODE_SHIFT", "TAG_DIRTY", "TAG_TOWRITE", "TAG_WRITEBACK", "Mapping"]

TAG_DIRTY: Final = 1
TAG_WRITEBACK: Final = 2
TAG_TOWRITE: Final = 4
NODE_SHIFT: Final = 6
"""XA_CHUNK_SHIFT: 64 entries a node."""

_MIN_PAGES: Final = 64
_FAR_PAGES: Final = 1 << 16
"""From so far on the tree's nodes are looked at for the next page, instead of the pages."""
_NODES_AT_ONCE: Final = 1 << 16


class Mapping:
    """One file in the page cache."""

    __slots__ = (
        "dirtied_when_ns",
        "fs",
        "i_rwsem",
        "id",
        "io_list",
        "lost",
        "name",
        "node_entries",
        "node_slab",
        "nofs_writes",
        "nr_cached",
        "nr_dirty",
        "nr_mapped",
        "nr_pages",
        "nr_reached",
        "nr_writeback",
        "pfn",
        "pfn_of",
        "private",
        "pte",
        "shadow",
        "stored",
        "syncing",
        "tags",
        "tags_of",
        "version",
        "wb_err",
        "wb_errno",
        "writeback_index",
    )

    def __init__(self, mapping_id: int, name: str, fs: "FileSystem", world: World, nr_pages: int = 0) -> None:
        assert mapping_id > 0
        self.id = mapping_id
        self.name = name
        self.fs = fs
        self.i_rwsem = Semaphore(world, f"i_rwsem: {name}")
        """The inode's lock, which write(2) holds from its first page to its last."""
        self.nr_pages = nr_pages
        """i_size in pages."""
        self.nr_reached = 0
        """Pages up to the last that was ever cached: there are no tags beyond, however long the file is."""
        capacity = max(nr_pages, _MIN_PAGES)
        self.pfn: npt.NDArray[np.int32] = np.zeros(capacity, dtype=np.int32)
        """Frame + 1 of each cached page."""
        self.tags: npt.NDArray[np.uint8] = np.zeros(capacity, dtype=np.uint8)
        self.version: npt.NDArray[np.int64] = np.zeros(capacity, dtype=np.int64)
        self.stored: npt.NDArray[np.int64] = np.zeros(capacity, dtype=np.int64)
        self.shadow: npt.NDArray[np.int64] = np.zeros(capacity, dtype=np.int64)
        """Eviction time * 2 + workingset bit, + 2; 0 for none."""
        self.pte: npt.NDArray[np.uint8] = np.zeros(capacity, dtype=np.uint8)
        """``PTE_*`` bits and :data:`netvm.pagecache.filemap.PTE_PRESENT` of the file's shared mapping."""
        self.lost: npt.NDArray[np.bool_] = np.zeros(capacity, dtype=np.bool_)
        """Content that a failed write has lost: the page was clean afterwards, and then gone."""
        self.node_entries: npt.NDArray[np.int32] = np.zeros((capacity >> NODE_SHIFT) + 1, dtype=np.int32)
        self.node_slab: dict[int, int] = {}
        self.pfn_of = scalar_view(self.pfn)
        self.tags_of = scalar_view(self.tags)
        self.nofs_writes = False
        """Pages for write(2) are taken where the file system may not be entered (AOP_FLAG_NOFS)."""
        self.nr_cached = 0
        self.nr_dirty = 0
        self.nr_writeback = 0
        self.nr_mapped = 0
        self.writeback_index = 0
        self.dirtied_when_ns = 0
        self.io_list = ""
        """Which of its flusher's lists it is on: ``b_dirty``, ``b_io``, ``b_more_io`` or none."""
        self.syncing = False
        """I_SYNC: somebody writes it back."""
        self.wb_err = 0
        """errseq: errors of writeback so far; whoever has seen fewer is told at fsync."""
        self.wb_errno = 0
        """The latest of them, a negative errno: ENOSPC, or EIO for whatever else."""
        self.private: object = None
        """The file system's own."""

    def __repr__(self) -> str:
        return f"<{self.name}: {self.nr_cached} cached, {self.nr_dirty} dirty, {self.nr_writeback} writeback>"

    def extend(self, nr_pages: int) -> None:
        """Make the file at least this long (i_size_write)."""
        self.nr_pages = max(self.nr_pages, nr_pages)
        if nr_pages > self.capacity_pages:
            self._grow(max(nr_pages, 2 * self.capacity_pages))

    def reserve(self, nr_pages: int) -> None:
        """Have room for a file of this length, of which the pages that are used will take memory."""
        if nr_pages > self.capacity_pages:
            self._grow(nr_pages)

    @property
    def capacity_pages(self) -> int:
        """How long the file may be without another look for room."""
        return len(self.pfn)

    def _grow(self, capacity: int) -> None:
        for column in ("pfn", "tags", "version", "stored", "shadow", "pte", "lost"):
            setattr(self, column, grown(getattr(self, column), capacity))
        self.node_entries = grown(self.node_entries, (capacity >> NODE_SHIFT) + 1)
        self.pfn_of = scalar_view(self.pfn)
        self.tags_of = scalar_view(self.tags)

    def tagged(self, tag: int, start: int, end: int) -> npt.NDArray[np.intp]:
        """Return the indices in ``[start, end)`` that carry a tag, in order."""
        end = min(end, self.nr_reached)
        if start >= end:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero(self.tags[start:end] & np.uint8(tag)) + start

    def _next_node(self, start: int, end: int) -> int:
        """Return the first index in ``[start, end)`` whose node of the tree has an entry; ``end`` if none has."""
        node, last = start >> NODE_SHIFT, end - 1 >> NODE_SHIFT
        while node <= last:
            part = self.node_entries[node : min(node + _NODES_AT_ONCE, last + 1)]
            if part.any():
                return max(start, node + int((part != 0).argmax()) << NODE_SHIFT)
            node += len(part)
        return end

    def first_tagged(self, tag: int, start: int, end: int, limit: int) -> tuple[int, int]:
        """Return the first run of consecutive pages that carry a tag, as ``(index, pages)``; pages 0 if there is none.

        At most ``limit`` pages.
        """
        end = min(end, self.nr_reached)
        window = 2048
        bit = np.uint8(tag)
        while start < end:
            stop = min(end, start + window)
            if is_blank(self.tags[start:stop]):
                start = stop if end - stop < _FAR_PAGES else self._next_node(stop, end)
                continue
            hits = self.tags[start:stop] & bit
            first = int(hits.argmax())
            if not hits[first]:
                start = stop
                continue
            rest = hits[first : first + limit]
            gap = int((rest == 0).argmax())
            return start + first, gap or len(rest)
        return start, 0
