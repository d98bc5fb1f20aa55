"""The request queue: merging, plugs, tags, the elevator's order, and requests that come back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.block.blk_mq import BLK_MQ_RESOURCE_DELAY_NS, BLK_STS_IOERR, blk_status_to_errno, errno_to_blk_status
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S


def test_directions_and_gaps_do_not_merge(make_host) -> None:
    """A read after a write, a gap, or a step back begin a request of their own."""
    host = make_host()

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        await host.submit_pages(task, plug, 0, 2)
        await host.submit_pages(task, plug, 2, 2, write=False)
        await host.submit_pages(task, plug, 10, 2, write=False)
        await host.submit_pages(task, plug, 8, 2, write=False)
        plug.finish()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert sorted(host.device.shapes) == [("R", 2, 2), ("R", 8, 2), ("R", 10, 2), ("W", 0, 2)]


def test_a_bio_that_is_split_lets_others_run(make_host, monkeypatch) -> None:
    """What is left of it is submitted anew (submit_bio_noacct): by then the part before last can be on its way."""
    host = make_host()
    seen: list[tuple[int, int]] = []

    class Cpus:
        async def cond_resched(self, _task: Any) -> None:
            seen.append((len(plugs[0].requests), len(host.queue.outstanding) + host.queue.nr_queued))

    plugs: list[Any] = []

    async def body(task: Any) -> None:
        plugs.append(host.queue.start_plug(task))
        monkeypatch.setattr(task, "cpus", Cpus())
        await host.submit_pages(task, plugs[0], 0, 100)
        monkeypatch.undo()
        plugs[0].finish()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert seen == [(1, 0), (1, 1), (1, 2)]
    assert host.device.shapes == [("W", 0, 32), ("W", 32, 32), ("W", 64, 32), ("W", 96, 4)]


def test_who_finds_no_tag_waits_for_one(make_host) -> None:
    """nr_requests bounds what was made and not completed, queued or sent."""
    host = make_host(nr_requests=4)
    host.device.held = True

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        for slot in range(0, 40, 10):
            await host.submit_pages(task, plug, slot, 1)
        assert host.queue.sched_tags.nr_used == 4
        host.world.call_after(5 * NS_PER_MS, host.device.release)
        await host.submit_pages(task, plug, 40, 1)
        assert host.world.now_ns == 5 * NS_PER_MS
        plug.finish()
        await host.pause(task, NS_PER_S)
        assert host.queue.sched_tags.nr_used == 0

    host.run(body)


def test_queue_depth_bounds_what_the_driver_has(make_host) -> None:
    """The rest waits in the elevator, where it still merges at its end."""
    host = make_host(queue_depth=2)
    host.device.held = True

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        for slot in range(0, 50, 10):
            await host.submit_pages(task, plug, slot, 1)
        plug.flush(from_schedule=False)
        assert (len(host.queue.outstanding), host.queue.nr_queued) == (2, 3)
        await host.submit_pages(task, plug, 41, 1)
        host.device.release()
        plug.finish()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert ("W", 40, 2) in host.device.shapes


def test_refused_request_is_sent_again(make_host) -> None:
    """BLK_STS_RESOURCE: after a delay, or when another request completes."""
    host = make_host()
    host.device.nr_refusals = 2
    ended: list[Any] = []

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        await host.submit_pages(task, plug, 0, 4, ended=ended)
        plug.finish()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert ended == [(0, 4, 0)]
    first, second = (when for when, _ in host.device.refused)
    assert 0 < BLK_MQ_RESOURCE_DELAY_NS < JIFFY_NS
    assert (first, second) == (0, 2 * JIFFY_NS)


def test_what_waits_for_a_worker_waits_for_one(make_host) -> None:
    """With nothing at the driver, the requests in the queue wait for a worker of kblockd."""
    host = make_host()
    seen: list[Any] = []

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        await host.submit_pages(task, plug, 0, 1)
        await host.submit_pages(task, plug, 8, 1)
        plug.flush(from_schedule=True)
        seen.extend(host.queue.providers())
        await host.pause(task, NS_PER_S)
        assert host.queue.providers() == []
        plug.finish()

    host.run(body)
    [waits] = seen
    assert waits.name.endswith(": 2 requests in the queue")
    assert waits.needs == (host.queue.kblockd.pool.needs_worker,)


def test_error_reaches_who_submitted(make_host) -> None:
    """And is counted; the tag comes back."""
    host = make_host()
    host.device.error = lambda rq: BLK_STS_IOERR
    ended: list[Any] = []

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        await host.submit_pages(task, plug, 0, 4, ended=ended)
        plug.finish()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert ended == [(0, 4, BLK_STS_IOERR)]
    assert (host.queue.completed, host.queue.failed, host.queue.sched_tags.nr_used) == (1, 1, 0)


def test_reads_go_before_writes_but_not_for_ever(make_host) -> None:
    """mq-deadline: reads first, writes after they were passed over twice."""
    host = make_host(queue_depth=1)
    host.device.held = True

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        await host.submit_pages(task, plug, 9000, 1)
        plug.flush(from_schedule=False)
        for index in range(3):
            await host.submit_pages(task, plug, 100 * index, 1)
            await host.submit_pages(task, plug, 5000 + 100 * index, 1, write=False)
        plug.finish()
        host.device.release()
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert host.device.shapes[1][0] == "R"
    assert [shape[0] for shape in host.device.shapes].count("R") == 3
    assert len(host.device.shapes) == 7


@pytest.mark.parametrize("blocking", [False, True])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_page_is_written_once_and_ends_once(make_host, blocking: bool, data: st.DataObject) -> None:
    """Whatever the order, limits, refusals and delays: the device has each page, and no tag is lost."""
    host = make_host(
        blocking=blocking,
        nr_requests=data.draw(st.integers(2, 6)),
        queue_depth=data.draw(st.integers(1, 4)),
        max_pages=data.draw(st.integers(1, 8)),
    )
    host.device.nr_refusals = data.draw(st.integers(0, 3))
    delays = data.draw(st.lists(st.integers(1, 5_000_000), min_size=1, max_size=5))
    host.device.delay_ns = lambda rq: delays[rq.number % len(delays)]
    starts = data.draw(st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=15))
    ended: list[Any] = []

    async def body(task: Any) -> None:
        plug = host.queue.start_plug(task)
        for start in starts:
            await host.submit_pages(task, plug, start * 3, 3, ended=ended)
        plug.finish()
        await host.pause(task, 10 * NS_PER_S)

    host.run(body)
    pages = sorted(slot for start in starts for slot in range(start * 3, start * 3 + 3))
    assert sorted(slot for first, nr, _ in ended for slot in range(first, first + nr)) == pages
    assert sorted(host.device.store) == pages
    assert host.queue.sched_tags.nr_used == host.queue.nr_queued == len(host.queue.outstanding) == 0


def test_a_full_device_is_told_apart_from_a_broken_one() -> None:
    """ENOSPC comes back as itself, whatever else as EIO, and success as nothing."""
    assert [blk_status_to_errno(errno_to_blk_status(errno)) for errno in (0, -28, 28, -5, -12)] == [0, -28, -28, -5, -5]
