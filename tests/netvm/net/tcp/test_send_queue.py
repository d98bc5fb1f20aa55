"""What waits to be sent: sk_buff boundaries, corks and Nagle."""

import pytest

from netvm.net.tcp.segment import ACK, FIN, PSH
from netvm.net.tcp.send_queue import SendQueue

MSS = 1000


def _queue(*sizes: int, nodelay: bool = True) -> SendQueue:
    waiting = SendQueue(0, mss_bytes=MSS, nodelay=nodelay)
    for size in sizes:
        waiting.append(size, new_skb=True)
    return waiting


def _sendable(waiting: SendQueue, size: int, **kw: object) -> int:
    given = {"window_bytes": 100_000, "max_packets": 45, "more": False, "small_in_flight": False} | kw
    return waiting.sendable_bytes(size, **given)  # type: ignore[arg-type]


def test_a_segment_ends_with_its_skb() -> None:
    """However small it is, the first skb is what is handed down (tcp_write_xmit); the next is another segment."""
    waiting = _queue(10, 5000)
    assert waiting.head_bytes(0) == 10
    assert _sendable(waiting, 10) == 10
    waiting.sent(0, 10)
    assert waiting.head_bytes(10) == 5000


def test_the_rest_of_an_skb_is_an_skb() -> None:
    """tso_fragment: what did not fit stays first, and the last one may still be extended."""
    waiting = _queue(5000)
    waiting.sent(0, 2000)
    assert waiting.head_bytes(2000) == 3000
    waiting.append(500, new_skb=False)
    assert waiting.head_bytes(2000) == 3500
    waiting.sent(2000, 5500)
    assert waiting.head_bytes(5500) is None
    with pytest.raises(AssertionError):
        waiting.append(1, new_skb=False)


def test_a_cork_holds_the_last_partial_packet_only() -> None:
    """TCP_NAGLE_CORK: full packets of the last skb go, its rest waits; MSG_MORE does the same for one call."""
    waiting = _queue(2500)
    assert _sendable(waiting, 2500, more=True) == 2000
    waiting.corked = True
    assert _sendable(waiting, 2500) == 2000
    waiting.sent(0, 2000)
    assert _sendable(waiting, 500) == 0
    waiting.corked = False
    assert _sendable(waiting, 500) == 500


def test_a_cork_does_not_hold_an_skb_that_has_a_successor() -> None:
    """Nothing can be added to it any more, so waiting would be for nothing (tcp_nagle_test)."""
    waiting = _queue(500, 500)
    assert _sendable(waiting, 500, more=True) == 500
    waiting.sent(0, 500)
    assert _sendable(waiting, 500, more=True) == 0


def test_a_window_cuts_a_corked_skb_at_a_packet() -> None:
    """tcp_mss_split_point: what only the window cuts is whole packets under a cork, whatever comes behind the skb."""
    waiting = _queue(5000, 5000)
    assert _sendable(waiting, 5000, window_bytes=3300) == 3300
    assert _sendable(waiting, 5000, window_bytes=3300, more=True) == 3000
    waiting.corked = True
    assert _sendable(waiting, 5000, window_bytes=3300) == 3000
    assert _sendable(waiting, 5000, max_packets=3) == 3000
    assert _sendable(waiting, 700, window_bytes=700) == 700, "a packet of its own that has a successor"


def test_nagle_allows_one_small_packet_in_flight() -> None:
    """RFC 9293 section 3.7.4 in Minshall's form; TCP_NODELAY is without it."""
    waiting = _queue(2500, nodelay=False)
    assert _sendable(waiting, 2500) == 2500
    assert _sendable(waiting, 2500, small_in_flight=True) == 2000
    assert _sendable(_queue(2500), 2500, small_in_flight=True) == 2500


def test_small_packets_are_remembered() -> None:
    """snd_sml moves only with a packet below full size."""
    waiting = _queue(3000, 100)
    waiting.sent(0, 3000)
    assert waiting.small_seq == 0
    waiting.sent(3000, 3100)
    assert waiting.small_seq == 3100


def test_windows_and_gso_bound_a_segment() -> None:
    """Whole packets up to the congestion window and GSO; up to the last byte of the peer's window."""
    waiting = _queue(50_000)
    assert _sendable(waiting, 50_000, max_packets=10) == 10_000
    assert _sendable(waiting, 50_000, window_bytes=3300) == 3300
    assert _sendable(_queue(50_000, 1), 50_000, window_bytes=3300) == 3300


def test_fin_ends_the_stream_and_lifts_every_hold() -> None:
    """A FIN is on the last segment, or alone when everything else is gone; a cork does not hold it."""
    waiting = _queue(500, nodelay=False)
    waiting.corked = True
    waiting.close()
    assert _sendable(waiting, 500, small_in_flight=True) == 500
    assert waiting.flags_of(0, 500) == ACK | PSH | FIN
    waiting = _queue()
    assert waiting.head_bytes(0) is None
    waiting.close()
    assert waiting.head_bytes(0) == 0
    assert waiting.head_bytes(1) is None


def test_push_marks_the_segment_with_the_last_pushed_byte() -> None:
    """tcp_mark_push: one PSH where the application stopped, none before and none after."""
    waiting = _queue(3000)
    waiting.pushed_seq = waiting.write_seq
    assert not waiting.flags_of(0, 2000) & PSH
    assert waiting.flags_of(2000, 3000) & PSH
    waiting.append(10, new_skb=True)
    assert not waiting.flags_of(3000, 3010) & PSH


def test_clear_forgets_what_waits() -> None:
    """A dead connection has nothing to send."""
    waiting = _queue(100)
    waiting.close()
    waiting.clear()
    assert waiting.head_bytes(0) is None
    assert waiting.digest()[0] == ()
