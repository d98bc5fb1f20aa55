"""Chance comes from named streams, so one new draw does not move the others.

A run has one seed. Each consumer asks for a stream by name (``"link0.loss"``) and gets a generator that depends on the
seed and the name only. :class:`Stream` is SplitMix64: a few integer operations a draw, the same on every machine and
Python, and small enough to read. It is not for cryptography and not for statistics beyond what a model needs.
"""

import zlib
from typing import Final

__all__ = ["Seeds", "Stream"]

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


def _mix(state: int) -> int:
    """Return 64 bits in which each depends on all of ``state`` (the finalizer of SplitMix64); 0 for 0."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


class Stream:
    """A deterministic source of numbers (SplitMix64; Steele, Lea, Flood 2014)."""

    __slots__ = ("_state",)

    def __init__(self, state: int) -> None:
        self._state = state & _MASK

    def next_u64(self) -> int:
        """Return the next 64-bit number."""
        self._state = state = (self._state + _GOLDEN) & _MASK
        return _mix(state)

    def below(self, bound: int) -> int:
        """Return a number in ``0 .. bound - 1`` (multiply-shift; its bias is below 2**-24 for our bounds)."""
        assert 0 < bound < 1 << 40
        return (self.next_u64() * bound) >> 64

    def uniform(self) -> float:
        """Return a number in ``[0, 1)``."""
        return (self.next_u64() >> 11) * (1.0 / (1 << 53))

    def chance(self, probability: float) -> bool:
        """Return True with this probability; a probability of zero draws nothing."""
        return probability > 0.0 and self.uniform() < probability


class Seeds:
    """The run's seed and its streams."""

    __slots__ = ("seed",)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, name: str) -> Stream:
        """Return a fresh stream for ``name``; the same name gives the same numbers."""
        # mixed twice: states that differ by a multiple of _GOLDEN would be one stream, shifted
        state = _mix((self.seed + _GOLDEN) & _MASK) + zlib.crc32(name.encode()) * 0xD1342543DE82EF95
        return Stream(_mix(state & _MASK))
