"""The abstract machine a second time: a breadth-first search over packed states, in numpy, sharing no code with it.

Writers differ in nothing, so a state is five counts: dirty frames that nobody has taken, writers with a dirty frame,
writers that have sent, writers that have been acknowledged, parked bystander frames. They are the digits of one number
in a mixed radix; the number of free frames follows. The set of visited states is a map of one entry a number, and each
step of the search takes the whole frontier at once.

The steps, with ``f`` free frames (a privileged request needs f > 0, an ordinary one f > R):

========= ============================================ ==========================
actor     enabled                                      effect
========= ============================================ ==========================
user      f > R                                        dirty + 1 (this is progress)
writer    dirty > 0, a writer idle                     dirty - 1, taken + 1
writer    taken > 0, a send frame to be had            taken - 1, sent + 1
receiver  sent > 0, a receive frame to be had          sent - 1, acked + 1
writer    acked > 0                                    acked - 1, two frames freed
receiver  parked < B, no drop, a frame to be had       parked + 1
reader    parked > 0, f > R                            parked - 1
========= ============================================ ==========================

A dropped bystander frame is back before the step is over: nothing changes. A state is *stuck* if no path from it leads
to a step of the user.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["PackedResult", "search"]

States: TypeAlias = npt.NDArray[np.int32]
Truths: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PackedResult:
    """What a search found."""

    safe: bool
    """No reachable state is stuck."""
    nr_states: int
    nr_stuck: int
    deadlock: bool
    """Some reachable state has no step at all."""


@dataclass(frozen=True, slots=True)
class _Machine:
    frames: int
    reserve: int
    writebacks: int
    bystanders: int
    priority: bool
    drop: bool

    def size(self) -> int:
        """Return how many numbers the packing uses."""
        return (self.frames + 1) * (self.writebacks + 1) ** 3 * (self.bystanders + 1)

    def unpack(self, states: States) -> tuple[States, States, States, States, States]:
        """Return dirty, taken, sent, acked, parked."""
        radix = self.writebacks + 1
        rest, parked = np.divmod(states, self.bystanders + 1)
        rest, acked = np.divmod(rest, radix)
        rest, sent = np.divmod(rest, radix)
        dirty, taken = np.divmod(rest, radix)
        return dirty, taken, sent, acked, parked

    def steps(self, states: States) -> list[tuple[Truths, int]]:
        """Return, for each actor's step, in which states it is enabled and what it adds to their numbers.

        The user's is the first.
        """
        dirty, taken, sent, acked, parked = self.unpack(states)
        holding = taken + sent
        holding += acked
        busy = sent + acked
        free = self.frames - dirty - holding - busy - parked
        ordinary = free > self.reserve
        privileged = free > 0 if self.priority else ordinary
        radix = self.writebacks + 1
        one_acked = self.bystanders + 1
        one_sent = one_acked * radix
        one_taken = one_sent * radix
        one_dirty = one_taken * radix
        steps = [
            (ordinary, one_dirty),
            ((dirty > 0) & (holding < self.writebacks), one_taken - one_dirty),
            ((taken > 0) & privileged, one_sent - one_taken),
            ((sent > 0) & privileged, one_acked - one_sent),
            (acked > 0, -one_acked),
        ]
        if self.bystanders and not self.drop:
            steps.append(((parked < self.bystanders) & privileged, 1))
            steps.append(((parked > 0) & ordinary, -1))
        return steps


def search(*, frames: int, reserve: int, writebacks: int, bystanders: int, priority: bool, drop: bool) -> PackedResult:
    """Visit every reachable state of the abstract machine and say whether one of them is stuck."""
    machine = _Machine(frames, reserve, writebacks, bystanders, priority, drop)
    assert machine.size() < 1 << 31
    visited = np.zeros(machine.size(), dtype=np.bool_)
    frontier: States = np.zeros(1, dtype=np.int32)
    visited[0] = True
    levels = [frontier]
    # states in which the user cannot step: only they may be stuck
    waiting: list[States] = []
    while len(frontier):
        found = []
        for number, (enabled, delta) in enumerate(machine.steps(frontier)):
            if not number:
                waiting.append(frontier[~enabled])
            # one actor's step leads from different states to different ones, so what is new needs no sorting
            targets = frontier[enabled] + np.int32(delta)
            targets = targets[~visited[targets]]
            visited[targets] = True
            found.append(targets)
        frontier = np.concatenate(found)
        levels.append(frontier)
    nr_states = sum(map(len, levels))
    left, deadlock = _stuck(machine, np.concatenate(waiting))
    return PackedResult(not len(left), nr_states, len(left), deadlock)


def _stuck(machine: _Machine, left: States) -> tuple[States, bool]:
    """Return the states from which no path leads to a step of the user, and whether one has no step at all."""
    alive = np.ones(machine.size(), dtype=np.bool_)
    alive[left] = False
    while len(left):
        reaches = np.zeros(len(left), dtype=np.bool_)
        for enabled, delta in machine.steps(left):
            reaches[enabled] |= alive[left[enabled] + np.int32(delta)]
        if not np.any(reaches):
            break
        alive[left[reaches]] = True
        left = left[~reaches]
    nothing = np.ones(len(left), dtype=np.bool_)
    for enabled, _ in machine.steps(left):
        nothing &= ~enabled
    return left, bool(np.any(nothing))
