"""LRU lists against deques, and the batches in front of them against plain lists."""

from collections import deque

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from netvm.mm.frames import PG_ACTIVE, PG_DIRTY, PG_LRU, Frames
from netvm.mm.invariants import check_lruvec
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON, PAGEVEC_SIZE, LruList, Lruvec
from netvm.trace.vmstat import VmStat

NR_FRAMES = 128


class ListMachine(RuleBasedStateMachine):
    """One list whose ring begins tiny, so that it wraps, fills with holes and grows."""

    def __init__(self):
        super().__init__()
        self.lru = LruList(Frames(NR_FRAMES), capacity=4)
        self.model = deque()
        """Oldest first."""
        self.off = list(range(NR_FRAMES))

    def _take(self, nr):
        pages, self.off = self.off[:nr], self.off[nr:]
        return pages

    @rule(nr=st.integers(0, 20))
    def add_head(self, nr):
        """Add some at the head."""
        pages = self._take(nr)
        self.lru.add_head(np.array(pages, dtype=np.intp))
        self.model.extend(pages)

    @rule(nr=st.integers(0, 20))
    def add_tail(self, nr):
        """Add some at the tail, each outside the one before."""
        pages = self._take(nr)
        self.lru.add_tail(np.array(pages, dtype=np.intp))
        self.model.extendleft(pages)

    @rule(nr=st.integers(0, 40))
    def isolate(self, nr):
        """Take the oldest."""
        expected = [self.model.popleft() for _ in range(min(nr, len(self.model)))]
        assert self.lru.isolate_tail(nr).tolist() == expected
        self.off += expected

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data):
        """Take one from anywhere."""
        pfn = data.draw(st.sampled_from(sorted(self.model)))
        self.lru.remove(pfn)
        self.model.remove(pfn)
        self.off.append(pfn)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), every=st.integers(1, 5))
    def remove_many(self, data, every):
        """Take some from everywhere, in any order."""
        pages = data.draw(st.permutations(list(self.model)[::every]))
        self.lru.remove_many(np.array(pages, dtype=np.intp))
        for pfn in pages:
            self.model.remove(pfn)
        self.off += pages

    @rule()
    def turn(self):
        """Move everything from the tail to the head, as reclaim does with what it keeps."""
        pages = self.lru.isolate_tail(NR_FRAMES)
        self.lru.add_head(pages)

    @invariant()
    def same_order(self):
        """The list is the deque."""
        assert len(self.lru) == len(self.model)
        assert self.lru.pages().tolist() == list(self.model)


class LruvecMachine(RuleBasedStateMachine):
    """Pages that come, are isolated, put back, rotated and freed, through the batches."""

    def __init__(self):
        super().__init__()
        self.lruvec = Lruvec(Frames(NR_FRAMES), VmStat())
        self.flags = self.lruvec.frames.flags_of
        self.new = list(range(NR_FRAMES))
        self.isolated = []
        self.add_batch = []
        self.rotate_batch = []
        self.lists = {INACTIVE_ANON: [], ACTIVE_ANON: []}
        """Oldest first."""
        self.nr_rotated = 0

    def _flush_add(self):
        for pfn in self.add_batch:
            self.lists[ACTIVE_ANON if self.flags[pfn] & PG_ACTIVE else INACTIVE_ANON].append(pfn)
        self.add_batch = []

    def _flush_rotate(self):
        inactive, active = self.lists[INACTIVE_ANON], self.lists[ACTIVE_ANON]
        for pfn in self.rotate_batch:
            for pages in (inactive, active):
                if pfn in pages:
                    pages.remove(pfn)
                    inactive.insert(0, pfn)
                    self.nr_rotated += 1
                    break
        self.rotate_batch = []

    @rule(nr=st.integers(1, 40), together=st.booleans())
    def add(self, nr, together):
        """New pages come, one by one or as a run."""
        pages, self.new = self.new[:nr], self.new[nr:]
        for pfn in pages:
            self.add_batch.append(pfn)
        # a batch is flushed whenever it is full
        full = len(self.add_batch) // PAGEVEC_SIZE * PAGEVEC_SIZE
        rest = self.add_batch[full:]
        self.add_batch = self.add_batch[:full]
        self._flush_add()
        self.add_batch = rest
        if together:
            self.lruvec.add_many(np.array(pages, dtype=np.intp))
        else:
            for pfn in pages:
                self.lruvec.folio_add_lru(pfn)

    @precondition(lambda self: self.new)
    @rule()
    def add_active(self):
        """A page comes that is active at once."""
        pfn = self.new.pop()
        self.flags[pfn] |= PG_ACTIVE
        self.add_batch.append(pfn)
        if len(self.add_batch) == PAGEVEC_SIZE:
            self._flush_add()
        self.lruvec.folio_add_lru(pfn)

    @rule(nr=st.integers(0, 32), lru=st.sampled_from([INACTIVE_ANON, ACTIVE_ANON]))
    def isolate(self, nr, lru):
        """Drain, then take from the tail."""
        self._flush_add()
        self._flush_rotate()
        self.lruvec.lru_add_drain()
        taken = self.lruvec.lists[lru].isolate_tail(nr)
        self.lruvec.frames.flags[taken] &= np.uint16(~PG_LRU & 0xFFFF)
        expected = self.lists[lru][:nr]
        assert taken.tolist() == expected
        del self.lists[lru][:nr]
        self.isolated += expected

    @precondition(lambda self: self.isolated)
    @rule(nr=st.integers(1, 32), active=st.booleans())
    def put_back(self, nr, active):
        """Put some back at the head of a list."""
        pages, self.isolated = self.isolated[:nr], self.isolated[nr:]
        for pfn in pages:
            self.flags[pfn] = PG_LRU | (PG_ACTIVE if active else 0)
        lru = ACTIVE_ANON if active else INACTIVE_ANON
        self.lists[lru] += pages
        self.lruvec.lists[lru].add_head(np.array(pages, dtype=np.intp))

    @rule(data=st.data(), nr=st.integers(1, 20), dirty=st.booleans())
    def written(self, data, nr, dirty):
        """Writes end, of pages on lists and isolated ones; some are dirty again."""
        waiting = set(self.rotate_batch)
        pages = [p for p in [*self.lists[0], *self.lists[1], *self.isolated] if p not in waiting]
        chosen = data.draw(st.permutations(pages))[:nr]
        for pfn in chosen[:3] if dirty else []:
            self.flags[pfn] |= PG_DIRTY
        for pfn in chosen:
            if self.flags[pfn] & PG_LRU and not self.flags[pfn] & PG_DIRTY:
                self.rotate_batch.append(pfn)
                if len(self.rotate_batch) == PAGEVEC_SIZE:
                    self._flush_rotate()
        self.lruvec.folio_rotate_reclaimable(chosen)

    @precondition(lambda self: self.lists[0] or self.lists[1] or self.add_batch)
    @rule(data=st.data())
    def free_one(self, data):
        """A page on a list or in a batch is freed."""
        pfn = data.draw(st.sampled_from(sorted([*self.lists[0], *self.lists[1], *self.add_batch])))
        self.lruvec.forget(pfn)
        self._forget(pfn)

    @precondition(lambda self: self.lists[0] or self.lists[1])
    @rule(data=st.data())
    def free_many(self, data):
        """A program ends: pages of its own are freed together, after a drain."""
        self._flush_add()
        self._flush_rotate()
        pages = data.draw(st.permutations([*self.lists[0], *self.lists[1]]))[:30]
        self.lruvec.forget_many(np.array(pages, dtype=np.intp))
        for pfn in pages:
            self._forget(pfn)

    def _forget(self, pfn):
        for pages in (self.lists[0], self.lists[1], self.add_batch, self.rotate_batch):
            if pfn in pages:
                pages.remove(pfn)
        self.flags[pfn] = 0
        self.new.append(pfn)

    @rule()
    def drain(self):
        """Flush both batches."""
        self._flush_add()
        self._flush_rotate()
        self.lruvec.lru_add_drain()

    @invariant()
    def same_lists(self):
        """Lists, batch and count are the model's, and no page is lost."""
        for lru, pages in self.lists.items():
            assert self.lruvec.lists[lru].pages().tolist() == pages
        assert self.lruvec.batched == self.add_batch
        assert self.lruvec.vmstat.pgrotated == self.nr_rotated
        check_lruvec(self.lruvec, self.lruvec.frames)


@pytest.mark.parametrize("examples", [12, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("machine", [ListMachine, LruvecMachine])
def test_lru_against_lists(machine, examples: int) -> None:
    """However pages come and go, each list keeps the order of a plain list and loses none."""
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))
