"""Delayed allocation: pages get their blocks when they are written back, an extent at a time.

Mirrors ``ext4_writepages``, ``mpage_map_and_submit_extent``, ``ext4_io_submit`` and, of the extent tree,
``ext4_ext_create_new_leaf`` (fs/ext4, 3.11 to 6.1). A run of consecutive dirty pages, 2,048 at most, is mapped extent
by extent. The pages of an extent that is mapped are marked under writeback and put in a bio; the bio is sent when the
next page does not follow on the device, when it is full, or when the run is through. So between two extents of a run
there are pages *under writeback in a bio that nobody has sent*: nobody but the task that is mapping the next one.
Since 5.6 (``dioread_nolock``) all new pages of a run end together: :mod:`netvm.pagecache.file_bio`.

Mapping may need memory. An inode has room for four extents. The fifth needs a leaf, a block of the device in the page
cache of the device, and so does each extent that finds its leaf of 340 full. It is taken with ``GFP_NOFS`` and
``__GFP_NOFAIL`` (``__getblk``), and charged to the memory group of whoever writes back.

Free space lies in pieces of one length with a used block between them, as on a device that has been in use for long;
an extent is as long as a piece at most.

# MODEL: leaves are neither written nor read again; the bitmaps and the inode table are in the cache and stay there.
# MODEL: pages are not locked while their extent is mapped: another round may write them meanwhile.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from netvm.block.plug import Plug
from netvm.errors import Errno
from netvm.mm.frames import grown
from netvm.mm.gfp import GFP_MOVABLE, GFP_NOFAIL, GFP_NOFS
from netvm.pagecache.file_bio import IoEnd
from netvm.pagecache.mapping import TAG_DIRTY, TAG_WRITEBACK, Mapping
from netvm.pagecache.ports import WritebackControl
from netvm.pagecache.walk import DirtyWalk
from netvm.runtime.task import Provider, Task

if TYPE_CHECKING:
    from netvm.pagecache.block_fs import BlockFileSystem

__all__ = ["BIO_MAX_VECS", "DelayedAllocation"]

BIO_MAX_VECS: Final = 256
MAX_WRITEPAGES_EXTENT_LEN: Final = 2048
"""Pages of one run that are mapped under one transaction."""
EXTENTS_IN_INODE: Final = 4
EXTENTS_IN_LEAF: Final = 340
GFP_GETBLK: Final = GFP_NOFS | GFP_MOVABLE | GFP_NOFAIL


@dataclass(slots=True)
class _Tree:
    """A file's extents, as far as they cost memory."""

    nr_extents: int = 0
    end_index: int = -1
    """Page after the newest extent."""
    end_block: int = -1
    delayed: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(64, dtype=np.bool_))
    """Pages that were written and have no block yet: space is set aside for them."""

    def grow(self, nr_pages: int) -> None:
        if nr_pages > len(self.delayed):
            self.delayed = grown(self.delayed, max(nr_pages, 2 * len(self.delayed)))


@dataclass(slots=True)
class _UnsentBio:
    """A bio that pages are still added to (``struct ext4_io_submit``)."""

    task: Task
    bio: int
    vector: int
    opf: int
    unwritten: bool = False
    """Some of its pages are in an extent that is marked as written when they are."""
    first_block: int = 0
    pfns: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def holds(self, block: int) -> bool:
        return self.first_block <= block < self.first_block + len(self.pfns)

    def takes(self, block: int) -> bool:
        """Whether a page on this block may be added."""
        return not self.pfns or (block == self.first_block + len(self.pfns) and len(self.pfns) < BIO_MAX_VECS)


class DelayedAllocation:
    """The allocation of one file system's blocks at writeback."""

    def __init__(self, fs: "BlockFileSystem", *, extent_pages: int) -> None:
        assert extent_pages > 0
        self.fs = fs
        self.cache = fs.cache
        self.extent_pages = extent_pages
        self.leaves: Mapping | None = None
        """The page cache of the device, as far as it holds leaves."""
        self.nr_delayed = 0
        self.unsent: list[_UnsentBio] = []
        self._trees: dict[int, _Tree] = {}
        self._piece_left = extent_pages
        """Blocks left of the piece of free space that is being used up."""

    def attach(self, mapping: Mapping) -> None:
        """Give a new file an empty tree; before 3.9 its pages are taken inside the transaction that dirties them."""
        self._trees[mapping.id] = _Tree()
        mapping.nofs_writes = not self.cache.pages.fixes.ext4_page_before_handle

    def reserve(self, mapping: Mapping, index: int, nr_pages: int) -> int:
        """Set space aside for pages that are written; return 0 or -ENOSPC (ext4_da_reserve_space)."""
        tree = self._trees[mapping.id]
        tree.grow(max(index + nr_pages, mapping.capacity_pages))
        blocks = self.fs.inode_of(mapping).blocks[index : index + nr_pages]
        delayed = tree.delayed[index : index + nr_pages]
        new = (blocks == 0) & ~delayed
        nr_new = int(np.count_nonzero(new))
        if nr_new > self._nr_free_blocks() - self.nr_delayed:
            return -Errno.ENOSPC
        delayed |= new
        self.nr_delayed += nr_new
        return 0

    def _nr_free_blocks(self) -> int:
        """Blocks in the pieces that are left, those between them not counted."""
        left = self.fs.nr_blocks - self.fs.next_block
        return left * self.extent_pages // (self.extent_pages + 1)

    # -- mapping --------------------------------------------------------------------------------------------------

    async def _map_one_extent(self, task: Task, mapping: Mapping, index: int, nr_pages: int) -> None:
        """Give the first pages of a run blocks: as many as lie in one piece (mpage_map_one_extent)."""
        fs, tree = self.fs, self._trees[mapping.id]
        if not self._follows(tree, index):
            if tree.nr_extents == EXTENTS_IN_INODE or (tree.nr_extents and not tree.nr_extents % EXTENTS_IN_LEAF):
                await self._create_new_leaf(task)
                if fs.inode_of(mapping).blocks[index]:
                    # another round was faster while we slept
                    return
            tree.nr_extents += 1
        blocks = fs.inode_of(mapping).blocks
        run = blocks[index : index + min(nr_pages, self._piece_left)]
        taken = np.flatnonzero(run)
        nr = int(taken[0]) if len(taken) else len(run)
        fs.take_blocks(mapping, index, nr)
        tree.end_index, tree.end_block = index + nr, fs.next_block
        self.nr_delayed -= int(np.count_nonzero(tree.delayed[index : index + nr]))
        tree.delayed[index : index + nr] = False
        self._piece_left -= nr
        if not self._piece_left:
            fs.next_block += 1
            self._piece_left = self.extent_pages

    def _follows(self, tree: _Tree, index: int) -> bool:
        """Whether the next blocks can be added to the file's newest extent."""
        return tree.end_index == index and tree.end_block == self.fs.next_block

    async def _create_new_leaf(self, task: Task) -> None:
        """Take a page of the device's page cache for a leaf of an extent tree (ext4_ext_grow_indepth, __getblk)."""
        if self.leaves is None:
            self.leaves = self.cache.create(self.fs, f"{self.fs.name}: extent tree")
        index = self.leaves.nr_pages
        self.leaves.extend(index + 1)
        pfn = await self.cache.add_new_page(task, self.leaves, index, GFP_GETBLK)
        assert pfn >= 0, "a request that may not fail has failed"

    # -- writing --------------------------------------------------------------------------------------------------

    async def writepages(self, task: Task, mapping: Mapping, wbc: WritebackControl) -> int:
        """Map and write dirty pages; no bio waits for its next page when this returns (ext4_writepages)."""
        fs = self.fs
        inode = fs.inode_of(mapping)
        walk = DirtyWalk(self.cache, mapping, wbc)
        plug = fs.queue.start_plug(task)
        opf = wbc.write_flags()
        io = await self._new_bio(task, opf)
        io_end = IoEnd(task)
        fresh = range(0)
        nr_in_run = 0
        while True:
            run = await walk.next_run(task, min(BIO_MAX_VECS, MAX_WRITEPAGES_EXTENT_LEN - nr_in_run))
            if run is None:
                break
            index, nr = run
            block = int(inode.blocks[index]) - 1
            if block < 0 or not io.takes(block):
                walk.back_to(index)
                wbc.nr_to_write += nr
                if block < 0:
                    await self._map_one_extent(task, mapping, index, nr)
                    fresh = range(index, self._trees[mapping.id].end_index)
                else:
                    await self._submit(task, plug, io, io_end)
                    io = await self._new_bio(task, opf)
                continue
            nr_fit = self._nr_consecutive(inode.blocks[index : index + nr], BIO_MAX_VECS - len(io.pfns))
            if nr_fit < nr:
                walk.back_to(index + nr_fit)
                wbc.nr_to_write += nr - nr_fit
            self._add(task, mapping, io, index, nr_fit, block)
            io.unwritten |= index in fresh
            nr_in_run += nr_fit
            if nr_in_run == MAX_WRITEPAGES_EXTENT_LEN or not self._goes_on(mapping, index + nr_fit):
                await self._submit(task, plug, io, io_end)
                fs.put_io_end(io_end, task)
                io_end = IoEnd(task)
                io = await self._new_bio(task, opf)
                nr_in_run = 0
        if io.pfns:
            await self._submit(task, plug, io, io_end)
        else:
            self.unsent.remove(io)
            fs.bios.free([io.bio])
            fs.biovecs.free([io.vector])
        fs.put_io_end(io_end, task)
        plug.finish()
        return 0

    @staticmethod
    def _nr_consecutive(blocks: npt.NDArray[np.int32], limit: int) -> int:
        """Return how many of the first pages lie one after another on the device."""
        breaks = np.flatnonzero(np.diff(blocks) != 1)
        return min(int(breaks[0]) + 1 if len(breaks) else len(blocks), limit)

    @staticmethod
    def _goes_on(mapping: Mapping, index: int) -> bool:
        """Whether the run has another page that can be written at once."""
        return index < mapping.nr_pages and mapping.tags_of[index] & (TAG_DIRTY | TAG_WRITEBACK) == TAG_DIRTY

    async def _new_bio(self, task: Task, opf: int) -> _UnsentBio:
        # MODEL: the bio is taken before its first page is marked, not right after
        bio = await self.fs.bios.bio_alloc_bioset(task, GFP_NOFS)
        io = _UnsentBio(task, bio, await self.fs.biovecs.bio_alloc_bioset(task, GFP_NOFS), opf)
        self.unsent.append(io)
        return io

    def _add(self, task: Task, mapping: Mapping, io: _UnsentBio, index: int, nr: int, block: int) -> None:
        """Mark pages under writeback and put them in the bio (ext4_bio_write_page)."""
        pfns, versions = self.cache.start_writeback(mapping, index, nr)
        task.charge_ns += nr * self.cache.costs.writepage
        self.cache.vmstat.pgpgout += 4 * nr
        if not io.pfns:
            io.first_block = block
        io.pfns += pfns
        io.versions += versions

    async def _submit(self, task: Task, plug: Plug, io: _UnsentBio, io_end: IoEnd) -> None:
        """Send the bio (ext4_io_submit)."""
        self.unsent.remove(io)
        waits_for = io_end if io.unwritten and self.cache.pages.fixes.ext4_dioread_nolock else None
        await self.fs.submit_bio(
            task, plug, io.first_block, io.pfns, io.versions, io.bio, io.vector, io.opf, io_end=waits_for
        )

    def needs_block(self, block: int) -> list[Provider | Task]:
        """Say who holds the bio that the page on a block waits in, if none has been sent."""
        return [
            Provider(
                name=f"a bio of {len(io.pfns)} pages that {io.task.comm}-{io.task.pid} has not sent", needs=(io.task,)
            )
            for io in self.unsent
            if io.holds(block)
        ]
