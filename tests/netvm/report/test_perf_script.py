"""perf script text."""

from netvm.report.perf_script import read_perf_script
from netvm.trace.records import Recorded
from netvm.trace.tracepoints import BY_NAME

_TEXT = b"""# captured on: Thu Jan  1 00:00:00 1970
     my prog  9  1234/1234  [003] 100.000001: 1 vmscan:mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_NOFS
        ffffffff81234567 try_to_free_pages+0x1 ([kernel.kallsyms])

         kswapd0    22 [000] 100.000002:     vmscan:mm_vmscan_kswapd_sleep: nid=0
     my prog  9  1234 [001] 100.000500000: mm_vmscan_direct_reclaim_end: nr_reclaimed=32
            swapper     0 [000] 100.000600: PERF_RECORD_LOST lost 24
     my prog  9  1234 [001] 100.000700: vmscan:mm_vmscan_direct_reclaim_end: nr_recl
"""


def test_events_stacks_and_losses() -> None:
    """Events are read with their group or without, stacks passed over, losses and broken lines counted."""
    for size in (7, 1 << 20):
        recorded = Recorded()
        batches = list(read_perf_script([_TEXT[at : at + size] for at in range(0, len(_TEXT), size)], recorded))
        (batch,) = batches
        assert [int(event) for event in batch["event"]] == [
            BY_NAME[name].number
            for name in ("mm_vmscan_direct_reclaim_begin", "mm_vmscan_kswapd_sleep", "mm_vmscan_direct_reclaim_end")
        ]
        assert batch["time_ns"].tolist() == [100_000_001_000, 100_000_002_000, 100_000_500_000]
        assert batch["cpu"].tolist() == [3, 0, 1]
        assert recorded.tasks.rows == [("my prog  9", 1234), ("kswapd0", 22)]
        assert (recorded.losses.lost, recorded.losses.skipped) == (24, 1)
