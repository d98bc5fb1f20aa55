"""The sending half: what leaves when, and what happens when it cannot."""

from itertools import pairwise

import pytest

from netvm.errors import Errno
from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.rto import TimerKind
from netvm.net.tcp.segment import FIN, PSH
from netvm.net.tcp.state import TcpState
from netvm.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS
MSS = 1448


def _nothing(segment, number):
    return []


def _sizes(shell):
    return [segment.size_bytes for _, segment in shell.sent if segment.size_bytes]


def _sent_at(shell, since=0):
    return [at_ns / NS_PER_S for at_ns, segment in shell.sent[since:] if segment.size_bytes]


def test_a_gso_segment_is_bounded_by_half_the_window(wire):
    """Ten packets of initial window leave as two segments, so that one can be acknowledged while the other travels."""
    wire.mangle = _nothing
    wire.client.write(100_000)
    assert _sizes(wire.client) == [5 * MSS, 5 * MSS]
    assert wire.client.c.info().unacked == 10


def test_size_goal_is_whole_packets_of_a_gso_segment(wire):
    """tcp_xmit_size_goal: 45 packets of 1448, or half the largest window the peer offered."""
    assert wire.client.c.size_goal_bytes == 22 * MSS, "the SYN's window has 16 bits"
    sender = wire.client.c._sender
    sender.max_window_bytes = 200_000
    sender._sync_mss()
    assert wire.client.c.size_goal_bytes == 45 * MSS
    sender.max_window_bytes = 20_000
    sender._sync_mss()
    assert wire.client.c.size_goal_bytes == 6 * MSS


@pytest.mark.parametrize(("window_bytes", "mss_bytes"), [(2896, 1448), (2000, 1000), (536, 536), (500, 500), (20, 36)])
def test_no_packet_is_larger_than_half_the_window(wire, window_bytes: int, mss_bytes: int):
    """tcp_bound_to_half_wnd: half of the largest window, all of one that is no larger than a packet of 536 bytes."""
    sender = wire.client.c._sender
    sender.max_window_bytes = window_bytes
    sender._sync_mss()
    assert (sender.mss_bytes, sender.size_goal_bytes) == (mss_bytes, mss_bytes)


def test_no_segment_spans_two_skbs(wire):
    """Three sk_buffs, three segments, though one would do; the shell's check sees to the rest."""
    for size in (100, 3000, 50):
        wire.client.c.append(size, 0, new_skb=True)
        wire.client.skb_ends.append(wire.client.c.write_seq)
    wire.client.transmit()
    assert _sizes(wire.client) == [100, 3000, 50]


def test_max_bytes_bounds_a_segment(wire):
    """A shell's own limit (small queues, autosizing) cuts at whole packets, and never below one."""
    client = wire.client.c
    client.append(20_000, 0, new_skb=True)
    assert client.next_segment(0, max_bytes=3 * MSS + 5).size_bytes == 3 * MSS
    assert client.next_segment(0, max_bytes=10).size_bytes == MSS


def test_msg_more_holds_the_last_partial_packet(wire):
    """Full packets of a corked sk_buff are offered, the rest when a call comes without MSG_MORE."""
    wire.client.write(2 * MSS + 100, more=True)
    assert _sizes(wire.client) == [2 * MSS]
    wire.client.write(50)
    assert _sizes(wire.client) == [2 * MSS, 150]
    assert wire.client.sent[-1][1].flags & PSH


def test_msg_more_lasts_for_one_call(wire):
    """As in Linux an acknowledgement pushes out what MSG_MORE held, TCP_CORK stays."""
    wire.client.write(2 * MSS + 100, more=True)
    wire.run(until_ns=100 * MS)
    assert _sizes(wire.client) == [2 * MSS, 100]
    wire.client.c.set_cork(True)
    wire.client.write(2 * MSS + 100)
    wire.run(until_ns=wire.now_ns + 100 * MS)
    assert _sizes(wire.client)[2:] == [2 * MSS]


def test_a_corked_tail_leaves_after_200_ms(wire):
    """Nothing is in flight, so only the probe timer can free it (tcp_write_wakeup): the ceiling of TCP_CORK."""
    wire.client.c.set_cork(True)
    wire.client.write(100)
    assert _sizes(wire.client) == []
    assert wire.client.c.timer_kind is TimerKind.PROBE
    wire.run()
    assert _sent_at(wire.client) == [0.2]
    assert wire.server.readable_bytes == 100


def test_nagle_holds_a_second_small_packet(make_wire):
    """RFC 9293 section 3.7.4: while a small packet is unacknowledged, another one waits for its acknowledgement."""
    wire = make_wire(client=TcpConfig(congestion="reno"), latency_ns=5 * MS)
    wire.connect()
    start = len(wire.client.sent)
    wire.client.write(10)
    wire.client.write(10, skb_bytes=10)
    assert _sizes(wire.client) == [10]
    wire.run()
    assert _sizes(wire.client) == [10, 10]
    first, second = _sent_at(wire.client, start)
    assert second - first == pytest.approx(0.010)


def test_the_peers_window_is_never_passed(make_wire):
    """A reader that stops: exactly its buffer is sent, then only probes (the shell checks the right edge)."""
    wire = make_wire(client=TcpConfig(nodelay=True), server=TcpConfig(), latency_ns=MS)
    wire.server.buffer_bytes = 20_000
    wire.server.reads_at_once = False
    wire.connect()
    wire.client.write(100_000)
    wire.run(until_ns=NS_PER_S)
    assert wire.client.c.timer_kind is TimerKind.PROBE
    assert wire.server.unread_bytes + MSS > 20_000
    assert wire.client.c.info().snd_wnd_bytes < MSS
    for _ in range(40):
        wire.server.read(7000)
        wire.run(until_ns=wire.now_ns + 500 * MS)
    assert wire.server.readable_bytes == 100_000


def test_zero_window_probes_back_off_and_never_end_while_answered(make_wire):
    """RFC 9293 section 3.8.6.1: a closed window is asked about at 0.2, 0.6, 1.4 s and so on, for hours if need be."""
    wire = make_wire(client=TcpConfig(nodelay=True))
    wire.server.buffer_bytes = 16 * MSS
    wire.server.reads_at_once = False
    wire.connect()
    wire.client.write(40_000)
    wire.run(until_ns=100 * MS)
    assert wire.client.c.info().snd_wnd_bytes < MSS
    start, start_ns = len(wire.client.sent), max(at for at, _ in wire.server.sent)
    rto_ns = wire.client.c.info().rto_ns
    wire.run(until_ns=7200 * NS_PER_S)
    probes = wire.client.sent[start:]
    empty = [(at, s) for at, s in probes if not s.size_bytes]
    assert all(s.seq == wire.client.c.snd_una - 1 for _, s in empty)
    assert len(probes) - len(empty) <= 1
    at_ns = [start_ns] + [at for at, _ in probes]
    # the first may carry what scaling added to the window
    gaps = [after - before for before, after in pairwise(at_ns)][len(probes) - len(empty) :]
    assert gaps[:10] == [rto_ns << doublings for doublings in range(10)]
    assert set(gaps[10:]) == {120 * NS_PER_S}
    assert wire.client.c.state is TcpState.ESTABLISHED
    assert wire.client.c.counters["TCPWinProbe"] == len(empty)
    wire.server.read(16 * MSS)
    wire.run(until_ns=wire.now_ns + 10 * MS)
    assert wire.server.readable_bytes in (32 * MSS, 40_000)


def test_unanswered_window_probes_end_the_connection(wire):
    """tcp_probe_timer: after retries2 probes without any acknowledgement, ETIMEDOUT."""
    wire.client.c._sender.snd_wnd_bytes = 0
    wire.client.write(10_000)
    wire.mangle = _nothing
    wire.run()
    assert wire.client.c.error is Errno.ETIMEDOUT
    assert wire.client.c.counters["TCPWinProbe"] == 15
    assert wire.now_ns == 924_600 * MS


def test_the_timer_doubles_exactly(wire):
    """A peer that vanished: retransmissions of one packet at 0.2, 0.6, 1.4 s; the n-th wait ends at the known sums."""
    wire.mangle = _nothing
    start = len(wire.client.sent)
    wire.client.write(5 * MSS)
    wire.run()
    times = _sent_at(wire.client, start)
    assert times[0] == 0
    assert times[1:6] == [0.2, 0.6, 1.4, 3.0, 6.2]
    assert {n: times[n + 1] for n in (3, 6, 8, 9)} == {3: 3.0, 6: 25.4, 8: 102.2, 9: 204.6}
    assert _sizes(wire.client)[1:] == [MSS] * 15
    assert wire.client.c.counters["RetransSegs"] == 15


def test_a_connection_is_given_up_after_924_6_seconds(wire):
    """retries2 = 15: fifteen retransmissions, and at what would be the sixteenth it is ETIMEDOUT."""
    wire.mangle = _nothing
    wire.client.write(100)
    wire.run()
    assert wire.now_ns == 924_600 * MS
    client = wire.client.c
    assert (client.state, client.error) == (TcpState.CLOSED, Errno.ETIMEDOUT)
    assert client.counters["TCPAbortOnTimeout"] == 1
    assert client.counters["TCPTimeouts"] == 16
    assert client.timer_ns() is None


def test_progress_starts_the_count_again(wire):
    """One acknowledged byte after minutes of silence, and the peer has another 924.6 s."""
    wire.mangle = _nothing
    wire.client.write(5 * MSS)
    wire.run(until_ns=300 * NS_PER_S)
    at_ns = wire.now_ns
    ack = wire.server.c.ack_segment(at_ns)._replace(ack=1 + MSS)
    wire.client.deliver(ack)
    assert wire.client.c.info().retransmits == 0
    wire.run(lambda: wire.client.c.state is TcpState.CLOSED)
    assert wire.now_ns - at_ns >= 924_600 * MS


def test_with_latency_the_same_fifteen_retransmissions_take_jiffies_longer(make_wire):
    """An RTO of 204 ms: the recorded kernel needs 928.7 s, and more on a longer path."""
    wire = make_wire(latency_ns=100_000)
    wire.connect()
    wire.mangle = _nothing
    wire.client.write(100)
    start_ns = wire.now_ns
    wire.run(lambda: wire.client.c.state is TcpState.CLOSED)
    assert wire.now_ns - start_ns == 204 * 1023 * MS + 720 * NS_PER_S
    assert wire.client.c.counters["RetransSegs"] == 15


def test_retransmissions_without_memory_back_off(wire):
    """A negative errno takes the ordinary path: 0.2, 0.4, 0.8 s between attempts, each counted as TCPRetransFail."""
    wire.mangle = _nothing
    wire.client.write(100)
    wire.client.refuse = lambda segment: "memory"
    wire.run(until_ns=13 * NS_PER_S)
    attempts = [at / NS_PER_S for at, _ in wire.client.failed]
    assert attempts == [0.2, 0.6, 1.4, 3.0, 6.2, 12.6]
    counters = wire.client.c.counters
    assert (counters["TCPRetransFail"], counters["RetransSegs"]) == (6, 0)
    assert wire.client.c.info().backoff == 6


def test_retransmissions_dropped_by_the_own_queue_are_tried_every_half_second(wire):
    """A positive code: TCP_RESOURCE_PROBE_INTERVAL, no backoff; after it clears, the RTO goes on as if nothing was."""
    wire.mangle = _nothing
    wire.client.write(100)
    wire.client.refuse = lambda segment: "congestion"
    wire.run(until_ns=2 * NS_PER_S)
    assert [at / NS_PER_S for at, _ in wire.client.failed] == [0.2, 0.7, 1.2, 1.7]
    assert wire.client.c.info().backoff == 0
    wire.client.refuse = lambda segment: None
    start = len(wire.client.sent)
    wire.run(until_ns=4 * NS_PER_S)
    assert _sent_at(wire.client, start) == pytest.approx([2.2, 2.6, 3.4])


def test_new_data_without_memory_waits_for_the_probe_timer(wire):
    """Nothing is in flight, so the probe timer tries: 0.2, 0.4, 0.8 s apart, one packet; then all goes on."""
    wire.client.refuse = lambda segment: "memory"
    wire.client.write(5 * MSS)
    assert wire.client.c.timer_kind is TimerKind.PROBE
    wire.run(until_ns=4 * NS_PER_S)
    assert [at / NS_PER_S for at, _ in wire.client.failed] == [0, 0.2, 0.6, 1.4, 3.0]
    assert [segment.size_bytes for _, segment in wire.client.failed] == [5 * MSS, MSS, MSS, MSS, MSS]
    wire.client.refuse = lambda segment: None
    wire.run(until_ns=7 * NS_PER_S)
    assert wire.server.readable_bytes == 5 * MSS
    assert wire.client.c.info().backoff == 0


def test_the_backoff_of_probes_does_not_slow_the_first_retransmission(wire):
    """Probe and retransmission back off each on their own: what left after a long outage is repeated after an RTO."""
    wire.client.refuse = lambda segment: "memory"
    wire.client.write(MSS)
    wire.run(until_ns=5 * NS_PER_S)
    wire.client.refuse = lambda segment: None
    wire.mangle = _nothing
    wire.run(until_ns=7 * NS_PER_S)
    assert _sent_at(wire.client) == pytest.approx([6.2, 6.4, 6.8])


def test_an_opened_window_makes_a_probe_unnecessary(wire):
    """A probe that is due when the acknowledgement comes is a full segment after it."""
    sender = wire.client.c._sender
    sender.snd_wnd_bytes = 0
    wire.client.c.append(5 * MSS, 0, new_skb=True)
    assert wire.client.c.next_segment(0) is None
    wire.client.c.handle_timer(200 * MS)
    assert wire.client.c.next_segment(200 * MS).size_bytes == 0
    wire.client.c.receive(wire.server.c.ack_segment(200 * MS), 200 * MS)
    assert wire.client.c.timer_ns() is None
    assert wire.client.c.next_segment(200 * MS).size_bytes == 5 * MSS


def test_new_data_without_memory_arms_nothing_while_something_is_in_flight(wire):
    """The retransmission timer that runs is enough; the next acknowledgement tries again."""
    wire.client.write(MSS)
    deadline = wire.client.c.timer_ns()
    wire.client.refuse = lambda segment: "memory"
    wire.client.write(MSS)
    assert wire.client.c.timer_ns() == deadline
    wire.client.refuse = lambda segment: None
    wire.run(until_ns=100 * MS)
    assert wire.server.readable_bytes == 2 * MSS


def test_a_probe_dropped_by_the_own_queue_is_tried_in_half_a_second(wire):
    """tcp_send_probe0 with a positive result."""
    wire.client.refuse = lambda segment: "congestion"
    wire.client.write(MSS)
    wire.run(until_ns=2 * NS_PER_S)
    assert [at / NS_PER_S for at, _ in wire.client.failed] == [0, 0.2, 0.7, 1.2, 1.7]
    assert wire.client.c.info().backoff == 0


def test_a_local_drop_reduces_the_window_once(wire):
    """tcp_enter_cwr: half the window, until what was in flight is acknowledged."""
    wire.client.refuse = lambda segment: "congestion"
    wire.client.write(MSS)
    assert wire.client.c.info().snd_cwnd == 5
    wire.run(until_ns=900 * MS)
    assert wire.client.c.info().snd_cwnd == 5


def test_a_window_taken_back_lets_only_the_head_pass(wire):
    """__tcp_retransmit_skb: whole packets within what is left of the window; none left, and one packet probes."""
    wire.mangle = _nothing
    wire.client.write(5 * MSS)
    sender = wire.client.c._sender
    sender.rtx.mark_all_lost()
    expected = {10 * MSS: 5 * MSS, 3 * MSS + 7: 3 * MSS, MSS - 1: MSS - 1, 0: MSS}
    for window, size in expected.items():
        sender.snd_wnd_bytes = window
        assert wire.client.c.next_segment(0).size_bytes == size, window
    sender.snd_wnd_bytes = MSS
    sender.rtx.retransmitted(1, 1 + MSS, 0)
    assert wire.client.c.next_segment(0) is None


def test_a_timers_ack_resets_the_backoff_by_timestamps(make_wire):
    """RFC 7323 section 4: an echoed clock measures a retransmission too; without it Karn's rule keeps the RTO."""
    backoffs = {}
    for timestamps in (True, False):
        wire = make_wire(client=TcpConfig(nodelay=True, timestamps=timestamps), latency_ns=MS)
        wire.connect()
        wire.mangle = _nothing
        wire.client.write(100)
        wire.run(until_ns=5 * NS_PER_S)
        wire.mangle = lambda segment, number: [(0, segment)]
        wire.run(until_ns=8 * NS_PER_S)
        assert wire.client.acked_bytes == 100
        backoffs[timestamps] = wire.client.c.info().backoff
    assert backoffs == {True: 0, False: 5}


def test_small_bursts_are_deferred_while_an_acknowledgement_is_near(make_wire):
    """tcp_tso_should_defer: with a third of the window free or less, and fresh traffic, wait for a larger burst."""
    wire = make_wire(client=TcpConfig(nodelay=True, congestion="reno"), latency_ns=100_000)
    wire.connect()
    wire.client.write(400 * MSS)
    wire.run(lambda: wire.client.c.info().unacked > 30)
    sender = wire.client.c._sender
    queue_was = len(sender.queue)
    assert queue_was
    room = sender.recovery.room_packets
    assert room <= 0 or sender._defers(40 * MSS, 1 << 20, 1, 45, wire.now_ns + 100_000)
    assert not sender._defers(40 * MSS, 1 << 20, 1, 45, wire.now_ns + 2 * MS)
    assert not sender._defers(40 * MSS, 1 << 20, 45, 45, wire.now_ns + 100_000)
    wire.run()
    assert wire.server.readable_bytes == 400 * MSS


def test_a_rest_shrinks_the_window_for_the_next_burst(make_wire):
    """RFC 5681 section 4.1: after seconds of silence the window is the initial one again."""
    wire = make_wire(client=TcpConfig(nodelay=True), latency_ns=MS)
    wire.connect()
    wire.client.write(1_000_000)
    wire.run(until_ns=NS_PER_S)
    assert wire.client.c.info().snd_cwnd > 100
    wire.run(until_ns=10 * NS_PER_S)
    wire.client.write(1_000_000)
    assert wire.client.c.info().snd_cwnd == 10
    assert wire.client.c.info().unacked == 10


def test_the_window_does_not_grow_unless_it_is_used(make_wire):
    """RFC 7661: small requests, one at a time, leave the window as it is."""
    wire = make_wire(client=TcpConfig(nodelay=True), latency_ns=MS)
    wire.connect()
    for _ in range(50):
        wire.client.write(100)
        wire.run(until_ns=wire.now_ns + 5 * MS)
    assert wire.client.c.info().snd_cwnd == 10


def test_a_fin_needs_room_in_the_window(wire):
    """A FIN takes one sequence number, and a window that is exactly the data leaves it for later."""
    sender = wire.client.c._sender
    sender.snd_wnd_bytes = 500
    wire.client.peer_right_edge = 501
    wire.client.c.append(500, 0, new_skb=True)
    wire.client.c.close()
    segment = wire.client.c.next_segment(0)
    assert segment.size_bytes == 500
    assert not segment.flags & FIN
    wire.client.c.sent(segment, 0)
    assert wire.client.c.next_segment(0) is None
    sender.snd_wnd_bytes = 501
    assert wire.client.c.next_segment(0).flags & FIN


def test_asking_twice_changes_nothing(wire):
    """next_segment looks ahead only; what it may do when it answers None, it does once."""
    wire.client.c.set_cork(True)
    wire.client.c.append(100, 0, new_skb=True)
    assert wire.client.c.next_segment(0) is None
    first = (wire.client.c.digest(), wire.client.c.timer_ns())
    assert wire.client.c.next_segment(50 * MS) is None
    assert (wire.client.c.digest(), wire.client.c.timer_ns()) == first
