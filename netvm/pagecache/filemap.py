"""The page cache: looking file pages up, reading and writing through them, and their way to the storage and back.

Mirrors mm/filemap.c and the parts of mm/page-writeback.c that change a page's state.

A program writes a run of consecutive pages; what needs no sleep is done for as many of them at once as can be before
the throttle must look at the writer or anything else happens, so the result does not depend on how the run is cut.
Each page is new (allocated, with its place in the tree) or found; either way it gets a new version and is dirty.

A page goes dirty -> writeback -> clean. It may be dirtied again while it is under writeback: then it carries both tags
and is written once more. A write that failed leaves the page clean, as ext2, ext4 and NFS do: its content is lost when
the page goes, the error is remembered for ``fsync``, and the page is counted in :attr:`PageCache.nr_lost`.

# MODEL: whole pages only; no stable-page wait (no device asks for it); one shared mapping a file.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from netvm.errors import Errno
from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE
from netvm.mm.frames import (
    ALLOCATION_FLAGS,
    PG_DIRTY,
    PG_LOCKED,
    PG_RECLAIM,
    PG_WRITEBACK,
    PfnArray,
    is_blank,
)
from netvm.mm.gfp import GFP_COMP, GFP_FS, GFP_HIGHUSER_MOVABLE, GFP_NOWAIT, GFP_WRITE
from netvm.mm.lru import Lruvec
from netvm.mm.memcontrol import put_new_page
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import SlabCache
from netvm.mm.workingset import workingset_refault
from netvm.pagecache.flusher import Flusher, do_writepages
from netvm.pagecache.mapping import NODE_SHIFT, TAG_DIRTY, TAG_TOWRITE, TAG_WRITEBACK, Mapping
from netvm.pagecache.ports import WB_SYNC_ALL, FileSystem, WritebackControl
from netvm.pagecache.throttle import DirtyThrottle
from netvm.pagecache.tree import PageTree
from netvm.pagecache.writeback_trace import WritebackTrace
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.trace.vmstat import VmStat

if TYPE_CHECKING:
    from netvm.mm.vmscan import Vmscan

__all__ = ["GFP_PAGECACHE", "PTE_PRESENT", "PageCache"]

GFP_PAGECACHE: Final = GFP_HIGHUSER_MOVABLE | GFP_COMP
"""mapping_gfp_mask of a file."""
GFP_PAGECACHE_WRITE: Final = GFP_PAGECACHE | GFP_WRITE
PTE_PRESENT: Final = 8
"""The file's shared mapping maps the page."""

_BLOCK_MAX: Final = 1024
_U16 = np.uint16
_U8 = np.uint8
_LONG_MAX: Final = 1 << 62


class PageCache:
    """The file pages of one host."""

    def __init__(
        self,
        world: World,
        *,
        pages: PageAllocator,
        lruvec: Lruvec,
        radix_nodes: SlabCache,
        vmstat: VmStat,
        costs: CpuCosts,
        throttle: DirtyThrottle,
        flusher: Flusher,
    ) -> None:
        self.world = world
        self.pages = pages
        self.frames = pages.frames
        self.lruvec = lruvec
        self.nodes = PageTree(radix_nodes)
        self.vmstat = vmstat
        self.costs = costs
        self.throttle = throttle
        self.flusher = flusher
        self.vmscan: Vmscan
        pages.node_dirty_ok = throttle.node_dirty_ok
        self.tracer: WritebackTrace | None = None
        self.owner_file = pages.ledger.owner("file")
        self.mappings: dict[int, Mapping] = {}
        flusher.mappings = self.mappings
        self.filesystems: list[FileSystem] = []
        self._next_version = 1
        self._writeback_waits: dict[int, WaitQueue] = {}
        self._lock_waits: dict[int, WaitQueue] = {}
        self.nr_cleaned = 0
        """Pages whose write has ended without error: progress."""
        self.nr_read = 0
        self.nr_lost = 0
        """Pages whose newest content a failed write has lost."""
        self.write_errors = 0
        self.read_errors = 0
        self.corrupt: list[str] = []
        """What integrity checking found."""

    def create(self, fs: FileSystem, name: str, nr_pages: int = 0) -> Mapping:
        """Make an empty file. Raises UsageError if its file system has no room for it."""
        mapping = Mapping(len(self.mappings) + 1, name, fs, self.world, nr_pages)
        fs.attach(mapping)
        self.mappings[mapping.id] = mapping
        return mapping

    # -- the tree -------------------------------------------------------------------------------------------------

    def _add_pages(self, mapping: Mapping, index: int, pfns: PfnArray, *, locked: bool = False) -> None:
        """Put new pages at consecutive, empty places whose nodes are there (filemap_add_folio)."""
        frames = self.frames
        nr = len(pfns)
        here = slice(index, index + nr)
        assert is_blank(mapping.pfn[here])
        frames.flags[pfns] = frames.flags[pfns] & _U16(ALLOCATION_FLAGS) | _U16(PG_LOCKED if locked else 0)
        frames.block[pfns] = 0
        frames.owner[pfns] = self.owner_file
        frames.mapping[pfns] = -mapping.id
        frames.index[pfns] = np.arange(index + 1, index + nr + 1)
        mapping.pfn[here] = pfns + 1
        mapping.nr_cached += nr
        self.vmstat.nr_file_pages += nr
        shadows = mapping.shadow[here]
        if is_blank(shadows):
            self.nodes.count_new(mapping, index, nr)
            self.lruvec.add_many(pfns, file=True)
            return
        self.nodes.put_entries(mapping, np.flatnonzero(shadows == 0) + index, 1)
        nr_free_slots = self.vmscan.swap.nr_free_slots()
        for offset in np.flatnonzero(shadows).tolist():
            workingset_refault(
                self.lruvec, int(pfns[offset]), int(shadows[offset]) - 2, file=True, nr_free_slots=nr_free_slots
            )
        shadows[:] = 0
        for pfn in pfns.tolist():
            self.lruvec.folio_add_lru(pfn)

    # -- writing --------------------------------------------------------------------------------------------------

    async def generic_file_write_iter(
        self, task: Task, mapping: Mapping, index: int, nr_pages: int, *, content: list[int] | None = None
    ) -> int:
        """Write as write(2) does, the inode locked all the while: while memory is waited for and while throttled."""
        seen = mapping.wb_err
        await mapping.i_rwsem.down(task)
        try:
            error = await self.generic_perform_write(task, mapping, index, nr_pages, content=content)
        finally:
            mapping.i_rwsem.up(task)
        if not error and mapping.fs.tells_nospc and mapping.wb_err > seen and mapping.wb_errno == -Errno.ENOSPC:
            # a server that is full meanwhile: all is written at once, and the writer is told (nfs_file_write)
            # MODEL: the open file's own mark is not moved, so its next fsync tells it again
            error, _seen = await self.fsync(task, mapping, seen)
        return error

    async def generic_perform_write(
        self, task: Task, mapping: Mapping, index: int, nr_pages: int, *, content: list[int] | None = None
    ) -> int:
        """Write whole pages through the cache; return 0 or a negative errno, with what came before it done.

        The pages get new versions, or those of ``content``: then they are copies of what others have written.
        """
        begin = index
        end = index + nr_pages
        wb = mapping.fs.bdi
        mapping.extend(end)
        while index < end:
            if task.killed:
                return -Errno.EINTR
            limit = min(
                end - index, self.nr_undisturbed(task, self.costs.write_page), self.throttle.pages_until_look(task, wb)
            )
            error = await mapping.fs.write_begin(task, mapping, index, limit)
            if error:
                return error
            copied = content[index - begin :] if content is not None else None
            done = self._write_block(task, mapping, index, limit, copied)
            if not done:
                done = await self._write_one(task, mapping, index, copied)
                if done < 0:
                    return done
            index += done
            await self.throttle.balance_dirty_pages_ratelimited(task, wb)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        return 0

    def nr_undisturbed(self, task: Task, cost_ns: int) -> int:
        """Return how many pages of this cost, at least one, pass before something happens, up to a tick or a block."""
        cpus = task.cpus
        return _BLOCK_MAX if cpus is None else min(_BLOCK_MAX, cpus.nr_undisturbed(task, cost_ns))

    def _write_block(
        self, task: Task, mapping: Mapping, index: int, limit: int, content: list[int] | None = None
    ) -> int:
        """Write the pages that are all there, or all absent and to be had at once; return how many."""
        entries = mapping.pfn[index : index + limit]
        nr, cached = len(entries), bool(entries[0])
        if not is_blank(entries):
            ends = np.flatnonzero((entries != 0) != cached)
            nr = int(ends[0]) if len(ends) else nr
        if cached:
            pfns = (entries[:nr] - 1).astype(np.intp)
            locked = np.flatnonzero(self.frames.flags[pfns] & _U16(PG_LOCKED))
            pfns = pfns[: int(locked[0])] if len(locked) else pfns
            if not len(pfns):
                return 0
        else:
            nr_nodes_there = 0
            for node in range(index >> NODE_SHIFT, ((index + nr - 1) >> NODE_SHIFT) + 1):
                if not self.nodes.get(task, mapping, node << NODE_SHIFT, GFP_NOWAIT):
                    break
                nr_nodes_there = ((node + 1) << NODE_SHIFT) - index
            nr = min(nr, nr_nodes_there)
            memcg = self.pages.memcg
            nr = nr if memcg is None else memcg.margin(task, nr)
            found = self.pages.try_alloc_run(task, nr, GFP_PAGECACHE_WRITE, self.owner_file) if nr > 0 else []
            if not found:
                self.nodes.trim(mapping, index, index + limit)
                return 0
            pfns = np.array(found, dtype=np.intp)
            if memcg is not None:
                memcg.charge_at_once(task, pfns)
            self._add_pages(mapping, index, pfns)
            self.nodes.trim(mapping, index + len(pfns), index + limit)
        task.charge_ns += len(pfns) * self.costs.write_page
        self._write_end(task, mapping, index, pfns, content)
        return len(pfns)

    async def _write_one(self, task: Task, mapping: Mapping, index: int, content: list[int] | None = None) -> int:
        """Write one page, sleeping for memory or for its lock; return 1 or a negative errno."""
        while True:
            pfn = int(mapping.pfn_of[index]) - 1
            if pfn >= 0:
                if not self.frames.flags_of[pfn] & PG_LOCKED:
                    break
                await self.wait_on_page_locked(task, mapping, index)
                continue
            gfp = GFP_PAGECACHE_WRITE & ~GFP_FS if mapping.nofs_writes else GFP_PAGECACHE_WRITE
            pfn = await self.add_new_page(task, mapping, index, gfp)
            if pfn == -Errno.EAGAIN:
                continue
            if pfn < 0:
                return pfn
            break
        task.charge_ns += self.costs.write_page
        self._write_end(task, mapping, index, np.array([pfn], dtype=np.intp), content)
        return 1

    async def add_new_page(self, task: Task, mapping: Mapping, index: int, gfp: int, *, locked: bool = False) -> int:
        """Put one new page in the cache, sleeping as the mask allows; return its frame or a negative errno."""
        pfn = await self.pages.alloc_pages(task, 0, gfp, self.owner_file)
        if pfn < 0:
            return -Errno.ENOMEM
        if self.pages.memcg is not None and not await self.pages.memcg.charge(task, pfn, gfp):
            return -Errno.ENOMEM
        if not await self.nodes.get_for_sure(task, mapping, index):
            put_new_page(self.pages, pfn)
            return -Errno.ENOMEM
        if mapping.pfn_of[index]:
            # somebody else was faster while we slept
            put_new_page(self.pages, pfn)
            return -Errno.EAGAIN
        self._add_pages(mapping, index, np.array([pfn], dtype=np.intp), locked=locked)
        return pfn

    def _write_end(self, task: Task, mapping: Mapping, index: int, pfns: PfnArray, content: list[int] | None) -> None:
        nr = len(pfns)
        here = slice(index, index + nr)
        fresh = np.arange(self._next_version, self._next_version + nr) if content is None else ()
        self._next_version += len(fresh)
        mapping.version[here] = fresh if content is None else content[:nr]
        mapping.lost[here] = False
        if is_blank(mapping.tags[here]):
            mapping.tags[here] = TAG_DIRTY
            self._dirtied(task, mapping, here, pfns)
        else:
            self.set_page_dirty(task, mapping, np.arange(index, index + nr), pfns)
        mapping.fs.write_end(task, mapping, index, pfns)

    def set_page_dirty(self, task: Task, mapping: Mapping, indices: npt.NDArray[np.intp], pfns: PfnArray) -> None:
        """Tag and account pages that are not dirty yet (filemap_dirty_folio)."""
        clean = mapping.tags[indices] & _U8(TAG_DIRTY) == 0
        if clean.any():
            mapping.tags[indices] |= _U8(TAG_DIRTY)
            self._dirtied(task, mapping, indices[clean], pfns[clean])

    def _dirtied(self, task: Task, mapping: Mapping, where: npt.NDArray[np.intp] | slice, pfns: PfnArray) -> None:
        """Account pages that are newly tagged (folio_account_dirtied)."""
        nr = len(pfns)
        self.frames.flags[pfns] |= _U16(PG_DIRTY)
        mapping.nr_dirty += nr
        self._account_pending(pfns, 1)
        self.throttle.dirtied(task, mapping.fs.bdi, nr)
        if self.tracer is not None:
            self.tracer.dirtied(mapping, np.r_[where])
        self.flusher.mark_inode_dirty(mapping)

    def _account_pending(self, pfns: PfnArray, sign: int) -> None:
        """Keep NR_ZONE_WRITE_PENDING."""
        zones = self.pages.node.zones
        if len(zones) == 1:
            zones[0].nr_write_pending += sign * len(pfns)
            return
        for pfn in pfns.tolist():
            self.pages.node.zone_of(pfn).nr_write_pending += sign

    # -- writing back ---------------------------------------------------------------------------------------------

    def start_writeback(self, mapping: Mapping, index: int, nr_pages: int) -> tuple[list[int], list[int]]:
        """Make dirty pages clean and under writeback; return their frames and the versions that go out.

        A mapped page is write-protected, so that the next store to it is noticed (page_mkclean).
        """
        here = slice(index, index + nr_pages)
        pfns = (mapping.pfn[here] - 1).astype(np.intp)
        assert (mapping.tags[here] & _U8(TAG_DIRTY | TAG_WRITEBACK) == TAG_DIRTY).all(), "a page is not dirty, or busy"
        mapping.tags[here] = mapping.tags[here] & _U8(0xFF & ~(TAG_DIRTY | TAG_TOWRITE)) | _U8(TAG_WRITEBACK)
        if mapping.nr_mapped:
            mapping.pte[here] &= _U8(0xFF & ~(PTE_WRITE | PTE_DIRTY))
        flags = self.frames.flags
        flags[pfns] = flags[pfns] & _U16(0xFFFF & ~PG_DIRTY) | _U16(PG_WRITEBACK)
        wb = mapping.fs.bdi
        mapping.nr_dirty -= nr_pages
        mapping.nr_writeback += nr_pages
        wb.nr_reclaimable -= nr_pages
        wb.nr_writeback += nr_pages
        self.vmstat.nr_dirty -= nr_pages
        self.vmstat.nr_writeback += nr_pages
        if self.tracer is not None:
            self.tracer.started(mapping, index, nr_pages)
        return pfns.tolist(), mapping.version[here].tolist()

    def end_writeback(
        self, mapping: Mapping, indices: npt.NDArray[np.intp], *, error: int, task: Task, copied: bool = False
    ) -> None:
        """End the writeback of pages; those marked by reclaim rotate to the tail (folio_end_writeback).

        Pages that were ``copied`` are clean, and are written when :meth:`writeout_ended` is told so.
        """
        nr = len(indices)
        task.charge_ns += nr * self.costs.end_writeback_page
        pfns = (mapping.pfn[indices] - 1).astype(np.intp)
        assert (mapping.tags[indices] & _U8(TAG_WRITEBACK)).all(), "a page is not under writeback"
        mapping.tags[indices] &= _U8(0xFF & ~TAG_WRITEBACK)
        state = self.frames.flags[pfns]
        self.frames.flags[pfns] = state & _U16(0xFFFF & ~(PG_WRITEBACK | PG_RECLAIM))
        mapping.nr_writeback -= nr
        self.vmstat.nr_writeback -= nr
        self.vmstat.nr_written += nr
        self._account_pending(pfns, -1)
        if self.tracer is not None:
            self.tracer.ended(task, mapping, indices, error)
        if not copied:
            self.writeout_ended(mapping, indices, error=error)
        rotate = pfns[state & _U16(PG_RECLAIM) != 0]
        if len(rotate):
            self.lruvec.folio_rotate_reclaimable(rotate.tolist())
        self.vmscan.throttles.acct_reclaim_writeback(nr)
        if mapping.fs.bdi.clears_congestion:
            self.vmscan.throttles.clear_bdi_congested()
        queue = self._writeback_waits.get(mapping.id)
        if queue is not None:
            queue.wake_all()

    def writeout_ended(self, mapping: Mapping, indices: npt.NDArray[np.intp], *, error: int) -> None:
        """The device has written pages, or failed to."""
        nr = len(indices)
        wb = mapping.fs.bdi
        wb.nr_writeback -= nr
        wb.writeout_add(nr)
        if error:
            # what was dirtied again meanwhile will be written again
            mapping.wb_errno = error if error == -Errno.ENOSPC else -int(Errno.EIO)
            self._note_write_error(mapping, indices[mapping.tags[indices] & _U8(TAG_DIRTY) == 0], nr)
        else:
            self.nr_cleaned += nr

    def _note_write_error(self, mapping: Mapping, settled: npt.NDArray[np.intp], nr: int) -> None:
        """Remember an error for fsync; what is not dirty again is lost (mapping_set_error)."""
        mapping.wb_err += 1
        self.write_errors += nr
        self.nr_lost += int(np.count_nonzero(~mapping.lost[settled]))
        mapping.lost[settled] = True

    def note_stored(self, mapping: Mapping, indices: npt.NDArray[np.intp], versions: npt.NDArray[np.int64]) -> None:
        """The storage has these versions for good."""
        mapping.stored[indices] = np.maximum(mapping.stored[indices], versions)

    def is_lost(self, mapping: Mapping, index: int, held: int) -> bool:
        """Whether a storage that holds this version of a page has lost what it acknowledged.

        A write that was reported as failed may have arrived all the same, and be newer than the last acknowledged.
        """
        stored = int(mapping.stored[index])
        if mapping.lost[index] or held == stored:
            return False
        return held < stored or not self.write_errors

    def redirty(self, mapping: Mapping, indices: npt.NDArray[np.intp]) -> None:
        """Tag pages dirty once more although no program wrote to them (redirty_page_for_writepage)."""
        clean = indices[mapping.tags[indices] & _U8(TAG_DIRTY) == 0]
        nr = len(clean)
        if not nr:
            return
        pfns = (mapping.pfn[clean] - 1).astype(np.intp)
        mapping.tags[clean] |= _U8(TAG_DIRTY)
        self.frames.flags[pfns] |= _U16(PG_DIRTY)
        mapping.nr_dirty += nr
        mapping.fs.bdi.nr_reclaimable += nr
        self.vmstat.nr_dirty += nr
        self._account_pending(pfns, 1)
        self.flusher.mark_inode_dirty(mapping)

    def account_unstable(self, mapping: Mapping, nr_pages: int) -> None:
        """Count pages that wait for a COMMIT as under writeback, or no longer (nfs_folio_mark_unstable).

        Without ``unstable_is_writeback`` (5.8) they are neither that nor dirty, but something to be written.
        """
        if self.pages.fixes.unstable_is_writeback:
            self.vmstat.nr_writeback += nr_pages
            mapping.fs.bdi.nr_writeback += nr_pages
        else:
            self.throttle.nr_unstable += nr_pages
            mapping.fs.bdi.nr_reclaimable += nr_pages

    async def wait_on_writeback(self, task: Task, mapping: Mapping, start: int = 0, end: int = _LONG_MAX) -> None:
        """Wait until no page of a range is under writeback (filemap_fdatawait_range)."""
        while mapping.nr_writeback:
            _index, nr = mapping.first_tagged(TAG_WRITEBACK, start, end, 1)
            if not nr:
                return
            await self._writeback_wait(mapping).wait(task)

    async def wait_on_page_writeback(self, task: Task, pfn: int) -> None:
        """Sleep until the writeback of some page of a page's file has ended (folio_wait_writeback)."""
        mapping = self.mappings.get(-self.frames.mapping_of[pfn])
        if mapping is not None and self.frames.flags_of[pfn] & PG_WRITEBACK:
            await self._writeback_wait(mapping).wait(task)

    def _writeback_wait(self, mapping: Mapping) -> WaitQueue:
        queue = self._writeback_waits.get(mapping.id)
        if queue is None:

            def providers() -> list[Provider | Task]:
                index, nr = mapping.first_tagged(TAG_WRITEBACK, 0, _LONG_MAX, 1)
                return mapping.fs.needs_page(mapping, index) if nr else []

            resource = Resource("page", f"folio_wait_writeback: {mapping.name}", providers)
            queue = self._writeback_waits[mapping.id] = WaitQueue(self.world, resource)
        return queue

    async def fsync(self, task: Task, mapping: Mapping, seen: int = 0) -> tuple[int, int]:
        """Write a file's dirty pages and wait until they are durable; return 0 or a negative errno, and the errseq.

        ``seen`` is what the same open file was told last time: an error is told once (file_check_and_advance_wb_err).
        """
        wbc = WritebackControl(nr_to_write=_LONG_MAX, sync_mode=WB_SYNC_ALL, reason="sync")
        error = await do_writepages(task, mapping, wbc)
        await self.wait_on_writeback(task, mapping)
        error = error or await mapping.fs.write_inode(task, mapping, sync=True)
        if mapping.wb_err > seen:
            return mapping.wb_errno, mapping.wb_err
        return error, mapping.wb_err

    async def wait_on_page_locked(self, task: Task, mapping: Mapping, index: int) -> None:
        """Wait until a page is unlocked: its read has ended (folio_wait_locked)."""
        queue = self._lock_waits.get(mapping.id)
        if queue is None:
            resource = Resource("page", f"folio_lock: {mapping.name}", lambda: mapping.fs.needs_page(mapping, index))
            queue = self._lock_waits[mapping.id] = WaitQueue(self.world, resource)
        await queue.wait(task)

    def unlock_pages(self, mapping: Mapping, pfns: PfnArray) -> None:
        """Unlock pages and wake who waits for one of the file (folio_unlock)."""
        self.frames.flags[pfns] &= _U16(0xFFFF & ~PG_LOCKED)
        queue = self._lock_waits.get(mapping.id)
        if queue is not None:
            queue.wake_all()

    def new_version(self) -> int:
        """Return the name of content nobody has written before."""
        self._next_version += 1
        return self._next_version - 1
