"""A socket as a trio stream: code written for trio runs unchanged over the emulated wire."""

import trio

from netvm.net.sock import TcpSock
from netvm.runtime.task import Task

__all__ = ["SocketStream"]


class SocketStream(trio.abc.Stream):
    """A socket as a trio stream: code written for trio runs unchanged over the emulated wire."""

    def __init__(self, sock: TcpSock) -> None:
        self.sock = sock

    def _task(self) -> Task:
        task = self.sock.world.current
        assert task is not None
        return task

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes. Raises trio.BrokenResourceError if the connection is gone."""
        if await self.sock.sendmsg(self._task(), [bytes(data)], more=False):
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the send buffer."""
        while not self.sock.mem.stream_memory_free():
            await self.sock.send_space_wait.wait(self._task(), interruptible=True)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes; empty at the end of the stream."""
        got = await self.sock.recvmsg(self._task(), max_bytes or 65536, wait_all=False)
        return b"".join(c if isinstance(c, bytes) else c.to_bytes() for c in got)

    async def aclose(self) -> None:
        """Close the connection in order."""
        self.sock.close()
