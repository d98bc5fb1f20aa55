"""The profile: every recorded trace against an independent computation and against the run's own counters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_DATA = Path(__file__).parents[2] / "data" / "traces"
_SHARED = Path(__file__).parents[4] / "shared" / "ground-truth" / "runs"
_TRACES = sorted(path.parent for path in _DATA.glob("*/ftrace.txt.gz"))
_ALL = sorted(path.parent for path in _SHARED.glob("*/ftrace.txt.gz"))

_COMPLETED = [folder for folder in _ALL if (folder / "vmstat_after").is_file()]

_HEAD = "# tracer: nop\n#\n"


def _line(time_us: int, event: str, *, comm: str = "hog", pid: int = 7, cpu: int = 0) -> str:
    second, fraction = divmod(time_us, 1_000_000)
    return f"{comm:>16}-{pid:<7} [{cpu:03d}] ..... {second:5}.{fraction:06}: {event}\n"


def _check(profile: Any, plain: Any) -> None:
    """Hold a profile against what was computed line by line."""
    assert (profile.events, profile.skipped, profile.lost) == (plain.events, 0, 0)
    assert profile.events_by_name == dict(sorted(plain.counts.items()))
    latency = profile.direct_reclaim_latency_us
    ordered = sorted(plain.latencies_us)
    assert (latency.count, latency.unfinished) == (len(ordered), plain.unfinished)
    assert latency.total == sum(ordered)
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)):
        if ordered:
            right = ordered[max(1, -(-int(q * 1000) * len(ordered) // 1000)) - 1]
            assert getattr(latency, name) == pytest.approx(right, rel=profile.quantile_error), name
    assert latency.max == (ordered[-1] if ordered else None)
    assert profile.kswapd.wakes == plain.counts.get("mm_vmscan_kswapd_wake", 0)
    assert profile.kswapd.active_us == plain.kswapd_active_us
    assert profile.kswapd.last_wake_to_sleep_us == plain.last_wake_to_sleep_us
    for who in ("kswapd", "direct"):
        lru = profile.lru[who]
        assert (lru.scanned, lru.reclaimed) == (plain.scanned[who], plain.reclaimed[who])
    throttled = profile.by_cause_us.get("throttle", {})
    assert {reason: (row.count, row.total) for reason, row in throttled.items()} == {
        reason: (len(slept), sum(slept)) for reason, slept in plain.throttled_us.items()
    }
    calls: dict[str, list[float]] = {}
    for cause, row in profile.by_cause_us.get("nfs", {}).items():
        sums = calls.setdefault(cause.split()[0].lower(), [0, 0])
        sums[0] += row.count
        sums[1] += row.total
    assert calls == {name: [len(times), sum(times)] for name, times in plain.nfs_us.items()}
    assert (profile.latency_us["nfs"].unfinished if "nfs" in profile.latency_us else 0) == plain.nfs_open
    pauses = profile.latency_us.get("dirty_throttle")
    assert (pauses.count, pauses.total) == (len(plain.pauses_us), sum(plain.pauses_us)) if pauses else True


@pytest.mark.parametrize("folder", _TRACES, ids=lambda folder: folder.name)
def test_a_recorded_trace(folder: Path, plain: Callable[[Path], Any], profile_of: Callable[[Path], Any]) -> None:
    """Counts, sums and extremes are those of a plain reading; quantiles are within the stated error."""
    _check(profile_of(folder / "ftrace.txt.gz"), plain(folder / "ftrace.txt.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", _ALL, ids=lambda folder: folder.name)
def test_every_recorded_trace(folder: Path, plain: Callable[[Path], Any], profile_of: Callable[[Path], Any]) -> None:
    """The same holds for all recordings there are."""
    _check(profile_of(folder / "ftrace.txt.gz"), plain(folder / "ftrace.txt.gz"))


def _check_counters(profile: Any, grew: dict[str, int], summary: dict[str, Any]) -> None:
    """Hold a profile against /proc/vmstat and against the figures that were derived when the run was recorded."""
    whole = not summary["trace_dropped"]
    if "mm_vmscan_lru_shrink_inactive" in profile.events_by_name:
        for who in ("kswapd", "direct"):
            lru = profile.lru[who]
            assert lru.scanned == grew[f"pgscan_{who}"] if whole else lru.scanned <= grew[f"pgscan_{who}"]
            assert lru.reclaimed == grew[f"pgsteal_{who}"] if whole else lru.reclaimed <= grew[f"pgsteal_{who}"]
    stalls = sum(count for name, count in grew.items() if name.startswith("allocstall_"))
    latency = profile.direct_reclaim_latency_us
    if latency.count:
        # a reclaim that finds nothing counts once more when it starts over with force_deactivate
        assert latency.count + latency.unfinished <= stalls
        assert stalls <= 2 * (latency.count + latency.unfinished) or not whole
        assert latency.max == summary["dr_max_us"]
    assert profile.kswapd.wakes == summary["kswapd_wake"]
    assert profile.kswapd.wakes == pytest.approx(grew["pageoutrun"], abs=1) or not whole
    assert profile.kswapd.last_wake_to_sleep_us / 1000 == pytest.approx(summary["kswapd_active_ms"], abs=0.1)


@pytest.mark.parametrize("folder", _TRACES, ids=lambda folder: folder.name)
def test_the_runs_own_counters(
    folder: Path,
    profile_of: Callable[[Path], Any],
    vmstat_difference: Callable[[Path], dict[str, int]],
    summary_of: Callable[[Path], dict[str, Any]],
) -> None:
    """/proc/vmstat counted what the trace shows: pages scanned and reclaimed by whom, and direct reclaims begun."""
    _check_counters(profile_of(folder / "ftrace.txt.gz"), vmstat_difference(folder), summary_of(folder))


@pytest.mark.slow
@pytest.mark.parametrize("folder", _COMPLETED, ids=lambda folder: folder.name)
def test_the_own_counters_of_every_run(
    folder: Path,
    profile_of: Callable[[Path], Any],
    vmstat_difference: Callable[[Path], dict[str, int]],
    summary_of: Callable[[Path], dict[str, Any]],
) -> None:
    """The same holds for every recorded run that ended."""
    _check_counters(profile_of(folder / "ftrace.txt.gz"), vmstat_difference(folder), summary_of(folder))


def test_one_task_at_a_time_is_paired(trace_file: Any, profile_of: Callable[[Path], Any]) -> None:
    """Beginnings and ends are paired by task, whatever happens between them on other CPUs."""
    begin, end = "mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_NOFS", "mm_vmscan_direct_reclaim_end: "
    text = _HEAD + "".join(
        [
            _line(100, begin, pid=1),
            _line(150, begin, pid=2, cpu=1),
            _line(400, end + "nr_reclaimed=32", pid=2, cpu=1),
            _line(1100, end + "nr_reclaimed=40", pid=1, cpu=1),
            _line(1200, end + "nr_reclaimed=1", pid=3),
            _line(1300, begin, pid=4),
        ]
    )
    profile = profile_of(trace_file(text))
    latency = profile.direct_reclaim_latency_us
    assert (latency.count, latency.unfinished, latency.max, latency.total) == (2, 1, 1000.0, 1250.0)
    assert profile.orphans == {"direct_reclaim": 1}
    assert [(worst.task, worst.pages) for worst in profile.worst] == [("hog-1", 40), ("hog-2", 32), ("hog-4", 0)]
    assert [worst.unfinished for worst in profile.worst] == [False, False, True]
    assert list(profile.by_cause_us["direct_reclaim"]) == ["GFP_NOFS"]


def test_the_links_of_a_wait_add_up(trace_file: Any, profile_of: Callable[[Path], Any]) -> None:
    """Every microsecond of a wait is on one of its links; a throttle's sleep is its own."""
    text = _HEAD + "".join(
        [
            _line(1000, "mm_vmscan_direct_reclaim_begin: order=3 gfp_flags=GFP_KERNEL"),
            _line(
                1300,
                "mm_vmscan_lru_shrink_inactive: nid=0 nr_scanned=32 nr_reclaimed=0 nr_dirty=0 nr_writeback=32 "
                "nr_congested=0 nr_immediate=0 nr_activate_anon=0 nr_activate_file=0 nr_ref_keep=0 nr_unmap_fail=0 "
                "priority=12 flags=RECLAIM_WB_ANON|RECLAIM_WB_ASYNC",
            ),
            _line(
                5500,
                "mm_vmscan_throttled: nid=0 usec_timeout=4000 usect_delayed=4000 reason=VMSCAN_THROTTLE_NOPROGRESS",
            ),
            _line(6000, "mm_vmscan_direct_reclaim_end: nr_reclaimed=0"),
        ]
    )
    (worst,) = profile_of(trace_file(text)).worst
    links = {link["link"]: link["us"] for link in worst.path}
    assert links == {
        "throttled: VMSCAN_THROTTLE_NOPROGRESS": 4000,
        "scanning, pages under writeback": 300,
        "scanning": 700,
    }
    assert (worst.duration_us, worst.order, worst.scanned) == (5000, 3, 32)


def test_nothing_is_a_profile_too(trace_file: Any, profile_of: Callable[[Path], Any]) -> None:
    """A recording without events has a profile without figures."""
    profile = profile_of(trace_file(_HEAD))
    assert (profile.events, profile.span_s, profile.direct_reclaim_latency_us.p50) == (0, 0.0, None)


def test_late_events_end_nothing_before_it_began(trace_file: Any, profile_of: Callable[[Path], Any]) -> None:
    """A recording that repeats itself far beyond the window of sorting is read to its end, and what is late is told."""
    wake = _line(5000, "mm_vmscan_kswapd_wake: nid=0 order=0", comm="kswapd0", pid=22)
    begin = _line(5001, "mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_KERNEL")
    shrink = "".join(
        _line(6000 + at, "mm_vmscan_wakeup_kswapd: nid=0 order=0 gfp_flags=GFP_KERNEL") for at in range(140_000)
    )
    sleep = _line(10, "mm_vmscan_kswapd_sleep: nid=0", comm="kswapd0", pid=22)
    end = _line(11, "mm_vmscan_direct_reclaim_end: nr_reclaimed=1")
    profile = profile_of(trace_file(_HEAD + wake + begin + shrink * 2 + sleep + end))
    assert profile.late >= 2
    assert (profile.kswapd.sleeps, profile.kswapd.active_us) == (1, 0)
    assert profile.direct_reclaim_latency_us.max == 0
