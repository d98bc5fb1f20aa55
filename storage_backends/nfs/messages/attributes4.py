"""What NFS version 4 says about a file: a bit map of attributes and their values (RFC 8881, sections 3.3.7 and 5.8).

A request names the attributes it wants, a reply those it brings, in the order of their numbers. Those that are here are
what this client asks for; a server that brings others breaks what was asked.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = ["ALL_ATTRIBUTES", "NO_ATTRIBUTES", "Fattr4", "pull_bitmap4", "push_bitmap4"]

_NS_PER_S = 1_000_000_000
_MAX_WORDS = 3
_MAX_ATTRLIST_BYTES = 1024


def push_bitmap4(writer: XdrWriter, numbers: tuple[int, ...]) -> None:
    """Append a set of numbers as words of 32 bits."""
    bits = sum(1 << number for number in set(numbers))
    nr_words = -(-bits.bit_length() // 32)
    writer.uint(nr_words)
    for word in range(nr_words):
        writer.uint(bits >> 32 * word & 0xFFFFFFFF)


def pull_bitmap4(reader: XdrReader) -> tuple[int, ...]:
    """Consume a set of numbers, in ascending order."""
    nr_words = reader.length(_MAX_WORDS)
    bits = 0
    for word in range(nr_words):
        bits |= reader.uint() << 32 * word
    return tuple(number for number in range(32 * nr_words) if bits >> number & 1)


def _push_fsid(writer: XdrWriter, fsid: int) -> None:
    writer.hyper(fsid)
    writer.hyper(0)


def _pull_fsid(reader: XdrReader) -> int:
    major = reader.hyper()
    reader.hyper()
    return major


def _push_time(writer: XdrWriter, time_ns: int) -> None:
    writer.hyper(time_ns // _NS_PER_S)
    writer.uint(time_ns % _NS_PER_S)


def _pull_time(reader: XdrReader) -> int:
    seconds, ns = reader.hyper(), reader.uint()
    if ns >= _NS_PER_S:
        raise RemoteProtocolError(f"nfstime4 with {ns} nanoseconds")
    return seconds * _NS_PER_S + ns


_Codec = tuple[Callable[[XdrWriter, Any], None], Callable[[XdrReader], Any]]
_UINT: Final[_Codec] = (XdrWriter.uint, XdrReader.uint)
_HYPER: Final[_Codec] = (XdrWriter.hyper, XdrReader.hyper)
_TIME: Final[_Codec] = (_push_time, _pull_time)
_ATTRIBUTES: Final[dict[int, tuple[str, _Codec]]] = {
    1: ("ftype", _UINT),
    3: ("change", _HYPER),
    4: ("size_bytes", _HYPER),
    8: ("fsid", (_push_fsid, _pull_fsid)),
    10: ("lease_time_s", _UINT),
    20: ("fileid", _HYPER),
    30: ("maxread_bytes", _HYPER),
    31: ("maxwrite_bytes", _HYPER),
    33: ("mode", _UINT),
    35: ("numlinks", _UINT),
    45: ("space_used_bytes", _HYPER),
    52: ("time_metadata_ns", _TIME),
    53: ("time_modify_ns", _TIME),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fattr4:
    """``fattr4``: the attributes that are not None."""

    ftype: int | None = None
    """As ``ftype3``: 1 a file, 2 a directory."""
    change: int | None = None
    size_bytes: int | None = None
    fsid: int | None = None
    """The major half; the minor one is 0."""
    lease_time_s: int | None = None
    fileid: int | None = None
    maxread_bytes: int | None = None
    maxwrite_bytes: int | None = None
    mode: int | None = None
    numlinks: int | None = None
    space_used_bytes: int | None = None
    time_metadata_ns: int | None = None
    time_modify_ns: int | None = None

    def only(self, numbers: tuple[int, ...]) -> "Fattr4":
        """Return those of its attributes that have these numbers."""
        names = [_ATTRIBUTES[number][0] for number in numbers if number in _ATTRIBUTES]
        return Fattr4(**{name: getattr(self, name) for name in names})

    def push(self, writer: XdrWriter) -> None:
        """Append the map and the values."""
        values = XdrWriter()
        numbers = []
        for number, (name, (push, _pull)) in _ATTRIBUTES.items():
            value = getattr(self, name)
            if value is not None:
                numbers.append(number)
                push(values, value)
        push_bitmap4(writer, tuple(numbers))
        body = values.chunks()
        writer.opaque(b"".join(chunk for chunk in body if isinstance(chunk, bytes)))

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume a map and its values."""
        numbers = pull_bitmap4(reader)
        values = XdrReader.of(reader.opaque(_MAX_ATTRLIST_BYTES))
        found = {}
        for number in numbers:
            if number not in _ATTRIBUTES:
                raise RemoteProtocolError(f"fattr4 brings attribute {number}, which nobody asked for")
            name, (_push, pull) = _ATTRIBUTES[number]
            found[name] = pull(values)
        values.done()
        return cls(**found)


ALL_ATTRIBUTES: Final = tuple(_ATTRIBUTES)
NO_ATTRIBUTES: Final = Fattr4()
assert {name for name, _codec in _ATTRIBUTES.values()} == {field.name for field in fields(Fattr4)}
