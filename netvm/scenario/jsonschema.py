"""The JSON Schema of a scenario file, for editors that complete and check TOML (``netvm schema``).

It is made from the structs of :mod:`netvm.scenario.schema`, so it cannot fall behind them: msgspec gives the types and
bounds, the strings under the fields give the descriptions (they are no part of a class at run time, so they are read
from the source), and ``[kernel.fixes]`` gets one key for each switch of :mod:`netvm.fixes`.
"""

import ast
import inspect
import json
from types import ModuleType
from typing import Any, Final

import msgspec

from netvm.fixes import FIXES
from netvm.scenario import schema, schema_storage, schema_workload

__all__ = ["field_strings", "json_schema", "json_schema_text"]

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every scenario file obeys."""
    (top,), definitions = msgspec.json.schema_components([schema.Scenario], ref_template="#/$defs/{name}")
    strings = field_strings(schema) | field_strings(schema_storage) | field_strings(schema_workload)
    for name, definition in definitions.items():
        if "description" in definition:
            definition["description"] = _plain(definition["description"])
        for key, property_ in definition.get("properties", {}).items():
            text = strings.get((name, key.replace("-", "_")))
            if text:
                property_["description"] = _plain(text)
    definitions["Kernel"]["properties"]["fixes"] |= _fixes()
    # an abstract machine stands in place of a host
    scenario = definitions["Scenario"]
    scenario["anyOf"] = [{"required": ["abstract"]}, {"required": scenario.pop("required")}]
    return {"$schema": _DRAFT, "title": "netvm scenario", **top, "$defs": definitions}


def json_schema_text() -> str:
    """Return the schema as ``netvm schema`` prints it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False)


def field_strings(module: ModuleType) -> dict[tuple[str, str], str]:
    """Return the string under each field of each class of ``module``, by class and field."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = below.value
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[node.name, field.target.id] = inspect.cleandoc(text.value)
    return found


def _fixes() -> dict[str, Any]:
    switches = {
        fix.name: {"type": "boolean", "description": f"{fix.summary} ({fix.year}; {fix.source})"}
        for fix in FIXES.values()
    }
    return {"properties": switches, "additionalProperties": False}


def _plain(text: str) -> str:
    """Return reStructuredText as the plain text with backquotes that editors show."""
    return " ".join(text.split()).replace("``", "`")
