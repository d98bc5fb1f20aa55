"""How much may be in flight: the congestion window, by Reno (RFC 5681) or CUBIC (RFC 9438).

A :class:`CongestionControl` owns ``cwnd`` and ``ssthresh``, in packets, and is told four things: data was acknowledged
while the window was the limit; the network dropped something; the retransmission timer fired; sending starts again
after a rest. *When* those happen is the sender's business (``sender``), so an algorithm is one class with no timers and
no knowledge of segments. Mirrors ``struct tcp_congestion_ops``.

Both share slow start and the additive increase with its packet-fraction counter (``net/ipv4/tcp_cong.c``). CUBIC is
computed in integers, milliseconds and packets, so that a replay is exact on every machine.

# MODEL: a loss sets the window to its threshold at once; Linux walks it down over a round trip (PRR, RFC 6937). CUBIC
# has no HyStart, and a reduction found spurious is not undone.
"""

from typing import Protocol

from netvm.units import NS_PER_MS

__all__ = ["INFINITE_SSTHRESH", "CongestionControl", "Cubic", "Reno", "make_congestion", "restart_after_idle"]

INFINITE_SSTHRESH = 0x7FFFFFFF
"""No loss seen yet: slow start has no end (TCP_INFINITE_SSTHRESH)."""

_CUBIC_ONE = 1024
_CUBIC_BETA = 717
"""Multiplicative decrease, 0.7 of 1024 (RFC 9438 section 4.6)."""
_CUBIC_ALPHA = 542
"""Reno-friendly increase 3 * (1 - beta) / (1 + beta), of 1024 (RFC 9438 section 4.3)."""
_MS3_PER_C = 2_500_000_000
"""A cube of milliseconds in which the curve climbs one packet: 1000**3 / C, with C = 0.4 (RFC 9438 section 5)."""


class CongestionControl(Protocol):
    """One algorithm at work on one connection."""

    cwnd: int
    """Packets that may be in flight."""
    ssthresh: int
    """Below it the window doubles in a round trip."""

    def on_ack(self, acked_packets: int, *, now_ns: int, srtt_ns: int) -> None:
        """Grow: these packets were acknowledged while the window was what limited sending."""
        ...

    def on_congestion(self) -> None:
        """Shrink to a new threshold, once for a window of data (RFC 5681 section 3.2)."""
        ...

    def on_timeout(self, *, first: bool) -> None:
        """Shrink to one packet; the threshold moves only at the ``first`` expiry (RFC 5681 section 3.1)."""
        ...

    def on_transmit_start(self, idle_ns: int) -> None:
        """Nothing was in flight for this long and something is sent now: CA_EVENT_TX_START."""
        ...

    def digest(self) -> tuple[int, ...]:
        """Return the state without clocks."""
        ...


def _slow_start(window: CongestionControl, acked_packets: int) -> int:
    """Grow by what was acknowledged, up to the threshold; return what is left over.

    RFC 5681 section 3.1; ``tcp_cong.c:tcp_slow_start``.
    """
    cwnd = min(window.cwnd + acked_packets, window.ssthresh)
    left = acked_packets - (cwnd - window.cwnd)
    window.cwnd = cwnd
    assert left >= 0
    return left


def restart_after_idle(window: CongestionControl, *, idle_ns: int, rto_ns: int, init_cwnd: int) -> None:
    """Halve the window for each RTO of silence, not below the initial one; remember it in the threshold.

    RFC 5681 section 4.1 in the gentler form of RFC 2861; ``tcp_output.c:tcp_cwnd_restart``.
    """
    cwnd = window.cwnd
    floor = min(init_cwnd, cwnd)
    window.ssthresh = max(window.ssthresh, (cwnd >> 1) + (cwnd >> 2))
    halvings = -(-idle_ns // rto_ns) - 1
    if halvings > 0:
        window.cwnd = max(cwnd >> halvings, floor)


class Reno:
    """Additive increase, multiplicative decrease (RFC 5681)."""

    __slots__ = ("_acked", "cwnd", "ssthresh")

    def __init__(self, init_cwnd: int) -> None:
        self.cwnd = init_cwnd
        self.ssthresh = INFINITE_SSTHRESH
        # Packets acknowledged towards the next increase: snd_cwnd_cnt.
        self._acked = 0

    def on_ack(self, acked_packets: int, *, now_ns: int, srtt_ns: int) -> None:  # noqa: ARG002 - Reno has no clock
        """Double a round trip below the threshold, add one a round trip above it."""
        if self.cwnd < self.ssthresh:
            acked_packets = _slow_start(self, acked_packets)
        if acked_packets:
            self._acked += acked_packets
            grown, self._acked = divmod(self._acked, self.cwnd)
            self.cwnd += grown

    def on_congestion(self) -> None:
        """Halve."""
        self.ssthresh = max(self.cwnd >> 1, 2)
        self.cwnd = self.ssthresh
        self._acked = 0

    def on_timeout(self, *, first: bool) -> None:
        """Fall to one packet."""
        if first:
            self.ssthresh = max(self.cwnd >> 1, 2)
        self.cwnd = 1
        self._acked = 0

    def on_transmit_start(self, idle_ns: int) -> None:
        """Reno does not look at the clock."""

    def digest(self) -> tuple[int, ...]:
        """Return window, threshold and fraction."""
        return self.cwnd, self.ssthresh, self._acked


class Cubic:
    """A window that follows a cubic of the time since the last loss (RFC 9438)."""

    __slots__ = ("_acked", "_epoch_ns", "_k_ms", "_origin", "_w_est", "_w_max", "cwnd", "ssthresh")

    def __init__(self, init_cwnd: int) -> None:
        self.cwnd = init_cwnd
        self.ssthresh = INFINITE_SSTHRESH
        self._acked = 0
        # Start of the current congestion avoidance, or None outside it.
        self._epoch_ns: int | None = None
        self._w_max = 0
        self._origin = 0
        self._k_ms = 0
        # What Reno would have by now, in 1/1024 packets.
        self._w_est = 0

    def on_ack(self, acked_packets: int, *, now_ns: int, srtt_ns: int) -> None:
        """Slow start, then chase the curve one round trip ahead."""
        if self.cwnd < self.ssthresh:
            acked_packets = _slow_start(self, acked_packets)
        if not acked_packets:
            return
        if self._epoch_ns is None:
            self._start_epoch(now_ns)
        target = self._target(acked_packets, now_ns + srtt_ns)
        assert target >= self.cwnd
        # RFC 9438 section 4.4: (target - cwnd) / cwnd for each packet acknowledged.
        self._acked += acked_packets * (target - self.cwnd)
        grown, self._acked = divmod(self._acked, self.cwnd)
        self.cwnd += grown

    def _start_epoch(self, now_ns: int) -> None:
        """Lay the curve: flat at the window of the last loss, ``K`` from now (RFC 9438 section 4.2)."""
        self._epoch_ns = now_ns
        self._w_est = self.cwnd * _CUBIC_ONE
        self._acked = 0
        self._origin = max(self._w_max, self.cwnd)
        self._k_ms = _cube_root((self._origin - self.cwnd) * _MS3_PER_C)

    def _target(self, acked_packets: int, at_ns: int) -> int:
        """Return the window to have at ``at_ns``: the curve's or Reno's, whichever is larger (sections 4.2 to 4.4)."""
        assert self._epoch_ns is not None
        offset_ms = (at_ns - self._epoch_ns) // NS_PER_MS - self._k_ms
        w_cubic = self._origin + offset_ms**3 // _MS3_PER_C
        target = min(max(w_cubic, self.cwnd), self.cwnd + (self.cwnd >> 1))
        # Section 4.3: once Reno would be back where the loss was, it grows by one a round trip.
        alpha = _CUBIC_ONE if self._w_est >= self._w_max * _CUBIC_ONE else _CUBIC_ALPHA
        self._w_est += alpha * acked_packets // self.cwnd
        return max(target, min(self._w_est // _CUBIC_ONE, self.cwnd + (self.cwnd >> 1)))

    def _reduce(self) -> None:
        """Remember where the loss was and set the threshold (sections 4.6 and 4.7, with fast convergence)."""
        if self.cwnd < self._w_max:
            self._w_max = self.cwnd * (_CUBIC_ONE + _CUBIC_BETA) // (2 * _CUBIC_ONE)
        else:
            self._w_max = self.cwnd
        self.ssthresh = max(self.cwnd * _CUBIC_BETA // _CUBIC_ONE, 2)
        self._epoch_ns = None

    def on_congestion(self) -> None:
        """Fall to 0.7 of the window."""
        self._reduce()
        self.cwnd = self.ssthresh

    def on_timeout(self, *, first: bool) -> None:
        """Fall to one packet and forget the curve (section 4.8; ``tcp_cubic.c:cubictcp_state``)."""
        if first:
            self._reduce()
        self.cwnd = 1
        self._w_max = 0
        self._epoch_ns = None
        self._acked = 0

    def on_transmit_start(self, idle_ns: int) -> None:
        """Do not let the curve climb while nothing is sent (section 5.8; ``tcp_cubic.c:cubictcp_cwnd_event``)."""
        if self._epoch_ns is not None:
            self._epoch_ns += idle_ns

    def digest(self) -> tuple[int, ...]:
        """Return window, threshold, fraction and the curve, without its clock."""
        return self.cwnd, self.ssthresh, self._acked, self._w_max, self._origin, self._k_ms


def make_congestion(name: str, init_cwnd: int) -> CongestionControl:
    """Return the algorithm that ``tcp_congestion_control`` calls ``name``. Raises KeyError if there is none."""
    return _ALGORITHMS[name](init_cwnd)


_ALGORITHMS: dict[str, type[Reno] | type[Cubic]] = {"cubic": Cubic, "reno": Reno}


def _cube_root(value: int) -> int:
    """Return the largest integer whose cube is at most ``value``, by Newton's method from above."""
    assert value >= 0
    if value == 0:
        return 0
    root = 1 << -(-value.bit_length() // 3)
    while True:
        smaller = (2 * root + value // (root * root)) // 3
        if smaller >= root:
            assert root**3 <= value < (root + 1) ** 3
            return root
        root = smaller
