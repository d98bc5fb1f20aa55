"""The timer of a connection: retransmission, probe, delayed acknowledgement, whichever is due first.

Mirrors the use of ``sk_reset_timer`` in net/ipv4/tcp_timer.c. The connection (:mod:`netvm.net.tcp`) says when; this
keeps one event on the virtual-time heap, moved forward when something is due earlier and left alone when later: a
timer that fires too soon looks again. The timer of a socket whose lock a task holds is deferred.
"""

from collections.abc import Callable
from typing import Final

from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.world import World
from netvm.units import JIFFY_NS

__all__ = ["TcpTimer"]

OWNED_RETRY_NS: Final = 10 * JIFFY_NS
"""When to look again at a socket that is owned.

# MODEL: the kernel marks the timer deferred, and release_sock() runs it.
"""


class TcpTimer:
    """One event that follows a connection's deadline."""

    __slots__ = ("_deadline_ns", "_expire", "_is_owned", "_site", "_timer", "_world")

    def __init__(
        self,
        world: World,
        name: str,
        *,
        deadline_ns: Callable[[], int | None],
        expire: Callable[[], None],
        is_owned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._world = world
        self._site = f"{name}: TCP timer"
        self._deadline_ns = deadline_ns
        self._expire = expire
        self._is_owned = is_owned
        self._timer: TimerHandle | None = None

    def arm(self) -> None:
        """Follow the connection's deadline, if there is one."""
        self.follow(self._deadline_ns())

    def follow(self, deadline_ns: int | None) -> None:
        """Do so where the caller has just asked for it."""
        if deadline_ns is None:
            return
        timer = self._timer
        # only what is armed here is kept, so it is pending
        if timer is not None and timer[0] <= deadline_ns:
            return
        # the deadline is some whole jiffies from when it was set, so its tick is the one before it
        now_ns = self._world.now_ns
        nr_jiffies = max(deadline_ns // JIFFY_NS - now_ns // JIFFY_NS, 0)
        at_ns = now_ns + self._world.wheel_ns(nr_jiffies * JIFFY_NS)
        if timer is not None:
            if timer[0] <= at_ns:
                return
            self._world.cancel(timer)
        self._call_at(at_ns)

    def cancel(self) -> None:
        """Forget the event."""
        if self._timer is not None:
            self._world.cancel(self._timer)
            self._timer = None

    def _call_at(self, at_ns: int) -> None:
        self._timer = self._world.call_at(at_ns, self._fired, kind=TimerKind.RETRY, site=self._site)

    def _fired(self) -> None:
        self._timer = None
        deadline_ns = self._deadline_ns()
        if deadline_ns is None:
            return
        if deadline_ns > self._world.now_ns:
            self.arm()
        elif self._is_owned():
            self._call_at(self._world.now_ns + self._world.wheel_ns(OWNED_RETRY_NS))
        else:
            self._expire()
