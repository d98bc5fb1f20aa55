"""Pairing of events into waits."""

import numpy as np

from netvm.report.spans import KINDS, SpanBuilder
from netvm.report.waits import Span
from netvm.trace.records import RECORD, Recorded
from netvm.trace.tracepoints import BY_NAME


class _Recording:
    """Records by hand."""

    def __init__(self) -> None:
        self.recorded = Recorded()
        self.rows: list[tuple[int, int, int, int, list[int]]] = []

    def add(self, time_us: int, event: str, *args: int | str, task: str = "hog", cpu: int = 0) -> None:
        numbers = [self.recorded.names.intern(arg) if isinstance(arg, str) else arg for arg in args]
        who = self.recorded.tasks.intern(task, 1)
        self.rows.append((time_us * 1000, BY_NAME[event].number, cpu, who, numbers))

    def spans(self) -> tuple[list[Span], SpanBuilder]:
        found: list[Span] = []
        builder = SpanBuilder(self.recorded, found.append)
        for time_ns, event, cpu, task, args in self.rows:
            record = np.zeros(1, dtype=RECORD)
            record["time_ns"], record["event"], record["cpu"], record["task"] = time_ns, event, cpu, task
            record["args"][0, : len(args)] = args
            builder.add(record)
        return found, builder


def test_kswapd_is_awake_until_it_sleeps() -> None:
    """Several wakes before one sleep are one cycle; its work ends with the last event of each run."""
    rec = _Recording()
    shrink = [0, 32, 8, 0, 0, 0, 0, 0, 0, 24, 0, 12]
    rec.add(0, "mm_vmscan_kswapd_wake", 0, 0, task="kswapd0")
    rec.add(10, "mm_vmscan_lru_shrink_inactive", *shrink, task="kswapd0")
    rec.add(60, "mm_vmscan_kswapd_wake", 0, 2, task="kswapd0")
    rec.add(65, "mm_vmscan_lru_shrink_inactive", *shrink, task="kswapd0")
    rec.add(100, "mm_vmscan_kswapd_sleep", 0, task="kswapd0")
    rec.add(110, "mm_vmscan_kswapd_sleep", 0, task="kswapd0")
    rec.add(120, "mm_vmscan_kswapd_wake", 0, 0, task="kswapd0")
    (span,), builder = rec.spans()
    assert (span.kind, span.duration_ns, span.nr_scanned, span.nr_reclaimed) == ("kswapd", 100_000, 64, 16)
    assert [run[:2] for run in builder.kswapd_runs] == [(0, 10_000), (60_000, 65_000)]
    assert (builder.nr_wakes, builder.last_wake_to_sleep_ns) == (3, 40_000)
    assert builder.orphans == {"kswapd": 1}
    assert [open_one.kind for open_one in builder.unfinished()] == ["kswapd"]


def test_a_second_beginning_drops_the_first() -> None:
    """After lost events a beginning may have no end: it is counted, and the next one is paired rightly."""
    rec = _Recording()
    rec.add(0, "mm_vmscan_direct_reclaim_begin", 0, "GFP_KERNEL")
    rec.add(50, "mm_vmscan_direct_reclaim_begin", 0, "GFP_KERNEL")
    rec.add(60, "mm_vmscan_direct_reclaim_end", 5)
    (span,), builder = rec.spans()
    assert (span.duration_ns, builder.dropped) == (10_000, {"direct_reclaim": 1})


def test_a_stalled_allocation_holds_its_reclaims() -> None:
    """The links of what happens inside an allocation are its own, and they add up to its length."""
    rec = _Recording()
    rec.add(0, "alloc_stall_begin", 0, "GFP_KERNEL")
    rec.add(5, "mm_vmscan_direct_reclaim_begin", 0, "GFP_KERNEL")
    rec.add(9, "mempool_wait_begin", "bio", 4)
    rec.add(19, "mempool_wait_end", "bio", 1)
    rec.add(30, "mm_vmscan_direct_reclaim_end", 32)
    rec.add(33, "alloc_stall_end", 0, 7)
    spans, _ = rec.spans()
    assert [span.kind for span in spans] == ["mempool", "direct_reclaim", "alloc_stall"]
    links = {name: link.total_ns for name, link in spans[-1].links.items()}
    assert sum(links.values()) == spans[-1].duration_ns == 33_000
    assert links["mempool: bio"] == 10_000
    assert spans[-1].nr_reclaimed == 32


def test_what_is_not_over_is_as_long_as_it_has_been() -> None:
    """An open wait has the links of the open wait inside it, and they add up to now."""
    rec = _Recording()
    rec.add(0, "alloc_stall_begin", 0, "GFP_KERNEL")
    rec.add(5, "mempool_wait_begin", "bio", 4)
    _, builder = rec.spans()
    inner, outer = builder.unfinished_at(20_000)
    assert (inner.kind, inner.duration_ns, inner.depth) == ("mempool", 15_000, 1)
    assert (outer.kind, outer.duration_ns, outer.depth) == ("alloc_stall", 20_000, 0)
    assert {name: link.total_ns for name, link in outer.links.items()} == {"allocating": 5_000, "mempool: bio": 15_000}
    assert inner.unfinished
    assert outer.unfinished


def test_requests_are_paired_by_number_or_by_sector() -> None:
    """Our requests have a number; a real machine's are known by device and sector."""
    rec = _Recording()
    rec.add(0, "request_issue", 1, "W", 100, 4)
    rec.add(1, "request_issue", 2, "R", 200, 1)
    rec.add(2, "block_rq_issue", "8,0", "WS", 4096, 5000, 8, "kworker")
    rec.add(9, "request_complete", 2, "R", 0, 1)
    rec.add(12, "request_complete", 1, "W", 0, 4)
    rec.add(13, "block_rq_complete", "8,0", "WS", 5000, 8, 0)
    rec.add(14, "request_complete", 3, "W", 0, 4)
    spans, builder = rec.spans()
    assert [(span.cause, span.duration_ns) for span in spans] == [("R", 8000), ("W", 12000), ("WS", 11000)]
    assert builder.orphans == {"request": 1}
    assert all(span.kind in KINDS for span in spans)


def test_throttles_come_at_their_end() -> None:
    """The event of a throttle says how long it was; a dirtier's pause comes after its event."""
    rec = _Recording()
    rec.add(5000, "mm_vmscan_throttled", 0, 4000, 3000, "VMSCAN_THROTTLE_ISOLATED")
    rec.add(6000, "balance_dirty_pages", "8:0", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 1)
    rec.add(7000, "balance_dirty_pages", "8:0", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -5, 0, 0, 1)
    spans, _ = rec.spans()
    assert [(span.kind, span.begin_ns, span.end_ns) for span in spans] == [
        ("throttle", 2_000_000, 5_000_000),
        ("dirty_throttle", 6_000_000, 26_000_000),
    ]


def test_a_nap_before_5_16_is_reclaim_s_or_the_writer_s() -> None:
    """congestion_wait is told in one way: inside a reclaim it throttles the reclaimer, outside the writer."""
    rec = _Recording()
    rec.add(0, "mm_vmscan_direct_reclaim_begin", 0, "GFP_KERNEL")
    rec.add(100_000, "writeback_congestion_wait", 100_000, 100_000)
    rec.add(100_010, "mm_vmscan_direct_reclaim_end", 5)
    rec.add(300_000, "writeback_congestion_wait", 100_000, 100_000)
    spans, _builder = rec.spans()
    assert [(span.kind, span.duration_ns // 1000) for span in spans] == [
        ("throttle", 100_000),
        ("direct_reclaim", 100_010),
        ("dirty_throttle", 100_000),
    ]


def test_a_wait_of_no_possible_length_is_malformed() -> None:
    """A length that an event tells is checked: what is negative or longer than a histogram holds is no wait."""
    rec = _Recording()
    rec.add(10, "mm_vmscan_direct_reclaim_begin", 0, "GFP_KERNEL")
    for length in (-5, 2**62, 20):
        rec.add(100, "mm_vmscan_throttled", 0, 20_000, length, "VMSCAN_THROTTLE_WRITEBACK")
        rec.add(100, "writeback_congestion_wait", 100_000, length)
        rec.add(100, "balance_dirty_pages", "8:0", 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, max(length, 0), 0, 0, 1)
    rec.add(200, "mm_vmscan_direct_reclaim_end", 32)
    found, _ = rec.spans()
    assert [(span.kind, span.duration_ns) for span in found if span.kind != "direct_reclaim"] == [
        ("throttle", 20_000),
        ("throttle", 20_000),
        ("dirty_throttle", 20_000_000),
    ]
    assert found[-1].duration_ns == sum(link.total_ns for link in found[-1].links.values()) == 190_000
    assert rec.recorded.losses.skipped == 5
    assert rec.recorded.losses.examples[0] == "throttle of -5000 ns at 0.000100 s"
