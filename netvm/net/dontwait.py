"""Sending without waiting for room: MSG_DONTWAIT.

sunrpc sends so (``XS_SENDMSG_FLAGS``): a worker that many calls share must not sleep because one peer is slow. What it
does sleep for is memory: the flag says nothing about the allocator, only about the send buffer.
"""

from netvm.errors import Errno
from netvm.net.sock import TcpSock
from netvm.net.wire import Content, content_part, content_size
from netvm.runtime.task import Task

__all__ = ["sendmsg_dontwait"]


async def sendmsg_dontwait(sock: TcpSock, task: Task, piece: Content, start: int, *, more: bool) -> tuple[int, bool]:
    """Copy as much of a piece, from ``start`` on, as there is room and memory for (tcp_sendmsg).

    Returns the bytes taken, or a negative errno, and whether it was the send buffer that had no room (SOCK_NOSPACE).
    """
    task.charge_ns += sock.stack.costs.sendmsg
    await sock.lock_sock(task)
    end = content_size(piece)

    def copied(size_bytes: int) -> None:
        nonlocal start
        sock.outgoing.write(content_part(piece, start, start + size_bytes))
        start += size_bytes

    done, nospace = await sock.write_queue.copy_dontwait(
        task, end - start, copied, lambda: sock.push(task, more=more or start < end)
    )
    if done:
        sock.push(task, more=more or start < end)
    error = -int(Errno.EAGAIN if sock.established else Errno.EPIPE)
    sock.release_sock(task)
    if task.cpus is not None:
        await task.cpus.cond_resched(task)
    return done or error, nospace
