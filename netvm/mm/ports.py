"""What reclaim asks of the rooms above it: swap, the page cache, and logging.

The kernel calls upward here: reclaim writes a page to swap, asks for free slots, forgets a swap cache page. The lower
room declares the protocol, :mod:`netvm.block.swap` implements it and :mod:`netvm.host.boot` plugs it in.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from netvm.mm.frames import PfnArray
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.mm.address_space import AddressSpace

__all__ = ["FilePort", "LogPort", "NodeDirtyPort", "PlugPort", "QuickPort", "SwapPort"]

LogPort = Callable[..., None]
"""``log(event, **facts)``: what an operator reads (boot, OOM kill, allocation failure)."""


NodeDirtyPort = Callable[[], bool]
"""``node_dirty_ok()``: whether the node has room for more dirt; if not, allocations for dirt go the slow way."""


class PlugPort(Protocol):
    """A batch of block requests that is submitted together (``struct blk_plug``)."""

    def finish(self) -> None:
        """Submit what is left in it (blk_finish_plug)."""
        ...


class FilePort(Protocol):
    """The page cache as reclaim sees it; every frame given to it is a file page."""

    def take_young(self, pfns: PfnArray) -> npt.NDArray[np.bool_]:
        """Test and clear the young bits of the PTEs that map these pages; return which were young."""
        ...

    def unmap(self, pfns: PfnArray) -> None:
        """Remove the PTEs that map these pages (try_to_unmap); a dirty PTE dirties its page."""
        ...

    def dirty_writeback(self, pfns: PfnArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which pages count as dirty, and which as under writeback (folio_check_dirty_writeback)."""
        ...

    async def release_folios(self, task: Task, pfns: PfnArray, gfp: int) -> npt.NDArray[np.bool_]:
        """Have file systems give up their private data of clean pages; return which can go (filemap_release_folio)."""
        ...

    def may_migrate(self, pfn: int) -> bool:
        """Whether a page can move to another frame: its file system keeps nothing with it (folio_test_private)."""
        ...

    def move_folio(self, src: int, dst: int) -> bool:
        """Have the file of a page, whose columns have moved, find it in its new frame; return whether a PTE maps it.

        Mirrors ``folio_migrate_mapping``.
        """
        ...

    def remove_mapping(self, pfns: PfnArray) -> None:
        """Take clean, unmapped pages out of their files, leaving shadows (__remove_mapping)."""
        ...

    async def writepage(self, task: Task, pfn: int) -> bool:
        """Write one dirty page for kswapd; return whether it is under way."""
        ...

    async def wait_on_page_writeback(self, task: Task, pfn: int) -> None:
        """Sleep until a page is no longer under writeback, or might not be (folio_wait_writeback)."""
        ...

    def writeback_may_last(self, pfn: int) -> bool:
        """Whether reclaim must not wait for this page's writeback (mapping_writeback_may_deadlock_on_reclaim)."""
        ...

    def wakeup_flusher_threads(self, reason: str) -> None:
        """Have the flushers write what is dirty."""
        ...

    async def throttle_vm_writeout(self, task: Task, gfp: int) -> None:
        """Hold a reclaimer back while too many pages are under writeback (kernels before 4.9)."""
        ...


class QuickPort(Protocol):
    """The quick way of new pages to swap: up to where they are under writeback, nothing can fail or sleep."""

    def look(self, task: Task, plug: PlugPort, nr_pages: int) -> tuple[int, int]:
        """Return how many of so many new pages have all they need at hand, and how many of them would merge as well."""
        ...

    def write(self, task: Task, plug: PlugPort | None, pfns: list[int], versions: list[int]) -> int:
        """Put pages with all they need at hand under writeback; one page table holds each of their slots.

        With a plug they also merge into a request. Returns the first slot; ``versions`` is the pages' content.
        """
        ...


class SwapPort(Protocol):
    """The swap area as reclaim and faults see it."""

    needs_fs: bool
    """Writing a page out may enter a file system (swap over a file): the mask needs ``__GFP_FS``."""
    writes_synchronously: bool
    """Whoever writes a page out waits until it is written: it can be freed at once."""
    write_errors: int
    """Pages whose write has failed, each as often as it was tried."""

    @property
    def quick(self) -> QuickPort:
        """The quick way out."""
        ...

    def nr_free_slots(self) -> int:
        """Return get_nr_swap_pages()."""
        ...

    def nr_total_slots(self) -> int:
        """Return total_swap_pages."""
        ...

    def is_full(self) -> bool:
        """Return vm_swap_full(): less than half is free."""
        ...

    def start_plug(self, task: Task) -> PlugPort:
        """Begin to collect a task's requests (blk_start_plug)."""
        ...

    def add_to_swap(self, task: Task, pfns: list[int]) -> int:
        """Give the first pages of ``pfns`` slots and put them in the swap cache; return how many succeeded."""
        ...

    async def swap_writepages(
        self, task: Task, pfns: list[int], plug: PlugPort, begun: tuple[int, list[int]] | None = None
    ) -> None:
        """Start writing locked pages that are in the swap cache and no longer mapped; may sleep for a bio.

        Each is unlocked as soon as it is under writeback. Where that is so already, ``begun`` says their first slot and
        their content.
        """
        ...

    async def wait_on_page_writeback(self, task: Task, pfn: int) -> None:
        """Sleep until a page is no longer under writeback, or might not be (folio_wait_writeback)."""
        ...

    async def swap_write_unplug(self, task: Task, plug: PlugPort) -> None:
        """Send what a swap file has collected of a list of pages that is through (swap_write_unplug)."""
        ...

    def delete_from_swap_cache(self, pfns: list[int]) -> None:
        """Take clean pages out of the swap cache and free slots nobody refers to (__remove_mapping)."""
        ...

    def move_in_swap_cache(self, src: int, dst: int) -> None:
        """Have the slot of a page, whose columns have moved, find it in its new frame (folio_migrate_mapping)."""
        ...

    def try_to_free_swap(self, pfn: int) -> bool:
        """Free a page's slot if only the cache refers to it (folio_free_swap)."""
        ...

    def duplicate(self, slot: int, version: int) -> None:
        """Add a reference to a slot; a page table now holds it, for content of this version (swap_duplicate)."""
        ...

    async def do_swap_page(self, task: Task, space: "AddressSpace", vpn: int, *, write: bool) -> bool:
        """Bring a swapped page back and map it; False if it could not be read (SIGBUS) or memory ran out."""
        ...

    def free_swap_and_cache(self, slots: Sequence[int]) -> list[int]:
        """Drop a page table's reference to each slot; return unmapped pages that left the swap cache with theirs."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...
