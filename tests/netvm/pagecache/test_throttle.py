"""The throttle: limits, the position curve, pauses, and who is held back for whose dirt."""

import contextlib
from typing import Any

import pytest
import trio

from netvm.mm.gfp import PF_LOCAL_THROTTLE
from netvm.pagecache.position import MAX_PAUSE, DirtySysctls
from netvm.runtime.task import Task
from netvm.units import JIFFY_NS, NS_PER_S

_BIG = (("DMA32", 8192),)


def _settled(host: Any, task: Task, fs: Any, nr_pages: int) -> Any:
    """Return a program that writes a file of its own in chunks of 16 pages."""
    mapping = host.cache.create(fs, f"file-{fs.name}")

    async def write() -> None:
        for index in range(0, nr_pages, 16):
            assert not await host.cache.generic_perform_write(task, mapping, index % 1600, 16)

    return write()


@pytest.mark.parametrize(
    ("available", "bg_thresh", "thresh", "freerun"),
    [(8846, 883, 1768, 1325), (20000, 1997, 3999, 2998), (65536, 6544, 13104, 9824)],
)
def test_thresholds_are_shares_of_what_can_be_dirtied(
    make_host: Any, available: int, bg_thresh: int, thresh: int, freerun: int
) -> None:
    """Ratios of dirtyable memory in 4096ths, and freerun half way between; the first row is recorded (end of D8)."""
    host = make_host(zones=(("DMA32", 4096),))
    host.throttle.dirtyable_memory = lambda: available
    look = host.throttle.limits()
    assert (look.bg_thresh, look.thresh, look.freerun) == (bg_thresh, thresh, freerun)


def test_dirtyable_memory_leaves_the_reserve_out(host: Any) -> None:
    """Free pages above the high mark, and the file lists; one more, so that nothing is divided by zero."""
    assert host.throttle.dirtyable_memory() == host.node.nr_free - 48 + 1


@pytest.mark.parametrize(("nr_mapped", "percent"), [(0, 40), (20, 40), (40, 30), (95, 5)])
def test_limits_were_parts_of_all_memory(make_host: Any, nr_mapped: int, percent: int) -> None:
    """Before 2.6.21 free pages do not matter; the limit is half of what is not mapped, if less than the ratio."""
    host = make_host(switches={"dirtyable_memory": False}, sysctls=DirtySysctls(ratio=40))
    nr_pages = host.node.managed - 48
    assert host.throttle.dirtyable_memory() == nr_pages
    host.vmstat.nr_anon_pages = -(-nr_mapped * nr_pages // 100)
    assert host.throttle.limits().thresh == percent * 4096 // 100 * nr_pages // 4096


def test_bytes_stand_for_ratios(make_host: Any) -> None:
    """A setting in bytes overrides its ratio; a background threshold not below the limit is half of it."""
    host = make_host(sysctls=DirtySysctls(bytes=40 * 4096 + 1, background_bytes=1 << 30))
    look = host.throttle.limits()
    assert (look.thresh, look.bg_thresh) == (41, 20)


def test_one_writer_settles_at_the_setpoint(make_host: Any) -> None:
    """With one writer and a slow store dirty pages end within a tenth of the setpoint, and pauses are short."""
    host = make_host(zones=_BIG)
    fs = host.slow_store(pages_per_s=2560)
    seen: list[float] = []

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        for index in range(0, 100_000, 16):
            assert not await host.cache.generic_perform_write(task, mapping, index % 4000, 16)
            if index > 60_000:
                seen.append(host.throttle.dirty_seen / host.throttle.setpoint_seen)

    host.run(body, kswapd=True)
    mean = sum(seen) / len(seen)
    assert 0.9 <= mean <= 1.1
    assert 0 < host.throttle.max_pause_ns <= MAX_PAUSE * JIFFY_NS == NS_PER_S // 5


def test_two_devices_share_the_limit_by_their_bandwidth(make_host: Any) -> None:
    """A store four times as fast as the other gets four times the dirty pages, and writers go at their store's pace."""
    host = make_host(zones=(("DMA32", 8192),))
    fast, slow = host.slow_store("fast", pages_per_s=2000), host.slow_store("slow", pages_per_s=500)

    async def body(task: Task) -> float:
        host.world.spawn("other", lambda other: _settled(host, other, slow, 1 << 30))
        host.world.spawn("mine", lambda mine: _settled(host, mine, fast, 1 << 30))
        await host.pause(task, 20 * NS_PER_S)
        before = fast.bdi.nr_written, slow.bdi.nr_written
        await host.pause(task, 6 * NS_PER_S)
        return float((fast.bdi.nr_written - before[0]) / (slow.bdi.nr_written - before[1]))

    written = host.run(body)
    part, whole = fast.bdi.fraction()
    assert 0.72 <= part / whole <= 0.88
    assert 3.6 <= written <= 4.4


def _local_writer_pauses(make_host: Any, switches: dict[str, bool], flags: int) -> int:
    """Return how often a writer to an idle store pauses while another has filled the limit."""
    host = make_host(zones=_BIG, switches=switches)
    stuck, idle = host.slow_store("stuck", pages_per_s=10), host.slow_store("idle", pages_per_s=100_000)

    async def body(task: Task) -> int:
        idle.bdi.writeout_add(1000)
        host.world.spawn("hog", lambda hog: _settled(host, hog, stuck, 1 << 20))
        await host.pause(task, 4 * NS_PER_S)
        before = host.throttle.nr_pauses

        async def own(own: Task) -> None:
            own.flags |= flags
            await _settled(host, own, idle, 256)
            done.append(host.world.now_ns)

        done: list[int] = []
        begun_ns = host.world.now_ns
        host.world.spawn("nfsd", own)
        await host.pause(task, 10 * NS_PER_S)
        assert before >= 0
        return (done[0] if done else host.world.now_ns) - begun_ns

    return int(host.run(body))


def test_a_local_writer_is_not_held_back_for_others_dirt(make_host: Any) -> None:
    """With PF_LOCAL_THROTTLE a writer to an idle store goes on at the limit; without the fix it waits for the other."""
    with_fix = _local_writer_pauses(make_host, {}, PF_LOCAL_THROTTLE)
    without = _local_writer_pauses(make_host, {"local_throttle": False, "less_throttle": False}, PF_LOCAL_THROTTLE)
    ordinary = _local_writer_pauses(make_host, {}, 0)
    assert with_fix < NS_PER_S // 100
    assert without > 20 * with_fix
    assert ordinary > 20 * with_fix


@pytest.mark.parametrize(
    ("off", "goes_on"),
    [
        ((), True),
        (("local_throttle",), True),
        (("local_throttle", "less_throttle_margin"), False),
        (("local_throttle", "less_throttle_margin", "less_throttle"), False),
    ],
)
def test_a_quarter_of_the_present_limit_is_less_than_the_lag_of_the_hard_one(
    make_host: Any, off: tuple[str, ...], goes_on: bool
) -> None:
    """Dirt just over a quarter more than freerun holds a marked writer back, unless the hard limit adds its part."""
    host = make_host(zones=_BIG, switches=dict.fromkeys(off, False))
    store = host.slow_store("store", pages_per_s=1000)
    throttle = host.throttle
    limits = throttle.limits()
    throttle.dirty_limit = 8 * limits.thresh
    host.vmstat.nr_dirty = limits.freerun * 5 // 4 + limits.thresh // 8
    store.bdi.writeout_add(1000)

    async def body(task: Task) -> None:
        task.flags |= PF_LOCAL_THROTTLE
        await throttle.balance_dirty_pages(task, store.bdi, 1)
        host.vmstat.nr_dirty = 0

    host.run(body)
    assert (throttle.setpoint_seen == 0) is goes_on


@pytest.mark.parametrize("per_device", [True, False])
def test_before_3_2_a_writer_over_the_limit_writes_itself(make_host: Any, per_device: bool) -> None:
    """It does its duty of pages of its own device, and dirt overshoots by what is dirtied between two looks."""
    host = make_host(zones=(("DMA32", 4096),), switches={"io_less_throttle": False, "per_bdi_dirty_limits": per_device})
    fs = host.slow_store(pages_per_s=2000)

    async def body(task: Task) -> int:
        await _settled(host, task, fs, 3000)
        return int(host.throttle.limits().dirty)

    dirty = host.run(body)
    assert fs.bdi.nr_written > 1500
    assert dirty <= host.throttle.limits().thresh + 4096 // 32


async def _looked_at(host: Any, task: Task, fs: Any) -> None:
    """Have a writer looked at for pages that are on their way already."""
    host.throttle._dirtier(task).nr_dirtied = host.throttle._bdp_ratelimits = 1000
    await host.throttle.balance_dirty_pages_ratelimited(task, fs.bdi)


@pytest.mark.parametrize("ended", [False, True])
def test_a_writer_of_before_3_2_waits_for_a_write(make_host: Any, ended: bool) -> None:
    """Over the limit with nothing of its own to write it naps until a write ends, at most a tenth of a second."""
    host = make_host(zones=_BIG, kernel="2.6.11")
    fs = host.slow_store()
    limit = host.throttle.limits().thresh

    def down() -> None:
        host.vmstat.nr_writeback = 0
        if ended:
            host.vmscan.throttles.clear_bdi_congested()

    async def body(task: Task) -> None:
        host.vmstat.nr_writeback = limit + 1
        host.world.call_after(NS_PER_S // 100, down)
        await _looked_at(host, task, fs)

    host.run(body)
    assert host.world.now_ns == (NS_PER_S // 100 if ended else NS_PER_S // 10 + JIFFY_NS)


@pytest.mark.parametrize("old", [False, True])
def test_no_signal_reached_a_writer_over_the_limit(make_host: Any, old: bool) -> None:
    """A writer that is killed in the throttle stays until the dirt is down; since 3.2 it leaves at once."""
    host = make_host(zones=_BIG, kernel="2.6.11" if old else "3.6")
    fs = host.slow_store()
    limit = host.throttle.dirty_limit = host.throttle.limits().thresh
    left_ns: list[int] = []

    async def writer(task: Task) -> None:
        with contextlib.suppress(trio.Cancelled):
            await _looked_at(host, task, fs)
        left_ns.append(host.world.now_ns)

    async def body(task: Task) -> None:
        host.vmstat.nr_writeback = fs.bdi.nr_writeback = 2 * limit
        victim = host.world.spawn("writer", writer)
        await host.pause(task, NS_PER_S)
        victim.kill()
        await host.pause(task, NS_PER_S)
        host.vmstat.nr_writeback = fs.bdi.nr_writeback = 0
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert (left_ns[0] > 2 * NS_PER_S) is old
