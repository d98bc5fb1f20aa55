"""Reno and CUBIC."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.net.tcp.congestion import (
    INFINITE_SSTHRESH,
    CongestionControl,
    Cubic,
    Reno,
    _cube_root,
    make_congestion,
    restart_after_idle,
)
from netvm.units import NS_PER_MS, NS_PER_S

RTT = 20 * NS_PER_MS


def round_trip(window: CongestionControl, now_ns: int) -> None:
    """Acknowledge one full window, a packet at a time."""
    for _ in range(window.cwnd):
        window.on_ack(1, now_ns=now_ns, srtt_ns=RTT)


@pytest.mark.parametrize("name", ["reno", "cubic"])
class TestEveryAlgorithm:
    """What holds for each implementation of the port."""

    def test_slow_start_doubles(self, name: str) -> None:
        """RFC 5681 section 3.1: one packet more for each acknowledged, so twice as many a round trip."""
        window = make_congestion(name, 10)
        round_trip(window, 0)
        assert window.cwnd == 20
        window.on_ack(20, now_ns=RTT, srtt_ns=RTT)
        assert window.cwnd == 40

    def test_slow_start_stops_at_the_threshold(self, name: str) -> None:
        """The rest of an acknowledgement that crosses the threshold counts for congestion avoidance."""
        window = make_congestion(name, 10)
        window.ssthresh = 15
        window.on_ack(10, now_ns=0, srtt_ns=RTT)
        assert 15 <= window.cwnd <= 16

    def test_a_loss_shrinks_and_a_timeout_shrinks_to_one(self, name: str) -> None:
        """The threshold is a fraction of the window, never below two packets; a second timeout leaves it."""
        window = make_congestion(name, 100)
        window.on_congestion()
        assert window.cwnd == window.ssthresh
        assert 50 <= window.cwnd < 100
        window.on_timeout(first=True)
        ssthresh = window.ssthresh
        assert window.cwnd == 1
        window.on_timeout(first=False)
        assert (window.cwnd, window.ssthresh) == (1, ssthresh)
        for _ in range(10):
            window.on_congestion()
        assert window.cwnd == 2

    @given(steps=st.lists(st.one_of(st.integers(1, 50), st.sampled_from(["loss", "timeout", "idle"])), max_size=60))
    def test_the_window_is_always_sane(self, name: str, steps: list[int | str]) -> None:
        """At least one packet; an acknowledgement never shrinks it nor grows it by more than it acknowledged."""
        window = make_congestion(name, 10)
        now_ns = 0
        for step in steps:
            now_ns += RTT
            before = window.cwnd
            if step == "loss":
                window.on_congestion()
            elif step == "timeout":
                window.on_timeout(first=True)
            elif step == "idle":
                window.on_transmit_start(RTT)
            else:
                assert isinstance(step, int)
                window.on_ack(step, now_ns=now_ns, srtt_ns=RTT)
                assert before <= window.cwnd <= before + step
            assert window.cwnd >= 1
            assert window.ssthresh >= 2

    def test_equal_history_gives_equal_digest(self, name: str) -> None:
        """The digest has no clock in it."""
        one, other = make_congestion(name, 10), make_congestion(name, 10)
        for window, start in ((one, 0), (other, 77 * NS_PER_S)):
            window.on_congestion()
            for at in range(20):
                window.on_ack(3, now_ns=start + at * RTT, srtt_ns=RTT)
        assert one.digest() == other.digest()


def test_reno_adds_one_packet_a_round_trip() -> None:
    """RFC 5681 section 3.1, congestion avoidance; and halves on loss."""
    window = Reno(10)
    window.on_congestion()
    assert window.cwnd == 5
    for expected in (6, 7, 8):
        round_trip(window, 0)
        assert window.cwnd == expected


def test_cubic_returns_to_the_old_window_after_k() -> None:
    """RFC 9438 section 4.2: flat at W_max after K = cbrt(W_max * (1 - beta) / C), then it climbs again."""
    far_ns = 5 * RTT
    window = Cubic(300)
    window.on_congestion()
    assert window.cwnd == 210
    now_ns = 0
    window.on_ack(1, now_ns=now_ns, srtt_ns=far_ns)
    k_ns = window._k_ms * NS_PER_MS
    assert k_ns / NS_PER_S == pytest.approx((300 * 0.3 / 0.4) ** (1 / 3), rel=0.01)
    while now_ns < k_ns:
        now_ns += far_ns
        round_trip(window, now_ns)
    assert window.cwnd == pytest.approx(300, rel=0.02)
    while now_ns < 2 * k_ns:
        now_ns += far_ns
        round_trip(window, now_ns)
    assert window.cwnd == pytest.approx(390, rel=0.03)


def test_cubic_is_at_least_as_fast_as_reno_where_windows_are_small() -> None:
    """RFC 9438 section 4.3: on a short path the Reno-friendly estimate rules, 0.53 packets a round trip."""
    window = Cubic(20)
    window.on_congestion()
    start = window.cwnd
    for at in range(10):
        round_trip(window, at * NS_PER_MS)
    assert window.cwnd >= start + 4


def test_cubic_gives_way_when_it_lost_below_its_last_maximum() -> None:
    """RFC 9438 section 4.7, fast convergence."""
    window = Cubic(100)
    window.on_congestion()
    assert window._w_max == 100
    window.on_congestion()
    assert window._w_max == 70 * (1024 + 717) // 2048


def test_cubic_does_not_climb_while_it_rests() -> None:
    """RFC 9438 section 5.8: time without sending is taken out of the curve."""
    rested, busy = Cubic(100), Cubic(100)
    for window in (rested, busy):
        window.on_congestion()
        window.on_ack(1, now_ns=0, srtt_ns=RTT)
    rested.on_transmit_start(9 * NS_PER_S)
    rested.on_ack(70, now_ns=10 * NS_PER_S, srtt_ns=RTT)
    busy.on_ack(70, now_ns=NS_PER_S, srtt_ns=RTT)
    assert rested.digest() == busy.digest()


def test_a_rest_halves_the_window_each_rto_down_to_the_initial_one() -> None:
    """tcp_cwnd_restart: and three quarters of the old window stay known as the threshold."""
    for idle, expected in ((1, 160), (2, 80), (3, 40), (9, 10)):
        window = Reno(160)
        window.ssthresh = 100
        restart_after_idle(window, idle_ns=idle * NS_PER_S, rto_ns=NS_PER_S, init_cwnd=10)
        assert (window.cwnd, window.ssthresh) == (expected, 120)
    window = Reno(4)
    restart_after_idle(window, idle_ns=9 * NS_PER_S, rto_ns=NS_PER_S, init_cwnd=10)
    assert (window.cwnd, window.ssthresh) == (4, INFINITE_SSTHRESH)


@given(st.integers(0, 10**30))
def test_cube_root_is_exact(value: int) -> None:
    """The integer root: its cube is not above, the next one's is."""
    root = _cube_root(value)
    assert root**3 <= value < (root + 1) ** 3


def test_an_unknown_algorithm_is_a_key_error() -> None:
    """The name was checked where it was typed."""
    with pytest.raises(KeyError):
        make_congestion("vegas", 10)
