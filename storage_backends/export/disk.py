"""How long the medium behind an export takes: a queueing model that turns a request into the instant it is done.

Two shapes cover what a swap server is measured to be.

``in_order=True`` is one shared link served first come, first served: a request's payload moves at
``bandwidth_bytes_per_s`` once the payloads before it have moved, and is done ``latency_ns`` after that. Latency is
pipelined, so it does not lower throughput, and completions come in the order of submission.

``in_order=False`` is a disk with ``queue_depth`` independent servers: each takes the oldest waiting request and is busy
for ``latency_ns`` plus its payload at the rate. A small request may overtake a large one. Each server moves data at the
full rate: for a rate that is shared, use the link.

Either way at most ``queue_depth`` requests are inside; one more starts when the first of them is done.

The model keeps no requests, only instants. :meth:`DiskModel.submit` answers at once, so the caller arms one timer. A
stall is the freeze of a failover: no new request starts before its end, and a request inside completes at the end of
the stall if it was due earlier. :meth:`DiskModel.due_ns` tells a timer armed before the stall how much longer to wait.
"""

from collections import deque
from heapq import heapreplace

__all__ = ["DiskModel"]

_NS_PER_S = 1_000_000_000


class DiskModel:
    """The instants at which one disk's link and the places in its queue become free."""

    __slots__ = (
        "_bandwidth_bytes_per_s",
        "_latency_ns",
        "_link_free_ns",
        "_places_free_ns",
        "_submitted_ns",
        "stalled_until_ns",
    )

    def __init__(
        self,
        *,
        latency_ns: int = 0,
        bandwidth_bytes_per_s: int = 0,
        queue_depth: int = 32,
        in_order: bool = True,
    ) -> None:
        """Make a disk at rest; a bandwidth of 0 is infinite. Raises ValueError for a value no disk has."""
        if latency_ns < 0:
            raise ValueError(f"latency_ns {latency_ns} is negative")
        if bandwidth_bytes_per_s < 0:
            raise ValueError(f"bandwidth_bytes_per_s {bandwidth_bytes_per_s} is negative")
        if queue_depth < 1:
            raise ValueError(f"queue_depth {queue_depth} is less than 1")
        self._latency_ns = latency_ns
        self._bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self._link_free_ns = 0
        # invariant: queue_depth instants, the earliest first: a deque of a link (sorted), a heap of servers
        self._places_free_ns = deque([0] * queue_depth) if in_order else [0] * queue_depth
        # invariant: the latest submission; requests arrive in the order of time
        self._submitted_ns = 0
        self.stalled_until_ns = 0

    def submit(self, size_bytes: int, now_ns: int) -> int:
        """Take a request and return the instant it is done."""
        assert size_bytes >= 0
        assert now_ns >= self._submitted_ns, f"submitted at {now_ns} ns, after a request at {self._submitted_ns} ns"
        self._submitted_ns = now_ns
        places = self._places_free_ns
        start_ns = max(now_ns, places[0], self.stalled_until_ns)
        if isinstance(places, deque):
            self._link_free_ns = max(start_ns, self._link_free_ns) + self._transfer_ns(size_bytes)
            done_ns = self._link_free_ns + self._latency_ns
            places.popleft()
            places.append(done_ns)
        else:
            done_ns = start_ns + self._transfer_ns(size_bytes) + self._latency_ns
            heapreplace(places, done_ns)
        return done_ns

    def stall(self, until_ns: int) -> None:
        """Let nothing start or complete before ``until_ns``; a shorter stall inside a longer one changes nothing."""
        self.stalled_until_ns = max(self.stalled_until_ns, until_ns)

    def due_ns(self, done_ns: int) -> int:
        """Return when a request promised for ``done_ns`` is really done, given the stalls since."""
        return max(done_ns, self.stalled_until_ns)

    def _transfer_ns(self, size_bytes: int) -> int:
        """Return how long the payload moves, rounded up to whole nanoseconds."""
        rate = self._bandwidth_bytes_per_s
        return -(-size_bytes * _NS_PER_S // rate) if rate else 0
