"""When silence becomes a failure: the rule of iscsi_check_transport_timeouts (drivers/scsi/libiscsi.c).

After ``interval_ns`` without a byte received the target is pinged. Any byte ends the silence, the answer to the ping or
not; but if a ping is out and the silence has lasted ``interval_ns`` plus ``timeout_ns``, the connection has failed. So
traffic that flows needs no pings, and a target that answers everything but the ping is alive.
"""

from enum import Enum, auto

__all__ = ["Liveness", "Verdict"]


class Verdict(Enum):
    """What a timer that fires asks for."""

    WAIT = auto()
    PING = auto()
    DEAD = auto()


class Liveness:
    """One connection's silence."""

    __slots__ = ("_interval_ns", "_timeout_ns", "last_recv_ns", "ping_itt")

    def __init__(self, *, interval_ns: int, timeout_ns: int, now_ns: int) -> None:
        self._interval_ns = interval_ns
        self._timeout_ns = timeout_ns
        self.last_recv_ns = now_ns
        # invariant: the task tag of the ping that is out
        self.ping_itt: int | None = None

    @property
    def timer_ns(self) -> int | None:
        """When to look again; None if the interval is 0, which is never."""
        if not self._interval_ns:
            return None
        return self.last_recv_ns + self._interval_ns + (0 if self.ping_itt is None else self._timeout_ns)

    def check(self, now_ns: int) -> Verdict:
        """Return what the silence so far asks for."""
        timer_ns = self.timer_ns
        if timer_ns is None or now_ns < timer_ns:
            return Verdict.WAIT
        return Verdict.PING if self.ping_itt is None else Verdict.DEAD
