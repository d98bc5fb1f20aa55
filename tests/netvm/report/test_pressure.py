"""Pressure stall information, held against a bitmap of the time and the kernel's loop."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.report.pressure import PressureMeter, Stall, averages, minus, union_ns
from netvm.trace.records import RECORD, Recorded
from netvm.trace.tracepoints import BY_NAME

_SECTIONS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12)


@given(_SECTIONS)
def test_a_union_covers_what_its_parts_do(sections: list[list[int]]) -> None:
    """Sections that overlap or touch become disjoint ones that cover the same instants."""
    array = np.array(sections, dtype=np.int64).reshape(-1, 2)
    covered = {t for begin, end in sections for t in range(begin, end)}
    union = union_ns(array).tolist()
    assert {t for begin, end in union for t in range(begin, end)} == covered
    assert all(a[1] < b[0] for a, b in itertools.pairwise(union))


@given(_SECTIONS, _SECTIONS)
def test_what_is_left_has_no_holes(whole: list[list[int]], holes: list[list[int]]) -> None:
    """Intervals without others cover exactly the instants that only the first have."""
    union = [union_ns(np.array(part, dtype=np.int64).reshape(-1, 2)).tolist() for part in (whole, holes)]
    left = minus(*([(begin, end) for begin, end in part] for part in union))
    expected = {t for begin, end in whole for t in range(begin, end)} - {t for b, e in holes for t in range(b, e)}
    assert {t for begin, end in left for t in range(begin, end)} == expected


@given(_SECTIONS)
def test_averages_follow_the_kernels_loop(sections: list[list[int]]) -> None:
    """Every two seconds the average decays and takes in the period's share, in fixed point of 11 bits."""
    second = 1_000_000_000
    array = np.array(sections, dtype=np.int64).reshape(-1, 2) * second
    got = averages(array, 0, 61 * second)
    covered = {t for begin, end in sections for t in range(begin, end)}
    assert got.total_us == len(covered) * 1_000_000
    average = 0
    for period in range(30):
        percent = len(covered & {2 * period, 2 * period + 1}) * 50 * 2048
        value = average * 1677 + percent * (2048 - 1677)
        average = (value + 2047 if percent >= average else value) // 2048
    assert got.avg10 == round(average / 2048, 2)


def test_one_time_that_is_far_away_costs_no_memory() -> None:
    """Of a recording that seems to last for centuries the averages are those of its last hours."""
    year_ns = 365 * 86400 * 1_000_000_000
    sections = np.array([[0, 60_000_000_000], [200 * year_ns - 40_000_000_000, 200 * year_ns]], dtype=np.int64)
    late = sections[1:] - (200 * year_ns - 40_000_000_000)
    far, near = averages(sections, 0, 200 * year_ns), averages(late, 0, 40_000_000_000)
    assert (far.avg10, far.avg60, far.avg300) == (near.avg10, near.avg60, near.avg300)
    assert far.total_us == 100_000_000


def test_constant_pressure_becomes_the_average() -> None:
    """A stall that lasts is 100 % after a while, and decays by 1/e in the window after it ends."""
    second = 1_000_000_000
    stall = np.array([[0, 600 * second]])
    assert averages(stall, 0, 600 * second).avg10 == pytest.approx(100, abs=0.1)
    assert averages(stall, 0, 610 * second).avg10 == pytest.approx(36.8, abs=0.3)
    assert averages(stall[:0], 0, 10 * second).avg10 == 0


_STEPS = st.lists(
    st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from(["wake", "sleep", "stall", "unstall"])), max_size=24
)


@given(_STEPS)
def test_full_is_when_nobody_works(steps: list[tuple[int, str]]) -> None:
    """Second by second: full is when some task is stalled and no runnable one is not, as psi_task_change counts."""
    second = 1_000_000_000
    recorded = Recorded()
    name = recorded.names.intern
    meter = PressureMeter(recorded)
    runnable: set[int] = set()
    stalled: dict[int, int] = {}
    some = full = 0
    rows: list[tuple[int, str, tuple[int, ...]]] = [
        (0, "sched_switch", (name("swapper"), 0, 120, name("R"), name("x"), 9, 120)),
        (0, "sched_switch", (name("x"), 9, 120, name("S"), name("swapper"), 0, 120)),
    ]
    stalls: list[Stall] = []
    for at, (pid, what) in enumerate(steps):
        if what == "wake" and pid not in runnable:
            runnable.add(pid)
            rows.append((at, "sched_wakeup", (name("t"), pid, 120, 0)))
        elif what == "sleep" and pid in runnable:
            runnable.discard(pid)
            rows.append((at, "sched_switch", (name("t"), pid, 120, name("D"), name("swapper"), 0, 120)))
        elif what == "stall" and pid not in stalled:
            stalled[pid] = at
        elif what == "unstall" and pid in stalled:
            stalls.append(Stall(stalled.pop(pid) * second, at * second, pid, 0))
        # until the next step
        some += bool(stalled)
        full += bool(stalled) and runnable <= set(stalled)
    stalls += [Stall(at * second, len(steps) * second, pid, 0) for pid, at in stalled.items()]
    records = np.zeros(len(rows), dtype=RECORD)
    for record, (at, event, args) in zip(records, rows, strict=True):
        record["time_ns"], record["event"] = at * second, BY_NAME[event].number
        record["args"][: len(args)] = args
    meter.add(records)
    pressure = meter.pressure(stalls, 0, len(steps) * second)
    assert pressure.some.total_us == some * 1_000_000
    assert pressure.full is not None
    assert pressure.full.total_us == full * 1_000_000


def test_full_is_unknown_without_switches() -> None:
    """Nothing says who else worked: full is not known, and some is that of the sections."""
    second = 1_000_000_000
    pressure = PressureMeter(Recorded()).pressure([Stall(0, second, 1, 0), Stall(0, second, 2, 1)], 0, 4 * second)
    assert pressure.full is None
    assert pressure.some.total_us == 1_000_000


def test_cpus_weigh_by_their_work() -> None:
    """A CPU that idles does not water the others' pressure down; one that works does."""
    second = 1_000_000_000
    recorded = Recorded()
    name = recorded.names.intern
    records = np.zeros(2, dtype=RECORD)
    records["event"] = BY_NAME["sched_switch"].number
    records["args"][:, :7] = (name("swapper"), 0, 120, name("R"), name("x"), 9, 120)
    records["cpu"] = 1
    averages_of = []
    for nr in (0, 2):
        meter = PressureMeter(recorded)
        first = np.zeros(1, dtype=RECORD)
        first["event"] = BY_NAME["sched_switch"].number
        first["args"][0, :7] = (name("t"), 5, 120, name("D"), name("swapper"), 0, 120)
        meter.add(np.concatenate([first, records[:nr]]))
        averages_of.append(meter.pressure([Stall(0, 60 * second, 5, 0)], 0, 60 * second))
    idle, busy = averages_of
    assert idle.some.avg10 > 99
    assert busy.some.avg10 == pytest.approx(idle.some.avg10 / 2, abs=0.5)


_MOVES = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.sampled_from(["wake", "run", "sleep", "preempt", "stall", "unstall"]),
        st.integers(0, 1),
    ),
    max_size=24,
)


class _PlainHost:
    """Two tasks on two CPUs, as psi_group_change counts them: who stalls, who could run, who runs, and where."""

    def __init__(self) -> None:
        self.place = {1: 0, 2: 0}
        self.awake: set[int] = set()
        self.stalled: set[int] = set()
        self.current: dict[int, int] = {}

    def shares(self) -> dict[str, set[int]]:
        """Return the CPUs on which there is some pressure, and those on which it is full."""
        some = {self.place[pid] for pid in self.stalled}
        working = {self.place[pid] for pid in self.awake - self.stalled}
        return {"some": some, "full": (some - working) | {c for c, pid in self.current.items() if pid in self.stalled}}


@given(_MOVES)
def test_a_task_counts_where_it_is(moves: list[tuple[int, str, int]]) -> None:
    """Second by second and CPU by CPU as the kernel counts, with tasks that are woken and run on either CPU."""
    second = 1_000_000_000
    recorded = Recorded()
    name = recorded.names.intern
    swapper = (name("swapper"), 0, 120)
    host = _PlainHost()
    rows: list[tuple[int, int, str, tuple[int, ...]]] = []
    begun: dict[int, tuple[int, int]] = {}
    stalls: list[Stall] = []
    seconds = {"some": 0, "full": 0}
    # both tasks are seen once, asleep on CPU 0
    for pid in (1, 2):
        rows.append((0, 0, "sched_switch", (*swapper, name("R"), name("t"), pid, 120)))
        rows.append((0, 0, "sched_switch", (name("t"), pid, 120, name("S"), *swapper)))
    for at, (pid, what, cpu) in enumerate(moves):
        running = next((where for where, who in host.current.items() if who == pid), None)
        if what == "wake" and pid not in host.awake:
            host.awake.add(pid)
            host.place[pid] = cpu
            rows.append((at, 1 - cpu, "sched_wakeup", (name("t"), pid, 120, cpu)))
        elif what == "run" and pid in host.awake and running is None and cpu not in host.current:
            host.place[pid] = cpu
            host.current[cpu] = pid
            rows.append((at, cpu, "sched_switch", (*swapper, name("R"), name("t"), pid, 120)))
        elif what in ("sleep", "preempt") and running is not None:
            del host.current[running]
            host.awake -= {pid} if what == "sleep" else set()
            state = name("D" if what == "sleep" else "R+")
            rows.append((at, running, "sched_switch", (name("t"), pid, 120, state, *swapper)))
        elif what == "stall" and pid not in host.stalled:
            host.stalled.add(pid)
            begun[pid] = (at, host.place[pid])
        elif what == "unstall" and pid in host.stalled:
            host.stalled.discard(pid)
            since, where = begun.pop(pid)
            stalls.append(Stall(since * second, at * second, pid, where))
        for kind, cpus in host.shares().items():
            seconds[kind] += bool(cpus)
    stalls += [Stall(since * second, len(moves) * second, pid, where) for pid, (since, where) in begun.items()]
    records = np.zeros(len(rows), dtype=RECORD)
    for record, (at, cpu, event, args) in zip(records, rows, strict=True):
        record["time_ns"], record["cpu"], record["event"] = at * second, cpu, BY_NAME[event].number
        record["args"][: len(args)] = args
    meter = PressureMeter(recorded)
    for half in (records[: len(rows) // 2], records[len(rows) // 2 :]):
        meter.add(half)
    pressure = meter.pressure(stalls, 0, len(moves) * second)
    assert pressure.full is not None
    assert (pressure.some.total_us, pressure.full.total_us) == (
        seconds["some"] * 1_000_000,
        seconds["full"] * 1_000_000,
    )
