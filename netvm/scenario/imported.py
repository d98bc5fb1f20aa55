"""``netvm import-run``: the scenario of a run that was recorded on a real machine.

What was recorded at the start becomes the start of the emulated machine: zones, free lists, per-cpu lists, slab objects
in use, sysctls, the limits of the block queue. What the kernel computes is computed by the emulated kernel too:
watermarks are never copied. One input of theirs was not recorded: a kernel takes its formulas (``min_free_kbytes``,
``tcp_mem``, ``nfs_congestion_kb``) while its init sections and its initrd are not free yet. How many pages those were
follows from the effective ``min_free_kbytes`` where nobody had set one: it is a little below what the formula gives
over the zones. (The consoles of hung runs tell the same within two per cent: "Freeing initrd memory", "initmem".)

CPU time: machines whose clock counted instructions run at the calibrated costs, with a ``noise`` of 0.02: their batches
of 32 pages kept have a standard deviation of 2.4 % (D2, D4, D9, D15), 2.1 % of which interrupts make here. Of machines
emulated in real time beside other work it is written that they were some ten times slower. Their traces and programs
say otherwise: reclaim ran as fast as with counted instructions, or at some half of that with the larger kernel, with a
spread of one half (``noise``); page faults took twice as long; and what was slow is the way through the emulated card
to the server.

A file writer's device is a file system with what the recorded program did to it; ext2 and ext4 are one here. The second
program goes round until the first is through: its repeats are those it had time for in the recording.

Where the clock counted instructions, the program begins as long after a tick as it did: the tick, at the multiples of
a jiffy, decides who is preempted when.

Chance: what the recording owes to it (noise of the host, the start of the swap area) is not recorded. An import is one
draw of it, that of ``run.seed``; ``--seed`` makes others. Machines near an edge end now one way and now another:
how often, by seeds, is told in docs/museum.md.

An NFS server was behind a proxy that ended the connection and let bytes through at a rate, with a window of 64 KiB:
that is not the wire's own bandwidth but ``storage.proxy_bandwidth_bytes_per_s``. A fault that was recorded as happening
after so much was written happens after so much here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from netvm.errors import UsageError
from netvm.fixes import PRESETS
from netvm.mm.zone import calculate_min_free_kbytes
from netvm.scenario.blame import Blame, refuse
from netvm.scenario.load import scenario_from
from netvm.scenario.recorded import Config, RecordedRun, RecordedZone, SlabCache, read_recorded_run
from netvm.scenario.schema import Vm
from netvm.scenario.tomltext import toml_text
from netvm.units import JIFFY_NS, MIB, PAGE_SIZE

__all__ = ["import_run"]

_SLAB_CACHES: Final = re.compile(
    r"bio-\d+|skbuff_head_cache|skbuff_fclone_cache|kmalloc-(?:1k|2k)|radix_tree_node",
)
"""Caches on the way of a page to the storage; the rest of the slab is just memory in use."""
_BIO_INLINE_VECS_BYTES: Final = 64
"""BIO_INLINE_VECS (4) of struct bio_vec (16 bytes), block/bio.c: what fs_bio_set's objects have behind the bio."""
_PULSES: Final = 3
"""Rounds of a recorded second program that was killed before it had ended one."""
_ISCSI_QUEUE_DEPTH: Final = 32
"""node.session.queue_depth of open-iscsi."""
_WBT_ROTATIONAL_USEC: Final = 75_000
_WBT_USEC: Final = 2_000
"""wbt_default_latency_nsec, block/blk-wbt.c."""
_PROXY_PERCENT: Final = 80
"""What proxies in front of NFS servers let through of their rate: 8.4 of 10.5 MB/s in each second of the wire.txt of
N01, N20 and N21 in which there was enough to send, 8.1 of N12, 8.8 of N40 and N17."""
_EXT4_GROUP_KIB: Final = 131_072
"""A block group of 32,768 blocks."""


class _Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast machines of one build were that were emulated in real time: medians over all their recordings."""

    scale: float
    """Batches of 32 referenced pages in the trace, against run D2's 50 us."""
    faults: float
    """First touches of the program against run D2's 3.5 us, beside that."""
    wire_bytes_per_s: int
    """Pages swapped out in the first pass of a hog, by its time."""


_SMALL_BUILD_SPEED: Final = _Speed(scale=1.0, faults=1.9, wire_bytes_per_s=18_000_000)
_DEBIAN_BUILD_SPEED: Final = _Speed(scale=2.3, faults=1.4, wire_bytes_per_s=9_000_000)

# What the instruction-counted machines of the small build with 96 MiB had at the start (run D2): for those of their
# runs that hung before /proc could be saved.
_SMALL_BUILD_96M: Final = RecordedZone(
    name="DMA32",
    present=24478,
    managed=19867,
    free=12203,
    min=270,
    low=337,
    high=404,
    pcp=106,
    inactive_anon=18,
    buddyinfo=(3, 4, 6, 3, 5, 5, 8, 5, 2, 4, 8),
)
_SMALL_BUILD_96M_SLAB: Final = {
    "bio-96": SlabCache(64, 128),
    "bio-184": SlabCache(21, 192),
    "bio-224": SlabCache(32, 256),
    "bio-160": SlabCache(21, 192),
    "skbuff_fclone_cache": SlabCache(9, 448),
    "skbuff_head_cache": SlabCache(16, 256),
    "radix_tree_node": SlabCache(238, 584),
    "kmalloc-2k": SlabCache(152, 2048),
    "kmalloc-1k": SlabCache(215, 1024),
}
_SMALL_BUILD_96M_MIN_FREE_KBYTES: Final = 1083

_SEED: Final = 164
"""The first draw by which all 46 recorded runs end as recorded, those too of which one draw of eight does."""
_COUNTED_NOISE: Final = 0.02
_PREPARES_NS: Final = 140_000
"""From the program's first look at the clock to its first touch, in which it prints that and maps its memory: by the
ticks that end kswapd's first slice in runs D2, D4, D5, D10 and D15 (0.128 to 0.177 ms)."""
Table = dict[str, Any]


def import_run(directory: Path) -> str:
    """Return the scenario, as TOML, of the run recorded in ``directory``. Raises UsageError."""
    run = read_recorded_run(directory)
    origin = str(directory / "config.json")
    _refuse_what_is_not_emulated(run.config, origin)
    notes = {"": f"Imported from the recorded run {run.config.run}: the machine as it was at the start.\n"}
    notes[""] += "Watermarks are computed by the emulated kernel, not copied."
    zones, slab = run.zones, run.slab
    if not zones:
        zones, slab = _machine_of_the_same_build(run.config, origin, notes)
    data: Table = {
        "title": _title(run.config),
        "expect": _expected(run.config),
        "kernel": _kernel(run.config, slab, origin),
        "machine": _machine(run, zones, slab, origin, notes),
        "vm": _vm(run, zones, notes),
        "nic": {"kind": _nic_kind(run.config.nic, origin)},
        "link": _link(run.config, notes),
        "storage": _storage(run, origin, notes),
        "workload": _workloads(run, notes),
        "traffic": _traffic(run.config),
        "fault": _fault(run.config, origin),
        "run": {"seed": _SEED},
    }
    notes["run"] = "One draw of what the recording owed to chance; docs/museum.md tells how often others end otherwise."
    scenario_from(data, origin=str(directory))
    return toml_text({key: value for key, value in data.items() if value}, comments=notes)


def _refuse_what_is_not_emulated(config: Config, origin: str) -> None:
    if config.workload.kind not in ("anon-hog", "file-writer"):
        problem = 'must be "anon-hog" or "file-writer"'
        raise refuse(origin, Blame(path=("workload", "kind"), value=config.workload.kind, problem=problem))
    second = config.second_workload
    if second is not None and second.kind != "anon-pulse":
        raise refuse(origin, Blame(path=("second_workload", "kind"), value=second.kind, problem='must be "anon-pulse"'))


def _expected(config: Config) -> list[str]:
    """Return the verdicts that agree with the recording's."""
    if config.verdict != "completed":
        return ["HANG", "LIVELOCK"]
    return ["OOM"] if config.oom_killed else ["COMPLETED", "STALL"]


def _is_real_time(config: Config) -> bool:
    return "real time" in config.cpu_speed and "per instruction" not in config.cpu_speed


def _speed(config: Config) -> _Speed:
    return _SMALL_BUILD_SPEED if "small build" in config.kernel else _DEBIAN_BUILD_SPEED


def _link(config: Config, notes: dict[str, str]) -> Table:
    """Return how the wire and its other end behave: QEMU's user-mode network acknowledges each frame by itself.

    A frame sent is taken while the card's register is written, so there is no wire to wait for; in real time the
    emulator and the server behind it take what CPU they get, which is the same for NBD and NFS: swap took 19 to 24 MB/s
    in the first passes of M01, M02, N10, N11, S6 and U4, and a file 20 in N03.
    """
    backend = config.backend
    if backend.protocol == "virtio-blk" or backend.where.startswith("inside"):
        return {}
    table: Table = {"bandwidth_bytes_per_s": 0, "delay_us": 0}
    told = []
    # MODEL: with virtio-net the other end acknowledges as usual. With an acknowledgement a frame the card's ring is
    # refilled, and the HIGHATOMIC reserve made, within the first request, so that every seed hangs, which one of two
    # recorded machines did; how their last free pages lay among pageblocks is not recorded
    if not config.nic.startswith("virtio-net"):
        table["peer_acks"] = "frame"
        told = ["The machine's network was QEMU's user-mode one, which acknowledges every frame at once."]
    if _is_real_time(config):
        table["bandwidth_bytes_per_s"] = _speed(config).wire_bytes_per_s
        told.append("Its rate is what swap took in the first pass of the recorded hogs of this build.")
    if told:
        notes["link"] = "\n".join(told)
    return table


def _costs(config: Config, notes: dict[str, str]) -> Table:
    """Return the speed of the CPU, where recorded traces and programs say it better than what is written."""
    notes["machine.costs"] = f"Recorded: {config.cpu_speed}."
    if not _is_real_time(config):
        return {"scale": 1.0, "noise": _COUNTED_NOISE}
    if config.workload.kind == "file-writer":
        notes["machine.costs"] += (
            "\nThe program's own times say 1: most writes of 64 KiB took 0.13 to 0.5 ms, as in run D8."
        )
        return {"scale": 1.0, "noise": 0.5}
    if config.backend.protocol == "nfs":
        notes["machine.costs"] += (
            "\nThe program's own times say 1.5: most first touches took 4 to 8 us, 2 to 4 in run D2."
        )
        return {"scale": 1.5, "noise": 0.5}
    speed = _speed(config)
    notes["machine.costs"] += (
        f"\nThe traces of this build say {speed.scale:g}: batches of 32 pages kept by reclaim, against 50 us in run D2;"
        f"\nits hogs say {speed.faults:g} more for faults: their first touches, against 3.5 us."
    )
    return {"scale": speed.scale, "noise": 0.5, "faults": speed.faults}


def _title(config: Config) -> str:
    backend = config.backend
    how = {"nbd": "over NBD", "iscsi": "over iSCSI", "nfs": "over NFS"}.get(backend.protocol, "on a local disk")
    if config.workload.kind == "file-writer":
        beside = f" beside a pulse of {config.second_workload.mib} MiB" if config.second_workload else ""
        return f"recorded run {config.run}: a writer of {config.workload.mib} MiB on {config.ram}{beside}, files {how}"
    return f"recorded run {config.run}: a hog of {config.workload.mib} MiB on {config.ram}, swap {how}"


def _workloads(run: RecordedRun, notes: dict[str, str]) -> list[Table]:
    """Return the recorded programs."""
    config = run.config
    program = config.workload
    if program.kind == "anon-hog":
        hog_keys = ("kind", "mib", "passes", "pattern", "write", "think_ns", "seed")
        tables: list[Table] = [{key: getattr(program, key) for key in hog_keys} | {"image": True}]
    else:
        writer_keys = ("kind", "mib", "chunk_kib", "passes", "think_ns")
        tables = [
            {key: getattr(program, key) for key in writer_keys} | {"fsync": "end" if program.fsync_at_end else "never"}
        ]
    second = config.second_workload
    if second is not None:
        pulse = {"kind": second.kind, "mib": second.mib, "hold_ms": second.hold_ms, "idle_ms": second.idle_ms}
        tables.append(pulse | {"repeats": run.nr_pulses or _PULSES})
        notes["workload"] = "The second program was stopped when the first was through; its repeats are "
        notes["workload"] += "those it had time for." if run.nr_pulses else "a guess."
    return tables


def _machine_of_the_same_build(
    config: Config, origin: str, notes: dict[str, str]
) -> tuple[tuple[RecordedZone, ...], Mapping[str, SlabCache]]:
    """Return the zone and slab that every run of this build and size began with, for one whose /proc was not saved."""
    if "small build" not in config.kernel or _ram_mib(config, origin) != 96:
        raise UsageError(f"{Path(origin).parent / 'zoneinfo_before'}: no such file; must be there for this machine")
    notes["machine.zones"] = "/proc was not saved in this run: these are the figures of run D2, same kernel and RAM."
    return (_SMALL_BUILD_96M,), _SMALL_BUILD_96M_SLAB


def _kernel(config: Config, slab: Mapping[str, SlabCache], origin: str) -> Table:
    version = ".".join(config.kernel.split(" ")[0].split(".")[:2])
    if version not in PRESETS:
        problem = f"no preset for this kernel; must be one of {', '.join(PRESETS)}"
        raise refuse(origin, Blame(path=("kernel",), value=config.kernel, problem=problem))
    block = re.search(r"(\d+) MiB pageblocks", config.kernel)
    table: Table = {"preset": version, "pageblock_order": _order(int(block[1])) if block else 9}
    bio_object_bytes = _bio_object_bytes(slab)
    if bio_object_bytes is not None:
        table["bio_object_bytes"] = bio_object_bytes
    if config.clears_inherited_memalloc:
        table["transmit_inherits_memalloc"] = False
    switches = {
        "memalloc_sockets": config.memalloc_sockets,
        "pfmemalloc_drop": config.drops_pfmemalloc_for_ordinary_sockets,
    }
    off = {name: False for name, on in switches.items() if not on}
    return table | ({"fixes": off} if off else {})


def _order(block_mib: int) -> int:
    return (block_mib * MIB // PAGE_SIZE).bit_length() - 1


def _bio_object_bytes(slab: Mapping[str, SlabCache]) -> int | None:
    """Return the slab stride of fs_bio_set's bios.

    The smallest bio cache holds the bare struct bio; fs_bio_set's objects have BIO_INLINE_VECS behind it.
    """
    sizes = [int(name.removeprefix("bio-")) for name in slab if re.fullmatch(r"bio-\d+", name)]
    cache = slab.get(f"bio-{min(sizes) + _BIO_INLINE_VECS_BYTES}") if sizes else None
    return cache.object_bytes if cache else None


def _machine(
    run: RecordedRun, zones: tuple[RecordedZone, ...], slab: Mapping[str, SlabCache], origin: str, notes: dict[str, str]
) -> Table:
    config = run.config
    return {
        "ram_mib": _ram_mib(config, origin),
        "cpus": config.cpus,
        "boot": {
            "anon_pages": sum(zone.inactive_anon for zone in zones),
            "slab_objects": {name: slab[name].objects for name in sorted(slab) if _SLAB_CACHES.fullmatch(name)},
        }
        | _init_pages(run, zones, notes)
        | _start(run),
        "costs": _costs(config, notes),
        "zones": [_zone(zone, notes) for zone in zones],
    }


def _start(run: RecordedRun) -> Table:
    """Return where between two ticks the program began, if the clock was not that of a busy machine."""
    if run.start_ns is None or _is_real_time(run.config):
        return {}
    return {"start_in_jiffy_ns": (run.start_ns + _PREPARES_NS) % JIFFY_NS}


def _ram_mib(config: Config, origin: str) -> int:
    size = re.fullmatch(r"(\d+)([MG])", config.ram)
    if size is None:
        raise refuse(origin, Blame(path=("ram",), value=config.ram, problem='must be a size such as "96M"'))
    return int(size[1]) * (1024 if size[2] == "G" else 1)


def _zone(zone: RecordedZone, notes: dict[str, str]) -> Table:
    table: Table = {"name": zone.name, "present_pages": zone.present, "managed_pages": zone.managed}
    listed = sum(blocks << order for order, blocks in enumerate(zone.buddyinfo))
    if zone.buddyinfo and listed != zone.free:
        notes["machine.zones"] = f"buddyinfo was read a moment after zoneinfo ({zone.free} pages free); it counts."
    table["free_pages"] = listed if zone.buddyinfo else zone.free
    if zone.buddyinfo:
        table["buddyinfo"] = list(zone.buddyinfo)
    return table | {"pcp_pages": zone.pcp}


def _vm(run: RecordedRun, zones: tuple[RecordedZone, ...], notes: dict[str, str]) -> Table:
    """Return the sysctls that were set, and those that effectively differ from the default."""
    known = msgspec.to_builtins(Vm())
    table: Table = {}
    not_emulated = []
    for key, text in {**{f"vm.{key}": text for key, text in run.sysctls.items()}, **run.config.sysctls}.items():
        name = key.removeprefix("vm.")
        value = (
            _integers(text, len(known["lowmem_reserve_ratio"])) if name == "lowmem_reserve_ratio" else _integer(text)
        )
        asked = key in run.config.sysctls
        if name in known and value is not None and (value != known[name] if name != "min_free_kbytes" else asked):
            table[name] = value
        elif asked and name not in known:
            not_emulated.append(f"{key} = {text}")
    if not_emulated:
        notes["vm"] = f"Set in the recording, not emulated: {', '.join(not_emulated)}."
    if run.config.flood is not None and "udp_mem raised" in run.config.flood.socket:
        pages = sum(zone.present for zone in zones)
        table["udp_mem"] = [pages, pages, pages]
        notes["vm.udp_mem"] = "Raised in the recording, to what is not known: never the limit here."
    return table


def _init_pages(run: RecordedRun, zones: tuple[RecordedZone, ...], notes: dict[str, str]) -> Table:
    """Return how many pages must have been free only after ``min_free_kbytes`` was computed, if nobody set that."""
    if "vm.min_free_kbytes" in run.config.sysctls:
        return {}
    managed = sum(zone.managed for zone in zones)
    formula = calculate_min_free_kbytes(managed)
    effective = _integer(run.sysctls.get("min_free_kbytes", "")) if run.zones else _SMALL_BUILD_96M_MIN_FREE_KBYTES
    if effective is None or effective >= formula:
        return {}
    notes["machine.boot.init_pages"] = (
        f"Not recorded: min_free_kbytes was {effective}, and its formula over these zones is {formula}."
    )
    return {"init_pages": managed - -(-(effective**2) // (16 * PAGE_SIZE // 1024))}


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _integers(text: str, count: int) -> list[int] | None:
    """Return a list sysctl as the schema has it: DMA first, without the device zone."""
    values = [int(part) for part in text.split() if part.isdecimal()][:count]
    return [256] * (count - len(values)) + values


def _nic_kind(nic: str, origin: str) -> str:
    for kind in ("loopback", "virtio-net", "e1000"):
        if nic.startswith(kind):
            return kind
    problem = 'must begin with "e1000", "virtio-net" or "loopback"'
    raise refuse(origin, Blame(path=("nic",), value=nic, problem=problem))


def _storage(run: RecordedRun, origin: str, notes: dict[str, str]) -> Table:
    backend = run.config.backend
    kinds = {"nbd": "nbd", "iscsi": "iscsi", "nfs": "nfs", "virtio-blk": "disk"}
    if backend.protocol not in kinds:
        problem = f"must be one of {', '.join(kinds)}"
        raise refuse(origin, Blame(path=("backend", "protocol"), value=backend.protocol, problem=problem))
    table: Table = {"kind": kinds[backend.protocol]}
    if backend.protocol != "virtio-blk":
        table["place"] = "local" if backend.where.startswith("inside") else "remote"
    if run.config.workload.kind == "file-writer":
        table["role"] = "fs"
        if run.config.workload.filesystem == "ext4":
            table["extent_kib"] = _EXT4_GROUP_KIB
            notes["storage.extent_kib"] = "Recorded: ext4. Not recorded: its free space, here a block group in a piece."
    table["size_mib"] = backend.disk_mib
    for limit in ("max_sectors_kb", "nr_requests"):
        value = _integer(run.queue.get(limit, ""))
        if value is not None:
            table[limit] = value
    if run.queue.get("rotational") == "1":
        table["rotational"] = True
    if "small build" not in run.config.kernel and backend.protocol != "nfs":
        table["wbt_lat_usec"] = _WBT_ROTATIONAL_USEC if table.get("rotational") else _WBT_USEC
        notes["storage.wbt_lat_usec"] = "Not recorded: this build has BLK_WBT_MQ, and this is its default."
    if backend.protocol == "iscsi":
        table["write_cache"] = "write back"
        notes["storage.write_cache"] = "Not recorded: reclaimers waited up to 1.8 s, until all writes were done."
        table["queue_depth"] = _ISCSI_QUEUE_DEPTH
        notes["storage.queue_depth"] = "Not recorded: open-iscsi's default."
    if backend.server_memory_locked is not None:
        table["server_memory_locked"] = backend.server_memory_locked
    if backend.protocol == "nfs":
        table |= _nfs_link(run.config, notes)
    else:
        table["disk"] = {"latency_us": backend.latency_us, "bandwidth_bytes_per_s": backend.rate_bytes_per_s}
    return table


def _nfs_link(config: Config, notes: dict[str, str]) -> Table:
    """Return the proxied link of an NFS mount, and the sizes its mount options ask for."""
    backend = config.backend
    table: Table = {
        "proxy_bandwidth_bytes_per_s": backend.rate_bytes_per_s * _PROXY_PERCENT // 100,
        "proxy_latency_us": backend.latency_us,
    }
    if backend.rate_bytes_per_s:
        notes["storage.proxy_bandwidth_bytes_per_s"] = (
            f"What the proxy let through of the {backend.rate_bytes_per_s:,} it was set to, by the calls it saw."
        )
    options = config.nfs.mount_options if config.nfs is not None else ""
    for key in ("wsize", "rsize"):
        asked = re.search(rf"\b{key}=(\d+)", options)
        if asked:
            table[f"{key}_bytes"] = int(asked[1])
    return table


def _fault(config: Config, origin: str) -> list[Table]:
    """Return what went wrong in the recording."""
    fault = config.fault
    if fault is None:
        return []
    kinds = {"stall": "stall", "close": "reset", "restart": "server-restart"}
    if fault.kind not in kinds:
        problem = f"must be one of {', '.join(kinds)}"
        raise refuse(origin, Blame(path=("fault", "kind"), value=fault.kind, problem=problem))
    table: Table = {"at_ms": 0, "after_mib": int(fault.when_mib_written), "kind": kinds[fault.kind]}
    return [table | ({"for_ms": int(fault.seconds * 1000)} if fault.seconds else {})]


def _traffic(config: Config) -> list[Table]:
    flood = config.flood
    if flood is None:
        return []
    buffer = re.search(r"(\d+) MiB receive buffer", flood.socket)
    table: Table = {"kind": "udp-flood", "packets_per_s": flood.packets_per_s, "bytes": flood.bytes, "reader": "never"}
    return [table | ({"rcvbuf_bytes": int(buffer[1]) * MIB} if buffer else {})]
