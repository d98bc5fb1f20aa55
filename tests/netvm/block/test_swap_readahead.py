"""Swap readahead: windows that grow with hits, shrink without, and stay where they may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.block.swap_readahead import SwapReadahead
from netvm.mm.address_space import PTRS_PER_PTE, AddressSpace


def space_of(make_host, nr_pages: int = 2048) -> AddressSpace:
    """Return an address space of so many pages."""
    host = make_host()
    return host.memory.map_anonymous(host.task(), nr_pages)


def test_page_cluster_zero_reads_one_page(make_host) -> None:
    """No window at all."""
    space = space_of(make_host)
    readahead = SwapReadahead(page_cluster=0, rotational=False)
    assert readahead.window(space, 100) == (100, 101)
    assert list(readahead.slot_window(100, 1000)) == [100]


@pytest.mark.parametrize("step", [1, -1])
def test_sequential_faults_with_hits_read_a_full_window(make_host, step: int) -> None:
    """Forwards the window begins at the fault, backwards it ends there."""
    space = space_of(make_host)
    readahead = SwapReadahead(page_cluster=3, rotational=False)
    readahead.window(space, 1000)
    for _ in range(7):
        readahead.hit(space)
    space.ra_addr = 1000
    expected = (1001, 1009) if step == 1 else (992, 1000)
    assert readahead.window(space, 1000 + step) == expected


def test_window_shrinks_by_half_without_hits(make_host) -> None:
    """Random faults: 8, then 4, 2, 1."""
    space = space_of(make_host)
    readahead = SwapReadahead(page_cluster=3, rotational=False)
    for _ in range(7):
        readahead.hit(space)
    sizes = []
    for vpn in (300, 700, 100, 400, 900):
        start, end = readahead.window(space, vpn)
        sizes.append(end - start)
    assert sizes == [8, 4, 2, 1, 1]


def test_window_stays_in_its_page_table(make_host) -> None:
    """It does not go over the end of the 512 entries the fault is in."""
    space = space_of(make_host)
    readahead = SwapReadahead(page_cluster=5, rotational=False)
    for _ in range(63):
        readahead.hit(space)
    space.ra_addr = PTRS_PER_PTE - 4
    assert readahead.window(space, PTRS_PER_PTE - 3) == (PTRS_PER_PTE - 3, PTRS_PER_PTE)


def test_rotational_window_is_an_aligned_cluster_of_slots() -> None:
    """Around the slot, aligned to its size, without the header and within the device."""
    readahead = SwapReadahead(page_cluster=3, rotational=True)
    assert list(readahead.slot_window(21, 1000)) == list(range(16, 24))
    readahead = SwapReadahead(page_cluster=3, rotational=True)
    assert list(readahead.slot_window(3, 1000)) == list(range(1, 8))
    readahead = SwapReadahead(page_cluster=3, rotational=True)
    assert list(readahead.slot_window(998, 1000)) == list(range(992, 1000))


@given(st.integers(0, 6), st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 9)), min_size=1, max_size=20))
def test_window_always_holds_the_fault(make_host, page_cluster: int, faults: list[tuple[int, int]]) -> None:
    """Whatever came before: the fault is inside, and no more than 2 ** page-cluster pages are."""
    space = space_of(make_host)
    readahead = SwapReadahead(page_cluster=page_cluster, rotational=False)
    slots = SwapReadahead(page_cluster=page_cluster, rotational=True)
    for vpn, nr_hits in faults:
        for _ in range(nr_hits):
            readahead.hit(space)
            slots.hit(space)
        start, end = readahead.window(space, vpn)
        assert 0 <= start <= vpn < end <= space.nr_pages
        assert end - start <= 1 << page_cluster
        window = slots.slot_window(vpn + 1, 2100)
        assert vpn + 1 in window
        assert len(window) <= 1 << page_cluster
