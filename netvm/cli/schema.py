"""``netvm schema``: the JSON Schema of scenario files.

Print the JSON Schema (draft 2020-12) of scenario files. Editors with a TOML language server complete and check by it;
name it on the first line of a scenario: `#:schema netvm.schema.json`.
"""

import argparse
from pathlib import Path

from netvm.cli.output import save

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write there, not to standard output (-)")


def call(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    from netvm.scenario.jsonschema import json_schema_text

    save(json_schema_text(), arguments.output)
    return 0
