"""Slab shrinkers: who is asked to give objects back when memory is short, and for how many.

Mirrors ``shrink_slab`` and ``do_shrink_slab`` (mm/vmscan.c of 6.1). Each pass of a reclaim asks every shrinker for a
part of its objects that doubles with each priority, scaled by how much work it is to make one again (``seeks``). What
is less than a batch is put off until it is one; what a shrinker may not do in this context (an object of a file system
without ``__GFP_FS``) is put off too, and hits a later reclaimer at once.

A freed object gives no page back unless it was the last of its slab: one that is pinned keeps its page, however many
beside it are freed.
"""

from typing import Final, Protocol

from netvm.runtime.task import Task
from netvm.trace.vmstat import VmStat

__all__ = ["DEFAULT_SEEKS", "SHRINK_BATCH", "ShrinkerPort", "SlabShrinkers"]

DEFAULT_SEEKS: Final = 2
SHRINK_BATCH: Final = 128


class ShrinkerPort(Protocol):
    """A cache of objects that can be freed (``struct shrinker``)."""

    name: str
    seeks: int
    """Disk seeks to make an object again; 0: none."""
    batch: int

    def count_objects(self) -> int:
        """Return how many objects could be freed."""
        ...

    def scan_objects(self, task: Task, nr_to_scan: int, gfp: int) -> int:
        """Look at so many objects and free those that can go; return how many, -1 to stop (SHRINK_STOP)."""
        ...


class SlabShrinkers:
    """All shrinkers of a host, in order of registration."""

    __slots__ = ("_deferred", "_shrinkers", "vmstat")

    def __init__(self, vmstat: VmStat) -> None:
        self.vmstat = vmstat
        self._shrinkers: list[ShrinkerPort] = []
        self._deferred: list[int] = []

    def register(self, shrinker: ShrinkerPort) -> None:
        """Add a shrinker (register_shrinker)."""
        self._shrinkers.append(shrinker)
        self._deferred.append(0)

    def shrink_slab(self, task: Task, gfp: int, priority: int) -> int:
        """Ask every shrinker; return the pages that slabs gave back meanwhile (reclaimed_slab)."""
        if not self._shrinkers:
            return 0
        before = self.vmstat.nr_slab_reclaimable
        for at, shrinker in enumerate(self._shrinkers):
            self._do_shrink_slab(task, at, shrinker, gfp, priority)
        return max(0, before - self.vmstat.nr_slab_reclaimable)

    def _do_shrink_slab(self, task: Task, at: int, shrinker: ShrinkerPort, gfp: int, priority: int) -> None:
        freeable = shrinker.count_objects()
        if not freeable:
            return
        deferred, self._deferred[at] = self._deferred[at], 0
        delta = (freeable >> priority) * 4 // shrinker.seeks if shrinker.seeks else freeable // 2
        total = min((deferred >> priority) + delta, 2 * freeable)
        nr_scanned = 0
        while total >= shrinker.batch or total >= freeable:
            nr_to_scan = min(shrinker.batch, total)
            if shrinker.scan_objects(task, nr_to_scan, gfp) < 0:
                break
            self.vmstat.slabs_scanned += nr_to_scan
            total -= nr_to_scan
            nr_scanned += nr_to_scan
            if not total:
                break
        self._deferred[at] = min(max(deferred + delta - nr_scanned, 0), 2 * freeable)

    def deferred(self) -> list[int]:
        """Return what each shrinker has put off, in objects."""
        return list(self._deferred)
