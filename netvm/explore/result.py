"""What a search came to, said honestly.

======================== ==============================================================================================
result                   means
======================== ==============================================================================================
proved                   every state that any schedule reaches was looked at (or every schedule run): nothing fails
bounded                  nothing failed in the part that was looked at: all schedules of at most k delays, or the states
                         seen before the budget was spent; the share of the whole is estimated
statistical              nothing failed in N random schedules: with 95 % confidence at most a share of them fails
refuted                  something fails; the reproducer shows it, and ten replays have shown it again
======================== ==============================================================================================

A limit is never a pass: a search that was cut short before it completed a single schedule decides nothing, and one in
which a *sometimes* property was never seen decides nothing about what that property guards.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

__all__ = ["CheckResult", "Failure", "good_turing", "knuth", "most_that_fail"]

CONFIDENCE = 0.95


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failing schedule."""

    schedule: int
    """Its number in the search, counted from 1."""
    property: str
    """What does not hold in it."""
    what: str
    """In which way."""
    tape: list[int]
    """Its choices: the reproducer."""
    replays: int = 0
    """Replays that have failed the same way."""

    def statement(self) -> str:
        """Return it in a sentence."""
        return f"refuted: {self.property}: {self.what}"


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one search; field by field the object of ``netvm check --json``."""

    scenario: str
    result: Literal["proved", "bounded", "statistical", "refuted"]
    strategy: str
    seed: int
    schedules: int
    """Schedules that were run."""
    distinct: int
    """How many of them were different."""
    states: int | None = None
    """Distinct states seen, where the strategy tells states apart."""
    steps: int = 0
    """Task steps of all runs together."""
    failures: int = 0
    """Schedules in which something failed."""
    first_failure_at: int | None = None
    """The first of them, counted from 1."""
    failure: Failure | None = None
    reproducer: str | None = None
    """The file that ``netvm replay`` runs."""
    bound: dict[str, Any] = {}
    """What the result is bounded by: delays, failure rate, share explored, chance to have found a bug of depth d."""
    vacuous: list[str] = []
    """What should have been seen in some schedule and was not."""
    decided: bool = True
    """False if the search was cut short before anything was decided."""
    statement: str = ""
    """The result in a sentence."""
    overrides: list[str] = []
    """What of the scenario was overridden."""


def most_that_fail(nr_schedules: int) -> float:
    """Return the largest failure rate that is compatible, at 95 %, with no failure in so many independent schedules."""
    if not nr_schedules:
        return 1.0
    return float(1.0 - (1.0 - CONFIDENCE) ** (1.0 / nr_schedules))


def good_turing(counts: Sequence[int]) -> float:
    """Return the estimated share of schedules never seen: those seen once, over all runs (Good 1953)."""
    total = sum(counts)
    return sum(1 for count in counts if count == 1) / total if total else 1.0


def knuth(log_samples: Sequence[float]) -> float:
    """Return the log10 of the mean of tree sizes given by their natural logarithms (Knuth 1975)."""
    assert log_samples
    largest = max(log_samples)
    mean = sum(math.exp(sample - largest) for sample in log_samples) / len(log_samples)
    return (largest + math.log(mean)) / math.log(10)
