"""The file-system port: who implements it has all of its doors."""

from typing import Any, get_type_hints

import pytest

from netvm.pagecache.block_fs import BlockFileSystem
from netvm.pagecache.ports import FileSystem, WritebackControl


def _doors() -> list[str]:
    return [name for name in vars(FileSystem) if not name.startswith("_")]


@pytest.mark.parametrize("door", _doors())
def test_a_block_file_system_has_every_door(door: str) -> None:
    """Every member of the protocol is there."""
    assert hasattr(BlockFileSystem, door)


def test_the_test_store_has_every_door(host: Any) -> None:
    """So does the store that the other tests stand on."""
    fs = host.slow_store()
    assert [door for door in (*_doors(), *get_type_hints(FileSystem)) if not hasattr(fs, door)] == []


def test_a_round_writes_all_of_a_file_unless_told_otherwise() -> None:
    """The default range has no end, and nothing is waited for."""
    wbc = WritebackControl(nr_to_write=1)
    assert (wbc.start, wbc.sync_mode, wbc.range_cyclic) == (0, 0, False)
    assert wbc.end > 1 << 60
