"""What the application queued and nobody sent yet: skb boundaries, corking and Nagle.

The shell holds the memory; this queue holds where each sk_buff of it ends. A segment never spans two skbs, because in
Linux an skb *is* what is handed down, so the boundaries decide how the stream is cut as much as the MSS does. The last
skb may be extended while part of it is unsent; when a segment ends inside an skb, the rest is the new first skb
(``tcp_output.c:tso_fragment``).

:meth:`SendQueue.sendable_bytes` answers how much of the first skb may go, given the windows: full packets always; the
last partial packet of the last skb only if neither Nagle (RFC 9293 section 3.7.4, in Minshall's form: one small packet
in flight at a time) nor a cork holds it. There are two corks: ``corked`` is the TCP_CORK option and stays; MSG_MORE is
the ``more`` argument and lasts for one call, so in Linux and here any acknowledgement may push out what it held.

Mirrors ``net/ipv4/tcp_output.c``: ``tcp_nagle_test``, ``tcp_nagle_check``, ``tcp_snd_wnd_test``,
``tcp_mss_split_point``.
"""

from collections import deque

from netvm.net.tcp.segment import ACK, FIN, PSH

__all__ = ["SendQueue"]


class SendQueue:
    """The unsent tail of ``sk_write_queue``, as ends of skbs."""

    __slots__ = ("_ends", "corked", "fin_seq", "mss_bytes", "nodelay", "pushed_seq", "small_seq", "write_seq")

    def __init__(self, first_seq: int, *, mss_bytes: int, nodelay: bool) -> None:
        self.mss_bytes = mss_bytes
        self.nodelay = nodelay
        self.corked = False
        # invariant: increasing; the first skb begins at snd_nxt, the last ends at write_seq
        self._ends: deque[int] = deque()
        self.write_seq = first_seq
        """End of all queued data."""
        self.fin_seq: int | None = None
        """Where the FIN stands in the stream, once the application closed."""
        self.pushed_seq = first_seq
        """Data below it was pushed by the application."""
        self.small_seq = first_seq
        """End of the last packet sent below full size: ``snd_sml``."""

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, size_bytes: int, *, new_skb: bool) -> None:
        """Queue data, in a new skb or at the end of the last one."""
        assert size_bytes > 0
        assert self.fin_seq is None
        assert new_skb or self._ends
        self.write_seq += size_bytes
        if new_skb:
            self._ends.append(self.write_seq)
        else:
            self._ends[-1] = self.write_seq

    def close(self) -> None:
        """Let a FIN follow the queued data."""
        assert self.fin_seq is None
        self.fin_seq = self.pushed_seq = self.write_seq

    def head_bytes(self, snd_nxt: int) -> int | None:
        """Return the size of the first skb, 0 for a FIN alone, or None when nothing waits."""
        if self._ends:
            return self._ends[0] - snd_nxt
        return 0 if self.fin_seq == snd_nxt else None

    def sendable_bytes(
        self, size_bytes: int, *, window_bytes: int, max_packets: int, more: bool, small_in_flight: bool
    ) -> int:
        """Return how much of the first skb may be sent as one segment; 0 holds it (``tcp_mss_split_point``).

        ``size_bytes`` is what is left of that skb. ``small_in_flight`` says that data is in flight and a small packet
        is part of it.
        """
        mss_bytes = self.mss_bytes
        max_bytes = max_packets * mss_bytes
        if len(self._ends) > 1 and (max_bytes <= window_bytes or size_bytes <= mss_bytes):
            # nothing can be added any more (tcp_nagle_test); only the window may cut it in the middle of a packet
            return min(size_bytes, max_bytes)
        limit = min(size_bytes, window_bytes)
        if max_bytes <= limit:
            return max_bytes
        partial = limit % mss_bytes
        if partial and self.fin_seq is None and (more or self.corked or (not self.nodelay and small_in_flight)):
            return limit - partial
        return limit

    def flags_of(self, seq: int, end: int) -> int:
        """Return the control bits of data ``seq`` to ``end``; PSH where the application pushed (``tcp_mark_push``)."""
        flags = ACK
        if seq < self.pushed_seq <= end:
            flags |= PSH
        if end == self.fin_seq:
            flags |= FIN
        return flags

    def sent(self, seq: int, end: int) -> None:
        """Take what was sent off the queue; a rest of the first skb stays, as an skb of its own."""
        if end > seq and self._ends[0] == end:
            self._ends.popleft()
        assert not self._ends or self._ends[0] > end
        if (end - seq) % self.mss_bytes:
            self.small_seq = end

    def clear(self) -> None:
        """Forget everything: ``tcp_write_queue_purge``."""
        self._ends.clear()
        self.fin_seq = None

    def digest(self) -> tuple[object, ...]:
        """Return boundaries and marks."""
        return tuple(self._ends), self.fin_seq, self.pushed_seq, self.corked, self.small_seq
