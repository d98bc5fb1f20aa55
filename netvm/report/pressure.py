"""Pressure stall information, from a recording: how much of the time somebody, or everybody, waited for memory.

Computed by the kernel's rule (kernel/sched/psi.c): *some* is the time in which at least one task is in a memory-stall
section, *full* the time in which a task is and no other works. The averages are updated every two seconds: each
update decays the old one by ``exp(-2 s/window)`` in fixed point of 11 bits and adds the share of the period.

The sections are those of the kernel as far as they are recorded: direct reclaim, kswapd's ``balance_pgdat`` (from a
wake to its last event before it goes to sleep again), and swap-in. Whether anybody else works ``sched_switch`` tells,
better with ``sched_wakeup``: a task is runnable from its wake-up, or its first run, until it is switched out asleep.
Then each CPU is looked at by itself, and a period's share is that of the CPUs weighted by the time each was not idle.
Without those events the host is looked at as one CPU and *full* is not known and stays ``None``.

# MODEL: a stalled task counts on the CPU where its stall began, a runnable one where it was switched out.
"""

from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import BY_NAME

__all__ = ["Averages", "Pressure", "PressureMeter", "Stall", "averages", "minus", "union_ns"]

PSI_PERIOD_NS: Final = 2_000_000_000
_FIXED_1: Final = 2048
_EXP: Final = {"avg10": 1677, "avg60": 1981, "avg300": 2034}

Sections = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Interval = tuple[int, int]

_SWITCH: Final = BY_NAME["sched_switch"].number
_WAKEUP: Final = BY_NAME["sched_wakeup"].number
_EVENTS_MAX: Final = 8_000_000
"""Scheduler events that are kept; in a longer recording *full* is not known."""


class Averages(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``/proc/pressure/memory``: percent, and microseconds in total."""

    avg10: float
    avg60: float
    avg300: float
    total_us: float


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """``/proc/pressure/memory`` at the end of a recording."""

    some: Averages
    full: Averages | None


def union_ns(sections: Sections) -> Sections:
    """Return disjoint sections that cover the same time; shape ``(n, 2)``, nanoseconds, in order."""
    if not len(sections):
        return sections.reshape(0, 2)
    ordered = sections[np.argsort(sections[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1])
    first = np.ones(len(ordered), dtype=np.bool_)
    first[1:] = ordered[1:, 0] > reach[:-1]
    starts = ordered[first, 0]
    last = np.append(np.flatnonzero(first)[1:] - 1, len(ordered) - 1)
    return np.stack([starts, reach[last]], axis=1)


def averages(sections: Sections, begin_ns: int, end_ns: int) -> Averages:
    """Return the averages at ``end_ns`` of one CPU that was stalled in ``sections``."""
    covered = np.clip(union_ns(sections), begin_ns, end_ns)
    return _averages(_by_period(covered, begin_ns, end_ns), covered)


def _averages(stalled_ns: Floats, covered: Sections) -> Averages:
    """Let the kernel's loop run over the nanoseconds stalled in each period."""
    fixed = dict.fromkeys(_EXP, 0)
    for period_ns in stalled_ns.tolist():
        percent = int(period_ns) * 100 * _FIXED_1 // PSI_PERIOD_NS
        for name, factor in _EXP.items():
            old = fixed[name] * factor + percent * (_FIXED_1 - factor)
            # the kernel rounds up while the pressure rises
            fixed[name] = (old + _FIXED_1 - 1 if percent >= fixed[name] else old) // _FIXED_1
    total_ns = int((covered[:, 1] - covered[:, 0]).sum())
    return Averages(**{name: round(value / _FIXED_1, 2) for name, value in fixed.items()}, total_us=total_ns / 1000)


def _by_period(covered: Sections, begin_ns: int, end_ns: int) -> Floats:
    """Return how many nanoseconds of each whole period are covered."""
    nr_periods = max(0, end_ns - begin_ns) // PSI_PERIOD_NS
    edges = begin_ns + PSI_PERIOD_NS * np.arange(nr_periods + 1, dtype=np.int64)
    return np.diff(_covered_until(covered, edges)).astype(np.float64)


def _covered_until(covered: Sections, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how much of the time before each edge is covered."""
    if not len(covered):
        return np.zeros(len(edges), dtype=np.int64)
    lengths = covered[:, 1] - covered[:, 0]
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    index = np.searchsorted(covered[:, 0], edges, side="right")
    over = np.where(index > 0, np.maximum(covered[np.maximum(index - 1, 0), 1] - edges, 0), 0)
    until: npt.NDArray[np.int64] = before[index] - over
    return until


def minus(whole: list[Interval], holes: list[Interval]) -> list[Interval]:
    """Return what is left of sorted, disjoint intervals without others."""
    left: list[Interval] = []
    at = 0
    for begin, end in whole:
        while at < len(holes) and holes[at][1] <= begin:
            at += 1
        place = begin
        for hole_begin, hole_end in holes[at:]:
            if hole_begin >= end:
                break
            if hole_begin > place:
                left.append((place, hole_begin))
            place = max(place, hole_end)
        if place < end:
            left.append((place, end))
    return left


class Stall(NamedTuple):
    """A section in which a task is stalled on memory."""

    begin_ns: int
    end_ns: int
    pid: int
    cpu: int


class PressureMeter:
    """Takes the scheduler's events of a recording and, at its end, the stalls of its tasks."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self._steps: list[Sections] = []
        """Rows of time, CPU, pid, and whether it became runnable (1) or went to sleep (0)."""
        self._nr_steps = 0
        self._has_switches = False

    def add(self, records: RecordArray) -> None:
        """Take a batch."""
        switches = records[records["event"] == _SWITCH]
        wakeups = records[records["event"] == _WAKEUP]
        if self._nr_steps > _EVENTS_MAX or not len(switches) + len(wakeups):
            return
        self._has_switches |= bool(len(switches))
        args = switches["args"]
        states = np.unique(args[:, 3])
        awake = states[[self.recorded.names[int(state)].startswith("R") for state in states]]
        slept = ~np.isin(args[:, 3], awake)
        for rows, pid, runnable in (
            (switches[slept], args[slept, 1], 0),
            (switches, args[:, 5], 1),
            (wakeups, wakeups["args"][:, 1], 1),
        ):
            cpu = wakeups["args"][:, 3] if rows is wakeups else rows["cpu"].astype(np.int64)
            step = np.stack([rows["time_ns"], cpu, pid, np.full(len(rows), runnable)], axis=1)
            # the idle task is never runnable
            self._steps.append(step[step[:, 2] != 0])
        self._nr_steps = sum(map(len, self._steps))

    def pressure(self, stalls: list[Stall], begin_ns: int, end_ns: int) -> Pressure:
        """Return the pressure at the end of a recording."""
        sections = np.array([stall[:2] for stall in stalls], dtype=np.int64).reshape(-1, 2)
        if not self._has_switches or self._nr_steps > _EVENTS_MAX:
            return Pressure(some=averages(sections, begin_ns, end_ns), full=None)
        runnable = self._runnable(begin_ns, end_ns)
        cpus = sorted({*runnable, *(stall.cpu for stall in stalls)})
        some, full, weights = [], [], []
        covered: dict[str, list[Sections]] = {"some": [], "full": []}
        for cpu in cpus:
            mine = [stall for stall in stalls if stall.cpu == cpu]
            stalled, productive, busy = _of_cpu(mine, runnable.get(cpu, {}), begin_ns, end_ns)
            alone = np.array(minus(_pairs(stalled), _pairs(productive)), dtype=np.int64).reshape(-1, 2)
            some.append(_by_period(stalled, begin_ns, end_ns))
            full.append(_by_period(alone, begin_ns, end_ns))
            weights.append(_by_period(busy, begin_ns, end_ns))
            covered["some"].append(stalled)
            covered["full"].append(alone)
        return Pressure(
            some=_averages(_weighted(some, weights), union_ns(np.concatenate(covered["some"]))),
            full=_averages(_weighted(full, weights), union_ns(np.concatenate(covered["full"]))),
        )

    def _runnable(self, begin_ns: int, end_ns: int) -> dict[int, dict[int, list[Interval]]]:
        """Return when each task was runnable, by CPU and pid."""
        found: dict[int, dict[int, list[Interval]]] = {}
        steps = np.concatenate(self._steps)
        # at one instant a task is woken before it goes to sleep again
        order = np.lexsort((-steps[:, 3], steps[:, 0], steps[:, 2]))
        pid_before, since = -1, -1
        cpu_before = 0
        for time_ns, cpu, pid, on in steps[order].tolist():
            if pid != pid_before:
                if since >= 0:
                    found.setdefault(cpu_before, {}).setdefault(pid_before, []).append((since, end_ns))
                # who goes to sleep first has been runnable from the beginning
                pid_before, since = pid, (-1 if on else begin_ns)
            if on:
                since = time_ns if since < 0 else since
            elif since >= 0:
                found.setdefault(cpu, {}).setdefault(pid, []).append((since, time_ns))
                since = -1
            cpu_before = cpu
        if since >= 0:
            found.setdefault(cpu_before, {}).setdefault(pid_before, []).append((since, end_ns))
        return found


def _of_cpu(
    stalls: list[Stall], runnable: dict[int, list[Interval]], begin_ns: int, end_ns: int
) -> tuple[Sections, Sections, Sections]:
    """Return when some task of a CPU was stalled, when one worked that was not, and when it was not idle."""
    own: dict[int, list[Interval]] = {}
    for stall in stalls:
        own.setdefault(stall.pid, []).append(stall[:2])
    working: list[Interval] = []
    for pid, intervals in runnable.items():
        holes = _pairs(union_ns(np.array(own[pid], dtype=np.int64))) if pid in own else []
        working += minus(intervals, holes) if holes else intervals
    everything = [interval for intervals in runnable.values() for interval in intervals]
    sections = np.array([stall[:2] for stall in stalls], dtype=np.int64).reshape(-1, 2)
    arrays = [np.array(part, dtype=np.int64).reshape(-1, 2) for part in (working, everything)]
    stalled, productive = (np.clip(union_ns(part), begin_ns, end_ns) for part in (sections, arrays[0]))
    busy = np.clip(union_ns(np.concatenate([sections, arrays[1]])), begin_ns, end_ns)
    return stalled, productive, busy


def _weighted(shares: list[Floats], weights: list[Floats]) -> Floats:
    """Return the CPUs' times weighted by how long each was not idle."""
    whole = np.sum(weights, axis=0)
    sums: Floats = np.sum(np.array(shares) * np.array(weights), axis=0)
    shared: Floats = np.divide(sums, whole, out=np.zeros_like(sums), where=whole > 0)
    return shared


def _pairs(sections: Sections) -> list[Interval]:
    return [(begin, end) for begin, end in sections.tolist()]
