"""The door between the host and NBD: makes client, server and the connection between them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from netvm.block.blk_mq import RequestQueue
from netvm.host.backend import Backend, BackendContext
from netvm.net.remote import RemoteSocket
from netvm.net.sock import TcpSock
from netvm.net.wire import connect_streams
from netvm.runtime.task import Task
from netvm.units import MIB, NS_PER_US
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nbd.client import NbdClient
from storage_backends.nbd.server import LocalNbdServer, NbdService, RemoteNbdServer

__all__ = ["NbdBackend", "backend"]


class NbdBackend:
    """Swap over NBD, its server outside the host or on it."""

    def __init__(self, context: BackendContext) -> None:
        options = context.options
        self.context = context
        size_bytes = options.size_mib * MIB
        disk = options.disk
        self.store = BlockStore(size_bytes)
        self.disk = DiskModel(
            latency_ns=disk.latency_us * NS_PER_US,
            bandwidth_bytes_per_s=disk.bandwidth_bytes_per_s,
            queue_depth=disk.queue_depth,
            in_order=disk.in_order,
        )
        self.service = NbdService(self.store, self.disk, size_bytes)
        self.remote: RemoteNbdServer | None = None
        self.local: LocalNbdServer | None = None
        self.sock = TcpSock(context.stack, "nbd0", loopback=context.link is None)
        self.driver = NbdClient(context, self.sock, self.tasks)
        if context.link is not None:
            self._serve_remotely(context)
        else:
            self._serve_locally(context)

    def _serve_remotely(self, context: BackendContext) -> None:
        assert context.link is not None
        peer = RemoteSocket(
            context.world, "nbd-server", link=context.link.down, acks_every_frame=context.link.acks_every_frame
        )
        connect_streams(self.sock, peer)
        self.remote = RemoteNbdServer(context.world, peer, self.service)

    def _serve_locally(self, context: BackendContext) -> None:
        peer = TcpSock(context.stack, "nbd-server", loopback=True, kernel=False)
        connect_streams(self.sock, peer)
        peer.listening = True
        self.local = LocalNbdServer(context.world, context.stack, peer, self.service, context.cpus)
        self.sock.peer_provider = self.tasks

    def attach(self, queue: RequestQueue) -> None:
        """Take the queue whose requests are ours."""
        self.driver.queue = queue

    async def start(self, task: Task) -> None:
        """Start the server if it is ours, then connect."""
        if self.local is not None:
            self.local.start()
        await self.driver.negotiate(task)

    def stored(self) -> npt.NDArray[np.int64]:
        """Return the version the export holds of each page."""
        return self.store.versions

    def reset_connection(self) -> None:
        """Close the connection under the client."""
        if self.remote is not None:
            self.remote.forget_promises()
            self.remote.sock.abort()
        elif self.local is not None:
            self.local.reset()

    def stall(self, until_ns: int) -> None:
        """Let the disk do nothing until then."""
        self.disk.stall(until_ns)

    def set_fault(self, errno: int) -> None:
        """Let the disk behind the export be full, or fail."""
        self.store.fault = errno

    def restart_server(self, until_ns: int) -> None:
        """Lose the connection and what was not written; NBD has no way back."""
        self.disk.stall(until_ns)
        self.store.lose_uncommitted()
        self.reset_connection()

    def tasks(self) -> list[Task]:
        """Return the server's threads on this host."""
        return self.local.tasks() if self.local is not None else []

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        local = self.local.digest() if self.local is not None else ()
        remote = self.remote.sock.digest() if self.remote is not None else ()
        return (self.driver.digest(), local, remote)


def backend(context: BackendContext) -> Backend:
    """Make the backend (entry point ``netvm.storage_backends``: ``nbd``)."""
    return NbdBackend(context)
