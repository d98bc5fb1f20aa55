"""A process of a workload starts when it is told to."""

from typing import Any

import pytest

from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment


@pytest.mark.parametrize("start_ms", [0, 250])
def test_a_program_begins_at_its_time(start_ms: int) -> None:
    """``begun_ns`` is ``start_ms`` after the scenario began."""
    hog: dict[str, Any] = {"kind": "anon-hog", "mib": 1, "start_ms": start_ms}
    data = {
        "machine": {"costs": {"scale": 0.0}},
        "storage": {"kind": "disk"},
        "nic": {"kind": "loopback"},
        "workload": [hog],
    }
    experiment = Experiment(scenario_from(data, origin="test"), name="test")
    run_virtual(experiment.run)
    (program,) = experiment.programs
    assert program.finished
    assert program.begun_ns - experiment._begun_ns == start_ms * 1_000_000
