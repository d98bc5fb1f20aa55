"""Pressure stall information, from a recording: how much of the time somebody, or everybody, waited for memory.

Computed by the kernel's rule (kernel/sched/psi.c): *some* is the time in which at least one task is in a memory-stall
section, *full* the time in which a task is and no other works. The averages are updated every two seconds: each
update decays the old one by ``exp(-2 s/window)`` in fixed point of 11 bits and adds the share of the period.

The sections are those of the kernel as far as they are recorded: direct reclaim, kswapd's ``balance_pgdat`` (from a
wake to its last event before it goes to sleep again), and swap-in. Whether anybody else works only ``sched_switch``
tells: without those events *full* is not known and stays ``None``.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["Averages", "Pressure", "averages", "union_ns"]

PSI_PERIOD_NS: Final = 2_000_000_000
_FIXED_1: Final = 2048
_EXP: Final = {"avg10": 1677, "avg60": 1981, "avg300": 2034}

Sections = npt.NDArray[np.int64]


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
    """Return the averages and the total of stalls, as they stand at the end of the span."""
    covered = union_ns(sections)
    covered = np.clip(covered, begin_ns, end_ns)
    total_ns = int((covered[:, 1] - covered[:, 0]).sum())
    nr_periods = max(0, end_ns - begin_ns) // PSI_PERIOD_NS
    edges = begin_ns + PSI_PERIOD_NS * np.arange(nr_periods + 1, dtype=np.int64)
    until = _covered_until(covered, edges)
    fixed = dict.fromkeys(_EXP, 0)
    for stalled_ns in np.diff(until).tolist():
        percent = stalled_ns * 100 * _FIXED_1 // PSI_PERIOD_NS
        for name, factor in _EXP.items():
            old = fixed[name] * factor + percent * (_FIXED_1 - factor)
            # the kernel rounds up while the pressure rises
            fixed[name] = (old + _FIXED_1 - 1 if percent >= fixed[name] else old) // _FIXED_1
    return Averages(**{name: round(value / _FIXED_1, 2) for name, value in fixed.items()}, total_us=total_ns / 1000)


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
