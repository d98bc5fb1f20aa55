"""``netvm schema``: the JSON Schema on standard output or in a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netvm.scenario.jsonschema import json_schema


def test_prints_the_schema(netvm: Callable[..., Any]) -> None:
    """Standard output is the schema and nothing else."""
    assert json.loads(netvm("schema").out) == json_schema()


def test_writes_the_schema(netvm: Callable[..., Any]) -> None:
    """With ``-o`` it goes to a file, and nothing is printed."""
    assert netvm("schema", "-o", "s.json").out == ""
    assert json.loads(Path("s.json").read_text()) == json_schema()
