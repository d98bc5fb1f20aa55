"""How far a receive window opens: the first one, its growth, and what bounds it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.net.tcp.window import ReceiveWindow

ETHERNET_MSS = 1448
LOOPBACK_MSS = 65_483


def _opened(mss_bytes: int, *, space_bytes: int = 65_536, rmem_max_bytes: int = 6 << 20) -> ReceiveWindow:
    window = ReceiveWindow(mss_bytes)
    window.open(space_bytes, syn_mss_bytes=mss_bytes + 12, rmem_max_bytes=rmem_max_bytes)
    return window


@pytest.mark.parametrize(
    ("mss_bytes", "rmem_max_bytes", "syn", "first", "clamp", "scale"),
    [
        # the SYNs that a capture of a Linux host shows: 64240 over Ethernet, 65495 over loopback
        (ETHERNET_MSS, 6 << 20, 64_240, 64_088, 65_536 - 1448, 128),
        (LOOPBACK_MSS, 6 << 20, 65_495, 65_495, 65_536, 128),
        (LOOPBACK_MSS, 622_272, 65_495, 65_495, 65_536, 16),
        (LOOPBACK_MSS, 131_072, 65_495, 65_495, 65_536, 4),
    ],
)
def test_the_first_window_is_whole_packets(
    mss_bytes: int, rmem_max_bytes: int, syn: int, first: int, clamp: int, scale: int
) -> None:
    """Whole packets in 16 bits, less one for the reader, in units that do for tcp_rmem[2] and for net.core.rmem_max."""
    window = _opened(mss_bytes, rmem_max_bytes=rmem_max_bytes)
    assert (window.syn_bytes, window.ssthresh_bytes, window.clamp_bytes, window.scale_bytes) == (
        syn,
        first,
        clamp,
        scale,
    )
    assert window.select(536) == -(-first // scale) * scale


def test_a_packet_lets_it_grow_by_two_packets_or_twice_its_data() -> None:
    """tcp_grow_window: at least two packets of the connection, up to the free space; tiny packets tell nothing."""
    window = _opened(ETHERNET_MSS)
    assert not window.grow(1448, 2304, 1448), "the clamp is reached"
    window.clamp_bytes = 300_000
    window.announce(300_000, 300_000)
    assert not window.grow(127, 127, 1448)
    assert window.grow(1448, 2304, 1448)
    assert window.ssthresh_bytes == 64_088 + 2 * 1448
    assert window.grow(20_000, 30_000, 1448)
    assert window.ssthresh_bytes == 64_088 + 2 * 1448 + 40_000
    window.announce(120_000)
    assert window.grow(20_000, 30_000, 1448)
    assert window.ssthresh_bytes == 120_000


def test_overhead_counts_the_more_the_wider_the_window_is() -> None:
    """__tcp_grow_window: a packet that is a sixteenth data may still open a window that is small beside tcp_rmem[2]."""
    window = _opened(ETHERNET_MSS)
    window.clamp_bytes = 3 << 20
    window.announce(3 << 20, 3 << 20)
    assert window.grow(1000, 16_000, 1448), "a quarter of 6 MiB is four times as wide as need be"
    assert window.ssthresh_bytes == 64_088 + 2 * 1448
    window.ssthresh_bytes = 1 << 20
    assert not window.grow(1000, 16_000, 1448)
    assert window.grow(1000, 2001, 1448), "a little more than half of it is data"


def test_pressure_brings_it_back_to_four_packets() -> None:
    """tcp_adjust_rcv_ssthresh: by a packet that would let it grow, or by choosing a window while space is short."""
    window = _opened(ETHERNET_MSS)
    window.clamp_bytes = 300_000
    window.announce(300_000, 300_000, under_pressure=True)
    assert not window.grow(1448, 2304, 1448)
    assert window.ssthresh_bytes == 4 * 1448
    window = _opened(ETHERNET_MSS)
    window.announce(30_000, under_pressure=True)
    assert window.select(1448) == -(-4 * 1448 // 128) * 128


def test_the_round_trip_is_the_shortest_window_or_the_mean_of_the_echoes() -> None:
    """tcp_rcv_rtt_update: a window's time only shortens it, echoes count whole milliseconds and an eighth each."""
    window = _opened(ETHERNET_MSS)
    assert window.rtt_ns == 0
    window.window_passed(0, 64_088, 0)
    assert (window.rtt_ns, window.passed_at_seq) == (0, 64_088)
    window.window_passed(64_088, 64_088, 20_000_000)
    assert window.rtt_ns == 20_000_000
    window.window_passed(2 * 64_088, 64_088, 90_000_000)
    assert window.rtt_ns == 20_000_000
    window.echoed(99_999_999, 100_000_001)
    assert window.rtt_ns == 20_000_000 - 20_000_000 // 8 + 1_000_000 // 8
    for _ in range(200):
        window.echoed(5_000_000, 5_900_000)
    assert 1_000_000 <= window.rtt_ns < 1_001_000, "a millisecond is the least that timestamps tell"


@given(
    st.lists(st.tuples(st.integers(0, 3 << 20), st.integers(1, 70_000), st.integers(0, 9), st.booleans()), max_size=60),
    st.sampled_from([ETHERNET_MSS, LOOPBACK_MSS]),
)
def test_no_window_is_more_than_its_bounds(packets: list[tuple[int, int, int, bool]], mss_bytes: int) -> None:
    """Whatever arrives: what is offered fits the free space, the slow start and the clamp, to within the scale."""
    window = _opened(mss_bytes)
    window.clamp_bytes = 2 << 20
    for free, size, overhead, pressure in packets:
        window.announce(free, 3 << 20, under_pressure=pressure)
        before = window.ssthresh_bytes
        grew = window.grow(size, size * overhead, mss_bytes)
        assert grew == (window.ssthresh_bytes > before)
        offered = window.select(mss_bytes)
        assert offered < min(free, window.ssthresh_bytes) + window.scale_bytes
        assert window.ssthresh_bytes <= max(before, window.clamp_bytes)
        assert offered == 0 or free >= (3 << 20) >> 4
