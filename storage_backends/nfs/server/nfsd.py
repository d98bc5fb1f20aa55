"""The server as kernel threads of the emulated host: a loop-back mount.

Mirrors fs/nfsd/vfs.c, nfssvc.c and net/sunrpc/svc_xprt.c, svcsock.c of 6.1 as far as memory and waiting go. The export
is a file system on a disk of this host, so what a client's WRITE carries is copied into the page cache a second time
and dirties it there: the server is a writer among others, and may be held back for dirt like any of them. Unstable data
is dirt of that disk, and a COMMIT is an fsync of the file.

A thread owns the pages a call is received into, as many as the largest call needs (``svc_alloc_arg``). What a reply was
made in goes with the reply, so each call begins with an allocation in GFP_KERNEL: a thread may be in direct reclaim
before it has looked at anything. One thread at a time reads from the connection, one at a time answers on it. Whoever
could not put an answer into the socket within 30 s, since the client does not read or since there is no memory, closes
the connection (``svc_tcp_accept`` sets sk_sndtimeo, ``svc_tcp_sendto`` gives up).

While it writes into the file system below, a thread is marked PF_LOCAL_THROTTLE (before 5.7 PF_LESS_THROTTLE): see
:mod:`netvm.pagecache.throttle` for what that has meant over the years.

The largest READ and WRITE is 1/4096 of memory, 16 KiB on a small machine, whatever the client would like
(``nfsd_get_default_max_blksize``).

# MODEL: the 30 s are for the header and for the data of an answer, each; before 6.5 every page was a send of its own
# with so much time. A thread that reads waits on the connection for the whole of a call and does not give it back half
# read; READ copies out of the page cache into the socket instead of lending pages to it; files are not truncated on the
# server.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netvm.errors import Errno
from netvm.host.backend import BackendContext
from netvm.mm.gfp import GFP_KERNEL, PF_KTHREAD, PF_LOCAL_THROTTLE
from netvm.net.sock import TcpSock
from netvm.net.wire import content_size
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.ports import FileSystem
from netvm.pagecache.readahead import FileReader, ReadAhead
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import Semaphore, WaitQueue
from netvm.units import NS_PER_MS, NS_PER_S, PAGE_SIZE
from storage_backends.nfs.connection.procedures import COMMIT, READ, SETATTR, WRITE
from storage_backends.nfs.connection.server import NfsServerConnection, Request
from storage_backends.nfs.messages import data, files
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.nfs.server.service import ExportedFile, NfsService
from storage_backends.wire import BLOCK_SIZE, Blocks, RemoteProtocolError

__all__ = ["LocalFile", "LocalNfsServer", "max_blksize"]

NFSSVC_MAXBLKSIZE: Final = 1 << 20
_LEAST_BLKSIZE: Final = 8 << 10
ALLOC_DELAY_NS: Final = 500 * NS_PER_MS
"""How long a thread waits that got no page."""
SNDTIMEO_NS: Final = 30 * NS_PER_S
"""sk_sndtimeo of an accepted connection: a write must not block for ever when memory is low (svc_tcp_accept)."""

_STATUS: Final = {
    -int(Errno.ENOSPC): NfsStat3.NFS3ERR_NOSPC,
    -int(Errno.ENOMEM): NfsStat3.NFS3ERR_JUKEBOX,
    -int(Errno.EIO): NfsStat3.NFS3ERR_IO,
}


def max_blksize(total_pages: int) -> int:
    """Return the most data of one READ or WRITE in bytes (nfsd_get_default_max_blksize)."""
    target = total_pages * PAGE_SIZE >> 12
    found = NFSSVC_MAXBLKSIZE
    while found > target and found >= 2 * _LEAST_BLKSIZE:
        found //= 2
    return found


class LocalFile:
    """One file of the export: pages in the host's page cache, on the disk below."""

    __slots__ = ("mapping", "ra", "seen_errors", "size_bytes")

    def __init__(self, mapping: Mapping, size_bytes: int) -> None:
        self.mapping = mapping
        self.size_bytes = size_bytes
        self.ra = ReadAhead()
        self.seen_errors = 0

    @property
    def versions(self) -> npt.NDArray[np.int64]:
        """The newest version of every page; a server that is killed leaves its page cache behind."""
        return self.mapping.version

    def trim(self, offset_bytes: int, size_bytes: int) -> None:
        """No file is ever cut here: SETATTR refuses it."""
        raise AssertionError(f"{self.mapping.name} is cut by {size_bytes} bytes at {offset_bytes}")

    def lose_uncommitted(self) -> int:
        """The host goes on, and so do its dirty pages."""
        return 0


class LocalNfsServer:
    """``nfsd``: threads, one connection, and the export's file system."""

    def __init__(
        self, context: BackendContext, service: NfsService, cache: PageCache, reader: FileReader, fs: FileSystem
    ) -> None:
        self.world = context.world
        self.stack = context.stack
        self.cpus = context.cpus
        self.log = context.log
        self.service = service
        self.cache = cache
        self.reader = reader
        self.fs = fs
        pages = context.stack.pages
        service.io_size_bytes = max_blksize(sum(zone.managed for zone in pages.node.zones))
        service.new_store = self.new_store
        self.nr_arg_pages = (service.io_size_bytes + PAGE_SIZE + 2 * PAGE_SIZE) // PAGE_SIZE
        """Pages a thread owns: sv_max_mesg and two more."""
        self.sock: TcpSock | None = None
        self.connection = NfsServerConnection()
        self.serving: dict[int, Task] = {}
        """Calls that are being executed, by xid."""
        self.threads: list[Task] = []
        self._nr_threads: int = context.options.nfsd_threads
        self._owner = pages.ledger.owner("nfsd")
        self._is_up = True
        self._reader: Task | None = None
        idle = Resource("work", "nfsd: a call to serve", external=True)
        self._idle = WaitQueue(context.world, idle)
        self._idle_resource = idle
        self._mutex = Semaphore(context.world, "xpt_mutex")
        self._free_thread = Resource("work", "nfsd: a free thread", lambda: list(self.threads))
        self._disk = Resource("timer", "nfsd: a slow COMMIT", external=True)

    def new_store(self, name: str) -> LocalFile:
        """Make a file on the disk below."""
        mapping = self.cache.create(self.fs, f"nfsd:{name}")
        return LocalFile(mapping, self.service.capacity_bytes)

    def start(self) -> None:
        """Start the threads."""
        for _ in range(self._nr_threads):
            self.threads.append(self.world.spawn("nfsd", self.nfsd, cpus=self.cpus, flags=PF_KTHREAD))

    # -- connections ----------------------------------------------------------------------------------------------

    def listen(self, sock: TcpSock) -> None:
        """Take a socket that a connection may come to."""
        old, self.sock = self.sock, sock
        self.connection = NfsServerConnection()
        if old is not None:
            old.state_change = None
            self._close(old)
        sock.listening = self._is_up
        sock.sndtimeo_ns = SNDTIMEO_NS
        sock.state_change = self._wake
        sock.readable_wait.resource = self._idle_resource

    def _wake(self) -> None:
        self._idle.wake_all()

    def _close(self, sock: TcpSock) -> None:
        self.stack.close(sock, "nfsd: lock_sock", lambda closed: closed is self.sock)

    def reset(self) -> None:
        """Close the connection there is."""
        if self.sock is not None and not self.sock.listening:
            self._close(self.sock)

    def restart(self, until_ns: int) -> None:
        """Kill the server and start it again then: another verifier, and every connection is gone."""
        self.service.restart(until_ns)
        self._is_up = False
        self.reset()
        if self.sock is not None:
            self.sock.listening = False
        self.world.call_at(until_ns, self._up_again)

    def _up_again(self) -> None:
        self._is_up = True
        if self.sock is not None and not self.sock.established and not self.sock.eof:
            self.sock.listening = True

    # -- a thread -------------------------------------------------------------------------------------------------

    async def nfsd(self, task: Task) -> None:
        """Have pages, have a call, execute it, answer it."""
        owned: list[int] = []
        while True:
            await self.svc_alloc_arg(task, owned)
            sock, connection, request = await self.svc_recv(task)
            self.serving[request.xid] = task
            task.charge_ns += self.stack.costs.server_request
            result = await self.nfsd_dispatch(task, request)
            if self.serving.get(request.xid) is task:
                del self.serving[request.xid]
            if connection is self.connection:
                await self._svc_send(task, sock, connection.reply(request.xid, result))
            self.stack.pages.free_pages(owned.pop(), 0)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    async def svc_alloc_arg(self, task: Task, owned: list[int]) -> None:
        """Have the pages that a call may need."""
        pages = self.stack.pages
        while len(owned) < self.nr_arg_pages:
            pfn = await pages.alloc_pages(task, 0, GFP_KERNEL, self._owner)
            if pfn >= 0:
                owned.append(pfn)
            else:
                await self.world.sleep_ns(task, self.world.wheel_ns(ALLOC_DELAY_NS), pages.memory)

    async def svc_recv(self, task: Task) -> tuple[TcpSock, NfsServerConnection, Request]:
        """Read one call, alone; sleep until there is one."""
        while True:
            sock = self.sock
            if self._reader is not None or sock is None or not sock.established:
                await self._idle.wait(task)
                continue
            self._reader = task
            connection = self.connection
            requests = await self._svc_tcp_recvfrom(task, sock, connection)
            self._reader = None
            self._idle.wake_one()
            if requests:
                return sock, connection, requests[0]

    async def _svc_tcp_recvfrom(self, task: Task, sock: TcpSock, connection: NfsServerConnection) -> list[Request]:
        """Read to the end of one record; nothing if the connection ended or the record was refused."""
        requests: list[Request] = []
        while not requests and sock is self.sock:
            want = connection.bytes_wanted
            content = await sock.recvmsg(task, want, wait_all=True)
            if sum(map(content_size, content)) < want:
                self._close(sock)
                break
            try:
                for chunk in content:
                    requests += connection.receive(chunk)
            except RemoteProtocolError:
                self._close(sock)
                break
            say = connection.chunks_to_send()
            if say:
                await self._svc_send(task, sock, say)
        assert len(requests) <= 1
        return requests

    async def _svc_send(self, task: Task, sock: TcpSock, chunks: list[Any]) -> None:
        """Answer on the connection, alone (svc_send, xpt_mutex); what cannot be sent in time is its end."""
        await self._mutex.down(task)
        if sock.established:
            begin = sock.core.write_seq
            if await sock.sendmsg(task, chunks, more=False) == -Errno.EAGAIN:
                sent, size = sock.core.write_seq - begin, sum(map(content_size, chunks))
                self.log(f"rpc-srv/tcp: nfsd: sent {sent} when sending {size} bytes - shutting down socket")
                self._close(sock)
        self._mutex.up(task)

    # -- procedures that touch the disk ---------------------------------------------------------------------------

    async def nfsd_dispatch(self, task: Task, request: Request) -> object:
        """Execute a call and return its result."""
        procedure, args = request.procedure, request.args
        if procedure is WRITE:
            return await self.nfsd_write(task, args)
        if procedure is READ:
            return await self.nfsd_read(task, args)
        if procedure is COMMIT:
            return await self.nfsd_commit(task, args)
        if procedure is SETATTR and args.attributes.size_bytes is not None:
            return files.SetattrRes(status=NfsStat3.NFS3ERR_NOTSUPP)
        return self.service.execute(request)

    def _store(self, file: ExportedFile) -> LocalFile:
        store = file.store
        assert isinstance(store, LocalFile)
        return store

    async def nfsd_write(self, task: Task, args: data.WriteArgs) -> data.WriteRes:
        """Copy a call's pages into the page cache (nfsd_vfs_write), and have them on disk if the client insists."""
        file = self.service.files.get(args.fh)
        status = self.service.refuses_write(file, args)
        if file is None or status:
            return self.service.write_refused(file, status)
        payload = args.data
        if args.offset % BLOCK_SIZE or payload.size_bytes % BLOCK_SIZE or not isinstance(payload, Blocks):
            return self.service.write_refused(file, NfsStat3.NFS3ERR_INVAL)
        store = self._store(file)
        stable = args.stable != StableHow.UNSTABLE
        saved = task.flags & PF_LOCAL_THROTTLE
        task.flags |= PF_LOCAL_THROTTLE
        error = await self.cache.generic_perform_write(
            task, store.mapping, args.offset // BLOCK_SIZE, len(payload.versions), content=list(payload.versions)
        )
        if stable and not error:
            error = await self._vfs_fsync(task, store)
        task.flags = task.flags & ~PF_LOCAL_THROTTLE | saved
        if error:
            return self.service.write_refused(file, _STATUS.get(error, NfsStat3.NFS3ERR_IO))
        return self.service.written(file, args, stable=stable)

    async def _vfs_fsync(self, task: Task, store: LocalFile) -> int:
        error, store.seen_errors = await self.cache.fsync(task, store.mapping, store.seen_errors)
        return error

    async def nfsd_commit(self, task: Task, args: data.CommitArgs) -> data.CommitRes:
        """Have a file on disk (nfsd_commit, vfs_fsync_range)."""
        file = self.service.files.get(args.fh)
        if file is None or self.service.error:
            return data.CommitRes(status=NfsStat3.NFS3ERR_STALE if file is None else self.service.error)
        if self.service.commit_ns:
            await self.world.sleep_ns(task, self.service.commit_ns, self._disk, kind=TimerKind.PROGRESS)
        verifier = self.service.boot_verifier
        error = await self._vfs_fsync(task, self._store(file))
        if error:
            return data.CommitRes(status=_STATUS.get(error, NfsStat3.NFS3ERR_IO))
        return data.CommitRes(verifier=verifier)

    async def nfsd_read(self, task: Task, args: data.ReadArgs) -> data.ReadRes:
        """Read through the page cache (nfsd_read)."""
        file = self.service.files.get(args.fh)
        if file is None or self.service.error:
            return data.ReadRes(status=NfsStat3.NFS3ERR_STALE if file is None else self.service.error)
        if args.offset % BLOCK_SIZE:
            return data.ReadRes(status=NfsStat3.NFS3ERR_INVAL)
        store = self._store(file)
        count = min(args.count, self.service.io_size_bytes)
        end = min(args.offset + count, file.size_bytes)
        if end <= args.offset:
            return data.ReadRes(attributes=file.attributes(), eof=True)
        first, stop = args.offset // BLOCK_SIZE, -(-end // BLOCK_SIZE)
        stop_there = min(stop, store.mapping.nr_pages)
        if stop_there > first:
            error = await self.reader.filemap_read(task, store.mapping, store.ra, first, stop_there - first)
            if error:
                return data.ReadRes(status=_STATUS.get(error, NfsStat3.NFS3ERR_IO))
        versions = store.mapping.version[first:stop_there].tolist()
        versions += [0] * (stop - first - len(versions))
        found = Blocks.of(tuple(versions)).part(0, end - args.offset)
        return data.ReadRes(attributes=file.attributes(), eof=end == file.size_bytes, data=found)

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs(self, xid: int) -> tuple[Resource | Task, ...]:
        """Say what a call waits for on this side: the thread that serves it, or any thread at all."""
        serving = self.serving.get(xid)
        if serving is not None:
            return (serving,)
        if self._reader is not None:
            return (self._reader,)
        return () if len(self._idle) else (self._free_thread,)

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        sock = self.sock.digest() if self.sock is not None else ()
        return (self._is_up, tuple(self.serving), sock, self.fs.digest())
