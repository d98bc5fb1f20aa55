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


_EVIL = "\x1b[2J</script><!--<script>"
_HOSTILE = "".join(
    f" {_EVIL}-7     [000] .....   {time}: mm_vmscan_direct_reclaim_{what}\n"
    for time, what in (("1.000000", "begin: order=0 gfp_flags=GFP_\x1b[5m"), ("1.500000", "end: nr_reclaimed=3"))
)


@pytest.mark.parametrize("words", [["profile"], ["profile", "--csv"], ["profile", "--events"], ["diff"], ["report"]])
def test_what_a_task_calls_itself_is_no_order_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Control characters of a trace's names are escaped as the kernel does it, and no script of a page can be ended."""
    path = tmp_path / "trace\x1b[2J.txt"
    path.write_text(_HOSTILE)
    more = {"diff": [str(path)], "report": ["-o", "-"]}.get(words[0], [])
    assert main([*words, str(path), *more]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\\x1b[2J" in out
    assert words != ["report"] or (out.count("<script"), out.count("</script"), out.count("<!--")) == (2, 2, 0)


@pytest.mark.parametrize("suffix", ["txt", "folded", "nvt"])
def test_an_export_shows_names_as_the_profile_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """A trace that was exported can be printed without harm."""
    path, exported = tmp_path / "trace.txt", tmp_path / f"exported.{suffix}"
    path.write_text(_HOSTILE)
    assert main(["export", str(path), "-o", str(exported)]) == 0
    if suffix == "nvt":
        assert main(["profile", str(exported)]) == 0
        told = capsys.readouterr().out
    else:
        told = exported.read_text()
    assert "\x1b" not in told
    assert "\\x1b[2J" in told


def test_a_saved_profile_is_no_order_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does a newline in a name make a line of its own."""
    path, saved = tmp_path / "trace.txt", tmp_path / "saved.json"
    path.write_text(_HOSTILE)
    assert main(["profile", "--json", str(path)]) == 0
    saved.write_text(capsys.readouterr().out.replace("\\\\x1b[2J", "\\u001b[2J\\nsome line"))
    assert main(["profile", str(saved)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nsome line" not in out
    assert "\\x1b[2J\\x0asome line" in out


@pytest.mark.parametrize("other", ["--csv", "--events"])
def test_json_is_one_way_to_tell(capsys: pytest.CaptureFixture[str], other: str) -> None:
    """What cannot be had together is refused, not left out."""
    assert main(["profile", _TRACE, "--json", other]) == 2
    assert capsys.readouterr() == ("", f"netvm: profile: --json and {other} exclude each other\n")
