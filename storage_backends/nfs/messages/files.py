"""Finding, making and describing files: the procedures of NFS version 3 that move no data (RFC 1813, section 3.3)."""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from storage_backends.nfs.messages.attributes import (
    NO_WCC,
    SET_NOTHING,
    Fattr3,
    Sattr3,
    WccData,
    pull_fattr,
    pull_fh,
    pull_post_op_attr,
    pull_sattr,
    pull_wcc_data,
    push_fattr,
    push_fh,
    push_post_op_attr,
    push_sattr,
    push_wcc_data,
)
from storage_backends.nfs.messages.nfs3 import NfsStat3, pull_status
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = [
    "AccessArgs",
    "AccessRes",
    "CreateArgs",
    "CreateRes",
    "FsinfoRes",
    "GetattrRes",
    "LookupArgs",
    "LookupRes",
    "SetattrArgs",
    "SetattrRes",
    "pull_access_args",
    "pull_access_res",
    "pull_create_args",
    "pull_create_res",
    "pull_fsinfo_res",
    "pull_getattr_res",
    "pull_lookup_args",
    "pull_lookup_res",
    "pull_setattr_args",
    "pull_setattr_res",
    "push_access_args",
    "push_access_res",
    "push_create_args",
    "push_create_res",
    "push_fsinfo_res",
    "push_getattr_res",
    "push_lookup_args",
    "push_lookup_res",
    "push_setattr_args",
    "push_setattr_res",
]

MAX_NAME_BYTES = 255
CREATEVERFSIZE = 8
"""NFS3_CREATEVERFSIZE."""
IO_SIZE_BYTES = 1 << 20

_OK = NfsStat3.NFS3_OK
_FSINFO = Struct(">7IQIII")
_TWO = Struct(">II")


class _CreateMode(IntEnum):
    UNCHECKED = 0
    GUARDED = 1
    EXCLUSIVE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GetattrRes:
    """``GETATTR3res``."""

    status: int = _OK
    attributes: Fattr3 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetattrArgs:
    """``SETATTR3args``."""

    fh: bytes
    attributes: Sattr3
    guard_ctime_ns: int | None = None
    """Set nothing unless the file's ctime is this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetattrRes:
    """``SETATTR3res``."""

    status: int = _OK
    wcc: WccData = NO_WCC


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupArgs:
    """``LOOKUP3args``."""

    dir_fh: bytes
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupRes:
    """``LOOKUP3res``."""

    status: int = _OK
    fh: bytes = b""
    attributes: Fattr3 | None = None
    dir_attributes: Fattr3 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessArgs:
    """``ACCESS3args``."""

    fh: bytes
    access: int
    """Bits: READ 1, LOOKUP 2, MODIFY 4, EXTEND 8, DELETE 16, EXECUTE 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRes:
    """``ACCESS3res``."""

    status: int = _OK
    attributes: Fattr3 | None = None
    access: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateArgs:
    """``CREATE3args``: attributes, or for EXCLUSIVE a verifier."""

    dir_fh: bytes
    name: str
    attributes: Sattr3 = SET_NOTHING
    guarded: bool = False
    """Fail if the file exists."""
    exclusive_verifier: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRes:
    """``CREATE3res``."""

    status: int = _OK
    fh: bytes | None = None
    attributes: Fattr3 | None = None
    dir_wcc: WccData = NO_WCC


@dataclass(frozen=True, slots=True, kw_only=True)
class FsinfoRes:
    """``FSINFO3res``: what the server can take and what it likes best, in bytes."""

    status: int = _OK
    attributes: Fattr3 | None = None
    rtmax: int = IO_SIZE_BYTES
    rtpref: int = IO_SIZE_BYTES
    rtmult: int = 512
    wtmax: int = IO_SIZE_BYTES
    wtpref: int = IO_SIZE_BYTES
    wtmult: int = 512
    dtpref: int = 16384
    maxfilesize: int = (1 << 63) - 1
    time_delta: tuple[int, int] = (0, 1)
    """Seconds and nanoseconds."""
    properties: int = 0x1B


def push_getattr_res(writer: XdrWriter, x: GetattrRes) -> None:
    """Append the answer to GETATTR."""
    writer.uint(x.status)
    if x.status == _OK:
        assert x.attributes is not None
        push_fattr(writer, x.attributes)


def pull_getattr_res(reader: XdrReader) -> GetattrRes:
    """Consume the answer to GETATTR."""
    status = pull_status(reader)
    return GetattrRes(status=status, attributes=pull_fattr(reader) if status == _OK else None)


def push_setattr_args(writer: XdrWriter, x: SetattrArgs) -> None:
    """Append the arguments of SETATTR."""
    push_fh(writer, x.fh)
    push_sattr(writer, x.attributes)
    writer.boolean(x.guard_ctime_ns is not None)
    if x.guard_ctime_ns is not None:
        writer.pack(_TWO, *divmod(x.guard_ctime_ns, 1_000_000_000))


def pull_setattr_args(reader: XdrReader) -> SetattrArgs:
    """Consume the arguments of SETATTR."""
    fh = pull_fh(reader)
    attributes = pull_sattr(reader)
    guard = None
    if reader.boolean():
        seconds, nanoseconds = reader.unpack(_TWO)
        guard = seconds * 1_000_000_000 + nanoseconds
    return SetattrArgs(fh=fh, attributes=attributes, guard_ctime_ns=guard)


def push_setattr_res(writer: XdrWriter, x: SetattrRes) -> None:
    """Append the answer to SETATTR."""
    writer.uint(x.status)
    push_wcc_data(writer, x.wcc)


def pull_setattr_res(reader: XdrReader) -> SetattrRes:
    """Consume the answer to SETATTR."""
    return SetattrRes(status=pull_status(reader), wcc=pull_wcc_data(reader))


def push_lookup_args(writer: XdrWriter, x: LookupArgs) -> None:
    """Append the arguments of LOOKUP."""
    push_fh(writer, x.dir_fh)
    writer.string(x.name)


def pull_lookup_args(reader: XdrReader) -> LookupArgs:
    """Consume the arguments of LOOKUP."""
    return LookupArgs(dir_fh=pull_fh(reader), name=reader.string(MAX_NAME_BYTES))


def push_lookup_res(writer: XdrWriter, x: LookupRes) -> None:
    """Append the answer to LOOKUP."""
    writer.uint(x.status)
    if x.status == _OK:
        push_fh(writer, x.fh)
        push_post_op_attr(writer, x.attributes)
    push_post_op_attr(writer, x.dir_attributes)


def pull_lookup_res(reader: XdrReader) -> LookupRes:
    """Consume the answer to LOOKUP."""
    status = pull_status(reader)
    if status != _OK:
        return LookupRes(status=status, dir_attributes=pull_post_op_attr(reader))
    fh = pull_fh(reader)
    return LookupRes(fh=fh, attributes=pull_post_op_attr(reader), dir_attributes=pull_post_op_attr(reader))


def push_access_args(writer: XdrWriter, x: AccessArgs) -> None:
    """Append the arguments of ACCESS."""
    push_fh(writer, x.fh)
    writer.uint(x.access)


def pull_access_args(reader: XdrReader) -> AccessArgs:
    """Consume the arguments of ACCESS."""
    return AccessArgs(fh=pull_fh(reader), access=reader.uint())


def push_access_res(writer: XdrWriter, x: AccessRes) -> None:
    """Append the answer to ACCESS."""
    writer.uint(x.status)
    push_post_op_attr(writer, x.attributes)
    if x.status == _OK:
        writer.uint(x.access)


def pull_access_res(reader: XdrReader) -> AccessRes:
    """Consume the answer to ACCESS."""
    status = pull_status(reader)
    attributes = pull_post_op_attr(reader)
    return AccessRes(status=status, attributes=attributes, access=reader.uint() if status == _OK else 0)


def push_create_args(writer: XdrWriter, x: CreateArgs) -> None:
    """Append the arguments of CREATE."""
    push_fh(writer, x.dir_fh)
    writer.string(x.name)
    if x.exclusive_verifier is not None:
        writer.uint(_CreateMode.EXCLUSIVE)
        writer.fixed(x.exclusive_verifier)
    else:
        writer.uint(_CreateMode.GUARDED if x.guarded else _CreateMode.UNCHECKED)
        push_sattr(writer, x.attributes)


def pull_create_args(reader: XdrReader) -> CreateArgs:
    """Consume the arguments of CREATE."""
    dir_fh = pull_fh(reader)
    name = reader.string(MAX_NAME_BYTES)
    mode = reader.uint()
    if mode == _CreateMode.EXCLUSIVE:
        return CreateArgs(dir_fh=dir_fh, name=name, exclusive_verifier=reader.fixed(CREATEVERFSIZE))
    if mode > _CreateMode.EXCLUSIVE:
        raise RemoteProtocolError(f"createmode3 {mode}")
    return CreateArgs(dir_fh=dir_fh, name=name, attributes=pull_sattr(reader), guarded=mode == _CreateMode.GUARDED)


def push_create_res(writer: XdrWriter, x: CreateRes) -> None:
    """Append the answer to CREATE."""
    writer.uint(x.status)
    if x.status == _OK:
        writer.boolean(x.fh is not None)
        if x.fh is not None:
            push_fh(writer, x.fh)
        push_post_op_attr(writer, x.attributes)
    push_wcc_data(writer, x.dir_wcc)


def pull_create_res(reader: XdrReader) -> CreateRes:
    """Consume the answer to CREATE."""
    status = pull_status(reader)
    if status != _OK:
        return CreateRes(status=status, dir_wcc=pull_wcc_data(reader))
    fh = pull_fh(reader) if reader.boolean() else None
    return CreateRes(fh=fh, attributes=pull_post_op_attr(reader), dir_wcc=pull_wcc_data(reader))


def push_fsinfo_res(writer: XdrWriter, x: FsinfoRes) -> None:
    """Append the answer to FSINFO."""
    writer.uint(x.status)
    push_post_op_attr(writer, x.attributes)
    if x.status == _OK:
        reads, writes = (x.rtmax, x.rtpref, x.rtmult), (x.wtmax, x.wtpref, x.wtmult)
        writer.pack(_FSINFO, *reads, *writes, x.dtpref, x.maxfilesize, *x.time_delta, x.properties)


def pull_fsinfo_res(reader: XdrReader) -> FsinfoRes:
    """Consume the answer to FSINFO."""
    status = pull_status(reader)
    attributes = pull_post_op_attr(reader)
    if status != _OK:
        return FsinfoRes(status=status, attributes=attributes)
    rtmax, rtpref, rtmult, wtmax, wtpref, wtmult, dtpref, size, delta_s, delta_ns, flags = reader.unpack(_FSINFO)
    return FsinfoRes(
        attributes=attributes,
        rtmax=rtmax,
        rtpref=rtpref,
        rtmult=rtmult,
        wtmax=wtmax,
        wtpref=wtpref,
        wtmult=wtmult,
        dtpref=dtpref,
        maxfilesize=size,
        time_delta=(delta_s, delta_ns),
        properties=flags,
    )
