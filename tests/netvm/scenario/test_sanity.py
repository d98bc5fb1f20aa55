"""Sanity: what no machine can be is refused; what is only foolish is not."""

from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.scenario.load import scenario_from

_ZONE = {"name": "DMA32", "present_pages": 24000, "managed_pages": 20000, "free_pages": 12, "buddyinfo": [4, 4]}


def _refusal(**tables: object) -> str:
    """Return the error of an otherwise complete scenario."""
    data = {"storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 120}], **tables}
    with pytest.raises(UsageError) as caught:
        scenario_from(data, origin="a.toml")
    return str(caught.value).removeprefix("a.toml: ")


def _machine(**zone: object) -> dict[str, object]:
    return {"machine": {"ram_mib": 96, "zones": [_ZONE | zone]}}


@pytest.mark.parametrize(
    ("zone", "line"),
    [
        (
            {"managed_pages": 24001},
            "machine.zones.0.managed_pages = 24001: must be at most present_pages = 24000",
        ),
        (
            {"free_pages": 20001},
            "machine.zones.0.free_pages = 20001: must be at most managed_pages = 20000",
        ),
        (
            {"pcp_pages": 19989},
            "machine.zones.0.pcp_pages = 19989: with free_pages it must be at most managed_pages = 20000",
        ),
        ({"buddyinfo": [4, 5]}, "machine.zones.0.buddyinfo: lists 14 pages; must be free_pages = 12"),
        (
            {"present_pages": 24577},
            "machine.zones.0.present_pages = 24577: with the other zones 24577 pages; ram_mib = 96 is 24576",
        ),
    ],
)
def test_zones_have_to_add_up(zone: dict[str, object], line: str) -> None:
    """Managed pages are present, free pages are managed, free lists hold what is free, and the zones fit into RAM."""
    assert _refusal(**_machine(**zone)) == line


def test_free_lists_alone_fit_into_the_zone() -> None:
    """Without free_pages the free lists still hold no more than the zone manages."""
    machine = {"zones": [{"name": "DMA32", "present_pages": 100, "managed_pages": 50, "buddyinfo": [51]}]}
    assert _refusal(machine=machine) == "machine.zones.0.buddyinfo: lists 51 pages; must be at most managed_pages = 50"


def test_zones_stand_in_order_and_once() -> None:
    """Zones are given lowest first, each once, as the kernel numbers them."""
    dma, normal = {"name": "DMA", "present_pages": 10, "managed_pages": 10}, _ZONE | {"name": "Normal"}
    assert (
        _refusal(machine={"zones": [normal, dma]})
        == 'machine.zones.1.name = "DMA": must stand before Normal: lowest zone first'
    )
    movable = _ZONE | {"name": "Movable"}
    assert _refusal(machine={"zones": [movable]}).startswith('machine.zones.0.name = "Movable": must not be the only')
    assert _refusal(machine={"zones": [dma, dma]}) == 'machine.zones.1.name = "DMA": this zone stands here twice'


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        (
            {"machine": {"ram_mib": 96, "reserved_pages": 24576}},
            "machine.reserved_pages = 24576: must be less than the 24576 pages of ram_mib = 96",
        ),
        (
            {"machine": {"ram_mib": 96, "zones": [_ZONE], "boot": {"anon_pages": 19989}}},
            "machine.boot.anon_pages = 19989: must be at most 19988, the pages that are in use at the start",
        ),
        (
            {"machine": {"ram_mib": 96, "zones": [_ZONE], "boot": {"init_pages": 20000}}},
            "machine.boot.init_pages = 20000: must be less than 20000, the managed pages of its highest zone",
        ),
        (
            {"vm": {"min_free_kbytes": 98304}},
            "vm.min_free_kbytes = 98304: must be less than the memory of the machine, 98304 kB",
        ),
        (
            {"vm": {"percpu_pagelist_high_fraction": 7}},
            "vm.percpu_pagelist_high_fraction = 7: must be 0, or 8 or more",
        ),
        (
            {"vm": {"udp_mem": [1, 2]}},
            'vm.udp_mem = "[1, 2]": must be three integers, none below the one before',
        ),
        (
            {"vm": {"tcp_rmem": [3, 2, 4]}},
            'vm.tcp_rmem = "[3, 2, 4]": must be three integers, none below the one before',
        ),
        (
            {"kernel": {"fixes": {"memaloc_sockets": False}}},
            "kernel.fixes.memaloc_sockets = false: unknown fix; did you mean memalloc_sockets?",
        ),
        (
            {"nic": {"kind": "loopback"}},
            'nic.kind = "loopback": reaches no remote server; must be a card, or storage.place "local"',
        ),
        (
            {
                "nic": {"kind": "loopback"},
                "storage": {"kind": "nbd", "place": "local"},
                "traffic": [{"kind": "udp-flood", "packets_per_s": 1}],
            },
            'traffic.0.name = "flood": is with peers outside, and nic.kind is "loopback"; must be a card',
        ),
        (
            {"traffic": [{"kind": "tcp-sender", "processes": 10, "sockets": 2824}]},
            "traffic.0.sockets = 2824: must be at most 2823 for each of 10 processes, 28232 in all",
        ),
        (
            {"storage": {"kind": "nfs", "place": "local", "proxy_latency_us": 5}},
            'storage.proxy_latency_us = 5: is of a link to a server outside; must be 0, or storage.place "remote"',
        ),
        (
            {"storage": {"kind": "nbd", "transport": "udp"}},
            'storage.transport = "udp": is for storage.kind "nfs" only; must be "tcp"',
        ),
        (
            {"storage": {"kind": "nfs", "transport": "udp", "place": "local"}},
            'storage.transport = "udp": reaches a server outside only; must be "tcp", or storage.place "remote"',
        ),
        (
            {"storage": {"kind": "nfs", "transport": "udp", "proxy_latency_us": 5}},
            'storage.proxy_latency_us = 5: is of a link that ends a connection; must be 0, or storage.transport "tcp"',
        ),
        (
            {"storage": {"kind": "nfs", "transport": "udp"}, "fault": [{"at_ms": 1, "kind": "reset"}]},
            'fault.0.kind = "reset": closes a connection, and storage.transport is "udp"; must be another kind',
        ),
        (
            {
                "storage": {"kind": "nfs", "transport": "udp"},
                "vm": {"ipfrag_high_thresh": 4096, "ipfrag_low_thresh": 4097},
            },
            "vm.ipfrag_low_thresh = 4097: must be at most ipfrag_high_thresh = 4096",
        ),
        (
            {"storage": {"kind": "disk"}, "fault": [{"at_ms": 1, "kind": "link-down"}]},
            'fault.0.kind = "link-down": storage.kind "disk" has neither network nor server; must be "stall"',
        ),
        (
            {"storage": {"kind": "iscsi", "first_burst_bytes": 65536, "max_burst_bytes": 65535}},
            "storage.first_burst_bytes = 65536: must be at most max_burst_bytes = 65535",
        ),
        (
            {"run": {"max_virtual_s": 10}, "fault": [{"at_ms": 10_000, "kind": "stall"}]},
            "fault.0.at_ms = 10000: must be before the end, run.max_virtual_s = 10",
        ),
        (
            {"run": {"max_virtual_s": 1}, "workload": [{"kind": "anon-pulse", "mib": 1, "start_ms": 1000}]},
            "workload.0.start_ms = 1000: must be before the end, run.max_virtual_s = 1",
        ),
        (
            {"traffic": [{"kind": "tcp-stream", "start_ms": 9, "stop_ms": 8}]},
            "traffic.0.stop_ms = 8: must be after start_ms = 9, or 0 for never",
        ),
    ],
)
def test_contradictions_are_refused(tables: dict[str, object], line: str) -> None:
    """Two keys that cannot both be so give exactly this line, on the key a user would change."""
    assert _refusal(**tables) == line


def test_an_exhibit_names_a_switch_or_a_key() -> None:
    """The fix of an exhibit is a switch that exists, or the path of another key."""
    exhibit = {"id": "R1", "arm": "broken", "title": "t", "source": "s", "mechanism": "m"}
    assert (
        _refusal(exhibit=exhibit | {"fix": "memaloc_sockets"})
        == 'exhibit.fix = "memaloc_sockets": unknown fix; did you mean memalloc_sockets?'
    )
    for fix in ("", "memalloc_sockets", "vm.min_free_kbytes"):
        data = {"storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 1}]}
        scenario_from(data | {"exhibit": exhibit | {"fix": fix}}, origin=str(Path("a.toml")))


@pytest.mark.parametrize(
    "tables",
    [
        {"workload": [{"kind": "anon-hog", "mib": 100_000}]},
        {"nic": {"kind": "loopback"}, "storage": {"kind": "disk"}},
        {"nic": {"kind": "loopback"}, "storage": {"kind": "nbd", "place": "local"}},
        {"nic": {"kind": "e1000"}, "storage": {"kind": "nbd", "place": "local"}},
        {"storage": {"kind": "disk"}, "fault": [{"at_ms": 1, "kind": "stall"}]},
    ],
)
def test_what_is_only_foolish_is_run(tables: dict[str, object]) -> None:
    """A hog larger than RAM and swap, or a card that nobody uses, is the user's business."""
    data = {"storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 1}]} | tables
    scenario_from(data, origin="a.toml")


@pytest.mark.parametrize(("key", "value"), [("encrypted", True), ("split_kib", 4), ("wbt_lat_usec", 2000)])
def test_a_device_on_a_device_needs_a_device(key: str, value: object) -> None:
    """NFS has files and no block device to stand on."""
    line = _refusal(storage={"kind": "nfs", key: value})
    assert line.startswith(f"storage.{key} = ")
    assert line.endswith('needs a block device; storage.kind must be "iscsi", "nbd" or "disk"')


@pytest.mark.parametrize(
    ("storage", "line"),
    [
        (
            {"role": "swap", "fuse": {}},
            'storage.fuse = "a FUSE mount": needs a file system for its server; storage.role must be "fs"',
        ),
        (
            {"role": "fs", "fuse": {"congestion_threshold": 13}},
            "storage.fuse.congestion_threshold = 13: must be at most max_background = 12",
        ),
        (
            {"role": "fs", "fuse": {"memory_group": "contaner"}},
            'storage.fuse.memory_group = "contaner": unknown memory group; did you mean container?',
        ),
    ],
)
def test_a_fuse_mount_stands_on_a_file_system(storage: dict[str, object], line: str) -> None:
    """Its server keeps files, so there must be some; congestion comes before the queue is full; its group is there."""
    group = [{"name": "container", "limit_kib": 8192}]
    assert _refusal(storage={"kind": "nbd"} | storage, memory_group=group) == line


@pytest.mark.parametrize(
    ("storage", "kind", "line"),
    [
        ({"kind": "nbd"}, "slow-commit", 'only NFS has a COMMIT; storage.kind must be "nfs"'),
        (
            {"kind": "iscsi"},
            "half-open",
            'needs a connection to an NFS server outside: storage.kind "nfs", over TCP',
        ),
        (
            {"kind": "nfs", "transport": "udp"},
            "half-open",
            'needs a connection to an NFS server outside: storage.kind "nfs", over TCP',
        ),
    ],
)
def test_a_fault_of_nfs_needs_nfs(storage: dict[str, object], kind: str, line: str) -> None:
    """A slow COMMIT and a connection that only one side knows are faults of an NFS server."""
    assert _refusal(storage=storage, fault=[{"at_ms": 1, "kind": kind}]) == f'fault.0.kind = "{kind}": {line}'


def test_a_program_touches_no_more_than_it_maps() -> None:
    """Touching all of it by number is the same as 0; a page more is refused."""
    line = _refusal(workload=[{"kind": "anon-hog", "mib": 2, "touch_kib": 2052}])
    assert line == "workload.0.touch_kib = 2052: must be at most what it maps, mib = 2"
    tables = {"storage": {"kind": "nbd"}, "workload": [{"kind": "anon-hog", "mib": 2, "touch_kib": 2048}]}
    scenario_from(tables, origin="a.toml")


def test_a_workload_s_group_is_one_of_those_there() -> None:
    """A memory group that nobody has made is refused, with the one that was meant; so are two of one name."""
    groups = [{"name": "small", "limit_kib": 4096}]
    workload = [{"kind": "anon-hog", "mib": 1, "memory_group": "smal"}]
    assert _refusal(workload=workload, memory_group=groups) == (
        'workload.0.memory_group = "smal": unknown memory group; did you mean small?'
    )
    assert _refusal(workload=workload) == (
        'workload.0.memory_group = "smal": unknown memory group; must be the name of a [[memory_group]]'
    )
    assert _refusal(memory_group=groups * 2) == (
        'memory_group.1.name = "small": this name stands here twice; every group needs its own'
    )
    mistyped = [{"name": "small", "limit_kb": 4096}]
    assert _refusal(memory_group=mistyped).startswith("memory_group.0.limit_kb")


def test_extents_are_of_a_file_system_on_a_block_device() -> None:
    """``extent_kib`` needs a file system, and one of this host."""
    assert _refusal(storage={"kind": "nbd", "extent_kib": 64}) == (
        'storage.extent_kib = 64: is of a file system; storage.role must be "fs"'
    )
    assert _refusal(storage={"kind": "nfs", "role": "fs", "extent_kib": 64}) == (
        'storage.extent_kib = 64: needs a block device; storage.kind must be "iscsi", "nbd" or "disk"'
    )
