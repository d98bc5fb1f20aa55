"""Progress: plain lines now and then, a live line on a terminal, and never the end of a run."""

import errno
import io
import sys

import pytest

from netvm.cli import progress as module
from netvm.cli.progress import ProgressLine, progress_text
from netvm.scenario.outcome import Progress

_PROGRESS = Progress(
    virtual_seconds=1.5,
    free_pages=300,
    min_pages=270,
    low_pages=337,
    high_pages=404,
    pages_cleaned=64,
    swap_used_pages=96,
)
_LINE = "a: 1.500 s virtual, free 300 pages (min 270 low 337 high 404), cleaned 64, swap used 96"


class _Clock:
    """A wall clock that is moved by hand."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Put a clock that stands still into the module."""
    clock = _Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_line() -> None:
    """Virtual time, free pages against the marks, pages cleaned, swap used."""
    assert progress_text("a", _PROGRESS) == _LINE


def test_plain_lines_come_every_few_seconds(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line is printed on standard error when the last one is five seconds old."""
    with ProgressLine("a", no_color=False) as line:
        for _ in range(120):
            clock.now_s += 0.1
            line(_PROGRESS)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{_LINE}\n" * 2


def test_a_terminal_has_a_live_line(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the line is drawn in place, and gone at the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with ProgressLine("a", no_color=False) as line:
        clock.now_s += 0.2
        line(_PROGRESS)
        assert _LINE in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_a_reader_who_left_does_not_end_the_run(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """If standard error cannot be written, progress falls silent."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Broken())
    with ProgressLine("a", no_color=False) as line:
        for _ in range(2):
            clock.now_s += 10
            line(_PROGRESS)


def test_no_standard_error_is_silence(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program started without standard error runs."""
    monkeypatch.setattr(sys, "stderr", None)
    with ProgressLine("a", no_color=False) as line:
        clock.now_s += 10
        line(_PROGRESS)
