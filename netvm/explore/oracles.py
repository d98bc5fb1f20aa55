"""The strategies' oracles: who chooses in one schedule of a search.

- :class:`RandomWalk`: every option alike.
- :class:`PctOracle`: probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi, Nagarakatte, ASPLOS 2010). Each
  task has a random priority and the highest candidate runs; at d - 1 random choice points who would run falls below all
  others. A bug of depth d among n tasks and k choices is found with probability at least 1 / (n * k**(d - 1)) a
  schedule. Priorities starve: after k choices the *tail* is a fair random walk, so that a task that spins until another
  has run is not taken for a livelock.
- :class:`PosOracle`: partial-order sampling (Yuan, Yang, Gu, CAV 2018). Each pending step has a random priority and the
  highest runs; then steps that race with it draw anew. Two steps race here if their tasks wait for the same resource.
- :class:`SteeredOracle` plays a prefix of choices, then option 0; :class:`ForkingOracle` also keeps what else could be
  chosen: the exhaustive searches.

Each also chooses among events of the same instant and among mishaps.
"""

import math
from collections.abc import Callable, Hashable, Sequence

from netvm.runtime.oracle import TapeMismatchError
from netvm.runtime.seeds import Stream

__all__ = ["ForkingOracle", "PctOracle", "PosOracle", "RandomWalk", "SteeredOracle"]

Name = tuple[int, str]
"""A candidate: a task's number (an event's, negated), and what it waits for (an event's function)."""


class RandomWalk:
    """Every option alike; keeps the product of the branchings, Knuth's estimate of how many schedules there are."""

    explores_events = True

    def __init__(self, stream: Stream, *, window_ns: int = 0) -> None:
        self._stream = stream
        self.window_ns = window_ns
        self.log_size = 0.0
        """Natural logarithm of the product of the options met: one sample of how many schedules there are."""

    def choose(self, kind: str, nr_options: int) -> int:  # noqa: ARG002  the protocol's shape
        """Return a random index."""
        self.log_size += math.log(nr_options)
        return self._stream.below(nr_options)


class PctOracle:
    """Priorities that change d - 1 times."""

    explores_events = True

    def __init__(self, stream: Stream, *, depth: int, nr_choices: int, window_ns: int = 0) -> None:
        assert depth >= 1
        assert nr_choices >= 1
        self._stream = stream
        self.window_ns = window_ns
        self._priority: dict[int, int] = {}
        self._nr_choices = nr_choices
        self._changes = {stream.below(nr_choices): lowest for lowest in range(depth - 1)}
        self._depth = depth
        self.nr_chosen = 0

    def choose(self, kind: str, nr_options: int) -> int:  # noqa: ARG002  the protocol's shape
        """Return a random index: a mishap has no priority."""
        return self._stream.below(nr_options)

    def choose_among(self, kind: str, names: Sequence[Name]) -> int:  # noqa: ARG002  the protocol's shape
        """Return the candidate of the highest priority; after the last change point and k choices, any."""
        self.nr_chosen += 1
        if self.nr_chosen > self._nr_choices:
            return self._stream.below(len(names))
        priority = self._priority
        for number, _ in names:
            if number not in priority:
                priority[number] = self._depth + (self._stream.next_u64() >> 1)
        lowest = self._changes.get(self.nr_chosen - 1)
        best = max(range(len(names)), key=lambda i: priority[names[i][0]])
        if lowest is not None:
            priority[names[best][0]] = lowest
            best = max(range(len(names)), key=lambda i: priority[names[i][0]])
        return best


class PosOracle:
    """Priorities of steps; those that raced with the step that ran draw anew."""

    explores_events = True

    def __init__(self, stream: Stream, *, window_ns: int = 0) -> None:
        self._stream = stream
        self.window_ns = window_ns
        self._priority: dict[int, float] = {}

    def choose(self, kind: str, nr_options: int) -> int:  # noqa: ARG002  the protocol's shape
        """Return a random index: a mishap has no priority."""
        return self._stream.below(nr_options)

    def choose_among(self, kind: str, names: Sequence[Name]) -> int:  # noqa: ARG002  the protocol's shape
        """Return the candidate of the highest priority and forget it, and those that race with it."""
        priority = self._priority
        for number, _ in names:
            if number not in priority:
                priority[number] = self._stream.uniform()
        best = max(range(len(names)), key=lambda i: priority[names[i][0]])
        resource = names[best][1]
        for number, other in names:
            if other == resource:
                del priority[number]
        return best


class SteeredOracle:
    """Plays a prefix, then option 0. Raises TapeMismatchError if the prefix names an option that does not exist."""

    explores_events = True

    def __init__(self, prefix: Sequence[int], *, window_ns: int = 0) -> None:
        self._prefix = prefix
        self.window_ns = window_ns
        self.widths: list[int] = []
        """Options there were at each choice."""

    def choose(self, kind: str, nr_options: int) -> int:
        """Return the prefix's choice, 0 after its end."""
        position = len(self.widths)
        self.widths.append(nr_options)
        if position >= len(self._prefix):
            return 0
        choice = self._prefix[position]
        if not 0 <= choice < nr_options:
            raise TapeMismatchError(
                f"choice {position} of the tape is {choice}, but this {kind} has {nr_options} options"
            )
        return choice


class ForkingOracle(SteeredOracle):
    """Plays a prefix and keeps what else could be chosen behind it, leaving out steps that are like one kept.

    ``step_of`` says what a task's next step does, equal for equal steps and None for one that changes nothing;
    ``forked`` is told the options to be tried later.
    """

    def __init__(
        self,
        prefix: Sequence[int],
        *,
        step_of: Callable[[int], Hashable],
        forked: Callable[[Sequence[int]], None],
        window_ns: int = 0,
    ) -> None:
        super().__init__(prefix, window_ns=window_ns)
        self._step_of = step_of
        self._forked = forked

    def choose(self, kind: str, nr_options: int) -> int:
        """Return the prefix's choice; after its end 0, and keep the others."""
        if len(self.widths) >= len(self._prefix):
            self._forked(range(1, nr_options))
        return super().choose(kind, nr_options)

    def choose_among(self, kind: str, names: Sequence[Name]) -> int:
        """Return the prefix's choice; after its end the first step that changes something."""
        if kind != "task" or len(self.widths) < len(self._prefix):
            return self.choose(kind, len(names))
        self.widths.append(len(names))
        different: dict[Hashable, int] = {}
        for option, (number, _) in enumerate(names):
            step = self._step_of(number)
            if step is not None and step not in different:
                different[step] = option
        if not different:
            return 0
        first, *others = different.values()
        self._forked(others)
        return first
