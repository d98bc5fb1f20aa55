"""Waits: events that begin and end, paired into spans.

A :class:`SpanBuilder` goes over records in order and hands every wait it can pair to a sink: direct reclaim of a task,
kswapd's time awake, a throttle (the kernel's event comes at its end and says how long it was), a round of writeback, a
stalled allocation, a swap-in, a wait for a mempool, for the reserve or for a socket, a request to the storage; and by
:mod:`netvm.report.calls` what begins in one task and ends in another.

What is inside a span is added up while it is open: pages scanned and reclaimed, and the *links* of its time, that is
how long the task spent in what, as far as its own events show it. A span whose end never comes is unfinished; an end
without a beginning (the recording began too late, or lost it) is counted as an orphan. After lost events the open
spans of that CPU are not to be trusted: a second beginning of the same task drops the first.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from netvm.report.calls import CALL_EVENTS, CALL_KINDS, Calls
from netvm.report.waits import RECLAIMS, Span, own_link
from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import BY_NAME, TRACEPOINTS

__all__ = ["KINDS", "SpanBuilder"]

KINDS: Final = (
    "direct_reclaim",
    "memcg_reclaim",
    "node_reclaim",
    "kswapd",
    "throttle",
    "dirty_throttle",
    "writeback",
    "alloc_stall",
    "swapin",
    "mempool",
    "pfmemalloc",
    "request",
    "socket",
    *CALL_KINDS,
)

_BEGINS: Final = {
    "mm_vmscan_direct_reclaim_begin": "direct_reclaim",
    "mm_vmscan_memcg_reclaim_begin": "memcg_reclaim",
    "mm_vmscan_memcg_softlimit_reclaim_begin": "memcg_reclaim",
    "mm_vmscan_node_reclaim_begin": "node_reclaim",
    "alloc_stall_begin": "alloc_stall",
    "swapin_begin": "swapin",
    "mempool_wait_begin": "mempool",
    "pfmemalloc_wait_begin": "pfmemalloc",
    "writeback_start": "writeback",
    "socket_wait_begin": "socket",
}
_ENDS: Final = {
    "mm_vmscan_direct_reclaim_end": "direct_reclaim",
    "mm_vmscan_memcg_reclaim_end": "memcg_reclaim",
    "mm_vmscan_memcg_softlimit_reclaim_end": "memcg_reclaim",
    "mm_vmscan_node_reclaim_end": "node_reclaim",
    "alloc_stall_end": "alloc_stall",
    "swapin_end": "swapin",
    "mempool_wait_end": "mempool",
    "pfmemalloc_wait_end": "pfmemalloc",
    "writeback_written": "writeback",
    "socket_wait_end": "socket",
}
_BEGIN_OF: Final = {BY_NAME[name].number: kind for name, kind in _BEGINS.items()}
_END_OF: Final = {BY_NAME[name].number: kind for name, kind in _ENDS.items()}
_DURATION_NS_MAX: Final = 2**62
"""What a histogram holds: 146 years."""
_STALLS: Final = frozenset({"alloc_stall", "direct_reclaim", "memcg_reclaim"})
_WAKE = BY_NAME["mm_vmscan_kswapd_wake"].number
_SLEEP = BY_NAME["mm_vmscan_kswapd_sleep"].number
_WAKEUP = BY_NAME["mm_vmscan_wakeup_kswapd"].number
_SHRINK = BY_NAME["mm_vmscan_lru_shrink_inactive"].number
_THROTTLED = BY_NAME["mm_vmscan_throttled"].number
_DIRTY = BY_NAME["balance_dirty_pages"].number
_CONGESTION = BY_NAME["writeback_congestion_wait"].number
_ISSUE = BY_NAME["request_issue"].number
_COMPLETE = BY_NAME["request_complete"].number
_SENT = BY_NAME["request_sent"].number
_RQ_ISSUE = BY_NAME["block_rq_issue"].number
_RQ_COMPLETE = BY_NAME["block_rq_complete"].number

_WATCHED: Final = np.zeros(len(TRACEPOINTS), dtype=np.bool_)
_WATCHED[
    [
        *_BEGIN_OF,
        *_END_OF,
        _WAKE,
        _SLEEP,
        _SHRINK,
        _THROTTLED,
        _DIRTY,
        _ISSUE,
        _COMPLETE,
        _SENT,
        _RQ_ISSUE,
        _RQ_COMPLETE,
        _CONGESTION,
        *CALL_EVENTS,
    ]
] = True


class SpanBuilder:
    """Pairs the events of one recording."""

    def __init__(self, recorded: Recorded, sink: Callable[[Span], None]) -> None:
        self.recorded = recorded
        self._sink = sink
        self._open: dict[tuple[str, int], Span] = {}
        # invariant: the open waits of a task but kswapd's own, outermost first
        self._stacks: dict[int, list[Span]] = {}
        self._requests: dict[tuple[int, int], Span] = {}
        self._lanes: set[int] = set()
        self._last_write: Span | None = None
        self.orphans: dict[str, int] = {}
        """Ends without a beginning, by kind."""
        self.dropped: dict[str, int] = {}
        """Beginnings that were followed by another of the same task."""
        self._calls = Calls(recorded, self._call, self.orphans, self.dropped)
        self.kswapd_runs: list[tuple[int, int, int, int]] = []
        """From a wake to the last event before the next wake or sleep, nanoseconds: what kswapd was really at work;
        and which task it was, on which CPU."""
        self.nr_wakes = 0
        self.last_wake_to_sleep_ns = 0
        self._last_wake: dict[int, int] = {}

    def add(self, records: RecordArray) -> None:
        """Go over a batch."""
        rows = records[_WATCHED[records["event"]]]
        if not len(rows):
            return
        columns: tuple[list[int], ...] = tuple(rows[name].tolist() for name in ("time_ns", "event", "task", "cpu"))
        args: list[list[int]] = rows["args"].tolist()
        for time_ns, event, task, cpu, arg in zip(*columns, args, strict=True):
            kind = _BEGIN_OF.get(event)
            if kind is not None:
                self._begin(kind, event, time_ns, task, cpu, arg)
                continue
            kind = _END_OF.get(event)
            if kind is not None:
                self._end(kind, time_ns, task, arg)
            elif event == _SHRINK:
                self._shrink(time_ns, task, arg)
            elif event in CALL_EVENTS:
                self._calls.event(event, time_ns, task, cpu, arg)
            else:
                self._other(event, time_ns, task, cpu, arg)

    def unfinished(self) -> list[Span]:
        """Return the spans that are still open, oldest first."""
        found = [*self._open.values(), *self._requests.values(), *self._calls.unfinished()]
        return sorted(found, key=lambda span: span.begin_ns)

    def _call(self, span: Span) -> None:
        """Take a call that is over."""
        if self._calls.last_write is span:
            self._last_write = span
        self._take(span)

    def unfinished_at(self, now_ns: int) -> list[Span]:
        """Return the waits of tasks that are still open, as if they ended now; inner ones first."""
        found: list[Span] = []
        for stack in self._stacks.values():
            inner = None
            for span in reversed(stack):
                inner = span.so_far(now_ns, inner)
                found.append(inner)
        return found

    def _begin(self, kind: str, event: int, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        key = kind, task
        stack = self._stacks.setdefault(task, [])
        before = self._open.get(key)
        if before is not None:
            self.dropped[kind] = self.dropped.get(kind, 0) + 1
            stack.remove(before)
        names = self.recorded.names
        order = 0
        if kind in RECLAIMS or kind == "alloc_stall":
            at = TRACEPOINTS[event].index("gfp_flags")
            order, cause = arg[at - 1], names[arg[at]]
        elif kind == "writeback":
            cause = names[arg[TRACEPOINTS[event].index("reason")]]
        elif kind in ("mempool", "socket"):
            cause = names[arg[0]]
        else:
            cause = kind
        if stack:
            stack[-1].spend(own_link(stack[-1]), time_ns)
        span = self._open[key] = Span(kind, task, time_ns, cause, order=order, cpu=cpu, last_ns=time_ns)
        span.depth = len(stack)
        stack.append(span)

    def _end(self, kind: str, time_ns: int, task: int, arg: list[int]) -> None:
        span = self._open.pop((kind, task), None)
        if span is None:
            self.orphans[kind] = self.orphans.get(kind, 0) + 1
            return
        stack = self._stacks[task]
        stack.remove(span)
        span.end_ns = max(time_ns, span.begin_ns)
        if kind in RECLAIMS:
            span.nr_reclaimed = arg[0]
        freed_by = self._last_write
        if freed_by is not None and freed_by.end_ns >= span.begin_ns and kind in _STALLS:
            span.freed_by = freed_by
            span.nr_in_flight = len(self._requests) + self._calls.nr_writes_out + 1
        span.spend(own_link(span), span.end_ns)
        if stack:
            stack[-1].take(span)
        self._take(span)

    def _take(self, span: Span) -> None:
        """Hand on a wait that is over."""
        if self._is_possible(span):
            self._sink(span)

    def _is_possible(self, span: Span) -> bool:
        """Whether a wait has a length. One that an event tells may be negative or endless: that counts as malformed."""
        if 0 <= span.duration_ns <= _DURATION_NS_MAX and span.end_ns < 2**63:
            return True
        self.recorded.losses.skip(f"{span.kind} of {span.duration_ns} ns at {span.end_ns / 1e9:.6f} s")
        return False

    def _reclaim_of(self, task: int) -> Span | None:
        """Return the wait a task is in, innermost, if it can have links."""
        stack = self._stacks.get(task)
        return stack[-1] if stack else None

    def _shrink(self, time_ns: int, task: int, arg: list[int]) -> None:
        span = self._reclaim_of(task)
        if span is not None:
            span.nr_scanned += arg[1]
            name = "scanning, pages under writeback" if arg[4] else "scanning, dirty pages" if arg[3] else "scanning"
            span.spend(name, time_ns, arg[1])
            return
        awake = self._open.get(("kswapd", task))
        if awake is not None:
            awake.nr_scanned += arg[1]
            awake.nr_reclaimed += arg[2]
            awake.last_ns = time_ns

    def _other(self, event: int, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        if event == _WAKE:
            self._wake(time_ns, task, cpu, arg)
        elif event == _SLEEP:
            self._sleep(time_ns, task)
        elif event == _THROTTLED:
            self._slept("throttle", self.recorded.names[arg[3]], time_ns, task, cpu, arg[2] * 1000)
        elif event == _DIRTY:
            if arg[11] > 0:
                # the event comes before the pause: pause is what the task is about to sleep, in milliseconds
                span = Span("dirty_throttle", task, time_ns, self.recorded.names[arg[0]], cpu=cpu, last_ns=time_ns)
                span.end_ns = time_ns + arg[11] * 1_000_000
                self._take(span)
        elif event == _CONGESTION:
            reclaims = self._reclaim_of(task) is not None or ("kswapd", task) in self._open
            kind = "throttle" if reclaims else "dirty_throttle"
            self._slept(kind, "congestion_wait", time_ns, task, cpu, arg[1] * 1000)
        elif event in (_ISSUE, _RQ_ISSUE):
            key = (0, arg[0]) if event == _ISSUE else (arg[0] + 1, arg[3])
            lane = next(lane for lane in range(len(self._lanes) + 1) if lane not in self._lanes)
            self._lanes.add(lane)
            before = self._requests.get(key)
            if before is not None:
                # a request that was sent again: its first time is over
                self._lanes.discard(before.lane)
            self._requests[key] = Span(
                "request",
                task,
                time_ns,
                self.recorded.names[arg[1]],
                cpu=cpu,
                last_ns=time_ns,
                nr_scanned=arg[3] if event == _ISSUE else arg[2] >> 12,
                lane=lane,
            )
        elif event == _SENT:
            request = self._requests.get((0, arg[0]))
            if request is not None:
                request.sent_ns = time_ns
        else:
            key = (0, arg[0]) if event == _COMPLETE else (arg[0] + 1, arg[2])
            request = self._requests.pop(key, None)
            if request is None:
                self.orphans["request"] = self.orphans.get("request", 0) + 1
                return
            request.end_ns = max(time_ns, request.begin_ns)
            self._lanes.discard(request.lane)
            if "W" in request.cause:
                self._last_write = request
            self._take(request)

    def _slept(self, kind: str, cause: str, time_ns: int, task: int, cpu: int, slept_ns: int) -> None:
        """A sleep that is told when it is over."""
        span = Span(kind, task, time_ns - slept_ns, cause, cpu=cpu, last_ns=time_ns)
        span.depth = len(self._stacks.get(task, ()))
        span.end_ns = time_ns
        if not self._is_possible(span):
            return
        outer = self._reclaim_of(task)
        if outer is not None:
            woke_ns = max(outer.last_ns, time_ns - slept_ns)
            if woke_ns > outer.last_ns:
                outer.spend("scanning", woke_ns)
            outer.spend(f"throttled: {cause}", time_ns)
        awake = self._open.get(("kswapd", task))
        if awake is not None:
            awake.last_ns = time_ns
        self._sink(span)

    def _wake(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        self.nr_wakes += 1
        self._close_run(task)
        self._last_wake[task] = time_ns
        span = self._open.get(("kswapd", task))
        if span is None:
            self._open["kswapd", task] = Span(
                "kswapd", task, time_ns, f"order={arg[1]}", order=arg[1], cpu=cpu, last_ns=time_ns
            )
        else:
            span.last_ns = time_ns

    def _close_run(self, task: int) -> None:
        """A run of balance_pgdat is over: remember when kswapd was at work."""
        woke_ns = self._last_wake.pop(task, None)
        span = self._open.get(("kswapd", task))
        if woke_ns is not None and span is not None and span.last_ns > woke_ns:
            self.kswapd_runs.append((woke_ns, span.last_ns, task, span.cpu))

    def _sleep(self, time_ns: int, task: int) -> None:
        woke_ns = self._last_wake.get(task)
        self._close_run(task)
        span = self._open.pop(("kswapd", task), None)
        if span is None:
            self.orphans["kswapd"] = self.orphans.get("kswapd", 0) + 1
            return
        if woke_ns is not None:
            self.last_wake_to_sleep_ns += max(0, time_ns - woke_ns)
        # an event that comes too late to be put in order ends nothing before it began
        span.end_ns = max(time_ns, span.begin_ns)
        self._take(span)
