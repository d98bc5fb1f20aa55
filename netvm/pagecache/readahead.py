"""Reading through the page cache: hits, read-ahead, and waiting for pages.

Mirrors ``filemap_read`` and, of mm/readahead.c, its ordinary window: a reader that goes on where it stopped reads ahead
up to ``read_ahead_kb`` (128 KiB), starting with a fourth of that and doubling; a page marked PG_readahead starts the
next window before it is needed; a reader that jumps reads the pages it asked for.

Every page read in carries the version that the storage had; it must be the newest one that was written.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.errors import Errno
from netvm.mm.frames import PG_LOCKED, PG_READAHEAD, PfnArray
from netvm.mm.gfp import GFP_NORETRY, GFP_NOWARN
from netvm.mm.lru import PAGEVEC_SIZE
from netvm.pagecache.filemap import GFP_PAGECACHE, PageCache
from netvm.pagecache.mapping import Mapping
from netvm.runtime.task import Task

__all__ = ["FileReader", "ReadAhead"]

READ_AHEAD_PAGES: Final = 32
"""read_ahead_kb = 128."""
_FIRST_WINDOW: Final = READ_AHEAD_PAGES // 4


@dataclass(slots=True)
class ReadAhead:
    """What an open file remembers of its reading (``struct file_ra_state``)."""

    expected: int = 0
    """Page after the last one read."""
    window: int = 0
    end: int = 0
    """First page that is not read ahead yet."""


class FileReader:
    """Reads of one host's programs, through its page cache."""

    def __init__(self, cache: PageCache) -> None:
        self.cache = cache
        self.frames = cache.frames

    async def filemap_read(self, task: Task, mapping: Mapping, ra: ReadAhead, index: int, nr_pages: int) -> int:
        """Read consecutive pages; return 0, or a negative errno at the first that cannot be read."""
        cache = self.cache
        end = min(index + nr_pages, mapping.nr_pages)
        sequential = index == ra.expected
        while index < end:
            pfn = int(mapping.pfn_of[index]) - 1
            if pfn < 0:
                await self._readahead(task, mapping, ra, index, end, sequential=sequential)
                pfn = int(mapping.pfn_of[index]) - 1
                if pfn < 0:
                    error = await self._read_one(task, mapping, index)
                    if error:
                        return error
                    continue
            state = self.frames.flags_of[pfn]
            if state & PG_READAHEAD:
                self.frames.flags_of[pfn] = state & ~PG_READAHEAD
                await self._readahead(task, mapping, ra, ra.end, ra.end, sequential=True)
            if self.frames.flags_of[pfn] & PG_LOCKED:
                await cache.wait_on_page_locked(task, mapping, index)
                if task.killed:
                    return -Errno.EINTR
                continue
            if mapping.lost[index] and mapping.version[index] != mapping.stored[index]:
                return -Errno.EIO
            index += self._copy_run(task, mapping, index, end)
            sequential = True
            ra.expected = index
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        return 0

    def _batch_pages(self, task: Task) -> int:
        """Return how many pages are copied until something happens: a program gives way between batches of them."""
        nr = self.cache.nr_undisturbed(task, self.cache.costs.read_page)
        return -(-nr // PAGEVEC_SIZE) * PAGEVEC_SIZE

    def _copy_run(self, task: Task, mapping: Mapping, index: int, end: int) -> int:
        """Copy the pages that are there, from one that is to the first that needs a closer look; return how many."""
        cache = self.cache
        end = min(end, index + self._batch_pages(task))
        entries = mapping.pfn[index:end]
        pfns: PfnArray = (entries - 1).astype(np.intp)
        stop = (entries == 0) | (self.frames.flags[pfns] & np.uint16(PG_LOCKED | PG_READAHEAD) != 0)
        stop |= mapping.lost[index:end]
        stop[0] = False
        nr = int(stop.argmax()) or len(pfns)
        cache.lruvec.mark_accessed(pfns[:nr].tolist())
        task.charge_ns += nr * cache.costs.read_page
        return nr

    async def _readahead(
        self, task: Task, mapping: Mapping, ra: ReadAhead, index: int, end: int, *, sequential: bool
    ) -> None:
        """Start reading a window from ``index``; pages for which there is no memory are left out."""
        if sequential:
            ra.window = min(max(2 * ra.window, _FIRST_WINDOW), READ_AHEAD_PAGES)
            stop = min(max(index + ra.window, min(end, index + READ_AHEAD_PAGES)), mapping.nr_pages)
        else:
            ra.window = 0
            stop = min(end, index + READ_AHEAD_PAGES, mapping.nr_pages)
        found: list[int] = []
        pfns: list[int] = []
        for page in range(index, stop):
            if mapping.pfn_of[page]:
                continue
            pfn = await self.cache.add_new_page(
                task, mapping, page, GFP_PAGECACHE | GFP_NORETRY | GFP_NOWARN, locked=True
            )
            if pfn < 0:
                break
            found.append(page)
            pfns.append(pfn)
        ra.end = stop
        if not found:
            return
        if sequential and len(pfns) > 1:
            self.frames.flags_of[pfns[len(pfns) // 2]] |= PG_READAHEAD
        await self._submit(task, mapping, found, pfns)

    async def _read_one(self, task: Task, mapping: Mapping, index: int) -> int:
        """Read a page for which read-ahead had no memory (filemap_create_folio)."""
        pfn = await self.cache.add_new_page(task, mapping, index, GFP_PAGECACHE, locked=True)
        if pfn == -Errno.EAGAIN:
            return 0
        if pfn < 0:
            return pfn
        await self._submit(task, mapping, [index], [pfn])
        return 0

    async def _submit(self, task: Task, mapping: Mapping, indices: list[int], pfns: list[int]) -> None:
        await mapping.fs.readpages(task, mapping, np.array(indices, dtype=np.intp), np.array(pfns, dtype=np.intp))

    def end_read(
        self, mapping: Mapping, indices: npt.NDArray[np.intp], versions: list[int], *, error: int, task: Task
    ) -> None:
        """Pages have been read: check what came, unlock them and wake who waits (end of read_folio)."""
        cache = self.cache
        nr = len(indices)
        task.charge_ns += nr * cache.costs.end_read_page
        cache.nr_read += nr
        pfns: PfnArray = (mapping.pfn[indices] - 1).astype(np.intp)
        if error:
            cache.read_errors += nr
            mapping.lost[indices] = True
        else:
            came = np.array(versions, dtype=np.int64)
            wrong = np.flatnonzero((came != mapping.version[indices]) & ~mapping.lost[indices])
            for at in wrong.tolist():
                index = int(indices[at])
                cache.corrupt.append(
                    f"{mapping.name} page {index}: read version {int(came[at])}, newest written "
                    f"{int(mapping.version[index])}"
                )
            mapping.stored[indices] = came
        cache.unlock_pages(mapping, pfns)
