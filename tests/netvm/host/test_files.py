"""The file side of a host: what is mounted where."""

from typing import Any

import pytest

from netvm.errors import UsageError
from netvm.host.boot import boot
from netvm.host.files import swap_pages
from netvm.pagecache.block_fs import BlockFileSystem
from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from


def _scenario(**storage: Any) -> Any:
    table = {"kind": "disk", "size_mib": 64, **storage}
    hog = {"kind": "anon-hog", "mib": 1}
    return scenario_from({"storage": table, "workload": [hog], "nic": {"kind": "loopback"}}, origin="test")


def _booted(**storage: Any) -> Any:
    return boot(World(seeds=Seeds(0)), _scenario(**storage), log=lambda *_: None)


def test_a_swap_device_has_no_file_system() -> None:
    """All of the device is swap, and the page cache is empty."""
    host = _booted()
    assert host.files.fs is None
    assert host.swap.nr_total_slots() == 64 * 256 - 1


def test_a_file_system_has_the_device_to_itself() -> None:
    """Without swap_mib there is no slot."""
    host = _booted(role="fs")
    assert isinstance(host.files.fs, BlockFileSystem)
    assert host.swap.nr_total_slots() == 0
    assert [device.name for device in host.files.throttle.devices] == ["vda"]


def test_swap_lies_in_front_of_the_file_system() -> None:
    """The first file block is behind the swap area."""
    host = _booted(role="fs", swap_mib=16)
    assert host.swap.nr_total_slots() == 16 * 256 - 1
    assert swap_pages(_scenario(role="fs", swap_mib=16).storage) == 16 * 256
    mapping = host.files.cache.create(host.files.fs, "file", 4)
    assert mapping.private.blocks[:4].tolist() == [4097, 4098, 4099, 4100]


def test_sysctls_reach_the_throttle() -> None:
    """vm.dirty_* are the throttle's."""
    scenario = scenario_from(
        {
            "storage": {"kind": "disk", "role": "fs"},
            "workload": [{"kind": "anon-hog", "mib": 1}],
            "nic": {"kind": "loopback"},
            "vm": {"dirty_ratio": 60, "dirty_background_bytes": 4096, "dirty_expire_centisecs": 100},
        },
        origin="test",
    )
    sysctls = boot(World(seeds=Seeds(0)), scenario, log=lambda *_: None).files.throttle.sysctls
    assert (sysctls.ratio, sysctls.background_bytes, sysctls.expire_centisecs) == (60, 4096, 100)


@pytest.mark.parametrize(
    ("storage", "line"),
    [({"swap_mib": 1}, "all of it is; must be 0"), ({"role": "fs", "swap_mib": 64}, "must be less than size_mib")],
)
def test_a_swap_area_that_cannot_be_is_refused(storage: dict[str, Any], line: str) -> None:
    """swap_mib belongs to a device with a file system, and leaves some of it."""
    with pytest.raises(UsageError, match=line):
        _scenario(**storage)
