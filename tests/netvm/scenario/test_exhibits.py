"""The quick exhibits, run: the verdict is one that the file expects, and the books balance."""

from typing import Final

import pytest

from netvm.scenario.catalog import entries, find
from netvm.scenario.matrix import jobs_of, run_cell

_QUICK: Final = (
    "A10/dma32-broken",
    "A10/dma32-fixed",
    "A13/nbd-broken",
    "A13/nbd-fixed",
    "A2/nbd-broken",
    "A4/nbd-broken",
    "B1/commit-broken",
    "B5/nfsd-broken",
    "B6/release-broken",
    "B8/unstable-broken",
    "C1/loop-broken",
    "C3/fuse-broken",
    "C3/fuse-cure",
    "C3/fuse-fixed",
    "C3/group-broken",
    "C3/group-fixed",
    "C5/crypt-fixed",
    "E1/disk-broken",
    "E1/disk-fixed",
    "E1/nbd-broken",
    "E1/nbd-fixed",
    "E3/nbd-broken",
    "E3/nbd-fixed",
    "F1/lock-fixed",
    "R2/nbd-broken",
    "R2/nbd-fixed",
    "R3/nbd-broken",
)
"""Done in a few seconds each. All of them run, against the museum's page, in tests/netvm/report/test_museum.py."""


@pytest.mark.parametrize("name", _QUICK)
def test_an_exhibit_comes_to_what_its_file_says(name: str) -> None:
    """Under its own kernel an arm's verdict is as expected; a broken arm that hangs names its knot."""
    (job,) = jobs_of(find(name))
    cell = run_cell(job)
    assert cell.as_expected, (cell.verdict, cell.expected, cell.audit, cell.explanation)
    if cell.verdict == "HANG":
        assert cell.knot


def test_what_is_quick_is_shipped() -> None:
    """No exhibit is called quick that is not there."""
    assert set(_QUICK) <= {entry.name for entry in entries()}
