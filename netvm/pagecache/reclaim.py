"""The page cache's side of reclaim: references, unmapping, private data, and the shadows of what is evicted.

Implements :class:`netvm.mm.ports.FilePort`: ``folio_referenced`` and ``try_to_unmap`` for a file's shared mapping,
``folio_check_dirty_writeback``, ``filemap_release_folio``, ``__remove_mapping``, and ``pageout`` for the rare page that
kswapd writes itself.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from netvm.mm.address_space import PTE_DIRTY, PTE_YOUNG
from netvm.mm.frames import PG_DIRTY, PG_LOCKED, PG_LRU, PG_WORKINGSET, PG_WRITEBACK, PfnArray, common_item
from netvm.pagecache.filemap import PTE_PRESENT, PageCache
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.ports import WritebackControl
from netvm.pagecache.vm_writeout import VmWriteout
from netvm.runtime.task import Task

__all__ = ["FileReclaim", "invalidate_mapping_pages"]

_U8 = np.uint8
_U16 = np.uint16


class FileReclaim:
    """What reclaim may do with file pages."""

    def __init__(self, cache: PageCache) -> None:
        self.cache = cache
        self.frames = cache.frames
        self.vm_writeout = VmWriteout(cache.throttle)

    def _by_file(self, pfns: PfnArray) -> Iterator[tuple[Mapping, npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """Generate file, places within ``pfns`` and page indices for each file that pages belong to."""
        owners = self.frames.mapping[pfns]
        only = common_item(owners)
        if only:
            # mostly one file's
            yield (
                self.cache.mappings[-only],
                np.arange(len(pfns)),
                (self.frames.index[pfns] - 1).astype(np.intp),
            )
            return
        for owner in np.unique(owners).tolist():
            if not owner:
                continue
            where = np.flatnonzero(owners == owner)
            yield self.cache.mappings[-owner], where, (self.frames.index[pfns[where]] - 1).astype(np.intp)

    def take_young(self, pfns: PfnArray) -> npt.NDArray[np.bool_]:
        """Test and clear the young bits of the PTEs that map these pages (folio_referenced)."""
        young = np.zeros(len(pfns), dtype=np.bool_)
        for mapping, where, indices in self._by_file(pfns):
            if mapping.nr_mapped:
                young[where] = mapping.pte[indices] & _U8(PTE_YOUNG) != 0
                mapping.pte[indices] &= _U8(0xFF & ~PTE_YOUNG)
        return young

    def unmap(self, pfns: PfnArray) -> None:
        """Remove the PTEs that map these pages; a dirty PTE dirties its page (try_to_unmap)."""
        for mapping, _where, indices in self._by_file(pfns):
            if not mapping.nr_mapped:
                continue
            bits = mapping.pte[indices]
            nr = int(np.count_nonzero(bits & _U8(PTE_PRESENT)))
            mapping.nr_mapped -= nr
            self.cache.vmstat.nr_mapped -= nr
            mapping.pte[indices] = 0
            # a store needs page_mkwrite first, which has dirtied the page
            dirty = bits & _U8(PTE_DIRTY) != 0
            assert (mapping.tags[indices[dirty]] & 1).all(), "a dirty PTE maps a clean page"

    def dirty_writeback(self, pfns: PfnArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which pages count as dirty, and which as under writeback (folio_check_dirty_writeback)."""
        state = self.frames.flags[pfns]
        dirty = state & _U16(PG_DIRTY) != 0
        writeback = state & _U16(PG_WRITEBACK) != 0
        for mapping, where, _indices in self._by_file(pfns):
            told = mapping.fs.is_dirty_writeback(pfns[where])
            if told is not None:
                dirty[where], writeback[where] = told
        return dirty, writeback

    async def release_folios(self, task: Task, pfns: PfnArray, gfp: int) -> npt.NDArray[np.bool_]:
        """Have file systems give up their private data of clean pages (filemap_release_folio)."""
        can_go = np.ones(len(pfns), dtype=np.bool_)
        for mapping, where, _indices in list(self._by_file(pfns)):
            private = mapping.fs.has_private(pfns[where])
            if private is not None and private.any():
                here = where[private]
                can_go[here] = await mapping.fs.release_folios(task, pfns[here], gfp)
        return can_go

    def may_migrate(self, pfn: int) -> bool:
        """Whether the file system keeps nothing with a page: NFS's move only without a request (nfs_migrate_folio)."""
        private = self.cache.mappings[-self.frames.mapping_of[pfn]].fs.has_private(np.array([pfn], dtype=np.intp))
        return private is None or not private.any()

    def move_folio(self, src: int, dst: int) -> bool:
        """Have the file of a page find it in its new frame; return whether its shared mapping has it."""
        mapping = self.cache.mappings[-self.frames.mapping_of[dst]]
        index = self.frames.index_of[dst] - 1
        assert mapping.pfn_of[index] == src + 1, f"frame {src} is not where its file has it"
        mapping.pfn_of[index] = dst + 1
        return bool(mapping.pte[index] & _U8(PTE_PRESENT))

    def remove_mapping(self, pfns: PfnArray) -> None:
        """Take clean, unmapped pages out of their files, leaving shadows (__remove_mapping, workingset_eviction)."""
        lruvec = self.cache.lruvec
        age = lruvec.nonresident_age
        for mapping, where, indices in self._by_file(pfns):
            mine = pfns[where]
            working = self.frames.flags[mine] & _U16(PG_WORKINGSET) != 0
            mapping.fs.forget_folios(mine)
            mapping.pfn[indices] = 0
            mapping.shadow[indices] = (age + where) * 2 + working + 2
            mapping.nr_cached -= len(mine)
        lruvec.nonresident_age += len(pfns)
        self.cache.vmstat.nr_file_pages -= len(pfns)
        self.frames.mapping[pfns] = 0

    async def writepage(self, task: Task, pfn: int) -> bool:
        """Write one dirty page for kswapd; return whether it is under way (pageout, for a file)."""
        owner = self.frames.mapping_of[pfn]
        if not owner:
            return False
        mapping = self.cache.mappings[-owner]
        index = self.frames.index_of[pfn] - 1
        wbc = WritebackControl(nr_to_write=1, start=index, end=index + 1, for_reclaim=True, reason="vmscan")
        await mapping.fs.writepages(task, mapping, wbc)
        return wbc.nr_to_write <= 0

    async def wait_on_page_writeback(self, task: Task, pfn: int) -> None:
        """Sleep until the writeback of some page of its file has ended."""
        await self.cache.wait_on_page_writeback(task, pfn)

    def writeback_may_last(self, pfn: int) -> bool:
        """Whether the page is of a mapping marked AS_WRITEBACK_MAY_DEADLOCK_ON_RECLAIM."""
        owner = self.frames.mapping_of[pfn]
        return owner < 0 and self.cache.mappings[-owner].fs.writeback_may_last

    def wakeup_flusher_threads(self, reason: str) -> None:
        """Have the flushers write what is dirty."""
        self.cache.flusher.wakeup_flusher_threads(reason)

    async def throttle_vm_writeout(self, task: Task, gfp: int) -> None:
        """Hold a reclaimer back while too many pages are under writeback."""
        await self.vm_writeout.throttle_vm_writeout(task, gfp)


def invalidate_mapping_pages(cache: PageCache, mapping: Mapping) -> int:
    """Drop a file's clean, unmapped pages (POSIX_FADV_DONTNEED); return how many."""
    indices = np.flatnonzero(mapping.pfn[: mapping.nr_reached])
    cache.lruvec.lru_add_drain()
    pfns = (mapping.pfn[indices] - 1).astype(np.intp)
    state = cache.frames.flags[pfns]
    idle = state & _U16(PG_DIRTY | PG_WRITEBACK | PG_LOCKED) == 0
    idle &= (state & _U16(PG_LRU) != 0) & (mapping.pte[indices] & _U8(PTE_PRESENT) == 0)
    indices, pfns = indices[idle], pfns[idle]
    if not len(pfns):
        return 0
    cache.lruvec.forget_many(pfns)
    mapping.fs.forget_folios(pfns)
    mapping.pfn[indices] = 0
    mapping.nr_cached -= len(pfns)
    cache.nodes.put_entries(mapping, indices, -1)
    cache.vmstat.nr_file_pages -= len(pfns)
    shrinker = cache.vmscan.file_shrinker
    assert shrinker is not None
    shrinker.free_file(pfns)
    return len(pfns)
