"""The door between the host and NFS: makes client, server and the connections between them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from netvm.block.blk_mq import RequestQueue
from netvm.block.swap_file import FileSwapIo
from netvm.errors import Errno, UsageError
from netvm.host.backend import Backend, BackendContext, MountContext
from netvm.net.remote import RemoteDatagramSocket, RemoteSocket
from netvm.net.sock import TcpSock
from netvm.net.udp import UdpSock
from netvm.net.wire import connect_streams
from netvm.pagecache.ports import FileSystem
from netvm.runtime.task import Resource, Task
from netvm.trace.recorder import Recorder
from netvm.units import MIB, NS_PER_MS, NS_PER_US
from storage_backends.disk.plugin import LocalDisk
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nfs.client.clnt import RpcClient
from storage_backends.nfs.client.file_system import NfsFileSystem
from storage_backends.nfs.client.mount import Mount
from storage_backends.nfs.client.nfs4_mount import Nfs4Mount
from storage_backends.nfs.client.nfs4_proc import Nfs4CallOps
from storage_backends.nfs.client.nfs4_state import Nfs4Client
from storage_backends.nfs.client.nfs_trace import NfsTrace
from storage_backends.nfs.client.pools import NfsPools
from storage_backends.nfs.client.swap_file import NfsSwapFile
from storage_backends.nfs.client.transport import Transport
from storage_backends.nfs.client.xprt import Xprt
from storage_backends.nfs.client.xprt_udp import UdpXprt
from storage_backends.nfs.connection.timeouts import TCP_TIMEOUT, UDP_TIMEOUT, RpcTimeout
from storage_backends.nfs.messages.data import MAX_DATA_BYTES
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.nfs.server.datagram import DatagramNfsServer
from storage_backends.nfs.server.nfs4 import Nfs4Service
from storage_backends.nfs.server.nfsd import LocalNfsServer
from storage_backends.nfs.server.remote import RemoteNfsServer
from storage_backends.nfs.server.service import EXPORT_PATH, FileStore, NfsService

__all__ = ["NfsBackend", "backend"]

SWAP_FILE = "swapfile"
UDP_MAX_BYTES = 32 << 10
"""Most data of a READ or WRITE over UDP (NFSSVC_MAXBLKSIZE_V3 of the years when it was used)."""


class NfsBackend:
    """A mount: files, or a file that is swapped to, on a server outside the host or on it."""

    def __init__(self, context: BackendContext) -> None:
        options = context.options
        self.context = context
        disk = options.disk
        size_bytes = options.size_mib * MIB
        self.disk = DiskModel(
            latency_ns=disk.latency_us * NS_PER_US,
            bandwidth_bytes_per_s=disk.bandwidth_bytes_per_s,
            queue_depth=disk.queue_depth,
            in_order=disk.in_order,
        )
        self.service = NfsService(
            context.world, self.disk, capacity_bytes=size_bytes, commit_ns=options.commit_ms * NS_PER_MS
        )
        self.is_swap = options.role == "swap" or options.swap_mib > 0
        self.swap_bytes = size_bytes if options.role == "swap" else max(options.swap_mib, 1) * MIB
        self.remote: RemoteNfsServer | DatagramNfsServer | None = None
        self.local: LocalNfsServer | None = None
        self.local_disk: LocalDisk | None = None
        if context.link is not None:
            self._add_swap_file(BlockStore(self.swap_bytes, write_cache=True))
        self.pools = NfsPools(context.world, context.stack.pages, context.slabs, context.stack.fixes)
        self.client = RpcClient(context, self.pools, name="nfs", server_needs=self._server_needs)
        self.client.xprt = self._udp() if options.transport == "udp" else self._tcp()
        most_bytes = UDP_MAX_BYTES if options.transport == "udp" else MAX_DATA_BYTES
        wsize_bytes, rsize_bytes = min(options.wsize_bytes, most_bytes), min(options.rsize_bytes, most_bytes)
        self.state: Nfs4Client | None = None
        self.server = self._mount(wsize_bytes, rsize_bytes)
        self.files: NfsFileSystem | None = None
        self.driver = NfsSwapFile(self.client, wsize_bytes=wsize_bytes, rsize_bytes=rsize_bytes)

    def _mount(self, wsize_bytes: int, rsize_bytes: int) -> Mount:
        """Make the mount of the version that was asked for, and that version's part of the server."""
        if self.context.options.vers == "3":
            return Mount(self.client, wsize_bytes=wsize_bytes, rsize_bytes=rsize_bytes)
        Nfs4Service(self.service)
        self.state = Nfs4Client(self.context, self.client)
        self.client.ops = Nfs4CallOps(self.client, self.state)
        return Nfs4Mount(self.state, wsize_bytes=wsize_bytes, rsize_bytes=rsize_bytes)

    def _tcp(self) -> Transport:
        """Make the transport over TCP, and the server's end if that is outside."""
        context, options = self.context, self.context.options
        if context.link is not None:
            self.remote = RemoteNfsServer(
                context.world,
                self.service,
                bandwidth_bytes_per_s=options.proxy_bandwidth_bytes_per_s,
                latency_ns=options.proxy_latency_us * NS_PER_US,
            )
        timeout = RpcTimeout.of_mount(options.timeo_ds, 2, exponential=False) if options.timeo_ds else TCP_TIMEOUT
        return Xprt(self.client, self.open_socket, max_slots=options.tcp_max_slot_table_entries, timeout=timeout)

    def _udp(self) -> Transport:
        """Make the transport over UDP, and the server's socket (xs_setup_udp, xs_udp_set_buffer_size)."""
        context, options = self.context, self.context.options
        stack = context.stack
        assert context.link is not None
        assert stack.ip_frags is not None
        # room each way for two of the largest calls a slot
        size_bytes = min(options.wsize_bytes, UDP_MAX_BYTES) + 100 + 1024
        buffer_bytes = size_bytes * options.udp_slot_table_entries * 2
        sock = UdpSock(stack, "nfs", rcvbuf=buffer_bytes, sndbuf=buffer_bytes)
        peer = RemoteDatagramSocket(context.world, "nfsd", link=context.link.down)
        sock.peer, sock.peer_fragments = peer, peer.fragments
        peer.peer, peer.peer_fragments = sock, stack.ip_frags
        self.remote = DatagramNfsServer(context.world, self.service, peer)
        timeout = RpcTimeout.of_mount(options.timeo_ds, 3, exponential=True) if options.timeo_ds else UDP_TIMEOUT
        return UdpXprt(self.client, sock, max_slots=options.udp_slot_table_entries, timeout=timeout)

    def open_socket(self) -> TcpSock:
        """Make the two ends of a new connection; ours is not connected yet."""
        context = self.context
        if self.local is not None:
            sock = TcpSock(context.stack, "nfs", loopback=True)
            served = TcpSock(context.stack, "nfsd", loopback=True)
            connect_streams(sock, served)
            self.local.listen(served)
            return sock
        assert context.link is not None
        assert isinstance(self.remote, RemoteNfsServer)
        sock = TcpSock(context.stack, "nfs")
        peer = RemoteSocket(
            context.world, "nfsd", link=context.link.down, acks_every_frame=context.link.acks_every_frame
        )
        connect_streams(sock, peer)
        self.remote.listen(peer)
        return sock

    def attach(self, queue: RequestQueue | FileSwapIo) -> None:
        """Take the requests' owner."""
        assert isinstance(queue, FileSwapIo)
        self.driver.io = queue

    async def start(self, task: Task) -> None:
        """Set the reserves aside, mount, and switch the swap file on (nfs_swap_activate)."""
        self.pools.fill(task)
        self.client.start()
        if self.local is not None:
            self.local.start()
        await self.server.mount(task, EXPORT_PATH)
        if not self.is_swap:
            return
        self.driver.wsize_bytes, self.driver.rsize_bytes = self.server.wsize_bytes, self.server.rsize_bytes
        self.driver.fh, attributes = await self.server.open(task, SWAP_FILE)
        if attributes is not None and attributes.used_bytes < attributes.size_bytes:
            raise UsageError("storage: the swap file has holes (nfs_swap_activate)")
        self.client.swap_activate()
        if self.state is not None:
            await self.state.enable_swap(task)

    def export(self, context: MountContext) -> None:
        """Make the server on this host: its disk, a file system there, and the file to swap to."""
        self.local_disk = LocalDisk(self.context)
        fs = context.mount_disk(self.local_disk, len(self.local_disk.stored()))
        self.local = LocalNfsServer(self.context, self.service, context.cache, context.reader, fs)
        self._add_swap_file(self.local.new_store(SWAP_FILE))

    def _add_swap_file(self, store: FileStore) -> None:
        self.file = self.service.add_file(SWAP_FILE, self.swap_bytes, store, is_allocated=True)

    def _server_needs(self, xid: int) -> tuple[Resource | Task, ...]:
        return self.local.needs(xid) if self.local is not None else ()

    def mount(self, context: MountContext) -> FileSystem:
        """Make the file system on the mount (``[storage] role = "fs"``)."""
        self.files = NfsFileSystem(context, self.server)
        self.files.server_content = self._content
        return self.files

    def _content(self, name: str) -> npt.NDArray[np.int64] | None:
        for file in self.service.files.values():
            if file.name == name:
                return file.store.versions
        return None

    def stored(self) -> npt.NDArray[np.int64]:
        """Return the version the file holds of each page."""
        return self.file.store.versions

    def reset_connection(self) -> None:
        """Close the connection once."""
        if isinstance(self.remote, RemoteNfsServer):
            self.remote.reset()
        elif self.local is not None:
            self.local.reset()

    def stall(self, until_ns: int) -> None:
        """Let nothing move on the link, or on the disk of a server here."""
        if self.remote is not None:
            self.remote.stall(until_ns)
        elif self.local_disk is not None:
            self.local_disk.stall(until_ns)

    def set_fault(self, errno: int) -> None:
        """Let the server's disk be full, or fail."""
        self.service.is_full = errno == Errno.ENOSPC
        self.service.error = NfsStat3.NFS3ERR_IO if errno == Errno.EIO else NfsStat3.NFS3_OK

    def restart_server(self, until_ns: int) -> None:
        """Kill the server: what was not committed is lost; it is back then."""
        if self.remote is not None:
            self.remote.restart(until_ns)
        elif self.local is not None:
            self.local.restart(until_ns)

    def slow_commit(self, delay_ns: int) -> None:
        """Let each COMMIT take so much longer."""
        self.service.commit_ns = self.context.options.commit_ms * NS_PER_MS + delay_ns

    def half_open(self, until_ns: int) -> None:
        """Let the server forget the connection without a word."""
        assert isinstance(self.remote, RemoteNfsServer)
        self.remote.half_open(until_ns)

    def trace(self, recorder: Recorder) -> None:
        """Have the mount's tracepoints recorded."""
        self.client.tracer = NfsTrace(recorder)
        for reserve in (self.pools.tasks, self.pools.buffers, self.pools.write_headers, self.pools.commit_headers):
            recorder.pools.append((reserve.pool.name, reserve.pool.elements))

    def notes(self) -> list[str]:
        """Tell of the client's state at the server: how often it was made anew, and who waits for that."""
        return self.state.notes() if self.state is not None else []

    def tasks(self) -> list[Task]:
        """Return the server's threads on this host."""
        return list(self.local.threads) if self.local is not None else []

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        server = self.remote or self.local
        return (self.driver.digest(), server.digest() if server is not None else ())


def backend(context: BackendContext) -> Backend:
    """Make the backend (entry point ``netvm.storage_backends``: ``nfs``)."""
    return NfsBackend(context)
