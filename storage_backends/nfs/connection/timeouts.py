"""When a call that is not answered is sent again, and when the operator is told (net/sunrpc/xprt.c, timer.c).

Mirrors ``struct rpc_timeout``, ``xprt_adjust_timeout`` and ``xprt_calc_majortimeo`` of 6.1. A call waits ``initval``;
each *minor* time-out sends it again and makes the next wait longer, by a fixed increment on TCP and by doubling on
UDP, up to ``maxval``. Once ``retries`` of them have passed it is a *major* one: on a hard mount the kernel log says
``not responding, still trying`` and everything begins again with the first wait.

On UDP the first wait is not ``initval`` but what the answers to calls of that kind took lately, after Van Jacobson
(:class:`RttEstimator`), doubled for every try that was in vain. A call that was sent more than once tells nothing of
the time an answer takes (Karn), only how often such calls had to be sent.
"""

from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["TCP_TIMEOUT", "UDP_TIMEOUT", "Expiry", "RetransmitTimer", "RpcTimeout", "RttEstimator"]

_DECISECOND_NS = 100_000_000
RPC_RTO_MAX_NS = 60_000_000_000
RPC_RTO_INIT_NS = 200_000_000
RPC_RTO_MIN_NS = 100_000_000
MAX_NTIMEOUTS = 8
_TIMERS = {"GETATTR": 1, "ACCESS": 1, "LOOKUP": 2, "READ": 3, "WRITE": 4, "COMMIT": 5}
"""``p_timer`` of NFSv3's procedures: kinds whose answers take alike. The others go by ``initval`` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcTimeout:
    """``struct rpc_timeout``."""

    initval_ns: int
    increment_ns: int
    maxval_ns: int
    retries: int
    exponential: bool

    @classmethod
    def of_mount(cls, timeo_ds: int, retrans: int, *, exponential: bool) -> "RpcTimeout":
        """Return what the options ``timeo`` (tenths of a second) and ``retrans`` mean (nfs_init_timeout_values)."""
        initval_ns = timeo_ds * _DECISECOND_NS
        if exponential:
            return cls(
                initval_ns=initval_ns,
                increment_ns=initval_ns,
                maxval_ns=60_000_000_000,
                retries=retrans,
                exponential=True,
            )
        return cls(
            initval_ns=initval_ns,
            increment_ns=initval_ns,
            maxval_ns=max(initval_ns, min(initval_ns * (1 + retrans), 600_000_000_000)),
            retries=retrans,
            exponential=False,
        )

    @property
    def major_ns(self) -> int:
        """How long all tries together take (xprt_calc_majortimeo)."""
        if self.exponential:
            return min(self.initval_ns << self.retries, self.maxval_ns)
        return min(self.initval_ns + self.increment_ns * self.retries, self.maxval_ns)


TCP_TIMEOUT = RpcTimeout.of_mount(600, 2, exponential=False)
"""timeo=600,retrans=2: the defaults of TCP, and of the recorded mounts."""
UDP_TIMEOUT = RpcTimeout.of_mount(11, 3, exponential=True)
"""timeo=11,retrans=3: the defaults of UDP."""


class Expiry(Enum):
    """What kind of time-out it was."""

    MINOR = auto()
    MAJOR = auto()


class RetransmitTimer:
    """The waits of one call."""

    __slots__ = ("_major_at_ns", "_timeout", "_wait_ns", "deadline_ns", "nr_minor")

    def __init__(self, timeout: RpcTimeout, now_ns: int) -> None:
        self._timeout = timeout
        self.nr_minor = 0
        self._wait_ns = timeout.initval_ns
        self._major_at_ns = now_ns + timeout.major_ns
        self.deadline_ns = now_ns + self._wait_ns
        """When the call is to be looked at again."""

    def wait(self, now_ns: int, wait_ns: int) -> None:
        """Begin a wait of another length than the next one would have."""
        self.deadline_ns = now_ns + wait_ns

    def sent(self, now_ns: int) -> None:
        """Note that the call went out: the present wait begins now."""
        self.deadline_ns = now_ns + self._wait_ns

    def expired(self, now_ns: int) -> Expiry:
        """Step to the next wait, which begins now (xprt_adjust_timeout)."""
        assert now_ns >= self.deadline_ns
        timeout = self._timeout
        if now_ns < self._major_at_ns:
            longer = self._wait_ns << 1 if timeout.exponential else self._wait_ns + timeout.increment_ns
            self._wait_ns = min(longer, timeout.maxval_ns)
            self.nr_minor += 1
            found = Expiry.MINOR
        else:
            self._wait_ns = timeout.initval_ns
            self._major_at_ns = now_ns + timeout.major_ns
            self.nr_minor = 0
            found = Expiry.MAJOR
        self.deadline_ns = now_ns + self._wait_ns
        return found


class RttEstimator:
    """``struct rpc_rtt``: how long answers take, by the kind of the call."""

    __slots__ = ("_nr_timeouts", "_sdrtt_ns", "_srtt_ns", "_timeout")

    def __init__(self, timeout: RpcTimeout) -> None:
        self._timeout = timeout
        self.reset()

    def reset(self) -> None:
        """Know nothing (rpc_init_rtt): the first wait is ``initval``."""
        nr = max(_TIMERS.values()) + 1
        # srtt in eighths and sdrtt in quarters, as both are kept by Jacobson
        self._srtt_ns = [max(0, self._timeout.initval_ns - RPC_RTO_INIT_NS) << 3] * nr
        self._sdrtt_ns = [RPC_RTO_INIT_NS] * nr
        self._nr_timeouts = [0] * nr

    def wait_ns(self, procedure: str, nr_retries: int) -> int:
        """Return how long to wait for an answer (xprt_set_retrans_timeout_rtt)."""
        timer = _TIMERS.get(procedure, 0)
        if timer:
            rto_ns = min((self._srtt_ns[timer] + 7 >> 3) + self._sdrtt_ns[timer], RPC_RTO_MAX_NS)
        else:
            rto_ns = self._timeout.initval_ns
        return min(rto_ns << self._nr_timeouts[timer] + nr_retries, self._timeout.maxval_ns)

    def answered(self, procedure: str, rtt_ns: int, nr_sent: int) -> None:
        """Learn from an answer (rpc_update_rtt, rpc_set_timeo)."""
        timer = _TIMERS.get(procedure, 0)
        if not timer:
            return
        if nr_sent == 1:
            error_ns = max(rtt_ns, 1) - (self._srtt_ns[timer] >> 3)
            self._srtt_ns[timer] += error_ns
            self._sdrtt_ns[timer] += abs(error_ns) - (self._sdrtt_ns[timer] >> 2)
            self._sdrtt_ns[timer] = max(self._sdrtt_ns[timer], RPC_RTO_MIN_NS)
        self._nr_timeouts[timer] = min(nr_sent - 1, MAX_NTIMEOUTS)
