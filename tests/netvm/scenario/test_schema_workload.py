"""The tables of programs: their tags, their defaults, and their bounds."""

from typing import Any

import msgspec
import pytest

from netvm.scenario.schema_workload import AnonHog, AnonPulse, FileReader, FileWriter, Workload


@pytest.mark.parametrize(
    ("kind", "struct"),
    [("anon-hog", AnonHog), ("anon-pulse", AnonPulse), ("file-writer", FileWriter), ("file-reader", FileReader)],
)
def test_the_kind_chooses_the_table(kind: str, struct: Any) -> None:
    """``kind`` is the tag; ``mib`` alone is enough."""
    table = msgspec.convert({"kind": kind, "mib": 3}, Workload)
    assert isinstance(table, struct)
    assert table.mib == 3


@pytest.mark.parametrize("chunk_kib", [0, 3, 6, 1 << 21])
def test_a_chunk_is_whole_pages(chunk_kib: int) -> None:
    """chunk_kib is a multiple of 4 within its bounds."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "file-writer", "mib": 1, "chunk_kib": chunk_kib}, Workload)
