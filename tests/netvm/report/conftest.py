"""The recorded traces, and the plainest reader of them: one regular expression a line."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from netvm.report.profile import Profile, Profiler
from netvm.report.source import open_trace

LINE = re.compile(r"^ *(.{0,16}?)-(\d+) +\[(\d+)\] (\S+) +(\d+)\.(\d+): (\w+): (.*)$")


@dataclass(slots=True)
class Plain:
    """What a trace says, computed line by line."""

    events: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    latencies_us: list[int] = field(default_factory=list)
    unfinished: int = 0
    kswapd_active_us: int = 0
    last_wake_to_sleep_us: int = 0
    scanned: dict[str, int] = field(default_factory=lambda: {"kswapd": 0, "direct": 0})
    reclaimed: dict[str, int] = field(default_factory=lambda: {"kswapd": 0, "direct": 0})
    throttled_us: dict[str, list[int]] = field(default_factory=dict)
    nfs_us: dict[str, list[int]] = field(default_factory=dict)
    nfs_open: int = 0
    pauses_us: list[int] = field(default_factory=list)


def _plain(path: Path) -> Plain:
    """Compute the figures of a trace in the most obvious way."""
    found = Plain()
    begun: dict[str, int] = {}
    calls: dict[tuple[str, ...], list[int]] = {}
    awake: int | None = None
    woke = 0
    with gzip.open(path, "rt") as lines:
        for line in lines:
            match = LINE.match(line)
            if match is None:
                continue
            comm, pid, _, _, second, fraction, event, rest = match.groups()
            now = int(second) * 1_000_000 + int(fraction)
            values = dict(re.findall(r"(\w+)=(\S+)", rest))
            found.events += 1
            found.counts[event] = found.counts.get(event, 0) + 1
            if event == "mm_vmscan_direct_reclaim_begin":
                found.unfinished += pid in begun
                begun[pid] = now
            elif event == "mm_vmscan_direct_reclaim_end" and pid in begun:
                found.latencies_us.append(now - begun.pop(pid))
            elif event == "mm_vmscan_kswapd_wake":
                awake, woke = (now if awake is None else awake), now
            elif event == "mm_vmscan_kswapd_sleep" and awake is not None:
                found.kswapd_active_us += now - awake
                found.last_wake_to_sleep_us += now - woke
                awake = None
            elif event == "mm_vmscan_lru_shrink_inactive":
                who = "kswapd" if comm.startswith("kswapd") else "direct"
                found.scanned[who] += int(values["nr_scanned"])
                found.reclaimed[who] += int(values["nr_reclaimed"])
            elif event == "mm_vmscan_throttled":
                found.throttled_us.setdefault(values["reason"], []).append(int(values["usect_delayed"]))
            elif event == "balance_dirty_pages" and int(values["pause"]) > 0:
                found.pauses_us.append(int(values["pause"]) * 1000)
            elif event.startswith("nfs_"):
                what = event.split("_")[1].replace("readpage", "read").replace("writeback", "write")
                procedure = event.split("_")[2] if what == "initiate" else what
                place = procedure, values["fileid"], values["fhandle"], values["offset"]
                if what == "initiate":
                    calls.setdefault(place, []).append(now)
                elif calls.get(place):
                    found.nfs_us.setdefault(procedure, []).append(now - calls[place].pop(0))
    found.unfinished += len(begun)
    found.nfs_open = sum(map(len, calls.values()))
    return found


def _profile_of(path: Path) -> Profile:
    """Profile a trace."""
    with open_trace(path) as (recorded, batches):
        profiler = Profiler(recorded)
        for batch in batches:
            profiler.add(batch)
    return profiler.profile()


def _vmstat_difference(folder: Path) -> dict[str, int]:
    """Return what the counters of /proc/vmstat grew by during a recorded run."""
    before, after = (
        {name: int(value) for name, value in (line.split() for line in (folder / which).read_text().splitlines())}
        for which in ("vmstat_before", "vmstat_after")
    )
    return {name: value - before.get(name, 0) for name, value in after.items()}


def _summary_of(folder: Path) -> dict[str, Any]:
    """Return the figures that were derived when the run was recorded."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


@pytest.fixture
def trace_file(tmp_path: Path) -> Any:
    """A function that writes ftrace text to a file and returns its path."""

    def write(text: str, name: str = "trace.txt") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def plain() -> Callable[[Path], Plain]:
    """What a trace says, computed line by line."""
    return _plain


@pytest.fixture
def profile_of() -> Callable[[Path], Profile]:
    """What netvm says of a trace."""
    return _profile_of


@pytest.fixture
def vmstat_difference() -> Callable[[Path], dict[str, int]]:
    """What /proc/vmstat says of a recorded run."""
    return _vmstat_difference


@pytest.fixture
def summary_of() -> Callable[[Path], dict[str, Any]]:
    """The figures of a recorded run."""
    return _summary_of
