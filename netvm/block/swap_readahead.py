"""Readahead of swap: how many pages a fault reads around the one it needs.

Mirrors ``swap_vma_readahead``, ``swap_cluster_readahead`` and ``__swapin_nr_pages`` (mm/swap_state.c) of 6.1. The
window is of virtual addresses around the fault, or of slots on a rotational device. It grows with the hits among the
pages read ahead last time, up to ``2 ** page-cluster``, and shrinks by half at most without.
"""

from typing import Final

from netvm.mm.address_space import PTRS_PER_PTE, AddressSpace

__all__ = ["SwapReadahead"]

SWAP_RA_HITS_MAX: Final = 63
SWAP_RA_ORDER_CEILING: Final = 5


class SwapReadahead:
    """The windows of one swap device; those of virtual addresses keep their state in the address space."""

    __slots__ = ("_hits", "_offset", "_win", "page_cluster", "rotational")

    def __init__(self, *, page_cluster: int, rotational: bool) -> None:
        self.page_cluster = page_cluster
        self.rotational = rotational
        self._hits = 4
        self._offset = self._win = 0

    def hit(self, space: AddressSpace) -> None:
        """Note that a page read ahead was wanted."""
        if self.rotational:
            self._hits += 1
        else:
            space.ra_hits = min(space.ra_hits + 1, SWAP_RA_HITS_MAX)

    def window(self, space: AddressSpace, vpn: int) -> tuple[int, int]:
        """Return the pages ``[start, end)`` to read for a fault (swap_ra_info)."""
        max_win = 1 << min(self.page_cluster, SWAP_RA_ORDER_CEILING)
        if max_win == 1:
            return vpn, vpn + 1
        previous = space.ra_addr
        pages = _swapin_nr_pages(vpn, previous, hits=space.ra_hits, max_pages=max_win, previous_pages=space.ra_win)
        space.ra_addr, space.ra_win, space.ra_hits = vpn, pages, 0
        if pages == 1:
            return vpn, vpn + 1
        if vpn == previous + 1:
            start, end = vpn, vpn + pages
        elif vpn == previous - 1:
            start, end = vpn - pages + 1, vpn + 1
        else:
            left = (pages - 1) // 2
            start, end = vpn - left, vpn + pages - left
        table = vpn // PTRS_PER_PTE * PTRS_PER_PTE
        return max(start, table, 0), min(end, table + PTRS_PER_PTE, space.nr_pages)

    def slot_window(self, target: int, nr_slots: int) -> range:
        """Return the slots to read for a fault: an aligned cluster around it (swapin_nr_pages)."""
        max_pages = 1 << self.page_cluster
        if max_pages == 1:
            return range(target, target + 1)
        hits, self._hits = self._hits, 0
        pages = _swapin_nr_pages(target, self._offset, hits=hits, max_pages=max_pages, previous_pages=self._win)
        if not hits:
            self._offset = target
        self._win = pages
        mask = pages - 1
        if not mask:
            return range(target, target + 1)
        return range(max(target & ~mask, 1), min((target | mask) + 1, nr_slots))


def _swapin_nr_pages(here: int, previous: int, *, hits: int, max_pages: int, previous_pages: int) -> int:
    """Return how many pages to read: more after hits, no fewer than half of last time (__swapin_nr_pages)."""
    if hits:
        pages = max(4, 1 << (hits + 1).bit_length())
    else:
        pages = 2 if here in (previous + 1, previous - 1) else 1
    return max(min(pages, max_pages), previous_pages // 2)
