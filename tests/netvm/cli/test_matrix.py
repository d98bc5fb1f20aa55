"""``netvm matrix``: a table, objects, and a page; progress beside them; exit codes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netvm.report.museum import BEGIN, END
from netvm.scenario import matrix as module
from netvm.scenario.matrix import Cell, Job


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Answer each cell at once, with the verdict it expects or the one that a test puts here by name."""
    answers: dict[str, Any] = {}

    def run_matrix(jobs: list[Job], *, nr_processes: int) -> Iterator[tuple[int, Cell]]:
        assert nr_processes > 0
        for place, job in reversed(list(enumerate(jobs))):
            exhibit = job.scenario.exhibit
            assert exhibit is not None
            verdict = answers.get(job.name, job.scenario.expect[0])
            if verdict == "interrupt":
                raise KeyboardInterrupt
            yield (
                place,
                Cell(
                    name=job.name,
                    exhibit=exhibit.id,
                    arm=exhibit.arm,
                    kernel=job.kernel,
                    own=job.own,
                    verdict=verdict,
                    expected=job.scenario.expect,
                    audit=[],
                    virtual_seconds=1.0,
                    explanation=["the knot: a -> [b] -> a"] if verdict == "HANG" else [],
                ),
            )

    monkeypatch.setattr(module, "run_matrix", run_matrix)
    return answers


def test_the_table_is_in_order_and_progress_beside_it(netvm: Callable[..., Any], verdicts: dict[str, Any]) -> None:
    """Cells are printed in the catalogue's order whatever order they end in; each end is told on standard error."""
    called = netvm("matrix", "R2", "R4/nbd-broken", "--jobs", "2")
    assert called.code == 0
    assert called.out.splitlines() == [
        "EXHIBIT  KERNEL  BROKEN  FIXED      CURE",
        "R2/nbd   6.1     HANG    COMPLETED  -",
        "R4/nbd   6.1     HANG    -          -",
    ]
    assert called.err.splitlines()[-1] == "3/3 R2/nbd-broken under 6.1: HANG"


def test_a_surprise_is_exit_1(netvm: Callable[..., Any], verdicts: dict[str, Any]) -> None:
    """A verdict that is not as expected is marked, told, and makes the exit code."""
    verdicts["R2/nbd-fixed"] = "OOM"
    called = netvm("matrix", "R2")
    assert called.code == 1
    assert "OOM !" in called.out
    assert "1/2 R2/nbd-fixed under 6.1: OOM, expected was COMPLETED" in called.err


def test_presets_are_rows(netvm: Callable[..., Any], verdicts: dict[str, Any]) -> None:
    """With --kernel each pair has a row a preset."""
    lines = netvm("matrix", "R2", "--kernel", "3.6", "--kernel", "6.18").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["R2/nbd", "3.6"], ["R2/nbd", "6.18"]]


def test_json(netvm: Callable[..., Any], verdicts: dict[str, Any]) -> None:
    """The same as one object, with the explanations."""
    told = json.loads(netvm("matrix", "R2", "--json").out)
    assert told["complete"]
    assert [(cell["name"], cell["verdict"], cell["as_expected"]) for cell in told["cells"]] == [
        ("R2/nbd-broken", "HANG", True),
        ("R2/nbd-fixed", "COMPLETED", True),
    ]
    assert told["cells"][0]["explanation"] == ["the knot: a -> [b] -> a"]


def test_markdown(netvm: Callable[..., Any], verdicts: dict[str, Any]) -> None:
    """The same in Markdown."""
    assert netvm("matrix", "R2", "--markdown").out.splitlines()[2] == "| R2/nbd | 6.1 | HANG | COMPLETED | - |"


def test_a_page_is_renewed(netvm: Callable[..., Any], verdicts: dict[str, Any]) -> None:
    """--update writes the rows of what ran, keeps those of what did not, and leaves what is written by hand."""
    Path("page.md").write_text(f"by hand\n{BEGIN}\n{END}\nby hand too\n")
    assert netvm("matrix", "R2", "--update", "page.md").code == 0
    assert netvm("matrix", "R4", "--update", "page.md").code == 0
    page = Path("page.md").read_text()
    assert page.startswith("by hand\n")
    assert page.endswith("by hand too\n")
    assert "| `R2/nbd-broken` | 6.1 | HANG | `a -> [b] -> a` |" in page
    assert "| `R4/nbd-fixed` | 6.1 | COMPLETED |" in page
    assert "| `R1/nbd-fixed` | 6.1 | none |" in page


def test_ctrl_c_leaves_what_there_is(netvm: Callable[..., Any], verdicts: dict[str, Any]) -> None:
    """An interrupted matrix prints the cells that are ready."""
    verdicts["R2/nbd-broken"] = "interrupt"
    called = netvm("matrix", "R2")
    assert called.code == 130
    assert called.out.splitlines()[1] == "R2/nbd   6.1     -       COMPLETED  -"
    assert "interrupted: 1 of 2 runs have ended" in called.err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["matrix", "a.toml"], "netvm: matrix: none of the scenarios named is an exhibit; see `netvm list`"),
        (
            ["matrix", "--kernel", "6.1", "--update", "x.md"],
            "netvm: matrix: --update shows every arm under its own kernel; must be given without --kernel",
        ),
        (["matrix", "--update", "x.md"], "netvm: x.md: cannot be read: No such file or directory"),
        (
            ["matrix", "--kernel", "6.2"],
            (
                "netvm: matrix: --kernel: '6.2': must be one of 2.6.11, 3.6, 6.1, 6.18; did you mean 6.1?; "
                "see `netvm matrix --help`"
            ),
        ),
    ],
)
def test_mistakes(netvm: Callable[..., Any], verdicts: dict[str, Any], argv: list[str], line: str) -> None:
    """What a user got wrong is one line and exit 2, before anything runs."""
    called = netvm(*argv)
    assert (called.code, called.err.splitlines()[0]) == (2, line)
