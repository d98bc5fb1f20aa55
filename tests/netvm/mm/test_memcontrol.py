"""Memory groups: what is charged to whom, what happens at the limit, and who is killed for it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.gfp import (
    GFP_HIGH,
    GFP_KERNEL,
    GFP_NOFAIL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NORETRY,
    GFP_NOWAIT,
    PF_MEMALLOC,
)
from netvm.mm.invariants import check_memcg
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON
from netvm.mm.memcontrol import MemCgroup, MemControl, put_new_page
from netvm.runtime.task import Task

SMALL = 64


def _host(make_host, *, limit_pages: int = SMALL, may_swap: bool = True, swap_pages: int = 1024, **options):
    """Return a host with one group, named ``g``."""
    host = make_host(swap_pages=swap_pages, **options)
    memcg = MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes)
    return host, memcg, memcg.create("g", limit_pages=limit_pages, may_swap=may_swap)


def _touch(host, memcg: MemControl, nr_pages: int, *, passes: int = 1):
    """Return a program of group ``g`` that touches so many pages and says whether it got through."""

    async def program(task: Task) -> bool:
        memcg.attach(task, "g")
        space = host.memory.map_anonymous(task, nr_pages)
        for _ in range(passes):
            if not await host.memory.touch_run(task, space, 0, nr_pages, write=True):
                return False
        return True

    return program


def test_a_member_is_held_to_the_limit_and_goes_on_by_swap(make_host) -> None:
    """A program of three times the limit gets through, the group never holds more, and the books balance."""
    host, memcg, group = _host(make_host, free=1500)
    assert host.run(_touch(host, memcg, 3 * SMALL, passes=2))
    assert group.peak_pages == SMALL
    assert group.nr_max > 0
    assert (group.nr_oom, host.vmstat.pswpout > 0) == (0, True)
    assert host.vmstat.allocstall["normal"] + host.vmstat.allocstall["movable"] == 0, "the machine was never short"
    host.audit()


def test_pages_of_others_are_not_touched(make_host) -> None:
    """Reclaim for a group leaves the node's own lists as they are."""
    host, memcg, _group = _host(make_host, free=1500)
    others = host.lru_pages(200)
    assert host.run(_touch(host, memcg, 2 * SMALL))
    assert host.lruvec.lists[INACTIVE_ANON].pages().tolist() == others.tolist()
    assert host.lruvec.nr_pages(INACTIVE_ANON) + host.lruvec.nr_pages(ACTIVE_ANON) > 200, "counts are of all below"


def test_without_a_group_nothing_is_charged(make_host) -> None:
    """A program of no group may take what the machine has, on a host that has groups."""
    host, memcg, group = _host(make_host, free=1500)

    async def program(task: Task) -> bool:
        assert memcg.of_task(task) is None
        space = host.memory.map_anonymous(task, 4 * SMALL)
        return await host.memory.touch_run(task, space, 0, 4 * SMALL, write=True)

    assert host.run(program)
    assert (group.usage_pages, group.nr_max, int(np.count_nonzero(host.frames.memcg))) == (0, 0, 0)
    host.audit()


def test_exit_gives_everything_back(make_host) -> None:
    """A member that ends leaves nothing charged, in memory or in swap."""
    host, memcg, group = _host(make_host, free=1500)

    async def program(task: Task) -> bool:
        memcg.attach(task, "g")
        space = host.memory.map_anonymous(task, 2 * SMALL)
        assert await host.memory.touch_run(task, space, 0, 2 * SMALL, write=True)
        assert group.usage_pages > 0
        host.memory.exit_mmap(space)
        host.lruvec.lru_add_drain()
        return True

    assert host.run(program)
    under_way = group.usage_pages
    assert under_way == group.nr_writeback(host.frames), "what is left is being written"
    host.audit()


def test_only_members_are_killed(make_host) -> None:
    """A group without swap kills its own largest member, though a larger program runs outside."""
    host, memcg, group = _host(make_host, free=1500, may_swap=False)
    outside = host.memory.map_anonymous(host.task("outside", 500), 500)
    outside.nr_anon = 400

    async def program(task: Task) -> bool:
        memcg.attach(task, "g")
        space = host.memory.map_anonymous(task, 2 * SMALL)
        got_through = await host.memory.touch_run(task, space, 0, 2 * SMALL, write=True)
        assert task.killed
        assert not got_through
        return True

    host.run(program)
    (kill,) = host.oom.kills
    assert (kill.memcg, kill.memcg_pages, kill.victim) == ("g", SMALL, "test")
    assert kill.free_swap_pages == 0, "the group may not swap, whatever swap has free"
    assert (group.nr_oom, group.nr_oom_kill) == (1, 1)
    outside.nr_anon = 0


async def _fill(task: Task, host, memcg: MemControl) -> None:
    """Bring group ``g`` to its limit with pages that nothing can be done with."""
    memcg.attach(task, "g")
    for _ in range(SMALL):
        pfn = await host.pages.alloc_pages(task, 0, GFP_KERNEL, host.memory.owner_anon)
        memcg.charge_at_once(task, np.array([pfn], dtype=np.intp))


@pytest.mark.parametrize(
    ("gfp", "flags", "charged", "looks"),
    [
        (GFP_NOWAIT, 0, False, 0),
        (GFP_NOWAIT | GFP_HIGH, 0, True, 0),
        (GFP_KERNEL | GFP_NORETRY, 0, False, 1),
        (GFP_NOFS | GFP_NOFAIL | GFP_NORETRY, 0, True, 1),
        (GFP_NOFS | GFP_NOFAIL, 0, True, 17),
        (GFP_KERNEL, PF_MEMALLOC, True, 0),
    ],
)
def test_what_the_mask_means_at_the_limit(make_host, gfp: int, flags: int, charged: bool, looks: int) -> None:
    """A mask that may not sleep fails at once; one that may not fail goes over the limit when all was tried."""
    host, memcg, group = _host(make_host, free=1500, may_swap=False)

    async def program(task: Task) -> bool:
        await _fill(task, host, memcg)
        pfn = await host.pages.alloc_pages(task, 0, GFP_KERNEL, host.memory.owner_anon)
        task.flags |= flags
        got = await memcg.charge(task, pfn, gfp)
        task.flags &= ~flags
        return got

    assert host.run(program) == charged
    assert group.usage_pages == SMALL + charged
    assert group.nr_max == looks
    check_memcg(memcg, host.frames)


@pytest.mark.parametrize(
    ("switches", "fault", "rounds", "ooms"),
    [
        ({}, False, 17, 1),
        ({"memcg_sixteen_retries": False}, False, 6, 1),
        ({"memcg_oom_in_charges": False}, False, 17, 0),
        ({"memcg_oom_in_charges": False}, True, 17, 1),
        ({"memcg_oom_in_charges": False, "memcg_oom_in_faults": False}, False, 17, 1),
    ],
)
def test_who_calls_the_killer(make_host, switches: dict[str, bool], fault: bool, rounds: int, ooms: int) -> None:
    """So many rounds come to nothing first; from 3.12 to 4.18 only a page fault may kill, and other charges fail."""
    host, memcg, group = _host(make_host, free=1500, may_swap=False, switches=switches)

    async def program(task: Task) -> bool:
        await _fill(task, host, memcg)
        pfn = await host.pages.alloc_pages(task, 0, GFP_KERNEL, host.memory.owner_anon)
        return await memcg.charge(task, pfn, GFP_NOFS, fault=fault)

    assert not host.run(program), "there is nobody to kill"
    assert (group.nr_max, group.nr_oom) == (rounds, ooms)


def test_a_swapped_page_goes_back_to_its_group(make_host) -> None:
    """What comes back from swap is charged to whom it was taken from, whoever reads it ahead."""
    host, memcg, group = _host(make_host, free=1500)
    assert host.run(_touch(host, memcg, 2 * SMALL, passes=3))
    assert host.vmstat.pswpin > 0
    anon = np.flatnonzero((host.frames.mapping > 0) | (host.frames.swap > 0))
    assert (host.frames.memcg[anon] == group.id).all()


def test_a_new_page_that_is_not_used_is_uncharged(make_host) -> None:
    """put_new_page frees the frame and the charge."""
    host, memcg, group = _host(make_host, free=1500)

    async def program(task: Task) -> int:
        memcg.attach(task, "g")
        pfn = await host.pages.alloc_pages(task, 0, GFP_KERNEL, host.memory.owner_anon)
        assert await memcg.charge(task, pfn, GFP_KERNEL)
        assert group.usage_pages == 1
        put_new_page(host.pages, pfn)
        return group.usage_pages

    assert host.run(program) == 0
    host.audit()


@pytest.mark.parametrize(("gfp", "waits"), [(GFP_KERNEL, True), (GFP_NOIO, False)])
def test_reclaim_of_a_group_waits_for_its_own_writeback(make_host, gfp: int, waits: bool) -> None:
    """Met a second time, an anonymous page under writeback is waited for; with GFP_NOIO it is not."""
    host, memcg, group = _host(make_host, free=1500)
    host.device.held = True

    async def charge(task: Task, gfp: int) -> None:
        pfn = await host.pages.alloc_pages(task, 0, GFP_KERNEL, host.memory.owner_anon)
        assert await memcg.charge(task, pfn, gfp | GFP_NOFAIL | GFP_NORETRY)

    async def program(task: Task) -> int:
        memcg.attach(task, "g")
        space = host.memory.map_anonymous(task, SMALL)
        assert await host.memory.touch_run(task, space, 0, SMALL, write=True)
        host.world.call_after(1_000_000_000, host.device.release)
        while not group.nr_writeback(host.frames):
            await charge(task, GFP_KERNEL)
        assert host.world.now_ns < 1_000_000_000
        for _ in range(3):
            await charge(task, gfp)
        return host.world.now_ns

    assert (host.run(program) >= 1_000_000_000) == waits


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    groups=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    freed=st.lists(st.integers(0, 5), max_size=6),
)
def test_counts_are_what_frames_say(make_host, sizes: list[int], groups: list[int], freed: list[int]) -> None:
    """Charging and uncharging runs of pages in any order leaves each group with what is charged to it."""
    host = make_host(free=1500)
    memcg = MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes)
    names = ["a", "b"]
    made: list[MemCgroup] = [memcg.create(name, limit_pages=1000, may_swap=True) for name in names]
    runs: list[tuple[int, np.ndarray]] = []
    for number, (size, which) in enumerate(zip(sizes, groups, strict=False)):
        task = host.task("t", 100 + number)
        if which:
            memcg.attach(task, names[which - 1])
        pfns = np.array([host.alloc() for _ in range(size)], dtype=np.intp)
        for pfn in pfns.tolist():
            host.ledger.change_owner(host.frames, pfn, 1, host.memory.owner_anon)
        memcg.charge_at_once(task, pfns)
        runs.append((which, pfns))
    for at in freed:
        if at < len(runs):
            memcg.uncharge(runs[at][1])
            runs[at] = (0, runs[at][1])
    for group in made:
        assert group.usage_pages == sum(len(pfns) for which, pfns in runs if which == group.id)
    check_memcg(memcg, host.frames)
