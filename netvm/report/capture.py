"""A recording of the machine netvm runs on: reclaim's tracepoints and the counters beside them.

Events come through an *instance* of tracefs of our own, so that no setting of anybody else's tracing is touched, and
all that there is to restore is to remove it. A guard, a process of its own that waits for the end of this one, removes
it also when this one is killed. What cannot be had (no root, no tracefs, no PSI) is said, and the rest is recorded.

The directory has the files of a recorded run: ``ftrace.txt``, ``vmstat_before`` and ``_after`` and the like,
``sysctl_vm.txt``; and ``samples.jsonl``, a line a second of the counters that move, and ``capture.json``, what was
recorded and what was not.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from netvm.trace.vmstat import read_netstat
from netvm.user_file import writing

__all__ = ["capture"]

_GROUPS: Final = ("vmscan", "oom")
_EVENTS: Final = (
    "writeback/balance_dirty_pages",
    "writeback/writeback_start",
    "writeback/writeback_written",
    "writeback/writeback_single_inode",
    "writeback/global_dirty_state",
    "sock/sock_exceed_buf_limit",
    "tcp/tcp_retransmit_skb",
)
_IF_THERE: Final = (
    "nfs/nfs_initiate_read",
    "nfs/nfs_readpage_done",
    "nfs/nfs_initiate_write",
    "nfs/nfs_writeback_done",
    "nfs/nfs_initiate_commit",
    "nfs/nfs_commit_done",
    "sunrpc/rpc_stats_latency",
    "sunrpc/xprt_transmit",
    "sunrpc/xprt_lookup_rqst",
)
"""Events of modules: a host without NFS has none of them, which is no loss."""
_SNAPSHOTS: Final = {
    "vmstat": "proc/vmstat",
    "zoneinfo": "proc/zoneinfo",
    "meminfo": "proc/meminfo",
    "buddyinfo": "proc/buddyinfo",
    "slabinfo": "proc/slabinfo",
    "netstat": "proc/net/netstat",
    "pressure": "proc/pressure/memory",
}
_SAMPLED: Final = (
    "nr_free_pages",
    "nr_dirty",
    "nr_writeback",
    "allocstall_normal",
    "allocstall_movable",
    "pgscan_kswapd",
    "pgscan_direct",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "pswpin",
    "pswpout",
    "oom_kill",
)
_SAMPLE_S: Final = 1.0
_PIECE_BYTES: Final = 1 << 16
_BUFFER_KIB: Final = 8192

_GUARD: Final = """
import os, sys
sys.stdin.buffer.read()
for setting in ("tracing_on", "events/enable"):
    try:
        with open(os.path.join(sys.argv[1], setting), "r+") as file:
            file.write("0")
    except OSError:
        pass
try:
    os.rmdir(sys.argv[1])
except OSError:
    pass
"""
"""Waits until its standard input ends, which it does when whoever holds the other end is no more."""


def capture(
    directory: Path,
    *,
    seconds: float,
    sleep: Callable[[float], None],
    root: Path = Path("/"),
) -> list[str]:
    """Record this machine for a while; return in a line each what was recorded, and what was not and why.

    ``sleep`` waits; KeyboardInterrupt in it ends the recording early, not in vain. ``root`` is where /proc and /sys
    are. Raises UsageError if the directory cannot be written.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        told: list[str] = []
        with _tracing(root, told) as instance:
            _snapshot(root, directory, "before", told)
            nr_events_bytes, sampled_s = _record(root, directory, instance, seconds, sleep)
            _snapshot(root, directory, "after", [])
        _write_sysctls(root, directory)
        if instance is not None:
            told.append(f"ftrace.txt: {nr_events_bytes} bytes of events")
        told.append(f"samples.jsonl: {sampled_s:.0f} s of counters")
        (directory / "capture.json").write_text(
            json.dumps({"kernel": _kernel(root), "seconds": sampled_s, "recorded": told}, indent=2) + "\n"
        )
    return told


# -- events -----------------------------------------------------------------------------------------------------------


@contextmanager
def _tracing(root: Path, told: list[str]) -> Iterator[Path | None]:
    """Make an instance of tracefs that records reclaim, and remove it whatever happens; None if there can be none."""
    instance = _make_instance(root, told)
    if instance is None:
        yield None
        return
    guard = subprocess.Popen(
        [sys.executable, "-S", "-c", _GUARD, str(instance)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        _enable(instance, told)
        yield instance
    finally:
        # the guard's input ends here too, so it is one road for every end
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _make_instance(root: Path, told: list[str]) -> Path | None:
    for place in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        instances = root / place / "instances"
        try:
            if not instances.is_dir():
                continue
            instance = instances / f"netvm-{os.getpid()}"
            instance.mkdir()
        except OSError as error:
            told.append(f"no events: /{place}/instances: {error.strerror}; only counters are recorded; run as root")
            return None
        return instance
    told.append(
        "no events: tracefs is not there; only counters are recorded; mount -t tracefs nodev /sys/kernel/tracing"
    )
    return None


def _enable(instance: Path, told: list[str]) -> None:
    for setting, value in (("trace_clock", "mono"), ("buffer_size_kb", str(_BUFFER_KIB))):
        with suppress(OSError):
            _set(instance / setting, value)
    for group in _GROUPS:
        _switch_on(instance / "events" / group / "enable", f"events of {group}", told)
    for event in _EVENTS:
        _switch_on(instance / "events" / event / "enable", event, told)
    for event in _IF_THERE:
        if (instance / "events" / event).is_dir():
            _switch_on(instance / "events" / event / "enable", event, told)
    with suppress(OSError):
        _set(instance / "tracing_on", "1")


def _switch_on(file: Path, what: str, told: list[str]) -> None:
    try:
        if file.exists():
            _set(file, "1")
        else:
            told.append(f"no {what}: this kernel does not have them")
    except OSError as error:
        told.append(f"no {what}: {error.strerror}")


def _set(file: Path, value: str) -> None:
    """Write a setting that is there; never make a file."""
    with file.open("r+") as setting:
        setting.write(value)


# -- counters ---------------------------------------------------------------------------------------------------------


def _record(
    root: Path, directory: Path, instance: Path | None, seconds: float, sleep: Callable[[float], None]
) -> tuple[int, float]:
    """Copy events and sample counters until the time is over or Ctrl-C; return bytes of events, and seconds."""
    nr_bytes, passed_s = 0, 0.0
    pipe: IO[bytes] | None = None
    if instance is not None:
        descriptor = os.open(instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        pipe = os.fdopen(descriptor, "rb", buffering=0)
    try:
        with (directory / "samples.jsonl").open("w") as samples, (directory / "ftrace.txt").open("wb") as events:
            try:
                while passed_s < seconds:
                    samples.write(json.dumps(_sample(root, passed_s)) + "\n")
                    pause_s = min(_SAMPLE_S, seconds - passed_s)
                    sleep(pause_s)
                    passed_s += pause_s
                    nr_bytes += _drain(pipe, events)
            except KeyboardInterrupt:
                nr_bytes += _drain(pipe, events)
            samples.write(json.dumps(_sample(root, passed_s)) + "\n")
    finally:
        if pipe is not None:
            pipe.close()
    if instance is None:
        (directory / "ftrace.txt").unlink()
    return nr_bytes, passed_s


def _drain(pipe: IO[bytes] | None, events: IO[bytes]) -> int:
    """Copy what the kernel has by now; return how much."""
    nr_bytes = 0
    while pipe is not None:
        try:
            piece = pipe.read(_PIECE_BYTES)
        except BlockingIOError:
            break
        if not piece:
            break
        events.write(piece)
        nr_bytes += len(piece)
    return nr_bytes


def _sample(root: Path, passed_s: float) -> dict[str, float | str]:
    """Return the counters that move."""
    found: dict[str, float | str] = {"t": round(passed_s, 3)}
    counters = dict(line.split(None, 1) for line in _text(root / "proc/vmstat").splitlines() if " " in line)
    found |= {name: int(counters[name]) for name in _SAMPLED if name in counters}
    netstat = read_netstat(_text(root / "proc/net/netstat"))
    if "PFMemallocDrop" in netstat:
        found["PFMemallocDrop"] = netstat["PFMemallocDrop"]
    pressure = _text(root / "proc/pressure/memory").splitlines()
    found |= {f"pressure_{line.split()[0]}": line.partition(" ")[2] for line in pressure if line}
    return found


def _snapshot(root: Path, directory: Path, when: str, told: list[str]) -> None:
    for name, place in _SNAPSHOTS.items():
        try:
            text = (root / place).read_text()
        except OSError as error:
            told.append(f"no {name}: /{place}: {error.strerror}")
            continue
        (directory / f"{name}_{when}").write_text(text)


def _write_sysctls(root: Path, directory: Path) -> None:
    lines = []
    for folder in ("proc/sys/vm", "proc/sys/net/ipv4"):
        for file in sorted((root / folder).glob("*")):
            if file.is_file() and (folder.endswith("vm") or file.name in ("tcp_mem", "tcp_rmem", "tcp_wmem")):
                with suppress(OSError):
                    prefix = folder.removeprefix("proc/sys/").replace("/", ".")
                    lines.append(f"{prefix}.{file.name} = {file.read_text().strip()}\n")
    (directory / "sysctl_vm.txt").write_text("".join(lines))


def _kernel(root: Path) -> str:
    return _text(root / "proc/sys/kernel/osrelease").strip()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
