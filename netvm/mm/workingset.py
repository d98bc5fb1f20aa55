"""How long ago a page was evicted, and what it means that it comes back.

Mirrors mm/workingset.c. Eviction leaves a shadow entry: the age of the lists at that time, counted in pages that have
passed through them, and whether the page had been active. The difference to the age at the refault is how much longer
the inactive list would have had to be to keep the page; if the other lists are longer than that, the page is part of
the working set and is activated at once.
"""

from netvm.mm.frames import PG_ACTIVE, PG_WORKINGSET
from netvm.mm.lru import ACTIVE_ANON, ACTIVE_FILE, INACTIVE_ANON, INACTIVE_FILE, Lruvec

__all__ = ["workingset_refault"]


def workingset_refault(lruvec: Lruvec, pfn: int, shadow: int, *, file: bool, nr_free_slots: int) -> None:
    """Activate a page that comes back sooner than the lists are long (workingset_refault).

    ``shadow`` is the eviction's age * 2 + its workingset bit; anonymous lists count only while swap has free slots.
    """
    vmstat, flags_of = lruvec.vmstat, lruvec.frames.flags_of
    nr_pages = lruvec.nr_pages
    distance = lruvec.nonresident_age - shadow // 2
    size = nr_pages(ACTIVE_FILE) + (0 if file else nr_pages(INACTIVE_FILE))
    if nr_free_slots > 0:
        size += nr_pages(ACTIVE_ANON) + (nr_pages(INACTIVE_ANON) if file else 0)
    active = distance <= size
    restored = active and shadow & 1
    if active:
        flags_of[pfn] |= PG_ACTIVE
        lruvec.nonresident_age += 1
    if restored:
        flags_of[pfn] |= PG_WORKINGSET
        lruvec.note_cost(file=file, nr_pages=1)
    if file:
        vmstat.workingset_refault_file += 1
        vmstat.workingset_activate_file += 1 if active else 0
        vmstat.workingset_restore_file += 1 if restored else 0
    else:
        vmstat.workingset_refault_anon += 1
        vmstat.workingset_activate_anon += 1 if active else 0
        vmstat.workingset_restore_anon += 1 if restored else 0
