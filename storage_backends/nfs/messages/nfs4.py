"""NFS version 4.1 itself: its program, operations, statuses and stateids (RFC 8881 and, for the wire, RFC 5662).

There are two procedures. NULL does nothing; COMPOUND carries operations that the server executes in order on a *current
file handle*, up to the first that fails. Each operation is a dataclass of arguments and one of results, which know how
they are written and read; a result is a status and, with NFS4_OK only, what belongs to it, whose fields keep their
defaults otherwise. Those that make a session are in :mod:`~storage_backends.nfs.messages.session`, those on files in
:mod:`~storage_backends.nfs.messages.operations`, and what they say about a file in
:mod:`~storage_backends.nfs.messages.attributes4`.

Left out: version 4.0, the back channel and with it delegations and layouts, locks, directories beyond LOOKUP.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, Self

from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError

__all__ = [
    "ANONYMOUS",
    "NFS4_FHSIZE",
    "NFS4_MINOR_VERSION",
    "NFS4_OPAQUE_LIMIT",
    "NFS4_SESSIONID_SIZE",
    "NFS4_VERIFIER_SIZE",
    "NFS4_VERSION",
    "Item",
    "Nfs4Op",
    "Nfs4Proc",
    "NfsStat4",
    "StateId",
    "StatusRes",
    "VoidArgs",
    "pull_status4",
]

NFS4_VERSION = 4
NFS4_MINOR_VERSION = 1
NFS4_FHSIZE = 128
NFS4_SESSIONID_SIZE = 16
NFS4_VERIFIER_SIZE = 8
NFS4_OPAQUE_LIMIT = 1024
_OTHER_BYTES = 12


class Nfs4Proc(IntEnum):
    """Procedures (section 16)."""

    NULL = 0
    COMPOUND = 1


class Nfs4Op(IntEnum):
    """``nfs_opnum4``: the operations that are here (section 18)."""

    COMMIT = 5
    GETATTR = 9
    GETFH = 10
    LOOKUP = 15
    OPEN = 18
    PUTFH = 22
    PUTROOTFH = 24
    READ = 25
    WRITE = 38
    EXCHANGE_ID = 42
    CREATE_SESSION = 43
    DESTROY_SESSION = 44
    SEQUENCE = 53
    RECLAIM_COMPLETE = 58
    ILLEGAL = 10044
    """Stands for any operation that is not here."""


class NfsStat4(IntEnum):
    """``nfsstat4`` (section 15.1), as far as this client and server have a use for it."""

    NFS4_OK = 0
    NFS4ERR_NOENT = 2
    NFS4ERR_IO = 5
    NFS4ERR_ACCESS = 13
    NFS4ERR_NOTDIR = 20
    NFS4ERR_ISDIR = 21
    NFS4ERR_INVAL = 22
    NFS4ERR_FBIG = 27
    NFS4ERR_NOSPC = 28
    NFS4ERR_STALE = 70
    NFS4ERR_BADHANDLE = 10001
    NFS4ERR_NOTSUPP = 10004
    NFS4ERR_SERVERFAULT = 10006
    NFS4ERR_DELAY = 10008
    NFS4ERR_EXPIRED = 10011
    NFS4ERR_GRACE = 10013
    NFS4ERR_NOFILEHANDLE = 10020
    NFS4ERR_MINOR_VERS_MISMATCH = 10021
    NFS4ERR_STALE_CLIENTID = 10022
    NFS4ERR_STALE_STATEID = 10023
    NFS4ERR_OLD_STATEID = 10024
    NFS4ERR_BAD_STATEID = 10025
    NFS4ERR_NO_GRACE = 10033
    NFS4ERR_BADXDR = 10036
    NFS4ERR_OP_ILLEGAL = 10044
    NFS4ERR_BADSESSION = 10052
    NFS4ERR_BADSLOT = 10053
    NFS4ERR_COMPLETE_ALREADY = 10054
    NFS4ERR_SEQ_MISORDERED = 10063
    NFS4ERR_SEQUENCE_POS = 10064
    NFS4ERR_REQ_TOO_BIG = 10065
    NFS4ERR_RETRY_UNCACHED_REP = 10068
    NFS4ERR_TOO_MANY_OPS = 10070
    NFS4ERR_OP_NOT_IN_SESSION = 10071
    NFS4ERR_SEQ_FALSE_RETRY = 10076
    NFS4ERR_DEADSESSION = 10078
    NFS4ERR_NOT_ONLY_OP = 10081


_STATS = frozenset(NfsStat4)


class Item(Protocol):
    """Something that is written to a message and read from one."""

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        ...

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one. Raises RemoteProtocolError."""
        ...


def pull_status4(reader: XdrReader) -> int:
    """Consume a status."""
    status = reader.uint()
    if status not in _STATS:
        raise RemoteProtocolError(f"nfsstat4 {status}")
    return status


@dataclass(frozen=True, slots=True)
class StateId:
    """``stateid4`` (section 8.2): what a client may do with a file, and how often that has changed."""

    seqid: int = 0
    other: bytes = bytes(_OTHER_BYTES)

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.uint(self.seqid)
        writer.fixed(self.other)

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        return cls(reader.uint(), reader.fixed(_OTHER_BYTES))


ANONYMOUS = StateId()
"""All zeroes: nobody's (section 8.2.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidArgs:
    """Arguments of an operation that has none."""

    def push(self, writer: XdrWriter) -> None:
        """Append nothing."""

    @classmethod
    def pull(cls, _reader: XdrReader) -> Self:
        """Consume nothing."""
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRes:
    """A result that is a status and nothing else, and the beginning of those that have more to say with NFS4_OK."""

    status: int = NfsStat4.NFS4_OK

    def push(self, writer: XdrWriter) -> None:
        """Append it."""
        writer.uint(self.status)
        if self.status == NfsStat4.NFS4_OK:
            self.push_body(writer)

    def push_body(self, writer: XdrWriter) -> None:
        """Append what is said with NFS4_OK."""

    @classmethod
    def pull(cls, reader: XdrReader) -> Self:
        """Consume one."""
        status = pull_status4(reader)
        return cls.pull_body(reader) if status == NfsStat4.NFS4_OK else cls(status=status)

    @classmethod
    def pull_body(cls, _reader: XdrReader) -> Self:
        """Consume what is said with NFS4_OK."""
        return cls()
