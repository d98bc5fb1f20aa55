"""One run of the abstract machine, as `netvm run` would make it."""

import pytest

from netvm.errors import UsageError
from netvm.scenario.catalog import find
from netvm.scenario.load import load_scenario, scenario_from
from netvm.scenario.run import run_scenario


def test_a_safe_machine_completes_its_budget() -> None:
    """The user goes on for ever: to be alive when the budget is spent is to have completed."""
    scenario = load_scenario(find("abstract/reserve")[0].path)
    outcome = run_scenario(scenario, name="abstract/reserve")
    assert outcome.verdict == "COMPLETED"
    assert outcome.as_expected
    assert outcome.reserve.peak_used > 0


def test_a_machine_without_a_reserve_hangs_and_says_why() -> None:
    """Frames by owner, who waits for what, and the knot that starts at the user."""
    outcome = run_scenario(scenario_from({"abstract": {"reserve": 0, "drop": False}}, origin="x"), name="x")
    assert outcome.verdict == "HANG"
    text = "\n".join(outcome.explanation)
    assert "no actor can step" in text
    assert "user waits for a frame above the reserve" in text
    assert "the knot: user -> [a frame above the reserve]" in text


def test_what_goes_round_is_a_livelock() -> None:
    """Bystanders come and are dropped, and the user gets nothing."""
    scenario = scenario_from({"abstract": {"writebacks": 0}, "run": {"max_steps": 1500}}, origin="x")
    outcome = run_scenario(scenario, name="x")
    assert outcome.verdict == "LIVELOCK"
    assert "1000 steps without a frame for the user" in outcome.explanation[0]


def test_a_reserve_larger_than_the_machine_is_refused() -> None:
    """The message names both keys."""
    with pytest.raises(UsageError, match=r"abstract\.reserve = 9: must be at most abstract\.frames = 8"):
        scenario_from({"abstract": {"reserve": 9}}, origin="x")
