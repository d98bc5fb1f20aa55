"""``netvm import-host``: a scenario's skeleton of a captured machine.

Write a scenario with the RAM, zones, free pages and sysctls of the host that `netvm capture` recorded into DIR; what
the machine does is left to be written.
"""

import argparse
from pathlib import Path

from netvm.cli.output import save

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory of the capture")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write there, not to standard output (-)")


def call(arguments: argparse.Namespace) -> int:
    """Import the host."""
    from netvm.scenario.captured import import_host

    save(import_host(arguments.directory), arguments.output)
    return 0
