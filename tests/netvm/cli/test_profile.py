"""``netvm profile``."""

import json
from pathlib import Path

import pytest

from netvm.cli.app import main

_TRACE = str(Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz")


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """What scripts rely on is there, in the units its names say."""
    assert main(["profile", _TRACE, "--json"]) == 0
    profile = json.loads(capsys.readouterr().out)
    assert (profile["events"], profile["skipped"], profile["lost"]) == (5208, 0, 0)
    latency = profile["direct_reclaim_latency_us"]
    assert latency.keys() == {"count", "unfinished", "p50", "p90", "p99", "p99_9", "max", "total"}
    assert (latency["count"], latency["max"]) == (140, 18758.0)
    assert profile["kswapd"]["wakes"] == 50
    assert profile["kswapd"]["active_us"] == 5421211.0
    assert profile["lru"]["direct"]["scanned"] == 17546
    assert profile["lru"]["kswapd"]["reclaimed"] == 36647


def test_events_have_drsnoops_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a direct reclaim, under drsnoop's head."""
    assert main(["profile", _TRACE, "--events"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["COMM", "PID", "LAT(ms)", "PAGES"]
    assert len(lines) == 140
    assert lines[0].split() == ["hog", "152", "18.76", "32"]
    assert main(["profile", _TRACE, "--events", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "4.621163,hog,152,18.758,32"


def test_text_and_csv(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an option the profile is for a reader; --csv is for a spreadsheet; both at once are a mistake."""
    assert main(["profile", _TRACE]) == 0
    assert "5208 events" in capsys.readouterr().out
    assert main(["profile", _TRACE, "--csv"]) == 0
    assert capsys.readouterr().out.startswith("kind,group,label,count,unfinished,p50")
    assert main(["profile", _TRACE, "--csv", "--json"]) == 2
    assert main(["profile", "no-such-trace"]) == 2
    assert "no-such-trace: cannot be read" in capsys.readouterr().err
