"""What NFS version 3 says about a file: handles, attributes, and what changed (RFC 1813, section 2.6).

Almost every reply carries attributes, so that a client's cache stays right without asking: ``post_op_attr`` is the
file after the operation, ``wcc_data`` also the three fields of it before, by which a client sees that nobody else wrote
in between. Both may be absent. Times are one integer of nanoseconds here and a pair of 32-bit words on the wire.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = [
    "FHSIZE",
    "NO_WCC",
    "SET_NOTHING",
    "SET_TO_SERVER_TIME",
    "Fattr3",
    "Ftype3",
    "Sattr3",
    "WccAttr",
    "WccData",
    "pull_fattr",
    "pull_fh",
    "pull_post_op_attr",
    "pull_sattr",
    "pull_wcc_data",
    "push_fattr",
    "push_fh",
    "push_post_op_attr",
    "push_sattr",
    "push_wcc_data",
]

FHSIZE = 64
"""NFS3_FHSIZE: longest file handle (section 2.4)."""
SET_TO_SERVER_TIME: Final = -1
"""Value of a time in :class:`Sattr3`: the server's own clock (``time_how``)."""

_NS_PER_S = 1_000_000_000
_FATTR = Struct(">5I2Q2I2Q6I")
_WCC = Struct(">Q4I")
_TIME = Struct(">2I")


class Ftype3(IntEnum):
    """``ftype3``."""

    NF3REG = 1
    NF3DIR = 2
    NF3BLK = 3
    NF3CHR = 4
    NF3LNK = 5
    NF3SOCK = 6
    NF3FIFO = 7


_FTYPES = frozenset(Ftype3)


class _TimeHow(IntEnum):
    DONT_CHANGE = 0
    SET_TO_SERVER_TIME = 1
    SET_TO_CLIENT_TIME = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fattr3:
    """``fattr3``: all attributes, 84 bytes."""

    ftype: int = Ftype3.NF3REG
    mode: int = 0o644
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    used_bytes: int = 0
    rdev: tuple[int, int] = (0, 0)
    fsid: int = 0
    fileid: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WccAttr:
    """``wcc_attr``: the three attributes that a write changes."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WccData:
    """``wcc_data``: weak cache consistency."""

    before: WccAttr | None = None
    after: Fattr3 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sattr3:
    """``sattr3``: what to set; None leaves as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    atime_ns: int | None = None
    """Or :data:`SET_TO_SERVER_TIME`."""
    mtime_ns: int | None = None
    """Or :data:`SET_TO_SERVER_TIME`."""


NO_WCC = WccData()
"""Nothing is said about what changed."""
SET_NOTHING = Sattr3()
"""Everything stays as it is."""


def push_fh(writer: XdrWriter, fh: bytes) -> None:
    """Append a file handle."""
    writer.opaque(fh)


def pull_fh(reader: XdrReader) -> bytes:
    """Consume a file handle."""
    return reader.opaque(FHSIZE)


def push_fattr(writer: XdrWriter, x: Fattr3) -> None:
    """Append attributes."""
    times = (*divmod(x.atime_ns, _NS_PER_S), *divmod(x.mtime_ns, _NS_PER_S), *divmod(x.ctime_ns, _NS_PER_S))
    sizes = (x.size_bytes, x.used_bytes, *x.rdev, x.fsid, x.fileid)
    writer.pack(_FATTR, x.ftype, x.mode, x.nlink, x.uid, x.gid, *sizes, *times)


def pull_fattr(reader: XdrReader) -> Fattr3:
    """Consume attributes."""
    ftype, mode, nlink, uid, gid, size, used, rdev1, rdev2, fsid, fileid, *times = reader.unpack(_FATTR)
    if ftype not in _FTYPES:
        raise RemoteProtocolError(f"ftype3 {ftype}")
    return Fattr3(
        ftype=ftype,
        mode=mode,
        nlink=nlink,
        uid=uid,
        gid=gid,
        size_bytes=size,
        used_bytes=used,
        rdev=(rdev1, rdev2),
        fsid=fsid,
        fileid=fileid,
        atime_ns=_time_ns(times[0], times[1]),
        mtime_ns=_time_ns(times[2], times[3]),
        ctime_ns=_time_ns(times[4], times[5]),
    )


def push_post_op_attr(writer: XdrWriter, x: Fattr3 | None) -> None:
    """Append attributes that may be absent."""
    writer.boolean(x is not None)
    if x is not None:
        push_fattr(writer, x)


def pull_post_op_attr(reader: XdrReader) -> Fattr3 | None:
    """Consume attributes that may be absent."""
    return pull_fattr(reader) if reader.boolean() else None


def push_wcc_data(writer: XdrWriter, x: WccData) -> None:
    """Append what a write changed."""
    before = x.before
    writer.boolean(before is not None)
    if before is not None:
        times = (*divmod(before.mtime_ns, _NS_PER_S), *divmod(before.ctime_ns, _NS_PER_S))
        writer.pack(_WCC, before.size_bytes, *times)
    push_post_op_attr(writer, x.after)


def pull_wcc_data(reader: XdrReader) -> WccData:
    """Consume what a write changed."""
    before = None
    if reader.boolean():
        size, mtime_s, mtime_ns, ctime_s, ctime_ns = reader.unpack(_WCC)
        before = WccAttr(size_bytes=size, mtime_ns=_time_ns(mtime_s, mtime_ns), ctime_ns=_time_ns(ctime_s, ctime_ns))
    return WccData(before=before, after=pull_post_op_attr(reader))


def push_sattr(writer: XdrWriter, x: Sattr3) -> None:
    """Append attributes to set."""
    for value in (x.mode, x.uid, x.gid):
        writer.boolean(value is not None)
        if value is not None:
            writer.uint(value)
    writer.boolean(x.size_bytes is not None)
    if x.size_bytes is not None:
        writer.hyper(x.size_bytes)
    for time_ns in (x.atime_ns, x.mtime_ns):
        if time_ns is None:
            writer.uint(_TimeHow.DONT_CHANGE)
        elif time_ns == SET_TO_SERVER_TIME:
            writer.uint(_TimeHow.SET_TO_SERVER_TIME)
        else:
            writer.uint(_TimeHow.SET_TO_CLIENT_TIME)
            writer.pack(_TIME, *divmod(time_ns, _NS_PER_S))


def pull_sattr(reader: XdrReader) -> Sattr3:
    """Consume attributes to set."""
    mode, uid, gid = (reader.uint() if reader.boolean() else None for _ in range(3))
    size = reader.hyper() if reader.boolean() else None
    atime, mtime = (_pull_set_time(reader) for _ in range(2))
    return Sattr3(mode=mode, uid=uid, gid=gid, size_bytes=size, atime_ns=atime, mtime_ns=mtime)


def _pull_set_time(reader: XdrReader) -> int | None:
    how = reader.uint()
    if how == _TimeHow.DONT_CHANGE:
        return None
    if how == _TimeHow.SET_TO_SERVER_TIME:
        return SET_TO_SERVER_TIME
    if how == _TimeHow.SET_TO_CLIENT_TIME:
        seconds, nanoseconds = reader.unpack(_TIME)
        return _time_ns(seconds, nanoseconds)
    raise RemoteProtocolError(f"time_how {how}")


def _time_ns(seconds: int, nanoseconds: int) -> int:
    if nanoseconds >= _NS_PER_S:
        raise RemoteProtocolError(f"nfstime3 with {nanoseconds} nanoseconds")
    return seconds * _NS_PER_S + nanoseconds
