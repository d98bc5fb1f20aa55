"""Records: what happened, one fixed-size row an event, with its strings and tasks beside it.

A :data:`RECORD` is a row of a numpy array: when, which tracepoint, on which CPU, in which task, and its arguments in
the order of the tracepoint's fields. Strings (task names, masks, reasons) are kept once, in a :class:`Names`; a record
holds their index. So a recording of a million events is one array, and reading a field of all of them is one slice.

Whoever produces records (the recorder of an emulated run, a reader of a real machine's text) hands them on in
batches (arrays of records), so that a long trace never has to be in memory as a whole. Of an event that the table of
tracepoints does not know, the first argument is its name and the second what it said (-1 if that is not kept).
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netvm.printable import printable
from netvm.trace.tracepoints import ARGS_MAX

__all__ = ["RECORD", "Losses", "Names", "RecordArray", "Recorded", "Tasks"]

RECORD: Final = np.dtype(
    [
        ("time_ns", "<i8"),
        ("event", "<u2"),
        ("cpu", "<u2"),
        ("task", "<i4"),
        ("flags", "<u2"),
        ("args", "<i8", (ARGS_MAX,)),
    ],
    align=True,
)
"""One event. ``event`` is a tracepoint's number, ``task`` an index into :class:`Tasks`, ``flags`` a name: the column of
irqs-off, need-resched and so on."""

RecordArray = npt.NDArray[np.void]


class Names:
    """Strings, each under a small number; equal strings have the same. They are kept as they can be shown."""

    __slots__ = ("_index", "strings")

    def __init__(self) -> None:
        self.strings: list[str] = []
        self._index: dict[str, int] = {}

    def intern(self, text: str) -> int:
        """Return the number of ``text``, a new one if it has none."""
        index = self._index.get(text)
        if index is None:
            index = self._index[text] = len(self.strings)
            self.strings.append(printable(text))
        return index

    def __getitem__(self, index: int) -> str:
        return self.strings[index]

    def __len__(self) -> int:
        return len(self.strings)


class Tasks:
    """The tasks of a recording: command name, as it can be shown, and pid; each pair under a small number."""

    __slots__ = ("_index", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] = []
        self._index: dict[tuple[str, int], int] = {}

    def intern(self, comm: str, pid: int) -> int:
        """Return the number of a task, a new one if it has none."""
        index = self._index.get((comm, pid))
        if index is None:
            index = self._index[comm, pid] = len(self.rows)
            self.rows.append((printable(comm), pid))
        return index

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def label(self, index: int) -> str:
        """Return a task as the kernel's text names it: ``comm-pid``."""
        comm, pid = self.rows[index]
        return f"{comm}-{pid}"


@dataclass(slots=True)
class Losses:
    """What a reader could not turn into records, so that nothing is dropped in silence."""

    skipped: int = 0
    """Lines, or records, that are malformed."""
    examples: list[str] = field(default_factory=list)
    """The first few of them."""
    lost: int = 0
    """Events that the recording itself says it lost."""
    lost_by_cpu: dict[int, int] = field(default_factory=dict)
    reordered: int = 0
    """Events that came after a later one and were put in their place."""
    late: int = 0
    """Events that came so late that their place had already been read."""
    truncated: bool = False
    """The input ended in the middle of something."""

    def told(self) -> str:
        """Say what is missing, in words that follow the name of the input; empty if nothing is."""
        parts = [
            f"{number} {what}"
            for number, what in (
                (self.skipped, "skipped as malformed"),
                (self.lost, "lost before they were recorded"),
                (self.late, "too late to sort"),
            )
            if number
        ]
        return ", ".join([*parts, *(["the file ends too early"] if self.truncated else [])])

    def account(self) -> str:
        """Say whether the input is whole, and how many of its events had to be put in order; never empty."""
        in_order = [f"{self.reordered} put in order"] if self.reordered else []
        return ", ".join([self.told() or "nothing skipped or lost", *in_order])

    def skip(self, what: str) -> None:
        """Count one malformed piece and keep the first few as examples."""
        self.skipped += 1
        if len(self.examples) < 5:
            self.examples.append(what[:160])

    def lose(self, cpu: int, nr: int) -> None:
        """Count events that the recording lost on one CPU."""
        self.lost += nr
        self.lost_by_cpu[cpu] = self.lost_by_cpu.get(cpu, 0) + nr


@dataclass(slots=True)
class Recorded:
    """What the records of one recording refer to; it grows while batches are read."""

    names: Names = field(default_factory=Names)
    tasks: Tasks = field(default_factory=Tasks)
    losses: Losses = field(default_factory=Losses)
    clock: str = "mono"
    source: str = ""
    """Where it comes from: ``ftrace``, ``perf``, ``netvm``."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What an emulated run is of: scenario, seed, verdict, explanation."""
