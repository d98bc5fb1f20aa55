"""Writeback's tracepoints, held against the run's own counters."""

from collections.abc import Callable
from typing import Any

import numpy as np

from netvm.trace.tracepoints import BY_NAME

_SCENARIO = """
[kernel]
preset = "6.1"
[machine]
ram_mib = 32
cpus = 1
[link]
bandwidth_bytes_per_s = 20000000
[storage]
kind = "nbd"
role = "fs"
size_mib = 32
[[workload]]
kind = "file-writer"
mib = 12
"""


def test_they_agree_with_the_counters(recorded_run: Callable[..., Any]) -> None:
    """Every page written is told once, every round that begins ends, and pauses are those of the throttle."""
    outcome, _, records = recorded_run(_SCENARIO, ("writeback", "netvm"), alone=True)

    def args(name: str) -> np.ndarray:
        return records["args"][records["event"] == BY_NAME[name].number]

    written = args("pages_written")
    assert written[:, 2].sum() == outcome.vmstat["nr_written"] > 0
    # how long it was dirty is at least how long it was under writeback, and that took the wire some time
    assert (written[:, 3] >= written[:, 4]).all()
    assert (written[:, 4] > 0).all()
    assert len(args("writeback_start")) == len(args("writeback_written")) > 0
    chunks = args("writeback_single_inode")
    assert len(chunks) == len(args("writeback_single_inode_start")) > 0
    # the rest is fsync's
    assert 0 < chunks[:, 7].sum() <= outcome.vmstat["nr_written"]
    assert len(args("writeback_dirty_inode")) >= 1
    looks = args("balance_dirty_pages")
    assert (looks[:, 11] > 0).any()
    assert (looks[:, 3] <= looks[:, 1] + looks[:, 8]).all(), "dirty pages stay about the limit"
    state = args("global_dirty_state")
    assert (np.diff(state[:, 6]) >= 0).all(), "pages written only grow"
