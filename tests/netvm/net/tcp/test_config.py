"""The numbers of an endpoint."""

import pytest

from netvm.net.tcp.config import COUNTER_NAMES, TcpConfig, new_counters
from netvm.units import NS_PER_MS, NS_PER_S


def test_defaults_are_linux_6_1s() -> None:
    """include/net/tcp.h and the sysctls."""
    config = TcpConfig()
    assert (config.rto_min_ns, config.rto_max_ns) == (200 * NS_PER_MS, 120 * NS_PER_S)
    assert (config.rto_initial_ns, config.retries2, config.syn_retries) == (NS_PER_S, 15, 6)
    assert (config.delack_min_ns, config.delack_max_ns, config.ato_min_ns) == (
        40 * NS_PER_MS,
        200 * NS_PER_MS,
        40 * NS_PER_MS,
    )
    assert (config.init_cwnd, config.reordering, config.max_quickacks) == (10, 3, 16)
    assert config.resource_probe_interval_ns == 500 * NS_PER_MS
    assert config.gso_max_bytes // config.mss_bytes == 45


def test_counters_start_at_zero_in_a_fixed_order() -> None:
    """Every name is there from the start, sorted, so that two runs print the same table."""
    assert list(new_counters()) == sorted(COUNTER_NAMES)
    assert set(new_counters().values()) == {0}


def test_what_cannot_work_is_refused() -> None:
    """An MSS that the option cannot say is our own bug."""
    with pytest.raises(AssertionError):
        TcpConfig(mss_bytes=65_536)
