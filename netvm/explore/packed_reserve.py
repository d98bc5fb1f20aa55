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

States: TypeAlias = npt.NDArray[np.int64]


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

    def moves(self, states: States) -> tuple[list[States], npt.NDArray[np.bool_]]:
        """Return, for each actor's step, the successors (-1: not enabled), and which states the user can leave."""
        dirty, taken, sent, acked, parked = self.unpack(states)
        free = self.frames - dirty - taken - 2 * (sent + acked) - parked
        ordinary = free > self.reserve
        privileged = free > 0 if self.priority else ordinary
        radix = self.writebacks + 1
        one_parked = 1
        one_acked = self.bystanders + 1
        one_sent = one_acked * radix
        one_taken = one_sent * radix
        one_dirty = one_taken * radix
        idle = self.writebacks - taken - sent - acked
        steps = [
            (ordinary, one_dirty),
            ((dirty > 0) & (idle > 0), one_taken - one_dirty),
            ((taken > 0) & privileged, one_sent - one_taken),
            ((sent > 0) & privileged, one_acked - one_sent),
            (acked > 0, -one_acked),
        ]
        if self.bystanders and not self.drop:
            steps.append(((parked < self.bystanders) & privileged, one_parked))
            steps.append(((parked > 0) & ordinary, -one_parked))
        return [np.where(enabled, states + delta, -1) for enabled, delta in steps], ordinary


def search(*, frames: int, reserve: int, writebacks: int, bystanders: int, priority: bool, drop: bool) -> PackedResult:
    """Visit every reachable state of the abstract machine and say whether one of them is stuck."""
    machine = _Machine(frames, reserve, writebacks, bystanders, priority, drop)
    visited = np.zeros(machine.size(), dtype=np.bool_)
    place = np.zeros(machine.size(), dtype=np.int64)
    frontier: States = np.zeros(1, dtype=np.int64)
    visited[0] = True
    levels = [frontier]
    while len(frontier):
        moves, _ = machine.moves(frontier)
        found = np.concatenate(moves)
        found = found[found >= 0]
        found = found[~visited[found]]
        # of equal numbers keep the one that was written last
        place[found] = np.arange(len(found))
        frontier = found[place[found] == np.arange(len(found))]
        visited[frontier] = True
        levels.append(frontier)
    states = np.concatenate(levels)
    alive, deadlock = _alive(machine, states, place)
    nr_stuck = int(np.count_nonzero(~alive))
    return PackedResult(not nr_stuck, len(states), nr_stuck, deadlock)


def _alive(machine: _Machine, states: States, place: States) -> tuple[npt.NDArray[np.bool_], bool]:
    """Return which states a path leads out of to a step of the user, and whether one has no step at all."""
    place[states] = np.arange(len(states))
    moves, alive = machine.moves(states)
    deadlock = bool(np.any(np.all(np.stack(moves) < 0, axis=0)))
    alive = alive.copy()
    left = np.flatnonzero(~alive)
    targets = [np.where(move[left] >= 0, place[move[left]], -1) for move in moves]
    while len(left):
        reaches = np.zeros(len(left), dtype=np.bool_)
        for target in targets:
            reaches |= (target >= 0) & alive[target]
        if not np.any(reaches):
            break
        alive[left[reaches]] = True
        left = left[~reaches]
        targets = [target[~reaches] for target in targets]
    return alive, deadlock
