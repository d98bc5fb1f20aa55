"""Links and stream logs, each against a model that cannot be wrong."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.net.wire import HEADER_BYTES, Packet, StreamLog, connect_streams, content_part, content_size
from netvm.units import NS_PER_MS, NS_PER_S, NS_PER_US

Host = Any


class Reference:
    """Content by reference: part of the alphabet repeated."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    @property
    def size_bytes(self) -> int:
        """Length."""
        return self.stop - self.start

    def part(self, start: int, stop: int) -> "Reference":
        """Part of it."""
        return Reference(self.start + start, self.start + stop)

    def to_bytes(self) -> bytes:
        """Its bytes."""
        return bytes(index % 251 for index in range(self.start, self.stop))


def as_bytes(content: list[Any]) -> bytes:
    """Return what chunks are on a real wire."""
    return b"".join(chunk if isinstance(chunk, bytes) else chunk.to_bytes() for chunk in content)


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(1, 99)), max_size=20), st.lists(st.integers(1, 50)))
def test_stream_log_is_a_queue_of_bytes(writes: list[bytes | int], reads: list[int]) -> None:
    """What is read, in whatever pieces, is what was written, bytes and references alike."""
    log, model = StreamLog(), b""
    for write in writes:
        chunk: Any = write if isinstance(write, bytes) else Reference(len(model), len(model) + write)
        log.write(chunk)
        model += as_bytes([chunk])
    assert log.written_bytes == len(model)
    done = 0
    for size in reads:
        size = min(size, len(model) - done)
        assert as_bytes(log.read(size)) == model[done : done + size]
        done += size
        assert log.read_bytes == done


def test_content_is_measured_and_cut() -> None:
    """Bytes and references have a size and parts."""
    assert (content_size(b"abc"), content_size(Reference(5, 9))) == (3, 4)
    assert content_part(b"abcdef", 2, 4) == b"cd"
    assert as_bytes([content_part(Reference(0, 9), 3, 5)]) == bytes([3, 4])


class End:
    """One end of a connection."""

    peer: Any
    outgoing: StreamLog
    incoming: StreamLog

    def take(self, packet: Any, skb: Any) -> None:
        """Nothing arrives."""


def test_connected_streams_cross() -> None:
    """What one end writes the other reads."""
    one, other = End(), End()
    connect_streams(one, other)
    assert (one.peer, other.peer) == (other, one)
    assert one.outgoing is other.incoming
    assert other.outgoing is one.incoming
    assert one.outgoing is not one.incoming


Arrivals = list[tuple[int, int]]


def on_link(host: Host, sends: list[tuple[int, int, int]], **chances: Any) -> tuple[Arrivals, Any, list[bool]]:
    """Send packets ``(gap_us, size, frames)``; return when which arrived, the link, and what send() said."""
    arrivals: Arrivals = []
    link = host.link("test", lambda packet: arrivals.append((host.world.now_ns, packet.size_bytes)), **chances)
    accepted: list[bool] = []

    async def body(task: Any) -> None:
        for gap_us, size, frames in sends:
            await host.pause(task, gap_us * NS_PER_US)
            accepted.append(link.send(Packet(host.sink(), None, size, frames)))
        await host.pause(task, 1000 * NS_PER_S)

    host.run(body)
    return arrivals, link, accepted


@settings(max_examples=30, deadline=None)
@given(
    sends=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3000), st.integers(1, 3)), max_size=15),
    bandwidth=st.sampled_from([0, 1_000_000, 12_500_000]),
    delay_us=st.sampled_from([0, 100, 5000]),
    queue=st.integers(1, 6),
)
def test_link_is_a_queue_behind_a_serialiser(
    net_host: Callable[..., Host], sends: list[tuple[int, int, int]], bandwidth: int, delay_us: int, queue: int
) -> None:
    """Each packet leaves when the one before has, takes its bytes over the bandwidth, and arrives a delay later."""
    host = net_host(nic="")
    arrivals, link, accepted = on_link(
        host, sends, bandwidth_bytes_per_s=bandwidth, delay_us=delay_us, queue_packets=queue
    )
    model: Arrivals = []
    now = free_at = 0
    for index, (gap_us, size, frames) in enumerate(sends):
        now += gap_us * NS_PER_US
        # one that arrives at this very instant may or may not have made room
        inside = [sum(1 for when, _ in model if when > now), sum(1 for when, _ in model if when >= now)]
        if accepted[index]:
            assert inside[0] < queue
            wire = (size + frames * HEADER_BYTES) * NS_PER_S // bandwidth if bandwidth else 0
            free_at = max(now, free_at) + wire
            model.append((free_at + delay_us * NS_PER_US, size))
        else:
            assert inside[1] >= queue
    assert arrivals == model
    assert link.nr_overflowed == accepted.count(False)
    assert link.nr_queued == 0


@pytest.mark.parametrize("loss", [0.0, 0.25, 1.0])
def test_lost_packets_take_the_wire_and_vanish(net_host: Callable[..., Host], loss: float) -> None:
    """Each packet arrives or is counted as lost; about the share asked for is lost."""
    host = net_host(nic="")
    arrivals, link, accepted = on_link(host, [(10, 100, 1)] * 400, loss=loss)
    assert all(accepted)
    assert len(arrivals) + link.nr_lost == 400
    assert abs(link.nr_lost - 400 * loss) <= 40
    if loss in (0.0, 1.0):
        assert link.nr_lost == 400 * loss


def test_duplicates_arrive_twice(net_host: Callable[..., Host]) -> None:
    """A doubled packet arrives again at the same instant."""
    host = net_host(nic="")
    arrivals, link, _ = on_link(host, [(10, size, 1) for size in range(5)], duplicate=1.0)
    assert [size for _, size in arrivals] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert link.nr_queued == 0


def test_reordered_packets_are_overtaken(net_host: Callable[..., Host]) -> None:
    """A late packet takes its delay twice, so those behind it come first."""
    host = net_host(nic="")
    arrivals, _, _ = on_link(host, [(10, size, 1) for size in range(50)], reorder=0.3, delay_us=1000)
    sizes = [size for _, size in arrivals]
    assert sorted(sizes) == list(range(50))
    assert sizes != sorted(sizes)
    late = {size for when, size in arrivals if when - (size + 1) * 10 * NS_PER_US > NS_PER_MS}
    assert 5 <= len(late) <= 25


def test_burst_loss_comes_on_top(net_host: Callable[..., Host]) -> None:
    """A fault's loss needs no loss of the link's own."""
    host = net_host(nic="")
    link = host.link("test", lambda packet: None)
    link.burst_loss = 1.0
    assert link.send(Packet(host.sink(), None, 100))
    assert (link.nr_lost, link.nr_queued) == (1, 0)


def test_down_link_loses_what_is_sent_and_what_is_under_way(net_host: Callable[..., Host]) -> None:
    """Packets that were on the wire when it went down do not arrive either."""
    host = net_host(nic="")
    arrived: list[Any] = []
    link = host.link("test", arrived.append, delay_us=1000)

    async def body(task: Any) -> None:
        link.send(Packet(host.sink(), None, 1))
        link.is_down = True
        link.send(Packet(host.sink(), None, 2))
        await host.pause(task, 10 * NS_PER_MS)
        link.is_down = False
        link.send(Packet(host.sink(), None, 3))
        await host.pause(task, 10 * NS_PER_MS)

    host.run(body)
    assert [packet.size_bytes for packet in arrived] == [3]
    assert link.nr_lost == 2


def test_stalled_link_holds_everything_back(net_host: Callable[..., Host]) -> None:
    """Nothing is lost, and nothing arrives before the stall ends."""
    host = net_host(nic="")
    arrivals: list[int] = []
    link = host.link("test", lambda packet: arrivals.append(host.world.now_ns), delay_us=1000)

    async def body(task: Any) -> None:
        link.send(Packet(host.sink(), None, 1))
        link.stalled_until_ns = 50 * NS_PER_MS
        link.send(Packet(host.sink(), None, 2))
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert arrivals == [50 * NS_PER_MS, 51 * NS_PER_MS]
    assert link.nr_queued == 0
