"""The frames: one ``struct page`` a page frame, as columns.

Mirrors ``struct page``. Per-frame state lives in numpy columns indexed by pfn: batches are worked on as arrays, single
frames through a memoryview of the same memory, whose items are plain Python integers. The columns of a host are made
from zeroed memory that the operating system hands out when it is touched, so a 64 GiB host boots at once and costs what
it uses.

A frame takes 23 bytes here, and 4 more in the ring of the LRU list it is on (:mod:`netvm.mm.lru`). ``index`` and
``swap`` hold value + 1 so that zero means none.
"""

import mmap
import sys
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALLOCATION_FLAGS",
    "BYTES_PER_FRAME",
    "PG_ACTIVE",
    "PG_BUDDY",
    "PG_DIRTY",
    "PG_LOCKED",
    "PG_LRU",
    "PG_PCP",
    "PG_PFMEMALLOC",
    "PG_READAHEAD",
    "PG_RECLAIM",
    "PG_REFERENCED",
    "PG_RESERVE",
    "PG_SWAPBACKED",
    "PG_SWAPCACHE",
    "PG_UNEVICTABLE",
    "PG_WORKINGSET",
    "PG_WRITEBACK",
    "Frames",
    "PfnArray",
    "common_item",
    "grown",
    "is_blank",
    "scalar_view",
]

PfnArray: TypeAlias = npt.NDArray[np.intp]
"""Page frame numbers; intp, so that numpy indexes with it directly."""

_LARGE_BYTES: Final = 64 << 20
"""From so much on a column is likely to be used here and there."""
_GROWN_ITEMS: Final = 1 << 16
"""What a column is looked at in when it grows."""

PG_LOCKED: Final = 0x0001
PG_REFERENCED: Final = 0x0002
PG_DIRTY: Final = 0x0004
PG_LRU: Final = 0x0008
PG_ACTIVE: Final = 0x0010
PG_WORKINGSET: Final = 0x0020
PG_SWAPBACKED: Final = 0x0040
PG_RECLAIM: Final = 0x0080
PG_SWAPCACHE: Final = 0x0100
PG_WRITEBACK: Final = 0x0200
PG_UNEVICTABLE: Final = 0x0400
PG_BUDDY: Final = 0x0800
"""Head of a free block."""
PG_PFMEMALLOC: Final = 0x1000
"""Came from an attempt that ignored the watermarks."""
PG_RESERVE: Final = 0x2000
"""Taken from below the mark that an ordinary request must leave: our ledger's bit, not the kernel's."""
PG_READAHEAD: Final = 0x4000
PG_PCP: Final = 0x8000
"""On a per-cpu list."""

ALLOCATION_FLAGS: Final = PG_PFMEMALLOC | PG_RESERVE
"""What a page keeps of its allocation when it gets its use."""
BYTES_PER_FRAME: Final = 23


class Frames:
    """The columns of one host, and single-frame views of them."""

    __slots__ = (
        "block",
        "block_of",
        "flags",
        "flags_of",
        "index",
        "index_of",
        "lru_slot",
        "lru_slot_of",
        "mapping",
        "mapping_of",
        "memcg",
        "memcg_of",
        "nr_frames",
        "owner",
        "owner_of",
        "pins",
        "pins_of",
        "swap",
        "swap_of",
    )

    def __init__(self, nr_frames: int) -> None:
        assert 0 < nr_frames < 1 << 31
        self.nr_frames = nr_frames
        self.flags: npt.NDArray[np.uint16] = np.zeros(nr_frames, dtype=np.uint16)
        """``PG_*`` bits."""
        self.block: npt.NDArray[np.uint8] = np.zeros(nr_frames, dtype=np.uint8)
        """Of a free block's head: order, and the migrate type of its list in the high nibble. Of an allocated block's
        head: its order. Of a page on a per-cpu list: the migrate type it was freed with."""
        self.owner: npt.NDArray[np.uint16] = np.zeros(nr_frames, dtype=np.uint16)
        """Who holds the page (:mod:`netvm.mm.ledger`); 0 is free."""
        self.mapping: npt.NDArray[np.int32] = np.zeros(nr_frames, dtype=np.int32)
        """Id of the address space that maps an anonymous page; of a file page the negative id of its file; 0: none."""
        self.index: npt.NDArray[np.int32] = np.zeros(nr_frames, dtype=np.int32)
        """Virtual page number in that address space, or page number in the file, + 1."""
        self.swap: npt.NDArray[np.int32] = np.zeros(nr_frames, dtype=np.int32)
        """Swap slot + 1 of a page in the swap cache (``page->private``)."""
        self.lru_slot: npt.NDArray[np.uint32] = np.zeros(nr_frames, dtype=np.uint32)
        """Place in the ring of its LRU list."""
        self.pins: npt.NDArray[np.uint8] = np.zeros(nr_frames, dtype=np.uint8)
        """References beyond the mapping, the swap cache and isolation (``page_count`` above what reclaim expects)."""
        self.memcg: npt.NDArray[np.uint8] = np.zeros(nr_frames, dtype=np.uint8)
        """Memory group that a page of a program or file is charged to (:mod:`netvm.mm.memcontrol`); 0: none."""
        self.flags_of = scalar_view(self.flags)
        self.block_of = scalar_view(self.block)
        self.owner_of = scalar_view(self.owner)
        self.mapping_of = scalar_view(self.mapping)
        self.index_of = scalar_view(self.index)
        self.swap_of = scalar_view(self.swap)
        self.lru_slot_of = scalar_view(self.lru_slot)
        self.pins_of = scalar_view(self.pins)
        self.memcg_of = scalar_view(self.memcg)


def is_blank(column: npt.NDArray[Any]) -> bool:
    """Return whether a short piece of a column is all zero; ``any()`` of numpy takes six times as long."""
    return not column.tobytes().strip(b"\0")


def _zeros(capacity: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return a blank column that takes memory by the small page, not by the huge one, if it is a large one."""
    size_bytes = capacity * dtype.itemsize
    if size_bytes < _LARGE_BYTES or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(capacity, dtype=dtype)
    try:
        memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"a column of {size_bytes} bytes: {error.strerror}") from None
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype)


def grown(column: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    """Return a column with room for so many items, blank behind those that it had.

    Memory that nobody has written to stays so, in the old part as in the new: a column costs what is used of it. Raises
    MemoryError.
    """
    found = _zeros(capacity, column.dtype)
    for start in range(0, len(column), _GROWN_ITEMS):
        part = column[start : start + _GROWN_ITEMS]
        if part.any():
            found[start : start + len(part)] = part
    return found


def common_item(piece: npt.NDArray[Any]) -> int | None:
    """Return what all items of a short array of integers are, 0 if it has none; None if they differ."""
    raw, width = piece.tobytes(), piece.itemsize
    if raw != raw[:width] * len(piece):
        return None
    return int.from_bytes(raw[:width], sys.byteorder, signed=piece.dtype.kind == "i")


def scalar_view(column: npt.NDArray[Any]) -> "memoryview[int]":
    """Return a column's memory item by item, as plain integers."""
    return memoryview(column)  # type: ignore[arg-type]  # numpy's stubs do not declare the buffer protocol for 3.11
