"""Whole scenarios drawn from one seed, and what must hold of every one of them.

:func:`draw_scenario` makes the tables of a scenario: any kernel, some of its fixes switched, a machine of nine to
fifteen MiB, any storage in any role, programs, other traffic, and faults. The machine is small, so a run takes a tenth
of a second; nothing else about it is tame, and most drawn hosts come to a bad end. That is not what is looked at.
:func:`examine` runs one and says what must never be, however the host ends:

- memory does not add up, at the end or at any of the audits on the way (at 1 ms, 2 ms, 4 ms, ... of virtual time);
- the storage does not hold the newest acknowledged version of a page, and no verdict says so;
- a page read back is not the one that was written (CORRUPT);
- the same scenario gives other bytes when it is run again;
- an exception.

A LOST_WRITE is a verdict that says so, and is only counted. A run that is cut off says by what: the budget of its
scenario (steps or virtual time), or a storage that did not come up in all of that time. It was audited until then.
"""

import traceback
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from netvm.errors import UsageError
from netvm.fixes import FIXES, PRESETS
from netvm.mm.invariants import audit_memory
from netvm.pagecache.invariants import audit_pagecache
from netvm.runtime.clock import run_virtual
from netvm.runtime.seeds import Seeds, Stream
from netvm.runtime.timer import TimerKind
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import outcome_json
from netvm.scenario.run import Experiment
from netvm.scenario.verdict import lost_writes
from netvm.units import NS_PER_MS

__all__ = ["Finding", "draw_scenario", "examine"]

_RERUN_EVERY: Final = 16
"""One seed in so many is run twice."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one drawn scenario."""

    seed: int
    verdict: str | None
    """None if the run was cut off, or ended by an exception."""
    cut: str = ""
    """What cut it off."""
    nr_audits: int = 0
    """Audits on the way; one more is made at the end."""
    nr_pages_written: int = 0
    """Pages whose write was acknowledged."""
    wrong: list[str] = []
    """What must never be; empty if all is well."""


class _Draw:
    """Chance in the words of a scenario file."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def of(self, *options: Any) -> Any:
        return options[self._stream.below(len(options))]

    def between(self, low: int, high: int) -> int:
        return low + self._stream.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        return self._stream.below(100) < percent

    def some(self, percent: int, **values: Any) -> dict[str, Any]:
        """Keep each of the keys with this probability."""
        return {key: value for key, value in values.items() if self.chance(percent)}


def draw_scenario(seed: int) -> dict[str, Any]:
    """Return the tables of the scenario of a seed: always valid, the same everywhere."""
    draw = _Draw(Seeds(seed).stream("integrity"))
    storage = _storage(draw)
    remote = storage["kind"] != "disk" and storage.get("place") != "local"
    nic = "loopback" if not remote and draw.chance(50) else draw.of("e1000", "virtio-net")
    cpus = draw.of(1, 1, 1, 2, 4)
    # the per-cpu lists of each CPU hold some of what boot holds
    ram_mib = draw.between(9, 12) + cpus - 1
    networked = nic != "loopback"
    return {
        "kernel": {
            "preset": draw.of(*PRESETS),
            "fixes": {draw.of(*FIXES): draw.chance(50) for _ in range(draw.of(0, 0, 1, 2, 3))},
            **draw.some(30, pageblock_order=draw.of(9, 10)),
            **draw.some(10, transmit_inherits_memalloc=False, bio_object_bytes=256),
        },
        "machine": {
            "ram_mib": ram_mib,
            "reserved_pages": draw.of(0, 50),
            "cpus": cpus,
            "costs": {"scale": draw.of(1.0, 5.0, 20.0)},
        },
        "vm": _vm(draw),
        "nic": {
            "kind": nic,
            "ring": draw.of(8, 16, 64),
            "refill_retry": draw.of("driver", "driver", "none", "timer", "worker"),
            "recycle": draw.chance(30),
        },
        "link": {
            "bandwidth_bytes_per_s": draw.of(0, 1_000_000, 4_000_000, 10_000_000, 125_000_000),
            "delay_us": draw.of(0, 50, 1000, 20_000),
            "peer_acks": draw.of("burst", "frame"),
            **draw.some(20, loss=draw.of(0.001, 0.02), reorder=draw.of(0.01, 0.1), duplicate=0.02, queue_packets=20),
        },
        "storage": storage,
        "workload": _workloads(draw, 2 * ram_mib // 3, files=storage["role"] == "fs"),
        "traffic": [_traffic(draw) for _ in range(draw.of(0, 0, 1, 2))] if networked else [],
        "fault": [_fault(draw, storage, remote=remote) for _ in range(draw.of(0, 1, 1, 2, 3))],
        "run": {
            "seed": seed,
            "oracle": draw.of("fifo", "random", "random"),
            "max_virtual_s": 20.0,
            "max_steps": 30_000,
        },
    }


def _vm(draw: _Draw) -> dict[str, Any]:
    return {
        "min_free_kbytes": draw.of(128, 256, 512, 1024),
        "hung_task_timeout_secs": draw.of(1, 1, 1, 4),
        **draw.some(
            30,
            **{
                "swappiness": draw.of(0, 10, 100, 200),
                "page-cluster": draw.of(0, 1, 5),
                "watermark_boost_factor": 0,
                "laptop_mode": 1,
                "dirty_ratio": draw.of(2, 5, 40, 90),
                "dirty_background_ratio": draw.of(1, 5, 50),
                "dirty_writeback_centisecs": draw.of(0, 20, 100),
                "dirty_expire_centisecs": draw.of(20, 200),
                "vfs_cache_pressure": draw.of(0, 1, 1000),
                "tcp_mem": draw.of([32, 48, 64], [192, 192, 192]),
                "tcp_rmem": [4096, 16384, 131072],
            },
        ),
    }


def _storage(draw: _Draw) -> dict[str, Any]:
    kind = draw.of("nbd", "iscsi", "nfs", "nbd", "iscsi", "nfs", "disk")
    role = draw.of("swap", "fs")
    storage: dict[str, Any] = {
        "kind": kind,
        "role": role,
        "size_mib": draw.of(6, 12, 24),
        "disk": {
            "latency_us": draw.of(0, 100, 5000),
            "bandwidth_bytes_per_s": draw.of(0, 1_000_000, 10_000_000),
            "queue_depth": draw.of(1, 4, 65536),
            "in_order": draw.chance(60),
        },
        **draw.some(
            30,
            queue_depth=draw.of(2, 16, 64),
            max_sectors_kb=draw.of(4, 16, 512),
            nr_requests=draw.of(4, 32),
            rotational=True,
            timeout_s=draw.of(2, 10),
        ),
    }
    if kind in ("nbd", "iscsi"):
        storage["place"] = draw.of("remote", "remote", "remote", "local")
    if kind == "nfs":
        storage |= draw.some(
            40,
            wsize_bytes=draw.of(4096, 65536),
            rsize_bytes=draw.of(4096, 65536),
            tcp_max_slot_table_entries=draw.of(2, 16),
            commit_ms=draw.of(1, 100),
            vers="4.1",
        )
        if "vers" not in storage and draw.chance(30):
            storage["transport"] = "udp"
            storage |= draw.some(30, udp_slot_table_entries=draw.of(2, 16))
    if role == "fs" and draw.chance(40):
        storage["swap_mib"] = draw.of(2, 4)
    if kind == "iscsi":
        storage |= draw.some(
            30,
            immediate_data=False,
            initial_r2t=True,
            max_recv_data_segment_bytes=draw.of(512, 8192),
            first_burst_bytes=draw.of(512, 16384),
            noop_interval_s=draw.of(0, 1),
        )
    if kind != "nfs":
        storage |= draw.some(15, encrypted=True)
        if role == "fs" and storage["size_mib"] >= 12 and draw.chance(15):
            storage["loop_mib"] = storage["size_mib"] - storage.get("swap_mib", 0) - 2
    return storage


def _workloads(draw: _Draw, mib: int, *, files: bool) -> list[dict[str, Any]]:
    kinds = ["anon-hog", "anon-pulse", "metadata-storm"]
    kinds += ["file-writer", "file-writer", "file-reader"] if files else ["anon-hog", "anon-hog"]
    made = []
    for _ in range(draw.of(1, 1, 2)):
        kind = draw.of(*kinds)
        table: dict[str, Any] = {"kind": kind, **draw.some(20, start_ms=draw.of(1, 20, 500))}
        if kind == "anon-pulse":
            table |= {"mib": draw.between(1, mib), "hold_ms": draw.of(1, 50), "idle_ms": draw.of(1, 50), "repeats": 3}
        elif kind == "metadata-storm":
            table |= {"files": draw.of(500, 4000), "passes": draw.of(1, 2), "pinned_one_in": draw.of(0, 30)}
        else:
            processes = draw.of(1, 1, 1, 2, 3)
            table |= {
                "mib": max(1, draw.between(mib // 3, 3 * mib // 2) // processes),
                "processes": processes,
                "passes": draw.of(1, 1, 2),
                "pattern": draw.of("seq", "rand"),
                **draw.some(10, think_ns=20_000),
            }
            if kind != "anon-hog":
                table["mib"] = min(table["mib"], 3)
                table["chunk_kib"] = draw.of(4, 64, 256)
            if kind == "file-writer":
                table |= {"fsync": draw.of("end", "each", "never"), "mmap": draw.chance(25)}
        made.append(table)
    return made


def _traffic(draw: _Draw) -> dict[str, Any]:
    kind = draw.of("udp-flood", "tcp-stream", "tcp-sender")
    if kind == "tcp-sender":
        return {
            "kind": kind,
            "processes": draw.of(1, 3),
            "sockets": draw.of(1, 30),
            "messages_per_s": draw.of(100, 2000),
            "bytes": draw.of(16, 1000, 20_000),
            "peer": draw.of("reads", "stops", "gone"),
            **draw.some(30, peer_delay_us=draw.of(1000, 50_000)),
            **draw.some(30, nodelay=True),
            **draw.some(30, start_ms=10),
            "stop_ms": draw.of(50, 400),
        }
    table: dict[str, Any] = {
        "kind": kind,
        "sockets": draw.of(1, 3),
        "reader": draw.of("never", "slow", "blocked", "fast"),
        "rcvbuf_bytes": draw.of(16384, 212992, 8_000_000),
        "stop_ms": draw.of(50, 400),
        **draw.some(30, start_ms=10),
    }
    if kind == "udp-flood":
        return table | {"packets_per_s": draw.of(500, 5000), "bytes": draw.of(100, 1400, 4000)}
    return table | {"bytes_per_s": draw.of(100_000, 2_000_000)}


def _fault(draw: _Draw, storage: Mapping[str, Any], *, remote: bool) -> dict[str, Any]:
    kinds = ["stall"] if storage["kind"] == "disk" else ["stall", "reset", "server-restart"]
    if storage.get("transport") == "udp":
        # there is no connection to reset
        kinds.remove("reset")
    if remote:
        kinds += ["link-down", "loss-burst"]
    return {
        "kind": draw.of(*kinds),
        "at_ms": draw.of(0, 1, 5, 20, 100, 400),
        "for_ms": draw.of(1, 20, 300, 3000),
        **draw.some(30, after_mib=draw.of(1, 3)),
    }


# -- what must hold -------------------------------------------------------------------------------------------------


def examine(seed: int, tables: Mapping[str, Any] | None = None) -> Finding:
    """Run the scenario of a seed, or ``tables`` in its place, and say what must never be.

    A KeyboardInterrupt gives the run up, and what was found until then is told: Ctrl-C, or a caller's alarm that raises
    SIGINT. No other exception of a signal's handler will do: it may cut through the middle of a step of the model.
    """
    tables = draw_scenario(seed) if tables is None else dict(tables)
    run = None
    try:
        scenario = scenario_from(tables, origin=f"seed {seed}")
        run = _Audited(scenario, name=f"seed-{seed}")
        run_virtual(run.run)
        outcome = run.outcome()
        says_so = lost_writes(run.host) if outcome.verdict == "LOST_WRITE" else []
        wrong = [*run.found, *(line for line in outcome.audit if line not in says_so)]
        if outcome.verdict == "CORRUPT":
            wrong += outcome.explanation[-3:]
        if not seed % _RERUN_EVERY and not wrong:
            again = _Audited(scenario, name=f"seed-{seed}")
            run_virtual(again.run)
            if outcome_json(again.outcome()) != outcome_json(outcome):
                wrong.append("run again, it gives other bytes")
    except UsageError as error:
        return Finding(seed=seed, verdict=None, wrong=[f"refused: {error}"])
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  whatever it is, it is the finding
        cause = _cause(error)
        found, nr_audits = (run.found, run.nr_audits) if run is not None else ([], 0)
        if isinstance(cause, KeyboardInterrupt):
            return Finding(seed=seed, verdict=None, cut="given up", nr_audits=nr_audits, wrong=found)
        return Finding(seed=seed, verdict=None, nr_audits=nr_audits, wrong=[*found, *_told(cause)])
    return Finding(
        seed=seed,
        verdict=outcome.verdict,
        cut=_cut(run) if outcome.verdict is None else "",
        nr_audits=run.nr_audits,
        nr_pages_written=outcome.vmstat["nr_written"],
        wrong=list(dict.fromkeys(wrong)),
    )


def _cut(run: Experiment) -> str:
    """Say which budget ended a run."""
    if not run.is_up:
        return "the storage did not come up"
    done = run.world.nr_steps + run.world.nr_events
    return "steps" if done > run.scenario.run.max_steps else "virtual time"


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(error: BaseException) -> list[str]:
    where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in _frames(error)]
    return [f"{type(error).__name__}: {error}", " < ".join(reversed(where[-6:]))]


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


class _Audited(Experiment):
    """A run that is audited on the way, at twice the time each time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.found: list[str] = []
        self.nr_audits = 0

    def main(self) -> None:
        """Start the host, and the audits."""
        super().main()
        self.world.call_after(NS_PER_MS, self._audit_on_the_way, NS_PER_MS, kind=TimerKind.CLOCK)

    def _audit_on_the_way(self, after_ns: int) -> None:
        host = self.host
        self.nr_audits += 1
        found = audit_memory(host.node.zones, host.frames, host.ledger, host.lruvec, host.vmscan.shrinker)
        found += audit_pagecache(host.files.cache)
        self.found += [f"at {self.world.now_ns / NS_PER_MS:.0f} ms: {line}" for line in found[:3]]
        self.world.call_after(2 * after_ns, self._audit_on_the_way, 2 * after_ns, kind=TimerKind.CLOCK)
