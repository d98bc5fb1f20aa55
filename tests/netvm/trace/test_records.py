"""Records, and the strings and tasks beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.printable import printable
from netvm.trace.records import RECORD, Losses, Names, Tasks
from netvm.trace.tracepoints import ARGS_MAX


@given(st.lists(st.text(max_size=5)))
def test_equal_strings_have_equal_numbers(texts: list[str]) -> None:
    """Interning gives a string back by its number, as it can be shown, and equal strings the same one."""
    names = Names()
    numbers = [names.intern(text) for text in texts]
    assert [names[number] for number in numbers] == [printable(text) for text in texts]
    assert len(names) == len(set(texts)) == len(set(numbers))


def test_a_task_is_its_name_and_its_pid() -> None:
    """Two tasks of one name are two, and so are two names of one pid (a program that has called exec)."""
    tasks = Tasks()
    numbers = {tasks.intern("hog", 1), tasks.intern("hog", 2), tasks.intern("dog", 1), tasks.intern("hog", 1)}
    assert len(numbers) == len(tasks) == 3
    assert tasks.label(tasks.intern("dog", 1)) == "dog-1"


def test_losses_keep_the_first_examples_only() -> None:
    """What was skipped is counted; a few examples are enough, however much it is."""
    losses = Losses()
    for number in range(20):
        losses.skip(f"line {number}" + "x" * 1000)
    losses.lose(1, 12)
    losses.lose(1, 3)
    assert (losses.skipped, len(losses.examples), losses.lost) == (20, 5, 15)
    assert losses.lost_by_cpu == {1: 15}
    assert max(map(len, losses.examples)) == 160


def test_a_record_has_room_for_every_tracepoint() -> None:
    """A record is of fixed size, a multiple of eight bytes."""
    assert RECORD["args"].shape == (ARGS_MAX,)
    assert RECORD.itemsize % 8 == 0


@pytest.mark.parametrize(
    ("losses", "account"),
    [
        (Losses(), "nothing skipped or lost"),
        (Losses(reordered=7), "nothing skipped or lost, 7 put in order"),
        (
            Losses(skipped=1, lost=2, reordered=7, truncated=True),
            "1 skipped as malformed, 2 lost before they were recorded, the file ends too early, 7 put in order",
        ),
    ],
)
def test_the_account_of_losses(losses: Losses, account: str) -> None:
    """What is missing is named, or that nothing is; what was put in order is no loss."""
    assert losses.account() == account
    assert losses.told() == account.removesuffix(", 7 put in order").removeprefix("nothing skipped or lost")
