"""What was sent and is not yet acknowledged: Linux's retransmit queue with its tags.

Each :class:`SentSkb` is one sk_buff of ``sk->tcp_rtx_queue``: a range of sequence numbers, how many packets it is, when
it last left, and three tags (``TCP_SKB_CB(skb)->sacked``):

- *sacked*: the peer holds it beyond its cumulative acknowledgement (RFC 2018);
- *lost*: it is believed to have left the network;
- *retrans*: it was lost and a copy is in flight again.

What is in flight follows from the counts, ``packets_out - (sacked_out + lost_out) + retrans_out``
(``include/net/tcp.h:tcp_packets_in_flight``), which is *pipe* of RFC 6675. A hole is lost once ``reordering`` packets
above it were SACKed (RFC 6675 section 4, IsLost); everything is lost when the retransmission timer fires.

An skb is cut where a SACK block, a retransmission or an acknowledgement ends inside it, as ``tcp_fragment`` and
``tcp_trim_head`` do. Acknowledging in order is the fast path and keeps the counts as it goes; everything that tags
recounts the queue, which is at most a window of skbs.

# MODEL: cutting an skb for a SACK block costs the shell no memory here; in Linux a failed GFP_ATOMIC cut leaves the
# whole skb untagged. Small skbs are not joined for retransmission (``tcp_retrans_collapse``). Loss is judged by counts,
# not by the time each packet was sent (RACK, RFC 8985), so a retransmission that is lost again waits for the RTO.
"""

from collections.abc import Iterator

from netvm.net.tcp.segment import FIN, PSH, SYN, SackBlock, packets_of

__all__ = ["NEVER_NS", "RetransmitQueue", "SentSkb"]

NEVER_NS = -1
"""No send time: never sent, or not usable as the start of a round trip."""


class SentSkb:
    """One sk_buff of the retransmit queue."""

    __slots__ = ("end", "flags", "lost", "packets", "retrans", "sacked", "sent_ns", "seq", "transmissions")

    def __init__(self, seq: int, end: int, *, flags: int, packets: int, sent_ns: int) -> None:
        self.seq = seq
        self.end = end
        # SYN, FIN and PSH only; the first two take a sequence number of the range each.
        self.flags = flags
        self.packets = packets
        self.sent_ns = sent_ns
        self.transmissions = 0 if sent_ns == NEVER_NS else 1
        # invariant: sacked excludes lost; retrans implies lost
        self.sacked = False
        self.lost = False
        self.retrans = False

    @property
    def size_bytes(self) -> int:
        """Bytes of data: the range without SYN and FIN."""
        return self.end - self.seq - (self.flags & FIN) - ((self.flags & SYN) >> 1)

    def cut(self, at: int, mss_bytes: int) -> "SentSkb":
        """Keep what is below ``at`` and return the rest, with the same history."""
        assert self.seq < at < self.end
        assert not self.flags & SYN
        rest = SentSkb(at, self.end, flags=self.flags, packets=0, sent_ns=self.sent_ns)
        rest.transmissions = self.transmissions
        rest.sacked, rest.lost, rest.retrans = self.sacked, self.lost, self.retrans
        self.end = at
        self.flags = 0
        self.packets = packets_of(self.size_bytes, mss_bytes)
        rest.packets = packets_of(rest.size_bytes, mss_bytes)
        return rest


class RetransmitQueue:
    """``tcp_rtx_queue`` with the counts of ``struct tcp_sock``."""

    __slots__ = ("_queue", "lost_out", "mss_bytes", "packets_out", "retrans_out", "sacked_out")

    def __init__(self, mss_bytes: int) -> None:
        self.mss_bytes = mss_bytes
        # invariant: skbs are contiguous and in order
        self._queue: list[SentSkb] = []
        self.packets_out = 0
        self.sacked_out = 0
        self.lost_out = 0
        self.retrans_out = 0

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[SentSkb]:
        return iter(self._queue)

    @property
    def head(self) -> SentSkb | None:
        """The oldest skb: it begins at ``snd_una``."""
        return self._queue[0] if self._queue else None

    @property
    def in_flight(self) -> int:
        """Packets in the network as far as is known."""
        return self.packets_out - self.sacked_out - self.lost_out + self.retrans_out

    def append(self, seq: int, end: int, *, flags: int, size_bytes: int, sent_ns: int) -> int:
        """Add what was just sent (or, with ``NEVER_NS``, what is to be sent first from here); return its packets."""
        packets = -(-size_bytes // self.mss_bytes) or 1
        skb = SentSkb(seq, end, flags=flags & (SYN | FIN | PSH), packets=packets, sent_ns=sent_ns)
        assert skb.size_bytes == size_bytes
        assert not self._queue or self._queue[-1].end == seq
        self._queue.append(skb)
        self.packets_out += packets
        if sent_ns == NEVER_NS:
            skb.lost = True
            self.lost_out += packets
        return packets

    def acknowledge(self, ack: int) -> tuple[int, int]:
        """Drop what is below ``ack``; return its packets and when its oldest part was sent.

        The time is ``NEVER_NS`` if any of it was sent more than once (Karn's rule, RFC 6298 section 3).
        Mirrors ``tcp_input.c:tcp_clean_rtx_queue``.
        """
        queue = self._queue
        tagged = self.sacked_out or self.lost_out
        oldest_ns = queue[0].sent_ns if queue else NEVER_NS
        done = packets = 0
        for skb in queue:
            if skb.seq >= ack:
                break
            if skb.transmissions != 1:
                oldest_ns = NEVER_NS
            if skb.end > ack:
                before = skb.packets
                rest = queue[done] = skb.cut(ack, self.mss_bytes)
                packets += before - rest.packets
                break
            packets += skb.packets
            done += 1
        del queue[:done]
        self.packets_out -= packets
        if tagged:
            self._recount()
        assert self.packets_out >= 0
        return packets, oldest_ns

    def sack(self, blocks: tuple[SackBlock, ...]) -> bool:
        """Tag what the peer says it holds; return whether that was news. ``tcp_input.c:tcp_sacktag_write_queue``."""
        news = False
        for start, end in blocks:
            news |= self._sack_block(start, end)
        if news:
            self._recount()
        return news

    def _sack_block(self, start: int, end: int) -> bool:
        queue = self._queue
        news = False
        index = 0
        while index < len(queue) and queue[index].seq < end:
            skb = queue[index]
            index += 1
            if skb.sacked or skb.end <= start:
                continue
            if skb.seq < start:
                queue.insert(index, skb.cut(start, self.mss_bytes))
                continue
            if skb.end > end:
                queue.insert(index, skb.cut(end, self.mss_bytes))
            skb.sacked = news = True
            skb.lost = skb.retrans = False
        return news

    def mark_lost(self, reordering: int) -> bool:
        """Tag every hole with ``reordering`` packets SACKed above it; return whether any was new (IsLost, RFC 6675)."""
        above = 0
        news = False
        for skb in reversed(self._queue):
            if skb.sacked:
                above += skb.packets
            elif above >= reordering and not skb.lost:
                skb.lost = news = True
        if news:
            self._recount()
        return news

    def mark_head_lost(self) -> None:
        """Tag the oldest skb: an acknowledgement stopped just below it (partial acknowledgement, RFC 6582)."""
        head = self._queue[0]
        if not head.sacked and not head.lost:
            head.lost = True
            self._recount()

    def mark_all_lost(self) -> bool:
        """Tag everything the peer does not hold, and expect no copy to arrive; return whether the peer reneged.

        Mirrors ``tcp_input.c:tcp_timeout_mark_lost``: a SACKed head is a promise broken, so none is believed
        (RFC 2018 section 8).
        """
        reneged = bool(self._queue) and self._queue[0].sacked
        for skb in self._queue:
            if reneged:
                skb.sacked = False
            skb.lost = not skb.sacked
            skb.retrans = False
        self._recount()
        return reneged

    def next_lost(self) -> SentSkb | None:
        """Return the oldest skb that is lost and not on its way again."""
        if self.lost_out > self.retrans_out:
            for skb in self._queue:
                if skb.lost and not skb.retrans:
                    return skb
        return None

    def retransmitted(self, seq: int, end: int, now_ns: int) -> SentSkb:
        """Note that ``seq`` to ``end``, the beginning of :meth:`next_lost`, left again."""
        queue = self._queue
        index = next(i for i, skb in enumerate(queue) if skb.seq == seq)
        skb = queue[index]
        assert skb.lost
        assert not skb.retrans
        if end < skb.end:
            queue.insert(index + 1, skb.cut(end, self.mss_bytes))
        assert skb.end == end
        skb.retrans = True
        skb.sent_ns = now_ns
        skb.transmissions += 1
        self._recount()
        return skb

    def clear(self) -> None:
        """Forget everything: ``tcp_write_queue_purge``."""
        self._queue.clear()
        self._recount()

    def _recount(self) -> None:
        packets_out = sacked_out = lost_out = retrans_out = 0
        for skb in self._queue:
            packets = skb.packets
            packets_out += packets
            if skb.sacked:
                sacked_out += packets
            elif skb.lost:
                lost_out += packets
                if skb.retrans:
                    retrans_out += packets
        self.packets_out = packets_out
        self.sacked_out = sacked_out
        self.lost_out = lost_out
        self.retrans_out = retrans_out

    def digest(self) -> tuple[tuple[int, int, bool, bool, bool], ...]:
        """Return ranges and tags, without times and counts of transmissions."""
        return tuple((skb.seq, skb.end, skb.sacked, skb.lost, skb.retrans) for skb in self._queue)
