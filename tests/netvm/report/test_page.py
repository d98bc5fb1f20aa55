"""The page: its data, its size, and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netvm.report.difference import compare_profiles
from netvm.report.page import PageData, page_html
from netvm.report.source import open_trace

_DATA = Path(__file__).parents[2] / "data" / "traces"
_A, _B = (_DATA / name / "ftrace.txt.gz" for name in ("D2-guestnbd-2ms-a", "D4-guestnbd-10MBs"))
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _page(path: Path, **more: Any) -> tuple[str, dict[str, Any]]:
    with open_trace(path) as (recorded, batches):
        data = PageData(recorded, batches).as_dict(**more)
    page = page_html(data, name="a <trace>")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    embedded: dict[str, Any] = json.loads(found[1])
    return page, embedded


def test_the_page_holds_the_profile_and_needs_nothing_else(profile_of: Callable[[Path], Any]) -> None:
    """The profile in the page is that of --json to the last digit; no address is loaded; names are escaped."""
    page, data = _page(_A)
    assert data["profile"] == json.loads(msgspec.json.encode(profile_of(_A)))
    assert len(page.encode()) < 1_500_000
    assert not re.findall(r"""(?:src|href)=["']?(?!#|data:)[^"'> ]+""", page.split("<script", maxsplit=1)[0])
    assert "<h1>a &lt;trace&gt;</h1>" in page
    assert len(data["stalls"]) == data["nr_stalls"] == 140
    assert data["stalls"][0]["duration_us"] == 18758.0
    assert abs(sum(us for _, us in data["stacks"]) - data["profile"]["direct_reclaim_latency_us"]["total"]) < 1


def test_an_explanation_becomes_a_chain() -> None:
    """The shortest chain of a knot is drawn, and where it comes back to; a script cannot be ended from inside."""
    with open_trace(_A) as (recorded, batches):
        recorded.facts.update(verdict="HANG", explanation=["</script>", "the knot: a-1 -> [b] -> c -> [b]"])
        data = PageData(recorded, batches).as_dict()
    assert (data["chain"], data["chain_loops"]) == (["a-1", "[b]", "c"], 1)
    assert page_html(data, name="x").count("</script>") == 2


@pytest.mark.slow
@pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium")
def test_a_browser_draws_it(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Chromium runs the page without a message on its console, and the table shows the figures of --json."""
    a, b = profile_of(_A), profile_of(_B)
    page, _ = _page(_A, other=b, difference=compare_profiles(a, b, names=("a", "b")))
    (tmp_path / "report.html").write_text(page)
    assert _CHROMIUM is not None
    ran = subprocess.run(
        [
            _CHROMIUM,
            *["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"],
            *["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"],
            f"--user-data-dir={tmp_path / 'user'}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            f"file://{tmp_path / 'report.html'}",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in ran.stderr
    assert 'data-drawn="yes"' in ran.stdout
    for kind, row in a.latency_us.items():
        line = re.search(rf'<tr data-row="{kind}">(.*?)</tr>', ran.stdout)
        assert line is not None
        shown = dict(re.findall(r'data-field="(\w+)" data-value="([^"]*)"', line[1]))
        assert {name: float(value) for name, value in shown.items()} == msgspec.to_builtins(row)
    assert ran.stdout.count('class="point') >= 140


def test_dirty_pages_are_shown_as_far_as_they_are_recorded(tmp_path: Path) -> None:
    """Without global_dirty_state the levels are those that balance_dirty_pages tells; a pause is shown as a point."""
    pause = (
        "bdi 8:16: limit=90 setpoint=80 dirty={} bdi_setpoint=6 bdi_dirty=5 dirty_ratelimit=4 task_ratelimit=3 "
        "dirtied=2 dirtied_pause=1 paused=0 pause=12 period=0 think=12 cgroup_ino=1"
    )
    state = "dirty=30 writeback=40 bg_thresh=20 thresh=60 limit=90 dirtied=100 written=70"
    left = "         fwriter-153     [000] .....     1.{:06d}: "
    lines = [left.format(at * 20_000) + f"balance_dirty_pages: {pause.format(70 + at)}\n" for at in range(5)]
    for name, more in (("without", ""), ("with", left.format(1) + f"global_dirty_state: {state}\n")):
        path = tmp_path / name
        path.write_text("# tracer: nop\n#\n" + lines[0] + more + "".join(lines[1:]))
        _, data = _page(path)
        assert (data["stall_kind"], data["nr_stalls"]) == ("dirty_throttle", 5)
        if more:
            assert data["dirty"] == {
                level: [[1.0, value]]
                for level, value in (("dirty", 30), ("writeback", 40), ("bg_thresh", 20), ("thresh", 60), ("limit", 90))
            }
        else:
            assert [value for _, value in data["dirty"]["dirty_or_writeback"]] == [70, 71, 72, 73, 74]
            assert data["dirty"]["limit"] == [[1.0, 90]]
