"""``netvm profile``: who waited, for what, how long.

Read a trace of a real machine or of an emulated run and print its latencies by task and cause, who reclaimed what for
whom, pressure, and the worst waits with where their time went. Reads ftrace text (also what `trace-cmd report` prints)
and perf script text, plain or packed with gzip or zstd, netvm's own recordings, and `-` for standard input.

With --events every direct reclaim is a line with drsnoop's columns, or of CSV.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from netvm.cli.output import emit
from netvm.errors import UsageError

if TYPE_CHECKING:
    from netvm.report.waits import Span

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("trace", metavar="TRACE", type=Path, help="the trace to read")
    parser.add_argument("--json", action="store_true", help="print the profile as one JSON object")
    parser.add_argument("--csv", action="store_true", help="print every latency as a line of CSV")
    parser.add_argument("--events", action="store_true", help="print every direct reclaim: COMM PID LAT(ms) PAGES")


def call(arguments: argparse.Namespace) -> int:
    """Read the trace, print its profile."""
    from netvm.report.profile_text import profile_csv, profile_text
    from netvm.report.saved import read_profile

    if arguments.json and (arguments.csv or arguments.events):
        raise UsageError(f"profile: --json and {'--csv' if arguments.csv else '--events'} exclude each other")
    if arguments.events:
        _events(arguments)
        return 0
    profile = read_profile(arguments.trace)
    if arguments.json:
        import msgspec

        emit(msgspec.json.encode(profile).decode())
    elif arguments.csv:
        emit(profile_csv(profile).rstrip("\n"))
    else:
        emit(profile_text(profile, name=str(arguments.trace)))
    return 0


def _events(arguments: argparse.Namespace) -> None:
    """Print direct reclaims as they end, in drsnoop's columns, or as CSV with their time."""
    from netvm.report.profile import Profiler
    from netvm.report.source import open_trace

    emit("time_s,comm,pid,lat_ms,pages" if arguments.csv else f"{'COMM':14} {'PID':6} {'LAT(ms)':>8} {'PAGES':>5}")
    with open_trace(arguments.trace) as (recorded, batches):

        def show(span: "Span") -> None:
            if span.kind != "direct_reclaim":
                return
            comm, pid = recorded.tasks[span.task]
            lat_ms = span.duration_ns / 1e6
            if arguments.csv:
                emit(f"{span.end_ns / 1e9:.6f},{comm},{pid},{lat_ms:.3f},{span.nr_reclaimed}")
            else:
                emit(f"{comm[:14]:14} {pid:<6} {lat_ms:8.2f} {span.nr_reclaimed:5}")

        profiler = Profiler(recorded, on_span=show)
        for batch in batches:
            profiler.add(batch)
