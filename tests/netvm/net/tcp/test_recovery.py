"""Losses: found by SACK before the timer, by the timer when nothing else tells."""

import pytest

from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.recovery import CaState
from netvm.net.tcp.segment import split
from netvm.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS
MSS = 1448


class _Lossy:
    """A wire that carries frames and loses chosen packets of data, by number, once or for ever."""

    def __init__(self, wire, *lost, for_ever=False):
        self.wire = wire
        self.lost = set(lost)
        self.for_ever = for_ever
        self.base = wire.client.c.snd_nxt
        wire.mangle = self

    def __call__(self, segment, number):
        if not segment.size_bytes:
            return [(0, segment)]
        kept = []
        for frame in split(segment, MSS):
            packet = (frame.seq - self.base) // MSS
            if packet in self.lost:
                if not self.for_ever:
                    self.lost.remove(packet)
            else:
                kept.append((0, frame))
        return kept


@pytest.fixture
def far(make_wire):
    """Return a connection with 10 ms each way and a window of 40 packets, Reno."""
    wire = make_wire(client=TcpConfig(nodelay=True, congestion="reno", init_cwnd=40), latency_ns=10 * MS)
    wire.connect()
    return wire


def _retransmitted(shell, base):
    """Return the packets sent more than once, in the order they left again."""
    seen, again = set(), []
    for _, segment in shell.sent:
        for frame in split(segment, MSS) if segment.size_bytes else []:
            packet = (frame.seq - base) // MSS
            (again.append if packet in seen else seen.add)(packet)
    return again


def test_one_loss_is_repaired_in_a_round_trip(far):
    """RFC 5681 section 3.2: three packets above the hole and the copy leaves, long before the timer."""
    _Lossy(far, 3)
    start_ns = far.now_ns
    far.client.write(20 * MSS)
    far.run(lambda: far.client.acked_bytes == 20 * MSS)
    assert far.now_ns - start_ns == 40 * MS
    counters = far.client.c.counters
    assert (counters["TCPFastRetrans"], counters["TCPSackRecovery"], counters["TCPTimeouts"]) == (1, 1, 0)
    assert _retransmitted(far.client, 1) == [3]


def test_a_fast_retransmission_gets_a_whole_timeout(far):
    """tcp_xmit_retransmit_queue: the timer starts again when the head leaves again; SACKs alone do not restart it."""
    _Lossy(far, 0, for_ever=True)
    far.client.write(10 * MSS)
    far.run(lambda: far.client.c.info().ca_state is CaState.RECOVERY)
    assert far.client.c.timer_ns() == far.now_ns + far.client.c.info().rto_ns


def test_the_window_is_halved_once_for_a_window_of_losses(far):
    """RFC 6675: many holes of one flight are one congestion event; only the holes are sent again, in order."""
    _Lossy(far, 2, 5, 6, 11)
    far.client.write(40 * MSS)
    far.run(lambda: far.client.c.info().ca_state is CaState.RECOVERY)
    assert far.client.c.info().snd_cwnd == 21, "of 42: two packets were acknowledged before the hole"
    far.run(lambda: far.client.acked_bytes == 40 * MSS)
    assert _retransmitted(far.client, 1) == [2, 5, 6, 11]
    assert far.client.c.info().snd_ssthresh == 21
    assert far.client.c.info().ca_state is CaState.OPEN
    assert far.client.c.counters["TCPTimeouts"] == 0


def test_a_local_drop_and_a_loss_reduce_the_window_once(far):
    """From CWR into RECOVERY: it is reduced already (tcp_enter_recovery)."""
    _Lossy(far, 3)
    far.client.write(20 * MSS)
    attempts = iter(["congestion"])
    far.client.refuse = lambda segment: next(attempts, None)
    far.client.write(MSS)
    assert (far.client.c.info().ca_state, far.client.c.info().snd_cwnd) == (CaState.CWR, 20)
    far.run(lambda: far.client.c.info().ca_state is CaState.RECOVERY)
    assert far.client.c.info().snd_cwnd == 20
    far.run(lambda: far.client.acked_bytes == 21 * MSS)


def test_two_packets_above_a_hole_are_disorder(far):
    """Below three it may be reordering: nothing is sent again, the window stays."""
    held = []

    def late_second(segment, number):
        if not segment.size_bytes:
            return [(0, segment)]
        frames = split(segment, MSS)
        held.append(frames[1])
        return [(0, frames[0]), (0, frames[2]), (0, frames[3]), (5 * MS, frames[1])]

    far.mangle = late_second
    far.client.write(4 * MSS)
    far.run(lambda: far.client.c.info().ca_state is CaState.DISORDER)
    assert far.client.c.info().sacked > 0
    far.run(lambda: far.client.acked_bytes == 4 * MSS)
    assert far.client.c.info().ca_state is CaState.OPEN
    assert far.client.c.info().snd_cwnd == 40
    assert _retransmitted(far.client, 1) == []


def test_a_partial_acknowledgement_uncovers_the_next_hole(far):
    """RFC 6582: packets 3 and 19 lost of 20; nothing is SACKed above 19, yet it is sent again without the timer."""
    _Lossy(far, 3, 19)
    far.client.write(20 * MSS)
    far.run(lambda: far.client.acked_bytes == 20 * MSS)
    assert _retransmitted(far.client, 1) == [3, 19]
    assert far.client.c.counters["TCPTimeouts"] == 0


def test_a_lost_tail_waits_for_the_timer(far):
    """No tail loss probe here: nothing above the hole, so only the RTO tells."""
    _Lossy(far, 19)
    start_ns = far.now_ns
    far.client.write(20 * MSS)
    far.run(lambda: far.client.acked_bytes == 20 * MSS)
    counters = far.client.c.counters
    assert (counters["TCPTimeouts"], counters["TCPFastRetrans"], counters["RetransSegs"]) == (1, 0, 1)
    assert far.now_ns - start_ns > 200 * MS


def test_a_copy_lost_again_waits_for_the_timer(far):
    """The scoreboard does not guess about copies; after the RTO the window is one packet and grows by slow start."""
    _Lossy(far, 0, for_ever=True)
    far.client.write(10 * MSS)
    far.run(lambda: far.client.c.info().ca_state is CaState.LOSS)
    info = far.client.c.info()
    assert (info.snd_cwnd, info.sacked, info.retrans) == (1, 9, 1)
    assert info.snd_ssthresh == 20, "halved at the fast retransmission; the timer does not halve it again"
    far.mangle = lambda segment, number: [(0, segment)]
    far.run(lambda: far.client.acked_bytes == 10 * MSS)
    assert _retransmitted(far.client, 1) == [0, 0, 0]


def test_a_timeout_sends_everything_again_that_was_not_sacked(far):
    """All of a flight lost: one packet at the RTO, then two, then four as acknowledgements come (slow start)."""
    _Lossy(far, *range(12))
    far.client.write(12 * MSS)
    start = len(far.client.sent)
    far.run(lambda: far.client.acked_bytes == 12 * MSS)
    bursts: dict[int, int] = {}
    for at_ns, segment in far.client.sent[start:]:
        bursts[at_ns] = bursts.get(at_ns, 0) + -(-segment.size_bytes // MSS)
    assert list(bursts.values())[:3] == [1, 2, 4]
    counters = far.client.c.counters
    assert counters["RetransSegs"] == 12
    assert counters["TCPSlowStartRetrans"] == 11
    assert counters["TCPTimeouts"] == 1


def test_repeated_timeouts_halve_the_threshold_once(far):
    """RFC 5681 section 3.1: the second expiry for the same data says nothing new."""
    _Lossy(far, *range(40), for_ever=True)
    far.client.write(40 * MSS)
    far.run(until_ns=far.now_ns + 10 * NS_PER_S)
    assert far.client.c.counters["TCPTimeouts"] > 3
    assert far.client.c.info().snd_ssthresh == 20


def test_reneging_is_survived(far):
    """The receiver SACKed, then gave the memory back: the sender finds out when its timer fires, and sends it again."""
    _Lossy(far, 0, for_ever=True)
    far.client.write(10 * MSS)
    far.run(until_ns=far.now_ns + 50 * MS)
    assert far.client.c.info().sacked == 9
    far.server.c.prune_out_of_order(0)
    far.server.arrived = bytearray()
    far.mangle = lambda segment, number: [(0, segment)]
    far.run(lambda: far.client.acked_bytes == 10 * MSS)
    assert far.server.readable_bytes == 10 * MSS
    assert far.client.c.counters["TCPSACKReneging"] == 1


def test_refused_data_is_repaired_by_the_timer(far):
    """A receiver without memory takes the header only and says nothing; TCP is its retry."""
    refusing = [True]
    far.server.refuse_data = lambda segment: refusing[0]
    far.client.write(10 * MSS)
    far.run(until_ns=far.now_ns + 5 * NS_PER_S)
    assert far.server.readable_bytes == 0
    assert far.client.c.info().ca_state is CaState.LOSS
    assert [at for at, segment in far.server.sent if segment.ack > 1] == []
    refusing[0] = False
    far.run(lambda: far.client.acked_bytes == 10 * MSS)
    assert far.client.c.info().ca_state is CaState.OPEN


def test_reordering_of_whole_segments_costs_no_byte(far):
    """Segments that overtake each other are put in order; a spurious copy is only a duplicate."""
    far.mangle = lambda segment, number: [(number % 3 * 3 * MS, segment)]
    far.client.write(60 * MSS)
    far.run(lambda: far.client.acked_bytes == 60 * MSS)
    assert far.server.readable_bytes == 60 * MSS
