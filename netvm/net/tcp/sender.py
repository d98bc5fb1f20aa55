"""The sending half: what may leave now, what an acknowledgement means, and what to do when time runs out.

**Sending.** :meth:`Sender.plan` looks for the next thing to send, in this order: what is lost and not on its way again;
a window probe that is due; new data. It changes nothing (but see below). The shell then finds memory and reports
:meth:`Sender.sent` or :meth:`Sender.send_failed`. New data passes the gates of ``tcp_output.c:tcp_write_xmit``:
congestion window, peer window, Nagle or cork, the deferral of small bursts (``tcp_tso_should_defer``), and is cut to
what the windows and GSO allow.

**Failing to send.** The sign of Linux's error decides. *No memory* (negative): new data just stays queued, a timer's
retransmission or probe has backed off already. *Dropped by this host's own queue* (positive): the window is reduced,
and a timer's retransmission or probe is tried again in 500 ms without backoff.

**The persist timer is also a safety net.** When nothing is in flight and something is queued, for whatever reason
(closed window, cork, no memory), no acknowledgement will come to wake the sender, so the probe timer is set
(``tcp_check_probe_timer``). Linux does that at the end of each attempt to send; here it is done when
:meth:`Sender.plan` answers None or a send fails. That is the one thing ``plan`` may change, and asking twice changes
nothing more.

**Acknowledgements** follow ``tcp_input.c:tcp_ack``: update the window, tag what was SACKed, drop what is acknowledged,
measure the round trip, restart the timer, judge losses, grow the window; the last two are ``recovery``'s.

# MODEL: bursts are not paced; ``max_bytes`` is where a shell may put ``tcp_tso_autosize`` or its small-queue limit.
"""

from typing import Final

from netvm.net.tcp.config import TCP_MSS_DEFAULT, Counters, TcpConfig
from netvm.net.tcp.congestion import restart_after_idle
from netvm.net.tcp.recovery import CaState, Plan, Recovery
from netvm.net.tcp.rto import RetransmitTimer, RttEstimator, TimerKind
from netvm.net.tcp.scoreboard import NEVER_NS
from netvm.net.tcp.segment import ACK, FIN, NO_TIMESTAMP, PSH, SYN, Segment, packets_of
from netvm.net.tcp.send_queue import SendQueue
from netvm.units import NS_PER_MS

__all__ = ["Sender"]


_MIN_MSS_BYTES: Final = 68 - 32
"""What is left of the smallest MTU below the headers (RFC 791), with timestamps."""

# An Enum member read from a module is ten times faster than from its class, and these are read for each segment.
_PROBE = TimerKind.PROBE
_RETRANSMIT = TimerKind.RETRANSMIT
_OPEN = CaState.OPEN
_RECOVERY = CaState.RECOVERY


class Sender:
    """Sequence numbers from ``snd_una`` on, and everything that decides when they move."""

    __slots__ = (
        "_last_sent_ns",
        "_peer_mss_bytes",
        "_rto_resend",
        "_snd_wl1",
        "_syn_retries",
        "config",
        "counters",
        "established",
        "iss",
        "max_window_bytes",
        "mss_bytes",
        "probe_due",
        "queue",
        "recovery",
        "rtt",
        "rtx",
        "size_goal_bytes",
        "snd_nxt",
        "snd_una",
        "snd_wnd_bytes",
        "timer",
    )

    def __init__(self, config: TcpConfig, counters: Counters, *, iss: int) -> None:
        self.config = config
        self.counters = counters
        self.iss = iss
        self._peer_mss_bytes = config.mss_bytes
        self.mss_bytes = config.mss_bytes
        self.snd_una = self.snd_nxt = iss
        self.snd_wnd_bytes = self.max_window_bytes = 0
        self._snd_wl1 = -1
        self.established = False
        self.queue = SendQueue(iss + 1, mss_bytes=self.mss_bytes, nodelay=config.nodelay)
        self.recovery = Recovery(config, counters, iss=iss)
        self.rtx = self.recovery.rtx
        self.rtt = RttEstimator(config)
        self.timer = RetransmitTimer(config, self.rtt)
        self._last_sent_ns = NEVER_NS
        self._syn_retries = 0
        # The timer asked for a probe, or for the retransmission of the head, that has not left yet.
        self.probe_due = False
        self._rto_resend = False
        # invariant: mss_bytes and size_goal_bytes follow from the peer's MSS and max_window_bytes
        self.size_goal_bytes = 0
        self._sync_mss()

    def open(self, now_ns: int, *, syn_retries: int) -> None:
        """Queue the SYN and set its timer: it runs whether or not the first copy finds memory (``tcp_connect``)."""
        assert self.snd_nxt == self.iss
        self.snd_nxt = self.iss + 1
        self._syn_retries = syn_retries
        self.rtx.append(self.iss, self.snd_nxt, flags=SYN, size_bytes=0, sent_ns=NEVER_NS)
        self.timer.start(TimerKind.RETRANSMIT, now_ns)

    def resend_syn(self) -> None:
        """Send the SYN again: the peer asked, or what it should acknowledge has changed."""
        assert not self.established
        self.rtx.mark_all_lost()

    def take_mss(self, mss_bytes: int) -> None:
        """Send no larger packets than the peer's MSS option says (RFC 9293 section 3.7.1)."""
        self._peer_mss_bytes = min(self.config.mss_bytes, mss_bytes or TCP_MSS_DEFAULT)
        self._sync_mss()

    def establish(self, segment: Segment) -> None:
        """Take the peer's window: its SYN and ours are known, and data may flow."""
        self.snd_wnd_bytes = self.max_window_bytes = segment.window_bytes
        self._sync_mss()
        self._snd_wl1 = segment.seq
        # A SYN lost more than once starts from one packet (RFC 6928 section 2; tcp_init_transfer).
        self.recovery.establish(1 if self.timer.retransmits > 1 else self.config.init_cwnd)
        self.established = True

    def append(self, size_bytes: int, now_ns: int, *, new_skb: bool) -> None:
        """Queue data whose memory the shell holds; a pause may have cost the window (``tcp_skb_entail``)."""
        if new_skb and self.config.slow_start_after_idle and not self.rtx.packets_out and self._last_sent_ns >= 0:
            idle_ns = now_ns - self._last_sent_ns
            rto_ns = self.timer.rto_ns
            if idle_ns > rto_ns:
                init_cwnd = self.config.init_cwnd
                restart_after_idle(self.recovery.cc, idle_ns=idle_ns, rto_ns=rto_ns, init_cwnd=init_cwnd)
        self.queue.append(size_bytes, new_skb=new_skb)

    def _sync_mss(self) -> None:
        """Say how large a packet is, and how far to fill an skb: neither above half of the largest window seen.

        Mirrors ``tcp_output.c:tcp_sync_mss`` with ``tcp_bound_to_half_wnd``, and ``tcp.c:tcp_xmit_size_goal``: whole
        packets of a GSO segment.
        """
        window = self.max_window_bytes
        bound = window >> 1 if window > TCP_MSS_DEFAULT else window
        mss_bytes, goal = self._peer_mss_bytes, self.config.gso_max_bytes
        if bound:
            mss_bytes = min(mss_bytes, max(bound, _MIN_MSS_BYTES))
            goal = min(goal, max(bound, _MIN_MSS_BYTES))
        self.mss_bytes = self.queue.mss_bytes = self.rtx.mss_bytes = mss_bytes
        self.size_goal_bytes = max(goal - goal % mss_bytes, mss_bytes)

    def plan(self, now_ns: int, *, more: bool, max_bytes: int) -> Plan | None:
        """Return what to send next, or None."""
        rtx = self.rtx
        if rtx.lost_out > rtx.retrans_out:
            return self.recovery.next_retransmission(
                max_bytes, snd_una=self.snd_una, wnd_end=self.snd_una + self.snd_wnd_bytes
            )
        if not self.established:
            return None
        if self.probe_due:
            return self._plan_probe()
        size = self.queue.head_bytes(self.snd_nxt)
        if size is None:
            return None
        plan = self._plan_new(size, now_ns, more=more, max_bytes=max_bytes)
        if plan is None and not rtx.packets_out:
            self._check_probe_timer(now_ns)
        return plan

    def _plan_new(self, size: int, now_ns: int, *, more: bool, max_bytes: int) -> Plan | None:
        """Return new data: the gates of ``tcp_write_xmit``, for a first skb with ``size`` bytes left."""
        mss_bytes = self.mss_bytes
        seq = self.snd_nxt
        room = self.recovery.room_packets
        window = self.snd_una + self.snd_wnd_bytes - seq
        # tcp_cwnd_test; tcp_snd_wnd_test: not a piece smaller than a packet just because the window is (RFC 9293
        # section 3.8.6.2.1). A FIN takes one of the window too.
        if room <= 0 or window < min(size or 1, mss_bytes):
            return None
        if not size:
            return seq, 0, ACK | FIN
        # At least two segments for a window, so that one is acknowledged while the other travels.
        gso_packets = max_bytes // mss_bytes
        if size > mss_bytes and self._defers(size, window, room, gso_packets, now_ns):
            return None
        max_packets = min(room, self.recovery.cc.cwnd >> 1, gso_packets) or 1
        small = bool(self.rtx.packets_out) and self.queue.small_seq > self.snd_una
        limit = self.queue.sendable_bytes(
            size, window_bytes=window, max_packets=max_packets, more=more, small_in_flight=small
        )
        if not limit:
            return None
        flags = self.queue.flags_of(seq, seq + limit)
        if flags & FIN and limit == window:
            flags &= ~FIN
        return seq, limit, flags

    def _defers(self, size: int, window: int, room: int, max_packets: int, now_ns: int) -> bool:
        """Whether to wait for a larger burst, an acknowledgement being near (``tcp_output.c:tcp_tso_should_defer``)."""
        mss_bytes = self.mss_bytes
        allowed = min(window, room * mss_bytes)
        last_skb = len(self.queue) == 1
        if allowed >= max_packets * mss_bytes or (allowed >= size and not last_skb):
            return False
        divisor = self.config.tso_win_divisor
        if not divisor or allowed >= min(self.snd_wnd_bytes, self.recovery.cc.cwnd * mss_bytes) // divisor:
            return False
        head = self.rtx.head
        if self.recovery.ca_state >= _RECOVERY or head is None or now_ns - self._last_sent_ns > NS_PER_MS:
            return False
        if now_ns - head.sent_ns < self.rtt.srtt_ns >> 1:
            return False
        return allowed <= size or self.queue.fin_seq is None

    def _plan_probe(self) -> Plan:
        """Return what a probe sends: what the window admits, or an old number that asks for an acknowledgement.

        Mirrors ``tcp_output.c:tcp_write_wakeup``; RFC 9293 section 3.8.6.1.
        """
        seq = self.snd_nxt
        size = self.queue.head_bytes(seq)
        window = self.snd_una + self.snd_wnd_bytes - seq
        if not size or window <= 0:
            return self.snd_una - 1, 0, ACK
        size = min(size, window, self.mss_bytes)
        flags = self.queue.flags_of(seq, seq + size) | PSH
        return seq, size, flags if size < window else flags & ~FIN

    def sent(self, segment: Segment, now_ns: int) -> None:
        """Note that a segment with data, SYN or FIN, or a probe, left the host."""
        seq = segment.seq
        if seq < self.snd_una:
            self.probe_due = False
            self.counters["TCPWinProbe"] += 1
        elif seq < self.snd_nxt:
            self._sent_again(segment, now_ns)
        else:
            self._sent_first(segment, now_ns)

    def _sent_first(self, segment: Segment, now_ns: int) -> None:
        """Note that new data left: ``tcp_output.c:tcp_event_new_data_sent``."""
        seq = segment.seq
        size = segment.size_bytes
        end = seq + size + (segment.flags & FIN)
        assert seq == self.snd_nxt
        assert end <= self.snd_una + self.snd_wnd_bytes
        rtx = self.rtx
        if not rtx.packets_out:
            timer = self.timer
            if timer.kind is _PROBE:
                timer.probes_out = timer.backoff = 0
                self.probe_due = False
            timer.start(_RETRANSMIT, now_ns)
            if self._last_sent_ns >= 0:
                self.recovery.cc.on_transmit_start(now_ns - self._last_sent_ns)
        rtx.append(seq, end, flags=segment.flags, size_bytes=size, sent_ns=now_ns)
        self.counters["TCPOrigDataSent"] += packets_of(size, self.mss_bytes)
        self.queue.sent(seq, seq + size)
        self.snd_nxt = end
        self._last_sent_ns = now_ns
        self.recovery.data_sent(snd_una=self.snd_una, snd_nxt=end)

    def _sent_again(self, segment: Segment, now_ns: int) -> None:
        """Note that a lost part left again, or the SYN for the first time."""
        head = self.rtx.head
        skb = self.rtx.retransmitted(segment.seq, segment.end, now_ns)
        if skb.transmissions > 1:
            self.counters["RetransSegs"] += skb.packets
            if not self._rto_resend:
                slow = self.recovery.ca_state is CaState.LOSS
                self.counters["TCPSlowStartRetrans" if slow else "TCPFastRetrans"] += skb.packets
        self._rto_resend = False
        self._last_sent_ns = now_ns
        if skb is head:
            self.timer.start(TimerKind.RETRANSMIT, now_ns)

    def send_failed(self, segment: Segment, now_ns: int, *, congestion: bool) -> None:
        """Note that what :meth:`plan` offered did not leave: no memory, or ``congestion`` of the host's own queue."""
        if congestion and self.established:
            self.recovery.enter_cwr(self.snd_nxt)
        timer_asked = self.probe_due
        if self.snd_una <= segment.seq < self.snd_nxt:
            timer_asked = self._rto_resend
            self._rto_resend = False
            if segment.seq > self.iss or self.timer.retransmits:
                self.counters["TCPRetransFail"] += packets_of(segment.size_bytes, self.mss_bytes)
        self.probe_due = False
        if timer_asked and congestion:
            self.timer.congested(now_ns)
        elif not self.rtx.packets_out:
            self._check_probe_timer(now_ns)

    def acknowledge(self, segment: Segment, now_ns: int) -> bool:
        """Take the acknowledgement, window and SACK blocks of an acceptable segment; return whether the window moved.

        The caller has checked that it acknowledges nothing that was not sent.
        """
        ack = segment.ack
        prior_una = self.snd_una
        assert ack <= self.snd_nxt
        if ack < prior_una:
            return False
        rtx = self.rtx
        timer = self.timer
        timer.probes_out = 0
        advanced = ack > prior_una
        moved = self._update_window(segment, advanced=advanced)
        if not rtx.packets_out:
            if moved or timer.kind is _PROBE:
                self._ack_probe(now_ns)
            return moved
        recovery = self.recovery
        outstanding = rtx.packets_out - rtx.sacked_out
        news = bool(segment.sack) and rtx.sack(segment.sack)
        acked_packets = 0
        if advanced:
            self.snd_una = ack
            acked_packets, oldest_ns = rtx.acknowledge(ack)
            self._measure(segment, oldest_ns, now_ns)
            timer.retransmits = 0
            self._rto_resend = False
            if rtx.packets_out:
                timer.start(_RETRANSMIT, now_ns)
            else:
                timer.stop()
        self.counters["TCPDelivered"] += outstanding - (rtx.packets_out - rtx.sacked_out)
        if news or recovery.ca_state is not _OPEN or rtx.sacked_out:
            recovery.judge_losses(snd_una=ack, snd_nxt=self.snd_nxt, advanced=advanced)
        if acked_packets:
            recovery.grow(acked_packets, now_ns=now_ns, srtt_ns=self.rtt.srtt_ns)
        return moved

    def _update_window(self, segment: Segment, *, advanced: bool) -> bool:
        """Take the advertised window unless an older segment brings it (RFC 9293 section 3.10.7.4, SND.WL1)."""
        window = segment.window_bytes
        seq = segment.seq
        if not advanced and seq <= self._snd_wl1 and (seq < self._snd_wl1 or window <= self.snd_wnd_bytes):
            return False
        self._snd_wl1 = seq
        moved = segment.ack + window > self.snd_una + self.snd_wnd_bytes
        self.snd_wnd_bytes = window
        if window > self.max_window_bytes:
            self.max_window_bytes = window
            self._sync_mss()
        return moved

    def _measure(self, segment: Segment, oldest_ns: int, now_ns: int) -> None:
        """Sample the round trip: from the send time, or from the echoed clock if parts were sent twice.

        RFC 6298 section 3 (Karn), RFC 7323 section 4; ``tcp_input.c:tcp_ack_update_rtt``.
        """
        if oldest_ns >= 0:
            rtt_ns = now_ns - oldest_ns
        elif segment.ts_ecr_ns != NO_TIMESTAMP:
            rtt_ns = now_ns - segment.ts_ecr_ns
        else:
            return
        self.rtt.sample(rtt_ns, snd_una=self.snd_una, snd_nxt=self.snd_nxt)
        self.timer.backoff = 0

    def _ack_probe(self, now_ns: int) -> None:
        """Stop probing if the window opened enough, else wait again (``tcp_input.c:tcp_ack_probe``)."""
        size = self.queue.head_bytes(self.snd_nxt)
        timer = self.timer
        if size is None or (size or 1) <= self.snd_una + self.snd_wnd_bytes - self.snd_nxt:
            timer.backoff = 0
            timer.stop()
            self.probe_due = False
        else:
            timer.start(TimerKind.PROBE, now_ns)

    def _check_probe_timer(self, now_ns: int) -> None:
        """Make sure something wakes the sender: nothing is in flight (``include/net/tcp.h:tcp_check_probe_timer``)."""
        if self.timer.kind is None:
            self.timer.start(TimerKind.PROBE, now_ns)

    def handle_retransmit_timer(self, now_ns: int) -> bool:
        """Declare everything lost and ask for the head again; return False if the connection is to be given up.

        Mirrors ``tcp_timer.c:tcp_retransmit_timer``; RFC 6298 sections 5.4 to 5.7.
        """
        timer = self.timer
        assert self.rtx.packets_out
        self.counters["TCPTimeouts"] += 1
        if timer.expired(now_ns) if self.established else timer.retransmits >= self._syn_retries:
            return False
        self.recovery.enter_loss(snd_una=self.snd_una, snd_nxt=self.snd_nxt, retransmits=timer.retransmits)
        timer.retransmits += 1
        timer.back_off(TimerKind.RETRANSMIT, now_ns)
        self._rto_resend = True
        return True

    def handle_probe_timer(self, now_ns: int) -> bool:
        """Ask for a probe; return False if the connection is to be given up (``tcp_timer.c:tcp_probe_timer``)."""
        timer = self.timer
        assert not self.rtx.packets_out
        if self.queue.head_bytes(self.snd_nxt) is None:
            timer.stop()
            return True
        if timer.probes_out >= self.config.retries2:
            return False
        timer.probes_out += 1
        timer.back_off(TimerKind.PROBE, now_ns)
        self.probe_due = True
        return True

    def clear(self) -> None:
        """Forget everything that was to be sent."""
        self.queue.clear()
        self.rtx.clear()
        self.timer.stop()
        self.established = False
        self.probe_due = self._rto_resend = False

    def digest(self) -> tuple[object, ...]:
        """Return what decides the next steps, without clock, round trip and backoff."""
        return (
            self.snd_una,
            self.snd_nxt,
            self.snd_wnd_bytes,
            self.probe_due,
            self._rto_resend,
            self.timer.kind,
            self.queue.digest(),
            self.recovery.digest(),
        )
