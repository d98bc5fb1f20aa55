"""NFS version 3 itself: its program, procedures and statuses (RFC 1813, sections 2.6 and 3).

Each procedure's arguments and results are one dataclass with ``push_x`` and ``pull_x`` beside it: those that move data
in :mod:`~storage_backends.nfs.messages.data`, the others in :mod:`~storage_backends.nfs.messages.files`. A result is a
status, what is said with every status (attributes, so that caches stay right even after an error), and what is said
with NFS3_OK only, whose fields keep their defaults otherwise.

Left out: directories, links and devices beyond LOOKUP and CREATE; the file system statistics of FSSTAT and PATHCONF.
"""

from dataclasses import dataclass
from enum import IntEnum

from storage_backends.nfs.messages.attributes import pull_fh, push_fh
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = [
    "NFS_PROGRAM",
    "NFS_VERSION",
    "FhArgs",
    "NfsProc",
    "NfsStat3",
    "pull_fh_args",
    "pull_status",
    "push_fh_args",
]

NFS_PROGRAM = 100003
NFS_VERSION = 3


class NfsProc(IntEnum):
    """Procedures."""

    NULL = 0
    GETATTR = 1
    SETATTR = 2
    LOOKUP = 3
    ACCESS = 4
    READ = 6
    WRITE = 7
    CREATE = 8
    FSINFO = 19
    COMMIT = 21


class NfsStat3(IntEnum):
    """``nfsstat3`` (section 2.6)."""

    NFS3_OK = 0
    NFS3ERR_PERM = 1
    NFS3ERR_NOENT = 2
    NFS3ERR_IO = 5
    NFS3ERR_NXIO = 6
    NFS3ERR_ACCES = 13
    NFS3ERR_EXIST = 17
    NFS3ERR_XDEV = 18
    NFS3ERR_NODEV = 19
    NFS3ERR_NOTDIR = 20
    NFS3ERR_ISDIR = 21
    NFS3ERR_INVAL = 22
    NFS3ERR_FBIG = 27
    NFS3ERR_NOSPC = 28
    NFS3ERR_ROFS = 30
    NFS3ERR_MLINK = 31
    NFS3ERR_NAMETOOLONG = 63
    NFS3ERR_NOTEMPTY = 66
    NFS3ERR_DQUOT = 69
    NFS3ERR_STALE = 70
    NFS3ERR_REMOTE = 71
    NFS3ERR_BADHANDLE = 10001
    NFS3ERR_NOT_SYNC = 10002
    NFS3ERR_BAD_COOKIE = 10003
    NFS3ERR_NOTSUPP = 10004
    NFS3ERR_TOOSMALL = 10005
    NFS3ERR_SERVERFAULT = 10006
    NFS3ERR_BADTYPE = 10007
    NFS3ERR_JUKEBOX = 10008


_STATS = frozenset(NfsStat3)


@dataclass(frozen=True, slots=True, kw_only=True)
class FhArgs:
    """Arguments of GETATTR and FSINFO: a handle."""

    fh: bytes


def push_fh_args(writer: XdrWriter, x: FhArgs) -> None:
    """Append a handle."""
    push_fh(writer, x.fh)


def pull_fh_args(reader: XdrReader) -> FhArgs:
    """Consume a handle."""
    return FhArgs(fh=pull_fh(reader))


def pull_status(reader: XdrReader) -> int:
    """Consume a status."""
    status = reader.uint()
    if status not in _STATS:
        raise RemoteProtocolError(f"nfsstat3 {status}")
    return status
