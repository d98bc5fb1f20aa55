"""The operations that make a session and count what is done in it (RFC 8881, sections 18.35 to 18.37, 18.46, 18.51).

A client says who it is (EXCHANGE_ID) and gets a number; with that it makes a session (CREATE_SESSION), which has so and
so many *slots*. Every other compound begins with SEQUENCE: it names a slot and that slot's next number, by which the
server knows a call that comes again from a new one. RECLAIM_COMPLETE says that a client has claimed everything back
that it had before the server was restarted.

State protection is SP4_NONE, the only channel the fore one; RDMA is left out.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final, Self

from storage_backends.nfs.messages.nfs4 import (
    NFS4_OPAQUE_LIMIT,
    NFS4_SESSIONID_SIZE,
    NFS4_VERIFIER_SIZE,
    StatusRes,
)
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = [
    "EXCHGID4_FLAG_CONFIRMED_R",
    "EXCHGID4_FLAG_USE_NON_PNFS",
    "ChannelAttrs",
    "CreateSessionArgs",
    "CreateSessionRes",
    "DestroySessionArgs",
    "ExchangeIdArgs",
    "ExchangeIdRes",
    "ReclaimCompleteArgs",
    "SequenceArgs",
    "SequenceRes",
]

EXCHGID4_FLAG_USE_NON_PNFS = 0x00010000
EXCHGID4_FLAG_CONFIRMED_R = 0x80000000

_MAX_SEC_PARMS = 8
"""Bound of ours."""
_SP4_NONE = 0
_AUTH_NONE, _AUTH_SYS = 0, 1
_MAX_NAME_BYTES = 255
_MAX_GIDS = 16
_SIX = Struct(">6I")
_FOUR = Struct(">4I")
_FIVE = Struct(">5I")
_TWO = Struct(">II")
_NO_SESSION: Final = bytes(NFS4_SESSIONID_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeIdArgs:
    """``EXCHANGE_ID4args``."""

    verifier: bytes
    """Another one after each boot of the client."""
    ownerid: bytes
    flags: int = EXCHGID4_FLAG_USE_NON_PNFS

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.fixed(self.verifier)
        writer.opaque(self.ownerid)
        writer.uint(self.flags)
        writer.uint(_SP4_NONE)
        writer.uint(0)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        verifier = reader.fixed(NFS4_VERIFIER_SIZE)
        ownerid = reader.opaque(NFS4_OPAQUE_LIMIT)
        flags = reader.uint()
        _pull_sp4_none(reader)
        _pull_impl_id(reader)
        return cls(verifier=verifier, ownerid=ownerid, flags=flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeIdRes(StatusRes):
    """``EXCHANGE_ID4res``."""

    clientid: int = 0
    sequenceid: int = 0
    """What the next CREATE_SESSION has to say."""
    flags: int = 0
    server_owner: bytes = b""
    server_scope: bytes = b""

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        writer.hyper(self.clientid)
        writer.uint(self.sequenceid)
        writer.uint(self.flags)
        writer.uint(_SP4_NONE)
        writer.hyper(0)
        writer.opaque(self.server_owner)
        writer.opaque(self.server_scope)
        writer.uint(0)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        clientid, sequenceid, flags = reader.hyper(), reader.uint(), reader.uint()
        _pull_sp4_none(reader)
        reader.hyper()
        owner, scope = reader.opaque(NFS4_OPAQUE_LIMIT), reader.opaque(NFS4_OPAQUE_LIMIT)
        _pull_impl_id(reader)
        return cls(clientid=clientid, sequenceid=sequenceid, flags=flags, server_owner=owner, server_scope=scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelAttrs:
    """``channel_attrs4``: how large calls and replies may be, and how many may be out."""

    headerpad_bytes: int = 0
    maxrequest_bytes: int = 0
    maxresponse_bytes: int = 0
    maxresponse_cached_bytes: int = 0
    maxoperations: int = 0
    maxrequests: int = 0

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        sizes = (self.headerpad_bytes, self.maxrequest_bytes, self.maxresponse_bytes, self.maxresponse_cached_bytes)
        writer.pack(_SIX, *sizes, self.maxoperations, self.maxrequests)
        writer.uint(0)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        pad, request, response, cached, operations, requests = reader.unpack(_SIX)
        if reader.length(1):
            reader.uint()
        return cls(
            headerpad_bytes=pad,
            maxrequest_bytes=request,
            maxresponse_bytes=response,
            maxresponse_cached_bytes=cached,
            maxoperations=operations,
            maxrequests=requests,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSessionArgs:
    """``CREATE_SESSION4args``; the back channel's callbacks would come as root of the client."""

    clientid: int
    sequenceid: int
    flags: int = 0
    fore: ChannelAttrs = ChannelAttrs()
    back: ChannelAttrs = ChannelAttrs()
    cb_program: int = 0x40000000
    machinename: str = ""

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.hyper(self.clientid)
        writer.uint(self.sequenceid)
        writer.uint(self.flags)
        self.fore.push(writer)
        self.back.push(writer)
        writer.uint(self.cb_program)
        writer.pack(_TWO, 1, _AUTH_SYS)
        writer.uint(0)
        writer.string(self.machinename)
        writer.pack(_TWO, 0, 0)
        writer.uint(0)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        clientid, sequenceid, flags = reader.hyper(), reader.uint(), reader.uint()
        fore, back = ChannelAttrs.pull(reader), ChannelAttrs.pull(reader)
        program = reader.uint()
        machinename = ""
        for _ in range(reader.length(_MAX_SEC_PARMS)):
            machinename = _pull_sec_parms(reader) or machinename
        return cls(
            clientid=clientid,
            sequenceid=sequenceid,
            flags=flags,
            fore=fore,
            back=back,
            cb_program=program,
            machinename=machinename,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSessionRes(StatusRes):
    """``CREATE_SESSION4res``."""

    sessionid: bytes = _NO_SESSION
    sequenceid: int = 0
    flags: int = 0
    fore: ChannelAttrs = ChannelAttrs()
    back: ChannelAttrs = ChannelAttrs()

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        writer.fixed(self.sessionid)
        writer.uint(self.sequenceid)
        writer.uint(self.flags)
        self.fore.push(writer)
        self.back.push(writer)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        sessionid, sequenceid, flags = reader.fixed(NFS4_SESSIONID_SIZE), reader.uint(), reader.uint()
        fore, back = ChannelAttrs.pull(reader), ChannelAttrs.pull(reader)
        return cls(sessionid=sessionid, sequenceid=sequenceid, flags=flags, fore=fore, back=back)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestroySessionArgs:
    """``DESTROY_SESSION4args``."""

    sessionid: bytes

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.fixed(self.sessionid)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        return cls(sessionid=reader.fixed(NFS4_SESSIONID_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceArgs:
    """``SEQUENCE4args``."""

    sessionid: bytes
    sequenceid: int
    slotid: int
    highest_slotid: int = 0
    cachethis: bool = False
    """The server shall keep the reply, in case the call comes again."""

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.fixed(self.sessionid)
        writer.pack(_FOUR, self.sequenceid, self.slotid, self.highest_slotid, int(self.cachethis))

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        sessionid = reader.fixed(NFS4_SESSIONID_SIZE)
        sequenceid, slotid, highest = reader.uint(), reader.uint(), reader.uint()
        cachethis = reader.boolean()
        return cls(
            sessionid=sessionid, sequenceid=sequenceid, slotid=slotid, highest_slotid=highest, cachethis=cachethis
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRes(StatusRes):
    """``SEQUENCE4res``."""

    sessionid: bytes = _NO_SESSION
    sequenceid: int = 0
    slotid: int = 0
    highest_slotid: int = 0
    target_highest_slotid: int = 0
    status_flags: int = 0

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        writer.fixed(self.sessionid)
        slots = (self.slotid, self.highest_slotid, self.target_highest_slotid)
        writer.pack(_FIVE, self.sequenceid, *slots, self.status_flags)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        sessionid = reader.fixed(NFS4_SESSIONID_SIZE)
        sequenceid, slotid, highest, target, flags = reader.unpack(_FIVE)
        return cls(
            sessionid=sessionid,
            sequenceid=sequenceid,
            slotid=slotid,
            highest_slotid=highest,
            target_highest_slotid=target,
            status_flags=flags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimCompleteArgs:
    """``RECLAIM_COMPLETE4args``."""

    one_fs: bool = False

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.boolean(self.one_fs)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        return cls(one_fs=reader.boolean())


def _pull_sp4_none(reader: XdrReader) -> None:
    how = reader.uint()
    if how != _SP4_NONE:
        raise RemoteProtocolError(f"state protection {how}, not SP4_NONE")


def _pull_impl_id(reader: XdrReader) -> None:
    """Consume who made it: domain, name and date, at most once."""
    for _ in range(reader.length(1)):
        reader.opaque(NFS4_OPAQUE_LIMIT)
        reader.opaque(NFS4_OPAQUE_LIMIT)
        reader.hyper()
        reader.uint()


def _pull_sec_parms(reader: XdrReader) -> str:
    """Consume how callbacks would be authenticated; return the machine's name, if that says one."""
    flavor = reader.uint()
    if flavor == _AUTH_NONE:
        return ""
    if flavor != _AUTH_SYS:
        raise RemoteProtocolError(f"CREATE_SESSION wants callbacks of flavor {flavor}")
    reader.uint()
    machinename = reader.string(_MAX_NAME_BYTES)
    reader.unpack(_TWO)
    for _ in range(reader.length(_MAX_GIDS)):
        reader.uint()
    return machinename
