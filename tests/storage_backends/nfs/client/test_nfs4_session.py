"""The slots of a session."""

from typing import Any

import pytest

from storage_backends.nfs.client.nfs4_session import Slot, SlotTable4

SLEEPS_FOR_A_SLOT = "nfs4: a session slot"
SLEEPS_FOR_THE_END = "nfs4: the end of the recovery"


class Call:
    """A call that may sleep."""

    woken: list["Call"]

    def __init__(self, woken: list["Call"]) -> None:
        self.woken = woken
        self.asleep = ""

    def sleep_on(self, what: str) -> None:
        """Go to sleep."""
        assert not self.asleep
        self.asleep = what

    def wake_up(self) -> None:
        """Wake."""
        assert self.asleep
        self.asleep = ""
        self.woken.append(self)


class Table(SlotTable4):
    """A table with calls that use it."""

    def __init__(self, nr_slots: int) -> None:
        super().__init__()
        self.woken: list[Call] = []
        self.reset(nr_slots)

    def call(self, *, privileged: bool = False) -> tuple[Call, Slot | None]:
        """Return a call and the slot it has."""
        call: Any = Call(self.woken)
        return call, self.alloc_slot(call, privileged=privileged)

    def take(self, *, privileged: bool = False) -> Slot:
        """Return the slot of a call that has one."""
        call, slot = self.call(privileged=privileged)
        assert slot is not None
        assert not call.asleep
        return slot

    def wait(self, *, privileged: bool = False) -> Call:
        """Return a call that sleeps."""
        call, slot = self.call(privileged=privileged)
        assert slot is None
        assert call.asleep
        return call


def test_a_call_takes_the_lowest_free_slot() -> None:
    """Slots are taken from the lowest up, and one that was given back is the next to be taken."""
    table = Table(4)
    taken = [table.take() for _ in range(4)]
    assert [slot.slot_nr for slot in taken] == [0, 1, 2, 3]
    table.free_slot(taken[2])
    table.free_slot(taken[1])
    assert [table.take().slot_nr for _ in range(2)] == [1, 2]


def test_a_new_table_begins_with_number_one() -> None:
    """Every slot of a new session has the number 1, whatever the numbers of the session before."""
    table = Table(2)
    slot = table.take()
    slot.seq_nr = 7
    table.free_slot(slot)
    assert table.take().seq_nr == 7
    table.free_slot(slot)
    table.reset(3)
    assert [slot.seq_nr for slot in table.slots] == [1, 1, 1]


def test_a_session_ends_without_calls_in_it() -> None:
    """A table that somebody has a slot of is not begun anew."""
    table = Table(2)
    table.take()
    with pytest.raises(AssertionError):
        table.reset(2)


def test_the_highest_slot_in_use_is_known() -> None:
    """It is the highest of those that are taken, and 0 without any."""
    table = Table(4)
    assert table.highest_used_slotid == 0
    first, second, third = (table.take() for _ in range(3))
    assert table.highest_used_slotid == 2
    table.free_slot(second)
    assert table.highest_used_slotid == 2
    table.free_slot(third)
    assert table.highest_used_slotid == 0
    table.free_slot(first)
    assert table.used == {}


def test_who_finds_no_slot_sleeps_until_one_is_given_back() -> None:
    """One call wakes for each slot that is given back, in the order they came."""
    table = Table(2)
    taken = [table.take() for _ in range(2)]
    waiting = [table.wait() for _ in range(3)]
    assert [call.asleep for call in waiting] == [SLEEPS_FOR_A_SLOT] * 3
    assert table.nr_waiting == 3
    table.free_slot(taken[0])
    assert table.woken == waiting[:1]
    table.free_slot(taken[1])
    assert table.woken == waiting[:2]
    assert table.nr_waiting == 1


def test_a_table_that_drains_gives_slots_to_the_manager_alone() -> None:
    """Others sleep until the recovery ends though slots are free; a privileged call has one at once."""
    table = Table(4)
    table.draining = True
    waiting = table.wait()
    assert waiting.asleep == SLEEPS_FOR_THE_END
    assert table.take(privileged=True).slot_nr == 0
    assert table.nr_waiting == 1


def test_a_slot_that_is_given_back_in_a_draining_table_wakes_nobody_but_the_manager() -> None:
    """Who waited before the table drained and who came later sleep on; a privileged call wakes."""
    table = Table(2)
    taken = [table.take() for _ in range(2)]
    before = table.wait()
    table.draining = True
    later = table.wait()
    privileged = table.wait(privileged=True)
    assert (before.asleep, privileged.asleep) == (SLEEPS_FOR_A_SLOT, SLEEPS_FOR_A_SLOT)
    table.free_slot(taken[0])
    assert table.woken == [privileged]
    table.free_slot(taken[1])
    assert table.woken == [privileged]
    assert later.asleep == SLEEPS_FOR_THE_END


def test_a_privileged_call_is_before_the_others() -> None:
    """Of those that wait for a slot in a table that does not drain the privileged one wakes first."""
    table = Table(1)
    slot = table.take()
    waiting, privileged = table.wait(), table.wait(privileged=True)
    table.free_slot(slot)
    assert table.woken == [privileged]
    table.free_slot(table.take(privileged=True))
    assert table.woken == [privileged, waiting]


def test_the_end_of_the_recovery_wakes_all_in_order() -> None:
    """Everybody who waits wakes in the order they came, and has slots as long as there are any."""
    table = Table(2)
    taken = [table.take() for _ in range(2)]
    waiting = [table.wait() for _ in range(2)]
    table.draining = True
    waiting += [table.wait() for _ in range(3)]
    for slot in taken:
        table.free_slot(slot)
    assert table.woken == []
    table.end_drain()
    assert table.woken == waiting
    assert (table.draining, table.nr_waiting) == (False, 0)
    found: list[Any] = [table.alloc_slot(call, privileged=False) for call in waiting]  # type: ignore[arg-type]
    assert [slot and slot.slot_nr for slot in found] == [0, 1, None, None, None]
    assert [call.asleep for call in waiting] == ["", "", *[SLEEPS_FOR_A_SLOT] * 3]
