"""A recorded run, held against the run's own counters."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from netvm.host.tracing import DROP_COUNTERS
from netvm.report.profile import Profiler
from netvm.report.reorder import in_order
from netvm.trace.recorder import FULL_GROUPS
from netvm.trace.tracepoints import BY_NAME, TRACEPOINTS

_SCENARIO = """
[kernel]
preset = "6.1"
[machine]
ram_mib = 32
cpus = 1
[storage]
kind = "nbd"
[[workload]]
kind = "anon-hog"
mib = 36
passes = 1
"""


def test_the_tracepoints_agree_with_the_counters(recorded_run: Callable[..., Any]) -> None:
    """What is recorded is what /proc/vmstat counted, and recording changes nothing of the run."""
    outcome, recorder, _ = recorded_run(_SCENARIO, alone=True)
    profiler = Profiler(recorder.recorded)
    for batch in in_order(iter(recorder.batches()), recorder.recorded.losses):
        profiler.add(batch)
    profile = profiler.profile()
    vmstat = outcome.vmstat
    for who in ("kswapd", "direct"):
        assert profile.lru[who].scanned == vmstat[f"pgscan_{who}"] > 0
        assert profile.lru[who].reclaimed == vmstat[f"pgsteal_{who}"]
    latency = profile.direct_reclaim_latency_us
    assert latency.count == outcome.direct_reclaim_latency_us.count > 0
    assert latency.max == outcome.direct_reclaim_latency_us.max
    assert profile.kswapd.wakes == vmstat["pageoutrun"]
    requests = profile.latency_us["request"]
    assert requests.count > 0
    assert profile.latency_us["alloc_stall"].count > 0
    assert profile.counters["free"]["min"] < profile.counters["min"]["max"]
    for worst in profile.worst:
        assert abs(sum(link["us"] for link in worst.path) - worst.duration_us) < 0.01


def test_every_page_is_seen(recorded_run: Callable[..., Any]) -> None:
    """With all groups on, each page that a program faulted in was seen to be allocated, and the run is the same."""
    outcome, _, records = recorded_run(_SCENARIO, FULL_GROUPS, alone=True)
    pages = {
        name: int((1 << records["args"][records["event"] == BY_NAME[name].number, 2]).sum())
        for name in ("mm_page_alloc", "mm_page_free", "mm_page_free_batched")
    }
    assert pages["mm_page_alloc"] >= outcome.vmstat["pgfault"] - outcome.vmstat["pgmajfault"] > 0
    assert pages["mm_page_free_batched"] >= outcome.vmstat["pgsteal_direct"] + outcome.vmstat["pgsteal_kswapd"]


def test_drops_are_counters_of_the_kernel() -> None:
    """Every drop that is told has a name, and the tracepoint for it exists."""
    assert Counter(point.name for point in TRACEPOINTS)["skb_drop"] == 1
    assert "PFMemallocDrop" in DROP_COUNTERS
