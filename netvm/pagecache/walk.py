"""Which dirty pages a round of writeback writes, in which order.

Mirrors ``write_cache_pages`` and ``tag_pages_for_writeback`` (mm/page-writeback.c of 6.1): pages of a range in order of
their index; cyclic rounds go on where the last one stopped and wrap round once. A round for data integrity first tags
what is dirty and then writes what is tagged, so that a writer in front of it cannot keep it busy for ever, and waits
for pages that are under writeback already; others skip those.

The walk gives runs of consecutive pages, since that is what becomes one bio or one WRITE, and looks at the tags anew
for each: its caller may sleep in between.
"""

from typing import TYPE_CHECKING, Final

import numpy as np

from netvm.pagecache.mapping import TAG_DIRTY, TAG_TOWRITE, TAG_WRITEBACK, Mapping
from netvm.pagecache.ports import WB_SYNC_ALL, WritebackControl
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.pagecache.filemap import PageCache

__all__ = ["DirtyWalk"]

_U8 = np.uint8
_EVERYTHING: Final = 1 << 62


class DirtyWalk:
    """One round over one file."""

    __slots__ = ("_cursor", "_end", "_left_to_wrap", "_mapping", "_tag", "_wbc", "cache")

    def __init__(self, cache: "PageCache", mapping: Mapping, wbc: WritebackControl) -> None:
        self.cache = cache
        self._mapping = mapping
        self._wbc = wbc
        self._cursor = wbc.start
        self._end = wbc.end
        self._left_to_wrap = 0
        if wbc.range_cyclic:
            self._cursor = self._left_to_wrap = mapping.writeback_index
            self._end = _EVERYTHING
        self._tag = TAG_DIRTY
        if wbc.sync_mode == WB_SYNC_ALL or wbc.tagged_writepages:
            start = 0 if wbc.range_cyclic else wbc.start
            mapping.tags[mapping.tagged(TAG_DIRTY, start, self._end)] |= _U8(TAG_TOWRITE)
            self._tag = TAG_TOWRITE

    async def next_run(self, task: Task, limit: int) -> tuple[int, int] | None:
        """Return the next run of pages to write, as ``(index, pages)``, at most ``limit`` of them; None at the end.

        The pages count as written: the caller starts their writeback before it sleeps.
        """
        wbc, mapping = self._wbc, self._mapping
        while wbc.nr_to_write > 0 or wbc.sync_mode == WB_SYNC_ALL:
            index, nr = mapping.first_tagged(self._tag, self._cursor, self._end, min(limit, max(wbc.nr_to_write, 1)))
            if not nr:
                if not self._left_to_wrap:
                    mapping.writeback_index = 0 if wbc.range_cyclic else mapping.writeback_index
                    return None
                self._cursor, self._end, self._left_to_wrap = 0, self._left_to_wrap, 0
                continue
            tags = mapping.tags[index : index + nr]
            busy = np.flatnonzero(tags & _U8(TAG_WRITEBACK))
            if not len(busy) or busy[0]:
                nr = int(busy[0]) if len(busy) else nr
                gone = np.flatnonzero(tags[:nr] & _U8(TAG_DIRTY) == 0)
                if len(gone):
                    # written by somebody else since it was tagged
                    tags[gone] &= _U8(0xFF & ~TAG_TOWRITE)
                    continue
                self._cursor = mapping.writeback_index = index + nr
                wbc.nr_to_write -= nr
                return index, nr
            if wbc.sync_mode == WB_SYNC_ALL:
                await self.cache.wait_on_writeback(task, mapping, index, index + 1)
            else:
                free = np.flatnonzero(tags & _U8(TAG_WRITEBACK) == 0)
                self._cursor = index + (int(free[0]) if len(free) else nr)
        return None

    def back_to(self, index: int) -> None:
        """Go on at a page that was given out and is not written yet."""
        self._cursor = self._mapping.writeback_index = index
