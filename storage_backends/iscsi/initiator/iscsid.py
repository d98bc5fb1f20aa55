"""iscsid: the daemon that makes the session's connections, and makes them again when one has failed.

Mirrors usr/initiator.c of open-iscsi. A connection begins as an ordinary socket: iscsid asks for it with GFP_KERNEL and
may end up in direct reclaim, waiting for the very device whose connection it should bring back; and until the kernel
binds the connected socket it is no priority one, so a SYN-ACK that arrives in reserve memory is dropped. Its own memory
is locked. With the fix ``io_flusher_servers`` it runs with PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, so that its reclaim
never waits for its own device.

After a failure it waits DefaultTime2Wait, closes the old socket, connects, binds, logs in and starts the session. What
fails or takes longer than ``login_timeout`` is tried again, for ever once the session has existed.

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
from netvm.units import NS_PER_S
from storage_backends.iscsi.initiator.session import IscsiSession, SessionState

__all__ = ["Iscsid"]

LOGIN_TIMEOUT_NS: Final = 15 * NS_PER_S
INITIAL_LOGIN_RETRY_MAX: Final = 8
REOPEN_DELAY_NS: Final = 3 * NS_PER_S
"""ISCSI_CONN_ERR_REOPEN_DELAY."""
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
        flags = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE if self.context.stack.fixes.io_flusher_servers else 0
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
        for _ in range(INITIAL_LOGIN_RETRY_MAX):
            if await self.session_conn_reopen(task):
                break
        else:
            self.gave_up = True
            self._up.wake_all()
            return
        self._up.wake_all()
        while True:
            while not session.read_events():
                await session.daemon_wait.wait(task)
            parameters = session.conn.core.parameters if session.conn is not None else None
            delay_ns = parameters.default_time2wait * NS_PER_S if parameters is not None else 0
            self._ep_disconnect()
            await self.world.sleep_ns(task, delay_ns, self._pause, kind=TimerKind.PROGRESS)
            while not await self.session_conn_reopen(task):
                # the last attempt came to nothing: the next one is a retry, and waits for what that one waited for
                await self.world.sleep_ns(task, REOPEN_DELAY_NS, self._again, kind=TimerKind.RETRY)

    async def session_conn_reopen(self, task: Task) -> bool:
        """Make a connection and log in on it; return whether the session is up."""
        session = self.session
        self._ep_disconnect()
        sock = await self._ep_connect(task)
        if sock is None or not sock.established:
            return False
        session.read_events()
        conn = session.bind_conn(sock)
        await self._poll(task, lambda: conn.failed or bool(session.events))
        if not session.read_events() or conn.failed:
            return False
        session.start_conn(conn)
        return True

    async def _ep_connect(self, task: Task) -> TcpSock | None:
        """Make a socket and connect it; None if there was no memory (iscsi_io_tcp_connect)."""
        pages = self.context.stack.pages
        for _ in range(CONNECTION_PAGES):
            pfn = await pages.alloc_pages(task, 0, GFP_KERNEL, self._owner)
            if pfn < 0:
                return None
            self._pages.append(pfn)
        sock = self._sock = self._open_socket()
        sock.state_change = self._wake
        sock.connect()
        await self._poll(task, lambda: sock.established or sock.eof)
        return sock

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

    async def _poll(self, task: Task, is_done: Callable[[], bool]) -> None:
        """Sleep until something is so, or the login timeout has passed."""
        deadline_ns = self.world.now_ns + LOGIN_TIMEOUT_NS
        while not is_done() and self.world.now_ns < deadline_ns:
            await self.session.daemon_wait.wait(
                task, resource=self._answer, timeout_ns=deadline_ns - self.world.now_ns, kind=TimerKind.RETRY
            )
