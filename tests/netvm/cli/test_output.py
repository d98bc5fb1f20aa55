"""Output: what can go wrong with a stream ends as an error of its own kind."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from netvm.cli.output import complain, emit, finish, is_coloured, save, silence
from netvm.errors import UsageError


class _Broken(io.StringIO):
    """A stream whose every write fails."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


def test_a_full_disk_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the write and the flush tell it."""
    monkeypatch.setattr(sys, "stdout", _Broken(OSError(errno.ENOSPC, "No space left on device")))
    for attempt in (lambda: emit("x"), finish):
        with pytest.raises(UsageError, match="standard output: cannot be written: No space left on device"):
            attempt()


def test_a_closed_pipe_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends the program decides about a reader who left."""
    monkeypatch.setattr(sys, "stdout", _Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    for attempt in (lambda: emit("x"), finish):
        with pytest.raises(BrokenPipeError):
            attempt()


def test_what_a_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without Unicode gets escapes, not a traceback."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    emit("20 µs")
    assert raw.getvalue() == b"20 \\xb5s\n"


def test_nothing_that_is_printed_orders_the_terminal_about(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters are escaped, but for the ends of lines, and the paint, which is for the first line."""
    emit("a\x1b[2J\tb\nc\rd", paint="\x1b[1;31m")
    assert capsys.readouterr().out == "\x1b[1;31ma\\x1b[2J\tb\x1b[0m\nc\\x0dd\n"


def test_complaints_never_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error may be full or gone."""
    monkeypatch.setattr(sys, "stderr", _Broken(OSError(errno.ENOSPC, "No space left on device")))
    complain("x")
    monkeypatch.setattr(sys, "stderr", None)
    complain("x")


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters and lone surrogates are escaped."""
    complain("a\nb\x1b\udcff")
    assert capsys.readouterr().err == "netvm: a\\x0ab\\x1b\\udcff\n"


def test_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text goes to a file or to standard output, with one newline at its end; a failure is told."""
    save("x\n\n", tmp_path / "file")
    save("x", None)
    assert (tmp_path / "file").read_text() == capsys.readouterr().out == "x\n"
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        save("x", tmp_path)


def test_save_to_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dash is standard output, not a file of that name."""
    monkeypatch.chdir(tmp_path)
    save("x", Path("-"))
    assert capsys.readouterr().out == "x\n"
    assert not list(tmp_path.iterdir())


def test_a_pipe_whose_reader_goes_away_is_passed_on(tmp_path: Path) -> None:
    """A named pipe that nobody reads to its end ends the program as standard output's reader does."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["head", "-c", "1", pipe], stdout=subprocess.DEVNULL), pytest.raises(BrokenPipeError):
        save("x" * (1 << 20), pipe)


def test_silence_forgives_streams_without_a_file() -> None:
    """A stream that is no file, or none at all, is left alone."""
    silence(io.StringIO())
    silence(None)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colour for a file, with --no-color, with NO_COLOR, or on a dumb terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert is_coloured(_Terminal(), no_color=False)
    assert not is_coloured(io.StringIO(), no_color=False)
    assert not is_coloured(_Terminal(), no_color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_coloured(_Terminal(), no_color=False)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not is_coloured(_Terminal(), no_color=False)
