"""Traces from one format to another."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netvm.errors import UsageError
from netvm.report.export import check_suffix, check_target, export

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"


def test_there_and_back(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Text to netvm's own and back to text changes nothing that is measured."""
    export(_TRACE, tmp_path / "a.nvt")
    export(tmp_path / "a.nvt", tmp_path / "b.txt")
    assert profile_of(tmp_path / "b.txt") == profile_of(_TRACE)


def test_the_suffix_names_the_format(tmp_path: Path) -> None:
    """A suffix that no format has is refused with those that are known."""
    with pytest.raises(UsageError, match=r"x.doc: the suffix names the format; must be one of \.nvt"):
        check_suffix(tmp_path / "x.doc")
    for name in ("such.txt", "such.nvt"):
        with pytest.raises(UsageError, match=rf"no/{name}: cannot be written"):
            export(_TRACE, tmp_path / "no" / name)


def test_a_format_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is known before there is anything to write, and nothing is left behind."""
    monkeypatch.setattr("netvm.report.table.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"pip install 'netvm\[arrow\]'"):
        check_target(tmp_path / "t.parquet")
    check_target(tmp_path / "t.nvt")
    assert not list(tmp_path.iterdir())


def test_a_pipe_whose_reader_goes_away_is_passed_on(tmp_path: Path) -> None:
    """It is no failure to write, but the end that a closed standard output has."""
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    with subprocess.Popen(["head", "-c", "1", pipe], stdout=subprocess.DEVNULL), pytest.raises(BrokenPipeError):
        export(_TRACE, pipe)


def test_an_interrupted_export_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a file leaves neither a half of it nor anything else; an older file stays as it was."""
    older = tmp_path / "older.txt"
    older.write_text("as it was")

    def interrupted(*_args: object) -> Iterator[str]:
        yield "half"
        raise KeyboardInterrupt

    monkeypatch.setattr("netvm.report.export.ftrace_lines", interrupted)
    for name in ("older.txt", "new.txt"):
        with pytest.raises(KeyboardInterrupt):
            export(_TRACE, tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("older.txt", "as it was")]
