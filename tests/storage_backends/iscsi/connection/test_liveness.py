"""When silence becomes a failure."""

import pytest

from storage_backends.iscsi.connection.liveness import Liveness, Verdict

NS_PER_S = 1_000_000_000


def liveness(interval_s: int = 5) -> Liveness:
    """Return the silence of a connection that just began."""
    return Liveness(interval_ns=interval_s * NS_PER_S, timeout_ns=5 * NS_PER_S, now_ns=0)


def test_silence_is_pinged_and_then_dead() -> None:
    """Five seconds without a byte ask for a ping, five more without one end the connection."""
    silence = liveness()
    assert silence.timer_ns == 5 * NS_PER_S
    assert silence.check(5 * NS_PER_S - 1) is Verdict.WAIT
    assert silence.check(5 * NS_PER_S) is Verdict.PING
    silence.ping_itt = 7
    assert silence.timer_ns == 10 * NS_PER_S
    assert silence.check(10 * NS_PER_S - 1) is Verdict.WAIT
    assert silence.check(10 * NS_PER_S) is Verdict.DEAD


def test_any_byte_ends_the_silence() -> None:
    """A target that sends anything is alive, even with the ping unanswered."""
    silence = liveness()
    silence.ping_itt = 7
    silence.last_recv_ns = 9 * NS_PER_S
    assert silence.timer_ns == 19 * NS_PER_S
    assert silence.check(10 * NS_PER_S) is Verdict.WAIT


@pytest.mark.parametrize("now_ns", [0, 10**15])
def test_without_an_interval_silence_is_no_failure(now_ns: int) -> None:
    """An interval of 0 turns pings off."""
    assert liveness(0).timer_ns is None
    assert liveness(0).check(now_ns) is Verdict.WAIT
