"""The MOUNT protocol, version 3 (RFC 1813, appendix I): how a client gets its first file handle.

Left out: DUMP, EXPORT and UMNTALL, which mounting does not need, and the port mapper: the two ports are known.
"""

from dataclasses import dataclass
from enum import IntEnum

from storage_backends.nfs.messages.attributes import pull_fh, push_fh
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = [
    "MNTPATHLEN",
    "MOUNT_PROGRAM",
    "MOUNT_VERSION",
    "MountArgs",
    "MountProc",
    "MountRes",
    "MountStat3",
    "pull_mount_args",
    "pull_mount_res",
    "push_mount_args",
    "push_mount_res",
]

MOUNT_PROGRAM = 100005
MOUNT_VERSION = 3
MNTPATHLEN = 1024
_MAX_FLAVORS = 64


class MountProc(IntEnum):
    """Procedures."""

    NULL = 0
    MNT = 1
    UMNT = 3


class MountStat3(IntEnum):
    """``mountstat3``."""

    MNT3_OK = 0
    MNT3ERR_PERM = 1
    MNT3ERR_NOENT = 2
    MNT3ERR_IO = 5
    MNT3ERR_ACCES = 13
    MNT3ERR_NOTDIR = 20
    MNT3ERR_INVAL = 22
    MNT3ERR_NAMETOOLONG = 63
    MNT3ERR_NOTSUPP = 10004
    MNT3ERR_SERVERFAULT = 10006


_STATS = frozenset(MountStat3)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountArgs:
    """``dirpath``, of MNT and UMNT."""

    dirpath: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRes:
    """``mountres3``."""

    status: int = MountStat3.MNT3_OK
    fh: bytes = b""
    auth_flavors: tuple[int, ...] = ()


def push_mount_args(writer: XdrWriter, x: MountArgs) -> None:
    """Append the path to mount."""
    writer.string(x.dirpath)


def pull_mount_args(reader: XdrReader) -> MountArgs:
    """Consume the path to mount."""
    return MountArgs(dirpath=reader.string(MNTPATHLEN))


def push_mount_res(writer: XdrWriter, x: MountRes) -> None:
    """Append the answer to MNT."""
    writer.uint(x.status)
    if x.status == MountStat3.MNT3_OK:
        push_fh(writer, x.fh)
        writer.uint(len(x.auth_flavors))
        for flavor in x.auth_flavors:
            writer.uint(flavor)


def pull_mount_res(reader: XdrReader) -> MountRes:
    """Consume the answer to MNT."""
    status = reader.uint()
    if status not in _STATS:
        raise RemoteProtocolError(f"mountstat3 {status}")
    if status != MountStat3.MNT3_OK:
        return MountRes(status=status)
    fh = pull_fh(reader)
    flavors = tuple(reader.uint() for _ in range(reader.length(_MAX_FLAVORS)))
    return MountRes(fh=fh, auth_flavors=flavors)
