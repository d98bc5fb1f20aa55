"""JSON Schema: valid under its draft, as strict as the loader, and described key by key."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from netvm.fixes import FIXES
from netvm.scenario import schema
from netvm.scenario.catalog import entries, find
from netvm.scenario.imported import import_run
from netvm.scenario.jsonschema import field_strings, json_schema, json_schema_text

_RUNS = Path(__file__).parents[2] / "data" / "runs"


def test_is_valid_under_the_draft_it_names() -> None:
    """The printed text is JSON, and a valid schema of draft 2020-12."""
    printed = json.loads(json_schema_text())
    assert printed == json_schema()
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(printed)


def test_every_key_has_a_description() -> None:
    """The strings under the fields arrive at the editor, plainly written."""
    definitions = json_schema()["$defs"]
    assert definitions["Vm"]["properties"]["page-cluster"]["description"] == (
        "Swap readahead reads 2**page-cluster pages at once."
    )
    missing = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition["properties"].items()
        if "description" not in value and key != "kind"
    ]
    assert missing == []
    assert "``" not in json_schema_text()


def test_switches_are_listed() -> None:
    """Every fix is a key with its summary, and no other key is one."""
    fixes = json_schema()["$defs"]["Kernel"]["properties"]["fixes"]
    assert set(fixes["properties"]) == set(FIXES)
    assert fixes["additionalProperties"] is False


def test_field_strings_are_read_from_the_source() -> None:
    """A string counts if it stands under its field."""
    strings = field_strings(schema)
    assert strings["Run", "seed"] == "Seed of every random stream."
    assert ("Run", "nothing") not in strings


def test_shipped_scenarios_are_valid() -> None:
    """Every scenario of the catalogue obeys the schema."""
    for entry in entries():
        (named,) = find(entry.name)
        jsonschema.validate(tomllib.loads(named.path.read_text()), json_schema())


def test_an_imported_run_is_valid() -> None:
    """A scenario that netvm wrote itself obeys the schema."""
    jsonschema.validate(tomllib.loads(import_run(_RUNS / "S2-knob0-flood")), json_schema())


@pytest.mark.parametrize(
    "extra",
    [
        {"vm": {"swapiness": 1}},
        {"vm": {"swappiness": 300}},
        {"kernel": {"fixes": {"x": True}}},
        {"fault": [{"at_ms": 1}]},
    ],
)
def test_mistakes_are_invalid(extra: dict[str, object]) -> None:
    """What the loader refuses for its type, range or name, the schema refuses too."""
    data = {"storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 1}]}
    jsonschema.validate(data, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | extra, json_schema())
