"""The slots of a session: who may call now, and with which number.

Mirrors fs/nfs/nfs4session.c and ``nfs4_setup_sequence`` of fs/nfs/nfs4proc.c (6.1). A call takes the lowest free slot
of the session's table and keeps it until it is answered; the slot's number grows by one with each call that the server
has executed. Who finds no slot sleeps on the table.

While the table *drains* only calls of the state manager get one, which it makes to set things right; all others sleep
until the recovery ends, a COMMIT that somebody in reclaim waits for included.

# MODEL: all slots that the server grants are there from the beginning; the kernel makes a slot when it is first used
(GFP_NOWAIT), and moves the highest one with the server's wishes.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from storage_backends.nfs.client.rpc_task import RpcTask

__all__ = ["NFS4_DEF_SLOT_TABLE_SIZE", "Slot", "SlotTable4"]

NFS4_DEF_SLOT_TABLE_SIZE: Final = 64
"""Slots that the client asks for (nfs.max_session_slots)."""


class Slot:
    """``struct nfs4_slot``."""

    __slots__ = ("seq_nr", "slot_nr")

    def __init__(self, slot_nr: int) -> None:
        self.slot_nr = slot_nr
        self.seq_nr = 1
        """Number of the next call."""


class SlotTable4:
    """``struct nfs4_slot_table`` of the fore channel."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.draining = False
        """NFS4_SLOT_TBL_DRAINING."""
        # invariant: the calls that have a slot, by its number
        self.used: dict[int, RpcTask] = {}
        self._waitq: deque[RpcTask] = deque()
        self._privileged: deque[RpcTask] = deque()

    def reset(self, nr_slots: int) -> None:
        """Begin a session's table; nobody has a slot then (nfs4_setup_session_slot_tables)."""
        assert not self.used
        self.slots = [Slot(slot_nr) for slot_nr in range(nr_slots)]

    @property
    def highest_used_slotid(self) -> int:
        """The highest slot that is in use; 0 if none is."""
        return max(self.used, default=0)

    def alloc_slot(self, rpc: "RpcTask", *, privileged: bool) -> Slot | None:
        """Give a call the lowest free slot, or let it sleep and return None (nfs4_setup_sequence)."""
        if not self.draining or privileged:
            for slot in self.slots:
                if slot.slot_nr not in self.used:
                    self.used[slot.slot_nr] = rpc
                    return slot
        (self._privileged if privileged else self._waitq).append(rpc)
        rpc.sleep_on("nfs4: the end of the recovery" if self.draining and not privileged else "nfs4: a session slot")
        return None

    def free_slot(self, slot: Slot) -> None:
        """Take a slot back; the next call may have it (nfs41_release_slot)."""
        del self.used[slot.slot_nr]
        self._wake_next()

    def _wake_next(self) -> None:
        for queue in (self._privileged,) if self.draining else (self._privileged, self._waitq):
            if queue:
                queue.popleft().wake_up()
                return

    def end_drain(self) -> None:
        """Let everybody call again (nfs4_end_drain_slot_table)."""
        self.draining = False
        waiting, self._waitq = self._waitq, deque()
        for rpc in waiting:
            rpc.wake_up()

    @property
    def nr_waiting(self) -> int:
        """Calls that sleep on the table."""
        return len(self._waitq) + len(self._privileged)
