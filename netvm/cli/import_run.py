"""``netvm import-run``: the scenario of a run recorded on a real machine.

Write the scenario of a recorded run: DIR holds its config.json and, as far as they were saved, zoneinfo_before,
buddyinfo_before, slabinfo_before, sysctl_vm.txt and queue.txt. `netvm run FILE --against DIR` then runs it and prints
both sides.
"""

import argparse
from pathlib import Path

from netvm.cli.output import save

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory of the recorded run")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write there, not to standard output (-)")


def call(arguments: argparse.Namespace) -> int:
    """Import the run."""
    from netvm.scenario.imported import import_run

    save(import_run(arguments.directory), arguments.output)
    return 0
