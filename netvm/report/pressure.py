"""Pressure stall information, from a recording: how much of the time somebody, or everybody, waited for memory.

Computed by the kernel's rule (kernel/sched/psi.c of 6.1): *some* is the time in which at least one task is in a
memory-stall section, *full* the time in which one is and no other is runnable, or in which the task that has the CPU is
in one: then nothing productive could run even if it were runnable (psi_group_change). The averages are updated every
two seconds: each update decays the old one by ``exp(-2 s/window)`` in fixed point of 11 bits and adds the share of the
period.

The sections are those of the kernel as far as they are recorded: direct reclaim, kswapd's ``balance_pgdat`` (from a
wake to its last event before it goes to sleep again), and swap-in. Whether anybody else works ``sched_switch`` tells,
better with ``sched_wakeup``: a task is runnable from its wake-up, or its first run, until it is switched out asleep.
Then each CPU is looked at by itself, and a period's share is that of the CPUs weighted by the time each was not idle.
A task counts, stalled or runnable, on the CPU it is on (task_cpu): where it was woken or ran last, asleep too, until it
is woken, or seen to run, somewhere else. Without those events the host is looked at as one CPU and *full* is not known
and stays ``None``.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import BY_NAME

__all__ = ["Averages", "Pressure", "PressureMeter", "Stall", "averages", "minus", "union_ns"]

PSI_PERIOD_NS: Final = 2_000_000_000
PERIODS_MAX: Final = 1 << 15
"""Eighteen hours: what came before has left the average of 300 s. One wrong time makes a recording centuries long."""
_FIXED_1: Final = 2048
_EXP: Final = {"avg10": 1677, "avg60": 1981, "avg300": 2034}

Sections = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Interval = tuple[int, int]

_SWITCH: Final = BY_NAME["sched_switch"].number
_WAKEUP: Final = BY_NAME["sched_wakeup"].number
_SLEEPS, _PREEMPTED, _RUNS, _WOKEN = range(4)
"""What a step of the scheduler does with a task."""
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
    """Return how many nanoseconds of each whole period are covered, of the last :data:`PERIODS_MAX` at most."""
    nr_periods = max(0, end_ns - begin_ns) // PSI_PERIOD_NS
    first = max(0, nr_periods - PERIODS_MAX)
    edges = begin_ns + PSI_PERIOD_NS * np.arange(first, nr_periods + 1, dtype=np.int64)
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


class _Times:
    """When tasks were what, by CPU and pid, and where each task was."""

    def __init__(self) -> None:
        self.runnable: dict[int, dict[int, list[Interval]]] = defaultdict(lambda: defaultdict(list))
        self.running: dict[int, dict[int, list[Interval]]] = defaultdict(lambda: defaultdict(list))
        self.places: dict[int, list[tuple[int, int]]] = {}
        """By pid: from when on it was on which CPU."""

    def follow(self, pid: int, steps: Iterator[list[int]], begin_ns: int, end_ns: int) -> None:
        """Take a task through its steps, rows of time, CPU, pid and what it does, in order."""
        here = awake_ns = runs_ns = -1
        places = self.places.setdefault(pid, [])
        for time_ns, cpu, _, what, _ in steps:
            if here < 0 and what in (_SLEEPS, _PREEMPTED):
                # who is first seen as it lets go of its CPU has had it from the beginning
                awake_ns = runs_ns = begin_ns
            elif cpu != here and awake_ns >= 0:
                self.runnable[here][pid].append((awake_ns, time_ns))
                awake_ns = time_ns
            if cpu != here:
                places.append((time_ns, cpu))
                here = cpu
            if what in (_SLEEPS, _PREEMPTED) and runs_ns >= 0:
                self.running[cpu][pid].append((runs_ns, time_ns))
                runs_ns = -1
            if what == _RUNS:
                runs_ns = time_ns
            if what != _SLEEPS:
                awake_ns = time_ns if awake_ns < 0 else awake_ns
            elif awake_ns >= 0:
                self.runnable[cpu][pid].append((awake_ns, time_ns))
                awake_ns = -1
        for since_ns, intervals in ((awake_ns, self.runnable), (runs_ns, self.running)):
            if since_ns >= 0:
                intervals[here][pid].append((since_ns, end_ns))

    def parts(self, stall: Stall) -> Iterator[Stall]:
        """Generate a stall piece by piece, each on the CPU where the task was."""
        since_ns, here = stall.begin_ns, stall.cpu
        places = self.places.get(stall.pid, [])
        for time_ns, cpu in places[bisect_right(places, since_ns, key=itemgetter(0)) :]:
            if time_ns >= stall.end_ns:
                break
            if cpu != here:
                yield Stall(since_ns, time_ns, stall.pid, here)
                since_ns, here = time_ns, cpu
        yield Stall(since_ns, stall.end_ns, stall.pid, here)


class PressureMeter:
    """Takes the scheduler's events of a recording and, at its end, the stalls of its tasks."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self._steps: list[Sections] = []
        """Rows of time, CPU, pid, what the task does, and the place in the recording."""
        self._nr_steps = 0
        self._nr_seen = 0
        self._has_switches = False

    def add(self, records: RecordArray) -> None:
        """Take a batch."""
        rows = np.flatnonzero(np.isin(records["event"], (_SWITCH, _WAKEUP)))
        place = self._nr_seen + rows
        self._nr_seen += len(records)
        if self._nr_steps > _EVENTS_MAX or not len(rows):
            return
        found = records[rows]
        switches = found["event"] == _SWITCH
        self._has_switches |= bool(switches.any())
        args = found["args"]
        states = np.unique(args[switches, 3])
        awake = states[[self.recorded.names[int(state)].startswith("R") for state in states]]
        leaves = np.where(np.isin(args[:, 3], awake), _PREEMPTED, _SLEEPS)
        cpu = found["cpu"].astype(np.int64)
        for which, where, pid, what in (
            (switches, cpu, args[:, 1], leaves),
            (switches, cpu, args[:, 5], np.full(len(rows), _RUNS)),
            (~switches, args[:, 3], args[:, 1], np.full(len(rows), _WOKEN)),
        ):
            # the idle task is never runnable
            step = np.stack([found["time_ns"], where, pid, what, place], axis=1)[which & (pid != 0)]
            self._steps.append(step)
            self._nr_steps += len(step)

    def pressure(self, stalls: list[Stall], begin_ns: int, end_ns: int) -> Pressure:
        """Return the pressure at the end of a recording."""
        sections = np.array([stall[:2] for stall in stalls], dtype=np.int64).reshape(-1, 2)
        if not self._has_switches or self._nr_steps > _EVENTS_MAX:
            return Pressure(some=averages(sections, begin_ns, end_ns), full=None)
        times = _Times()
        steps = np.concatenate(self._steps)
        ordered = steps[np.lexsort((steps[:, 4], steps[:, 0], steps[:, 2]))]
        for pid, of_task in groupby(ordered.tolist(), key=itemgetter(2)):
            times.follow(pid, of_task, begin_ns, end_ns)
        by_pid: dict[int, list[Interval]] = defaultdict(list)
        by_cpu: dict[int, list[Interval]] = defaultdict(list)
        for stall in stalls:
            by_pid[stall.pid].append(stall[:2])
            for part in times.parts(stall):
                by_cpu[part.cpu].append(part[:2])
        holes = {pid: _pairs(_united(intervals)) for pid, intervals in by_pid.items()}
        some, full, weights = [], [], []
        covered: dict[str, list[Sections]] = {"some": [_united([])], "full": [_united([])]}
        for cpu in sorted({*times.runnable, *by_cpu}):
            stalled, alone, busy = (np.clip(part, begin_ns, end_ns) for part in _of_cpu(by_cpu[cpu], times, cpu, holes))
            some.append(_by_period(stalled, begin_ns, end_ns))
            full.append(_by_period(alone, begin_ns, end_ns))
            weights.append(_by_period(busy, begin_ns, end_ns))
            covered["some"].append(stalled)
            covered["full"].append(alone)
        return Pressure(
            some=_averages(_weighted(some, weights), union_ns(np.concatenate(covered["some"]))),
            full=_averages(_weighted(full, weights), union_ns(np.concatenate(covered["full"]))),
        )


def _of_cpu(
    stalls: list[Interval], times: _Times, cpu: int, holes: dict[int, list[Interval]]
) -> tuple[Sections, Sections, Sections]:
    """Return when some task of a CPU was stalled, when nothing else could be done on it, and when it was not idle.

    ``holes`` are the stalls of each task, wherever it was.
    """
    working: list[Interval] = []
    everything = list(stalls)
    for pid, intervals in times.runnable[cpu].items():
        working += minus(intervals, holes.get(pid, []))
        everything += intervals
    reclaiming: list[Interval] = []
    for pid, intervals in times.running[cpu].items():
        if pid in holes:
            reclaiming += minus(intervals, minus(intervals, holes[pid]))
    stalled = _united(stalls)
    alone = _united([*minus(_pairs(stalled), _pairs(_united(working))), *reclaiming])
    return stalled, alone, _united(everything)


def _united(intervals: list[Interval]) -> Sections:
    return union_ns(np.array(intervals, dtype=np.int64).reshape(-1, 2))


def _weighted(shares: list[Floats], weights: list[Floats]) -> Floats:
    """Return the CPUs' times weighted by how long each was not idle."""
    whole = np.sum(weights, axis=0)
    sums: Floats = np.sum(np.array(shares) * np.array(weights), axis=0)
    shared: Floats = np.divide(sums, whole, out=np.zeros_like(sums), where=whole > 0)
    return shared


def _pairs(sections: Sections) -> list[Interval]:
    return [(begin, end) for begin, end in sections.tolist()]
