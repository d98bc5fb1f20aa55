"""A backing device as writeback sees it: its counters, its bandwidth, and its share of the dirty limit.

Mirrors ``struct bdi_writeback`` (one a device: no memory groups) and the estimates of mm/page-writeback.c of 6.1:

- the *write bandwidth*, pages a second, an average over some three seconds, and a smoother one that follows it;
- the *dirty ratelimit*, the rate at which one writer may dirty pages, moved step by step toward the rate that would
  keep the device's dirty pages where they are;
- the *completions* of the last periods (lib/flex_proportions.c): a device's part of all pages written is its part of
  the dirty limit. Events are halved every three seconds, lazily.

All rates are in pages a second, times in jiffies of 4 ms, as in the kernel: its rounding is part of the behaviour.
"""

from typing import TYPE_CHECKING, Final

from netvm.units import HZ, JIFFY_NS, PAGE_SHIFT

if TYPE_CHECKING:
    from netvm.pagecache.mapping import Mapping
    from netvm.runtime.world import World

__all__ = ["BANDWIDTH_INTERVAL", "INIT_BW", "RATELIMIT_CALC_SHIFT", "BackingDevice", "FlexProportion", "jiffies"]

INIT_BW: Final = 100 << (20 - PAGE_SHIFT)
"""100 MB/s: what a device is taken for before it has written anything."""
BANDWIDTH_INTERVAL: Final = max(HZ // 5, 1)
"""Jiffies between two estimates: 200 ms."""
RATELIMIT_CALC_SHIFT: Final = 10
VM_COMPLETIONS_PERIOD_LEN: Final = 3 * HZ
_EMA_PERIOD: Final = 1 << (3 * HZ - 1).bit_length()
_BITS_PER_LONG: Final = 64


def jiffies(world: "World") -> int:
    """Return the time in jiffies."""
    return world.now_ns // JIFFY_NS


class FlexProportion:
    """Completions of all devices, with periods of three seconds (``struct fprop_global``)."""

    __slots__ = ("_begun", "events", "period")

    def __init__(self) -> None:
        self.events = 1
        """One event to begin with, so that the first period has some."""
        self.period = 0
        self._begun: int | None = None
        """Jiffy in which the present period began; None while nothing has been written for long."""

    def age(self, now: int) -> None:
        """Halve the events for each period that has passed (writeout_period)."""
        if self._begun is None:
            return
        nr_periods = (now - self._begun) // VM_COMPLETIONS_PERIOD_LEN
        if not nr_periods:
            return
        if self.events <= 1:
            # all of the past has been forgotten: the timer stops until the next completion
            self._begun = None
            return
        self.events >>= min(nr_periods, _BITS_PER_LONG - 1)
        self.period += nr_periods
        self._begun += nr_periods * VM_COMPLETIONS_PERIOD_LEN

    def add(self, now: int, nr_events: int) -> None:
        """Count completions; the first begins a period."""
        self.age(now)
        if self._begun is None:
            self._begun = now
        self.events += nr_events


class BackingDevice:
    """``struct bdi_writeback``: what one device has dirty and under writeback, and how fast it is."""

    __slots__ = (
        "_local_events",
        "_local_period",
        "avg_write_bandwidth",
        "b_dirty",
        "b_io",
        "b_more_io",
        "balanced_dirty_ratelimit",
        "bw_time_stamp",
        "clears_congestion",
        "completions",
        "dirtied_stamp",
        "dirty_exceeded",
        "dirty_ratelimit",
        "dirty_sleep_ns",
        "in_progress",
        "max_ratio",
        "min_ratio",
        "name",
        "nr_dirtied",
        "nr_reclaimable",
        "nr_writeback",
        "nr_written",
        "strictlimit",
        "world",
        "write_bandwidth",
        "written_stamp",
    )

    def __init__(
        self,
        world: "World",
        name: str,
        completions: FlexProportion,
        *,
        min_ratio: int = 0,
        max_ratio: int = 100,
        strictlimit: bool = False,
    ) -> None:
        self.world = world
        self.name = name
        self.clears_congestion = True
        """Whether the end of a write ends naps in congestion_wait."""
        self.completions = completions
        self.min_ratio = min_ratio
        """Percent of the limit that is always this device's."""
        self.max_ratio = max_ratio
        self.strictlimit = strictlimit
        """BDI_CAP_STRICTLIMIT: held to its own share always (FUSE)."""
        self.nr_reclaimable = 0
        """WB_RECLAIMABLE: dirty pages."""
        self.nr_writeback = 0
        self.nr_dirtied = 0
        self.nr_written = 0
        self.bw_time_stamp = jiffies(world)
        self.dirtied_stamp = 0
        self.written_stamp = 0
        self.write_bandwidth = INIT_BW
        self.avg_write_bandwidth = INIT_BW
        self.dirty_ratelimit = INIT_BW
        self.balanced_dirty_ratelimit = INIT_BW
        self.dirty_exceeded = False
        self.dirty_sleep_ns = world.now_ns
        """When a writer was last let sleep for its dirt; as if one had been when the device was made."""
        self.in_progress = False
        """WB_writeback_running: its flusher is at work."""
        self.b_dirty: list[Mapping] = []
        """Files by the time they were first dirtied, oldest first."""
        self.b_io: list[Mapping] = []
        self.b_more_io: list[Mapping] = []
        self._local_events = 0
        self._local_period = 0

    # -- completions ----------------------------------------------------------------------------------------------

    def _reflect_period(self) -> None:
        behind = self.completions.period - self._local_period
        if behind:
            self._local_events = self._local_events >> behind if behind < _BITS_PER_LONG else 0
            self._local_period = self.completions.period

    def writeout_add(self, nr_pages: int) -> None:
        """Count pages whose write has ended (__wb_writeout_add)."""
        self.nr_written += nr_pages
        self.completions.add(jiffies(self.world), nr_pages)
        self._reflect_period()
        self._local_events += nr_pages

    def fraction(self) -> tuple[int, int]:
        """Return this device's part of recent completions as numerator and denominator (fprop_fraction_percpu)."""
        self.completions.age(jiffies(self.world))
        self._reflect_period()
        part, whole = self._local_events, self.completions.events
        if whole <= part:
            whole = part or 1
        return part, whole

    # -- bandwidth ------------------------------------------------------------------------------------------------

    def has_dirty_io(self) -> bool:
        """Whether a file of this device is on one of the flusher's lists."""
        return bool(self.b_dirty or self.b_io or self.b_more_io)

    def is_estimate_due(self) -> bool:
        """Whether the last estimate is older than its interval."""
        return jiffies(self.world) > self.bw_time_stamp + BANDWIDTH_INTERVAL

    def bandwidth_estimate_start(self) -> None:
        """Begin counting anew after the device was idle (wb_bandwidth_estimate_start)."""
        now = jiffies(self.world)
        if now - self.bw_time_stamp > BANDWIDTH_INTERVAL and not self.nr_writeback:
            self.dirtied_stamp = self.nr_dirtied
            self.written_stamp = self.nr_written
            self.bw_time_stamp = now

    def update_bandwidth(self) -> int:
        """Estimate the write bandwidth and stamp; return the jiffies that were looked at (__wb_update_bandwidth)."""
        now = jiffies(self.world)
        elapsed = max(now - self.bw_time_stamp, 1)
        self._update_write_bandwidth(elapsed)
        self.dirtied_stamp = self.nr_dirtied
        self.written_stamp = self.nr_written
        self.bw_time_stamp = now
        return elapsed

    def _update_write_bandwidth(self, elapsed: int) -> None:
        """Move the averages toward what was written since the last stamp (wb_update_write_bandwidth)."""
        avg, old = self.avg_write_bandwidth, self.write_bandwidth
        bw = max(0, self.nr_written - self.written_stamp) * HZ
        if elapsed > _EMA_PERIOD:
            bw //= elapsed
            avg = bw
        else:
            bw = (bw + old * (_EMA_PERIOD - elapsed)) >> (_EMA_PERIOD.bit_length() - 1)
            # one more level of smoothing: follow only where the fast average is on its way back or beyond
            if avg > old >= bw:
                avg -= (avg - old) >> 3
            if avg < old <= bw:
                avg += (old - avg) >> 3
        self.write_bandwidth = bw
        self.avg_write_bandwidth = max(avg, 1)

    def update_dirty_ratelimit(self, *, dirty: int, setpoint: int, pos_ratio: int, elapsed: int) -> None:
        """Step the ratelimit toward the balanced one (wb_update_dirty_ratelimit); call before the stamps are renewed.

        ``pos_ratio`` is in units of 1/1024.
        """
        write_bw = self.avg_write_bandwidth
        ratelimit = self.dirty_ratelimit
        dirty_rate = (self.nr_dirtied - self.dirtied_stamp) * HZ // elapsed
        task_ratelimit = (ratelimit * pos_ratio >> RATELIMIT_CALC_SHIFT) + 1
        balanced = min(task_ratelimit * write_bw // (dirty_rate | 1), write_bw)
        step = 0
        if dirty < setpoint:
            least = min(self.balanced_dirty_ratelimit, balanced, task_ratelimit)
            step = max(0, least - ratelimit)
        else:
            most = max(self.balanced_dirty_ratelimit, balanced, task_ratelimit)
            step = max(0, ratelimit - most)
        # the longer the way, the larger the step; a way shorter than the noise is not gone at all
        shift = ratelimit // (2 * step + 1)
        step = -(-(step >> shift) // 8) if shift < _BITS_PER_LONG else 0
        ratelimit += step if ratelimit < balanced else -step
        self.dirty_ratelimit = max(ratelimit, 1)
        self.balanced_dirty_ratelimit = balanced
