"""``netvm report``."""

from pathlib import Path

import pytest

from netvm.cli.app import main

_DATA = Path(__file__).parents[2] / "data" / "traces"
_A, _B = (str(_DATA / name / "ftrace.txt.gz") for name in ("D2-guestnbd-2ms-a", "D4-guestnbd-10MBs"))


def test_a_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One trace gives a page, two a comparison; a page that cannot be written is a mistake."""
    page = tmp_path / "report.html"
    assert main(["report", _A, "-o", str(page)]) == 0
    assert "kB" in capsys.readouterr().out
    assert '"difference":null' in page.read_text()
    assert main(["report", _A, _B, "-o", str(page)]) == 0
    assert '"difference":{' in page.read_text()
    assert main(["report", _A, "-o", str(tmp_path / "no" / "page.html")]) == 2
    capsys.readouterr()
    assert main(["report", _A, "-o", "-"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!doctype html>")
    assert out.endswith("</html>\n")
