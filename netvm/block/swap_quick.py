"""New pages on their way to swap that nothing can hold up: all at once what the kernel does page by page.

A page that is sent out takes a slot, a place in the swap cache's tree, a bio, and room in a request. Mostly the first
three are at hand: the slot is the next in the CPU's cache, its tree node is there since 64 slots share one, and a slab
has free bios. Then neither ``add_to_swap`` nor ``swap_writepage`` can fail or sleep before the page is under writeback,
and so many pages are noted in one pass. Where they continue the last request of their task's plug, or else one that
waits in the elevator, they are on their way with that; else they are submitted like others, which may sleep for a tag.
"""

from typing import TYPE_CHECKING, Final

from netvm.block.swap_tree import XA_CHUNK_SHIFT
from netvm.mm.frames import PG_DIRTY, PG_RECLAIM, PG_SWAPCACHE, PG_WRITEBACK
from netvm.mm.ports import PlugPort
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.block.swap import SwapArea

__all__ = ["QuickWrites"]

_XA_CHUNK_MASK: Final = (1 << XA_CHUNK_SHIFT) - 1


class QuickWrites:
    """The quick way out of one swap area."""

    __slots__ = ("area",)

    def __init__(self, area: "SwapArea") -> None:
        self.area = area

    def look(self, task: Task, plug: PlugPort, nr_pages: int) -> tuple[int, int]:
        """Return how many of so many new pages have all they need at hand, and how many of them would merge as well."""
        area = self.area
        nr_at_hand = min(nr_pages, area.io.nr_ready())
        if not nr_at_hand:
            return 0, 0
        slot, nr = area.slots.upcoming(nr_at_hand, 0 if task.cpu is None else task.cpu.index)
        if not nr or not area.tree.has_node_for(slot):
            return 0, 0
        left_in_node = _XA_CHUNK_MASK + 1 - (slot & _XA_CHUNK_MASK)
        if nr > left_in_node and not area.tree.has_node_for(slot + nr - 1):
            nr = left_in_node
        return nr, area.io.room(plug, slot, nr)

    def write(self, task: Task, plug: PlugPort | None, pfns: list[int], versions: list[int]) -> int:
        """Put pages with all they need at hand under writeback; one page table holds each of their slots.

        With a plug they also merge into a request. Returns the first slot; ``versions`` is the pages' content.
        """
        area = self.area
        nr = len(pfns)
        slots = area.slots.alloc(nr, 0 if task.cpu is None else task.cpu.index)
        slot = first = slots[0]
        assert slots[-1] == first + nr - 1
        flags_of, swap_of, count_of = area.frames.flags_of, area.frames.swap_of, area.count_of
        cache_of, version_of = area.cache_of, area.version_of
        if any(area.shadow_of[first : first + nr]):
            self._replace_shadows(first, nr)
        else:
            area.tree.add_run(first, nr)
        for pfn, version in zip(pfns, versions, strict=True):
            cache_of[slot] = pfn + 1
            count_of[slot] += 1
            version_of[slot] = version
            slot += 1
            swap_of[pfn] = slot
            flags_of[pfn] = flags_of[pfn] & ~PG_DIRTY | (PG_SWAPCACHE | PG_RECLAIM | PG_WRITEBACK)
        if area.pages.memcg is not None:
            area.slots.memcg[first : first + nr] = area.frames.memcg[pfns]
        area.vmstat.nr_swapcached += nr
        area.vmstat.nr_file_pages += nr
        area.count_written(pfns)
        if plug is not None:
            area.io.merge(task, plug, first, pfns, versions)
        return first

    def _replace_shadows(self, first: int, nr: int) -> None:
        """Count entries for those of some slots that do not hold a shadow in the place already."""
        shadow_of = self.area.shadow_of
        for slot in range(first, first + nr):
            if shadow_of[slot]:
                shadow_of[slot] = 0
            else:
                self.area.tree.add(slot)
