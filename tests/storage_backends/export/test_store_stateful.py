"""The store against the dumbest model that can be right: two dicts of block to version."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage_backends.export.store import BlockStore
from storage_backends.wire import BLOCK_SIZE, Blocks

NR_BLOCKS = 8
BLOCKS = st.integers(0, NR_BLOCKS - 1)
COUNTS = st.integers(1, NR_BLOCKS)


class StoreMachine(RuleBasedStateMachine):
    """Writes, trims, flushes and power cuts on a store with a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.store = BlockStore(NR_BLOCKS * BLOCK_SIZE, write_cache=True)
        self.newest: dict[int, int] = {}
        self.stable: dict[int, int] = {}
        self.version = 0

    @rule(first=BLOCKS, count=COUNTS, fua=st.booleans())
    def write(self, first: int, count: int, *, fua: bool) -> None:
        """Write new versions; a range over the end is refused and changes nothing."""
        versions = tuple(range(self.version + 1, self.version + 1 + count))
        self.version += count
        if first + count > NR_BLOCKS:
            with pytest.raises(ValueError, match="outside an export"):
                self.store.write(first * BLOCK_SIZE, Blocks.of(versions), fua=fua)
            return
        self.store.write(first * BLOCK_SIZE, Blocks.of(versions), fua=fua)
        written = dict(enumerate(versions, first))
        self.newest.update(written)
        if fua:
            self.stable.update(written)

    @rule(block=BLOCKS)
    def trim(self, block: int) -> None:
        """Forget one block, through the cache."""
        self.store.trim(block * BLOCK_SIZE, BLOCK_SIZE)
        self.newest[block] = 0

    @rule()
    def flush(self) -> None:
        """Make everything stable."""
        self.store.flush()
        self.stable = dict(self.newest)

    @rule()
    def lose_uncommitted(self) -> None:
        """Cut the power."""
        self.store.lose_uncommitted()
        self.newest = dict(self.stable)

    @invariant()
    def reads_are_the_newest(self) -> None:
        """Every block reads as the model's newest version."""
        expected = tuple(self.newest.get(block, 0) for block in range(NR_BLOCKS))
        assert self.store.read(0, NR_BLOCKS * BLOCK_SIZE) == Blocks.of(expected)


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
