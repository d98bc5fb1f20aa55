"""``netvm export``."""

import gzip
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


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a trace that is not whole the rest is written, and standard error says so; of a whole one it says nothing."""
    text = gzip.decompress(Path(_TRACE).read_bytes())
    cut = tmp_path / "cut.txt"
    cut.write_bytes(text[:100_000] + b"\nnonsense\nCPU:0 [LOST 3 EVENTS]\n" + text[100_000:-40])
    for suffix in ("txt", "nvt", "pftrace", "dat", "folded"):
        assert main(["export", _TRACE, "-o", str(tmp_path / f"whole.{suffix}")]) == 0
        assert capsys.readouterr().err == ""
        assert main(["export", str(cut), "-o", str(tmp_path / f"part.{suffix}")]) == 0
        said = f"{cut}: 4 skipped as malformed, 3 lost before they were recorded, the file ends too early"
        assert capsys.readouterr().err == f"netvm: {said}\n"
