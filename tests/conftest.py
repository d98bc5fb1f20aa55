"""What tests of several rooms share."""

import tomllib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import Outcome
from netvm.scenario.run import run_scenario
from netvm.trace.recorder import DEFAULT_GROUPS, Recorder
from netvm.trace.records import RecordArray

Recording = tuple[Outcome, Recorder, RecordArray]


@pytest.fixture
def recorded_run() -> Callable[..., Recording]:
    """A function that runs a scenario's text with a recorder; returns how it ended, the recorder and its records.

    With ``alone=True`` it is run once more without one, and that makes no difference.
    """

    def run(text: str, groups: Sequence[str] = DEFAULT_GROUPS, *, alone: bool = False) -> Recording:
        scenario = scenario_from(tomllib.loads(text), origin="test")
        recorders: list[Recorder] = []

        def tracer(world: World) -> Recorder:
            recorders.append(Recorder(world, groups=groups))
            return recorders[0]

        outcome = run_scenario(scenario, name="test", tracer=tracer)
        if alone:
            assert outcome == run_scenario(scenario, name="test")
        return outcome, recorders[0], np.concatenate(recorders[0].batches())

    return run
