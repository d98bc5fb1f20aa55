"""NFS version 4.1 on an export: clients, their sessions, the files they have open, and the grace after a restart.

Mirrors fs/nfsd/nfs4proc.c and nfs4state.c. A compound is executed operation by operation on a current file handle; what
it does to a file is what the procedures of version 3 do (:mod:`storage_backends.nfs.server.service`).

Clients, sessions and stateids are in the server's memory alone: after a restart it knows none of them. A call in an old
session is answered NFS4ERR_BADSESSION, a session for an old client NFS4ERR_STALE_CLIENTID. For the length of a lease
the server then grants nothing new (NFS4ERR_GRACE) and lets clients claim back what they had; the grace is over as soon
as each client that was there before has said RECLAIM_COMPLETE.

A slot keeps the number of the last call and its reply, if it was asked to. Of a call that comes again without that the
first operation behind SEQUENCE is answered NFS4ERR_RETRY_UNCACHED_REP.

# MODEL: a lease never runs out while the server is up, so nobody has to renew it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from netvm.units import NS_PER_S
from storage_backends.nfs.connection.procedures import COMMIT, COMPOUND, CREATE, GETATTR, LOOKUP, READ, WRITE
from storage_backends.nfs.messages.attributes import Fattr3, Ftype3, Sattr3
from storage_backends.nfs.messages.attributes4 import Fattr4
from storage_backends.nfs.messages.compound import OPERATIONS, CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import CommitArgs, ReadArgs, WriteArgs
from storage_backends.nfs.messages.files import CreateArgs, LookupArgs
from storage_backends.nfs.messages.nfs3 import FhArgs
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, NFS4_MINOR_VERSION, Nfs4Op, NfsStat4, StateId, StatusRes
from storage_backends.nfs.messages.operations import (
    Claim,
    Commit4Res,
    FhRes,
    Getattr4Res,
    OpenRes,
    Read4Res,
    Write4Res,
)
from storage_backends.nfs.messages.session import (
    EXCHGID4_FLAG_CONFIRMED_R,
    EXCHGID4_FLAG_USE_NON_PNFS,
    ChannelAttrs,
    CreateSessionArgs,
    CreateSessionRes,
    ExchangeIdArgs,
    ExchangeIdRes,
    SequenceArgs,
    SequenceRes,
)
from storage_backends.nfs.server.service import EXPORT_PATH, ROOT_FH, NfsService

__all__ = ["LEASE_S", "NFSD_MAX_SLOTS_PER_SESSION", "Nfs4Service"]

LEASE_S: Final = 90
"""NFSD_LEASE_TIME, which is the grace as well."""
NFSD_MAX_SLOTS_PER_SESSION: Final = 160
PSEUDO_ROOT_FH: Final = b"netvm export: pseudo root"
"""What PUTROOTFH means: a directory that holds the export and nothing else."""

_OK = NfsStat4.NFS4_OK
_STATS: Final = frozenset(NfsStat4)
_WITHOUT_SESSION: Final = (Nfs4Op.EXCHANGE_ID, Nfs4Op.CREATE_SESSION, Nfs4Op.DESTROY_SESSION)
"""Operations of a compound without SEQUENCE, of which they are the only one."""
_ON_A_FILE_HANDLE: Final = (
    Nfs4Op.GETFH,
    Nfs4Op.LOOKUP,
    Nfs4Op.GETATTR,
    Nfs4Op.OPEN,
    Nfs4Op.READ,
    Nfs4Op.WRITE,
    Nfs4Op.COMMIT,
)
"""Operations that need a current file handle."""
_ON_A_FILE: Final = (Nfs4Op.READ, Nfs4Op.WRITE, Nfs4Op.COMMIT)
"""Those of them that need one of a file."""


@dataclass(slots=True)
class _Client:
    """``struct nfs4_client``."""

    clientid: int
    ownerid: bytes
    verifier: bytes
    sequenceid: int = 1
    """Number of the next CREATE_SESSION."""
    confirmed: bool = False
    reclaim_complete: bool = False
    created: CreateSessionRes = field(default_factory=CreateSessionRes)
    """Answer to the last CREATE_SESSION."""


@dataclass(slots=True)
class _Slot:
    """``struct nfsd4_slot``."""

    sequenceid: int = 0
    used: bool = False
    """A call has been made in it."""
    reply: CompoundRes | None = None
    """To the last call, if it was to be kept."""


@dataclass(slots=True)
class _Session:
    """``struct nfsd4_session``."""

    client: _Client
    slots: list[_Slot]


@dataclass(slots=True)
class _Open:
    """``struct nfs4_ol_stateid``: a file that a client has open."""

    client: _Client
    fh: bytes
    seqid: int = 1


@dataclass(slots=True)
class _Compound:
    """``struct nfsd4_compound_state``: what a compound has come to."""

    session: _Session | None = None
    fh: bytes = b""
    """The current file handle; empty if there is none."""


class Nfs4Service:
    """Compounds on one export."""

    def __init__(self, service: NfsService) -> None:
        self.service = service
        self._clients: dict[int, _Client] = {}
        self._sessions: dict[bytes, _Session] = {}
        self._opens: dict[bytes, _Open] = {}
        self._nr_made = 0
        """Clients, sessions and stateids of this boot so far."""
        self._grace_until_ns = 0
        self._to_reclaim: list[bytes] = []
        """Clients of the boot before that have not said RECLAIM_COMPLETE."""
        self._operations: dict[int, Callable[[_Compound, Any], Any]] = {
            Nfs4Op.EXCHANGE_ID: self._exchange_id,
            Nfs4Op.CREATE_SESSION: self._create_session,
            Nfs4Op.DESTROY_SESSION: self._destroy_session,
            Nfs4Op.RECLAIM_COMPLETE: self._reclaim_complete,
            Nfs4Op.PUTROOTFH: self._putrootfh,
            Nfs4Op.PUTFH: self._putfh,
            Nfs4Op.GETFH: self._getfh,
            Nfs4Op.LOOKUP: self._lookup,
            Nfs4Op.GETATTR: self._getattr,
            Nfs4Op.OPEN: self._open,
            Nfs4Op.READ: self._read,
            Nfs4Op.WRITE: self._write,
            Nfs4Op.COMMIT: self._commit,
            Nfs4Op.SEQUENCE: lambda _state, _args: StatusRes(status=NfsStat4.NFS4ERR_SEQUENCE_POS),
            Nfs4Op.ILLEGAL: lambda _state, _args: StatusRes(status=NfsStat4.NFS4ERR_OP_ILLEGAL),
        }
        assert self._operations.keys() == OPERATIONS.keys()
        service.serve(COMPOUND, self.compound)
        service.restarted.append(self.restart)

    @property
    def in_grace(self) -> bool:
        """Whether nothing new is granted."""
        return bool(self._to_reclaim) and self.service.world.now_ns < self._grace_until_ns

    @property
    def nr_sessions(self) -> int:
        """Sessions there are."""
        return len(self._sessions)

    def restart(self, back_ns: int) -> None:
        """Forget everything but who was there (nfsd keeps that on its disk); the grace begins when it is back."""
        there = [client.ownerid for client in self._clients.values() if client.reclaim_complete]
        absent = self._to_reclaim if self.in_grace else []
        self._to_reclaim = list(dict.fromkeys([*absent, *there]))
        self._grace_until_ns = back_ns + LEASE_S * NS_PER_S
        self._clients.clear()
        self._sessions.clear()
        self._opens.clear()
        self._nr_made = 0

    def compound(self, args: CompoundArgs) -> CompoundRes:
        """Execute the operations of a compound, up to the first that fails (nfsd4_proc_compound)."""
        if args.minorversion != NFS4_MINOR_VERSION:
            return CompoundRes(status=NfsStat4.NFS4ERR_MINOR_VERS_MISMATCH, tag=args.tag)
        if not args.operations:
            return CompoundRes(tag=args.tag)
        state = _Compound()
        number, first = args.operations[0]
        if number != Nfs4Op.SEQUENCE:
            status = self._may_begin(number, len(args.operations))
            if status:
                return CompoundRes(status=status, tag=args.tag, results=((number, StatusRes(status=status)),))
            return self._execute(state, args, [])
        slot, answer = self._sequence(state, first)
        if slot is None:
            return CompoundRes(status=answer.status, tag=args.tag, results=((Nfs4Op.SEQUENCE, answer),))
        if slot.sequenceid == first.sequenceid:
            return slot.reply or _uncached(args, answer)
        slot.sequenceid, slot.used = first.sequenceid, True
        res = self._execute(state, args, [(Nfs4Op.SEQUENCE, answer)])
        slot.reply = res if first.cachethis else None
        return res

    def _may_begin(self, number: int, nr: int) -> int:
        """Return the status of a compound without SEQUENCE at its beginning."""
        if number == Nfs4Op.ILLEGAL:
            return NfsStat4.NFS4ERR_OP_ILLEGAL
        if number not in _WITHOUT_SESSION:
            return NfsStat4.NFS4ERR_OP_NOT_IN_SESSION
        return _OK if nr == 1 else NfsStat4.NFS4ERR_NOT_ONLY_OP

    def _execute(self, state: _Compound, args: CompoundArgs, results: list[tuple[int, Any]]) -> CompoundRes:
        status: int = _OK
        for number, op in args.operations[len(results) :]:
            refused = self._refuses_handle(number, state.fh)
            res = StatusRes(status=refused) if refused else self._operations[number](state, op)
            results.append((number, res))
            status = res.status
            if status:
                break
        return CompoundRes(status=status, tag=args.tag, results=tuple(results))

    def _refuses_handle(self, number: int, fh: bytes) -> int:
        """Return the status of an operation that wants another current file handle than this."""
        if number in _ON_A_FILE_HANDLE and not fh:
            return NfsStat4.NFS4ERR_NOFILEHANDLE
        return self._refuses_directory(fh) if number in _ON_A_FILE else _OK

    # -- sessions -------------------------------------------------------------------------------------------------

    def _number(self) -> int:
        self._nr_made += 1
        return self._nr_made

    @property
    def _boot(self) -> bytes:
        """What tells this boot from others."""
        return self.service.boot_verifier[:4]

    def _sequence(self, state: _Compound, args: SequenceArgs) -> tuple[_Slot | None, SequenceRes]:
        """Return the slot of a call and the answer to its SEQUENCE; no slot if it is not to be executed."""
        session = self._sessions.get(args.sessionid)
        if session is None:
            return None, SequenceRes(status=NfsStat4.NFS4ERR_BADSESSION)
        if args.slotid >= len(session.slots):
            return None, SequenceRes(status=NfsStat4.NFS4ERR_BADSLOT)
        slot = session.slots[args.slotid]
        again = slot.used and args.sequenceid == slot.sequenceid
        if not again and args.sequenceid != slot.sequenceid + 1 & 0xFFFFFFFF:
            return None, SequenceRes(status=NfsStat4.NFS4ERR_SEQ_MISORDERED)
        state.session = session
        highest = len(session.slots) - 1
        return slot, SequenceRes(
            sessionid=args.sessionid,
            sequenceid=args.sequenceid,
            slotid=args.slotid,
            highest_slotid=highest,
            target_highest_slotid=highest,
        )

    def _exchange_id(self, _state: _Compound, args: ExchangeIdArgs) -> ExchangeIdRes:
        for client in self._clients.values():
            if client.ownerid == args.ownerid and client.verifier == args.verifier and client.confirmed:
                return self._identified(client, EXCHGID4_FLAG_CONFIRMED_R)
        for client in [client for client in self._clients.values() if client.ownerid == args.ownerid]:
            if not client.confirmed:
                self._expire(client)
        clientid = int.from_bytes(self._boot, "big") << 32 | self._number()
        client = self._clients[clientid] = _Client(clientid, args.ownerid, args.verifier)
        return self._identified(client, 0)

    def _identified(self, client: _Client, confirmed: int) -> ExchangeIdRes:
        return ExchangeIdRes(
            clientid=client.clientid,
            sequenceid=client.sequenceid,
            flags=EXCHGID4_FLAG_USE_NON_PNFS | confirmed,
            server_owner=b"netvm",
            server_scope=b"netvm",
        )

    def _create_session(self, _state: _Compound, args: CreateSessionArgs) -> CreateSessionRes:
        client = self._clients.get(args.clientid)
        if client is None:
            return CreateSessionRes(status=NfsStat4.NFS4ERR_STALE_CLIENTID)
        if args.sequenceid == client.sequenceid - 1 and client.confirmed:
            return client.created
        if args.sequenceid != client.sequenceid:
            return CreateSessionRes(status=NfsStat4.NFS4ERR_SEQ_MISORDERED)
        if not client.confirmed:
            for other in [other for other in self._clients.values() if other.ownerid == client.ownerid]:
                if other is not client:
                    self._expire(other)
        fore = args.fore
        nr_slots = max(1, min(fore.maxrequests, NFSD_MAX_SLOTS_PER_SESSION))
        sessionid = client.clientid.to_bytes(8, "big") + self._number().to_bytes(8, "big")
        self._sessions[sessionid] = _Session(client, [_Slot() for _ in range(nr_slots)])
        client.created = CreateSessionRes(
            sessionid=sessionid,
            sequenceid=client.sequenceid,
            fore=ChannelAttrs(
                maxrequest_bytes=fore.maxrequest_bytes,
                maxresponse_bytes=fore.maxresponse_bytes,
                maxresponse_cached_bytes=fore.maxresponse_cached_bytes,
                maxoperations=fore.maxoperations,
                maxrequests=nr_slots,
            ),
            back=args.back,
        )
        client.sequenceid += 1
        client.confirmed = True
        return client.created

    def _expire(self, client: _Client) -> None:
        """Forget a client that was started again: what it had is nobody's."""
        del self._clients[client.clientid]
        self._sessions = {key: session for key, session in self._sessions.items() if session.client is not client}
        self._opens = {key: state for key, state in self._opens.items() if state.client is not client}

    def _destroy_session(self, _state: _Compound, args: Any) -> StatusRes:
        found = self._sessions.pop(args.sessionid, None)
        return StatusRes(status=NfsStat4.NFS4ERR_BADSESSION if found is None else _OK)

    def _reclaim_complete(self, state: _Compound, args: Any) -> StatusRes:
        client = self._client(state)
        if args.one_fs:
            # of one file system: there is nothing to do for that
            return StatusRes(status=_OK if state.fh else NfsStat4.NFS4ERR_NOFILEHANDLE)
        if client.reclaim_complete:
            return StatusRes(status=NfsStat4.NFS4ERR_COMPLETE_ALREADY)
        client.reclaim_complete = True
        if client.ownerid in self._to_reclaim:
            self._to_reclaim.remove(client.ownerid)
        return StatusRes()

    def _client(self, state: _Compound) -> _Client:
        assert state.session is not None
        return state.session.client

    # -- files ----------------------------------------------------------------------------------------------------

    def _putrootfh(self, state: _Compound, _args: Any) -> StatusRes:
        state.fh = PSEUDO_ROOT_FH
        return StatusRes()

    def _putfh(self, state: _Compound, args: Any) -> StatusRes:
        if args.fh != PSEUDO_ROOT_FH and self._attributes(args.fh) is None:
            return StatusRes(status=NfsStat4.NFS4ERR_STALE)
        state.fh = args.fh
        return StatusRes()

    def _getfh(self, state: _Compound, _args: Any) -> FhRes:
        return FhRes(fh=state.fh)

    def _lookup(self, state: _Compound, args: Any) -> StatusRes:
        if state.fh == PSEUDO_ROOT_FH:
            if args.name != EXPORT_PATH.removeprefix("/"):
                return StatusRes(status=NfsStat4.NFS4ERR_NOENT)
            state.fh = ROOT_FH
            return StatusRes()
        found = self.service.call(LOOKUP, LookupArgs(dir_fh=state.fh, name=args.name))
        if not found.status:
            state.fh = found.fh
        return StatusRes(status=_status4(found.status))

    def _attributes(self, fh: bytes) -> Fattr3 | None:
        if fh == PSEUDO_ROOT_FH:
            return Fattr3(ftype=Ftype3.NF3DIR, mode=0o755, nlink=2)
        attributes: Fattr3 | None = self.service.call(GETATTR, FhArgs(fh=fh)).attributes
        return attributes

    def _getattr(self, state: _Compound, args: Any) -> Getattr4Res:
        found = self._attributes(state.fh)
        if found is None:
            return Getattr4Res(status=NfsStat4.NFS4ERR_STALE)
        most = self.service.io_size_bytes
        every = Fattr4(
            ftype=found.ftype,
            change=found.ctime_ns,
            size_bytes=found.size_bytes,
            fsid=found.fsid,
            lease_time_s=LEASE_S,
            fileid=found.fileid,
            maxread_bytes=most,
            maxwrite_bytes=most,
            mode=found.mode,
            numlinks=found.nlink,
            space_used_bytes=found.used_bytes,
            time_metadata_ns=found.ctime_ns,
            time_modify_ns=found.mtime_ns,
        )
        return Getattr4Res(attributes=every.only(args.numbers))

    def _open(self, state: _Compound, args: Any) -> OpenRes:
        client = self._client(state)
        if args.claim == Claim.PREVIOUS:
            status = self._may_reclaim(state, client)
            return OpenRes(status=status) if status else self._opened(state, client)
        if self.in_grace or not client.reclaim_complete:
            return OpenRes(status=NfsStat4.NFS4ERR_GRACE)
        if args.claim == Claim.FH:
            status = self._refuses_directory(state.fh)
            return OpenRes(status=status) if status else self._opened(state, client)
        if state.fh == PSEUDO_ROOT_FH:
            return OpenRes(status=NfsStat4.NFS4ERR_NOENT if args.create is None else NfsStat4.NFS4ERR_ACCESS)
        if args.create is None:
            found = self.service.call(LOOKUP, LookupArgs(dir_fh=state.fh, name=args.name))
        else:
            wanted = Sattr3(size_bytes=args.create.size_bytes)
            found = self.service.call(CREATE, CreateArgs(dir_fh=state.fh, name=args.name, attributes=wanted))
        if found.status:
            return OpenRes(status=_status4(found.status))
        state.fh = found.fh
        return self._opened(state, client)

    def _may_reclaim(self, state: _Compound, client: _Client) -> int:
        """Return the status of claiming the current file back as one that was open before the restart."""
        if not self.in_grace or client.ownerid not in self._to_reclaim:
            return NfsStat4.NFS4ERR_NO_GRACE
        return self._refuses_directory(state.fh)

    def _refuses_directory(self, fh: bytes) -> int:
        """Return the status of doing to a directory what is done to files."""
        return NfsStat4.NFS4ERR_ISDIR if fh in (PSEUDO_ROOT_FH, ROOT_FH) else _OK

    def _opened(self, state: _Compound, client: _Client) -> OpenRes:
        other = self._boot + self._number().to_bytes(8, "big")
        self._opens[other] = _Open(client, state.fh)
        return OpenRes(stateid=StateId(1, other))

    def _check_stateid(self, state: _Compound, stateid: StateId) -> int:
        """Return the status of reading or writing the current file with a stateid (nfs4_preprocess_stateid_op)."""
        if stateid == ANONYMOUS:
            return NfsStat4.NFS4ERR_GRACE if self.in_grace else _OK
        found = self._opens.get(stateid.other)
        if found is None or found.client is not self._client(state) or found.fh != state.fh:
            return NfsStat4.NFS4ERR_BAD_STATEID
        if stateid.seqid in (0, found.seqid):
            return _OK
        return NfsStat4.NFS4ERR_OLD_STATEID if stateid.seqid < found.seqid else NfsStat4.NFS4ERR_BAD_STATEID

    def _read(self, state: _Compound, args: Any) -> Read4Res:
        status = self._check_stateid(state, args.stateid)
        if status:
            return Read4Res(status=status)
        found = self.service.call(READ, ReadArgs(fh=state.fh, offset=args.offset, count=args.count))
        if found.status:
            return Read4Res(status=_status4(found.status))
        return Read4Res(eof=found.eof, data=found.data)

    def _write(self, state: _Compound, args: Any) -> Write4Res:
        status = self._check_stateid(state, args.stateid)
        if status:
            return Write4Res(status=status)
        found = self.service.call(WRITE, WriteArgs(fh=state.fh, offset=args.offset, stable=args.stable, data=args.data))
        if found.status:
            return Write4Res(status=_status4(found.status))
        return Write4Res(count=found.count, committed=found.committed, verifier=found.verifier)

    def _commit(self, state: _Compound, args: Any) -> Commit4Res:
        found = self.service.call(COMMIT, CommitArgs(fh=state.fh, offset=args.offset, count=args.count))
        return Commit4Res(status=_status4(found.status), verifier=found.verifier)


def _uncached(args: CompoundArgs, answer: SequenceRes) -> CompoundRes:
    """Return the answer to a call that was executed before and whose reply was not kept (nfsd4_enc_sequence_replay)."""
    results: list[tuple[int, Any]] = [(Nfs4Op.SEQUENCE, answer)]
    if len(args.operations) == 1:
        return CompoundRes(tag=args.tag, results=tuple(results))
    status = NfsStat4.NFS4ERR_RETRY_UNCACHED_REP
    results.append((args.operations[1][0], StatusRes(status=status)))
    return CompoundRes(status=status, tag=args.tag, results=tuple(results))


def _status4(status: int) -> int:
    """Return the status of version 4 that says what one of version 3 does; those that are here have the same number."""
    return status if status in _STATS else NfsStat4.NFS4ERR_SERVERFAULT
