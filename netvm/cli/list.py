"""``netvm list``: the shipped scenarios.

List the shipped scenarios: name, exhibit, arm, kernel preset, the verdict that is expected, and the source that
documents it. Any name, or the folder part of it, can be given to `netvm run`.
"""

import argparse

from netvm.cli.output import emit
from netvm.scenario.catalog import Entry, entries

__all__ = ["add_arguments", "call"]

_SOURCE_CHARS = 70


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--json", action="store_true", help="print a list of objects")


def call(arguments: argparse.Namespace) -> int:
    """Print the catalogue."""
    catalogue = entries()
    emit(_json(catalogue) if arguments.json else _table(catalogue))
    return 0


def _json(catalogue: list[Entry]) -> str:
    import json

    objects = [
        {
            "name": entry.name,
            "exhibit": entry.exhibit,
            "arm": entry.arm,
            "kernel": entry.kernel,
            "expected": list(entry.expect),
            "title": entry.title,
            "source": entry.source,
        }
        for entry in catalogue
    ]
    return json.dumps(objects, indent=2, ensure_ascii=False)


def _table(catalogue: list[Entry]) -> str:
    rows = [("NAME", "EXHIBIT", "ARM", "KERNEL", "EXPECTED", "SOURCE")]
    rows += [
        (
            entry.name,
            entry.exhibit or "-",
            entry.arm or "-",
            entry.kernel,
            " ".join(entry.expect[:1]),
            _short(entry.source),
        )
        for entry in catalogue
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def _short(source: str) -> str:
    """Return as much of a source as one line of a terminal has room for; --json has all of it."""
    return source if len(source) <= _SOURCE_CHARS else source[: _SOURCE_CHARS - 1].rstrip() + "\u2026"
