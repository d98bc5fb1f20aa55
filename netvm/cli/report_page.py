"""``netvm report``: a page that shows a recording.

Write one self-contained HTML page of TRACE: verdict and explanation, free memory against the watermarks, latency over
time, every stall with its critical path, waiting by cause, pools and rings, who held the reserve. With a second trace
the page compares the two.
"""

import argparse
from pathlib import Path

from netvm.cli.arguments import check_read_once
from netvm.cli.output import emit, save
from netvm.user_file import check_not_read, is_standard_stream

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("trace", metavar="TRACE", type=Path, help="the trace to show")
    parser.add_argument("other", metavar="OTHER", type=Path, nargs="?", help="a trace or profile to hold against it")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("report.html"),
        help="the page (report.html); - is standard output",
    )


def call(arguments: argparse.Namespace) -> int:
    """Read the trace, write the page."""
    from netvm.report.difference import compare_profiles
    from netvm.report.page import PageData, page_html
    from netvm.report.saved import read_profile
    from netvm.report.source import open_trace

    check_read_once("report", arguments.trace, arguments.other)
    check_not_read(arguments.output, arguments.trace, arguments.other)
    other = None if arguments.other is None else read_profile(arguments.other)
    with open_trace(arguments.trace) as (recorded, batches):
        data = PageData(recorded, batches)
    difference = None
    if other is not None:
        difference = compare_profiles(data.profile, other, names=(str(arguments.trace), str(arguments.other)))
    page = page_html(data.as_dict(other=other, difference=difference), name=arguments.trace.name)
    save(page, arguments.output)
    if not is_standard_stream(arguments.output):
        emit(f"{arguments.output}: {len(page.encode()) / 1000:.0f} kB")
    return 0
