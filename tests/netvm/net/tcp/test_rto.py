"""Round trips, timeouts and giving up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.rto import RetransmitTimer, RttEstimator, TimerKind, model_timeout_ns
from netvm.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS


def _estimator(**kw: int) -> RttEstimator:
    return RttEstimator(TcpConfig(clock_granularity_ns=1, **kw))


@pytest.mark.parametrize(
    ("retries", "seconds"), [(0, 0.2), (3, 3.0), (6, 25.4), (8, 102.2), (9, 204.6), (10, 324.6), (15, 924.6)]
)
def test_time_until_a_connection_is_given_up(retries: int, seconds: float) -> None:
    """Doublings of 200 ms up to 120 s, then 120 s each: the sums of net/ipv4/tcp_timer.c:tcp_model_timeout."""
    timeout_ns = model_timeout_ns(retries, rto_base_ns=200 * MS, rto_max_ns=120 * NS_PER_S)
    assert timeout_ns == round(seconds * NS_PER_S)


def test_before_any_sample_the_rto_is_a_second() -> None:
    """RFC 6298 section 2.1."""
    assert _estimator().rto_ns == NS_PER_S


def test_first_sample() -> None:
    """RFC 6298 section 2.2: srtt = R; the variance term is twice R, but never below 200 ms."""
    rtt = _estimator()
    rtt.sample(10 * MS, snd_una=1, snd_nxt=2)
    assert (rtt.srtt_ns, rtt.rttvar_ns, rtt.rto_ns) == (10 * MS, 200 * MS, 210 * MS)
    rtt = _estimator()
    rtt.sample(300 * MS, snd_una=1, snd_nxt=2)
    assert rtt.rto_ns == 3 * 300 * MS


def test_rto_is_rounded_up_to_jiffies() -> None:
    """Linux counts in jiffies of 4 ms: with any latency at all the RTO is 204 ms, without exactly 200 ms."""
    rtt = RttEstimator(TcpConfig())
    rtt.sample(0, snd_una=1, snd_nxt=2)
    assert rtt.rto_ns == 200 * MS
    rtt.sample(1000, snd_una=2, snd_nxt=3)
    assert rtt.rto_ns == 204 * MS


def test_a_falling_round_trip_raises_the_deviation_an_eighth_as_fast() -> None:
    """A sample below the mean moves the deviation with an eighth of the gain: else a faster path would wait longer."""
    late, early = _estimator(rto_min_ns=1), _estimator(rto_min_ns=1)
    for rtt in (late, early):
        rtt.sample(100 * MS, snd_una=1, snd_nxt=2)
        rtt._mdev_ns = 0
    late.sample(180 * MS, snd_una=1, snd_nxt=2)
    early.sample(20 * MS, snd_una=1, snd_nxt=2)
    assert late.srtt_ns == 110 * MS
    assert early.srtt_ns == 90 * MS
    assert late._mdev_ns == 80 * MS
    assert early._mdev_ns == 10 * MS


def test_variance_falls_by_a_quarter_a_window() -> None:
    """The largest deviation rules for a window; then the variance goes a quarter of the way down, to 200 ms at last."""
    rtt = _estimator()
    rtt.sample(400 * MS, snd_una=1, snd_nxt=10)
    assert rtt.rttvar_ns == 800 * MS
    rtt.sample(400 * MS, snd_una=5, snd_nxt=20)
    assert rtt.rttvar_ns == 800 * MS
    for window in range(2, 60):
        rtt.sample(400 * MS, snd_una=window * 10 + 1, snd_nxt=window * 10 + 11)
    assert rtt.rttvar_ns == pytest.approx(200 * MS, rel=0.01)


@given(st.lists(st.integers(0, 10 * NS_PER_S), min_size=1, max_size=40))
def test_the_rto_always_covers_the_mean_by_200_ms(samples: list[int]) -> None:
    """Whatever is measured, srtt stays within the samples and srtt + 200 ms <= rto <= 120 s."""
    rtt = RttEstimator(TcpConfig())
    for at, sample in enumerate(samples):
        rtt.sample(sample, snd_una=at, snd_nxt=at + 3)
        assert min(samples) - 8 <= rtt.srtt_ns <= max(samples)
        assert rtt.srtt_ns + 200 * MS <= rtt.rto_ns <= 120 * NS_PER_S


def _timer() -> RetransmitTimer:
    config = TcpConfig()
    rtt = RttEstimator(config)
    rtt.sample(0, snd_una=1, snd_nxt=2)
    return RetransmitTimer(config, rtt)


def test_the_timeout_doubles_up_to_two_minutes() -> None:
    """RFC 6298 section 5.5, TCP_RTO_MAX."""
    clock = _timer()
    clock.start(TimerKind.RETRANSMIT, 0)
    waits = []
    for _ in range(12):
        at_ns = clock.deadline_ns
        assert at_ns is not None
        clock.back_off(TimerKind.RETRANSMIT, at_ns)
        waits.append((clock.deadline_ns - at_ns) / NS_PER_S)
    assert waits == [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 120, 120, 120]


def test_a_local_drop_takes_the_backoff_back() -> None:
    """tcp_retransmit_timer with a positive result: 500 ms, and the next timeout is what it would have been."""
    clock = _timer()
    clock.start(TimerKind.RETRANSMIT, 0)
    clock.back_off(TimerKind.RETRANSMIT, 200 * MS)
    clock.congested(200 * MS)
    assert clock.deadline_ns == 700 * MS
    assert clock.backoff == 0


def test_giving_up_is_counted_from_the_last_progress() -> None:
    """Expired only once something was retransmitted, and not before 924.6 s without progress."""
    clock = _timer()
    clock.start(TimerKind.RETRANSMIT, 10 * NS_PER_S)
    assert not clock.expired(10_000 * NS_PER_S)
    clock.retransmits = 1
    clock.start(TimerKind.RETRANSMIT, 20 * NS_PER_S)
    assert not clock.expired(10 * NS_PER_S + 924_600 * MS - 1)
    assert clock.expired(10 * NS_PER_S + 924_600 * MS)
