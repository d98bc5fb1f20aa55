"""Two endpoints, a shell around each, and a wire between them that does what a test tells it.

The shell here is the smallest that is right: it keeps sk_buff boundaries and one bit a byte, so that it can check that
a segment never spans two sk_buffs, that nothing beyond the peer's window is sent, and that each byte becomes readable
once and in order. Tests hand in what goes wrong: ``mangle`` for the wire, ``refuse`` for memory.
"""

import heapq
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.facts import Receipt, TimerFact
from netvm.net.tcp.receiver import AckDue, Disposition
from netvm.net.tcp.rto import TimerKind
from netvm.net.tcp.segment import ACK, RST, SYN, Segment
from netvm.net.tcp.state import TcpState

Mangle = Callable[[Segment, int], Iterable[tuple[int, Segment]]]
"""From a segment and its number, what arrives: extra delay and segment, any number of times."""

BUFFER_BYTES = 1 << 20


class Shell:
    """One endpoint with its memory, and the checks that hold at every step."""

    def __init__(self, wire: "Wire", name: str, connection: TcpConnection | None) -> None:
        self.wire = wire
        self.name = name
        self.peer: Shell = self
        self.connection = connection
        self.config = connection.config if connection else TcpConfig()
        self.buffer_bytes = BUFFER_BYTES
        self.reads_at_once = True
        self.unread_bytes = 0
        self.refuse: Callable[[Segment], str | None] = lambda segment: None
        self.refuse_data: Callable[[Segment], bool] = lambda segment: False
        self.more = False
        self.skb_ends: list[int] = []
        self.arrived = bytearray()
        self.readable_bytes = 0
        self.acked_bytes = 0
        self.peer_right_edge = 1
        self.receipts: list[Receipt] = []
        self.facts: list[tuple[int, TimerFact]] = []
        self.sent: list[tuple[int, Segment]] = []
        self.failed: list[tuple[int, Segment]] = []

    @property
    def c(self) -> TcpConnection:
        """The endpoint, which exists."""
        assert self.connection is not None
        return self.connection

    # The application

    def write(self, size_bytes: int, *, more: bool = False, skb_bytes: int | None = None) -> None:
        """Queue data as sendmsg does: fill the tail up to ``skb_bytes``, then new sk_buffs; then transmit."""
        goal = skb_bytes or self.c.size_goal_bytes
        while size_bytes:
            tail = 0
            if self.c.tail_extendable:
                tail = self.c.write_seq - (self.skb_ends[-2] if len(self.skb_ends) > 1 else self.c.snd_una)
            if 0 < tail < goal:
                piece = min(size_bytes, goal - tail)
                self.c.append(piece, self.wire.now_ns, new_skb=False)
                self.skb_ends[-1] += piece
            else:
                piece = min(size_bytes, goal)
                self.c.append(piece, self.wire.now_ns, new_skb=True)
                self.skb_ends.append(self.c.write_seq)
            size_bytes -= piece
        if not more:
            self.c.push()
        self.more = more
        self.transmit()
        self.more = False

    def read(self, size_bytes: int) -> None:
        """Read that much of what is readable; then transmit."""
        size_bytes = min(size_bytes, self.unread_bytes)
        self.unread_bytes -= size_bytes
        self.announce()
        self.c.cleanup_rbuf(size_bytes, drained=not self.unread_bytes)
        self.transmit()

    def announce(self, held_bytes: int = 0) -> None:
        """Tell the endpoint what the buffer can take, but for what is held."""
        free = self.buffer_bytes - self.unread_bytes - held_bytes - sum(b - a for a, b in self.c.out_of_order)
        self.c.set_receive_space(max(free, 0), full_bytes=self.buffer_bytes)

    # The stack

    def transmit(self) -> None:
        """Send what may be sent: the loop of ``TcpConnection``."""
        now_ns = self.wire.now_ns
        while (segment := self.c.next_segment(now_ns, more=self.more)) is not None:
            assert segment == self.c.next_segment(now_ns, more=self.more)
            self.check_segment(segment)
            why = self.refuse(segment)
            if why:
                self.failed.append((now_ns, segment))
                self.c.send_failed(segment, now_ns, congestion=why == "congestion")
                break
            self.leave(segment)
        if self.c.ack_due is AckDue.NOW and self.c.state is not TcpState.CLOSED:
            segment = self.c.ack_segment(now_ns)
            if self.refuse(segment):
                self.failed.append((now_ns, segment))
                self.c.ack_failed(now_ns)
            else:
                self.leave(segment)
        self.check()

    def leave(self, segment: Segment) -> None:
        """Let a segment go; nothing may pass the congestion window."""
        if segment.seq >= self.c.snd_nxt and segment.size_bytes:
            limit = self.c.info().snd_cwnd
            in_flight = self.in_flight()
            assert in_flight + -(-segment.size_bytes // self.c.config.mss_bytes) <= max(limit, 1)
            end = segment.seq + segment.size_bytes
            if end not in self.skb_ends:
                self.skb_ends.append(end)
                self.skb_ends.sort()
        self.c.sent(segment, self.wire.now_ns)
        self.sent.append((self.wire.now_ns, segment))
        self.wire.carry(self.peer, segment)

    def deliver(self, segment: Segment) -> None:
        """Take what the wire brings, with or without memory for it."""
        now_ns = self.wire.now_ns
        if self.connection is None:
            if segment.flags & (SYN | ACK | RST) != SYN:
                return
            self.connection = TcpConnection.from_syn(self.config, segment, now_ns, iss=0)
            self.announce()
            self.transmit()
            return
        before = self.c.rcv_nxt
        self.announce(segment.size_bytes)
        refused = bool(segment.size_bytes) and self.refuse_data(segment)
        receipt = (self.c.receive_ack_only if refused else self.c.receive)(segment, now_ns)
        self.receipts.append(receipt)
        self.take(segment, receipt, before)
        if receipt.acked_bytes:
            self.acked_bytes += receipt.acked_bytes
            self.skb_ends = [end for end in self.skb_ends if end > self.c.snd_una]
        self.peer_right_edge = max(self.peer_right_edge, segment.ack + segment.window_bytes)
        self.announce()
        if self.reads_at_once and self.unread_bytes:
            self.unread_bytes = 0
            self.announce()
            self.c.cleanup_rbuf(receipt.readable_bytes, drained=True)
        self.transmit()

    def take(self, segment: Segment, receipt: Receipt, before: int) -> None:
        """Keep one bit a byte: the dumbest model of a stream."""
        start = segment.seq - 1
        if receipt.disposition in (Disposition.IN_ORDER, Disposition.OUT_OF_ORDER) and segment.size_bytes:
            stop = start + segment.size_bytes
            if len(self.arrived) < stop:
                self.arrived.extend(bytes(stop - len(self.arrived)))
            self.arrived[start:stop] = b"\x01" * segment.size_bytes
        if receipt.readable_bytes:
            assert not any(
                b == 0 for b in self.arrived[self.readable_bytes : self.readable_bytes + receipt.readable_bytes]
            )
        self.readable_bytes += receipt.readable_bytes
        self.unread_bytes += receipt.readable_bytes
        advance = self.c.rcv_nxt - before
        if self.c.state not in (TcpState.CLOSED, TcpState.SYN_SENT) and before > 1:
            assert advance == receipt.readable_bytes + receipt.fin

    # The checks

    def in_flight(self) -> int:
        """Return packets in the network as far as is known."""
        info = self.c.info()
        return info.unacked - info.sacked - info.lost + info.retrans

    def check_segment(self, segment: Segment) -> None:
        """Check what is about to leave: windows and sk_buffs."""
        end = segment.seq + segment.size_bytes
        if segment.size_bytes:
            assert end <= self.peer_right_edge, "beyond the peer's window"
            assert segment.size_bytes <= self.config.gso_max_bytes
            assert not [e for e in self.skb_ends if segment.seq < e < end], "spans two sk_buffs"
            assert end <= self.c.write_seq
        assert segment.ack == self.c.rcv_nxt or not segment.flags & ACK

    def check(self) -> None:
        """Check what holds between any two events."""
        info = self.c.info()
        assert (self.c.timer_ns() is None) == (self.c.timer_kind is None)
        sender = self.c._sender
        if info.unacked:
            assert sender.timer.kind is TimerKind.RETRANSMIT
        elif (
            self.c.state is not TcpState.CLOSED
            and sender.established
            and sender.queue.head_bytes(self.c.snd_nxt) is not None
        ):
            assert sender.timer.kind is TimerKind.PROBE, "nobody will wake this sender"
        assert info.unacked >= info.sacked + info.lost
        assert info.lost >= info.retrans >= 0
        assert self.c.snd_una <= self.c.snd_nxt
        assert (self.c.ack_due is AckDue.DELAYED) == (self.c._receiver.delack_ns is not None)
        contiguous = [(skb.seq, skb.end) for skb in sender.rtx]
        assert all(before[1] == after[0] for before, after in pairwise(contiguous))
        if contiguous:
            assert (contiguous[0][0], contiguous[-1][1]) == (self.c.snd_una, self.c.snd_nxt)


class Wire:
    """Virtual time, latency, and whatever ``mangle`` does."""

    def __init__(
        self, *, client: TcpConfig | None = None, server: TcpConfig | None = None, latency_ns: int = 0
    ) -> None:
        self.now_ns = 0
        self.latency_ns = latency_ns
        self.mangle: Mangle = lambda segment, number: [(0, segment)]
        self.heap: list[tuple[int, int, Shell, Segment]] = []
        self.numbers = self.copies = 0
        self.events = 0
        self.client = Shell(self, "client", TcpConnection(client or TcpConfig()))
        self.server = Shell(self, "server", None)
        self.server.config = server or client or TcpConfig()
        self.client.peer, self.server.peer = self.server, self.client

    def carry(self, to: Shell, segment: Segment) -> None:
        """Put a segment on its way, as often and as late as ``mangle`` says."""
        number = self.numbers
        self.numbers += 1
        for extra_ns, copy in self.mangle(segment, number):
            self.copies += 1
            heapq.heappush(self.heap, (self.now_ns + self.latency_ns + extra_ns, self.copies, to, copy))

    def connect(self) -> None:
        """Run the handshake."""
        self.client.announce()
        self.client.c.connect(self.now_ns)
        self.client.transmit()
        self.run(lambda: self.client.c.state is TcpState.ESTABLISHED and self.server.connection is not None)
        self.run(lambda: self.server.c.state is TcpState.ESTABLISHED)

    def next_ns(self) -> int | None:
        """Return when the next thing happens."""
        timers = [shell.connection.timer_ns() for shell in (self.client, self.server) if shell.connection is not None]
        times = [at_ns for at_ns in timers if at_ns is not None]
        return min(times + [entry[0] for entry in self.heap[:1]], default=None)

    def step(self) -> bool:
        """Do the next thing; deliveries before timers of the same instant."""
        next_ns = self.next_ns()
        if next_ns is None:
            return False
        assert next_ns >= self.now_ns
        self.now_ns = next_ns
        self.events += 1
        if self.heap and self.heap[0][0] == next_ns:
            _, _, shell, segment = heapq.heappop(self.heap)
            shell.deliver(segment)
            return True
        for shell in (self.client, self.server):
            if shell.connection is not None and shell.c.timer_ns() == next_ns:
                shell.facts += [(next_ns, fact) for fact in shell.c.handle_timer(next_ns)]
                shell.transmit()
                return True
        raise AssertionError("no timer is due")

    def run(
        self, done: Callable[[], bool] = lambda: False, *, until_ns: int | None = None, events: int = 20_000
    ) -> None:
        """Go on until done, quiet, or ``until_ns``; more than ``events`` is a failure."""
        limit = self.events + events
        while not done():
            next_ns = self.next_ns()
            if next_ns is None or (until_ns is not None and next_ns > until_ns):
                self.now_ns = max(self.now_ns, until_ns or 0)
                break
            self.step()
            assert self.events < limit, "no end in sight"


@pytest.fixture(scope="session")
def make_wire() -> type[Wire]:
    """Return the class of wires: ``make_wire(client=TcpConfig(), latency_ns=...)``."""
    return Wire


@pytest.fixture
def wire() -> Wire:
    """Return a wire without latency whose two ends are connected, with Nagle off and Reno."""
    wire = Wire(client=TcpConfig(nodelay=True, congestion="reno"))
    wire.connect()
    return wire
