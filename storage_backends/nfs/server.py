"""An NFS server: files on a disk model, outside the host.

:class:`NfsService` executes procedures on the export: MOUNT of one path, a root directory, and regular files whose
content is kept as one version a page. A file's write cache is volatile: what was answered UNSTABLE falls back to what
the disk holds when the server is killed, and the next server has another write verifier. :class:`RemoteNfsServer`
listens on the wire; it is never short of memory.

A link between client and server that a proxy makes is modelled here where it ends: :class:`TokenLink` takes bytes off
the connection at the link's rate and no faster, so that the window closes, and gives them to the server a latency
later; replies leave at the rate as well.

# MODEL: the server has no duplicate request cache; the procedures used here can be repeated.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from netvm.net.remote import RemoteSocket
from netvm.net.wire import Content, content_part, content_size
from netvm.runtime.world import World
from netvm.units import NS_PER_S
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nfs.connection.procedures import (
    ACCESS,
    COMMIT,
    CREATE,
    FSINFO,
    GETATTR,
    LOOKUP,
    MNT,
    READ,
    SETATTR,
    WRITE,
)
from storage_backends.nfs.connection.server import NfsServerConnection, Request
from storage_backends.nfs.messages import data, files, mount
from storage_backends.nfs.messages.attributes import Fattr3, Ftype3, WccAttr, WccData
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.wire import BLOCK_SIZE, RemoteProtocolError

__all__ = ["ExportedFile", "NfsService", "RemoteNfsServer", "TokenLink"]

EXPORT_PATH: Final = "/export"
ROOT_FH: Final = b"netvm export: the root.."
"""24 bytes, as the recorded server's handles."""
LINK_QUANTUM_BYTES: Final = 16 * 1024
"""What the link takes off the connection at once."""
LINK_WINDOW_BYTES: Final = 64 * 1024
"""Receive buffer of the recorded proxy's sockets."""


class ExportedFile:
    """One regular file."""

    __slots__ = ("fh", "fileid", "mtime_ns", "name", "size_bytes", "store")

    def __init__(self, name: str, fileid: int, store: BlockStore, *, size_bytes: int) -> None:
        self.name = name
        self.fileid = fileid
        self.store = store
        self.size_bytes = size_bytes
        self.mtime_ns = 0
        self.fh = b"netvm export: f%09d" % fileid

    def attributes(self) -> Fattr3:
        """Return the file's attributes."""
        return Fattr3(
            mode=0o600,
            size_bytes=self.size_bytes,
            used_bytes=self.size_bytes,
            fsid=1,
            fileid=self.fileid,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.mtime_ns,
        )

    def wcc_attr(self) -> WccAttr:
        """Return what a client compares before and after a write."""
        return WccAttr(size_bytes=self.size_bytes, mtime_ns=self.mtime_ns, ctime_ns=self.mtime_ns)


class NfsService:
    """One export and the procedures on it."""

    def __init__(self, world: World, disk: DiskModel, *, capacity_bytes: int, commit_ns: int = 0) -> None:
        self.world = world
        self.disk = disk
        self.capacity_bytes = capacity_bytes
        self.commit_ns = commit_ns
        """What a COMMIT takes on top of the disk's own time."""
        self.boot_verifier = world.seeds.stream("nfs.verifier").below(1 << 32).to_bytes(8, "little")
        self.files: dict[bytes, ExportedFile] = {}
        self.error: int = NfsStat3.NFS3_OK
        """Fault: every READ, WRITE and COMMIT is answered with this status."""
        self.nr_lost_blocks = 0
        self.written_bytes = 0
        self._procedures: dict[Any, Callable[[Any], object]] = {
            MNT: self._mnt,
            GETATTR: self._getattr,
            SETATTR: self._setattr,
            LOOKUP: self._lookup,
            ACCESS: self._access,
            READ: self._read,
            WRITE: self._write,
            CREATE: self._create,
            FSINFO: self._fsinfo,
            COMMIT: self._commit,
        }

    def add_file(self, name: str, size_bytes: int, store: BlockStore) -> ExportedFile:
        """Put a file into the root directory."""
        file = ExportedFile(name, len(self.files) + 1, store, size_bytes=size_bytes)
        self.files[file.fh] = file
        return file

    def restart(self) -> None:
        """Kill the server and start it again: unstable data is lost, and the verifier is another."""
        for file in self.files.values():
            self.nr_lost_blocks += file.store.lose_uncommitted()
        number = int.from_bytes(self.boot_verifier, "little") + 1
        self.boot_verifier = number.to_bytes(8, "little")

    def due_ns(self, request: Request, now_ns: int) -> int:
        """Return when a call will have been executed."""
        if request.procedure is WRITE:
            return self.disk.submit(request.args.data.size_bytes, now_ns)
        if request.procedure is READ:
            return self.disk.submit(request.args.count, now_ns)
        due_ns = self.disk.submit(0, now_ns)
        return due_ns + self.commit_ns if request.procedure is COMMIT else due_ns

    def execute(self, request: Request) -> object:
        """Execute a call and return its result."""
        procedure = self._procedures.get(request.procedure)
        return None if procedure is None else procedure(request.args)

    # -- procedures -----------------------------------------------------------------------------------------------

    def _mnt(self, args: mount.MountArgs) -> mount.MountRes:
        if args.dirpath != EXPORT_PATH:
            return mount.MountRes(status=mount.MountStat3.MNT3ERR_NOENT)
        return mount.MountRes(fh=ROOT_FH, auth_flavors=(1,))

    def _attributes(self, fh: bytes) -> Fattr3 | None:
        if fh == ROOT_FH:
            return Fattr3(ftype=Ftype3.NF3DIR, mode=0o755, nlink=2, fsid=1)
        file = self.files.get(fh)
        return file.attributes() if file is not None else None

    def _getattr(self, args: Any) -> files.GetattrRes:
        attributes = self._attributes(args.fh)
        status = NfsStat3.NFS3ERR_STALE if attributes is None else NfsStat3.NFS3_OK
        return files.GetattrRes(status=status, attributes=attributes)

    def _access(self, args: files.AccessArgs) -> files.AccessRes:
        attributes = self._attributes(args.fh)
        if attributes is None:
            return files.AccessRes(status=NfsStat3.NFS3ERR_STALE)
        return files.AccessRes(attributes=attributes, access=args.access)

    def _fsinfo(self, args: Any) -> files.FsinfoRes:
        attributes = self._attributes(args.fh)
        if attributes is None:
            return files.FsinfoRes(status=NfsStat3.NFS3ERR_STALE)
        return files.FsinfoRes(attributes=attributes)

    def _lookup(self, args: files.LookupArgs) -> files.LookupRes:
        directory = self._attributes(args.dir_fh)
        if directory is None or args.dir_fh != ROOT_FH:
            status = NfsStat3.NFS3ERR_STALE if directory is None else NfsStat3.NFS3ERR_NOTDIR
            return files.LookupRes(status=status, dir_attributes=directory)
        for file in self.files.values():
            if file.name == args.name:
                return files.LookupRes(fh=file.fh, attributes=file.attributes(), dir_attributes=directory)
        return files.LookupRes(status=NfsStat3.NFS3ERR_NOENT, dir_attributes=directory)

    def _create(self, args: files.CreateArgs) -> files.CreateRes:
        if args.dir_fh != ROOT_FH:
            return files.CreateRes(status=NfsStat3.NFS3ERR_NOTDIR)
        exclusive = args.guarded or args.exclusive_verifier is not None
        for file in self.files.values():
            if file.name == args.name:
                if exclusive:
                    return files.CreateRes(status=NfsStat3.NFS3ERR_EXIST)
                return files.CreateRes(fh=file.fh, attributes=file.attributes())
        store = BlockStore(self.capacity_bytes, write_cache=True)
        file = self.add_file(args.name, args.attributes.size_bytes or 0, store)
        return files.CreateRes(fh=file.fh, attributes=file.attributes())

    def _setattr(self, args: files.SetattrArgs) -> files.SetattrRes:
        file = self.files.get(args.fh)
        if file is None:
            return files.SetattrRes(status=NfsStat3.NFS3ERR_STALE)
        before = file.wcc_attr()
        size_bytes = args.attributes.size_bytes
        if size_bytes is not None:
            if size_bytes > file.store.size_bytes:
                return files.SetattrRes(status=NfsStat3.NFS3ERR_NOSPC, wcc=WccData(after=file.attributes()))
            first = -(-size_bytes // BLOCK_SIZE) * BLOCK_SIZE
            if size_bytes < file.size_bytes and first < file.store.size_bytes:
                file.store.trim(first, file.store.size_bytes - first)
            file.size_bytes = size_bytes
        file.mtime_ns = self.world.now_ns
        return files.SetattrRes(wcc=WccData(before=before, after=file.attributes()))

    def _read(self, args: data.ReadArgs) -> data.ReadRes:
        file = self.files.get(args.fh)
        if file is None or self.error:
            return data.ReadRes(status=NfsStat3.NFS3ERR_STALE if file is None else self.error)
        if args.offset % BLOCK_SIZE:
            return data.ReadRes(status=NfsStat3.NFS3ERR_INVAL)
        end = min(args.offset + args.count, file.size_bytes)
        attributes = file.attributes()
        if end <= args.offset:
            return data.ReadRes(attributes=attributes, eof=True)
        whole = -(-(end - args.offset) // BLOCK_SIZE) * BLOCK_SIZE
        found = file.store.read(args.offset, whole).part(0, end - args.offset)
        return data.ReadRes(attributes=attributes, eof=end == file.size_bytes, data=found)

    def _write(self, args: data.WriteArgs) -> data.WriteRes:
        file = self.files.get(args.fh)
        if file is None or self.error:
            return data.WriteRes(status=NfsStat3.NFS3ERR_STALE if file is None else self.error)
        size_bytes = args.data.size_bytes
        end = args.offset + size_bytes
        if end > self.capacity_bytes or end > file.store.size_bytes:
            return data.WriteRes(status=NfsStat3.NFS3ERR_NOSPC, wcc=WccData(after=file.attributes()))
        stable = args.stable != StableHow.UNSTABLE
        try:
            file.store.write(args.offset, args.data, fua=stable)
        except ValueError:
            # this export keeps whole pages
            return data.WriteRes(status=NfsStat3.NFS3ERR_INVAL, wcc=WccData(after=file.attributes()))
        self.written_bytes += size_bytes
        file.size_bytes = max(file.size_bytes, end)
        file.mtime_ns = self.world.now_ns
        return data.WriteRes(
            wcc=WccData(after=file.attributes()),
            count=size_bytes,
            committed=StableHow.FILE_SYNC if stable else StableHow.UNSTABLE,
            verifier=self.boot_verifier,
        )

    def _commit(self, args: data.CommitArgs) -> data.CommitRes:
        file = self.files.get(args.fh)
        if file is None or self.error:
            return data.CommitRes(status=NfsStat3.NFS3ERR_STALE if file is None else self.error)
        file.store.flush()
        return data.CommitRes(wcc=WccData(after=file.attributes()), verifier=self.boot_verifier)


class _Due(NamedTuple):
    """A call that will have been executed at ``due_ns``."""

    due_ns: int
    request: Request


class TokenLink:
    """One way of a proxied link: bytes leave it at the rate, in order, a latency after they were taken in."""

    def __init__(
        self, world: World, *, bandwidth_bytes_per_s: int, latency_ns: int, deliver: Callable[[Content], None]
    ) -> None:
        self.world = world
        self.bandwidth = bandwidth_bytes_per_s
        self.latency_ns = latency_ns
        self.deliver = deliver
        self.taken: Callable[[int], None] | None = None
        """Called with the bytes that were taken off the connection: its window may open again."""
        self.stalled_until_ns = 0
        self._waiting: deque[Content] = deque()
        self._free_ns = 0
        self._armed = False
        self._epoch = 0

    def forget(self) -> None:
        """Drop what is under way: the connection is gone."""
        self._waiting.clear()
        self._epoch += 1
        self._armed = False

    def push(self, content: Content) -> None:
        """Take in what has arrived."""
        self._waiting.append(content)
        self._arm()

    def _arm(self) -> None:
        if self._armed or not self._waiting:
            return
        head = self._waiting[0]
        size_bytes = content_size(head)
        if size_bytes > LINK_QUANTUM_BYTES:
            self._waiting[0] = content_part(head, 0, LINK_QUANTUM_BYTES)
            self._waiting.insert(1, content_part(head, LINK_QUANTUM_BYTES, size_bytes))
            size_bytes = LINK_QUANTUM_BYTES
        start_ns = max(self.world.now_ns, self._free_ns, self.stalled_until_ns)
        self._free_ns = start_ns + (-(-size_bytes * NS_PER_S // self.bandwidth) if self.bandwidth else 0)
        self._armed = True
        self.world.call_at(self._free_ns, self._through, self._epoch)

    def _through(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._armed = False
        if self.stalled_until_ns > self.world.now_ns:
            self._free_ns = self.stalled_until_ns
            self._armed = True
            self.world.call_at(self.stalled_until_ns, self._through, epoch)
            return
        content = self._waiting.popleft()
        if self.taken is not None:
            self.taken(content_size(content))
        self.world.call_after(self.latency_ns, self._arrived, content, epoch)
        self._arm()

    def _arrived(self, content: Content, epoch: int) -> None:
        if epoch == self._epoch:
            self.deliver(content)


class RemoteNfsServer:
    """The server on a machine of its own, at most one connection at a time."""

    def __init__(self, world: World, service: NfsService, *, bandwidth_bytes_per_s: int, latency_ns: int) -> None:
        self.world = world
        self.service = service
        self.connection = NfsServerConnection()
        self.sock: RemoteSocket | None = None
        self.up = TokenLink(
            world, bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_ns=latency_ns, deliver=self._receive
        )
        self.down = TokenLink(world, bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_ns=0, deliver=self._say)
        self.up.taken = self._taken
        self._epoch = 0
        self._down_until_ns = 0

    def listen(self, sock: RemoteSocket) -> None:
        """Take a socket on which a connection will come."""
        self.forget()
        self.sock = sock
        self.connection = NfsServerConnection()
        sock.receive_space = LINK_WINDOW_BYTES
        sock.reads_at_once = False
        sock.on_data = lambda content: self._data(sock, content)
        sock.on_established = lambda: self._established(sock)
        sock.on_closed = lambda: self._closed(sock)

    def forget(self) -> None:
        """Drop what belongs to the present connection."""
        self._epoch += 1
        self.up.forget()
        self.down.forget()

    def _established(self, sock: RemoteSocket) -> None:
        if sock is self.sock and self.world.now_ns < self._down_until_ns:
            # the proxy accepts, finds no server, and closes
            self.world.call_after(0, sock.close)

    def _closed(self, sock: RemoteSocket) -> None:
        if sock is self.sock:
            self.forget()

    def _data(self, sock: RemoteSocket, content: list[Content]) -> None:
        if sock is self.sock:
            for chunk in content:
                self.up.push(chunk)

    def _taken(self, size_bytes: int) -> None:
        if self.sock is not None:
            self.sock.was_read(size_bytes)

    def _receive(self, chunk: Any) -> None:
        now_ns = self.world.now_ns
        try:
            requests = self.connection.receive(chunk)
        except RemoteProtocolError:
            self.reset()
            return
        for say in self.connection.chunks_to_send():
            self.down.push(say)
        for request in requests:
            due = _Due(self.service.due_ns(request, now_ns), request)
            self.world.call_at(due.due_ns, self._due, due, self._epoch)

    def _due(self, due: _Due, epoch: int) -> None:
        if epoch != self._epoch:
            return
        due_ns = self.service.disk.due_ns(due.due_ns)
        if due_ns > self.world.now_ns:
            self.world.call_at(due_ns, self._due, due, epoch)
            return
        for chunk in self.connection.reply(due.request.xid, self.service.execute(due.request)):
            self.down.push(chunk)

    def _say(self, chunk: Content) -> None:
        if self.sock is not None:
            self.sock.write([chunk])

    def reset(self) -> None:
        """Close the connection once, on both sides of the proxy."""
        self.forget()
        if self.sock is not None:
            self.sock.close()

    def restart(self, until_ns: int) -> None:
        """Kill the server; until it is back connections are accepted and closed."""
        self.service.restart()
        self._down_until_ns = until_ns
        self.reset()

    def stall(self, until_ns: int) -> None:
        """Let nothing move; the connection stays up."""
        self.up.stalled_until_ns = self.down.stalled_until_ns = until_ns

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return self.sock.digest() if self.sock is not None else ()
