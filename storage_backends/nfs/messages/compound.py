"""COMPOUND: operations in order, and the answers to those that were executed (RFC 8881, section 16.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple, Self

from storage_backends.nfs.messages.nfs4 import (
    NFS4_MINOR_VERSION,
    Item,
    Nfs4Op,
    NfsStat4,
    StatusRes,
    VoidArgs,
    pull_status4,
)
from storage_backends.nfs.messages.operations import (
    Commit4Args,
    Commit4Res,
    FhRes,
    Getattr4Args,
    Getattr4Res,
    Lookup4Args,
    OpenArgs,
    OpenRes,
    PutFhArgs,
    Read4Args,
    Read4Res,
    Write4Args,
    Write4Res,
)
from storage_backends.nfs.messages.session import (
    CreateSessionArgs,
    CreateSessionRes,
    DestroySessionArgs,
    ExchangeIdArgs,
    ExchangeIdRes,
    ReclaimCompleteArgs,
    SequenceArgs,
    SequenceRes,
)
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = ["MAX_OPERATIONS", "OPERATIONS", "CompoundArgs", "CompoundRes", "Operation"]

MAX_OPERATIONS = 16
"""Operations of one compound (NFSD_MAX_OPS_PER_COMPOUND before 5.16)."""
_MAX_TAG_BYTES = 128
_OK = NfsStat4.NFS4_OK
_TWO = Struct(">II")


class Operation(NamedTuple):
    """How the arguments and the result of one operation are read."""

    args: type[Item]
    res: type[Item]


OPERATIONS: Final[Mapping[int, Operation]] = {
    Nfs4Op.COMMIT: Operation(Commit4Args, Commit4Res),
    Nfs4Op.GETATTR: Operation(Getattr4Args, Getattr4Res),
    Nfs4Op.GETFH: Operation(VoidArgs, FhRes),
    Nfs4Op.LOOKUP: Operation(Lookup4Args, StatusRes),
    Nfs4Op.OPEN: Operation(OpenArgs, OpenRes),
    Nfs4Op.PUTFH: Operation(PutFhArgs, StatusRes),
    Nfs4Op.PUTROOTFH: Operation(VoidArgs, StatusRes),
    Nfs4Op.READ: Operation(Read4Args, Read4Res),
    Nfs4Op.WRITE: Operation(Write4Args, Write4Res),
    Nfs4Op.EXCHANGE_ID: Operation(ExchangeIdArgs, ExchangeIdRes),
    Nfs4Op.CREATE_SESSION: Operation(CreateSessionArgs, CreateSessionRes),
    Nfs4Op.DESTROY_SESSION: Operation(DestroySessionArgs, StatusRes),
    Nfs4Op.SEQUENCE: Operation(SequenceArgs, SequenceRes),
    Nfs4Op.RECLAIM_COMPLETE: Operation(ReclaimCompleteArgs, StatusRes),
    Nfs4Op.ILLEGAL: Operation(VoidArgs, StatusRes),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompoundArgs:
    """``COMPOUND4args``."""

    operations: tuple[tuple[int, Any], ...]
    """Number and arguments of each."""
    tag: str = ""
    minorversion: int = NFS4_MINOR_VERSION

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.string(self.tag)
        writer.pack(_TWO, self.minorversion, len(self.operations))
        for number, args in self.operations:
            writer.uint(number)
            args.push(writer)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one: of another minor version its number alone, else all up to an operation that is not here."""
        tag, minorversion = reader.string(_MAX_TAG_BYTES), reader.uint()
        operations: list[tuple[int, Any]] = []
        if minorversion != NFS4_MINOR_VERSION:
            reader.rest()
            return cls(operations=(), tag=tag, minorversion=minorversion)
        for _ in range(reader.length(MAX_OPERATIONS)):
            number = reader.uint()
            operation = OPERATIONS.get(number)
            if operation is None:
                # how long it is nobody knows
                reader.rest()
                operations.append((Nfs4Op.ILLEGAL, VoidArgs()))
                break
            operations.append((number, operation.args.pull(reader)))
        return cls(operations=tuple(operations), tag=tag, minorversion=minorversion)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompoundRes:
    """``COMPOUND4res``."""

    status: int = _OK
    """That of the last operation that was executed."""
    results: tuple[tuple[int, Any], ...] = ()
    tag: str = ""

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.uint(self.status)
        writer.string(self.tag)
        writer.uint(len(self.results))
        for number, res in self.results:
            writer.uint(number)
            res.push(writer)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        status, tag = pull_status4(reader), reader.string(_MAX_TAG_BYTES)
        results = []
        for _ in range(reader.length(MAX_OPERATIONS)):
            number = reader.uint()
            if number not in OPERATIONS:
                raise RemoteProtocolError(f"nfs_opnum4 {number} is answered, which nobody asked for")
            results.append((number, OPERATIONS[number].res.pull(reader)))
        return cls(status=status, results=tuple(results), tag=tag)

    def of(self, number: int) -> Any:
        """Return the result of an operation, or None if it was not executed."""
        for found, res in self.results:
            if found == number:
                return res
        return None
