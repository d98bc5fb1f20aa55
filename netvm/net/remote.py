"""The other end of a wire: endpoints on a machine that is never short of anything.

A storage server outside the emulated host speaks the same TCP (:mod:`netvm.net.tcp`) but has all the memory and CPU it
wants: no packet of its own is ever counted or refused. Everything it does happens in atomic context when a segment
arrives, a timer fires or its application writes. A datagram socket there puts fragments together in a cache without
bounds but that of time.
"""

from collections.abc import Callable

from netvm.net.ip_fragment import Datagram, FragmentCache, fragments_of
from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.segment import SYN, Segment, packets_of, reset_for
from netvm.net.tcp.state import TcpState
from netvm.net.tcp_timer import TcpTimer
from netvm.net.wire import Content, Endpoint, LinkDirection, Packet, StreamLog
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat

__all__ = ["RemoteDatagramSocket", "RemoteSocket"]

RECEIVE_SPACE = 4 << 20
# read from a module a member of an Enum is ten times faster than from its class
_CLOSED = TcpState.CLOSED


class RemoteSocket:
    """A TCP socket outside the host."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        link: LinkDirection,
        config: TcpConfig | None = None,
        acks_every_frame: bool = False,
    ) -> None:
        self.world = world
        self.name = name
        self.link = link
        self.config = config or TcpConfig(nodelay=True)
        self.core: TcpConnection | None = None
        self.peer: Endpoint
        self.outgoing: StreamLog
        self.incoming: StreamLog
        self.readable_bytes = 0
        self.on_data: Callable[[list[Content]], None] | None = None
        self.on_established: Callable[[], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self.accepting = True
        self.acks_every_frame = acks_every_frame
        """Acknowledge each frame of a burst by itself, as user-mode network stacks do, instead of the burst."""
        self.receive_space = RECEIVE_SPACE
        """Its receive buffer, all of it window."""
        self.reads_at_once = True
        """The application reads what arrives; else it says when (:meth:`was_read`) and the window closes meanwhile."""
        self.unread_bytes = 0
        self._ack_frames = 1
        self.resets_from_ns: int | None = None
        """Not None: it has forgotten its connection, and says so from then on."""
        self._timer = TcpTimer(world, name, deadline_ns=self._deadline_ns, expire=self._timer_expired)

    @property
    def is_open(self) -> bool:
        """Whether the connection exists and can carry data."""
        return self.core is not None and self.core.state is TcpState.ESTABLISHED

    def take(self, packet: Packet, _skb: object) -> None:
        """Take a segment; data is handed to the application at once."""
        segment = packet.segment
        assert segment is not None
        now_ns = self.world.now_ns
        if self.core is None or self.core.state is _CLOSED:
            if self.resets_from_ns is not None and not segment.flags & SYN:
                self._refuse(segment)
            elif segment.flags & SYN and self.accepting:
                self.core = TcpConnection.from_syn(self.config, segment, now_ns)
                self.unread_bytes = 0
                self.core.set_receive_space(self.receive_space, full_bytes=self.receive_space)
                self._transmit()
            return
        self._ack_frames = packet.nr_frames if self.acks_every_frame else 1
        receipt = self.core.receive(segment, now_ns)
        if receipt.established and self.on_established is not None:
            self.on_established()
        self._transmit()
        if receipt.readable_bytes:
            content = self.incoming.read(receipt.readable_bytes)
            if not self.reads_at_once:
                self.unread_bytes += receipt.readable_bytes
                self.core.set_receive_space(max(0, self.receive_space - self.unread_bytes))
            if self.on_data is not None:
                self.on_data(content)
            if self.reads_at_once:
                self.core.cleanup_rbuf(receipt.readable_bytes, drained=True)
                self._transmit()
        if receipt.closed or receipt.fin:
            self._ended()

    def was_read(self, size_bytes: int) -> None:
        """Say that the application has read so much of what it was given: the window may open."""
        self.unread_bytes -= size_bytes
        assert self.unread_bytes >= 0
        if self.core is not None and self.core.state is not _CLOSED:
            self.core.set_receive_space(max(0, self.receive_space - self.unread_bytes))
            self.core.cleanup_rbuf(size_bytes, drained=not self.unread_bytes)
            self._transmit()

    def _ended(self) -> None:
        if self.on_closed is not None:
            self.on_closed()

    def write(self, content: list[Content]) -> None:
        """Send content; there is always room for it."""
        core = self.core
        if core is None or core.state is not TcpState.ESTABLISHED:
            return
        now_ns = self.world.now_ns
        limit = self.config.gso_max_bytes
        for piece in content:
            size = len(piece) if isinstance(piece, bytes) else piece.size_bytes
            self.outgoing.write(piece)
            while size:
                part = min(size, limit)
                core.append(part, now_ns, new_skb=not core.tail_extendable or part == limit)
                size -= part
        core.push()
        self._transmit()

    @property
    def unsent_bytes(self) -> int:
        """What was written and not yet acknowledged."""
        return self.core.write_seq - self.core.snd_una if self.core is not None else 0

    def forget(self, until_ns: int) -> None:
        """Lose the connection without a word (half-open, RFC 9293 section 3.5.1): nobody is answered until then.

        Afterwards a segment of the old connection is answered with a RST.
        """
        self.core = None
        self.resets_from_ns = until_ns

    def _refuse(self, segment: Segment) -> None:
        assert self.resets_from_ns is not None
        reset = reset_for(segment)
        if reset is not None and self.world.now_ns >= self.resets_from_ns:
            self._send(reset)

    def abort(self) -> None:
        """Reset the connection."""
        core = self.core
        if core is not None and core.state is not TcpState.CLOSED:
            reset = core.abort()
            if reset is not None:
                self._send(reset)
        self.core = None

    def close(self) -> None:
        """Close the connection in order."""
        core = self.core
        if core is not None and core.state is TcpState.ESTABLISHED:
            core.close()
            self._transmit()

    def _transmit(self) -> None:
        core = self.core
        assert core is not None
        now_ns = self.world.now_ns
        while (segment := core.next_segment(now_ns)) is not None:
            if not self._send(segment):
                core.send_failed(segment, now_ns, congestion=True)
                break
            core.sent(segment, now_ns)
        if core.owes_ack:
            segment = core.ack_segment(now_ns)
            core.sent(segment, now_ns)
            self.link.send(Packet(self.peer, segment, 0, self._ack_frames))
        self._ack_frames = 1
        self._timer.follow(core.timer_ns())

    def _send(self, segment: Segment) -> bool:
        size = segment.size_bytes
        nr_frames = packets_of(size, self.config.mss_bytes) if size > self.config.mss_bytes else 1
        return self.link.send(Packet(self.peer, segment, size, nr_frames))

    def _deadline_ns(self) -> int | None:
        return self.core.timer_ns() if self.core is not None else None

    def _timer_expired(self) -> None:
        core = self.core
        assert core is not None
        core.handle_timer(self.world.now_ns)
        if core.state is TcpState.CLOSED:
            self._ended()
            return
        self._transmit()

    def digest(self) -> tuple[object, ...]:
        """Return what of its state could make a retry succeed."""
        return self.core.digest() if self.core is not None else ()


class RemoteDatagramSocket:
    """A UDP socket outside the host."""

    def __init__(self, world: World, name: str, *, link: LinkDirection) -> None:
        self.name = name
        self.link = link
        self.fragments = FragmentCache(world, netstat=NetStat(), memory=None)
        self.peer: Endpoint
        self.peer_fragments: FragmentCache
        self.on_datagram: Callable[[list[Content]], None] | None = None
        self._ident = 0

    def take(self, packet: Packet, _skb: object) -> None:
        """Hand a datagram to the application."""
        if self.on_datagram is not None:
            self.on_datagram(packet.content)

    def send(self, content: list[Content], size_bytes: int) -> None:
        """Send a datagram, in fragments if it is too large for the wire."""
        self._ident += 1
        datagram = Datagram(self.name, self._ident, self.peer, size_bytes, content)
        for packet in fragments_of(datagram, self.peer_fragments):
            self.link.send(packet)
