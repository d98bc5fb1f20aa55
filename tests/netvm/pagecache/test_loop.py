"""A loop device: content goes through both layers, and its worker is held back as its kernel does."""

from typing import Any

import pytest

from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import Outcome
from netvm.scenario.run import Experiment, run_scenario


def _scenario(kernel: str, switches: dict[str, bool], *, below: str = "disk", **writer: Any) -> Any:
    data = {
        "kernel": {"preset": kernel, "fixes": switches},
        "machine": {"ram_mib": 48},
        "nic": {"kind": "loopback" if below == "disk" else "e1000"},
        "storage": {
            "kind": below,
            "role": "fs",
            "size_mib": 128,
            "loop_mib": 64,
            "disk": {"latency_us": 200, "bandwidth_bytes_per_s": 20_000_000},
        },
        "workload": [{"mib": 24} | writer],
    }
    return scenario_from(data, origin="test")


def _run(kernel: str, switches: dict[str, bool], **writer: Any) -> Outcome:
    outcome = run_scenario(_scenario(kernel, switches, **writer), name="test")
    assert outcome.audit == []
    return outcome


@pytest.mark.parametrize("below", ["disk", "nfs"])
def test_content_goes_down_and_comes_back(below: str) -> None:
    """A reader above gets what was written through the file below; every page was dirtied in both layers."""
    outcome = _run("6.1", {}, below=below, kind="file-reader", mib=8)
    assert outcome.verdict == "COMPLETED"
    assert outcome.vmstat["nr_dirtied"] == 2 * 8 * 256


def test_the_worker_is_marked_and_unmarked() -> None:
    """While it serves it carries the flags of its kernel's fixes, and none afterwards."""
    experiment = Experiment(_scenario("6.1", {"loop_noio": False}, kind="file-writer"), name="test")
    loop = experiment.host.files.fs
    assert loop is not None
    assert loop.name == "loop0"
    assert [device.name for device in experiment.host.files.throttle.devices] == ["vda", "loop0"]


@pytest.mark.slow
@pytest.mark.parametrize(("per_device", "verdict"), [(False, "HANG"), (True, "COMPLETED")])
def test_the_lower_layer_waits_for_the_upper_ones_dirt(per_device: bool, verdict: str) -> None:
    """Before limits were per device the worker waits for dirt that only it can clean; with them it does not."""
    switches = {"dirtyable_memory": True, "per_bdi_dirty_limits": per_device}
    outcome = _run("2.6.11", switches, kind="file-writer", mib=48)
    assert outcome.verdict == verdict
    told = "\n".join(outcome.explanation)
    assert ("the knot: fwriter" in told and "loop_workfn" in told) is not per_device


@pytest.mark.slow
@pytest.mark.parametrize(("marked", "verdict"), [(False, "STALL"), (True, "COMPLETED")])
def test_an_unmarked_worker_is_throttled_a_second_time(marked: bool, verdict: str) -> None:
    """It stands still until what it dirtied is old enough to be written; one that is marked does not."""
    outcome = _run("6.1", {"loop_less_throttle": marked}, kind="file-writer", mib=6, processes=4)
    assert outcome.verdict == verdict
    assert (outcome.virtual_seconds > 20) is not marked
