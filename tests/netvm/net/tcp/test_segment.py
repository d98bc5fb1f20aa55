"""Segments: what they count, and what a wire may do to them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.net.tcp.segment import ACK, FIN, PSH, RST, SYN, Segment, merge, packets_of, reset_for, split

MSS = 1448


def _data(seq: int = 1, size: int = 10, flags: int = ACK, **kw: object) -> Segment:
    return Segment(seq, size, 7, 65535, flags)._replace(**kw)


def test_syn_and_fin_take_a_sequence_number_each() -> None:
    """RFC 9293 section 3.4: SYN and FIN are numbered like data, other bits are not."""
    assert _data(100, 10, ACK | PSH).end == 110
    assert _data(100, 10, ACK | FIN).end == 111
    assert _data(100, 0, SYN).end == 101


def test_packets_are_counted_as_linux_counts_them() -> None:
    """A GSO segment counts as many packets as the wire will carry; an empty one is one packet."""
    assert [packets_of(size, MSS) for size in (0, 1, MSS, MSS + 1, 45 * MSS)] == [1, 1, 1, 2, 45]


@settings(deadline=None)
@given(st.integers(1, 20_000), st.integers(88, 3000), st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | PSH | FIN]))
def test_split_then_merge_is_the_segment_itself(size: int, mss: int, flags: int) -> None:
    """Cutting keeps every byte and number once; GRO puts the frames together again; only the last has FIN and PSH."""
    whole = _data(5, size, flags)
    frames = split(whole, mss)
    assert all(0 < frame.size_bytes <= mss for frame in frames)
    assert all(not frame.flags & (FIN | PSH) for frame in frames[:-1])
    joined = frames[0]
    for frame in frames[1:]:
        merged = merge(joined, frame, max_bytes=20_000)
        assert merged is not None
        joined = merged
    assert joined == whole


def test_gro_does_not_join_what_differs() -> None:
    """A gap, other options, a pushed end, too many bytes, or no data at all keep segments apart."""
    first = _data(1, 10)
    assert merge(first, _data(12, 10), max_bytes=100) is None
    assert merge(first, _data(11, 10, ts_val_ns=5), max_bytes=100) is None
    assert merge(first, _data(11, 10, ack=8), max_bytes=100) is None
    assert merge(_data(1, 10, ACK | PSH), _data(11, 10), max_bytes=100) is None
    assert merge(first, _data(11, 10), max_bytes=19) is None
    assert merge(first, _data(11, 0), max_bytes=100) is None
    assert merge(first, _data(11, 10, ACK | RST), max_bytes=100) is None


def test_a_segment_for_nobody_is_answered_with_a_reset() -> None:
    """RFC 9293 section 3.10.7.1: numbered by the acknowledgement, or acknowledging all of it; never for a RST."""
    assert reset_for(_data(1, 10)) == Segment(7, 0, 0, 0, RST)
    assert reset_for(_data(1, 0, SYN)) == Segment(0, 0, 2, 0, RST | ACK)
    assert reset_for(_data(1, 0, RST)) is None
