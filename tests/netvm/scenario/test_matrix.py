"""The matrix: which cells there are, what a preset leaves of an arm, and the same cells from one process or several."""

from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.scenario.catalog import Named, entries, find
from netvm.scenario.load import load_scenario
from netvm.scenario.matrix import Cell, broken_arms, jobs_of, pair_of, run_cell, run_matrix, under_preset

_ARM = """
expect = ["{verdict}"]
[exhibit]
id = "A2"
arm = "{arm}"
title = "T"
source = "S"
mechanism = "M"
fix = "{fix}"
[kernel]
preset = "2.6.11"
[kernel.fixes]
memalloc_sockets = {memalloc}
rx_memalloc = true
[storage]
kind = "nbd"
[[workload]]
kind = "anon-hog"
mib = 8
[abstract]
frames = 8
reserve = 4
writebacks = 2
bystanders = 2
priority = {memalloc}
[run]
max_steps = 2000
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Named]:
    """Write a pair on the abstract machine, which runs in no time, and a scenario that is no exhibit."""
    broken = _ARM.format(verdict="HANG", arm="broken", memalloc="false", fix="memalloc_sockets")
    fixed = _ARM.format(verdict="COMPLETED", arm="fixed", memalloc="true", fix="memalloc_sockets")
    (tmp_path / "x-broken.toml").write_text(broken)
    (tmp_path / "x-fixed.toml").write_text(fixed)
    (tmp_path / "y.toml").write_text('[storage]\nkind = "nbd"\n[[workload]]\nkind = "anon-hog"\nmib = 8\n')
    return [Named(name, tmp_path / f"{name}.toml") for name in ("x-broken", "x-fixed", "y")]


def test_each_arm_runs_under_its_own_kernel(files: list[Named]) -> None:
    """Without presets there is a cell an arm, as its file says; what is no exhibit has none."""
    assert [(job.name, job.kernel, job.own) for job in jobs_of(files)] == [
        ("x-broken", "2.6.11", True),
        ("x-fixed", "2.6.11", True),
    ]
    assert jobs_of(files)[0].scenario == load_scenario(files[0].path)


def test_presets_are_columns(files: list[Named]) -> None:
    """With presets each arm has a cell under each."""
    cells = [(job.name, job.kernel, job.own) for job in jobs_of(files, ["3.6", "6.1"])]
    assert cells == [(name, kernel, False) for name in ("x-broken", "x-fixed") for kernel in ("3.6", "6.1")]


def test_a_preset_leaves_the_switch_of_the_arm(files: list[Named]) -> None:
    """Under another kernel the arm's own switch stays as it was, and no other switch of its file."""
    assert under_preset(load_scenario(files[0].path), "6.1").kernel.fixes == {"memalloc_sockets": False}
    (own_preset,) = find("R1/nbd-fixed")
    assert under_preset(load_scenario(own_preset.path), "2.6.11").kernel.fixes == {"memalloc_sockets": True}
    (other_key,) = find("R4/nbd-broken")
    assert under_preset(load_scenario(other_key.path), "3.6").kernel.fixes == {}


def test_processes_do_not_change_the_cells(files: list[Named]) -> None:
    """One process and two give the same cells for the same places."""
    jobs = jobs_of(files)
    assert dict(run_matrix(jobs, nr_processes=1)) == dict(run_matrix(jobs, nr_processes=2))


def test_a_cell_says_what_came_of_it(files: list[Named]) -> None:
    """A cell has verdict, what was expected, and the shortest chain of the explanation."""
    cells = [run_cell(job) for job in jobs_of(files)]
    assert [(cell.name, cell.exhibit, cell.arm, cell.verdict) for cell in cells] == [
        ("x-broken", "A2", "broken", "HANG"),
        ("x-fixed", "A2", "fixed", "COMPLETED"),
    ]
    assert all(cell.as_expected for cell in cells)


def _cell(**facts: object) -> Cell:
    usual = {"name": "x", "exhibit": "A2", "arm": "broken", "kernel": "6.1", "own": True, "verdict": "HANG"}
    return Cell(**(usual | {"expected": ["HANG"], "audit": [], "virtual_seconds": 1.0, "explanation": []} | facts))  # type: ignore[arg-type]  # facts of any field


def test_what_is_a_surprise() -> None:
    """Under its own kernel another verdict surprises; under a preset none does; an audit that fails always does."""
    assert _cell().as_expected
    assert not _cell(verdict="COMPLETED").as_expected
    assert _cell(verdict="COMPLETED", own=False).as_expected
    assert not _cell(audit=["a page is lost"]).as_expected
    assert not _cell(verdict=None).as_expected


def test_the_knot_of_a_cell() -> None:
    """The knot is the line that begins so, else the first kill, hung task, standstill or level of the reserve."""
    kill = "at 1.000 s hog-14 invoked oom-killer: order=0"
    assert _cell(explanation=["hung", kill, "the knot: a -> [b] -> a"]).knot == "a -> [b] -> a"
    assert _cell(explanation=["x", kill]).knot == kill
    hung = "INFO: task hog:46 blocked for more than 10 seconds, since 1.000 s: (D) waits for mmap_lock: hog"
    assert _cell(explanation=[hung, kill]).knot == kill
    assert _cell(explanation=["x", hung, "... held by hog.5-51"]).knot == hung
    level = "reserve pages held at the end: 47"
    assert _cell(explanation=["x", level]).knot == level
    still = "nothing got done for 0.098 s at the longest, from 0.275 s on"
    assert _cell(explanation=["x", level, still]).knot == still
    assert _cell().knot == ""


@pytest.mark.parametrize(
    ("name", "arm", "pair"),
    [("R1/nbd-broken", "broken", "R1/nbd"), ("A9/cure", "cure", "A9"), ("broken", "broken", "broken")],
)
def test_pairs(name: str, arm: str, pair: str) -> None:
    """A pair is named by what its arms have in common."""
    assert pair_of(name, arm) == pair


def test_broken_arms_of_what_is_named(files: list[Named]) -> None:
    """Any arm names its pair's broken one, and a pair is told once."""
    assert broken_arms([files[1]]) == [files[0]]
    assert broken_arms(files) == [files[0]]
    with pytest.raises(UsageError, match="y: no exhibit with a broken arm"):
        broken_arms([files[2]])


def test_every_shipped_exhibit_has_a_broken_arm() -> None:
    """No cure is shown without what it cures."""
    for entry in entries():
        if entry.exhibit:
            (named,) = find(entry.name)
            assert broken_arms([named])
