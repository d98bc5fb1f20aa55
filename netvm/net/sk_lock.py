"""The socket lock and its backlog.

Mirrors ``lock_sock``, ``release_sock`` and ``tcp_add_backlog`` (net/core/sock.c, net/ipv4/tcp_ipv4.c) of 6.1. While a
task owns a socket, packets for it wait in a backlog and hold their memory; when the task lets go it processes them
itself, those that came in reserve memory under PF_MEMALLOC. The backlog is bounded by the socket's buffers.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from netvm.mm.gfp import PF_MEMALLOC, GfpScope
from netvm.net.sk_memory import SockMemory
from netvm.net.skb import Skb
from netvm.net.stack import NetStack
from netvm.net.wire import Packet
from netvm.runtime.task import Resource, Task
from netvm.runtime.wait import WaitQueue

__all__ = ["SocketLock"]

SK_BACKLOG_EXTRA: Final = 64 * 1024


class SocketLock:
    """Who owns a socket, and what came for it meanwhile."""

    __slots__ = ("_backlog", "_mem", "_receive", "_stack", "_wait", "backlog_bytes", "owner")

    def __init__(
        self, stack: NetStack, name: str, mem: SockMemory, receive: Callable[[Packet, Skb | None, Task], None]
    ) -> None:
        self._stack = stack
        self._mem = mem
        self._receive = receive
        self._backlog: deque[tuple[Packet, Skb | None]] = deque()
        self.backlog_bytes = 0
        self.owner: Task | None = None
        """Who holds the socket lock."""
        self._wait = WaitQueue(stack.world, Resource("lock", f"sk_lock of {name}", self._owners))

    def __len__(self) -> int:
        return len(self._backlog)

    def _owners(self) -> list[Task]:
        return [self.owner] if self.owner is not None else []

    async def lock_sock(self, task: Task) -> None:
        """Own the socket: packets for it wait in the backlog."""
        while self.owner is not None:
            await self._wait.wait(task)
        self.owner = task

    def release_sock(self, task: Task) -> None:
        """Let go of the socket; what came meanwhile is processed in this task's context."""
        assert self.owner is task
        while self._backlog:
            packet, skb = self._backlog.popleft()
            self.backlog_bytes -= skb.truesize if skb is not None else 0
            if skb is not None and skb.pfmemalloc and self._stack.skbs.memalloc_socks:
                with GfpScope(task, PF_MEMALLOC):
                    self._receive(packet, skb, task)
            else:
                self._receive(packet, skb, task)
        self.owner = None
        self._wait.wake_one()

    async def take_anew(self, task: Task) -> None:
        """Let go and own it again, as between two calls; nobody sees it unless packets or another task wait."""
        if self._backlog or (task.cpus is not None and task.cpus.need_resched):
            self.release_sock(task)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
            await self.lock_sock(task)

    def add_backlog(self, packet: Packet, skb: Skb | None) -> None:
        """Keep a packet for the owner, unless the backlog is full (tcp_add_backlog)."""
        size = skb.truesize if skb is not None else 0
        if self.backlog_bytes + size > self.limit_bytes():
            self._stack.netstat.add("TCPBacklogDrop")
            if skb is not None:
                self._stack.skbs.kfree_skb(skb)
            return
        self._backlog.append((packet, skb))
        self.backlog_bytes += size

    def limit_bytes(self) -> int:
        """Return how much may wait."""
        return 2 * self._mem.rcvbuf + self._mem.sndbuf // 2 + SK_BACKLOG_EXTRA

    def purge(self) -> None:
        """Free what waits."""
        while self._backlog:
            _packet, skb = self._backlog.popleft()
            if skb is not None:
                self._stack.skbs.kfree_skb(skb)
        self.backlog_bytes = 0

    def digest(self) -> int:
        """Return what of its state could make a retry succeed.

        Probes of the peer pile up behind a lock whose owner does not let go, and help nobody before it does.
        """
        return len(self._backlog) if self.owner is None else -1
