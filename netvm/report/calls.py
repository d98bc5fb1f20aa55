"""Calls: what begins in one task and ends in another, and what one event tells whole.

An NFS call begins where a flusher initiates it and ends where nfsiod takes its result; both events name file, handle
and offset. An RPC task is paired by its number (``rpc_request`` to ``rpc_stats_latency``, which also says how the time
divides: queues, wire and server, the rest) and on the wire by its xid (``xprt_transmit`` to ``xprt_lookup_rqst``). A
work item is its worker's, but contains that worker's own waits and so is no wait itself. The ages of dirt and the time
pages are under writeback come with the event at their end.

A recording may have the ends alone (an event that was not switched on): an end whose beginning never occurs in a
recording is passed over, not counted as an orphan.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from netvm.report.waits import Link, Span
from netvm.trace.records import Recorded
from netvm.trace.tracepoints import BY_NAME

__all__ = ["CALL_EVENTS", "CALL_KINDS", "Calls"]

CALL_KINDS: Final = (
    "nfs",
    "rpc",
    "rpc_reply",
    "page_dirty",
    "page_writeback",
    "dirty_age",
    "inode_writeback",
    "work",
)
"""Kinds of spans that are made here."""

_INODES_MAX: Final = 512
"""Files that are told apart; those beyond are told by their device alone."""

_INITIATE: Final = {
    "nfs_initiate_read": "READ",
    "nfs_initiate_write": "WRITE",
    "nfs_initiate_commit": "COMMIT",
}
_DONE: Final = {"nfs_readpage_done": "READ", "nfs_writeback_done": "WRITE", "nfs_commit_done": "COMMIT"}
_HANDLED: Final = (
    *_INITIATE,
    *_DONE,
    "rpc_request",
    "rpc_stats_latency",
    "xprt_transmit",
    "xprt_lookup_rqst",
    "pages_written",
    "writeback_single_inode_start",
    "writeback_single_inode",
    "workqueue_execute_start",
    "workqueue_execute_end",
)
CALL_EVENTS: Final = frozenset(BY_NAME[name].number for name in _HANDLED)

Handler = Callable[[int, int, int, list[int]], None]


class Calls:
    """Pairs the events of calls of one recording."""

    def __init__(
        self, recorded: Recorded, sink: Callable[[Span], None], orphans: dict[str, int], dropped: dict[str, int]
    ) -> None:
        self.recorded = recorded
        self._sink = sink
        self._orphans = orphans
        self._dropped = dropped
        self._open: dict[tuple[Any, ...], Span] = {}
        self._begun: set[str] = set()
        """Kinds of which a beginning was seen."""
        self._lanes: dict[str, set[int]] = {}
        self._inodes: dict[tuple[int, int], str] = {}
        self._same: dict[tuple[Any, ...], deque[int]] = {}
        """By procedure, file, handle and offset: the NFS calls that are out, in the order a server answers them."""
        self._nr_calls = 0
        self._initiated: dict[int, Span] = {}
        """By task: the NFS call it initiated last, which has no RPC task yet."""
        self._of_rpc: dict[tuple[int, int], Span] = {}
        self.last_write: Span | None = None
        """The NFS write that was answered last."""
        self._handlers: dict[int, Handler] = {}
        for name, procedure in _INITIATE.items():
            self._handlers[BY_NAME[name].number] = self._initiate(procedure)
        for name, procedure in _DONE.items():
            self._handlers[BY_NAME[name].number] = self._done(procedure)
        for name in _HANDLED[len(_INITIATE) + len(_DONE) :]:
            self._handlers[BY_NAME[name].number] = getattr(self, f"_{name}")

    def event(self, event: int, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        """Take one of :data:`CALL_EVENTS`."""
        self._handlers[event](time_ns, task, cpu, arg)

    @property
    def nr_writes_out(self) -> int:
        """How many NFS writes are out."""
        return sum(len(same) for place, same in self._same.items() if place[0] == "WRITE")

    def unfinished(self) -> list[Span]:
        """Return the calls that are not over."""
        return [span for span in self._open.values() if span.kind != "rpc_reply" or "replied" in self._begun]

    # -- pairs ----------------------------------------------------------------------------------------------------

    def _begin(self, key: tuple[Any, ...], span: Span) -> Span:
        self._begun.add(span.kind)
        before = self._open.pop(key, None)
        if before is not None:
            self._dropped[span.kind] = self._dropped.get(span.kind, 0) + 1
            self._lanes[span.kind].discard(before.lane)
        lanes = self._lanes.setdefault(span.kind, set())
        span.lane = next(lane for lane in range(len(lanes) + 1) if lane not in lanes)
        lanes.add(span.lane)
        self._open[key] = span
        return span

    def _end(self, kind: str, key: tuple[Any, ...], time_ns: int) -> Span | None:
        span = self._open.pop(key, None)
        if span is None:
            if kind in self._begun:
                self._orphans[kind] = self._orphans.get(kind, 0) + 1
            return None
        self._lanes[kind].discard(span.lane)
        span.end_ns = max(time_ns, span.begin_ns)
        return span

    # -- NFS ------------------------------------------------------------------------------------------------------

    def _initiate(self, procedure: str) -> Handler:
        def initiate(time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
            cause = f"{procedure} {self.recorded.names[arg[6]]}" if procedure == "WRITE" else procedure
            span = Span("nfs", task, time_ns, cause, cpu=cpu, last_ns=time_ns, nr_scanned=arg[5] >> 12)
            same = self._same.setdefault((procedure, *arg[:5]), deque())
            self._nr_calls += 1
            same.append(self._nr_calls)
            self._initiated[task] = self._begin(("nfs", self._nr_calls), span)

        return initiate

    def _done(self, procedure: str) -> Handler:
        def done(time_ns: int, _task: int, _cpu: int, arg: list[int]) -> None:
            place = (procedure, *arg[1:6])
            same = self._same.get(place)
            number = same.popleft() if same else 0
            if not same:
                self._same.pop(place, None)
            span = self._end("nfs", ("nfs", number), time_ns)
            if span is None:
                return
            if procedure == "WRITE":
                self.last_write = span
            self._sink(span)

        return done

    # -- RPC ------------------------------------------------------------------------------------------------------

    def _rpc_request(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        procedure = self.recorded.names[arg[4]]
        self._begin(("rpc", arg[0], arg[1]), Span("rpc", task, time_ns, procedure, cpu=cpu, last_ns=time_ns))
        call = self._initiated.pop(task, None)
        if call is not None and call.cause.startswith(procedure):
            self._of_rpc[arg[0], arg[1]] = call

    def _rpc_stats_latency(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        backlog_us, rtt_us, execute_us = arg[6:9]
        self._of_rpc.pop((arg[0], arg[1]), None)
        span = self._end("rpc", ("rpc", arg[0], arg[1]), time_ns)
        if span is None:
            begin_ns = time_ns - execute_us * 1000
            span = Span("rpc", task, begin_ns, self.recorded.names[arg[5]], cpu=cpu, last_ns=begin_ns)
            span.end_ns = time_ns
        rest_us = max(0, execute_us - backlog_us - rtt_us)
        for name, part_us in (("queues", backlog_us), ("wire and server", rtt_us), ("taking the reply", rest_us)):
            span.links[name] = Link(total_ns=part_us * 1000, count=1)
        self._sink(span)

    def _xprt_transmit(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        task_id, client, xid, _seqno, status = arg[:5]
        call = self._of_rpc.get((task_id, client))
        if call is not None and not status:
            call.sent_ns = time_ns
        if status or ("rpc_reply", xid) in self._open:
            return
        self._begin(("rpc_reply", xid), Span("rpc_reply", task, time_ns, "xid", cpu=cpu, last_ns=time_ns))

    def _xprt_lookup_rqst(self, time_ns: int, _task: int, _cpu: int, arg: list[int]) -> None:
        self._begun.add("replied")
        span = self._end("rpc_reply", ("rpc_reply", arg[2]), time_ns)
        if span is not None:
            span.cause = self.recorded.names[arg[0]]
            self._sink(span)

    # -- writeback ------------------------------------------------------------------------------------------------

    def _inode(self, bdi: int, ino: int) -> str:
        known = self._inodes.get((bdi, ino))
        if known is None:
            name = self.recorded.names[bdi]
            known = name if len(self._inodes) >= _INODES_MAX else f"{name} ino {ino}"
            self._inodes[bdi, ino] = known
        return known

    def _pages_written(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        cause = self._inode(arg[0], arg[1])
        for kind, age_us in (("page_dirty", arg[3]), ("page_writeback", arg[4])):
            begin_ns = time_ns - age_us * 1000
            span = Span(kind, task, begin_ns, cause, cpu=cpu, last_ns=begin_ns, nr_scanned=arg[2], end_ns=time_ns)
            self._sink(span)

    def _writeback_single_inode_start(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        cause = self._inode(arg[0], arg[1])
        span = Span("inode_writeback", task, time_ns, cause, cpu=cpu, last_ns=time_ns)
        self._begin(("inode_writeback", task), span)

    def _writeback_single_inode(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        cause = self._inode(arg[0], arg[1])
        begin_ns = time_ns - arg[4] * 1_000_000
        self._sink(
            Span("dirty_age", task, begin_ns, cause, cpu=cpu, last_ns=begin_ns, nr_scanned=arg[7], end_ns=time_ns)
        )
        span = self._end("inode_writeback", ("inode_writeback", task), time_ns)
        if span is not None:
            span.nr_scanned = arg[7]
            self._sink(span)

    # -- workqueues -----------------------------------------------------------------------------------------------

    def _workqueue_execute_start(self, time_ns: int, task: int, cpu: int, arg: list[int]) -> None:
        span = Span("work", task, time_ns, self.recorded.names[arg[1]], cpu=cpu, last_ns=time_ns)
        self._begin(("work", task), span)

    def _workqueue_execute_end(self, time_ns: int, task: int, _cpu: int, _arg: list[int]) -> None:
        span = self._end("work", ("work", task), time_ns)
        if span is not None:
            self._sink(span)
