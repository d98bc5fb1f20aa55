"""Tags of a queue, and who waits for one.

Mirrors ``struct sbitmap_queue`` (lib/sbitmap.c) and ``blk_mq_get_tag`` (block/blk-mq-tag.c) of 6.1. Who finds no tag
sleeps in one of eight wait queues, each sleeper in the next. Tags that are given back are counted, and each time that
``wake_batch`` have been, the sleepers of one queue are woken, then those of the next. The batch is an eighth of the
tags that all may have, at most 8. An elevator that reserves tags names the least share of a word of the bitmap that it
leaves to a request: since mq-deadline names a single tag (``tags_woken_singly``), the batch is one, and two tasks that
run out of tags cut each other's clusters into small requests.
"""

from typing import Final

from netvm.runtime.task import Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World

__all__ = ["SbitmapQueue", "sbq_wake_batch"]

SBQ_WAIT_QUEUES: Final = 8
SBQ_WAKE_BATCH: Final = 8
_BITS_PER_LONG: Final = 64


def sbq_wake_batch(depth: int, *, min_shallow_depth: int) -> int:
    """Return how many tags are given back before a sleeper is woken (sbq_calc_wake_batch, sbitmap_calculate_shift)."""
    word = _BITS_PER_LONG
    while word > 4 and 4 * word > depth:
        word //= 2
    of_word = min(word, min_shallow_depth)
    usable = depth // word * of_word + min(depth % word, of_word)
    return min(max(usable // SBQ_WAIT_QUEUES, 1), SBQ_WAKE_BATCH)


class SbitmapQueue:
    """So many tags."""

    __slots__ = ("_until_wake", "_wait_index", "_waits", "_wake_batch", "_wake_index", "depth", "nr_used")

    def __init__(self, world: World, resource: Resource, depth: int, *, min_shallow_depth: int) -> None:
        self.depth = depth
        self.nr_used = 0
        self._waits = [WaitQueue(world, resource) for _ in range(SBQ_WAIT_QUEUES)]
        self._wait_index = self._wake_index = 0
        self._wake_batch = sbq_wake_batch(depth, min_shallow_depth=min_shallow_depth)
        self._until_wake = self._wake_batch

    async def get(self, task: Task) -> None:
        """Take a tag, sleeping until there is one (blk_mq_get_tag)."""
        while self.nr_used >= self.depth:
            index, self._wait_index = self._wait_index, (self._wait_index + 1) % SBQ_WAIT_QUEUES
            await self._waits[index].wait(task)
        self.nr_used += 1

    def put(self) -> None:
        """Give a tag back; who waits for one is woken by batches, from one queue after another (__sbq_wake_up)."""
        self.nr_used -= 1
        assert self.nr_used >= 0
        first = self._wake_index
        for index in (*range(first, SBQ_WAIT_QUEUES), *range(first)):
            if waiting := len(self._waits[index]):
                break
        else:
            return
        self._until_wake -= 1
        if not self._until_wake:
            self._until_wake = self._wake_batch
            self._wake_index = (index + 1) % SBQ_WAIT_QUEUES
            for _ in range(min(self._wake_batch, waiting)):
                self._waits[index].wake_one()
