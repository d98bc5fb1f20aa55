"""Backing devices: the share by completions, and the bandwidth estimate."""

from typing import Any

from netvm.pagecache.bdi import BANDWIDTH_INTERVAL, INIT_BW, BackingDevice, FlexProportion
from netvm.units import HZ, JIFFY_NS


def _devices(host: Any, *names: str) -> list[BackingDevice]:
    completions = FlexProportion()
    return [BackingDevice(host.world, name, completions) for name in names]


def test_a_device_alone_has_everything(host: Any) -> None:
    """Its part of the completions is all but the one that everybody starts with."""
    (wb,) = _devices(host, "a")
    assert wb.fraction() == (0, 1)
    wb.writeout_add(99)
    assert wb.fraction() == (99, 100)


def test_shares_follow_completions(host: Any) -> None:
    """Two devices have the limit in the proportion of what they wrote."""
    a, b = _devices(host, "a", "b")
    a.writeout_add(300)
    b.writeout_add(100)
    assert a.fraction() == (300, 401)
    assert b.fraction() == (100, 401)


def test_the_past_is_halved_every_three_seconds(host: Any) -> None:
    """After a period old completions count half as much as new ones, for each device and for all."""
    a, b = _devices(host, "a", "b")
    a.writeout_add(400)
    host.world.now_ns += 3 * HZ * JIFFY_NS
    b.writeout_add(200)
    assert a.fraction() == (200, 400)
    assert b.fraction() == (200, 400)


def test_long_silence_forgets_all(host: Any) -> None:
    """Completions that are many periods old do not count."""
    a, b = _devices(host, "a", "b")
    a.writeout_add(1 << 20)
    host.world.now_ns += 100 * 3 * HZ * JIFFY_NS
    b.writeout_add(10)
    assert a.fraction()[0] == 0


def test_the_estimate_follows_a_steady_device(host: Any) -> None:
    """From 100 MB/s the estimate comes down to what the device really writes within half a minute."""
    (wb,) = _devices(host, "a")
    assert wb.avg_write_bandwidth == INIT_BW == 25_600
    rate = 2500
    for _ in range(150):
        host.world.now_ns += (BANDWIDTH_INTERVAL + 1) * JIFFY_NS
        wb.writeout_add(rate * (BANDWIDTH_INTERVAL + 1) // HZ)
        assert wb.is_estimate_due()
        wb.update_bandwidth()
    assert abs(wb.write_bandwidth - rate) < rate // 10
    assert abs(wb.avg_write_bandwidth - rate) < rate // 4


def test_after_a_long_pause_the_estimate_starts_over(host: Any) -> None:
    """What was written over more than four seconds is the estimate, whatever it was before."""
    (wb,) = _devices(host, "a")
    host.world.now_ns += 10 * HZ * JIFFY_NS
    wb.writeout_add(5000)
    wb.update_bandwidth()
    assert wb.write_bandwidth == wb.avg_write_bandwidth == 500


def test_an_idle_device_begins_anew(host: Any) -> None:
    """Time in which nothing was under writeback is no time of the device's."""
    (wb,) = _devices(host, "a")
    wb.writeout_add(100)
    host.world.now_ns += HZ * JIFFY_NS
    wb.bandwidth_estimate_start()
    assert (wb.written_stamp, wb.bw_time_stamp) == (100, HZ)


def test_the_ratelimit_steps_toward_the_balanced_rate(host: Any) -> None:
    """A device that is dirtied twice as fast as it writes lowers its ratelimit, never below one page a second."""
    (wb,) = _devices(host, "a")
    limits = []
    for _ in range(300):
        host.world.now_ns += 51 * JIFFY_NS
        wb.nr_dirtied += 1000
        wb.writeout_add(500)
        wb.update_dirty_ratelimit(dirty=900, setpoint=750, pos_ratio=800, elapsed=51)
        wb.update_bandwidth()
        limits.append(wb.dirty_ratelimit)
    assert limits == sorted(limits, reverse=True)
    assert 1 <= limits[-1] < INIT_BW // 4
