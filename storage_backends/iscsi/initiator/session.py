"""``/dev/sda`` over iSCSI: the session, its tasks, and what becomes of them when the connection fails.

Mirrors drivers/scsi/libiscsi.c and scsi_transport_iscsi.c of 6.1 as the block layer sees them. ``queue_rq_nowait``
(iscsi_queuecommand) only queues: it answers BLK_STS_RESOURCE while the session is not logged in, the target's command
window is shut, no task is free, or there is no memory for the request's scatter-gather list. One work item on a
WQ_MEM_RECLAIM queue (``iscsi_xmitworker``) sends, one PDU after another. Tasks and their R2Ts are preallocated.

**When the connection fails** (a reset, the end of the stream, a breach of the protocol, silence after a ping) the
session is FAILED: its tasks stay with it, new requests get BLK_STS_RESOURCE, and the recovery timer
(``replacement_timeout``) starts. iscsid is told by a netlink message, one sk_buff of GFP_ATOMIC; without memory for it
the kernel logs "gracefully ignored conn error" and the daemon is never told. A message that came from the reserve is
dropped at the daemon's socket, which is not a priority one. Once iscsid has logged in anew every task is sent again. If
the timer is first, all tasks and all new requests fail with BLK_STS_IOERR until a login succeeds after all.

**Liveness.** The connection's ping timer is a retry for the hang detector: where the target answers it changes nothing.

# MODEL: no error handler: a command is neither aborted nor timed out while the target answers pings. The recovery timer
# starts with the failure and not with the stop of the connection by ``iscsi_conn_cleanup_workq`` a moment later.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import numpy as np

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_NOSPC, BLK_STS_OK, BLK_STS_RESOURCE, Request, RequestQueue
from netvm.host.backend import BackendContext
from netvm.mm.frames import PfnArray
from netvm.mm.gfp import GFP_ATOMIC
from netvm.net.skb import Skb
from netvm.net.sock import TcpSock
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.workqueue import WorkItem
from netvm.units import NS_PER_S, PAGE_SIZE, SECTOR_SIZE
from storage_backends.iscsi.connection.facts import ConnectionFailed, InitiatorEvent, LoggedIn, TaskDone
from storage_backends.iscsi.connection.initiator import InitiatorConfig, InitiatorConnection
from storage_backends.iscsi.initiator.sg_pool import ScatterList, SgPools
from storage_backends.iscsi.initiator.tcp import IscsiTcpConn
from storage_backends.iscsi.login.keys import LoginOffer
from storage_backends.iscsi.messages.pdus import ScsiCommand
from storage_backends.iscsi.scsi import SPACE_ALLOCATION_FAILED, Status, pull_sense
from storage_backends.wire import Blocks

__all__ = ["IscsiSession", "SessionState", "login_offer"]

REPLACEMENT_TIMEOUT_S: Final = 120
"""node.session.timeo.replacement_timeout of iscsid.conf."""
_SECTORS_PER_PAGE: Final = PAGE_SIZE // SECTOR_SIZE


class SessionState(Enum):
    """Where the session stands (ISCSI_STATE_*)."""

    FREE = "not logged in yet"
    LOGGED_IN = "logged in"
    FAILED = "failed"
    RECOVERY_FAILED = "recovery failed"


class IscsiTask:
    """One request on its way (``struct iscsi_task``)."""

    __slots__ = ("is_sent", "pfns", "rq", "sg")

    def __init__(self, rq: Request, sg: ScatterList) -> None:
        self.rq = rq
        self.sg = sg
        self.pfns: PfnArray = np.array(rq.pfns, dtype=np.intp)
        self.is_sent = False
        """Its command PDU has left the queue."""


def login_offer(options: Any) -> LoginOffer:
    """Return what a ``[storage]`` table says of the login."""
    return LoginOffer(
        initial_r2t=options.initial_r2t,
        immediate_data=options.immediate_data,
        max_recv_data_length=options.max_recv_data_segment_bytes,
        max_burst_length=options.max_burst_bytes,
        first_burst_length=options.first_burst_bytes,
    )


class IscsiSession:
    """The block driver, and what the kernel keeps of its session."""

    blocking = False

    def __init__(self, context: BackendContext, server_tasks: Callable[[], list[Task]]) -> None:
        options = context.options
        self.name = "sda"
        self.context = context
        self.world = context.world
        self.stack = context.stack
        self.softirq = context.stack.softirq
        self.costs = context.stack.costs
        self.queue: RequestQueue
        self.state = SessionState.FREE
        self.conn: IscsiTcpConn | None = None
        self.tasks: dict[int, IscsiTask] = {}
        """By task tag, oldest first."""
        self.config = InitiatorConfig(
            offer=login_offer(options),
            noop_out_interval_ns=options.noop_interval_s * NS_PER_S,
            noop_out_timeout_ns=options.noop_timeout_s * NS_PER_S,
        )
        max_pages = max(1, options.max_sectors_kb * 1024 // PAGE_SIZE)
        self.sg_pools = SgPools(context.world, context.stack.pages, max_pages=max_pages)
        self.recovery_tmo_ns = (options.timeout_s or REPLACEMENT_TIMEOUT_S) * NS_PER_S
        self.xmit_work = WorkItem("iscsi_xmitworker", self.iscsi_xmitworker)
        self.events: list[Skb] = []
        """Netlink messages that iscsid has not read."""
        self.was_told = True
        """iscsid knows of the last failure."""
        self.daemon: Task | None = None
        self.daemon_wait = WaitQueue(context.world, Resource("work", "iscsid: netlink event", external=True))
        self._queue_depth = options.queue_depth
        self._server_tasks = server_tasks
        self._recovery: TimerHandle | None = None

    # -- requests -------------------------------------------------------------------------------------------------

    async def queue_rq(self, task: Task, rq: Request) -> int:  # noqa: ARG002  the driver's shape
        """Queue a request."""
        return self.queue_rq_nowait(rq)

    def queue_rq_nowait(self, rq: Request) -> int:
        """Queue a request (iscsi_queuecommand)."""
        if self.state is not SessionState.LOGGED_IN:
            if self.state is not SessionState.RECOVERY_FAILED:
                return BLK_STS_RESOURCE
            self._end(rq, BLK_STS_IOERR)
            self._pay()
            return BLK_STS_OK
        conn = self.conn
        assert conn is not None
        core = conn.core
        if len(self.tasks) >= self._queue_depth or not core.nr_free_tasks or not core.is_window_open:
            return BLK_STS_RESOURCE
        sg = self.sg_pools.try_alloc(self.world.current or self.softirq, rq.nr_pages)
        if sg is None:
            return BLK_STS_RESOURCE
        task = rq.cookie = IscsiTask(rq, sg)
        self._prepare(core, task)
        self.queue_xmit()
        return BLK_STS_OK

    def _prepare(self, core: InitiatorConnection, task: IscsiTask) -> None:
        """Give the connection a task to send."""
        rq = task.rq
        lba = rq.slot * _SECTORS_PER_PAGE
        if rq.write:
            itt = core.write(lba, Blocks.of(tuple(rq.versions)))
        else:
            itt = core.read(lba, rq.nr_pages * _SECTORS_PER_PAGE)
        self.tasks[itt] = task

    def _end(self, rq: Request, error: int) -> None:
        """A request is done, in softirq."""
        self.softirq.charge_ns += self.costs.complete_request
        self.queue.end_request(rq, error, self.softirq)

    def _pay(self) -> None:
        """Take what softirq has done from the CPU."""
        softirq = self.softirq
        if softirq.cpus is not None:
            softirq.cpus.steal(softirq.charge_ns)
        softirq.charge_ns = 0

    # -- sending --------------------------------------------------------------------------------------------------

    def queue_xmit(self) -> None:
        """Have the worker send what is there (iscsi_conn_queue_xmit)."""
        self.context.unbound.queue_work(self.xmit_work)

    async def iscsi_xmitworker(self, task: Task) -> None:
        """Send until nothing is left or the socket is full (iscsi_data_xmit)."""
        while (conn := self.conn) is not None and not conn.failed:
            if not conn.is_sending and not self._begin(conn):
                return
            if not await conn.iscsi_sw_tcp_pdu_xmit(task) and conn is self.conn:
                return
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    def _begin(self, conn: IscsiTcpConn) -> bool:
        """Take the next PDU; False if there is none."""
        pdu = conn.core.next_pdu()
        if pdu is None:
            return False
        task = self.tasks.get(pdu.message.itt)
        if task is not None and isinstance(pdu.message, ScsiCommand):
            task.is_sent = True
        conn.begin(pdu, task.pfns if task is not None and len(pdu.chunks) > 1 else None)
        return True

    def _send_what_came_up(self, conn: IscsiTcpConn) -> None:
        """Wake the worker if what was received, or the time, gave it something to send."""
        work = self.xmit_work
        if not (work.pending or work.running_on or conn.is_sending) and self._begin(conn):
            self.queue_xmit()

    # -- receiving ------------------------------------------------------------------------------------------------

    def data_ready(self) -> None:
        """Take what has arrived, in softirq."""
        conn = self.conn
        assert conn is not None
        for event in conn.receive():
            if isinstance(event, TaskDone):
                self._complete(event)
            else:
                self._take(conn, event)
        if not conn.failed:
            self._send_what_came_up(conn)
        self._pay()

    def _complete(self, done: TaskDone) -> None:
        """Complete a command (iscsi_complete_task)."""
        task = self.tasks.pop(done.itt)
        rq = task.rq
        error = _blk_status(done)
        if not rq.write and not error:
            payload = done.payload
            if isinstance(payload, Blocks) and payload.size_bytes == rq.nr_pages * PAGE_SIZE:
                rq.versions = list(payload.versions)
                self.softirq.charge_ns += self.costs.copy_page * rq.nr_pages
            else:
                error = BLK_STS_IOERR
        self.sg_pools.free(task.sg)
        self._end(rq, error)

    def _take(self, conn: IscsiTcpConn, event: InitiatorEvent) -> None:
        """Take what is not the end of a command."""
        if isinstance(event, LoggedIn):
            self._recv_pdu(conn)
        elif isinstance(event, ConnectionFailed):
            self.iscsi_conn_failure(conn, event.reason)

    def _recv_pdu(self, conn: IscsiTcpConn) -> None:
        """Hand the last Login Response to iscsid, which needs an sk_buff (iscsi_recv_pdu)."""
        skb = self._alloc_event()
        if skb is not None:
            self._deliver(skb)
            return
        self.context.log("connection1:0: can not deliver control PDU: OOM")
        self.iscsi_conn_failure(conn, "no memory to deliver a control PDU")

    # -- the connection, as iscsid manages it ---------------------------------------------------------------------

    def bind_conn(self, sock: TcpSock) -> IscsiTcpConn:
        """Put a connected socket under the session, and begin to log in."""
        core = InitiatorConnection(self.config, now_ns=self.world.now_ns)
        link = self.context.link
        conn = IscsiTcpConn(sock, core, uplink=link.up if link is not None else None, queue_xmit=self.queue_xmit)
        self.conn = conn
        conn.bind(self.data_ready, self._state_changed)
        core.login()
        self.queue_xmit()
        return conn

    def start_conn(self, conn: IscsiTcpConn) -> None:
        """Begin the full feature phase: send again what was outstanding (iscsi_conn_start)."""
        if self._recovery is not None:
            self.world.cancel(self._recovery)
            self._recovery = None
        if self.state is not SessionState.FREE:
            self.context.log(f"connection1:0 is operational after recovery, {len(self.tasks)} tasks are sent again")
        self.state = SessionState.LOGGED_IN
        tasks, self.tasks = list(self.tasks.values()), {}
        for task in tasks:
            task.is_sent = False
            self._prepare(conn.core, task)
        self.queue_xmit()
        self.queue.run_hw_queue(async_run=True)
        self._arm_ping(conn)

    def stop_conn(self) -> None:
        """Let go of the connection's socket, which is iscsid's to close."""
        if self.conn is not None and not self.conn.failed:
            self.conn.stop()
        self.conn = None

    def _state_changed(self) -> None:
        conn = self.conn
        if conn is not None and not conn.sock.established:
            self.iscsi_conn_failure(conn, "the TCP connection was reset or timed out")

    # -- failure --------------------------------------------------------------------------------------------------

    def iscsi_conn_failure(self, conn: IscsiTcpConn, reason: str) -> None:
        """The connection is of no further use."""
        if conn.failed:
            return
        conn.stop()
        self.context.log(f"connection1:0: detected conn error ({reason})")
        was_logged_in = self.state is SessionState.LOGGED_IN
        if was_logged_in:
            self.state = SessionState.FAILED
            self._recovery = self.world.call_after(
                self.world.wheel_ns(self.recovery_tmo_ns), self._session_recovery_timedout
            )
        skb = self._alloc_event()
        if skb is None:
            self.context.log("connection1:0: gracefully ignored conn error")
        is_told = skb is not None and self._deliver(skb)
        if was_logged_in:
            # of a failure in the login it would learn all the same, by its login_timeout
            self.was_told = is_told

    def _alloc_event(self) -> Skb | None:
        return self.stack.skbs.try_alloc_tx(self.softirq, GFP_ATOMIC, fclone=False)

    def _deliver(self, skb: Skb) -> bool:
        """Put a message into iscsid's netlink socket; False if it may not have one out of the reserve."""
        stack = self.stack
        if skb.pfmemalloc and stack.fixes.pfmemalloc_drop:
            stack.netstat.add("PFMemallocDrop")
            stack.skbs.kfree_skb(skb)
            return False
        self.events.append(skb)
        self.daemon_wait.wake_all()
        return True

    def read_events(self) -> int:
        """Read and free the messages to iscsid; return how many there were."""
        events, self.events = self.events, []
        for skb in events:
            self.stack.skbs.kfree_skb(skb)
        return len(events)

    def _session_recovery_timedout(self) -> None:
        """Nobody brought the session back in time: fail everything (session_recovery_timedout)."""
        self._recovery = None
        self.state = SessionState.RECOVERY_FAILED
        self.context.log(f"session1: session recovery timed out after {self.recovery_tmo_ns // NS_PER_S} secs")
        tasks, self.tasks = list(self.tasks.values()), {}
        for task in tasks:
            self.sg_pools.free(task.sg)
            self._end(task.rq, BLK_STS_IOERR)
        self._pay()

    def _arm_ping(self, conn: IscsiTcpConn) -> None:
        due_ns = conn.core.timer_ns()
        if due_ns is not None:
            self.world.call_after(
                self.world.wheel_ns(due_ns - self.world.now_ns),
                self._check_transport_timeouts,
                conn,
                kind=TimerKind.RETRY,
                site=f"{self.name}: NOP-Out",
            )

    def _check_transport_timeouts(self, conn: IscsiTcpConn) -> None:
        """Ping a silent target, or give it up; most of the time it was not silent (iscsi_check_transport_timeouts)."""
        if conn.failed or conn is not self.conn:
            return
        for event in conn.core.handle_timer(self.world.now_ns):
            self._take(conn, event)
        if not conn.failed:
            self._send_what_came_up(conn)
            self._arm_ping(conn)

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs(self, rq: Request) -> Provider:
        """Say what an outstanding request waits for."""
        name = f"{self.name}: {'WRITE' if rq.write else 'READ'} of {rq.nr_pages} pages at slot {rq.slot}"
        conn = self.conn
        if self.state is not SessionState.LOGGED_IN or conn is None:
            if not self.was_told:
                return Provider(name=f"{name}, session failed, iscsid was never told")
            needs = (self.daemon,) if self.daemon is not None else ()
            return Provider(name=f"{name}, session {self.state.value}, recovery by iscsid", needs=needs)
        if rq.number not in self.queue.outstanding:
            lacks = self._peer_needs() if not conn.core.is_window_open else (self.stack.pages.memory,)
            return Provider(name=f"{name}, refused by the driver", needs=lacks)
        task: IscsiTask = rq.cookie
        is_sending = conn.itt_sending is not None and self.tasks.get(conn.itt_sending) is task
        if is_sending and conn.waits_for_space:
            return Provider(name=f"{name}, sent in part, send buffer full", needs=self._peer_needs())
        if is_sending or not task.is_sent:
            return self._needs_worker(name, "being sent" if is_sending else "in the send queue")
        return Provider(name=f"{name}, sent, {self._reply_note()}", needs=self._peer_needs())

    def _needs_worker(self, name: str, how: str) -> Provider:
        worker = self.xmit_work.running_on
        if worker is not None and worker.task is not None:
            return Provider(name=f"{name}, {how} by {worker.task.comm}", needs=(worker.task,))
        if self.xmit_work.pending:
            return Provider(name=f"{name}, {how}, no worker yet", needs=(self.context.unbound.pool.needs_worker,))
        return Provider(name=f"{name}, {how}, the command window is shut", needs=self._peer_needs())

    def _reply_note(self) -> str:
        if self._server_tasks():
            return "served on this host"
        return "reception is blocked by memory" if self.stack.receive_blocked() is not None else "reply awaited"

    def _peer_needs(self) -> tuple[Resource | Task, ...]:
        """What an answer of the target needs on this host."""
        servers = self._server_tasks()
        if servers:
            return tuple(servers)
        blocked = self.stack.receive_blocked()
        return (blocked,) if blocked is not None else ()

    def target_provider(self) -> Provider:
        """Say what iscsid's own wait for the target's answer needs."""
        return Provider(name=f"the target: {self._reply_note()}", needs=self._peer_needs())

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        conn = self.conn
        sending = (conn.is_sending, conn.waits_for_space, conn.core.nr_free_tasks) if conn is not None else ()
        return (self.state.value, self.was_told, len(self.tasks), len(self.events), sending, self.sg_pools.digest())


def _blk_status(done: TaskDone) -> int:
    """Return how a command ended (scsi_io_completion_action, scsi_check_sense)."""
    if not done.response and done.status == Status.GOOD:
        return BLK_STS_OK
    is_full = done.status == Status.CHECK_CONDITION and pull_sense(done.sense) == SPACE_ALLOCATION_FAILED
    return BLK_STS_NOSPC if is_full else BLK_STS_IOERR
