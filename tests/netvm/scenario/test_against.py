"""Against: recorded and emulated side by side, and honest about what is missing."""

from pathlib import Path

import pytest

from netvm.scenario.against import Comparison, Row, compare
from netvm.scenario.outcome import LatencyReport, Outcome, PassReport, WorkloadReport, ZoneReport
from netvm.scenario.recorded import read_recorded_run

_RUNS = Path(__file__).parents[2] / "data" / "runs"


def _outcome(**changes: object) -> Outcome:
    fields: dict[str, object] = {
        "scenario": "x",
        "kernel": "6.1",
        "seed": 0,
        "version": "0.1.0",
        "verdict": "COMPLETED",
        "expected": ["COMPLETED"],
        "virtual_seconds": 8.0,
    }
    return Outcome(**(fields | changes))


def _compared(name: str, **changes: object) -> Comparison:
    return compare(read_recorded_run(_RUNS / name), _outcome(**changes))


def _rows(rows: list[Row]) -> dict[str, tuple[float | None, float | None, float | None]]:
    return {row.name: (row.recorded, row.emulated, row.ratio) for row in rows}


@pytest.mark.parametrize(
    ("name", "verdict", "agree"),
    [
        ("D2-guestnbd-2ms-a", "COMPLETED", True),
        ("D2-guestnbd-2ms-a", "STALL", True),
        ("D2-guestnbd-2ms-a", "HANG", False),
        ("D2-guestnbd-2ms-a", None, None),
        ("U6-knob3-noflood-stacks", "HANG", True),
        ("U6-knob3-noflood-stacks", "LIVELOCK", True),
        ("U6-knob3-noflood-stacks", "COMPLETED", False),
        ("U6-knob3-noflood-stacks", "OOM", False),
    ],
)
def test_verdicts_agree(name: str, verdict: str | None, agree: bool | None) -> None:
    """A completed run is met by COMPLETED or STALL, a hung one by HANG or LIVELOCK; a cut-off run says nothing."""
    assert _compared(name, verdict=verdict, partial=None if verdict else "budget").agree is agree


def test_counters_have_their_ratio() -> None:
    """Counters have their kernel names; allocstall is the sum over zones; what is zero on both sides is left out."""
    rows = _rows(
        _compared(
            "D2-guestnbd-2ms-a",
            vmstat={
                "allocstall_movable": 60,
                "allocstall_normal": 10,
                "pswpout": 42187,
                "pgmajfault": 3218,
                "oom_kill": 0,
            },
        ).counters
    )
    assert rows["allocstall"] == (140, 70, 0.5)
    assert rows["pswpout"] == (42187, 42187, 1.0)
    assert rows["pgscan_kswapd"] == (114388, None, None)
    assert "oom_kill" not in rows


def test_traffic_has_the_names_of_netstat() -> None:
    """What the recorded kernel counted or the emulated one did; nothing where the file does not know the name."""
    traffic = {"TCPOrigDataSent": 40458, "TCPRcvQDrop": 3, "RetransSegs": 5}
    rows = _rows(_compared("D2-guestnbd-2ms-a", netstat=traffic).netstat)
    assert rows["TCPOrigDataSent"] == (20229, 40458, 2.0)
    assert rows["InNoECTPkts"] == (26650, 0, 0.0)
    assert rows["TCPRcvQDrop"] == (0, 3, None)
    assert "PFMemallocDrop" not in rows, "neither has dropped one"
    assert "RetransSegs" not in rows, "it is of another file"
    assert _compared("H1-gt96-virtio-stock", netstat=traffic).netstat == [], "not saved there"


def test_latencies_and_times() -> None:
    """Direct-reclaim quantiles in microseconds, the program and its passes in seconds."""
    passes = [PassReport(index=0, touches=25600, total_ns=2_000_000_000, max_ns=1)]
    hog = WorkloadReport(name="hog", kind="anon-hog", finished=True, total_s=7.912, passes=passes)
    compared = _compared(
        "D2-guestnbd-2ms-a", workload=[hog], direct_reclaim_latency_us=LatencyReport(count=70, p50=2718.0)
    )
    latencies, times = _rows(compared.latencies_us), _rows(compared.times_s)
    assert latencies["count"] == (140, 70, 0.5)
    assert latencies["p50"] == (1359.0, 2718.0, 2.0)
    assert latencies["max"] == (18758.0, None, None)
    assert times["program"] == (7.912, 7.912, 1.0)
    assert times["pass 0"][1] == 2.0
    assert times["pass 1"][1:] == (None, None)


def test_watermarks() -> None:
    """Marks are held side by side, zone by zone; a zone that is not emulated stays empty."""
    zone = ZoneReport(name="DMA32", managed=32464, min=315, low=393, high=471, protection=[0, 0])
    rows = _rows(_compared("M15-deb192-iscsi-seq", zones=[zone]).watermarks)
    assert rows["DMA32 min"] == (315, 315, 1.0)
    assert rows["DMA low"] == (52, None, None)
    both = [ZoneReport(name="DMA", managed=3840, min=42, low=52, high=62, protection=[0, 126]), zone]
    assert _rows(_compared("M15-deb192-iscsi-seq", zones=both).watermarks)["DMA protection[1]"] == (126, 126, 1.0)


def test_a_hang_is_held_against_the_console() -> None:
    """Pages under writeback, free pages and the page reached come from the last dump, tasks with their stacks."""
    hog = WorkloadReport(
        name="hog", kind="anon-hog", finished=False, passes=[PassReport(index=0, touches=11393, total_ns=1, max_ns=1)]
    )
    compared = _compared(
        "U6-knob3-noflood-stacks",
        verdict="HANG",
        vmstat={"nr_writeback": 21, "nr_free_pages": 420},
        workload=[hog],
        explanation=["kswapd0 waits for a bio"],
    )
    rows = _rows(compared.at_the_hang)
    assert rows["nr_writeback"] == (21, 21, 1.0)
    assert rows["nr_free_pages"] == (841, 420, 0.4994)
    assert rows["pages touched"] == (11393, 11393, 1.0)
    assert compared.recorded_tasks[2].startswith("kswapd0 D: mempool_alloc < bio_alloc_bioset < __swap_writepage")
    assert compared.emulated_explanation == ["kswapd0 waits for a bio"]
    assert compared.counters == compared.latencies_us == []
    assert "the recorded run hung: it has no counters of its end" in compared.remarks


def test_what_is_missing_is_remarked() -> None:
    """A run without /proc, a console without dumps, noisy times and a run that was cut off are each told."""
    remarks = _compared("L1-loopback-nbd-deadlock", verdict=None, partial="budget").remarks
    assert remarks == [
        "the recorded run hung: it has no counters of its end",
        "the recorded run saved no /proc: its watermarks are not known",
        (
            "no memory or task dump on the recorded console, which ends in: "
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000007"
        ),
        "the emulated run was cut off (budget): its figures are those until then",
    ]
    assert _compared("M01-gt96-0ms-seq", verdict="HANG").remarks == [
        "recorded in real time beside other work: trust its counters, not its CPU times",
        "the emulated run hung: its counters stop there",
    ]


def test_verdict_that_is_not_a_hang_has_no_pages_at_the_hang() -> None:
    """Gauges of a run that completed are not held against those of a hang."""
    rows = _rows(_compared("U6-knob3-noflood-stacks", vmstat={"nr_writeback": 0, "nr_free_pages": 9}).at_the_hang)
    assert rows["nr_writeback"] == (21, None, None)
