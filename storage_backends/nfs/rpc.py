"""ONC RPC version 2 (RFC 5531): calls, replies and the record marking that puts them on a stream.

On TCP a message is a *record*: fragments, each behind four bytes that hold its length and, in the top bit, whether it
is the last (section 11). Everybody sends one fragment and must take many. :class:`RecordReader` puts records together
and says how many bytes it lacks; it keeps payload by reference.

A call names program, version and procedure and says who is asking; its arguments follow. A reply is found by its
``xid`` and says whether the call was executed; results follow only an accepted and successful one. Credentials are
AUTH_SYS or none; verifiers are read and not looked at, as everybody does with these two flavours.

Left out: RPCSEC_GSS, short-hand verifiers, and broadcast.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Chunk, ChunkBuffer, RemoteProtocolError, size_of

__all__ = [
    "MAX_RECORD_BYTES",
    "RPC_VERSION",
    "AcceptStat",
    "AuthFlavor",
    "AuthSys",
    "CallHeader",
    "MsgType",
    "RecordReader",
    "RejectStat",
    "ReplyHeader",
    "ReplyStat",
    "pull_auth_sys",
    "pull_call",
    "pull_reply",
    "push_auth_sys",
    "push_call",
    "push_record",
    "push_reply",
]

RPC_VERSION = 2
MAX_RECORD_BYTES = (1 << 20) + (1 << 16)
"""Bound of ours on one record: the largest WRITE or READ the kernel negotiates, and room for its header."""
MAX_AUTH_BYTES = 400
"""Longest body of a credential or verifier (section 8.2)."""
_LAST_FRAGMENT = 0x80000000
_MARK = Struct(">I")
_CALL = Struct(">IIIIII")
_TWO = Struct(">II")


class MsgType(IntEnum):
    """``msg_type`` (section 9)."""

    CALL = 0
    REPLY = 1


class ReplyStat(IntEnum):
    """``reply_stat``: whether the server took the call."""

    MSG_ACCEPTED = 0
    MSG_DENIED = 1


class AcceptStat(IntEnum):
    """``accept_stat``: what became of a call that was taken."""

    SUCCESS = 0
    PROG_UNAVAIL = 1
    PROG_MISMATCH = 2
    PROC_UNAVAIL = 3
    GARBAGE_ARGS = 4
    SYSTEM_ERR = 5


class RejectStat(IntEnum):
    """``reject_stat``: why a call was not taken."""

    RPC_MISMATCH = 0
    AUTH_ERROR = 1


class AuthFlavor(IntEnum):
    """``auth_flavor`` (section 8.2)."""

    AUTH_NONE = 0
    AUTH_SYS = 1
    AUTH_SHORT = 2
    RPCSEC_GSS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSys:
    """``authsys_parms``: who a UNIX machine says is asking (appendix A)."""

    stamp: int = 0
    machinename: str = ""
    uid: int = 0
    gid: int = 0
    gids: tuple[int, ...] = ()
    """At most 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHeader:
    """``call_body`` with its xid; the arguments follow."""

    xid: int
    program: int
    version: int
    procedure: int
    flavor: int = AuthFlavor.AUTH_NONE
    credential: bytes = b""
    """Body of the credential, opaque to RPC."""
    rpc_version: int = RPC_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHeader:
    """``reply_body`` with its xid; results follow an accepted one with ``SUCCESS``."""

    xid: int
    accept_stat: int | None = AcceptStat.SUCCESS
    """None if the call was denied."""
    reject_stat: int | None = None
    low: int = 0
    """Lowest version there is, for PROG_MISMATCH and RPC_MISMATCH; ``auth_stat`` for AUTH_ERROR."""
    high: int = 0
    """Highest version there is."""


def push_record(chunks: list[Chunk]) -> list[Chunk]:
    """Return a message as a record of one fragment; the mark joins the first bytes."""
    size_bytes = sum(map(size_of, chunks))
    mark = _MARK.pack(_LAST_FRAGMENT | size_bytes)
    if chunks and isinstance(chunks[0], bytes):
        return [mark + chunks[0], *chunks[1:]]
    return [mark, *chunks]


class RecordReader:
    """The inlet of a stream: chunks in, whole records out."""

    __slots__ = ("_buffer", "_fragment_bytes", "_last", "_record", "_record_bytes")

    def __init__(self) -> None:
        self._buffer = ChunkBuffer()
        # invariant: length of the fragment whose mark was consumed, or -1 when a mark is next
        self._fragment_bytes = -1
        self._last = False
        self._record: list[Chunk] = []
        self._record_bytes = 0
        self._buffer.pull_bytes(_MARK.size)

    @property
    def bytes_missing(self) -> int:
        """How many more bytes complete the next mark or fragment."""
        return self._buffer.bytes_missing

    @property
    def is_inside(self) -> bool:
        """Whether a record has begun and is not complete."""
        return bool(self._fragment_bytes >= 0 or self._record or self._buffer.size_bytes)

    def push(self, chunk: Chunk) -> None:
        """Append what has arrived."""
        self._buffer.push(chunk)

    def pull_record(self) -> XdrReader | None:
        """Consume one record, or nothing and return None while it is incomplete. Raises RemoteProtocolError."""
        while True:
            if self._fragment_bytes < 0 and not self._pull_mark():
                return None
            body = self._buffer.pull(self._fragment_bytes)
            if body is None:
                return None
            self._record += body
            self._fragment_bytes = -1
            if self._last:
                record, self._record, self._record_bytes = self._record, [], 0
                return XdrReader(record)

    def _pull_mark(self) -> bool:
        raw = self._buffer.pull_bytes(_MARK.size)
        if raw is None:
            return False
        (mark,) = _MARK.unpack(raw)
        size_bytes = mark & ~_LAST_FRAGMENT
        self._last = bool(mark & _LAST_FRAGMENT)
        self._record_bytes += size_bytes
        if self._record_bytes > MAX_RECORD_BYTES:
            raise RemoteProtocolError(f"record of {self._record_bytes} bytes or more, above {MAX_RECORD_BYTES}")
        if not size_bytes and not self._last:
            raise RemoteProtocolError("empty fragment that is not the last of its record")
        self._fragment_bytes = size_bytes
        return True


def push_auth_sys(x: AuthSys) -> bytes:
    """Return the body of an AUTH_SYS credential."""
    writer = XdrWriter()
    writer.uint(x.stamp)
    writer.string(x.machinename)
    writer.pack(_TWO, x.uid, x.gid)
    writer.uint(len(x.gids))
    for gid in x.gids:
        writer.uint(gid)
    (body,) = writer.chunks()
    assert isinstance(body, bytes)
    return body


def pull_auth_sys(body: bytes) -> AuthSys:
    """Read the body of an AUTH_SYS credential. Raises RemoteProtocolError."""
    reader = XdrReader.of(body)
    stamp = reader.uint()
    machinename = reader.string(255)
    uid, gid = reader.unpack(_TWO)
    gids = tuple(reader.uint() for _ in range(reader.length(16)))
    reader.done()
    return AuthSys(stamp=stamp, machinename=machinename, uid=uid, gid=gid, gids=gids)


def push_call(writer: XdrWriter, x: CallHeader) -> None:
    """Append the header of a call; its verifier is AUTH_NONE."""
    writer.pack(_CALL, x.xid, MsgType.CALL, x.rpc_version, x.program, x.version, x.procedure)
    writer.uint(x.flavor)
    writer.opaque(x.credential)
    writer.pack(_TWO, AuthFlavor.AUTH_NONE, 0)


def pull_call(reader: XdrReader) -> CallHeader:
    """Consume the header of a call. Raises RemoteProtocolError."""
    xid, msg_type, rpc_version, program, version, procedure = reader.unpack(_CALL)
    if msg_type != MsgType.CALL:
        raise RemoteProtocolError(f"message of type {msg_type} where a call was expected")
    flavor = reader.uint()
    credential = reader.opaque(MAX_AUTH_BYTES)
    reader.uint()
    reader.opaque(MAX_AUTH_BYTES)
    return CallHeader(
        xid=xid,
        program=program,
        version=version,
        procedure=procedure,
        flavor=flavor,
        credential=credential,
        rpc_version=rpc_version,
    )


def push_reply(writer: XdrWriter, x: ReplyHeader) -> None:
    """Append the header of a reply; its verifier is AUTH_NONE."""
    writer.pack(_TWO, x.xid, MsgType.REPLY)
    if x.accept_stat is None:
        assert x.reject_stat is not None
        writer.pack(_TWO, ReplyStat.MSG_DENIED, x.reject_stat)
        writer.uint(x.low)
        if x.reject_stat == RejectStat.RPC_MISMATCH:
            writer.uint(x.high)
        return
    writer.uint(ReplyStat.MSG_ACCEPTED)
    writer.pack(_TWO, AuthFlavor.AUTH_NONE, 0)
    writer.uint(x.accept_stat)
    if x.accept_stat == AcceptStat.PROG_MISMATCH:
        writer.pack(_TWO, x.low, x.high)


def pull_reply(reader: XdrReader) -> ReplyHeader:
    """Consume the header of a reply. Raises RemoteProtocolError."""
    xid, msg_type = reader.unpack(_TWO)
    if msg_type != MsgType.REPLY:
        raise RemoteProtocolError(f"message of type {msg_type} where a reply was expected")
    reply_stat = reader.uint()
    if reply_stat == ReplyStat.MSG_DENIED:
        return _pull_denied(reader, xid)
    if reply_stat != ReplyStat.MSG_ACCEPTED:
        raise RemoteProtocolError(f"reply_stat {reply_stat} of the reply to {xid:#x}")
    reader.uint()
    reader.opaque(MAX_AUTH_BYTES)
    accept_stat = reader.uint()
    if accept_stat > AcceptStat.SYSTEM_ERR:
        raise RemoteProtocolError(f"accept_stat {accept_stat} of the reply to {xid:#x}")
    low, high = reader.unpack(_TWO) if accept_stat == AcceptStat.PROG_MISMATCH else (0, 0)
    return ReplyHeader(xid=xid, accept_stat=accept_stat, low=low, high=high)


def _pull_denied(reader: XdrReader, xid: int) -> ReplyHeader:
    reject_stat = reader.uint()
    if reject_stat == RejectStat.RPC_MISMATCH:
        low, high = reader.unpack(_TWO)
        return ReplyHeader(xid=xid, accept_stat=None, reject_stat=reject_stat, low=low, high=high)
    if reject_stat == RejectStat.AUTH_ERROR:
        return ReplyHeader(xid=xid, accept_stat=None, reject_stat=reject_stat, low=reader.uint())
    raise RemoteProtocolError(f"reject_stat {reject_stat} of the reply to {xid:#x}")
