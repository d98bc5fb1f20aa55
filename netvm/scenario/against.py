"""A recorded run and the emulated one side by side: ``netvm run FILE --against DIR``.

Both sides speak the kernel's words, so a row is a name, two numbers and their ratio. What one side lacks stays empty
and is said in a remark: a run that hung has no counters of its end, only the last dumps on its console; a run that
completed has no stacks; a recording made in real time beside other work has counters to trust and CPU times not to.
Nothing here judges how close is close enough.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from netvm.scenario.outcome import Outcome, ZoneReport
from netvm.scenario.recorded import Console, RecordedRun, RecordedZone

__all__ = ["Comparison", "Row", "compare"]

_COUNTERS: Final = (
    "allocstall",
    "pgscan_kswapd",
    "pgscan_direct",
    "pgscan_direct_throttle",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "pswpin",
    "pswpout",
    "pgfault",
    "pgmajfault",
    "pageoutrun",
    "kswapd_low_wmark_hit_quickly",
    "kswapd_high_wmark_hit_quickly",
    "nr_vmscan_write",
    "nr_vmscan_immediate_reclaim",
    "pgactivate",
    "pgdeactivate",
    "pgrefill",
    "pgrotated",
    "workingset_refault_anon",
    "workingset_activate_anon",
    "workingset_restore_anon",
    "swap_ra",
    "swap_ra_hit",
    "nr_dirtied",
    "nr_written",
    "nr_throttled_written",
    "pgscan_file",
    "pgsteal_file",
    "workingset_refault_file",
    "workingset_activate_file",
    "pgpgin",
    "pgpgout",
    "pgalloc_dma",
    "pgalloc_dma32",
    "pgalloc_normal",
    "pgskip_dma",
    "pgskip_dma32",
    "pgskip_normal",
    "pgfree",
    "slabs_scanned",
    "compact_stall",
    "compact_daemon_wake",
    "compact_migrate_scanned",
    "compact_free_scanned",
    "compact_isolated",
    "pgmigrate_success",
    "pgmigrate_fail",
    "oom_kill",
)
"""Counters of /proc/vmstat that tell how reclaim, swap and writeback went; ``allocstall`` is the sum over zones."""

_NETSTAT: Final = (
    "TCPOrigDataSent",
    "TCPDelivered",
    "InNoECTPkts",
    "InOctets",
    "OutOctets",
    "DelayedACKs",
    "TCPTimeouts",
    "TCPFromZeroWindowAdv",
    "TCPToZeroWindowAdv",
    "TCPWantZeroWindowAdv",
    "TCPZeroWindowDrop",
    "TCPRcvQDrop",
    "TCPBacklogDrop",
    "TCPMemoryPressures",
    "PruneCalled",
    "PFMemallocDrop",
)
"""Counters of /proc/net/netstat that tell how much the storage's traffic was, and what of it was refused."""

_LATENCIES: Final = {"count": "dr_n", "p50": "dr_p50_us", "p90": "dr_p90_us", "p99": "dr_p99_us", "max": "dr_max_us"}
"""Our field to that of summary.json."""

_HANGS: Final = ("HANG", "LIVELOCK")
_COMPLETIONS: Final = ("COMPLETED", "STALL")
_KILLS: Final = ("OOM",)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on both sides; ``None`` where a side does not have it."""

    name: str
    recorded: float | None
    emulated: float | None

    ratio: float | None = None
    """Emulated over recorded; 1 if both are zero."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be held side by side; under ``against`` in the JSON."""

    run: str
    recorded_verdict: str
    """``completed`` or ``hung``, and what the recording says about it."""
    emulated_verdict: str | None
    agree: bool | None
    """``None`` if the emulated run was cut off."""
    watermarks: list[Row] = []
    """Pages."""
    counters: list[Row] = []
    netstat: list[Row] = []
    """Of /proc/net/netstat: packets count in frames, octets with their headers."""
    latencies_us: list[Row] = []
    """Direct reclaim."""
    times_s: list[Row] = []
    at_the_hang: list[Row] = []
    """Pages, from the last dump of a console."""
    recorded_tasks: list[str] = []
    """Stuck tasks of the recording: name, state, stack from where it sleeps outwards."""
    emulated_explanation: list[str] = []
    remarks: list[str] = []


def compare(run: RecordedRun, outcome: Outcome) -> Comparison:
    """Return ``run`` and ``outcome`` side by side."""
    hung = run.config.verdict != "completed"
    as_recorded = _HANGS if hung else _KILLS if run.config.oom_killed else _COMPLETIONS
    agree = None if outcome.verdict is None else outcome.verdict in as_recorded
    detail = run.config.verdict_detail
    return Comparison(
        run=run.config.run,
        recorded_verdict=detail if run.config.verdict in detail else f"{run.config.verdict} {detail}".strip(),
        emulated_verdict=outcome.verdict,
        agree=agree,
        watermarks=list(_watermarks(run.zones, outcome.zones)),
        counters=list(_counters(run, outcome.vmstat)) if run.vmstat or run.summary else [],
        netstat=list(_netstat(run.netstat, outcome.netstat)),
        latencies_us=list(_latencies(run, outcome)) if "dr_n" in run.summary else [],
        times_s=list(_times(run, outcome)),
        at_the_hang=list(_at_the_hang(run.console, outcome)) if run.console else [],
        recorded_tasks=_tasks(run.console) if run.console else [],
        emulated_explanation=outcome.explanation,
        remarks=list(_remarks(run, outcome)),
    )


def _watermarks(recorded: tuple[RecordedZone, ...], emulated: list[ZoneReport]) -> Iterator[Row]:
    ours = {zone.name: zone for zone in emulated}
    for zone in recorded:
        own = ours.get(zone.name)
        for mark in ("managed", "min", "low", "high"):
            yield _row(
                name=f"{zone.name} {mark}",
                recorded=getattr(zone, mark),
                emulated=None if own is None else getattr(own, mark),
            )
        for index, protection in enumerate(zone.protection):
            known = own is not None and index < len(own.protection)
            if protection and own is not None and known:
                yield _row(name=f"{zone.name} protection[{index}]", recorded=protection, emulated=own.protection[index])


def _counters(run: RecordedRun, emulated: Mapping[str, int]) -> Iterator[Row]:
    for name in _COUNTERS:
        theirs, ours = _counter(run.vmstat, name), _counter(emulated, name)
        if theirs is None:
            value = run.summary.get(name)
            theirs = value if isinstance(value, int) else None
        if theirs or ours:
            yield _row(name=name, recorded=theirs, emulated=ours)


def _netstat(recorded: Mapping[str, int], emulated: Mapping[str, int]) -> Iterator[Row]:
    for name in _NETSTAT:
        if name in recorded and (recorded[name] or emulated.get(name)):
            yield _row(name=name, recorded=recorded[name], emulated=emulated.get(name, 0))


def _counter(vmstat: Mapping[str, int], name: str) -> int | None:
    if name != "allocstall" or name in vmstat:
        return vmstat.get(name)
    zones = [value for key, value in vmstat.items() if key.startswith("allocstall_")]
    return sum(zones) if zones else None


def _latencies(run: RecordedRun, outcome: Outcome) -> Iterator[Row]:
    for ours, theirs in _LATENCIES.items():
        yield _row(
            name=ours,
            recorded=_number(run.summary.get(theirs)),
            emulated=getattr(outcome.direct_reclaim_latency_us, ours),
        )


def _times(run: RecordedRun, outcome: Outcome) -> Iterator[Row]:
    """Generate the time of the program and of each of its passes."""
    program = outcome.workload[0] if outcome.workload else None
    finished = program is not None and program.finished
    recorded = _number(run.summary.get("prog_s"))
    if recorded is not None or finished:
        yield _row(name="program", recorded=recorded, emulated=program.total_s if program and finished else None)
    ours = [p.total_ns / 1e9 for p in program.passes] if program else []
    theirs = [ns / 1e9 for ns in run.passes_ns]
    for index in range(len(theirs)):
        yield _row(name=f"pass {index}", recorded=theirs[index], emulated=ours[index] if index < len(ours) else None)


def _at_the_hang(console: Console, outcome: Outcome) -> Iterator[Row]:
    ended = outcome.verdict in _HANGS
    vmstat = outcome.vmstat if ended else {}
    if console.writeback is not None:
        yield _row(name="nr_writeback", recorded=console.writeback, emulated=vmstat.get("nr_writeback"))
    if console.free is not None:
        yield _row(name="nr_free_pages", recorded=console.free, emulated=vmstat.get("nr_free_pages"))
    reached = re.search(r"pass=0 idx=(\d+)", console.reached)
    if reached:
        passes = outcome.workload[0].passes if outcome.workload and ended else []
        yield _row(name="pages touched", recorded=int(reached[1]), emulated=passes[0].touches if passes else None)


def _tasks(console: Console) -> list[str]:
    tasks = [f"{task.name} {task.state}: {' < '.join(task.stack) or '(no stack)'}" for task in console.tasks]
    return tasks + [f"page allocation failure: {failure}" for failure in console.allocation_failures]


def _remarks(run: RecordedRun, outcome: Outcome) -> Iterator[str]:
    """Generate what each side cannot say."""
    if run.config.verdict != "completed":
        yield "the recorded run hung: it has no counters of its end"
    if not run.zones:
        yield "the recorded run saved no /proc: its watermarks are not known"
    console = run.console
    if console is not None and console.writeback is None:
        end = f", which ends in: {console.panic}" if console.panic else ""
        yield f"no memory or task dump on the recorded console{end}"
    if run.summary.get("trace_dropped"):
        yield f"{run.summary['trace_dropped']} trace events were lost in the recording: mistrust its latencies"
    if "real time" in run.config.cpu_speed and "per instruction" not in run.config.cpu_speed:
        yield "recorded in real time beside other work: trust its counters, not its CPU times"
    if outcome.partial:
        yield f"the emulated run was cut off ({outcome.partial}): its figures are those until then"
    elif outcome.verdict in _HANGS and run.config.verdict == "completed":
        yield "the emulated run hung: its counters stop there"


def _row(*, name: str, recorded: float | None, emulated: float | None) -> Row:
    ratio = None
    if recorded is not None and emulated is not None:
        both_zero = recorded == 0 == emulated
        ratio = 1.0 if both_zero else None if recorded == 0 else round(emulated / recorded, 4)
    return Row(name=name, recorded=recorded, emulated=emulated, ratio=ratio)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
