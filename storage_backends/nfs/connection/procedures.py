"""The procedures either end knows: program, version and number, and how to read and write each of them."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from storage_backends.nfs.messages import data, files, mount, nfs3
from storage_backends.nfs.messages.compound import CompoundArgs, CompoundRes
from storage_backends.nfs.messages.mount import MOUNT_PROGRAM, MOUNT_VERSION, MountProc
from storage_backends.nfs.messages.nfs3 import NFS_PROGRAM, NFS_VERSION, NfsProc
from storage_backends.nfs.messages.nfs4 import NFS4_VERSION, Nfs4Proc
from storage_backends.nfs.xdr import XdrReader, XdrWriter

__all__ = [
    "ACCESS",
    "COMMIT",
    "COMPOUND",
    "CREATE",
    "FSINFO",
    "GETATTR",
    "LOOKUP",
    "MNT",
    "MOUNT_NULL",
    "NULL",
    "NULL4",
    "PROCEDURES",
    "READ",
    "SETATTR",
    "UMNT",
    "VERSIONS",
    "WRITE",
    "Procedure",
    "compound",
]


class Procedure(NamedTuple):
    """One remote procedure. The types of arguments and results differ from row to row and belong together in each."""

    name: str
    program: int
    version: int
    number: int
    push_args: Callable[[XdrWriter, Any], None]
    pull_args: Callable[[XdrReader], Any]
    push_res: Callable[[XdrWriter, Any], None]
    pull_res: Callable[[XdrReader], Any]


def _push_void(_writer: XdrWriter, x: None) -> None:
    """Append nothing."""
    assert x is None


def _pull_void(_reader: XdrReader) -> None:
    """Consume nothing."""


def _nfs(
    number: NfsProc,
    push_args: Callable[[XdrWriter, Any], None],
    pull_args: Callable[[XdrReader], Any],
    push_res: Callable[[XdrWriter, Any], None],
    pull_res: Callable[[XdrReader], Any],
) -> Procedure:
    return Procedure(number.name, NFS_PROGRAM, NFS_VERSION, number, push_args, pull_args, push_res, pull_res)


def _mount(
    number: MountProc,
    push_args: Callable[[XdrWriter, Any], None],
    pull_args: Callable[[XdrReader], Any],
    push_res: Callable[[XdrWriter, Any], None],
    pull_res: Callable[[XdrReader], Any],
) -> Procedure:
    return Procedure(number.name, MOUNT_PROGRAM, MOUNT_VERSION, number, push_args, pull_args, push_res, pull_res)


NULL: Final = _nfs(NfsProc.NULL, _push_void, _pull_void, _push_void, _pull_void)
GETATTR: Final = _nfs(
    NfsProc.GETATTR, nfs3.push_fh_args, nfs3.pull_fh_args, files.push_getattr_res, files.pull_getattr_res
)
SETATTR: Final = _nfs(
    NfsProc.SETATTR, files.push_setattr_args, files.pull_setattr_args, files.push_setattr_res, files.pull_setattr_res
)
LOOKUP: Final = _nfs(
    NfsProc.LOOKUP, files.push_lookup_args, files.pull_lookup_args, files.push_lookup_res, files.pull_lookup_res
)
ACCESS: Final = _nfs(
    NfsProc.ACCESS, files.push_access_args, files.pull_access_args, files.push_access_res, files.pull_access_res
)
READ: Final = _nfs(NfsProc.READ, data.push_read_args, data.pull_read_args, data.push_read_res, data.pull_read_res)
WRITE: Final = _nfs(NfsProc.WRITE, data.push_write_args, data.pull_write_args, data.push_write_res, data.pull_write_res)
CREATE: Final = _nfs(
    NfsProc.CREATE, files.push_create_args, files.pull_create_args, files.push_create_res, files.pull_create_res
)
FSINFO: Final = _nfs(NfsProc.FSINFO, nfs3.push_fh_args, nfs3.pull_fh_args, files.push_fsinfo_res, files.pull_fsinfo_res)
COMMIT: Final = _nfs(
    NfsProc.COMMIT, data.push_commit_args, data.pull_commit_args, data.push_commit_res, data.pull_commit_res
)
NULL4: Final = NULL._replace(version=NFS4_VERSION, number=Nfs4Proc.NULL)
COMPOUND: Final = Procedure(
    Nfs4Proc.COMPOUND.name,
    NFS_PROGRAM,
    NFS4_VERSION,
    Nfs4Proc.COMPOUND,
    lambda writer, args: args.push(writer),
    CompoundArgs.pull,
    lambda writer, res: res.push(writer),
    CompoundRes.pull,
)
MOUNT_NULL: Final = _mount(MountProc.NULL, _push_void, _pull_void, _push_void, _pull_void)
MNT: Final = _mount(
    MountProc.MNT, mount.push_mount_args, mount.pull_mount_args, mount.push_mount_res, mount.pull_mount_res
)
UMNT: Final = _mount(MountProc.UMNT, mount.push_mount_args, mount.pull_mount_args, _push_void, _pull_void)

_ALL: Final = (
    NULL,
    GETATTR,
    SETATTR,
    LOOKUP,
    ACCESS,
    READ,
    WRITE,
    CREATE,
    FSINFO,
    COMMIT,
    NULL4,
    COMPOUND,
    MOUNT_NULL,
    MNT,
    UMNT,
)
PROCEDURES: Final[Mapping[tuple[int, int, int], Procedure]] = {(p.program, p.version, p.number): p for p in _ALL}
"""By program, version and number."""
VERSIONS: Final[Mapping[int, tuple[int, int]]] = {
    NFS_PROGRAM: (NFS_VERSION, NFS4_VERSION),
    MOUNT_PROGRAM: (MOUNT_VERSION, MOUNT_VERSION),
}
"""The lowest and the highest version there is of each program; those between are there, too."""


def compound(name: str) -> Procedure:
    """Return COMPOUND under the name of what its operations are for."""
    return COMPOUND._replace(name=name)
