"""The reclaim-order checker flags the broken arm of the exhibits it can see, from a calm run, and not the fixed one."""

import re

import pytest

from netvm.errors import UsageError
from netvm.explore.order import OrderReport, check_order, text_of
from netvm.scenario.catalog import find
from netvm.scenario.load import load_scenario, scenario_from


def watch(name: str) -> OrderReport:
    """Check the shipped scenario of this name."""
    return check_order(load_scenario(find(name)[0].path), name)


@pytest.mark.parametrize(
    ("arm", "entry"),
    [("A2/nbd", "A2"), ("A2/iscsi", "A2"), ("R1/nbd", "R1"), ("R1/iscsi", "R1"), ("R4/nbd", "R4"), ("R4/iscsi", "R4")],
)
def test_the_broken_arm_is_flagged_and_the_fixed_one_is_not(arm: str, entry: str) -> None:
    """Each cycle names both code paths, what would cut it, and the entry of the history."""
    broken, fixed = watch(f"{arm}-broken"), watch(f"{arm}-fixed")
    assert any(cycle.resembles.startswith(entry) for cycle in broken.cycles)
    assert all(cycle.asked_in and cycle.cut_by for cycle in broken.cycles)
    assert fixed.pages_cleaned
    assert fixed.cycles == []
    assert "memory -> the write of a dirty page" in text_of(broken)


@pytest.mark.parametrize("arm", ["R2/nbd", "R3/nbd", "R3/iscsi"])
def test_a_stock_that_is_not_backed_is_latent(arm: str) -> None:
    """What a calm run has from stock is told in the broken arm, with the exhibit it resembles, and not in the fixed."""
    broken, fixed = (watch(f"{arm}-{end}") for end in ("broken", "fixed"))
    entry = arm.partition("/")[0]
    told = [[cycle for cycle in report.latent if cycle.resembles.startswith(entry)] for report in (broken, fixed)]
    assert len(told[0]) == 1
    assert told[1] == []
    assert f"resembles {entry}: " in text_of(broken)


@pytest.mark.parametrize("name", ["B2/transport-broken", "A2/nbd-broken"])
def test_waits_of_a_kind_are_one(name: str) -> None:
    """Which page, request or call it is, and which process of a program, makes no line of its own."""
    waits = watch(name).waits
    assert 10 < len(waits) < 40
    assert len({re.sub(r"\d+", "", wait) for wait in waits}) > len(waits) - 8
    assert not any(re.search(r"<rq\d|0x[0-9a-f]{8}|\bhog\d", wait) for wait in waits)


def test_a_program_without_a_name_changes_no_other() -> None:
    """Its processes are not told by a number, and the numbers of others stay."""
    hog = {"kind": "anon-hog", "mib": 24, "name": ""}
    scenario = {"machine": {"ram_mib": 24}, "storage": {"kind": "nbd"}, "workload": [hog]}
    assert any("bio-160" in wait for wait in check_order(scenario_from(scenario, origin="x"), "x").waits)


def test_an_abstract_machine_has_no_paths() -> None:
    """It is refused with a hint."""
    with pytest.raises(UsageError, match=r"docs/reserve\.md"):
        check_order(scenario_from({"abstract": {}}, origin="x"), "x")
