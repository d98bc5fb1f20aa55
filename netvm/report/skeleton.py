"""Lines of ftrace text by their skeleton: what is left of a line when its digits are taken out.

Very many lines of a trace differ in nothing but numbers. So a block of text is taken apart once as a whole: the digits
are deleted from it (one pass in C), which leaves each line's skeleton; and the runs of digits are found and read, all
of them together (:mod:`netvm.report.digits`). A skeleton that is known, looked up as a whole, says what every run of
the line means. Left part and fields have skeletons of their own, so that tasks and events do not multiply.

Nothing is taken on trust. That two lines have the same skeleton, as many runs, and the same number of other characters
between them means that they agree in every character but the digits themselves; a run whose length matters (the
fraction of a second) is checked too. What differs in any way is left to the careful readers, as are fields that are
written in hexadecimal, whose letters would make every line a skeleton of its own.

A string field with digits in it (a device ``0:16``, a worker ``kworker/u2:1``) lies between places that are known from
the runs around it, and is looked up by a hash of its bytes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.report.digits import PAD, Chunk, Mask, Offsets
from netvm.report.ftraceline import FTRACE_PREFIX, INT_MAX, SECONDS_MAX, LineReader
from netvm.trace.records import RECORD, RecordArray, Recorded
from netvm.trace.tracepoints import ARGS_MAX, BY_NAME, TRACEPOINTS

__all__ = ["SkeletonReader"]

_DIGITS: Final = b"0123456789"
_RUN: Final = re.compile(r"\d+")
_MARK: Final = b" .: "
"""What ends the left part of a skeleton: the fraction's point, the colon and a space."""
_UNKNOWN: Final = -2
_FIELD_BITS: Final = 12
_SHAPES_MAX: Final = 1 << _FIELD_BITS
_BOTH_MAX: Final = 1 << 16
_TRIES_MAX: Final = 1 << 14
"""Skeletons that are learned, or tried in vain, before learning ends."""
_ROWS_MIN: Final = 4
_SLICE_BYTES: Final = 1 << 16
_SLICE_RUNS: Final = 1 << 12

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Edge:
    """A place in a line: so many bytes after the end of a run of digits, or after the part's beginning (-1)."""

    run: int
    after: int


_NO_EDGES: Final = (_Edge(-1, 0), _Edge(-1, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """What the left part of some lines says."""

    number: int
    nr_runs: int
    lead: int
    gaps: Int64s
    pid: int
    cpu: int
    second: int
    fraction: int
    fraction_ns: int
    lengths: tuple[tuple[int, int], ...]
    """Runs whose length matters, and that."""
    comm: str | None
    """The task's name if there is no digit in it."""
    flags: int
    """Number of the column of irqs-off and so on, if there is no digit in it; else -1."""
    flags_span: tuple[_Edge, _Edge]
    inside: tuple[int, ...]
    """Runs before the pid: those in the task's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """What the event and its fields say in some lines."""

    number: int
    event: int
    nr_runs: int
    lead: int
    gaps: Int64s
    trail: int
    runs: tuple[int, ...]
    places: tuple[int, ...]
    signs: Int64s
    template: Int64s
    """The arguments that are the same in all lines; shape ``(ARGS_MAX,)``."""
    strings: tuple[tuple[int, _Edge, _Edge], ...]
    """Argument, beginning and end of strings with digits."""


def _hexadecimal(chunk: Chunk, starts: Offsets, ends: Offsets) -> Mask:
    """Say which lines have a ``0x`` in them."""
    found = np.zeros(len(starts), dtype=np.bool_)
    marks = chunk.find(b"x")
    marks = marks[chunk.bytes[marks - 1] == ord("0")]
    line = np.searchsorted(starts, marks, side="right") - 1
    inside = (line >= 0) & (marks < ends[line])
    found[line[inside]] = True
    return found


class SkeletonReader:
    """Reads the lines of a block whose skeletons are known or can be learned."""

    def __init__(self, recorded: Recorded, lines: LineReader) -> None:
        self.recorded = recorded
        self._lines = lines
        self._both: dict[bytes, int] = {}
        """Numbers of the shapes of a whole line."""
        self._lefts: dict[bytes, int] = {}
        self._fields: dict[bytes, int] = {}
        """Numbers of shapes by skeleton; -1 if it cannot be read here."""
        self._left_list: list[_Left] = []
        self._field_list: list[_Fields] = []
        self._refused: set[bytes] = set()
        """Events that have fields of a kind that is not read here."""
        self._nr_tries = 0
        self._strings: dict[int, int] = {}

    def read(self, chunk: Chunk, starts: Offsets, ends: Offsets, records: RecordArray) -> Mask:
        """Read what can be read of some lines of a block, in order; say which were."""
        plain = np.flatnonzero(~_hexadecimal(chunk, starts, ends))
        if len(plain) == len(starts):
            return self._read_plain(chunk, starts, ends, records)
        done = np.zeros(len(starts), dtype=np.bool_)
        some = records[plain]
        done[plain] = self._read_plain(chunk, starts[plain], ends[plain], some)
        records[plain] = some
        return done

    def _read_plain(self, chunk: Chunk, starts: Offsets, ends: Offsets, records: RecordArray) -> Mask:
        """Read lines without a ``0x`` in them: those with one all differ in their letters, and looking is in vain."""
        done = np.zeros(len(starts), dtype=np.bool_)
        runs = _Runs(chunk)
        if not len(runs.start) or not len(starts):
            return done
        # the lines stand one after the other, but for those that are not read here
        cuts = [0, *(np.flatnonzero(starts[1:] != ends[:-1] + 1) + 1).tolist(), len(starts)]
        text = b"".join(chunk.data[int(starts[a]) : int(ends[b - 1]) + 1] for a, b in pairwise(cuts))
        lefts, fields = self._shapes(text, chunk, starts, ends)
        nr_left = np.array([left.nr_runs for left in self._left_list] or [0], dtype=np.int64)
        first = np.searchsorted(runs.start, starts)
        count = np.searchsorted(runs.start, ends) - first
        known = (lefts >= 0) & (fields >= 0)
        known &= count == np.where(known, nr_left[lefts] + self._runs_of(fields), -1)
        second = first + np.where(known, nr_left[lefts], 0)
        groups = _groups(np.where(known, lefts, -1))
        known[:] = False
        for number, rows in groups:
            known[rows] = self._read_left(self._left_list[number], chunk, runs, starts, rows, first[rows], records)
        payload = np.where(known, runs.end[np.maximum(second - 1, 0)] + 2, PAD)
        for number, rows in _groups(np.where(known, fields, -1)):
            shape = self._field_list[number]
            done[rows] = self._read_fields(shape, chunk, runs, payload[rows], ends[rows], rows, second[rows], records)
        return done

    def _runs_of(self, fields: Int64s) -> Int64s:
        counts = np.array([shape.nr_runs for shape in self._field_list] or [0], dtype=np.int64)
        found: Int64s = counts[fields]
        return found

    # -- skeletons ------------------------------------------------------------------------------------------------

    def _shapes(self, text: bytes, chunk: Chunk, starts: Offsets, ends: Offsets) -> tuple[Int64s, Int64s]:
        """Return the number of each line's left part and of its fields; -1 for what cannot be read here."""
        nr = len(starts)
        skeletons = text.translate(None, _DIGITS).split(b"\n")
        both = np.fromiter(map(self._both.get, skeletons[:nr], repeat(_UNKNOWN)), np.int64, nr)
        for row in np.flatnonzero(both == _UNKNOWN).tolist():
            both[row] = self._look_up(skeletons[row], chunk, int(starts[row]), int(ends[row]))
        lefts = both >> _FIELD_BITS
        return lefts, np.where(lefts < 0, -1, both & (_SHAPES_MAX - 1))

    def _look_up(self, skeleton: bytes, chunk: Chunk, start: int, end: int) -> int:
        """Return the numbers of a line's left part and fields in one, learning what is new; -1 if it is not known."""
        head, mark, tail = skeleton.partition(_MARK)
        event = tail.partition(b":")[0]
        if not mark or event in self._refused:
            return -1
        left, field = self._lefts.get(head, _UNKNOWN), self._fields.get(tail, _UNKNOWN)
        if left == _UNKNOWN or field == _UNKNOWN:
            if self._nr_tries > _TRIES_MAX:
                return -1
            self._nr_tries += 1
            line = chunk.text(start, end)
            found = FTRACE_PREFIX.fullmatch(line) if line.isascii() else None
            if left == _UNKNOWN:
                left = self._lefts[head] = self._learn_left(line, found)
            if field == _UNKNOWN:
                field = self._learn_fields(line, found, event)
                if event in self._refused:
                    return -1
                self._fields[tail] = field
        both = -1 if left < 0 or field < 0 else left << _FIELD_BITS | field
        if len(self._both) < _BOTH_MAX:
            self._both[skeleton] = both
        return both

    def _learn_left(self, line: str, found: re.Match[str] | None) -> int:
        if found is None or len(self._left_list) >= _SHAPES_MAX:
            return -1
        end = found.end("fraction")
        runs = [match.span() for match in _RUN.finditer(line[:end])]
        index = {span: number for number, span in enumerate(runs)}
        parts = {name: index.get(found.span(name)) for name in ("pid", "cpu", "second", "fraction")}
        if None in parts.values() or line[end : end + 2] != ": ":
            return -1
        numbers = {name: part for name, part in parts.items() if part is not None}
        comm = found["comm"]
        flags = found["flags"] or ""
        lengths = [(numbers["fraction"], len(found["fraction"]))]
        span = found.span("flags") if flags else (0, 0)
        lengths += [(at, stop - start) for at, (start, stop) in enumerate(runs) if span[0] <= start < span[1]]
        edges = _edges(runs, 0, span) if flags else _NO_EDGES
        if edges is None:
            return -1
        left = _Left(
            number=len(self._left_list),
            nr_runs=len(runs),
            lead=runs[0][0],
            gaps=_gaps(runs),
            pid=numbers["pid"],
            cpu=numbers["cpu"],
            second=numbers["second"],
            fraction=numbers["fraction"],
            fraction_ns=10 ** (9 - len(found["fraction"])),
            lengths=tuple(lengths),
            comm=None if _RUN.search(comm) else comm.strip(),
            flags=-1 if _RUN.search(flags) else self.recorded.names.intern(flags),
            flags_span=edges,
            inside=tuple(number for number in range(len(runs)) if number < numbers["pid"]),
        )
        self._left_list.append(left)
        return left.number

    def _learn_fields(self, line: str, found: re.Match[str] | None, event: bytes) -> int:
        if found is None or len(self._field_list) >= _SHAPES_MAX:
            return -1
        name = found["event"]
        point = BY_NAME.get(name)
        if point is None or _RUN.search(name) or any(field.kind in "xhp" for field in point.fields):
            self._refused.add(event)
            return -1
        spans = self._lines.spans(point.number, line, found.start("rest"))
        begin = found.end("fraction") + 2
        if spans is None or line.endswith(" "):
            return -1
        runs = [(start, stop) for start, stop in (match.span() for match in _RUN.finditer(line)) if start >= begin]
        index = {start: (number, stop) for number, (start, stop) in enumerate(runs)}
        template = np.zeros(ARGS_MAX, dtype=np.int64)
        numbers: list[tuple[int, int, int]] = []
        strings: list[tuple[int, _Edge, _Edge]] = []
        for place, (start, stop) in spans.items():
            value = line[start:stop]
            if point.fields[place].kind == "s":
                if not _RUN.search(value):
                    template[place] = self.recorded.names.intern(value.strip())
                    continue
                edges = _edges(runs, begin, (start, stop))
                if edges is None or value != value.strip():
                    return -1
                strings.append((place, *edges))
                continue
            negative = value.startswith("-")
            run = index.get(start + negative)
            if run is None or run[1] != stop:
                return -1
            numbers.append((run[0], place, -1 if negative else 1))
        shape = _Fields(
            number=len(self._field_list),
            event=point.number,
            nr_runs=len(runs),
            lead=(runs[0][0] if runs else len(line)) - begin,
            gaps=_gaps(runs),
            trail=len(line) - (runs[-1][1] if runs else len(line)),
            runs=tuple(run for run, _, _ in numbers),
            places=tuple(place for _, place, _ in numbers),
            signs=np.array([sign for _, _, sign in numbers], dtype=np.int64),
            template=template,
            strings=tuple(strings),
        )
        self._field_list.append(shape)
        return shape.number

    # -- reading --------------------------------------------------------------------------------------------------

    def _read_left(
        self, left: _Left, chunk: Chunk, runs: "_Runs", starts: Offsets, rows: Offsets, first: Offsets, out: RecordArray
    ) -> Mask:
        """Read the left parts of lines that have this shape; return which really have it."""
        good = runs.fit(first, left.gaps)
        good &= runs.start[first] - starts[rows] == left.lead
        for run, length in left.lengths:
            at = first + run
            good &= runs.end[at] - runs.start[at] == length
        pid, cpu, second, fraction = (
            runs.values[first + run] for run in (left.pid, left.cpu, left.second, left.fraction)
        )
        good &= (second <= SECONDS_MAX) & (np.maximum(pid, cpu) <= INT_MAX)
        pid = np.minimum(pid, INT_MAX)
        out["time_ns"][rows] = second * 1_000_000_000 + fraction * left.fraction_ns
        out["cpu"][rows] = np.minimum(cpu, 65535)
        dash = runs.start[first + left.pid] - 1
        comm = left.comm
        if comm is None and runs.are_same(first, left.inside):
            comm = chunk.text(int(starts[rows[0]]), int(dash[0])).strip()
        out["task"][rows] = self._tasks(comm, chunk, starts[rows], dash, pid)
        if left.flags >= 0:
            out["flags"][rows] = left.flags
        else:
            begin, end = (_at(edge, runs, starts[rows], first) for edge in left.flags_span)
            out["flags"][rows] = self._names(chunk, begin, end)
        return good

    def _tasks(self, comm: str | None, chunk: Chunk, start: Offsets, dash: Offsets, pid: Int64s) -> Int64s:
        tasks = self.recorded.tasks
        if comm is not None:
            if (pid == pid[0]).all():
                return np.full(len(pid), tasks.intern(comm, int(pid[0])), dtype=np.int64)
            different, place = np.unique(pid, return_inverse=True)
            return np.array([tasks.intern(comm, number) for number in different.tolist()], dtype=np.int64)[place]
        keys = chunk.hashes(start, np.maximum(dash, start)) ^ pid.astype(np.uint64)
        _, at, place = np.unique(keys, return_index=True, return_inverse=True)
        found = [
            tasks.intern(chunk.text(int(start[row]), int(dash[row])).strip(), int(pid[row])) for row in at.tolist()
        ]
        return np.array(found, dtype=np.int64)[place]

    def _read_fields(
        self,
        shape: _Fields,
        chunk: Chunk,
        runs: "_Runs",
        payload: Offsets,
        ends: Offsets,
        rows: Offsets,
        first: Offsets,
        out: RecordArray,
    ) -> Mask:
        """Read the fields of lines that have this shape; return which really have it."""
        good = runs.fit(first, shape.gaps)
        if shape.nr_runs:
            good &= runs.start[first] - payload == shape.lead
            good &= ends - runs.end[first + shape.nr_runs - 1] == shape.trail
        else:
            good &= ends - payload == shape.lead
        args = np.empty((len(rows), ARGS_MAX), dtype=np.int64)
        args[:] = shape.template
        for run, place, sign in zip(shape.runs, shape.places, shape.signs.tolist(), strict=True):
            args[:, place] = runs.values[first + run] * sign
        for place, begin, end in shape.strings:
            start, stop = (_at(edge, runs, payload, first) for edge in (begin, end))
            if runs.are_same(first, range(begin.run + 1, end.run + 1)):
                args[:, place] = self.recorded.names.intern(chunk.text(int(start[0]), int(stop[0])))
            else:
                args[:, place] = self._names(chunk, start, np.maximum(stop, start))
        out["event"][rows] = shape.event
        out["args"][rows] = args
        return good

    def _names(self, chunk: Chunk, start: Offsets, end: Offsets) -> Int64s:
        """Return the numbers of strings."""
        keys, at, place = np.unique(chunk.hashes(start, end), return_index=True, return_inverse=True)
        numbers = []
        for key, row in zip(keys.tolist(), at.tolist(), strict=True):
            number = self._strings.get(key)
            if number is None:
                number = self._strings[key] = self.recorded.names.intern(chunk.text(int(start[row]), int(end[row])))
            numbers.append(number)
        return np.array(numbers, dtype=np.int64)[place]


class _Runs:
    """The runs of digits of a block: where they are and what they say."""

    __slots__ = ("end", "gaps", "start", "values")

    def __init__(self, chunk: Chunk) -> None:
        # a slice at a time, so that what is in between stays in the cache
        found = []
        for at in range(0, len(chunk.bytes) - 1, _SLICE_BYTES):
            digit = (chunk.bytes[at : at + _SLICE_BYTES + 1] - np.uint8(ord("0"))) < 10
            found.append(np.flatnonzero(digit[1:] != digit[:-1]) + (at + 1))
        edges = np.concatenate(found)
        self.start, self.end = edges[0::2].copy(), edges[1::2].copy()
        self.values = np.empty(len(self.start), dtype=np.int64)
        for at in range(0, len(self.start), _SLICE_RUNS):
            here = slice(at, at + _SLICE_RUNS)
            values, good = chunk.naturals(self.start[here], self.end[here])
            # nothing but digits, and too many of them
            self.values[here] = np.where(good, values, 2**63 - 1)
        self.gaps = self.start[1:] - self.end[:-1]

    def are_same(self, first: Offsets, places: Iterable[int]) -> bool:
        """Say whether all lines have the same digits in some of their runs."""
        for place in places:
            at = first + place
            values, lengths = self.values[at], self.end[at] - self.start[at]
            if (values != values[0]).any() or (lengths != lengths[0]).any():
                return False
        return True

    def fit(self, first: Offsets, gaps: Int64s) -> Mask:
        """Say of lines whose first run is ``first`` whether as many characters are between their runs."""
        good = np.ones(len(first), dtype=np.bool_)
        for place, gap in enumerate(gaps.tolist()):
            good &= self.gaps[first + place] == gap
        return good


def _gaps(runs: list[tuple[int, int]]) -> Int64s:
    return np.array([after[0] - before[1] for before, after in pairwise(runs)], dtype=np.int64)


def _edges(runs: list[tuple[int, int]], begin: int, span: tuple[int, int]) -> tuple[_Edge, _Edge] | None:
    """Return where a span begins and ends relative to the runs; None if that is inside one."""
    found = []
    for place in span:
        before = [number for number, (start, _) in enumerate(runs) if start < place]
        run = before[-1] if before else -1
        base = runs[run][1] if before else begin
        if place < base:
            return None
        found.append(_Edge(run, place - base))
    return found[0], found[1]


def _at(edge: _Edge, runs: _Runs, begin: Offsets, first: Offsets) -> Offsets:
    """Return the place of an edge in each line."""
    base = begin if edge.run < 0 else runs.end[first + edge.run]
    return base + edge.after


def _groups(numbers: Int64s) -> list[tuple[int, Offsets]]:
    """Return the rows of each number that is not negative, in order."""
    order = np.argsort(numbers.astype(np.int16), kind="stable")
    ordered = numbers[order]
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    return [
        (int(numbers[rows[0]]), rows)
        for rows in np.split(order, cuts)
        if numbers[rows[0]] >= 0 and len(rows) >= _ROWS_MIN
    ]


assert RECORD["args"].shape == (ARGS_MAX,)
assert all(len(point.fields) <= ARGS_MAX for point in TRACEPOINTS)
