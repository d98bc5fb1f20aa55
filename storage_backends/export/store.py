"""The content of an exported block device, kept as one version number for each 4 KiB block.

A swap device is written in whole pages and never interpreted, so a block's content is fully described by *which* write
it holds. The store keeps that as a column of 64-bit versions: 16 million blocks (64 GiB) are 128 MiB, a write of 32
blocks is one slice assignment, and the question "is the newest acknowledged write here?" is a comparison of integers.

A store may have a volatile write cache, as a disk with WCE set (SBC-3, caching mode page) or an nbd-server without
``sync``: a write is then visible to reads at once but survives :meth:`BlockStore.lose_uncommitted` (a power cut of the
server) only after a :meth:`BlockStore.flush` or when it was itself forced to the medium (FUA). Without a cache every
write is stable when it returns.

Left out: writes of less than a block, which swap and page writeback never do, and caches that lose part of what they
hold: losing all of it is the worst case for every block at once.
"""

import numpy as np
import numpy.typing as npt

from netvm.errors import Errno
from storage_backends.wire import BLOCK_SIZE, Blocks, Payload

__all__ = ["BlockStore"]


class BlockStore:
    """Versions of the blocks of one export; version 0 is a block never written."""

    __slots__ = ("_stable_versions", "_versions", "fault", "size_bytes", "write_cache")

    def __init__(self, size_bytes: int, *, write_cache: bool = False) -> None:
        """Make an empty store. Raises ValueError if ``size_bytes`` is not a positive number of whole blocks."""
        if size_bytes <= 0 or size_bytes % BLOCK_SIZE:
            raise ValueError(f"an export of {size_bytes} bytes is not whole blocks of {BLOCK_SIZE}")
        self.size_bytes = size_bytes
        self.write_cache = write_cache
        self.fault = 0
        """ENOSPC while the disk behind a thin export is full, EIO while it answers everything with an error; else 0."""
        self._versions = np.zeros(size_bytes // BLOCK_SIZE, dtype=np.int64)
        # invariant: for each block written since the last flush, the version the medium still holds
        self._stable_versions: dict[int, int] = {}

    @property
    def versions(self) -> npt.NDArray[np.int64]:
        """The newest version of every block, to be read only: what an audit compares."""
        view = self._versions.view()
        view.flags.writeable = False
        return view

    @property
    def nr_uncommitted(self) -> int:
        """How many blocks a power cut would take back."""
        return len(self._stable_versions)

    def refusal(self, offset_bytes: int, size_bytes: int, *, write: bool) -> int:
        """Return the errno that a request meets, 0 if it can be served.

        A full disk takes writes to blocks that were written before; only for new ones there is no space.
        """
        if self.fault != Errno.ENOSPC:
            return self.fault
        if not write:
            return 0
        there = self._versions[offset_bytes // BLOCK_SIZE : -(-(offset_bytes + size_bytes) // BLOCK_SIZE)]
        return 0 if there.all() else self.fault

    def write(self, offset_bytes: int, payload: Payload, *, fua: bool = False) -> None:
        """Store whole blocks at ``offset_bytes``; with ``fua`` they are on the medium when this returns.

        Raises ValueError for a range that is not whole blocks of this export, or a payload that is not whole blocks.
        """
        first, stop = self._blocks(offset_bytes, payload.size_bytes)
        blocks = payload if isinstance(payload, Blocks) else Blocks.from_bytes(payload.to_bytes())
        if blocks.skip_bytes:
            raise ValueError(f"a payload beginning {blocks.skip_bytes} bytes into a block is not whole blocks")
        self._store(first, stop, blocks.versions, fua=fua)

    def trim(self, offset_bytes: int, size_bytes: int) -> None:
        """Forget blocks: they read as never written. Raises ValueError for a range not of whole blocks."""
        first, stop = self._blocks(offset_bytes, size_bytes)
        self._store(first, stop, (0,) * (stop - first), fua=False)

    def read(self, offset_bytes: int, size_bytes: int) -> Blocks:
        """Return the newest content. Raises ValueError for a range that is not whole blocks of this export."""
        first, stop = self._blocks(offset_bytes, size_bytes)
        return Blocks(tuple(self._versions[first:stop].tolist()), 0, size_bytes)

    def flush(self) -> None:
        """Bring everything written so far to the medium."""
        self._stable_versions.clear()

    def lose_uncommitted(self) -> int:
        """Cut the power: blocks not yet on the medium fall back to what it holds. Return how many did."""
        nr_lost = len(self._stable_versions)
        for block, version in self._stable_versions.items():
            self._versions[block] = version
        self._stable_versions.clear()
        return nr_lost

    def _blocks(self, offset_bytes: int, size_bytes: int) -> tuple[int, int]:
        """Return the first block of a range and the one behind its last."""
        if offset_bytes % BLOCK_SIZE or size_bytes % BLOCK_SIZE:
            raise ValueError(f"{size_bytes} bytes at {offset_bytes} are not whole blocks of {BLOCK_SIZE}")
        if offset_bytes < 0 or size_bytes < 0 or offset_bytes + size_bytes > self.size_bytes:
            raise ValueError(f"{size_bytes} bytes at {offset_bytes} are outside an export of {self.size_bytes}")
        return offset_bytes // BLOCK_SIZE, (offset_bytes + size_bytes) // BLOCK_SIZE

    def _store(self, first: int, stop: int, versions: tuple[int, ...], *, fua: bool) -> None:
        assert len(versions) == stop - first
        if self.write_cache:
            if fua:
                for block in range(first, stop):
                    self._stable_versions.pop(block, None)
            else:
                for block, stable in enumerate(self._versions[first:stop].tolist(), first):
                    self._stable_versions.setdefault(block, stable)
        self._versions[first:stop] = versions
