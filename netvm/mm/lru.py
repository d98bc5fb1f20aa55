"""LRU lists: the order in which reclaim meets pages.

Mirrors ``struct lruvec`` and mm/swap.c: five lists, the per-cpu batches in front of them (``lru_add``,
``lru_rotate``), and the sizes of the isolated sets. Reclaim takes from a list's tail and puts survivors back at its
head.

A list is a ring of frame numbers between a tail and a head index that only move outwards and inwards; a frame remembers
its place in the ring (``lru_slot``), so it can be taken out of the middle by leaving a hole. Whole batches are added,
taken and rotated as array slices.

The batches matter: a page in ``lru_add`` is invisible to reclaim until a drain, and a page whose write has ended
moves to the inactive tail only when 15 of them are flushed.

A memory group (:mod:`netvm.mm.memcontrol`) has lists of its own. The node's :class:`Lruvec` is that of all pages that
belong to no group; what it is given of a group's pages it hands down. Counts are of a lruvec and all below it.

# MODEL: each group has batches of its own, where a CPU has one for the pages of all groups.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.mm.frames import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_REFERENCED,
    PG_UNEVICTABLE,
    Frames,
    PfnArray,
)
from netvm.trace.vmstat import VmStat

__all__ = [
    "ACTIVE_ANON",
    "ACTIVE_FILE",
    "INACTIVE_ANON",
    "INACTIVE_FILE",
    "LRU_NAMES",
    "PAGEVEC_SIZE",
    "UNEVICTABLE_LIST",
    "LruList",
    "Lruvec",
]

INACTIVE_ANON: Final = 0
ACTIVE_ANON: Final = 1
INACTIVE_FILE: Final = 2
ACTIVE_FILE: Final = 3
UNEVICTABLE_LIST: Final = 4
LRU_NAMES: Final = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")

PAGEVEC_SIZE: Final = 15

_HOW_IT_STANDS: Final = PG_LRU | PG_LOCKED | PG_DIRTY | PG_UNEVICTABLE
_HOLE: Final = -1
_ON_LRU = np.uint16(PG_LRU)


class LruList:
    """One list: oldest at the tail, newest at the head."""

    __slots__ = ("_frames", "_head", "_mask", "_ring", "_slot", "_tail", "size")

    def __init__(self, frames: Frames, capacity: int = 256) -> None:
        assert capacity & (capacity - 1) == 0
        self._frames = frames
        self._slot = frames.lru_slot
        self._ring: npt.NDArray[np.int32] = np.full(capacity, _HOLE, dtype=np.int32)
        self._mask = capacity - 1
        # invariant: entries lie at indices tail <= i < head; those that are no hole number ``size``
        self._tail = 0
        self._head = 0
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def _make_room(self, nr: int) -> None:
        """Close the holes of a ring that is full, and make it larger if that is not enough."""
        pages = self.pages()
        capacity = self._mask + 1
        while capacity < 2 * (len(pages) + nr):
            capacity *= 2
        if capacity != self._mask + 1:
            self._ring = np.empty(capacity, dtype=np.int32)
            self._mask = capacity - 1
        self._tail = 0
        self._head = len(pages)
        self._ring[: len(pages)] = pages
        self._slot[pages] = _places(0, len(pages))

    def add_head(self, pfns: PfnArray) -> None:
        """Add pages at the head, one after another: the last becomes the newest."""
        nr = len(pfns)
        if self._head - self._tail + nr > self._mask + 1:
            self._make_room(nr)
        start = self._head & self._mask
        stop = start + nr
        if stop <= self._mask + 1:
            self._ring[start:stop] = pfns
            self._slot[pfns] = _places(start, stop)
        else:
            places = np.arange(start, stop) & self._mask
            self._ring[places] = pfns
            self._slot[pfns] = places
        self._head += nr
        self.size += nr

    def add_tail(self, pfns: PfnArray) -> None:
        """Add pages at the tail, one after another: the last is scanned first."""
        nr = len(pfns)
        if self._head - self._tail + nr > self._mask + 1:
            self._make_room(nr)
        start = (self._tail - nr) & self._mask
        stop = start + nr
        last_first = pfns[::-1]
        if stop <= self._mask + 1:
            self._ring[start:stop] = last_first
            self._slot[last_first] = _places(start, stop)
        else:
            places = np.arange(start, stop) & self._mask
            self._ring[places] = last_first
            self._slot[last_first] = places
        self._tail -= nr
        self.size += nr

    def remove(self, pfn: int) -> None:
        """Take one page out, wherever it is."""
        place = self._frames.lru_slot_of[pfn]
        assert self._ring[place] == pfn, f"frame {pfn} is not on this list"
        self._ring[place] = _HOLE
        self.size -= 1

    def remove_many(self, pfns: PfnArray) -> None:
        """Take pages out, wherever they are."""
        places = self._slot[pfns].astype(np.intp)
        assert self._ring[places].tolist() == pfns.tolist(), "a frame is not on this list"
        self._ring[places] = _HOLE
        self.size -= len(pfns)

    def isolate_tail(self, nr: int) -> PfnArray:
        """Take up to ``nr`` pages from the tail, oldest first; shape ``(<= nr,)``."""
        nr = min(nr, self.size)
        if not nr:
            return _NOTHING
        start = self._tail & self._mask
        stop = start + nr
        if stop <= self._mask + 1:
            taken: PfnArray = self._ring[start:stop].astype(np.intp)
            if self._head - self._tail == self.size or _HOLE not in taken.tolist():
                self._tail += nr
                self.size -= nr
                return taken
        return self._isolate_past_holes(nr)

    def isolate_below(self, nr: int, end_pfn: int) -> tuple[PfnArray, PfnArray]:
        """Take up to ``nr`` pages of frames below ``end_pfn`` from the tail; those met before them go to the head.

        Returns both, oldest first. The order at the head is that of the tail: whoever looks next meets others first
        (isolate_lru_folios).
        """
        pages = self.pages()
        found = np.flatnonzero(pages < end_pfn)[:nr]
        met = pages[: int(found[-1]) + 1] if len(found) == nr else pages
        eligible = met < end_pfn
        skipped = met[~eligible]
        self.isolate_tail(len(met))
        self.add_head(skipped)
        return met[eligible], skipped

    def nr_below(self, end_pfn: int) -> int:
        """Return how many pages are of frames below ``end_pfn`` (lruvec_lru_size)."""
        return int(np.count_nonzero(self.pages() < end_pfn))

    def _isolate_past_holes(self, nr: int) -> PfnArray:
        span = nr
        limit = self._head - self._tail
        while True:
            span = min(span, limit)
            window = self._ring[np.arange(self._tail, self._tail + span) & self._mask]
            found = np.flatnonzero(window >= 0)
            if len(found) >= nr:
                found = found[:nr]
                self._tail += int(found[-1]) + 1
                self.size -= nr
                result: PfnArray = window[found].astype(np.intp)
                return result
            assert span < limit, "the list has fewer pages than its size says"
            span = span * 2 + 32

    def pages(self) -> PfnArray:
        """Return all pages, oldest first."""
        window = self._ring[np.arange(self._tail, self._head) & self._mask]
        result: PfnArray = window[window >= 0].astype(np.intp)
        return result


_NR_PLACES: Final = 1 << 14
_PLACES = np.arange(_NR_PLACES, dtype=np.uint32)
_NOTHING: PfnArray = np.zeros(0, dtype=np.intp)


def _places(start: int, stop: int) -> npt.NDArray[np.uint32]:
    """Return places in a ring one after another: a slice of those at hand, or new ones far out in a long list."""
    return _PLACES[start:stop] if stop <= _NR_PLACES else np.arange(start, stop, dtype=np.uint32)


class Lruvec:
    """The node's lists with their batches, costs and refault clock (``struct lruvec``)."""

    __slots__ = (
        "_add_batch",
        "_rotate_batch",
        "anon_cost",
        "by_memcg",
        "congested",
        "file_cost",
        "frames",
        "lists",
        "nonresident_age",
        "parent",
        "refaults_anon",
        "refaults_file",
        "vmstat",
    )

    def __init__(self, frames: Frames, vmstat: VmStat, *, parent: "Lruvec | None" = None) -> None:
        self.frames = frames
        self.vmstat = vmstat
        self.parent = parent
        self.by_memcg: list[Lruvec] = []
        """Of the node, on a host with memory groups: itself, then each group's."""
        self.lists = [LruList(frames) for _ in range(5)]
        self.anon_cost = 0
        self.file_cost = 0
        self.nonresident_age = 0
        self.refaults_anon = 0
        self.refaults_file = 0
        self.congested = False
        self._add_batch: list[int] = []
        self._rotate_batch: list[int] = []

    # -- groups ---------------------------------------------------------------------------------------------------

    def tree(self) -> "list[Lruvec]":
        """Return this lruvec and all below it, in the order in which reclaim visits them (mem_cgroup_iter)."""
        return self.by_memcg or [self]

    def nr_pages(self, lru: int) -> int:
        """Return the pages on one list, groups below included (lruvec_page_state)."""
        if not self.by_memcg:
            return self.lists[lru].size
        return sum(lruvec.lists[lru].size for lruvec in self.by_memcg)

    def _by_group(self, pfns: list[int]) -> "Iterator[tuple[Lruvec, list[int]]]":
        """Generate each group that pages belong to, and its pages in order; the node's own come first."""
        memcg_of = self.frames.memcg_of
        for memcg, lruvec in enumerate(self.by_memcg):
            mine = [pfn for pfn in pfns if memcg_of[pfn] == memcg]
            if mine:
                yield lruvec, mine

    def workingset_age_nonresident(self, nr_pages: int) -> None:
        """Let the refault clock go on, here and above, by pages activated or evicted."""
        self.nonresident_age += nr_pages
        if self.parent is not None:
            self.parent.workingset_age_nonresident(nr_pages)

    # -- pages come and go ----------------------------------------------------------------------------------------

    def lru_of(self, pfn: int) -> int:
        """Return which list a page belongs on (folio_lru_list): by what backs it, and whether it is active.

        A page of a file carries the negative id of its address space.
        """
        flags = self.frames.flags_of[pfn]
        if flags & PG_UNEVICTABLE:
            return UNEVICTABLE_LIST
        return (2 if self.frames.mapping_of[pfn] < 0 else 0) + (1 if flags & PG_ACTIVE else 0)

    def folio_add_lru(self, pfn: int) -> None:
        """Put a new page in the ``lru_add`` batch; a full batch is flushed."""
        if self.by_memcg and self.frames.memcg_of[pfn]:
            self.by_memcg[self.frames.memcg_of[pfn]].folio_add_lru(pfn)
            return
        batch = self._add_batch
        batch.append(pfn)
        if len(batch) >= PAGEVEC_SIZE:
            self._flush_add()

    def add_many(self, pfns: PfnArray, *, file: bool = False) -> None:
        """Put new inactive pages of one type and group in the batch in order, flushing as it fills."""
        if self.by_memcg and (memcg := self.frames.memcg_of[int(pfns[0])]):
            self.by_memcg[memcg].add_many(pfns, file=file)
            return
        batch = self._add_batch
        nr = len(pfns)
        if len(batch) + nr < PAGEVEC_SIZE:
            batch.extend(pfns.tolist())
            return
        flushed = (len(batch) + nr) // PAGEVEC_SIZE * PAGEVEC_SIZE - len(batch)
        if batch:
            self._flush_add()
        head = pfns[:flushed]
        self.frames.flags[head] |= _ON_LRU
        self.lists[INACTIVE_FILE if file else INACTIVE_ANON].add_head(head)
        self._add_batch.extend(pfns[flushed:].tolist())

    def _flush_add(self) -> None:
        flags, mapping = self.frames.flags_of, self.frames.mapping_of
        pages = self._add_batch
        self._add_batch = []
        # mostly new pages of one kind
        file = mapping[pages[0]] < 0
        odd = [pfn for pfn in pages if flags[pfn] & (PG_ACTIVE | PG_UNEVICTABLE) or (mapping[pfn] < 0) is not file]
        if not odd:
            added = np.array(pages, dtype=np.intp)
            self.frames.flags[added] |= _ON_LRU
            self.lists[INACTIVE_FILE if file else INACTIVE_ANON].add_head(added)
            return
        run: list[int] = []
        run_lru = INACTIVE_ANON
        for pfn in pages:
            lru = self.lru_of(pfn)
            if lru != run_lru and run:
                self.lists[run_lru].add_head(np.array(run, dtype=np.intp))
                run = []
            run_lru = lru
            flags[pfn] |= PG_LRU
            run.append(pfn)
        if run:
            self.lists[run_lru].add_head(np.array(run, dtype=np.intp))

    def folio_rotate_reclaimable(self, pfns: list[int]) -> None:
        """Queue pages whose write has ended for the inactive tail (folio_rotate_reclaimable), in batches of 15."""
        if self.by_memcg:
            for lruvec, mine in self._by_group(pfns):
                lruvec.rotate(mine)
            return
        self.rotate(pfns)

    def rotate(self, pfns: list[int]) -> None:
        """Queue pages of this lruvec for the tail of their inactive list."""
        flags = self.frames.flags_of
        ready = [pfn for pfn in pfns if flags[pfn] & _HOW_IT_STANDS == PG_LRU]
        queued = self._rotate_batch + ready
        # full batches that are flushed one after another come to the same as one that is as long
        nr_full = len(queued) // PAGEVEC_SIZE * PAGEVEC_SIZE
        if nr_full:
            self._rotate_batch = queued[:nr_full]
            self._flush_rotate()
        self._rotate_batch = queued[nr_full:]

    def _flush_rotate(self) -> None:
        """Move the batch to the inactive tail (lru_move_tail_fn)."""
        pages = self._rotate_batch
        self._rotate_batch = []
        flags, mapping = self.frames.flags_of, self.frames.mapping_of
        # isolated, freed or unevictable meanwhile: leave it alone
        pages = [pfn for pfn in pages if flags[pfn] & (PG_LRU | PG_UNEVICTABLE) == PG_LRU]
        anon = [pfn for pfn in pages if mapping[pfn] >= 0]
        if anon:
            self._move_to_inactive_tail(INACTIVE_ANON, anon)
        if len(anon) < len(pages):
            self._move_to_inactive_tail(INACTIVE_FILE, [pfn for pfn in pages if mapping[pfn] < 0])

    def _move_to_inactive_tail(self, inactive: int, pages: list[int]) -> None:
        flags = self.frames.flags_of
        moved = np.array(pages, dtype=np.intp)
        active = [pfn for pfn in pages if flags[pfn] & PG_ACTIVE]
        if len(active) == len(pages):
            self.lists[inactive + 1].remove_many(moved)
        elif active:
            self.lists[inactive + 1].remove_many(np.array(active, dtype=np.intp))
            self.lists[inactive].remove_many(
                np.array([pfn for pfn in pages if not flags[pfn] & PG_ACTIVE], dtype=np.intp)
            )
        else:
            self.lists[inactive].remove_many(moved)
        for pfn in active:
            flags[pfn] &= ~PG_ACTIVE
        self.lists[inactive].add_tail(moved)
        self.vmstat.pgrotated += len(pages)

    def mark_accessed(self, pfns: list[int]) -> None:
        """Note that pages were read: twice while inactive and they are active (folio_mark_accessed).

        # MODEL: a page is moved at once, as on one CPU; activation of a page in the ``lru_add`` batch waits for it.
        """
        if self.by_memcg:
            for lruvec, mine in self._by_group(pfns):
                lruvec.activate(mine)
            return
        self.activate(pfns)

    def activate(self, pfns: list[int]) -> None:
        """Note that pages of this lruvec were read."""
        flags = self.frames.flags_of
        for pfn in pfns:
            state = flags[pfn]
            if not state & PG_REFERENCED:
                flags[pfn] = state | PG_REFERENCED
            elif not state & (PG_ACTIVE | PG_UNEVICTABLE):
                if state & PG_LRU:
                    self.lists[self.lru_of(pfn)].remove(pfn)
                    flags[pfn] = state & ~PG_REFERENCED | PG_ACTIVE
                    self.lists[self.lru_of(pfn)].add_head(np.array([pfn], dtype=np.intp))
                    self.vmstat.pgactivate += 1
                else:
                    flags[pfn] = state & ~PG_REFERENCED | PG_ACTIVE
                self.workingset_age_nonresident(1)

    def lru_add_drain(self) -> None:
        """Flush both batches, those of groups too (lru_add_drain)."""
        for lruvec in self.by_memcg[1:]:
            lruvec.lru_add_drain()
        if self._add_batch:
            self._flush_add()
        if self._rotate_batch:
            self._flush_rotate()

    def forget(self, pfn: int) -> None:
        """Take a page that is freed off its list or out of the batches."""
        if self.by_memcg and self.frames.memcg_of[pfn]:
            self.by_memcg[self.frames.memcg_of[pfn]].forget(pfn)
            return
        flags = self.frames.flags_of
        if flags[pfn] & PG_LRU:
            self.lists[self.lru_of(pfn)].remove(pfn)
            flags[pfn] &= ~PG_LRU
        elif pfn in self._add_batch:
            self._add_batch.remove(pfn)
        if pfn in self._rotate_batch:
            self._rotate_batch.remove(pfn)

    def forget_many(self, pfns: PfnArray) -> None:
        """Take pages that are freed off their lists (munmap, exit)."""
        self.lru_add_drain()
        self.isolate(pfns)

    def isolate(self, pfns: PfnArray) -> None:
        """Take pages off their lists, whatever group they belong to; batches keep what they hold."""
        if not self.by_memcg:
            self.take_off(pfns)
            return
        for lruvec, mine in self._by_group(pfns.tolist()):
            lruvec.take_off(np.array(mine, dtype=np.intp))

    def take_off(self, pfns: PfnArray) -> None:
        """Take pages of this lruvec off its lists."""
        state = self.frames.flags[pfns]
        kind = np.where(self.frames.mapping[pfns] < 0, 2, 0) + (state & PG_ACTIVE != 0)
        kind[state & PG_UNEVICTABLE != 0] = UNEVICTABLE_LIST
        kind[state & PG_LRU == 0] = -1
        for lru in range(len(self.lists)):
            here = pfns[kind == lru]
            if len(here):
                self.lists[lru].remove_many(here)
        self.frames.flags[pfns] &= ~np.uint16(PG_LRU)

    @property
    def nr_batched(self) -> int:
        """Pages in the ``lru_add`` batch: on no list yet."""
        return len(self._add_batch) + sum(lruvec.nr_batched for lruvec in self.by_memcg[1:])

    @property
    def batched(self) -> list[int]:
        """The pages in the ``lru_add`` batch."""
        return [*self._add_batch, *(pfn for lruvec in self.by_memcg[1:] for pfn in lruvec.batched)]

    @property
    def rotating(self) -> list[int]:
        """The pages in the ``lru_rotate`` batch, which holds a reference to each."""
        return [*self._rotate_batch, *(pfn for lruvec in self.by_memcg[1:] for pfn in lruvec.rotating)]

    def note_cost(self, *, file: bool, nr_pages: int) -> None:
        """Remember what reclaiming a type has cost, here and above; old costs fade (lru_note_cost)."""
        if self.parent is not None:
            self.parent.note_cost(file=file, nr_pages=nr_pages)
        if file:
            self.file_cost += nr_pages
        else:
            self.anon_cost += nr_pages
        lrusize = self.nr_pages(0) + self.nr_pages(1) + self.nr_pages(2) + self.nr_pages(3)
        if self.anon_cost + self.file_cost > lrusize // 4:
            self.anon_cost //= 2
            self.file_cost //= 2
