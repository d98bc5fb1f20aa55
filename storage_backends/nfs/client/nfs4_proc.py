"""Calls of NFS version 4.1: compounds in a session, and what the client makes of their statuses.

Mirrors fs/nfs/nfs4proc.c of 6.1 (``nfs41_sequence_process``, ``nfs4_async_handle_error``). Files and swap ask for READ,
WRITE and COMMIT as in version 3 and get their results as in version 3; here they become compounds behind SEQUENCE and
PUTFH, with the stateid of the file's OPEN.

A session that the server does not know any more (NFS4ERR_BADSESSION) is the state manager's to make anew; the call
sleeps meanwhile and is made again, with all that has changed. So does one whose stateid or client the server does not
know. Between the error and the manager's first step others could still call in the dead session; since 6.5
(``nfs4_freeze_session``) nobody can.

NFS4ERR_DELAY and NFS4ERR_GRACE are waited out: a tenth of a second, twice as long each time, fifteen at most.
"""

from dataclasses import dataclass
from typing import Any, Final

from netvm.runtime.task import Resource, Task
from netvm.units import NS_PER_S
from storage_backends.nfs.client.clnt import RpcClient
from storage_backends.nfs.client.nfs4_session import Slot
from storage_backends.nfs.client.nfs4_state import Nfs4Client
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.procedures import COMMIT, READ, WRITE, Procedure, compound
from storage_backends.nfs.messages.compound import CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import CommitRes, ReadRes, WriteRes
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, Nfs4Op, NfsStat4
from storage_backends.nfs.messages.operations import (
    Commit4Args,
    Getattr4Args,
    PutFhArgs,
    Read4Args,
    Write4Args,
)
from storage_backends.nfs.messages.session import SequenceArgs

__all__ = ["SESSION_LOST", "Call4", "Nfs4CallOps"]

NFS4_POLL_RETRY_MIN_NS: Final = NS_PER_S // 10
NFS4_POLL_RETRY_MAX_NS: Final = 15 * NS_PER_S
_WRITTEN: Final = (3, 4, 45, 52, 53)
"""What is asked about a file that was written to: change, size, space_used, time_metadata, time_modify."""
_COMPOUNDS: Final = {procedure: compound(procedure.name) for procedure in (READ, WRITE, COMMIT)}

SESSION_LOST: Final = (NfsStat4.NFS4ERR_BADSESSION, NfsStat4.NFS4ERR_DEADSESSION)
"""The server does not know the session (any more)."""
_STATE_LOST: Final = (
    NfsStat4.NFS4ERR_STALE_CLIENTID,
    NfsStat4.NFS4ERR_STALE_STATEID,
    NfsStat4.NFS4ERR_BAD_STATEID,
    NfsStat4.NFS4ERR_EXPIRED,
)
_EXECUTED: Final = (NfsStat4.NFS4ERR_RETRY_UNCACHED_REP, NfsStat4.NFS4ERR_SEQ_FALSE_RETRY)
_AGAIN: Final = (*_EXECUTED, NfsStat4.NFS4ERR_OLD_STATEID)
"""Of a call that was executed and whose reply is lost nothing is known: it is made again, under another number."""
_LATER: Final = (NfsStat4.NFS4ERR_DELAY, NfsStat4.NFS4ERR_GRACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call4:
    """A compound, as who makes it says it."""

    operations: tuple[tuple[int, Any], ...]
    in_session: bool = True
    """SEQUENCE goes before it."""
    privileged: bool = False
    """It may be made while the session drains; its errors are its caller's."""
    cachethis: bool = False


class Nfs4CallOps:
    """``nfs4_call_sync_ops``, ``nfs4_write_ops`` and their like."""

    def __init__(self, client: RpcClient, state: Nfs4Client) -> None:
        self.client = client
        self.state = state
        self._slots: dict[RpcTask, Slot] = {}
        self._delays_ns: dict[RpcTask, int] = {}

    # -- before ---------------------------------------------------------------------------------------------------

    def prepare(self, rpc: RpcTask) -> bool:
        """Have a slot (nfs4_setup_sequence)."""
        args = rpc.args
        if rpc in self._slots or not _in_session(args):
            return True
        slot = self.state.table.alloc_slot(rpc, privileged=isinstance(args, Call4) and args.privileged)
        if slot is None:
            return False
        self._slots[rpc] = slot
        return True

    def encode(self, rpc: RpcTask) -> tuple[Procedure, CompoundArgs | None]:
        """Return the compound of a call; a call without arguments is none."""
        args = rpc.args
        if args is None:
            return rpc.procedure, None
        operations = args.operations if isinstance(args, Call4) else self._operations(rpc.procedure, args)
        slot = self._slots.get(rpc)
        if slot is not None:
            sequence = SequenceArgs(
                sessionid=self.state.sessionid,
                sequenceid=slot.seq_nr,
                slotid=slot.slot_nr,
                highest_slotid=self.state.table.highest_used_slotid,
                cachethis=isinstance(args, Call4) and args.cachethis,
            )
            operations = ((Nfs4Op.SEQUENCE, sequence), *operations)
        return _COMPOUNDS.get(rpc.procedure, rpc.procedure), CompoundArgs(operations=operations)

    def _operations(self, procedure: Procedure, args: Any) -> tuple[tuple[int, Any], ...]:
        fh = (Nfs4Op.PUTFH, PutFhArgs(fh=args.fh))
        opened = self.state.opens.get(args.fh)
        stateid = ANONYMOUS if opened is None else opened.stateid
        if procedure is WRITE:
            write = Write4Args(stateid=stateid, offset=args.offset, stable=args.stable, data=args.data)
            return (fh, (Nfs4Op.WRITE, write), (Nfs4Op.GETATTR, Getattr4Args(numbers=_WRITTEN)))
        if procedure is READ:
            return (fh, (Nfs4Op.READ, Read4Args(stateid=stateid, offset=args.offset, count=args.count)))
        assert procedure is COMMIT
        return (fh, (Nfs4Op.COMMIT, Commit4Args(offset=args.offset, count=args.count)))

    # -- after ----------------------------------------------------------------------------------------------------

    async def done(self, rpc: RpcTask, task: Task) -> bool:
        """Take the answer: of the session first, then of the operations."""
        assert rpc.reply is not None
        result: CompoundRes | None = rpc.reply.result
        slot = self._slots.get(rpc)
        if slot is not None and not await self._sequence_done(rpc, task, slot, result):
            return False
        if result is None:
            self._delays_ns.pop(rpc, None)
            return True
        if result.status in _AGAIN:
            return False
        alone = isinstance(rpc.args, Call4) and (rpc.args.privileged or not rpc.args.in_session)
        if result.status and not alone and not await self._handle_error(rpc, task, result.status):
            return False
        self._delays_ns.pop(rpc, None)
        rpc.reply = rpc.reply._replace(result=_as_version_3(rpc.procedure, result))
        return True

    async def _sequence_done(self, rpc: RpcTask, task: Task, slot: Slot, result: CompoundRes | None) -> bool:
        """Take what the server said of the slot; False if the call is made again (nfs41_sequence_process)."""
        sequence = None if result is None else result.of(Nfs4Op.SEQUENCE)
        status = NfsStat4.NFS4_OK if sequence is None else sequence.status
        if status in (NfsStat4.NFS4ERR_DELAY, NfsStat4.NFS4ERR_SEQ_MISORDERED):
            # it is being executed: asked for again in the same slot
            rpc.delay(NFS4_POLL_RETRY_MAX_NS, "rpc_delay: NFS4ERR_DELAY of SEQUENCE")
            return False
        if status in (NfsStat4.NFS4_OK, *_EXECUTED):
            slot.seq_nr += 1
        elif status in SESSION_LOST:
            if self.client.fixes.nfs4_freeze_session:
                self.state.table.draining = True
            self.state.session_reset = True
            self._free_slot(rpc)
            await self.state.schedule(task)
            return True
        self._free_slot(rpc)
        return status not in (*_EXECUTED, NfsStat4.NFS4ERR_BADSLOT)

    def _free_slot(self, rpc: RpcTask) -> None:
        self.state.table.free_slot(self._slots.pop(rpc))
        self.state.slot_freed()

    async def _handle_error(self, rpc: RpcTask, task: Task, status: int) -> bool:
        """Have a call made again that failed for want of state or of time (nfs4_async_handle_error)."""
        if status in _STATE_LOST:
            self.state.lease_expired = True
            await self.state.schedule(task)
        if status in SESSION_LOST or status in _STATE_LOST:
            if self.state.running:
                self.state.wait_for_recovery(rpc)
            return False
        if status in _LATER:
            delay_ns = self._delays_ns.get(rpc, NFS4_POLL_RETRY_MIN_NS)
            self._delays_ns[rpc] = min(2 * delay_ns, NFS4_POLL_RETRY_MAX_NS)
            rpc.delay(delay_ns, f"rpc_delay: {NfsStat4(status).name}")
            return False
        return True

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs(self, rpc: RpcTask) -> tuple[Resource | Task, ...]:
        """Say what a call that sleeps for a slot or for the recovery waits for."""
        if rpc.sleeps_on == "nfs4: a session slot":
            return (self.state.slot_resource,)
        return self.state.needs()

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return self.state.digest()


def _in_session(args: Any) -> bool:
    return args is not None and (not isinstance(args, Call4) or args.in_session)


def _as_version_3(procedure: Procedure, result: CompoundRes) -> Any:
    """Return the result of a READ, WRITE or COMMIT as version 3 would say it; others as they are."""
    if procedure not in _COMPOUNDS:
        return result
    if result.status:
        return {READ: ReadRes, WRITE: WriteRes, COMMIT: CommitRes}[procedure](status=result.status)
    if procedure is WRITE:
        written = result.of(Nfs4Op.WRITE)
        return WriteRes(count=written.count, committed=written.committed, verifier=written.verifier)
    if procedure is READ:
        read = result.of(Nfs4Op.READ)
        return ReadRes(eof=read.eof, data=read.data)
    return CommitRes(verifier=result.of(Nfs4Op.COMMIT).verifier)
