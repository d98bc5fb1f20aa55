"""The schedules that have been run, and whether a draw would be one of them again.

A schedule is what an oracle answers to what it is asked. Whoever has run some knows what would be asked after the same
answers, and can ask a fresh oracle without running the model: if it answers its way to the end of a schedule that is
known, the run would be a repeat, and shows nothing new. A walk costs a microsecond a choice, a run a thousand times as
much. PCT with few tasks and few changes has few schedules to draw from, and repeats most of them.

What is known is kept by the answers that lead to it, as their hash, up to a bound: a search of schedules that are long
or of many tasks, which do not repeat, does not fill the memory with them.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from netvm.explore.oracles import Name
from netvm.runtime.oracle import Oracle

__all__ = ["Asked", "Known", "Listening"]

Asked: TypeAlias = tuple[str, int | tuple[Name, ...]]
"""What an oracle was asked: the kind of choice, and how many options or which candidates there were."""

_NODES_MAX: Final = 1 << 18
_NAMES_MAX: Final = 1 << 20
"""Candidates named in all that is kept of one search, and of one schedule before it is known."""
_START: Final = 0


class Listening:
    """An oracle that keeps what it is asked; otherwise the one it is made of."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.explores_events = oracle.explores_events
        self.window_ns: int = getattr(oracle, "window_ns", 0)
        self.asked: list[Asked] | None = []
        """None once it is too much to be kept."""
        self._nr_names = 0
        self._among = getattr(oracle, "choose_among", None)
        if self._among is not None:
            # the world looks for this door only if there is one
            self.choose_among = self._choose_among

    def choose(self, kind: str, nr_options: int) -> int:
        """Return the oracle's answer."""
        if self.asked is not None:
            self.asked.append((kind, nr_options))
        return self.oracle.choose(kind, nr_options)

    def _choose_among(self, kind: str, names: Sequence[Name]) -> int:
        if self.asked is not None:
            self.asked.append((kind, tuple(names)))
            self._nr_names += len(names)
            if self._nr_names > _NAMES_MAX:
                self.asked = None
        return int(self._among(kind, names))  # type: ignore[misc]  # there only if it is


class Known:
    """The schedules of one search."""

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}
        self._ends: dict[int, int] = {}
        self._same: dict[Asked, Asked] = {}
        self._nr_names = 0

    def learn(self, asked: Sequence[Asked] | None, tape: Sequence[int]) -> None:
        """Take note of a schedule that has been run; no more when there is no room."""
        if asked is None:
            return
        assert len(asked) == len(tape)
        nr_names = sum(0 if isinstance(options, int) else len(options) for _, options in asked)
        if len(self._asked) + len(asked) > _NODES_MAX or self._nr_names + nr_names > _NAMES_MAX:
            return
        self._nr_names += nr_names
        answers = _START
        for question, answer in zip(asked, tape, strict=True):
            self._asked.setdefault(answers, self._same.setdefault(question, question))
            answers = hash((answers, answer))
        self._ends[answers] = hash(tuple(tape))

    def repeats(self, oracle: Oracle) -> int | None:
        """Return the hash of the tape that a fresh oracle would repeat; None if its schedule is not known."""
        among = getattr(oracle, "choose_among", None)
        answers = _START
        while (question := self._asked.get(answers)) is not None:
            kind, options = question
            if isinstance(options, int):
                answer = oracle.choose(kind, options)
            else:
                assert among is not None
                answer = among(kind, options)
            answers = hash((answers, answer))
        return self._ends.get(answers)
