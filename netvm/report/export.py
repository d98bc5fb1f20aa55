"""A trace turned into another format: the suffix of the file names it.

Each format is a module of its own; this one knows which is which. All of them are written as a stream, out of one pass
over the records in order of time. A file has its name when it is whole: until then it stands beside it under a hidden
one, which goes away when the export fails or is interrupted. A device or a pipe is written to as it is.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from netvm.errors import UsageError
from netvm.report.folded import folded_stacks
from netvm.report.ftrace_text import ftrace_lines
from netvm.report.native import NativeWriter
from netvm.report.perfetto import write_perfetto
from netvm.report.source import open_trace
from netvm.report.table import check_pyarrow, write_table
from netvm.report.tracedat import write_trace_dat
from netvm.trace.records import Losses
from netvm.user_file import writing

__all__ = ["NATIVE_SUFFIXES", "check_suffix", "check_target", "export"]

NATIVE_SUFFIXES: Final = (".nvt",)


def check_suffix(path: Path) -> None:
    """Raise UsageError if no format has the suffix of ``path``."""
    if path.suffix not in _WRITERS:
        known = ", ".join(f"{suffix} ({told})" for suffix, (told, _) in _WRITERS.items())
        raise UsageError(f"{path}: the suffix names the format; must be one of {known}")


def check_target(path: Path) -> None:
    """Raise UsageError if ``path`` has no format's suffix, its format lacks a package, or no file can be made there."""
    check_suffix(path)
    if _WRITERS[path.suffix][1] is _table:
        check_pyarrow()
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists() or path.is_file():
            part = _part_of(path)
            part.touch()
            part.unlink()


def export(source: Path, target: Path) -> Losses:
    """Write the trace ``source`` as ``target``, in the format its suffix names; return what is missing in it.

    Raises UsageError, or BrokenPipeError if the target is a pipe that nobody reads.
    """
    check_suffix(target)
    write = _WRITERS[target.suffix][1]
    with writing(target):
        if target.exists() and not target.is_file():
            return write(source, target)
        whole = target.resolve()
        part = _part_of(target)
        part.touch()
        try:
            losses = write(source, part)
            part.replace(whole)
        finally:
            part.unlink(missing_ok=True)
        return losses


def _part_of(target: Path) -> Path:
    """Return what a file is called until it is whole."""
    whole = target.resolve()
    return whole.with_name(f".{whole.stem}.part{target.suffix}")


def _native(source: Path, target: Path) -> Losses:
    with open_trace(source, keep_payload=True) as (recorded, batches), NativeWriter(target, recorded) as writer:
        for batch in batches:
            writer.write(batch)
        writer.about(recorded.facts)
    return recorded.losses


def _ftrace(source: Path, target: Path) -> Losses:
    with open_trace(source, keep_payload=True) as (recorded, batches), target.open("w", encoding="utf-8") as file:
        file.writelines(ftrace_lines(batches, recorded))
    return recorded.losses


def _perfetto(source: Path, target: Path) -> Losses:
    with open_trace(source) as (recorded, batches):
        write_perfetto(batches, recorded, target)
    return recorded.losses


def _folded(source: Path, target: Path) -> Losses:
    with open_trace(source) as (recorded, batches), target.open("w", encoding="utf-8") as file:
        file.writelines(folded_stacks(batches, recorded))
    return recorded.losses


def _trace_dat(source: Path, target: Path) -> Losses:
    with open_trace(source) as (recorded, batches):
        write_trace_dat(batches, recorded, target)
    return recorded.losses


def _table(source: Path, target: Path) -> Losses:
    with open_trace(source) as (recorded, batches):
        write_table(batches, recorded, target)
    return recorded.losses


_WRITERS: Final[dict[str, tuple[str, Callable[[Path, Path], Losses]]]] = {
    ".nvt": ("netvm's own", _native),
    ".txt": ("ftrace text", _ftrace),
    ".pftrace": ("Perfetto", _perfetto),
    ".dat": ("trace-cmd and KernelShark", _trace_dat),
    ".arrow": ("Arrow stream", _table),
    ".parquet": ("Parquet", _table),
    ".folded": ("folded stacks for flame graphs", _folded),
}
