"""``netvm list``: the catalogue as a table and as JSON."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from netvm.cli import list as module
from netvm.scenario.catalog import Entry

_CATALOGUE = [
    Entry("R1/nbd-broken", "R1", "broken", "6.1", ("HANG", "LIVELOCK"), "Removed", "recorded run U6"),
    Entry("plain", "", "", "3.6", ("COMPLETED",), "", ""),
]


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "entries", lambda: _CATALOGUE)


def test_table(netvm: Callable[..., Any]) -> None:
    """Name, exhibit, arm, kernel, expected verdict, source, in columns."""
    assert netvm("list").out.splitlines() == [
        "NAME           EXHIBIT  ARM     KERNEL  EXPECTED   SOURCE",
        "R1/nbd-broken  R1       broken  6.1     HANG       recorded run U6",
        "plain          -        -       3.6     COMPLETED",
    ]


def test_json(netvm: Callable[..., Any]) -> None:
    """The same as a list of objects, with every expected verdict and the title."""
    assert json.loads(netvm("list", "--json").out)[0] == {
        "name": "R1/nbd-broken",
        "exhibit": "R1",
        "arm": "broken",
        "kernel": "6.1",
        "expected": ["HANG", "LIVELOCK"],
        "title": "Removed",
        "source": "recorded run U6",
    }
