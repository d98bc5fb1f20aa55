"""The timer of a connection follows its deadline."""

from collections.abc import Callable
from typing import Any

from netvm.net.tcp_timer import OWNED_RETRY_NS, TcpTimer
from netvm.units import NS_PER_MS

Host = Any


class Connection:
    """Something with a deadline, and when it expired."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.deadline_ns: int | None = None
        self.owned = False
        self.expired_ms: list[float] = []
        self.timer = TcpTimer(
            host.world, "test", deadline_ns=lambda: self.deadline_ns, expire=self.expire, is_owned=lambda: self.owned
        )

    def expire(self) -> None:
        """Note when."""
        self.expired_ms.append(self.host.world.now_ns / NS_PER_MS)
        self.deadline_ns = None

    def set(self, deadline_ms: int | None) -> None:
        """Move the deadline and follow it."""
        self.deadline_ns = None if deadline_ms is None else deadline_ms * NS_PER_MS
        self.timer.arm()


def expirations(host: Host, *steps: tuple[int, int | None]) -> list[float]:
    """Set deadlines ``(at_ms, deadline_ms)``; return when the connection expired."""
    connection = Connection(host)

    async def body(task: Any) -> None:
        for at_ms, deadline_ms in steps:
            await host.pause(task, at_ms * NS_PER_MS - host.world.now_ns)
            connection.set(deadline_ms)
        await host.pause(task, 1000 * NS_PER_MS)

    host.run(body)
    return connection.expired_ms


def test_timer_expires_at_the_deadline(net_host: Callable[..., Host]) -> None:
    """Once, at the tick that ends its bucket, and not without one; one that has passed is over at the next tick."""
    assert expirations(net_host(), (1, 50)) == [52]
    assert expirations(net_host(), (1, None)) == []
    assert expirations(net_host(), (30, 20)) == [32]


def test_timer_follows_a_deadline_that_moves(net_host: Callable[..., Host]) -> None:
    """Earlier, later, gone, and set again."""
    assert expirations(net_host(), (1, 50), (2, 20)) == [24]
    assert expirations(net_host(), (1, 50), (2, 90)) == [92]
    assert expirations(net_host(), (1, 50), (2, None)) == []
    assert expirations(net_host(), (1, 50), (2, None), (3, 60)) == [64]
    assert expirations(net_host(), (1, 50), (60, 70)) == [52, 72]


def test_timer_of_an_owned_socket_is_deferred(net_host: Callable[..., Host]) -> None:
    """While a task owns the socket nothing expires."""
    host = net_host()
    connection = Connection(host)
    connection.owned = True

    async def body(task: Any) -> None:
        connection.set(10)
        await host.pause(task, 15 * NS_PER_MS)
        assert connection.expired_ms == []
        connection.owned = False
        await host.pause(task, 1000 * NS_PER_MS)

    host.run(body)
    # looked at when its bucket of 12 ms ends, again ten jiffies and one later
    assert connection.expired_ms == [12 + 4 + OWNED_RETRY_NS / NS_PER_MS]


def test_cancelled_timer_never_expires(net_host: Callable[..., Host]) -> None:
    """Cancelling twice is fine."""
    host = net_host()
    connection = Connection(host)

    async def body(task: Any) -> None:
        connection.set(10)
        connection.timer.cancel()
        connection.timer.cancel()
        await host.pause(task, 100 * NS_PER_MS)

    host.run(body)
    assert connection.expired_ms == []
