"""Standard output and error: every line a verb prints goes through here.

A result may be long and its reader may leave: a closed pipe ends the program silently, with the status a shell gives to
a program that SIGPIPE ended. A full disk is an error like any other, in one line, and it may show only when the last
buffer is flushed; so :func:`finish` flushes before the exit code is chosen, and after a failure :func:`silence` points
the stream at nowhere, or the interpreter would complain once more on its way out. Whatever the text, nothing of it is
an order to the terminal (:mod:`netvm.printable`).
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from netvm.errors import UsageError
from netvm.printable import printable
from netvm.user_file import is_standard_stream, writing

__all__ = ["EXIT_SIGPIPE", "complain", "emit", "finish", "is_coloured", "save", "silence"]

EXIT_SIGPIPE: Final = 141
"""128 + SIGPIPE, as a shell reports it."""
_STANDARD_OUTPUT: Final = "standard output"
_PLAIN: Final = "\x1b[0m"


def emit(text: str, *, paint: str = "") -> None:
    """Print ``text`` and a newline on standard output, the first line in a colour if ``paint`` is what turns it on.

    Raises UsageError if it cannot be written.
    """
    text = printable(text, keep="\n\t")
    if paint:
        first, end, rest = text.partition("\n")
        text = f"{paint}{first}{_PLAIN}{end}{rest}"
    stream = _stdout()
    with writing(_STANDARD_OUTPUT):
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode() + "\n")


def save(text: str, path: Path | None) -> None:
    """Write ``text`` to the user's file, or print it if there is none or it is ``-``.

    Raises UsageError if it cannot be written, BrokenPipeError if the file is a pipe that nobody reads.
    """
    if path is None or is_standard_stream(path):
        emit(text.rstrip("\n"))
        return
    with writing(path):
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def finish() -> None:
    """Flush standard output. Raises UsageError if the disk is full, BrokenPipeError if nobody reads."""
    with writing(_STANDARD_OUTPUT):
        _stdout().flush()


def complain(message: str) -> None:
    """Print one line on standard error: ``netvm: message``."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"netvm: {printable(message)}\n")
        sys.stderr.flush()


def silence(stream: TextIO | None) -> None:
    """Let what is still buffered for ``stream`` go nowhere."""
    if stream is None:
        return
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_coloured(stream: TextIO, *, no_color: bool) -> bool:
    """Say whether ``stream`` is a terminal whose user has nothing against colour (https://no-color.org)."""
    return not no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def _stdout() -> TextIO:
    # Python has no sys.stdout if the program was started with the descriptor closed.
    stream: TextIO | None = sys.stdout
    if stream is None:
        raise UsageError(f"{_STANDARD_OUTPUT} is closed")
    return stream
