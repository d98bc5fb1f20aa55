"""What travels: one TCP segment, without its content, and how a wire may cut or join segments.

A :class:`Segment` is RFC 9293 section 3.1's header as the endpoints see it, with the two options that steer them: SACK
(RFC 2018) and timestamps (RFC 7323). It says how many bytes it carries, never which.

One segment may carry up to ``gso_max_bytes``: that is Linux's GSO packet, which the stack handles whole and the device
or the driver cuts into MTU frames (:func:`split`). The receiving side may be handed the frames, or frames joined again
by GRO (:func:`merge`); the endpoints count packets as ceil(size/mss) (:func:`packets_of`), so either gives one stream.

# MODEL: sequence numbers are unbounded integers and never wrap, so PAWS (RFC 7323 section 5) has nothing to do; window
# scaling is left out because a window is a plain integer; timestamps are the sender's clock in nanoseconds.
"""

from typing import NamedTuple

__all__ = [
    "ACK",
    "FIN",
    "NO_TIMESTAMP",
    "PSH",
    "RST",
    "SYN",
    "SackBlock",
    "Segment",
    "merge",
    "packets_of",
    "reset_for",
    "split",
]

# RFC 9293 section 3.1: control bits, from the right of the header's fourteenth byte.
FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10

NO_TIMESTAMP = -1
"""A segment without the timestamps option, or with nothing to echo yet."""

SackBlock = tuple[int, int]
"""First sequence number of a block and the one after its last (RFC 2018 section 3)."""


class Segment(NamedTuple):
    """One TCP segment: a header, and the size of what it carries."""

    seq: int
    """Sequence number of the first byte, or of the SYN."""
    size_bytes: int
    ack: int
    """Next sequence number expected; means nothing without the ACK bit."""
    window_bytes: int
    flags: int
    sack: tuple[SackBlock, ...] = ()
    """Ranges held beyond ``ack``, the one that changed last first (RFC 2018 section 4)."""
    ts_val_ns: int = NO_TIMESTAMP
    ts_ecr_ns: int = NO_TIMESTAMP
    mss_bytes: int = 0
    """The MSS option; only a SYN carries it (RFC 9293 section 3.7.1)."""

    @property
    def end(self) -> int:
        """The sequence number after this segment: SYN and FIN take one each (RFC 9293 section 3.4)."""
        return self.seq + self.size_bytes + (self.flags & FIN) + ((self.flags & SYN) >> 1)


def packets_of(size_bytes: int, mss_bytes: int) -> int:
    """Return how many wire packets carry ``size_bytes``: Linux's ``tcp_skb_pcount``; an empty segment is one."""
    return -(-size_bytes // mss_bytes) or 1


def split(segment: Segment, mss_bytes: int) -> list[Segment]:
    """Cut a GSO segment into frames of at most ``mss_bytes``; FIN and PSH stay with the last one.

    Mirrors ``net/ipv4/tcp_offload.c:tcp_gso_segment``.
    """
    if segment.size_bytes <= mss_bytes:
        return [segment]
    assert not segment.flags & (SYN | RST)
    frames = []
    for offset in range(0, segment.size_bytes, mss_bytes):
        size = min(mss_bytes, segment.size_bytes - offset)
        last = offset + size == segment.size_bytes
        flags = segment.flags if last else segment.flags & ~(FIN | PSH)
        frames.append(segment._replace(seq=segment.seq + offset, size_bytes=size, flags=flags))
    assert frames[-1].end == segment.end
    return frames


def merge(first: Segment, second: Segment, *, max_bytes: int) -> Segment | None:
    """Return both as one segment if GRO would join them, else None.

    Mirrors ``net/ipv4/tcp_offload.c:tcp_gro_receive``: consecutive data with the same acknowledgement, window and
    options, and nothing after a PSH or FIN.
    """
    if not first.size_bytes or not second.size_bytes or first.end != second.seq:
        return None
    if (first.flags | second.flags) & (SYN | RST) or first.flags & (FIN | PSH):
        return None
    if first.size_bytes + second.size_bytes > max_bytes or first[2:4] != second[2:4] or first[5:] != second[5:]:
        return None
    return first._replace(size_bytes=first.size_bytes + second.size_bytes, flags=first.flags | second.flags)


def reset_for(segment: Segment) -> Segment | None:
    """Return the RST that answers a segment no connection wants, or None if it is itself a RST.

    RFC 9293 section 3.10.7.1: its sequence number is the offending acknowledgement, or else it acknowledges all of it.
    """
    if segment.flags & RST:
        return None
    if segment.flags & ACK:
        return Segment(segment.ack, 0, 0, 0, RST)
    return Segment(0, 0, segment.end, 0, RST | ACK)
