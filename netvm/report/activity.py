"""What else a recording shows beside waits: events that only count.

Packets dropped by reason, segments sent again, sockets that were refused memory, tasks killed and reaped, work items.
"""

from typing import Final

import msgspec
import numpy as np

from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import BY_NAME, TRACEPOINTS

__all__ = ["Activity", "ActivityMeter"]

_BY_REASON: Final = {
    "drops": (BY_NAME["skb_drop"].number, 0, 1),
    "kfree_skb": (BY_NAME["kfree_skb"].number, 3, -1),
    "buffer_limit": (BY_NAME["sock_exceed_buf_limit"].number, 8, -1),
    "retransmits": (BY_NAME["tcp_retransmit_skb"].number, 9, -1),
    "work_queued": (BY_NAME["workqueue_queue_work"].number, 1, -1),
}
"""By what is counted: the event, the argument that says why, and the one that says how many (-1: one)."""


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """Counts, most first."""

    drops: dict[str, int] = {}
    """Packets lost on this host, by the counter that counts them."""
    kfree_skb: dict[str, int] = {}
    """By the kernel's reason."""
    buffer_limit: dict[str, int] = {}
    """``sock_exceed_buf_limit``: by what the socket was to do."""
    retransmits: dict[str, int] = {}
    """``tcp_retransmit_skb``: by the state of the connection."""
    work_queued: dict[str, int] = {}
    """``workqueue_queue_work``: by function."""
    oom_kills: int = 0
    oom_reaped: int = 0


class ActivityMeter:
    """Counts the events of one recording."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self._counts: dict[str, dict[int, int]] = {what: {} for what in _BY_REASON}
        self._events = np.zeros(len(TRACEPOINTS), dtype=np.int64)

    def add(self, records: RecordArray) -> None:
        """Take a batch."""
        self._events += np.bincount(records["event"], minlength=len(TRACEPOINTS))
        for what, (event, why, how_many) in _BY_REASON.items():
            args = records["args"][records["event"] == event]
            counts = self._counts[what]
            for reason in np.unique(args[:, why]).tolist():
                mine = args[args[:, why] == reason]
                nr = len(mine) if how_many < 0 else int(mine[:, how_many].sum())
                counts[reason] = counts.get(reason, 0) + nr

    def activity(self) -> Activity:
        """Return what was counted."""
        named = {
            what: {self.recorded.names[why]: nr for why, nr in sorted(counts.items(), key=lambda item: -item[1])}
            for what, counts in self._counts.items()
        }
        return Activity(
            **named,
            oom_kills=int(self._events[BY_NAME["mark_victim"].number]),
            oom_reaped=int(self._events[BY_NAME["finish_task_reaping"].number]),
        )
