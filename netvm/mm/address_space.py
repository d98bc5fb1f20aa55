"""A process's anonymous memory: page tables as columns, and its resident set.

Mirrors ``struct mm_struct`` as far as anonymous memory needs it: one mapping, its PTEs and their young, dirty and
write bits, the counters that oom_badness adds up, and the state of VMA readahead. A PTE column of 32-bit integers
holds frame + 1 for a mapped page, -(slot + 1) for a swapped one and 0 for none.

Page tables take memory: one unmovable page for each 512 PTEs, when the first of them is used.

A program's *image*, if it has one, is a mapping beside it: the pages of its stack and its data, which reclaim swaps out
as any others. What every step of the program uses of them must be there before it can go on. That is how one hot page,
swapped out by scans that follow each other before the program has run again, makes it wait behind all that is being
written.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from netvm.mm.frames import scalar_view
from netvm.runtime.task import Task
from netvm.trace.latency import TouchRecorder

if TYPE_CHECKING:
    from netvm.runtime.wait import RwSemaphore, WaitQueue

__all__ = ["BOOT_TABLE", "OOM_SCORE_ADJ_MIN", "PTE_DIRTY", "PTE_WRITE", "PTE_YOUNG", "PTRS_PER_PTE", "AddressSpace"]

PTE_YOUNG: Final = 1
PTE_DIRTY: Final = 2
PTE_WRITE: Final = 4
PTRS_PER_PTE: Final = 512
BOOT_TABLE: Final = 0
"""Stands for a page table that is not counted: the frame is the kernel's own."""
OOM_SCORE_ADJ_MIN: Final = -1000
"""The oom_score_adj of who is never killed."""

_NOWHERE: Final = -2
"""A page number that is nobody's neighbour: the address 0 that readahead starts from lies in no mapping."""


class AddressSpace:
    """One process's anonymous mapping (``struct mm_struct`` with one VMA)."""

    __slots__ = (
        "bits",
        "bits_at",
        "bits_of",
        "comm",
        "hot",
        "id",
        "image",
        "killed",
        "memcg",
        "mmap_lock",
        "nr_anon",
        "nr_page_tables",
        "nr_pages",
        "nr_swap",
        "nr_threads",
        "oom_reaped",
        "oom_score_adj",
        "pte",
        "pte_of",
        "ra_addr",
        "ra_hits",
        "ra_win",
        "table_of",
        "tasks",
        "touches",
        "unlocked",
        "version",
        "version_of",
    )

    def __init__(self, space_id: int, comm: str, nr_pages: int, *, oom_score_adj: int = 0) -> None:
        assert space_id > 0
        self.id = space_id
        self.comm = comm
        self.nr_pages = nr_pages
        self.oom_score_adj = oom_score_adj
        self.pte: npt.NDArray[np.int32] = np.zeros(nr_pages, dtype=np.int32)
        self.bits_at: npt.NDArray[np.uint8] = np.zeros(nr_pages + 1, dtype=np.uint8)
        """``PTE_*`` bits of mapped pages by page number + 1, as ``Frames.index`` has it."""
        self.bits = self.bits_at[1:]
        """The same by page number."""
        self.version: npt.NDArray[np.int64] = np.zeros(nr_pages, dtype=np.int64)
        """What the program last wrote to each page: its content, as integrity checking knows it. 0 is never written."""
        self.pte_of = scalar_view(self.pte)
        self.bits_of = scalar_view(self.bits)
        self.version_of = scalar_view(self.version)
        self.table_of: list[int] = [-1] * (-(-nr_pages // PTRS_PER_PTE))
        """Frame of each page-table page, -1 before its first use."""
        self.nr_anon = 0
        self.nr_swap = 0
        self.nr_page_tables = 0
        self.ra_addr = _NOWHERE
        self.ra_win = 0
        self.ra_hits = 4
        self.tasks: list[Task] = []
        """Its threads that have come and are not gone."""
        self.nr_threads = 1
        """Threads that use it or will."""
        self.mmap_lock: RwSemaphore | None = None
        """Taken by faults for reading and by whoever changes the mapping for writing; None: only one thread ever."""
        self.touches: dict[Task, TouchRecorder] = {}
        """Where the report of each of its threads is kept."""
        self.memcg = 0
        """Memory group its pages are charged to; 0: none."""
        self.image: AddressSpace | None = None
        """The program's own pages, its stack and its data; None: a program that keeps them in memory (mlock)."""
        self.hot: tuple[tuple[int, bool], ...] = ()
        """Of an image: the pages that each step of the program uses, and whether it writes them."""
        self.killed = False
        self.oom_reaped = False
        """MMF_OOM_SKIP: the OOM killer is through with it."""
        self.unlocked: WaitQueue | None = None

    @property
    def task(self) -> Task | None:
        """A thread of it; None before the first has come and when the last has gone."""
        return self.tasks[0] if self.tasks else None

    def used(self) -> list[slice]:
        """Return the ranges of page numbers that have page tables: all that is mapped or swapped is in one of them."""
        tables = np.flatnonzero(np.array(self.table_of, dtype=np.intp) >= 0)
        if not len(tables):
            return []
        starts = np.flatnonzero(np.diff(tables, prepend=-2) > 1)
        ends = [*(starts[1:] - 1).tolist(), len(tables) - 1]
        first, last = tables[starts].tolist(), tables[ends].tolist()
        return [slice(a * PTRS_PER_PTE, (b + 1) * PTRS_PER_PTE) for a, b in zip(first, last, strict=True)]

    def resident(self) -> npt.NDArray[np.intp]:
        """Return the virtual page numbers that are mapped."""
        return self._where(lambda entries: entries > 0)

    def swapped(self) -> npt.NDArray[np.intp]:
        """Return the virtual page numbers that are in swap."""
        return self._where(lambda entries: entries < 0)

    def _where(self, holds: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]) -> npt.NDArray[np.intp]:
        found = [np.flatnonzero(holds(self.pte[part])) + part.start for part in self.used()]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.intp)
