"""A run recorded on a real machine, read from its directory: what ``import-run`` imports and ``--against`` compares.

The files are what the machine itself printed: ``config.json`` names the kernel, the machine and the program; the rest
is /proc before (``*_before``) and after (``*_after``), ``summary.json`` with derived figures, ``workload.txt`` with the
program's own report, and, of a run that hung, the serial console with sysrq dumps. Only ``config.json`` must be there.

A serial console under load loses and doubles characters, so its patterns ask for little; of several dumps the last one
counts. Task states come from the stacks of sysrq ``w`` and ``t``, or, where a kernel printed none, from the
scheduler's table of tasks.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from netvm.errors import UsageError
from netvm.scenario.blame import blames, refuse
from netvm.scenario.load import read_text
from netvm.trace.vmstat import read_netstat

__all__ = [
    "Config",
    "Console",
    "RecordedRun",
    "RecordedZone",
    "SlabCache",
    "TaskState",
    "read_buddyinfo",
    "read_console",
    "read_recorded_run",
    "read_slabinfo",
    "read_zoneinfo",
]

_Count = Annotated[int, Meta(ge=0)]
_Size = Annotated[int, Meta(gt=0)]


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """``backend`` of config.json: the storage and the way to it."""

    protocol: str
    where: str
    latency_us: _Count = 0
    rate_bytes_per_s: _Count = 0
    disk_mib: _Size
    server_memory_locked: bool | None = None


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """``workload`` of config.json: the program that takes memory."""

    kind: str
    mib: _Size
    passes: _Size = 1
    pattern: str = "seq"
    write: bool = True
    think_ns: _Count = 0
    seed: _Count = 1
    chunk_kib: _Size = 64
    fsync_at_end: bool = False
    filesystem: str = ""


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """``second_workload`` of config.json: the program beside the first."""

    kind: str
    mib: _Size
    hold_ms: _Count = 500
    idle_ms: _Count = 500


class PacketFlood(msgspec.Struct, frozen=True, kw_only=True):
    """``flood`` of config.json: datagrams into a socket that nobody reads."""

    packets_per_s: _Size
    bytes: _Size
    socket: str = ""


class RecordedFault(msgspec.Struct, frozen=True, kw_only=True):
    """``fault`` of config.json: what happened to the connection or the server, and after how much was written."""

    kind: str
    when_mib_written: float = 0.0
    seconds: float = 0.0


class RecordedNfs(msgspec.Struct, frozen=True, kw_only=True):
    """``nfs`` of config.json."""

    mount_options: str = ""
    swap: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """config.json: everything that defines the run, and how it ended."""

    run: str
    kernel: str
    cpus: _Size = 1
    cpu_speed: str = ""
    ram: str
    nic: str
    backend: Backend
    workload: Program
    second_workload: Pulse | None = None
    sysctls: dict[str, str] = {}
    memalloc_sockets: bool = True
    clears_inherited_memalloc: bool = False
    drops_pfmemalloc_for_ordinary_sockets: bool = True
    flood: PacketFlood | None = None
    fault: RecordedFault | None = None
    nfs: RecordedNfs | None = None
    oom_killed: str | None = None
    """Whom the OOM killer took."""
    verdict: str
    verdict_detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedZone:
    """One populated zone of zoneinfo, in pages."""

    name: str
    present: int
    managed: int
    free: int
    min: int
    low: int
    high: int
    protection: tuple[int, ...] = ()
    pcp: int = 0
    """Pages on the lists of all CPUs."""
    inactive_anon: int = 0
    buddyinfo: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SlabCache:
    """One line of slabinfo."""

    objects: int
    """In use."""
    object_bytes: int
    """Stride: 4096 // this many fit in an order-0 slab."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task of a sysrq dump."""

    name: str
    state: str
    """``D``: uninterruptible; ``R``: running or runnable; ..."""
    stack: tuple[str, ...] = ()
    """Functions from where it sleeps (or runs) outwards; the scheduler's own are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What the last dumps on the console of a hung run say."""

    writeback: int | None = None
    free: int | None = None
    boost_kb: int | None = None
    reached: str = ""
    """The last heartbeat: how far the program had come."""
    tasks: tuple[TaskState, ...] = ()
    """Tasks in D state, and running ones that are inside the page allocator."""
    allocation_failures: tuple[str, ...] = ()
    """The different requests that failed, as the kernel wrote them."""
    panic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """All of a directory that netvm uses; what is not there is empty."""

    path: Path
    config: Config
    zones: tuple[RecordedZone, ...] = ()
    slab: Mapping[str, SlabCache]
    sysctls: Mapping[str, str]
    """Effective values of ``vm.*``, without the prefix."""
    queue: Mapping[str, str]
    """Limits of the block queue under their sysfs names."""
    summary: Mapping[str, Any]
    vmstat: Mapping[str, int]
    """Counters' growth during the run; completed runs only."""
    netstat: Mapping[str, int]
    """Of the counters of /proc/net/netstat too."""
    start_ns: int | None = None
    """When the program began, since boot."""
    passes_ns: tuple[int, ...] = ()
    """Time of each pass of the program."""
    nr_pulses: int = 0
    """Rounds that the second program was through with, or in, when it was stopped."""
    console: Console | None = None


def read_recorded_run(directory: Path) -> RecordedRun:
    """Return the run recorded in ``directory``. Raises UsageError, one line that names the file and what is wrong."""
    try:
        texts = {path.name: path for path in sorted(directory.iterdir())}
    except OSError as error:
        what = (error.strerror or "cannot be read").lower()
        raise UsageError(
            f"{directory}: {what}; must be the directory of a recorded run, with its config.json"
        ) from error

    if "config.json" not in texts:
        raise UsageError(f"{directory}: no config.json in it; must be the directory of a recorded run")

    def text(name: str) -> str:
        return read_text(texts[name]) if name in texts else ""

    zoneinfo = text("zoneinfo_before")
    console = text("console.txt")
    start = re.search(r"^START ns=(\d+)", text("workload.txt"), re.MULTILINE)
    return RecordedRun(
        path=directory,
        config=_read_config(directory / "config.json"),
        zones=_with_buddyinfo(
            read_zoneinfo(zoneinfo, origin=str(directory / "zoneinfo_before")), text("buddyinfo_before")
        ),
        slab=read_slabinfo(text("slabinfo_before")),
        sysctls=_pairs(text("sysctl_vm.txt"), "="),
        queue=_pairs(text("queue.txt"), "="),
        summary=_read_json(texts["summary.json"]) if "summary.json" in texts else {},
        vmstat=_growth(_numbers(text("vmstat_before")), _numbers(text("vmstat_after"))),
        netstat=_growth(read_netstat(text("netstat_before")), read_netstat(text("netstat_after"))),
        start_ns=int(start[1]) if start else None,
        passes_ns=tuple(int(ns) for ns in re.findall(r"^PASS .*?total_ns=(\d+)", text("workload.txt"), re.MULTILINE)),
        nr_pulses=len(re.findall(r"^CYCLE ", text("hog2.txt"), re.MULTILINE)),
        console=read_console(console) if console else None,
    )


def read_zoneinfo(text: str, *, origin: str = "zoneinfo") -> tuple[RecordedZone, ...]:
    """Return the populated zones of a /proc/zoneinfo. Raises UsageError if a zone lacks one of its figures."""
    zones = []
    for block in re.split(r"^(?=Node \d+, zone)", text, flags=re.MULTILINE):
        head = re.match(r"Node \d+, zone\s+(\w+)", block)
        if head is None:
            continue
        figures = {}
        for key, pattern in _ZONE_FIGURES.items():
            found = re.search(pattern, block, re.MULTILINE)
            if found is None:
                raise UsageError(f"{origin}: zone {head[1]}: no line for {key!r}; must be a whole /proc/zoneinfo")
            figures[key] = int(found[1])
        if figures["present"] == 0:
            continue
        protection = re.search(r"protection: \(([\d, ]*)\)", block)
        inactive_anon = re.search(r"nr_zone_inactive_anon\s+(\d+)", block)
        zones.append(
            RecordedZone(
                name=head[1],
                present=figures["present"],
                managed=figures["managed"],
                free=figures["free"],
                min=figures["min"],
                low=figures["low"],
                high=figures["high"],
                protection=tuple(int(part) for part in protection[1].split(",")) if protection else (),
                pcp=sum(int(count) for count in re.findall(r"^\s+count:\s+(\d+)", block, re.MULTILINE)),
                inactive_anon=int(inactive_anon[1]) if inactive_anon else 0,
            )
        )
    if text and not zones:
        raise UsageError(f"{origin}: no populated zone; must be a whole /proc/zoneinfo")
    return tuple(zones)


_ZONE_FIGURES: Final = {
    "free": r"pages free\s+(\d+)",
    "min": r"^\s+min\s+(\d+)",
    "low": r"^\s+low\s+(\d+)",
    "high": r"^\s+high\s+(\d+)",
    "present": r"^\s+present\s+(\d+)",
    "managed": r"^\s+managed\s+(\d+)",
}


def read_buddyinfo(text: str) -> dict[str, tuple[int, ...]]:
    """Return the free blocks by order of each zone of a /proc/buddyinfo."""
    zones = {}
    for line in text.splitlines():
        found = re.match(r"Node \d+, zone\s+(\w+)((?:\s+\d+)+)\s*$", line)
        if found:
            zones[found[1]] = tuple(int(count) for count in found[2].split())
    return zones


def read_slabinfo(text: str) -> dict[str, SlabCache]:
    """Return the caches of a /proc/slabinfo."""
    found = re.findall(r"^(\S+)\s+(\d+)\s+\d+\s+(\d+)\s+\d+\s+\d+ :", text, re.MULTILINE)
    return {name: SlabCache(int(objects), int(size)) for name, objects, size in found}


def read_console(text: str) -> Console:
    """Return what a serial console tells of a hang."""
    dumps = re.findall(r"\bdirty:\d+ writeback:(\d+)", text)
    free = re.findall(r"\] +free:(\d+)", text)
    boost = re.findall(r"\bfree:\d+kB boost:(\d+)kB", text)
    ticks = re.findall(r"^TICK [\d.]+ (\S+ pass=\d+ idx=\d+)", text, re.MULTILINE)
    failures = re.findall(r"\] (\S+): page allocation failure: (order:\d+), mode:\w+\(([^)]*)\)", text)
    panic = re.search(r"\] (Kernel panic - .*)", text)
    return Console(
        writeback=int(dumps[-1]) if dumps else None,
        free=int(free[-1]) if free else None,
        boost_kb=int(boost[-1]) if boost else None,
        reached=ticks[-1] if ticks else "",
        tasks=tuple(_blocked(text)),
        allocation_failures=tuple(dict.fromkeys(f"{task}: {order} {mode}" for task, order, mode in failures)),
        panic=panic[1].strip() if panic else "",
    )


_SCHEDULER: Final = frozenset(
    {
        "_schedule",
        "schedule",
        "schedule_timeout",
        "schedule_preempt_disabled",
        "io_schedule",
        "io_schedule_timeout",
        "asm_comon_interupt",
        "asm_sysvec_apic_timer_interupt",
    }
)
"""Frames that say that a task sleeps or was interrupted, not what it wants; doubled characters written once."""


def _squeezed(name: str) -> str:
    """Return ``name`` as it would be if the serial line had doubled nothing (and the kernel neither)."""
    return re.sub(r"(.)\1+", r"\1", name)


def _blocked(text: str) -> Iterator[TaskState]:
    """Generate the tasks that are stuck, each in its last dump."""
    tasks: dict[str, TaskState] = {}
    for block in re.split(r"^\[[ \d.]+\] (?=task:)", text, flags=re.MULTILINE)[1:]:
        head = re.match(r"task:(\S+)\s+state:(\w)", block)
        if head is not None:
            body = block.split("</TASK>")[0].rsplit("<TASK>", 1)[-1]
            frames = re.findall(r"^\[[ \d.]+\] +(?!\?)([A-Za-z_][\w.]*)\+0x", body, re.MULTILINE)
            stack = tuple(frame.split(".")[0] for frame in frames if _squeezed(frame) not in _SCHEDULER)
            tasks[head[1]] = TaskState(name=head[1], state=head[2], stack=stack)
    for state, name in re.findall(r"^\[[ \d.]+\] +>?([DR])\s+(\S+)\s+\d+\s+\d+\.\d+", text, re.MULTILINE):
        tasks.setdefault(name, TaskState(name=name, state=state))
    for task in tasks.values():
        if task.state == "D" or (task.state == "R" and any("alloc_pages" in frame for frame in task.stack)):
            yield task


def _read_config(path: Path) -> Config:
    data = _read_json(path)
    for blame in blames(data, Config):
        raise refuse(str(path), blame)
    try:
        return msgspec.convert(data, Config)
    except msgspec.ValidationError as error:  # stricter than the walk above in something it does not know
        raise UsageError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(read_text(path))
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path}: must be a JSON object")
    return data


def _with_buddyinfo(zones: tuple[RecordedZone, ...], text: str) -> tuple[RecordedZone, ...]:
    listed = read_buddyinfo(text)
    return tuple(replace(zone, buddyinfo=listed.get(zone.name, ())) for zone in zones)


def _pairs(text: str, separator: str) -> dict[str, str]:
    split = (line.partition(separator) for line in text.splitlines())
    return {key.strip(): value.strip() for key, found, value in split if found}


def _numbers(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}


def _growth(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: value - before.get(name, 0) for name, value in after.items()}
