"""Exhaustive search: every state that any schedule can reach, each looked at once.

A run is steered along a prefix of choices and goes on from there, always with option 0, until it comes to a state that
has been seen (its *fingerprint* has); each option not taken at a new state becomes a prefix to try. Prefixes are tried
shortest first. When none is left, every reachable state and every step between two is known, and whatever holds in all
of them is *proved*, as far as equal fingerprints mean equal futures.

Knowing the steps, livelock freedom is decided rather than guessed: a step is *progress* if the run's progress counter
grew in it; a state from which no path leads to a progress step (or to the run's end) is *stuck*. If no step leaves it
that is a deadlock, else whatever happens goes round for ever, under any scheduler: a non-progress cycle. Starvation by
a scheduler that is unfair to one task for ever is not called a livelock.
"""

from collections import deque
from collections.abc import Hashable, Sequence

__all__ = ["StateSpace", "Visited"]

ENDED = -1
"""Stands for "the run has ended as it should" in the graph of states."""


class Visited(Exception):  # noqa: N818  a signal, not an error: the run has nothing new to show
    """Ends a run that came to a state that has been seen."""


class StateSpace:
    """The states seen, the steps between them, and the prefixes still to be tried."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        # steps[state] = the states that follow, progress[state] = whether a step of it makes progress
        self._steps: list[set[int]] = []
        self._progress: list[bool] = []
        self._pending: deque[tuple[int, ...]] = deque([()])
        self.first_path: list[tuple[int, ...]] = []
        """The choices by which each state was first reached."""
        self.nr_steps = 0

    @property
    def nr_states(self) -> int:
        """States seen."""
        return len(self._numbers)

    @property
    def nr_pending(self) -> int:
        """Prefixes still to be tried; 0: the search is exhausted."""
        return len(self._pending)

    def next_prefix(self) -> tuple[int, ...]:
        """Take the next prefix to try."""
        return self._pending.popleft()

    def arrive(self, fingerprint: Hashable, path: Sequence[int]) -> tuple[int, bool]:
        """Return the number of a state and whether it is new."""
        number = self._numbers.get(fingerprint)
        if number is not None:
            return number, False
        number = self._numbers[fingerprint] = len(self._steps)
        self._steps.append(set())
        self._progress.append(False)
        self.first_path.append(tuple(path))
        return number, True

    def fingerprint_of(self, state: int) -> Hashable:
        """Return the fingerprint of a state."""
        return next(fingerprint for fingerprint, number in self._numbers.items() if number == state)

    def branch(self, path: Sequence[int], options: Sequence[int]) -> None:
        """Keep other options at the end of a path for later."""
        stem = tuple(path)
        for option in options:
            self._pending.append((*stem, option))

    def step(self, source: int, target: int, *, progress: bool) -> None:
        """Note a step between two states; ``target`` may be :data:`ENDED`."""
        self.nr_steps += 1
        if progress or target == ENDED:
            self._progress[source] = True
        if target != ENDED:
            self._steps[source].add(target)

    def stuck(self) -> list[int]:
        """Return the states from which no path leads to progress, in order of discovery.

        What it says is true of the whole only when nothing is pending.
        """
        before: list[list[int]] = [[] for _ in self._steps]
        for source, targets in enumerate(self._steps):
            for target in targets:
                before[target].append(source)
        alive = list(self._progress)
        queue = [number for number, makes_progress in enumerate(alive) if makes_progress]
        while queue:
            for source in before[queue.pop()]:
                if not alive[source]:
                    alive[source] = True
                    queue.append(source)
        return [number for number, is_alive in enumerate(alive) if not is_alive]

    def is_deadlock(self, state: int) -> bool:
        """Return whether no step leads out of a state into another."""
        return not self._steps[state] - {state}
