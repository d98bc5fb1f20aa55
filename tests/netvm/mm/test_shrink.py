"""What reclaim does with a page: keep, activate, write, free; and that a batch is its pages one by one.

The device is held where a write must stay under way.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE, PTE_YOUNG
from netvm.mm.frames import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_PCP,
    PG_RECLAIM,
    PG_REFERENCED,
    PG_SWAPCACHE,
    PG_WORKINGSET,
    PG_WRITEBACK,
)
from netvm.mm.gfp import GFP_IO, GFP_KERNEL, GFP_NOFS, GFP_NOIO
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON
from netvm.mm.scan_control import ScanControl
from netvm.units import NS_PER_MS, NS_PER_S


async def _scan(host, task, nr: int = 32, *, gfp: int = GFP_KERNEL, **control) -> ScanControl:
    """Scan one batch of the inactive list; return what was found."""
    sc = ScanControl(gfp=gfp, order=0, priority=0, **control)
    plug = host.swap.start_plug(task)
    sc.nr_reclaimed = await host.shrinker.shrink_inactive_list(task, host.lruvec, nr, sc, plug)
    plug.finish()
    return sc


def _list(host, lru: int = INACTIVE_ANON) -> list[int]:
    return host.lruvec.lists[lru].pages().tolist()


def _frames(space) -> list[int]:
    return (space.pte - 1).tolist()


def _flags(host, pfn: int) -> int:
    """Return a page's flags without those that say where it lies."""
    return host.frames.flags_of[pfn] & ~0x40


def _run(make_host, body, **options):
    host = make_host(**({"swap_pages": 1024, "marks": (1, 2, 3)} | options))

    async def wrapped(task):
        await body(host, task)

    host.run(wrapped)
    host.audit()
    return host


# -- one page's life ---------------------------------------------------------------------------------------------------


def test_a_page_used_since_the_last_look_is_kept(make_host) -> None:
    """Young: the accessed bit is cleared, PG_referenced is set, and it goes to the inactive head."""

    async def body(host, task):
        space = await host.mapped(task, 4)
        frames = _frames(space)
        sc = await _scan(host, task, 2)
        assert (sc.nr_reclaimed, sc.nr_scanned, sc.nr_taken, sc.nr_ref_keep) == (0, 2, 2, 2)
        assert _list(host) == [*frames[2:], *frames[:2]]
        assert space.bits.tolist() == [PTE_WRITE | PTE_DIRTY] * 2 + [PTE_WRITE | PTE_DIRTY | PTE_YOUNG] * 2
        assert [_flags(host, pfn) for pfn in frames] == [PG_LRU | PG_REFERENCED] * 2 + [PG_LRU] * 2

    host = _run(make_host, body)
    assert host.vmstat.pgscan_anon == host.vmstat.pgscan_direct == 2
    assert host.vmstat.pgactivate == 0


def test_a_page_used_again_is_activated(make_host) -> None:
    """Young at two looks in a row: it goes to the active list, and evicted pages grow older by one for each."""

    async def body(host, task):
        space = await host.mapped(task, 3)
        frames = _frames(space)
        await _scan(host, task)
        await host.memory.touch_run(task, space, 1, 1, write=False)
        space.bits[[0, 2]] = PTE_WRITE | PTE_DIRTY
        await _scan(host, task, 2)
        assert _list(host, ACTIVE_ANON) == [frames[1]]
        assert _flags(host, frames[1]) == PG_LRU | PG_ACTIVE | PG_REFERENCED
        assert space.bits_of[1] & PTE_YOUNG == 0

    host = _run(make_host, body)
    assert host.vmstat.pgactivate == 1
    assert host.lruvec.nonresident_age == 1


def test_an_idle_page_is_sent_out(make_host) -> None:
    """It gets a slot, its PTE becomes the swap entry, and it stays under writeback at the inactive head."""

    async def body(host, task):
        host.device.held = True
        space = await host.mapped(task, 4, young=False)
        frames, versions = _frames(space), space.version.tolist()
        sc = await _scan(host, task, 3)
        assert (sc.nr_reclaimed, sc.nr_scanned, sc.nr_ref_keep) == (0, 3, 0)
        assert space.swapped().tolist() == [0, 1, 2]
        assert (space.nr_anon, space.nr_swap) == (1, 3)
        assert _list(host) == [frames[3], *frames[:3]]
        for vpn, pfn in enumerate(frames[:3]):
            assert _flags(host, pfn) == PG_LRU | PG_SWAPCACHE | PG_WRITEBACK | PG_RECLAIM
            slot = host.frames.swap_of[pfn] - 1
            assert space.pte_of[vpn] == -(slot + 1)
            assert host.swap.cache[slot] == pfn + 1
            assert host.frames.mapping_of[pfn] == 0
        (rq,) = host.device.in_flight
        assert (rq.write, rq.pfns, rq.versions) == (True, frames[:3], versions[:3])
        host.device.release()

    host = _run(make_host, body)
    assert host.vmstat.pswpout == host.vmstat.nr_vmscan_write == host.vmstat.nr_written == 3
    assert host.vmstat.pgpgout == 12
    assert host.vmstat.nr_writeback == 0


def test_a_written_page_is_freed_at_the_next_look(make_host) -> None:
    """After the write it is at the tail, clean and unmapped: freed, with a shadow left in its slot."""

    async def body(host, task):
        space = await host.mapped(task, 20, young=False)
        frames = _frames(space)
        await _scan(host, task, 16)
        await host.pause(task, NS_PER_S)
        free = host.zone.nr_free + host.nr_pcp
        sc = await _scan(host, task, 16)
        assert sc.nr_reclaimed == 16
        assert host.zone.nr_free + host.nr_pcp == free + 16
        assert _list(host) == frames[16:]
        assert host.vmstat.nr_swapcached == 0
        slots = -space.pte[:16] - 1
        assert (host.swap.shadow[slots] > 0).all()
        assert (host.swap.count[slots] == 1).all()

    host = _run(make_host, body)
    assert host.vmstat.pgsteal_direct == host.vmstat.pgsteal_anon == 16
    assert host.vmstat.pgrotated == 16


def test_a_page_is_scanned_three_times_for_each_time_it_is_stolen(make_host) -> None:
    """Kept young, written, freed: the 3.0 of the recorded ratio."""

    async def body(host, task):
        await host.mapped(task, 96)
        while len(_list(host)):
            await _scan(host, task)
            await host.pause(task, NS_PER_MS)

    host = _run(make_host, body)
    assert host.vmstat.pgsteal_anon == 96
    assert host.vmstat.pgscan_anon == 3 * 96


def test_kswapds_work_is_counted_as_its_own(make_host) -> None:
    """Scans and steals by kswapd and by direct reclaimers are apart."""

    async def body(host, task):
        await host.mapped(task, 32, young=False)
        await _scan(host, task, kswapd=True)
        await host.pause(task, NS_PER_S)
        await _scan(host, task, kswapd=True)

    vmstat = _run(make_host, body).vmstat
    assert (vmstat.pgscan_kswapd, vmstat.pgscan_direct, vmstat.pgscan_anon) == (64, 0, 64)
    assert (vmstat.pgsteal_kswapd, vmstat.pgsteal_direct, vmstat.pgsteal_anon) == (32, 0, 32)


# -- pages under writeback ---------------------------------------------------------------------------------------------


def test_a_page_met_under_writeback_is_activated(make_host) -> None:
    """It is marked for rotation when the write ends, and is out of the way until then."""

    async def body(host, task):
        host.device.held = True
        space = await host.mapped(task, 32, young=False)
        frames = _frames(space)
        await _scan(host, task)
        sc = await _scan(host, task)
        assert (sc.nr_writeback, sc.nr_immediate) == (32, 0)
        assert (_list(host), _list(host, ACTIVE_ANON)) == ([], frames)
        host.device.release()
        await host.pause(task, NS_PER_S)
        host.lruvec.lru_add_drain()
        # rotated to the inactive tail, each outside the one before
        assert _list(host) == frames[::-1]
        assert _list(host, ACTIVE_ANON) == []

    assert _run(make_host, body).vmstat.pgactivate == 32


@pytest.mark.parametrize(
    ("kswapd", "node_flag", "marked", "immediate"),
    [(True, True, True, 8), (True, False, True, 0), (False, True, True, 0), (True, True, False, 0)],
)
def test_when_a_write_is_overdue(make_host, kswapd: bool, node_flag: bool, marked: bool, immediate: int) -> None:
    """Kswapd meets a page it has marked before, on a node full of writeback: that is *immediate*."""

    async def body(host, task):
        host.device.held = True
        space = await host.mapped(task, 8, young=False)
        frames = _frames(space)
        await _scan(host, task)
        host.vmscan.flags.writeback = node_flag
        if not marked:
            host.frames.flags[frames] &= ~np.uint16(PG_RECLAIM)
        sc = await _scan(host, task, kswapd=kswapd)
        assert (sc.nr_immediate, sc.nr_writeback) == (immediate, 8 - immediate)
        assert _list(host, ACTIVE_ANON) == frames
        assert all(host.frames.flags_of[pfn] & PG_RECLAIM for pfn in frames)
        host.device.release()

    _run(make_host, body)


# -- who may not write -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gfp", "needs_fs", "control", "writes"),
    [
        (GFP_KERNEL, False, {}, True),
        (GFP_NOFS, False, {}, True),
        (GFP_NOIO, False, {}, False),
        (GFP_NOFS, True, {}, False),
        (GFP_KERNEL, True, {}, True),
        (GFP_KERNEL, False, {"may_writepage": False}, False),
    ],
)
def test_who_may_write(make_host, gfp: int, needs_fs: bool, control: dict, writes: bool) -> None:
    """Anonymous pages need __GFP_IO, and __GFP_FS where swap is a file; a reclaim may be told not to write.

    That is looked at after a page has got its slot and was unmapped: only without __GFP_IO it stays mapped.
    """

    async def body(host, task):
        host.swap.needs_fs = needs_fs
        space = await host.mapped(task, 8, young=False)
        frames = _frames(space)
        await _scan(host, task, gfp=gfp, **control)
        assert host.vmstat.pswpout == (8 if writes else 0)
        assert _list(host) == frames
        assert space.nr_anon == (0 if gfp & GFP_IO else 8)
        assert host.vmstat.nr_swapcached == (8 if gfp & GFP_IO else 0)

    _run(make_host, body)


def test_a_pinned_page_is_unmapped_and_kept(make_host) -> None:
    """A reference that reclaim does not know keeps a clean page in the swap cache; its PTE is gone, and not dirty."""

    async def body(host, task):
        space = await host.mapped(task, 2, young=False)
        frames = _frames(space)
        await _scan(host, task)
        await host.pause(task, NS_PER_S)
        assert await host.memory.touch_run(task, space, 0, 2, write=False)
        host.lruvec.lru_add_drain()
        space.bits[:] = 0
        host.frames.pins[frames[0]] = 1
        sc = await _scan(host, task)
        assert sc.nr_reclaimed == 1
        assert space.nr_anon == 0
        assert _list(host) == frames[:1]
        host.frames.pins[frames[0]] = 0
        sc = await _scan(host, task)
        assert sc.nr_reclaimed == 1
        assert host.vmstat.pswpout == 2

    _run(make_host, body)


def test_noio_still_frees_what_is_clean(make_host) -> None:
    """A mask without IO may drop pages whose slot holds their content."""

    async def body(host, task):
        await host.mapped(task, 32, young=False)
        await _scan(host, task)
        await host.pause(task, NS_PER_S)
        sc = await _scan(host, task, gfp=GFP_NOIO)
        assert sc.nr_reclaimed == 32

    _run(make_host, body)


def test_without_a_slot_a_page_is_activated(make_host) -> None:
    """When swap is used up, what does not get a slot goes to the active list, mapped as it was."""

    async def body(host, task):
        space = await host.mapped(task, 32, young=False)
        frames = _frames(space)
        nr_slots = host.swap.nr_free_slots()
        assert nr_slots < 32
        await _scan(host, task)
        assert host.vmstat.pswpout == nr_slots
        assert _list(host, ACTIVE_ANON) == frames[nr_slots:]
        assert space.nr_anon == 32 - nr_slots
        assert host.vmstat.pgactivate == 32 - nr_slots

    _run(make_host, body, swap_pages=20)


# -- pages with a slot -------------------------------------------------------------------------------------------------


async def _back(host, task, nr: int, *, write: bool = False):
    """Map pages that went to swap and came back by a fault; they have not been used since. Returns their space."""
    space = await host.mapped(task, nr, young=False)
    while host.vmstat.pgsteal_anon < nr:
        await _scan(host, task)
        await host.pause(task, NS_PER_S)
    assert await host.memory.touch_run(task, space, 0, nr, write=write)
    await host.pause(task, NS_PER_S)
    host.lruvec.lru_add_drain()
    space.bits[:] &= np.uint8(~PTE_YOUNG & 0xFF)
    # so that their order is that of their addresses
    taken = host.lruvec.lists[INACTIVE_ANON].isolate_tail(nr)
    assert len(taken) == nr
    host.lruvec.lists[INACTIVE_ANON].add_head(space.pte - 1)
    return space


def test_a_page_only_read_since_it_came_back_is_dropped(make_host) -> None:
    """Its slot still holds it: unmapped and freed without a write."""

    async def body(host, task):
        space = await _back(host, task, 32)
        slots = host.frames.swap[space.pte - 1].tolist()
        written = host.vmstat.pswpout
        sc = await _scan(host, task)
        assert sc.nr_reclaimed == 32
        assert host.vmstat.pswpout == written
        assert (-space.pte).tolist() == slots

    _run(make_host, body)


def test_a_page_written_after_a_read_fault_goes_to_its_old_slot(make_host) -> None:
    """The PTE is dirty, so the page is, and the slot it still has is written again."""

    async def body(host, task):
        space = await _back(host, task, 32)
        slots = host.frames.swap[space.pte - 1].tolist()
        assert await host.memory.touch_run(task, space, 0, 32, write=True)
        space.bits[:] &= np.uint8(~PTE_YOUNG & 0xFF)
        written = host.vmstat.pswpout
        sc = await _scan(host, task)
        assert sc.nr_reclaimed == 0
        assert host.vmstat.pswpout == written + 32
        assert (-space.pte).tolist() == slots
        await host.pause(task, NS_PER_S)
        assert [host.device.store[slot - 1] for slot in slots] == space.version.tolist()

    _run(make_host, body)


def test_a_page_swapped_in_by_a_write_takes_a_new_slot(make_host) -> None:
    """The fault freed the old one at once."""

    async def body(host, task):
        space = await _back(host, task, 32, write=True)
        assert not host.frames.swap[space.pte - 1].any()
        written = host.vmstat.pswpout
        await _scan(host, task)
        assert host.vmstat.pswpout == written + 32

    _run(make_host, body)


@pytest.mark.parametrize("full", [False, True])
def test_activation_frees_a_slot_when_swap_is_short(make_host, full: bool) -> None:
    """vm_swap_full: a page used twice gives its slot up, and is dirty then; with room enough it keeps it."""

    async def body(host, task):
        space = await _back(host, task, 32)
        frames = _frames(space)
        assert (host.frames.swap[frames] > 0).all()
        space.bits[:] |= np.uint8(PTE_YOUNG)
        host.frames.flags[frames] |= np.uint16(PG_REFERENCED)
        nr_free = host.swap.slots.nr_free
        if full:
            host.swap.slots.nr_free = host.swap.slots.nr_total // 2
        await _scan(host, task)
        host.swap.slots.nr_free += nr_free - host.swap.slots.nr_total // 2 if full else 0
        assert _list(host, ACTIVE_ANON) == frames
        assert (host.frames.swap[frames] == 0).tolist() == [full] * 32
        assert (host.frames.flags[frames] & PG_DIRTY != 0).tolist() == [full] * 32

    _run(make_host, body)


def test_a_pinned_page_stays(make_host) -> None:
    """Somebody holds a reference (an skb that is being sent): it is neither written nor freed."""

    async def body(host, task):
        space = await _back(host, task, 8)
        frames = _frames(space)
        host.frames.pins[frames[3]] = 1
        sc = await _scan(host, task)
        assert sc.nr_reclaimed == 7
        assert _list(host) == [frames[3]]
        host.frames.pins[frames[3]] = 0
        assert (await _scan(host, task)).nr_reclaimed == 1

    _run(make_host, body)


def test_a_locked_page_is_kept_and_not_counted_as_scanned(make_host) -> None:
    """Trylock failed: the page goes back, and only the isolation counters have seen it."""

    async def body(host, task):
        space = await host.mapped(task, 8, young=False)
        frames = _frames(space)
        host.frames.flags[frames[2:4]] |= np.uint16(PG_LOCKED)
        sc = await _scan(host, task)
        assert (sc.nr_scanned, sc.nr_taken) == (6, 8)
        assert _list(host) == frames
        assert space.resident().tolist() == [2, 3]
        host.frames.flags[frames[2:4]] &= ~np.uint16(PG_LOCKED)

    _run(make_host, body)


# -- the active list ---------------------------------------------------------------------------------------------------


def test_the_active_tail_goes_to_the_inactive_head(make_host) -> None:
    """Anonymous pages are deactivated whatever their accessed bit, which is cleared; they are a working set then."""

    async def body(host, task):
        space = await host.mapped(task, 10)
        frames = _frames(space)
        taken = host.lruvec.lists[INACTIVE_ANON].isolate_tail(8)
        host.frames.flags[taken] |= np.uint16(PG_ACTIVE)
        host.lruvec.lists[ACTIVE_ANON].add_head(taken)
        host.shrinker.shrink_active_list(task, host.lruvec, 5, ScanControl(gfp=GFP_KERNEL, order=0))
        assert _list(host, ACTIVE_ANON) == frames[5:8]
        assert _list(host) == [*frames[8:], *frames[:5]]
        assert [_flags(host, pfn) for pfn in frames[:5]] == [PG_LRU | PG_WORKINGSET] * 5
        assert (space.bits & PTE_YOUNG).tolist() == [0] * 5 + [PTE_YOUNG] * 5

    host = _run(make_host, body)
    assert host.vmstat.pgrefill == host.vmstat.pgdeactivate == 5


def test_scanning_an_empty_list_does_nothing(make_host) -> None:
    """Neither list has to have anything."""

    async def body(host, task):
        sc = await _scan(host, task)
        host.shrinker.shrink_active_list(task, host.lruvec, 32, ScanControl(gfp=GFP_KERNEL, order=0))
        assert (sc.nr_reclaimed, sc.nr_taken) == (0, 0)

    host = _run(make_host, body)
    assert host.vmstat.pgscan_anon == host.vmstat.pgrefill == 0


def test_new_pages_are_drained_before_a_scan(make_host) -> None:
    """What waits in the batch of new pages is seen by whoever reclaims."""

    async def body(host, task):
        space = host.memory.map_anonymous(task, 5)
        await host.memory.touch_run(task, space, 0, 5, write=True)
        assert _list(host) == []
        sc = await _scan(host, task)
        assert sc.nr_taken == 5

    _run(make_host, body)


def test_what_was_written_is_the_cost_of_swapping(make_host) -> None:
    """lru_note_cost: the anon cost grows by the pages sent out."""

    async def body(host, task):
        await host.mapped(task, 300, young=False)
        await _scan(host, task)
        assert host.lruvec.anon_cost == 32
        await _scan(host, task)
        assert host.lruvec.anon_cost == 64
        await _scan(host, task)
        # past a quarter of the lists
        assert host.lruvec.anon_cost == 48

    _run(make_host, body)


def test_isolated_pages_are_counted_while_they_are(make_host) -> None:
    """NR_ISOLATED_ANON stands during the batch and is zero after it."""

    async def body(host, task):
        await host.mapped(task, 64, young=False)
        seen = []
        add_to_swap = host.swap.add_to_swap

        def spy(task, pfns):
            seen.append(host.vmstat.nr_isolated_anon)
            return add_to_swap(task, pfns)

        host.swap.add_to_swap = spy
        await _scan(host, task)
        assert set(seen) == {32}
        assert host.vmstat.nr_isolated_anon == 0

    _run(make_host, body)


# -- a batch is its pages, one by one ----------------------------------------------------------------------------------

KINDS = ("young", "young twice", "idle", "writeback", "clean", "read", "rewritten", "read young", "locked")


async def _mixed(host, task, kinds: list[str], owners: list[int]):
    """Make one page of each kind, in one of two programs each, and put them on the list in this order."""
    spaces = [host.memory.map_anonymous(host.task(f"program{i}", 50 + i), len(kinds)) for i in range(2)]
    for vpn, owner in enumerate(owners):
        assert await host.memory.touch_run(task, spaces[owner], vpn, 1, write=True)
        spaces[owner].bits_of[vpn] = PTE_WRITE | PTE_DIRTY
    host.lruvec.lru_add_drain()
    frames = host.frames
    pages = [spaces[owner].pte_of[vpn] - 1 for vpn, owner in enumerate(owners)]

    async def send_out(chosen):
        host.lruvec.lru_add_drain()
        everything = host.lruvec.lists[INACTIVE_ANON].isolate_tail(1000)
        rest = np.array([pfn for pfn in everything.tolist() if pfn not in chosen], dtype=np.intp)
        host.lruvec.lists[INACTIVE_ANON].add_head(np.array(chosen, dtype=np.intp))
        host.lruvec.lists[INACTIVE_ANON].add_head(rest)
        for start in range(0, len(chosen), 32):
            await _scan(host, task, min(32, len(chosen) - start))

    cached = [
        pfn for pfn, kind in zip(pages, kinds, strict=True) if kind in ("clean", "read", "rewritten", "read young")
    ]
    await send_out(cached)
    await host.pause(task, NS_PER_S)
    for vpn, (owner, kind) in enumerate(zip(owners, kinds, strict=True)):
        if kind in ("read", "rewritten", "read young"):
            assert await host.memory.touch_run(task, spaces[owner], vpn, 1, write=False)
            if kind == "rewritten":
                assert await host.memory.touch_run(task, spaces[owner], vpn, 1, write=True)
            if kind != "read young":
                spaces[owner].bits_of[vpn] &= ~PTE_YOUNG
    host.device.held = True
    await send_out([pfn for pfn, kind in zip(pages, kinds, strict=True) if kind == "writeback"])
    for vpn, (owner, kind, pfn) in enumerate(zip(owners, kinds, pages, strict=True)):
        if kind.startswith("young"):
            spaces[owner].bits_of[vpn] |= PTE_YOUNG
        if kind == "young twice":
            frames.flags_of[pfn] |= PG_REFERENCED
        if kind == "locked":
            frames.flags_of[pfn] |= PG_LOCKED
    host.lruvec.lru_add_drain()
    everything = host.lruvec.lists[INACTIVE_ANON].isolate_tail(1000)
    assert sorted(everything.tolist()) == sorted(pages)
    host.lruvec.lists[INACTIVE_ANON].add_head(np.array(pages, dtype=np.intp))
    return spaces, pages


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=32),
    runs=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_is_its_pages_one_by_one(make_host, kinds: list[str], runs: bool, data: st.DataObject) -> None:
    """Each page meets the fate of its kind, and survivors keep their order on the list they belong to."""
    if runs:
        # many pages of one fate in a row
        kinds = [kind for kind in kinds[:6] for _ in range(5)]
    owners = data.draw(st.lists(st.integers(0, 1), min_size=len(kinds), max_size=len(kinds)))
    nr = data.draw(st.integers(1, len(kinds)))
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task):
        spaces, pages = await _mixed(host, task, kinds, owners)
        before = len(host.device.started)
        written = host.vmstat.pswpout
        sc = await _scan(host, task, nr)
        fates = dict(zip(pages[:nr], kinds[:nr], strict=True))
        freed = [pfn for pfn, kind in fates.items() if kind in ("clean", "read")]
        activated = [pfn for pfn, kind in fates.items() if kind in ("young twice", "writeback")]
        kept = [pfn for pfn in fates if pfn not in freed and pfn not in activated]
        sent = [pfn for pfn, kind in fates.items() if kind in ("idle", "rewritten")]
        assert _list(host) == [*pages[nr:], *kept]
        assert _list(host, ACTIVE_ANON) == activated
        assert all(host.frames.flags_of[pfn] & PG_PCP or not host.frames.owner_of[pfn] for pfn in freed)
        assert sc.nr_reclaimed == len(freed)
        assert sc.nr_scanned == nr - list(fates.values()).count("locked")
        assert sc.nr_writeback == list(fates.values()).count("writeback")
        assert host.vmstat.pswpout - written == len(sent)
        requests = [rq.pfns for rq in host.device.started[before:]]
        assert sorted(pfn for pfns in requests for pfn in pfns) == sorted(sent)
        # merged before and behind, as the slots follow one another
        for pfns in requests:
            slots = [host.frames.swap_of[pfn] for pfn in pfns]
            assert slots == list(range(slots[0], slots[0] + len(slots)))
        for vpn, (owner, pfn, kind) in enumerate(zip(owners, pages, kinds, strict=True)):
            mapped = spaces[owner].pte_of[vpn] > 0
            if pfn in fates:
                assert mapped == (kind in ("young", "young twice", "read young", "locked")), kind
                assert not spaces[owner].bits_of[vpn] & PTE_YOUNG
            if kind == "locked":
                host.frames.flags_of[pfn] &= ~PG_LOCKED
        host.device.release()
        await host.pause(task, NS_PER_S)
        for space in spaces:
            for vpn in space.swapped().tolist():
                assert host.device.store[-space.pte_of[vpn] - 1] == space.version_of[vpn]

    host.run(body)
    assert host.swap.corrupt == []
    host.audit()


# -- what changes while a reclaimer sleeps -----------------------------------------------------------------------------


def _asleep(make_host):
    """Return a host whose device takes one one-page request: whoever writes two pages sleeps for a tag."""
    return make_host(swap_pages=1024, marks=(1, 2, 3), nr_requests=1, max_pages=1)


async def _cached_and_idle(host, task, nr_cached: int, *, mapped: bool, cached_first: bool):
    """Leave, in this order or the other, cached pages that are clean and two idle ones on the list; hold the device."""
    space = await host.mapped(task, nr_cached + 2, young=False)
    pages = _frames(space)
    await _scan(host, task, nr_cached)
    await host.pause(task, NS_PER_S)
    host.lruvec.lru_add_drain()
    assert np.count_nonzero(host.frames.flags & np.uint16(PG_SWAPCACHE)) == nr_cached
    if mapped:
        assert await host.memory.touch_run(task, space, 0, nr_cached, write=False)
        space.bits[:nr_cached] = 0
    host.device.held = True
    cached, idle = pages[:nr_cached], pages[nr_cached:]
    host.lruvec.lists[INACTIVE_ANON].isolate_tail(1000)
    order = [*cached, *idle] if cached_first else [*idle, *cached]
    host.lruvec.lists[INACTIVE_ANON].add_head(np.array(order, dtype=np.intp))
    return space


def _interrupted(make_host, act, *, nr_cached: int, mapped: bool, cached_first: bool = False):
    """Reclaim a batch, let ``act(host, task, space)`` run while the reclaimer sleeps in it, then let it finish."""
    host = _asleep(make_host)

    async def reclaimer(task):
        await _scan(host, task)

    async def body(task):
        space = await _cached_and_idle(host, task, nr_cached, mapped=mapped, cached_first=cached_first)
        host.world.spawn("reclaimer", reclaimer)
        await host.pause(task, NS_PER_MS)
        assert host.vmstat.nr_isolated_anon == nr_cached + 2
        await act(host, task, space)
        host.device.release()
        await host.pause(task, NS_PER_S)
        assert host.vmstat.nr_isolated_anon == 0
        host.audit()
        return space

    return host, host.run(body)


def test_a_page_that_is_left_alone_meanwhile_is_freed(make_host) -> None:
    """The control: nothing happens while the reclaimer sleeps, and clean pages go."""

    async def act(host, task, space):
        """Do nothing."""

    for cached_first in (True, False):
        host, space = _interrupted(make_host, act, nr_cached=2, mapped=True, cached_first=cached_first)
        assert space.nr_anon == 0
        assert host.vmstat.pgsteal_anon == 2


def test_a_page_that_is_mapped_meanwhile_is_not_freed(make_host) -> None:
    """A fault finds it in the swap cache and maps it: it is young now, and must be kept."""

    async def act(host, task, space):
        assert await host.memory.touch_run(task, space, 1, 1, write=False)

    _, space = _interrupted(make_host, act, nr_cached=2, mapped=False)
    assert space.resident().tolist() == [1]


def test_a_page_whose_turn_is_over_has_to_be_read_again(make_host) -> None:
    """What was clean when it was met is out of the swap cache at once, though it is freed with its batch."""

    async def program(task, host, space):
        assert await host.memory.touch_run(task, space, 1, 1, write=False)

    async def act(host, task, space):
        assert host.vmstat.nr_swapcached == 2
        assert host.shrinker.nr_frozen == 2
        host.audit()
        host.world.spawn("program", program, host, space)
        await host.pause(task, NS_PER_MS)
        assert not space.nr_anon

    host, space = _interrupted(make_host, act, nr_cached=2, mapped=False, cached_first=True)
    assert host.vmstat.pgsteal_anon == 2
    assert 1 <= host.vmstat.pswpin <= 2, "with readahead"
    assert space.resident().tolist() == [1]


def test_a_page_that_is_no_longer_wanted_is_not_written(make_host) -> None:
    """Its program exits while the batch sleeps: no slot for it, and what had one and waits for a write gives it up."""

    async def act(host, task, space):
        await host.pause(task, NS_PER_MS)
        host.memory.exit_mmap(space)

    host, space = _interrupted(make_host, act, nr_cached=2, mapped=True)
    assert space.nr_anon == space.nr_swap == 0
    assert host.vmstat.pswpout - 2 <= 2
    assert host.shrinker.nr_orphans == 0
    assert not host.swap.count.any()


def test_a_page_whose_slot_is_given_up_meanwhile_keeps_its_content(make_host) -> None:
    """A write fault maps it and frees the slot: the page is the only copy of what was written."""

    async def act(host, task, space):
        assert await host.memory.touch_run(task, space, 0, 1, write=True)

    _, space = _interrupted(make_host, act, nr_cached=1, mapped=False)
    assert space.resident().tolist() == [0]


def test_a_page_that_is_written_meanwhile_is_not_dropped(make_host) -> None:
    """A clean page of the batch becomes dirty through its PTE: its slot no longer holds its content."""

    async def act(host, task, space):
        assert await host.memory.touch_run(task, space, 0, 1, write=True)

    host, space = _interrupted(make_host, act, nr_cached=1, mapped=True)
    in_memory = space.pte_of[0] > 0
    assert in_memory or host.device.store[-space.pte_of[0] - 1] == space.version_of[0]


def test_who_faults_on_a_page_being_sent_out_goes_on(make_host) -> None:
    """A page is unlocked once it is under writeback: a fault maps it from the swap cache before the write ends."""
    host = _asleep(make_host)
    done = []

    async def reclaimer(task):
        await _scan(host, task)

    async def program(task, space):
        assert await host.memory.touch_run(task, space, 0, 2, write=False)
        done.append(host.world.now_ns)

    async def body(task):
        space = await host.mapped(task, 2, young=False)
        host.device.held = True
        host.world.spawn("reclaimer", reclaimer)
        await host.pause(task, NS_PER_MS)
        host.world.spawn("program", program, space)
        await host.pause(task, NS_PER_MS)
        assert space.resident().tolist() == [0, 1]
        assert host.vmstat.nr_writeback == 2
        host.device.release()
        await host.pause(task, 10 * NS_PER_S)
        assert done

    host.run(body)


TOUCHES = st.lists(st.tuples(st.integers(0, 23), st.booleans(), st.integers(0, 3)), max_size=30)


@given(touches=TOUCHES, nr_requests=st.integers(1, 3), exits=st.booleans())
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_while_batches_sleep(make_host, touches: list, nr_requests: int, exits: bool) -> None:
    """Two reclaimers sleep in the middle of their batches while a program uses the pages: each content is somewhere."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3), nr_requests=nr_requests, max_pages=2)
    host.device.delay_ns = lambda rq: NS_PER_MS

    async def reclaimer(task):
        for _ in range(8):
            await _scan(host, task, 16)
            host.lruvec.lru_add_drain()
            await host.pause(task, NS_PER_MS)

    async def body(task):
        space = await host.mapped(task, 24, young=False)
        for i in range(2):
            host.world.spawn(f"reclaimer{i}", reclaimer)
        for vpn, write, halves in touches:
            await host.pause(task, 1 + halves * NS_PER_MS // 2)
            assert await host.memory.touch_run(task, space, vpn, 1, write=write)
            if halves & 1:
                space.bits_of[vpn] &= ~PTE_YOUNG
        if exits:
            host.memory.exit_mmap(space)
        await host.pause(task, NS_PER_S)
        assert host.vmstat.nr_isolated_anon == host.shrinker.nr_orphans == host.shrinker.nr_frozen == 0
        assert host.vmstat.nr_writeback == 0
        host.audit()
        if not exits:
            assert space.nr_anon + space.nr_swap == 24
        for vpn in space.swapped().tolist():
            slot = -space.pte_of[vpn] - 1
            pfn = int(host.swap.cache[slot]) - 1
            dirty = pfn >= 0 and host.frames.flags_of[pfn] & PG_DIRTY
            assert dirty or host.device.store[slot] == space.version_of[vpn], f"page {vpn} is lost"

    host.run(body)
    assert host.swap.corrupt == []
    if exits:
        assert host.owned("anon") == host.vmstat.nr_swapcached
        assert not host.swap.count.any()
