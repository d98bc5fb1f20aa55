"""Calls that wait to be sent, their owners taking turns.

Mirrors ``xprt_request_enqueue_transmit`` and ``xprt_request_dequeue_transmit_locked`` of 6.1: one call of each owner
stands in the queue; the owner's further calls stand behind that one, and when it has been sent the next of them goes to
the end of the queue. So a program that swaps and kswapd alternate on the wire, however much either has queued.
"""

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage_backends.nfs.client.rpc_task import RpcTask

__all__ = ["XmitQueue"]


class XmitQueue:
    """``xmit_queue`` of a transport."""

    __slots__ = ("_len", "_owners")

    def __init__(self) -> None:
        # invariant: no owner without a call; the first owner's first call is sent next
        self._owners: OrderedDict[int, deque[RpcTask]] = OrderedDict()
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def push(self, rpc: "RpcTask") -> None:
        """Queue a call behind its owner's others."""
        self._owners.setdefault(rpc.owner, deque()).append(rpc)
        self._len += 1

    def head(self) -> "RpcTask | None":
        """Return the call to send next."""
        for calls in self._owners.values():
            return calls[0]
        return None

    def pop(self, rpc: "RpcTask") -> None:
        """Take a call out; if it was its owner's first, the owner goes to the end."""
        calls = self._owners[rpc.owner]
        was_first = calls[0] is rpc
        calls.remove(rpc)
        self._len -= 1
        if not calls:
            del self._owners[rpc.owner]
        elif was_first:
            self._owners.move_to_end(rpc.owner)
