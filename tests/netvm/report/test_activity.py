"""Events that only count."""

import numpy as np

from netvm.report.activity import ActivityMeter
from netvm.trace.records import RECORD, Recorded
from netvm.trace.tracepoints import BY_NAME


def test_events_are_counted_by_reason() -> None:
    """Drops count packets, the others events; most first."""
    recorded = Recorded()
    name = recorded.names.intern
    rows = [
        ("skb_drop", (name("rx_dropped"), 3)),
        ("skb_drop", (name("PFMemallocDrop"), 5)),
        ("skb_drop", (name("rx_dropped"), 4)),
        ("kfree_skb", (-1, 0x800, -1, name("PFMEMALLOC"))),
        ("mark_victim", (12,)),
        ("finish_task_reaping", (12,)),
        ("workqueue_queue_work", (-1, name("wb_workfn"), name("writeback"), 0, 0)),
    ]
    records = np.zeros(len(rows), dtype=RECORD)
    for record, (event, args) in zip(records, rows, strict=True):
        record["event"] = BY_NAME[event].number
        record["args"][: len(args)] = args
    meter = ActivityMeter(recorded)
    meter.add(records[:3])
    meter.add(records[3:])
    activity = meter.activity()
    assert list(activity.drops.items()) == [("rx_dropped", 7), ("PFMemallocDrop", 5)]
    assert activity.kfree_skb == {"PFMEMALLOC": 1}
    assert activity.work_queued == {"wb_workfn": 1}
    assert (activity.oom_kills, activity.oom_reaped, activity.retransmits) == (1, 1, {})
