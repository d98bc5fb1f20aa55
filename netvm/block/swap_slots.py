"""Swap slots: the map of who uses them, and the clusters and caches they come from.

Mirrors mm/swapfile.c (``get_swap_pages``, ``scan_swap_map_slots``) and mm/swap_slots.c of 6.1 for one device.

Slots come in batches of 64 through a per-cpu cache; the allocator hands them out cluster by cluster (256 slots),
sequentially within one, from a list that starts at a random column at swapon. Each CPU has a cluster of its own. A
freed slot is not reusable until 64 others were freed. So consecutive pages swapped out get consecutive slots, merge
into requests, and can be read back by one readahead window.

# MODEL: freed slots are collected in one return cache, not one a CPU: at most 64 slots a CPU come back sooner.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.runtime.seeds import Stream

__all__ = ["SWAPFILE_CLUSTER", "SwapSlots"]

SWAPFILE_CLUSTER: Final = 256
SWAP_CLUSTER_COLS: Final = 64
SWAP_SLOTS_CACHE_SIZE: Final = 64


@dataclass(slots=True)
class _PerCpu:
    """A CPU's slot cache, and where it takes more from (swp_slots, percpu_cluster)."""

    slots: list[int] = field(default_factory=list)
    taken: int = 0
    """How many of them have been handed out."""
    current: int = -1
    next: int = 0


class SwapSlots:
    """The slots of one swap device; slot 0 is its header."""

    def __init__(self, nr_pages: int, *, random: Stream) -> None:
        self.nr_total = nr_pages - 1
        self.nr_free = self.nr_total
        """nr_swap_pages: slots in neither cache nor use."""
        self.count: npt.NDArray[np.uint8] = np.zeros(nr_pages, dtype=np.uint8)
        """swap_map: references from page tables."""
        self.memcg: npt.NDArray[np.uint8] = np.zeros(nr_pages, dtype=np.uint8)
        """swap_cgroup: memory group of the page that was last put in the swap cache with this slot."""
        self.taken: npt.NDArray[np.bool_] = np.zeros(nr_pages, dtype=np.bool_)
        """Handed out of the allocator (in use, in the swap cache, or in one of the slot caches)."""
        nr_clusters = -(-nr_pages // SWAPFILE_CLUSTER)
        self._cluster_used = [0] * nr_clusters
        self._cluster_used[0] = 1
        self.taken[0] = True
        self._free_clusters: deque[int] = deque()
        column = random.below(SWAP_CLUSTER_COLS)
        for j in range(SWAP_CLUSTER_COLS):
            start = (column + j) % SWAP_CLUSTER_COLS
            self._free_clusters += [c for c in range(start, nr_clusters, SWAP_CLUSTER_COLS) if c]
        self._percpu: dict[int, _PerCpu] = {}
        self._slots_return: list[int] = []

    def is_full(self) -> bool:
        """Return vm_swap_full(): less than half is free."""
        return self.nr_free * 2 < self.nr_total

    def alloc(self, nr: int, cpu: int = 0) -> list[int]:
        """Take slots from a CPU's cache, refilling it by batches (folio_alloc_swap)."""
        own = self._percpu.get(cpu)
        if own is None:
            own = self._percpu[cpu] = _PerCpu()
        slots = own.slots[own.taken : own.taken + nr]
        own.taken += len(slots)
        while len(slots) < nr:
            own.slots, own.taken = self._get_swap_pages(SWAP_SLOTS_CACHE_SIZE, own), 0
            if not own.slots:
                break
            own.taken = min(nr - len(slots), len(own.slots))
            slots += own.slots[: own.taken]
        return slots

    def upcoming(self, nr: int, cpu: int = 0) -> tuple[int, int]:
        """Return the slot that a CPU's cache gives next, and how many consecutive ones it begins, up to ``nr``."""
        own = self._percpu.get(cpu)
        if own is None or own.taken == len(own.slots):
            return 0, 0
        slots = own.slots[own.taken : own.taken + nr]
        first = slots[0]
        while slots != list(range(first, first + len(slots))):
            slots.pop()
        return first, len(slots)

    def free(self, slots: Sequence[int]) -> None:
        """Queue unused slots; 64 go back to their clusters at once (free_swap_slot)."""
        if len(self._slots_return) + len(slots) <= SWAP_SLOTS_CACHE_SIZE:
            self._slots_return += slots
            return
        room = SWAP_SLOTS_CACHE_SIZE - len(self._slots_return)
        self._slots_return += slots[:room]
        for start in range(room, len(slots), SWAP_SLOTS_CACHE_SIZE):
            self._swapcache_free_entries()
            self._slots_return += slots[start : start + SWAP_SLOTS_CACHE_SIZE]

    def _swapcache_free_entries(self) -> None:
        slots, self._slots_return = self._slots_return, []
        self.taken[slots] = False
        self.nr_free += len(slots)
        for slot in slots:
            cluster = slot // SWAPFILE_CLUSTER
            self._cluster_used[cluster] -= 1
            if not self._cluster_used[cluster] and all(cluster != own.current for own in self._percpu.values()):
                self._free_clusters.append(cluster)

    def _get_swap_pages(self, nr: int, own: _PerCpu) -> list[int]:
        """Take up to ``nr`` slots from the clusters (get_swap_pages, scan_swap_map_slots)."""
        found: list[int] = []
        while len(found) < nr and self.nr_free > len(found):
            if own.current < 0 and not self._next_cluster(own):
                break
            end = min((own.current + 1) * SWAPFILE_CLUSTER, len(self.taken))
            free = np.flatnonzero(~self.taken[own.next : end])[: nr - len(found)]
            if not len(free):
                own.current = -1
                continue
            slots = (free + own.next).tolist()
            self._cluster_used[own.current] += len(slots)
            self.taken[slots] = True
            found += slots
            own.next = slots[-1] + 1
            if own.next >= end:
                own.current = -1
        self.nr_free -= len(found)
        return found

    def _next_cluster(self, own: _PerCpu) -> bool:
        """Go on to a free cluster, else to any with room."""
        if self._free_clusters:
            own.current = self._free_clusters.popleft()
        else:
            free = np.flatnonzero(~self.taken)
            if not len(free):
                return False
            own.current = int(free[0]) // SWAPFILE_CLUSTER
        own.next = own.current * SWAPFILE_CLUSTER
        return True
