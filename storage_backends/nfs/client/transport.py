"""What an RPC task asks of a transport, whatever it is made of.

Mirrors ``struct rpc_xprt_ops`` (include/linux/sunrpc/xprt.h): TCP is :mod:`storage_backends.nfs.client.xprt`, UDP
:mod:`storage_backends.nfs.client.xprt_udp`. Each has its own rule for who may send, for how a call is sent, and for
when it is sent again.
"""

from typing import TYPE_CHECKING, Any, Protocol

from netvm.runtime.task import Resource, Task
from storage_backends.nfs.client.slots import SlotTable

if TYPE_CHECKING:
    from storage_backends.nfs.client.rpc_task import RpcTask

__all__ = ["Transport"]


class Transport(Protocol):
    """``struct rpc_xprt`` and its operations."""

    slots: SlotTable

    @property
    def NO_MEMORY(self) -> int:  # noqa: N802  # a constant of either transport
        """Status of a call that the socket had no memory for."""
        ...

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
