"""The RPC client: what all calls of one mount share, and the two ways to make one.

Mirrors net/sunrpc/clnt.c of 6.1. An asynchronous call is handed to rpciod; a synchronous one is run by the caller, who
sleeps where a worker would leave. Either needs a ``struct rpc_task`` first, from a slab cache with a mempool of eight.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from netvm.host.backend import BackendContext
from netvm.mm.gfp import GFP_NOIO
from netvm.runtime.task import Resource, Task
from netvm.runtime.workqueue import Workqueue
from storage_backends.nfs.client.nfs_trace import NfsTrace
from storage_backends.nfs.client.pools import NfsPools, rpc_task_gfp_mask
from storage_backends.nfs.client.rpc_task import Done, RpcTask
from storage_backends.nfs.connection.client import NfsClientConnection, Reply
from storage_backends.nfs.connection.procedures import Procedure
from storage_backends.nfs.rpc import AuthSys

if TYPE_CHECKING:
    from storage_backends.nfs.client.transport import Transport

__all__ = ["CallOps", "RpcClient"]

XID_MASK: Final = 0xFFFFFFFF


class CallOps(Protocol):
    """``struct rpc_call_ops``: what a version of NFS does before a call is made and when it is answered.

    Version 3 does nothing; version 4.1 is :mod:`storage_backends.nfs.client.nfs4_proc`.
    """

    def prepare(self, rpc: RpcTask) -> bool:
        """Say whether a call may be made now; if not it sleeps, and asks again when it wakes (rpc_call_prepare)."""
        ...

    def encode(self, rpc: RpcTask) -> tuple[Procedure, Any]:
        """Return what goes over the wire."""
        ...

    async def done(self, rpc: RpcTask, task: Task) -> bool:
        """Take the answer; False if the call is to be made again, after its sleep if it has one (rpc_call_done)."""
        ...

    def needs(self, rpc: RpcTask) -> tuple[Resource | Task, ...]:
        """Say what a call waits for that sleeps on something of this version."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...


class RpcClient:
    """``struct rpc_clnt``."""

    def __init__(
        self,
        context: BackendContext,
        pools: NfsPools,
        *,
        name: str,
        server_needs: Callable[[int], tuple[Resource | Task, ...]],
    ) -> None:
        self.name = name
        self.server_name = "10.0.2.2"
        self.world = context.world
        self.stack = context.stack
        self.costs = context.stack.costs
        self.fixes = context.stack.fixes
        self.log = context.log
        self.pools = pools
        self.server_needs = server_needs
        """What a call waits for at the server, if that runs on this host."""
        pool = context.unbound.pool
        self.rpciod = Workqueue("rpciod", pool, mem_reclaim=True)
        self.xprtiod = Workqueue("xprtiod", pool, mem_reclaim=True)
        self.nfsiod = Workqueue("nfsiod", pool, mem_reclaim=True)
        self.connection = NfsClientConnection(AuthSys(machinename="(none)", gids=(0,)))
        self.tasks: dict[int, RpcTask] = {}
        """Calls that have their xid and are not over."""
        self.nr_swapping = 0
        """cl_swapper: swap files on this mount."""
        self.nr_failed = 0
        """Calls for which there was no memory at all."""
        self.xprt: Transport
        self.ops: CallOps | None = None
        """What the version of NFS adds to a call; version 3 adds nothing."""
        self.tracer: NfsTrace | None = None
        self._xid = context.world.seeds.stream("nfs.xid").below(XID_MASK)

    def start(self) -> None:
        """Make the rescuers of the three workqueues."""
        for queue in (self.rpciod, self.xprtiod, self.nfsiod):
            queue.start()

    def next_xid(self) -> int:
        """Return an xid that no other call has (xprt_alloc_xid)."""
        self._xid = (self._xid + 1) & XID_MASK
        return self._xid

    def swap_activate(self) -> None:
        """Let this mount be swapped over from now on (rpc_clnt_swap_activate, xs_enable_swap)."""
        self.nr_swapping += 1
        self.xprt.set_memalloc()

    async def call_async(
        self,
        task: Task,
        procedure: Procedure,
        args: object,
        *,
        nr_pages: int = 0,
        done: Done,
    ) -> RpcTask | None:
        """Begin a call; ``done(rpc, task)`` is called in nfsiod when it is over. None if there is no memory for it."""
        rpc = await self._new_task(task, procedure, args, nr_pages=nr_pages, done=done)
        if rpc is not None:
            self.rpciod.queue_work(rpc.item)
        return rpc

    async def call_sync(self, task: Task, procedure: Procedure, args: object) -> Reply | None:
        """Make a call and wait for its reply; None if there is no memory for it."""
        rpc = await self._new_task(task, procedure, args, nr_pages=0, done=None)
        if rpc is None:
            return None
        await rpc.run_sync(task)
        return rpc.reply

    async def _new_task(
        self,
        task: Task,
        procedure: Procedure,
        args: object,
        *,
        nr_pages: int,
        done: Done | None,
    ) -> RpcTask | None:
        if self.fixes.rpc_alloc_nowait:
            held = await self.pools.tasks.alloc(task, rpc_task_gfp_mask(task))
        else:
            held = await self.pools.tasks.wait_for(task, GFP_NOIO)
        if held is None:
            self.nr_failed += 1
            return None
        rpc = RpcTask(self, procedure, args, held=held, owner=task.number, nr_pages=nr_pages, done=done)
        if self.tracer is not None:
            self.tracer.request(task, rpc)
        return rpc

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self.tasks), self.xprt.digest(), self.ops.digest() if self.ops is not None else ())
