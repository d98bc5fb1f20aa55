"""How soon each strategy finds what is broken: the first table of ``docs/finding-power.md``.

Schedules until the first failure, for each exhibit and each strategy that draws, once a seed; the enumerating ones need
no seed. Every cell that has been measured is a line of ``--cells``, so that the table can be interrupted and gone on
with (of two lines for one cell the later counts), and says of which state of the model it is: the last commit that
changed the model or the exhibits. ``--update PAGE`` renews the table in a page. A seed that found nothing within the
exhibit's cap is told as that.
"""

import argparse
import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench_explore import SMALL_A2, subject_of

from netvm.explore.sampling import SAMPLED, measure, sample
from netvm.explore.search import Budget, check
from netvm.explore.subject import Subject

__all__ = ["EXHIBITS", "Exhibit", "part_replaced", "show", "table"]

NR_SEEDS = 20
_ENUMERATED = ("delay", "exhaustive")
_BEGIN, _END = "<!-- made by `{}`: begin -->", "<!-- made by `{}`: end -->"
_MODEL = (
    "scenarios",
    "storage_backends",
    "netvm",
    ":!netvm/cli",
    ":!netvm/explore",
    ":!netvm/report",
    ":!netvm/testing",
)
_MADE_BY = "benchmarks/finding_power.py --update docs/finding-power.md"


class Exhibit(NamedTuple):
    """One row."""

    title: str
    name: str
    overrides: tuple[str, ...] = ()
    cap: int = 10
    """Schedules of one seed at most."""


_RESERVE_8 = ("abstract.frames=8", "run.max_steps=400")
_RESERVE_12 = ("abstract.frames=12", "abstract.reserve=5", "abstract.writebacks=3", "abstract.bystanders=2")
EXHIBITS = (
    Exhibit("abstract, R = 2, W = 2, drop", "abstract/reserve", (*_RESERVE_8, "abstract.reserve=2"), 100),
    Exhibit(
        "abstract, R = 3, W = 2, B = 1, parked",
        "abstract/reserve",
        (*_RESERVE_8, "abstract.reserve=3", "abstract.drop=false"),
        100,
    ),
    Exhibit(
        "abstract, N = 12, R = 5, W = 3, B = 2, parked",
        "abstract/reserve",
        (*_RESERVE_12, "abstract.drop=false", "run.max_steps=400"),
        100,
    ),
    Exhibit("A2/nbd-broken, small", "A2/nbd-broken", SMALL_A2),
    Exhibit("A2/iscsi-broken, small", "A2/iscsi-broken", SMALL_A2),
    *(Exhibit(name, name) for name in ("A2/nbd-broken", "A2/iscsi-broken", "A4/nbd-broken", "A4/iscsi-broken")),
    *(Exhibit(name, name) for name in ("A13/nbd-broken", "A13/iscsi-broken", "C1/loop-broken", "R1/iscsi-broken")),
    Exhibit("R1/nbd-broken, two seconds", "R1/nbd-broken", ("vm.hung_task_timeout_secs=2",)),
    Exhibit("R2/nbd-broken", "R2/nbd-broken", cap=5),
    *(Exhibit(name, name) for name in ("R3/nbd-broken", "R3/iscsi-broken", "R4/nbd-broken", "R4/iscsi-broken")),
    *(Exhibit(name, name) for name in ("R5/writer-broken", "R6/swap-broken", "tiny/nbd-broken")),
    *(Exhibit(name, name) for name in ("A5/fragments-broken", "A6/nbd-broken")),
    Exhibit("A9/nfs-broken", "A9/nfs-broken"),
    *(Exhibit(name, name) for name in ("B1/commit-broken", "B1/mempool-broken", "B2/transport-broken")),
    *(Exhibit(name, name) for name in ("B5/growth-broken", "B5/nfsd-broken")),
    *(Exhibit(f"B6/{arm}-broken", f"B6/{arm}-broken") for arm in ("release", "relapse")),
    *(Exhibit(f"B8/{arm}-broken", f"B8/{arm}-broken") for arm in ("unstable", "nofs")),
    *(Exhibit(name, name) for name in ("C2/double-broken", "C3/fuse-broken", "C3/group-broken")),
    *(Exhibit(name, name) for name in ("C4/strict-broken", "C4/flush-broken", "C5/crypt-broken", "F1/lock-broken")),
    Exhibit("A12/ring-broken", "A12/ring-broken"),
    Exhibit("C6/wbt-broken", "C6/wbt-broken"),
    *(Exhibit(name, name) for name in ("B4/drain-broken", "B4/thread-broken", "A10/dma32-broken")),
    *(Exhibit(name, name) for name in ("E1/disk-broken", "E1/nbd-broken", "E3/nbd-broken")),
)


class Cell(NamedTuple):
    """What one search came to."""

    exhibit: str
    strategy: str
    seed: int
    first_failure_at: int | None
    schedules: int
    states: int | None = None
    model: str = ""
    """The commit whose model and exhibits were measured; empty if that was not kept."""


def cells_of(path: Path) -> list[Cell]:
    """Return the cells measured so far, each as it was measured last."""
    if not path.exists():
        return []
    cells = [Cell(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({(cell.exhibit, cell.strategy, cell.seed): cell for cell in cells}.values())


def model_state() -> str:
    """Return the last commit that changed the model or the exhibits; empty outside of a checkout."""
    root = Path(__file__).parents[1]
    command = ["git", "-C", str(root), "log", "-1", "--format=%h", "--", *_MODEL]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def missing(cells: Sequence[Cell], nr_seeds: int) -> Iterator[tuple[Exhibit, str, int]]:
    """Generate what is still to be measured: all exhibits with one seed, then with the next."""
    done = {(cell.exhibit, cell.strategy, cell.seed) for cell in cells}
    for seed in range(nr_seeds):
        for exhibit in EXHIBITS:
            for strategy in (*SAMPLED, *_ENUMERATED):
                if _is_for(exhibit, strategy, seed) and (exhibit.title, strategy, seed) not in done:
                    yield exhibit, strategy, seed


def _is_for(exhibit: Exhibit, strategy: str, seed: int) -> bool:
    """Whether there is such a cell: an enumeration has one, that of states if the machine's states are known."""
    if strategy in SAMPLED:
        return seed < NR_SEEDS
    return seed == 0 and (strategy != "exhaustive" or exhibit.name == "abstract/reserve")


def search(exhibit: Exhibit, strategy: str, seed: int, sizes: dict[str, tuple[int, int]]) -> Cell:
    """Measure one cell; what PCT measures first is the same for every seed."""
    subject = subject_of(exhibit.name, *exhibit.overrides)
    model = model_state()
    if strategy in _ENUMERATED:
        return _enumerated(exhibit, subject, strategy)._replace(model=model)
    if strategy == "pct" and exhibit.title not in sizes:
        sizes[exhibit.title] = measure(subject)
    budget = Budget(exhibit.cap)
    result = sample(
        subject, strategy, seed, budget.is_spent, nr_schedules=exhibit.cap, size=sizes.get(exhibit.title, (1, 1))
    )
    return Cell(exhibit.title, strategy, seed, result.first_failure_at, result.schedules, model=model)


def _enumerated(exhibit: Exhibit, subject: Subject, strategy: str) -> Cell:
    if strategy == "exhaustive":
        subject = subject_of(exhibit.name, *exhibit.overrides, "run.max_steps=2000")
        result = check(subject, strategy=strategy, budget=Budget())
    else:
        result = check(subject, strategy=strategy, budget=Budget(exhibit.cap), confirm=False)
    return Cell(exhibit.title, strategy, 0, result.first_failure_at, result.schedules, result.states)


def table(cells: Sequence[Cell]) -> list[str]:
    """Return the lines of the table."""
    columns = (*SAMPLED, *_ENUMERATED)
    lines = [f"| exhibit | {' | '.join(columns)} | cap |", "|---" * (len(columns) + 2) + "|"]
    for exhibit in EXHIBITS:
        row = [
            _cell(exhibit, [cell for cell in cells if (cell.exhibit, cell.strategy) == (exhibit.title, strategy)])
            for strategy in columns
        ]
        lines.append(f"| {exhibit.title} | {' | '.join(row)} | {exhibit.cap} |")
    return [*lines, "", _measured_at(cells)]


def _measured_at(cells: Sequence[Cell]) -> str:
    """Return which states of the model the cells are of, the one with most cells first."""
    counts = Counter(cell.model for cell in cells).most_common()
    told = [f"{nr} of commit `{model}`" if model else f"{nr} of states that were not kept" for model, nr in counts]
    return f"Cells by the model they were measured with: {', '.join(told)}."


def _cell(exhibit: Exhibit, cells: Sequence[Cell]) -> str:
    if not cells:
        return "-"
    found = sorted(cell.first_failure_at or float("inf") for cell in cells)
    nr_found = sum(at < float("inf") for at in found)
    if cells[0].strategy in _ENUMERATED:
        states = f" ({cells[0].states} states)" if cells[0].states is not None and found[0] > 1 else ""
        return f"{found[0]}{states}" if nr_found else f"> {cells[0].schedules}"
    middle = median(found)
    told = f"{middle:g}" if middle < float("inf") else f"> {exhibit.cap}"
    spread = "" if found[0] == found[-1] else f" ({found[0]} to {found[-1] if nr_found == len(found) else 'cap'})"
    share = "" if nr_found == len(found) else f"; {nr_found} of {len(found)} found it"
    few = "" if len(found) >= NR_SEEDS else f" [{len(found)} seeds]"
    return told + spread + share + few


def part_replaced(page: str, lines: Sequence[str], made_by: str) -> str:
    """Return a page with the part between a script's marks renewed."""
    begin, end = _BEGIN.format(made_by), _END.format(made_by)
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    assert found, f"the page has no line {begin}"
    assert ended, f"the page has no line {end}"
    return "\n".join([before + begin, *lines, end]) + after


def show(lines: Sequence[str], page: Path | None, made_by: str) -> None:
    """Print a table, or renew it in the page where it stands."""
    if page is None:
        print("\n".join(lines))
        return
    page.write_text(part_replaced(page.read_text(encoding="utf-8"), lines, made_by), encoding="utf-8")


def main() -> None:
    """Measure what is missing and print or renew the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=NR_SEEDS, help="seeds a cell (0: only print what is there)")
    parser.add_argument("--cells", type=Path, default=Path("finding-power.jsonl"), help="what has been measured so far")
    parser.add_argument("--update", metavar="PAGE", type=Path, help="renew the table in this page")
    arguments = parser.parse_args()
    sizes: dict[str, tuple[int, int]] = {}
    for exhibit, strategy, seed in list(missing(cells_of(arguments.cells), arguments.seeds)):
        cell = search(exhibit, strategy, seed, sizes)
        with arguments.cells.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell._asdict()) + "\n")
    show(table(cells_of(arguments.cells)), arguments.update, _MADE_BY)


if __name__ == "__main__":
    main()
