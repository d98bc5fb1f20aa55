"""Units and their conversions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm import units
from netvm.units import HZ, JIFFY_NS, NS_PER_MS, NS_PER_S, NS_PER_US, PAGE_SHIFT, PAGE_SIZE, jiffies_ns, pages_of


def test_powers_agree() -> None:
    """The same thing said in two units is one number."""
    assert NS_PER_S == 1000 * NS_PER_MS == 1_000_000 * NS_PER_US == 1_000_000_000
    assert PAGE_SIZE == 1 << PAGE_SHIFT == 4 * units.KIB == 8 * units.SECTOR_SIZE
    assert units.MIB == 1024 * units.KIB == 256 * PAGE_SIZE


def test_a_jiffy_is_four_milliseconds() -> None:
    """CONFIG_HZ=250, and nothing is lost by counting in nanoseconds."""
    assert JIFFY_NS == 4 * NS_PER_MS
    assert JIFFY_NS * HZ == NS_PER_S
    assert jiffies_ns(HZ) == NS_PER_S


@pytest.mark.parametrize(("size_bytes", "pages"), [(0, 0), (1, 1), (4095, 1), (4096, 1), (4097, 2)])
def test_a_part_of_a_page_takes_a_page(size_bytes: int, pages: int) -> None:
    """Sizes are rounded up."""
    assert pages_of(size_bytes) == pages


@given(st.integers(0, 1 << 50))
def test_pages_hold_their_bytes(size_bytes: int) -> None:
    """All of them, and one page less would not."""
    nr_pages = pages_of(size_bytes)
    assert (nr_pages - 1) * PAGE_SIZE < size_bytes <= nr_pages * PAGE_SIZE
