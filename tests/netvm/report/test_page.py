"""The page: its data, its size, and what a browser makes of it."""

import itertools
import json
import re
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
_FIGURES = """[...document.querySelector("#figures table").tBodies[0].rows].map((row) => [row.dataset.row,
  Object.fromEntries([...row.cells].slice(1).map((cell) =>
    [cell.dataset.field, [cell.dataset.value, cell.textContent]]))])"""
_CHOSEN = "document.querySelector('#stalls .panel b').textContent"
_FOCUS = "document.activeElement.getAttribute('aria-label')"
_STICKS_OUT = """[...document.querySelectorAll("section *, #tiles *")]
  .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .filter((node) => !node.closest(".scroll > *, svg svg")).map((node) => node.outerHTML.slice(0, 80))"""

_LETTERS = """[...document.querySelectorAll("figure svg")].flatMap((picture) => [...picture.querySelectorAll("text")]
  .map((text) => { const scale = text.getScreenCTM(), { left, right, top, bottom } = text.getBoundingClientRect();
    return { picture: picture.getAttribute("aria-label"), text: text.textContent, left, right, top, bottom,
      size: parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b),
      inside: left > -1 && right < document.documentElement.clientWidth + 1 }; }))"""


def _touching(letters: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the labels of one picture of which one covers the other."""
    return [
        (a["picture"], a["text"], b["text"])
        for a, b in itertools.combinations(letters, 2)
        if a["picture"] == b["picture"]
        and min(a["right"], b["right"]) - max(a["left"], b["left"]) > 1
        and min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]) > 3
    ]


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


def test_a_trace_without_events(tmp_path: Path) -> None:
    """That nobody had to wait cannot be told from nothing."""
    empty = tmp_path / "empty"
    empty.touch()
    _, data = _page(empty)
    assert data["sentences"] == ["There is no event in the trace."]


def test_the_head_says_what_is_missing(tmp_path: Path) -> None:
    """A trace that is not whole is said to be so under the name of the page, in the words of the profile."""
    cut = tmp_path / "cut.txt"
    cut.write_text("a-1 [000] ..... 1.000000: mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_NOFS\nrubbish")
    page, data = _page(cut)
    assert data["losses"] == "1 skipped as malformed, the file ends too early"
    assert f'<p class="dim">{data["losses"]}. Quantiles are within 0.4&nbsp;%.</p>' in page


def test_an_explanation_becomes_a_chain() -> None:
    """The shortest chain of a knot is drawn, and where it comes back to; a script cannot be ended from inside."""
    with open_trace(_A) as (recorded, batches):
        recorded.facts.update(verdict="HANG", explanation=["</script>", "the knot: a-1 -> [b] -> c -> [b]"])
        data = PageData(recorded, batches).as_dict()
    assert (data["chain"], data["chain_loops"]) == (["a-1", "[b]", "c"], 1)
    assert page_html(data, name="x").count("</script>") == 2


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a recorded run."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(_page(_A)[0])
    return path


@pytest.mark.slow
def test_a_browser_draws_it(tmp_path: Path, profile_of: Callable[[Path], Any], browser: Any) -> None:
    """Chromium runs a page of two traces without a word on its console; its table shows the figures of --json."""
    a, b = profile_of(_A), profile_of(_B)
    page, _ = _page(_A, other=b, difference=compare_profiles(a, b, names=("a", "b")))
    (tmp_path / "report.html").write_text(page)
    browser.open(tmp_path / "report.html")
    figures = dict(browser.ask(_FIGURES))
    assert list(figures) == list(a.latency_us)
    for kind, row in a.latency_us.items():
        told = {name: float(value) for name, (value, _) in figures[kind].items()}
        assert told == msgspec.to_builtins(row)
        assert figures[kind]["count"][1] == f"{row.count:,}"
    assert figures["direct_reclaim"]["max"][1] == "18.8 ms"
    assert browser.ask("document.querySelectorAll('#stalls .point').length") == 140
    assert browser.ask("document.querySelectorAll('#difference circle').length") > 0
    assert browser.console() == []


@pytest.mark.slow
def test_a_stall_is_chosen_by_keys_and_by_a_click(report: Path, browser: Any) -> None:
    """Tab stops once at the stalls; arrows go by time and by length, End to the last; a click shows another's path."""
    browser.open(report)
    stops: list[str] = []
    while "flame" not in stops and len(stops) < 30:
        browser.press("Tab")
        stops.append(browser.ask("document.activeElement.closest('section, nav, body').id"))
    assert stops[-2:] == ["stalls", "flame"]
    assert stops.count("stalls") == 1
    browser.ask("document.querySelector('#stalls .point[tabindex=\"0\"]').focus()")
    assert browser.ask(_CHOSEN) == "18.8 ms, direct reclaim of hog-152"
    browser.press("ArrowUp")
    assert browser.ask(_FOCUS).startswith("hog-152, ")
    shortest = browser.ask(_CHOSEN)
    browser.press("ArrowLeft", "End", "Enter", " ")
    assert browser.ask("document.activeElement === [...document.querySelectorAll('#stalls .point')].at(-1)")
    assert browser.ask(_CHOSEN) not in (shortest, "18.8 ms, direct reclaim of hog-152")
    browser.press("Home", "ArrowLeft")
    assert browser.ask("document.activeElement === [...document.querySelectorAll('#stalls .point')].at(-1)")
    browser.click("#stalls .point:nth-of-type(2)")
    chosen = browser.ask("document.querySelector('#stalls .point.on').getAttribute('aria-label')")
    assert chosen == browser.ask("document.querySelector('#stalls .point:nth-of-type(2)').getAttribute('aria-label')")
    assert browser.ask(_CHOSEN).startswith(chosen.partition(", ")[2].partition(" at ")[0])
    shares = browser.ask(
        "[...document.querySelectorAll('#stalls .path .bar')].map((bar) => parseFloat(bar.style.width))"
    )
    assert abs(sum(shares) - 100) < 0.5
    assert browser.ask("document.querySelectorAll('#stalls [aria-pressed=true]').length") == 1
    assert browser.console() == []


@pytest.mark.slow
def test_the_flames_are_walked_by_keys(report: Path, browser: Any) -> None:
    """Down goes to what a wait is made of, up back; what has the focus says what it is."""
    browser.open(report)
    browser.ask("document.querySelector('#flame g[tabindex=\"0\"]').focus()")
    assert browser.ask(_FOCUS).startswith("all waits: ")
    assert browser.ask("getComputedStyle(document.getElementById('tip')).display") == "block"
    browser.press("ArrowDown")
    assert browser.ask(_FOCUS).startswith("hog-152: ")
    assert browser.ask("document.getElementById('tip').textContent") == browser.ask(_FOCUS)
    browser.press("ArrowUp", "ArrowUp")
    assert browser.ask(_FOCUS).startswith("all waits: ")


@pytest.mark.slow
def test_it_prints_and_fits(report: Path, browser: Any) -> None:
    """A narrow window is no wider than itself; on paper, white whatever the screen's scheme, no figure is cut off."""
    for width in (400, 1200):
        browser.open(report, width=width)
        for scheme in ("light", "dark"):
            browser.show(scheme=scheme)
            assert browser.ask("document.documentElement.scrollWidth") <= width
            assert browser.ask(_STICKS_OUT) == []
            ground = browser.ask("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    # A4 less its margins, in pixels
    browser.open(report, width=703)
    browser.show(media="print", scheme="dark")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    right = "[...document.querySelectorAll('table')].map((table) => table.getBoundingClientRect().right)"
    assert max(browser.ask(right)) <= 703
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.show()
    paper = browser.printed()
    assert paper.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 4
    assert browser.console() == []


@pytest.mark.slow
def test_letters_have_their_size_in_a_window_of_any_width(tmp_path: Path, browser: Any, profile_of: Any) -> None:
    """From a telephone to a wide screen labels are read and do not cover each other, also when the width changes."""
    difference = compare_profiles(profile_of(_A), profile_of(_B), names=("a", "b"))
    with open_trace(_A) as (recorded, batches):
        recorded.facts["explanation"] = [f"the knot: hog-1 -> [{'a pool with a long name ' * 5}] -> kswapd0-2 -> hog-1"]
        data = PageData(recorded, batches).as_dict(other=profile_of(_B), difference=difference)
    (tmp_path / "report.html").write_text(page_html(data, name="x"))
    seen = set()
    for width, loaded in ((1600, True), (900, False), (801, True), (500, False), (360, False), (360, True)):
        if loaded:
            browser.open(tmp_path / "report.html", width=width)
        else:
            browser.resize(width)
        letters = browser.ask(_LETTERS)
        assert min(letter["size"] for letter in letters) >= 10
        assert max(letter["size"] for letter in letters) <= 12
        assert [letter for letter in letters if not letter["inside"]] == []
        assert _touching(letters) == []
        seen |= {letter["picture"].split(":")[0] for letter in letters}
    assert seen >= {"wait-for chain", "flame graph of waiting", "ratios of quantiles with their intervals"}
    assert browser.console() == []


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
