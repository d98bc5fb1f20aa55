"""The server on a machine of its own, asked over UDP: a datagram a call, a datagram a reply.

Nobody is connected: while the server is down calls go nowhere and are sent again. A call that came while it lived and
is to be answered after a restart is not.
"""

from typing import Any

from netvm.net.remote import RemoteDatagramSocket
from netvm.net.wire import Content
from netvm.runtime.world import World
from storage_backends.nfs.connection.server import NfsServerConnection, Request
from storage_backends.nfs.server.service import NfsService
from storage_backends.wire import Chunk, RemoteProtocolError, size_of

__all__ = ["DatagramNfsServer"]


class DatagramNfsServer:
    """The server's UDP socket and what it does for each datagram."""

    def __init__(self, world: World, service: NfsService, sock: RemoteDatagramSocket) -> None:
        self.world = world
        self.service = service
        self.sock = sock
        sock.on_datagram = self._receive
        self.connection = self._new()
        self._down_until_ns = 0
        self._stalled_until_ns = 0

    def _new(self) -> NfsServerConnection:
        connection = NfsServerConnection()
        connection.is_stream = False
        return connection

    def _receive(self, content: list[Content]) -> None:
        now_ns = self.world.now_ns
        if now_ns < self._down_until_ns:
            return
        if now_ns < self._stalled_until_ns:
            self.world.call_at(self._stalled_until_ns, self._receive, content)
            return
        chunks: Any = content
        connection = self.connection
        try:
            request = connection.receive_datagram(chunks)
        except RemoteProtocolError:
            return
        say = connection.chunks_to_send()
        if say:
            self._send(say)
        if request is not None:
            self.world.call_at(self.service.due_ns(request, now_ns), self._due, request, connection)

    def _due(self, request: Request, connection: NfsServerConnection) -> None:
        """Execute a call when the disk has done its part; a server that was restarted knows it no more."""
        if connection is not self.connection:
            return
        due_ns = max(self.service.disk.due_ns(self.world.now_ns), self._stalled_until_ns)
        if due_ns > self.world.now_ns:
            self.world.call_at(due_ns, self._due, request, connection)
            return
        self._send(connection.reply(request.xid, self.service.execute(request)))

    def _send(self, chunks: list[Chunk]) -> None:
        self.sock.send(list(chunks), sum(map(size_of, chunks)))

    def restart(self, until_ns: int) -> None:
        """Kill the server: what it was doing, and the replies it kept, are gone; it is back then."""
        self.service.restart(until_ns)
        self._down_until_ns = until_ns
        self.connection = self._new()

    def stall(self, until_ns: int) -> None:
        """Let the server answer nothing; what comes meanwhile waits in its socket."""
        self._stalled_until_ns = until_ns

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.connection.nr_repeated_calls,)
