"""An iSCSI target: one logical unit on a disk model, outside the host or as kernel threads on it.

:class:`IscsiService` joins protocol core, store and disk: chunks go in, promises come out, each with the instant its
command is done. A login makes a connection *the* session and the one before it void (session reinstatement, RFC 7143
6.3.5): nothing it promised is done any more, so an old write can never overtake the same write sent again.

:class:`RemoteIscsiTarget` keeps the promises on a machine that is never short of memory, in atomic context.
:class:`LocalIscsiTarget` is the kernel's target (LIO, drivers/target/iscsi) on the emulated host itself, reached over
loopback: ``iscsi_trx`` reads, ``iscsi_ttx`` answers. What a write brings is received into pages of this host, taken
with GFP_KERNEL before the data is read from the socket (``target_alloc_sgl``), so a target short of memory enters
reclaim and may wait for the device it serves. With the fix ``loopback_target_noio`` both threads run in a NOIO scope.

# MODEL: the local target's store lies outside managed RAM; a read is sent by copy, where LIO sends the pages it read
# into; its two threads exist before any connection and serve one after another.
"""

from collections import deque
from typing import Any, Final, NamedTuple

from netvm.errors import Errno
from netvm.mm.gfp import GFP_KERNEL, PF_KTHREAD, PF_MEMALLOC_NOIO, GfpScope
from netvm.net.remote import RemoteSocket
from netvm.net.sock import TcpSock
from netvm.net.stack import NetStack
from netvm.net.wire import Content, content_size
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.units import PAGE_SIZE, pages_of
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.iscsi.connection.facts import Command, LoggedIn, LoggedOut, TargetEvent, TaskManagement
from storage_backends.iscsi.connection.target import TargetConfig, TargetConnection
from storage_backends.iscsi.login.keys import LoginOffer
from storage_backends.iscsi.messages.pdus import BHS_SIZE
from storage_backends.iscsi.scsi import (
    INVALID_FIELD_IN_CDB,
    SPACE_ALLOCATION_FAILED,
    WRITE_ERROR,
    LogicalUnit,
    MediumKind,
    Status,
)
from storage_backends.wire import BLOCK_SIZE, Chunk, RemoteProtocolError

__all__ = ["IscsiService", "LocalIscsiTarget", "Promise", "RemoteIscsiTarget"]

SECTOR_BYTES: Final = 512


class Promise(NamedTuple):
    """What the disk will have done at ``due_ns`` for a connection."""

    due_ns: int
    connection: TargetConnection
    event: Command | TaskManagement


class IscsiService:
    """One logical unit: protocol, store and disk."""

    def __init__(self, store: BlockStore, disk: DiskModel, offer: LoginOffer | None = None) -> None:
        self.store = store
        self.disk = disk
        self.config = TargetConfig(offer=offer or LoginOffer())
        self.unit = LogicalUnit(size_blocks=store.size_bytes // SECTOR_BYTES, write_cache=store.write_cache)
        self.session: TargetConnection | None = None
        """The connection that logged in last."""
        self._last_due_ns = 0

    def accept(self) -> TargetConnection:
        """Begin a new connection; it becomes the session when it logs in."""
        return TargetConnection(self.config, self.unit)

    def receive(self, connection: TargetConnection, chunk: Chunk, now_ns: int) -> list[Promise]:
        """Take a chunk; return what was promised. Raises RemoteProtocolError, with a Reject to be sent."""
        promises = []
        for event in connection.receive(chunk):
            if isinstance(event, Command):
                size = 0 if event.kind is MediumKind.FLUSH else event.nr_blocks * SECTOR_BYTES
                promises.append(Promise(self._submit(size, now_ns), connection, event))
            elif isinstance(event, TaskManagement):
                # behind everything the disk was given: then none of its tasks touches the medium any more
                promises.append(Promise(max(self._submit(0, now_ns), self._last_due_ns), connection, event))
            else:
                self._take(connection, event)
        return promises

    def _submit(self, size_bytes: int, now_ns: int) -> int:
        due_ns = self.disk.submit(size_bytes, now_ns)
        self._last_due_ns = max(self._last_due_ns, due_ns)
        return due_ns

    def _take(self, connection: TargetConnection, event: TargetEvent) -> None:
        if isinstance(event, LoggedIn):
            self.session = connection
        elif isinstance(event, LoggedOut) and self.session is connection:
            self.session = None

    def complete(self, promise: Promise) -> bool:
        """Do what was promised and queue the answer; False if the connection is not the session any more."""
        connection, event = promise.connection, promise.event
        if connection is not self.session:
            return False
        if isinstance(event, TaskManagement):
            connection.respond_task_management(event.itt)
            return True
        offset, size = event.lba * SECTOR_BYTES, event.nr_blocks * SECTOR_BYTES
        if event.kind is MediumKind.FLUSH:
            self.store.flush()
            connection.respond(event.itt)
        elif offset % BLOCK_SIZE or size % BLOCK_SIZE:
            connection.respond(event.itt, status=Status.CHECK_CONDITION, sense=INVALID_FIELD_IN_CDB)
        elif errno := self.store.refusal(offset, size, write=event.kind is not MediumKind.READ):
            sense = SPACE_ALLOCATION_FAILED if errno == Errno.ENOSPC else WRITE_ERROR
            connection.respond(event.itt, status=Status.CHECK_CONDITION, sense=sense)
        elif event.kind is MediumKind.READ:
            connection.respond(event.itt, payload=self.store.read(offset, size))
        else:
            if event.payload is not None:
                self.store.write(offset, event.payload, fua=event.fua)
            connection.respond(event.itt)
        return True

    @staticmethod
    def answers(connection: TargetConnection) -> list[Chunk]:
        """Return what is to be sent now."""
        chunks: list[Chunk] = []
        while (pdu := connection.next_pdu()) is not None:
            chunks += pdu.chunks
        return chunks


class _RemoteNexus:
    """One TCP connection to the remote target."""

    __slots__ = ("connection", "sock", "target")

    def __init__(self, target: "RemoteIscsiTarget", sock: RemoteSocket) -> None:
        self.target = target
        self.sock = sock
        self.connection = target.service.accept()
        sock.on_data = self.data_arrived

    def data_arrived(self, content: list[Content]) -> None:
        """Take what has arrived, promise, and say what is due at once."""
        target = self.target
        service, connection, world = target.service, self.connection, target.world
        now_ns = world.now_ns
        try:
            for chunk in content:
                for promise in service.receive(connection, chunk, now_ns):
                    world.call_at(promise.due_ns, self.due, promise)
        except RemoteProtocolError:
            self.say()
            target.drop(self)
            return
        self.say()
        if service.session is connection and target.current is not self:
            target.reinstated(self)

    def due(self, promise: Promise) -> None:
        """Answer a command whose time has come, unless the disk stalled."""
        service, world = self.target.service, self.target.world
        due_ns = service.disk.due_ns(promise.due_ns)
        if due_ns > world.now_ns:
            world.call_at(due_ns, self.due, promise)
        elif service.complete(promise):
            self.say()

    def say(self) -> None:
        """Send what the core has to say."""
        chunks = IscsiService.answers(self.connection)
        if chunks:
            self.sock.write(chunks)


class RemoteIscsiTarget:
    """The target on a machine of its own."""

    def __init__(self, world: World, service: IscsiService) -> None:
        self.world = world
        self.service = service
        self.current: _RemoteNexus | None = None
        self._is_up = True
        self._open: list[_RemoteNexus] = []

    def listen(self, sock: RemoteSocket) -> None:
        """Take a socket that a connection may come to; while the target is down its SYN goes unheard."""
        sock.accepting = self._is_up
        self._open.append(_RemoteNexus(self, sock))

    def reinstated(self, nexus: _RemoteNexus) -> None:
        """A login succeeded: end every other connection."""
        self.current = nexus
        for other in [other for other in self._open if other is not nexus]:
            self.drop(other)

    def drop(self, nexus: _RemoteNexus) -> None:
        """Reset a connection and forget what it was promised."""
        self._open.remove(nexus)
        if self.service.session is nexus.connection:
            self.service.session = None
        if self.current is nexus:
            self.current = None
        nexus.sock.accepting = False
        nexus.sock.abort()

    def reset(self) -> None:
        """Close the session's connection."""
        if self.current is not None:
            self.drop(self.current)

    def restart(self, until_ns: int) -> None:
        """Lose every connection, and accept none until then."""
        self._is_up = False
        for nexus in list(self._open):
            if nexus.sock.core is None:
                nexus.sock.accepting = False
            else:
                self.drop(nexus)
        self.world.call_at(until_ns, self._up_again)

    def _up_again(self) -> None:
        self._is_up = True
        for nexus in self._open:
            nexus.sock.accepting = True

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self._is_up, self.current is not None, tuple(nexus.sock.digest() for nexus in self._open))


class LocalIscsiTarget:
    """The target as kernel threads of the emulated host."""

    def __init__(self, world: World, stack: NetStack, service: IscsiService, cpus: Cpus | None) -> None:
        self.world = world
        self.stack = stack
        self.service = service
        self.cpus = cpus
        self.costs = stack.costs
        self.rx: Task | None = None
        self.tx: Task | None = None
        self.sock: TcpSock | None = None
        self.connection: TargetConnection | None = None
        """The protocol on ``sock``, once a connection has come."""
        self._is_up = True
        self._promises: deque[Promise] = deque()
        self._owner = stack.pages.ledger.owner("iscsi_trx:sgl")
        self._pages: list[int] = []
        # bytes received or being received into them that no command has claimed
        self._unclaimed_bytes = 0
        self._np = WaitQueue(world, Resource("work", "iscsi_np: a connection", external=True))
        nothing = Resource("reply", "iscsi_ttx: a command to answer", lambda: [self.rx] if self.rx else [])
        self._work = WaitQueue(world, nothing)
        self._disk = Resource("timer", "iscsi target: the disk", external=True)

    def start(self) -> None:
        """Start the threads."""
        self.rx = self.world.spawn("iscsi_trx", self.iscsi_target_rx_thread, cpus=self.cpus, flags=PF_KTHREAD)
        self.tx = self.world.spawn("iscsi_ttx", self.iscsi_target_tx_thread, cpus=self.cpus, flags=PF_KTHREAD)

    def tasks(self) -> list[Task]:
        """Return the target's threads."""
        return [task for task in (self.rx, self.tx) if task is not None]

    # -- connections ----------------------------------------------------------------------------------------------

    def listen(self, sock: TcpSock) -> None:
        """Take a socket that a connection may come to."""
        old, self.sock = self.sock, sock
        self.connection = None
        if old is not None:
            old.state_change = None
            self._close(old)
        sock.listening = self._is_up
        sock.state_change = self._wake_np

    def _wake_np(self) -> None:
        self._np.wake_all()

    def _close(self, sock: TcpSock) -> None:
        self.stack.close(sock, "iscsi target: lock_sock", lambda closed: closed is self.sock)

    def reset(self) -> None:
        """Close the connection there is."""
        if self.sock is not None:
            self._close(self.sock)

    def restart(self, until_ns: int) -> None:
        """Lose the connection, and accept none until then."""
        self._is_up = False
        if self.sock is not None and not self.sock.listening:
            self.reset()
        elif self.sock is not None:
            self.sock.listening = False
        self.world.call_at(until_ns, self._up_again)

    def _up_again(self) -> None:
        self._is_up = True
        if self.sock is not None and self.connection is None and not self.sock.eof:
            self.sock.listening = True

    # -- receiving ------------------------------------------------------------------------------------------------

    async def iscsi_target_rx_thread(self, task: Task) -> None:
        """Serve one connection after another."""
        with GfpScope(task, PF_MEMALLOC_NOIO if self.stack.fixes.loopback_target_noio else 0):
            while True:
                while self.sock is None or self.connection is not None or not self.sock.established:
                    await self._np.wait(task)
                connection = self.connection = self.service.accept()
                await self._serve(task, self.sock, connection)
                if self.service.session is connection:
                    self.service.session = None
                self._free_sgl(len(self._pages))
                self._unclaimed_bytes = 0

    async def _serve(self, task: Task, sock: TcpSock, connection: TargetConnection) -> None:
        """Read PDUs until the connection ends."""
        service = self.service
        while True:
            want = connection.bytes_wanted
            has_data = want > BHS_SIZE and connection.parameters is not None
            if has_data and not await self.target_alloc_sgl(task, want):
                break
            content = await sock.recvmsg(task, want, wait_all=True)
            if sum(map(content_size, content)) < want:
                break
            try:
                for chunk in content:
                    promises = service.receive(connection, chunk, self.world.now_ns)
                    task.charge_ns += self.costs.server_request * len(promises)
                    self._promises.extend(promises)
            except RemoteProtocolError:
                await sock.sendmsg(task, service.answers(connection), more=False)
                break
            self._work.wake_all()
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        self._close(sock)

    async def target_alloc_sgl(self, task: Task, size_bytes: int) -> bool:
        """Have pages for the data that is about to be read; False if there are none to be had."""
        self._unclaimed_bytes += size_bytes
        pages = self.stack.pages
        while len(self._pages) * PAGE_SIZE < self._unclaimed_bytes:
            pfn = await pages.alloc_pages(task, 0, GFP_KERNEL, self._owner)
            if pfn < 0:
                return False
            self._pages.append(pfn)
        return True

    def _free_sgl(self, nr_pages: int) -> None:
        pages = self.stack.pages
        for _ in range(min(nr_pages, len(self._pages))):
            pages.free_pages(self._pages.pop(), 0)

    # -- answering ------------------------------------------------------------------------------------------------

    async def iscsi_target_tx_thread(self, task: Task) -> None:
        """Send what the protocol has to say, and the answers to what the disk has done, in order."""
        with GfpScope(task, PF_MEMALLOC_NOIO if self.stack.fixes.loopback_target_noio else 0):
            while True:
                timeout_ns = self._complete_due()
                sock, connection = self.sock, self.connection
                say = self.service.answers(connection) if connection is not None else []
                if say and sock is not None:
                    await sock.sendmsg(task, say, more=False)
                elif timeout_ns is None:
                    await self._work.wait(task)
                else:
                    await self._work.wait(task, resource=self._disk, timeout_ns=timeout_ns, kind=TimerKind.PROGRESS)

    def _complete_due(self) -> int | None:
        """Complete the first promise if its time has come; return how long to wait for it, None if there is none."""
        while self._promises:
            promise = self._promises[0]
            wait_ns = self.service.disk.due_ns(promise.due_ns) - self.world.now_ns
            if wait_ns > 0:
                return wait_ns
            self._promises.popleft()
            event = promise.event
            if self.service.complete(promise) and isinstance(event, Command) and event.payload is not None:
                self._unclaimed_bytes -= event.payload.size_bytes
                self._free_sgl(len(self._pages) - pages_of(self._unclaimed_bytes))
        return None

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self._is_up, len(self._promises), len(self._pages), self._unclaimed_bytes)
