"""What must always be true of the page cache: its columns, its counters and the frames say the same.

Like :mod:`netvm.mm.invariants`: pure checks, run at quiet points; a failed one is a bug of ours.
"""

import numpy as np

from netvm.mm.frames import PG_DIRTY, PG_LRU, PG_WRITEBACK
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.mapping import NODE_SHIFT, TAG_DIRTY, TAG_WRITEBACK, Mapping

__all__ = ["audit_pagecache", "check_mapping", "check_pagecache"]

_U8 = np.uint8
_U16 = np.uint16


def check_mapping(cache: PageCache, mapping: Mapping) -> None:
    """A file and the frames of its pages point at each other, and tags, flags and counters agree."""
    frames = cache.frames
    reached = mapping.nr_reached
    indices = np.flatnonzero(mapping.pfn[:reached])
    pfns = (mapping.pfn[indices] - 1).astype(np.intp)
    assert len(indices) == mapping.nr_cached, f"{mapping.name}: {len(indices)} pages, counts {mapping.nr_cached}"
    assert (frames.mapping[pfns] == -mapping.id).all(), f"{mapping.name}: a page's frame belongs to somebody else"
    assert (frames.index[pfns] == indices + 1).all(), f"{mapping.name}: a page's frame has another index"
    for tag, flag, counted in (
        (TAG_DIRTY, PG_DIRTY, mapping.nr_dirty),
        (TAG_WRITEBACK, PG_WRITEBACK, mapping.nr_writeback),
    ):
        tagged = np.flatnonzero(mapping.tags[:reached] & _U8(tag))
        assert len(tagged) == counted, f"{mapping.name}: {len(tagged)} pages carry tag {tag}, counts {counted}"
        flagged = indices[frames.flags[pfns] & _U16(flag) != 0]
        assert flagged.tolist() == tagged.tolist(), f"{mapping.name}: tag {tag} and flag differ"
    entries = np.flatnonzero((mapping.pfn[:reached] != 0) | (mapping.shadow[:reached] != 0))
    nodes, counts = np.unique(entries >> NODE_SHIFT, return_counts=True)
    assert set(nodes.tolist()) == set(mapping.node_slab), f"{mapping.name}: nodes without entries, or none for some"
    assert (mapping.node_entries[nodes] == counts).all(), f"{mapping.name}: a node counts other entries"
    on_list = bool(mapping.io_list)
    assert on_list or mapping.syncing or not mapping.nr_dirty, f"{mapping.name}: dirty, and on no flusher list"


def check_pagecache(cache: PageCache) -> None:
    """All files together have the host's file pages, and reclaim can find each."""
    for mapping in cache.mappings.values():
        check_mapping(cache, mapping)
    frames, vmstat = cache.frames, cache.vmstat
    files = np.flatnonzero(frames.mapping < 0)
    cached = sum(mapping.nr_cached for mapping in cache.mappings.values())
    assert len(files) == cached, f"{len(files)} frames say that they are a file's, {cached} are in files"
    dirty = sum(mapping.nr_dirty for mapping in cache.mappings.values())
    assert dirty == vmstat.nr_dirty, f"{dirty} pages are dirty, nr_dirty is {vmstat.nr_dirty}"
    off_lists = files[frames.flags[files] & _U16(PG_LRU) == 0]
    isolated = set(off_lists.tolist()) - set(cache.lruvec.batched)
    assert len(isolated) <= vmstat.nr_isolated_file, (
        f"{len(isolated)} file pages are on no list, nr_isolated_file is {vmstat.nr_isolated_file}"
    )


def audit_pagecache(cache: PageCache) -> list[str]:
    """Run all checks and return what does not hold."""
    try:
        check_pagecache(cache)
    except AssertionError as error:
        return [str(error)]
    return []
