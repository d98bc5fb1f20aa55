"""An export and the procedures on it.

:class:`NfsService` executes procedures: MOUNT of one path, a root directory, and regular files whose content is kept as
one version a page. On a server of its own a file is a block store (:mod:`storage_backends.export.store`) with a
volatile write cache: what was answered UNSTABLE falls back to what the disk holds when the server is killed, and the
next server has another write verifier. A server on the emulated host keeps its files elsewhere and serves READ, WRITE
and COMMIT itself (:mod:`storage_backends.nfs.server.nfsd`); what is asked about a file is answered here all the same.

The server's disk may be full: a WRITE or a size that needs pages nobody has written before is refused (NFS3ERR_NOSPC),
old pages can be written again.

# MODEL: the server has no duplicate request cache; the procedures used here can be repeated. Files are sparse: a page
# is allocated by its first WRITE, not by SETATTR.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from netvm.runtime.world import World
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nfs.connection.procedures import (
    ACCESS,
    COMMIT,
    COMPOUND,
    CREATE,
    FSINFO,
    GETATTR,
    LOOKUP,
    MNT,
    READ,
    SETATTR,
    WRITE,
    Procedure,
)
from storage_backends.nfs.connection.server import Request
from storage_backends.nfs.messages import data, files, mount
from storage_backends.nfs.messages.attributes import Fattr3, Ftype3, WccAttr, WccData
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.files import IO_SIZE_BYTES
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.nfs.messages.nfs4 import Nfs4Op
from storage_backends.wire import BLOCK_SIZE

__all__ = ["EXPORT_PATH", "ROOT_FH", "ExportedFile", "FileStore", "NfsService"]

EXPORT_PATH: Final = "/export"
ROOT_FH: Final = b"netvm export: the root.."
"""24 bytes, as the recorded server's handles."""


class FileStore(Protocol):
    """What keeps the pages of one file."""

    size_bytes: int
    """The most it can hold."""

    @property
    def versions(self) -> npt.NDArray[np.int64]:
        """The newest version of every page, to be read only."""
        ...

    def trim(self, offset_bytes: int, size_bytes: int) -> None:
        """Forget pages: they read as never written."""
        ...

    def lose_uncommitted(self) -> int:
        """The server is killed: return how many pages fall back to what the disk holds."""
        ...


class ExportedFile:
    """One regular file."""

    __slots__ = ("fh", "fileid", "is_allocated", "mtime_ns", "name", "size_bytes", "store")

    def __init__(self, name: str, fileid: int, store: FileStore, *, size_bytes: int, is_allocated: bool) -> None:
        self.name = name
        self.fileid = fileid
        self.store = store
        self.size_bytes = size_bytes
        self.is_allocated = is_allocated
        """All of its blocks are set aside (fallocate), as those of a swap file must be."""
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
        self.is_full = False
        """Fault: no block is free for a page that was never written."""
        self.io_size_bytes = IO_SIZE_BYTES
        """Most data of one READ or WRITE."""
        self.new_store: Callable[[str], FileStore] = lambda _name: BlockStore(self.capacity_bytes, write_cache=True)
        """Makes what keeps a new file's pages."""
        self.restarted: list[Callable[[int], None]] = []
        """Called when the server is killed, with the instant at which it will be back."""
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

    def add_file(self, name: str, size_bytes: int, store: FileStore, *, is_allocated: bool = False) -> ExportedFile:
        """Put a file into the root directory."""
        file = ExportedFile(name, len(self.files) + 1, store, size_bytes=size_bytes, is_allocated=is_allocated)
        self.files[file.fh] = file
        return file

    def restart(self, back_ns: int) -> None:
        """Kill the server, which is back then: unstable data is lost, and the verifier is another."""
        for file in self.files.values():
            self.nr_lost_blocks += file.store.lose_uncommitted()
        number = int.from_bytes(self.boot_verifier, "little") + 1
        self.boot_verifier = number.to_bytes(8, "little")
        for forget in self.restarted:
            forget(back_ns)

    def due_ns(self, request: Request, now_ns: int) -> int:
        """Return when a call will have been executed."""
        moved_bytes, commits = _work_of(request)
        due_ns = self.disk.submit(moved_bytes, now_ns)
        return due_ns + self.commit_ns if commits else due_ns

    def execute(self, request: Request) -> object:
        """Execute a call and return its result."""
        return self.call(request.procedure, request.args) if request.procedure in self._procedures else None

    def call(self, procedure: Procedure, args: object) -> Any:
        """Execute a procedure that this export has and return its result."""
        return self._procedures[procedure](args)

    def serve(self, procedure: Procedure, function: Callable[[Any], object]) -> None:
        """Have one more procedure."""
        self._procedures[procedure] = function

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
        most = self.io_size_bytes
        return files.FsinfoRes(attributes=attributes, rtmax=most, rtpref=most, wtmax=most, wtpref=most)

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
        file = self.add_file(args.name, args.attributes.size_bytes or 0, self.new_store(args.name))
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
        assert isinstance(file.store, BlockStore)
        whole = -(-(end - args.offset) // BLOCK_SIZE) * BLOCK_SIZE
        found = file.store.read(args.offset, whole).part(0, end - args.offset)
        return data.ReadRes(attributes=attributes, eof=end == file.size_bytes, data=found)

    def _write(self, args: data.WriteArgs) -> data.WriteRes:
        file = self.files.get(args.fh)
        status = self.refuses_write(file, args)
        if file is None or status:
            return self.write_refused(file, status)
        assert isinstance(file.store, BlockStore)
        stable = args.stable != StableHow.UNSTABLE
        try:
            file.store.write(args.offset, args.data, fua=stable)
        except ValueError:
            # this export keeps whole pages
            return self.write_refused(file, NfsStat3.NFS3ERR_INVAL)
        return self.written(file, args, stable=stable)

    def refuses_write(self, file: ExportedFile | None, args: data.WriteArgs) -> int:
        """Return the status of a WRITE that cannot be executed, NFS3_OK for one that can."""
        if file is None:
            return NfsStat3.NFS3ERR_STALE
        end = args.offset + args.data.size_bytes
        if self.error:
            return self.error
        if end > self.capacity_bytes or end > file.store.size_bytes:
            return NfsStat3.NFS3ERR_NOSPC
        if self.is_full and not file.is_allocated:
            there = file.store.versions[args.offset // BLOCK_SIZE : -(-end // BLOCK_SIZE)]
            if len(there) * BLOCK_SIZE < args.data.size_bytes or not there.all():
                return NfsStat3.NFS3ERR_NOSPC
        return NfsStat3.NFS3_OK

    def write_refused(self, file: ExportedFile | None, status: int) -> data.WriteRes:
        """Return the answer to a WRITE that was not executed."""
        after = file.attributes() if file is not None and status != self.error else None
        return data.WriteRes(status=status, wcc=WccData(after=after))

    def written(self, file: ExportedFile, args: data.WriteArgs, *, stable: bool) -> data.WriteRes:
        """Note that a WRITE was executed and return its answer."""
        size_bytes = args.data.size_bytes
        self.written_bytes += size_bytes
        file.size_bytes = max(file.size_bytes, args.offset + size_bytes)
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
        assert isinstance(file.store, BlockStore)
        file.store.flush()
        return data.CommitRes(wcc=WccData(after=file.attributes()), verifier=self.boot_verifier)


def _work_of(request: Request) -> tuple[int, bool]:
    """Return the bytes a call moves to or from the disk, and whether it makes others safe."""
    if request.procedure is COMPOUND:
        moved_bytes, commits = 0, False
        for number, args in request.args.operations:
            if number == Nfs4Op.WRITE:
                moved_bytes += args.data.size_bytes
            elif number == Nfs4Op.READ:
                moved_bytes += args.count
            commits = commits or number == Nfs4Op.COMMIT
        return moved_bytes, commits
    if request.procedure is WRITE:
        return request.args.data.size_bytes, False
    if request.procedure is READ:
        return request.args.count, False
    return 0, request.procedure is COMMIT
