"""A client's standing with its server in NFS version 4.1, and the thread that gets it back when it is lost.

Mirrors fs/nfs/nfs4state.c of 6.1. A client has an id, a session and open files, of which a server that was restarted
knows nothing. ``nfs4_state_manager`` makes them anew: it waits until the session's slots are empty, throws the session
away, says who it is, makes another session, claims its open files back, and lets everybody call again.

It is a thread, made when there is something to recover: whoever noticed asks kthreadd for it and waits. kthreadd needs
a stack, and may go into reclaim for it. Is the memory it finds there of this mount, and does it wait for it, then it
waits for a call that waits for the recovery, which waits for the thread: repairing the server or the network does not
help. With ``nfs4_manager_kept`` (5.18) the thread is made when a file of the mount begins to be swapped to, and stays.
The thread itself asks for memory, too; with ``nfs4_manager_nofs`` (5.18) it does not enter a file system for it, least
of all the one it recovers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from netvm.host.backend import BackendContext
from netvm.mm.gfp import PF_KTHREAD, PF_MEMALLOC_NOFS, GfpScope
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.units import NS_PER_S
from storage_backends.nfs.client.clnt import RpcClient
from storage_backends.nfs.client.nfs4_session import NFS4_DEF_SLOT_TABLE_SIZE, SlotTable4
from storage_backends.nfs.messages.nfs4 import NFS4_SESSIONID_SIZE, NFS4_VERIFIER_SIZE, StateId

if TYPE_CHECKING:
    from storage_backends.nfs.client.nfs4_recovery import Recovery
    from storage_backends.nfs.client.rpc_task import RpcTask

__all__ = ["Nfs4Client", "OpenState"]

_RETRY_NS: Final = NS_PER_S
"""ssleep(1) after a recovery that failed."""


@dataclass(slots=True)
class OpenState:
    """``struct nfs4_state``: a file that is open."""

    name: str
    fh: bytes
    stateid: StateId
    reclaim_nograce: bool = False
    """NFS_STATE_RECLAIM_NOGRACE: the grace is over; it is opened anew."""


class Nfs4Client:
    """``struct nfs_client``, as far as it has state at the server."""

    def __init__(self, context: BackendContext, client: RpcClient) -> None:
        self.client = client
        self.world = context.world
        self._cpus = context.cpus
        self._creator = context.unbound.pool.creator
        self.verifier = context.world.seeds.stream("nfs4.verifier").below(1 << 32).to_bytes(NFS4_VERIFIER_SIZE, "big")
        self.owner = b"Linux NFSv4.1 (none)"
        self.clientid = 0
        self.sessionid = bytes(NFS4_SESSIONID_SIZE)
        self.session_sequenceid = 0
        """Number of the next CREATE_SESSION."""
        self.table = SlotTable4()
        self.nr_slots = NFS4_DEF_SLOT_TABLE_SIZE
        self.opens: dict[bytes, OpenState] = {}
        """Open files by their handle."""
        self.recovery: Recovery
        """The calls that the manager makes."""
        self.session_reset = False
        """NFS4CLNT_SESSION_RESET: the server does not know the session."""
        self.lease_expired = False
        """NFS4CLNT_LEASE_EXPIRED: the server does not know the client."""
        self.running = False
        """NFS4CLNT_MANAGER_RUNNING: from when the thread is asked for until it is through."""
        self.nr_recoveries = 0
        self._available = False
        """NFS4CLNT_MANAGER_AVAILABLE: there is a thread, or one is being made."""
        self._run_manager = False
        self.manager: Task | None = None
        self._waiting: list[RpcTask] = []
        """cl_rpcwaitq: calls that the recovery is to set right."""
        self._idle = WaitQueue(self.world, Resource("work", "nfs4_run_state_manager: nothing to do", external=True))
        self._pause = WaitQueue(self.world, Resource("timer", "nfs4_state_manager: ssleep", external=True))
        self.slot_resource = Resource("request", "nfs4: session slots", self._slot_holders)
        self._drained = WaitQueue(self.world, self.slot_resource)

    # -- asking for it --------------------------------------------------------------------------------------------

    async def schedule(self, task: Task) -> None:
        """Have the state manager run, in a new thread if there is none (nfs4_schedule_state_manager)."""
        self._run_manager = True
        if self._available:
            self.running = self.running or len(self._idle) > 0
            self._idle.wake_all()
            return
        self._available = self.running = True
        await self._creator.kthread_create(task, self._comm)
        self.manager = self.world.spawn(self._comm, self.nfs4_run_state_manager, cpus=self._cpus, flags=PF_KTHREAD)

    async def enable_swap(self, task: Task) -> None:
        """A file of this mount is swapped to from now on: have the thread at hand (nfs4_enable_swap)."""
        if self.client.fixes.nfs4_manager_kept:
            await self.schedule(task)

    @property
    def _comm(self) -> str:
        return f"{self.client.server_name}-manager"

    def wait_for_recovery(self, rpc: "RpcTask") -> None:
        """Let a call sleep until the manager is through (rpc_sleep_on of cl_rpcwaitq)."""
        self._waiting.append(rpc)
        rpc.sleep_on("nfs4: the end of the recovery")

    def slot_freed(self) -> None:
        """Tell the manager that waits for an empty table (nfs4_slot_tbl_drain_complete)."""
        if self.table.draining and not self.table.used:
            self._drained.wake_all()

    # -- the thread -----------------------------------------------------------------------------------------------

    async def nfs4_run_state_manager(self, task: Task) -> None:
        """Recover what was lost; end then, or rest, if memory depends on this mount."""
        while True:
            self.running = True
            self._run_manager = False
            with GfpScope(task, PF_MEMALLOC_NOFS if self.client.fixes.nfs4_manager_nofs else 0):
                await self._state_manager(task)
            self.running = False
            waiting, self._waiting = self._waiting, []
            for rpc in waiting:
                rpc.wake_up()
            if self._run_manager:
                continue
            if not (self.client.nr_swapping and self.client.fixes.nfs4_manager_kept):
                break
            while not self._run_manager:
                await self._idle.wait(task)
        self._available = False
        self.manager = None

    async def _state_manager(self, task: Task) -> None:
        """Do what there is to do; if it fails leave it, after a second, to who calls next (nfs4_state_manager)."""
        while self.session_reset or self.lease_expired:
            self.table.draining = True
            while self.table.used:
                await self._drained.wait(task)
            failed = await self.recovery.reset_session(task)
            if failed:
                self.client.log(
                    f"NFS: state manager: {failed[0]} failed on NFSv4 server {self.client.server_name} "
                    f"with error {failed[1]}"
                )
                await self._pause.wait(task, timeout_ns=_RETRY_NS)
                break
            self.nr_recoveries += 1
        if self.table.draining:
            self.table.end_drain()

    # -- looking in -----------------------------------------------------------------------------------------------

    def _slot_holders(self) -> list[Task | Provider]:
        return [rpc.provider() for rpc in self.table.used.values()]

    def needs(self) -> tuple[Resource | Task, ...]:
        """Say what the recovery waits for: the thread, or whoever makes it."""
        if self.manager is not None:
            return (self.manager,)
        return (self._creator.done,) if self._available else ()

    def notes(self) -> list[str]:
        """Tell how often state was made anew, and of a recovery that is not over."""
        told = []
        if self.nr_recoveries:
            told.append(f"{self.nr_recoveries} times the state manager made the session with the server anew")
        if self.running:
            nr = len(self._waiting) + self.table.nr_waiting
            where = "is there" if self.manager is not None else "is being made"
            told.append(f"{nr} calls sleep until the state manager, whose thread {where}, has made the session anew")
        return told

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        table = self.table
        return (table.draining, table.nr_waiting, len(table.used), self.running, self.nr_recoveries, self.clientid)
