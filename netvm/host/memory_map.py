"""Memory as boot lays it out: zones, their marks, free blocks, and what boot holds.

Takes the tables ``[machine]``, ``[vm]`` and ``[kernel]`` of a scenario and makes the frames, the zones with their
watermarks (``min_free_kbytes``, ``watermark_scale_factor``, ``lowmem_reserve_ratio``), the per-cpu lists, and free
blocks on the buddy's lists: those of a recorded buddyinfo, or the fewest that make up what is free.

What the machine holds before the scenario begins (kernel image, programs, page tables of boot) is one block of frames
with the owner ``boot``, low in the zone, that never comes back. Rings, slabs and idle programs get their pages out of
it (:meth:`MemoryMap.set_aside`).

# MODEL: free memory at the start. Without a recorded buddyinfo it is one run of largest blocks. Which migrate types
# its pageblocks have is not recorded; hang dumps of the recorded machines show one partly used pageblock of UNMOVABLE
# and one of RECLAIMABLE among MOVABLE ones, so boot leaves that: free blocks of pageblock order -1, -2, -4 in the
# first, and -1, -3, -4 in the second.
"""

from typing import Any, Final

from netvm.errors import UsageError
from netvm.fixes import Fixes
from netvm.mm.buddy import Buddy
from netvm.mm.frames import PG_PCP, Frames
from netvm.mm.ledger import FREE, PCP, Ledger
from netvm.mm.zone import (
    MAX_ORDER,
    MOVABLE,
    NR_PCPTYPES,
    PAGE_ALLOC_COSTLY_ORDER,
    RECLAIMABLE,
    UNMOVABLE,
    PerCpuPages,
    Zone,
    calculate_min_free_kbytes,
    setup_lowmem_reserve,
    setup_watermarks,
    zone_batchsize,
)
from netvm.trace.vmstat import VmStat
from netvm.units import MIB, PAGE_SIZE

__all__ = ["PAGES_PER_MIB", "MemoryMap", "default_zones", "zone_report"]

PAGES_PER_MIB: Final = MIB // PAGE_SIZE
DMA32_END_MIB: Final = 4096
UNMOVABLE_BLOCKS: Final = (1, 2, 4)
"""Orders below the pageblock's of the free blocks in the partly used UNMOVABLE pageblock."""
RECLAIMABLE_BLOCKS: Final = (1, 3, 4)
LISTS_OF_BOOT: Final = ((1, UNMOVABLE), (1, RECLAIMABLE), (2, UNMOVABLE), (2, RECLAIMABLE), (3, UNMOVABLE))
"""Per-cpu lists, by order and migrate type, that the slabs in the recorded kernel's slabinfo are refilled from."""
RESERVED_SHARE: Final = 0.19
"""Share of RAM that the recorded kernel's image and boot-time tables take (not managed)."""
BOOT_HELD_PAGES: Final = 7640
"""Managed pages that the recorded machine's programs, slab and ring hold at the start."""
NORMAL_HELD_PAGES: Final = 2048
"""Managed pages above 4 GiB in use at the start: two pageblocks of kernel objects, and the edges of the zone."""
BIOS_HOLE_PAGES: Final = 97
"""640 KiB to 1 MiB: spanned by the lowest zone and not present."""


class _ZonePlan:
    """One zone before it exists."""

    __slots__ = ("buddyinfo", "free", "managed", "name", "pcp_pages", "present")

    def __init__(self, name: str, present: int, managed: int, free: int, buddyinfo: list[int], pcp_pages: int) -> None:
        self.name = name
        self.present = present
        self.managed = managed
        self.free = free
        self.buddyinfo = buddyinfo
        self.pcp_pages = pcp_pages


def default_zones(ram_mib: int, reserved_pages: int | None) -> list[tuple[str, int, int, int]]:
    """Return ``(name, present, managed, free)`` of the zones of a machine that does not list its own.

    One page in 64 holds the ``struct page``s of its zone (memmap) and is not managed.
    """
    total = ram_mib * PAGES_PER_MIB
    low = min(total, DMA32_END_MIB * PAGES_PER_MIB)
    reserved = min(int(low * RESERVED_SHARE), 4700 + low // 64) if reserved_pages is None else reserved_pages
    held = min(BOOT_HELD_PAGES, low // 3)
    zones = [("DMA32", low, max(low - reserved, 1), max(low - reserved - held, 0))]
    if total > low:
        high = total - low
        managed = high - high // 64
        zones.append(("Normal", high, managed, max(managed - NORMAL_HELD_PAGES, 0)))
    return zones


def _plans(machine: Any) -> list[_ZonePlan]:
    if machine.zones:
        return [
            _ZonePlan(
                zone.name,
                zone.present_pages,
                zone.managed_pages,
                _free_of(zone),
                list(zone.buddyinfo),
                zone.pcp_pages,
            )
            for zone in machine.zones
        ]
    return [
        _ZonePlan(name, present, managed, free, [], 0)
        for name, present, managed, free in default_zones(machine.ram_mib, machine.reserved_pages)
    ]


def _spans(plans: list[_ZonePlan]) -> list[range]:
    """Return the frames each zone spans: the lowest from frame 1 on, the others from a largest block's boundary."""
    spans: list[range] = []
    for plan in plans:
        if spans:
            start = -(-spans[-1].stop >> MAX_ORDER) << MAX_ORDER
            spans.append(range(start, start + plan.present))
        else:
            spans.append(range(1, 1 + plan.present + BIOS_HOLE_PAGES))
    return spans


def _free_of(zone: Any) -> int:
    if zone.buddyinfo:
        return sum(int(count) << order for order, count in enumerate(zone.buddyinfo))
    if zone.free_pages is not None:
        return int(zone.free_pages)
    return max(0, int(zone.managed_pages) - BOOT_HELD_PAGES)


class MemoryMap:
    """A machine's memory on the way up."""

    def __init__(self, options: Any, *, fixes: Fixes, ledger: Ledger, vmstat: VmStat) -> None:
        self.options = options
        self.fixes = fixes
        self.ledger = ledger
        self.owner_boot = ledger.owner("boot")
        plans = _plans(options.machine)
        # frame 0 is never managed, and neither is the BIOS's hole below 1 MiB
        self.frames = Frames(_spans(plans)[-1].stop)
        self.buddy = Buddy(self.frames, ledger, vmstat, fixes, boost_factor=options.vm.watermark_boost_factor)
        self._boot_cursor: list[tuple[int, int]] = []
        """Runs of frames that boot holds, from which rings and slabs are set aside."""
        self.zones = self._lay_out(plans)
        self._recorded_free = [zone.free_pages or 0 for zone in options.machine.zones]

    def _lay_out(self, plans: list[_ZonePlan]) -> list[Zone]:
        """Lay out the zones, their free blocks and marks."""
        zones = [
            Zone(
                name=plan.name,
                start_pfn=span.start,
                spanned=len(span),
                present=plan.present,
                managed=plan.managed,
                pageblock_order=self.options.kernel.pageblock_order,
                fixes=self.fixes,
            )
            for plan, span in zip(plans, _spans(plans), strict=True)
        ]
        vm = self.options.vm
        init_pages = self.options.machine.boot.init_pages
        highest = [zone for zone in zones if zone.name != "Movable"][-1]
        if init_pages >= highest.managed:
            raise UsageError(
                f"machine.boot.init_pages = {init_pages}: must be less than {highest.managed}, "
                f"the managed pages of zone {highest.name}"
            )
        if vm.min_free_kbytes:
            # a sysctl that is written has the marks computed anew
            init_pages = 0
        setup_watermarks(
            zones,
            min_free_kbytes=vm.min_free_kbytes or calculate_min_free_kbytes(sum(z.managed for z in zones) - init_pages),
            scale_factor=vm.watermark_scale_factor,
            fixes=self.fixes,
            init_pages=init_pages,
        )
        names = ("DMA", "DMA32", "Normal", "Movable")
        setup_lowmem_reserve(zones, dict(zip(names, vm.lowmem_reserve_ratio, strict=False)))
        for zone, plan in zip(zones, plans, strict=True):
            self._per_cpu_pages(zone)
            self._free_blocks(zone, plan)
        return zones

    def _per_cpu_pages(self, zone: Zone) -> None:
        nr_cpus = self.options.machine.cpus
        batch = zone_batchsize(zone.managed)
        fraction = self.options.vm.percpu_pagelist_high_fraction
        high = zone.managed // fraction // nr_cpus if fraction else zone.watermark[1] // nr_cpus
        zone.pcp = [PerCpuPages(batch, max(high, 4 * batch)) for _ in range(nr_cpus)]

    def _free_blocks(self, zone: Zone, plan: _ZonePlan) -> None:
        """Put the free memory of the start on the lists; boot holds the rest of what is managed."""
        self.ledger.counts[self.owner_boot] += zone.managed
        if plan.buddyinfo:
            blocks = [order for order in range(len(plan.buddyinfo) - 1, -1, -1) for _ in range(plan.buddyinfo[order])]
        else:
            blocks = _orders_of(plan.free)
        free = sum(1 << order for order in blocks)
        unplaced = self._place(zone, blocks)
        if unplaced is not None:
            if plan.buddyinfo:
                raise UsageError(
                    f"machine.zones ({zone.name}): free blocks do not fit in {zone.present} present pages; "
                    f"the first that does not is of order {unplaced}"
                )
            self._place_together(zone, free)
        zone.nr_free = 0
        for lists in zone.free_lists:
            for free_list in lists:
                for pfn in free_list:
                    zone.nr_free += 1 << (self.frames.block_of[pfn] & 0x0F)
        assert zone.nr_free == free, f"zone {zone.name}: placed {zone.nr_free} of {free} free pages"
        self.ledger.counts[FREE] += free
        self.ledger.counts[self.owner_boot] -= free
        self._own_what_is_not_free(zone)
        if plan.pcp_pages:
            self._fill_pcp(zone, plan.pcp_pages)

    def _own_what_is_not_free(self, zone: Zone) -> None:
        """Give boot the frames between the free blocks; those of free blocks are FREE, which is zero, already."""
        owner = self.frames.owner
        end = zone.start_pfn
        for pfn in sorted(pfn for lists in zone.free_lists for free_list in lists for pfn in free_list):
            owner[end:pfn] = self.owner_boot
            end = pfn + (1 << (self.frames.block_of[pfn] & 0x0F))
        owner[end : zone.end_pfn] = self.owner_boot

    def _place(self, zone: Zone, blocks: list[int]) -> int | None:
        """Place free blocks from the top of the zone down, so that no two free buddies touch.

        Returns the order of the first that does not fit; those before it are on the lists then.
        """
        pageblock = 1 << zone.pageblock_order
        special = self._kernel_pageblocks(zone, blocks)
        cursor = zone.end_pfn
        for order in blocks:
            size = 1 << order
            start = (cursor - size) & -size
            if order < MAX_ORDER and self._buddy_is_free(zone, start, order):
                start -= size
            if start < zone.start_pfn:
                return order
            self.buddy.pageblocks.add_block(zone, start, order, MOVABLE, tail=True)
            cursor = min(cursor, start)
        for migratetype, orders in special:
            cursor &= -pageblock
            block = cursor - pageblock
            if block < zone.start_pfn:
                # no room for a pageblock of their own: they stay movable
                migratetype, block = MOVABLE, zone.start_pfn & -pageblock
            zone.set_pageblock_type(max(block, zone.start_pfn), migratetype)
            end = cursor
            for order in orders:
                end = (end - (1 << order)) & -(1 << order)
                if end < zone.start_pfn:
                    return order
                self.buddy.pageblocks.add_block(zone, end, order, migratetype, tail=True)
            cursor = block
        self._boot_cursor.append((zone.start_pfn, max(zone.start_pfn, cursor & -8)))
        return None

    def _place_together(self, zone: Zone, nr_pages: int) -> None:
        """Let all that is free lie at the top of the zone, where it fits however little else there is.

        Blocks that have been placed so far are taken back.
        """
        for lists in zone.free_lists:
            for free_list in lists:
                for pfn in list(free_list):
                    self.buddy.pageblocks.del_block(zone, pfn)
        zone.pageblocks = bytearray([MOVABLE]) * len(zone.pageblocks)
        pfn = start = zone.end_pfn - nr_pages
        while pfn < zone.end_pfn:
            order = min(MAX_ORDER, (pfn & -pfn).bit_length() - 1, (zone.end_pfn - pfn).bit_length() - 1)
            self.buddy.pageblocks.add_block(zone, pfn, order, MOVABLE, tail=True)
            pfn += 1 << order
        self._boot_cursor.append((zone.start_pfn, max(zone.start_pfn, start & -8)))

    def _kernel_pageblocks(self, zone: Zone, blocks: list[int]) -> list[tuple[int, list[int]]]:
        """Take out of the list what lies in the partly used UNMOVABLE and RECLAIMABLE pageblocks."""
        top = zone.pageblock_order
        if zone.managed < 8 << top or zone.name == "Movable":
            return []
        found = []
        for migratetype, below in ((UNMOVABLE, UNMOVABLE_BLOCKS), (RECLAIMABLE, RECLAIMABLE_BLOCKS)):
            orders = []
            for less in below:
                order = top - less
                if order >= 0:
                    self._make_block(blocks, order)
                if order in blocks:
                    blocks.remove(order)
                    orders.append(order)
            found.append((migratetype, orders))
        return found

    @staticmethod
    def _make_block(blocks: list[int], order: int) -> None:
        """Split a larger block of the list if it has none of this order."""
        if order in blocks:
            return
        larger = [o for o in blocks if o > order]
        if not larger:
            return
        split = min(larger)
        blocks.remove(split)
        blocks += [*range(order, split), order]
        blocks.sort(reverse=True)

    def _buddy_is_free(self, zone: Zone, start: int, order: int) -> bool:
        buddy = start ^ (1 << order)
        return buddy >= zone.start_pfn and any(buddy in lists for lists in zone.free_lists[order])

    def _fill_pcp(self, zone: Zone, nr_pages: int) -> None:
        """Put pages on CPU 0's lists, out of what boot holds, so that free stays as recorded.

        A list of blocks is refilled by two at a time, so between two refills it has one: such a block is on each list
        that boot's slabs and stacks take from, as far as the pages go. The rest are single pages that programs freed.
        """
        left = nr_pages
        for order, migratetype in LISTS_OF_BOOT:
            if left >= 1 << order:
                self._put_on_pcp(zone, order, migratetype, 1)
                left -= 1 << order
        self._put_on_pcp(zone, 0, MOVABLE, left)

    def _put_on_pcp(self, zone: Zone, order: int, migratetype: int, nr_blocks: int) -> None:
        pcp = zone.pcp[0]
        # the zone that is being laid out is the last one
        pfns = self._held_by_boot(-1, nr_blocks, order)
        nr_pages = len(pfns) << order
        for pfn in pfns:
            self.frames.owner[pfn : pfn + (1 << order)] = PCP
            self.frames.flags_of[pfn] = PG_PCP
            self.frames.block_of[pfn] = migratetype
            pcp.lists[order * NR_PCPTYPES + migratetype].append(pfn)
        pcp.count += nr_pages
        self.ledger.counts[self.owner_boot] -= nr_pages
        self.ledger.counts[PCP] += nr_pages

    def restore_free(self) -> None:
        """Let free memory be what was recorded, which was when the storage was connected, out of what boot holds."""
        for index, free in enumerate(self._recorded_free):
            zone = self.zones[index]
            for order in range(PAGE_ALLOC_COSTLY_ORDER, -1, -1):
                for pfn in self._held_by_boot(index, (free - zone.nr_free) >> order, order):
                    self.ledger.change_owner(self.frames, pfn, 1 << order, FREE)
                    self.buddy.free_one_page(zone, pfn, order, zone.pageblock_type(pfn))

    def _held_by_boot(self, index: int, nr_blocks: int, order: int) -> list[int]:
        """Take up to so many blocks of a zone out of what boot holds, lowest first."""
        size = 1 << order
        start, end = self._boot_cursor[index]
        start = (start + size - 1) & -size
        # frames that are neither free nor managed lie there too
        nr_blocks = min(nr_blocks, self.ledger.counts[self.owner_boot] >> order)
        taken = range(start, end - size + 1, size)[: max(nr_blocks, 0)]
        self._boot_cursor[index] = (start + len(taken) * size, end)
        return list(taken)

    def set_aside(self, nr_blocks: int, order: int) -> list[int]:
        """Take blocks out of what boot holds, lowest first; the caller changes their owner."""
        taken: list[int] = []
        for index in range(len(self._boot_cursor)):
            taken += self._held_by_boot(index, nr_blocks - len(taken), order)
            if len(taken) == nr_blocks:
                break
        if min(len(taken), self.ledger.counts[self.owner_boot] >> order) < nr_blocks:
            raise UsageError(
                f"machine.ram_mib = {self.options.machine.ram_mib}: too little is held at boot for the RX ring and "
                "slabs; give the machine more memory or less that is free"
            )
        return taken

    def own_blocks(self, pfns: list[int], order: int, owner: int) -> None:
        """Hand blocks from boot to another owner."""
        for pfn in pfns:
            self.ledger.change_owner(self.frames, pfn, 1 << order, owner)
            self.frames.block_of[pfn] = order


def zone_report(zone: Zone, options: Any) -> dict[str, Any]:
    """Return a zone's figures as /proc/zoneinfo prints them at boot."""
    has_dma = any(z.name == "DMA" for z in options.machine.zones)
    protection = list(zone.lowmem_reserve)
    protection = [*protection, protection[-1]] if has_dma else protection[1:]
    return {
        "name": zone.name,
        "managed": zone.managed,
        "min": zone.watermark[0],
        "low": zone.watermark[1],
        "high": zone.watermark[2],
        "protection": protection,
    }


def _orders_of(nr_pages: int) -> list[int]:
    """Return the fewest blocks that make up so many pages, largest first."""
    orders = [MAX_ORDER] * (nr_pages >> MAX_ORDER)
    orders += [order for order in range(MAX_ORDER - 1, -1, -1) if nr_pages & (1 << order)]
    return orders
