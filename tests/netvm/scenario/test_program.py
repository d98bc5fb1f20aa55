"""A process of a workload starts when it is told to."""

from typing import Any

import pytest

from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment, run_virtual


@pytest.mark.parametrize("start_ms", [0, 250])
def test_a_program_begins_at_its_time(start_ms: int) -> None:
    """``begun_ns`` is ``start_ms`` after the scenario began."""
    hog: dict[str, Any] = {"kind": "anon-hog", "mib": 1, "start_ms": start_ms}
    data = {"storage": {"kind": "disk"}, "nic": {"kind": "loopback"}, "workload": [hog]}
    experiment = Experiment(scenario_from(data, origin="test"), name="test")
    run_virtual(experiment.run)
    (program,) = experiment.programs
    begun_ns = program.begun_ns - (program.ended_ns - round(experiment.progress().virtual_seconds * 1e9))
    assert program.finished
    assert begun_ns == start_ms * 1_000_000
