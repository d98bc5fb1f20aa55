"""How much may be in flight, and what is believed lost: the congestion state machine.

:class:`Recovery` joins the scoreboard of what was sent with the congestion window, and moves between Linux's five
congestion states (:class:`CaState`, ``net/ipv4/tcp_input.c:tcp_fastretrans_alert``):

- OPEN: all is well. DISORDER: something was SACKed, not enough to call anything lost.
- RECOVERY, by RFC 6675: entered when a hole has ``reordering`` packets SACKed above it, with the window reduced; left
  when all that was sent before it is acknowledged. A partial acknowledgement means its next hole is lost too
  (RFC 6582): it was sent before the copy whose arrival moved the acknowledgement.
- LOSS: the retransmission timer fired, everything not SACKed is lost, and sending starts again from one packet.
- CWR: this host's own queue dropped a segment, and the window is reduced for a round trip.

The window grows only while it is what limits sending (``tcp_cwnd_validate``, RFC 7661), and not in RECOVERY or CWR.

# MODEL: SACK is always negotiated, so there are no states without it; D-SACK, F-RTO (RFC 5682) and Eifel, which undo a
# reduction that was not needed, are left out.
"""

from enum import IntEnum, unique

from netvm.net.tcp.config import Counters, TcpConfig
from netvm.net.tcp.congestion import CongestionControl, make_congestion
from netvm.net.tcp.scoreboard import RetransmitQueue
from netvm.net.tcp.segment import ACK, SYN

__all__ = ["CaState", "Plan", "Recovery"]

Plan = tuple[int, int, int]
"""Sequence number, bytes of data and control bits of the next segment."""


@unique
class CaState(IntEnum):
    """Congestion states (``include/uapi/linux/tcp.h:enum tcp_ca_state``)."""

    OPEN = 0
    DISORDER = 1
    CWR = 2
    RECOVERY = 3
    LOSS = 4


# An Enum member read from a module is ten times faster than from its class, and these are read for each segment.
_CWR = CaState.CWR
_RECOVERY = CaState.RECOVERY


class Recovery:
    """What is in flight, what is lost, and how much more may go."""

    __slots__ = (
        "_cwnd_limited",
        "_cwnd_usage_seq",
        "_high_seq",
        "_max_packets_out",
        "ca_state",
        "cc",
        "config",
        "counters",
        "rtx",
    )

    def __init__(self, config: TcpConfig, counters: Counters, *, iss: int) -> None:
        self.config = config
        self.counters = counters
        self.rtx = RetransmitQueue(config.mss_bytes)
        self.cc: CongestionControl = make_congestion(config.congestion, config.init_cwnd)
        self.ca_state = CaState.OPEN
        # A reduced window lasts until this is acknowledged: RecoveryPoint.
        self._high_seq = iss
        # Did the window limit sending, how much was in flight then, and until when is that the answer.
        self._cwnd_limited = False
        self._max_packets_out = 0
        self._cwnd_usage_seq = iss

    @property
    def room_packets(self) -> int:
        """Packets that may leave now; zero or less when the window is full."""
        rtx = self.rtx
        return self.cc.cwnd - rtx.packets_out + rtx.sacked_out + rtx.lost_out - rtx.retrans_out

    def establish(self, init_cwnd: int) -> None:
        """Start from here, whatever happened to the SYN."""
        self.cc = make_congestion(self.config.congestion, init_cwnd)
        self.ca_state = CaState.OPEN

    def data_sent(self, *, snd_una: int, snd_nxt: int) -> None:
        """Remember whether the window is the limit: ``tcp_output.c:tcp_cwnd_validate``."""
        packets_out = self.rtx.packets_out
        limited = packets_out >= self.cc.cwnd and self.room_packets <= 0
        if (
            limited
            or snd_una >= self._cwnd_usage_seq
            or (not self._cwnd_limited and packets_out > self._max_packets_out)
        ):
            self._cwnd_limited = limited
            self._max_packets_out = packets_out
            self._cwnd_usage_seq = snd_nxt

    def next_retransmission(self, max_bytes: int, *, snd_una: int, wnd_end: int) -> Plan | None:
        """Return the oldest lost data that is not on its way again, as much as one segment may hold.

        ``wnd_end`` is the right edge of the peer's window. Mirrors ``tcp_output.c:__tcp_retransmit_skb``.
        """
        room = self.room_packets
        skb = self.rtx.next_lost()
        if room <= 0 or skb is None:
            return None
        seq = skb.seq
        mss_bytes = self.rtx.mss_bytes
        size = skb.size_bytes
        limit = min(size, room * mss_bytes, max(max_bytes, mss_bytes))
        window = wnd_end - seq
        if window <= 0 and size:
            # A window taken back: only the head goes on, as a probe.
            if seq != snd_una:
                return None
            window = mss_bytes
        if limit > window and size:
            limit = window - window % mss_bytes or window
        flags = skb.flags if limit == size else 0
        return seq, limit, flags if flags & SYN else flags | ACK

    def judge_losses(self, *, snd_una: int, snd_nxt: int, advanced: bool) -> None:
        """Look at the scoreboard after an acknowledgement that was not plain, or in a state that is not OPEN."""
        rtx = self.rtx
        if self.ca_state > CaState.DISORDER and snd_una >= self._high_seq:
            self.ca_state = CaState.OPEN
        if self.ca_state is CaState.LOSS:
            return
        if self.ca_state is CaState.RECOVERY and advanced:
            rtx.mark_head_lost()
        if rtx.sacked_out:
            rtx.mark_lost(self.config.reordering)
        if self.ca_state is CaState.RECOVERY:
            return
        if rtx.lost_out:
            self.counters["TCPSackRecovery"] += 1
            self._reduce(CaState.RECOVERY, snd_nxt)
        elif self.ca_state is not CaState.CWR:
            self.ca_state = CaState.DISORDER if rtx.sacked_out else CaState.OPEN

    def enter_cwr(self, snd_nxt: int) -> None:
        """Reduce the window for a local drop, once a window (``tcp_input.c:tcp_enter_cwr``)."""
        if self.ca_state < CaState.CWR:
            self._reduce(CaState.CWR, snd_nxt)

    def _reduce(self, state: CaState, snd_nxt: int) -> None:
        """Enter a state of reduced window; from CWR to RECOVERY it is reduced already."""
        assert self.ca_state < state
        if self.ca_state < CaState.CWR:
            self.cc.on_congestion()
        self._high_seq = snd_nxt
        self.ca_state = state

    def enter_loss(self, *, snd_una: int, snd_nxt: int, retransmits: int) -> None:
        """Start again from one packet: the timer fired (``tcp_input.c:tcp_enter_loss``), ``retransmits`` times before.

        The threshold moves once for a loss (RFC 5681 section 3.1).
        """
        first = (
            self.ca_state <= CaState.DISORDER
            or self._high_seq <= snd_una
            or (self.ca_state is CaState.LOSS and not retransmits)
        )
        if self.rtx.mark_all_lost():
            self.counters["TCPSACKReneging"] += 1
        self.cc.on_timeout(first=first)
        self._high_seq = snd_nxt
        self.ca_state = CaState.LOSS
        assert self.room_packets > 0

    def grow(self, acked_packets: int, *, now_ns: int, srtt_ns: int) -> None:
        """Let the window grow for acknowledged packets, if it was the limit (``tcp_cong_avoid``)."""
        if self.ca_state is _CWR or self.ca_state is _RECOVERY:
            return
        cc = self.cc
        if self._cwnd_limited or (cc.cwnd < cc.ssthresh and cc.cwnd < 2 * self._max_packets_out):
            cc.on_ack(acked_packets, now_ns=now_ns, srtt_ns=srtt_ns)

    def digest(self) -> tuple[object, ...]:
        """Return state, window and scoreboard."""
        return int(self.ca_state), self._high_seq, self.cc.digest(), self.rtx.digest()
