"""``netvm capture``: record this machine.

Record reclaim on this Linux host for a while: vmscan's tracepoints through tracefs (in an instance of its own, removed
afterwards, also if this program is killed), /proc/vmstat, zoneinfo, pressure, netstat's PFMemallocDrop, and the
sysctls. What there are no rights for is said; the rest is recorded. `netvm profile DIR/ftrace.txt` reads the events,
`netvm import-host DIR` makes a scenario of the machine.
"""

import argparse
import time  # noqa: TID251  # a real machine lives in real time
from pathlib import Path

from netvm.cli.arguments import natural
from netvm.cli.output import emit

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--seconds", metavar="N", type=natural, default=10, help="how long (10); Ctrl-C ends it early")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=Path("netvm-capture"), help="where to (netvm-capture)"
    )


def call(arguments: argparse.Namespace) -> int:
    """Record, and say what was recorded."""
    import signal

    from netvm.report.capture import capture

    # a polite end by SIGTERM is an end by Ctrl-C
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        told = capture(arguments.output, seconds=arguments.seconds, sleep=time.sleep)
    finally:
        signal.signal(signal.SIGTERM, before)
    emit(str(arguments.output))
    for line in told:
        emit(f"  {line}")
    return 0
