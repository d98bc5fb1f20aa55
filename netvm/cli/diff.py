"""``netvm diff``: two profiles side by side.

Hold two recordings against each other, before and after or real and emulated: every kind of wait with the ratio of its
quantiles and the interval the ratio can be trusted to, and a plain sentence for each. A and B are traces, or files that
`netvm profile --json` has written.
"""

import argparse
from pathlib import Path

from netvm.cli.arguments import check_read_once
from netvm.cli.output import emit

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("a", metavar="A", type=Path, help="the trace or profile to start from")
    parser.add_argument("b", metavar="B", type=Path, help="the one to hold against it")
    parser.add_argument("--json", action="store_true", help="print the difference as one JSON object")


def call(arguments: argparse.Namespace) -> int:
    """Profile both, print how they differ."""
    from netvm.report.difference import compare_profiles, difference_text
    from netvm.report.saved import read_profile

    check_read_once("diff", arguments.a, arguments.b)
    difference = compare_profiles(
        read_profile(arguments.a), read_profile(arguments.b), names=(str(arguments.a), str(arguments.b))
    )
    if arguments.json:
        import msgspec

        emit(msgspec.json.encode(difference).decode())
    else:
        emit(difference_text(difference))
    return 0
