"""The quick exhibits, run: the verdict is one that the file expects, and the books balance."""

from typing import Final

import pytest

from netvm.scenario.catalog import entries, find
from netvm.scenario.load import load_scenario
from netvm.scenario.matrix import jobs_of, run_cell
from netvm.scenario.run import run_scenario

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


@pytest.mark.parametrize("oracle", ["fifo", pytest.param("random", marks=pytest.mark.slow)])
def test_the_reserve_drifts_without_the_mark_and_less_so_where_the_fast_path_looks_away(oracle: str) -> None:
    """A7: pages of the reserve in slabs of packets when all is over; with the mark it is the burst's last few."""
    kept = {}
    for arm in ("broken", "cure", "fixed"):
        ((name, path),) = find(f"A7/nbd-{arm}")
        outcome = run_scenario(load_scenario(path, overrides=[f"run.oracle={oracle}"]), name=name)
        assert outcome.as_expected
        held = outcome.reserve.still_by_owner
        kept[arm] = held.get("slab:kmalloc-1k", 0) + held.get("slab:skbuff_fclone_cache", 0)
        assert outcome.explanation[-1].startswith(f"reserve pages held at the end: {kept[arm]}, with 128 below min")
    assert kept["fixed"] <= 20
    assert kept["cure"] >= kept["fixed"] + 20
    assert kept["broken"] >= kept["cure"] + 20
