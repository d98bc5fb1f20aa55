"""What is explored: a scenario, the mishaps that are allowed in it, and how one schedule of it is run.

A subject is plain data, so that several processes can explore it side by side; each schedule is a fresh world on the
direct driver (:mod:`netvm.explore.driver`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from netvm.explore.driver import DirectWorld
from netvm.explore.oracles import SteeredOracle
from netvm.explore.properties import PROPERTIES, Always, Explorable, Property, Sometimes
from netvm.runtime.oracle import Oracle
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.run import Experiment
from netvm.scenario.schema import Scenario

__all__ = ["Broken", "Schedule", "Subject", "rerun"]

Policies = Callable[[Explorable], None]


class Broken(NamedTuple):
    """A property that does not hold in a run."""

    property: str
    what: str


class Schedule(NamedTuple):
    """One schedule that has been run to its end."""

    experiment: Explorable
    tape: list[int]
    broken: Broken | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A scenario to be explored."""

    scenario: Scenario
    name: str
    mishaps: Mapping[str, int] = field(default_factory=dict)
    """How many mishaps of each kind may happen (:data:`netvm.runtime.choices.MISHAPS`)."""
    window_ns: int = 0
    """Events so close together may happen in any order: an arrival and the retry timer that it beats."""
    calm_boot: bool = False
    """A host's boot, up to the first program, is as a kernel would have it; what comes after is explored."""
    properties: Sequence[Property] = PROPERTIES
    property_files: Mapping[str, str] = field(default_factory=dict)
    """The user's files that some of them are from, each with the SHA-256 of what it said."""
    replace: Policies | None = None
    """Called with each new experiment before it runs: puts a user's own policy in the place of the product's."""

    def experiment(self, oracle: Oracle) -> Explorable:
        """Return a fresh run that the oracle decides."""
        kind: Any = Experiment if self.scenario.abstract is None else AbstractExperiment
        run: Explorable = kind(self.scenario, name=self.name, oracle=oracle, make_world=DirectWorld)
        run.world.mishaps.update(self.mishaps)
        run.world.calm = self.calm_boot and isinstance(run, Experiment)
        if self.replace is not None:
            self.replace(run)
        return run

    def run(self, oracle: Oracle) -> Schedule:
        """Run one schedule to its end and look at every property."""
        run = self.experiment(oracle)
        execute(run)
        return Schedule(run, run.world.choices, self.judge(run))

    def judge(self, run: Explorable) -> Broken | None:
        """Return the first property that does not hold in a run that has ended."""
        for prop in self.properties:
            if isinstance(prop, Always):
                what = prop.wrong(run)
                if what is not None:
                    return Broken(prop.name, what)
        return None

    def sights(self, run: Explorable) -> set[str]:
        """Return the names of the guards against vacuity that a run satisfies."""
        return {prop.name for prop in self.properties if isinstance(prop, Sometimes) and prop.seen(run)}

    def guards(self) -> list[str]:
        """Return the names of all guards against vacuity."""
        return [prop.name for prop in self.properties if isinstance(prop, Sometimes)]


def rerun(subject: Subject, tape: Sequence[int]) -> Schedule:
    """Run one schedule by its tape. Raises TapeMismatchError if the tape does not fit."""
    return subject.run(SteeredOracle(tape, window_ns=subject.window_ns))


def execute(run: Explorable) -> None:
    """Run an experiment on the direct driver."""
    world = run.world
    assert isinstance(world, DirectWorld)
    world.run_directly(run.main)
