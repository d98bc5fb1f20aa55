"""``trace.dat`` version 6, out: the file of trace-cmd and KernelShark.

The layout is that of trace-cmd.dat.v6(5): a head, the formats of the ring buffer's page and event, a format file for
each tracepoint (generated from the table of tracepoints), the command names, the options, and for each CPU its pages.
A page of 4096 bytes begins with a timestamp and the size of what follows; an event is a word of 5 bits of length and 27
bits of time since the one before, then the event's fields. A longer pause is an event of its own (time extend).

Integers are written as ``long``, strings as ``__data_loc char[]``. Events that the table of tracepoints does not know
are left out and counted: they have no format.
"""

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import CONVERSION, OTHER, TRACEPOINTS, Field, Tracepoint

__all__ = ["format_file", "write_trace_dat"]

PAGE_BYTES: Final = 4096
_PAGE_HEAD: Final = 16
_DATA_BYTES: Final = PAGE_BYTES - _PAGE_HEAD
_TYPE_TIME_EXTEND: Final = 30
_TYPE_LEN_MAX: Final = 28
_DELTA_BITS: Final = 27
_PAUSE_BITS: Final = _DELTA_BITS + 32
"""A pause that is longer than that (18 years) is between pages, which have their own time."""
_FIRST_ID: Final = 100
"""Numbers below are the kernel's own (function, stack, print ...)."""
_CPUS_MAX: Final = 4096
_COMM_BYTES: Final = 16
_STATES: Final = {"R": 0, "S": 1, "D": 2, "T": 4, "t": 8, "X": 16, "Z": 32, "P": 64, "I": 128}
"""TASK_RUNNING and the others, by the letter they are printed as."""
_STATE_FMT: Final = (
    '(REC->{field} & 0xff) ? __print_flags(REC->{field} & 0xff, "|", '
    + ", ".join(f'{{{{ {value:#x}, "{letter}" }}}}' for letter, value in _STATES.items() if value)
    + ') : "R"'
)

_HEADER_PAGE: Final = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
    "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
    "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n"
)
_HEADER_EVENT: Final = (
    "# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n"
    "\tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n"
    "\tdata max type_len  == 28\n"
)
_COMMON: Final = (
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
)


def _is_comm(point: Tracepoint, field: Field) -> bool:
    """Whether a string has a fixed place of 16 bytes: the scheduler's, which trace-cmd's plugins read there."""
    return point.group == "sched" and field.kind == "s" and not _is_state(field)


def _is_state(field: Field) -> bool:
    """Whether a string is a task's state, a number in the ring buffer."""
    return field.name == "prev_state"


def _size(point: Tracepoint, field: Field) -> int:
    if _is_comm(point, field):
        return _COMM_BYTES
    return 4 if field.kind == "s" and not _is_state(field) else 8


def format_file(point: Tracepoint) -> str:
    """Return the format file of a tracepoint, as ``events/GROUP/NAME/format`` would be."""
    lines = [f"name: {point.name}\nID: {_FIRST_ID + point.number}\nformat:\n{_COMMON}"]
    offset = 8
    arguments = []
    for field in point.fields:
        if _is_comm(point, field):
            lines.append(
                f"\tfield:char {field.name}[{_COMM_BYTES}];\toffset:{offset};\tsize:{_COMM_BYTES};\tsigned:0;\n"
            )
            arguments.append(f"REC->{field.name}")
            offset += _COMM_BYTES
        elif _is_state(field):
            lines.append(f"\tfield:long {field.name};\toffset:{offset};\tsize:8;\tsigned:1;\n")
            arguments.append(_STATE_FMT.format(field=field.name))
            offset += 8
        elif field.kind == "s":
            lines.append(f"\tfield:__data_loc char[] {field.name};\toffset:{offset};\tsize:4;\tsigned:1;\n")
            arguments.append(f"__get_str({field.name})")
            offset += 4
        else:
            kind = {"d": "long", "x": "unsigned long", "h": "unsigned long", "p": "void *"}[field.kind]
            sign = int(field.kind == "d")
            lines.append(f"\tfield:{kind} {field.name};\toffset:{offset};\tsize:8;\tsigned:{sign};\n")
            arguments.append(f"REC->{field.name}")
            offset += 8
    text = _long_conversions(point)
    lines.append(f'\nprint fmt: "{text}"{"".join(f", {argument}" for argument in arguments)}\n')
    return "".join(lines)


def _long_conversions(point: Tracepoint) -> str:
    """Return the format with conversions for longs."""

    def long(match: re.Match[str]) -> str:
        if match[3] in "sp":
            return match[0]
        if match[3] == "x":
            return f"{'0x' if match[1] else ''}%{match[2]}lx"
        return f"%{match[2]}ld"

    return CONVERSION.sub(long, point.format)


def write_trace_dat(batches: Iterable[RecordArray], recorded: Recorded, path: Path) -> int:
    """Write a trace; return how many events had no format and were left out."""
    buffers: dict[int, _Buffer] = {}
    left_out = 0
    for records in batches:
        rows = zip(*(records[name].tolist() for name in ("time_ns", "event", "cpu", "task", "args")), strict=True)
        for time_ns, event, cpu, task, args in rows:
            if event == OTHER or cpu >= _CPUS_MAX:
                left_out += 1
                continue
            buffer = buffers.get(cpu)
            if buffer is None:
                buffer = buffers[cpu] = _Buffer()
            buffer.add(time_ns, _payload(event, recorded.tasks[task][1], args, recorded))
    with path.open("wb") as file:
        _write_head(file, recorded)
        _write_data(file, buffers)
    return left_out


def _payload(event: int, pid: int, args: list[int], recorded: Recorded) -> bytes:
    """Return an event as it stands in the ring buffer, without its head."""
    fixed = struct.pack("<HBBi", _FIRST_ID + event, 0, 0, pid)
    fields = TRACEPOINTS[event].fields
    at = 8 + sum(_size(TRACEPOINTS[event], field) for field in fields)
    tail = b""
    for field, arg in zip(fields, args, strict=False):
        if _is_comm(TRACEPOINTS[event], field):
            fixed += recorded.names[arg].encode()[: _COMM_BYTES - 1].ljust(_COMM_BYTES, b"\0")
        elif _is_state(field):
            fixed += struct.pack("<q", _STATES.get(recorded.names[arg].rstrip("+"), 0))
        elif field.kind == "s":
            text = recorded.names[arg].encode()[:255] + b"\0"
            fixed += struct.pack("<I", len(text) << 16 | at + len(tail))
            tail += text
        else:
            fixed += struct.pack("<q", arg)
    whole = fixed + tail
    return whole + bytes(-len(whole) % 4)


class _Buffer:
    """The pages of one CPU."""

    def __init__(self) -> None:
        self.pages: IO[bytes] = TemporaryFile()  # noqa: SIM115  closed when its pages are copied
        self.nr_bytes = 0
        self._page = bytearray()
        self._page_ns = 0
        self._last_ns = 0

    def add(self, time_ns: int, payload: bytes) -> None:
        """Add an event; one that is older than the last is put at the last one's time."""
        time_ns = max(time_ns, self._last_ns)
        is_full = len(self._page) + len(payload) + 16 > _DATA_BYTES
        if is_full or time_ns - self._last_ns >= 1 << _PAUSE_BITS:
            self.flush()
        if not self._page:
            self._page_ns = self._last_ns = time_ns
        delta = time_ns - self._last_ns
        if delta >> _DELTA_BITS:
            low = delta & ((1 << _DELTA_BITS) - 1)
            self._page += struct.pack("<II", low << 5 | _TYPE_TIME_EXTEND, delta >> _DELTA_BITS)
            delta = 0
        if len(payload) <= _TYPE_LEN_MAX * 4:
            self._page += struct.pack("<I", delta << 5 | len(payload) // 4)
        else:
            self._page += struct.pack("<II", delta << 5, len(payload) + 4)
        self._page += payload
        self._last_ns = time_ns

    def flush(self) -> None:
        """Write the page out."""
        if self._page:
            head = struct.pack("<QQ", self._page_ns, len(self._page))
            self.pages.write(head + self._page + bytes(_DATA_BYTES - len(self._page)))
            self.nr_bytes += PAGE_BYTES
            self._page = bytearray()


def _write_head(file: IO[bytes], recorded: Recorded) -> None:
    file.write(b"\x17\x08\x44tracing" + b"6\0" + struct.pack("<BBI", 0, 8, PAGE_BYTES))
    for name, text in (("header_page", _HEADER_PAGE), ("header_event", _HEADER_EVENT)):
        file.write(name.encode() + b"\0" + struct.pack("<Q", len(text)) + text.encode())
    file.write(struct.pack("<I", 0))
    groups: dict[str, list[Tracepoint]] = {}
    for point in TRACEPOINTS[1:]:
        groups.setdefault(point.group, []).append(point)
    file.write(struct.pack("<I", len(groups)))
    for group, points in groups.items():
        file.write(group.encode() + b"\0" + struct.pack("<I", len(points)))
        for point in points:
            content = format_file(point).encode()
            file.write(struct.pack("<Q", len(content)) + content)
    file.write(struct.pack("<II", 0, 0))
    cmdlines = "".join(f"{pid} {comm}\n" for comm, pid in recorded.tasks.rows if pid).encode()
    file.write(struct.pack("<Q", len(cmdlines)) + cmdlines)


def _write_data(file: IO[bytes], buffers: dict[int, _Buffer]) -> None:
    """Write the number of CPUs, no options, and the pages behind a table of where they are."""
    nr_cpus = max(buffers, default=0) + 1
    file.write(struct.pack("<I", nr_cpus) + b"options  \0" + struct.pack("<H", 0) + b"flyrecord\0")
    table = file.tell()
    offset = -(-(table + 16 * nr_cpus) // PAGE_BYTES) * PAGE_BYTES
    for cpu in range(nr_cpus):
        buffer = buffers.get(cpu)
        if buffer is not None:
            buffer.flush()
        size = buffer.nr_bytes if buffer is not None else 0
        file.write(struct.pack("<QQ", offset if size else 0, size))
        offset += size
    file.write(bytes(-file.tell() % PAGE_BYTES))
    for cpu in range(nr_cpus):
        buffer = buffers.get(cpu)
        if buffer is not None:
            buffer.pages.seek(0)
            while piece := buffer.pages.read(1 << 20):
                file.write(piece)
            buffer.pages.close()
