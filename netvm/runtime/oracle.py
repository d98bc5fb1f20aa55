"""Who decides what the scenario leaves open: the schedule oracle.

At a *choice point* more than one thing may happen next: several tasks could run, two events fall on the same instant.
The world lists the options in the order the kernel would prefer and asks the oracle for an index. Option 0 is what a
kernel would do (fifo), so a run's list of choices is a list of deviations, and a shrunk list is a simple story.

An oracle sees the kind of choice and the number of options, never the objects: a list of numbers replays a run. PCT,
exhaustive search and replay are oracles of the same shape.
"""

from collections.abc import Sequence
from typing import Protocol

from netvm.runtime.seeds import Seeds

__all__ = ["FifoOracle", "Oracle", "RandomOracle", "ReplayOracle", "TapeMismatchError", "oracle_named"]


class TapeMismatchError(Exception):
    """A replayed tape does not fit the run: it names a choice the run does not offer."""


class Oracle(Protocol):
    """Chooses among the options of a choice point."""

    explores_events: bool
    """Whether events of the same instant are offered as choices (costs time; fifo never deviates there)."""

    def choose(self, kind: str, nr_options: int) -> int:
        """Return an index below ``nr_options`` (at least 2)."""
        ...


class FifoOracle:
    """Always what the kernel would do."""

    explores_events = False

    def choose(self, kind: str, nr_options: int) -> int:  # noqa: ARG002  the protocol's shape
        """Return 0."""
        return 0


class RandomOracle:
    """A uniform choice at every point, from the run's seed."""

    explores_events = True

    def __init__(self, seeds: Seeds) -> None:
        self._stream = seeds.stream("oracle")

    def choose(self, kind: str, nr_options: int) -> int:  # noqa: ARG002  the protocol's shape
        """Return a random index."""
        return self._stream.below(nr_options)


class ReplayOracle:
    """Plays a tape of choices and then goes on as fifo.

    Raises TapeMismatchError if the tape names an option that does not exist.
    """

    explores_events = True

    def __init__(self, tape: Sequence[int]) -> None:
        self._tape = tape
        self.position = 0

    def choose(self, kind: str, nr_options: int) -> int:
        """Return the next choice on the tape, 0 after its end."""
        if self.position >= len(self._tape):
            return 0
        choice = self._tape[self.position]
        if not 0 <= choice < nr_options:
            raise TapeMismatchError(
                f"choice {self.position} of the tape is {choice}, but this {kind} has {nr_options} options"
            )
        self.position += 1
        return choice


def oracle_named(name: str, seeds: Seeds) -> Oracle:
    """Return the oracle a scenario's ``run.oracle`` names. Raises KeyError for an unknown name."""
    if name == "fifo":
        return FifoOracle()
    if name == "random":
        return RandomOracle(seeds)
    raise KeyError(name)
