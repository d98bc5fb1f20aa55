"""The operations of NFS version 4.1 on files (RFC 8881, section 18).

A file is opened before it is read or written, and what the OPEN gave (a stateid) is said with each READ and WRITE.
After a restart of the server a client opens its files again with CLAIM_PREVIOUS, or with CLAIM_FH if it comes too late.
Data is payload by reference; how stable it is and what a verifier means is as in version 3
(:mod:`~storage_backends.nfs.messages.data`).
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Self

from storage_backends.nfs.messages.attributes4 import NO_ATTRIBUTES, Fattr4, pull_bitmap4, push_bitmap4
from storage_backends.nfs.messages.data import MAX_DATA_BYTES, NO_DATA, StableHow, check_stable
from storage_backends.nfs.messages.nfs4 import (
    ANONYMOUS,
    NFS4_FHSIZE,
    NFS4_OPAQUE_LIMIT,
    NFS4_VERIFIER_SIZE,
    StateId,
    StatusRes,
)
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Payload, RemoteProtocolError

__all__ = [
    "SHARE_ACCESS_BOTH",
    "Claim",
    "Commit4Args",
    "Commit4Res",
    "FhRes",
    "Getattr4Args",
    "Getattr4Res",
    "Lookup4Args",
    "OpenArgs",
    "OpenRes",
    "PutFhArgs",
    "Read4Args",
    "Read4Res",
    "Write4Args",
    "Write4Res",
]

SHARE_ACCESS_BOTH = 3
"""OPEN4_SHARE_ACCESS_BOTH: reading and writing."""

_RANGE = Struct(">QI")
_TWO = Struct(">II")
_OPEN4_NOCREATE, _OPEN4_CREATE = 0, 1
_UNCHECKED4 = 0
_OPEN_DELEGATE_NONE = 0


class Claim(IntEnum):
    """``open_claim_type4``: on what ground a file is opened."""

    NULL = 0
    """By its name in the current directory."""
    PREVIOUS = 1
    """It was open before the server was restarted; the current file handle is it."""
    FH = 4
    """It is the current file handle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFhArgs:
    """``PUTFH4args``."""

    fh: bytes

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.opaque(self.fh)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        return cls(fh=reader.opaque(NFS4_FHSIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class FhRes(StatusRes):
    """``GETFH4res``."""

    fh: bytes = b""

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        writer.opaque(self.fh)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        return cls(fh=reader.opaque(NFS4_FHSIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup4Args:
    """``LOOKUP4args``."""

    name: str

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.string(self.name)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        return cls(name=reader.string(NFS4_OPAQUE_LIMIT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Getattr4Args:
    """``GETATTR4args``."""

    numbers: tuple[int, ...]

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        push_bitmap4(writer, self.numbers)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        return cls(numbers=pull_bitmap4(reader))


@dataclass(frozen=True, slots=True, kw_only=True)
class Getattr4Res(StatusRes):
    """``GETATTR4res``."""

    attributes: Fattr4 = NO_ATTRIBUTES

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        self.attributes.push(writer)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        return cls(attributes=Fattr4.pull(reader))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenArgs:
    """``OPEN4args``: for reading and writing, without a delegation."""

    clientid: int
    owner: bytes
    seqid: int = 0
    share_access: int = SHARE_ACCESS_BOTH
    share_deny: int = 0
    create: Fattr4 | None = None
    """Make the file if it is not there (UNCHECKED4), with these attributes; None: it must be there."""
    claim: int = Claim.NULL
    name: str = ""
    """With CLAIM_NULL."""

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.uint(self.seqid)
        writer.pack(_TWO, self.share_access, self.share_deny)
        writer.hyper(self.clientid)
        writer.opaque(self.owner)
        if self.create is None:
            writer.uint(_OPEN4_NOCREATE)
        else:
            writer.pack(_TWO, _OPEN4_CREATE, _UNCHECKED4)
            self.create.push(writer)
        writer.uint(self.claim)
        if self.claim == Claim.NULL:
            writer.string(self.name)
        elif self.claim == Claim.PREVIOUS:
            writer.uint(_OPEN_DELEGATE_NONE)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        seqid = reader.uint()
        share_access, share_deny = reader.unpack(_TWO)
        clientid, owner = reader.hyper(), reader.opaque(NFS4_OPAQUE_LIMIT)
        opentype = reader.uint()
        if opentype > _OPEN4_CREATE:
            raise RemoteProtocolError(f"opentype4 {opentype}")
        create = None
        if opentype == _OPEN4_CREATE:
            how = reader.uint()
            if how != _UNCHECKED4:
                raise RemoteProtocolError(f"createmode4 {how} is not here")
            create = Fattr4.pull(reader)
        claim = reader.uint()
        if claim not in tuple(Claim):
            raise RemoteProtocolError(f"open_claim_type4 {claim} is not here")
        name = ""
        if claim == Claim.NULL:
            name = reader.string(NFS4_OPAQUE_LIMIT)
        elif claim == Claim.PREVIOUS:
            _pull_no_delegation(reader, "OPEN claims")
        return cls(
            clientid=clientid,
            owner=owner,
            seqid=seqid,
            share_access=share_access,
            share_deny=share_deny,
            create=create,
            claim=claim,
            name=name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRes(StatusRes):
    """``OPEN4res``; no delegation is given."""

    stateid: StateId = ANONYMOUS
    atomic: bool = True
    before: int = 0
    """Change attribute of the directory before."""
    after: int = 0
    rflags: int = 0
    attrset: tuple[int, ...] = ()

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        self.stateid.push(writer)
        writer.boolean(self.atomic)
        writer.hyper(self.before)
        writer.hyper(self.after)
        writer.uint(self.rflags)
        push_bitmap4(writer, self.attrset)
        writer.uint(_OPEN_DELEGATE_NONE)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        stateid, atomic = StateId.pull(reader), reader.boolean()
        before, after, rflags = reader.hyper(), reader.hyper(), reader.uint()
        attrset = pull_bitmap4(reader)
        _pull_no_delegation(reader, "OPEN brings")
        return cls(stateid=stateid, atomic=atomic, before=before, after=after, rflags=rflags, attrset=attrset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read4Args:
    """``READ4args``."""

    stateid: StateId
    offset: int
    count: int

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        self.stateid.push(writer)
        writer.pack(_RANGE, self.offset, self.count)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        stateid = StateId.pull(reader)
        offset, count = reader.unpack(_RANGE)
        return cls(stateid=stateid, offset=offset, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read4Res(StatusRes):
    """``READ4res``."""

    eof: bool = False
    data: Payload = NO_DATA

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        writer.boolean(self.eof)
        writer.payload(self.data)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        eof = reader.boolean()
        return cls(eof=eof, data=reader.payload(MAX_DATA_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Write4Args:
    """``WRITE4args``."""

    stateid: StateId
    offset: int
    stable: int
    """See :class:`~storage_backends.nfs.messages.data.StableHow`."""
    data: Payload

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        self.stateid.push(writer)
        writer.pack(_RANGE, self.offset, self.stable)
        writer.payload(self.data)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        stateid = StateId.pull(reader)
        offset, stable = reader.unpack(_RANGE)
        check_stable("WRITE", stable)
        return cls(stateid=stateid, offset=offset, stable=stable, data=reader.payload(MAX_DATA_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Write4Res(StatusRes):
    """``WRITE4res``."""

    count: int = 0
    committed: int = StableHow.UNSTABLE
    verifier: bytes = bytes(NFS4_VERIFIER_SIZE)

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        writer.pack(_TWO, self.count, self.committed)
        writer.fixed(self.verifier)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        count, committed = reader.unpack(_TWO)
        check_stable("answer to WRITE", committed)
        return cls(count=count, committed=committed, verifier=reader.fixed(NFS4_VERIFIER_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit4Args:
    """``COMMIT4args``; a count of 0 goes to the end of the file."""

    offset: int = 0
    count: int = 0

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.pack(_RANGE, self.offset, self.count)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        offset, count = reader.unpack(_RANGE)
        return cls(offset=offset, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit4Res(StatusRes):
    """``COMMIT4res``."""

    verifier: bytes = bytes(NFS4_VERIFIER_SIZE)

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""
        writer.fixed(self.verifier)

    @classmethod
    def pull_body(cls, reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        return cls(verifier=reader.fixed(NFS4_VERIFIER_SIZE))


def _pull_no_delegation(reader: XdrReader, message: str) -> None:
    delegation = reader.uint()
    if delegation != _OPEN_DELEGATE_NONE:
        raise RemoteProtocolError(f"{message} delegation {delegation}; there are none here")
