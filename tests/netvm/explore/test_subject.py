"""A subject runs one schedule, judges it, and lets a user's policy in."""

from collections.abc import Callable

from netvm.explore.oracles import SteeredOracle
from netvm.explore.properties import Explorable
from netvm.explore.subject import Subject
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.catalog import find
from netvm.scenario.load import load_scenario


def test_a_schedule_is_run_and_judged(machine: Callable[..., Subject]) -> None:
    """The tape is what was chosen, and the broken property is named."""
    schedule = machine(frames=2, reserve=0, writebacks=1).run(SteeredOracle([]))
    assert schedule.tape == schedule.experiment.world.choices
    assert schedule.broken is not None
    assert schedule.broken.what.startswith("HANG")


def test_a_policy_is_replaced_before_the_run(machine: Callable[..., Subject]) -> None:
    """What replaces a policy sees the machine before anything has happened."""
    seen: list[int] = []

    def replace(run: Explorable) -> None:
        assert isinstance(run, AbstractExperiment)
        seen.append(run.world.nr_steps)
        run.machine.zone.watermark = [0, 0, 0]

    base = machine(frames=6, reserve=3, writebacks=1, bystanders=0)
    assert base.run(SteeredOracle([])).broken is None
    own = Subject(scenario=base.scenario, name="own", replace=replace)
    assert own.run(SteeredOracle([])).broken is not None
    assert seen == [0]


def test_mishaps_are_each_runs_own(machine: Callable[..., Subject]) -> None:
    """A run may use up its mishaps; the next has all of them again."""
    subject = Subject(scenario=machine().scenario, name="x", mishaps={"packet": 1})
    first = subject.experiment(SteeredOracle([1]))
    assert first.world.mishap("packet", 2) == 1
    assert first.world.mishap("packet", 2) == 0
    assert subject.experiment(SteeredOracle([])).world.mishaps == {"packet": 1}


def test_a_calm_boot_is_no_choice() -> None:
    """Of the smallest host the tape begins with the program: what twelve threads do at boot is not in it."""
    scenario = load_scenario(find("tiny/nbd")[0].path)
    subjects = [Subject(scenario=scenario, name="tiny", calm_boot=calm_boot) for calm_boot in (False, True)]
    whole, calm = (subject.run(SteeredOracle(())) for subject in subjects)
    assert whole.experiment.verdict() == calm.experiment.verdict() == "COMPLETED"
    assert whole.tape[-len(calm.tape) :] == calm.tape
    assert len(whole.tape) - len(calm.tape) > 8
    assert whole.experiment.world.nr_steps == calm.experiment.world.nr_steps
