"""One line of ftrace text at a time: the careful reader, and what it teaches the fast one.

:class:`Layout` is where the columns of the left part stand, :class:`Variant` which keys an event's fields have and in
which order. Both are learned from a line. A line of its own shape is read here alone.

A kernel may print a field more or under another name than the table of tracepoints says; a renamed one is found under
its old name, a new one is left out, and a missing one is an error unless kernels are known that do not print it.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import BY_NAME, CONVERSION, OTHER, TRACEPOINTS, Tracepoint

__all__ = ["FLAGS", "FTRACE_PREFIX", "INT_MAX", "SECONDS_MAX", "Layout", "LineReader", "Variant"]

FTRACE_PREFIX: Final = re.compile(
    r"(?P<comm>.*?)-(?P<pid>\d{1,10}) +(?:\( *[\d-]+\) +)?\[(?P<cpu>\d{1,10})\] +(?:(?P<flags>[.\w#]{4,6}) +)?"
    r"(?P<second>\d{1,20})\.(?P<fraction>\d{6,9}): +(?P<event>[A-Za-z_]\w*):(?P<rest>.*)"
)
INT_MAX: Final = 2**31 - 1
"""The largest ``int`` of C, which pids and CPUs are."""
SECONDS_MAX: Final = (2**63 - 1) // 1_000_000_000 - 1
"""The last whole second that nanoseconds of 64 bits reach. A clock that was set back below zero prints more."""
FLAGS: Final = re.compile(r"[.\w#]{4,6}|", re.ASCII)
_KEY: Final = re.compile(r"(?<![^\s])(\w+)=(\S*)")
_LOST: Final = re.compile(r"\s*CPU:?\s*(\d{1,10}) \[(?:LOST (?:(\d{1,20}) )?EVENTS|(?:(\d{1,20}) )?EVENTS DROPPED)\]")
"""Ring buffers that do not know how many they lost print no number."""
_PERF_LOST: Final = re.compile(r".*PERF_RECORD_LOST(?:_SAMPLES)?:? lost (\d+)")
_WRITTEN: Final = re.compile(r"#\s*entries-in-buffer/entries-written: (\d+)/(\d+)")
_NO_EVENT: Final = re.compile(r"\s*(?:=> |cpus=\d+$|CPU \d+ is empty$|version = \d|trace\.dat|\s*$)")
_STACK_TITLES: Final = ("<stack trace>", "<user stack trace>")
"""What stands where others have event and fields."""
_VALUE: Final = {
    "d": r"(-?\d+)",
    "x": r"(0x[0-9a-fA-F]+|\d+)",
    "h": r"([0-9a-fA-F]+)",
    "p": r"(\S+)",
    "s": r"(.*?)",
}

_PLUGINS: Final = {
    BY_NAME["sched_switch"].number: re.compile(
        r"(?P<prev_comm>.*):(?P<prev_pid>\d+) \[(?P<prev_prio>-?\d+)\] (?P<prev_state>\S+) ==> "
        r"(?P<next_comm>.*):(?P<next_pid>\d+) \[(?P<next_prio>-?\d+)\]"
    ),
    BY_NAME["sched_wakeup"].number: re.compile(
        r"(?P<comm>.*):(?P<pid>\d+) \[(?P<prio>-?\d+)\](?: success=\d+)? CPU:(?P<target_cpu>\d+)"
    ),
    BY_NAME["kfree_skb"].number: re.compile(
        r"skbaddr=(?P<skbaddr>\S+)(?: rx_sk=\S+)? protocol=(?P<protocol>\d+) location=\S+ reason: (?P<reason>\S+)"
    ),
    BY_NAME["block_rq_issue"].number: re.compile(
        r"(?P<dev>\d+,\d+) (?P<rwbs>\w+) (?P<bytes>\d+) \([^)]*\) (?P<sector>\d+) \+ (?P<nr_sector>\d+)"
        r"(?: \w+,\d+,\d+)? \[(?P<comm>.*)\]"
    ),
    BY_NAME["block_rq_complete"].number: re.compile(
        r"(?P<dev>\d+,\d+) (?P<rwbs>\w+) \([^)]*\) (?P<sector>\d+) \+ (?P<nr_sector>\d+)"
        r"(?: \w+,\d+,\d+)? \[(?P<error>-?\d+)\]"
    ),
}
"""Other forms: what trace-cmd's plugins print instead of the kernel's format, drops of kernels that print a symbol for
the place (it is left out), and the kernel's own form for requests (include/trace/events/block.h; newer ones have the
priority before the last bracket)."""

_RENAMED: Final = {"wb_setpoint": "bdi_setpoint", "wb_dirty": "bdi_dirty", "highest_zoneidx": "classzone"}
_OPTIONAL: Final = frozenset(
    {"nr_congested", "nr_activate_anon", "nr_activate_file", "nr_unmap_fail", "cgroup_ino", "thresh", "written"}
    | {"sb_major", "sb_minor"}
)
"""Fields that some kernels do not print."""


Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of the left part of a line."""

    dash: int
    cpu: int
    cpu_end: int
    flags: int
    flags_end: int
    second: int
    dot: int
    colon: int
    event: int

    @property
    def fraction_ns(self) -> int:
        """Nanoseconds of one unit of the last digit of the time."""
        return int(10 ** (9 - (self.colon - self.dot - 1)))

    @property
    def marks(self) -> tuple[tuple[int, int], ...]:
        """Column and character of every separator."""
        return (
            (self.dash, ord("-")),
            (self.cpu - 1, ord("[")),
            (self.cpu_end, ord("]")),
            (self.second - 1, ord(" ")),
            (self.dot, ord(".")),
            (self.colon, ord(":")),
            (self.event - 1, ord(" ")),
        )


class Variant:
    """The fields of an event as one kernel prints them."""

    __slots__ = (
        "decimal_places",
        "decimals",
        "head",
        "head_place",
        "key_lengths",
        "key_parts",
        "keys",
        "kinds",
        "others",
        "places",
    )

    def __init__(
        self,
        keys: tuple[bytes, ...],
        places: tuple[int, ...],
        kinds: tuple[str, ...],
        *,
        head: bytes | None,
        head_place: int,
    ) -> None:
        self.keys = keys
        """Each with the separator before it."""
        self.places = places
        """Index of the argument, -1 for a field that is left out."""
        self.kinds = kinds
        self.head = head
        """What stands before a first field that has no key."""
        self.head_place = head_place
        self.decimals = [column for column, kind in enumerate(kinds) if kind == "d"]
        self.decimal_places = [places[column] for column in self.decimals]
        self.others = [column for column, kind in enumerate(kinds) if kind in tuple("sxph")]
        self.key_parts = [_key_part(keys, part) for part in range(-(-max(map(len, keys)) // 8))]
        """For each eight bytes of the keys, last ones first: how far before the equals sign they begin, the columns
        whose keys are so long, the masks and the words."""
        self.key_lengths = np.array([len(key) for key in keys[1:]], dtype=np.int64)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variant) and (self.keys, self.head) == (other.keys, other.head)

    def __hash__(self) -> int:
        return hash((self.keys, self.head))


class LineReader:
    """Reads lines one by one."""

    def __init__(
        self, recorded: Recorded, *, keep_payload: bool = False, prefix: re.Pattern[str] = FTRACE_PREFIX
    ) -> None:
        self.recorded = recorded
        self.prefix = prefix
        self._keep_payload = keep_payload
        self._patterns: dict[int, re.Pattern[str]] = {}

    def comment(self, line: str) -> None:
        """Look at a line of the header: it says how much was overwritten before it was read."""
        written = _WRITTEN.match(line)
        if written:
            self.recorded.losses.lose(-1, max(0, int(written[2]) - int(written[1])))

    def layout(self, line: str) -> Layout | None:
        """Return the columns of a line, if it is one of an event and pure ASCII up to there."""
        found = FTRACE_PREFIX.match(line)
        if found is None or not line[: found.start("event")].isascii():
            return None
        flags, flags_end = found.span("flags") if found["flags"] else (found.start("second"), found.start("second"))
        return Layout(
            dash=found.start("pid") - 1,
            cpu=found.start("cpu"),
            cpu_end=found.end("cpu"),
            flags=flags,
            flags_end=flags_end,
            second=found.start("second"),
            dot=found.end("second"),
            colon=found.end("fraction"),
            event=found.start("event"),
        )

    def event(self, name: str) -> tuple[int, int]:
        """Return the number of a tracepoint, and its name's where the table does not know it."""
        point = BY_NAME.get(name)
        return (OTHER, self.recorded.names.intern(name)) if point is None else (point.number, -1)

    def variant(self, event: int, payload: str) -> Variant | None:
        """Return how a line's fields are laid out, if they are all there."""
        if not payload.isascii() or payload.endswith(" "):
            return None
        point = TRACEPOINTS[event]
        places = {field.name: index for index, field in enumerate(point.fields)}
        found = list(_KEY.finditer(payload))
        if not found or payload.count("=") != len(found):
            return None
        names = [_RENAMED.get(match[1], match[1]) for match in found]
        head, head_field = _head(point, payload, found[0].start())
        have = {*names, *([head_field] if head_field else [])}
        if not _complete(point, have):
            return None
        if not have.issuperset(places) and self._pattern(point).fullmatch(payload.strip()):
            # there are fields without a key beside the first
            return None
        for before, after in itertools.pairwise(found):
            if before.end() + 1 != after.start():
                return None
        index = [places.get(name, -1) for name in names]
        return Variant(
            keys=tuple(_with_separator(payload, match) for match in found),
            places=tuple(index),
            kinds=tuple(point.fields[place].kind if place >= 0 else "" for place in index),
            head=head,
            head_place=places.get(head_field, 0),
        )

    def read(self, line: str, record: RecordArray) -> bool:
        """Read a whole line into ``record``; False, and counted, if it is no event."""
        losses = self.recorded.losses
        found = self.prefix.match(line)
        if found is None:
            if not self._note(line):
                losses.skip(line)
            return False
        second, pid, cpu = int(found["second"]), int(found["pid"]), int(found["cpu"])
        if second > SECONDS_MAX or max(pid, cpu) > INT_MAX:
            losses.skip(line)
            return False
        record["time_ns"] = second * 1_000_000_000 + int(found["fraction"].ljust(9, "0"))
        record["cpu"] = min(cpu, 65535)
        record["task"] = self.recorded.tasks.intern(found["comm"].strip(), pid)
        record["flags"] = self.recorded.names.intern(found.groupdict().get("flags") or "")
        event, name = self.event(found["event"])
        record["event"] = event
        if event == OTHER:
            record["args"][0] = name
            record["args"][1] = self.recorded.names.intern(found["rest"].strip()) if self._keep_payload else -1
            return True
        if self.fields(event, found["rest"], record["args"]):
            return True
        losses.skip(line)
        return False

    def fields(self, event: int, payload: str, args: RecordArray) -> bool:
        """Read the fields of a known event into ``args``; False if they are malformed (not counted here)."""
        point = TRACEPOINTS[event]
        places = {field.name: index for index, field in enumerate(point.fields)}
        found = self._pattern(point).fullmatch(payload.strip())
        plugin = _PLUGINS[event].fullmatch(payload.strip()) if found is None and event in _PLUGINS else None
        if found is not None:
            pairs = list(enumerate(found.groups()))
        elif plugin is not None:
            pairs = [(places[name], value) for name, value in plugin.groupdict().items()]
        else:
            pairs_found = list(_KEY.finditer(payload))
            values = {_RENAMED.get(match[1], match[1]): match[2] for match in pairs_found}
            values |= _head_value(point, payload, pairs_found[0].start() if pairs_found else 0)
            if not _complete(point, set(values)):
                return False
            pairs = [(places[key], value) for key, value in values.items() if key in places]
        for place, text in pairs:
            value = self._value(point.fields[place].kind, text)
            if value is None:
                return False
            args[place] = value
        return True

    def spans(self, event: int, line: str, begin: int) -> dict[int, tuple[int, int]] | None:
        """Return where each field's value is in a line, by its argument; None if the fields are malformed."""
        point = TRACEPOINTS[event]
        begin += len(line[begin:]) - len(line[begin:].lstrip())
        end = len(line.rstrip())
        found = self._pattern(point).fullmatch(line, begin, end)
        if found is not None:
            return {place: found.span(place + 1) for place in range(len(point.fields))}
        places = {field.name: index for index, field in enumerate(point.fields)}
        plugin = _PLUGINS[event].fullmatch(line, begin, end) if event in _PLUGINS else None
        if plugin is not None:
            return {places[name]: plugin.span(name) for name in plugin.groupdict()}
        matches = list(_KEY.finditer(line, begin, end))
        spans = {_RENAMED.get(match[1], match[1]): match.span(2) for match in matches}
        head = _head_value(point, line[begin:end], matches[0].start() - begin if matches else 0)
        for name, value in head.items():
            start = line.index(value, begin)
            spans[name] = start, start + len(value)
        if not _complete(point, set(spans)):
            return None
        return {places[name]: span for name, span in spans.items() if name in places}

    def _value(self, kind: str, text: str) -> int | None:
        if kind == "s":
            return self.recorded.names.intern(text.strip())
        if kind == "p" and text.startswith("("):
            return -1
        try:
            value = int(text, 16) if kind in "ph" else int(text, 0 if text.startswith("0x") else 10)
        except ValueError:
            return None
        if kind == "p":
            return value - 2**64 if value >= 2**63 else value
        return max(-(2**63), min(value, 2**63 - 1))

    def _pattern(self, point: Tracepoint) -> re.Pattern[str]:
        pattern = self._patterns.get(point.number)
        if pattern is None:
            pieces = CONVERSION.sub("\0", point.format).split("\0")
            text = re.escape(pieces[0])
            for field, piece in zip(point.fields, pieces[1:], strict=True):
                text += _VALUE[field.kind] + re.escape(piece)
            pattern = self._patterns[point.number] = re.compile(text)
        return pattern

    def _note(self, line: str) -> bool:
        """Whether a line is known to be no event; what it says about losses is counted."""
        lost = _LOST.match(line)
        if lost:
            self.recorded.losses.lose(int(lost[1]), int(lost[2] or lost[3] or 1))
            return True
        lost = _PERF_LOST.match(line)
        if lost:
            self.recorded.losses.lose(-1, int(lost[1]))
            return True
        if line.startswith("#"):
            self.comment(line)
            return True
        return line.rstrip().endswith(_STACK_TITLES) or _NO_EVENT.match(line) is not None


def _key_part(keys: tuple[bytes, ...], part: int) -> tuple[int, list[int] | slice, Words, Words]:
    """Return one word of each key that is long enough to have it."""
    columns = [column for column, key in enumerate(keys) if len(key) > 8 * part]
    pieces = [keys[column][-8 * (part + 1) : -8 * part or None] for column in columns]
    words = [int.from_bytes(piece, "little") << (8 - len(piece)) * 8 for piece in pieces]
    masks = [-1 % 2**64 & (-1 << (8 - len(piece)) * 8) for piece in pieces]
    # a slice of all columns is not copied
    where = slice(None) if len(columns) == len(keys) else columns
    return 8 * (part + 1), where, np.array(masks, np.uint64), np.array(words, np.uint64)


def _complete(point: Tracepoint, have: set[str]) -> bool:
    """Whether every field is there that has to be; the last one has to, or the line is cut off."""
    last = point.fields[-1].name
    if last not in have and not (last in _OPTIONAL and point.fields[-2].name in have):
        return False
    return all(field.name in have or field.name in _OPTIONAL for field in point.fields)


def _head(point: Tracepoint, payload: str, first_key: int) -> tuple[bytes | None, str]:
    """Return what stands before a first field without a key, and that field's name."""
    before = point.format.partition("%")[0]
    if before.endswith("=") or not before:
        return None, ""
    text = payload[:first_key]
    at = text.find(before.strip())
    if at < 0:
        return None, ""
    return text[: at + len(before.strip()) + 1].encode()[-8:], point.fields[0].name


def _head_value(point: Tracepoint, payload: str, first_key: int) -> dict[str, str]:
    """Return the value of a first field that has no key."""
    before = point.format.partition("%")[0].strip()
    if not before or before.endswith("="):
        return {}
    _, found, value = payload[:first_key].partition(before)
    name = value.strip().split(": ")[0].removesuffix(":")
    return {point.fields[0].name: name} if found and name else {}


def _with_separator(payload: str, match: re.Match[str]) -> bytes:
    """Return a key with what stands before it: a space, or a colon and a space after a head."""
    start = match.start()
    if start > 1 and payload[start - 2] == ":":
        return payload[start - 2 : match.end(1)].encode()
    return payload[max(start - 1, 0) : match.end(1)].encode()
