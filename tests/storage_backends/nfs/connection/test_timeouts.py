"""When calls are sent again."""

from storage_backends.nfs.connection.timeouts import (
    TCP_TIMEOUT,
    UDP_TIMEOUT,
    Expiry,
    RetransmitTimer,
    RpcTimeout,
    RttEstimator,
)

S = 1_000_000_000


def expiries(timeout: RpcTimeout, nr: int) -> list[tuple[float, Expiry]]:
    """Return the instants in seconds, and kinds, of the first time-outs of a call sent at 0."""
    timer = RetransmitTimer(timeout, 0)
    found = []
    for _ in range(nr):
        now_ns = timer.deadline_ns
        found.append((now_ns / S, timer.expired(now_ns)))
    return found


def test_tcp_waits_a_minute_then_longer() -> None:
    """timeo=600,retrans=2: 60 s, then 120 s more, which is the major time-out at 180 s; then again from 60 s."""
    minor, major = Expiry.MINOR, Expiry.MAJOR
    assert expiries(TCP_TIMEOUT, 4) == [(60, minor), (180, major), (240, minor), (360, major)]


def test_udp_doubles() -> None:
    """timeo=11,retrans=3: 1.1 s, 2.2 s, 4.4 s, and the major time-out once 8.8 s have passed."""
    assert [round(at, 1) for at, _ in expiries(UDP_TIMEOUT, 4)] == [1.1, 3.3, 7.7, 16.5]
    assert [kind for _, kind in expiries(UDP_TIMEOUT, 4)] == [Expiry.MINOR] * 3 + [Expiry.MAJOR]


def test_the_wait_begins_when_the_call_goes_out() -> None:
    """A call that waited to be sent has its whole time from then."""
    timer = RetransmitTimer(TCP_TIMEOUT, 0)
    timer.sent(30 * S)
    assert timer.deadline_ns == 90 * S


def test_a_wait_can_be_of_another_length() -> None:
    """Over UDP it is what answers took, and the next one is doubled all the same."""
    timer = RetransmitTimer(UDP_TIMEOUT, 0)
    timer.wait(0, 2 * S)
    assert timer.deadline_ns == 2 * S
    assert timer.expired(2 * S) is Expiry.MINOR
    assert timer.nr_minor == 1


def test_nothing_is_known_at_first() -> None:
    """The first wait is timeo, for every kind of call; a try in vain doubles it, up to a minute."""
    rtt = RttEstimator(UDP_TIMEOUT)
    for name in ("NULL", "READ", "WRITE", "COMMIT"):
        assert rtt.wait_ns(name, 0) == 1.1 * S
        assert rtt.wait_ns(name, 2) == 4.4 * S
        assert rtt.wait_ns(name, 9) == 60 * S


def test_answers_teach_what_they_take() -> None:
    """Waits settle a little above steady answers, by kind; a NULL always waits timeo."""
    rtt = RttEstimator(UDP_TIMEOUT)
    for _ in range(100):
        rtt.answered("READ", S // 2, 1)
        rtt.answered("NULL", S // 2, 1)
    assert S // 2 < rtt.wait_ns("READ", 0) < S * 7 // 10
    assert rtt.wait_ns("WRITE", 0) == rtt.wait_ns("NULL", 0) == 1.1 * S


def test_a_call_that_was_sent_twice_tells_only_that() -> None:
    """Karn: its time counts for nothing, but the next calls of its kind wait twice as long until one is answered."""
    rtt, other = RttEstimator(UDP_TIMEOUT), RttEstimator(UDP_TIMEOUT)
    rtt.answered("WRITE", 5 * S, 2)
    assert (rtt.wait_ns("WRITE", 0), rtt.wait_ns("READ", 0)) == (2.2 * S, 1.1 * S)
    for estimator in (rtt, other):
        estimator.answered("WRITE", S // 1000, 1)
    assert rtt.wait_ns("WRITE", 0) == other.wait_ns("WRITE", 0)
    rtt.reset()
    assert rtt.wait_ns("WRITE", 0) == 1.1 * S
