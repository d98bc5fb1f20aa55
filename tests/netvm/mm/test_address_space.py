"""A process's mapping: its columns and its counters."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE, PTE_YOUNG, PTRS_PER_PTE, AddressSpace


def test_a_new_mapping_has_nothing() -> None:
    """No page, no swap entry, no page table, nothing ever written."""
    space = AddressSpace(1, "hog", 1000)
    assert not space.pte.any()
    assert not space.bits.any()
    assert not space.version.any()
    assert (space.nr_anon, space.nr_swap, space.nr_page_tables) == (0, 0, 0)
    assert len(space.resident()) == len(space.swapped()) == 0
    assert not space.killed
    assert not space.oom_reaped


@pytest.mark.parametrize(("nr_pages", "nr_tables"), [(1, 1), (512, 1), (513, 2), (1024, 2), (5000, 10)])
def test_a_page_table_holds_512_entries(nr_pages: int, nr_tables: int) -> None:
    """One page-table page for each 2 MiB begun, none of them there yet."""
    space = AddressSpace(1, "hog", nr_pages)
    assert space.table_of == [-1] * nr_tables
    assert PTRS_PER_PTE == 512


def test_entries_are_frames_or_slots() -> None:
    """Frame + 1 when mapped, minus slot + 1 when swapped, 0 for none; both views are the same memory."""
    space = AddressSpace(1, "hog", 8)
    space.table_of[0] = 7
    space.pte_of[2] = 100 + 1
    space.pte_of[5] = -(7 + 1)
    space.pte_of[6] = 0 + 1
    assert space.resident().tolist() == [2, 6]
    assert space.swapped().tolist() == [5]
    assert space.pte[2] - 1 == 100
    space.bits_of[2] = PTE_YOUNG | PTE_DIRTY
    space.version_of[2] = 1 << 40
    assert (space.bits[2], space.version[2]) == (3, 1 << 40)


@given(tables=st.lists(st.booleans(), min_size=1, max_size=12), data=st.data())
def test_what_is_used_has_a_page_table(tables: list[bool], data: st.DataObject) -> None:
    """The ranges with page tables are as long as they can be, and what is in them is found wherever it is."""
    space = AddressSpace(1, "hog", len(tables) * PTRS_PER_PTE - 5)
    space.table_of = [7 if used else -1 for used in tables]
    pages = [page for page in range(space.nr_pages) if tables[page // PTRS_PER_PTE]]
    covered = [page for part in space.used() for page in range(*part.indices(space.nr_pages))]
    assert covered == pages
    assert all(a.stop < b.start for a, b in pairwise(space.used()))
    chosen = data.draw(st.lists(st.sampled_from(pages), unique=True, max_size=9)) if pages else []
    for page in chosen:
        space.pte_of[page] = 1 if page % 2 else -1
    assert space.resident().tolist() == sorted(page for page in chosen if page % 2)
    assert space.swapped().tolist() == sorted(page for page in chosen if not page % 2)


def test_bits_are_distinct() -> None:
    """Young, dirty and write are three bits."""
    assert sorted([PTE_YOUNG, PTE_DIRTY, PTE_WRITE]) == [1, 2, 4]


def test_readahead_starts_with_four_hits_and_no_neighbour() -> None:
    """GET_SWAP_RA_VAL: 4 where nothing was recorded; the first fault of a mapping follows no other, page 0 neither."""
    space = AddressSpace(1, "hog", 8)
    assert (space.ra_hits, space.ra_win) == (4, 0)
    for vpn in (0, 1, 7):
        assert space.ra_addr not in (vpn - 1, vpn + 1)


def test_a_mapping_has_an_id_of_its_own() -> None:
    """0 stands for no mapping in the frame columns."""
    with pytest.raises(AssertionError):
        AddressSpace(0, "hog", 1)
