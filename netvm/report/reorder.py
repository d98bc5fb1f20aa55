"""Records in order of time, whatever order the text had.

The kernel merges its CPUs' buffers by time when it prints them, but a recording may have been put together otherwise:
one CPU after the other, or cut and joined. A window of :data:`WINDOW` records is kept and sorted (stably: what is
equally old stays as it stood), and its older half handed on. What was out of place is counted; what comes so late
that its place has gone by is counted too, and handed on all the same: it is then the pairing of its task's events that
decides whether it is of use.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from netvm.trace.records import Losses, RecordArray

__all__ = ["WINDOW", "in_order"]

WINDOW: Final = 1 << 18
"""Records that are held back while there is disorder."""


def in_order(batches: Iterator[RecordArray], losses: Losses) -> Iterator[RecordArray]:
    """Generate the records of ``batches`` in order of time as far as a window allows."""
    held: deque[RecordArray] = deque()
    nr_held = 0
    sorted_already = True
    newest_ns = told_ns = -(2**63)
    for batch in batches:
        if not len(batch):
            continue
        times = batch["time_ns"]
        peak = np.maximum(np.maximum.accumulate(times), newest_ns)
        disorder = int(times[0] < newest_ns) + int(np.count_nonzero(times[1:] < peak[:-1]))
        losses.reordered += disorder
        sorted_already &= not disorder
        newest_ns = int(peak[-1])
        held.append(batch)
        nr_held += len(batch)
        while nr_held >= WINDOW:
            if not sorted_already:
                merged = _sorted(held)
                half = len(merged) // 2
                held = deque([merged[:half], merged[half:]])
                sorted_already = True
            oldest = held.popleft()
            nr_held -= len(oldest)
            losses.late += int(np.count_nonzero(oldest["time_ns"] < told_ns))
            told_ns = max(told_ns, int(oldest["time_ns"].max()))
            yield oldest
    rest = list(held) if sorted_already else [_sorted(held)]
    for batch in rest:
        losses.late += int(np.count_nonzero(batch["time_ns"] < told_ns))
        told_ns = max(told_ns, int(batch["time_ns"].max()))
        yield batch


def _sorted(held: Iterable[RecordArray]) -> RecordArray:
    merged = np.concatenate(list(held))
    return merged[np.argsort(merged["time_ns"], kind="stable")]
