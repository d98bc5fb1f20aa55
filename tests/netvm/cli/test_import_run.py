"""``netvm import-run``: a recorded run's scenario on standard output or in a file."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RUNS = Path(__file__).parents[2] / "data" / "runs"


def test_prints_the_scenario(netvm: Callable[..., Any]) -> None:
    """Without a file the scenario goes to standard output."""
    called = netvm("import-run", str(_RUNS / "U6-knob3-noflood-stacks"))
    assert called.code == 0
    assert tomllib.loads(called.out)["expect"] == ["HANG", "LIVELOCK"]


def test_writes_the_scenario(netvm: Callable[..., Any]) -> None:
    """With ``-o`` the same text goes to the file."""
    printed = netvm("import-run", str(_RUNS / "U6-knob3-noflood-stacks")).out
    called = netvm("import-run", str(_RUNS / "U6-knob3-noflood-stacks"), "-o", "u6.toml")
    assert (called.code, called.out) == (0, "")
    assert Path("u6.toml").read_text() == printed


def test_a_file_that_cannot_be_written_is_told(netvm: Callable[..., Any]) -> None:
    """A missing folder is one line and exit 2."""
    called = netvm("import-run", str(_RUNS / "U6-knob3-noflood-stacks"), "-o", "gone/u6.toml")
    assert (called.code, called.err) == (2, "netvm: gone/u6.toml: cannot be written: No such file or directory\n")


def test_what_is_not_emulated_is_told(netvm: Callable[..., Any]) -> None:
    """A protocol that is none of ours is refused in one line; no file is left behind."""
    config = (_RUNS / "N10-gt96-swap-0ms" / "config.json").read_text()
    Path("run").mkdir()
    Path("run/config.json").write_text(config.replace('"nfs"', '"rbd"'))
    called = netvm("import-run", "run", "-o", "n10.toml")
    assert called.code == 2
    assert 'backend.protocol = "rbd"' in called.err
    assert called.err.count("\n") == 1
    assert not Path("n10.toml").exists()
