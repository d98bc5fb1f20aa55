"""Holding back those who reclaim, as kernels before 4.9 did: while too much is on its way, they wait for it.

Mirrors ``throttle_vm_writeout`` of mm/page-writeback.c (2.6.11, 3.6; gone with ``no_vm_writeout_throttle``, 4.9). While
more pages are under writeback, or wait for a COMMIT, than the dirty limit and a tenth of it, whoever reclaims waits in
congestion_wait, kswapd as well. No write can end that for somebody whom the write itself waits for:

- pages that wait for a COMMIT go only when a writer sends it, who may be the one that waits here. They are not counted
  with ``vm_writeout_not_unstable`` (2007);
- who may not enter the file system or the block layer may be on the way of the very writes. Since 2.6.21
  (``vm_writeout_nofs_naps``) he naps once and goes on.
"""

from collections.abc import Callable, Sequence

from netvm.mm.gfp import GFP_FS, GFP_IO
from netvm.mm.reclaim_throttle import step_of_first_round, wait_without_end
from netvm.pagecache.throttle import DirtyThrottle
from netvm.runtime.task import Provider, Resource, Task

__all__ = ["VmWriteout"]


class VmWriteout:
    """The limit on what may be on its way while memory is reclaimed, and who waits for it."""

    def __init__(self, throttle: DirtyThrottle) -> None:
        self.throttle = throttle
        name = "throttle_vm_writeout: pages under writeback over the dirty limit"
        self._over_limit = Resource("memory", name, self._writes_under_way)
        self._held_back: list[Task] = []
        self.swap_writes: Callable[[], Sequence[Provider | Task]] = list
        """Who is to complete what is on its way to swap."""

    async def throttle_vm_writeout(self, task: Task, gfp: int) -> None:
        """Hold a reclaimer back while too many pages are on their way or unstable."""
        throttle, fixes = self.throttle, self.throttle.fixes
        naps = False
        while not naps:
            thresh = max(throttle.limits().thresh, throttle.dirty_limit if fixes.io_less_throttle else 0)
            nr_unstable = 0 if fixes.vm_writeout_not_unstable else throttle.nr_unstable
            if throttle.vmstat.nr_writeback + nr_unstable <= thresh + thresh // 10:
                return
            naps = gfp & (GFP_FS | GFP_IO) != GFP_FS | GFP_IO and fixes.vm_writeout_nofs_naps
            self._held_back.append(task)
            with step_of_first_round(task, self._over_limit) if naps else wait_without_end(task):
                await throttle.reclaim_throttles.congestion_wait(task, self._over_limit)
            self._held_back.remove(task)

    def _writes_under_way(self) -> list[Provider | Task]:
        """Say who could bring what reclaimers wait for down: the writes, and for unstable pages who writes next."""
        throttle = self.throttle
        writes = throttle.flusher.writers()
        found = [*writes, *self.swap_writes()]
        if throttle.nr_unstable:
            needs: tuple[Resource | Task, ...] = tuple(t for t in self._held_back if throttle.has_dirtied(t))
            if throttle.sysctls.writeback_centisecs:
                # the flusher's goes the way of the writes that are under way
                needs = writes[-1].needs if writes and isinstance(writes[-1], Provider) else ()
            found.append(Provider(name="a COMMIT, sent by who writes next", needs=needs))
        return found
