"""Tags and who waits for one: batches of wake-ups, turns, and what single wake-ups do to clusters."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.block.sbitmap import sbq_wake_batch
from netvm.units import NS_PER_MS, NS_PER_S


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_wake_batches_are_an_eighth_of_the_tags_for_all(depth: int, min_shallow_depth: int) -> None:
    """Word by word of the bitmap: what each leaves to everybody, an eighth of that, from 1 to 8."""
    word = 64
    while word > 4 and 4 * word > depth:
        word //= 2
    words = [min(word, depth - first) for first in range(0, depth, word)]
    usable = sum(min(bits, min_shallow_depth) for bits in words)
    assert sbq_wake_batch(depth, min_shallow_depth=min_shallow_depth) == min(8, max(1, usable // 8))


@pytest.mark.parametrize(("singly", "nr_ended"), [(True, 1), (False, 8)])
def test_who_waits_for_a_tag_is_woken_by_batches(make_host, singly: bool, nr_ended: int) -> None:
    """With 64 tags a wait ends when eight requests have; since 6.10 when one has."""
    host = make_host(nr_requests=64, switches={"tags_woken_singly": singly})
    host.device.held = True
    woken_ns: list[int] = []

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        for slot in range(0, 640, 10):
            await host.submit_pages(task, plug, slot, 1)
        assert host.queue.sched_tags.nr_used == 64
        for ms in range(1, nr_ended + 1):
            host.world.call_after(ms * NS_PER_MS, lambda: host.device.complete(host.device.in_flight[0]))
        await host.submit_pages(task, plug, 640, 1)
        woken_ns.append(host.world.now_ns)
        host.device.release()
        plug.finish()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert woken_ns == [nr_ended * NS_PER_MS]


def test_two_writers_short_of_tags_cut_each_others_clusters(make_host) -> None:
    """Woken for each tag, two programs that page out in turn send requests of a page or two; by eights, whole ones."""
    sizes = {}
    for singly in (True, False):
        host = make_host(nr_requests=64, switches={"tags_woken_singly": singly})
        host.device.held = True
        slots = iter(range(10_000, 20_000))

        async def writer(task: Any, host: Any = host, slots: Any = slots) -> None:
            plug = host.queue.start_plug(task)
            for _ in range(100):
                await host.submit_pages(task, plug, next(slots), 1)
            plug.finish()

        async def body(task: Any, host: Any = host, writer: Any = writer) -> None:
            plug = host.queue.start_plug(task)
            for slot in range(0, 640, 10):
                await host.submit_pages(task, plug, slot, 1)
            plug.finish()
            for number in range(2):
                host.world.spawn(f"writer{number}", writer)
            for _ in range(200):
                await host.pause(task, NS_PER_MS)
                if host.device.in_flight:
                    host.device.complete(host.device.in_flight[0])
            host.device.release()
            await host.pause(task, NS_PER_S)

        host.run(body)
        sizes[singly] = [nr for _, slot, nr in host.device.shapes if slot >= 10_000]
        assert sum(sizes[singly]) == 200
    assert len(sizes[True]) > 4 * len(sizes[False])


@pytest.mark.parametrize("nr_waiters", [1, 8, 9, 64, 200])
def test_nobody_waits_for_a_tag_when_all_are_free(make_host, nr_waiters: int) -> None:
    """Each batch of eight ended requests wakes up to eight of one of eight queues, so that all have their turn."""
    host = make_host(nr_requests=64)
    host.device.held = True
    served = []

    async def writer(task: Any, slot: int) -> None:
        plug = host.queue.start_plug(task)
        await host.submit_pages(task, plug, slot, 1)
        plug.finish()
        served.append(slot)

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        for slot in range(0, 640, 10):
            await host.submit_pages(task, plug, slot, 1)
        plug.finish()
        for number in range(nr_waiters):
            slot = 1000 + 10 * number
            host.world.spawn(f"writer{number}", lambda writer_task, slot=slot: writer(writer_task, slot))
        await host.pause(task, NS_PER_MS)
        host.device.release()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert len(served) == nr_waiters
