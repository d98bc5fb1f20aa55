"""Streams and links: what two endpoints say to each other, and the wire it takes.

A :class:`StreamLog` is one direction of one connection's content: chunks in the order they were written. TCP carries
only sequence numbers; the receiving end reads the content of what has become readable out of the sender's log, by
reference. TCP delivers in order and exactly once, so nothing is lost by that.

A :class:`LinkDirection` is one way of a wire: packets are serialised at its bandwidth, wait in a bounded queue,
travel for its delay, and may be lost, doubled or overtaken. It can be down (packets vanish) or stalled (packets
wait). A GSO packet travels as one, taking the time of all its frames.

# MODEL: loss, reordering and duplication are drawn per packet, GSO packets included, not per frame.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from netvm.net.tcp.segment import Segment
from netvm.runtime.seeds import Stream
from netvm.runtime.world import World
from netvm.units import NS_PER_S, NS_PER_US

__all__ = [
    "HEADER_BYTES",
    "Content",
    "Endpoint",
    "LinkDirection",
    "Packet",
    "StreamLog",
    "connect_streams",
    "content_part",
    "content_size",
]

HEADER_BYTES = 66
"""Ethernet, IP and TCP with timestamps: what each frame adds to its payload."""

_LOST, _LATE, _TWICE = 1, 2, 3
"""Mishaps of a packet."""


class Payload(Protocol):
    """Content by reference."""

    @property
    def size_bytes(self) -> int:
        """Length on the wire."""
        ...

    def part(self, start: int, stop: int) -> Any:
        """Return bytes ``start`` to ``stop`` of it."""
        ...

    def to_bytes(self) -> bytes:
        """Return the bytes a real wire would carry."""
        ...


Content: TypeAlias = bytes | Payload


def content_size(content: Content) -> int:
    """Return the length of a chunk in bytes."""
    return len(content) if isinstance(content, bytes) else content.size_bytes


def content_part(content: Content, start: int, stop: int) -> Content:
    """Return bytes ``start`` to ``stop`` of a chunk."""
    if isinstance(content, bytes):
        return content[start:stop]
    part: Content = content.part(start, stop)
    return part


class StreamLog:
    """What one end has written and the other not yet read."""

    __slots__ = ("_chunks", "read_bytes", "written_bytes")

    def __init__(self) -> None:
        self._chunks: deque[Content] = deque()
        self.written_bytes = 0
        self.read_bytes = 0

    def write(self, content: Content) -> None:
        """Append a chunk."""
        self._chunks.append(content)
        self.written_bytes += len(content) if isinstance(content, bytes) else content.size_bytes

    def read(self, size_bytes: int) -> list[Content]:
        """Take exactly ``size_bytes`` from the front."""
        assert self.read_bytes + size_bytes <= self.written_bytes
        self.read_bytes += size_bytes
        taken: list[Content] = []
        while size_bytes:
            chunk = self._chunks.popleft()
            size = len(chunk) if isinstance(chunk, bytes) else chunk.size_bytes
            if size > size_bytes:
                taken.append(content_part(chunk, 0, size_bytes))
                self._chunks.appendleft(content_part(chunk, size_bytes, size))
                break
            taken.append(chunk)
            size_bytes -= size
        return taken


class Endpoint(Protocol):
    """Where a packet is going: known only after it was received."""

    def take(self, packet: "Packet", skb: Any) -> None:
        """Take a packet and the memory it came in (None for an endpoint without emulated memory)."""
        ...


class Packet(NamedTuple):
    """One packet on a wire: a TCP segment (perhaps GSO), or a datagram."""

    to: Endpoint
    segment: Segment | None
    size_bytes: int
    """Payload."""
    nr_frames: int = 1
    content: Any = None
    """A datagram's own."""


class LinkDirection:
    """One way of a wire."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        bandwidth_bytes_per_s: int,
        delay_us: int,
        queue_packets: int,
        deliver: Callable[[Packet], None],
        loss: float = 0.0,
        reorder: float = 0.0,
        duplicate: float = 0.0,
    ) -> None:
        self.world = world
        self.name = name
        self.bandwidth = bandwidth_bytes_per_s
        self.delay_ns = delay_us * NS_PER_US
        self.queue_packets = queue_packets
        self.deliver = deliver
        self.loss = loss
        self.reorder = reorder
        self.duplicate = duplicate
        self.burst_loss = 0.0
        self.is_down = False
        self.stalled_until_ns = 0
        self.nr_queued = 0
        self.free_at_ns = 0
        self.nr_lost = 0
        self.nr_overflowed = 0
        self._random: Stream = world.seeds.stream(f"link.{name}")

    def serialised_ns(self, packet: Packet) -> int:
        """Return how long the packet occupies the wire."""
        if not self.bandwidth:
            return 0
        return (packet.size_bytes + packet.nr_frames * HEADER_BYTES) * NS_PER_S // self.bandwidth

    def send(self, packet: Packet) -> bool:
        """Queue a packet; False if the queue was full and dropped it."""
        if self.nr_queued >= self.queue_packets:
            self.nr_overflowed += 1
            return False
        now_ns = self.world.now_ns
        start_ns = max(now_ns, self.free_at_ns, self.stalled_until_ns)
        self.free_at_ns = start_ns + self.serialised_ns(packet)
        # a probability of zero draws nothing, so a good link need not ask
        chance = self._random.chance
        if self.is_down or (self.loss and chance(self.loss)) or (self.burst_loss and chance(self.burst_loss)):
            self.nr_lost += 1
            return True
        arrive_ns = self.free_at_ns + self.delay_ns
        mishap = self.world.mishap("packet", 4) if self.world.mishaps else 0
        if mishap == _LOST:
            self.nr_lost += 1
            return True
        if mishap == _LATE:
            arrive_ns += self.delay_ns + self.serialised_ns(packet)
        if self.reorder and chance(self.reorder):
            arrive_ns += self.delay_ns + self.serialised_ns(packet)
        self.nr_queued += 1
        self.world.call_at(arrive_ns, self._arrived, packet)
        if mishap == _TWICE or (self.duplicate and chance(self.duplicate)):
            self.nr_queued += 1
            self.world.call_at(arrive_ns, self._arrived, packet)
        return True

    def _arrived(self, packet: Packet) -> None:
        self.nr_queued -= 1
        if self.stalled_until_ns > self.world.now_ns:
            self.nr_queued += 1
            self.world.call_at(self.stalled_until_ns, self._arrived, packet)
            return
        if self.is_down:
            self.nr_lost += 1
            return
        self.deliver(packet)


class _StreamEnd(Protocol):
    """What a socket of either kind has of a connection."""

    peer: Endpoint
    outgoing: StreamLog
    incoming: StreamLog

    def take(self, packet: Packet, skb: Any) -> None:
        """Take a packet."""
        ...


def connect_streams(one: _StreamEnd, other: _StreamEnd) -> None:
    """Make two sockets each other's peers, with a fresh log each way."""
    one.peer, other.peer = other, one
    one.outgoing = other.incoming = StreamLog()
    other.outgoing = one.incoming = StreamLog()
