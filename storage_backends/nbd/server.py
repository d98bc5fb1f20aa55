"""An NBD server: one export on a disk model, outside the host or as a process on it.

:class:`NbdService` joins the protocol core, the store and the disk: chunks go in, promises come out, each with the
instant its reply is due. :class:`RemoteNbdServer` keeps the promises for a client on the wire; everything there
happens in atomic context on a machine that is never short of memory. :class:`LocalNbdServer` is a process on the
emulated host: its own memory is locked and its store lies outside managed RAM, but its sockets, and the packets in
them, are the host's. It is one thread: when the recorded machine hung while the server sent, no task was reported to
wait for the socket's lock.
"""

from collections import deque
from typing import Any, Final, NamedTuple

from netvm.mm.gfp import PF_LOCAL_THROTTLE, PF_MEMALLOC_NOIO
from netvm.net.remote import RemoteSocket
from netvm.net.sock import TcpSock
from netvm.net.stack import NetStack
from netvm.net.wire import Content
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nbd.connection.server import NbdServerConnection, Request
from storage_backends.nbd.messages import CmdType, TransmissionFlag
from storage_backends.wire import Chunk, Payload

__all__ = ["LocalNbdServer", "NbdService", "Promise", "RemoteNbdServer"]

EXPORT_FLAGS = int(TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH)
TIMER_SLACK_NS: Final = 50_000
"""How late a process may be woken (timer_slack_ns of kernel/time/hrtimer.c), and on an idle machine is."""


class Promise(NamedTuple):
    """A request that the disk will have served at ``due_ns``."""

    due_ns: int
    request: Request


class NbdService:
    """One export: protocol, store and disk."""

    def __init__(self, store: BlockStore, disk: DiskModel, size_bytes: int) -> None:
        self.store = store
        self.disk = disk
        self.size_bytes = size_bytes
        self.connection = NbdServerConnection(size_bytes, EXPORT_FLAGS)

    def reconnect(self) -> None:
        """Begin a new connection."""
        self.connection = NbdServerConnection(self.size_bytes, EXPORT_FLAGS)

    def receive(self, chunk: Chunk, now_ns: int) -> tuple[list[Promise], list[Chunk]]:
        """Take a chunk; return what was promised and what is to be said at once (the handshake)."""
        promises = [
            Promise(self.disk.submit(event.length, now_ns), event)
            for event in self.connection.receive(chunk)
            if isinstance(event, Request)
        ]
        return promises, self.connection.chunks_to_send()

    def complete(self, request: Request) -> list[Chunk]:
        """Serve a request and return its reply."""
        payload: Payload | None = None
        is_write = request.kind == CmdType.WRITE
        error = self.store.refusal(request.offset, request.length, write=is_write)
        if error:
            return self.connection.reply(request.cookie, error=error)
        if is_write:
            assert request.payload is not None
            self.store.write(request.offset, request.payload)
        elif request.kind == CmdType.READ:
            payload = self.store.read(request.offset, request.length)
        elif request.kind == CmdType.FLUSH:
            self.store.flush()
        return self.connection.reply(request.cookie, payload=payload)


class RemoteNbdServer:
    """The server on a machine of its own."""

    def __init__(self, world: World, sock: RemoteSocket, service: NbdService) -> None:
        self.world = world
        self.sock = sock
        self.service = service
        self._epoch = 0
        sock.on_data = self.data_arrived
        sock.on_established = self.greet

    def greet(self) -> None:
        """Say hello on a new connection."""
        self.service.reconnect()
        self._epoch += 1
        self.sock.write(self.service.connection.chunks_to_send())

    def data_arrived(self, content: list[Content]) -> None:
        """Take what has arrived and promise replies."""
        now_ns = self.world.now_ns
        for chunk in content:
            promises, say = self.service.receive(chunk, now_ns)
            if say:
                self.sock.write(say)
            for promise in promises:
                self.world.call_at(promise.due_ns, self._due, promise, self._epoch)

    def _due(self, promise: Promise, epoch: int) -> None:
        if epoch != self._epoch:
            return
        now_ns = self.world.now_ns
        due_ns = self.service.disk.due_ns(promise.due_ns)
        if due_ns > now_ns:
            self.world.call_at(due_ns, self._due, promise, epoch)
            return
        self.sock.write(self.service.complete(promise.request))

    def forget_promises(self) -> None:
        """Forget what was promised: the connection is gone."""
        self._epoch += 1


class LocalNbdServer:
    """The server as a process on the emulated host: one thread, which waits for requests and for its disk at once."""

    def __init__(self, world: World, stack: NetStack, sock: TcpSock, service: NbdService, cpus: Cpus | None) -> None:
        self.world = world
        self.stack = stack
        self.sock = sock
        self.service = service
        self.cpus = cpus
        self.costs = stack.costs
        self.task: Task | None = None
        self._promises: deque[Promise] = deque()
        self._accept = WaitQueue(world, Resource("socket", "nbd-server: accept", external=True))
        sock.state_change = self._connected

    def start(self) -> None:
        """Start the server."""
        flags = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE if self.stack.fixes.io_flusher_servers else 0
        self.task = self.world.spawn("nbd-server", self.serve, cpus=self.cpus, flags=flags)

    def tasks(self) -> list[Task]:
        """Return the server's threads."""
        return [] if self.task is None else [self.task]

    def reset(self) -> None:
        """Reset the connection; the socket stays."""
        self.stack.close(self.sock, "nbd-server: lock_sock", lambda _closed: True)

    def _connected(self) -> None:
        self._accept.wake_all()

    async def serve(self, task: Task) -> None:
        """Answer what the disk has served, in order; between answers, read one request after another."""
        sock = self.sock
        while not sock.established:
            await self._accept.wait(task)
        sock.state_change = None
        await sock.sendmsg(task, self.service.connection.chunks_to_send(), more=False)
        # it answered mkswap and swapon, when there was memory: the block it cuts replies from is there
        await sock.write_queue.frag_refill(task)
        while await self._answer(task):
            if await self._poll(task) and not await self._read_request(task):
                return
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    async def _poll(self, task: Task) -> bool:
        """Sleep until there is something to read (True) or the next reply is due."""
        if self.sock.readable_bytes or self.sock.eof:
            return True
        until_ns = self._until_due_ns()
        limit_ns = None if until_ns is None else until_ns + TIMER_SLACK_NS
        return await self.sock.readable_wait.wait(task, timeout_ns=limit_ns, kind=TimerKind.PROGRESS)

    def _until_due_ns(self) -> int | None:
        """Return how long until the next reply is due; None if none is promised."""
        if not self._promises:
            return None
        return max(0, self.service.disk.due_ns(self._promises[0].due_ns) - self.world.now_ns)

    async def _answer(self, task: Task) -> bool:
        """Send the replies that are due, header and data apart; False when the client is gone."""
        while self._until_due_ns() == 0:
            promise = self._promises.popleft()
            for chunk in self.service.complete(promise.request):
                if await self.sock.sendmsg(task, [chunk], more=False):
                    return False
        return True

    async def _read_request(self, task: Task) -> bool:
        """Read one request and hand it to the disk; False at the end of the stream."""
        is_whole = False
        while not is_whole:
            content = await self.sock.recvmsg(task, self.service.connection.bytes_wanted, wait_all=True)
            if not content:
                return False
            for chunk in content:
                promises, say = self.service.receive(chunk, self.world.now_ns)
                if say:
                    await self.sock.sendmsg(task, say, more=False)
                if promises:
                    task.charge_ns += self.costs.server_request
                    self._promises.extend(promises)
                is_whole = is_whole or bool(say or promises)
        return True

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self._promises),)
