"""Hypothesis strategies: scenarios, faults and schedule tapes, drawn together so that one shrink makes all small.

Import this only where Hypothesis is meant to be: importing Hypothesis changes the order in which trio runs equal tasks
(the model does not notice; code beside it may).
"""

from typing import Any

from hypothesis import strategies as st

from netvm.explore.oracles import SteeredOracle
from netvm.explore.properties import PROPERTIES, Property
from netvm.explore.reproducer import reproducer_with, text_of
from netvm.explore.subject import Broken, Schedule, Subject
from netvm.runtime.choices import MISHAPS
from netvm.scenario.load import scenario_from

__all__ = [
    "ClampedOracle",
    "DrawnError",
    "abstract_machines",
    "hold_drawn",
    "run_drawn",
    "small_hosts",
    "subjects",
    "tapes",
]


class DrawnError(AssertionError):
    """A drawn schedule in which a property does not hold; the message ends with the reproducer."""

    def __init__(self, broken: Broken, reproducer: str) -> None:
        super().__init__(f"{broken.property}: {broken.what}\nsave this and run `netvm replay` on it:\n\n{reproducer}")
        self.reproducer = reproducer


class ClampedOracle(SteeredOracle):
    """Plays a tape drawn without knowing what there will be to choose from: each choice modulo the options."""

    def choose(self, kind: str, nr_options: int) -> int:  # noqa: ARG002  the protocol's shape
        """Return the tape's choice, folded into the options; 0 after its end."""
        position = len(self.widths)
        self.widths.append(nr_options)
        return self._prefix[position] % nr_options if position < len(self._prefix) else 0


def tapes(max_size: int = 200) -> st.SearchStrategy[list[int]]:
    """Draw schedule tapes: each shrinks to 0, which is what a kernel would do, and to nothing."""
    return st.lists(st.integers(0, 7), max_size=max_size)


@st.composite
def abstract_machines(draw: st.DrawFn, *, frames_max: int = 8) -> dict[str, Any]:
    """Draw the ``[abstract]`` table of a machine that is no larger than this."""
    frames = draw(st.integers(1, frames_max))
    return {
        "frames": frames,
        "reserve": draw(st.integers(0, frames)),
        "writebacks": draw(st.integers(0, 3)),
        "bystanders": draw(st.integers(0, 2)),
        "priority": draw(st.booleans()),
        "drop": draw(st.booleans()),
    }


@st.composite
def small_hosts(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the tables of a small host that swaps over a network: a run takes some tenths of a second."""
    return {
        "machine": {"ram_mib": draw(st.integers(24, 32)), "reserved_pages": 1024},
        "vm": {"min_free_kbytes": draw(st.sampled_from([512, 256, 1024]))},
        "nic": {"kind": "e1000", "ring": draw(st.sampled_from([16, 8, 64]))},
        "storage": {"kind": draw(st.sampled_from(["nbd", "iscsi"])), "size_mib": 64},
        "workload": [{"kind": "anon-hog", "mib": draw(st.integers(8, 28)), "passes": draw(st.integers(1, 2))}],
    }


@st.composite
def subjects(
    draw: st.DrawFn,
    tables: st.SearchStrategy[dict[str, Any]],
    *,
    mishaps_max: int = 3,
    properties: tuple[Property, ...] = PROPERTIES,
) -> Subject:
    """Draw a subject: a scenario of ``tables`` and the mishaps that may happen in it."""
    mishaps = {kind: draw(st.integers(0, mishaps_max)) for kind in MISHAPS}
    return Subject(
        scenario=scenario_from(draw(tables), origin="drawn"),
        name="drawn",
        mishaps={kind: nr for kind, nr in mishaps.items() if nr},
        properties=properties,
    )


def run_drawn(subject: Subject, tape: list[int]) -> Schedule:
    """Run one schedule of a drawn subject by a drawn tape; its own tape then replays it."""
    return subject.run(ClampedOracle(tape, window_ns=subject.window_ns))


def hold_drawn(subject: Subject, tape: list[int]) -> Schedule:
    """Run one schedule of a drawn subject; raise DrawnError with the reproducer if a property does not hold in it.

    Hypothesis shrinks what was drawn and runs the smallest failure again itself, so this adds no replays.
    """
    schedule = run_drawn(subject, tape)
    if schedule.broken is not None:
        reproducer = reproducer_with(subject, schedule.tape, schedule.broken)
        raise DrawnError(schedule.broken, text_of(reproducer, subject))
    return schedule
