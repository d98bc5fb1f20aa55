"""One TCP endpoint: the join of its two halves, and the only door a shell needs (RFC 9293, Linux 6.1).

The endpoint holds no bytes, no memory, no clock and no chance: it is told sizes and ``now_ns`` and answers with
segments and facts. The shell around it owns sk_buffs, timers and links. What a shell does:

*Opening.* ``TcpConnection(config)`` then :meth:`~TcpConnection.connect`; or :meth:`~TcpConnection.from_syn` for a SYN
that a listener received. Then announce the receive space (:meth:`~TcpConnection.set_receive_space`) and transmit.

*Transmitting*, after each call that may have changed something (``append``, ``close``, ``receive``, a timer)::

    while (segment := connection.next_segment(now_ns)) is not None:
        if no memory:            connection.send_failed(segment, now_ns, congestion=False); break
        elif queue dropped it:   connection.send_failed(segment, now_ns, congestion=True); break
        else:                    connection.sent(segment, now_ns); hand it to the link
    if connection.ack_due is AckDue.NOW:
        segment = connection.ack_segment(now_ns)
        if no memory:            connection.ack_failed(now_ns)
        else:                    connection.sent(segment, now_ns); hand it to the link

Report what became of a segment before asking anything else. The loop must run to its end (or to a failure) even if
there is little hope: that is where a timer is set when nothing is in flight. An acknowledgement that the host's own
queue drops counts as sent, as in Linux.

*Receiving.* Find memory for the segment's data, announce the space left, then :meth:`~TcpConnection.receive`; or,
without memory, :meth:`~TcpConnection.receive_ack_only`; then transmit. :class:`~netvm.net.tcp.facts.Receipt` says what
became of the data; sk_buffs below ``snd_una`` are free. After the application read, announce the space and call
:meth:`~TcpConnection.cleanup_rbuf`; then transmit.

*Time.* :meth:`~TcpConnection.timer_ns` is the next deadline and :attr:`~TcpConnection.timer_kind` what it is for; at
the deadline (or later) call :meth:`~TcpConnection.handle_timer`, then transmit.

# MODEL: no listen queue, SYN cookies, Fast Open, urgent data, ECN, keepalive or path MTU discovery; a passive endpoint
# exists from the SYN on, where Linux keeps a smaller request socket. Challenge acknowledgements are not rate-limited.
# Half-closed sockets wait for the peer for ever (no ``tcp_fin_timeout``, no orphans).
"""

from netvm.errors import Errno
from netvm.net.tcp.config import TCPOLEN_TSTAMP_ALIGNED, Counters, TcpConfig, new_counters
from netvm.net.tcp.facts import Receipt, TcpInfo, TimerFact, tcp_info
from netvm.net.tcp.receiver import AckDue, Disposition, Receiver
from netvm.net.tcp.rto import TimerKind
from netvm.net.tcp.segment import ACK, FIN, RST, SYN, Segment
from netvm.net.tcp.sender import Sender
from netvm.net.tcp.state import CAN_RECEIVE, CAN_SEND, RESETS_PEER, TcpEvent, TcpState, next_state

__all__ = ["TcpConnection"]


# An Enum member read from a module is ten times faster than from its class, and these are read for each segment.
_ACK_NOW = AckDue.NOW
_CLOSED = TcpState.CLOSED
_ESTABLISHED = TcpState.ESTABLISHED
_NO_DATA = Disposition.NONE


class TcpConnection:
    """One endpoint."""

    __slots__ = ("_receiver", "_sender", "_time_wait_ns", "config", "counters", "error", "state", "window")

    def __init__(self, config: TcpConfig, *, iss: int = 0, counters: Counters | None = None) -> None:
        self.config = config
        self.counters = new_counters() if counters is None else counters
        # invariant: only _step assigns it
        self.state = TcpState.CLOSED
        self.error: Errno | None = None
        self._sender = Sender(config, self.counters, iss=iss)
        self._receiver = Receiver(config, self.counters, self._sender.rtt)
        self.window = self._receiver.window
        """What bounds the window that is offered: a shell that tunes its buffer moves its clamp."""
        self._time_wait_ns: int | None = None

    @classmethod
    def from_syn(
        cls, config: TcpConfig, syn: Segment, now_ns: int, *, iss: int = 0, counters: Counters | None = None
    ) -> "TcpConnection":
        """Return the endpoint that answers a SYN (RFC 9293 section 3.10.7.2)."""
        assert syn.flags & (SYN | ACK | RST) == SYN
        connection = cls(config, iss=iss, counters=counters)
        connection._step(TcpEvent.PASSIVE_OPEN)
        connection._take_syn(syn, TcpEvent.RCV_SYN)
        connection._sender.open(now_ns, syn_retries=config.synack_retries)
        return connection

    # Calls of the application

    def connect(self, now_ns: int) -> None:
        """Open actively: a SYN is to be sent."""
        self._step(TcpEvent.ACTIVE_OPEN)
        self._sender.open(now_ns, syn_retries=self.config.syn_retries)

    def append(self, size_bytes: int, now_ns: int, *, new_skb: bool) -> None:
        """Queue data whose memory the shell holds, in a new sk_buff or at the end of the last one.

        The last one may be extended while :attr:`tail_extendable`.
        """
        assert self.state is _ESTABLISHED or self.state in CAN_SEND
        self._sender.append(size_bytes, now_ns, new_skb=new_skb)

    def push(self) -> None:
        """Mark all queued data as pushed: the segment that ends it carries PSH (``tcp.c:tcp_mark_push``)."""
        queue = self._sender.queue
        queue.pushed_seq = queue.write_seq

    def set_cork(self, corked: bool) -> bool:
        """Hold partial packets (TCP_CORK) or not, and return whether they were; MSG_MORE is for one call."""
        queue = self._sender.queue
        was, queue.corked = queue.corked, corked
        return was

    def open_window(self, space_bytes: int, *, rmem_max_bytes: int) -> int:
        """Choose the first window of a buffer that is tuned; return what the reader may take in a round trip before.

        ``space_bytes`` is its window part (``tcp_full_space``), ``rmem_max_bytes`` the most it may become. Without this
        call the window has no bounds but the space that is announced.
        """
        config = self.config
        options = TCPOLEN_TSTAMP_ALIGNED if config.timestamps and self.state is _CLOSED else 0
        self.window.open(space_bytes, syn_mss_bytes=config.mss_bytes + options, rmem_max_bytes=rmem_max_bytes)
        return min(self.window.ssthresh_bytes, config.init_cwnd * config.mss_bytes)

    def set_receive_space(
        self, free_bytes: int, *, full_bytes: int | None = None, under_pressure: bool = False
    ) -> None:
        """Announce what the receive buffer can take now (``tcp_space``) and, if it changed, its size."""
        self.window.announce(free_bytes, full_bytes, under_pressure=under_pressure)

    def cleanup_rbuf(self, copied_bytes: int, *, drained: bool) -> None:
        """Say that the application read; an acknowledgement that opens the window may become due."""
        if self.state is _ESTABLISHED or self.state in CAN_RECEIVE:
            self._receiver.cleanup_rbuf(copied_bytes, drained=drained)

    def prune_out_of_order(self, above_seq: int) -> None:
        """Forget data kept out of order from ``above_seq`` on: the shell needed its memory."""
        self._receiver.prune(above_seq)

    def close(self) -> None:
        """Send a FIN after what is queued (RFC 9293 section 3.10.4); before ESTABLISHED it waits."""
        assert self._sender.queue.fin_seq is None
        if self.state is TcpState.SYN_SENT:
            self._die(None, TcpEvent.CLOSE)
            return
        self._sender.queue.close()
        if self.state is not TcpState.SYN_RECEIVED:
            self._step(TcpEvent.CLOSE)

    def abort(self) -> Segment | None:
        """End the connection; return the RST to send, if the state has one (RFC 9293 section 3.10.5).

        Nothing is to be reported of that RST: whatever becomes of it, the connection is over.
        """
        assert self.state is not TcpState.CLOSED
        reset = None
        if self.state in RESETS_PEER:
            reset = Segment(self._sender.snd_nxt, 0, self._receiver.rcv_nxt, 0, RST | ACK)
        self._die(None, TcpEvent.ABORT)
        return reset

    # Transmitting

    def next_segment(self, now_ns: int, *, more: bool = False, max_bytes: int | None = None) -> Segment | None:
        """Return what is to be sent next, or None; see the module's loop.

        ``more`` is MSG_MORE of the call that asks: hold the last partial packet (TCP_NAGLE_CORK, for this call only).
        ``max_bytes`` bounds the segment below GSO's limit, to no less than one packet.
        """
        sender = self._sender
        queue, rtx = sender.queue, sender.rtx
        all_sent = queue.write_seq == sender.snd_nxt and queue.fin_seq is None
        if all_sent and sender.established and not sender.probe_due and rtx.lost_out <= rtx.retrans_out:
            # most calls ask after the last segment has gone
            return None
        plan = sender.plan(now_ns, more=more, max_bytes=max_bytes or self.config.gso_max_bytes)
        if plan is None:
            return None
        if plan[2] & SYN:
            return self._syn_segment(plan[0], now_ns)
        return self._segment(*plan, now_ns)

    def ack_segment(self, now_ns: int) -> Segment:
        """Return a pure acknowledgement."""
        assert self.state is not _CLOSED
        return self._segment(self._sender.snd_nxt, 0, ACK, now_ns)

    def _segment(self, seq: int, size_bytes: int, flags: int, now_ns: int) -> Segment:
        receiver = self._receiver
        ack = receiver.rcv_nxt
        window = receiver.select_window()
        if not self.config.timestamps:
            return Segment(seq, size_bytes, ack, window, flags, receiver.sacks)
        return Segment(seq, size_bytes, ack, window, flags, receiver.sacks, now_ns, receiver.ts_recent_ns)

    def _syn_segment(self, seq: int, now_ns: int) -> Segment:
        """Return the SYN, which acknowledges if the peer's SYN is known."""
        flags = SYN if self.state is TcpState.SYN_SENT else SYN | ACK
        segment = self._segment(seq, 0, flags, now_ns)
        window_bytes = min(segment.window_bytes, self.window.syn_bytes)
        return segment._replace(mss_bytes=self.config.mss_bytes, window_bytes=window_bytes)

    def sent(self, segment: Segment, now_ns: int) -> None:
        """Note that a segment of :meth:`next_segment` or :meth:`ack_segment` left the host."""
        if segment.size_bytes or segment.flags & (SYN | FIN) or segment.seq < self._sender.snd_una:
            self._sender.sent(segment, now_ns)
        self._receiver.ack_sent(segment, now_ns)

    def send_failed(self, segment: Segment, now_ns: int, *, congestion: bool) -> None:
        """Note that a segment of :meth:`next_segment` did not leave.

        ``congestion`` false is a negative errno: no memory for it. True is a positive code: the queueing discipline
        dropped it.
        """
        self._sender.send_failed(segment, now_ns, congestion=congestion)

    def ack_failed(self, now_ns: int) -> None:
        """Note that there was no memory for the segment of :meth:`ack_segment`."""
        self._receiver.ack_failed(now_ns)

    # Receiving

    def receive_ack_only(self, segment: Segment, now_ns: int) -> Receipt:
        """Take a segment's header only: there was no memory for its data, and the peer is not told.

        Mirrors the drop in ``tcp_input.c:tcp_data_queue`` (TCPRcvQDrop), which comes after ``tcp_ack``.
        """
        return self.receive(segment, now_ns, take_data=False)

    def receive(self, segment: Segment, now_ns: int, *, take_data: bool = True, truesize_bytes: int = 0) -> Receipt:
        """Take a segment in the order of RFC 9293 section 3.10.7.4: window, RST, SYN, ACK, data, FIN.

        ``truesize_bytes`` is what the data's sk_buff takes.
        """
        state = self.state
        established = False
        if state is not _ESTABLISHED:
            if state is TcpState.SYN_SENT:
                return self._receive_in_syn_sent(segment, now_ns)
            if state is _CLOSED:
                return Receipt(disposition=Disposition.IGNORED)
            established = state is TcpState.SYN_RECEIVED
        sender = self._sender
        receiver = self._receiver
        seq = segment.seq
        flags = segment.flags
        end = segment.end if flags & (SYN | FIN) else seq + segment.size_bytes
        if not receiver.acceptable(seq, end):
            return self._refuse(segment, now_ns)
        if flags & (RST | SYN) or not flags & ACK or segment.ack > sender.snd_nxt:
            receipt = self._receive_odd(segment)
            if receipt is not None:
                return receipt
        receiver.take_timestamp(segment)
        if established and not self._receive_ack_of_syn(segment):
            return self._challenge()
        prior_una = sender.snd_una
        opened = sender.acknowledge(segment, now_ns)
        acked_bytes = self._acked(prior_una, now_ns) if sender.snd_una != prior_una else 0
        if self.state is _CLOSED:
            return Receipt(acked_bytes, 0, Disposition.IGNORED, closed=True)
        if end == seq:
            return Receipt(acked_bytes, 0, _NO_DATA, opened, established)
        if not take_data:
            return Receipt(acked_bytes, 0, Disposition.REFUSED, opened, established)
        if self.state is not _ESTABLISHED and self.state not in CAN_RECEIVE:
            return self._receive_late(acked_bytes, now_ns, opened=opened)
        if flags & FIN:
            receiver.fin_end = end
        prior_nxt = receiver.rcv_nxt
        receiver.measure(segment, now_ns)
        disposition = receiver.accept(seq, end, segment.size_bytes, now_ns, truesize_bytes=truesize_bytes)
        readable_bytes = receiver.rcv_nxt - prior_nxt
        if receiver.rcv_nxt != receiver.fin_end or not readable_bytes:
            return Receipt(acked_bytes, readable_bytes, disposition, opened, established)
        self._step(TcpEvent.RCV_FIN, now_ns)
        receiver.ack_at_once()
        return Receipt(acked_bytes, readable_bytes - 1, disposition, opened, established, fin=True)

    def _acked(self, prior_una: int, now_ns: int) -> int:
        """Return how much data, without SYN and FIN, was acknowledged since ``prior_una``; step if the FIN was."""
        sender = self._sender
        una = sender.snd_una
        fin_seq = sender.queue.fin_seq
        if fin_seq is not None and una > fin_seq:
            self._step(TcpEvent.RCV_ACK_OF_FIN, now_ns)
            una = fin_seq
        return una - max(prior_una, sender.iss + 1)

    def _refuse(self, segment: Segment, now_ns: int) -> Receipt:
        """Answer a segment outside the window with where we are, unless it is a RST (``tcp_validate_incoming``)."""
        if segment.flags & RST:
            return Receipt(disposition=Disposition.IGNORED)
        receiver = self._receiver
        if not segment.size_bytes:
            return self._challenge()
        receiver.disorder(now_ns)
        old = segment.end <= receiver.rcv_nxt
        return Receipt(disposition=Disposition.DUPLICATE if old else Disposition.OUT_OF_WINDOW, challenge=True)

    def _challenge(self) -> Receipt:
        self._receiver.ack_at_once()
        self.counters["TCPChallengeACK"] += 1
        return Receipt(disposition=Disposition.IGNORED, challenge=True)

    def _receive_odd(self, segment: Segment) -> Receipt | None:
        """Handle what is not a plain acknowledgement; return None to go on with it as one."""
        flags = segment.flags
        rcv_nxt = self._receiver.rcv_nxt
        if flags & RST:
            # RFC 5961 section 3.2: only the exact number resets.
            if segment.seq != rcv_nxt:
                return self._challenge()
            self._die(None if self.state is TcpState.TIME_WAIT else Errno.ECONNRESET, TcpEvent.ABORT)
            return Receipt(disposition=Disposition.IGNORED, closed=True)
        if flags & SYN:
            # RFC 5961 section 4.2, but for a repeated SYN and the answer in a simultaneous open.
            if self.state is not TcpState.SYN_RECEIVED or segment.seq != rcv_nxt - 1:
                return self._challenge()
            if not flags & ACK:
                self._sender.resend_syn()
                return Receipt()
        if not flags & ACK:
            return Receipt(disposition=Disposition.IGNORED)
        return self._challenge() if segment.ack > self._sender.snd_nxt else None

    def _receive_ack_of_syn(self, segment: Segment) -> bool:
        """Establish a connection whose SYN is acknowledged; return False if it is not."""
        if segment.ack != self._sender.iss + 1:
            return False
        self._sender.establish(segment)
        self._step(TcpEvent.RCV_ACK_OF_SYN)
        if self._sender.queue.fin_seq is not None:
            self._step(TcpEvent.CLOSE)
        return True

    def _receive_late(self, acked_bytes: int, now_ns: int, *, opened: bool) -> Receipt:
        """Acknowledge again what comes after the peer's FIN: our acknowledgement of it was lost."""
        if self.state is TcpState.TIME_WAIT:
            self._time_wait_ns = now_ns + self.config.time_wait_ns
        self._receiver.ack_at_once()
        return Receipt(acked_bytes, 0, Disposition.DUPLICATE, opened)

    def _receive_in_syn_sent(self, segment: Segment, now_ns: int) -> Receipt:
        """Take the answer to our SYN (RFC 9293 section 3.10.7.3)."""
        flags = segment.flags
        sender = self._sender
        if flags & ACK and segment.ack != sender.snd_nxt:
            return Receipt(disposition=Disposition.IGNORED)
        if flags & RST:
            if not flags & ACK:
                return Receipt(disposition=Disposition.IGNORED)
            self._die(Errno.ECONNREFUSED, TcpEvent.ABORT)
            return Receipt(disposition=Disposition.IGNORED, closed=True)
        if not flags & SYN:
            return Receipt(disposition=Disposition.IGNORED)
        self._take_syn(segment, TcpEvent.RCV_SYN_ACK if flags & ACK else TcpEvent.RCV_SYN)
        if not flags & ACK:
            sender.resend_syn()
            return Receipt()
        sender.establish(segment)
        opened = sender.acknowledge(segment, now_ns)
        self._receiver.ack_at_once()
        return Receipt(window_opened=opened, established=True)

    def _take_syn(self, syn: Segment, event: TcpEvent) -> None:
        self._receiver.open(syn)
        self._sender.take_mss(syn.mss_bytes)
        self._step(event)

    # Time

    def timer_ns(self) -> int | None:
        """Return the next deadline, or None."""
        deadline_ns = self._sender.timer.deadline_ns
        delack_ns = self._receiver.delack_ns
        if delack_ns is not None and (deadline_ns is None or delack_ns < deadline_ns):
            deadline_ns = delack_ns
        return self._time_wait_ns if deadline_ns is None else deadline_ns

    @property
    def timer_kind(self) -> TimerKind | None:
        """What the next deadline is for: RETRANSMIT, PROBE and ACK_RETRY only try again what was tried."""
        deadline_ns = self.timer_ns()
        if deadline_ns is None:
            return None
        if deadline_ns == self._sender.timer.deadline_ns:
            return self._sender.timer.kind
        if deadline_ns == self._receiver.delack_ns:
            return TimerKind.ACK_RETRY if self._receiver.ack_retries else TimerKind.DELACK
        return TimerKind.TIME_WAIT

    def handle_timer(self, now_ns: int) -> tuple[TimerFact, ...]:
        """Act on every deadline that has come, and say what that asks of the shell."""
        facts: list[TimerFact] = []
        receiver = self._receiver
        if receiver.delack_ns is not None and receiver.delack_ns <= now_ns:
            receiver.handle_delack_timer()
            facts.append(TimerFact.ACK)
        timer = self._sender.timer
        if timer.deadline_ns is not None and timer.deadline_ns <= now_ns:
            if timer.kind is TimerKind.RETRANSMIT:
                facts.append(TimerFact.RETRANSMIT)
                alive = self._sender.handle_retransmit_timer(now_ns)
            else:
                facts.append(TimerFact.PROBE)
                alive = self._sender.handle_probe_timer(now_ns)
            if not alive:
                self.counters["TCPAbortOnTimeout"] += 1
                self._die(Errno.ETIMEDOUT, TcpEvent.ABORT)
                return (TimerFact.TIMED_OUT,)
        if self._time_wait_ns is not None and self._time_wait_ns <= now_ns:
            self._step(TcpEvent.TIME_WAIT_OVER)
            facts.append(TimerFact.CLOSED)
        return tuple(facts)

    # State

    def _step(self, event: TcpEvent, now_ns: int = 0) -> None:
        """Move to the next state of the table; the only place that does."""
        self.state = next_state(self.state, event)
        if self.state is TcpState.TIME_WAIT:
            self._time_wait_ns = now_ns + self.config.time_wait_ns
        elif self.state is TcpState.CLOSED:
            self._time_wait_ns = None
            self._sender.clear()
            self._receiver.clear()

    def _die(self, error: Errno | None, event: TcpEvent) -> None:
        self.error = error
        self._step(event)
        assert self.state is TcpState.CLOSED
        assert self.timer_ns() is None

    @property
    def snd_una(self) -> int:
        """The oldest sequence number not acknowledged; data begins at ``iss + 1``."""
        return self._sender.snd_una

    @property
    def snd_nxt(self) -> int:
        """The next sequence number to send; a segment below it is a retransmission or a probe."""
        return self._sender.snd_nxt

    @property
    def write_seq(self) -> int:
        """The end of all queued data."""
        return self._sender.queue.write_seq

    @property
    def rcv_nxt(self) -> int:
        """The next sequence number expected."""
        return self._receiver.rcv_nxt

    @property
    def ack_due(self) -> AckDue:
        """Whether an acknowledgement waits: at once, for the delayed-ACK timer, or none."""
        return self._receiver.ack_due

    @property
    def owes_ack(self) -> bool:
        """Whether an acknowledgement is to be sent at once."""
        return self._receiver.ack_due is _ACK_NOW and self.state is not _CLOSED

    @property
    def tail_extendable(self) -> bool:
        """Whether the last sk_buff has an unsent part that data may be added to."""
        return len(self._sender.queue) > 0

    @property
    def size_goal_bytes(self) -> int:
        """How far to fill an sk_buff before beginning another (``tcp_send_mss``)."""
        return self._sender.size_goal_bytes

    @property
    def cwnd(self) -> int:
        """The congestion window in packets."""
        return self._sender.recovery.cc.cwnd

    @property
    def out_of_order(self) -> tuple[tuple[int, int], ...]:
        """Ranges kept ahead of a hole."""
        return self._receiver.out_of_order

    def info(self) -> TcpInfo:
        """Return what ``ss -ti`` shows."""
        return tcp_info(self.state, self.timer_kind, self._sender, self._receiver)

    def digest(self) -> tuple[object, ...]:
        """Return a hashable picture of the state without clock, round trips and backoff: equal if nothing changed."""
        return (
            self.state.value,
            self.error,
            self._time_wait_ns is not None,
            self._sender.digest(),
            self._receiver.digest(),
        )
