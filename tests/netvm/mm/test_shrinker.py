"""Slab shrinkers: how many objects are asked for, what is put off, and what comes back."""

from typing import Any

import pytest

from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.shrinker import SHRINK_BATCH, SlabShrinkers
from netvm.trace.vmstat import VmStat


class _Cache:
    """Objects without memory."""

    name = "test"

    def __init__(self, nr: int, *, seeks: int = 2, batch: int = SHRINK_BATCH, willing: bool = True) -> None:
        self.nr = nr
        self.seeks = seeks
        self.batch = batch
        self.willing = willing
        self.asked: list[int] = []

    def count_objects(self) -> int:
        """All that is left."""
        return self.nr

    def scan_objects(self, task: Any, nr_to_scan: int, gfp: int) -> int:
        """Free what is asked for."""
        if not self.willing:
            return -1
        self.asked.append(nr_to_scan)
        freed = min(self.nr, nr_to_scan)
        self.nr -= freed
        return freed


def _shrink(shrinkers: SlabShrinkers, priority: int) -> int:
    task: Any = None
    return shrinkers.shrink_slab(task, GFP_KERNEL, priority)


@pytest.mark.parametrize(
    ("seeks", "priority", "expected"), [(2, 4, 2 * 65536 >> 4), (1, 6, 4 * 65536 >> 6), (0, 12, 32768)]
)
def test_a_part_of_the_objects_is_scanned(seeks: int, priority: int, expected: int) -> None:
    """Twice the objects at DEFAULT_SEEKS, shifted by the priority, in whole batches; half of them without seeks."""
    shrinkers = SlabShrinkers(VmStat())
    cache = _Cache(65536, seeks=seeks)
    shrinkers.register(cache)
    _shrink(shrinkers, priority)
    assert cache.asked == [SHRINK_BATCH] * (expected // SHRINK_BATCH)
    assert shrinkers.vmstat.slabs_scanned == expected


def test_less_than_a_batch_is_put_off_until_it_is_one() -> None:
    """At a low priority nothing is scanned; what was put off counts at a higher one."""
    shrinkers = SlabShrinkers(VmStat())
    cache = _Cache(100_000)
    shrinkers.register(cache)
    _shrink(shrinkers, 12)
    _shrink(shrinkers, 12)
    assert (cache.asked, shrinkers.deferred()) == ([], [96])
    _shrink(shrinkers, 0)
    assert sum(cache.asked) == 200_000 // SHRINK_BATCH * SHRINK_BATCH
    assert shrinkers.deferred() == [96 + 200_000 % SHRINK_BATCH]


def test_what_may_not_be_done_now_is_put_off() -> None:
    """A shrinker that stops leaves all of its share, at most twice its objects, to the next reclaimer."""
    shrinkers = SlabShrinkers(VmStat())
    cache = _Cache(1000, willing=False)
    shrinkers.register(cache)
    for _ in range(5):
        _shrink(shrinkers, 0)
    assert shrinkers.deferred() == [2000]
    cache.willing = True
    _shrink(shrinkers, 0)
    assert cache.nr == 0


def test_a_small_cache_is_scanned_whole() -> None:
    """Fewer objects than a batch are scanned when the share reaches all of them."""
    shrinkers = SlabShrinkers(VmStat())
    cache = _Cache(5)
    shrinkers.register(cache)
    _shrink(shrinkers, 0)
    assert cache.nr == 0
