"""Bios: a slab, a pool of two behind it, and waits that end when one comes back."""

from netvm.block.bio import BIO_POOL_SIZE
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, GFP_NOIO, GFP_NOWARN


def drain(host) -> list[int]:
    """Take every page there is."""
    taken = []
    gfp = GFP_ATOMIC | GFP_MEMALLOC | GFP_NOWARN
    while (pfn := host.pages.try_alloc_pages(host.softirq, 0, gfp, host.owner_test)) >= 0:
        taken.append(pfn)
    return taken


def test_bios_are_taken_by_the_slab_page(make_host) -> None:
    """What is ready is what the slab has without another page; taking more than that gives just those."""
    host = make_host(swap_pages=1024)
    ready = host.bios.nr_ready()
    assert ready == 21 - BIO_POOL_SIZE
    taken = host.bios.take_many(host.softirq, GFP_NOIO, 5)
    assert len(taken) == 5
    assert host.bios.nr_ready() == ready - 5
    host.bios.free(taken)
    assert host.bios.nr_ready() == ready
    assert host.bios.pool.nr_out == 0


def test_pool_holds_two_and_then_who_asks_waits(make_host) -> None:
    """With no page to be had: the slab page's bios, the two set aside, then a wait that a returned bio ends."""
    host = make_host(swap_pages=1024)

    async def body(task) -> None:
        drain(host)
        bios = [await host.bios.bio_alloc_bioset(task, GFP_NOIO) for _ in range(21)]
        assert host.bios.pool.elements == []
        back = bios.pop()
        host.world.call_after(7_000_000, host.bios.free, [back])
        bios.append(await host.bios.bio_alloc_bioset(task, GFP_NOIO))
        assert host.world.now_ns == 7_000_000
        host.bios.free(bios)
        assert len(host.bios.pool.elements) == BIO_POOL_SIZE
        assert host.bios.pool.nr_out == 0

    host.run(body)


def test_pool_is_refilled_before_the_slab(make_host) -> None:
    """Returned bios go to the pool until it has its two."""
    host = make_host(swap_pages=1024)

    async def body(task) -> None:
        drain(host)
        bios = [await host.bios.bio_alloc_bioset(task, GFP_NOIO) for _ in range(21)]
        host.bios.free(bios[:3])
        assert len(host.bios.pool.elements) == 2
        assert host.bios.nr_ready() == 1
        host.bios.free(bios[3:])

    host.run(body)
