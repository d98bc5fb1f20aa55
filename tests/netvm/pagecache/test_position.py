"""The position curve and the pauses: their corners and bounds."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netvm.pagecache.bdi import BackingDevice, FlexProportion
from netvm.pagecache.position import (
    MAX_PAUSE,
    DirtyLimits,
    dirty_poll_interval,
    pos_ratio_polynom,
    wb_max_pause,
    wb_min_pause,
    wb_position_ratio,
)
from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World


def test_the_position_curve_has_its_corners() -> None:
    """The ratio is 2 at zero dirt or below, 1 at the setpoint, 0 at the limit, and falls all the way."""
    setpoint, limit = 750, 1000
    curve = [pos_ratio_polynom(setpoint, dirty, limit) for dirty in range(0, limit + 1, 10)]
    assert curve[0] == 2048
    assert abs(curve[75] - 1024) <= 1
    assert curve[-1] <= 16
    assert curve == sorted(curve, reverse=True)


def test_at_the_limit_nobody_may_dirty(host: Any) -> None:
    """wb_position_ratio is zero from the hard limit on."""
    wb = host.throttle.add_device("disk")
    look = DirtyLimits(dirty=100, nr_dirty=0, thresh=100, bg_thresh=50)
    assert wb_position_ratio(wb, look, 100) == 0


def _device(bandwidth: int = 25_600, ratelimit: int = 25_600, *, strictlimit: bool = False) -> BackingDevice:
    wb = BackingDevice(World(seeds=Seeds(0)), "disk", FlexProportion(), strictlimit=strictlimit)
    wb.avg_write_bandwidth, wb.dirty_ratelimit = bandwidth, ratelimit
    return wb


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 20), st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_no_pause_is_longer_than_200_ms(bandwidth: int, ratelimit: int, wb_dirty: int, task_ratelimit: int) -> None:
    """Whatever the device and the task are like, pauses lie between one jiffy and 200 ms, the least below the most."""
    wb = _device(bandwidth, ratelimit)
    max_pause = wb_max_pause(wb, wb_dirty)
    min_pause, pages = wb_min_pause(wb, max_pause, task_ratelimit)
    assert 1 <= max_pause <= MAX_PAUSE == 50
    assert min_pause <= max_pause + 1
    assert pages >= 0


def test_a_device_over_its_share_is_slowed_before_others() -> None:
    """Of two devices with the same share the one with more dirt has the smaller ratio."""
    few, many = (
        DirtyLimits(dirty=700, nr_dirty=0, thresh=1000, bg_thresh=500, wb_thresh=500, wb_dirty=wb_dirty)
        for wb_dirty in (300, 690)
    )
    wb = _device(1000)
    assert wb_position_ratio(wb, few, 1000) > wb_position_ratio(wb, many, 1000)


def test_a_strict_device_is_held_to_its_own_share() -> None:
    """BDI_CAP_STRICTLIMIT stops a device at its share although the system has room."""
    wb = _device(strictlimit=True)
    look = DirtyLimits(dirty=100, nr_dirty=0, thresh=1000, bg_thresh=500, wb_thresh=50, wb_bg_thresh=25, wb_dirty=50)
    assert wb_position_ratio(wb, look, 1000) == 0
    look.wb_dirty = 0
    assert wb_position_ratio(wb, look, 1000) == 2048


def test_looks_are_rarer_the_more_room_there_is() -> None:
    """The square root of the room, in powers of two; every page at the limit."""
    assert [dirty_poll_interval(1000 - room, 1000) for room in (0, 1, 3, 4, 16, 1000)] == [1, 1, 1, 2, 4, 16]
