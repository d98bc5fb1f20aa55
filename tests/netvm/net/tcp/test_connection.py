"""One endpoint: opening, talking, closing, and what it answers to nonsense."""

import pytest

from netvm.errors import Errno
from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.connection import TcpConnection
from netvm.net.tcp.facts import TimerFact
from netvm.net.tcp.receiver import AckDue, Disposition
from netvm.net.tcp.rto import TimerKind
from netvm.net.tcp.segment import ACK, FIN, PSH, RST, SYN, Segment, merge, split
from netvm.net.tcp.state import TcpState
from netvm.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS
MSS = 1448


def _nothing(segment, number):
    return []


def _close(shell):
    shell.c.close()
    shell.transmit()


def _states(wire):
    return wire.client.c.state.name, wire.server.c.state.name


# Opening


def test_three_way_handshake(make_wire):
    """RFC 9293 section 3.5, figure 6: SYN, SYN-ACK, ACK; both know the other's MSS and the round trip."""
    wire = make_wire(client=TcpConfig(mss_bytes=1400), server=TcpConfig(mss_bytes=1300), latency_ns=5 * MS)
    wire.connect()
    assert _states(wire) == ("ESTABLISHED", "ESTABLISHED")
    assert [s.flags for _, s in wire.client.sent] == [SYN, ACK]
    assert [s.flags for _, s in wire.server.sent] == [SYN | ACK]
    assert wire.client.c.info().rtt_ns == wire.server.c.info().rtt_ns == 10 * MS
    assert wire.client.c._sender.mss_bytes == wire.server.c._sender.mss_bytes == 1300
    assert wire.client.receipts[0].established
    assert wire.server.receipts[0].established


def test_data_queued_while_connecting_follows_the_handshake(make_wire):
    """RFC 9293 section 3.10.2: SEND in SYN-SENT queues."""
    wire = make_wire(client=TcpConfig(nodelay=True), latency_ns=MS)
    wire.client.announce()
    wire.client.c.connect(0)
    wire.client.write(100)
    assert [s.flags for _, s in wire.client.sent] == [SYN]
    wire.run(until_ns=100 * MS)
    assert wire.server.readable_bytes == 100


def test_simultaneous_open(make_wire):
    """RFC 9293 section 3.5, figure 7: two SYNs that cross make one connection."""
    wire = make_wire(latency_ns=MS)
    wire.server.connection = TcpConnection(TcpConfig())
    for shell in (wire.client, wire.server):
        shell.announce()
        shell.c.connect(0)
    for shell in (wire.client, wire.server):
        shell.transmit()
    wire.run(until_ns=500 * MS)
    assert _states(wire) == ("ESTABLISHED", "ESTABLISHED")
    wire.client.write(10)
    wire.run(until_ns=600 * MS)
    assert wire.server.readable_bytes == 10


def test_an_unanswered_syn_is_repeated_six_times(make_wire):
    """tcp_syn_retries: at 1, 3, 7, 15, 31 and 63 s, and ETIMEDOUT at 127 s."""
    wire = make_wire()
    wire.mangle = _nothing
    wire.client.c.connect(0)
    wire.client.transmit()
    wire.run()
    assert [at / NS_PER_S for at, _ in wire.client.sent] == [0, 1, 3, 7, 15, 31, 63]
    assert wire.now_ns == 127 * NS_PER_S
    assert wire.client.c.error is Errno.ETIMEDOUT
    assert wire.client.c.counters["RetransSegs"] == 6


def test_an_unanswered_syn_ack_is_repeated_five_times(make_wire):
    """tcp_synack_retries: given up at 63 s."""
    wire = make_wire()
    wire.server.deliver(Segment(0, 0, 0, 65535, SYN, mss_bytes=MSS))
    wire.mangle = _nothing
    wire.heap.clear()
    wire.run()
    assert [at / NS_PER_S for at, _ in wire.server.sent] == [0, 1, 3, 7, 15, 31]
    assert wire.now_ns == 63 * NS_PER_S
    assert wire.server.c.error is Errno.ETIMEDOUT


def test_a_syn_that_finds_no_memory_is_tried_by_its_timer(make_wire):
    """tcp_connect arms the timer whatever became of the first copy; that copy is no retransmission."""
    wire = make_wire(latency_ns=MS)
    wire.client.refuse = lambda segment: "memory"
    wire.client.announce()
    wire.client.c.connect(0)
    wire.client.transmit()
    assert wire.client.c.timer_ns() == NS_PER_S
    wire.client.refuse = lambda segment: None
    wire.run(lambda: wire.client.c.state is TcpState.ESTABLISHED)
    assert wire.now_ns == NS_PER_S + 2 * MS
    assert wire.client.c.counters["RetransSegs"] == 0
    assert wire.client.c.counters["TCPRetransFail"] == 0


def test_a_lost_syn_ack_is_asked_for_again(make_wire):
    """The repeated SYN is answered at once, before the SYN-ACK's own timer."""
    wire = make_wire(server=TcpConfig(rto_initial_ns=3 * NS_PER_S), latency_ns=MS)
    wire.mangle = lambda segment, number: [] if number == 1 else [(0, segment)]
    wire.connect()
    assert wire.now_ns == NS_PER_S + 3 * MS
    assert wire.server.c.counters["RetransSegs"] == 1


def test_a_syn_lost_twice_starts_from_one_packet(make_wire):
    """RFC 6928 section 2: an initial window is for a path that carried the SYN."""
    wire = make_wire(latency_ns=MS)
    wire.mangle = lambda segment, number: [] if number in (0, 1) else [(0, segment)]
    wire.connect()
    assert wire.client.c.info().snd_cwnd == 1
    assert wire.server.c.info().snd_cwnd == 10


def test_a_refused_connection(make_wire):
    """RFC 9293 section 3.10.7.3: a RST that acknowledges the SYN; one that does not is ignored."""
    wire = make_wire()
    client = wire.client.c
    client.connect(0)
    client.sent(client.next_segment(0), 0)
    assert client.receive(Segment(0, 0, 0, 0, RST), 0).disposition is Disposition.IGNORED
    assert client.receive(Segment(0, 0, 99, 0, RST | ACK), 0).disposition is Disposition.IGNORED
    assert client.receive(Segment(0, 0, 1, 100, ACK), 0).disposition is Disposition.IGNORED
    assert client.receive(Segment(0, 0, 1, 0, RST | ACK), 0).closed
    assert client.error is Errno.ECONNREFUSED


def test_closing_before_anything_was_established(make_wire):
    """RFC 9293 section 3.10.4: in SYN-SENT it is over; in SYN-RECEIVED the FIN follows the handshake."""
    wire = make_wire()
    wire.client.c.connect(0)
    wire.client.c.close()
    assert wire.client.c.state is TcpState.CLOSED
    wire = make_wire(latency_ns=MS)
    wire.client.announce()
    wire.client.c.connect(0)
    wire.client.transmit()
    wire.step()
    assert wire.server.c.state is TcpState.SYN_RECEIVED
    _close(wire.server)
    wire.run(until_ns=100 * MS)
    assert _states(wire) == ("CLOSE_WAIT", "FIN_WAIT_2")


# Talking


def test_data_both_ways(make_wire):
    """A request and its answer, many times: each byte once, and acknowledgements ride on the data."""
    wire = make_wire(client=TcpConfig(nodelay=True), latency_ns=MS)
    wire.connect()
    for _ in range(100):
        wire.client.write(4096)
        wire.run(lambda: wire.server.readable_bytes == wire.client.c.write_seq - 1)
        wire.server.write(16)
        wire.run(lambda: wire.client.readable_bytes == wire.server.c.write_seq - 1)
    assert (wire.client.acked_bytes, wire.server.readable_bytes) == (409_600 - 4096 + 4096, 409_600)
    pure = [s for _, s in wire.server.sent[20:] if not s.size_bytes]
    assert len(pure) <= 110


def test_split_and_merged_segments_are_one_stream(make_wire):
    """The receiver may be handed GSO segments, their frames, or frames joined again by GRO."""
    results = []
    for hand_in in ("whole", "frames", "merged"):
        wire = make_wire(client=TcpConfig(nodelay=True), latency_ns=MS)
        wire.connect()

        def mangle(segment, number, hand_in=hand_in):
            frames = split(segment, MSS) if segment.size_bytes else [segment]
            if hand_in == "whole" or len(frames) == 1:
                return [(0, segment)]
            if hand_in == "frames":
                return [(0, frame) for frame in frames]
            pairs = [frames[at : at + 2] for at in range(0, len(frames), 2)]
            return [(0, merge(*pair, max_bytes=65_535) if len(pair) == 2 else pair[0]) for pair in pairs]

        wire.mangle = mangle
        wire.client.write(300_000)
        wire.run(lambda wire=wire: wire.client.acked_bytes == 300_000)
        results.append((wire.server.readable_bytes, wire.client.c.counters["RetransSegs"]))
    assert results == [(300_000, 0)] * 3


def test_an_acknowledgement_alone_goes_after_the_delay(make_wire):
    """A lone small packet out of quick-ACK mode: 40 ms, DelayedACKs counts it."""
    wire = make_wire(client=TcpConfig(nodelay=True), latency_ns=MS)
    wire.connect()
    wire.server.reads_at_once = False
    wire.server.c._receiver._quick = 0
    wire.server.c._receiver._ato_ns = 40 * MS
    wire.server.c._receiver._last_data_ns = wire.now_ns
    wire.client.write(100)
    wire.run(lambda: wire.server.readable_bytes == 100)
    assert wire.server.c.ack_due is AckDue.DELAYED
    assert wire.server.c.timer_kind is TimerKind.DELACK
    at_ns = wire.now_ns
    wire.run(lambda: wire.client.acked_bytes == 100)
    assert wire.now_ns - at_ns == 40 * MS + MS
    assert wire.server.c.counters["DelayedACKs"] == 1
    assert wire.server.facts[-1][1] is TimerFact.ACK


def test_an_acknowledgement_without_memory_is_a_retry(wire):
    """It waits 200, 400, 800 ms; its timer is told apart from a delayed acknowledgement's; the peer retransmits."""
    wire.server.refuse = lambda segment: "memory"
    wire.client.write(100)
    wire.run(until_ns=150 * MS)
    assert wire.server.c.ack_due is AckDue.DELAYED
    assert wire.server.c.timer_kind is TimerKind.ACK_RETRY
    assert wire.server.c.timer_ns() == 200 * MS
    wire.server.refuse = lambda segment: None
    wire.run(until_ns=NS_PER_S)
    assert wire.client.acked_bytes == 100
    assert wire.server.c.timer_kind is None


# Closing


def test_orderly_close(make_wire):
    """RFC 9293 section 3.6, figure 12: the active side waits in TIME-WAIT for a minute, the passive one is gone."""
    wire = make_wire(latency_ns=MS)
    wire.connect()
    wire.client.write(10_000)
    _close(wire.client)
    wire.run(lambda: wire.server.receipts[-1].fin)
    wire.run(until_ns=500 * MS)
    assert _states(wire) == ("FIN_WAIT_2", "CLOSE_WAIT")
    assert wire.server.readable_bytes == wire.client.acked_bytes == 10_000
    wire.server.write(20_000)
    _close(wire.server)
    wire.run(until_ns=NS_PER_S)
    assert wire.client.readable_bytes == 20_000
    assert _states(wire) == ("TIME_WAIT", "CLOSED")
    assert wire.server.receipts[-1].closed
    assert wire.client.c.timer_kind is TimerKind.TIME_WAIT
    wire.run()
    assert _states(wire) == ("CLOSED", "CLOSED")
    assert wire.client.facts[-1][1] is TimerFact.CLOSED
    assert 60 * NS_PER_S < wire.now_ns < 61 * NS_PER_S


def test_simultaneous_close(make_wire):
    """RFC 9293 section 3.6, figure 13: two FINs that cross."""
    wire = make_wire(latency_ns=MS)
    wire.connect()
    _close(wire.client)
    _close(wire.server)
    wire.run(until_ns=100 * MS)
    assert _states(wire) == ("TIME_WAIT", "TIME_WAIT")


def test_a_fin_behind_data_is_one_segment(wire):
    """The FIN rides on the last sk_buff; the data is not reported longer for it."""
    wire.client.c.append(100, 0, new_skb=True)
    wire.client.skb_ends.append(101)
    _close(wire.client)
    assert wire.client.sent[-1][1].flags == ACK | PSH | FIN
    wire.run(until_ns=100 * MS)
    receipt = next(r for r in wire.server.receipts if r.fin)
    assert (receipt.readable_bytes, receipt.disposition) == (100, Disposition.IN_ORDER)
    assert wire.client.acked_bytes == 100


def test_reading_after_the_end_of_file_is_silent(make_wire):
    """tcp_cleanup_rbuf: a window that opens for nothing is not announced."""
    wire = make_wire(client=TcpConfig(nodelay=True))
    wire.server.buffer_bytes = 44 * 128
    wire.server.reads_at_once = False
    wire.connect()
    wire.client.write(3 * MSS)
    _close(wire.client)
    wire.run(until_ns=100 * MS)
    assert wire.server.c.state is TcpState.CLOSE_WAIT
    assert wire.server.c._receiver.window_left_bytes <= MSS
    count = len(wire.server.sent)
    wire.server.read(3 * MSS)
    assert wire.server.c.ack_due is AckDue.NONE
    assert len(wire.server.sent) == count


def test_a_lost_fin_is_sent_again(wire):
    """The FIN is retransmitted like data, also when the data before it was split off."""
    _close(wire.client)
    wire.client.sent.clear()
    wire.heap.clear()
    wire.run(until_ns=300 * MS)
    assert [s.flags & FIN for _, s in wire.client.sent] == [FIN]
    assert _states(wire) == ("FIN_WAIT_2", "CLOSE_WAIT")


def test_the_last_acknowledgement_may_be_lost(make_wire):
    """TIME-WAIT is for this: the repeated FIN is acknowledged again, and the minute starts again."""
    wire = make_wire(latency_ns=MS)
    wire.connect()
    _close(wire.client)
    wire.run(until_ns=100 * MS)
    _close(wire.server)
    wire.step()
    assert wire.client.c.state is TcpState.TIME_WAIT
    wire.heap.clear()
    wire.run(lambda: wire.server.c.state is TcpState.CLOSED)
    assert 300 * MS < wire.now_ns < 400 * MS
    assert wire.client.c.timer_ns() == wire.now_ns - MS + 60 * NS_PER_S


def test_an_out_of_order_fin_waits_for_the_data_before_it(wire):
    """The end of file is not reported before all bytes are there."""
    server = wire.server.c
    receipt = server.receive(Segment(101, 0, 1, 1000, ACK | FIN), 0)
    assert (receipt.fin, receipt.disposition) == (False, Disposition.OUT_OF_ORDER)
    receipt = server.receive(Segment(1, 100, 1, 1000, ACK), 0)
    assert (receipt.fin, receipt.readable_bytes) == (True, 100)
    assert server.state is TcpState.CLOSE_WAIT
    assert server.rcv_nxt == 102


def test_abort_resets_the_peer(wire):
    """RFC 9293 section 3.10.5: RST at snd_nxt; the peer's error is ECONNRESET, our own none."""
    wire.client.write(10)
    reset = wire.client.c.abort()
    assert (reset.flags, reset.seq) == (RST | ACK, 11)
    assert (wire.client.c.state, wire.client.c.error) == (TcpState.CLOSED, None)
    assert wire.client.c.receive(Segment(1, 0, 11, 100, ACK), 0).disposition is Disposition.IGNORED
    wire.run(until_ns=wire.now_ns)
    receipt = wire.server.c.receive(reset, wire.now_ns)
    assert receipt.closed
    assert wire.server.c.error is Errno.ECONNRESET
    assert wire.server.c.timer_ns() is None


def test_abort_of_a_connection_that_was_never_established(make_wire):
    """In SYN-SENT there is nobody to tell."""
    wire = make_wire()
    wire.client.c.connect(0)
    assert wire.client.c.abort() is None


# Nonsense


@pytest.mark.parametrize(
    ("segment", "why"),
    [
        (Segment(50, 0, 1, 100, RST), "RFC 5961 section 3.2: a RST in the window that is not exact"),
        (Segment(1, 0, 1, 100, SYN | ACK), "RFC 5961 section 4.2: a SYN in a synchronized state"),
        (Segment(1, 5, 999, 100, ACK), "RFC 9293 section 3.10.7.4: an acknowledgement of what was not sent"),
        (Segment(0, 0, 1, 100, ACK), "a zero-window probe: one below the window"),
        (Segment(1 << 30, 0, 1, 100, ACK), "far beyond the window"),
    ],
)
def test_challenges(wire, segment, why):
    """What is not acceptable changes nothing and is answered with where we are."""
    server = wire.server.c
    before = (server.state, server.rcv_nxt, server.snd_una)
    receipt = server.receive(segment, 0)
    assert receipt.challenge, why
    assert server.ack_due is AckDue.NOW
    assert (server.state, server.rcv_nxt, server.snd_una) == before


def test_what_is_silently_dropped(wire):
    """A RST outside the window, a segment without ACK, an old acknowledgement."""
    server = wire.server.c
    assert not server.receive(Segment(0, 0, 1, 100, RST), 0).challenge
    assert server.receive(Segment(1, 5, 0, 100, 0), 0).disposition is Disposition.IGNORED
    wire.client.write(10)
    wire.run(until_ns=0)
    before = wire.client.c.snd_una
    assert wire.client.c.receive(Segment(1, 0, 1, 100, ACK), 0).acked_bytes == 0
    assert wire.client.c.snd_una == before


def test_a_reset_in_time_wait_is_no_error(make_wire):
    """RFC 9293 section 3.10.7.4: CLOSING, LAST-ACK and TIME-WAIT simply end."""
    wire = make_wire(latency_ns=MS)
    wire.connect()
    _close(wire.client)
    _close(wire.server)
    wire.run(until_ns=100 * MS)
    assert wire.client.c.receive(Segment(wire.client.c.rcv_nxt, 0, 0, 0, RST), wire.now_ns).closed
    assert wire.client.c.error is None


# Seen from outside


def test_equal_stuck_states_have_equal_digests(wire):
    """A peer that vanished, memory that never comes: each round of the timer gives the same digest as the last."""
    wire.mangle = _nothing
    wire.client.write(5 * MSS)
    for why in (None, "memory", "congestion"):
        wire.client.refuse = lambda segment, why=why: why
        digests = []
        for _ in range(4):
            wire.run(until_ns=wire.client.c.timer_ns())
            digests.append(wire.client.c.digest())
        assert digests[1] == digests[2] == digests[3], why
        assert hash(digests[0]) == hash(digests[0])


def test_digests_of_a_stuck_window_probe_and_acknowledgement(wire):
    """The same for a sender that has nothing in flight, and for an acknowledgement that finds no memory."""
    wire.client.refuse = lambda segment: "memory"
    wire.client.write(5 * MSS)
    digests = []
    for _ in range(4):
        wire.run(until_ns=wire.client.c.timer_ns())
        digests.append(wire.client.c.digest())
    assert digests[1] == digests[2] == digests[3]
    wire.client.refuse = lambda segment: None
    wire.server.refuse = lambda segment: "memory"
    wire.run(lambda: wire.server.readable_bytes > 0)
    digests = []
    for _ in range(4):
        wire.client.connection.error = None
        wire.run(until_ns=wire.server.c.timer_ns(), events=50)
        digests.append(wire.server.c.digest())
    assert digests[1] == digests[2] == digests[3]


def test_progress_changes_the_digest(wire):
    """One more byte anywhere, sent, received or queued, is another state."""
    seen = {wire.client.c.digest()}
    wire.client.c.append(10, 0, new_skb=True)
    seen.add(wire.client.c.digest())
    wire.client.transmit()
    seen.add(wire.client.c.digest())
    wire.run(until_ns=0)
    seen.add(wire.client.c.digest())
    assert len(seen) == 4


def test_two_runs_are_equal(make_wire):
    """No chance, no clock of its own: the same calls give the same segments."""
    runs = []
    for _ in range(2):
        wire = make_wire(latency_ns=MS)
        wire.mangle = lambda segment, number: [] if number % 7 == 3 else [(number % 3 * MS, segment)]
        wire.connect()
        wire.client.write(200_000)
        wire.run(until_ns=60 * NS_PER_S)
        runs.append((wire.client.sent, wire.server.sent, wire.client.c.digest()))
    assert runs[0] == runs[1]


def test_info_shows_what_ss_shows(wire):
    """The row of ``struct tcp_info``, while something is in flight."""
    wire.client.write(3 * MSS + 1)
    info = wire.client.c.info()
    assert (info.state, info.timer) == (TcpState.ESTABLISHED, TimerKind.RETRANSMIT)
    assert (info.unacked, info.snd_cwnd, info.notsent_bytes) == (4, 10, 0)
    assert info.rto_ns == 200 * MS


def test_late_timers_are_harmless(wire):
    """handle_timer may come late or for nothing: only what is due happens."""
    assert wire.client.c.handle_timer(5 * NS_PER_S) == ()
    wire.mangle = _nothing
    wire.client.write(10)
    assert wire.client.c.handle_timer(100 * MS) == ()
    assert wire.client.c.handle_timer(350 * MS) == (TimerFact.RETRANSMIT,)
    assert wire.client.c.timer_ns() == 750 * MS
