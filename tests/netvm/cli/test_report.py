"""Report: options first, then what the run came to, in the kernel's words."""

import msgspec
import pytest

from netvm import __version__
from netvm.cli.report import comparison_text, options_text, outcome_text, paint_of
from netvm.scenario.against import Comparison, Row
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import LatencyReport, Outcome, PassReport, ReserveReport, WorkloadReport

_OUTCOME = Outcome(
    scenario="R1/nbd-broken",
    kernel="6.1",
    seed=7,
    version=__version__,
    verdict="HANG",
    expected=["HANG", "LIVELOCK"],
    virtual_seconds=12.5,
    wall_seconds=0.25,
    longest_standstill_s=10.0,
    explanation=["kswapd0 waits in mempool_alloc"],
    vmstat={"pswpout": 21, "allocstall_movable": 3, "oom_kill": 0},
    direct_reclaim_latency_us=LatencyReport(count=3, p50=1200.0, p90=2000.4, p99=2000.4, max=2000.4),
    reserve=ReserveReport(
        pages=270, peak_used=20, by_owner={"bio": 8, "skb": 12}, still_used=5, still_by_owner={"bio": 1, "skb": 4}
    ),
    drops={"PFMemallocDrop": 3},
    workload=[
        WorkloadReport(
            name="hog",
            kind="anon-hog",
            finished=False,
            passes=[PassReport(index=0, touches=11393, total_ns=10**9, max_ns=10**7, minflt=11400, majflt=2)],
        )
    ],
    replay="netvm run R1/nbd-broken --seed 7 --oracle fifo",
)


def test_a_hang_is_told_whole() -> None:
    """Verdict, explanation, workload, counters, latency, reserve, drops, and the command that runs it again."""
    assert outcome_text(_OUTCOME).splitlines() == [
        "R1/nbd-broken: HANG, as expected (HANG, LIVELOCK), after 12.500 s virtual, 0.25 s wall",
        "longest standstill: 10.000 s",
        "why:",
        "  - kswapd0 waits in mempool_alloc",
        "anon-hog hog: unfinished",
        "  pass 0: 11393 touches in 1.000 s, worst 10.000 ms, 11400 minor and 2 major faults",
        "vmstat:",
        "  pswpout            21   allocstall_movable  3",
        "direct reclaim latency (us): 3 times, p50 1200, p90 2000, p99 2000, max 2000",
        "reserve: 270 pages below min; drawn from there and held, at the peak: 20; by owner: skb 12, bio 8",
        "reserve, at the end: 5 held; by owner: skb 4, bio 1",
        "drops: PFMemallocDrop 3",
        "replay: netvm run R1/nbd-broken --seed 7 --oracle fifo",
    ]


def test_a_run_without_events_is_told_short() -> None:
    """Nothing is printed of what did not happen."""
    quiet = Outcome(
        scenario="a",
        kernel="6.1",
        seed=0,
        version=__version__,
        verdict="COMPLETED",
        expected=["COMPLETED"],
        virtual_seconds=1.0,
        replay="netvm run a",
    )
    assert outcome_text(quiet).splitlines() == [
        "a: COMPLETED, as expected (COMPLETED), after 1.000 s virtual, 0.00 s wall",
        "longest standstill: 0.000 s",
        "direct reclaim latency (us): 0 times",
        "reserve: 0 pages below min; drawn from there and held, at the peak: 0",
        "drops: none",
        "replay: netvm run a",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"verdict": "OOM"},
            "R1/nbd-broken: OOM, NOT as expected (HANG, LIVELOCK), after 12.500 s virtual, 0.25 s wall",
        ),
        (
            {"verdict": None, "partial": "interrupted"},
            "R1/nbd-broken: interrupted after 12.500 s virtual, 0.25 s wall: a partial summary, no verdict",
        ),
        (
            {"verdict": None, "partial": "budget"},
            "R1/nbd-broken: the budget ran out after 12.500 s virtual, 0.25 s wall: a partial summary, no verdict",
        ),
    ],
)
def test_the_first_line_is_the_verdict(changes: dict[str, object], line: str) -> None:
    """As expected or not, or why there is none."""
    outcome = msgspec.structs.replace(_OUTCOME, **changes)
    assert outcome_text(outcome).splitlines()[0] == line


def test_the_paint_is_the_verdicts() -> None:
    """Green as expected, red otherwise."""
    assert paint_of(_OUTCOME) == "\x1b[1;32m"
    assert paint_of(msgspec.structs.replace(_OUTCOME, verdict="OOM")) == "\x1b[1;31m"


def test_an_audit_that_fails_is_told() -> None:
    """Books that do not balance stand right under the explanation."""
    text = outcome_text(msgspec.structs.replace(_OUTCOME, audit=["3 pages have no owner"]))
    assert "audit:\n  - 3 pages have no owner\n" in text


def test_a_killed_workload_is_told() -> None:
    """A workload was killed, finished, or left with pages that are wrong."""
    killed = WorkloadReport(name="hog", kind="anon-hog", finished=False, oom_killed=True)
    wrong = WorkloadReport(name="two", kind="anon-hog", finished=True, total_s=1.5, bad=2)
    text = outcome_text(msgspec.structs.replace(_OUTCOME, workload=[killed, wrong]))
    assert "anon-hog hog: OOM-killed\nanon-hog two: done in 1.500 s, 2 pages BAD\n" in text


def test_options_are_all_there() -> None:
    """Version, kernel, seed and oracle head the list; every key follows, with `default` where the kernel decides."""
    data = {"title": "T", "storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 120}]}
    lines = options_text("a.toml", scenario_from(data, origin="a.toml")).splitlines()
    assert lines[0] == f"netvm {__version__}: a.toml, kernel 6.1, seed 0, oracle fifo"
    assert lines[1] == "  T"
    assert '  expect ["COMPLETED"]' in lines
    assert "  traffic []" in lines
    assert '  [run] seed=0 oracle="fifo" max_virtual_s=3600.0 max_steps=50000000 stall_s=10.0' in lines
    told = " ".join(lines)
    for pair in ("min_free_kbytes=default", "page-cluster=3", 'kind="nbd"', "disk.in_order=true", "0.mib=120"):
        assert pair in told
    assert max(len(line) for line in lines) <= 118


def test_a_comparison_is_a_table() -> None:
    """Recorded, emulated, ratio; a dash for what a side does not have."""
    comparison = Comparison(
        run="U6",
        recorded_verdict="hung (no progress 42 s)",
        emulated_verdict="HANG",
        agree=True,
        watermarks=[Row(name="DMA32 min", recorded=270, emulated=270, ratio=1.0)],
        latencies_us=[Row(name="p50", recorded=1359.0, emulated=2.5, ratio=0.0018)],
        at_the_hang=[Row(name="nr_writeback", recorded=21, emulated=None)],
        recorded_tasks=["hog D: mempool_alloc"],
        emulated_explanation=["hog waits for a bio"],
        remarks=["it hung"],
    )
    assert comparison_text(comparison).splitlines() == [
        "against U6: recorded hung (no progress 42 s), emulated HANG: they agree",
        "watermarks (pages)      recorded    emulated    ratio",
        "  DMA32 min                  270         270    1.000",
        "direct reclaim latency (us)      recorded    emulated    ratio",
        "  p50                                1359       2.500    0.002",
        "at the hang (pages)      recorded    emulated    ratio",
        "  nr_writeback                 21           -        -",
        "recorded tasks:",
        "  - hog D: mempool_alloc",
        "emulated:",
        "  - hog waits for a bio",
        "remarks:",
        "  - it hung",
    ]
    assert "they DISAGREE" in comparison_text(msgspec.structs.replace(comparison, agree=False))
