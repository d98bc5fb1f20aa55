"""``netvm matrix``: every exhibit of the museum under its kernel, or under others, in one table of verdicts.

Run the arms of exhibits side by side: of all, or of the scenarios and folders named. Each runs under the kernel of its
file; with --kernel (may be repeated) under that preset instead, keeping only the switch that makes it this arm: does
the cure still matter there? A `!` marks a verdict that is not as expected. Progress goes to standard error.

Exit code: 0 every verdict is as expected, 1 one is not, 2 usage or scenario error, 130 interrupted (the table has what
there is by then).
"""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from netvm.cli.arguments import natural, one_of
from netvm.cli.output import complain, emit, save
from netvm.errors import UsageError
from netvm.fixes import PRESETS

if TYPE_CHECKING:
    from netvm.scenario.matrix import Cell, Job

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="scenarios or folders; default: the whole museum")
    parser.add_argument(
        "--kernel",
        metavar="PRESET",
        dest="kernels",
        action="append",
        type=one_of(*PRESETS),
        default=[],
        help=f"run under this preset ({', '.join(PRESETS)}); may be repeated",
    )
    parser.add_argument("--jobs", metavar="J", type=natural, default=0, help="processes; default: one a CPU")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object, with the explanation of every run")
    form.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    form.add_argument(
        "--update", metavar="FILE", type=Path, help="renew the rows of these arms in a page like docs/museum.md"
    )


def call(arguments: argparse.Namespace) -> int:
    """Run the cells and print the table."""
    from netvm.report.museum import museum_part, part_replaced, results_in, results_of
    from netvm.scenario.catalog import entries, find
    from netvm.scenario.matrix import jobs_of, run_matrix

    if arguments.update is not None and arguments.kernels:
        raise UsageError("matrix: --update shows every arm under its own kernel; must be given without --kernel")
    museum = [named for entry in entries() if entry.exhibit for named in find(entry.name)]
    named_files = [named for name in arguments.names for named in find(name)] or museum
    files = list({named.name: named for named in named_files}.values())
    jobs = jobs_of(files, list(dict.fromkeys(arguments.kernels)))
    if not jobs:
        raise UsageError("matrix: none of the scenarios named is an exhibit; see `netvm list`")
    page = None if arguments.update is None else _page(arguments.update)
    cells: dict[int, Cell] = {}
    interrupted = False
    try:
        for place, cell in run_matrix(jobs, nr_processes=arguments.jobs or os.cpu_count() or 1):
            cells[place] = cell
            _tell(jobs, cell, len(cells))
    except KeyboardInterrupt:
        interrupted = True
        complain(f"interrupted: {len(cells)} of {len(jobs)} runs have ended")
    in_order = [cells[place] for place in sorted(cells)]
    if page is not None:
        save(part_replaced(page, museum_part(museum, results_in(page) | results_of(in_order))), arguments.update)
    _print(arguments, in_order, complete=not interrupted)
    if interrupted:
        return 130
    return 0 if all(cell.as_expected for cell in in_order) else 1


def _page(path: Path) -> str:
    """Return the page to renew, looked at before anything runs."""
    from netvm.report.museum import part_replaced

    try:
        page = path.read_text(encoding="utf-8")
        part_replaced(page, "")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{path}: cannot be read: {reason}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return page


def _print(arguments: argparse.Namespace, cells: "list[Cell]", *, complete: bool) -> None:
    from netvm.report.museum import matrix_text

    if arguments.json:
        import msgspec

        objects = [msgspec.to_builtins(cell) | {"as_expected": cell.as_expected} for cell in cells]
        emit(msgspec.json.encode({"complete": complete, "cells": objects}).decode())
        return
    emit(matrix_text(cells, markdown=arguments.markdown))


def _tell(jobs: "list[Job]", cell: "Cell", nr: int) -> None:
    """Tell on standard error that a run has ended; a reader who has left is no reason to stop."""
    surprise = "" if cell.as_expected else f", expected was {' or '.join(cell.expected)}"
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{nr}/{len(jobs)} {cell.name} under {cell.kernel}: {cell.verdict}{surprise}\n")
        sys.stderr.flush()
