"""A recorded run, held against the run's own counters."""

import tomllib
from collections import Counter

import numpy as np

from netvm.host.tracing import DROP_COUNTERS
from netvm.report.profile import Profiler
from netvm.report.reorder import in_order
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.scenario.run import run_scenario
from netvm.trace.recorder import FULL_GROUPS, Recorder
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


def test_the_tracepoints_agree_with_the_counters() -> None:
    """What is recorded is what /proc/vmstat counted, and recording changes nothing of the run."""
    scenario = scenario_from(tomllib.loads(_SCENARIO), origin="test")
    recorders: list[Recorder] = []

    def tracer(world: World) -> Recorder:
        recorders.append(Recorder(world))
        return recorders[0]

    outcome = run_scenario(scenario, name="test", tracer=tracer)
    assert outcome == run_scenario(scenario, name="test")
    (recorder,) = recorders
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


def test_every_page_is_seen() -> None:
    """With all groups on, each page that a program faulted in was seen to be allocated, and the run is the same."""
    scenario = scenario_from(tomllib.loads(_SCENARIO), origin="test")
    recorders: list[Recorder] = []

    def tracer(world: World) -> Recorder:
        recorders.append(Recorder(world, groups=FULL_GROUPS))
        return recorders[0]

    outcome = run_scenario(scenario, name="test", tracer=tracer)
    assert outcome == run_scenario(scenario, name="test")
    records = np.concatenate(recorders[0].batches())
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
