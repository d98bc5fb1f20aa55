"""Perfetto's TrackEvent protobuf, out: tracks for tasks, kswapd and requests, counters, and flows between them.

Every wait that a profile counts is a slice, under the same name, on a track of its kind below its task's; so
``select name, count(*), sum(dur) from slice group by name`` says in Perfetto what ``netvm profile`` says. Requests that
overlap are on as many tracks as overlap. Counters are counter tracks; packets dropped and tasks killed are instants.

Below the host are groups of tracks: the flushers (their rounds, the files they write back, the pages that are under
writeback), the sockets (who waits for room in one, calls on the wire by xid), NFS and RPC, and work items. A flow leads
from the work of the flusher or the swapping task that issued a write, through the socket it went out by, and the
request or call whose completion came last before a stalled allocation got its page, to that allocation.

The messages are written by hand: varints and lengths are a few lines, and the schema of perfetto/trace_packet.proto is
stable by promise. Numbers of fields stand in the constants.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from netvm.report.spans import SpanBuilder
from netvm.report.waits import Span
from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import number_of

__all__ = ["PerfettoWriter", "write_perfetto"]

# Trace.packet; TracePacket: timestamp, trusted_packet_sequence_id, track_event, sequence_flags, track_descriptor
_PACKET, _TIMESTAMP, _SEQUENCE, _EVENT, _SEQUENCE_FLAGS, _DESCRIPTOR = 1, 8, 10, 11, 13, 60
# TrackDescriptor: uuid, name, process, thread, parent_uuid, counter; ProcessDescriptor and ThreadDescriptor
_UUID, _NAME, _PROCESS, _THREAD, _PARENT, _COUNTER = 1, 2, 3, 4, 5, 8
_PROCESS_PID, _PROCESS_NAME, _THREAD_PID, _THREAD_TID, _THREAD_NAME = 1, 6, 1, 2, 5
# TrackEvent: debug_annotations, type, track_uuid, categories, name, counter_value, flow_ids
_ANNOTATION, _TYPE, _TRACK, _CATEGORY, _EVENT_NAME, _VALUE, _FLOW = 4, 9, 11, 22, 23, 30, 47
_BEGIN, _END, _INSTANT, _COUNT = 1, 2, 3, 4
# DebugAnnotation: int_value, string_value, name
_INT_VALUE, _STRING_VALUE, _ANNOTATION_NAME = 4, 6, 10

_GROUPS: Final = {
    "request": "storage",
    "nfs": "NFS",
    "rpc": "NFS",
    "rpc_reply": "sockets",
    "socket": "sockets",
    "inode_writeback": "flushers",
    "page_dirty": "flushers",
    "page_writeback": "flushers",
    "dirty_age": "flushers",
    "writeback": "flushers",
    "work": "workqueues",
}
"""The group of tracks below the host that a kind of span is in; the others are on their task's."""
_WRITES: Final = frozenset({"request", "nfs"})
_CARRIERS: Final = frozenset({"inode_writeback", "socket", "page_writeback", "rpc_reply"})
"""Spans that a flow may pass on its way: one of each kind, the last that ended within the write or issued it."""

_HOST_PID: Final = 1_000_000
"""The process that stands for the host: no task has its number."""
_INSTANTS: Final = {number_of("skb_drop"): "skb_drop", number_of("mark_victim"): "mark_victim"}
_COUNTER_EVENT: Final = number_of("counter")


def write_perfetto(batches: Iterable[RecordArray], recorded: Recorded, path: Path) -> None:
    """Write a trace as TrackEvents."""
    with path.open("wb") as file:
        writer = PerfettoWriter(recorded, file)
        builder = SpanBuilder(recorded, writer.span)
        for batch in batches:
            builder.add(batch)
            writer.add(batch)
        writer.finish()


class PerfettoWriter:
    """Writes slices, instants and counters; the file is complete after :meth:`finish`."""

    def __init__(self, recorded: Recorded, file: IO[bytes]) -> None:
        self.recorded = recorded
        self._file = file
        self._tracks: dict[Any, int] = {}
        self._last_write: _Held | None = None
        self._carriers: dict[str, _Held] = {}
        """By kind: the last span a flow could pass."""
        self._lanes: dict[str, list[int]] = {}
        """By kind of span without a lane of its own: when each of its tracks is free."""
        self._nr_flows = 0
        self._descriptor(("host",), _message(_PROCESS, _int(_PROCESS_PID, _HOST_PID) + _text(_PROCESS_NAME, "host")))

    def add(self, records: RecordArray) -> None:
        """Write counters and instants of a batch."""
        events = records["event"]
        for row in np.flatnonzero(events == _COUNTER_EVENT).tolist():
            name, value = records["args"][row, :2].tolist()
            track = self._counter_track(self.recorded.names[name])
            self._event(int(records["time_ns"][row]), _COUNT, track, _int(_VALUE, value))
        for event, name in _INSTANTS.items():
            for row in np.flatnonzero(events == event).tolist():
                task = int(records["task"][row])
                told = self.recorded.names[int(records["args"][row, 0])] if name == "skb_drop" else ""
                fields = _text(_EVENT_NAME, name) + (_annotation("reason", told) if told else b"")
                self._event(int(records["time_ns"][row]), _INSTANT, self._task_track(task, name), fields)

    def span(self, span: Span) -> None:
        """Write one finished wait."""
        if span.kind in _WRITES and "W" in span.cause:
            self._flush(self._last_write)
            self._last_write = _Held(span)
            return
        if span.kind in _CARRIERS:
            self._flush(self._carriers.get(span.kind))
            self._carriers[span.kind] = _Held(span)
            return
        flows: list[int] = []
        write = self._last_write
        if span.kind == "alloc_stall" and write is not None and span.begin_ns <= write.span.end_ns <= span.end_ns:
            self._nr_flows += 1
            passed = [held for held in self._carriers.values() if _carries(held.span, write.span)]
            for held in (*passed, write):
                held.flows.append(self._nr_flows)
            flows.append(self._nr_flows)
        self._slice(span, flows)

    def finish(self) -> None:
        """Write what was held back."""
        for held in (self._last_write, *self._carriers.values()):
            self._flush(held)
        self._last_write = None
        self._carriers = {}

    def _flush(self, held: "_Held | None") -> None:
        if held is not None:
            self._slice(held.span, held.flows)

    def _slice(self, span: Span, flows: list[int]) -> None:
        group = _GROUPS.get(span.kind)
        if group is None:
            track = self._task_track(span.task, span.kind)
        else:
            track = self._group_track(group, span)
        fields = _text(_EVENT_NAME, span.kind) + _text(_CATEGORY, "netvm") + _annotation("cause", span.cause)
        if group is not None:
            fields += _annotation("task", self.recorded.tasks.label(span.task))
        for name, value in (("order", span.order), ("scanned", span.nr_scanned), ("reclaimed", span.nr_reclaimed)):
            if value:
                fields += _annotation("pages" if group is not None and name == "scanned" else name, value)
        for name, link in span.links.items():
            fields += _annotation(f"{name}, us", link.total_ns // 1000)
        fields += b"".join(_fixed64(_FLOW, flow) for flow in flows)
        self._event(span.begin_ns, _BEGIN, track, fields)
        self._event(span.end_ns, _END, track, b"")

    # -- tracks ---------------------------------------------------------------------------------------------------

    def _task_track(self, task: int, kind: str) -> int:
        """Return the track of one kind of event below a task's own."""
        known = self._tracks.get((task, kind))
        if known is not None:
            return known
        comm, pid = self.recorded.tasks[task]
        if (task,) not in self._tracks:
            thread = _int(_THREAD_PID, _HOST_PID) + _int(_THREAD_TID, pid) + _text(_THREAD_NAME, comm)
            self._descriptor((task,), _message(_THREAD, thread))
        parent = _int(_PARENT, self._tracks[task,])
        return self._descriptor((task, kind), parent + _text(_NAME, f"{comm}-{pid} {kind}"))

    def _group_track(self, group: str, span: Span) -> int:
        """Return a track of a group on which the span overlaps no other of its kind."""
        if (group,) not in self._tracks:
            self._descriptor((group,), _int(_PARENT, self._tracks["host",]) + _text(_NAME, group))
        who = span.cause if span.kind in ("socket", "page_writeback", "page_dirty", "inode_writeback") else ""
        lanes = self._lanes.setdefault(f"{span.kind} {who}", [])
        lane = next((lane for lane, free_ns in enumerate(lanes) if free_ns <= span.begin_ns), len(lanes))
        if lane == len(lanes):
            lanes.append(0)
        # slices come in the order of their ends: one that began before the last end takes another lane
        lanes[lane] = span.end_ns
        key = group, span.kind, who, lane
        known = self._tracks.get(key)
        name = f"{span.kind} {who}".strip()
        return known or self._descriptor(key, _int(_PARENT, self._tracks[group,]) + _text(_NAME, name))

    def _counter_track(self, name: str) -> int:
        key = "counter", name
        known = self._tracks.get(key)
        if known is not None:
            return known
        parent = _int(_PARENT, self._tracks["host",])
        return self._descriptor(key, parent + _text(_NAME, name) + _message(_COUNTER, b""))

    def _descriptor(self, key: Any, fields: bytes) -> int:
        uuid = self._tracks[key] = len(self._tracks) + 1
        # the first packet of the sequence says that there is no state before it
        flags = _int(_SEQUENCE_FLAGS, 1) if uuid == 1 else b""
        self._packet(_message(_DESCRIPTOR, _int(_UUID, uuid) + fields) + flags)
        return uuid

    # -- packets --------------------------------------------------------------------------------------------------

    def _event(self, time_ns: int, kind: int, track: int, fields: bytes) -> None:
        event = _int(_TYPE, kind) + _int(_TRACK, track) + fields
        self._packet(_int(_TIMESTAMP, time_ns) + _message(_EVENT, event))

    def _packet(self, fields: bytes) -> None:
        self._file.write(_message(_PACKET, fields + _int(_SEQUENCE, 1)))


class _Held:
    """A slice that is written when it is known which flows pass it."""

    __slots__ = ("flows", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.flows: list[int] = []


def _carries(carrier: Span, write: Span) -> bool:
    """Whether a span lies on the way of a write: what issued it, or what it went out and came back by."""
    if carrier.kind == "inode_writeback":
        return carrier.task == write.task and carrier.begin_ns <= write.begin_ns <= carrier.end_ns
    return carrier.begin_ns < write.end_ns and carrier.end_ns > write.begin_ns


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _fixed64(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + value.to_bytes(8, "little")


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _annotation(name: str, value: int | str) -> bytes:
    told = _int(_INT_VALUE, value) if isinstance(value, int) else _text(_STRING_VALUE, value)
    return _message(_ANNOTATION, _text(_ANNOTATION_NAME, name) + told)
