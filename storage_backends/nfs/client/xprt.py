"""The transport: one TCP connection, who may write to it, and how it is made again.

Mirrors net/sunrpc/xprt.c and xprtsock.c of 6.1. *Writing* is for the task that holds the transport's lock
(XPRT_LOCKED); the others sleep on the ``sending`` queue. The holder sends whatever is queued, up to twenty calls,
owners taking turns, without waiting for room (MSG_DONTWAIT): a full send buffer sets XPRT_WRITE_SPACE, and the next
task is let in when the socket has room again. The *allocation* behind a send may sleep all the same. The mask is plain
GFP_KERNEL in the workers' NOFS scope (from 2.6.16 to 5.0 it was GFP_ATOMIC); on a mount without swap that means direct
reclaim in the middle of a call, with the lock held. *Reading* is xprtiod's: a work item per burst.

A connection that ends is closed under the lock, by xprtiod; every call that had been sent is queued again, and the
first task that wants to send has a worker connect: at once after a connection that had stood, else after 3 s, doubling
up to five minutes. With swap on the mount the socket is SOCK_MEMALLOC and the worker runs with PF_MEMALLOC.
"""

from collections.abc import Callable
from typing import Any, Final

from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL, PF_MEMALLOC, PF_MEMALLOC_NOFS, GfpScope
from netvm.net.dontwait import sendmsg_dontwait, set_cork
from netvm.net.sock import TcpSock
from netvm.net.tcp.state import TcpState
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.workqueue import WorkItem
from netvm.units import NS_PER_S
from storage_backends.nfs.client.clnt import RpcClient
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.client.slots import SlotTable
from storage_backends.nfs.client.transport import NO_MEMORY, NO_ROOM, NOT_CONNECTED, SendLock
from storage_backends.nfs.client.xmit_queue import XmitQueue
from storage_backends.nfs.connection.timeouts import TCP_TIMEOUT, Expiry, RetransmitTimer, RpcTimeout
from storage_backends.wire import Chunk, RemoteProtocolError, size_of

__all__ = ["XS_TCP_INIT_REEST_TO_NS", "XS_TCP_MAX_REEST_TO_NS", "Xprt"]

XS_TCP_INIT_REEST_TO_NS: Final = 3 * NS_PER_S
XS_TCP_MAX_REEST_TO_NS: Final = 300 * NS_PER_S
MAX_CALLS_PER_TURN: Final = 20
"""Calls one holder of the lock sends before another may (xprt_transmit)."""
SOCKET_BYTES: Final = (2048, 1024)
"""struct tcp_sock, and struct socket with its inode."""


class Xprt(SendLock):
    """``struct rpc_xprt`` over TCP."""

    def __init__(
        self,
        client: RpcClient,
        open_socket: Callable[[], TcpSock],
        *,
        max_slots: int,
        timeout: RpcTimeout = TCP_TIMEOUT,
    ) -> None:
        super().__init__(client)
        self.timeout = timeout
        self.world = client.world
        self.slots = SlotTable(max_slots)
        self.sock: TcpSock | None = None
        self.pending_connect: list[RpcTask] = []
        self.xmit = XmitQueue()
        self.close_wait = False
        """XPRT_CLOSE_WAIT: the connection is to be closed as soon as the lock is free."""
        self.nr_connects = 0
        self._open_socket = open_socket
        self._connecting = False
        self._connect_start_ns = 0
        self._reestablish_ns = 0
        self._objects: list[int] = []
        """What the present socket takes of each cache of :data:`SOCKET_BYTES`."""
        self._sent = (0, 0)
        """Chunk and byte of it up to which the first call of the queue was sent."""
        self._chunks: list[Chunk] = []
        """The record of that call."""
        self._not_responding = False
        self._connect_item = WorkItem("xs_tcp_setup_socket", self.xs_tcp_setup_socket)
        self._receive_item = WorkItem("xs_stream_data_receive", self.xs_stream_data_receive)
        self._close_item = WorkItem("xprt_autoclose", self.xprt_autoclose)
        self._close_wanted_item = WorkItem("xs_error_handle", self.xs_error_handle)

    @property
    def is_connected(self) -> bool:
        """Whether calls can be sent."""
        return self.sock is not None and self.sock.established and not self.close_wait

    # -- the lock -------------------------------------------------------------------------------------------------

    def lock_write(self, rpc: RpcTask) -> bool:
        """Take the lock, or sleep for it and return False (xprt_reserve_xprt)."""
        if self.locked_by is rpc:
            return True
        if self.locked_by is None and not self.write_space:
            self.locked_by = rpc
            return True
        self.sending.append(rpc)
        rpc.sleep_on("xprt sending: the transport's lock")
        return False

    def release_write(self, holder: RpcTask | WorkItem) -> None:
        """Let go of the lock and let the next one in (xprt_release_xprt, __xprt_lock_write_next)."""
        if self.locked_by is not holder:
            return
        self.locked_by = None
        if self.close_wait:
            self.locked_by = self._close_item
            self.client.xprtiod.queue_work(self._close_item)
            return
        self._lock_write_next()

    # -- sending --------------------------------------------------------------------------------------------------

    def enqueue(self, rpc: RpcTask) -> None:
        """Queue a call for transmission (xprt_request_enqueue_transmit)."""
        rpc.need_xmit = True
        self.xmit.push(rpc)

    def dequeue(self, rpc: RpcTask) -> bool:
        """Take a call out that needs not be sent any more; False if a part of it is on the wire already."""
        if self.xmit.head() is rpc and self._sent != (0, 0):
            return False
        self.xmit.pop(rpc)
        rpc.need_xmit = False
        return True

    async def transmit(self, task: Task, rpc: RpcTask) -> None:
        """Send queued calls (xprt_transmit); ``rpc`` is told how it ended if its own call is still not out."""
        for _ in range(MAX_CALLS_PER_TURN - 1):
            head = self.xmit.head()
            if head is None:
                break
            status = await self._request_transmit(task, head)
            if self.client.tracer is not None:
                self.client.tracer.transmit(task, head, status)
            if status:
                if rpc.need_xmit:
                    rpc.status = status
                break
            if head is not rpc and head.sleeps_on.startswith("xprt sending"):
                self.sending.remove(head)
                head.wake_up()
            if rpc.reply is not None and not rpc.need_xmit:
                break

    async def _request_transmit(self, task: Task, rpc: RpcTask) -> int:
        """Send what is left of one call (xs_tcp_send_request); 0 or a negative errno."""
        sock = self.sock
        assert sock is not None
        if rpc.reply is not None and self.dequeue(rpc):
            # it was answered before it was sent again
            return 0
        if self._sent == (0, 0):
            if rpc.bvec_under_lock and not await rpc.alloc_bvec(task, GFP_KERNEL):
                return NO_MEMORY
            task.charge_ns += self.client.costs.dispatch_request
            self._chunks = self.client.connection.send(rpc.xid)
        chunks = self._chunks
        failed_before = False
        corks = self.client.fixes.rpc_cork
        if corks:
            await set_cork(sock, task, corked=True)
        while self.sock is sock:
            index, start = self._sent
            if index == len(chunks):
                self._sent = (0, 0)
                self.xmit.pop(rpc)
                rpc.need_xmit = False
                rpc.nr_sent += 1
                if corks and not self.xmit:
                    await set_cork(sock, task, corked=False)
                return 0
            more = index + 1 < len(chunks)
            sent, nospace = await sendmsg_dontwait(sock, task, chunks[index], start, more=more)
            if self.sock is not sock or not sock.established:
                return NOT_CONNECTED
            if sent > 0:
                failed_before = False
                self._sent = _advance(chunks, index, start + sent)
            if nospace:
                return self._xs_stream_nospace(task, rpc, sock)
            if sent <= 0:
                if failed_before:
                    return NO_MEMORY
                failed_before = True
        return NOT_CONNECTED

    def _xs_stream_nospace(self, task: Task, rpc: RpcTask, sock: TcpSock) -> int:
        """Wait for the socket's callback, unless it has room by now."""
        if self.client.tracer is not None:
            total = sum(map(size_of, self._chunks))
            index, start = self._sent
            sent = sum(map(size_of, self._chunks[:index])) + start
            self.client.tracer.nospace(task, rpc, total, total - sent)
        if sock.mem.wmem_queued * 3 < sock.mem.sndbuf * 2:
            return NO_ROOM
        self.write_space = True
        return NO_ROOM

    # -- waiting for replies --------------------------------------------------------------------------------------

    def wait_receive(self, rpc: RpcTask) -> None:
        """Sleep until the reply comes or it is time to ask again (xprt_request_wait_receive)."""
        now_ns = self.world.now_ns
        if rpc.retransmit is None:
            rpc.retransmit = RetransmitTimer(self.timeout, now_ns)
        rpc.sleep_on("xprt pending: the reply")
        rpc.timer = self.world.call_at(
            max(rpc.retransmit.deadline_ns, now_ns),
            self._xprt_timer,
            rpc,
            kind=TimerKind.RETRY,
            site=f"{self.client.name}: RPC time-out",
        )

    def _xprt_timer(self, rpc: RpcTask) -> None:
        """Send a call again that was not answered; tell the operator after the last try (xprt_timer, call_timeout)."""
        assert rpc.retransmit is not None
        rpc.timer = None
        if rpc.retransmit.expired(self.world.now_ns) is Expiry.MAJOR and not self._not_responding:
            self._not_responding = True
            self.client.log(f"nfs: server {self.client.server_name} not responding, still trying")
        if not rpc.need_xmit:
            self.enqueue(rpc)
        rpc.wake_up()

    def _replied(self) -> None:
        if self._not_responding:
            self._not_responding = False
            self.client.log(f"nfs: server {self.client.server_name} OK")

    # -- receiving ------------------------------------------------------------------------------------------------

    def _data_ready(self) -> None:
        """Have xprtiod read (xs_data_ready)."""
        self.client.xprtiod.queue_work(self._receive_item)

    async def xs_stream_data_receive(self, task: Task) -> None:
        """Read replies and wake their tasks (xs_stream_data_receive_workfn)."""
        with GfpScope(task, PF_MEMALLOC_NOFS):
            sock = self.sock
            while sock is not None and self.sock is sock and sock.readable_bytes:
                want = min(self.client.connection.bytes_wanted, sock.readable_bytes)
                content = await sock.recvmsg(task, want, wait_all=False)
                if self.sock is not sock:
                    return
                try:
                    for chunk in content:
                        self._take(task, chunk)
                except RemoteProtocolError as error:
                    self.client.log(f"nfs: server {self.client.server_name}: {error}")
                    self._force_disconnect()
                    return
                if task.cpus is not None:
                    await task.cpus.cond_resched(task)
            if sock is not None and self.sock is sock and sock.eof:
                self._force_disconnect()

    def _take(self, task: Task, chunk: Chunk) -> None:
        for reply in self.client.connection.receive(chunk):
            task.charge_ns += self.client.costs.complete_request
            self._replied()
            rpc = self.client.tasks.get(reply.xid)
            assert rpc is not None
            rpc.reply = reply
            if self.client.tracer is not None:
                self.client.tracer.lookup_rqst(task, rpc)
            if rpc.sleeps_on.startswith("xprt pending: the reply"):
                rpc.wake_up()

    # -- connecting -----------------------------------------------------------------------------------------------

    def connect(self, rpc: RpcTask) -> None:
        """Have a worker connect and sleep until there is a connection (xprt_connect, xs_connect)."""
        if not self.lock_write(rpc):
            return
        if self.is_connected:
            self.release_write(rpc)
            return
        self.pending_connect.append(rpc)
        rpc.sleep_on("xprt pending: a connection")
        if self._connecting:
            self.release_write(rpc)
            return
        self._connecting = True
        self.locked_by = self._connect_item
        delay_ns = 0
        if self.nr_connects:
            delay_ns = max(0, self._connect_start_ns + self._reestablish_ns - self.world.now_ns)
            self._backoff()
        self._connect_start_ns = self.world.now_ns + delay_ns
        if delay_ns:
            self.world.call_after(
                self.world.wheel_ns(delay_ns),
                self.client.xprtiod.queue_work,
                self._connect_item,
                kind=TimerKind.RETRY,
                site=f"{self.client.name}: reconnect delay",
            )
        else:
            self.client.xprtiod.queue_work(self._connect_item)

    def _backoff(self) -> None:
        """Wait longer next time (xprt_reconnect_backoff)."""
        doubled = min(self._reestablish_ns << 1, XS_TCP_MAX_REEST_TO_NS)
        self._reestablish_ns = max(doubled, XS_TCP_INIT_REEST_TO_NS)

    async def xs_tcp_setup_socket(self, task: Task) -> None:
        """Make a socket and send a SYN; the rest happens when the answer comes."""
        client = self.client
        privileged = client.fixes.nfs_swap_memalloc or client.fixes.rpc_swap_memalloc
        memalloc = PF_MEMALLOC if client.nr_swapping and privileged else 0
        nofs = PF_MEMALLOC_NOFS if client.fixes.nfs_connect_nofs else 0
        with GfpScope(task, nofs | memalloc):
            if not self._objects and not await self._sock_alloc(task):
                self._connecting = False
                self.release_write(self._connect_item)
                self._wake_pending_connect(NOT_CONNECTED)
                return
        if self.sock is not None:
            await self._reset_transport(task, self.sock)
        sock = self._open_socket()
        self.sock = sock
        self.nr_connects += 1
        atomic = client.fixes.rpc_send_atomic and not client.fixes.rpc_send_nofs
        sock.allocation = GFP_ATOMIC if atomic else GFP_KERNEL
        if client.nr_swapping:
            self.set_memalloc()
        sock.state_change = lambda: self._state_changed(sock)
        sock.data_ready = self._data_ready
        sock.write_space = self._room_again
        sock.connect()
        self.release_write(self._connect_item)

    async def _sock_alloc(self, task: Task) -> bool:
        for size_bytes in SOCKET_BYTES:
            found = await self.client.pools.kmalloc(size_bytes).alloc(task, GFP_KERNEL)
            if found < 0:
                self._sock_free()
                return False
            self._objects.append(found)
        return True

    def _sock_free(self) -> None:
        for found, size_bytes in zip(self._objects, SOCKET_BYTES, strict=False):
            self.client.pools.kmalloc(size_bytes).free(found)
        self._objects = []

    def set_memalloc(self) -> None:
        """Make the socket one that memory is freed through (xs_set_memalloc)."""
        if self.sock is not None and self.client.fixes.nfs_swap_memalloc:
            self.sock.sk_set_memalloc()

    def _state_changed(self, sock: TcpSock) -> None:
        """The connection stands, or is gone (xs_tcp_state_change); runs in softirq."""
        if self.sock is not sock:
            return
        if sock.core.state is TcpState.ESTABLISHED and self._connecting:
            self._connecting = False
            self._reestablish_ns = 0
            self._wake_pending_connect(0)
        elif not sock.established:
            self.client.xprtiod.queue_work(self._close_wanted_item)

    def _wake_pending_connect(self, status: int) -> None:
        waiting, self.pending_connect = self.pending_connect, []
        for rpc in waiting:
            rpc.wake_up(status)

    # -- disconnecting --------------------------------------------------------------------------------------------

    async def xs_error_handle(self, _task: Task) -> None:
        """The socket is gone: see that it is released."""
        self._force_disconnect()

    def _force_disconnect(self) -> None:
        """Have the connection closed as soon as nobody holds the lock (xprt_force_disconnect)."""
        if self.sock is None or self.close_wait:
            return
        if self.sock.eof and self._reestablish_ns < XS_TCP_INIT_REEST_TO_NS:
            # the server ended it: back off before the next try but one
            self._reestablish_ns = XS_TCP_INIT_REEST_TO_NS
        self.close_wait = True
        if self.locked_by is None:
            self.locked_by = self._close_item
            self.client.xprtiod.queue_work(self._close_item)

    async def xprt_autoclose(self, task: Task) -> None:
        """Release the socket and queue what it had sent (xs_close, xprt_disconnect_done)."""
        self.close_wait = False
        self._connecting = False
        if self.sock is not None:
            await self._reset_transport(task, self.sock)
            self._sock_free()
        for rpc in list(self.client.tasks.values()):
            if rpc.sleeps_on.startswith("xprt pending"):
                rpc.wake_up(NOT_CONNECTED)
        self.pending_connect = []
        self.release_write(self._close_item)

    async def _reset_transport(self, task: Task, sock: TcpSock) -> None:
        """Let go of a socket; what was sent on it is to be sent again (xs_reset_transport)."""
        sock.state_change = sock.data_ready = sock.write_space = None
        await sock.lock_sock(task)
        sock.release_sock(task)
        self.sock = None
        sock.abort()
        sock.sk_clear_memalloc()
        self.write_space = False
        self._sent = (0, 0)
        self.client.connection.reconnect()
        out = frozenset(self.client.connection.xids)
        for rpc in list(self.client.tasks.values()):
            if rpc.xid in out and not rpc.need_xmit:
                self.enqueue(rpc)

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs(self, rpc: RpcTask) -> tuple[Resource | Task, ...]:
        """Say what a sleeping call waits for, as far as this host provides it."""
        if rpc.sleeps_on.startswith("xprt sending"):
            found = self._needs_of_holder(rpc)
            if found:
                return found
            if self.write_space and self.sock is not None:
                return self._needs_of_the_wire(rpc, self.sock.send_memory)
        if rpc.sleeps_on.startswith("rpc_delay"):
            return (self.client.pools.pages.memory,)
        if rpc.sleeps_on.startswith("xprt pending"):
            return self._needs_of_the_wire(rpc, None)
        return ()

    def _needs_of_the_wire(self, rpc: RpcTask, otherwise: Resource | None) -> tuple[Resource | Task, ...]:
        servers = self.client.server_needs(rpc.xid)
        if servers:
            return servers
        blocked = self.client.stack.receive_blocked()
        if blocked is not None:
            return (blocked,)
        return (otherwise,) if otherwise is not None and otherwise.providers is not None else ()

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self.xmit), len(self.sending), self.nr_connects, self._sent, self.write_space)


def _advance(chunks: list[Chunk], index: int, start: int) -> tuple[int, int]:
    """Return the place behind ``start`` bytes of a chunk."""
    return (index + 1, 0) if start == size_of(chunks[index]) else (index, start)
