"""The kernel's NBD client under memory pressure: sending from kblockd, receiving in a worker.

Mirrors drivers/block/nbd.c of 6.1. ``queue_rq`` runs in the kblockd worker, one request at a time under the socket's
lock: 28 bytes of header with MSG_MORE, then one sendmsg a page. Each goes through ``sock_xmit``: a PF_MEMALLOC scope
around a send whose mask is ``GFP_NOIO | __GFP_MEMALLOC``. So the sender never reclaims, takes from the reserve
without looking at the watermarks, and waits inside TCP when even that fails. Replies are read by ``recv_work``,
exactly 16 bytes and then the data, and completed there.

Without the fix ``memalloc_sockets`` the scope and the mask bit are missing: the sender asks with plain GFP_NOIO, enters
direct reclaim itself, may not write anonymous pages there, and goes round for ever.

A connection that dies fails its requests: there is no second one (``Dead connection, failed to find a fallback``). With
a request timeout it dies of a request that is not answered in time; without one, as is usual, requests wait for ever.
"""

from typing import Any

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK, Request, RequestQueue, errno_to_blk_status
from netvm.errors import UsageError
from netvm.host.backend import BackendContext
from netvm.mm.gfp import GFP_MEMALLOC, GFP_NOIO, PF_KTHREAD, PF_MEMALLOC, GfpScope
from netvm.net.sock import TcpSock
from netvm.net.wire import content_size
from netvm.runtime.task import Provider, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.wait import Semaphore
from netvm.runtime.workqueue import PF_WQ_WORKER
from netvm.units import JIFFY_NS, NS_PER_S, PAGE_SIZE
from storage_backends.nbd.connection.client import NbdClientConnection, Reply
from storage_backends.nbd.state import Negotiated
from storage_backends.wire import Blocks, Chunk

__all__ = ["NbdClient"]


class NbdClient:
    """``/dev/nbd0``: a block driver on a socket."""

    blocking = True

    def __init__(self, context: BackendContext, sock: TcpSock, server_tasks: "Any") -> None:
        self.name = "nbd0"
        self.context = context
        self.world = context.world
        self.sock = sock
        self.costs = context.stack.costs
        self.connection = NbdClientConnection()
        self.queue: RequestQueue
        self.dead = False
        self._server_tasks = server_tasks
        self._tx_lock = Semaphore(context.world, "nbd0 tx_lock")
        self._sending: dict[int, Task] = {}
        self._receiver: Task | None = None
        self._timeout_ns = context.options.timeout_s * NS_PER_S
        self._timeout: TimerHandle | None = None

    # -- bringing it up -------------------------------------------------------------------------------------------

    async def negotiate(self, task: Task) -> None:
        """Connect and shake hands, as nbd-client does, then make the socket a priority one (nbd_start_device)."""
        sock = self.sock
        sock.connect()
        while True:
            content = await sock.recvmsg(task, max(self.connection.bytes_wanted, 1), wait_all=True)
            if not content:
                raise UsageError("storage: the NBD server closed the connection before it was set up")
            for chunk in content:
                for event in self.connection.receive(chunk):
                    if isinstance(event, Negotiated):
                        self._start_device()
                        return
            say = self.connection.chunks_to_send()
            if say:
                await sock.sendmsg(task, say, more=False)

    def _start_device(self) -> None:
        self.sock.allocation = GFP_NOIO
        self.sock.sk_set_memalloc()
        self.sock.state_change = self._state_changed
        self._receiver = self.world.spawn(
            "kworker/u3:0", self.recv_work, cpus=self.context.cpus, flags=PF_KTHREAD | PF_WQ_WORKER, nice=-20
        )

    def _state_changed(self) -> None:
        if not self.sock.established and not self.dead:
            self._nbd_dead()

    # -- sending --------------------------------------------------------------------------------------------------

    async def queue_rq(self, task: Task, rq: Request) -> int:
        """Send one request (nbd_queue_rq, nbd_send_cmd)."""
        await self._tx_lock.down(task)
        self._sending[rq.number] = task
        self._arm_timeout()
        try:
            if not self.dead and await self.nbd_send_cmd(task, rq):
                self._nbd_dead()
        finally:
            self._sending.pop(rq.number, None)
            self._tx_lock.up(task)
        if self.dead and rq.number in self.queue.outstanding:
            self.queue.end_request(rq, BLK_STS_IOERR, task)
        return BLK_STS_OK

    def queue_rq_nowait(self, rq: Request) -> int:
        """Never called: the driver is a blocking one."""
        raise AssertionError(f"{self.name} may sleep to send {rq}")

    async def nbd_send_cmd(self, task: Task, rq: Request) -> int:
        """Send header and pages; 0 or a negative errno."""
        offset = rq.slot * PAGE_SIZE
        if not rq.write:
            return await self.sock_xmit(
                task, self.connection.read(rq.number, offset, rq.nr_pages * PAGE_SIZE), more=False, nr_calls=1
            )
        header, payload = self.connection.write(rq.number, offset, Blocks.of(tuple(rq.versions)))
        error = await self.sock_xmit(task, [header], more=True, nr_calls=1)
        return error or await self.sock_xmit(task, [payload], more=False, nr_calls=rq.nr_pages)

    async def sock_xmit(self, task: Task, chunks: list[Chunk], *, more: bool, nr_calls: int) -> int:
        """Send through the socket, with the reserve if it is a priority one (__sock_xmit)."""
        sock = self.sock
        if sock.memalloc:
            sock.allocation = GFP_NOIO | GFP_MEMALLOC
            with GfpScope(task, PF_MEMALLOC):
                return await sock.sendmsg(task, chunks, more=more, nr_calls=nr_calls)
        sock.allocation = GFP_NOIO
        if not self.context.transmit_inherits_memalloc:
            task.flags &= ~PF_MEMALLOC
        return await sock.sendmsg(task, chunks, more=more, nr_calls=nr_calls)

    # -- receiving ------------------------------------------------------------------------------------------------

    async def recv_work(self, task: Task) -> None:
        """Read replies for ever and complete their requests (recv_work)."""
        connection = self.connection
        while True:
            want = connection.bytes_wanted
            content = await self._receive(task, want)
            if sum(content_size(chunk) for chunk in content) < want:
                self._nbd_dead()
                return
            for chunk in content:
                for event in connection.receive(chunk):
                    if isinstance(event, Reply):
                        self._complete(task, event)
            if want > PAGE_SIZE:
                # one recvmsg for each page of the data
                task.charge_ns += self.costs.recvmsg * (want // PAGE_SIZE - 1)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    async def _receive(self, task: Task, want: int) -> list[Chunk]:
        if self.sock.memalloc:
            with GfpScope(task, PF_MEMALLOC):
                return await self.sock.recvmsg(task, want, wait_all=True)
        return await self.sock.recvmsg(task, want, wait_all=True)

    def _complete(self, task: Task, reply: Reply) -> None:
        rq = self.queue.outstanding.get(reply.cookie)
        if rq is None:
            return
        task.charge_ns += self.costs.complete_request
        if reply.payload is not None:
            assert isinstance(reply.payload, Blocks)
            rq.versions = list(reply.payload.versions)
        self.queue.end_request(rq, errno_to_blk_status(reply.error), task)

    def _arm_timeout(self) -> None:
        """See to it that somebody looks when the oldest request is due (blk_add_timer)."""
        if not self._timeout_ns or (self._timeout is not None and self.world.is_pending(self._timeout)):
            return
        oldest_ns = min((rq.started_ns for rq in self.queue.outstanding.values()), default=None)
        if oldest_ns is not None:
            self._timeout = self.world.call_after(
                self.world.wheel_ns(oldest_ns + self._timeout_ns - self.world.now_ns),
                self.nbd_xmit_timeout,
                kind=TimerKind.RETRY,
                site=f"{self.name}: request timeout",
            )

    def nbd_xmit_timeout(self) -> None:
        """Give the connection up if a request has waited too long; most of the time none has (nbd_xmit_timeout)."""
        limit_ns = self.world.now_ns - self._timeout_ns
        if any(rq.started_ns <= limit_ns for rq in self.queue.outstanding.values()):
            self.context.log("block nbd0: Connection timed out")
            self._nbd_dead()
        else:
            self._arm_timeout()

    def _nbd_dead(self) -> None:
        """The connection is gone and there is no other: fail what is outstanding."""
        if self.dead:
            return
        self.dead = True
        self.context.log("block nbd0: Dead connection, failed to find a fallback")
        softirq = self.context.stack.softirq
        for rq in list(self.queue.outstanding.values()):
            if rq.number not in self._sending:
                self.queue.end_request(rq, BLK_STS_IOERR, softirq)
        self._sock_shutdown()

    def _sock_shutdown(self) -> None:
        """Close the socket; that takes its lock, which a sender keeps while it allocates (sock_shutdown)."""
        if self.sock.owner is None:
            self.sock.abort()
        else:
            site = f"{self.name}: sock_shutdown"
            self.world.call_after(JIFFY_NS, self._sock_shutdown, kind=TimerKind.RETRY, site=site)

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs(self, rq: Request) -> Provider:
        """Say what an outstanding request waits for."""
        pages = f"{'WRITE' if rq.write else 'READ'} of {rq.nr_pages} pages at slot {rq.slot}"
        sender = self._sending.get(rq.number)
        if sender is not None:
            return Provider(name=f"{self.name}: {pages}, being sent by {sender.comm}", needs=(sender,))
        servers = self._server_tasks()
        if servers:
            return Provider(name=f"{self.name}: {pages}, sent, served on this host", needs=tuple(servers))
        blocked = self.context.stack.receive_blocked()
        needs = (blocked,) if blocked is not None else ()
        return Provider(name=f"{self.name}: {pages}, sent, reply awaited", needs=needs)

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.dead, len(self._sending), self.connection.cookies_in_flight)
