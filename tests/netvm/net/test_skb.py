"""Packets in memory: what they are made of, which reserve they may take, and that all of it comes back."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.mm.frames import PG_PFMEMALLOC
from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_MEMALLOC, GFP_NOWARN
from netvm.net.skb import FRAG_ORDER, SKB_HEAD_TRUESIZE, PageFrag, Skb

Host = Any


def test_page_frag_frees_its_block_with_the_last_reference(net_host: Callable[..., Host]) -> None:
    """The block stays while any packet cut from it lives, and goes back whole."""
    host = net_host()
    before = host.zone.nr_free
    frag = host.skbs.try_page_frag(host.softirq, GFP_ATOMIC, host.owner_test, nomemalloc=True)
    assert (frag.order, frag.size_bytes) == (FRAG_ORDER, 32768)
    frag.get()
    frag.put()
    assert host.zone.nr_free + host.nr_pcp < before
    frag.put()
    assert host.zone.nr_free + host.nr_pcp == before
    host.audit()


def test_page_frag_falls_back_to_one_page(net_host: Callable[..., Host]) -> None:
    """Where no block of eight pages is to be had, a packet is cut from one page."""
    host = net_host()
    for pfn in host.drain():
        if pfn % 2:
            host.pages.free_pages(pfn, 0)
    frag = host.skbs.try_page_frag(host.softirq, GFP_ATOMIC | GFP_MEMALLOC, host.owner_test, nomemalloc=True)
    assert frag.order == 0
    assert frag.size_bytes == 4096


@pytest.mark.parametrize("nomemalloc", [True, False])
def test_only_page_frag_caches_keep_the_large_block_out_of_the_reserve(
    net_host: Callable[..., Host], nomemalloc: bool
) -> None:
    """Below min a privileged socket gets a large block of the reserve, a page_frag cache only a page."""
    host = net_host(nic="", free=40)
    gfp = GFP_ATOMIC | GFP_MEMALLOC | GFP_NOWARN
    host.zone.watermark[:] = (800, 900, 1000)
    frag = host.skbs.try_page_frag(host.softirq, gfp, host.owner_test, nomemalloc=nomemalloc)
    assert frag.order == (0 if nomemalloc else 3)
    assert frag.pfmemalloc


def test_tx_packet_is_a_companion_head_and_a_kilobyte(net_host: Callable[..., Host]) -> None:
    """An empty packet to be sent: skbuff_fclone_cache, kmalloc-1k, and a truesize of 1280; both come back."""
    host = net_host()
    skb = host.skbs.try_alloc_tx(host.softirq, GFP_ATOMIC)
    assert skb.truesize == SKB_HEAD_TRUESIZE == 1280
    assert (host.slabs["skbuff_fclone_cache"].nr_active, host.slabs["kmalloc-1k"].nr_active) == (1, 1)
    assert host.skbs.nr_skbs == 1
    host.skbs.get(skb)
    host.skbs.kfree_skb(skb)
    assert host.skbs.nr_skbs == 1, "the clone in flight still holds it"
    host.skbs.kfree_skb(skb)
    assert (host.slabs["skbuff_fclone_cache"].nr_active, host.slabs["kmalloc-1k"].nr_active) == (0, 0)
    assert host.skbs.nr_skbs == 0


def test_tx_packet_without_data_gives_its_head_back(net_host: Callable[..., Host]) -> None:
    """A head is of no use without its data object."""
    host = net_host()
    head = host.slabs["skbuff_fclone_cache"].try_alloc(host.softirq, GFP_ATOMIC)
    assert head >= 0
    host.drain()
    assert host.skbs.try_alloc_tx(host.softirq, GFP_ATOMIC | GFP_NOWARN) is None
    assert host.slabs["skbuff_fclone_cache"].nr_active == 1
    assert host.skbs.nr_skbs == 0


def test_data_object_from_the_second_try_marks_the_packet(net_host: Callable[..., Host]) -> None:
    """kmalloc_reserve: what was got only by entitlement is a reserve packet; what was got without it is not."""
    host = net_host()
    cache = host.skbs.kmalloc_1k
    found, pfmemalloc = host.skbs.kmalloc_reserve(host.softirq, cache, GFP_ATOMIC | GFP_MEMALLOC)
    assert (found >= 0, pfmemalloc) == (True, False)
    host.zone.watermark[:] = (8000, 8100, 8200)
    seen = [host.skbs.kmalloc_reserve(host.softirq, cache, GFP_ATOMIC | GFP_MEMALLOC)[1] for _ in range(8)]
    assert seen == [False] * 7 + [True], "the eighth object needs a slab page"
    assert host.skbs.kmalloc_reserve(host.softirq, host.skbs.kmalloc_4k, GFP_ATOMIC)[0] < 0


def test_napi_heads_come_sixteen_at_a_time_or_not_at_all(net_host: Callable[..., Host]) -> None:
    """One slab page is sixteen heads; if a refill cannot have them all it has none."""
    host = net_host()
    heads = host.slabs["skbuff_head_cache"]
    for nr in range(1, 17):
        assert host.skbs.napi_skb_cache_get(host.softirq) >= 0
        assert heads.nr_active == 16, nr
    assert host.skbs.napi_skb_cache_get(host.softirq) >= 0
    assert heads.nr_active == 32
    for _ in range(15):
        host.skbs.napi_skb_cache_get(host.softirq)
    host.drain()
    assert host.skbs.napi_skb_cache_get(host.softirq) == -1
    assert heads.nr_active == 32


def test_part_of_a_bulk_goes_back(net_host: Callable[..., Host]) -> None:
    """Fifteen heads of a partly used slab page and no page for the sixteenth: all fifteen stay in the slab."""
    host = net_host()
    heads = host.slabs["skbuff_head_cache"]
    heads.try_alloc(host.softirq, GFP_ATOMIC)
    host.drain()
    assert host.skbs.napi_skb_cache_get(host.softirq) == -1
    assert heads.nr_active == 1


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("memalloc_socks", [False, True])
def test_heads_never_come_from_the_reserve(net_host: Callable[..., Host], fixed: bool, memalloc_socks: bool) -> None:
    """Receive heads are asked for with plain GFP_ATOMIC, whoever swaps over the network, unless rx_head_memalloc."""
    host = net_host(switches={"rx_head_memalloc": fixed})
    host.skbs.nr_memalloc_socks = int(memalloc_socks)
    host.zone.watermark[:] = (8000, 8100, 8200)
    assert (host.skbs.napi_skb_cache_get(host.softirq) >= 0) == (fixed and memalloc_socks)


@pytest.mark.parametrize(("fixed", "memalloc_socks"), [(True, True), (True, False), (False, True)])
def test_receive_data_may_come_from_the_reserve(
    net_host: Callable[..., Host], fixed: bool, memalloc_socks: bool
) -> None:
    """With a SOCK_MEMALLOC socket anywhere, and rx_memalloc, a slice is had below min and marks its packets."""
    host = net_host(switches={"rx_memalloc": fixed})
    host.skbs.napi_skb_cache_get(host.softirq)
    host.skbs.nr_memalloc_socks = int(memalloc_socks)
    host.zone.watermark[:] = (8000, 8100, 8200)
    skb = host.skbs.napi_alloc_skb(host.softirq)
    assert (skb is not None) == (fixed and memalloc_socks)
    if skb is not None:
        assert skb.pfmemalloc


def test_four_small_packets_share_a_page(net_host: Callable[..., Host]) -> None:
    """1 KiB slices: the page goes when its four packets are freed and the next one is in use."""
    host = net_host()
    owner = "skb:page_frag_1k"
    skbs: list[Skb] = [host.skbs.napi_alloc_skb(host.softirq) for _ in range(4)]
    assert host.owned(owner) == 1
    assert [skb.truesize for skb in skbs] == [1280] * 4
    skbs.append(host.skbs.napi_alloc_skb(host.softirq))
    assert host.owned(owner) == 2
    for skb in skbs[:4]:
        host.skbs.kfree_skb(skb)
    assert host.owned(owner) == 1
    host.skbs.kfree_skb(skbs[4])
    assert host.skbs.nr_skbs == 0


def test_napi_cache_is_bounded_and_flushed_by_half(net_host: Callable[..., Host]) -> None:
    """Freed in softirq, a head waits for the next packet; at 64 of them, 32 go back to the slab."""
    host = net_host()
    skbs = [host.skbs.napi_alloc_skb(host.softirq) for _ in range(80)]
    heads = host.slabs["skbuff_head_cache"]
    assert heads.nr_active == 80
    for nr, skb in enumerate(skbs, start=1):
        host.skbs.kfree_skb(skb, napi=True)
        expected = 80 if nr < 64 else 48
        assert heads.nr_active == expected, nr


def test_built_packet_takes_over_its_ring_buffer(net_host: Callable[..., Host]) -> None:
    """napi_build_skb needs a head only; truesize and mark are the buffer's."""
    host = net_host()
    buffer = PageFrag(host.pages, host.alloc(3), 3)
    host.frames.flags_of[buffer.pfn] |= PG_PFMEMALLOC
    marked = PageFrag(host.pages, buffer.pfn, 3)
    skb = host.skbs.napi_build_skb(host.softirq, marked, 1920)
    assert (skb.truesize, skb.pfmemalloc, skb.frags) == (1920 + 256, True, [marked])
    host.skbs.kfree_skb(skb)
    assert marked.refs == 0


def test_sleeping_allocations_sleep_only_for_the_small_things(net_host: Callable[..., Host]) -> None:
    """alloc_tx and skb_page_frag_refill give what try_ versions give where memory is plenty."""
    host = net_host()

    async def body(task: Any) -> None:
        skb = await host.skbs.alloc_tx(task, GFP_KERNEL)
        assert skb.truesize == 1280
        frag = await host.skbs.skb_page_frag_refill(task, GFP_KERNEL, host.owner_test)
        assert frag.order == 3
        small = await host.skbs.skb_page_frag_refill(task, GFP_ATOMIC, host.owner_test)
        assert small.order == 3
        for got in (frag, small):
            got.put()
        host.skbs.kfree_skb(skb)

    host.run(body)
    assert host.skbs.nr_skbs == 0
    host.audit()
