"""The command line: a verb reads its arguments, calls one function of a floor below, prints, chooses an exit code."""

from netvm.cli.app import main

__all__ = ["main"]
