"""The program: every end is an exit code, and every mistake one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netvm import __version__
from netvm.cli.app import _VERBS
from netvm.errors import BudgetExceededError

_ROOT = Path(__file__).parents[3]
_KNOWN = ", ".join(_VERBS)


def _process(*argv: str, python: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    return subprocess.run(
        [sys.executable, *python, "-m", "netvm", *argv],
        env=environment,
        text=True,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def test_help_names_every_verb(netvm: Callable[..., Any]) -> None:
    """``--help`` lists the verbs and the exit codes; each verb has its own help."""
    called = netvm("--help")
    assert called.code == 0
    for verb in _VERBS:
        assert f"\n  {verb} " in called.out
        told = netvm(verb, "--help")
        assert (told.code, told.err) == (0, "")
        assert told.out.startswith(f"usage: netvm {verb} ")
    assert "130 interrupted" in called.out


def test_version(netvm: Callable[..., Any]) -> None:
    """``--version`` is one line."""
    assert netvm("--version").out == f"netvm {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], f"no verb given; must be one of {_KNOWN}; see `netvm --help`"),
        (["rnu"], "unknown verb 'rnu'; did you mean run?"),
        (["xyzzy"], f"unknown verb 'xyzzy'; must be one of {_KNOWN}"),
        (["--hlep"], "unknown option '--hlep'; did you mean --help?"),
        (["run"], "run: missing NAME|FILE|FOLDER; see `netvm run --help`"),
        (["run", "a.toml", "--sed", "3"], "run: unknown option --sed; did you mean --seed?"),
        (["run", "a.toml", "--see=3"], "run: unknown option --see; did you mean --seed?"),
        (["run", "a.toml", "--seed"], "run: --seed: expected one argument; see `netvm run --help`"),
        (
            ["run", "a.toml", "--seed", "-1"],
            "run: --seed: '-1': must be an integer from 0 to 2**63 - 1; see `netvm run --help`",
        ),
        (
            ["run", "a.toml", "--oracle", "rnadom"],
            ("run: --oracle: 'rnadom': must be one of fifo, random; did you mean random?; see `netvm run --help`"),
        ),
        (
            ["run", "a.toml", "--set", "vm.x"],
            "--set vm.x: must be KEY=VALUE, the key a dotted path such as vm.min_free_kbytes",
        ),
        (["list", "x"], "list: unexpected argument 'x'; see `netvm list --help`"),
        (["replay"], "replay: missing FILE; see `netvm replay --help`"),
        (
            ["import-run", "a.toml"],
            "a.toml: not a directory; must be the directory of a recorded run, with its config.json",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(netvm: Callable[..., Any], argv: list[str], line: str) -> None:
    """Usage errors go to standard error as one line; standard output stays empty."""
    called = netvm(*argv)
    assert (called.code, called.out, called.err) == (2, "", f"netvm: {line}\n")


def test_an_unknown_scenario_is_one_line_and_exit_2(netvm: Callable[..., Any]) -> None:
    """A name that is neither a file nor shipped is told so."""
    called = netvm("run", "b.toml")
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith("netvm: b.toml: no such file, and no scenario of this name; ")


def test_control_characters_do_not_reach_the_terminal(netvm: Callable[..., Any]) -> None:
    """What a user typed is shown on one line whatever is in it."""
    called = netvm("run", "a\n\x1b[31mb")
    assert called.err.startswith("netvm: a\\x0a\\x1b[31mb: no such file")
    assert called.err.count("\n") == 1


def test_options_may_stand_between_names(netvm: Callable[..., Any], model: Any) -> None:
    """The order of names and options does not matter."""
    assert netvm("run", "a.toml", "--seed", "3", "a.toml", "--json").code == 0
    assert [scenario.run.seed for scenario in model.asked] == [3, 3]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (BudgetExceededError("a.toml: no verdict after 50000000 steps"), 3, "a.toml: no verdict after 50000000 steps"),
        (
            MemoryError(),
            2,
            (
                "a.toml: not enough memory here to emulate machine.ram_mib = 96, storage.size_mib = 512 and programs "
                "of 120 MiB"
            ),
        ),
    ],
)
def test_what_ends_a_run_early(
    netvm: Callable[..., Any], model: Any, error: BaseException, code: int, line: str
) -> None:
    """Ctrl-C, an exhausted budget and too large a machine each have their exit code and one line."""
    model.error = error
    called = netvm("run", "a.toml", "--json")
    assert (called.code, called.err) == (code, f"netvm: {line}\n")


def test_python_o_is_refused() -> None:
    """Asserts are part of the product: without them nothing runs."""
    ended = _process("--help", python=("-O",))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "netvm: refuses to run under python -O: asserts are part of the product\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("argv", [["list"], ["schema"], ["--help"]])
def test_a_full_disk_is_one_line_and_exit_2(argv: list[str]) -> None:
    """Output that cannot be written is told, also where that shows only at the last flush."""
    with Path("/dev/full").open("w") as full:
        ended = _process(*argv, stdout=full)
    assert ended.returncode == 2
    assert ended.stderr == "netvm: standard output: cannot be written: No space left on device\n"


@pytest.mark.parametrize("argv", [["list"], ["schema"]])
def test_a_closed_pipe_ends_silently(argv: list[str]) -> None:
    """When the reader has gone, the program ends as one that SIGPIPE ended, and says nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = _process(*argv, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_closed_standard_output_is_told() -> None:
    """A program that was started without standard output says so."""
    ended = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m netvm list >&-"],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, "netvm: standard output is closed\n")


@pytest.mark.parametrize("argv", [["--help"], ["list"], ["run", "--help"], ["xyzzy"]])
def test_answers_at_once_import_nothing_heavy(argv: list[str]) -> None:
    """Help, the list and a typo load neither numpy nor trio nor any other package."""
    ended = _process(*argv, python=("-X", "importtime"))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert not loaded & {"numpy", "trio", "structlog", "rich", "msgspec", "hypothesis"}
