"""``netvm diff``."""

import json
from pathlib import Path

import pytest

from netvm.cli.app import main

_DATA = Path(__file__).parents[2] / "data" / "traces"
_A, _B = (str(_DATA / name / "ftrace.txt.gz") for name in ("D2-guestnbd-2ms-a", "D4-guestnbd-10MBs"))


def test_traces_and_saved_profiles_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile that was saved stands for its trace."""
    assert main(["profile", _A, "--json"]) == 0
    saved = tmp_path / "a.json"
    saved.write_text(capsys.readouterr().out)
    assert main(["diff", str(saved), _B, "--json"]) == 0
    of_saved = json.loads(capsys.readouterr().out)
    assert main(["diff", _A, _B, "--json"]) == 0
    of_trace = json.loads(capsys.readouterr().out)
    assert of_saved["ratios"] == of_trace["ratios"]
    assert of_saved["sentences"] == of_trace["sentences"]


def test_standard_input_is_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Both sides cannot be read from it: the second would be empty."""
    for verb in ("diff", "report"):
        assert main([verb, "-", "-"]) == 2
        assert "standard input can be named once" in capsys.readouterr().err


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentences come first."""
    assert main(["diff", _A, _B]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a: ")
    assert lines[2].startswith("- direct reclaim: 140 times before, 55 after; median")
