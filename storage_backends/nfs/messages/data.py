"""READ, WRITE and COMMIT (RFC 1813, sections 3.3.6, 3.3.7 and 3.3.21): data by reference, and how safe it is.

WRITE says how stable the data has to be when the reply comes, and the reply how stable it is; what is less than
FILE_SYNC may be lost until a COMMIT, and is lost if the *write verifier* of the COMMIT is not that of the WRITE
(section 4.8): the server has been restarted in between and the client sends the data again.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from storage_backends.nfs.messages.attributes import (
    NO_WCC,
    Fattr3,
    WccData,
    pull_fh,
    pull_post_op_attr,
    pull_wcc_data,
    push_fh,
    push_post_op_attr,
    push_wcc_data,
)
from storage_backends.nfs.messages.nfs3 import NfsStat3, pull_status
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Octets, Payload, RemoteProtocolError

__all__ = [
    "MAX_DATA_BYTES",
    "NO_DATA",
    "VERFSIZE",
    "CommitArgs",
    "CommitRes",
    "ReadArgs",
    "ReadRes",
    "StableHow",
    "WriteArgs",
    "WriteRes",
    "check_stable",
    "pull_commit_args",
    "pull_commit_res",
    "pull_read_args",
    "pull_read_res",
    "pull_write_args",
    "pull_write_res",
    "push_commit_args",
    "push_commit_res",
    "push_read_args",
    "push_read_res",
    "push_write_args",
    "push_write_res",
]

MAX_DATA_BYTES = 1 << 20
"""NFS_MAX_FILE_IO_SIZE of the kernel: most data in one READ or WRITE."""
VERFSIZE = 8
"""NFS3_WRITEVERFSIZE."""

NO_DATA = Octets(b"")
"""An answer without data."""

_OK = NfsStat3.NFS3_OK
_RANGE = Struct(">QI")
_WRITE = Struct(">QII")
_TWO = Struct(">II")


class StableHow(IntEnum):
    """``stable_how``: what the server must have done before it answers a WRITE, and has."""

    UNSTABLE = 0
    DATA_SYNC = 1
    FILE_SYNC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadArgs:
    """``READ3args``."""

    fh: bytes
    offset: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRes:
    """``READ3res``."""

    status: int = _OK
    attributes: Fattr3 | None = None
    eof: bool = False
    data: Payload = NO_DATA


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteArgs:
    """``WRITE3args``; the count is that of the data."""

    fh: bytes
    offset: int
    stable: int
    """See :class:`StableHow`."""
    data: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRes:
    """``WRITE3res``."""

    status: int = _OK
    wcc: WccData = NO_WCC
    count: int = 0
    committed: int = StableHow.UNSTABLE
    verifier: bytes = bytes(VERFSIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitArgs:
    """``COMMIT3args``; a count of 0 goes to the end of the file."""

    fh: bytes
    offset: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRes:
    """``COMMIT3res``."""

    status: int = _OK
    wcc: WccData = NO_WCC
    verifier: bytes = bytes(VERFSIZE)


def push_read_args(writer: XdrWriter, x: ReadArgs) -> None:
    """Append the arguments of READ."""
    push_fh(writer, x.fh)
    writer.pack(_RANGE, x.offset, x.count)


def pull_read_args(reader: XdrReader) -> ReadArgs:
    """Consume the arguments of READ."""
    fh = pull_fh(reader)
    offset, count = reader.unpack(_RANGE)
    return ReadArgs(fh=fh, offset=offset, count=count)


def push_read_res(writer: XdrWriter, x: ReadRes) -> None:
    """Append the answer to READ."""
    writer.uint(x.status)
    push_post_op_attr(writer, x.attributes)
    if x.status == _OK:
        writer.uint(x.data.size_bytes)
        writer.boolean(x.eof)
        writer.payload(x.data)


def pull_read_res(reader: XdrReader) -> ReadRes:
    """Consume the answer to READ."""
    status = pull_status(reader)
    attributes = pull_post_op_attr(reader)
    if status != _OK:
        return ReadRes(status=status, attributes=attributes)
    count = reader.uint()
    eof = reader.boolean()
    data = reader.payload(MAX_DATA_BYTES)
    if data.size_bytes != count:
        raise RemoteProtocolError(f"READ answers count {count} with {data.size_bytes} bytes of data")
    return ReadRes(attributes=attributes, eof=eof, data=data)


def push_write_args(writer: XdrWriter, x: WriteArgs) -> None:
    """Append the arguments of WRITE."""
    push_fh(writer, x.fh)
    writer.pack(_WRITE, x.offset, x.data.size_bytes, x.stable)
    writer.payload(x.data)


def pull_write_args(reader: XdrReader) -> WriteArgs:
    """Consume the arguments of WRITE."""
    fh = pull_fh(reader)
    offset, count, stable = reader.unpack(_WRITE)
    check_stable("WRITE", stable)
    data = reader.payload(MAX_DATA_BYTES)
    if data.size_bytes != count:
        raise RemoteProtocolError(f"WRITE of count {count} with {data.size_bytes} bytes of data")
    return WriteArgs(fh=fh, offset=offset, stable=stable, data=data)


def push_write_res(writer: XdrWriter, x: WriteRes) -> None:
    """Append the answer to WRITE."""
    writer.uint(x.status)
    push_wcc_data(writer, x.wcc)
    if x.status == _OK:
        writer.pack(_TWO, x.count, x.committed)
        writer.fixed(x.verifier)


def pull_write_res(reader: XdrReader) -> WriteRes:
    """Consume the answer to WRITE."""
    status = pull_status(reader)
    wcc = pull_wcc_data(reader)
    if status != _OK:
        return WriteRes(status=status, wcc=wcc)
    count, committed = reader.unpack(_TWO)
    check_stable("answer to WRITE", committed)
    return WriteRes(wcc=wcc, count=count, committed=committed, verifier=reader.fixed(VERFSIZE))


def push_commit_args(writer: XdrWriter, x: CommitArgs) -> None:
    """Append the arguments of COMMIT."""
    push_fh(writer, x.fh)
    writer.pack(_RANGE, x.offset, x.count)


def pull_commit_args(reader: XdrReader) -> CommitArgs:
    """Consume the arguments of COMMIT."""
    fh = pull_fh(reader)
    offset, count = reader.unpack(_RANGE)
    return CommitArgs(fh=fh, offset=offset, count=count)


def push_commit_res(writer: XdrWriter, x: CommitRes) -> None:
    """Append the answer to COMMIT."""
    writer.uint(x.status)
    push_wcc_data(writer, x.wcc)
    if x.status == _OK:
        writer.fixed(x.verifier)


def pull_commit_res(reader: XdrReader) -> CommitRes:
    """Consume the answer to COMMIT."""
    status = pull_status(reader)
    wcc = pull_wcc_data(reader)
    return CommitRes(status=status, wcc=wcc, verifier=reader.fixed(VERFSIZE) if status == _OK else bytes(VERFSIZE))


def check_stable(message: str, stable: int) -> None:
    """Insist on a ``stable_how``. Raises RemoteProtocolError."""
    if stable > StableHow.FILE_SYNC:
        raise RemoteProtocolError(f"{message} says stable_how {stable}")
