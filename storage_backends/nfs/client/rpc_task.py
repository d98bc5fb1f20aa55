"""One RPC task: a call on its way, step by step, and what it sleeps for.

Mirrors net/sunrpc/sched.c and clnt.c of 6.1. An asynchronous task is a work item of ``rpciod``: a worker runs its steps
(``call_reserve``, ``call_allocate``, ``call_encode``, ``call_connect``, ``call_transmit``, ``call_status``) until one
has to wait; then the worker is free for others, and whatever is waited for queues the task again. Only memory is waited
for with the worker held, as far as the mask lets it. When the call is over, ``nfsiod`` runs its release.

The vector of a call's pages is had before the transport is asked for. Before 5.18 (``rpc_bvec_before_lock``) who sent
the call allocated it, with GFP_KERNEL and the transport's lock held; before 5.1 pages were sent one by one, without.

A task of a client that is swapped over runs with PF_MEMALLOC while it runs (``RPC_IS_SWAPPER``); without the fix
``rpc_swap_memalloc`` it does not and relies on its masks.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from netvm.mm.gfp import GFP_MEMALLOC, GFP_NOFS, GFP_NOWAIT, GFP_NOWARN, PF_MEMALLOC, PF_MEMALLOC_NOFS, GfpScope
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.workqueue import WorkItem
from netvm.units import NS_PER_S
from storage_backends.nfs.client.pools import BIO_VEC_BYTES, PoolObject, rpc_task_gfp_mask
from storage_backends.nfs.client.transport import NO_MEMORY
from storage_backends.nfs.connection.client import Reply
from storage_backends.nfs.connection.procedures import READ, Procedure
from storage_backends.nfs.connection.timeouts import RetransmitTimer

if TYPE_CHECKING:
    from storage_backends.nfs.client.clnt import RpcClient

__all__ = ["Done", "RpcTask"]

RESERVE_DELAY_NS: Final = NS_PER_S // 4
"""HZ >> 2: a task without a request slot's memory, or without the socket's."""
ALLOCATE_DELAY_NS: Final = NS_PER_S // 16
"""HZ >> 4: a task without a buffer."""
RPC_RQST_BYTES: Final = 488

Step = Callable[["RpcTask", Task], Awaitable[None]]
Done = Callable[["RpcTask", Task], Awaitable[None] | None]
"""What who made a call does when it is over; returns what must be waited for, if anything."""


class RpcTask:
    """``struct rpc_task``."""

    __slots__ = (
        "action",
        "args",
        "buffer",
        "bvec",
        "client",
        "done",
        "item",
        "name",
        "need_xmit",
        "nr_pages",
        "nr_sent",
        "object",
        "owner",
        "procedure",
        "queued",
        "release",
        "reply",
        "retransmit",
        "rqst",
        "running_on",
        "sleeps_on",
        "status",
        "swapper",
        "timer",
        "waiter",
        "xid",
    )

    def __init__(
        self,
        client: "RpcClient",
        procedure: Procedure,
        args: object,
        *,
        held: PoolObject,
        owner: int,
        nr_pages: int,
        done: "Done | None",
    ) -> None:
        self.client = client
        self.procedure = procedure
        self.args = args
        self.object = held
        """Its memory."""
        held.holder = self.provider
        self.owner = owner
        """Whose call it is (tk_owner): callers take turns on the wire."""
        self.nr_pages = nr_pages
        self.done = done
        """Called by nfsiod when it is over; None for a call that somebody waits for."""
        self.xid = 0
        self.nr_sent = 0
        """How often it went out whole under this xid (rq_ntrans)."""
        self.name = procedure.name
        self.action: Step | None = RpcTask.call_reserve if client.ops is None else RpcTask.call_prepare
        self.status = 0
        self.reply: Reply | None = None
        self.queued = False
        """It sleeps: on ``sleeps_on``."""
        self.sleeps_on = ""
        self.swapper = client.nr_swapping > 0
        self.need_xmit = False
        self.rqst = self.bvec = -1
        self.buffer: PoolObject | None = None
        self.timer: TimerHandle | None = None
        self.retransmit: RetransmitTimer | None = None
        self.running_on: Task | None = None
        self.item = WorkItem("rpc_async_schedule", self.run)
        self.release = WorkItem("rpc_async_release", self.rpc_release)
        self.waiter: WaitQueue | None = None
        if done is None:
            resource = Resource("reply", f"{client.name}: {self.name}", lambda: [self.provider()])
            self.waiter = WaitQueue(client.world, resource)

    # -- running --------------------------------------------------------------------------------------------------

    async def run(self, task: Task) -> None:
        """Run steps until one must wait (rpc_async_schedule)."""
        with GfpScope(task, PF_MEMALLOC_NOFS):
            await self._execute(task)

    async def run_sync(self, task: Task) -> None:
        """Run the whole call in the caller's context (rpc_execute of a synchronous task)."""
        assert self.waiter is not None
        with GfpScope(task, PF_MEMALLOC_NOFS):
            await self._execute(task)
            while self.action is not None:
                if self.queued:
                    await self.waiter.wait(task)
                else:
                    await self._execute(task)

    async def _execute(self, task: Task) -> None:
        """Do one step after another (__rpc_execute)."""
        client = self.client
        saved = task.flags & PF_MEMALLOC
        self.running_on = task
        while self.action is not None:
            if client.fixes.rpc_swap_memalloc and (self.swapper or client.xprt.needs_memalloc(self)):
                task.flags |= PF_MEMALLOC
            await self.action(self, task)
            if self.queued:
                break
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        self.running_on = None
        task.flags = task.flags & ~PF_MEMALLOC | saved
        if self.action is None:
            self._rpc_release_task(task)

    def sleep_on(self, what: str) -> None:
        """Go to sleep on a wait queue (rpc_sleep_on); the worker is free."""
        assert not self.queued
        self.queued = True
        self.sleeps_on = what
        if self.client.tracer is not None:
            self.client.tracer.sleep(self, what)

    def wake_up(self, status: int = 0) -> None:
        """Wake from a wait queue (rpc_wake_up_queued_task): the task runs again on rpciod."""
        if not self.queued:
            return
        self.queued = False
        if self.client.tracer is not None:
            self.client.tracer.wakeup(self, self.sleeps_on, status)
        self.sleeps_on = ""
        self.status = status
        self._disarm()
        if self.waiter is not None:
            self.waiter.wake_all()
        else:
            self.client.rpciod.queue_work(self.item)

    def delay(self, delay_ns: int, why: str) -> None:
        """Sleep for a time (rpc_delay)."""
        self.sleep_on(why)
        self.timer = self.client.world.call_after(
            self.client.world.wheel_ns(delay_ns), self.wake_up, kind=TimerKind.RETRY, site=f"{self.client.name}: {why}"
        )

    def _disarm(self) -> None:
        if self.timer is not None:
            self.client.world.cancel(self.timer)
            self.timer = None

    # -- steps ----------------------------------------------------------------------------------------------------

    async def call_prepare(self, _task: Task) -> None:
        """Have what the version of NFS asks for first (rpc_prepare_task)."""
        assert self.client.ops is not None
        if self.client.ops.prepare(self):
            self.action = RpcTask.call_reserve

    async def call_reserve(self, task: Task) -> None:
        """Have a request slot (xprt_alloc_slot)."""
        slots = self.client.xprt.slots
        if not slots.may_have_one():
            slots.backlog.append(self)
            self.sleep_on("xprt backlog: a request slot")
            return
        if not slots.take_spare():
            self.rqst = await self.client.pools.kmalloc(RPC_RQST_BYTES).alloc(task, self._gfp(task))
            if self.rqst < 0:
                slots.nr_taken -= 1
                self.delay(RESERVE_DELAY_NS, "rpc_delay: no memory for a request slot")
                return
        self.xid = self.client.next_xid()
        self.nr_sent = 0
        self.client.tasks[self.xid] = self
        self.action = RpcTask.call_allocate

    async def call_allocate(self, task: Task) -> None:
        """Have a buffer for the call's and the reply's headers (rpc_malloc)."""
        buffers = self.client.pools.buffers
        if self.client.fixes.rpc_alloc_nowait:
            self.buffer = await buffers.alloc(task, self._gfp(task))
        elif self.swapper:
            self.buffer = buffers.try_alloc(task, GFP_NOWAIT | GFP_NOWARN | GFP_MEMALLOC)
        else:
            self.buffer = await buffers.wait_for(task, GFP_NOFS)
        if self.buffer is None:
            self.delay(ALLOCATE_DELAY_NS, "rpc_delay: no memory for an RPC buffer")
            return
        self.buffer.holder = self.provider
        self.action = RpcTask.call_encode

    async def call_encode(self, task: Task) -> None:
        """Encode, have the vector of the data's pages, and queue for transmission."""
        if not self.bvec_under_lock and not await self.alloc_bvec(task, self._gfp(task)):
            self.delay(ALLOCATE_DELAY_NS, "rpc_delay: no memory for a bio_vec array")
            return
        ops = self.client.ops
        procedure, args = (self.procedure, self.args) if ops is None else ops.encode(self)
        self.client.connection.call(self.xid, procedure, args)
        self.client.xprt.enqueue(self)
        self.action = RpcTask.call_connect

    @property
    def bvec_under_lock(self) -> bool:
        """Whether the vector is asked for by who sends it, with the transport's lock held."""
        return not self.client.fixes.rpc_bvec_before_lock and self.procedure is not READ

    async def alloc_bvec(self, task: Task, gfp: int) -> bool:
        """Have the vector that sendmsg or recvmsg walks; False if there is no memory for it (xdr_alloc_bvec)."""
        if not self.nr_pages or self.bvec >= 0 or not self.client.fixes.rpc_sends_bvec:
            return True
        self.bvec = await self.client.pools.kmalloc(self.nr_pages * BIO_VEC_BYTES).alloc(task, gfp)
        return self.bvec >= 0

    async def call_connect(self, _task: Task) -> None:
        """Make sure there is a connection."""
        xprt = self.client.xprt
        if xprt.is_connected:
            self.action = RpcTask.call_transmit
        else:
            xprt.connect(self)

    async def call_transmit(self, task: Task) -> None:
        """Send what is queued, our own call with it."""
        xprt = self.client.xprt
        self.action = RpcTask.call_transmit_status
        if self.need_xmit:
            if not xprt.lock_write(self):
                return
            self.status = 0
            if self.client.fixes.rpc_swap_memalloc and self.client.nr_swapping:
                task.flags |= PF_MEMALLOC
            if xprt.is_connected:
                await xprt.transmit(task, self)
            else:
                self.status = -1
        # also where another has sent it meanwhile: the lock may have come to a call that needs it no more
        xprt.release_write(self)

    async def call_transmit_status(self, _task: Task) -> None:
        """Wait for the reply, or go back to where the sending failed."""
        if self._is_answered():
            self.action = None if self.client.ops is None else RpcTask.call_done
        elif not self.need_xmit:
            self.action = RpcTask.call_status
            self.client.xprt.wait_receive(self)
        elif self.status and not self.client.xprt.is_connected:
            self.action = RpcTask.call_connect
        else:
            self.action = RpcTask.call_transmit
            if self.status == NO_MEMORY:
                self.delay(RESERVE_DELAY_NS, "rpc_delay: no memory for the socket's packets")

    def _is_answered(self) -> bool:
        """Whether the reply has come and no part of the call is still to be sent."""
        return self.reply is not None and (not self.need_xmit or self.client.xprt.dequeue(self))

    async def call_status(self, _task: Task) -> None:
        """The reply has come, or a time-out, or the end of the connection."""
        if self._is_answered():
            self.action = None if self.client.ops is None else RpcTask.call_done
        elif self.need_xmit:
            self.action = RpcTask.call_connect
        else:
            self.client.xprt.wait_receive(self)

    async def call_done(self, task: Task) -> None:
        """Hand the answer to the version of NFS, which may have the call made again (rpc_exit_task)."""
        assert self.client.ops is not None
        if await self.client.ops.done(self, task):
            self.action = None
            return
        self._xprt_release()
        self.reply = self.retransmit = None
        self.status = 0
        self.action = RpcTask.call_prepare

    def _gfp(self, task: Task) -> int:
        if self.client.fixes.rpc_alloc_nowait:
            return rpc_task_gfp_mask(task)
        if self.swapper:
            return GFP_NOWAIT | GFP_NOWARN | GFP_MEMALLOC
        return GFP_NOWAIT | GFP_NOWARN if self.waiter is None else GFP_NOFS

    # -- the end --------------------------------------------------------------------------------------------------

    def _rpc_release_task(self, task: Task) -> None:
        """Give back what the call took; nfsiod does the rest (rpc_release_resources_task, rpc_put_task)."""
        client = self.client
        pools = client.pools
        task.charge_ns += client.costs.complete_request
        if client.tracer is not None:
            client.tracer.done(task, self)
        self._xprt_release()
        if self.done is not None:
            client.nfsiod.queue_work(self.release)
        else:
            pools.tasks.free(self.object)

    def _xprt_release(self) -> None:
        """Give back what one try took: request slot, buffer and vector (xprt_release)."""
        client = self.client
        pools = client.pools
        client.tasks.pop(self.xid, None)
        if self.bvec >= 0:
            pools.kmalloc(self.nr_pages * BIO_VEC_BYTES).free(self.bvec)
        assert self.buffer is not None
        pools.buffers.free(self.buffer)
        if self.rqst >= 0:
            pools.kmalloc(RPC_RQST_BYTES).free(self.rqst)
        spare = self.rqst < 0
        self.bvec = self.rqst = -1
        self.buffer = None
        client.xprt.release_write(self)
        client.xprt.release_request(self)
        client.xprt.slots.give_back(spare=spare)

    async def rpc_release(self, task: Task) -> None:
        """Tell who asked (rpc_async_release)."""
        assert self.done is not None
        self.running_on = task
        with GfpScope(task, PF_MEMALLOC_NOFS if self.client.fixes.rpc_send_nofs else 0):
            more = self.done(self, task)
            if more is not None:
                await more
        self.running_on = None
        self.client.pools.tasks.free(self.object)

    # -- looking in -----------------------------------------------------------------------------------------------

    def provider(self) -> Provider:
        """Say what this call waits for."""
        what = f"{self.client.name}: {self.name} {self.xid:#010x}"
        if self.running_on is not None:
            doing = "run" if self.action is not None else "over, released"
            return Provider(name=f"{what}, {doing} by {self.running_on.comm}", needs=(self.running_on,))
        for item, queue in ((self.item, self.client.rpciod), (self.release, self.client.nfsiod)):
            if item.pending:
                return Provider(name=f"{what}, queued on {queue.name}", needs=(queue.pool.needs_worker,))
        if self.queued:
            needs = self.client.xprt.needs(self)
            if self.client.ops is not None and self.sleeps_on.startswith("nfs4"):
                needs = self.client.ops.needs(self)
            again = f", sent {self.nr_sent} times" if self.nr_sent > 1 else ""
            return Provider(name=f"{what}, asleep: {self.sleeps_on}{again}", needs=needs)
        return Provider(name=what)
