"""What the client keeps of a file: a request for each page that is not safe, and the calls that are out.

Mirrors ``struct nfs_inode``, ``struct nfs_pgio_header`` and ``struct nfs_io_completion`` of 6.1. A page's request is a
slab object and a state; the content it was last written with is kept beside it, for the COMMIT that makes it safe.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.mm.frames import grown, is_blank
from netvm.pagecache.mapping import Mapping
from netvm.units import PAGE_SIZE
from storage_backends.nfs.client.pools import PoolObject
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.commit import CommitList, Unstable

__all__ = [
    "REQ_COMMITTING",
    "REQ_HELD",
    "REQ_NONE",
    "REQ_UNSTABLE",
    "Inode",
    "IoCompletion",
    "PgioHeader",
    "pages_of",
]

# what has become of a page's request
REQ_NONE: Final = 0
REQ_HELD: Final = 1
"""Dirty or under writeback."""
REQ_UNSTABLE: Final = 2
"""Written, and neither on the server's disk nor in a COMMIT."""
REQ_COMMITTING: Final = 3


@dataclass(slots=True)
class Inode:
    """``struct nfs_inode``."""

    mapping: Mapping
    fh: bytes = b""
    commits: CommitList = field(default_factory=CommitList)
    requests: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(64, dtype=np.int32))
    """Slab + 1 of each page's request."""
    states: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(64, dtype=np.uint8))
    sent: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(64, dtype=np.int64))
    """Content of each page as it was last written."""
    calls: dict[int, tuple[int, int, RpcTask]] = field(default_factory=dict)
    """Calls that are out by xid or serial: first page, pages, task."""
    nr_calls: int = 0

    def grow(self, nr_pages: int) -> None:
        """Make room for pages up to an index."""
        old = len(self.states)
        if nr_pages <= old:
            return
        capacity = max(nr_pages, 2 * old)
        for name in ("requests", "states", "sent"):
            setattr(self, name, grown(getattr(self, name), capacity))

    def without_request(self, index: int, end: int) -> tuple[npt.NDArray[np.intp] | slice, int]:
        """Return which pages of a range have no request yet, and how many they are."""
        requests = self.requests[index:end]
        if is_blank(requests):
            return slice(index, end), end - index
        bare = np.flatnonzero(requests == 0) + index
        return bare, len(bare)

    def nr_unstable(self, indices: npt.NDArray[np.intp] | slice) -> int:
        """Return how many of some pages wait for a COMMIT, or for the answer to it."""
        states = self.states[indices]
        return 0 if is_blank(states) else int(np.count_nonzero(states >= REQ_UNSTABLE))


class IoCompletion:
    """``struct nfs_io_completion``: the calls of one ``writepages``, after whose last a COMMIT is due."""

    __slots__ = ("nr_out",)

    def __init__(self) -> None:
        self.nr_out = 1


class PgioHeader:
    """``struct nfs_pgio_header``: one call and its pages."""

    __slots__ = ("array", "completion", "first", "indices", "object", "versions", "write")

    def __init__(self, indices: npt.NDArray[np.intp], held: PoolObject, array: int, *, write: bool) -> None:
        self.indices = indices
        self.first = int(indices[0])
        self.object = held
        self.array = array
        self.write = write
        self.versions: list[int] = []
        self.completion: IoCompletion | None = None

    @property
    def nr(self) -> int:
        """Pages of the call."""
        return len(self.indices)


def pages_of(unstable: Unstable) -> npt.NDArray[np.intp]:
    """Return the pages of a range."""
    first = unstable.offset // PAGE_SIZE
    return np.arange(first, first + unstable.size_bytes // PAGE_SIZE, dtype=np.intp)
