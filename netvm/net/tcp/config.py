"""The numbers one endpoint runs with, and the counters it keeps.

Defaults are Linux 6.1's: ``include/net/tcp.h`` for the constants and ``net.ipv4.tcp_*`` for the sysctls. The counters
carry the names that ``/proc/net/snmp`` and ``/proc/net/netstat`` print; an endpoint may be given a shared set, so that
a host's table needs no adding up.

``tcp_retries1`` is not here: all it does is ask routing for another path.
"""

from dataclasses import dataclass
from typing import Final, Literal

from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

__all__ = [
    "COUNTER_NAMES",
    "ETHERNET",
    "LOOPBACK",
    "TCPOLEN_TSTAMP_ALIGNED",
    "TCP_MSS_DEFAULT",
    "Counters",
    "TcpConfig",
    "new_counters",
]

Counters = dict[str, int]
"""Counts by kernel name."""

COUNTER_NAMES = (
    "DelayedACKs",
    "RetransSegs",
    "TCPAbortOnTimeout",
    "TCPChallengeACK",
    "TCPDelivered",
    "TCPFastRetrans",
    "TCPFromZeroWindowAdv",
    "TCPOFOQueue",
    "TCPOrigDataSent",
    "TCPRetransFail",
    "TCPSACKReneging",
    "TCPSackRecovery",
    "TCPSlowStartRetrans",
    "TCPTimeouts",
    "TCPToZeroWindowAdv",
    "TCPWantZeroWindowAdv",
    "TCPWinProbe",
    "TCPZeroWindowDrop",
)
"""What an endpoint counts; ``RetransSegs`` is of ``/proc/net/snmp``, the others of ``TcpExt``."""

TCPOLEN_TSTAMP_ALIGNED: Final = 12
"""The timestamps option: the packet that a SYN is about is larger by that, as it does not know of it yet."""
TCP_MSS_DEFAULT = 536
"""What a peer is assumed to send until it has sent more (RFC 9293 section 3.7.1)."""


def new_counters() -> Counters:
    """Return every counter at zero."""
    return dict.fromkeys(COUNTER_NAMES, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpConfig:
    """How one endpoint behaves; both ends of a connection may differ."""

    mss_bytes: int = 1448
    """Payload of a full packet: 1500 less 40 of headers and 12 of timestamps."""
    gso_max_bytes: int = 65536 - 256 - 1
    """Most that one segment may carry: ``sk_gso_max_size`` less ``MAX_TCP_HEADER`` and one (``sk_setup_caps``)."""
    timestamps: bool = True
    """Send and echo timestamps (``tcp_timestamps``); without them Karn's rule drops more samples."""
    nodelay: bool = False
    """TCP_NODELAY: no Nagle."""
    congestion: Literal["cubic", "reno"] = "cubic"
    init_cwnd: int = 10
    """Packets (RFC 6928)."""
    slow_start_after_idle: bool = True
    """Forget the congestion window after an RTO without sending (RFC 5681 section 4.1)."""
    tso_win_divisor: int = 3
    """A burst is not deferred once this fraction of the window may be sent; 0 never defers."""
    reordering: int = 3
    """Packets SACKed above a hole before it counts as lost: DupThresh of RFC 6675."""
    sack_blocks: int = 3
    """Blocks that fit beside timestamps (RFC 2018 section 3)."""

    rto_min_ns: int = 200 * NS_PER_MS
    rto_initial_ns: int = NS_PER_S
    rto_max_ns: int = 120 * NS_PER_S
    clock_granularity_ns: int = JIFFY_NS
    """The RTO is rounded up to whole jiffies, so any round trip above zero gives more than ``rto_min_ns``."""
    retries2: int = 15
    """Retransmissions, of a model RTO of ``rto_min_ns``, before ETIMEDOUT; also unanswered window probes."""
    syn_retries: int = 6
    synack_retries: int = 5
    resource_probe_interval_ns: int = 500 * NS_PER_MS
    """Wait after the host's own queue dropped a retransmission or probe: TCP_RESOURCE_PROBE_INTERVAL."""

    delack_min_ns: int = 40 * NS_PER_MS
    delack_max_ns: int = 200 * NS_PER_MS
    ato_min_ns: int = 40 * NS_PER_MS
    max_quickacks: int = 16
    """Acknowledgements sent at once at the start, or after a loss was seen: TCP_MAX_QUICKACKS."""
    time_wait_ns: int = 60 * NS_PER_S

    def __post_init__(self) -> None:
        """Refuse what no endpoint can run with."""
        assert 0 < self.mss_bytes <= 65_535
        assert 0 < self.rto_min_ns <= self.rto_initial_ns <= self.rto_max_ns
        assert 0 < self.delack_min_ns <= self.delack_max_ns
        assert self.init_cwnd > 0
        assert self.clock_granularity_ns > 0
        assert self.reordering > 0


ETHERNET: Final = TcpConfig(nodelay=True)
"""A kernel client's end of a connection over a card."""
LOOPBACK: Final = TcpConfig(mss_bytes=65_483, nodelay=True)
"""An MTU of 65536: the largest window seen, not the MTU, bounds a packet."""
