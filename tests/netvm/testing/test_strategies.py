"""Drawn scenarios load, drawn tapes fit, and one shrink makes machine and schedule small together."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from netvm.explore.reproducer import load
from netvm.explore.subject import Subject, rerun
from netvm.testing.strategies import (
    DrawnError,
    abstract_machines,
    hold_drawn,
    run_drawn,
    small_hosts,
    subjects,
    tapes,
)

MACHINES = subjects(abstract_machines().map(lambda keys: {"abstract": keys, "run": {"max_steps": 60}}))


@settings(max_examples=30, deadline=None)
@given(MACHINES, tapes())
def test_a_drawn_schedule_replays(subject: Subject, tape: list[int]) -> None:
    """Whatever was drawn fits, and the run's own tape gives the same run."""
    first = run_drawn(subject, tape)
    again = rerun(subject, first.tape)
    assert (again.tape, again.broken) == (first.tape, first.broken)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(subjects(small_hosts()))
def test_drawn_hosts_boot(subject: Subject) -> None:
    """Every drawn host is a valid scenario that boots."""
    from netvm.explore.oracles import SteeredOracle

    assert subject.experiment(SteeredOracle([])).world.choices == []


def test_one_shrink_makes_all_three_small() -> None:
    """The smallest machine in which something hangs has one frame, and its schedule no deviation."""
    drawn = st.tuples(MACHINES, tapes())
    subject, tape = find(
        drawn,
        lambda pair: run_drawn(*pair).broken is not None,
        settings=settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck)),
    )
    assert subject.scenario.abstract is not None
    assert subject.scenario.abstract.frames == 1
    assert not subject.mishaps
    assert tape == []


def test_a_drawn_failure_is_one_file(tmp_path: Path) -> None:
    """What Hypothesis has made small is printed as a file that fails again, with the mishaps that were drawn."""

    @settings(max_examples=100, deadline=None, database=None)
    @given(MACHINES, tapes())
    def holds(subject: Subject, tape: list[int]) -> None:
        hold_drawn(subject, tape)

    with pytest.raises(DrawnError, match="HANG") as caught:
        holds()
    path = tmp_path / "drawn.toml"
    path.write_text(caught.value.reproducer)
    reproducer, subject = load(path)
    assert reproducer.tape == []
    assert subject.scenario.abstract is not None
    assert subject.scenario.abstract.frames == 1
    assert rerun(subject, reproducer.tape).broken is not None
