"""The museum on paper: the table, one exhibit told, and the page that can be read back."""

from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.report.museum import (
    BEGIN,
    END,
    Result,
    exhibit_text,
    matrix_text,
    museum_part,
    part_replaced,
    results_in,
    results_of,
)
from netvm.scenario.catalog import entries, find
from netvm.scenario.load import load_scenario
from netvm.scenario.matrix import Cell, jobs_of, run_matrix
from netvm.scenario.outcome import Outcome

_PAGE = Path(__file__).parents[3] / "docs" / "museum.md"


def _cell(name: str, verdict: str, *, arm: str, kernel: str = "6.1", knot: str = "") -> Cell:
    return Cell(
        name=name,
        exhibit="R1",
        arm=arm,  # type: ignore[arg-type]  # one of the arms
        kernel=kernel,
        own=True,
        verdict=verdict,  # type: ignore[arg-type]  # one of the verdicts
        expected=["COMPLETED" if arm == "fixed" else "HANG"],
        audit=[],
        virtual_seconds=1.0,
        explanation=[f"the knot: {knot}"] if knot else [],
    )


_CELLS = [
    _cell("R1/nbd-broken", "HANG", arm="broken", knot="hog-14 -> [bio] -> nbd0: WRITE of 10 pages at slot 6614, sent"),
    _cell("R1/nbd-fixed", "HANG", arm="fixed"),
    _cell("R4/nbd-broken", "HANG", arm="broken"),
]


def test_the_table_has_a_row_a_pair() -> None:
    """Broken, fixed and cure stand side by side; what surprises is marked, what is not there is a dash."""
    assert matrix_text(_CELLS).splitlines() == [
        "EXHIBIT  KERNEL  BROKEN  FIXED   CURE",
        "R1/nbd   6.1     HANG    HANG !  -",
        "R4/nbd   6.1     HANG    -       -",
    ]


def test_the_table_in_markdown() -> None:
    """The same rows in Markdown."""
    assert matrix_text(_CELLS[:2], markdown=True).splitlines() == [
        "| exhibit | kernel | broken | fixed | cure |",
        "|---|---|---|---|---|",
        "| R1/nbd | 6.1 | HANG | HANG ! | - |",
    ]


def test_an_exhibit_is_told() -> None:
    """Mechanism, source, fix with its entry in the table of fixes, and the broken run's explanation."""
    (named,) = find("R1/nbd-broken")
    outcome = Outcome(
        scenario="R1/nbd-broken",
        kernel="6.1",
        seed=0,
        version="1",
        verdict="HANG",
        expected=["HANG"],
        virtual_seconds=1.0,
        explanation=["the knot: a -> [b] -> a"],
    )
    lines = exhibit_text(named.name, load_scenario(named.path), outcome).splitlines()
    assert lines[0] == "R1/nbd-broken: swap over NBD without priority sockets"
    assert "source (2012)" in lines
    assert any(line.startswith("  memalloc_sockets (2012, Linux 3.6): storage sockets carry") for line in lines)
    assert lines[-2:] == ["this run, under 6.1: HANG (as expected)", "  the knot: a -> [b] -> a"]
    assert max(map(len, lines)) <= 102


def test_a_page_is_read_back() -> None:
    """Verdicts and knots of a page are what it was made with, but for which request it was."""
    results = results_of(_CELLS)
    assert results["R1/nbd-broken"] == Result("HANG", "hog-14 -> [bio] -> nbd0: WRITE, sent")
    part = museum_part(find("R1/nbd-broken"), results)
    assert results_in(part) == {"R1/nbd-broken": results["R1/nbd-broken"]}
    assert "| `R1/nbd-broken` | 6.1 | HANG | `hog-14 -> [bio] -> nbd0: WRITE, sent` |" in part


def test_what_is_written_by_hand_stays() -> None:
    """Only what stands between the marks is replaced; a page without marks is told so."""
    assert part_replaced(f"a\n{BEGIN}\nold\n{END}\nz\n", f"{BEGIN}\nnew\n{END}") == f"a\n{BEGIN}\nnew\n{END}\nz\n"
    with pytest.raises(UsageError, match="no part to replace"):
        part_replaced("a\n", "b")


def test_the_page_is_that_of_the_scenario_files() -> None:
    """docs/museum.md made again from the files and its own verdicts is the same: no file has changed since."""
    page = _PAGE.read_text(encoding="utf-8")
    files = [find(entry.name)[0] for entry in entries() if entry.exhibit]
    stale = "stale: renew it with `netvm matrix --update docs/museum.md`"
    assert part_replaced(page, museum_part(files, results_in(page))) == page, stale


def test_the_page_shows_what_is_expected() -> None:
    """Each verdict in docs/museum.md is one that its file expects."""
    results = results_in(_PAGE.read_text(encoding="utf-8"))
    assert [e.name for e in entries() if e.exhibit and results[e.name].verdict not in (*e.expect, "none")] == []


@pytest.mark.slow
def test_the_page_is_that_of_the_runs() -> None:
    """Every arm comes to what its file says, its books balance, and docs/museum.md made from these runs is the same."""
    page = _PAGE.read_text(encoding="utf-8")
    files = [find(entry.name)[0] for entry in entries() if entry.exhibit]
    cells = dict(run_matrix(jobs_of(files), nr_processes=2))
    strange = [(c.name, c.verdict, c.expected, c.audit) for c in cells.values() if not c.as_expected]
    assert strange == []
    assert all(c.knot for c in cells.values() if c.verdict == "HANG")
    part = museum_part(files, results_of([cells[place] for place in sorted(cells)]))
    assert part_replaced(page, part) == page, "stale: renew it with `netvm matrix --update docs/museum.md`"
