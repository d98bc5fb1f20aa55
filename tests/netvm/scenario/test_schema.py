"""Schema: every key is documented, and a scenario needs no more than storage and one workload."""

import ast
import inspect
import re
from pathlib import Path

import msgspec
import pytest

import netvm
from netvm.scenario import schema, schema_storage


def test_every_key_is_documented() -> None:
    """Each field of each table has a string under it that says what it means."""
    undocumented = []
    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
                told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                if isinstance(field, ast.AnnAssign) and not told:
                    undocumented.append(f"{node.name}.{ast.unparse(field.target)}")
    assert undocumented == []


def test_every_key_is_read() -> None:
    """Somebody outside the schema asks for each: a key that changes nothing would be a lie."""
    top = Path(netvm.__file__).parent.parent
    rooms = [path for room in ("netvm", "storage_backends") for path in (top / room).rglob("*.py")]
    read = {
        word
        for path in rooms
        if not path.name.startswith("schema") and path.parent.name != "testing"
        for word in re.findall(r"(?<=[.\"])[a-z_0-9]+", path.read_text(encoding="utf-8"))
    }
    tables = [table for room in (schema, schema_storage) for table in vars(room).values() if inspect.isclass(table)]
    keys = {
        f"{table.__name__}.{field}"
        for table in tables
        if issubclass(table, msgspec.Struct)
        for field in table.__struct_fields__
        if field not in read
    }
    assert keys == set()


def test_exports_every_table() -> None:
    """All public structs of the schema are named in ``__all__``."""
    tables = {
        name for name, value in vars(schema).items() if inspect.isclass(value) and issubclass(value, msgspec.Struct)
    }
    assert {name for name in tables if not name.startswith("_")} <= set(schema.__all__)


def test_defaults_are_the_recorded_machine() -> None:
    """What a file leaves out is the kernel's default, or the recorded machine's."""
    scenario = msgspec.convert(
        {"storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 1}]}, schema.Scenario
    )
    assert scenario.expect == ["COMPLETED"]
    assert scenario.kernel.preset == "6.1"
    assert (scenario.vm.swappiness, scenario.vm.page_cluster, scenario.vm.watermark_boost_factor) == (60, 3, 15000)
    assert (scenario.storage.queue_depth, scenario.storage.max_sectors_kb) == (128, 128)


def test_tables_are_immutable_and_strict() -> None:
    """No key can be assigned, and none can be invented."""
    with pytest.raises(AttributeError):
        schema.Run().seed = 1  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"sead": 1}, schema.Run)


def test_page_cluster_has_its_sysctl_name() -> None:
    """The one sysctl with a dash keeps it in files."""
    assert msgspec.to_builtins(schema.Vm())["page-cluster"] == 3
