"""Reclaimers wait for what is under writeback while it is over the limit, until a write ends, to 4.8."""

from dataclasses import replace
from typing import Any

import pytest

from netvm.mm.gfp import GFP_KERNEL, GFP_NOFS, GFP_NOIO
from netvm.runtime.task import Provider, Resource, Task
from netvm.units import HZ, JIFFY_NS, NS_PER_MS

_BIG = (("DMA32", 8192),)


@pytest.mark.parametrize(
    ("kernel", "gfp", "nr_waits"),
    [("2.6.11", GFP_KERNEL, 3), ("2.6.11", GFP_NOIO, 3), ("3.6", GFP_KERNEL, 3), ("3.6", GFP_NOIO, 1)],
)
def test_reclaim_waits_while_too_much_is_under_writeback(make_host: Any, kernel: str, gfp: int, nr_waits: int) -> None:
    """A full mask waits until what is under writeback is no tenth over the limit, any other, from 2.6.21, once."""
    host = make_host(zones=_BIG, kernel=kernel)
    limit = host.throttle.limits().thresh
    host.throttle.dirty_limit = limit

    async def body(task: Task) -> int:
        host.vmstat.nr_writeback = limit + limit // 5
        host.world.call_after(2_500 * HZ // 10 * JIFFY_NS // 1000, setattr, host.vmstat, "nr_writeback", limit)
        await host.files.throttle_vm_writeout(task, gfp)
        host.vmstat.nr_writeback = 0
        waited: int = host.world.now_ns // (HZ // 10 * JIFFY_NS)
        return waited

    assert host.run(body) == nr_waits


@pytest.mark.parametrize(("gfp", "is_step"), [(GFP_NOIO, True), (GFP_KERNEL, False)])
def test_a_nap_of_a_first_round_is_no_retry(make_host: Any, gfp: int, is_step: bool) -> None:
    """Who naps once goes on to something else, so the nap's end does not count as a look that came to nothing."""
    host = make_host(zones=_BIG, kernel="3.6")
    limit = host.throttle.limits().thresh
    host.throttle.dirty_limit = limit
    seen: list[bool] = []

    async def body(task: Task) -> None:
        host.vmstat.nr_writeback = limit + limit // 5
        host.world.call_after(JIFFY_NS, lambda: seen.append("a first round" in task.spins_at))
        host.world.call_after(2 * JIFFY_NS, setattr, host.vmstat, "nr_writeback", limit)
        await host.files.throttle_vm_writeout(task, gfp)
        assert not task.spins_at
        host.vmstat.nr_writeback = 0

    host.run(body)
    assert seen == [is_step]


@pytest.mark.parametrize(("kernel", "held_back"), [("2.6.11", True), ("3.6", True), ("6.1", False)])
def test_reclaim_is_held_back_until_4_9(make_host: Any, kernel: str, held_back: bool) -> None:
    """Direct reclaim comes by there after each pass over the lists, unless its kernel has done away with it."""
    host = make_host(kernel=kernel)
    came: list[int] = []

    async def note(_task: Task, gfp: int) -> None:
        came.append(gfp)

    host.files.throttle_vm_writeout = note

    async def body(task: Task) -> None:
        await host.vmscan.try_to_free_pages(task, 0, GFP_KERNEL)

    host.run(body)
    assert bool(came) is held_back


@pytest.mark.parametrize(
    ("gfp", "naps", "counted", "ms"),
    [
        (GFP_KERNEL, True, True, 312),
        (GFP_NOFS, True, True, 104),
        (GFP_NOFS, False, True, 312),
        (GFP_KERNEL, True, False, 0),
    ],
)
def test_how_long_a_reclaimer_waits_for_a_commit(make_host: Any, gfp: int, naps: bool, counted: bool, ms: int) -> None:
    """To 4.8 until no more than 1.1 of the limit is left of it; a NOFS one naps once, none if it does not count."""
    host = make_host(free=2000, switches={"vm_writeout_nofs_naps": naps, "vm_writeout_not_unstable": not counted})

    async def body(task: Task) -> int:
        throttle = host.throttle
        thresh = throttle.limits().thresh
        throttle.nr_unstable = thresh + thresh // 10 + 1
        host.world.call_after(250 * NS_PER_MS, setattr, throttle, "nr_unstable", 0)
        begun_ns = host.world.now_ns
        await host.files.throttle_vm_writeout(task, gfp)
        return int(host.world.now_ns - begun_ns) // NS_PER_MS

    assert host.run(body) == ms


def test_what_a_reclaimer_waits_for_is_who_writes_next(make_host: Any) -> None:
    """Unstable pages leave with a COMMIT, which a writer sends; if that is the one who waits, it waits for itself."""
    host = make_host(free=2000)

    async def body(task: Task) -> list[Any]:
        throttle = host.throttle
        throttle.sysctls = replace(throttle.sysctls, writeback_centisecs=0)
        fs = host.slow_store(pages_per_s=1000)
        throttle.dirtied(task, fs.bdi, 0)
        throttle.nr_unstable = 2000
        seen: list[Any] = []

        def look() -> None:
            seen.extend(host.files.vm_writeout._writes_under_way())
            throttle.nr_unstable = 0

        host.world.call_after(50 * NS_PER_MS, look)
        await host.files.throttle_vm_writeout(task, GFP_KERNEL)
        (commit,) = [found for found in seen if getattr(found, "name", "").startswith("a COMMIT")]
        assert commit.needs == (task,)
        return seen

    assert host.run(body)


@pytest.mark.parametrize(("kernel", "ends_ms"), [("2.6.11", 10), ("3.6", 10), ("4.8", 104)])
def test_a_write_ends_the_wait(make_host: Any, kernel: str, ends_ms: int) -> None:
    """Whoever is held back looks again as soon as a write is through, where kernels still had that signal."""
    switches = {"oom_detection": True} if kernel == "4.8" else {}
    host = make_host(zones=_BIG, kernel="3.6" if switches else kernel, switches=switches)
    limit = host.throttle.dirty_limit = host.throttle.limits().thresh

    def end_of_a_write() -> None:
        host.vmstat.nr_writeback = 0
        host.vmscan.throttles.clear_bdi_congested()

    async def body(task: Task) -> None:
        host.vmstat.nr_writeback = limit + limit // 5
        host.world.call_after(10 * NS_PER_MS, end_of_a_write)
        await host.files.throttle_vm_writeout(task, GFP_KERNEL)

    host.run(body)
    assert host.world.now_ns // NS_PER_MS == ends_ms


@pytest.mark.parametrize("queued", [False, True])
def test_a_commit_of_the_flusher_goes_the_way_of_its_writes(make_host: Any, queued: bool) -> None:
    """Where the flusher sends it in time, a COMMIT needs what a write that is under way needs, and else nothing."""
    host = make_host(free=2000)
    worker = Resource("worker", "a free worker")

    async def body(_task: Task) -> Any:
        throttle = host.throttle
        assert throttle.sysctls.writeback_centisecs
        throttle.nr_unstable = 2000
        throttle.flusher.writers = lambda: [Provider(name="a WRITE", needs=(worker,))] if queued else []
        found = host.files.vm_writeout._writes_under_way()[-1]
        throttle.nr_unstable = 0
        return found.needs

    assert host.run(body) == ((worker,) if queued else ())
