"""What an endpoint tells its shell: of a received segment, of an expired timer, and of itself."""

from enum import Enum, unique
from typing import NamedTuple

from netvm.net.tcp.receiver import Disposition, Receiver
from netvm.net.tcp.recovery import CaState
from netvm.net.tcp.rto import TimerKind
from netvm.net.tcp.sender import Sender
from netvm.net.tcp.state import TcpState

__all__ = ["Receipt", "TcpInfo", "TimerFact", "tcp_info"]


class Receipt(NamedTuple):
    """What one received segment meant."""

    acked_bytes: int = 0
    """Data newly acknowledged: sk_buffs below ``snd_una`` may be freed."""
    readable_bytes: int = 0
    """Data newly readable, with what had arrived ahead of it."""
    disposition: Disposition = Disposition.NONE
    window_opened: bool = False
    """The right edge of the peer's window moved."""
    established: bool = False
    fin: bool = False
    """The peer's data is complete: end of file after what is readable."""
    closed: bool = False
    """The connection is over; ``error`` says why, or None."""
    challenge: bool = False
    """The segment was unacceptable and is answered with an acknowledgement (RFC 9293 section 3.10.7.4, RFC 5961)."""


@unique
class TimerFact(Enum):
    """What an expired timer asks of the shell."""

    RETRANSMIT = "retransmit"
    PROBE = "probe"
    ACK = "ack"
    TIMED_OUT = "timed out"
    """The connection was given up: ``error`` is ETIMEDOUT."""
    CLOSED = "closed"


class TcpInfo(NamedTuple):
    """What ``ss -ti`` shows: ``struct tcp_info`` (``include/uapi/linux/tcp.h``)."""

    state: TcpState
    ca_state: CaState
    retransmits: int
    probes: int
    backoff: int
    rto_ns: int
    rtt_ns: int
    rttvar_ns: int
    snd_cwnd: int
    snd_ssthresh: int
    unacked: int
    sacked: int
    lost: int
    retrans: int
    snd_wnd_bytes: int
    rcv_wnd_bytes: int
    notsent_bytes: int
    timer: TimerKind | None


def tcp_info(state: TcpState, timer: TimerKind | None, sender: Sender, receiver: Receiver) -> TcpInfo:
    """Return the row of one endpoint (``net/ipv4/tcp.c:tcp_get_info``)."""
    recovery = sender.recovery
    rtx = sender.rtx
    return TcpInfo(
        state=state,
        ca_state=recovery.ca_state,
        retransmits=sender.timer.retransmits,
        probes=sender.timer.probes_out,
        backoff=sender.timer.backoff,
        rto_ns=sender.timer.rto_ns,
        rtt_ns=sender.rtt.srtt_ns,
        rttvar_ns=sender.rtt.rttvar_ns,
        snd_cwnd=recovery.cc.cwnd,
        snd_ssthresh=recovery.cc.ssthresh,
        unacked=rtx.packets_out,
        sacked=rtx.sacked_out,
        lost=rtx.lost_out,
        retrans=rtx.retrans_out,
        snd_wnd_bytes=sender.snd_wnd_bytes,
        rcv_wnd_bytes=receiver.rcv_wnd_bytes,
        notsent_bytes=max(sender.queue.write_seq - sender.snd_nxt, 0),
        timer=timer,
    )
