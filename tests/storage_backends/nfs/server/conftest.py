"""An export of NFS version 4.1 for tests to ask, and clients that do."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nfs.connection.procedures import COMPOUND
from storage_backends.nfs.connection.server import Request
from storage_backends.nfs.messages import session
from storage_backends.nfs.messages.attributes4 import Fattr4
from storage_backends.nfs.messages.compound import CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4, StateId, VoidArgs
from storage_backends.nfs.messages.operations import Claim, Lookup4Args, OpenArgs, PutFhArgs, Read4Args, Write4Args
from storage_backends.nfs.server.nfs4 import Nfs4Service
from storage_backends.nfs.server.service import NfsService
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import BLOCK_SIZE, Blocks

Op = tuple[int, Any]
EXPORT: tuple[Op, ...] = ((Nfs4Op.PUTROOTFH, VoidArgs()), (Nfs4Op.LOOKUP, Lookup4Args(name="export")))
GETFH: Op = (Nfs4Op.GETFH, VoidArgs())
RECLAIM_COMPLETE: Op = (Nfs4Op.RECLAIM_COMPLETE, session.ReclaimCompleteArgs())


class Nfs4Caller:
    """A client that says compounds; each of them and its answer are what they are on the wire."""

    def __init__(self, server: Nfs4Service, *, ownerid: bytes = b"client", verifier: bytes = b"verifier") -> None:
        self.server = server
        self.ownerid = ownerid
        self.verifier = verifier
        self.clientid = 0
        self.sessionid = bytes(16)
        self.numbers: dict[int, int] = {}
        """Of each slot, that of the last call."""

    def compound(self, *operations: Op, minorversion: int = 1) -> CompoundRes:
        """Return the answer to these operations."""
        asked, answered = XdrWriter(), XdrWriter()
        CompoundArgs(operations=operations, tag="tag", minorversion=minorversion).push(asked)
        request = Request(1, COMPOUND, CompoundArgs.pull(XdrReader.of(*asked.chunks())), 0)
        res: Any = self.server.service.execute(request)
        res.push(answered)
        return CompoundRes.pull(XdrReader.of(*answered.chunks()))

    def exchange_id(self) -> session.ExchangeIdRes:
        """Say who it is."""
        args = session.ExchangeIdArgs(verifier=self.verifier, ownerid=self.ownerid)
        res: session.ExchangeIdRes = self.compound((Nfs4Op.EXCHANGE_ID, args)).of(Nfs4Op.EXCHANGE_ID)
        self.clientid = res.clientid
        return res

    def create_session(self, sequenceid: int, *, maxrequests: int = 4) -> session.CreateSessionRes:
        """Ask for a session."""
        fore = session.ChannelAttrs(maxoperations=8, maxrequests=maxrequests, maxresponse_cached_bytes=4096)
        args = session.CreateSessionArgs(clientid=self.clientid, sequenceid=sequenceid, fore=fore)
        res: session.CreateSessionRes = self.compound((Nfs4Op.CREATE_SESSION, args)).of(Nfs4Op.CREATE_SESSION)
        return res

    def connect(self) -> "Nfs4Caller":
        """Have a session, as after the boot of either end; what was open is not claimed back yet."""
        res = self.create_session(self.exchange_id().sequenceid)
        assert res.status == NfsStat4.NFS4_OK
        self.sessionid = res.sessionid
        self.numbers.clear()
        return self

    def begin(self) -> "Nfs4Caller":
        """Have a session and nothing to claim back."""
        assert self.connect().call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
        return self

    def call(self, *operations: Op, slot: int = 0, number: int | None = None, cachethis: bool = False) -> CompoundRes:
        """Return the answer to operations of the session, as the next call of a slot unless it is said which."""
        said = self.numbers.get(slot, 0) + 1 if number is None else number
        args = session.SequenceArgs(sessionid=self.sessionid, sequenceid=said, slotid=slot, cachethis=cachethis)
        res = self.compound((Nfs4Op.SEQUENCE, args), *operations)
        if res.of(Nfs4Op.SEQUENCE).status == NfsStat4.NFS4_OK:
            self.numbers[slot] = said
        return res

    def open(self, name: str = "f", *, create: Fattr4 | None = None, claim: int = Claim.NULL) -> Op:
        """Return an OPEN of a name, or of the current file handle."""
        args = OpenArgs(clientid=self.clientid, owner=b"o", create=create, claim=claim, name="" if claim else name)
        return Nfs4Op.OPEN, args

    def opened(self, name: str = "f", *, create: Fattr4 | None = None) -> tuple[bytes, StateId]:
        """Open a file and return its handle and the stateid."""
        res = self.call(*EXPORT, self.open(name, create=create), GETFH)
        assert res.status == NfsStat4.NFS4_OK
        return res.of(Nfs4Op.GETFH).fh, res.of(Nfs4Op.OPEN).stateid

    @staticmethod
    def put(fh: bytes) -> Op:
        """Return what makes a file handle the current one."""
        return Nfs4Op.PUTFH, PutFhArgs(fh=fh)

    @staticmethod
    def write(stateid: StateId, *versions: int, offset: int = 0, stable: int = StableHow.UNSTABLE) -> Op:
        """Return a WRITE of pages."""
        return Nfs4Op.WRITE, Write4Args(stateid=stateid, offset=offset, stable=stable, data=Blocks.of(versions))

    @staticmethod
    def read(stateid: StateId, count: int = BLOCK_SIZE) -> Op:
        """Return a READ from the beginning."""
        return Nfs4Op.READ, Read4Args(stateid=stateid, offset=0, count=count)


@pytest.fixture
def server() -> Nfs4Service:
    """Return version 4.1 on an export of 16 pages with one file."""
    service = NfsService(World(seeds=Seeds(1)), DiskModel(), capacity_bytes=16 * BLOCK_SIZE)
    service.add_file("f", 0, BlockStore(16 * BLOCK_SIZE, write_cache=True))
    return Nfs4Service(service)


@pytest.fixture
def make_client(server: Nfs4Service) -> Callable[..., Nfs4Caller]:
    """Return what makes a client that has said nothing yet."""
    return lambda **about: Nfs4Caller(server, **about)


@pytest.fixture
def client(server: Nfs4Service) -> Nfs4Caller:
    """Return a client with a session that has nothing to claim back."""
    return Nfs4Caller(server).begin()
