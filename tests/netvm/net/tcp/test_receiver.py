"""The receiving half: ranges, windows and the time of acknowledgements."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.net.tcp.config import TcpConfig, new_counters
from netvm.net.tcp.receiver import AckDue, Disposition, Receiver
from netvm.net.tcp.rto import RttEstimator
from netvm.net.tcp.segment import ACK, SYN, Segment
from netvm.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS
MSS = 1000


def _receiver(*, free: int = 64_000, full: int = 64_000, quick: bool = False) -> Receiver:
    """Return a receiver at sequence number 1 that has advertised its window."""
    config = TcpConfig(mss_bytes=MSS, max_quickacks=16 if quick else 1)
    rtt = RttEstimator(config)
    rtt.sample(0, snd_una=1, snd_nxt=2)
    receiver = Receiver(config, new_counters(), rtt)
    receiver.open(Segment(0, 0, 0, 64_000, SYN))
    receiver.window.announce(free, full)
    receiver.ack_sent(Segment(0, 0, 1, receiver.select_window(), SYN | ACK), 0)
    return receiver


def _acknowledge(receiver: Receiver, now_ns: int, size: int = 0) -> Segment:
    segment = Segment(1, size, receiver.rcv_nxt, receiver.select_window(), ACK, receiver.sacks)
    receiver.ack_sent(segment, now_ns)
    return segment


def _arrive(receiver: Receiver, seq: int, size: int, now_ns: int = 0) -> Disposition:
    return receiver.accept(seq, seq + size, size, now_ns)


def test_in_order_data_moves_on() -> None:
    """The plain case; an overlap with what was read already is cut off silently."""
    receiver = _receiver()
    assert _arrive(receiver, 1, 100) is Disposition.IN_ORDER
    assert _arrive(receiver, 51, 100) is Disposition.IN_ORDER
    assert receiver.rcv_nxt == 151


def test_a_hole_keeps_what_is_ahead_and_says_so_at_once() -> None:
    """RFC 5681 section 4.2: each arrival beyond a hole is acknowledged at once, and so is the one that fills it."""
    receiver = _receiver()
    assert _arrive(receiver, 1001, 1000) is Disposition.OUT_OF_ORDER
    assert receiver.ack_due is AckDue.NOW
    assert receiver.counters["TCPOFOQueue"] == 1
    assert _acknowledge(receiver, 0).sack == ((1001, 2001),)
    assert _arrive(receiver, 1001, 1000) is Disposition.DUPLICATE
    assert receiver.ack_due is AckDue.NOW
    _acknowledge(receiver, 0)
    assert _arrive(receiver, 1, 1000) is Disposition.IN_ORDER
    assert receiver.rcv_nxt == 2001
    assert receiver.ack_due is AckDue.NOW
    assert _acknowledge(receiver, 0).sack == ()


def test_small_data_near_a_hole_is_acknowledged_at_once() -> None:
    """RFC 5681 section 4.2: in order but below a hole, or filling it, however little it is."""
    receiver = _receiver()
    _arrive(receiver, 1, 10)
    _acknowledge(receiver, 0)
    _arrive(receiver, 31, 10)
    _acknowledge(receiver, 0)
    receiver._quick = 0
    _arrive(receiver, 11, 10)
    assert receiver.ack_due is AckDue.NOW
    _acknowledge(receiver, 0)
    receiver._quick = 0
    _arrive(receiver, 21, 10)
    assert receiver.ack_due is AckDue.NOW
    _acknowledge(receiver, 0)
    receiver._quick = 0
    _arrive(receiver, 41, 10)
    assert receiver.ack_due is AckDue.DELAYED


def test_the_range_that_changed_last_is_reported_first() -> None:
    """RFC 2018 section 4, and no more blocks than fit beside timestamps."""
    receiver = _receiver()
    for seq in (2001, 4001, 6001, 8001):
        _arrive(receiver, seq, 1000)
    assert receiver.sacks == ((8001, 9001), (6001, 7001), (4001, 5001))
    _arrive(receiver, 5001, 1000)
    assert receiver.sacks == ((4001, 7001), (8001, 9001))
    assert receiver.out_of_order == ((2001, 3001), (4001, 7001), (8001, 9001))


def test_old_data_is_acknowledged_at_once() -> None:
    """The peer missed an acknowledgement; it and the next few come at once (tcp_send_dupack)."""
    receiver = _receiver()
    _arrive(receiver, 1, 1000)
    _acknowledge(receiver, 0)
    assert _arrive(receiver, 1, 1000) is Disposition.DUPLICATE
    assert receiver.ack_due is AckDue.NOW


def test_data_beyond_the_window_is_refused() -> None:
    """Beyond the right edge, or with no window at all, nothing is taken, and the peer is told where we are."""
    receiver = _receiver(free=4096)
    assert _arrive(receiver, 4097, 10) is Disposition.OUT_OF_WINDOW
    assert receiver.ack_due is AckDue.NOW
    _arrive(receiver, 1, 4096)
    receiver.window.announce(0)
    _acknowledge(receiver, 0)
    assert receiver.counters["TCPToZeroWindowAdv"] == 1
    assert _arrive(receiver, 4097, 1) is Disposition.OUT_OF_WINDOW
    assert receiver.counters["TCPZeroWindowDrop"] == 1


def test_acceptable_is_rfc_9293s_table() -> None:
    """Section 3.10.7.4: a segment must touch the window; an empty one at its edges does."""
    receiver = _receiver(free=4000)
    assert receiver.acceptable(1, 1)
    edge = 1 + receiver.rcv_wnd_bytes
    assert receiver.acceptable(edge, edge)
    assert not receiver.acceptable(edge + 1, edge + 1)
    assert not receiver.acceptable(0, 0)
    assert receiver.acceptable(0, 1)


def test_silly_windows_are_not_offered() -> None:
    """RFC 9293 section 3.8.6.2.2: less than a packet, or than a sixteenth of the buffer, is announced as nothing."""
    receiver = _receiver(free=3072, full=3072)
    _arrive(receiver, 1, 3072)
    for free in (0, 1, 999):
        receiver.window.announce(free)
        assert receiver.select_window() == 0
    receiver.window.announce(1024)
    assert receiver.select_window() == 1024
    receiver.window.announce(1000)
    assert receiver.select_window() == 0, "896 once it is rounded down, less than a packet"
    receiver = _receiver(free=64_000)
    _arrive(receiver, 1, 64_000)
    receiver.window.announce(3999)
    assert receiver.select_window() == 0
    receiver.window.announce(4100)
    assert receiver.select_window() == 4096


def test_a_window_is_counted_in_units_of_its_scale() -> None:
    """RFC 7323 section 2.3: rounded up while there is plenty, down when less than half of the buffer is free."""
    receiver = _receiver(free=12_800, full=12_800)
    _arrive(receiver, 1, 1000)
    receiver.window.announce(12_801)
    assert receiver.select_window() == 12_928
    _arrive(receiver, 1001, 11_800)
    receiver.window.announce(6399)
    assert receiver.select_window() == 6272


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 64_000)), max_size=30))
@settings(deadline=None)
def test_the_right_edge_never_moves_left(steps: list[tuple[int, int]]) -> None:
    """Whatever happens to the free space, a window once offered stands (RFC 9293 section 3.8.6)."""
    receiver = _receiver()
    edge = 1 + receiver.rcv_wnd_bytes
    for size, free in steps:
        size = min(size, edge - receiver.rcv_nxt)
        if size:
            _arrive(receiver, receiver.rcv_nxt, size)
        receiver.window.announce(free)
        segment = _acknowledge(receiver, 0)
        assert segment.ack + segment.window_bytes >= edge
        edge = segment.ack + segment.window_bytes


def test_the_first_packets_are_acknowledged_at_once() -> None:
    """Quick-ACK mode: the sender is in slow start and needs every acknowledgement."""
    receiver = _receiver(quick=True)
    for count in range(16):
        _arrive(receiver, receiver.rcv_nxt, 100, count * MS)
        assert receiver.ack_due is AckDue.NOW, count
        _acknowledge(receiver, count * MS)
    _arrive(receiver, receiver.rcv_nxt, 100, 17 * MS)
    assert receiver.ack_due is AckDue.DELAYED


def test_after_a_long_silence_the_sender_starts_slowly_and_is_answered_quickly() -> None:
    """tcp_event_data_recv: a gap above the RTO is quick-ACK mode again."""
    receiver = _receiver()
    _arrive(receiver, 1, 100, 0)
    _acknowledge(receiver, 0)
    _arrive(receiver, 101, 100, 10 * MS)
    assert receiver.ack_due is AckDue.DELAYED
    _acknowledge(receiver, 10 * MS)
    _arrive(receiver, 201, 100, NS_PER_S)
    assert receiver.ack_due is AckDue.NOW


def test_more_than_a_packet_is_acknowledged_at_once_if_the_window_can_move() -> None:
    """RFC 5681 section 4.2: every second full packet; but not while the reader keeps the window from moving."""
    receiver = _receiver()
    _arrive(receiver, 1, MSS)
    _acknowledge(receiver, 0)
    _arrive(receiver, 1001, MSS)
    assert receiver.ack_due is AckDue.DELAYED
    _arrive(receiver, 2001, MSS)
    assert receiver.ack_due is AckDue.NOW
    _acknowledge(receiver, 0)
    receiver.window.announce(30_000)
    _arrive(receiver, 3001, 2 * MSS)
    assert receiver.ack_due is AckDue.DELAYED
    receiver.cleanup_rbuf(1, drained=False)
    assert receiver.ack_due is AckDue.NOW


def _delay_ms(gaps_ms: list[int]) -> float:
    """Return the delay of the last acknowledgement when small packets come at these gaps."""
    receiver = _receiver()
    receiver._rtt.srtt_ns = NS_PER_S
    now_ns = 0
    for gap in gaps_ms:
        now_ns += gap * MS
        _acknowledge(receiver, now_ns)
        receiver._quick = 0
        _arrive(receiver, receiver.rcv_nxt, 100, now_ns)
    assert receiver.ack_due is AckDue.DELAYED
    assert receiver.delack_ns is not None
    return (receiver.delack_ns - now_ns) / MS


def test_delays_of_acknowledgements() -> None:
    """tcp_event_data_recv: 40 ms for dense packets (ato/2 + 20), half the last plus the gap for sparse ones."""
    assert _delay_ms([0, 10]) == 40
    assert _delay_ms([0, 10, 10, 10]) == 40
    assert _delay_ms([0, 30]) == 50
    assert _delay_ms([0, 30, 45]) == 70


def test_delays_follow_the_round_trip_up_to_200_ms() -> None:
    """tcp_send_delayed_ack: a long path allows a longer delay, never above TCP_DELACK_MAX."""
    receiver = _receiver()
    receiver._rtt.srtt_ns = 150 * MS
    receiver._ato_ns = 180 * MS
    receiver._delay_ack(0)
    assert receiver.delack_ns == 150 * MS
    receiver.delack_ns = None
    receiver._rtt.srtt_ns = NS_PER_S
    receiver._ato_ns = NS_PER_S
    receiver._delay_ack(0)
    assert receiver.delack_ns == 200 * MS


def test_a_second_packet_does_not_postpone_the_timer() -> None:
    """The older deadline stays, and if it is near the acknowledgement goes now."""
    receiver = _receiver()
    receiver._ato_ns = 40 * MS
    receiver._delay_ack(0)
    receiver._delay_ack(20 * MS)
    assert receiver.delack_ns == 40 * MS
    receiver._delay_ack(31 * MS)
    assert receiver.ack_due is AckDue.NOW


def test_a_missed_delayed_ack_counts_and_inflates_the_delay() -> None:
    """tcp_delack_timer_handler: DelayedACKs, and ato doubles; out of pingpong it starts again at 40 ms."""
    receiver = _receiver()
    receiver._ato_ns = 40 * MS
    receiver._delay_ack(0)
    receiver.handle_delack_timer()
    assert receiver.ack_due is AckDue.NOW
    assert receiver.counters["DelayedACKs"] == 1
    assert receiver._ato_ns == 80 * MS
    receiver.pingpong = True
    receiver.handle_delack_timer()
    assert not receiver.pingpong
    assert receiver._ato_ns == 40 * MS


def test_answers_carry_acknowledgements() -> None:
    """Data sent within ato of data received makes a conversation: no quick ACKs any more (tcp_event_data_sent)."""
    receiver = _receiver(quick=True)
    _arrive(receiver, 1, 100, 0)
    assert receiver.ack_due is AckDue.NOW
    _acknowledge(receiver, MS, size=16)
    assert receiver.pingpong
    _arrive(receiver, 101, 100, 2 * MS)
    assert receiver.ack_due is AckDue.DELAYED


def test_acknowledgements_without_memory_back_off() -> None:
    """__tcp_send_ack: 200 ms doubled at each failure, until it would pass two minutes; success starts over."""
    receiver = _receiver()
    waits = []
    for _ in range(12):
        receiver.ack_failed(0)
        assert receiver.ack_due is AckDue.DELAYED
        waits.append(receiver.delack_ns / NS_PER_S)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 120, 120]
    _acknowledge(receiver, 0)
    receiver.ack_failed(0)
    assert receiver.delack_ns == 200 * MS


def test_reading_opens_the_window() -> None:
    """tcp_cleanup_rbuf: an acknowledgement is due when the window at least doubles, not for less."""
    receiver = _receiver(free=10_240, full=10_240)
    for _ in range(10):
        _arrive(receiver, receiver.rcv_nxt, 1024)
    receiver.window.announce(0)
    _acknowledge(receiver, 0)
    receiver.window.announce(512)
    receiver.cleanup_rbuf(512, drained=False)
    assert receiver.ack_due is AckDue.NONE
    receiver.window.announce(1024)
    receiver.cleanup_rbuf(512, drained=False)
    assert receiver.ack_due is AckDue.NOW
    _acknowledge(receiver, 0)
    assert receiver.counters["TCPFromZeroWindowAdv"] == 1
    receiver.window.announce(1900)
    receiver.cleanup_rbuf(900, drained=False)
    assert receiver.ack_due is AckDue.NONE


def test_reading_the_last_small_packet_acknowledges_it() -> None:
    """tcp_cleanup_rbuf: the queue is empty, the packet was small, and no answer is expected to carry it."""
    receiver = _receiver()
    _arrive(receiver, 1, 100)
    _acknowledge(receiver, 0)
    _arrive(receiver, 101, 100)
    assert receiver.ack_due is AckDue.DELAYED
    receiver.cleanup_rbuf(100, drained=False)
    assert receiver.ack_due is AckDue.DELAYED
    receiver.cleanup_rbuf(100, drained=True)
    assert receiver.ack_due is AckDue.NOW


def test_pruning_forgets_from_a_number_on() -> None:
    """tcp_prune_ofo_queue: what the shell gave up is no longer reported, and taken again when it comes again."""
    receiver = _receiver()
    for seq in (2001, 4001, 6001):
        _arrive(receiver, seq, 1000)
    receiver.prune(4501)
    assert receiver.out_of_order == ((2001, 3001), (4001, 4501))
    assert receiver.sacks == ((4001, 4501), (2001, 3001))
    assert _arrive(receiver, 6001, 1000) is Disposition.OUT_OF_ORDER


def test_timestamps_are_echoed_of_the_segment_that_reaches_the_last_acknowledgement() -> None:
    """RFC 7323 section 4.3: a segment beyond a hole does not set the clock to echo; an older clock neither."""
    receiver = _receiver()
    receiver.take_timestamp(Segment(1, 10, 1, 1, ACK, (), 50))
    assert receiver.ts_recent_ns == 50
    receiver.take_timestamp(Segment(5000, 10, 1, 1, ACK, (), 60))
    receiver.take_timestamp(Segment(1, 10, 1, 1, ACK, (), 40))
    assert receiver.ts_recent_ns == 50


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=60))
@settings(deadline=None)
def test_ranges_agree_with_a_set_of_bytes(arrivals: list[tuple[int, int]]) -> None:
    """However data arrives, rcv_nxt is the first byte missing, and the ranges are exactly what is beyond it."""
    receiver = _receiver()
    held: set[int] = set()
    for seq, size in arrivals:
        seq += 1
        new = not set(range(seq, seq + size)) <= held
        disposition = _arrive(receiver, seq, size)
        assert (disposition is Disposition.DUPLICATE) == (not new)
        held |= set(range(seq, seq + size))
        nxt = next(byte for byte in range(1, 60) if byte not in held)
        assert receiver.rcv_nxt == nxt
        ranges = receiver.out_of_order
        assert {byte for start, end in ranges for byte in range(start, end)} == {byte for byte in held if byte > nxt}
        assert all(first[1] < second[0] for first, second in pairwise(ranges))
        assert set(receiver.sacks) <= set(ranges)
        assert len(receiver.sacks) == min(len(ranges), 3) or len(ranges) > len(receiver.sacks)
