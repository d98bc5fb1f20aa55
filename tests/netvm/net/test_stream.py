"""A socket is a trio stream, for tasks of the world and for any other trio task."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import check_one_way_stream, check_two_way_stream

from netvm.net.stream import SocketStream
from netvm.runtime.clock import VirtualClock
from netvm.units import NS_PER_MS

Host = Any


def beside_the_world(host: Host, body: Callable[[], Awaitable[None]]) -> None:
    """Run ``body`` as an ordinary trio task while the host's world runs."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.world.run, lambda: None)
            await trio.lowlevel.checkpoint()
            await body()
            host.world.stop()

    trio.run(main, clock=VirtualClock())


async def stream_pair(host: Host, **options: Any) -> tuple[SocketStream, SocketStream]:
    """Return both ends of a connection over loopback."""
    one, other = host.loopback_pair(**options)
    one.connect()
    while not (one.established and other.established):
        await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
    return SocketStream(one), SocketStream(other)


@pytest.mark.slow
def test_is_a_one_way_stream_in_each_direction(net_host: Callable[..., Host]) -> None:
    """Trio's own check of what every stream must do."""
    host = net_host(nic="", zones=(("DMA32", 8192),), free=8000)

    async def swapped() -> tuple[SocketStream, SocketStream]:
        one, other = await stream_pair(host)
        return other, one

    async def body() -> None:
        await check_one_way_stream(lambda: stream_pair(host), None)
        await check_one_way_stream(swapped, None)

    beside_the_world(host, body)


@pytest.mark.slow
def test_is_a_two_way_stream(net_host: Callable[..., Host]) -> None:
    """Trio's check of two directions at once, with more data than the buffers hold."""
    host = net_host(nic="", zones=(("DMA32", 8192),), free=8000)

    async def body() -> None:
        await check_two_way_stream(lambda: stream_pair(host), None)

    beside_the_world(host, body)


def test_tasks_of_the_world_use_it_in_their_own_name(net_host: Callable[..., Host]) -> None:
    """No other task is made, and what is sent arrives in order."""
    host = net_host(nic="")

    async def body(task: Any) -> None:
        one, other = host.loopback_pair()
        one.connect()
        await host.pause(task, NS_PER_MS)
        sender, receiver = SocketStream(one), SocketStream(other)
        nr_tasks = len(host.world.tasks)
        await sender.wait_send_all_might_not_block()
        await sender.send_all(b"hello")
        await sender.send_all(bytearray(b", world"))
        await host.pause(task, NS_PER_MS)
        assert len(host.world.tasks) == nr_tasks
        assert await receiver.receive_some(5) == b"hello"
        assert await receiver.receive_some() == b", world"
        await sender.aclose()
        assert await receiver.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await sender.send_all(b"")
        await receiver.aclose()
        await host.pause(task, 10_000 * NS_PER_MS)

    host.run(body)
    assert host.skbs.nr_skbs == 0


def test_wait_for_space_ends_when_the_peer_reads(net_host: Callable[..., Host]) -> None:
    """A full send buffer blocks until there is room again."""
    host = net_host(nic="")

    async def body(task: Any) -> None:
        one, other = host.loopback_pair(sndbuf=8192, rcvbuf=8192)
        one.connect()
        await host.pause(task, NS_PER_MS)
        sender, receiver = SocketStream(one), SocketStream(other)
        log: list[str] = []

        async def send(_task: Any) -> None:
            await sender.send_all(bytes(50_000))
            log.append("sent")

        host.world.spawn("sender", send)
        await host.pause(task, 100 * NS_PER_MS)
        assert log == []
        got = 0
        while got < 50_000:
            got += len(await receiver.receive_some())
        await sender.wait_send_all_might_not_block()
        assert log == ["sent"]

    host.run(body)
