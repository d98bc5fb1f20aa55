"""When calls are sent again."""

from storage_backends.nfs.connection.timeouts import TCP_TIMEOUT, UDP_TIMEOUT, Expiry, RetransmitTimer, RpcTimeout

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
