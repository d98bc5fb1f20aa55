"""What an RPC task asks of a transport, whatever it is made of, and the lock that every transport has.

Mirrors ``struct rpc_xprt_ops`` (include/linux/sunrpc/xprt.h): TCP is :mod:`storage_backends.nfs.client.xprt`, UDP
:mod:`storage_backends.nfs.client.xprt_udp`. Each has its own rule for who may send, for how a call is sent, and for
when it is sent again.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from netvm.errors import Errno
from netvm.runtime.task import Resource, Task
from netvm.runtime.workqueue import WorkItem
from storage_backends.nfs.client.slots import SlotTable

if TYPE_CHECKING:
    from storage_backends.nfs.client.clnt import RpcClient
    from storage_backends.nfs.client.rpc_task import RpcTask

__all__ = ["NOT_CONNECTED", "NO_MEMORY", "NO_ROOM", "SendLock", "Transport"]

NO_MEMORY: Final = -int(Errno.ENOBUFS)
"""Status of a call that the socket had no memory for."""
NO_ROOM: Final = -int(Errno.EAGAIN)
NOT_CONNECTED: Final = -int(Errno.EPIPE)


class SendLock:
    """XPRT_LOCKED: one at a time sends or sees to the connection, and calls that are to be sent wait for it."""

    def __init__(self, client: "RpcClient") -> None:
        self.client = client
        self.locked_by: RpcTask | WorkItem | None = None
        """XPRT_LOCKED and snd_task."""
        self.sending: deque[RpcTask] = deque()
        self.write_space = False
        """XPRT_WRITE_SPACE: the send buffer was full."""

    def needs_memalloc(self, rpc: "RpcTask") -> bool:
        """Whether a task may use the reserve because of what it holds (xprt_needs_memalloc)."""
        return self.client.nr_swapping > 0 and self.locked_by is rpc

    def _needs_of_holder(self, rpc: "RpcTask") -> tuple[Resource | Task, ...]:
        """Say what a call that sleeps for the lock waits for if another call has it; empty if none can be told."""
        holder = self.locked_by
        if holder is None or holder is rpc or isinstance(holder, WorkItem):
            return ()
        if holder.running_on is not None:
            return (holder.running_on,)
        return (self.client.rpciod.pool.needs_worker,) if holder.item.pending else ()

    def release_request(self, _rpc: "RpcTask") -> None:
        """A call is over: there is nothing to give back."""

    def _waiting(self) -> "deque[RpcTask]":
        """Return whose turn it is, in order."""
        return self.sending

    def _admits(self, _rpc: "RpcTask") -> bool:
        """Whether a call may have the lock."""
        return True

    def _lock_write_next(self) -> None:
        """Wake who is next (__xprt_lock_write_next)."""
        while self.locked_by is None and not self.write_space:
            queue = self._waiting()
            if not queue:
                return
            rpc = queue.popleft()
            if rpc.queued and self._admits(rpc):
                self.locked_by = rpc
                rpc.wake_up()

    def _room_again(self) -> None:
        """The socket has room (xprt_write_space)."""
        if self.write_space:
            self.write_space = False
            self._lock_write_next()


class Transport(Protocol):
    """``struct rpc_xprt`` and its operations."""

    slots: SlotTable

    @property
    def is_connected(self) -> bool:
        """Whether calls can be sent."""
        ...

    def needs_memalloc(self, rpc: "RpcTask") -> bool:
        """Whether a task may use the reserve because of what it holds."""
        ...

    def set_memalloc(self) -> None:
        """Make the socket one that memory is freed through."""
        ...

    def connect(self, rpc: "RpcTask") -> None:
        """Have a connection made, and sleep until there is one."""
        ...

    def lock_write(self, rpc: "RpcTask") -> bool:
        """Take the lock, or sleep for it and return False."""
        ...

    def release_write(self, holder: "RpcTask") -> None:
        """Let go of the lock."""
        ...

    def release_request(self, rpc: "RpcTask") -> None:
        """Have back what a call that is over still has of the transport."""
        ...

    def enqueue(self, rpc: "RpcTask") -> None:
        """Note that a call is to be sent."""
        ...

    def dequeue(self, rpc: "RpcTask") -> bool:
        """Take a call out that needs not be sent any more; False if a part of it is on the wire already."""
        ...

    async def transmit(self, task: Task, rpc: "RpcTask") -> None:
        """Send a call, and perhaps others before it; ``rpc.status`` says how it ended."""
        ...

    def wait_receive(self, rpc: "RpcTask") -> None:
        """Sleep until the reply comes or it is time to ask again."""
        ...

    def needs(self, rpc: "RpcTask") -> tuple[Resource | Task, ...]:
        """Say what a sleeping call waits for, as far as this host provides it."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...
