"""What an endpoint tells its shell."""

from netvm.net.tcp.facts import Receipt, TimerFact
from netvm.net.tcp.receiver import Disposition
from netvm.net.tcp.recovery import CaState


def test_a_receipt_says_nothing_by_default() -> None:
    """A pure duplicate of nothing: no bytes either way, nothing to free, nothing to read."""
    receipt = Receipt()
    assert receipt == (0, 0, Disposition.NONE, False, False, False, False, False)


def test_every_timer_fact_has_its_own_word() -> None:
    """The words are printed in traces."""
    assert len({fact.value for fact in TimerFact}) == len(TimerFact)


def test_info_counts_packets_not_segments(wire) -> None:
    """tcp_get_info: one GSO segment of four packets is four unacknowledged."""
    wire.client.write(4 * 1448)
    info = wire.client.c.info()
    assert (info.unacked, info.sacked, info.lost, info.retrans) == (4, 0, 0, 0)
    assert info.ca_state is CaState.OPEN
