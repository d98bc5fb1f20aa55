"""The abstract machine's actors do what docs/reserve.md says."""

from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.explore.oracles import RandomWalk
from netvm.explore.subject import Subject
from netvm.runtime.seeds import Seeds
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.load import scenario_from


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(0, 8),
    st.integers(0, 3),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.integers(0),
)
def test_frames_add_up_at_every_step(
    frames: int, reserve: int, writebacks: int, bystanders: int, priority: bool, drop: bool, seed: int
) -> None:
    """Every frame is free or somebody's, the parked are within bounds, and the user leaves the reserve alone."""
    keys = {
        "frames": frames,
        "reserve": min(reserve, frames),
        "writebacks": writebacks,
        "bystanders": bystanders,
        "priority": priority,
        "drop": drop,
    }
    scenario = scenario_from({"abstract": keys, "run": {"max_steps": 100}}, origin="test")
    run = Subject(scenario=scenario, name="x").experiment(RandomWalk(Seeds(seed % 2**32).stream("walk")))
    assert isinstance(run, AbstractExperiment)
    machine = run.machine

    def look(nr_candidates: int) -> None:
        dirty, taken, sent, acked, parked = machine.fingerprint()
        assert dirty + taken + 2 * (sent + acked) + parked + machine.zone.nr_free == frames
        assert parked <= (0 if drop else bystanders)
        assert taken + sent + acked <= writebacks
        assert dirty + taken + sent + acked <= frames - machine.options.reserve
        if not priority:
            assert machine.zone.nr_free >= machine.options.reserve
            assert not machine.ledger.reserve_used
        assert run.audit() == []
        run.picking(nr_candidates)

    run.world.picking = look
    run.world.run_directly(run.main)  # type: ignore[attr-defined]  # a subject's worlds are direct ones
