"""How many calls may be out."""

from storage_backends.nfs.client.slots import RPC_MIN_SLOT_TABLE, SlotTable


class Sleeper:
    """A task in the backlog."""

    nr_woken = 0

    def wake_up(self) -> None:
        """Count."""
        self.nr_woken += 1


def test_two_requests_are_there_and_others_are_allocated() -> None:
    """Only the first two calls need no memory for their slot; a spare that is given back is spare again."""
    slots = SlotTable()
    found = []
    for _ in range(3):
        assert slots.may_have_one()
        found.append(slots.take_spare())
    assert found == [True] * RPC_MIN_SLOT_TABLE + [False]
    slots.give_back(spare=True)
    assert slots.may_have_one()
    assert slots.take_spare()


def test_a_full_table_has_a_backlog() -> None:
    """The next in line is woken when a slot is given back, and one only."""
    slots = SlotTable(2)
    assert [slots.may_have_one() for _ in range(3)] == [True, True, False]
    waiting = [Sleeper(), Sleeper()]
    slots.backlog.extend(waiting)  # type: ignore[arg-type]
    slots.give_back(spare=False)
    assert [sleeper.nr_woken for sleeper in waiting] == [1, 0]
