"""The slot table: how many calls may be out at once.

Mirrors ``xprt_dynamic_alloc_slot``: two requests are there from the beginning (RPC_MIN_SLOT_TABLE), further ones are
allocated as they are needed, up to ``tcp_max_slot_table_entries``, which is 65536: in practice no limit. A task that
finds the table full sleeps in the backlog until a request is given back.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from storage_backends.nfs.client.rpc_task import RpcTask

__all__ = ["RPC_MAX_SLOT_TABLE_LIMIT", "RPC_MIN_SLOT_TABLE", "SlotTable"]

RPC_MIN_SLOT_TABLE: Final = 2
RPC_MAX_SLOT_TABLE_LIMIT: Final = 65536


class SlotTable:
    """The requests of one transport."""

    __slots__ = ("backlog", "max_nr", "nr_spare", "nr_taken")

    def __init__(self, max_nr: int = RPC_MAX_SLOT_TABLE_LIMIT, *, nr_spare: int = RPC_MIN_SLOT_TABLE) -> None:
        self.max_nr = max_nr
        self.nr_spare = nr_spare
        """Requests that were allocated with the transport and are free."""
        self.nr_taken = 0
        self.backlog: deque[RpcTask] = deque()

    def may_have_one(self) -> bool:
        """Count one more call, unless the table is full."""
        if self.nr_taken >= self.max_nr:
            return False
        self.nr_taken += 1
        return True

    def take_spare(self) -> bool:
        """Take a request that is there; False if one must be allocated."""
        if not self.nr_spare:
            return False
        self.nr_spare -= 1
        return True

    def give_back(self, *, spare: bool) -> None:
        """Give a request back and let the backlog go on (xprt_free_slot)."""
        self.nr_taken -= 1
        assert self.nr_taken >= 0
        if spare:
            self.nr_spare += 1
        if self.backlog:
            self.backlog.popleft().wake_up()
