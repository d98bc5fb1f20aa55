"""The receiving half: what arrived, what window to offer, and when to say so.

**Data** is judged by :meth:`Receiver.accept` (``net/ipv4/tcp_input.c:tcp_data_queue``): next in order, ahead of a hole,
already here, or beyond the window. What is ahead is kept as ranges, and reported in SACK blocks with the range that
changed last first (RFC 2018 section 4). The shell holds the bytes and may have to give up some that were SACKed but not
read: :meth:`Receiver.prune`.

**The window** is as large as :mod:`netvm.net.tcp.window` says; none at all while there is less than a packet or a
sixteenth of the buffer (silly window avoidance, RFC 9293 section 3.8.6.2.2); and the right edge never moves left
(``tcp_select_window``).

**An acknowledgement** is due at once, later, or not (:class:`AckDue`), by ``__tcp_ack_snd_check``: at once when more
than one packet is unacknowledged and the window can move, in quick-ACK mode (the first packets, and after any
disorder), or while there is a hole; else after the ACK timeout *ato*, which adapts to the sender's rhythm between 40
and 200 ms. A side that answers what it receives leaves quick-ACK mode and lets its data carry the acknowledgement
(*pingpong*). An acknowledgement that finds no memory is tried again after 200 ms, 400 ms, and so on
(``__tcp_send_ack``).

# MODEL: no D-SACK; no ACK compression (``tcp_comp_sack_*``): a hole is reported at each arrival.
"""

from enum import Enum, IntEnum, unique

from netvm.net.tcp.config import TCP_MSS_DEFAULT, Counters, TcpConfig
from netvm.net.tcp.rto import RttEstimator
from netvm.net.tcp.segment import NO_TIMESTAMP, SYN, SackBlock, Segment, packets_of
from netvm.net.tcp.window import ReceiveWindow
from netvm.units import NS_PER_MS

__all__ = ["AckDue", "Disposition", "Receiver"]

_NEVER_NS = -(1 << 62)
"""Long before the first packet."""


@unique
class AckDue(IntEnum):
    """Whether an acknowledgement waits to be sent."""

    NONE = 0
    DELAYED = 1
    NOW = 2


@unique
class Disposition(Enum):
    """What became of the data of a segment, so that the shell knows where its memory goes."""

    NONE = "no data"
    IN_ORDER = "in order"
    """Readable; what it joined up with is too."""
    OUT_OF_ORDER = "out of order"
    """To be kept until the hole before it is filled."""
    DUPLICATE = "duplicate"
    OUT_OF_WINDOW = "out of window"
    REFUSED = "refused"
    """The shell had no memory for it."""
    IGNORED = "ignored"
    """The state takes no data, or the segment was not acceptable for another reason."""


# An Enum member read from a module is ten times faster than from its class, and these are read for each segment.
_ACK_NONE = AckDue.NONE
_ACK_DELAYED = AckDue.DELAYED
_ACK_NOW = AckDue.NOW
_IN_ORDER = Disposition.IN_ORDER


class Receiver:
    """Sequence numbers up to ``rcv_nxt`` and beyond, and the acknowledgements owed for them."""

    __slots__ = (
        "_ato_ns",
        "_last_data_ns",
        "_last_ecr_ms",
        "_last_seg_bytes",
        "_ofo",
        "_pushed",
        "_quick",
        "_rcv_mss_bytes",
        "_rtt",
        "ack_due",
        "ack_retries",
        "config",
        "counters",
        "delack_ns",
        "fin_end",
        "pingpong",
        "rcv_nxt",
        "rcv_wnd_bytes",
        "rcv_wup",
        "sacks",
        "ts_recent_ns",
        "window",
    )

    def __init__(self, config: TcpConfig, counters: Counters, rtt: RttEstimator) -> None:
        self.config = config
        self.counters = counters
        self._rtt = rtt
        self.rcv_nxt = 0
        self.rcv_wup = 0
        """``rcv_nxt`` when the window was last advertised: Last.ACK.sent."""
        self.fin_end: int | None = None
        """End of the stream, its FIN included, once the peer told it."""
        self.rcv_wnd_bytes = 0
        """The window last advertised."""
        self.ts_recent_ns = NO_TIMESTAMP
        # invariant: disjoint, not touching, in order, above rcv_nxt
        self._ofo: list[SackBlock] = []
        # invariant: each is one of _ofo; the one that changed last comes first
        self.sacks: tuple[SackBlock, ...] = ()
        """The SACK blocks of the next segment."""
        self.window = ReceiveWindow(config.mss_bytes)
        self._rcv_mss_bytes = min(TCP_MSS_DEFAULT, config.mss_bytes)
        self.ack_due = _ACK_NONE
        self.delack_ns: int | None = None
        """When a delayed acknowledgement, or one that found no memory, goes."""
        self._ato_ns = 0
        self._quick = 0
        self.pingpong = False
        self._pushed = 0
        self.ack_retries = 0
        """``icsk_ack.retry``: acknowledgements in a row that found no memory."""
        self._last_data_ns = _NEVER_NS
        self._last_seg_bytes = 0
        self._last_ecr_ms = NO_TIMESTAMP

    def open(self, syn: Segment) -> None:
        """Take the peer's initial sequence number (RFC 9293 section 3.4.1)."""
        self.rcv_nxt = self.rcv_wup = syn.seq + 1
        self.ts_recent_ns = syn.ts_val_ns

    # The window

    @property
    def window_left_bytes(self) -> int:
        """What is left of the window the peer was told: ``tcp_receive_window``."""
        left = self.rcv_wup + self.rcv_wnd_bytes - self.rcv_nxt
        return max(left, 0)

    def select_window(self) -> int:
        """Return the window to advertise now: its right edge never moves left."""
        window = self._select()
        left = self.window_left_bytes
        if window >= left:
            return window
        if not window:
            self.counters["TCPWantZeroWindowAdv"] += 1
        return self.window.in_units(left)

    def _select(self) -> int:
        """Return the window there is room for; while it is short packets are not acknowledged one by one."""
        if self._quick and self.window.is_short:
            self._quick = 0
        return self.window.select(self._rcv_mss_bytes)

    # What arrived

    def acceptable(self, seq: int, end: int) -> bool:
        """Whether a segment touches the window (``tcp_input.c:tcp_sequence``; RFC 9293 section 3.10.7.4, first)."""
        wup = self.rcv_wup
        return end >= wup and (seq <= wup + self.rcv_wnd_bytes or seq <= self.rcv_nxt)

    def take_timestamp(self, segment: Segment) -> None:
        """Remember the clock to echo, of the segment that reaches the last acknowledgement (RFC 7323 section 4.3)."""
        if segment.ts_val_ns > self.ts_recent_ns and segment.seq <= self.rcv_wup:
            self.ts_recent_ns = segment.ts_val_ns

    def measure(self, segment: Segment, now_ns: int) -> None:
        """Look at the timestamp a segment with data echoes (``tcp_input.c:tcp_rcv_rtt_measure_ts``)."""
        ecr_ns = segment.ts_ecr_ns
        if ecr_ns != NO_TIMESTAMP and ecr_ns // NS_PER_MS != self._last_ecr_ms:
            self._last_ecr_ms = ecr_ns // NS_PER_MS
            if segment.size_bytes >= self._rcv_mss_bytes:
                self.window.echoed(ecr_ns, now_ns)

    def accept(self, seq: int, end: int, size_bytes: int, now_ns: int, *, truesize_bytes: int = 0) -> Disposition:
        """Take a segment's data (and FIN, which ``end`` counts) where it belongs, and decide about acknowledging it.

        ``truesize_bytes`` is what its sk_buff takes: the more of that is overhead, the slower the window grows.
        """
        assert end > seq
        rcv_nxt = self.rcv_nxt
        if end <= rcv_nxt:
            self.disorder(now_ns)
            return Disposition.DUPLICATE
        window_left = self.rcv_wup + self.rcv_wnd_bytes - rcv_nxt
        if window_left <= 0 or seq >= rcv_nxt + window_left:
            if window_left <= 0:
                self.counters["TCPZeroWindowDrop"] += 1
            self.disorder(now_ns)
            return Disposition.OUT_OF_WINDOW
        if seq > rcv_nxt:
            self.window.grow(size_bytes, truesize_bytes, self._rcv_mss_bytes)
            return self._accept_ahead(seq, end)
        self.rcv_nxt = end
        self._data_received(size_bytes, truesize_bytes, now_ns)
        filled = bool(self._ofo) and self._fill_hole()
        self._schedule_ack(now_ns, at_once=filled or bool(self._ofo))
        return _IN_ORDER

    def _accept_ahead(self, seq: int, end: int) -> Disposition:
        """Keep data ahead of a hole (``tcp_input.c:tcp_data_queue_ofo``); every arrival is reported at once."""
        self.ack_due = _ACK_NOW
        if any(start <= seq and end <= stop for start, stop in self._ofo):
            return Disposition.DUPLICATE
        self.counters["TCPOFOQueue"] += 1
        touching = [block for block in self._ofo if block[0] <= end and seq <= block[1]]
        for start, stop in touching:
            seq, end = min(seq, start), max(end, stop)
        joined = (seq, end)
        self._ofo = sorted([joined, *(block for block in self._ofo if block not in touching)])
        self.sacks = (joined, *(block for block in self.sacks if block not in touching))[: self.config.sack_blocks]
        assert self.rcv_nxt < seq
        return Disposition.OUT_OF_ORDER

    def _fill_hole(self) -> bool:
        """Move on over what was kept ahead; return whether no hole is left (``tcp_input.c:tcp_ofo_queue``)."""
        while self._ofo and self._ofo[0][0] <= self.rcv_nxt:
            self.rcv_nxt = max(self.rcv_nxt, self._ofo.pop(0)[1])
        self.sacks = tuple(block for block in self.sacks if block[0] > self.rcv_nxt)
        return not self._ofo

    def prune(self, above_seq: int) -> None:
        """Forget what was kept ahead from ``above_seq`` on: the shell gave its memory back.

        Mirrors ``tcp_input.c:tcp_prune_ofo_queue``. The peer was told otherwise and finds out when its timer fires
        (RFC 2018 section 8).
        """
        self._ofo = [(start, min(end, above_seq)) for start, end in self._ofo if start < above_seq]
        self.sacks = tuple((start, min(end, above_seq)) for start, end in self.sacks if start < above_seq)

    @property
    def out_of_order(self) -> tuple[SackBlock, ...]:
        """Ranges kept ahead of a hole."""
        return tuple(self._ofo)

    # When to say so

    def _data_received(self, size_bytes: int, truesize_bytes: int, now_ns: int) -> None:
        """Adapt to the peer's packets and rhythm (``tcp_input.c:tcp_event_data_recv``)."""
        config = self.config
        self._measure_rcv_mss(size_bytes)
        window = self.window
        if self.rcv_nxt >= window.passed_at_seq:
            window.window_passed(self.rcv_nxt, self.rcv_wnd_bytes, now_ns)
        ato_min_ns = config.ato_min_ns
        ato_ns = self._ato_ns
        if not ato_ns:
            self._quicken()
            self._ato_ns = ato_min_ns
        else:
            gap_ns = now_ns - self._last_data_ns
            if gap_ns <= ato_min_ns >> 1:
                self._ato_ns = (ato_ns >> 1) + (ato_min_ns >> 1)
            elif gap_ns < ato_ns:
                self._ato_ns = min((ato_ns >> 1) + gap_ns, self._rtt.rto_ns)
            elif gap_ns > self._rtt.rto_ns:
                self._quicken()
        self._last_data_ns = now_ns
        if window.grow(size_bytes, truesize_bytes, self._rcv_mss_bytes):
            self._quick |= 1

    def _measure_rcv_mss(self, size_bytes: int) -> None:
        """Follow the size of the peer's packets; two smaller ones of a size count too (``tcp_measure_rcv_mss``)."""
        if size_bytes >= self._rcv_mss_bytes:
            self._rcv_mss_bytes = min(size_bytes, self.config.mss_bytes)
            return
        if size_bytes >= TCP_MSS_DEFAULT:
            is_second = size_bytes == self._last_seg_bytes
            self._last_seg_bytes = size_bytes
            if is_second:
                self._rcv_mss_bytes = size_bytes
                return
        if size_bytes:
            self._pushed += 1

    def _quicken(self) -> None:
        """Acknowledge the next packets at once, enough for half a window (``tcp_incr_quickack``)."""
        quick = self.window_left_bytes // (2 * self._rcv_mss_bytes) or 2
        self._quick = max(self._quick, min(quick, self.config.max_quickacks))

    def disorder(self, now_ns: int) -> None:
        """Acknowledge at once, and the next packets too: the peer must learn where we are (``tcp_send_dupack``)."""
        self._quicken()
        self.pingpong = False
        self._ato_ns = self.config.ato_min_ns
        self._schedule_ack(now_ns, at_once=True)

    def _schedule_ack(self, now_ns: int, *, at_once: bool) -> None:
        """Owe an acknowledgement, now or later (``tcp_input.c:__tcp_ack_snd_check``; RFC 5681 section 4.2)."""
        if (
            at_once
            or (self._quick and not self.pingpong)
            or (self.rcv_nxt - self.rcv_wup > self._rcv_mss_bytes and self._select() >= self.rcv_wnd_bytes)
        ):
            self.ack_due = _ACK_NOW
        elif self.ack_due is not _ACK_NOW:
            self._delay_ack(now_ns)

    def _delay_ack(self, now_ns: int) -> None:
        """Set the timer of a delayed acknowledgement (``tcp_output.c:tcp_send_delayed_ack``)."""
        config = self.config
        ato_ns = self._ato_ns
        if ato_ns > config.delack_min_ns and self._rtt.measured:
            ato_ns = min(ato_ns, max(self._rtt.srtt_ns, config.delack_min_ns))
        ato_ns = min(ato_ns, config.delack_max_ns)
        deadline_ns = now_ns + ato_ns
        if self.delack_ns is not None:
            if self.delack_ns <= now_ns + (ato_ns >> 2):
                # It is about to fire: no need to wait for it.
                self.ack_due = _ACK_NOW
                return
            deadline_ns = min(deadline_ns, self.delack_ns)
        self.ack_due = _ACK_DELAYED
        self.delack_ns = deadline_ns

    def ack_at_once(self) -> None:
        """Owe an acknowledgement now: the segment was not acceptable, or a challenge (RFC 5961)."""
        self.ack_due = _ACK_NOW

    def ack_sent(self, segment: Segment, now_ns: int) -> None:
        """Note that a segment left that acknowledged and advertised (``tcp_event_ack_sent``, ``tcp_select_window``)."""
        assert segment.ack == self.rcv_nxt
        window = segment.window_bytes
        assert window >= self.rcv_wup + self.rcv_wnd_bytes - segment.ack
        if not window and self.rcv_wnd_bytes:
            self.counters["TCPToZeroWindowAdv"] += 1
        elif window and not self.rcv_wnd_bytes and not segment.flags & SYN:
            self.counters["TCPFromZeroWindowAdv"] += 1
        self.rcv_wnd_bytes = window
        self.rcv_wup = segment.ack
        if self._quick:
            self._quick -= packets_of(segment.size_bytes, self.config.mss_bytes)
            if self._quick <= 0:
                self._quick = 0
                self._ato_ns = self.config.ato_min_ns
        if segment.size_bytes and now_ns - self._last_data_ns < self._ato_ns:
            # An answer: tcp_event_data_sent.
            self.pingpong = True
        self.ack_due = _ACK_NONE
        self.delack_ns = None
        self.ack_retries = self._pushed = 0

    def ack_failed(self, now_ns: int) -> None:
        """Try again later, and later still: there was no memory for an acknowledgement (``__tcp_send_ack``)."""
        config = self.config
        delay_ns = config.delack_max_ns << self.ack_retries
        if delay_ns < config.rto_max_ns:
            self.ack_retries += 1
        self._ato_ns = config.ato_min_ns
        self.ack_due = _ACK_DELAYED
        self.delack_ns = now_ns + min(delay_ns, config.rto_max_ns)

    def handle_delack_timer(self) -> None:
        """Owe the acknowledgement now: nothing came to carry it (``tcp_timer.c:tcp_delack_timer_handler``)."""
        self.delack_ns = None
        if self.ack_due is _ACK_NONE:
            return
        if self.pingpong:
            self.pingpong = False
            self._ato_ns = self.config.ato_min_ns
        else:
            self._ato_ns = min(self._ato_ns << 1, self._rtt.rto_ns)
        self.ack_due = _ACK_NOW
        self.counters["DelayedACKs"] += 1

    def cleanup_rbuf(self, copied_bytes: int, *, drained: bool) -> None:
        """Owe an acknowledgement now if reading made one worth while (``tcp.c:tcp_cleanup_rbuf``).

        ``drained`` says that the receive queue is empty. The free space must have been announced before.
        """
        if self.ack_due is not _ACK_NONE:
            unanswered = self._pushed > 1 or (self._pushed == 1 and not self.pingpong)
            if self.rcv_nxt - self.rcv_wup > self._rcv_mss_bytes or (copied_bytes and drained and unanswered):
                self.ack_due = _ACK_NOW
        if copied_bytes and self.ack_due is not _ACK_NOW:
            left = self.window_left_bytes
            if 2 * left <= self.window.largest_bytes:
                window = self._select()
                if window and window >= 2 * left:
                    self.ack_due = _ACK_NOW

    def clear(self) -> None:
        """Forget what was owed and kept ahead."""
        self.ack_due = _ACK_NONE
        self.delack_ns = None
        self._ofo = []
        self.sacks = ()

    def digest(self) -> tuple[object, ...]:
        """Return what decides the next steps, without clock, rhythm and backoff."""
        return (
            self.rcv_nxt,
            self.rcv_wup,
            self.rcv_wnd_bytes,
            tuple(self._ofo),
            self.sacks,
            self.window.free_bytes,
            int(self.ack_due),
            self.delack_ns is not None,
            self.pingpong,
            self._quick > 0,
        )
