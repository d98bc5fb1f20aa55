"""A file as the user names it: ``-`` is standard input or output, and what cannot be written is told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netvm.errors import UsageError

__all__ = ["check_not_read", "is_standard_stream", "writing"]


def is_standard_stream(path: Path) -> bool:
    """Say whether the user means standard input or output: ``-``."""
    return str(path) == "-"


def check_not_read(target: Path, *sources: Path | None) -> None:
    """Raise UsageError if writing ``target`` would destroy a file that is read for it; a device may be both."""
    for source in sources:
        if source is not None and source.is_file() and target.is_file() and source.samefile(target):
            raise UsageError(f"{target}: is what is read, and would be lost; name another file to write")


@contextmanager
def writing(target: Path | str) -> Iterator[None]:
    """Raise UsageError for an OSError of the block, which writes ``target``.

    BrokenPipeError is passed on: who reads a pipe and leaves ends the program in silence.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror or error}") from error
