"""``netvm capture``."""

from pathlib import Path

import pytest

from netvm.cli.app import main


def test_it_says_what_it_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of no seconds at all there is one sample; the directory is named first."""
    assert main(["capture", "--seconds", "0", "-o", str(tmp_path / "c")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "c")
    assert lines[-1] == "  samples.jsonl: 0 s of counters"
    (tmp_path / "file").write_text("")
    assert main(["capture", "--seconds", "0", "-o", str(tmp_path / "file")]) == 2
