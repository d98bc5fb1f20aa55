"""Arrow and Parquet, out: records as a table for notebooks.

A row is an event: ``time_ns``, ``cpu``, ``comm``, ``pid``, ``event``, and a column for each field of the tracepoints,
null where an event does not have it; a field named like one of the first five has an underscore behind its name. Needs
pyarrow: ``pip install 'netvm[arrow]'``.
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from netvm.errors import UsageError
from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import OTHER, TRACEPOINTS

__all__ = ["check_pyarrow", "write_table"]

_FIELDS: Final = tuple(
    {field.name: field.kind for point in reversed(TRACEPOINTS[1:]) for field in point.fields}.items()
)
"""Every field of the table of tracepoints, and its kind."""


def check_pyarrow() -> None:
    """Raise UsageError if what writes tables is not installed."""
    if find_spec("pyarrow") is None:
        raise UsageError("Arrow and Parquet need the package pyarrow: pip install 'netvm[arrow]'")


def write_table(batches: Iterable[RecordArray], recorded: Recorded, path: Path) -> None:
    """Write a trace as Parquet, or as an Arrow IPC file if the suffix is ``.arrow``. Raises UsageError."""
    check_pyarrow()
    import pyarrow as pa  # noqa: PLC0415  an extra
    from pyarrow import parquet  # noqa: PLC0415

    text = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [
            ("time_ns", pa.int64()),
            ("cpu", pa.int32()),
            ("comm", text),
            ("pid", pa.int64()),
            ("event", text),
            *((_column(name), text if kind == "s" else pa.int64()) for name, kind in _FIELDS),
        ]
    )
    arrays: Callable[[RecordArray], Any] = _Columns(pa, recorded).batch
    with path.open("wb") as file:
        if path.suffix == ".arrow":
            # a dictionary may grow from batch to batch: in a stream it is replaced, in a file it may not be
            with pa.ipc.new_stream(file, schema) as writer:
                for records in batches:
                    writer.write_batch(pa.record_batch(arrays(records), schema=schema))
        else:
            with parquet.ParquetWriter(file, schema) as writer:
                for records in batches:
                    writer.write_batch(pa.record_batch(arrays(records), schema=schema))


def _column(field: str) -> str:
    return f"{field}_" if field in ("time_ns", "cpu", "comm", "pid", "event") else field


class _Columns:
    """Turns batches of records into Arrow arrays."""

    def __init__(self, pa: Any, recorded: Recorded) -> None:
        self._pa = pa
        self._recorded = recorded

    def batch(self, records: RecordArray) -> list[Any]:
        """Return the columns of a batch."""
        pa, tasks, events = self._pa, self._recorded.tasks, records["event"]
        pids = np.array([pid for _, pid in tasks.rows], dtype=np.int64)
        names = [point.name for point in TRACEPOINTS]
        whose = records["task"]
        columns = [
            pa.array(records["time_ns"]),
            pa.array(records["cpu"].astype(np.int32)),
            self._strings([comm for comm, _ in tasks.rows], whose.astype(np.int32), None),
            pa.array(pids[whose]),
            self._event_names(records, names),
        ]
        values = {name: np.zeros(len(records), dtype=np.int64) for name, _ in _FIELDS}
        present = {name: np.zeros(len(records), dtype=np.bool_) for name, _ in _FIELDS}
        for event in np.unique(events).tolist():
            rows = events == event
            for index, field in enumerate(TRACEPOINTS[event].fields if event != OTHER else ()):
                values[field.name][rows] = records["args"][rows, index]
                present[field.name][rows] = True
        for name, kind in _FIELDS:
            missing = ~present[name]
            if kind == "s":
                columns.append(self._strings(self._recorded.names.strings, values[name].astype(np.int32), missing))
            else:
                columns.append(pa.array(values[name], mask=missing))
        return columns

    def _event_names(self, records: RecordArray, names: list[str]) -> Any:
        """Return the events' names, those that the table does not know among them."""
        other = records["event"] == OTHER
        index = records["event"].astype(np.int32)
        index[other] = len(names) + records["args"][other, 0]
        return self._strings([*names, *self._recorded.names.strings], index, None)

    def _strings(self, strings: list[str], index: Any, missing: Any) -> Any:
        """Return a column of strings by their numbers; only those in use are in its dictionary."""
        used, place = np.unique(index, return_inverse=True)
        dictionary = self._pa.array([strings[number] for number in used.tolist()], type=self._pa.string())
        indices = self._pa.array(place.astype(np.int32), mask=missing)
        return self._pa.DictionaryArray.from_arrays(indices, dictionary)
