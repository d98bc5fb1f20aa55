"""``netvm export``."""

from pathlib import Path

import pytest

from netvm.cli.app import main

_TRACE = str(Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz")


def test_a_file_is_written_or_the_mistake_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The suffix chooses the format; one that is unknown is a mistake."""
    assert main(["export", _TRACE, "-o", str(tmp_path / "t.pftrace")]) == 0
    assert (tmp_path / "t.pftrace").stat().st_size > 1000
    assert main(["export", _TRACE, "-o", str(tmp_path / "t.zip")]) == 2
    assert "must be one of" in capsys.readouterr().err
