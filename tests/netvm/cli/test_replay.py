"""``netvm replay``: the same result again, or what differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def result(netvm: Callable[..., Any]) -> Path:
    """Record a result."""
    path = Path("r.json")
    path.write_text(netvm("run", "a.toml", "--json", "--seed", "7", "--set", "vm.page-cluster=1").out)
    return path


def _changed(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_same_result_is_said(netvm: Callable[..., Any], result: Path, model: Any) -> None:
    """The recorded options are run again; wall time does not count."""
    _changed(result, wall_seconds=1e9)
    called = netvm("replay", "r.json", "--quiet")
    assert called.code == 0
    assert called.out.endswith("replayed: the same result as r.json:1, byte for byte but wall_seconds\n")
    assert model.asked[0] == model.asked[1]


def test_json_stays_json(netvm: Callable[..., Any], result: Path) -> None:
    """With ``--json`` standard output is the object alone; what replay has to say goes to standard error."""
    called = netvm("replay", "r.json", "--json")
    again, before = json.loads(called.out), json.loads(result.read_text())
    assert again | {"wall_seconds": 0} == before | {"wall_seconds": 0}
    assert called.err == "netvm: replayed: the same result as r.json:1, byte for byte but wall_seconds\n"


def test_another_result_is_exit_1(netvm: Callable[..., Any], result: Path, model: Any) -> None:
    """A result that differs is told field by field, and the version if that differs too."""
    model.changes = {"verdict": "OOM", "vmstat": {"oom_kill": 1}}
    called = netvm("replay", "r.json", "--quiet")
    assert called.code == 1
    assert called.out.endswith("replayed: NOT the result of r.json:1: verdict, vmstat differ\n")
    _changed(result, version="0.0.1")
    assert "(recorded by netvm 0.0.1, this is " in netvm("replay", "r.json", "--quiet").out


def test_each_line_is_replayed(netvm: Callable[..., Any], result: Path, model: Any) -> None:
    """The output of several scenarios is replayed line by line."""
    result.write_text(result.read_text() * 2)
    assert netvm("replay", "r.json", "--json").out.count("\n") == 2
    assert len(model.asked) == 3


def test_a_comparison_in_the_result_does_not_matter(netvm: Callable[..., Any], result: Path) -> None:
    """A result that was held against a recorded run is replayed without it."""
    _changed(result, against={"agree": True})
    assert netvm("replay", "r.json").code == 0


def test_a_partial_result_has_nothing_to_compare(netvm: Callable[..., Any], result: Path) -> None:
    """What Ctrl-C left is run to its end, and judged as a run is."""
    _changed(result, partial="interrupted", verdict=None)
    called = netvm("replay", "r.json", "--quiet")
    assert called.code == 0
    assert called.out.endswith("r.json:1 was interrupted: there is nothing to compare with\n")


def test_a_budget_runs_out_again(netvm: Callable[..., Any], model: Any) -> None:
    """The same partial result is said to be the same, and is still no pass."""
    model.changes = {"partial": "budget", "verdict": None}
    Path("r.json").write_text(netvm("run", "a.toml", "--json").out)
    called = netvm("replay", "r.json", "--quiet")
    assert called.code == 3
    assert "replayed: the same result" in called.out


def test_an_interrupt_ends_it(netvm: Callable[..., Any], result: Path, model: Any) -> None:
    """Ctrl-C during a replay is Ctrl-C."""
    model.changes = {"partial": "interrupted", "verdict": None}
    assert netvm("replay", "r.json", "--quiet").code == 130


def test_a_scenario_is_run_as_it_stands(netvm: Callable[..., Any], model: Any) -> None:
    """A TOML file is run with the seed and oracle it names."""
    with Path("a.toml").open("a") as file:
        file.write("[run]\nseed = 11\n")
    called = netvm("replay", "a.toml", "--quiet")
    assert called.code == 0
    assert called.out.endswith("replay: netvm replay a.toml\n")
    assert model.asked[0].run.seed == 11


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"scenario": ', "r.json:1: not the output of `netvm run --json`: Input data was truncated"),
        ('{"scenario": "x"}', "r.json:1: kernel: missing; must be a string"),
        (
            '{"a":' + "[" * 100_000,
            (
                "r.json:1: not the output of `netvm run --json`: "
                "maximum recursion depth exceeded while deserializing an object"
            ),
        ),
        ("", "r.json: empty; a scenario has [storage] and [[workload]] at least"),
    ],
)
def test_what_is_no_result_is_told(netvm: Callable[..., Any], text: str, line: str) -> None:
    """A truncated, foreign or empty file is one line."""
    Path("r.json").write_text(text)
    called = netvm("replay", "r.json")
    assert (called.code, called.err) == (2, f"netvm: {line}\n")


def test_options_that_are_no_scenario_are_told(netvm: Callable[..., Any], result: Path) -> None:
    """Options are checked as a file is, and named as part of the result."""
    options = json.loads(result.read_text())["options"]
    options["vm"]["swappiness"] = 300
    _changed(result, options=options)
    assert netvm("replay", "r.json").err == (
        "netvm: r.json:1: options: vm.swappiness = 300: must be an integer from 0 to 200\n"
    )
