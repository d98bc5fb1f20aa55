"""Bios of file pages, and what the end of those pages waits for.

A bio may be larger than a request; the block layer cuts it in parts, and its end is that of the last one. Its pages
end with it, or later: ext4 gives new pages *unwritten* extents since ``dioread_nolock`` is its default, and they are
marked as written when all bios of the run that was mapped at once are through (``ext4_io_end``, fs/ext4/page-io.c of
6.1). Until then the pages are under writeback, so they end by the round of the flusher, 4 MiB.

# MODEL: marking an extent as written is done at once, by whoever ends the last bio; ext4 leaves it to a worker.
# MODEL: a bio is given back when it has been written; one of an unwritten extent is kept by ext4 until its pages end.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from netvm.runtime.task import Task

__all__ = ["FileBio", "IoEnd"]


@dataclass(slots=True, eq=False)
class IoEnd:
    """What the pages of a run that was mapped at once wait for (``ext4_io_end``)."""

    task: Task | None
    """Who adds bios to it still."""
    bios: list["FileBio"] = field(default_factory=list)

    def put(self) -> list["FileBio"]:
        """Return the bios whose pages end now: all, if each has been written and none is added any more."""
        return [] if self.task is not None or any(bio.nr_left for bio in self.bios) else self.bios


@dataclass(slots=True, eq=False)
class FileBio:
    """A bio whose pages have not ended: a run of blocks."""

    serial: int
    block: int
    versions: npt.NDArray[np.int64]
    """Content of each page, of a read once it is there."""
    nr_left: int
    """Pages of parts that have not ended."""
    slab: int
    vector: int
    io_end: IoEnd | None = None
    """The pages end with all bios of it, if not with this one."""
    error: int = 0
    """That of the first part that failed."""

    @property
    def end_block(self) -> int:
        """The block after its last."""
        return self.block + len(self.versions)

    @property
    def together(self) -> list["FileBio"]:
        """The bios that it ends with, itself among them."""
        return [self] if self.io_end is None else self.io_end.bios

    def end_part(self, block: int, versions: npt.NDArray[np.int64], error: int) -> list["FileBio"]:
        """Take note that a request, from ``block`` on, has ended; return the bios whose pages end by that."""
        start, stop = max(self.block, block), min(self.end_block, block + len(versions))
        self.versions[start - self.block : stop - self.block] = versions[start - block : stop - block]
        self.error = self.error or error
        self.nr_left -= stop - start
        assert self.nr_left >= 0
        if self.nr_left:
            return []
        return [self] if self.io_end is None else self.io_end.put()
