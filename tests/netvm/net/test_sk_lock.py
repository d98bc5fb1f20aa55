"""The socket lock: who owns it, what waits meanwhile, and how much of it."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.mm.gfp import PF_MEMALLOC
from netvm.net.sk_lock import SK_BACKLOG_EXTRA, SocketLock
from netvm.net.sk_memory import SockMemory
from netvm.units import NS_PER_MS

Host = Any


def lock_of(host: Host, seen: list[tuple[Any, Any, int]], **buffers: int) -> SocketLock:
    """Return a lock whose socket notes what it is given: packet, context and its flags."""
    mem = SockMemory(host.stack.tcp_memory, **({"rcvbuf": 1000, "sndbuf": 2000} | buffers))

    def receive(packet: Any, skb: Any, context: Any) -> None:
        seen.append((packet, context, context.flags))
        if skb is not None:
            host.skbs.kfree_skb(skb)

    return SocketLock(host.stack, "test", mem, receive)


def test_lock_is_had_by_one_at_a_time_first_come_first(net_host: Callable[..., Host]) -> None:
    """A second task sleeps until the first lets go."""
    host = net_host()
    lock = lock_of(host, [])
    order: list[str] = []

    async def other(task: Any, name: str) -> None:
        await lock.lock_sock(task)
        order.append(name)
        lock.release_sock(task)

    async def body(task: Any) -> None:
        await lock.lock_sock(task)
        assert lock.owner is task
        for name in "ab":
            host.world.spawn(name, other, name)
        await host.pause(task, NS_PER_MS)
        assert order == []
        lock.release_sock(task)
        await host.pause(task, NS_PER_MS)
        assert order == ["a", "b"]
        assert lock.owner is None

    host.run(body)


@pytest.mark.parametrize("memalloc_socks", [0, 1])
def test_backlog_is_processed_by_who_lets_go(net_host: Callable[..., Host], memalloc_socks: int) -> None:
    """In order, in the owner's context, and a reserve packet with PF_MEMALLOC while any storage socket exists."""
    host = net_host()
    seen: list[tuple[Any, Any, int]] = []
    lock = lock_of(host, seen)
    host.skbs.nr_memalloc_socks = memalloc_socks

    async def body(task: Any) -> None:
        await lock.lock_sock(task)
        for name in ("plain", "reserve", "after"):
            skb = host.skbs.napi_alloc_skb(host.softirq)
            skb.pfmemalloc = name == "reserve"
            lock.add_backlog(name, skb)
        assert (len(lock), lock.backlog_bytes) == (3, 3 * 1280)
        lock.release_sock(task)
        expected = PF_MEMALLOC if memalloc_socks else 0
        assert [(name, flags & PF_MEMALLOC) for name, _, flags in seen] == [
            ("plain", 0),
            ("reserve", expected),
            ("after", 0),
        ]
        assert {context for _, context, _ in seen} == {task}
        assert not task.flags & PF_MEMALLOC

    host.run(body)
    assert host.skbs.nr_skbs == 0
    assert lock.backlog_bytes == 0


def test_a_lock_taken_anew_lets_the_backlog_in_between(net_host: Callable[..., Host]) -> None:
    """What came is processed in the owner's context, and it owns the socket again; with nothing there it keeps it."""
    host = net_host()
    seen: list[tuple[Any, Any, int]] = []
    lock = lock_of(host, seen)

    async def body(task: Any) -> None:
        await lock.lock_sock(task)
        await lock.take_anew(task)
        assert (seen, lock.owner) == ([], task)
        lock.add_backlog("packet", None)
        await lock.take_anew(task)
        assert [(name, context) for name, context, _ in seen] == [("packet", task)]
        assert (lock.owner, len(lock)) == (task, 0)
        lock.release_sock(task)

    host.run(body)


def test_backlog_is_bounded_by_the_buffers(net_host: Callable[..., Host]) -> None:
    """Twice the receive buffer, half of the send buffer and 64 KiB; what is more is TCPBacklogDrop, memory and all."""
    host = net_host()
    lock = lock_of(host, [], rcvbuf=1280, sndbuf=2560)
    assert lock.limit_bytes() == 3 * 1280 + SK_BACKLOG_EXTRA
    fits = lock.limit_bytes() // 1280
    for _ in range(fits + 5):
        lock.add_backlog("packet", host.skbs.napi_alloc_skb(host.softirq))
    assert len(lock) == fits
    assert host.netstat["TCPBacklogDrop"] == 5
    assert host.skbs.nr_skbs == fits
    lock.purge()
    assert (len(lock), lock.backlog_bytes, host.skbs.nr_skbs) == (0, 0, 0)
