"""ftrace text, out: lines as ``/sys/kernel/tracing/trace`` prints them.

So Perfetto, and any script written for a real machine, read an emulated run. The names of tracepoints are the kernel's;
those of netvm's own group are printed in the same form. Times are in microseconds, as the kernel prints them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import CONVERSION, OTHER, TRACEPOINTS

__all__ = ["HEAD", "ftrace_lines", "payload_of"]

HEAD: Final = """\
# tracer: nop
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def _python(match: re.Match[str]) -> str:
    """Return Python's conversion for one of C."""
    letter = {"s": "s", "p": "s", "x": "x"}.get(match[3], "d")
    return f"%{match[1]}{match[2]}{letter}"


_FORMATS: Final = tuple(CONVERSION.sub(_python, point.format) for point in TRACEPOINTS)


def ftrace_lines(batches: Iterable[RecordArray], recorded: Recorded) -> Iterator[str]:
    """Generate the lines of a trace, each with its end."""
    yield HEAD
    names, tasks = recorded.names, recorded.tasks
    for records in batches:
        rows = zip(
            *(records[name].tolist() for name in ("time_ns", "event", "cpu", "task", "flags", "args")), strict=True
        )
        for time_ns, event, cpu, task, flags, args in rows:
            comm, pid = tasks[task]
            second, fraction = divmod(time_ns // 1000, 1_000_000)
            name, payload = payload_of(event, args, recorded)
            yield (
                f"{comm[:16]:>16}-{pid:<7} [{cpu:03d}] {names[flags] or '.....'} {second:5d}.{fraction:06d}: "
                f"{name}: {payload}\n"
            )


def payload_of(event: int, args: list[int], recorded: Recorded) -> tuple[str, str]:
    """Return an event's name and its fields as the kernel prints them."""
    names = recorded.names
    if event == OTHER:
        return names[args[0]], names[args[1]] if args[1] >= 0 else ""
    point = TRACEPOINTS[event]
    values: list[int | str] = []
    for field, arg in zip(point.fields, args, strict=False):
        if field.kind == "s":
            values.append(names[arg])
        elif field.kind == "p":
            values.append("(____ptrval____)" if arg == -1 else f"{arg % 2**64:016x}")
        else:
            values.append(arg)
    return point.name, _FORMATS[event] % tuple(values)
