"""dm-crypt: content passes, every page written holds a second one until it is stored, and who sends them waits."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from netvm.block.crypt import CRYPT_PAGE_POOL, CryptDevice
from netvm.mm.gfp import PF_KTHREAD
from netvm.runtime.task import Task
from netvm.runtime.workqueue import WorkerPool, Workqueue

MapDevice: TypeAlias = Callable[..., None]
Submit: TypeAlias = Callable[..., Any]


def _stack(map_device: MapDevice, host: Any, *, nr_workers: int = 1, workqueue: Workqueue | None = None) -> CryptDevice:
    """Put dm-crypt on the small host's device."""
    device = CryptDevice(
        host.pages, host.queue, workqueue=workqueue or host.kblockd, costs=host.costs, nr_workers=nr_workers
    )
    device.fill(host.softirq)
    map_device(host, device)
    return device


def test_content_goes_down_and_comes_back(map_device: MapDevice, submit: Submit, make_host: Any) -> None:
    """What was written through it is read through it, and the device below has the same versions."""
    host = make_host(zones=(("DMA32", 4096),))
    device = _stack(map_device, host)

    async def body(task: Task) -> None:
        ended = await submit(device, task, write=True, slot=8, nr=50)
        await host.pause(task, 10_000_000)
        assert sum(nr for _slot, nr, _versions, error in ended if not error) == 50
        assert [host.device.store[slot] for slot in range(8, 58)] == list(range(1008, 1058))
        ended = await submit(device, task, write=False, slot=10, nr=20)
        await host.pause(task, 10_000_000)
        assert ended == [(10, 20, list(range(1010, 1030)), 0)]

    host.run(body)


def test_copies_come_back_when_the_device_below_has_written(
    map_device: MapDevice, submit: Submit, make_host: Any
) -> None:
    """Every page under way holds one of dm-crypt's, and none afterwards but the pool's."""
    host = make_host(zones=(("DMA32", 4096),))
    device = _stack(map_device, host)
    owner = host.ledger.owner("dm-crypt")
    host.device.held = True

    async def body(task: Task) -> None:
        assert host.ledger.counts[owner] == CRYPT_PAGE_POOL
        await submit(device, task, write=True, slot=0, nr=96)
        await host.pause(task, 1_000_000)
        assert host.ledger.counts[owner] == CRYPT_PAGE_POOL + 96
        assert device.nr_in_flight == 96
        while host.device.in_flight:
            host.device.complete(host.device.in_flight[0])
        assert (host.ledger.counts[owner], device.nr_in_flight) == (CRYPT_PAGE_POOL, 0)

    host.run(body)


@pytest.mark.parametrize("of_its_own", [True, False])
def test_who_waits_for_a_tag_below(map_device: MapDevice, submit: Submit, make_host: Any, of_its_own: bool) -> None:
    """With a thread of its own that sends, the worker goes on to take pages where no tag is left; else it waits."""
    host = make_host(zones=(("DMA32", 4096),), nr_requests=4, switches={"crypt_write_thread": of_its_own})
    device = _stack(map_device, host)
    host.device.held = True

    async def body(task: Task) -> None:
        device.start(host.cpus)
        for number in range(12):
            await submit(device, task, write=True, slot=100 * number, nr=1)
        await host.pause(task, 1_000_000)
        assert len(host.device.in_flight) == 4
        assert device.nr_in_flight == (12 if of_its_own else 5)
        # the last waits for the worker or for the thread, in whose way is the tag
        waits = device.needs(device.queue.outstanding[12])
        assert (waits.needs[0].comm == "dmcrypt_write") is of_its_own
        while device.nr_in_flight:
            host.device.release()
            host.device.held = True
            await host.pause(task, 1_000_000)
        assert device.queue.outstanding == {}

    host.run(body)


def test_the_thread_sends_as_it_lies_on_the_device(map_device: MapDevice, submit: Submit, make_host: Any) -> None:
    """What was encrypted meanwhile goes down sorted, so that neighbours become one request."""
    host = make_host(zones=(("DMA32", 4096),))
    device = _stack(map_device, host)
    host.device.held = True

    async def body(task: Task) -> None:
        device.start(host.cpus)
        for slot in (7, 5, 6, 4):
            await submit(device, task, write=True, slot=slot, nr=1)
        await host.pause(task, 1_000_000)
        assert [(rq.slot, rq.nr_pages) for rq in host.device.in_flight] == [(4, 4)]
        host.device.release()

    host.run(body)


def test_one_worker_at_a_time_sleeps_for_pages(map_device: MapDevice, submit: Submit, make_host: Any) -> None:
    """With the pool empty and no other memory two workers get their pages one after the other, so neither starves."""
    host = make_host(zones=(("DMA32", 4096),), max_pages=200)
    device = _stack(map_device, host, nr_workers=2)
    host.device.delay_ns = lambda rq: 100_000_000 * (1 + rq.slot // 1000)
    ended: list[Any] = []

    async def body(task: Task) -> None:
        while host.alloc() >= 0:
            pass
        for number in range(10):
            nr = 32 if number < 8 else 200
            requests = await submit(device, task, write=True, slot=1000 * number, nr=nr)
            ended.append(requests)
            await host.pause(task, 1_000_000)
        assert len(device._alloc_lock.holders) == 1
        await host.pause(task, 60_000_000_000)

    host.run(body)
    assert sum(len(requests) for requests in ended) == 10


def test_a_read_that_ends_while_it_is_handed_down_is_known(
    map_device: MapDevice, submit: Submit, make_host: Any
) -> None:
    """A device below that answers before its submitter goes on finds the request above."""
    host = make_host(zones=(("DMA32", 4096),))
    device = _stack(map_device, host)
    take = host.device.queue_rq_nowait

    def at_once(rq: Any) -> int:
        status = take(rq)
        host.device.complete(rq)
        return int(status)

    async def body(task: Task) -> None:
        host.device.held = True
        host.device.error = lambda rq: 5
        host.device.queue_rq_nowait = at_once
        ended = await submit(device, task, write=False, slot=10, nr=20)
        await host.pause(task, 10_000_000)
        assert [(slot, nr) for slot, nr, _versions, error in ended if error] == [(10, 20)]

    host.run(body)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("nr_workers", [1, 2, 3])
@pytest.mark.parametrize("nr_pages", [64, 96, 160, 256])
def test_without_the_mutex_it_hangs_where_workers_want_more_than_the_pool(
    map_device: MapDevice, submit: Submit, make_host: Any, alone: bool, nr_workers: int, nr_pages: int
) -> None:
    """Requests come at once and no other page is free: pages times workers above the pool is a hang, else is none.

    Each worker takes the pages of its request one by one, so all of them get a part. With the mutex nothing hangs.
    """
    switches = {"crypt_alloc_mutex": alone}
    host = make_host(zones=(("DMA32", 4096),), max_pages=256, cpus=nr_workers, switches=switches)
    pool = WorkerPool(
        host.world, "u2", host.creator, cpus=host.cpus, bound=False, nr_workers=nr_workers, nice=0, flags=PF_KTHREAD
    )
    kcryptd = Workqueue("kcryptd", pool, mem_reclaim=False)
    device = _stack(map_device, host, nr_workers=nr_workers, workqueue=kcryptd)
    ended: list[list[Any]] = []

    async def body(task: Task) -> None:
        pool.start()
        while host.alloc() >= 0:
            pass
        ended.extend(
            [await submit(device, task, write=True, slot=1000 * number, nr=nr_pages) for number in range(nr_workers)]
        )
        await host.pause(task, 60_000_000_000)

    host.run(body)
    hangs = not alone and nr_workers > 1 and nr_pages * nr_workers > CRYPT_PAGE_POOL
    assert sum(map(len, ended)) == (0 if hangs else nr_workers)


def test_the_mapped_device_tells_the_state_of_what_is_under_it(
    map_device: MapDevice, submit: Submit, make_host: Any
) -> None:
    """Pages that come back below change the digest of the mapped device, whose own bio is still out."""
    host = make_host(zones=(("DMA32", 4096),))
    device = _stack(map_device, host)
    host.device.held = True

    async def body(task: Task) -> None:
        await submit(device, task, write=True, slot=0, nr=32)
        await host.pause(task, 1_000_000)
        before = device.queue.digest()
        assert before == device.queue.digest()
        assert before[-1] == device.digest()
        host.queue.completed += 1
        after = device.queue.digest()
        assert after[:-1] == before[:-1]
        assert after != before
        host.device.release()

    host.run(body)
