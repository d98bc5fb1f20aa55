"""What no machine can be: checks of one key against another, after every key is right by itself.

A scenario may be foolish: a hog larger than RAM and swap together is a way to an OOM kill, and asked for. It may not be
impossible: zones larger than the machine, free lists that hold another number of pages than the zone has free, a fault
of a network that is not there. Each rule below is a few lines and returns the :class:`~netvm.scenario.blame.Blame` for
the key that a user would change.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from netvm.fixes import FIXES
from netvm.scenario.blame import Blame, nearest
from netvm.scenario.schema import AnonHog, FileReader, FileWriter, Scenario, Senders, Storage, Zone
from netvm.units import MIB, PAGE_SIZE

__all__ = ["impossibilities"]

_PAGES_PER_MIB: Final = MIB // PAGE_SIZE
_ZONE_ORDER: Final = ("DMA", "DMA32", "Normal", "Movable")
_PCP_HIGH_FRACTION_MIN: Final = 8
"""MIN_PERCPU_PAGELIST_HIGH_FRACTION, mm/page_alloc.c."""
_SOCKETS_MAX: Final = 28_232
"""Connections of a program's processes: net.ipv4.ip_local_port_range, 32768 to 60999."""
_NETWORK_FAULTS: Final = ("link-down", "loss-burst", "reset", "server-restart")


def impossibilities(scenario: Scenario) -> Iterator[Blame]:
    """Generate what in ``scenario`` contradicts itself."""
    yield from _fixes(scenario)
    yield from _exhibit(scenario)
    yield from _zones(scenario)
    yield from _boot(scenario)
    yield from _vm(scenario)
    yield from _files(scenario)
    yield from _groups(scenario)
    yield from _programs(scenario)
    yield from _network(scenario)
    yield from _traffic(scenario)
    yield from _iscsi(scenario.storage)
    yield from _times(scenario)
    abstract = scenario.abstract
    if abstract is not None and abstract.reserve > abstract.frames:
        problem = f"must be at most abstract.frames = {abstract.frames}"
        yield Blame(path=("abstract", "reserve"), value=abstract.reserve, problem=problem)


def _fixes(scenario: Scenario) -> Iterator[Blame]:
    for name, on in scenario.kernel.fixes.items():
        if name not in FIXES:
            meant = nearest(name, list(FIXES))
            hint = f"did you mean {meant}?" if meant else f"must be one of {', '.join(FIXES)}"
            yield Blame(path=("kernel", "fixes", name), value=on, problem=f"unknown fix; {hint}")


def _exhibit(scenario: Scenario) -> Iterator[Blame]:
    if scenario.exhibit is None:
        return
    fix = scenario.exhibit.fix
    if fix and "." not in fix and fix not in FIXES:
        meant = nearest(fix, list(FIXES))
        hint = f"did you mean {meant}?" if meant else "must be a switch of [kernel.fixes] or the dotted path of a key"
        yield Blame(path=("exhibit", "fix"), value=fix, problem=f"unknown fix; {hint}")


def _zones(scenario: Scenario) -> Iterator[Blame]:
    zones = scenario.machine.zones
    ram_pages = scenario.machine.ram_mib * _PAGES_PER_MIB
    names = [zone.name for zone in zones]
    for index, zone in enumerate(zones):
        if zone.name in names[:index]:
            yield _zone_blame(index, "name", zone.name, "this zone stands here twice")
        elif index and _ZONE_ORDER.index(zone.name) < _ZONE_ORDER.index(names[index - 1]):
            yield _zone_blame(index, "name", zone.name, f"must stand before {names[index - 1]}: lowest zone first")
        yield from _zone(index, zone)
    if names == ["Movable"]:
        yield _zone_blame(0, "name", "Movable", "must not be the only zone: the kernel's own memory cannot be in it")
    present = sum(zone.present_pages for zone in zones)
    if present > ram_pages:
        last = len(zones) - 1
        problem = f"with the other zones {present} pages; ram_mib = {scenario.machine.ram_mib} is {ram_pages}"
        yield _zone_blame(last, "present_pages", zones[last].present_pages, problem)
    reserved = scenario.machine.reserved_pages
    if reserved is not None and reserved >= ram_pages:
        problem = f"must be less than the {ram_pages} pages of ram_mib = {scenario.machine.ram_mib}"
        yield Blame(path=("machine", "reserved_pages"), value=reserved, problem=problem)


def _zone(index: int, zone: Zone) -> Iterator[Blame]:
    """Generate what is impossible inside one zone."""
    if zone.managed_pages > zone.present_pages:
        problem = f"must be at most present_pages = {zone.present_pages}"
        yield _zone_blame(index, "managed_pages", zone.managed_pages, problem)
    free = zone.free_pages
    if free is not None and free > zone.managed_pages:
        yield _zone_blame(index, "free_pages", free, f"must be at most managed_pages = {zone.managed_pages}")
    elif (free or 0) + zone.pcp_pages > zone.managed_pages:
        problem = f"with free_pages it must be at most managed_pages = {zone.managed_pages}"
        yield _zone_blame(index, "pcp_pages", zone.pcp_pages, problem)
    if not zone.buddyinfo:
        return
    listed = sum(blocks << order for order, blocks in enumerate(zone.buddyinfo))
    if free is None and listed > zone.managed_pages:
        problem = f"lists {listed} pages; must be at most managed_pages = {zone.managed_pages}"
        yield _zone_blame(index, "buddyinfo", zone.buddyinfo, problem)
    elif free is not None and listed != free:
        yield _zone_blame(index, "buddyinfo", zone.buddyinfo, f"lists {listed} pages; must be free_pages = {free}")


def _zone_blame(index: int, key: str, value: object, problem: str) -> Blame:
    return Blame(path=("machine", "zones", index, key), value=value, problem=problem)


def _boot(scenario: Scenario) -> Iterator[Blame]:
    anon = scenario.machine.boot.anon_pages
    room = _managed_pages(scenario)
    if scenario.machine.zones and all(zone.free_pages is not None for zone in scenario.machine.zones):
        room -= sum((zone.free_pages or 0) + zone.pcp_pages for zone in scenario.machine.zones)
    if anon > room:
        problem = f"must be at most {room}, the pages that are in use at the start"
        yield Blame(path=("machine", "boot", "anon_pages"), value=anon, problem=problem)
    init = scenario.machine.boot.init_pages
    lowmem = [zone.managed_pages for zone in scenario.machine.zones if zone.name != "Movable"]
    # of a machine that lists no zones boot knows the highest
    if lowmem and init >= lowmem[-1]:
        problem = f"must be less than {lowmem[-1]}, the managed pages of its highest zone"
        yield Blame(path=("machine", "boot", "init_pages"), value=init, problem=problem)


def _managed_pages(scenario: Scenario) -> int:
    zones = scenario.machine.zones
    return sum(zone.managed_pages for zone in zones) if zones else scenario.machine.ram_mib * _PAGES_PER_MIB


def _vm(scenario: Scenario) -> Iterator[Blame]:
    vm = scenario.vm
    managed_kbytes = _managed_pages(scenario) * PAGE_SIZE // 1024
    if vm.min_free_kbytes is not None and vm.min_free_kbytes >= managed_kbytes:
        problem = f"must be less than the memory of the machine, {managed_kbytes} kB"
        yield Blame(path=("vm", "min_free_kbytes"), value=vm.min_free_kbytes, problem=problem)
    fraction = vm.percpu_pagelist_high_fraction
    if 0 < fraction < _PCP_HIGH_FRACTION_MIN:
        problem = f"must be 0, or {_PCP_HIGH_FRACTION_MIN} or more"
        yield Blame(path=("vm", "percpu_pagelist_high_fraction"), value=fraction, problem=problem)
    for name in ("tcp_mem", "udp_mem", "tcp_wmem", "tcp_rmem"):
        yield from _triple(name, getattr(vm, name))


def _triple(name: str, values: Sequence[int]) -> Iterator[Blame]:
    if values and (len(values) != 3 or sorted(values) != list(values)):
        yield Blame(
            path=("vm", name), value=str(list(values)), problem="must be three integers, none below the one before"
        )


def _files(scenario: Scenario) -> Iterator[Blame]:
    """Generate what needs a file system where there is none, and a swap area that its device cannot hold."""
    storage = scenario.storage
    if storage.role == "swap":
        for index, workload in enumerate(scenario.workload):
            if isinstance(workload, FileWriter | FileReader):
                problem = 'uses files, and all of the storage is swap; must be storage.role "fs"'
                problem += ", with what is to be swap in storage.swap_mib"
                yield Blame(path=("workload", index, "name"), value=workload.name, problem=problem)
        if storage.extent_kib:
            problem = 'is of a file system; storage.role must be "fs"'
            yield Blame(path=("storage", "extent_kib"), value=storage.extent_kib, problem=problem)
        if storage.swap_mib:
            problem = 'storage.role is "swap": all of it is; must be 0, or storage.role "fs" for files on the rest'
            yield Blame(path=("storage", "swap_mib"), value=storage.swap_mib, problem=problem)
    if storage.loop_mib and (storage.role == "swap" or storage.loop_mib + storage.swap_mib >= storage.size_mib):
        problem = f'must fit beside the rest on size_mib = {storage.size_mib}, with storage.role "fs"'
        yield Blame(path=("storage", "loop_mib"), value=storage.loop_mib, problem=problem)
    if storage.fuse is not None:
        if storage.role == "swap":
            problem = 'needs a file system for its server; storage.role must be "fs"'
            yield Blame(path=("storage", "fuse"), value="a FUSE mount", problem=problem)
        if storage.fuse.congestion_threshold > storage.fuse.max_background:
            problem = f"must be at most max_background = {storage.fuse.max_background}"
            path = ("storage", "fuse", "congestion_threshold")
            yield Blame(path=path, value=storage.fuse.congestion_threshold, problem=problem)
        yield from _unknown_group(scenario, ("storage", "fuse", "memory_group"), storage.fuse.memory_group)
    for key in ("encrypted", "split_kib", "extent_kib", "wbt_lat_usec"):
        if storage.kind != "nfs" or not getattr(storage, key):
            continue
        problem = 'needs a block device; storage.kind must be "iscsi", "nbd" or "disk"'
        yield Blame(path=("storage", key), value=getattr(storage, key), problem=problem)
    if storage.role == "fs" and storage.swap_mib >= storage.size_mib:
        problem = f"must be less than size_mib = {storage.size_mib}"
        yield Blame(path=("storage", "swap_mib"), value=storage.swap_mib, problem=problem)


def _groups(scenario: Scenario) -> Iterator[Blame]:
    """Generate workloads that name a memory group which is not there, and groups of one name."""
    names = [group.name for group in scenario.memory_group]
    for index, name in enumerate(names):
        if name in names[:index]:
            problem = "this name stands here twice; every group needs its own"
            yield Blame(path=("memory_group", index, "name"), value=name, problem=problem)
    for index, workload in enumerate(scenario.workload):
        yield from _unknown_group(scenario, ("workload", index, "memory_group"), workload.memory_group)


def _programs(scenario: Scenario) -> Iterator[Blame]:
    """Generate programs that touch more than they map."""
    for index, workload in enumerate(scenario.workload):
        if isinstance(workload, AnonHog) and workload.touch_kib > workload.mib * 1024:
            problem = f"must be at most what it maps, mib = {workload.mib}"
            yield Blame(path=("workload", index, "touch_kib"), value=workload.touch_kib, problem=problem)


def _unknown_group(scenario: Scenario, path: tuple[str | int, ...], name: str) -> Iterator[Blame]:
    """Generate the blame for a key that names a memory group which is not there."""
    names = [group.name for group in scenario.memory_group]
    if name and name not in names:
        meant = nearest(name, names)
        hint = f"did you mean {meant}?" if meant else "must be the name of a [[memory_group]]"
        yield Blame(path=path, value=name, problem=f"unknown memory group; {hint}")


def _network(scenario: Scenario) -> Iterator[Blame]:
    """Generate what needs a wire where there is none."""
    storage, nic = scenario.storage, scenario.nic
    if nic.kind == "loopback":
        if storage.kind != "disk" and storage.place == "remote":
            problem = 'reaches no remote server; must be a card, or storage.place "local"'
            yield Blame(path=("nic", "kind"), value=nic.kind, problem=problem)
        for index, traffic in enumerate(scenario.traffic):
            problem = 'is with peers outside, and nic.kind is "loopback"; must be a card'
            yield Blame(path=("traffic", index, "name"), value=traffic.name, problem=problem)
    if storage.kind == "nfs" and storage.place == "local":
        for key in ("proxy_bandwidth_bytes_per_s", "proxy_latency_us"):
            if getattr(storage, key):
                problem = 'is of a link to a server outside; must be 0, or storage.place "remote"'
                yield Blame(path=("storage", key), value=getattr(storage, key), problem=problem)
    if storage.transport == "udp":
        yield from _udp(scenario)
    if storage.vers != "3" and (storage.kind != "nfs" or storage.place == "local" or storage.transport == "udp"):
        problem = 'is of an NFS server outside, over TCP; must be "3", or kind "nfs", place "remote", transport "tcp"'
        yield Blame(path=("storage", "vers"), value=storage.vers, problem=problem)
    for index, fault in enumerate(scenario.fault):
        if fault.kind == "slow-commit" and storage.kind != "nfs":
            problem = 'only NFS has a COMMIT; storage.kind must be "nfs"'
            yield Blame(path=("fault", index, "kind"), value=fault.kind, problem=problem)
        if fault.kind == "half-open" and (
            storage.kind != "nfs" or storage.place == "local" or storage.transport == "udp"
        ):
            problem = 'needs a connection to an NFS server outside: storage.kind "nfs", over TCP'
            yield Blame(path=("fault", index, "kind"), value=fault.kind, problem=problem)
    if storage.kind == "disk":
        for index, fault in enumerate(scenario.fault):
            if fault.kind in _NETWORK_FAULTS:
                problem = 'storage.kind "disk" has neither network nor server; must be "stall"'
                yield Blame(path=("fault", index, "kind"), value=fault.kind, problem=problem)


def _traffic(scenario: Scenario) -> Iterator[Blame]:
    """Generate programs with more connections than there are ports."""
    for index, traffic in enumerate(scenario.traffic):
        if isinstance(traffic, Senders) and traffic.processes * traffic.sockets > _SOCKETS_MAX:
            most = _SOCKETS_MAX // traffic.processes
            problem = f"must be at most {most} for each of {traffic.processes} processes, {_SOCKETS_MAX} in all"
            yield Blame(path=("traffic", index, "sockets"), value=traffic.sockets, problem=problem)


def _udp(scenario: Scenario) -> Iterator[Blame]:
    """Generate what cannot go over UDP: anything but NFS, to a server outside, without a connection to close."""
    storage = scenario.storage
    problem = ""
    if storage.kind != "nfs":
        problem = 'is for storage.kind "nfs" only; must be "tcp"'
    elif storage.place == "local":
        problem = 'reaches a server outside only; must be "tcp", or storage.place "remote"'
    if problem:
        yield Blame(path=("storage", "transport"), value=storage.transport, problem=problem)
    for key in ("proxy_bandwidth_bytes_per_s", "proxy_latency_us"):
        if getattr(storage, key):
            problem = 'is of a link that ends a connection; must be 0, or storage.transport "tcp"'
            yield Blame(path=("storage", key), value=getattr(storage, key), problem=problem)
    for index, fault in enumerate(scenario.fault):
        if fault.kind == "reset":
            problem = 'closes a connection, and storage.transport is "udp"; must be another kind'
            yield Blame(path=("fault", index, "kind"), value=fault.kind, problem=problem)
    vm = scenario.vm
    if vm.ipfrag_high_thresh and vm.ipfrag_low_thresh > vm.ipfrag_high_thresh:
        problem = f"must be at most ipfrag_high_thresh = {vm.ipfrag_high_thresh}"
        yield Blame(path=("vm", "ipfrag_low_thresh"), value=vm.ipfrag_low_thresh, problem=problem)


def _iscsi(storage: Storage) -> Iterator[Blame]:
    if storage.first_burst_bytes > storage.max_burst_bytes:
        # RFC 7143, section 13.14: FirstBurstLength MUST NOT exceed MaxBurstLength.
        problem = f"must be at most max_burst_bytes = {storage.max_burst_bytes}"
        yield Blame(path=("storage", "first_burst_bytes"), value=storage.first_burst_bytes, problem=problem)


def _times(scenario: Scenario) -> Iterator[Blame]:
    """Generate what would happen after the run has ended, or end before it has begun."""
    end_ms = scenario.run.max_virtual_s * 1000
    late = f"must be before the end, run.max_virtual_s = {scenario.run.max_virtual_s:g}"
    for index, fault in enumerate(scenario.fault):
        if fault.at_ms >= end_ms:
            yield Blame(path=("fault", index, "at_ms"), value=fault.at_ms, problem=late)
    for index, workload in enumerate(scenario.workload):
        if workload.start_ms >= end_ms:
            yield Blame(path=("workload", index, "start_ms"), value=workload.start_ms, problem=late)
    for index, traffic in enumerate(scenario.traffic):
        if traffic.start_ms >= end_ms:
            yield Blame(path=("traffic", index, "start_ms"), value=traffic.start_ms, problem=late)
        if traffic.stop_ms and traffic.stop_ms <= traffic.start_ms:
            problem = f"must be after start_ms = {traffic.start_ms}, or 0 for never"
            yield Blame(path=("traffic", index, "stop_ms"), value=traffic.stop_ms, problem=problem)
