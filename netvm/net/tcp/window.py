"""How far the receive window may open: what is free, what it has grown to, and the round trip that paces its growth.

Mirrors "tuning advertised window" and the receiver's side of buffer tuning in ``net/ipv4/tcp_input.c`` (6.1), with
``tcp_select_initial_window`` and ``__tcp_select_window`` of ``tcp_output.c``. Three bounds hold at once:

* *free space*, which the shell announces: the part of the buffer that is window (half of it, ``tcp_win_from_space``)
  less what lies in it unread;
* ``window_clamp``, the window part of the whole buffer less one packet. It moves when the buffer is tuned, not when it
  is enlarged in need;
* ``rcv_ssthresh``, a slow start of the receiver: it begins with the window of the SYN, whole packets in 16 bits, and
  every packet that is mostly data lets it grow by two packets or twice its own data, one that is mostly overhead by
  less or not at all. A socket that has too much unread falls back to two packets, memory pressure to four.

So a peer over loopback, whose packets are half of the largest window it has seen, begins with 32 KiB packets and comes
to 64 KiB ones only when the reader takes more than a window in a round trip.

The round trip is the receiver's own estimate (``tcp_rcv_rtt_update``): from echoed timestamps, which are counted in
milliseconds, or the time that a whole window took, whichever is shorter.

A window with no bounds but the free space is that of a machine which is never short of memory.

# MODEL: a head without data counts as overhead (``truesize_adjust`` leaves it out), which matters for packets over
# loopback of less than 1,280 bytes. Kernels before 6.1 are given its rules.
"""

from typing import Final

from netvm.units import NS_PER_MS

__all__ = ["ReceiveWindow"]

_UNBOUND: Final = 1 << 40
_U16_MAX: Final = 65_535
_RMEM_MAX_BYTES: Final = 212_992
"""net.core.rmem_max: the scale must do for a buffer that a program asks for."""
_MAX_SCALE: Final = 14
"""RFC 7323 section 2.3."""
_GROWS_FROM_BYTES: Final = 128
"""A packet with less data than that tells nothing."""


class ReceiveWindow:
    """The bounds of one endpoint's window, in bytes."""

    __slots__ = (
        "_mss_bytes",
        "_rmem_max_bytes",
        "_rtt8_ns",
        "_window_since_ns",
        "clamp_bytes",
        "free_bytes",
        "full_bytes",
        "passed_at_seq",
        "scale_bytes",
        "ssthresh_bytes",
        "syn_bytes",
        "under_pressure",
    )

    def __init__(self, mss_bytes: int) -> None:
        self._mss_bytes = mss_bytes
        self._rmem_max_bytes = 6 << 20
        self.free_bytes = self.full_bytes = _U16_MAX
        self.clamp_bytes = self.ssthresh_bytes = _UNBOUND
        self.syn_bytes = _U16_MAX
        """Window of the SYN: not scaled, so neither rounded to the scale nor above 16 bits."""
        self.scale_bytes = 1 << 7
        """What a window is counted in (RFC 7323 section 2)."""
        self.under_pressure = False
        """Memory of the protocol is short: nothing grows."""
        # invariant: eight times the estimate, 0 before the first sample
        self._rtt8_ns = 0
        self.passed_at_seq = -1
        """The end of the window that is timed."""
        self._window_since_ns: int | None = None

    def open(self, space_bytes: int, *, syn_mss_bytes: int, rmem_max_bytes: int) -> None:
        """Choose the window of the SYN, the scale, and what the window may grow to.

        ``space_bytes`` is the window part of the buffer, ``syn_mss_bytes`` the packet without timestamps if the SYN is
        the first (tcp_select_initial_window, tcp_init_buffer_space).
        """
        mss_bytes = self._mss_bytes
        self.free_bytes = self.full_bytes = self.clamp_bytes = space_bytes
        first = space_bytes - space_bytes % syn_mss_bytes if space_bytes > syn_mss_bytes else space_bytes
        largest = max(space_bytes, rmem_max_bytes, _RMEM_MAX_BYTES)
        self.scale_bytes = 1 << min(max(largest.bit_length() - 16, 0), _MAX_SCALE)
        self._rmem_max_bytes = rmem_max_bytes
        if space_bytes > 2 * mss_bytes:
            self.clamp_bytes = max(2 * mss_bytes, space_bytes - mss_bytes)
        self.syn_bytes = min(first, _U16_MAX)
        self.ssthresh_bytes = min(self.syn_bytes, self.clamp_bytes)

    def announce(self, free_bytes: int, full_bytes: int | None = None, *, under_pressure: bool = False) -> None:
        """Note how much the shell can take now, and if it changed, the size of the whole buffer."""
        assert free_bytes >= 0
        self.free_bytes = free_bytes
        self.under_pressure = under_pressure
        if full_bytes is not None:
            assert full_bytes >= free_bytes
            self.full_bytes = full_bytes

    def select(self, rcv_mss_bytes: int) -> int:
        """Return the window that could be advertised, whatever the peer was told before (__tcp_select_window)."""
        free = self.free_bytes
        full = self.largest_bytes
        if free < full >> 1:
            if self.under_pressure:
                self.restrain(4)
            # rounded down, so that scaling does not add to what is short
            free -= free % self.scale_bytes
            if free < self.full_bytes >> 4 or free < min(rcv_mss_bytes, full):
                return 0
        return self.in_units(min(free, self.ssthresh_bytes))

    def in_units(self, size_bytes: int) -> int:
        """Return a window in whole units of the scale, rounded up so that it is not scaled away."""
        return (size_bytes + self.scale_bytes - 1) & -self.scale_bytes

    @property
    def largest_bytes(self) -> int:
        """What the window is when nothing is unread and it has grown."""
        return min(self.clamp_bytes, self.full_bytes)

    @property
    def is_short(self) -> bool:
        """Whether less than half of it is free: each packet is not acknowledged by itself then."""
        return self.free_bytes < self.largest_bytes >> 1

    def restrain(self, nr_packets: int) -> None:
        """Come back to a few packets (tcp_adjust_rcv_ssthresh)."""
        self.ssthresh_bytes = min(self.ssthresh_bytes, nr_packets * self._mss_bytes)

    def grow(self, size_bytes: int, truesize_bytes: int, rcv_mss_bytes: int) -> bool:
        """Let a packet that arrived open the window further; return whether it did (tcp_grow_window)."""
        room = min(self.clamp_bytes, self.free_bytes) - self.ssthresh_bytes
        if room <= 0 or size_bytes < _GROWS_FROM_BYTES:
            return False
        if self.under_pressure:
            self.restrain(4)
            return False
        step = 2 * self._mss_bytes
        if truesize_bytes >> 1 > size_bytes:
            step = self._slow_step(size_bytes, truesize_bytes, rcv_mss_bytes)
        if step:
            self.ssthresh_bytes += min(room, max(step, 2 * size_bytes))
        return bool(step)

    def _slow_step(self, size_bytes: int, truesize_bytes: int, rcv_mss_bytes: int) -> int:
        """Return what a packet with much overhead is worth: the less, the wider the window (__tcp_grow_window)."""
        truesize = truesize_bytes >> 2
        window = self._rmem_max_bytes >> 2
        while self.ssthresh_bytes <= window:
            if truesize <= size_bytes:
                return 2 * rcv_mss_bytes
            truesize >>= 1
            window >>= 1
        return 0

    # The round trip

    @property
    def rtt_ns(self) -> int:
        """The receiver's estimate of the round trip; 0 if it has none."""
        return self._rtt8_ns >> 3

    def window_passed(self, rcv_nxt: int, rcv_wnd_bytes: int, now_ns: int) -> None:
        """Take the time that a whole window took, up to :attr:`passed_at_seq` (tcp_rcv_rtt_measure)."""
        assert rcv_nxt >= self.passed_at_seq
        if self._window_since_ns is not None:
            sample8_ns = max(now_ns - self._window_since_ns, 1000) << 3
            if not self._rtt8_ns or sample8_ns < self._rtt8_ns:
                self._rtt8_ns = sample8_ns
        self.passed_at_seq = rcv_nxt + rcv_wnd_bytes
        self._window_since_ns = now_ns

    def echoed(self, ecr_ns: int, now_ns: int) -> None:
        """Take a full packet's echo of a timestamp that was not echoed before (tcp_rcv_rtt_measure_ts)."""
        sample_ns = max(now_ns // NS_PER_MS - ecr_ns // NS_PER_MS, 1) * NS_PER_MS
        if self._rtt8_ns:
            self._rtt8_ns += sample_ns - (self._rtt8_ns >> 3)
        else:
            self._rtt8_ns = sample_ns << 3
