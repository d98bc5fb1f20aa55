"""Pages sent out all at once are as if they had been sent one step after another."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.scan_control import ScanControl
from netvm.runtime.costs import CpuCosts
from netvm.units import NS_PER_MS


class _NeverQuick:
    """A quick way out that has nothing at hand: every page takes one step after another."""

    def look(self, task: Any, plug: Any, nr_pages: int) -> tuple[int, int]:
        """Say that nothing is at hand."""
        return 0, 0


def _sent(make_host, *, quick: bool, batches: list[tuple[int, int]], **options: int) -> dict[str, Any]:
    """Send two programs' pages out in batches of so many; return all that shows."""
    host = make_host(swap_pages=1024, marks=(1, 2, 3), cpus=1, **options)
    if not quick:
        host.swap.quick = _NeverQuick()
    times = []

    async def body(task):
        spaces = [await host.mapped(task, 150, young=False) for _ in range(2)]
        for nr, pause_us in batches:
            sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
            plug = host.swap.start_plug(task)
            await host.shrinker.shrink_inactive_list(task, host.lruvec, nr, sc, plug)
            plug.finish()
            times.append((host.world.now_ns, task.charge_ns, sc.nr_scanned, host.vmstat.pswpout))
            await host.pause(task, 1000 * pause_us)
        await host.pause(task, 100 * NS_PER_MS)
        return spaces

    host.run(body)
    host.audit()
    frames, swap = host.frames, host.swap
    columns = [frames.flags, frames.mapping, frames.swap, frames.index, swap.cache, swap.count, swap.shadow]
    return {
        "times": times,
        "columns": [column.tolist() for column in [*columns, swap.slot_version, swap.stored_version]],
        "vmstat": host.vmstat.as_dict(),
        "requests": host.device.shapes,
        "bios": host.bios.nr_ready(),
        "nodes": len(host.swap.tree),
    }


@given(
    batches=st.lists(st.tuples(st.integers(1, 32), st.sampled_from((0, 10, 1000))), min_size=1, max_size=16),
    nr_requests=st.sampled_from((2, 4, 64)),
    max_pages=st.sampled_from((5, 32)),
)
@settings(max_examples=30, deadline=None)
def test_all_at_once_is_one_after_another(make_host, batches, nr_requests: int, max_pages: int) -> None:
    """Pages, slots, requests, counters and the time each batch has taken are the same, however few the tags are."""
    options = {"nr_requests": nr_requests, "max_pages": max_pages, "queue_depth": nr_requests}
    assert _sent(make_host, quick=True, batches=batches, **options) == _sent(
        make_host, quick=False, batches=batches, **options
    )


@pytest.mark.parametrize("quick", [True, False])
def test_a_task_pays_as_it_goes(make_host, quick: bool) -> None:
    """A batch of 32 pages of 6.8 us each takes its time while it is dealt with, not at its end."""
    found = _sent(make_host, quick=quick, batches=[(32, 0)], nr_requests=2)
    now_ns, unpaid_ns, _, nr_out = found["times"][0]
    assert nr_out == 32
    assert unpaid_ns < 50_000
    assert now_ns > 32 * 6_800 - unpaid_ns


def test_a_page_that_has_a_slot_costs_less(make_host) -> None:
    """What gave it its slot and its place in the swap cache was paid for when it was not to be written yet."""

    def spent_ns(*may_write: bool) -> list[int]:
        host = make_host(swap_pages=1024, marks=(1, 2, 3), cpus=1)
        spent = []

        async def body(task):
            await host.mapped(task, 8, young=False)
            for may in may_write:
                sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
                sc.may_writepage = may
                plug = host.swap.start_plug(task)
                begun_ns = task.time_ns
                await host.shrinker.shrink_inactive_list(task, host.lruvec, 8, sc, plug)
                spent.append(task.time_ns - begun_ns)
                plug.finish()

        host.run(body)
        return spent

    costs = CpuCosts()
    (new_ns,) = spent_ns(True)
    kept_ns, again_ns = spent_ns(False, True)
    assert new_ns - again_ns == 8 * costs.add_to_swap
    assert kept_ns - again_ns == 8 * (costs.add_to_swap + costs.scan_keep - costs.scan_pageout)
