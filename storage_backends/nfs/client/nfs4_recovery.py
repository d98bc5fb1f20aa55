"""The calls by which a client of NFS version 4.1 makes itself known to a server, and again to one that was restarted.

Mirrors ``nfs4_proc_exchange_id``, ``nfs4_proc_create_session`` and the reclaiming of opens of fs/nfs/nfs4proc.c and
nfs4state.c (6.1). All of them are made by who mounts or by the state manager, outside a session or privileged in it.
"""

from typing import Any, Final

from netvm.errors import Errno
from netvm.runtime.task import Task
from storage_backends.nfs.client.nfs4_proc import SESSION_LOST, Call4
from storage_backends.nfs.client.nfs4_state import Nfs4Client, OpenState
from storage_backends.nfs.connection.procedures import compound
from storage_backends.nfs.messages.compound import MAX_OPERATIONS, CompoundRes
from storage_backends.nfs.messages.data import MAX_DATA_BYTES
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4
from storage_backends.nfs.messages.operations import Claim, OpenArgs, PutFhArgs
from storage_backends.nfs.messages.session import (
    ChannelAttrs,
    CreateSessionArgs,
    DestroySessionArgs,
    ExchangeIdArgs,
    ReclaimCompleteArgs,
)

__all__ = ["OPEN_OWNER", "Recovery"]

OPEN_OWNER: Final = b"open id:0"
_OVERHEAD_BYTES: Final = 4096
"""Room for what goes round the data of a READ or WRITE."""
_CACHED_BYTES: Final = 4096

Failure = tuple[str, int]
"""What could not be done, and the negative errno or the server's status."""


class Recovery:
    """What the state manager does."""

    def __init__(self, state: Nfs4Client) -> None:
        self.state = state
        self.client = state.client

    async def establish(self, task: Task) -> Failure | None:
        """Have an id and a session (nfs4_establish_lease)."""
        state = self.state
        args = ExchangeIdArgs(verifier=state.verifier, ownerid=state.owner)
        result = await self._call(task, Nfs4Op.EXCHANGE_ID, args, in_session=False)
        if result.status:
            return ("lease confirm", result.status)
        state.clientid = result.clientid
        return await self._create_session(task, result.sequenceid)

    async def _create_session(self, task: Task, sequenceid: int) -> Failure | None:
        state = self.state
        most = MAX_DATA_BYTES + _OVERHEAD_BYTES
        fore = ChannelAttrs(
            maxrequest_bytes=most,
            maxresponse_bytes=most,
            maxresponse_cached_bytes=_CACHED_BYTES,
            maxoperations=MAX_OPERATIONS,
            maxrequests=state.nr_slots,
        )
        args = CreateSessionArgs(clientid=state.clientid, sequenceid=sequenceid, fore=fore, machinename="(none)")
        result = await self._call(task, Nfs4Op.CREATE_SESSION, args, in_session=False)
        if result.status:
            return ("reset session", result.status)
        state.sessionid = result.sessionid
        state.session_sequenceid = sequenceid + 1
        state.table.reset(result.fore.maxrequests)
        return None

    async def complete(self, task: Task) -> Failure | None:
        """Say that all was claimed back that there was (nfs41_proc_reclaim_complete)."""
        result = await self._call(task, Nfs4Op.RECLAIM_COMPLETE, ReclaimCompleteArgs(), in_session=True)
        done = (NfsStat4.NFS4_OK, NfsStat4.NFS4ERR_COMPLETE_ALREADY)
        return None if result.status in done else ("reclaim reboot", result.status)

    async def reset_session(self, task: Task) -> Failure | None:
        """Make anew what was lost; the slots are empty (nfs4_reset_session, nfs4_reclaim_lease, nfs4_do_reclaim).

        Returns what could not be done, which is to be tried again.
        """
        state = self.state
        if state.session_reset:
            failed = await self._reset_session(task)
            if failed:
                return failed
        if state.lease_expired:
            failed = await self.establish(task) or await self._reclaim_opens(task)
            if failed:
                return failed
            # a server that does not take this waits out its grace, and that is all
            await self.complete(task)
            failed = await self._open_expired(task)
            if failed:
                return failed
            state.lease_expired = False
        return None

    async def _reset_session(self, task: Task) -> Failure | None:
        state = self.state
        state.session_reset = False
        args = DestroySessionArgs(sessionid=state.sessionid)
        result = await self._call(task, Nfs4Op.DESTROY_SESSION, args, in_session=False)
        if result.status in (NfsStat4.NFS4_OK, *SESSION_LOST):
            failed = await self._create_session(task, state.session_sequenceid)
            if failed and failed[1] == NfsStat4.NFS4ERR_STALE_CLIENTID:
                state.lease_expired = True
                return None
        else:
            failed = ("reset session", result.status)
        state.session_reset = failed is not None
        return failed

    async def _reclaim_opens(self, task: Task) -> Failure | None:
        """Claim back what was open before the restart, as long as there is a grace (nfs4_reclaim_reboot)."""
        for opened in self.state.opens.values():
            status = await self._open(task, opened, Claim.PREVIOUS)
            opened.reclaim_nograce = status == NfsStat4.NFS4ERR_NO_GRACE
            if status and not opened.reclaim_nograce:
                return ("reclaim reboot", status)
        return None

    async def _open_expired(self, task: Task) -> Failure | None:
        """Open anew what came too late for the grace (nfs4_reclaim_nograce)."""
        for opened in self.state.opens.values():
            if opened.reclaim_nograce:
                status = await self._open(task, opened, Claim.FH)
                if status:
                    return ("reclaim nograce", status)
                opened.reclaim_nograce = False
        return None

    async def _open(self, task: Task, opened: OpenState, claim: Claim) -> int:
        """Open a file again, by its handle, and return the status (nfs4_open_recover)."""
        args = OpenArgs(clientid=self.state.clientid, owner=OPEN_OWNER, claim=claim)
        before = ((Nfs4Op.PUTFH, PutFhArgs(fh=opened.fh)),)
        result = await self._call(task, Nfs4Op.OPEN, args, in_session=True, before=before)
        if not result.status:
            opened.stateid = result.stateid
        status: int = result.status
        return status

    async def _call(
        self,
        task: Task,
        number: Nfs4Op,
        args: Any,
        *,
        in_session: bool,
        before: tuple[tuple[int, Any], ...] = (),
    ) -> Any:
        """Make a call; return the result of the operation, or one that failed in its place."""
        call = Call4(operations=(*before, (number, args)), in_session=in_session, privileged=in_session)
        reply = await self.client.call_sync(task, compound(number.name), call)
        if reply is None or reply.result is None:
            return CompoundRes(status=-int(Errno.ENOMEM if reply is None else Errno.EIO))
        result: CompoundRes = reply.result
        return result.of(number) if not result.status else result
