"""What would be a repeat is told without running it, and what would not be is never taken for one."""

from collections.abc import Callable

import pytest

from netvm.explore import known as module
from netvm.explore.known import Known, Listening
from netvm.explore.oracles import SteeredOracle
from netvm.explore.sampling import SAMPLED, oracle_of, sample
from netvm.explore.search import Budget
from netvm.explore.subject import Subject

SMALL = {"frames": 4, "reserve": 2, "writebacks": 1, "bystanders": 0, "drop": True}
SIZE = (3, 12)


@pytest.mark.parametrize("strategy", SAMPLED)
def test_a_repeat_is_told_before_it_is_run(machine: Callable[..., Subject], strategy: str) -> None:
    """For each of forty draws, that it repeats is said exactly if its run has a tape that was seen, and which."""
    subject = machine(**SMALL, max_steps=12)
    known, seen, nr_repeats = Known(), set(), 0
    for number in range(40):
        told = known.repeats(oracle_of(subject, strategy, 0, number, SIZE))
        listening = Listening(oracle_of(subject, strategy, 0, number, SIZE))
        tape = tuple(subject.run(listening).tape)
        assert (told is not None) == (tape in seen)
        assert told in (None, hash(tape))
        nr_repeats += told is not None
        seen.add(tape)
        known.learn(listening.asked, tape)
    assert nr_repeats or strategy != "pct"


def test_listening_changes_nothing(machine: Callable[..., Subject]) -> None:
    """A schedule that is listened to is the one it would be, and replays from its tape."""
    subject = machine(**SMALL, max_steps=60)
    bare, listened = (subject.run(o) for o in (oracle_of(subject, "pos", 3, 0, SIZE), _listening(subject)))
    assert bare.tape == listened.tape
    assert subject.run(SteeredOracle(bare.tape)).tape == bare.tape


def _listening(subject: Subject) -> Listening:
    return Listening(oracle_of(subject, "pos", 3, 0, SIZE))


def test_a_schedule_of_too_many_candidates_is_not_kept(machine: Callable[..., Subject], monkeypatch) -> None:
    """Not even until it has ended, and the run is the same."""
    subject = machine(**SMALL, max_steps=60)
    whole = _listening(subject)
    tape = subject.run(whole).tape
    monkeypatch.setattr(module, "_NAMES_MAX", 20)
    cut = _listening(subject)
    assert subject.run(cut).tape == tape
    assert whole.asked is not None
    assert cut.asked is None
    known = Known()
    known.learn(cut.asked, tape)
    known.learn(whole.asked, tape)
    assert known.repeats(oracle_of(subject, "pos", 3, 0, SIZE)) is None


@pytest.mark.parametrize(("bound", "strategy"), [("_NODES_MAX", "random"), ("_NAMES_MAX", "pos")])
def test_where_there_is_no_room_nothing_is_learned(
    machine: Callable[..., Subject], monkeypatch, bound: str, strategy: str
) -> None:
    """A schedule too many is not kept, and so not taken for a repeat."""
    monkeypatch.setattr(module, bound, 20 if strategy == "random" else 40)
    subject = machine(**SMALL, max_steps=15)
    known = Known()
    for number in range(4):
        listening = Listening(oracle_of(subject, strategy, 0, number, SIZE))
        tape = subject.run(listening).tape
        known.learn(listening.asked, tape)
    again = [known.repeats(oracle_of(subject, strategy, 0, number, SIZE)) for number in range(4)]
    assert again[0] is not None
    assert None in again[1:]


def test_repeats_are_counted_and_not_run(machine: Callable[..., Subject]) -> None:
    """PCT of a tiny machine draws repeats: schedules run are almost all different, and the draws are told."""
    subject = machine(**SMALL | {"frames": 6}, max_steps=12)
    result = sample(subject, "pct", 0, Budget(nr_schedules=60).is_spent, nr_schedules=60)
    assert result.schedules == 60
    assert result.distinct >= 50
    assert result.bound["repeats_not_run"] > 0
