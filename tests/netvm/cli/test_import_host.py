"""``netvm import-host``."""

import shutil
from pathlib import Path

import pytest

from netvm.cli.app import main

_RUN = Path(__file__).parents[2] / "data" / "runs" / "D2-guestnbd-2ms-a"


def test_a_scenario_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The skeleton goes to standard output; a directory that is no capture is a mistake."""
    shutil.copy(_RUN / "zoneinfo_before", tmp_path)
    assert main(["import-host", str(tmp_path)]) == 0
    assert 'title = "captured host with' in capsys.readouterr().out
    assert main(["import-host", str(tmp_path / "none")]) == 2
