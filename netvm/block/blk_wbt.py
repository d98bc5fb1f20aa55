"""Writeback throttling: how many writes may be on their way to a device while reads of it are slow.

Mirrors block/blk-wbt.c and the parts of blk-rq-qos.c that it stands on, as 5.0 to 6.18 have them. A write that merges
into no request takes a token before its tag, from the class it belongs to: ordinary writes, or swap's. A class gives
out tokens up to a limit; who finds none sleeps, first come first served, and is handed one by whoever gives one back.

Windows of 100 ms decide the limit. Where the fastest read of a window took longer than ``wbt_lat_usec``, or a read has
been out for so long, the depth is halved, down to one request, and the window becomes shorter; where reads are fast, or
there are writes alone, it grows by as much, up to three quarters of the queue. Of that depth synchronous writes and
swap's have all, others half, and a quarter if they are background writeback or somebody reads (``close_io``). A writer
that balance_dirty_pages has held back in the last second lifts that for all.

A device with a volatile write cache wakes who waits only when the last write of the class has ended.

What is swap's is the question here. From 4.10 to 6.10 it was what kswapd writes (``current_is_kswapd``): swap-out from
direct reclaim waits in line with everybody's buffered writes. Since 6.11 (``wbt_swap_requests``) the request says so
(REQ_SWAP). A patch of 2022 that was not merged (``wbt_swap_untracked``) left direct reclaim's swap-out alone instead.

# MODEL: times are in ns where the kernel has jiffies, and a waiter is looked at as if kswapd were never who wakes it.
"""

from collections import deque
from collections.abc import Callable
from math import isqrt
from typing import TYPE_CHECKING, Any, Final

from netvm.fixes import Fixes
from netvm.mm.gfp import PF_KSWAPD
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from netvm.block.blk_mq import Request

__all__ = ["REQ_BACKGROUND", "REQ_SWAP", "REQ_SYNC", "RqWait", "Wbt", "max_depth_of"]

REQ_SYNC: Final = 1
"""Somebody waits for the write: WB_SYNC_ALL writeback."""
REQ_BACKGROUND: Final = 2
"""Nobody does: background and periodic writeback."""
REQ_SWAP: Final = 4
"""It goes to, or comes from, a swap area."""

RWB_DEF_DEPTH: Final = 16
RWB_WINDOW_NS: Final = 100 * NS_PER_MS
RWB_MIN_WRITE_SAMPLES: Final = 3
RWB_UNKNOWN_BUMP: Final = 5
CLOSE_IO_NS: Final = 100 * NS_PER_MS
RECENT_WAIT_NS: Final = NS_PER_S


def max_depth_of(scale_step: int, queue_depth: int) -> tuple[int, bool]:
    """Return the depth of a step (0: the default, above: less), and whether it is the most (rq_depth_calc_max_depth).

    A device that takes one request at a time has two, so that the next is ready, or one.
    """
    if queue_depth == 1:
        return (1, False) if scale_step > 0 else (2, True)
    depth = min(RWB_DEF_DEPTH, queue_depth)
    if scale_step > 0:
        return 1 + ((depth - 1) >> min(31, scale_step)), False
    if not scale_step:
        return depth, False
    depth = 1 + ((depth - 1) << -scale_step)
    most = 3 * queue_depth // 4
    return min(depth, most), depth > most


class RqWait:
    """One class of writes: tokens that are out, and who waits for one (``struct rq_wait``)."""

    __slots__ = ("inflight", "queue", "wanted")

    def __init__(self, queue: WaitQueue) -> None:
        self.inflight = 0
        self.queue = queue
        self.wanted: deque[int] = deque()
        """What each waiter's request is, first come first."""

    async def sleep(self, task: Task, opf: int) -> None:
        """Wait for the token of a request of this kind; who wakes has taken it for us (rq_qos_wait)."""
        self.wanted.append(opf)
        await self.queue.wait(task)

    def wake(self, limit_of: Callable[[int], int]) -> None:
        """Hand tokens to those who wait, in their order, up to one who may not have it (rq_qos_wake_function)."""
        while self.wanted and self.inflight < limit_of(self.wanted[0]):
            self.inflight += 1
            self.wanted.popleft()
            self.queue.wake_one()


class Wbt:
    """The throttle of one device (``struct rq_wb``)."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        min_lat_ns: int,
        queue_depth: int,
        write_cache: bool,
        fixes: Fixes,
        providers: Callable[[], list[Provider | Task]],
    ) -> None:
        assert min_lat_ns > 0
        self.world = world
        self.name = name
        self.min_lat_ns = min_lat_ns
        self.queue_depth = queue_depth
        self.write_cache = write_cache
        self.by_request = fixes.wbt_swap_requests
        self.leaves_direct = fixes.wbt_swap_untracked
        self.dirty_sleep_ns: Callable[[], int] = lambda: -RECENT_WAIT_NS
        """When balance_dirty_pages last let a writer to this device sleep."""
        resource = Resource("request", f"{name}: a write token of blk-wbt", providers)
        self.ordinary = RqWait(WaitQueue(world, resource))
        """WBT_RWQ_BG."""
        self.swap = RqWait(WaitQueue(world, resource))
        """WBT_RWQ_KSWAPD, since 6.11 WBT_RWQ_SWAP."""
        self.scale_step = 0
        self.scaled_max = False
        self.unknown_cnt = 0
        self.cur_win_ns = RWB_WINDOW_NS
        self.nr_slept = 0
        """Writes that found no token."""
        self._calc_limits()
        self._last_issue_ns = self._last_comp_ns = world.now_ns
        self._sync_cookie: Request | None = None
        self._timer: TimerHandle | None = None
        self._read_min_ns = 0
        self._nr_reads = self._nr_writes = 0

    # -- limits ---------------------------------------------------------------------------------------------------

    def _calc_limits(self) -> bool:
        """Derive all three limits from the step and return whether there is no more to be had (calc_wb_limits)."""
        self.max_depth, at_most = max_depth_of(self.scale_step, self.queue_depth)
        if self.max_depth <= 2:
            self.wb_normal, self.wb_background = self.max_depth, 1
        else:
            self.wb_normal, self.wb_background = (self.max_depth + 1) // 2, (self.max_depth + 3) // 4
        assert 1 <= self.wb_background <= self.wb_normal <= self.max_depth
        return at_most

    def get_limit(self, opf: int, *, kswapd: bool) -> int:
        """Return how many tokens of its class may be out when such a write takes one."""
        if opf & REQ_SYNC or self._is_swaps(opf, kswapd=kswapd) or self._recent_wait():
            return self.max_depth
        return self.wb_background if opf & REQ_BACKGROUND or self._close_io() else self.wb_normal

    def _is_swaps(self, opf: int, *, kswapd: bool) -> bool:
        """Whether a write is one of swap's: by what it says, or before 6.11 by who writes it."""
        return bool(opf & REQ_SWAP) if self.by_request else kswapd

    def _recent_wait(self) -> bool:
        return self.world.now_ns < self.dirty_sleep_ns() + RECENT_WAIT_NS

    def _close_io(self) -> bool:
        """Whether somebody has read within the last tenth of a second."""
        return self.world.now_ns < max(self._last_issue_ns, self._last_comp_ns) + CLOSE_IO_NS

    # -- a request's way ------------------------------------------------------------------------------------------

    def _class_of(self, opf: int, *, kswapd: bool) -> RqWait | None:
        """Return the class a write is counted in; None: it is not (bio_to_wbt_flags)."""
        if opf & REQ_SWAP and self.leaves_direct and not kswapd:
            return None
        return self.swap if self._is_swaps(opf, kswapd=kswapd) else self.ordinary

    async def wbt_wait(self, task: Task, opf: int, *, write: bool) -> RqWait | None:
        """Take the token of a write, sleeping for it if need be; return the class that it is to be given back to."""
        if not write:
            self._last_issue_ns = self.world.now_ns
            return None
        kswapd = bool(task.flags & PF_KSWAPD)
        rqw = self._class_of(opf, kswapd=kswapd)
        if rqw is None:
            return None
        if not rqw.wanted and rqw.inflight < self.get_limit(opf, kswapd=kswapd):
            rqw.inflight += 1
        else:
            self.nr_slept += 1
            await rqw.sleep(task, opf)
        if self._timer is None:
            self._arm_timer()
        return rqw

    def issue(self, rq: "Request") -> None:
        """The driver gets a request: note a read, in case it takes long (wbt_issue)."""
        if not rq.write and self._sync_cookie is None:
            self._sync_cookie = rq

    def requeue(self, rq: "Request") -> None:
        """The driver has given it back (wbt_requeue)."""
        if self._sync_cookie is rq:
            self._sync_cookie = None

    def ended(self, rq: "Request") -> None:
        """A request has come back: take its time (blk_stat_add), and its token."""
        if self._timer is not None:
            if rq.write:
                self._nr_writes += 1
            else:
                took_ns = self.world.now_ns - rq.started_ns
                self._read_min_ns = min(self._read_min_ns, took_ns) if self._nr_reads else took_ns
                self._nr_reads += 1
        self.done(rq)

    def done(self, rq: "Request") -> None:
        """Take back the token of a request that has ended, or become part of another (wbt_done)."""
        rqw, rq.rq_wait = rq.rq_wait, None
        if rqw is None:
            self.requeue(rq)
            if not rq.write:
                self._last_comp_ns = self.world.now_ns
            return
        rqw.inflight -= 1
        assert rqw.inflight >= 0
        limit = 0 if self.write_cache and not self._recent_wait() else self.wb_normal
        if not rqw.inflight or limit - rqw.inflight >= max(1, self.wb_background // 2):
            self._wake(rqw)

    def _wake(self, rqw: RqWait) -> None:
        rqw.wake(lambda opf: self.get_limit(opf, kswapd=False))

    # -- windows --------------------------------------------------------------------------------------------------

    def _arm_timer(self) -> None:
        """Begin a window: the deeper the step, the shorter (rwb_arm_timer)."""
        step = self.scale_step
        self.cur_win_ns = (RWB_WINDOW_NS << 4) // isqrt((step + 1) << 8) if step > 0 else RWB_WINDOW_NS
        self._timer = self.world.call_after(
            self.world.wheel_ns(self.cur_win_ns // JIFFY_NS * JIFFY_NS),
            self._wb_timer_fn,
            kind=TimerKind.RETRY,
            site=f"{self.name}: blk-wbt window",
        )

    def _wb_timer_fn(self) -> None:
        """A window is over: judge it, and begin another while anything is out or the depth is not the default."""
        self._timer = None
        too_slow = self._latency_exceeded()
        inflight = self.ordinary.inflight + self.swap.inflight
        if too_slow is not None:
            self._scale(-1 if too_slow else 1)
        elif self._nr_writes or inflight or self._recent_wait():
            # writes alone
            self._scale(1)
        else:
            self.unknown_cnt += 1
            if self.unknown_cnt >= RWB_UNKNOWN_BUMP and self.scale_step:
                self._scale(1 if self.scale_step > 0 else -1, hard=False)
        self._nr_reads = self._nr_writes = self._read_min_ns = 0
        if self.scale_step or inflight:
            self._arm_timer()

    def _latency_exceeded(self) -> bool | None:
        """Return whether reads of this window were too slow; None if there is too little to say (latency_exceeded)."""
        cookie = self._sync_cookie
        out_ns = self.world.now_ns - cookie.started_ns if cookie is not None else 0
        if out_ns > self.cur_win_ns or (out_ns > self.min_lat_ns and not self._nr_reads):
            return True
        if not self._nr_reads or self._nr_writes < RWB_MIN_WRITE_SAMPLES:
            return None
        return self._read_min_ns > self.min_lat_ns

    def _scale(self, way: int, *, hard: bool = True) -> None:
        """Go one step up (more) or down, unless at the end; ``hard`` goes down from any bonus at once."""
        if way > 0:
            if self.scaled_max:
                return
            self.scale_step -= 1
        else:
            if self.max_depth == 1:
                return
            self.scale_step = 0 if self.scale_step < 0 and hard else self.scale_step + 1
        self.unknown_cnt = 0
        at_most = self._calc_limits()
        self.scaled_max = at_most and way > 0
        if way > 0:
            self._wake(self.ordinary)
            self._wake(self.swap)

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        classes = (self.ordinary, self.swap)
        return (self.scale_step, *((rqw.inflight, tuple(rqw.wanted)) for rqw in classes))
