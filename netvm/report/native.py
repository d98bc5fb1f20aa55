"""netvm's own file: records in columns, in one file that can be written while the run goes on.

The file begins with :data:`MAGIC` and is a sequence of blocks: a tag of four bytes, the length of what follows (u32,
little-endian), and the content, packed with zlib.

====  ==============================================================================================================
tag   content
====  ==============================================================================================================
STRS  JSON ``{"names": [...], "tasks": [[comm, pid], ...]}``: strings and tasks new since the last such block
RECS  a JSON head, a newline, and columns one after another. The head is ``{"nr": n, "columns": [[name, dtype,
      length], ...]}``. ``time_ns``, ``event``, ``cpu``, ``task`` and ``flags`` have a value for each record;
      ``EVENT.FIELD`` has one for each record of that event, in their order. Columns have the narrowest type that
      holds them.
INFO  JSON: what the recording is of (scenario, seed, version, verdict), its losses, its wait-for knot
====  ==============================================================================================================

Events are named in the heads, so a reader with another table of tracepoints still understands the file. A file that was
cut off is read up to its last whole block.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np

from netvm.printable import printable_strings
from netvm.trace.records import RECORD, RecordArray, Recorded
from netvm.trace.tracepoints import BY_NAME, OTHER, TRACEPOINTS
from netvm.user_file import writing

__all__ = ["MAGIC", "NativeWriter", "read_native"]

MAGIC: Final = b"netvm trace 1\n"
_HEAD: Final = struct.Struct("<4sI")
_PLAIN: Final = ("time_ns", "event", "cpu", "task", "flags")
_LENGTH_MAX: Final = 1 << 28
_NARROW: Final = ("<i1", "<i2", "<i4", "<i8")


class NativeWriter:
    """Writes a recording to a file, batch by batch."""

    def __init__(self, path: Path, recorded: Recorded) -> None:
        self.recorded = recorded
        self._nr_names = 0
        self._nr_tasks = 0
        with writing(path):
            self._file: IO[bytes] = path.open("wb")
            self._file.write(MAGIC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, records: RecordArray) -> None:
        """Write a batch."""
        self._write_strings()
        columns: list[tuple[str, Any]] = [(name, records[name]) for name in _PLAIN]
        events = records["event"]
        args = records["args"]
        for event in np.unique(events).tolist():
            point = TRACEPOINTS[event]
            rows = args[events == event]
            fields = ["name", "text"] if event == OTHER else [field.name for field in point.fields]
            columns += [(f"{point.name}.{field}", rows[:, index]) for index, field in enumerate(fields)]
        packed = [(name, *_packed(column)) for name, column in columns]
        table = [[name, dtype, len(content)] for name, dtype, content in packed]
        points = {str(event): TRACEPOINTS[event].name for event in np.unique(events).tolist()}
        head = json.dumps({"nr": len(records), "events": points, "columns": table}).encode()
        self._block(b"RECS", head + b"\n" + b"".join(content for _, _, content in packed))

    def about(self, facts: dict[str, Any]) -> None:
        """Write what the recording is of."""
        self._block(b"INFO", json.dumps(facts, sort_keys=True).encode())

    def close(self) -> None:
        """Write the last strings and close the file."""
        if not self._file.closed:
            self._write_strings()
            self._file.close()

    def _write_strings(self) -> None:
        names, tasks = self.recorded.names.strings, self.recorded.tasks.rows
        if len(names) > self._nr_names or len(tasks) > self._nr_tasks:
            new = {"names": names[self._nr_names :], "tasks": tasks[self._nr_tasks :]}
            self._block(b"STRS", json.dumps(new).encode())
            self._nr_names, self._nr_tasks = len(names), len(tasks)

    def _block(self, tag: bytes, content: bytes) -> None:
        packed = zlib.compress(content, 1)
        self._file.write(_HEAD.pack(tag, len(packed)) + packed)


def _packed(column: Any) -> tuple[str, bytes]:
    """Return the narrowest type of a column, and its bytes."""
    wide = column.astype(np.int64)
    low, high = int(wide.min()), int(wide.max())
    dtype = next(dtype for dtype in _NARROW if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)
    return dtype, wide.astype(dtype).tobytes()


def read_native(pieces: Iterator[bytes], recorded: Recorded) -> Iterator[RecordArray]:
    """Generate the batches of a recording; its strings, tasks and facts go to ``recorded``."""
    buffer = _Buffer(pieces)
    if buffer.take(len(MAGIC)) != MAGIC:
        recorded.losses.truncated = True
        return
    while True:
        head = buffer.take(_HEAD.size)
        if not head:
            return
        tag, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0)
        content = buffer.take(length) if length <= _LENGTH_MAX else b""
        try:
            block = _whole(content, length) if tag else _whole(b"", 1)
            if tag == b"STRS":
                _take_strings(json.loads(block), recorded)
            elif tag == b"INFO":
                _take_facts(printable_strings(json.loads(block)), recorded)
            elif tag == b"RECS":
                yield _records(block, recorded)
        except (ValueError, KeyError, TypeError, IndexError, ArithmeticError, RecursionError, zlib.error) as error:
            recorded.losses.truncated = True
            recorded.losses.skip(f"a damaged block: {error}")
            return


def _whole(content: bytes, length: int) -> bytes:
    """Return the unpacked content of a block. Raises ValueError if some of it is missing."""
    if len(content) < length:
        raise ValueError("cut off")
    return zlib.decompress(content)


class _Buffer:
    """Bytes out of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes, or what is left of the input."""
        parts = [self._held]
        size = len(self._held)
        while size < length:
            piece = next(self._pieces, b"")
            if not piece:
                break
            parts.append(piece)
            size += len(piece)
        whole = b"".join(parts)
        self._held = whole[length:]
        return whole[:length]


def _take_strings(new: dict[str, Any], recorded: Recorded) -> None:
    for name in new["names"]:
        recorded.names.intern(str(name))
    for comm, pid in new["tasks"]:
        recorded.tasks.intern(str(comm), int(pid))


def _take_facts(facts: Any, recorded: Recorded) -> None:
    """Take what a recording is of. Raises TypeError if its explanation is no list of lines."""
    told = facts.get("explanation", []) if isinstance(facts, dict) else None
    if not isinstance(told, list) or not all(isinstance(line, str) for line in told):
        raise TypeError("what the recording is of")
    recorded.facts.update(facts)


def _records(block: bytes, recorded: Recorded) -> RecordArray:
    """Return the records of a block."""
    line, _, content = block.partition(b"\n")
    head = json.loads(line)
    records: RecordArray = np.zeros(int(head["nr"]), dtype=RECORD)
    columns: dict[str, Any] = {}
    offset = 0
    for name, dtype, length in head["columns"]:
        if dtype not in _NARROW:
            raise ValueError(f"a column of {dtype}")
        columns[name] = np.frombuffer(content[offset : offset + length], dtype=dtype).astype(np.int64)
        offset += length
    for name in _PLAIN:
        records[name] = columns[name]
    if len(records) and int(records["task"].max()) >= len(recorded.tasks):
        raise ValueError("a task that is not named")
    stored = records["event"].copy()
    for number, name in head["events"].items():
        rows = np.flatnonzero(stored == int(number))
        point = BY_NAME.get(name)
        if point is None:
            records["event"][rows] = OTHER
            records["args"][rows, 0] = columns[".name"] if not name else recorded.names.intern(name)
            records["args"][rows, 1] = columns[".text"] if not name else -1
            continue
        records["event"][rows] = point.number
        for index, field in enumerate(point.fields):
            column = columns.get(f"{name}.{field.name}")
            if column is not None:
                records["args"][rows, index] = column
    return records
