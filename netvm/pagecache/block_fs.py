"""A file system on a block device: file pages to device blocks, bios out, bios in.

Mirrors what ext2 and ext4 of 6.1 have in common on the way of a page: a buffer head beside each page that was written
(104 bytes, 39 to a page), blocks given to a file when it is written, mostly in one piece, and ``writepages`` that puts
consecutive pages in a bio as long as they lie in 256 runs of frames. Its vector is from ``biovec-max`` (4 KiB; two are
kept in a mempool), and the block layer cuts it into requests of ``max_sectors_kb``. The parts are chained
(``bio_chain``): no page of a bio is written, or read, before its last part is, so on a slow device pages end by the
megabyte.

Content goes to the storage as version numbers, so the device's content can be held against what was acknowledged.

With ``extent_pages`` blocks are given when pages are written back (:mod:`netvm.pagecache.delalloc`).

# MODEL: without ``bio_any_size`` (4.3) bios are as large here, but their pages end request by request, as those of the
# smaller bios did. A bio ends after 1,024 pages, as many as a round of the flusher writes, even of one run of frames.
# MODEL: no metadata blocks and no journal: fsync waits for the pages alone. The recorded ext2 wrote some 3 blocks of
# metadata for 1,000 of data, ext4 fewer. A split bio's own head (bio_split, 128 bytes a request) is not taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netvm.block.bdev import BlockDevice
from netvm.block.bio import BioSet
from netvm.block.blk_mq import Request, blk_status_to_errno
from netvm.block.plug import Plug
from netvm.errors import Errno, UsageError
from netvm.mm.frames import PfnArray, grown
from netvm.mm.gfp import GFP_KERNEL, GFP_NOFS
from netvm.mm.slab import SlabCache
from netvm.pagecache.bdi import BackingDevice
from netvm.pagecache.delalloc import BIO_MAX_VECS, DelayedAllocation
from netvm.pagecache.file_bio import FileBio, IoEnd
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.mapping import TAG_WRITEBACK, Mapping
from netvm.pagecache.ports import WritebackControl
from netvm.pagecache.readahead import FileReader
from netvm.pagecache.walk import DirtyWalk
from netvm.runtime.task import Provider, Task

__all__ = ["BlockFileSystem"]

_EXTENT_PAGES: Final = 2048
"""A growing file gets its blocks in such pieces (delayed allocation, mballoc)."""
_BIO_MAX_PAGES: Final = 1024


def _nr_in_bio(blocks: npt.NDArray[np.int32], frames: npt.NDArray[np.int32]) -> int:
    """Return how many of the first pages go in one bio: one run on the device, at most 256 in memory (bio_add_page)."""
    breaks = np.flatnonzero(np.diff(blocks) != 1)[:1]
    jumps = np.flatnonzero(np.diff(frames) != 1)[BIO_MAX_VECS - 1 : BIO_MAX_VECS]
    return int(min([*breaks, *jumps, len(blocks) - 1])) + 1


@dataclass(slots=True)
class _Inode:
    """Where a file's pages are on the device."""

    blocks: npt.NDArray[np.int32]
    """Block + 1 of each page, 0 for none."""
    buffer_heads: npt.NDArray[np.int32]
    """Slab + 1 of each page's buffer head, 0 for none."""

    def grow(self, nr_pages: int) -> None:
        if nr_pages > len(self.blocks):
            capacity = max(nr_pages, 2 * len(self.blocks))
            self.blocks = grown(self.blocks, capacity)
            self.buffer_heads = grown(self.buffer_heads, capacity)


class BlockFileSystem:
    """One file system, all of a device."""

    tells_nospc = False
    writeback_may_last = False

    def __init__(
        self,
        cache: PageCache,
        reader: FileReader,
        *,
        name: str,
        queue: BlockDevice,
        bios: BioSet,
        biovecs: BioSet,
        buffer_heads: SlabCache,
        nr_blocks: int,
        first_block: int,
        bdi: BackingDevice,
        stored: Callable[[], npt.NDArray[np.int64]],
        extent_pages: int = 0,
    ) -> None:
        self.cache = cache
        self.reader = reader
        self.name = name
        self.queue = queue
        self.bios = bios
        self.biovecs = biovecs
        self.buffer_heads = buffer_heads
        self.nr_blocks = nr_blocks
        self._bdi = bdi
        self._stored = stored
        self.next_block = first_block
        """Before it lie the superblock, or a swap area."""
        self._file_of: npt.NDArray[np.int32] = np.zeros(nr_blocks, dtype=np.int32)
        self._index_of: npt.NDArray[np.int32] = np.zeros(nr_blocks, dtype=np.int32)
        self._bio_of: npt.NDArray[np.int32] = np.zeros(nr_blocks, dtype=np.int32)
        """Serial number of the bio that a block is in."""
        self._bios: dict[int, FileBio] = {}
        """By serial."""
        self._next_bio = 1
        cache.filesystems.append(self)
        self.delalloc = DelayedAllocation(self, extent_pages=extent_pages) if extent_pages else None
        """None: a file gets its blocks when it is first written."""

    @property
    def bdi(self) -> BackingDevice:
        """The device its pages are written back to."""
        return self._bdi

    # -- blocks ---------------------------------------------------------------------------------------------------

    def attach(self, mapping: Mapping) -> None:
        """Give a file its place. Raises UsageError if it is larger than the device."""
        if mapping.nr_pages > self.nr_blocks - self.next_block:
            raise UsageError(
                f"storage.size_mib: {self.nr_blocks - self.next_block} pages are left on {self.name}, {mapping.name} "
                f"needs {mapping.nr_pages}"
            )
        inode = _Inode(np.zeros(64, dtype=np.int32), np.zeros(64, dtype=np.int32))
        mapping.private = inode
        if self.delalloc is not None:
            self.delalloc.attach(mapping)
        if mapping.nr_pages:
            inode.grow(mapping.nr_pages)
            self._allocate(mapping, inode, 0, mapping.nr_pages)

    def inode_of(self, mapping: Mapping) -> _Inode:
        """Return where a file's pages are."""
        inode = mapping.private
        assert isinstance(inode, _Inode)
        return inode

    def _allocate(self, mapping: Mapping, inode: _Inode, index: int, nr_pages: int) -> int:
        """Give pages without blocks new ones in order; return how many of the range have blocks now."""
        here = inode.blocks[index : index + nr_pages]
        if nr_pages <= self.nr_blocks - self.next_block and not here.any():
            first = self.next_block
            self.next_block += nr_pages
            here[:] = np.arange(first + 1, self.next_block + 1)
            self._file_of[first : self.next_block] = mapping.id
            self._index_of[first : self.next_block] = np.arange(index, index + nr_pages)
            return nr_pages
        wanted = np.flatnonzero(here == 0) + index
        nr = min(len(wanted), self.nr_blocks - self.next_block)
        if nr < len(wanted):
            nr_pages = int(wanted[nr]) - index
        taken = wanted[:nr]
        inode.blocks[taken] = np.arange(self.next_block + 1, self.next_block + nr + 1)
        there = slice(self.next_block, self.next_block + nr)
        self._file_of[there] = mapping.id
        self._index_of[there] = taken
        self.next_block += nr
        return nr_pages

    def take_blocks(self, mapping: Mapping, index: int, nr_pages: int) -> None:
        """Give pages without blocks the next ones on the device."""
        inode = self.inode_of(mapping)
        assert not inode.blocks[index : index + nr_pages].any()
        assert self._allocate(mapping, inode, index, nr_pages) == nr_pages

    async def write_begin(self, task: Task, mapping: Mapping, index: int, nr_pages: int) -> int:
        """Reserve blocks and attach buffer heads; return 0 or -ENOSPC."""
        inode = self.inode_of(mapping)
        inode.grow(max(index + nr_pages, mapping.capacity_pages))
        if self.delalloc is not None:
            if self.delalloc.reserve(mapping, index, nr_pages):
                return -Errno.ENOSPC
        elif not inode.blocks[index : index + nr_pages].all():
            ahead = min(max(nr_pages, _EXTENT_PAGES), max(mapping.nr_pages - index, nr_pages))
            inode.grow(index + ahead)
            if self._allocate(mapping, inode, index, ahead) < nr_pages:
                return -Errno.ENOSPC
        heads_here = inode.buffer_heads[index : index + nr_pages]
        if not heads_here.all():
            bare = np.flatnonzero(heads_here == 0) + index
            heads = self.buffer_heads.take_many(task, GFP_NOFS, len(bare))
            while len(heads) < len(bare):
                head = await self.buffer_heads.alloc(task, GFP_NOFS)
                if head < 0:
                    break
                heads.append(head)
            inode.buffer_heads[bare[: len(heads)]] = np.array(heads, dtype=np.int32) + 1
        return 0

    def write_end(self, task: Task, mapping: Mapping, index: int, pfns: PfnArray) -> None:
        """Nothing is left to do: the pages are dirty."""

    # -- writing --------------------------------------------------------------------------------------------------

    async def writepages(self, task: Task, mapping: Mapping, wbc: WritebackControl) -> int:
        """Put runs of dirty pages in bios and submit them under one plug (mpage_writepages, ext4_writepages)."""
        if self.delalloc is not None:
            return await self.delalloc.writepages(task, mapping, wbc)
        inode = self.inode_of(mapping)
        walk = DirtyWalk(self.cache, mapping, wbc)
        limit = _BIO_MAX_PAGES if self.cache.pages.fixes.multipage_bvecs else BIO_MAX_VECS
        plug = self.queue.start_plug(task)
        try:
            while True:
                # memory first: pages that are marked must go out
                bio = await self.bios.bio_alloc_bioset(task, GFP_NOFS)
                vector = await self.biovecs.bio_alloc_bioset(task, GFP_NOFS)
                run = await walk.next_run(task, limit)
                if run is None:
                    self.bios.free([bio])
                    self.biovecs.free([vector])
                    return 0
                index, nr = run
                blocks = inode.blocks[index : index + nr] - 1
                keep = _nr_in_bio(blocks, mapping.pfn[index : index + nr])
                if keep < nr:
                    wbc.nr_to_write += nr - keep
                    nr = keep
                    walk.back_to(index + nr)
                await self._submit(task, plug, mapping, index, nr, int(blocks[0]), bio, vector, wbc.write_flags())
        finally:
            plug.finish()

    async def _submit(
        self, task: Task, plug: Plug, mapping: Mapping, index: int, nr: int, block: int, bio: int, vector: int, opf: int
    ) -> None:
        pfns, versions = self.cache.start_writeback(mapping, index, nr)
        task.charge_ns += nr * self.cache.costs.writepage
        self.cache.vmstat.pgpgout += 4 * nr
        await self.submit_bio(task, plug, block, pfns, versions, bio, vector, opf)

    async def submit_bio(
        self,
        task: Task,
        plug: Plug,
        block: int,
        pfns: list[int],
        versions: list[int],
        bio: int,
        vector: int,
        opf: int,
        io_end: IoEnd | None = None,
    ) -> None:
        """Send pages that are under writeback and lie one after another on the device."""
        self._note_bio(block, len(pfns), bio, vector, io_end)
        await self.queue.submit_pages(
            task,
            plug,
            write=True,
            slot=block,
            pfns=pfns,
            bios=[],
            versions=versions,
            end_io=self.end_bio_write,
            opf=opf,
        )
        if task.cpus is not None:
            await task.cpus.cond_resched(task)

    def _note_bio(self, block: int, nr: int, bio: int, vector: int, io_end: IoEnd | None = None) -> None:
        self._bio_of[block : block + nr] = serial = self._next_bio
        self._bios[serial] = made = FileBio(serial, block, np.zeros(nr, dtype=np.int64), nr, bio, vector, io_end)
        self._next_bio += 1
        if io_end is not None:
            io_end.bios.append(made)

    def _ended_bios(self, rq: Request, versions: npt.NDArray[np.int64], error: int) -> list[FileBio]:
        """Take a request's pages off their bios; return the bios whose pages end now."""
        ended: list[FileBio] = []
        for serial in np.unique(self._bio_of[rq.slot : rq.end_slot]).tolist():
            bio = self._bios[serial]
            ended += bio.end_part(rq.slot, versions, error)
            if not bio.nr_left:
                self.bios.free([bio.slab])
                self.biovecs.free([bio.vector])
        for bio in ended:
            del self._bios[bio.serial]
        return ended

    def put_io_end(self, io_end: IoEnd, task: Task) -> None:
        """No bio is added to it any more; if all have been written their pages end now (ext4_put_io_end_defer)."""
        io_end.task = None
        ended = io_end.put()
        for bio in ended:
            del self._bios[bio.serial]
        self._end_pages([(bio.block, bio.end_block, bio.error) for bio in ended], task)

    def _by_file(self, block: int, end_block: int) -> list[tuple[Mapping, slice, npt.NDArray[np.intp]]]:
        """Return file, places within the blocks and page indices of each file that a run of blocks touches."""
        files = self._file_of[block:end_block]
        cuts = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]
        return [
            (
                self.cache.mappings[int(files[start])],
                slice(start, stop),
                self._index_of[block + start : block + stop].astype(np.intp),
            )
            for start, stop in pairwise(cuts)
        ]

    def end_bio_write(self, rq: Request, error: int, task: Task) -> None:
        """A request has been written, or has failed; the last of a bio ends its pages (mpage_end_io, ext4_end_bio)."""
        versions = np.array(rq.versions, dtype=np.int64)
        if not error:
            for mapping, where, indices in self._by_file(rq.slot, rq.end_slot):
                self.cache.note_stored(mapping, indices, versions[where])
        ended = [(bio.block, bio.end_block, bio.error) for bio in self._ended_bios(rq, versions, error)]
        if not self.cache.pages.fixes.bio_any_size:
            ended = [(rq.slot, rq.end_slot, error)]
        self._end_pages(ended, task)

    def _end_pages(self, ended: list[tuple[int, int, int]], task: Task) -> None:
        """End the writeback of runs of blocks, each with the status it has."""
        for block, end_block, status in ended:
            for mapping, _, indices in self._by_file(block, end_block):
                self.cache.end_writeback(mapping, indices, error=blk_status_to_errno(status), task=task)

    async def write_inode(self, task: Task, mapping: Mapping, *, sync: bool) -> int:  # noqa: ARG002  the port's shape
        """There is no metadata to write."""
        return 0

    # -- reading --------------------------------------------------------------------------------------------------

    async def readpages(self, task: Task, mapping: Mapping, indices: npt.NDArray[np.intp], pfns: PfnArray) -> None:
        """Read locked pages; one that has no block is a hole and is zero at once."""
        inode = self.inode_of(mapping)
        inode.grow(int(indices.max()) + 1)
        blocks = inode.blocks[indices] - 1
        holes = blocks < 0
        if holes.any():
            self.reader.end_read(mapping, indices[holes], [0] * int(np.count_nonzero(holes)), error=0, task=task)
            indices, pfns, blocks = indices[~holes], pfns[~holes], blocks[~holes]
        if not len(pfns):
            return
        self.cache.vmstat.pgpgin += 4 * len(pfns)
        plug = self.queue.start_plug(task)
        cuts = [0, *(np.flatnonzero(np.diff(blocks) != 1) + 1).tolist(), len(blocks)]
        for start, stop in pairwise(cuts):
            bio = await self.bios.bio_alloc_bioset(task, GFP_KERNEL)
            vector = await self.biovecs.bio_alloc_bioset(task, GFP_KERNEL)
            self._note_bio(int(blocks[start]), stop - start, bio, vector)
            await self.queue.submit_pages(
                task,
                plug,
                write=False,
                slot=int(blocks[start]),
                pfns=pfns[start:stop].tolist(),
                bios=[],
                versions=[0] * (stop - start),
                end_io=self.end_bio_read,
            )
        plug.finish()

    def end_bio_read(self, rq: Request, error: int, task: Task) -> None:
        """A request has been read, or has failed; the last of a bio ends its pages (mpage_end_io)."""
        content = np.array(rq.versions, dtype=np.int64)
        ended = [(bio.block, bio.versions.tolist(), bio.error) for bio in self._ended_bios(rq, content, error)]
        if not self.cache.pages.fixes.bio_any_size:
            ended = [(rq.slot, list(rq.versions), error)]
        for block, versions, status in ended:
            for mapping, where, indices in self._by_file(block, block + len(versions)):
                self.reader.end_read(mapping, indices, versions[where], error=status, task=task)

    # -- reclaim --------------------------------------------------------------------------------------------------

    def is_dirty_writeback(self, pfns: PfnArray) -> None:  # noqa: ARG002  the port's shape
        """As the pages' flags say."""
        return

    def has_private(self, pfns: PfnArray) -> None:  # noqa: ARG002  the port's shape
        """Buffer heads of clean pages always go with their page (try_to_free_buffers)."""
        return

    async def release_folios(self, task: Task, pfns: PfnArray, gfp: int) -> npt.NDArray[np.bool_]:  # noqa: ARG002
        """Buffer heads never keep a clean page."""
        return np.ones(len(pfns), dtype=np.bool_)

    def forget_folios(self, pfns: PfnArray) -> None:
        """Free the buffer heads of pages of one file."""
        if not len(pfns):
            return
        frames = self.cache.frames
        inode = self.inode_of(self.cache.mappings[-frames.mapping_of[int(pfns[0])]])
        indices = frames.index[pfns] - 1
        indices = indices[indices < len(inode.buffer_heads)]
        for head in inode.buffer_heads[indices].tolist():
            if head:
                self.buffer_heads.free(head - 1)
        inode.buffer_heads[indices] = 0

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs_page(self, mapping: Mapping, index: int) -> list[Provider | Task]:
        """Say who could end the I/O of a page: the requests its bio is in, and those of the bios it ends with."""
        block = int(self.inode_of(mapping).blocks[index]) - 1
        driver = self.queue.driver
        bio = self._bios.get(int(self._bio_of[block])) if block >= 0 else None
        runs = [(block, block + 1)]
        found: list[Provider | Task] = []
        if bio is not None:
            runs = [(other.block, other.end_block) for other in bio.together]
            if bio.io_end is not None and bio.io_end.task is not None:
                found.append(bio.io_end.task)
        found += [
            driver.needs(rq)
            for rq in self.queue.outstanding.values()
            if any(rq.slot < last and first < rq.end_slot for first, last in runs)
        ]
        if not found and self.delalloc is not None:
            found = self.delalloc.needs_block(block)
        return found or [Provider(name=f"{self.queue.name}: the request queue")]

    def notes(self) -> list[str]:
        """There is nothing to tell."""
        return []

    def lost_writes(self) -> list[str]:
        """Return where the device does not hold the newest content it has acknowledged."""
        content = self._stored()
        found = []
        for mapping in self.cache.mappings.values():
            if mapping.fs is not self:
                continue
            inode = self.inode_of(mapping)
            known = np.flatnonzero(inode.blocks[: mapping.nr_pages])
            settled = known[mapping.tags[known] & np.uint8(TAG_WRITEBACK) == 0]
            held = content[inode.blocks[settled] - 1]
            found += [
                f"{mapping.name} page {int(index)}: the storage holds version {int(held[at])}, acknowledged was "
                f"{int(mapping.stored[index])}"
                for at, index in enumerate(settled.tolist())
                if self.cache.is_lost(mapping, index, int(held[at]))
            ]
        return found

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.next_block, len(self._bios), self.queue.digest())
