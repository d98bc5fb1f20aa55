"""A sample is decided by seed and number: by whom it is run does not matter."""

from collections.abc import Callable

import pytest

from netvm.explore.sampling import SAMPLED, measure, sample
from netvm.explore.search import Budget
from netvm.explore.subject import Subject

KEYS = {"frames": 6, "reserve": 2, "writebacks": 2, "bystanders": 1, "drop": False}


@pytest.mark.parametrize("strategy", SAMPLED)
def test_the_same_seed_gives_the_same_answer(machine: Callable[..., Subject], strategy: str) -> None:
    """Whole results are equal; another seed draws other schedules."""
    subject = machine(**KEYS, max_steps=300)
    budget = Budget(nr_schedules=20)
    results = [sample(subject, strategy, seed, budget.is_spent, nr_schedules=20, keep_going=True) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0].steps != results[2].steps


@pytest.mark.slow
def test_processes_side_by_side_give_the_same_answer(machine: Callable[..., Subject]) -> None:
    """One process or two, the first failure is the same and so is what was counted."""
    subject = machine(**KEYS | {"reserve": 4, "frames": 9}, max_steps=300)
    budget = Budget(nr_schedules=100)
    alone, together = (sample(subject, "random", 5, budget.is_spent, nr_schedules=100, jobs=jobs) for jobs in (1, 2))
    assert alone == together


def test_a_calm_run_is_measured(machine: Callable[..., Subject]) -> None:
    """All actors of the machine that could run, and as many choices as its budget of steps has."""
    assert measure(machine(**KEYS, max_steps=50)) == (6, 50)


def test_too_few_schedules_for_a_depth_bound_nothing(machine: Callable[..., Subject]) -> None:
    """One task and one schedule: PCT's guarantee is of three in a row, one for each depth."""
    budget = Budget(nr_schedules=1)
    subject = machine(**KEYS | {"reserve": 4, "frames": 9}, max_steps=300)
    result = sample(subject, "pct", 1, budget.is_spent, nr_schedules=1, size=(1, 1))
    assert [result.bound[f"found_if_depth_{depth}"] for depth in (1, 2, 3)] == [0.0] * 3


@pytest.mark.slow
def test_repeats_are_the_same_whoever_runs_them(machine: Callable[..., Subject]) -> None:
    """PCT leaves out the same repeats in one process and in two."""
    subject = machine(**KEYS | {"reserve": 4, "frames": 9}, max_steps=12)
    budget = Budget(nr_schedules=80)
    alone, together = (sample(subject, "pct", 5, budget.is_spent, nr_schedules=80, jobs=jobs) for jobs in (1, 2))
    assert alone == together
    assert alone.bound["repeats_not_run"] > 0
