"""Who keeps a file's pages: what the page cache asks of a file system (``struct address_space_operations``).

The page cache looks pages up, dirties them, chooses which to clean and holds writers back; it does not know where a
file's pages go. A file system does: :mod:`netvm.pagecache.block_fs` puts them on a block device, an NFS client sends
them to a server. Both implement :class:`FileSystem`, and the page cache drives them with the kernel's own contract:

- *Writing.* The flusher, ``fsync`` and kswapd call :meth:`FileSystem.writepages` with a :class:`WritebackControl`. It
  walks the dirty pages (:meth:`netvm.pagecache.filemap.PageCache.dirty_runs` chooses them in the kernel's order and
  counts them against ``nr_to_write``), and for each run marks them under writeback
  (:meth:`~netvm.pagecache.filemap.PageCache.start_writeback`, which also says which content goes out) and starts the
  I/O. When the storage has answered, :meth:`~netvm.pagecache.filemap.PageCache.end_writeback`.
- *Durable or not.* A page whose write has been acknowledged for good is told to
  :meth:`~netvm.pagecache.filemap.PageCache.note_stored`; integrity checking holds that against the storage's content.
  A store that may still lose it (an unstable NFS WRITE) calls that after its COMMIT.
- *Reading.* :meth:`FileSystem.readpages` is given locked pages that are in the cache, starts the reads and calls
  :meth:`~netvm.pagecache.filemap.PageCache.end_read` for each of them.
- *Reclaim.* A page may carry the file system's private data. ``is_dirty_writeback`` says how such a page counts in
  reclaim's books, ``release_folios`` gives the private data up, sleeping if the mask allows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from netvm.block.blk_wbt import REQ_BACKGROUND, REQ_SYNC
from netvm.mm.frames import PfnArray
from netvm.runtime.task import Provider, Task

if TYPE_CHECKING:
    from netvm.pagecache.bdi import BackingDevice
    from netvm.pagecache.mapping import Mapping

__all__ = ["WB_SYNC_ALL", "WB_SYNC_NONE", "FileSystem", "WritebackControl"]

WB_SYNC_NONE: Final = 0
"""Do not wait for anything: background and periodic writeback."""
WB_SYNC_ALL: Final = 1
"""Data integrity: wait for pages already under writeback and write them again."""


@dataclass(slots=True, kw_only=True)
class WritebackControl:
    """What one round of writeback is to do, and what is left of it (``struct writeback_control``)."""

    nr_to_write: int
    """Pages still to write; a file system counts it down, the caller sees what was done."""
    sync_mode: int = WB_SYNC_NONE
    start: int = 0
    """First page of the range."""
    end: int = 1 << 62
    """First page after it."""
    range_cyclic: bool = False
    """Go on where the last round stopped and wrap round (``writeback_index``)."""
    tagged_writepages: bool = False
    """Write what is dirty now and not what is dirtied meanwhile."""
    for_kupdate: bool = False
    for_background: bool = False
    for_reclaim: bool = False
    """kswapd calls, for a page at the end of the inactive list."""
    reason: str = "background"

    def write_flags(self) -> int:
        """Return what this round says of its requests (wbc_to_write_flags)."""
        if self.sync_mode == WB_SYNC_ALL:
            return REQ_SYNC
        return REQ_BACKGROUND if self.for_kupdate or self.for_background else 0


class FileSystem(Protocol):
    """One mounted file system."""

    name: str
    tells_nospc: bool
    """A write(2) that finds the storage full meanwhile says so itself (nfs_file_write), and not the next fsync."""
    writeback_may_last: bool
    """Reclaim must not wait for its pages under writeback (AS_WRITEBACK_MAY_DEADLOCK_ON_RECLAIM)."""

    @property
    def bdi(self) -> "BackingDevice":
        """The device its pages are written back to, as the throttle sees it."""
        ...

    def attach(self, mapping: "Mapping") -> None:
        """A file was made or opened: give it its place. Raises UsageError if there is none."""
        ...

    async def write_begin(self, task: Task, mapping: "Mapping", index: int, nr_pages: int) -> int:
        """Prepare to dirty whole pages (reserve space, private data); return 0 or a negative errno."""
        ...

    def write_end(self, task: Task, mapping: "Mapping", index: int, pfns: PfnArray) -> None:
        """Pages have new content and are dirty now."""
        ...

    async def writepages(self, task: Task, mapping: "Mapping", wbc: WritebackControl) -> int:
        """Start writing dirty pages; return 0 or a negative errno."""
        ...

    async def write_inode(self, task: Task, mapping: "Mapping", *, sync: bool) -> int:
        """Make what was written durable (journal commit, NFS COMMIT); return 0 or a negative errno."""
        ...

    async def readpages(self, task: Task, mapping: "Mapping", indices: npt.NDArray[np.intp], pfns: PfnArray) -> None:
        """Start reading locked pages; each is given to ``end_read`` when its content is there."""
        ...

    def is_dirty_writeback(self, pfns: PfnArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
        """Return which pages count as dirty and which as under writeback in reclaim; None: as their flags say."""
        ...

    def has_private(self, pfns: PfnArray) -> npt.NDArray[np.bool_] | None:
        """Return which pages carry private data; None: none."""
        ...

    async def release_folios(self, task: Task, pfns: PfnArray, gfp: int) -> npt.NDArray[np.bool_]:
        """Give up the private data of clean pages (release_folio); return which pages have none now."""
        ...

    def forget_folios(self, pfns: PfnArray) -> None:
        """Pages leave the cache (invalidate_folio, free): drop what belongs to them."""
        ...

    def needs_page(self, mapping: "Mapping", index: int) -> list[Provider | Task]:
        """Say who could end the I/O of a page."""
        ...

    def notes(self) -> list[str]:
        """Return what happened that whoever reads about the run should know."""
        ...

    def lost_writes(self) -> list[str]:
        """Return where the storage does not hold the newest content it has acknowledged for good."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...
