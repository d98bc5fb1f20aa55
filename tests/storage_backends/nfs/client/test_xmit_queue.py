"""Whose call is sent next."""

from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.client.xmit_queue import XmitQueue


class Call:
    """A call of an owner."""

    def __init__(self, owner: int) -> None:
        self.owner = owner


def test_owners_take_turns() -> None:
    """Whoever queued a hundred does not hold up one who queued one, as the recorded client's xids alternate."""
    queue = XmitQueue()
    calls = [Call(1), Call(1), Call(1), Call(2)]
    for call in calls:
        queue.push(call)  # type: ignore[arg-type]
    sent = []
    while (head := queue.head()) is not None:
        queue.pop(head)
        sent.append(calls.index(head))  # type: ignore[arg-type]
    assert sent == [0, 3, 1, 2]


@given(st.lists(st.integers(1, 3), max_size=20))
def test_every_call_is_sent_once_and_each_owners_in_order(owners: list[int]) -> None:
    """Nothing is lost or doubled, and nobody is overtaken by a later call of its own owner."""
    queue = XmitQueue()
    calls = [Call(owner) for owner in owners]
    for call in calls:
        queue.push(call)  # type: ignore[arg-type]
    assert len(queue) == len(calls)
    sent: list[Call] = []
    while (head := queue.head()) is not None:
        queue.pop(head)
        sent.append(head)  # type: ignore[arg-type]
    for owner in set(owners):
        assert [c for c in sent if c.owner == owner] == [c for c in calls if c.owner == owner]
    assert len(queue) == 0
