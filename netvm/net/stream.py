"""A socket as a trio stream: code written for trio runs unchanged over the emulated wire.

A task of the world that uses a stream runs the socket's calls itself. Any other trio task (a client under test, say)
has an emulated task run them: it costs that world's CPU time and memory like any program, may sleep in it, and is
killed when the caller is cancelled.

Closing is tcp_close(): data that nobody will read is answered with a reset, so the peer's sends fail in the end.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import outcome
import trio

from netvm.net.sock import TcpSock
from netvm.runtime.task import Task

__all__ = ["SocketStream"]

RECEIVE_BYTES = 65536

T = TypeVar("T")


class SocketStream(trio.abc.Stream):
    """One end of an established connection."""

    def __init__(self, sock: TcpSock) -> None:
        self.sock = sock
        self._closed = False
        self._sending = False
        self._receiving = False

    async def _in_world(self, function: Callable[[Task], Awaitable[T]]) -> T:
        """Run a call of the socket as the world's running task, or as a task made for it."""
        world = self.sock.world
        caller = world.caller()
        if caller is not None:
            return await function(caller)
        await trio.lowlevel.checkpoint()
        done = trio.Event()
        results: list[outcome.Outcome[T]] = []

        async def body(task: Task) -> None:
            results.append(await outcome.acapture(function, task))

        helper = world.spawn(f"stream {self.sock.name}", body)
        helper.on_exit.append(lambda _task: done.set())
        try:
            await done.wait()
        except trio.Cancelled:
            helper.kill()
            raise
        return results[0].unwrap()

    def _check(self, *, busy: bool) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if busy:
            raise trio.BusyResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes. Raises trio.BrokenResourceError if the connection is gone."""
        self._check(busy=self._sending)
        self._sending = True
        try:
            error = await self._in_world(lambda task: self.sock.sendmsg(task, [bytes(data)], more=False))
        finally:
            self._sending = False
        self._check(busy=False)
        if error:
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the send buffer, or no connection."""
        self._check(busy=self._sending)
        self._sending = True
        try:
            await self._in_world(self._wait_for_space)
        finally:
            self._sending = False
        self._check(busy=False)

    async def _wait_for_space(self, task: Task) -> None:
        sock = self.sock
        while sock.established and not sock.mem.stream_memory_free() and not self._closed:
            await sock.send_space_wait.wait(task, interruptible=True)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to ``max_bytes``; empty at the end of the stream. Raises ValueError below one."""
        if max_bytes is None:
            max_bytes = RECEIVE_BYTES
        elif not isinstance(max_bytes, int):
            raise TypeError("max_bytes must be an int")
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        self._check(busy=self._receiving)
        size_bytes = max_bytes
        self._receiving = True
        try:
            return await self._in_world(lambda task: self._receive(task, size_bytes))
        finally:
            self._receiving = False

    async def _receive(self, task: Task, size_bytes: int) -> bytes:
        sock = self.sock
        while not sock.readable_bytes and not sock.eof and not self._closed:
            await sock.readable_wait.wait(task, interruptible=True)
        self._check(busy=False)
        got = await sock.recvmsg(task, size_bytes, wait_all=False)
        return b"".join(chunk if isinstance(chunk, bytes) else chunk.to_bytes() for chunk in got)

    async def aclose(self) -> None:
        """Close the connection: what was sent still arrives. Nothing is waited for."""
        if not self._closed:
            self._closed = True
            self.sock.tcp_close()
            self.sock.readable_wait.wake_all()
            self.sock.send_space_wait.wake_all()
        if self.sock.world.caller() is None:
            await trio.lowlevel.checkpoint()
