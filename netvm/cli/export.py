"""``netvm export``: a trace in another format.

Write TRACE as FILE, in the format that the suffix of FILE names: .nvt netvm's own, .txt ftrace text, .pftrace Perfetto,
.dat trace-cmd and KernelShark, .folded stacks for flame graphs, .arrow or .parquet for notebooks.

What of TRACE could not be read is said on standard error; the rest is written, and the exit code is 0.
"""

import argparse
from pathlib import Path

from netvm.cli.output import complain
from netvm.user_file import check_not_read

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("trace", metavar="TRACE", type=Path, help="the trace to read")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the file to write")


def call(arguments: argparse.Namespace) -> int:
    """Write the file."""
    from netvm.report.export import export

    check_not_read(arguments.output, arguments.trace)
    told = export(arguments.trace, arguments.output).told()
    if told:
        complain(f"{arguments.trace}: {told}")
    return 0
