"""The switch board: presets are kernels, and every switch has its history."""

from dataclasses import FrozenInstanceError, fields
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.fixes import FIXES, PRESETS, Fix, Fixes, preset

NAMES = [field.name for field in fields(Fixes)]


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@pytest.mark.parametrize(("older", "newer"), list(pairwise(PRESETS)))
def test_a_newer_kernel_keeps_what_an_older_one_had(older: str, newer: str) -> None:
    """From preset to preset fixes are only added, and at least one is."""
    before = {name for name in NAMES if getattr(preset(older), name)}
    after = {name for name in NAMES if getattr(preset(newer), name)}
    assert before < after


def test_the_oldest_kernel_has_none_of_them() -> None:
    """2.6.11 is the museum before its first cure."""
    assert not any(getattr(preset("2.6.11"), name) for name in NAMES)


def test_swap_over_network_arrived_together() -> None:
    """Mel Gorman's series of 2012: 3.6 has all of it."""
    series = [
        "memalloc_sockets",
        "pfmemalloc_drop",
        "softirq_memalloc",
        "slab_pfmemalloc",
        "slub_fast_path",
        "rmem_exempt",
        "rx_memalloc",
    ]
    assert all(getattr(preset("3.6"), name) for name in series)


def test_the_defaults_are_the_newest_kernel() -> None:
    """Who names no preset gets the last one; they differ at most in what no kernel has by itself."""
    newest = preset(PRESETS[-1])
    different = [name for name in NAMES if getattr(Fixes(), name) != getattr(newest, name)]
    assert all(FIXES[name].version is None for name in different)


@pytest.mark.parametrize("kernel", PRESETS)
def test_no_kernel_has_what_was_never_merged(kernel: str) -> None:
    """Such a fix is switched on by name only."""
    assert not any(getattr(preset(kernel), name) for name in NAMES if FIXES[name].version is None)


@pytest.mark.parametrize("name", NAMES)
def test_every_switch_has_its_history(name: str) -> None:
    """Year, source and what it does; a merged fix names the kernel, and a kernel of its time or later."""
    fix = FIXES[name]
    assert fix.name == name
    assert 2004 <= fix.year <= 2026
    assert fix.source
    assert fix.summary
    assert not fix.summary.endswith(".")
    if fix.version is not None:
        assert _number(fix.version) > (2, 6, 11)


def test_the_board_and_its_table_are_in_sync() -> None:
    """The same names in the same order."""
    assert list(FIXES) == NAMES


def test_presets_are_in_order_of_version() -> None:
    """Oldest first, as a picture's axis wants them."""
    assert sorted(PRESETS, key=_number) == list(PRESETS)


def test_the_recorded_kernel_has_its_backports() -> None:
    """6.1.192 is a stable release: a fix with a word of its own about it follows that, the others their version."""
    recorded = preset("6.1")
    for name, fix in FIXES.items():
        merged = fix.version is not None and _number(fix.version) <= (6, 1)
        assert getattr(recorded, name) == (merged if fix.in_recorded is None else fix.in_recorded)
    assert recorded.min_reserve_ladder
    assert not recorded.highatomic_exact_cap


@given(st.dictionaries(st.sampled_from(NAMES), st.booleans()), st.sampled_from(PRESETS))
def test_switching_changes_what_it_names(switches: dict[str, bool], kernel: str) -> None:
    """Any switches on any kernel: those are set, the others stay, and the preset itself does not change."""
    before = preset(kernel)
    after = before.switched(switches)
    for name in NAMES:
        assert getattr(after, name) == switches.get(name, getattr(before, name))
    assert before == preset(kernel)


def test_what_is_no_fix_is_refused() -> None:
    """A switch or a kernel that does not exist is a KeyError that names it."""
    with pytest.raises(KeyError, match="rx_memaloc"):
        Fixes().switched({"rx_memaloc": True})
    with pytest.raises(KeyError, match=r"2\.4"):
        preset("2.4")


def test_a_kernel_is_what_it_is() -> None:
    """Neither a board nor an entry of the table can be changed in place."""
    with pytest.raises(FrozenInstanceError):
        Fixes().rx_memalloc = False  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        FIXES["rx_memalloc"].year = 1999  # type: ignore[misc]
    assert isinstance(FIXES["rx_memalloc"], Fix)
