"""Migration: what moves with a page, who finds it in its new frame, and which pages stay.

The pages are a program's or a file's, at frames the test says; frames to move to are taken from what boot holds.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netvm.mm.address_space import PTE_YOUNG
from netvm.mm.frames import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_PCP,
    PG_PFMEMALLOC,
    PG_READAHEAD,
    PG_REFERENCED,
    PG_RESERVE,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
    PG_WORKINGSET,
    PG_WRITEBACK,
)
from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.invariants import check_ledger, check_lruvec
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON, INACTIVE_FILE, UNEVICTABLE_LIST
from netvm.mm.memcontrol import MemControl
from netvm.mm.scan_control import SWAP_CLUSTER_MAX, ScanControl
from netvm.runtime.task import Task
from netvm.units import NS_PER_S

P = 1024
TO = P + 512
"""The first of the frames to move to."""

_spec = spec_from_file_location("file_host", Path(__file__).parents[1] / "pagecache" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_files = module_from_spec(_spec)
_spec.loader.exec_module(_files)


def _isolate(host: Any, pfns: list[int]) -> None:
    host.vmscan.compaction.migration.isolate(np.array(pfns, dtype=np.intp))


def _move(host: Any, task: Task, pfns: list[int], *, nr_frames: int = 100) -> tuple[int, bool, list[int]]:
    """Isolate pages and move them to frames from ``TO`` on.

    Returns how many moved, whether frames ran out, and the frames that were put back, to be given out next.
    """
    compaction = host.vmscan.compaction
    owner = compaction.scanners.owner
    free = [pfn for pfn in range(TO, TO + nr_frames) if host.frames.owner_of[pfn] == host.owner_boot][::-1]
    back: list[int] = []

    def new_frame() -> int:
        if not free:
            return -1
        host.ledger.change_owner(host.frames, free[-1], 1, owner)
        return free.pop()

    def put_frame(pfn: int) -> None:
        back.append(pfn)
        free.append(pfn)

    _isolate(host, pfns)
    nr_moved, short = compaction.migration.migrate_pages(task, pfns, new_frame, put_frame)
    for pfn in free:
        host.ledger.change_owner(host.frames, pfn, 1, host.owner_boot)
    assert host.owned("compaction") == 0
    return nr_moved, short, back


def _list(host: Any, lru: int = INACTIVE_ANON) -> list[int]:
    pages: list[int] = host.lruvec.lists[lru].pages().tolist()
    return pages


# -- what moves --------------------------------------------------------------------------------------------------------


def test_the_page_table_points_at_the_new_frame(make_host: Any) -> None:
    """Owner, mapping and index move; the PTE keeps its bits and the page its content, and the old frame is free."""
    host = make_host(free=0)
    task = host.task()
    space = host.program([P, P + 1, P + 2], task)
    space.bits_of[1] = PTE_YOUNG
    versions = space.version.tolist()
    assert _move(host, task, [P + 1, P]) == (2, False, [])
    assert [space.pte_of[vpn] - 1 for vpn in range(3)] == [TO + 1, TO, P + 2]
    assert [host.frames.index_of[pfn] for pfn in (TO + 1, TO)] == [1, 2]
    assert [host.frames.mapping_of[pfn] for pfn in (TO + 1, TO)] == [space.id] * 2
    assert (space.bits_of[1], space.version.tolist()) == (PTE_YOUNG, versions)
    for old in (P, P + 1):
        assert host.frames.flags_of[old] == PG_PCP
        assert not host.frames.mapping_of[old] | host.frames.index_of[old] | host.frames.swap_of[old]
    assert (host.owned("anon"), host.nr_pcp, host.vmstat.pgfree) == (3, 2, 2)
    host.audit()


@pytest.mark.parametrize(
    "flag", [PG_REFERENCED, PG_DIRTY, PG_ACTIVE, PG_WORKINGSET, PG_SWAPBACKED, PG_UNEVICTABLE, PG_READAHEAD]
)
@pytest.mark.parametrize("given", [0, PG_RESERVE, PG_PFMEMALLOC])
def test_flags_move_but_for_those_of_the_allocation(make_host: Any, flag: int, given: int) -> None:
    """How a page stands goes with it; that the old frame came out of the reserve ends with the old frame."""
    host = make_host(free=0)
    task = host.task()
    host.program([P], task)
    _isolate(host, [P])
    host.frames.flags_of[P] = flag | given
    host.lruvec.folio_add_lru(P)
    host.lruvec.lru_add_drain()
    if given & PG_RESERVE:
        host.ledger.drew_reserve(host.memory.owner_anon, 1)
    assert _move(host, task, [P])[0] == 1
    assert host.frames.flags_of[TO] == flag | PG_LRU
    assert host.ledger.reserve_used == 0
    check_ledger(host.ledger, host.frames, host.node.zones)


def test_a_frame_out_of_the_reserve_that_is_kept_stays_so(make_host: Any) -> None:
    """A page that cannot move goes on to hold its page of the reserve."""
    host = make_host(free=0)
    task = host.task()
    host.program([P], task)
    host.frames.flags_of[P] |= PG_RESERVE | PG_LOCKED
    host.ledger.drew_reserve(host.memory.owner_anon, 1)
    assert _move(host, task, [P])[0] == 0
    assert host.ledger.reserve_used == 1
    check_ledger(host.ledger, host.frames, host.node.zones)


async def _swapped_out(host: Any, task: Task, nr_pages: int) -> None:
    """Write pages to swap until so many are on the device; they stay in the swap cache."""
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
    plug = host.swap.start_plug(task)
    while host.vmstat.pswpout < nr_pages:
        await host.shrinker.shrink_inactive_list(task, host.lruvec, SWAP_CLUSTER_MAX, sc, plug)
    plug.finish()
    await host.pause(task, NS_PER_S)
    host.lruvec.lru_add_drain()


def test_the_swap_cache_points_at_the_new_frame(make_host: Any) -> None:
    """A page between device and page table is found by its slot, and is mapped without a read."""
    host = make_host(free=400, swap_pages=256, marks=(4, 5, 6))
    pfns = list(range(P + 448, P + 448 + 20))

    async def body(task: Task) -> None:
        space = host.program(pfns, task)
        space.bits[:] &= np.uint8(0xFF & ~PTE_YOUNG)
        await _swapped_out(host, task, 20)
        assert len(space.swapped()) == 20
        slot = -space.pte_of[7] - 1
        assert host.swap.cache_of[slot] == pfns[7] + 1
        assert _move(host, task, pfns) == (20, False, [])
        assert host.swap.cache_of[slot] == TO + 7 + 1
        assert (host.frames.swap_of[TO + 7], host.frames.swap_of[pfns[7]]) == (slot + 1, 0)
        assert await host.memory.touch_run(task, space, 0, 20, write=False)
        assert space.pte.tolist() == [pfn + 1 for pfn in range(TO, TO + 20)]

    host.run(body)
    assert (host.vmstat.pswpin, host.swap.corrupt) == (0, [])
    host.audit()


def test_what_was_moved_is_written_and_read_back_right(make_host: Any) -> None:
    """Pages that moved go out to swap from their new frames, are freed there, and come back with their content."""
    host = make_host(free=400, swap_pages=256, marks=(4, 5, 6))
    pfns = list(range(P + 448, P + 448 + 40))

    async def body(task: Task) -> None:
        space = host.program(pfns, task)
        space.bits[:] &= np.uint8(0xFF & ~PTE_YOUNG)
        assert _move(host, task, pfns)[0] == 40
        await _swapped_out(host, task, 40)
        slots = (-space.pte - 1).tolist()
        assert [host.device.store[slot] for slot in slots] == space.version.tolist()
        await host.shrinker.shrink_inactive_list(
            task, host.lruvec, 40, ScanControl(gfp=GFP_KERNEL, order=0, priority=0), host.swap.start_plug(task)
        )
        assert await host.memory.touch_run(task, space, 0, 40, write=False)

    host.run(body)
    assert host.vmstat.pswpin >= 40
    assert host.swap.corrupt == []
    host.audit()


def test_the_file_points_at_the_new_frame() -> None:
    """A file's page is found by its index; it is written from the new frame, and read again."""
    host = _files.FileHost(free=400)
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 6)
        host.lruvec.lru_add_drain()
        pfns = (mapping.pfn[1:4] - 1).tolist()
        assert _move(host, task, pfns)[0] == 3
        assert (mapping.pfn[1:4] - 1).tolist() == [TO, TO + 1, TO + 2]
        assert host.frames.flags_of[TO] & PG_DIRTY
        host.lruvec.lru_add_drain()
        assert set(_list(host, INACTIVE_FILE)) >= {TO, TO + 1, TO + 2}
        await host.cache.fsync(task, mapping)
        assert not host.frames.flags_of[TO] & (PG_DIRTY | PG_WRITEBACK)
        assert all(fs.store[mapping.id, index] for index in range(6))

    host.run(body)
    host.audit()


def test_a_page_of_a_memory_group_stays_charged(make_host: Any) -> None:
    """The charge goes from frame to frame: usage is the same, and the page is on its group's list."""
    host = make_host(free=0)
    memcg = MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes)
    group = memcg.create("g", limit_pages=64, may_swap=True)
    task = host.task()
    host.program([P, P + 1], task)
    _isolate(host, [P])
    host.frames.memcg_of[P] = group.id
    group.usage_pages = 1
    group.lruvec.folio_add_lru(P)
    host.lruvec.lru_add_drain()
    assert _move(host, task, [P, P + 1])[0] == 2
    assert (host.frames.memcg_of[P], host.frames.memcg_of[TO], host.frames.memcg_of[TO + 1]) == (0, group.id, 0)
    assert group.lruvec.lists[INACTIVE_ANON].pages().tolist() == [TO]
    assert _list(host) == [TO + 1]
    host.audit()


# -- the lists afterwards ----------------------------------------------------------------------------------------------


def test_moved_pages_are_the_newest_of_their_list(make_host: Any) -> None:
    """In the order in which they moved, then those that stayed in theirs; the rest of the list is as it was."""
    host = make_host(free=0)
    task = host.task()
    host.program([P + i for i in range(6)], task)
    host.frames.flags_of[P + 1] |= PG_LOCKED
    host.frames.flags_of[P + 2] |= PG_LOCKED
    _move(host, task, [P + 4, P + 2, P, P + 1])
    assert _list(host) == [P + 3, P + 5, TO, TO + 1]
    host.lruvec.lru_add_drain()
    assert _list(host) == [P + 3, P + 5, TO, TO + 1, P + 2, P + 1]


@pytest.mark.parametrize(("mapped", "listed"), [(True, [TO]), (False, [])])
def test_a_mapped_page_is_on_its_list_at_once(make_host: Any, mapped: bool, listed: list[int]) -> None:
    """Whoever maps it wants it to be found; another waits in the batch, as every new page."""
    host = make_host(free=0)
    task = host.task()
    if mapped:
        host.program([P], task)
    else:
        assert host.lru_pages(1).tolist() == [P]
    _move(host, task, [P])
    assert _list(host) == listed
    assert host.lruvec.batched == ([] if mapped else [TO])


@pytest.mark.parametrize(
    ("flag", "lru"), [(0, INACTIVE_ANON), (PG_ACTIVE, ACTIVE_ANON), (PG_UNEVICTABLE, UNEVICTABLE_LIST)]
)
@pytest.mark.parametrize("stays", [False, True])
def test_a_page_comes_back_to_its_own_list(make_host: Any, flag: int, lru: int, stays: bool) -> None:
    """Active pages stay active and unevictable ones unevictable, whether they moved or not."""
    host = make_host(free=0)
    task = host.task()
    host.program([P, P + 1], task)
    _isolate(host, [P])
    host.frames.flags_of[P] |= flag | (PG_LOCKED if stays else 0)
    host.lruvec.folio_add_lru(P)
    host.lruvec.lru_add_drain()
    _move(host, task, [P])
    host.lruvec.lru_add_drain()
    assert _list(host, lru)[-1] == (P if stays else TO)
    check_lruvec(host.lruvec, host.frames)


# -- pages that stay ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["locked", "writeback", "pinned", "rotated"])
def test_a_page_that_somebody_holds_stays(make_host: Any, why: str) -> None:
    """It is put back as it was and counted as failed; the frame it was given is there for the next one."""
    host = make_host(free=0)
    task = host.task()
    space = host.program([P, P + 1, P + 2], task)
    if why == "pinned":
        host.frames.pins_of[P + 1] = 1
    elif why == "rotated":
        host.lruvec.folio_rotate_reclaimable([P + 1])
    else:
        host.frames.flags_of[P + 1] |= PG_LOCKED if why == "locked" else PG_WRITEBACK
    before = host.frames.flags_of[P + 1]
    assert _move(host, task, [P, P + 1, P + 2]) == (2, False, [TO + 1])
    host.lruvec.lru_add_drain()
    assert space.pte.tolist() == [TO + 1, P + 2, TO + 2]
    assert host.frames.flags_of[P + 1] == before
    assert (host.vmstat.pgmigrate_success, host.vmstat.pgmigrate_fail) == (2, 1)
    host.audit()


def test_a_page_in_the_swap_cache_that_is_pinned_stays(make_host: Any) -> None:
    """Its slot goes on to point at it."""
    host = make_host(free=400, swap_pages=64, marks=(4, 5, 6))

    async def body(task: Task) -> None:
        host.program([P + 500], task)
        assert host.swap.add_to_swap(task, [P + 500]) == 1
        host.frames.pins_of[P + 500] = 1
        assert _move(host, task, [P + 500])[0] == 0
        assert host.swap.cache_of[host.frames.swap_of[P + 500] - 1] == P + 501
        assert host.frames.flags_of[P + 500] & PG_SWAPCACHE
        host.lruvec.lru_add_drain()

    host.run(body)
    host.audit()


def test_a_page_its_file_system_keeps_something_with_stays() -> None:
    """An NFS page with a request does not move; one whose request has ended does."""
    host = _files.FileHost(free=400)
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 3)
        host.lruvec.lru_add_drain()
        pfns = (mapping.pfn[:3] - 1).tolist()
        fs.private = {pfns[1]}
        assert [host.files.may_migrate(pfn) for pfn in pfns] == [True, False, True]
        assert _move(host, task, pfns)[0] == 2
        assert int(mapping.pfn[1]) - 1 == pfns[1]
        fs.private = set()
        host.lruvec.lru_add_drain()
        assert _move(host, task, [pfns[1]])[0] == 1

    host.run(body)
    assert (host.vmstat.pgmigrate_success, host.vmstat.pgmigrate_fail) == (3, 1)


def test_without_frames_the_first_fails_and_all_are_put_back(make_host: Any) -> None:
    """Those behind it were not tried: they are not counted, and nothing is lost off the lists."""
    host = make_host(free=0)
    task = host.task()
    space = host.program([P + i for i in range(5)], task)
    assert _move(host, task, [P + i for i in range(5)], nr_frames=2) == (2, True, [])
    host.lruvec.lru_add_drain()
    assert (space.pte - 1).tolist() == [TO, TO + 1, P + 2, P + 3, P + 4]
    assert _list(host) == [TO, TO + 1, P + 2, P + 3, P + 4]
    assert (host.vmstat.pgmigrate_success, host.vmstat.pgmigrate_fail) == (2, 1)
    host.audit()


def test_what_moving_costs(make_host: Any) -> None:
    """A page that moves is copied; one that stays is looked at and put back."""
    host = make_host(free=0)
    task = host.task()
    host.program([P, P + 1, P + 2], task)
    host.frames.flags_of[P + 1] |= PG_LOCKED
    before_ns = task.charge_ns
    _move(host, task, [P, P + 1, P + 2])
    costs = host.costs
    moved_ns = costs.scan_keep + costs.copy_page + costs.scan_free
    assert task.charge_ns - before_ns == 2 * moved_ns + costs.scan_keep


# -- the batch of pages to rotate --------------------------------------------------------------------------------------


def test_the_pages_that_wait_to_be_rotated(make_host: Any) -> None:
    """Fourteen wait, of all groups together; the fifteenth has all of its group's moved, and a drain the rest."""
    host = make_host(free=0)
    memcg = MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes)
    group = memcg.create("g", limit_pages=64, may_swap=True)
    pages = host.lru_pages(20).tolist()
    theirs = pages[16:]
    _isolate(host, theirs)
    for pfn in theirs:
        host.frames.memcg_of[pfn] = group.id
        group.lruvec.folio_add_lru(pfn)
    host.lruvec.lru_add_drain()
    host.lruvec.folio_rotate_reclaimable([pages[1], theirs[0], pages[0]])
    assert sorted(host.lruvec.rotating) == sorted([pages[0], pages[1], theirs[0]])
    assert group.lruvec.rotating == [theirs[0]]
    host.lruvec.folio_rotate_reclaimable(pages[2:15])
    assert host.lruvec.rotating == [theirs[0]]
    host.lruvec.lru_add_drain()
    assert host.lruvec.rotating == []
