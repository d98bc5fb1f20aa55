"""Where dirty pages are and where they should be: the position curve and the pause that follows from it.

Mirrors the pure part of mm/page-writeback.c of 6.1: ``pos_ratio_polynom``, ``wb_position_ratio``, ``wb_max_pause``,
``wb_min_pause``, ``dirty_poll_interval``. Ratios are in 1/1024, rates in pages a second, pauses in jiffies.
"""

from dataclasses import dataclass
from typing import Final

from netvm.pagecache.bdi import RATELIMIT_CALC_SHIFT, BackingDevice
from netvm.units import HZ, PAGE_SHIFT

__all__ = [
    "MAX_PAUSE",
    "DirtyLimits",
    "DirtySysctls",
    "clamped_dirty_ratio",
    "dirty_poll_interval",
    "pos_ratio_polynom",
    "wb_max_pause",
    "wb_min_pause",
    "wb_position_ratio",
]

MAX_PAUSE: Final = max(HZ // 5, 1)
"""Jiffies: 200 ms."""
DIRTY_POLL_THRESH: Final = 128 >> (PAGE_SHIFT - 10)
_ROUNDED_HZ: Final = 1 << (HZ - 1).bit_length()
_ROUNDED_EIGHTH: Final = 1 << (HZ // 8).bit_length()
_ONE: Final = 1 << RATELIMIT_CALC_SHIFT


@dataclass(frozen=True, slots=True, kw_only=True)
class DirtySysctls:
    """The vm.dirty_* settings; a ``bytes`` that is not zero stands for its ratio."""

    background_ratio: int = 10
    ratio: int = 20
    background_bytes: int = 0
    bytes: int = 0
    writeback_centisecs: int = 500
    expire_centisecs: int = 3000


@dataclass(slots=True, kw_only=True)
class DirtyLimits:
    """One look at the system (``struct dirty_throttle_control``), in pages."""

    dirty: int
    """Dirty and under writeback."""
    nr_dirty: int
    thresh: int
    bg_thresh: int
    wb_thresh: int = 0
    wb_bg_thresh: int = 0
    wb_dirty: int = 0
    pos_ratio: int = 0

    @property
    def freerun(self) -> int:
        """dirty_freerun_ceiling of the system."""
        return (self.thresh + self.bg_thresh) // 2


def clamped_dirty_ratio(ratio: int, nr_mapped: int, nr_pages: int) -> int:
    """Return the percentage of memory that could be dirty before 2.6.21: half of what is not mapped, 5 at least.

    Source: ``get_dirty_limits``. # MODEL: both clamps end where limits count free pages; the lower stayed to 2.6.36.
    """
    unmapped_ratio = 100 - nr_mapped * 100 // nr_pages
    return max(min(ratio, unmapped_ratio // 2), 5)


def wb_position_ratio(wb: BackingDevice, look: DirtyLimits, hard_limit: int) -> int:
    """Return how much faster or slower than the ratelimit a writer should be, in 1/1024 (wb_position_ratio)."""
    limit = max(look.thresh, hard_limit)
    if look.dirty >= limit:
        return 0
    if wb.strictlimit:
        return _strict_ratio(look)
    setpoint = (look.freerun + limit) // 2
    ratio = pos_ratio_polynom(setpoint, look.dirty, limit)
    wb_thresh = max(min(look.wb_thresh, look.thresh), (limit - look.dirty) // 8)
    x = (wb_thresh << 16) // (look.thresh | 1)
    wb_setpoint = setpoint * x >> 16
    span = (look.thresh - wb_thresh + 8 * wb.avg_write_bandwidth) * x >> 16
    x_intercept = wb_setpoint + span
    if look.wb_dirty < x_intercept - span // 4:
        ratio = ratio * (x_intercept - look.wb_dirty) // ((x_intercept - wb_setpoint) | 1)
    else:
        ratio //= 4
    # a device that has little dirty must not run dry
    x_intercept = wb_thresh // 2
    if look.wb_dirty < x_intercept:
        if look.wb_dirty > x_intercept // 8:
            ratio = ratio * x_intercept // look.wb_dirty
        else:
            ratio *= 8
    return ratio


def _strict_ratio(look: DirtyLimits) -> int:
    """A BDI_CAP_STRICTLIMIT device is held to its own limits."""
    if look.wb_dirty < 8:
        return min(_ONE * 2, 2 << RATELIMIT_CALC_SHIFT)
    if look.wb_dirty >= look.wb_thresh:
        return 0
    wb_setpoint = (look.wb_thresh + look.wb_bg_thresh) // 2
    wb_setpoint = (wb_setpoint + look.wb_thresh) // 2
    if wb_setpoint in (0, look.wb_thresh):
        return 0
    return pos_ratio_polynom(wb_setpoint, look.wb_dirty, look.wb_thresh)


def pos_ratio_polynom(setpoint: int, dirty: int, limit: int) -> int:
    """Return 1 + ((setpoint - dirty) / (limit - setpoint))**3 in 1/1024, within 0 and 2 (pos_ratio_polynom)."""
    x = _div((setpoint - dirty) << RATELIMIT_CALC_SHIFT, (limit - setpoint) | 1)
    ratio = x
    ratio = ratio * x >> RATELIMIT_CALC_SHIFT
    ratio = ratio * x >> RATELIMIT_CALC_SHIFT
    return min(max(ratio + _ONE, 0), 2 << RATELIMIT_CALC_SHIFT)


def _div(a: int, b: int) -> int:
    """Divide as C does: toward zero."""
    return a // b if a >= 0 else -(-a // b)


def wb_max_pause(wb: BackingDevice, wb_dirty: int) -> int:
    """Return the longest pause in jiffies: a device with little dirty would run dry meanwhile (wb_max_pause)."""
    return min(wb_dirty // (1 + wb.avg_write_bandwidth // _ROUNDED_EIGHTH) + 1, MAX_PAUSE)


def wb_min_pause(wb: BackingDevice, max_pause: int, task_ratelimit: int) -> tuple[int, int]:
    """Return the least worthwhile pause in jiffies, and the pages to dirty before the next (wb_min_pause)."""
    ratelimit = wb.dirty_ratelimit
    hi, lo = wb.avg_write_bandwidth.bit_length() - 1, ratelimit.bit_length() - 1
    t = max(1, HZ // 100)
    if hi > lo:
        t += (hi - lo) * (10 * HZ) // 1024
    t = min(t, 1 + max_pause // 2)
    pages = ratelimit * t // _ROUNDED_HZ
    if pages < DIRTY_POLL_THRESH:
        t = max_pause
        pages = ratelimit * t // _ROUNDED_HZ
        if pages > DIRTY_POLL_THRESH:
            pages = DIRTY_POLL_THRESH
            t = HZ * DIRTY_POLL_THRESH // ratelimit
    if HZ * pages // (task_ratelimit + 1) > max_pause:
        t = max_pause
        pages = task_ratelimit * t // _ROUNDED_HZ
    return (1 + t // 2 if pages >= DIRTY_POLL_THRESH else t), pages


def dirty_poll_interval(dirty: int, thresh: int) -> int:
    """Return after how many pages a free-running task is looked at again."""
    if thresh > dirty:
        return 1 << ((thresh - dirty).bit_length() - 1 >> 1)
    return 1
