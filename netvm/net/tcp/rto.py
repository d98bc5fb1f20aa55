"""When to send again: the round-trip time, and the one timer that retransmits or probes.

:class:`RttEstimator` is RFC 6298 as Linux keeps it (``net/ipv4/tcp_input.c:tcp_rtt_estimator``): the smoothed time
moves by an eighth of each error; the deviation by a quarter, but by a thirty-second when a sample is *shorter* than
expected, so that a falling RTT does not raise the RTO; and the variance used is the largest deviation of the last
window, never below ``rto_min_ns``. So rto = srtt + max(rttvar, 200 ms), rounded up to whole jiffies.

:class:`RetransmitTimer` is ``icsk_retransmit_timer``: at any time it is off, or set to retransmit (something is in
flight) or to probe (nothing is, and something waits). It keeps the backoff and the counts that end a connection.
A socket gives up by time, not by count: it computes how long ``retries2`` doublings of a 200 ms RTO would last
(:func:`model_timeout_ns`, 924.6 s) and ends at the first expiry not before that.

# MODEL: that span is counted from the last forward progress, where Linux counts from the first retransmission: with
# Linux's jiffies an RTO is always above 200 ms and both end at the same expiry; with the exact 200 ms that a model
# without latency has, Linux's formula would miss its own sum by one RTO and wait 120 s more.
# MODEL: no tail loss probe and no RACK reordering timer (RFC 8985): a lost tail waits for the RTO.
"""

from enum import Enum, unique

from netvm.net.tcp.config import TcpConfig

__all__ = ["RetransmitTimer", "RttEstimator", "TimerKind", "model_timeout_ns"]


@unique
class TimerKind(Enum):
    """What a connection is waiting for when it waits for time."""

    RETRANSMIT = "RTO"
    """ICSK_TIME_RETRANS. Tries again what was tried: nothing is new when it fires."""
    PROBE = "persist"
    """ICSK_TIME_PROBE0: a closed window, or data that found no memory or was corked. Tries again likewise."""
    DELACK = "delack"
    """ICSK_TIME_DACK: an acknowledgement held back."""
    ACK_RETRY = "ack-retry"
    """ICSK_TIME_DACK again: an acknowledgement that found no memory. Tries again likewise."""
    TIME_WAIT = "time-wait"


def model_timeout_ns(boundary: int, *, rto_base_ns: int, rto_max_ns: int) -> int:
    """Return how long ``boundary`` retransmissions last if the first RTO was ``rto_base_ns``.

    Mirrors ``net/ipv4/tcp_timer.c:tcp_model_timeout``: doublings until the cap, then the cap each.
    """
    doublings = (rto_max_ns // rto_base_ns).bit_length() - 1
    if boundary <= doublings:
        return ((2 << boundary) - 1) * rto_base_ns
    return ((2 << doublings) - 1) * rto_base_ns + (boundary - doublings) * rto_max_ns


class RttEstimator:
    """Smoothed round-trip time of one path, and the retransmission timeout that follows from it."""

    __slots__ = ("_mdev_max_ns", "_mdev_ns", "_rtt_seq", "config", "measured", "rto_ns", "rttvar_ns", "srtt_ns")

    def __init__(self, config: TcpConfig) -> None:
        self.config = config
        self.measured = False
        self.srtt_ns = 0
        self.rttvar_ns = 0
        # invariant: before any backoff; rto_initial_ns until something was measured (RFC 6298 section 2.1)
        self.rto_ns = config.rto_initial_ns
        # Four times the mean deviation, and its maximum in this window of data.
        self._mdev_ns = 0
        self._mdev_max_ns = 0
        self._rtt_seq = 0

    def sample(self, rtt_ns: int, *, snd_una: int, snd_nxt: int) -> None:
        """Take one measurement; ``snd_una`` and ``snd_nxt`` mark the windows over which the deviation is maximal."""
        assert rtt_ns >= 0
        rto_min_ns = self.config.rto_min_ns
        if not self.measured:
            self.measured = True
            self.srtt_ns = rtt_ns
            self._mdev_ns = rtt_ns << 1
            self.rttvar_ns = self._mdev_max_ns = max(self._mdev_ns, rto_min_ns)
            self._rtt_seq = snd_nxt
        else:
            error_ns = rtt_ns - self.srtt_ns
            self.srtt_ns += error_ns // 8
            change_ns = abs(error_ns) - (self._mdev_ns >> 2)
            if error_ns < 0 and change_ns > 0:
                change_ns >>= 3
            self._mdev_ns += change_ns
            if self._mdev_ns > self._mdev_max_ns:
                self._mdev_max_ns = self._mdev_ns
                self.rttvar_ns = max(self.rttvar_ns, self._mdev_ns)
            if snd_una > self._rtt_seq:
                if self._mdev_max_ns < self.rttvar_ns:
                    self.rttvar_ns -= (self.rttvar_ns - self._mdev_max_ns) >> 2
                self._rtt_seq = snd_nxt
                self._mdev_max_ns = rto_min_ns
        granularity_ns = self.config.clock_granularity_ns
        rto_ns = -(-(self.srtt_ns + self.rttvar_ns) // granularity_ns) * granularity_ns
        self.rto_ns = min(rto_ns, self.config.rto_max_ns)
        assert self.rttvar_ns >= rto_min_ns


class RetransmitTimer:
    """``icsk_retransmit_timer``: off, retransmitting or probing."""

    __slots__ = (
        "_progress_ns",
        "_rtt",
        "backoff",
        "config",
        "deadline_ns",
        "kind",
        "probes_out",
        "retransmits",
    )

    def __init__(self, config: TcpConfig, rtt: RttEstimator) -> None:
        self.config = config
        self._rtt = rtt
        # invariant: kind and deadline_ns are None together
        self.kind: TimerKind | None = None
        self.deadline_ns: int | None = None
        self.backoff = 0
        """``icsk_backoff``: doublings of the RTO, until a round trip is measured."""
        self.retransmits = 0
        """``icsk_retransmits``: expiries since the peer last acknowledged something new."""
        self.probes_out = 0
        """``icsk_probes_out``: window probes since the peer last acknowledged anything."""
        self._progress_ns = 0

    @property
    def rto_ns(self) -> int:
        """The retransmission timeout now, backed off (RFC 6298 sections 5.5 and 2.5)."""
        return min(self._rtt.rto_ns << self.backoff, self.config.rto_max_ns)

    def start(self, kind: TimerKind, now_ns: int, delay_ns: int | None = None) -> None:
        """Set the timer, replacing whatever it was set to; the delay is the RTO unless given."""
        if delay_ns is None:
            backoff = self.backoff
            delay_ns = self.rto_ns if backoff else self._rtt.rto_ns
        self.kind = kind
        self.deadline_ns = now_ns + delay_ns
        if not self.retransmits:
            self._progress_ns = now_ns

    def stop(self) -> None:
        """Turn the timer off."""
        self.kind = None
        self.deadline_ns = None

    def back_off(self, kind: TimerKind, now_ns: int) -> None:
        """Double the timeout and start again (RFC 6298 sections 5.5 and 5.6)."""
        if self.backoff < self.config.retries2:
            self.backoff += 1
        self.start(kind, now_ns)

    def congested(self, now_ns: int) -> None:
        """Try again soon and without backoff: what was sent fell out of this host's own queue.

        Mirrors the positive returns in ``tcp_timer.c:tcp_retransmit_timer`` and ``tcp_output.c:tcp_send_probe0``.
        """
        assert self.kind is not None
        self.backoff = max(self.backoff - 1, 0)
        self.start(self.kind, now_ns, self.config.resource_probe_interval_ns)

    def expired(self, now_ns: int) -> bool:
        """Whether retransmitting has lasted too long: ``tcp_timer.c:retransmits_timed_out`` with ``retries2``."""
        if not self.retransmits:
            return False
        config = self.config
        limit_ns = model_timeout_ns(config.retries2, rto_base_ns=config.rto_min_ns, rto_max_ns=config.rto_max_ns)
        return now_ns - self._progress_ns >= limit_ns
