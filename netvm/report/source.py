"""A trace as the user names it: a file, plain or compressed, in one of the formats that can be read.

:func:`open_trace` looks at the first bytes, never at the name: gzip, zstd, netvm's own file, ``perf script`` text,
ftrace text. What comes out is one stream of records in order of time (:mod:`netvm.report.reorder`), a batch at a time,
so that a trace of any size needs the memory of a few batches.
"""

import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Final

from netvm.errors import UsageError
from netvm.report.ftrace import FtraceReader
from netvm.report.ftraceline import FTRACE_PREFIX
from netvm.report.native import MAGIC, read_native
from netvm.report.perf_script import PERF_PREFIX, read_perf_script
from netvm.report.reorder import in_order
from netvm.trace.records import RecordArray, Recorded
from netvm.user_file import is_standard_stream

__all__ = ["PIECE_BYTES", "open_pieces", "open_trace", "read_trace"]

PIECE_BYTES: Final = 1 << 18
_GZIP: Final = b"\x1f\x8b"
_GZIP_WBITS: Final = 31
"""Tells zlib to expect gzip's header and trailer."""
_PACKED_BYTES: Final = 1 << 13
"""Input that is unpacked at once: text of a trace grows some twenty times."""
_TRACE_NAMES: Final = ("ftrace.txt", "ftrace.txt.gz", "ftrace.txt.zst")
"""What the trace of a capture or of a recorded run is called."""
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_FOREIGN: Final = {
    b"\x17\x08Dtracing": "a trace.dat; netvm reads what `trace-cmd report` prints of it",
    b'{"source"': "a profile; what is asked for needs the trace that `netvm profile --json` has read",
    b"PERFILE2": "a perf.data; netvm reads what `perf script` prints of it",
}
"""First bytes of what is no trace, or not in a form that can be read."""


@contextmanager
def open_trace(path: Path, *, keep_payload: bool = False) -> Iterator[tuple[Recorded, Iterator[RecordArray]]]:
    """Open a trace; yield what its records refer to, and the records in order of time.

    ``-`` is standard input. With ``keep_payload`` also the text of events that the table of tracepoints does not know
    is kept. Raises UsageError if the file cannot be read or is in no format that can.
    """
    recorded = Recorded()
    with open_pieces(path, recorded) as (_, pieces):
        yield recorded, read_trace(pieces, path, recorded, keep_payload=keep_payload)


@contextmanager
def open_pieces(path: Path, recorded: Recorded) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Open a file, ``-`` being standard input; yield the first piece of its content, unpacked, and all of them.

    A file that ends too early is noted in ``recorded``. Raises UsageError if it cannot be read or unpacked.
    """
    with _opened(path) as file:
        pieces = _pieces_of(file, path, recorded)
        head = next(pieces, b"")
        yield head, chain([head], pieces)


def read_trace(
    pieces: Iterator[bytes], path: Path, recorded: Recorded, *, keep_payload: bool = False
) -> Iterator[RecordArray]:
    """Generate the records of an open trace in order of time; ``path`` is its name in what is complained of.

    Raises UsageError as :func:`open_trace`.
    """
    return in_order(_read(pieces, path, recorded, keep_payload=keep_payload), recorded.losses)


def _read(pieces: Iterator[bytes], path: Path, recorded: Recorded, *, keep_payload: bool) -> Iterator[RecordArray]:
    """Generate the records of a stream whose format its beginning tells."""
    head = next(pieces, b"")
    whole: Iterator[bytes] = chain([head], pieces)
    if head.startswith(MAGIC):
        recorded.source = "netvm"
        yield from read_native(whole, recorded)
        return
    for magic, remedy in _FOREIGN.items():
        if head.startswith(magic):
            raise UsageError(f"{path}: {remedy}")
    whole = _with_end(whole, recorded)
    lines = [line for line in head.decode("utf-8", "replace").split("\n")[:1000] if line.strip()]
    if not lines or head.startswith(b"# tracer:") or any(FTRACE_PREFIX.match(line) for line in lines):
        recorded.source = "ftrace"
        yield from FtraceReader(recorded, keep_payload=keep_payload).batches(whole)
    elif any(PERF_PREFIX.match(line) for line in lines):
        recorded.source = "perf"
        yield from read_perf_script(whole, recorded, keep_payload=keep_payload)
    elif all(line.startswith("#") for line in lines):
        recorded.source = "ftrace"
        yield from FtraceReader(recorded).batches(whole)
    else:
        told = "binary" if b"\0" in head else f"no event in its first lines, it begins {lines[0][:60]!r}"
        raise UsageError(
            f"{path}: {told}; must be ftrace text, what `trace-cmd report` or `perf script` prints, or a recording of "
            f"netvm's"
        )


def _with_end(pieces: Iterator[bytes], recorded: Recorded) -> Iterator[bytes]:
    """Generate the pieces of a text, and note one that ends inside a line: its last number may have lost digits."""
    last = b""
    for last in pieces:
        yield last
    if last and not last.endswith(b"\n"):
        recorded.losses.truncated = True


def _pieces_of(file: io.BufferedReader, path: Path, recorded: Recorded) -> Iterator[bytes]:
    """Generate the content of an open file, unpacked. A file that ends too early is noted, not refused.

    Raises UsageError if it cannot be read, or if nothing of what is packed can be unpacked.
    """
    try:
        head = file.peek(len(_ZSTD))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if head.startswith(_GZIP):
        pieces = _unpack_gzip(file)
    elif head.startswith(_ZSTD):
        pieces = _unpack_zstd(file)
    else:
        pieces = iter(lambda: file.read(PIECE_BYTES), b"")
    nr_bytes = 0
    while True:
        try:
            piece = next(pieces, b"")
        except EOFError as error:
            if not nr_bytes:
                raise UsageError(f"{path}: cut off before anything could be unpacked") from error
            recorded.losses.truncated = True
            return
        except (zlib.error, _DamagedError) as error:
            if not nr_bytes:
                raise UsageError(f"{path}: cannot be unpacked: {error}") from error
            recorded.losses.truncated = True
            recorded.losses.skip(f"damaged from here on: {error}")
            return
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not piece:
            return
        nr_bytes += len(piece)
        yield piece


def _unpack_gzip(file: IO[bytes]) -> Iterator[bytes]:
    """Generate the content of members of gzip, to the last byte that can be had.

    Raises EOFError if the last member is cut off, zlib.error where one is damaged.
    """
    packed = b""
    member = None
    while packed := packed or file.read(_PACKED_BYTES):
        member = zlib.decompressobj(_GZIP_WBITS) if member is None else member
        before = member.copy()
        try:
            piece = member.decompress(packed)
        except zlib.error:
            single = (before.decompress(packed[at : at + 1]) for at in range(len(packed)))
            yield from filter(None, single)
            raise
        # a member may be padded with zeros
        packed, member = (member.unused_data.lstrip(b"\0"), None) if member.eof else (b"", member)
        if piece:
            yield piece
    if member is not None:
        raise EOFError


def _unpack_zstd(file: IO[bytes]) -> Iterator[bytes]:
    """Generate the content of frames of zstd. Raises EOFError if the last is cut off, as gzip does."""
    try:
        import zstandard  # noqa: PLC0415  only who reads .zst needs it
    except ImportError as error:
        raise UsageError("a zstd trace needs the package zstandard: pip install zstandard") from error
    packed = b""
    frame = None
    while packed := packed or file.read(_PACKED_BYTES):
        frame = zstandard.ZstdDecompressor().decompressobj() if frame is None else frame
        try:
            piece = frame.decompress(packed)
        except zstandard.ZstdError as error:
            raise _DamagedError(str(error)) from error
        packed = b""
        if frame.eof:
            packed, frame = frame.unused_data, None
        if piece:
            yield piece
    if frame is not None:
        raise EOFError


class _DamagedError(Exception):
    """What is packed cannot be unpacked from here on."""


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    if is_standard_stream(path):
        # Python has no sys.stdin if the program was started with the descriptor closed
        if sys.stdin is None:
            raise UsageError("standard input is closed")
        assert isinstance(sys.stdin.buffer, io.BufferedReader)
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}{_traces_in(path)}") from error
    with file:
        yield file


def _traces_in(path: Path) -> str:
    """Return the end of an error about a directory that was given for the trace in it."""
    found = [path / name for name in _TRACE_NAMES if (path / name).is_file()]
    return f"; its trace is {found[0]}" if found else ""
