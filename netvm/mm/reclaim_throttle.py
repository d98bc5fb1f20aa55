"""The naps of reclaimers between two attempts: for pages to be written, to come back to the lists, or for others' work.

Mirrors ``reclaim_throttle`` of mm/vmscan.c (6.1): a queue a reason, each with its longest sleep, and events that end it
sooner. Kernel threads other than kswapd do not nap, since others may wait for them.

Before 5.16 (``reclaim_throttle``) each of them was ``congestion_wait``: a tenth of a second, for isolated pages
everybody's, kernel threads' as well. A write that was through, on a queue that was not congested or no longer, ended it
sooner; with the request queues of old this signal was gone, and the nap was slept out whatever happened meanwhile.
Without them (``blk_mq_only``, 5.0) naps were taken where pages are isolated, by kswapd where it meets pages under
writeback that it has marked, and before a retry, after a round without progress, where most of what a zone could give
is being written already (``should_reclaim_retry``). Others were for a device that is congested
(``wait_iff_congested``), as none is.

# MODEL: from 2.6.37 to 4.20 programs and kswapd nap as if a device was congested, kernel threads as if none; for naps
# after a pass and between rounds see :mod:`netvm.mm.unreclaimable`. The nap before a retry came in 4.7. That NFS and
# FUSE still told of congestion until 5.17 is left out from 5.0 on.
# MODEL: that signal was gone in 5.0; here it is from 4.7 on (``oom_detection``). No device is ever congested, so that
# each of its writes gives it, FUSE's as well, which gave it only with few requests left. There was a queue for reads
# and one for writes, and this is the latter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Self

from netvm.mm.gfp import PF_KSWAPD, PF_KTHREAD
from netvm.mm.scan_control import SWAP_CLUSTER_MAX
from netvm.mm.zone import Zone
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.trace.tracepoints import number_of
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from netvm.mm.vmscan import Vmscan

__all__ = [
    "CONGESTION_WAIT_NS",
    "MAX_KSWAPD_FAILURES",
    "FruitlessLooks",
    "Throttles",
    "step_of_first_round",
    "wait_without_end",
]

MAX_KSWAPD_FAILURES: Final = 16

_CONGESTION_WAIT: Final = number_of("writeback_congestion_wait")
_THROTTLED: Final = number_of("mm_vmscan_throttled")

THROTTLE_TIMEOUT_NS: Final = {
    "VMSCAN_THROTTLE_WRITEBACK": NS_PER_S // 10,
    "VMSCAN_THROTTLE_ISOLATED": NS_PER_S // 50,
    "VMSCAN_THROTTLE_NOPROGRESS": JIFFY_NS,
    "VMSCAN_THROTTLE_CONGESTED": JIFFY_NS,
}
CONGESTION_WAIT_NS: Final = NS_PER_S // 10
_NR_LOOKS_AT_ONCE: Final = 1000
"""Looks in vain at the reserve, one after another, of which each further one stands for as many."""
_IDLE_ROUND_NS: Final = NS_PER_MS
"""What a round of reclaim takes where work takes no time."""


@contextmanager
def step_of_first_round(task: Task, wanted: Resource) -> Iterator[None]:
    """Take a nap for what it is in a first round of direct reclaim: one of its twelve steps, and no retry.

    Who naps there goes on to something else; who has been round once can only look again.
    """
    is_step = not task.spins_at
    if is_step:
        task.spins_at = f"{task.comm}-{task.pid}: a first round of direct reclaim"
        task.spins_on = wanted
    yield
    if is_step:
        task.spins_at = ""


@contextmanager
def wait_without_end(task: Task) -> Iterator[None]:
    """Take a wait in a round of direct reclaim for one that nothing but its reason ends, not for a nap of the round."""
    before, task.spins_at = task.spins_at, ""
    yield
    task.spins_at = before


class FruitlessLooks:
    """Of one stay in ``throttle_direct_reclaim``: how often its task was woken and found memory as it was.

    Where kswapd finds a zone that is balanced while half of the reserve is used up, it wakes those who wait for the
    reserve and goes to sleep, and they wake it, for ever.

    # MODEL: after a thousand such turns with nothing reclaimed, scanned or written in between, a turn stands for a
    # thousand, in what it takes of the waiting task's CPU; kswapd's part and the counters stay those of one.
    """

    def __init__(self, vmscan: "Vmscan", task: Task) -> None:
        self._vmscan = vmscan
        self._task = task
        self._before = task.spins_at, task.spins_on
        self._seen: tuple[int, ...] = ()
        self._count = 0
        name = "kswapd, which is awake for it alone and has nothing to do"
        self._each_other = Resource("memory", name, lambda: [task])

    async def woken(self) -> None:
        """Take note of one more look, and of what it costs if it is one of many."""
        vmscan, task = self._vmscan, self._task
        state = (vmscan.node.nr_free, vmscan.vmstat.pgscan_kswapd, vmscan.vmstat.nr_written)
        if state != self._seen:
            self._seen = state
            self._count = 0
            self.forget()
        self._count += 1
        if self._count > _NR_LOOKS_AT_ONCE:
            task.spins_at = f"{task.comm}-{task.pid}: throttle_direct_reclaim and kswapd wake each other"
            task.spins_on = self._each_other
            task.charge_ns += 2 * vmscan.costs.context_switch * _NR_LOOKS_AT_ONCE
            await vmscan.throttles.between_rounds(task)
            await vmscan.pages.cond_resched(task)

    def forget(self) -> None:
        """The task does not go round in circles, or not here."""
        self._task.spins_at, self._task.spins_on = self._before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.forget()


class Throttles:
    """The queues of ``reclaim_throttle``, by reason, and what was slept in them."""

    def __init__(self, vmscan: "Vmscan") -> None:
        self.vmscan = vmscan
        self.queues = {
            why: WaitQueue(vmscan.world, Resource("timer", f"reclaim_throttle {why}", self._providers_for(why)))
            for why in THROTTLE_TIMEOUT_NS
        }
        self._naps = {why: queue.resource for why, queue in self.queues.items()}
        """What who naps as before 5.16 waits for, by reason; without one for naps after a pass and between rounds."""
        self._naps[""] = Resource("timer", "congestion_wait", vmscan.providers_of_memory)
        self._congestion_wqh = WaitQueue(vmscan.world, self._naps[""])
        self.slept_ns: dict[str, int] = {}
        self.count: dict[str, int] = {}
        self.nr_writeback_throttled = 0
        self._written_at_throttle = 0

    def _providers_for(self, reason: str) -> Callable[[], list[Provider | Task]]:
        """Return who can end a nap: who holds isolated pages, else whoever gives memory."""
        vmscan = self.vmscan
        return vmscan.providers_of_isolated if reason == "VMSCAN_THROTTLE_ISOLATED" else vmscan.providers_of_memory

    async def reclaim_throttle(self, task: Task, reason: str) -> None:
        """Sleep for a reason, at most its timeout (reclaim_throttle)."""
        vmscan = self.vmscan
        if self._is_skipped(task, reason):
            await vmscan.pages.cond_resched(task)
            return
        if not vmscan.fixes.reclaim_throttle:
            await self.nap(task, reason)
            return
        if reason == "VMSCAN_THROTTLE_WRITEBACK":
            if not self.nr_writeback_throttled:
                self._written_at_throttle = vmscan.vmstat.nr_throttled_written
            self.nr_writeback_throttled += 1
        begun_ns = vmscan.world.now_ns
        await self.queues[reason].wait(task, timeout_ns=vmscan.world.wheel_ns(THROTTLE_TIMEOUT_NS[reason]))
        slept_ns = vmscan.world.now_ns - begun_ns
        if vmscan.tracer is not None:
            timeout_us = THROTTLE_TIMEOUT_NS[reason] // 1000
            vmscan.tracer.emit(_THROTTLED, task, 0, timeout_us, slept_ns // 1000, vmscan.tracer.name(reason))
        if reason == "VMSCAN_THROTTLE_WRITEBACK":
            self.nr_writeback_throttled -= 1
        self.slept_ns[reason] = self.slept_ns.get(reason, 0) + slept_ns
        self.count[reason] = self.count.get(reason, 0) + 1

    async def between_rounds(self, task: Task) -> None:
        """Tell the world that a task has tried everything once and tries again."""
        world = self.vmscan.world
        world.retry_point(task.spins_at)
        if task.cpus is None or not task.cpus.scale:
            # rounds that take no time would go on for ever at the instant before what they wait for
            await world.sleep_on(task, self.vmscan.pages.memory, timeout_ns=_IDLE_ROUND_NS)

    async def nap(self, task: Task, reason: str = "", *, timeout_ns: int = CONGESTION_WAIT_NS) -> None:
        """Sleep in congestion_wait as a reclaimer, which is a step of its round."""
        looks_again = task.flags & PF_KSWAPD or reason == "VMSCAN_THROTTLE_ISOLATED"
        with nullcontext() if looks_again else step_of_first_round(task, self.vmscan.pages.memory):
            await self.congestion_wait(task, self._naps[reason], timeout_ns=timeout_ns)

    async def naps_before_retry(self, task: Task, zone: Zone, reclaimable_pages: int) -> bool:
        """Nap if most of what a zone could give is being written already, from 5.0 to 5.15; whether that was so."""
        fixes = self.vmscan.fixes
        is_asked = fixes.blk_mq_only and not fixes.reclaim_throttle
        has_reason = is_asked and 2 * zone.nr_write_pending > reclaimable_pages
        if has_reason:
            await self.nap(task)
        return has_reason

    async def congestion_wait(self, task: Task, wanted: Resource, *, timeout_ns: int = CONGESTION_WAIT_NS) -> None:
        """Sleep for some time, or until a write ends, to whatever device (congestion_wait)."""
        vmscan = self.vmscan
        begun_ns = vmscan.world.now_ns
        wheel_ns = vmscan.world.wheel_ns(timeout_ns)
        if vmscan.fixes.oom_detection:
            await vmscan.world.sleep_on(task, wanted, timeout_ns=wheel_ns)
        else:
            await self._congestion_wqh.wait(task, resource=wanted, timeout_ns=wheel_ns)
        if vmscan.tracer is not None:
            slept_us = (vmscan.world.now_ns - begun_ns) // 1000
            vmscan.tracer.emit(_CONGESTION_WAIT, task, timeout_ns // 1000, slept_us)

    def clear_bdi_congested(self) -> None:
        """A device has ended a write and is not congested: whoever is in congestion_wait looks again."""
        self._congestion_wqh.wake_all()

    def _is_skipped(self, task: Task, reason: str) -> bool:
        """Whether a sleep would help nobody, or hold up others (skip_throttle_noprogress)."""
        is_old = not self.vmscan.fixes.reclaim_throttle
        if task.flags & PF_KTHREAD and not task.flags & PF_KSWAPD:
            return not is_old or reason != "VMSCAN_THROTTLE_ISOLATED"
        if reason not in ("VMSCAN_THROTTLE_NOPROGRESS", "VMSCAN_THROTTLE_CONGESTED"):
            return False
        if is_old:
            return self.vmscan.fixes.blk_mq_only
        node = self.vmscan.node
        if node.kswapd_failures >= MAX_KSWAPD_FAILURES:
            return True
        write_pending = sum(zone.nr_write_pending for zone in node.zones)
        return 2 * write_pending <= sum(self.vmscan.zone_reclaimable_pages(zone) for zone in node.zones)

    def acct_reclaim_writeback(self, nr_pages: int) -> None:
        """Count written pages and end naps early (__acct_reclaim_writeback)."""
        if not self.nr_writeback_throttled:
            return
        vmstat = self.vmscan.vmstat
        vmstat.nr_throttled_written += nr_pages
        written = vmstat.nr_throttled_written - self._written_at_throttle
        if written > SWAP_CLUSTER_MAX * self.nr_writeback_throttled:
            self.queues["VMSCAN_THROTTLE_WRITEBACK"].wake_all()
