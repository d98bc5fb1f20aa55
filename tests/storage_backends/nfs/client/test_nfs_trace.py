"""The tracepoints of NFS and RPC: every call has its beginning and its end, and what it took adds up."""

from collections.abc import Callable
from typing import Any

import numpy as np

from netvm.trace.tracepoints import BY_NAME
from netvm.units import PAGE_SIZE

_SCENARIO = """
[kernel]
preset = "6.1"
[machine]
ram_mib = 32
cpus = 1
[link]
bandwidth_bytes_per_s = 20000000
[storage]
kind = "nfs"
role = "fs"
size_mib = 32
[[workload]]
kind = "file-writer"
mib = 8
"""


def test_calls_are_paired(recorded_run: Callable[..., Any]) -> None:
    """Of every call of NFS its beginning, its end, its transmission and its reply are told."""
    outcome, _, records = recorded_run(_SCENARIO, ("nfs", "sunrpc", "netvm"), alone=True)

    def args(name: str) -> np.ndarray:
        return records["args"][records["event"] == BY_NAME[name].number]

    for begin, end in (("write", "writeback"), ("commit", "commit")):
        begun, done = args(f"nfs_initiate_{begin}"), args(f"nfs_{end}_done")
        assert len(begun) == len(done) > 0
        # file, handle and offset name the call
        assert sorted(map(tuple, begun[:, 2:5].tolist())) == sorted(map(tuple, done[:, 3:6].tolist()))
    written = args("nfs_writeback_done")
    assert written[:, 7].sum() == outcome.vmstat["nr_written"] * PAGE_SIZE
    over = args("rpc_stats_latency")
    assert sorted(over[:, 0].tolist()) == sorted(args("rpc_request")[:, 0].tolist())
    assert (over[:, 6] + over[:, 7] <= over[:, 8] + 2).all(), "queue and wire are parts of the whole"
    assert set(over[:, 2].tolist()) == set(args("xprt_lookup_rqst")[:, 2].tolist())
    assert set(over[:, 2].tolist()) <= set(args("xprt_transmit")[:, 2].tolist())
    assert len(args("rpc_task_sleep")) == len(args("rpc_task_wakeup")) > 0
    for nospace in args("rpc_socket_nospace").tolist():
        assert 0 < nospace[3] <= nospace[2]
