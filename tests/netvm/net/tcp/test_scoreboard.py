"""The retransmit queue: tags, counts and cuts."""

import pytest

from netvm.net.tcp.scoreboard import NEVER_NS, RetransmitQueue
from netvm.net.tcp.segment import ACK, FIN, PSH, SYN

MSS = 1000


def _queue(*packets: int) -> RetransmitQueue:
    """Return a queue of skbs of so many full packets each, sent at 0, 1, 2 and so on, from sequence number 0."""
    rtx = RetransmitQueue(MSS)
    seq = 0
    for at_ns, count in enumerate(packets):
        rtx.append(seq, seq + count * MSS, flags=ACK, size_bytes=count * MSS, sent_ns=at_ns)
        seq += count * MSS
    return rtx


def _ranges(rtx: RetransmitQueue) -> list[tuple[int, int, str]]:
    return [(skb.seq // MSS, skb.end // MSS, "S" * skb.sacked + "L" * skb.lost + "R" * skb.retrans) for skb in rtx]


def test_a_gso_segment_counts_as_its_packets() -> None:
    """Congestion control counts what the wire carries, not sk_buffs."""
    rtx = _queue(45, 1)
    assert (len(rtx), rtx.packets_out, rtx.in_flight) == (2, 46, 46)


def test_acknowledging_trims_inside_an_skb() -> None:
    """Part of a GSO segment may be acknowledged; the rest stays, with fewer packets."""
    rtx = _queue(10, 10)
    assert rtx.acknowledge(13_500) == (13, 0)
    assert (rtx.head.seq, rtx.packets_out) == (13_500, 7)
    assert rtx.acknowledge(20_000) == (7, 1)
    assert rtx.head is None


def test_karn() -> None:
    """No send time is returned when any acknowledged part was sent twice (RFC 6298 section 3)."""
    rtx = _queue(1, 1, 1)
    rtx.mark_all_lost()
    rtx.retransmitted(0, MSS, 50)
    assert rtx.acknowledge(2 * MSS) == (2, NEVER_NS)
    assert rtx.acknowledge(3 * MSS) == (1, 2)


def test_sack_cuts_and_tags() -> None:
    """A block in the middle of a GSO segment makes three of it; the same block again is no news."""
    rtx = _queue(10)
    assert rtx.sack(((3 * MSS, 5 * MSS),))
    assert _ranges(rtx) == [(0, 3, ""), (3, 5, "S"), (5, 10, "")]
    assert (rtx.packets_out, rtx.sacked_out, rtx.in_flight) == (10, 2, 8)
    assert not rtx.sack(((3 * MSS, 5 * MSS), (0, 0)))
    assert rtx.sack(((3 * MSS, 6 * MSS), (8 * MSS, 99 * MSS)))
    assert rtx.sacked_out == 5


def test_a_hole_is_lost_with_three_packets_above_it() -> None:
    """RFC 6675 section 4, IsLost, in packets: two above do not suffice, nor is what lies above all SACKs lost."""
    rtx = _queue(1, 1, 1, 1, 1, 1, 1)
    rtx.sack(((MSS, 3 * MSS),))
    assert not rtx.mark_lost(3)
    rtx.sack(((4 * MSS, 5 * MSS),))
    assert rtx.mark_lost(3)
    assert _ranges(rtx) == [
        (0, 1, "L"),
        (1, 2, "S"),
        (2, 3, "S"),
        (3, 4, ""),
        (4, 5, "S"),
        (5, 6, ""),
        (6, 7, ""),
    ]
    assert rtx.in_flight == 3
    assert not rtx.mark_lost(3)


def test_retransmitting_part_of_a_lost_skb_cuts_it() -> None:
    """The copy is in flight, the rest is still to be sent; both counts follow."""
    rtx = _queue(10)
    rtx.mark_all_lost()
    assert rtx.in_flight == 0
    skb = rtx.retransmitted(0, MSS, 7)
    assert (skb.transmissions, skb.sent_ns) == (2, 7)
    assert _ranges(rtx) == [(0, 1, "LR"), (1, 10, "L")]
    assert rtx.in_flight == 1
    assert rtx.next_lost().seq == MSS
    rtx.sack(((0, MSS),))
    assert (rtx.sacked_out, rtx.lost_out, rtx.retrans_out) == (1, 9, 0)


def test_a_timeout_expects_no_copy_back() -> None:
    """Everything not SACKed is lost and may be sent again, also what was retransmitted already."""
    rtx = _queue(2, 2, 2)
    rtx.sack(((2 * MSS, 4 * MSS),))
    rtx.mark_all_lost()
    rtx.retransmitted(0, 2 * MSS, 5)
    assert not rtx.mark_all_lost()
    assert _ranges(rtx) == [(0, 2, "L"), (2, 4, "S"), (4, 6, "L")]
    assert rtx.in_flight == 0


def test_reneging_is_seen_at_the_head() -> None:
    """RFC 2018 section 8: a SACKed head that is not acknowledged means the peer dropped it; then no tag is believed."""
    rtx = _queue(1, 1, 1)
    rtx.sack(((0, MSS), (2 * MSS, 3 * MSS)))
    assert rtx.mark_all_lost()
    assert _ranges(rtx) == [(0, 1, "L"), (1, 2, "L"), (2, 3, "L")]


def test_fin_and_syn_are_numbered_but_carry_nothing() -> None:
    """A FIN stays with the last piece when its skb is cut; a SYN waits to be sent as if it were lost."""
    rtx = RetransmitQueue(MSS)
    rtx.append(0, 2 * MSS + 1, flags=ACK | FIN | PSH, size_bytes=2 * MSS, sent_ns=0)
    rtx.sack(((0, MSS),))
    first, last = rtx
    assert (first.flags, first.size_bytes) == (0, MSS)
    assert (last.flags, last.size_bytes) == (FIN | PSH, MSS)
    rtx = RetransmitQueue(MSS)
    rtx.append(0, 1, flags=SYN, size_bytes=0, sent_ns=NEVER_NS)
    assert rtx.next_lost() is rtx.head
    assert rtx.retransmitted(0, 1, 3).transmissions == 1


def test_only_the_beginning_of_what_is_lost_may_leave() -> None:
    """Retransmitting what is not lost, or what is on its way, is our own bug."""
    rtx = _queue(2)
    with pytest.raises(AssertionError):
        rtx.retransmitted(0, MSS, 1)
    rtx.mark_all_lost()
    rtx.retransmitted(0, MSS, 1)
    with pytest.raises(AssertionError):
        rtx.retransmitted(0, MSS, 1)


def test_clear_forgets_everything() -> None:
    """A dead connection has nothing in flight."""
    rtx = _queue(3)
    rtx.mark_all_lost()
    rtx.clear()
    assert (rtx.packets_out, rtx.lost_out, rtx.digest()) == (0, 0, ())
