"""``netvm explain``: an exhibit told, with its own broken run."""

import json
from collections.abc import Callable
from typing import Any


def test_an_exhibit_is_told_with_its_broken_run(netvm: Callable[..., Any], model: Any) -> None:
    """Any arm names the pair; it is the broken arm that runs, and its verdict makes the exit code."""
    model.changes = {"verdict": "HANG", "explanation": ["the knot: a -> [b] -> a"]}
    called = netvm("explain", "R2/nbd-fixed")
    assert called.code == 0
    assert called.out.startswith("R2/nbd-broken: NBD over virtio-net")
    assert "\n  highatomic_exact_cap (2023, Linux 6.8): " in called.out
    assert called.out.rstrip().endswith("HANG (as expected)\n  the knot: a -> [b] -> a")
    assert [scenario.kernel.fixes for scenario in model.asked] == [{"highatomic_exact_cap": False}]


def test_a_folder_is_all_its_pairs(netvm: Callable[..., Any], model: Any) -> None:
    """Each pair of a folder is told; a run that does not hang as it should is exit 1."""
    called = netvm("explain", "R4", "--quiet")
    assert called.code == 1
    assert called.out.startswith("R4/iscsi-broken: ")
    assert "\nR4/nbd-broken: " in called.out
    assert "COMPLETED (expected was HANG" in called.out
    assert len(model.asked) == 2


def test_json(netvm: Callable[..., Any], model: Any) -> None:
    """With --json the outcome has the exhibit beside its fields."""
    told = json.loads(netvm("explain", "R2", "--json").out)
    assert (told["exhibit"]["id"], told["exhibit"]["year"], told["verdict"]) == ("R2", 2023, "COMPLETED")


def test_what_is_no_exhibit(netvm: Callable[..., Any]) -> None:
    """A scenario without an exhibit has nothing to tell."""
    called = netvm("explain", "a.toml")
    assert (called.code, called.err) == (2, "netvm: a.toml: no exhibit with a broken arm; see `netvm list`\n")
