"""The tables of what is stacked on the storage: their defaults, their bounds, and what a typo is told."""

import pytest

from netvm.errors import UsageError
from netvm.scenario.load import scenario_from
from netvm.scenario.schema_storage import Fuse

_STORAGE = {"kind": "disk", "role": "fs", "size_mib": 64}


def _refusal(**storage: object) -> str:
    data = {
        "nic": {"kind": "loopback"},
        "storage": _STORAGE | storage,
        "workload": [{"kind": "file-writer", "mib": 1}],
    }
    with pytest.raises(UsageError) as caught:
        scenario_from(data, origin="a.toml")
    return str(caught.value).removeprefix("a.toml: ")


def test_the_defaults_are_the_kernels() -> None:
    """One percent of the limit, 12 background requests, congested from 9 on, 128 KiB a request."""
    fuse = Fuse()
    assert (fuse.max_ratio, fuse.max_background, fuse.congestion_threshold, fuse.max_pages) == (1, 12, 9, 32)


def test_a_typo_is_told_what_was_meant() -> None:
    """One line names the key and the nearest one there is."""
    assert "did you mean storage.fuse.max_ratio?" in _refusal(fuse={"max_ratoi": 5})


@pytest.mark.parametrize("max_ratio", [0, 101])
def test_a_share_is_one_to_a_hundred_percent(max_ratio: int) -> None:
    """max_ratio is a percentage."""
    assert "max_ratio" in _refusal(fuse={"max_ratio": max_ratio})
