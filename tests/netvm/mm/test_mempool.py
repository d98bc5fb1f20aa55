"""mempool_t: the exact order of attempts, and who gets what comes back."""

import pytest

from netvm.errors import UsageError
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_DIRECT_RECLAIM,
    GFP_IO,
    GFP_KERNEL,
    GFP_NOIO,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWAIT,
    GFP_NOWARN,
)
from netvm.mm.mempool import Mempool, SlabElements
from netvm.units import NS_PER_MS, NS_PER_S

ADDED = GFP_NOMEMALLOC | GFP_NORETRY | GFP_NOWARN


class Source:
    """An underlying allocator that notes each mask and gives what the test put in."""

    def __init__(self, host):
        self.host = host
        self.tried = []
        self.freed = []
        self.gives = []
        """Elements still to be had, whatever the mask."""
        self.gives_to_reclaim = []
        """Elements that only an attempt with __GFP_DIRECT_RECLAIM gets."""

    def try_alloc(self, task, gfp):
        """Note the mask."""
        self.tried.append(("try", gfp, self.host.world.now_ns))
        return self.gives.pop(0) if self.gives else None

    async def alloc(self, task, gfp):
        """Note the mask."""
        self.tried.append(("may sleep", gfp, self.host.world.now_ns))
        queue = self.gives or self.gives_to_reclaim
        return queue.pop(0) if queue else None

    def free(self, element):
        """Note the element."""
        self.freed.append(element)

    @property
    def masks(self):
        """What was asked for, without times."""
        return [(how, mask) for how, mask, _ in self.tried]


def _pool(host, *, min_nr=2, nomemalloc=True):
    source = Source(host)
    pool = Mempool(host.world, "test", min_nr=min_nr, allocator=source, nomemalloc=nomemalloc)
    pool.fill([f"spare{i}" for i in range(min_nr)])
    return pool, source


def _alloc(host, pool, gfp=GFP_NOIO, *, nr=1):
    async def body(task):
        return [await pool.mempool_alloc(task, gfp) for _ in range(nr)]

    return host.run(body)


@pytest.mark.parametrize(
    ("gfp", "first"),
    [(GFP_NOIO, GFP_NOWAIT), (GFP_KERNEL, GFP_KERNEL & ~(GFP_DIRECT_RECLAIM | GFP_IO))],
)
def test_the_allocator_comes_first_without_reclaim_and_io(host, gfp: int, first: int) -> None:
    """NOMEMALLOC, NORETRY and NOWARN are always added; DIRECT_RECLAIM and IO are left out of the first try."""
    pool, source = _pool(host)
    source.gives = ["fresh"]
    assert _alloc(host, pool, gfp) == ["fresh"]
    assert source.masks == [("try", first | ADDED)]
    assert pool.elements == ["spare0", "spare1"]


def test_the_pool_comes_before_reclaim(host) -> None:
    """As long as it has elements nobody reclaims; the last one put in is the first one out."""
    pool, source = _pool(host)
    source.gives_to_reclaim = ["reclaimed"]
    assert _alloc(host, pool, GFP_KERNEL, nr=2) == ["spare1", "spare0"]
    assert {how for how, _ in source.masks} == {"try"}
    assert pool.nr_out == 2


def test_reclaim_comes_when_the_pool_is_dry(host) -> None:
    """The full mask at once after the narrow one."""
    pool, source = _pool(host, min_nr=0)
    source.gives_to_reclaim = ["reclaimed"]
    assert _alloc(host, pool, GFP_KERNEL) == ["reclaimed"]
    assert source.masks == [
        ("try", (GFP_KERNEL | ADDED) & ~(GFP_DIRECT_RECLAIM | GFP_IO)),
        ("may sleep", GFP_KERNEL | ADDED),
    ]
    assert host.world.now_ns == 0


def test_the_whole_order_of_attempts(host) -> None:
    """Narrow mask, pool, full mask, pool, five seconds (by the timer wheel 5.12); from then on the full mask only."""
    pool, source = _pool(host, min_nr=1)

    async def body(task):
        first = await pool.mempool_alloc(task, GFP_KERNEL)
        source.tried.clear()

        async def give_back(task):
            await host.pause(task, 12 * NS_PER_S)
            pool.free(first)

        host.world.spawn("owner", give_back)
        assert await pool.mempool_alloc(task, GFP_KERNEL) == first

    host.run(body)
    narrow, full = (GFP_KERNEL | ADDED) & ~(GFP_DIRECT_RECLAIM | GFP_IO), GFP_KERNEL | ADDED
    assert source.tried == [
        ("try", narrow, 0),
        ("may sleep", full, 0),
        ("may sleep", full, 5120 * NS_PER_MS),
        ("may sleep", full, 10240 * NS_PER_MS),
        ("may sleep", full, 12 * NS_PER_S),
    ]


def test_what_was_freed_behind_the_scenes_is_found_after_five_seconds(host) -> None:
    """The retry is there for elements that do not come back through the pool."""
    pool, source = _pool(host, min_nr=0)

    async def elsewhere(task):
        await host.pause(task, 7 * NS_PER_S)
        source.gives.append("fresh")

    async def body(task):
        host.world.spawn("elsewhere", elsewhere)
        assert await pool.mempool_alloc(task, GFP_NOIO) == "fresh"

    host.run(body)
    assert host.world.now_ns == 2 * 5120 * NS_PER_MS


def test_freeing_refills_before_it_releases(host) -> None:
    """Below min_nr an element stays in the pool, above it goes to the allocator."""
    pool, source = _pool(host)
    source.gives = ["a", "b", "c"]

    async def body(task):
        mine = [await pool.mempool_alloc(task, GFP_NOIO) for _ in range(5)]
        assert mine == ["a", "b", "c", "spare1", "spare0"]
        for element in mine:
            pool.free(element)

    host.run(body)
    assert pool.elements == ["a", "b"]
    assert source.freed == ["c", "spare1", "spare0"]
    assert pool.nr_out == 0


def test_each_element_that_comes_back_serves_one_waiter(host) -> None:
    """All are woken, who waited longest runs first and gets it; the others look again and sleep anew."""
    pool, source = _pool(host)
    got = []

    async def waiter(task):
        got.append((task.comm, await pool.mempool_alloc(task, GFP_NOIO), host.world.now_ns))

    async def body(task):
        mine = [await pool.mempool_alloc(task, GFP_NOIO) for _ in range(2)]
        for i in range(3):
            host.world.spawn(f"waiter{i}", waiter)
        await host.pause(task, NS_PER_MS)
        assert [task.comm for task in pool.waiters] == ["waiter0", "waiter1", "waiter2"]
        for element in mine:
            pool.free(element)
            await host.pause(task, NS_PER_MS)
        assert len(pool.waiters) == 1
        source.gives.append("fresh")
        await host.pause(task, 6 * NS_PER_S)

    host.run(body)
    assert got == [
        ("waiter0", "spare1", NS_PER_MS),
        ("waiter1", "spare0", 2 * NS_PER_MS),
        ("waiter2", "fresh", 5120 * NS_PER_MS),
    ]


def test_a_waiter_who_comes_too_late_waits_again(host) -> None:
    """Between the wake-up and its turn somebody else may take the element."""
    pool, _ = _pool(host, min_nr=1)
    got = []

    async def waiter(task):
        got.append(await pool.mempool_alloc(task, GFP_NOIO))

    async def body(task):
        mine = await pool.mempool_alloc(task, GFP_NOIO)
        host.world.spawn("waiter", waiter)
        await host.pause(task, NS_PER_MS)
        pool.free(mine)
        # before the waiter runs
        stolen = pool.try_alloc(task, GFP_NOWAIT)
        assert stolen == mine
        await host.pause(task, NS_PER_MS)
        assert got == []
        assert len(pool.waiters) == 1
        pool.free(stolen)
        await host.pause(task, NS_PER_MS)
        assert got == [mine]

    host.run(body)


def test_a_killed_task_waits_like_any_other(host) -> None:
    """The sleep is uninterruptible: a signal does not end it."""
    pool, _ = _pool(host, min_nr=1)
    got = []

    async def victim(task):
        got.append(await pool.mempool_alloc(task, GFP_NOIO))

    async def body(task):
        mine = await pool.mempool_alloc(task, GFP_NOIO)
        target = host.world.spawn("victim", victim)
        await host.pause(task, NS_PER_MS)
        target.kill()
        await host.pause(task, NS_PER_S)
        assert len(pool.waiters) == 1
        pool.free(mine)
        await host.pause(task, NS_PER_S)
        assert got == [mine]

    host.run(body)


def test_without_sleeping_it_is_the_allocator_or_the_pool(host) -> None:
    """A mask without DIRECT_RECLAIM: one try, the pool, or nothing."""
    pool, source = _pool(host, min_nr=1)
    task = host.task()
    assert pool.try_alloc(task, GFP_ATOMIC) == "spare0"
    assert pool.try_alloc(task, GFP_ATOMIC) is None
    assert source.masks == [("try", GFP_ATOMIC | ADDED)] * 2
    assert pool.nr_out == 1


def test_each_door_takes_its_own_masks(host) -> None:
    """A mask that may sleep has to be awaited, one that may not cannot be."""
    pool, _ = _pool(host)
    with pytest.raises(AssertionError, match="may sleep"):
        pool.try_alloc(host.task(), GFP_NOIO)
    with pytest.raises(AssertionError, match="may not sleep"):
        _alloc(host, pool, GFP_NOWAIT)


def test_a_pool_is_filled_once_and_fully(host) -> None:
    """mempool_init sets min_nr elements aside; a machine without memory for them is a user's mistake."""
    pool = Mempool(host.world, "test", min_nr=2, allocator=Source(host))
    with pytest.raises(UsageError, match=r"machine\.ram_mib: .* the 2 elements of test"):
        pool.fill(["only one"])
    with pytest.raises(AssertionError):
        pool.fill(["one", "two"])


def test_more_cannot_come_back_than_went_out(host) -> None:
    """An element freed twice is our bug."""
    pool, _ = _pool(host)
    with pytest.raises(AssertionError):
        pool.free("spare0")


def test_without_the_fix_a_dry_pool_opens_the_reserve(host) -> None:
    """Without ``mempool_nomemalloc`` (4.6, 4.7) the mask has NOMEMALLOC only while the pool has elements."""
    pool, source = _pool(host, min_nr=1, nomemalloc=False)
    source.gives_to_reclaim = ["reclaimed"]
    assert _alloc(host, pool, nr=2) == ["spare0", "reclaimed"]
    assert [bool(mask & GFP_NOMEMALLOC) for _, mask in source.masks] == [True, False, False]
    assert all(mask & GFP_NORETRY and mask & GFP_NOWARN for _, mask in source.masks)


def test_the_resource_names_pool_and_size(host) -> None:
    """A hang report reads ``test (min_nr 2)``."""
    pool, _ = _pool(host)
    assert (pool.resource.kind, pool.resource.name) == ("mempool", "test (min_nr 2)")


def test_a_slab_cache_is_an_underlying_allocator(host) -> None:
    """Objects, known by their slab, come from the cache and go back; one that cannot grow gives None, not a number."""
    cache = host.slabs["bio-160"]
    elements = SlabElements(cache)
    before = cache.nr_active
    taken = [elements.try_alloc(host.softirq, GFP_NOWAIT) for _ in range(3)]
    assert cache.nr_active - before == len(taken)
    for element in taken:
        elements.free(element)
    assert cache.nr_active == before
    owner = host.ledger.owner("test")
    while host.pages.try_alloc_pages(host.softirq, 0, GFP_ATOMIC | GFP_NOWARN, owner) >= 0:
        pass
    found = 0
    while found is not None:
        found = elements.try_alloc(host.softirq, GFP_NOWAIT | GFP_NOWARN)
    assert cache.nr_active == cache.nr_slabs * cache.spec.nr_objects


def test_what_one_waiter_leaves_is_for_the_next(host) -> None:
    """A waiter that finds memory elsewhere leaves the element, and nobody sleeps beside a full pool."""
    pool, source = _pool(host, min_nr=1)
    got = []

    async def waiter(task):
        got.append((task.comm, await pool.mempool_alloc(task, GFP_NOIO)))

    async def body(task):
        mine = await pool.mempool_alloc(task, GFP_NOIO)
        for i in range(2):
            host.world.spawn(f"waiter{i}", waiter)
        await host.pause(task, NS_PER_MS)
        source.gives.append("fresh")
        pool.free(mine)
        await host.pause(task, NS_PER_MS)
        assert got == [("waiter0", "fresh"), ("waiter1", mine)]

    host.run(body)
