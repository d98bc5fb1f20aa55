"""The server on a machine of its own: procedures on a disk model, a connection on the wire.

:class:`RemoteNfsServer` listens on the wire; it is never short of memory. A link between client and server that a
proxy makes is modelled here where it ends: :class:`TokenLink` takes bytes off the connection at the link's rate and no
faster, so that the window closes, and gives them to the server a latency later; replies leave at the rate as well.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from netvm.net.remote import RemoteSocket
from netvm.net.wire import Content, content_part, content_size
from netvm.runtime.world import World
from netvm.units import NS_PER_S
from storage_backends.nfs.connection.server import NfsServerConnection, Request
from storage_backends.nfs.server.service import NfsService
from storage_backends.wire import RemoteProtocolError

__all__ = ["LINK_QUANTUM_BYTES", "RemoteNfsServer", "TokenLink"]

LINK_QUANTUM_BYTES: Final = 16 * 1024
"""What the link takes off the connection at once."""
LINK_WINDOW_BYTES: Final = 64 * 1024
"""Receive buffer of the recorded proxy's sockets."""


class _Due(NamedTuple):
    """A call that will have been executed at ``due_ns``."""

    due_ns: int
    request: Request


class TokenLink:
    """One way of a proxied link: bytes leave it at the rate, in order, a latency after they were taken in."""

    def __init__(
        self, world: World, *, bandwidth_bytes_per_s: int, latency_ns: int, deliver: Callable[[Content], None]
    ) -> None:
        self.world = world
        self.bandwidth = bandwidth_bytes_per_s
        self.latency_ns = latency_ns
        self.deliver = deliver
        self.taken: Callable[[int], None] | None = None
        """Called with the bytes that were taken off the connection: its window may open again."""
        self.stalled_until_ns = 0
        self._waiting: deque[Content] = deque()
        self._on_its_way: deque[Content] = deque()
        """Taken in and not there yet: what arrives is always the oldest, whatever the order of one instant's events."""
        self._free_ns = 0
        self._armed = False
        self._epoch = 0

    def forget(self) -> None:
        """Drop what is under way: the connection is gone."""
        self._waiting.clear()
        self._on_its_way.clear()
        self._epoch += 1
        self._armed = False

    def push(self, content: Content) -> None:
        """Take in what has arrived."""
        self._waiting.append(content)
        self._arm()

    def _arm(self) -> None:
        if self._armed or not self._waiting:
            return
        head = self._waiting[0]
        size_bytes = content_size(head)
        if size_bytes > LINK_QUANTUM_BYTES:
            self._waiting[0] = content_part(head, 0, LINK_QUANTUM_BYTES)
            self._waiting.insert(1, content_part(head, LINK_QUANTUM_BYTES, size_bytes))
            size_bytes = LINK_QUANTUM_BYTES
        start_ns = max(self.world.now_ns, self._free_ns, self.stalled_until_ns)
        self._free_ns = start_ns + (-(-size_bytes * NS_PER_S // self.bandwidth) if self.bandwidth else 0)
        self._armed = True
        self.world.call_at(self._free_ns, self._through, self._epoch)

    def _through(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._armed = False
        if self.stalled_until_ns > self.world.now_ns:
            self._free_ns = self.stalled_until_ns
            self._armed = True
            self.world.call_at(self.stalled_until_ns, self._through, epoch)
            return
        content = self._waiting.popleft()
        if self.taken is not None:
            self.taken(content_size(content))
        self._on_its_way.append(content)
        self.world.call_after(self.latency_ns, self._arrived, epoch)
        self._arm()

    def _arrived(self, epoch: int) -> None:
        if epoch == self._epoch:
            self.deliver(self._on_its_way.popleft())


class RemoteNfsServer:
    """The server on a machine of its own, at most one connection at a time."""

    def __init__(self, world: World, service: NfsService, *, bandwidth_bytes_per_s: int, latency_ns: int) -> None:
        self.world = world
        self.service = service
        self.connection = NfsServerConnection()
        self.sock: RemoteSocket | None = None
        self.up = TokenLink(
            world, bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_ns=latency_ns, deliver=self._receive
        )
        self.down = TokenLink(world, bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_ns=0, deliver=self._say)
        self.up.taken = self._taken
        self._epoch = 0
        self._down_until_ns = 0

    def listen(self, sock: RemoteSocket) -> None:
        """Take a socket on which a connection will come."""
        self.forget()
        self.sock = sock
        self.connection = NfsServerConnection()
        sock.receive_space = LINK_WINDOW_BYTES
        sock.reads_at_once = False
        sock.on_data = lambda content: self._data(sock, content)
        sock.on_established = lambda: self._established(sock)
        sock.on_closed = lambda: self._closed(sock)

    def forget(self) -> None:
        """Drop what belongs to the present connection."""
        self._epoch += 1
        self.up.forget()
        self.down.forget()

    def _established(self, sock: RemoteSocket) -> None:
        if sock is self.sock and self.world.now_ns < self._down_until_ns:
            # the proxy accepts, finds no server, and closes
            self.world.call_after(0, sock.close)

    def _closed(self, sock: RemoteSocket) -> None:
        if sock is self.sock:
            self.forget()

    def _data(self, sock: RemoteSocket, content: list[Content]) -> None:
        if sock is self.sock and self.world.now_ns >= self._down_until_ns:
            for chunk in content:
                self.up.push(chunk)

    def _taken(self, size_bytes: int) -> None:
        if self.sock is not None:
            self.sock.was_read(size_bytes)

    def _receive(self, chunk: Any) -> None:
        now_ns = self.world.now_ns
        try:
            requests = self.connection.receive(chunk)
        except RemoteProtocolError:
            self.reset()
            return
        for say in self.connection.chunks_to_send():
            self.down.push(say)
        for request in requests:
            due = _Due(self.service.due_ns(request, now_ns), request)
            self.world.call_at(due.due_ns, self._due, due, self._epoch)

    def _due(self, due: _Due, epoch: int) -> None:
        if epoch != self._epoch:
            return
        due_ns = self.service.disk.due_ns(due.due_ns)
        if due_ns > self.world.now_ns:
            self.world.call_at(due_ns, self._due, due, epoch)
            return
        for chunk in self.connection.reply(due.request.xid, self.service.execute(due.request)):
            self.down.push(chunk)

    def _say(self, chunk: Content) -> None:
        if self.sock is not None:
            self.sock.write([chunk])

    def reset(self) -> None:
        """Close the connection once, on both sides of the proxy."""
        self.forget()
        if self.sock is not None:
            self.sock.close()

    def half_open(self, until_ns: int) -> None:
        """Forget the connection without telling the client, who hears nothing until then, and then a RST."""
        self.forget()
        if self.sock is not None:
            self.sock.forget(until_ns)

    def restart(self, until_ns: int) -> None:
        """Kill the server; until it is back connections are accepted and closed."""
        self.service.restart(until_ns)
        self._down_until_ns = until_ns
        self.reset()

    def stall(self, until_ns: int) -> None:
        """Let nothing move; the connection stays up."""
        self.up.stalled_until_ns = self.down.stalled_until_ns = until_ns

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return self.sock.digest() if self.sock is not None else ()
