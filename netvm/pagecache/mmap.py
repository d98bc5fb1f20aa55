"""A shared mapping of a file: stores that nobody sees until the next one faults.

Mirrors ``filemap_fault``, ``do_shared_fault`` and ``do_wp_page`` with ``page_mkwrite``. A page that is mapped clean is
write-protected; the first store to it faults, dirties the page and holds the writer back like a write would
(``fault_dirty_shared_page``). Further stores cost nothing until writeback has write-protected the page again, so what
goes out is the content at that moment and the page is dirtied again by the store after it.

# MODEL: one mapping of the whole file, whose page tables take no memory.
"""

import numpy as np

from netvm.errors import Errno
from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE, PTE_YOUNG
from netvm.mm.frames import PG_LOCKED
from netvm.pagecache.filemap import PTE_PRESENT, PageCache
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.readahead import FileReader, ReadAhead
from netvm.runtime.task import Task

__all__ = ["SharedMapping"]


class SharedMapping:
    """One program's MAP_SHARED mapping of a file."""

    __slots__ = ("_ra", "cache", "mapping", "reader")

    def __init__(self, cache: PageCache, reader: FileReader, mapping: Mapping) -> None:
        self.cache = cache
        self.reader = reader
        self.mapping = mapping
        self._ra = ReadAhead()

    async def touch(self, task: Task, index: int, nr_pages: int, *, write: bool) -> int:
        """Touch consecutive pages in order; return 0 or a negative errno (SIGBUS)."""
        mapping, cache = self.mapping, self.cache
        mapping.extend(index + nr_pages)
        wanted = PTE_PRESENT | PTE_YOUNG | (PTE_WRITE | PTE_DIRTY if write else 0)
        for page in range(index, index + nr_pages):
            if task.killed:
                return -Errno.EINTR
            needed = PTE_PRESENT | (PTE_WRITE if write else 0)
            while mapping.pte[page] & needed != needed:
                error = await self._handle_fault(task, page, write=write)
                if error:
                    return error
            mapping.pte[page] |= wanted
            task.charge_ns += cache.costs.touch
            if write:
                mapping.version[page] = cache.new_version()
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        return 0

    async def _handle_fault(self, task: Task, page: int, *, write: bool) -> int:
        """Map a page, dirtying it if it is to be written (do_shared_fault, do_wp_page)."""
        mapping, cache = self.mapping, self.cache
        cache.vmstat.pgfault += 1
        if not mapping.pfn_of[page]:
            cache.vmstat.pgmajfault += 1
            task.charge_ns += cache.costs.fault_major
            error = await self.reader.filemap_read(task, mapping, self._ra, page, 1)
            if error or not mapping.pfn_of[page]:
                return error
        pfn = int(mapping.pfn_of[page]) - 1
        if cache.frames.flags_of[pfn] & PG_LOCKED:
            await cache.wait_on_page_locked(task, mapping, page)
            return 0
        task.charge_ns += cache.costs.fault_wp
        if write:
            error = await mapping.fs.write_begin(task, mapping, page, 1)
            if error or int(mapping.pfn_of[page]) - 1 != pfn:
                return error
            pfns = np.array([pfn], dtype=np.intp)
            cache.set_page_dirty(task, mapping, np.array([page], dtype=np.intp), pfns)
            mapping.fs.write_end(task, mapping, page, pfns)
        if not mapping.pte[page] & PTE_PRESENT:
            mapping.nr_mapped += 1
            cache.vmstat.nr_mapped += 1
        mapping.pte[page] |= PTE_PRESENT | PTE_YOUNG | (PTE_WRITE | PTE_DIRTY if write else 0)
        mapping.lost[page] &= not write
        if write:
            mapping.version[page] = cache.new_version()
            await cache.throttle.balance_dirty_pages_ratelimited(task, mapping.fs.bdi)
        return 0
