"""Sending without waiting for room: MSG_DONTWAIT.

sunrpc sends so (``XS_SENDMSG_FLAGS``): a worker that many calls share must not sleep because one peer is slow. What it
does sleep for is memory: the flag says nothing about the allocator, only about the send buffer.

MSG_MORE holds the last partial packet for one call: an acknowledgement that comes between two calls sends it. TCP_CORK
holds it until it is taken off.
"""

from netvm.errors import Errno
from netvm.net.sock import TcpSock
from netvm.net.wire import Content
from netvm.runtime.task import Task

__all__ = ["sendmsg_dontwait", "set_cork"]


async def set_cork(sock: TcpSock, task: Task, *, corked: bool) -> None:
    """Hold partial packets from now on, or send what was held (tcp_sock_set_cork of net/ipv4/tcp.c)."""
    await sock.lock_sock(task)
    if sock.established:
        sock.core.set_cork(corked)
        if not corked:
            sock.tcp_push_pending(task)
    sock.release_sock(task)


async def sendmsg_dontwait(sock: TcpSock, task: Task, piece: Content, start: int, *, more: bool) -> tuple[int, bool]:
    """Copy as much of a piece, from ``start`` on, as there is room and memory for (tcp_sendmsg).

    Returns the bytes taken, or a negative errno, and whether it was the send buffer that had no room (SOCK_NOSPACE).
    """
    task.charge_ns += sock.stack.costs.sendmsg
    await sock.lock_sock(task)
    done = await sock.write_queue.tcp_sendmsg_locked(task, piece, start, more=more, timeo_ns=0)
    error = -int(Errno.EAGAIN if sock.established else Errno.EPIPE)
    sock.release_sock(task)
    if task.cpus is not None:
        await task.cpus.cond_resched(task)
    return done or error, sock.short_of == "room"
