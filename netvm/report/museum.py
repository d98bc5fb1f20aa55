"""The museum on paper: the matrix as a table, one exhibit told, and the page ``docs/museum.md``.

The page is made of the scenario files and of a matrix. Its made part stands between two marks, so that what is written
by hand around it stays. A row of the page names its file with a digest, and :func:`results_in` reads verdicts and
knots back from it: the page made again from the files and its own results is the same page, unless a file has changed.
"""

import hashlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from netvm.errors import UsageError
from netvm.fixes import FIXES
from netvm.scenario.catalog import Named
from netvm.scenario.load import load_scenario
from netvm.scenario.matrix import Cell, pair_of
from netvm.scenario.outcome import Outcome
from netvm.scenario.schema import Exhibit, Scenario

__all__ = ["Result", "exhibit_text", "matrix_text", "museum_part", "part_replaced", "results_in", "results_of"]

BEGIN: Final = "<!-- made by `netvm matrix --update docs/museum.md`: begin -->"
END: Final = "<!-- made by `netvm matrix --update docs/museum.md`: end -->"
_HALLS: Final = {
    "R": "Recorded runs",
    "A": "Hall A: the receive path and its reserve",
    "B": "Hall B: NFS, RPC and local servers",
    "C": "Hall C: dirty throttling and stacked devices",
    "D": "Hall D: iSCSI, NBD and user-space helpers",
    "E": "Hall E: mempools and block stacking",
    "F": "Hall F: OOM, workqueues and flags",
}
_WIDTH: Final = 100
_ROW: Final = re.compile(r"^\| `(?P<name>[^`]+)` \|[^|]*\| (?P<verdict>\w+) \|(?P<knot>[^|]*)\|", re.MULTILINE)
_REQUEST: Final = re.compile(r" of \d+ pages at slot \d+")
"""Which request it is does not belong to the mechanism."""


class Result(NamedTuple):
    """What the page keeps of a run."""

    verdict: str
    knot: str


class _Arm(NamedTuple):
    name: str
    digest: str
    scenario: Scenario
    exhibit: Exhibit

    @property
    def pair(self) -> str:
        return pair_of(self.name, self.exhibit.arm)


# -- the matrix -----------------------------------------------------------------------------------------------------


def matrix_text(cells: Sequence[Cell], *, markdown: bool = False) -> str:
    """Return a table with a row for each pair and kernel; a verdict that is not as expected has a ``!``."""
    rows: list[tuple[str, ...]] = [("EXHIBIT", "KERNEL", "BROKEN", "FIXED", "CURE")]
    table: dict[tuple[str, str], dict[str, list[str]]] = {}
    pairs = list(dict.fromkeys(pair_of(cell.name, cell.arm) for cell in cells))
    for cell in sorted(cells, key=lambda cell: pairs.index(pair_of(cell.name, cell.arm))):
        row = table.setdefault((pair_of(cell.name, cell.arm), cell.kernel), {})
        row.setdefault(cell.arm, []).append(_cell_text(cell))
    for (pair, kernel), row in table.items():
        rows.append((pair, kernel, *(" ".join(row.get(arm, ["-"])) for arm in ("broken", "fixed", "cure"))))
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0].lower(), "|" + "---|" * len(rows[0]), *lines[1:]])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cell_text(cell: Cell) -> str:
    return (cell.verdict or "no verdict") + ("" if cell.as_expected else " !")


# -- one exhibit ----------------------------------------------------------------------------------------------------


def exhibit_text(name: str, scenario: Scenario, outcome: Outcome) -> str:
    """Return an exhibit told on a terminal: mechanism, source, fix, and its own broken run."""
    exhibit = scenario.exhibit
    assert exhibit is not None
    verdict = outcome.verdict or "no verdict"
    told = "as expected" if outcome.as_expected else f"expected was {' or '.join(outcome.expected)}"
    lines = [f"{name}: {exhibit.title}", "", *_paragraph("mechanism", exhibit.mechanism)]
    lines += _paragraph(f"source ({exhibit.year})" if exhibit.year else "source", exhibit.source)
    lines += _paragraph("fix", _fix_text(exhibit.fix))
    lines += [f"this run, under {scenario.kernel.preset}: {verdict} ({told})"]
    lines += [f"  {line}" for line in outcome.explanation]
    return "\n".join(lines)


def _paragraph(head: str, text: str) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [head, *(f"  {line}" for line in lines), ""]


def _fix_text(name: str) -> str:
    fix = FIXES.get(name)
    if fix is None:
        return f"no switch of a kernel: the arms differ by {name}" if name else "none: the arms are what they say"
    merged = f"Linux {fix.version}" if fix.version is not None else "never merged"
    return f"{name} ({fix.year}, {merged}): {fix.summary}. {fix.source}"


# -- the page -------------------------------------------------------------------------------------------------------


def results_of(cells: Sequence[Cell]) -> dict[str, Result]:
    """Return what the page keeps of a matrix of arms under their own kernels."""
    return {
        cell.name: Result(cell.verdict or "none", _REQUEST.sub("", cell.knot).replace("|", "/"))
        for cell in cells
        if cell.own
    }


def results_in(page: str) -> dict[str, Result]:
    """Return the results that stand in a page."""
    return {match["name"]: Result(match["verdict"], match["knot"].strip().strip("`")) for match in _ROW.finditer(page)}


def museum_part(files: Sequence[Named], results: Mapping[str, Result]) -> str:
    """Return the made part of the page, its marks included: the exhibits among ``files``, hall by hall.

    An arm without a result has an empty row. Raises UsageError for a file that is no scenario.
    """
    arms = [arm for named in files for arm in _arms(named)]
    halls = list(_HALLS)
    arms.sort(key=lambda arm: (halls.index(arm.exhibit.id[0]), int(arm.exhibit.id[1:])))
    lines = [BEGIN]
    for hall, inside in groupby(arms, key=lambda arm: arm.exhibit.id[0]):
        lines += ["", f"## {_HALLS[hall]}"]
        for pair, both in groupby(inside, key=lambda arm: arm.pair):
            lines += ["", *_pair_lines(pair, list(both), results)]
    return "\n".join([*lines, "", END])


def part_replaced(page: str, part: str) -> str:
    """Return ``page`` with its made part replaced. Raises UsageError if its marks are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"the page has no part to replace; must have the lines {BEGIN} and {END}")
    return before + part + after


def _arms(named: Named) -> Iterator[_Arm]:
    scenario = load_scenario(named.path)
    if scenario.exhibit is not None:
        digest = hashlib.sha256(named.path.read_bytes()).hexdigest()[:12]
        yield _Arm(named.name, digest, scenario, scenario.exhibit)


def _pair_lines(pair: str, arms: Sequence[_Arm], results: Mapping[str, Result]) -> list[str]:
    first = arms[0].exhibit
    lines = [f"### {pair}: {first.title}", "", " ".join(first.mechanism.split()), ""]
    lines += [f"- *Source* ({first.year}): {' '.join(first.source.split())}", f"- *Fix*: {_fix_text(first.fix)}", ""]
    lines += [
        "| arm | kernel | verdict | knot, or what else tells of it | file |",
        "|---|---|---|---|---|",
    ]
    for arm in arms:
        result = results.get(arm.name, Result("none", ""))
        knot = f"`{result.knot}`" if result.knot else ""
        link = f"[{arm.exhibit.arm}](../scenarios/{arm.name}.toml) {arm.digest}"
        lines.append(f"| `{arm.name}` | {arm.scenario.kernel.preset} | {result.verdict} | {knot} | {link} |")
    return lines
