"""The door between the host and iSCSI: makes session, daemon and target, and the sockets between them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from netvm.block.blk_mq import RequestQueue
from netvm.errors import UsageError
from netvm.host.backend import Backend, BackendContext
from netvm.net.remote import RemoteSocket
from netvm.net.sock import TcpSock
from netvm.net.wire import connect_streams
from netvm.runtime.task import Task
from netvm.units import MIB, NS_PER_US
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.iscsi.initiator.iscsid import Iscsid
from storage_backends.iscsi.initiator.session import IscsiSession, login_offer
from storage_backends.iscsi.initiator.tcp import TCP_WINDOW_BYTES
from storage_backends.iscsi.target import IscsiService, LocalIscsiTarget, RemoteIscsiTarget

__all__ = ["IscsiBackend", "backend"]


class IscsiBackend:
    """Swap over iSCSI, its target outside the host or on it."""

    def __init__(self, context: BackendContext) -> None:
        options = context.options
        self.context = context
        disk = options.disk
        self.store = BlockStore(options.size_mib * MIB)
        self.disk = DiskModel(
            latency_ns=disk.latency_us * NS_PER_US,
            bandwidth_bytes_per_s=disk.bandwidth_bytes_per_s,
            queue_depth=disk.queue_depth,
            in_order=disk.in_order,
        )
        self.service = IscsiService(self.store, self.disk, login_offer(options))
        self.local: LocalIscsiTarget | None = None
        self.remote: RemoteIscsiTarget | None = None
        if context.link is not None:
            self.remote = RemoteIscsiTarget(context.world, self.service)
        else:
            self.local = LocalIscsiTarget(context.world, context.stack, self.service, context.cpus)
        self.driver = IscsiSession(context, self.tasks)
        self.iscsid = Iscsid(context, self.driver, self.open_socket)

    @property
    def target(self) -> RemoteIscsiTarget | LocalIscsiTarget:
        """The target, wherever it is."""
        target = self.remote or self.local
        assert target is not None
        return target

    def open_socket(self) -> TcpSock:
        """Make the two ends of a new connection; ours is not connected yet."""
        context = self.context
        sock = TcpSock(
            context.stack, "sda", sndbuf=TCP_WINDOW_BYTES, rcvbuf=TCP_WINDOW_BYTES, loopback=context.link is None
        )
        if context.link is not None:
            link = context.link
            peer = RemoteSocket(context.world, "iscsi-target", link=link.down, acks_every_frame=link.acks_every_frame)
            connect_streams(sock, peer)
            assert self.remote is not None
            self.remote.listen(peer)
        else:
            local_peer = TcpSock(context.stack, "iscsi-target", loopback=True)
            connect_streams(sock, local_peer)
            assert self.local is not None
            self.local.listen(local_peer)
            sock.peer_provider = self.tasks
        return sock

    def attach(self, queue: RequestQueue) -> None:
        """Take the queue whose requests are ours."""
        self.driver.queue = queue

    async def start(self, task: Task) -> None:
        """Start the target if it is ours, then the daemon, and wait for its login."""
        if not await self.driver.sg_pools.fill(task):
            raise UsageError("storage: no memory for the scatter-gather lists of iSCSI")
        if self.local is not None:
            self.local.start()
        self.iscsid.start()
        await self.iscsid.wait_for_login(task)

    def stored(self) -> npt.NDArray[np.int64]:
        """Return the version the disk holds of each page."""
        return self.store.versions

    def reset_connection(self) -> None:
        """Close the connection under the session."""
        self.target.reset()

    def stall(self, until_ns: int) -> None:
        """Let the disk do nothing until then."""
        self.disk.stall(until_ns)

    def set_fault(self, errno: int) -> None:
        """Let the disk behind the unit be full, or fail."""
        self.store.fault = errno

    def restart_server(self, until_ns: int) -> None:
        """Lose the connection and what was not written; connections are accepted again from then on."""
        self.store.lose_uncommitted()
        self.target.restart(until_ns)

    def tasks(self) -> list[Task]:
        """Return the target's threads on this host."""
        return self.local.tasks() if self.local is not None else []

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.driver.digest(), self.target.digest())


def backend(context: BackendContext) -> Backend:
    """Make the backend (entry point ``netvm.storage_backends``: ``iscsi``)."""
    return IscsiBackend(context)
