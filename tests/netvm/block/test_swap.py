"""The swap area: pages out, found in the cache or read back, and what that leaves behind."""

from typing import Any

import numpy as np
import pytest

from netvm.mm.frames import PG_DIRTY, PG_LOCKED, PG_SWAPCACHE, PG_WRITEBACK
from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.scan_control import ScanControl
from netvm.units import NS_PER_MS, NS_PER_S

OUT = 64


async def swapped_out(host, task, nr_pages: int = OUT, *, keep: bool = False) -> Any:
    """Return a space whose pages have all been written out and, unless ``keep``, freed."""
    space = await host.mapped(task, nr_pages, young=False)
    for _ in range(1 if keep else 2):
        sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
        plug = host.swap.start_plug(task)
        for _ in range(nr_pages // 32):
            await host.shrinker.shrink_inactive_list(task, host.lruvec, 32, sc, plug)
        await host.swap.swap_write_unplug(task, plug)
        plug.finish()
        await host.pause(task, 10 * NS_PER_MS)
    return space


def test_pages_get_slots_versions_and_a_clean_copy(make_host) -> None:
    """After the write: unmapped, in the swap cache, clean, one reference a slot, and the device has the content."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task: Any) -> None:
        space = await swapped_out(host, task, keep=True)
        slots = -space.pte[:OUT] - 1
        assert (space.pte[:OUT] < 0).all()
        assert (host.swap.count[slots] == 1).all()
        frames = host.swap.cache[slots] - 1
        assert (frames >= 0).all()
        flags = host.frames.flags[frames]
        assert (flags & np.uint16(PG_SWAPCACHE)).all()
        assert not (flags & np.uint16(PG_DIRTY | PG_WRITEBACK | PG_LOCKED)).any()
        assert [host.device.store[slot] for slot in slots.tolist()] == host.swap.slot_version[slots].tolist()
        assert (host.swap.stored_version[slots] == host.swap.slot_version[slots]).all()
        assert host.vmstat.nr_writeback == 0
        assert host.vmstat.pswpout == host.swap.nr_cleaned == OUT

    host.run(body)
    host.audit()


def test_freed_pages_leave_shadows_and_the_tree(make_host) -> None:
    """Dropped without I/O: the slot stays in use, a shadow says when, and the tree's nodes stay for it."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        slots = -space.pte[:OUT] - 1
        assert not host.swap.cache[slots].any()
        assert (host.swap.shadow[slots] > 0).all()
        assert len(host.swap.tree) in (1, 2)
        assert host.vmstat.nr_swapcached == 0

    host.run(body)
    host.audit()


@pytest.mark.parametrize("write", [False, True])
def test_fault_reads_back_what_was_written(make_host, write: bool) -> None:
    """Every page comes back; a read keeps its slot for free dropping, a write gives it up."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        for vpn in range(OUT):
            assert await host.swap.do_swap_page(task, space, vpn, write=write)
            host.lruvec.lru_add_drain()
        assert (space.pte[:OUT] > 0).all()
        assert host.swap.corrupt == []
        cached = host.frames.flags[space.pte[:OUT] - 1] & np.uint16(PG_SWAPCACHE)
        assert cached.any() == (not write)
        assert host.swap.count.any() == False  # noqa: E712  a numpy bool
        assert host.vmstat.pswpin == host.swap.nr_read == OUT
        assert host.vmstat.pgmajfault < OUT // 4, "readahead did most of it"
        assert host.vmstat.swap_ra_hit > 0

    host.run(body)
    host.audit()


def test_page_in_the_cache_is_found_without_reading(make_host) -> None:
    """A fault on a page that is written but not yet freed maps it again."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task: Any) -> None:
        space = await swapped_out(host, task, keep=True)
        assert await host.swap.do_swap_page(task, space, 5, write=False)
        assert host.vmstat.pswpin == 0
        assert space.pte_of[5] > 0

    host.run(body)


def test_failed_write_keeps_the_page_dirty(make_host) -> None:
    """An error ends writeback; the content is only in memory and must be written again."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))
    host.device.error = lambda rq: 10

    async def body(task: Any) -> None:
        space = await swapped_out(host, task, keep=True)
        slots = -space.pte[:OUT] - 1
        frames = host.swap.cache[slots] - 1
        assert (host.frames.flags[frames] & np.uint16(PG_DIRTY)).all()
        assert host.swap.write_errors == OUT
        assert host.swap.failed_slots == set(slots.tolist())
        assert not host.swap.stored_version[slots].any()

    host.run(body)


def test_failed_read_ends_the_program(make_host) -> None:
    """do_swap_page says so, and the page is not mapped."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        host.device.error = lambda rq: 10
        assert not await host.swap.do_swap_page(task, space, 0, write=False)
        assert host.swap.read_errors > 0
        assert space.pte_of[0] < 0

    host.run(body)


def test_page_is_read_once_if_two_programs_want_it_and_both_sleep_for_memory(make_host) -> None:
    """Who finds it in the cache after the allocation gives its own page back and waits for the other's read."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3), page_cluster=0)

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        held = host.ledger.counts[host.swap.owner_anon]
        allocate = host.pages.alloc_pages

        async def sleeps_first(other: Any, *request: Any) -> int:
            await host.pause(other, NS_PER_MS)
            return await allocate(other, *request)

        host.pages.alloc_pages = sleeps_first

        async def faults(other: Any) -> None:
            assert await host.swap.do_swap_page(other, space, 0, write=False)

        for name in ("first", "second"):
            host.world.spawn(name, faults)
        await host.pause(task, NS_PER_S)
        assert space.pte_of[0] > 0
        assert host.vmstat.pswpin == 1
        assert host.ledger.counts[host.swap.owner_anon] == held + 1

    host.run(body)
    host.audit()


@pytest.mark.parametrize("killed", [False, True])
def test_fault_without_memory_is_taken_again_unless_the_program_was_killed(make_host, killed: bool) -> None:
    """VM_FAULT_OOM: the program goes back to the instruction, and faults until there is a page."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3), page_cluster=0)

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        nr_faults = host.vmstat.pgmajfault
        allocate = host.pages.alloc_pages
        refusals = 2

        async def refuses(other: Any, *request: Any) -> int:
            nonlocal refusals
            refusals -= 1
            return -1 if refusals >= 0 else await allocate(other, *request)

        host.pages.alloc_pages = refuses
        task.killed = killed
        assert await host.swap.do_swap_page(task, space, 0, write=False) is not killed
        assert host.vmstat.pgmajfault == nr_faults + (1 if killed else 3)

    host.run(body)


def test_stale_content_is_noticed(make_host) -> None:
    """A device that gives back an older version is caught."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        slot = int(-space.pte_of[3] - 1)
        host.device.store[slot] -= 1
        assert await host.swap.do_swap_page(task, space, 3, write=False)
        assert [line.split(":")[0] for line in host.swap.corrupt] == [f"slot {slot}"]

    host.run(body)


def test_refault_sooner_than_the_lists_are_long_activates(make_host) -> None:
    """workingset_refault: the distance is the evictions since; short ones are activated."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3), free=1500)

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        host.lru_pages(200, 1)
        assert await host.swap.do_swap_page(task, space, OUT - 1, write=False)
        assert host.vmstat.workingset_refault_anon > 0
        assert host.vmstat.workingset_activate_anon == host.vmstat.workingset_refault_anon

    host.run(body)


def test_waiter_for_a_locked_page_names_the_read(make_host) -> None:
    """Who waits for a page that is being read depends on the request that reads it."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3), page_cluster=0)

    async def body(task: Any) -> None:
        space = await swapped_out(host, task)
        host.device.held = True

        async def faults(other: Any) -> None:
            assert await host.swap.do_swap_page(other, space, 0, write=False)

        other = host.world.spawn("reader", faults)
        await host.pause(task, NS_PER_MS)
        assert other.resource.kind == "page"
        assert "fake0" in str([provider.name for provider in other.resource.providers()])
        host.device.release()
        await host.pause(task, NS_PER_S)
        assert space.pte_of[0] > 0

    host.run(body)


def test_last_reference_frees_a_slot_that_is_not_cached(make_host) -> None:
    """free_swap_and_cache after the page is gone; 64 later the slots are free again, and the digest has changed."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))

    async def body(task: Any) -> None:
        space = await swapped_out(host, task, 96)
        before = host.swap.digest()
        assert host.swap.free_swap_and_cache((-space.pte[:96] - 1).tolist()) == []
        assert not host.swap.count.any()
        assert host.swap.nr_free_slots() == 1023 - 128 + 64
        assert host.swap.digest() != before
        space.pte[:96] = 0
        space.nr_swap = 0

    host.run(body)


@pytest.mark.parametrize("by_file_system", [False, True])
def test_the_end_of_a_write_ends_naps_on_a_block_device(make_host, monkeypatch: Any, by_file_system: bool) -> None:
    """A request that is freed tells those in congestion_wait; a swap file over NFS has no such request."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3))
    monkeypatch.setattr(type(host.swap.io), "needs_fs", by_file_system)
    calls = []
    monkeypatch.setattr(host.vmscan.throttles, "clear_bdi_congested", lambda: calls.append(host.world.now_ns))

    async def body(task: Any) -> None:
        await swapped_out(host, task)

    host.run(body)
    assert bool(calls) is not by_file_system
    assert host.vmstat.pswpout == OUT
