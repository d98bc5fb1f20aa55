"""iscsid: the daemon that makes the session's connections, and makes them again when one has failed.

Mirrors usr/initiator.c of open-iscsi. A connection begins as an ordinary socket: iscsid asks for it with GFP_KERNEL and
may end up in direct reclaim, waiting for the very device whose connection it should bring back; and until the kernel
binds the connected socket it is no priority one, so a SYN-ACK that arrives in reserve memory is dropped. Its own memory
is locked. With the fix ``io_flusher_iscsid`` it runs with PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, so that its reclaim
never waits for its own device.

After a failure it waits DefaultTime2Wait, closes the old socket, connects, binds, logs in and starts the session. One
timer, ``login_timeout``, is for all of that from the connect on. When it ends an attempt, or the login fails, the next
follows at once; when there was no memory for the socket or the connection was refused, in three seconds. Once the
session has existed that goes on for ever, before for as long as 8 timeouts (``initial_login_retry_max``).

# MODEL: what a new connection takes (struct socket, sock, inode, file and dentry, the netlink requests to bind, to set
# parameters and to start) is a fixed number of fresh pages, held as long as the connection; the daemon's own work costs
# no CPU time.
"""

from collections.abc import Callable
from typing import Final

from netvm.errors import UsageError
from netvm.host.backend import BackendContext
from netvm.mm.gfp import GFP_KERNEL, PF_LOCAL_THROTTLE, PF_MEMALLOC_NOIO
from netvm.net.sock import TcpSock
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.units import NS_PER_MS, NS_PER_S
from storage_backends.iscsi.initiator.session import IscsiSession, SessionState

__all__ = ["Iscsid"]

LOGIN_TIMEOUT_NS: Final = 15 * NS_PER_S
INITIAL_LOGIN_RETRY_MAX: Final = 8
REOPEN_DELAY_NS: Final = 3 * NS_PER_S
"""ISCSI_CONN_ERR_REOPEN_DELAY."""
CONN_POLL_NS: Final = NS_PER_MS
"""How long one look whether the socket is connected takes (session_conn_poll)."""
CONN_POLL_EVERY_NS: Final = NS_PER_S
CONNECTION_PAGES: Final = 2


class Iscsid:
    """The daemon."""

    def __init__(self, context: BackendContext, session: IscsiSession, open_socket: Callable[[], TcpSock]) -> None:
        self.world = context.world
        self.context = context
        self.session = session
        self.task: Task | None = None
        self.gave_up = False
        self._open_socket = open_socket
        self._sock: TcpSock | None = None
        self._pages: list[int] = []
        self._owner = context.stack.pages.ledger.owner("iscsid:connection")
        self._pause = Resource("timer", "iscsid: delay before it reconnects", external=True)
        self._again = Resource("reply", "iscsid: delay before it tries again", lambda: [session.target_provider()])
        self._answer = Resource("reply", "iscsid: an answer of the target", lambda: [session.target_provider()])
        daemon = Resource("work", f"{session.name}: logged in by iscsid", lambda: [self.task] if self.task else [])
        self._up = WaitQueue(context.world, daemon)

    def start(self) -> None:
        """Start the daemon."""
        flags = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE if self.context.stack.fixes.io_flusher_iscsid else 0
        self.task = self.world.spawn("iscsid", self.event_loop, cpus=self.context.cpus, flags=flags)
        self.session.daemon = self.task

    async def wait_for_login(self, task: Task) -> None:
        """Sleep until the session is logged in. Raises UsageError if iscsid gives up."""
        while self.session.state is not SessionState.LOGGED_IN:
            if self.gave_up:
                raise UsageError("storage: iscsid could not log in to the target")
            await self._up.wait(task)

    async def event_loop(self, task: Task) -> None:
        """Log in, then see to each failure the kernel tells of."""
        session = self.session
        give_up_ns = self.world.now_ns + INITIAL_LOGIN_RETRY_MAX * LOGIN_TIMEOUT_NS
        while (delay_ns := await self.session_conn_reopen(task)) is not None:
            if self.world.now_ns >= give_up_ns:
                self.gave_up = True
                self._up.wake_all()
                return
            await self._wait_before_retry(task, delay_ns)
        self._up.wake_all()
        while True:
            while not session.read_events():
                await session.daemon_wait.wait(task)
            parameters = session.conn.core.parameters if session.conn is not None else None
            time2wait_ns = parameters.default_time2wait * NS_PER_S if parameters is not None else 0
            self._ep_disconnect()
            await self.world.sleep_ns(task, time2wait_ns, self._pause, kind=TimerKind.PROGRESS)
            while (delay_ns := await self.session_conn_reopen(task)) is not None:
                await self._wait_before_retry(task, delay_ns)

    async def _wait_before_retry(self, task: Task, delay_ns: int) -> None:
        """Sleep: the last attempt came to nothing, so the next is a retry, and waits for what that one waited for."""
        if delay_ns:
            await self.world.sleep_ns(task, delay_ns, self._again, kind=TimerKind.RETRY)

    async def session_conn_reopen(self, task: Task) -> int | None:
        """Make a connection and log in on it; None if the session is up, else how long to wait before the next."""
        session = self.session
        self._ep_disconnect()
        sock = await self._ep_connect(task)
        if sock is None:
            return REOPEN_DELAY_NS
        deadline_ns = self.world.now_ns + LOGIN_TIMEOUT_NS
        await self._ep_poll(task, sock, deadline_ns)
        if not sock.established:
            return REOPEN_DELAY_NS if sock.eof else 0
        session.read_events()
        conn = session.bind_conn(sock)
        await self._wait_until(task, lambda: bool(session.events), deadline_ns)
        if not session.read_events() or conn.failed:
            return 0
        session.start_conn(conn)
        return None

    async def _ep_connect(self, task: Task) -> TcpSock | None:
        """Make a socket and begin to connect it; None if there was no memory (iscsi_io_tcp_connect)."""
        pages = self.context.stack.pages
        for _ in range(CONNECTION_PAGES):
            pfn = await pages.alloc_pages(task, 0, GFP_KERNEL, self._owner)
            if pfn < 0:
                return None
            self._pages.append(pfn)
        sock = self._sock = self._open_socket()
        sock.state_change = self._wake
        sock.connect()
        return sock

    async def _ep_poll(self, task: Task, sock: TcpSock, deadline_ns: int) -> None:
        """Wait until a socket is connected or refused: for a millisecond, then looking every second."""

        def is_decided() -> bool:
            return sock.established or sock.eof

        while not is_decided() and self.world.now_ns < deadline_ns:
            await self._wait_until(task, is_decided, min(self.world.now_ns + CONN_POLL_NS, deadline_ns))
            if not is_decided():
                pause_ns = min(CONN_POLL_EVERY_NS, deadline_ns - self.world.now_ns)
                await self.world.sleep_ns(task, pause_ns, self._answer, kind=TimerKind.RETRY)

    def _ep_disconnect(self) -> None:
        """Close the socket there is (iscsi_io_tcp_disconnect)."""
        session, sock = self.session, self._sock
        session.stop_conn()
        if sock is not None:
            self._sock = sock.state_change = None
            sock.abort()
            self.context.stack.sockets.remove(sock)
            sock.mem.proto.nr_sockets -= 1
        pages = self.context.stack.pages
        while self._pages:
            pages.free_pages(self._pages.pop(), 0)

    def _wake(self) -> None:
        self.session.daemon_wait.wake_all()

    async def _wait_until(self, task: Task, is_done: Callable[[], bool], deadline_ns: int) -> None:
        """Sleep until something is so, or its time is over."""
        while not is_done() and self.world.now_ns < deadline_ns:
            await self.session.daemon_wait.wait(
                task, resource=self._answer, timeout_ns=deadline_ns - self.world.now_ns, kind=TimerKind.RETRY
            )
