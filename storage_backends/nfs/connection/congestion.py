"""How many calls may be out over UDP: a window after Van Jacobson (net/sunrpc/xprt.c).

Mirrors ``__xprt_get_cong``, ``__xprt_put_cong`` and ``xprt_adjust_cwnd``. A call takes one unit, RPC_CWNDSCALE, of the
window from when it is sent to when it is answered or has timed out. The window begins at one call, grows by one in the
time that a window of calls is answered, up to the slot table, and is halved by a time-out, down to one call.
"""

from typing import Final

__all__ = ["RPC_CWNDSCALE", "CongestionWindow"]

RPC_CWNDSCALE: Final = 256
RPC_INITCWND: Final = RPC_CWNDSCALE


class CongestionWindow:
    """``cwnd`` and ``cong`` of a transport."""

    __slots__ = ("_holders", "cwnd", "max_cwnd")

    def __init__(self, max_calls: int) -> None:
        self.cwnd = RPC_INITCWND
        self.max_cwnd = max_calls * RPC_CWNDSCALE
        # invariant: the calls that have their unit (rq_cong), in the order they got it
        self._holders: dict[int, None] = {}

    @property
    def cong(self) -> int:
        """What is taken of the window."""
        return len(self._holders) * RPC_CWNDSCALE

    @property
    def is_full(self) -> bool:
        """RPCXPRT_CONGESTED."""
        return self.cong >= self.cwnd

    def get(self, xid: int) -> bool:
        """Have a call's unit, unless the window is full."""
        if xid not in self._holders:
            if self.is_full:
                return False
            self._holders[xid] = None
        return True

    def answered(self, xid: int) -> None:
        """Take a call's answer: a window that is in use grows."""
        if self.cwnd <= self.cong:
            self.cwnd += (RPC_CWNDSCALE * RPC_CWNDSCALE + (self.cwnd >> 1)) // self.cwnd
            self.cwnd = min(self.cwnd, self.max_cwnd)
        self._holders.pop(xid, None)

    def put(self, xid: int) -> None:
        """Give a call's unit back if it still has one."""
        self._holders.pop(xid, None)

    def timed_out(self, xid: int) -> None:
        """Take a call's time-out: the window is halved."""
        self.cwnd = max(self.cwnd >> 1, RPC_CWNDSCALE)
        self._holders.pop(xid, None)
