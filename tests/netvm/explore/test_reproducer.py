"""A failing schedule becomes small, goes through a file, and comes back to the byte."""

from collections.abc import Callable
from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.explore.reproducer import digest_of, load, reproducer_of, shrink, text_of, walk
from netvm.explore.search import check
from netvm.explore.subject import Subject, rerun

KEYS = {"frames": 6, "reserve": 2, "writebacks": 2, "bystanders": 1, "drop": False}


def test_a_tape_shrinks_to_the_deviations_that_matter(machine: Callable[..., Subject]) -> None:
    """It still fails, it is no longer than it was, and its last deviation cannot be left out."""
    subject = machine(**KEYS)
    result = check(subject, strategy="random", seed=3)
    assert result.failure is not None
    tape = shrink(subject, result.failure)
    assert sum(map(bool, tape)) <= sum(map(bool, result.failure.tape))
    assert rerun(subject, tape).broken is not None


def test_a_reproducer_comes_back_to_the_byte(machine: Callable[..., Subject], tmp_path: Path) -> None:
    """Written, read, run: the same result, and the file says where it left the last passing schedule."""
    subject = machine(**KEYS)
    result = check(subject, strategy="random", seed=1)
    reproducer = reproducer_of(subject, result)
    path = tmp_path / "r.toml"
    path.write_text(text_of(reproducer, subject))
    read, read_subject = load(path)
    assert read == reproducer
    schedule = rerun(read_subject, read.tape)
    assert digest_of(schedule.experiment.outcome()) == reproducer.digest
    if reproducer.leaves_at is not None:
        assert rerun(subject, reproducer.tape[: reproducer.leaves_at]).broken is None
        assert " runs instead of " in reproducer.leaves_how


def test_a_walk_tells_who_runs_and_who_could(machine: Callable[..., Subject]) -> None:
    """One line a step; at a choice the others are named."""
    subject = machine(frames=2, reserve=0, writebacks=1, bystanders=0)
    steps = list(walk(subject, []))
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert steps[0].who == "user-1"
    assert steps[0].instead_of == ["writer/0-2", "rx/ack-3"]
    assert steps[0].choice == 0


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("tape = [-1]", "tape: a choice must be 0 or more"),
        ('tape = ["x"]', "tape.0"),
    ],
)
def test_a_file_that_is_wrong_says_so(machine: Callable[..., Subject], tmp_path: Path, table: str, what: str) -> None:
    """One line that names the key."""
    path = tmp_path / "r.toml"
    rest = 'scenario = "x"\nversion = "0"\nproperty = "p"\nwhat = "w"\ndigest = ""\n'
    path.write_text(f"[reproducer]\n{rest}{table}\n[abstract]\nframes = 4\n")
    with pytest.raises(UsageError, match=what):
        load(path)
