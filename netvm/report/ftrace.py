"""ftrace text, in: what ``/sys/kernel/tracing/trace`` and ``trace-cmd report`` print, read thousands of lines at once.

A line is ``comm-pid [cpu] flags seconds.microseconds: event: fields``. Most lines are read by their skeleton
(:mod:`netvm.report.skeleton`). Of the others, those with fields in hexadecimal above all, the left part stands in
columns that are the same for very many lines, and the fields of an event come in the same order in every line of a
recording. So both are *learned*: the first line of a kind is taken apart carefully by a regular expression
(:mod:`netvm.report.ftraceline`), and every other line that has the same shape is read with it in one go
(:mod:`netvm.report.digits`). Every byte that the shape promises is checked: separators, keys, digits. A line that
differs is learned from in its turn, or read by itself; what even that cannot read is counted as malformed and shown.

Comments, blank lines and the lines of stack traces are no events. ``CPU:n [LOST m EVENTS]`` and the header's
``entries-in-buffer/entries-written`` say what the recording lost.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.report.digits import PAD, Chunk, Mask, Offsets
from netvm.report.ftraceline import FLAGS, INT_MAX, SECONDS_MAX, Layout, LineReader, Variant
from netvm.report.skeleton import SkeletonReader
from netvm.trace.records import RECORD, RecordArray, Recorded
from netvm.trace.tracepoints import OTHER

__all__ = ["FtraceReader"]

CHUNK_BYTES: Final = 1 << 20
_LINE_BYTES_MAX: Final = 1 << 16
_LAYOUTS_MAX: Final = 8
_VARIANTS_MAX: Final = 8
_COLUMN_LINES_MIN: Final = 32
"""Fewer lines than that are read faster one by one."""


class FtraceReader:
    """Reads ftrace text into batches of records, in the order of the text."""

    def __init__(self, recorded: Recorded, *, keep_payload: bool = False) -> None:
        self.recorded = recorded
        self._keep_payload = keep_payload
        self._lines = LineReader(recorded, keep_payload=keep_payload)
        self._skeletons = SkeletonReader(recorded, self._lines)
        self._layouts: list[Layout] = []
        self._tasks: dict[int, int] = {}
        self._flags: dict[int, int] = {}
        self._event_numbers: dict[int, int] = {}
        self._event_table: list[tuple[int, int]] = []
        self._strings: dict[int, int] = {}
        self._variants: dict[int, list[Variant]] = {}

    def batches(self, pieces: Iterable[bytes]) -> Iterator[RecordArray]:
        """Generate a batch for every megabyte or so of text; ``pieces`` may be cut anywhere."""
        held: list[bytes] = []
        size = 0
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size < CHUNK_BYTES:
                continue
            text = b"".join(held)
            cut = text.rfind(b"\n") + 1
            if cut:
                yield self.read(text[:cut])
            elif size > CHUNK_BYTES + _LINE_BYTES_MAX:
                self.recorded.losses.skip(f"a line of more than {CHUNK_BYTES} bytes")
                cut = size
            held = [text[cut:]]
            size -= cut
        if size:
            yield self.read(b"".join(held))

    def read(self, text: bytes) -> RecordArray:
        """Return the records of some whole lines."""
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        chunk = Chunk(text if text.endswith(b"\n") else text + b"\n")
        ends = chunk.find(b"\n")
        starts = np.empty_like(ends)
        starts[0] = PAD
        starts[1:] = ends[:-1] + 1
        first = chunk.bytes[starts]
        ordinary = (first != ord("#")) & (first != ord("\n"))
        for row in np.flatnonzero(first == ord("#")).tolist():
            self._lines.comment(chunk.text(int(starts[row]), int(ends[row])))
        starts, ends = starts[ordinary], ends[ordinary]
        records = np.zeros(len(starts), dtype=RECORD)
        done = self._skeletons.read(chunk, starts, ends, records)
        left = np.flatnonzero(~done)
        if len(left):
            records[left], done[left] = self._read_rest(chunk, starts[left], ends[left])
        return records if done.all() else records[done]

    def _read_rest(self, chunk: Chunk, starts: Offsets, ends: Offsets) -> tuple[RecordArray, Mask]:
        """Read lines by their columns, and what is left then one by one; return records and which are good."""
        records = np.zeros(len(starts), dtype=RECORD)
        done = np.zeros(len(starts), dtype=np.bool_)
        if len(starts) >= _COLUMN_LINES_MIN:
            self._by_layout(chunk, starts, ends, records, done)
        for row in np.flatnonzero(~done).tolist():
            done[row] = self._lines.read(chunk.text(int(starts[row]), int(ends[row])), records[row])
        return records, done

    # -- the left part --------------------------------------------------------------------------------------------

    def _by_layout(self, chunk: Chunk, starts: Offsets, ends: Offsets, records: RecordArray, done: Mask) -> None:
        """Read the lines whose left part has a layout that is known or can be learned."""
        equals = chunk.find(b"=")
        left = np.arange(len(starts))
        for layout in [*self._layouts]:
            if not len(left):
                return
            left = left[~self._fit(layout, chunk, starts, ends, left, records, done, equals)]
        for _ in range(4):
            if len(left) < 4:
                return
            learned = self._learn_layout(chunk, starts, ends, left)
            if learned is None:
                return
            left = left[~self._fit(learned, chunk, starts, ends, left, records, done, equals)]

    def _learn_layout(self, chunk: Chunk, starts: Offsets, ends: Offsets, left: Offsets) -> Layout | None:
        """Take the layout of the first line that has a new one."""
        for row in left[:16].tolist():
            layout = self._lines.layout(chunk.text(int(starts[row]), int(ends[row])))
            if layout is not None and layout not in self._layouts:
                self._layouts = [layout, *self._layouts[: _LAYOUTS_MAX - 1]]
                return layout
        return None

    def _fit(
        self,
        layout: Layout,
        chunk: Chunk,
        starts: Offsets,
        ends: Offsets,
        rows: Offsets,
        records: RecordArray,
        done: Mask,
        equals: Offsets,
    ) -> Mask:
        """Read those of ``rows`` that have this layout; return which have."""
        at = starts[rows]
        byte = chunk.bytes
        fits = ends[rows] - at > layout.event
        base = np.where(fits, at, PAD)
        for column, character in layout.marks:
            fits &= byte[base + column] == character
        pid_end = chunk.find_first(base + layout.dash + 1, b" ", words_max=2)
        # all numbers in one go, and all gaps: a call costs more than a number
        starts4 = np.concatenate(
            [base + column for column in (layout.dash + 1, layout.cpu, layout.second, layout.dot + 1)]
        )
        ends4 = np.concatenate([pid_end, *(base + column for column in (layout.cpu_end, layout.dot, layout.colon))])
        values, good = chunk.naturals(starts4, np.maximum(ends4, starts4))
        values = values.reshape(4, -1)
        fits &= good.reshape(4, -1).all(axis=0)
        fits &= (values[:2].max(axis=0) <= INT_MAX) & (values[2] <= SECONDS_MAX)
        bracket = base + layout.cpu - 1
        gaps = [(np.minimum(pid_end, bracket), bracket), (base + layout.cpu_end + 1, base + layout.flags)]
        if layout.flags_end < layout.second:
            gaps.append((base + layout.flags_end, base + layout.second))
        blank = chunk.blank(*(np.concatenate(ends) for ends in zip(*gaps, strict=True)))
        fits &= blank.reshape(len(gaps), -1).all(axis=0)
        mine = rows[fits]
        if not len(mine):
            return fits
        at = starts[mine]
        pid, cpu, second, fraction = values[:, fits]
        whole = len(mine) == len(records)
        part = records if whole else np.zeros(len(mine), dtype=RECORD)
        part["time_ns"] = second * 1_000_000_000 + fraction * layout.fraction_ns
        part["cpu"] = np.minimum(cpu, 65535)
        part["task"] = self._task_numbers(chunk, at, at + layout.dash, pid)
        flags = self._flag_numbers(chunk, at + layout.flags, at + layout.flags_end)
        part["flags"] = np.maximum(flags, 0)
        good = self._read_events(chunk, at + layout.event, ends[mine], part, equals)
        good &= flags >= 0
        if not whole:
            records[mine] = part
        done[mine] = good
        return fits

    def _task_numbers(self, chunk: Chunk, start: Offsets, end: Offsets, pid: npt.NDArray[np.int64]) -> Offsets:
        """Return the tasks of some lines."""
        keys = chunk.hashes(start, end) ^ (pid.astype(np.uint64) * np.uint64(0x100000001B3))

        def intern(row: int) -> int:
            return self.recorded.tasks.intern(chunk.text(int(start[row]), int(end[row])).strip(), int(pid[row]))

        return _numbered(keys, self._tasks, intern)

    def _flag_numbers(self, chunk: Chunk, start: Offsets, end: Offsets) -> Offsets:
        """Return the numbers of the columns of irqs-off, need-resched and so on; -1 for what is none."""

        def intern(row: int) -> int:
            text = chunk.text(int(start[row]), int(end[row]))
            return self.recorded.names.intern(text) if FLAGS.fullmatch(text) else -1

        return _numbered(chunk.hashes(start, end), self._flags, intern)

    def _known(self, chunk: Chunk, start: Offsets, end: Offsets, known: dict[int, int]) -> Offsets:
        """Return the numbers of some strings."""

        def intern(row: int) -> int:
            return self.recorded.names.intern(chunk.text(int(start[row]), int(end[row])))

        return _numbered(chunk.hashes(start, end), known, intern)

    # -- the fields -----------------------------------------------------------------------------------------------

    def _read_events(self, chunk: Chunk, start: Offsets, ends: Offsets, part: RecordArray, equals: Offsets) -> Mask:
        """Read event names and fields of lines whose left part is read; return which are good."""
        colon = chunk.find_first(start, b":", words_max=8)
        good = (colon > start) & (colon < ends)
        colon = np.where(good, colon, start)
        numbers = _numbered(
            chunk.hashes(start, colon), self._event_numbers, lambda row: self._event(chunk, start, colon, row)
        )
        for number in np.unique(numbers[good]).tolist():
            rows = np.flatnonzero(good & (numbers == number))
            event, name = self._event_table[number]
            if event < 0:
                good[rows] = False
                continue
            part["event"][rows] = event
            if event == OTHER:
                part["args"][rows, 0] = name
                part["args"][rows, 1] = -1
                if self._keep_payload:
                    for row in rows.tolist():
                        text = chunk.text(int(colon[row]) + 1, int(ends[row])).strip()
                        part["args"][row, 1] = self.recorded.names.intern(text)
                continue
            good[rows] = self._read_fields(event, chunk, colon[rows] + 1, ends[rows], part, rows, equals)
        return good

    def _read_fields(
        self,
        event: int,
        chunk: Chunk,
        start: Offsets,
        ends: Offsets,
        part: RecordArray,
        rows: Offsets,
        equals: Offsets,
    ) -> Mask:
        """Read the fields of lines of one event; return which are good."""
        first = np.searchsorted(equals, start)
        count = np.searchsorted(equals, ends) - first
        good = np.zeros(len(rows), dtype=np.bool_)
        left = np.arange(len(rows))
        variants = self._variants.setdefault(event, [])
        tried = 0
        learned = 0
        while len(left):
            if tried == len(variants):
                variant = None
                if len(variants) < _VARIANTS_MAX and learned < 4:
                    row = int(left[0])
                    variant = self._lines.variant(event, chunk.text(int(start[row]), int(ends[row])))
                learned += 1
                if variant is None or variant in variants:
                    break
                variants.append(variant)
            variant = variants[tried]
            tried += 1
            here = left[count[left] == len(variant.keys)]
            if not len(here):
                continue
            at = equals[first[here, None] + np.arange(len(variant.keys))]
            args, fits = self._by_variant(variant, chunk, start[here], at, ends[here])
            if not fits.all():
                here, args = here[fits], args[fits]
            part["args"][rows[here]] = args
            good[here] = True
            left = left[~good[left]]
        for row in left.tolist():
            text = chunk.text(int(start[row]), int(ends[row]))
            good[row] = self._lines.fields(event, text, part[rows[row] : rows[row] + 1]["args"][0])
        return good

    def _by_variant(
        self, variant: Variant, chunk: Chunk, start: Offsets, at: Offsets, ends: Offsets
    ) -> tuple[npt.NDArray[np.int64], Mask]:
        """Return the arguments of lines with the same keys, and which lines really have them."""
        args = np.zeros((len(at), RECORD["args"].shape[0]), dtype=np.int64)
        fits = np.ones(len(at), dtype=np.bool_)
        for before, columns, masks, words in variant.key_parts:
            fits &= ((chunk.words[at[:, columns] - before] & masks) == words).all(axis=1)
        begins = at + 1
        stops = np.empty_like(begins)
        stops[:, :-1] = at[:, 1:] - variant.key_lengths
        stops[:, -1] = ends
        np.maximum(stops, begins, out=stops)
        if len(variant.decimals):
            columns = variant.decimals
            values, good = chunk.integers(begins[:, columns].ravel(), stops[:, columns].ravel())
            args[:, variant.decimal_places] = values.reshape(len(at), -1)
            fits &= good.reshape(len(at), -1).all(axis=1)
        for column in variant.others:
            begin, end = begins[:, column], stops[:, column]
            if variant.kinds[column] == "s":
                args[:, variant.places[column]] = self._known(chunk, begin, end, self._strings)
                fits &= end > begin
            else:
                args[:, variant.places[column]], good = self._hexadecimal(
                    chunk, begin, end, always=variant.kinds[column] in "ph"
                )
                fits &= good
        if variant.head is None:
            first = at[:, 0] - len(variant.keys[0])
            fits &= (first == start) | chunk.blank(start, first)
        else:
            begin = start + len(variant.head)
            end = at[:, 0] - len(variant.keys[0])
            fits &= chunk.ends_with(begin, variant.head) & (end > begin)
            args[:, variant.head_place] = self._known(chunk, begin, np.maximum(end, begin), self._strings)
        return args, fits

    @staticmethod
    def _hexadecimal(chunk: Chunk, begin: Offsets, end: Offsets, *, always: bool) -> tuple[npt.NDArray[np.int64], Mask]:
        """Return numbers that are hexadecimal where they say so; a hashed pointer that is not printed is -1."""
        if always:
            values, good = chunk.hexadecimals(begin, end)
            hidden = chunk.starts_with(begin, b"(")
            return np.where(hidden, -1, values), good | hidden
        marked = chunk.starts_with(begin, b"0x")
        values, good = chunk.naturals(begin, end)
        rows = np.flatnonzero(marked)
        values[rows], good[rows] = chunk.hexadecimals(begin[rows], end[rows])
        return values, good

    # -- event names ----------------------------------------------------------------------------------------------

    def _event(self, chunk: Chunk, start: Offsets, colon: Offsets, row: int) -> int:
        """Return the index in the table of an event seen for the first time; what is no name is event -1."""
        name = chunk.text(int(start[row]), int(colon[row]))
        proper = name.isascii() and name.isidentifier()
        self._event_table.append(self._lines.event(name) if proper else (-1, -1))
        return len(self._event_table) - 1


def _numbered(keys: npt.NDArray[np.uint64], known: dict[int, int], intern: Callable[[int], int]) -> Offsets:
    """Return a number for each key; a key that is not known is interned by the row it first stands in.

    Lines of one kind come in runs, so only where the key changes is it looked at.
    """
    if not len(keys):
        return np.zeros(0, dtype=np.int64)
    change = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    heads = np.concatenate([np.zeros(1, dtype=np.int64), change])
    distinct, first, inverse = np.unique(keys[heads], return_index=True, return_inverse=True)
    numbers = np.empty(len(distinct), dtype=np.int64)
    for index, key in enumerate(distinct.tolist()):
        number = known.get(key)
        if number is None:
            number = known[key] = intern(int(heads[first[index]]))
        numbers[index] = number
    lengths = np.diff(np.concatenate([heads, np.array([len(keys)])]))
    return np.repeat(numbers[inverse], lengths)
