"""Which pages go in one WRITE or READ: coalescing to wsize.

Mirrors ``struct nfs_pageio_descriptor`` of fs/nfs/pagelist.c: requests, one a page, are added in the order they come;
one that does not continue the group, or would make it larger than ``wsize``, first sends the group away. Whoever has no
more to add completes the last group.
"""

from storage_backends.nfs.messages.data import MAX_DATA_BYTES
from storage_backends.wire import BLOCK_SIZE

__all__ = ["Coalescer"]


class Coalescer:
    """The group of pages that is being put together."""

    __slots__ = ("_first", "_nr", "nr_max")

    def __init__(self, wsize_bytes: int) -> None:
        """Begin without a group. Raises ValueError for a size that is not whole pages or more than NFS can carry."""
        if wsize_bytes % BLOCK_SIZE or not BLOCK_SIZE <= wsize_bytes <= MAX_DATA_BYTES:
            raise ValueError(f"{wsize_bytes} bytes are not whole pages up to {MAX_DATA_BYTES} bytes")
        self.nr_max = wsize_bytes // BLOCK_SIZE
        """Most pages of a group."""
        self._first = 0
        self._nr = 0

    def add(self, index: int, nr: int = 1) -> list[range]:
        """Add ``nr`` consecutive pages; return the groups that are complete by that (nfs_pageio_add_request)."""
        assert nr > 0
        done = []
        if self._nr and index != self._first + self._nr:
            done += self.complete()
        while nr:
            if not self._nr:
                self._first = index
            taken = min(nr, self.nr_max - self._nr)
            self._nr += taken
            index += taken
            nr -= taken
            if self._nr == self.nr_max:
                done += self.complete()
        return done

    def complete(self) -> list[range]:
        """Return the group that is left, if there is one (nfs_pageio_complete)."""
        if not self._nr:
            return []
        group = range(self._first, self._first + self._nr)
        self._nr = 0
        return [group]
