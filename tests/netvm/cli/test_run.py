"""``netvm run``: what is run, what is printed, and the exit code."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netvm import __version__
from netvm.cli.run import RunScenario, runner

_RUNS = Path(__file__).parents[2] / "data" / "runs"
_D2 = _RUNS / "D2-guestnbd-2ms-a"


def test_prints_options_then_verdict_then_replay(netvm: Callable[..., Any]) -> None:
    """Version and seed first, the verdict after, the command that runs it again last; progress is not in it."""
    called = netvm("run", "a.toml", "--seed", "5")
    lines = called.out.splitlines()
    assert lines[0] == f"netvm {__version__}: a.toml, kernel 6.1, seed 5, oracle fifo"
    assert any(line.startswith("a.toml: COMPLETED, as expected (COMPLETED), after 12.500 s virtual") for line in lines)
    assert lines[-1] == "replay: netvm run a.toml --seed 5 --oracle fifo"
    assert (called.code, called.err) == (0, "")


def test_quiet_prints_the_result_alone(netvm: Callable[..., Any]) -> None:
    """No options and no progress with ``--quiet``."""
    called = netvm("run", "a.toml", "--quiet")
    assert called.out.startswith("a.toml: COMPLETED, ")
    assert called.err == ""


def test_json_prints_one_object(netvm: Callable[..., Any]) -> None:
    """One line, one object, with wall time, options and the command that runs it again."""
    called = netvm("run", "a.toml", "--json", "--oracle", "random")
    assert called.out.count("\n") == 1
    result = json.loads(called.out)
    assert (result["scenario"], result["seed"], result["verdict"]) == ("a.toml", 0, "COMPLETED")
    assert result["replay"] == "netvm run a.toml --seed 0 --oracle random"
    assert result["options"]["run"]["oracle"] == "random"
    assert result["wall_seconds"] >= 0


def test_the_command_that_runs_it_again_does(netvm: Callable[..., Any], model: Any) -> None:
    """Seed, oracle and every override are in the printed command, quoted for a shell."""
    called = netvm("run", "a.toml", "--json", "--seed", "3", "--set", "title=it's a test", "--set", "vm.swappiness=1")
    command = shlex.split(json.loads(called.out)["replay"])
    assert command[0] == "netvm"
    netvm(*command[1:])
    assert model.asked[0] == model.asked[1]
    assert model.asked[0].title == "it's a test"


def test_several_scenarios_are_several_lines(netvm: Callable[..., Any]) -> None:
    """A folder runs all its arms, one object a line, the broken arm first."""
    Path("pair").mkdir()
    for arm in ("fixed", "broken"):
        Path(f"pair/{arm}.toml").write_text(Path("a.toml").read_text())
    called = netvm("run", "pair", "a.toml", "--json")
    names = [json.loads(line)["scenario"] for line in called.out.splitlines()]
    assert names == ["pair/broken.toml", "pair/fixed.toml", "a.toml"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"verdict": "STALL"}, 1),
        ({"audit": ["3 pages have no owner"]}, 1),
        ({"verdict": None, "partial": "budget"}, 3),
        ({"verdict": None, "partial": "interrupted"}, 130),
    ],
)
def test_exit_codes(netvm: Callable[..., Any], model: Any, changes: dict[str, object], code: int) -> None:
    """0 as expected, 1 not, 3 without a verdict for want of budget, 130 interrupted."""
    model.changes = changes
    assert netvm("run", "a.toml", "--quiet").code == code


def test_an_interrupt_ends_all_runs_with_a_partial_summary(netvm: Callable[..., Any], model: Any) -> None:
    """Ctrl-C prints what there is and starts no further scenario."""
    model.changes = {"verdict": None, "partial": "interrupted"}
    called = netvm("run", "a.toml", "a.toml", "--quiet")
    assert called.code == 130
    assert called.out.startswith("a.toml: interrupted after 12.500 s virtual")
    assert len(model.asked) == 1


def test_a_mistake_costs_no_run(netvm: Callable[..., Any], model: Any) -> None:
    """All scenarios, overrides and the recorded run are read before the first run starts."""
    Path("b.toml").write_text("x = 1\n")
    called = netvm("run", "a.toml", "b.toml")
    assert called.code == 2
    assert called.err.startswith("netvm: b.toml: x = 1: unknown key; ")
    assert netvm("run", "a.toml", "--against", "gone").code == 2
    assert netvm("run", "a.toml", "--set", "vm.swapiness=1").err == (
        "netvm: --set vm.swapiness=1: unknown key; did you mean vm.swappiness?\n"
    )
    assert model.asked == []


def test_against_prints_both_sides(netvm: Callable[..., Any]) -> None:
    """The comparison follows the result; in JSON it is the key ``against``."""
    called = netvm("run", "a.toml", "--quiet", "--against", str(_D2))
    assert "against D2-guestnbd-2ms-a: recorded completed, emulated COMPLETED: they agree\n" in called.out
    against = json.loads(netvm("run", "a.toml", "--json", "--against", str(_D2)).out)["against"]
    assert against["agree"] is True
    assert {"name": "pswpout", "recorded": 42187, "emulated": 42, "ratio": 0.001} in against["counters"]


def test_against_compares_one_scenario(netvm: Callable[..., Any]) -> None:
    """Two scenarios against one recorded run would be ambiguous."""
    called = netvm("run", "a.toml", "a.toml", "--against", str(_D2))
    assert (called.code, called.err) == (2, "netvm: run: --against compares one scenario; 2 are named\n")


def test_an_imported_run_is_run(netvm: Callable[..., Any], model: Any) -> None:
    """What import-run writes, run reads."""
    assert netvm("import-run", str(_D2), "-o", "d2.toml").code == 0
    assert netvm("run", "d2.toml", "--quiet").code == 0
    assert model.asked[0].vm.min_free_kbytes == 8192


def test_the_seam_is_one_function() -> None:
    """The command line knows the model by one function and asks for it late."""
    assert callable(runner)
    assert RunScenario.__call__.__annotations__.keys() >= {"scenario", "name", "progress", "return"}
