"""Cards: what a frame costs, when the ring is refilled, what happens when it cannot be."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.zone import HIGHATOMIC
from netvm.net.tcp.segment import ACK, Segment
from netvm.net.wire import Packet
from netvm.units import NS_PER_MS, NS_PER_S

Host = Any
SMALL, LARGE = 100, 1448


def ring_pages(host: Host) -> int:
    """Pages that the card's ring holds."""
    return int(host.owned("rx_ring:eth0"))


@pytest.mark.parametrize(("nic", "per_block"), [("e1000", 17), ("virtio-net", 21)])
def test_full_ring_is_cut_from_blocks_of_eight_pages(net_host: Callable[..., Host], nic: str, per_block: int) -> None:
    """17 buffers of 1920 bytes come from an order-3 block (e1000), 21 of 1536 (virtio-net)."""
    host = net_host(nic=nic)
    assert host.nic.occupancy == 256
    assert host.nic.blocks_at_boot() == -(-256 // per_block)
    assert ring_pages(host) == 8 * host.nic.blocks_at_boot()
    assert not host.nic.is_stuck
    host.audit()


def test_small_frame_is_copied_and_its_buffer_stays(net_host: Callable[..., Host]) -> None:
    """Copybreak (e1000): up to 256 bytes with headers, no buffer leaves the ring."""
    host = net_host()
    sink = host.sink()
    host.arrive(sink, 256 - 66)
    assert host.nic.occupancy == 256
    assert sink.got[0][1].truesize == 1024 + 256
    host.arrive(sink, 256 - 65)
    assert sink.got[1][1].truesize == 1920 + 256
    sink.drop()
    host.audit()


def test_ring_is_refilled_with_what_left_it(net_host: Callable[..., Host]) -> None:
    """Large frames take their buffers along; the end of the poll refills the ring, 17 frames a block."""
    host = net_host()
    sink = host.sink()
    before = ring_pages(host)
    for nr in range(1, 35):
        host.arrive(sink, LARGE)
        assert host.nic.occupancy == 256
        assert ring_pages(host) == before + 8 * -(-nr // 17)
    sink.drop()
    host.audit()


def test_ring_is_refilled_every_sixteen_frames_within_a_poll(net_host: Callable[..., Host]) -> None:
    """A long poll of single frames sees its ring refilled after 16, not only at its end."""
    host = net_host(nic="e1000")
    seen: list[int] = []

    class Look:
        """Notes the ring's fill at each packet."""

        def take(self, packet: Any, skb: Any) -> None:
            seen.append(host.nic.occupancy)
            host.skbs.kfree_skb(skb)

    look = Look()
    taken = host.drain()
    for _ in range(40):
        host.arrive(look, LARGE)
    assert not seen, "no head for any of them"
    host.give_back(taken)
    host.nic.poll()
    assert seen == ([256 - nr for nr in range(1, 17)] * 3)[:40]


@pytest.mark.parametrize(("ring", "missing"), [(256, 32), (8, 4)])
def test_virtio_refills_only_when_more_than_half_a_poll_is_missing(
    net_host: Callable[..., Host], ring: int, missing: int
) -> None:
    """A refill waits until more than 32 descriptors, or half of a small ring, are empty, and then fills all."""
    host = net_host(nic="virtio-net", ring=ring)
    sink = host.sink()
    for nr in range(1, missing + 1):
        host.arrive(sink, LARGE)
        assert host.nic.occupancy == ring - nr
    host.arrive(sink, LARGE)
    assert host.nic.occupancy == ring
    sink.drop()


def test_virtio_frame_takes_a_small_head_and_its_buffer(net_host: Callable[..., Host]) -> None:
    """An MTU frame is a 1 KiB slice with the buffer as fragment; a tiny one lets its buffer go at once."""
    host = net_host(nic="virtio-net")
    sink = host.sink()
    host.arrive(sink, LARGE)
    assert sink.got[0][1].truesize == 1024 + 256 + 1536
    assert len(sink.got[0][1].frags) == 2
    host.arrive(sink, 128 - 66)
    assert len(sink.got[1][1].frags) == 1
    assert host.nic.occupancy == 254
    sink.drop()


@pytest.mark.parametrize(("nic", "reserved"), [("virtio-net", True), ("e1000", False)])
def test_only_virtio_refills_reserve_highatomic_pageblocks(
    net_host: Callable[..., Host], nic: str, reserved: bool
) -> None:
    """A high-order atomic request below the low mark turns its pageblock HIGHATOMIC; e1000 asks without the reserve."""
    host = net_host(nic=nic, free=1500, pageblock_order=5)
    host.zone.watermark[:] = (400, 1400, 1800)
    sink = host.sink()
    for _ in range(80):
        host.arrive(sink, LARGE)
    assert (host.zone.nr_reserved_highatomic > 0) == reserved
    assert any(host.zone.free_lists[order][HIGHATOMIC] for order in range(11)) == reserved


def test_ring_shrinks_until_it_is_empty_and_frames_are_lost(net_host: Callable[..., Host]) -> None:
    """Without memory each large frame shortens the ring; the frame after the last buffer is missed."""
    host = net_host(ring=8, retry="none")
    sink = host.sink()
    for _ in range(16):
        host.skbs.kfree_skb(host.skbs.napi_alloc_skb(host.softirq), napi=True)
    host.nic._frag_left = 0  # the block in use has no buffer left
    host.drain()
    for nr in range(1, 9):
        host.arrive(sink, LARGE)
        assert host.nic.occupancy == 8 - nr
    assert host.nic.is_stuck
    assert host.nic.stuck_on.startswith("ring empty")
    host.arrive(sink, LARGE)
    assert host.netstat.counts["rx_missed_errors"] == 1
    assert len(sink.got) == 8


def test_frame_without_a_head_stays_in_the_ring(net_host: Callable[..., Host]) -> None:
    """A frame whose sk_buff cannot be had waits for the next poll: nothing is lost, and nothing behind it moves."""
    host = net_host(retry="none")
    sink = host.sink()
    taken = host.drain()
    host.arrive(sink, LARGE)
    host.arrive(sink, SMALL)
    assert sink.got == []
    assert host.nic.is_stuck
    assert "skbuff_head_cache" in host.nic.stuck_on
    assert host.netstat.counts["rx_skb_alloc_failed"] == 2
    host.give_back(taken)
    host.arrive(sink, SMALL)
    assert [packet.size_bytes for packet, _ in sink.got] == [LARGE, SMALL, SMALL]
    assert not host.nic.is_stuck


@pytest.mark.parametrize(
    ("retry", "fixed", "after_ms"),
    [("none", True, None), ("timer", True, 2048), ("worker", True, 0), ("timer", False, None), ("worker", False, None)],
)
def test_what_retries_a_refill(net_host: Callable[..., Host], retry: str, fixed: bool, after_ms: int | None) -> None:
    """A watchdog looks every two seconds, a worker at once, and neither where there is no retry at all."""
    host = net_host(ring=8, retry=retry, switches={"rx_refill_retry": fixed})
    sink = host.sink()
    host.nic._frag_left = 0  # the block in use has no buffer left

    async def body(task: Any) -> None:
        for _ in range(16):
            host.skbs.kfree_skb(host.skbs.napi_alloc_skb(host.softirq), napi=True)
        taken = host.drain()
        host.arrive(sink, LARGE)
        assert host.nic.occupancy == 7
        host.give_back(taken)
        when = 10_000 if after_ms is None else after_ms
        await host.pause(task, when * NS_PER_MS + NS_PER_MS // 2)
        assert host.nic.occupancy == (7 if after_ms is None else 8)

    host.run(body)


def test_driver_decides_what_retries(net_host: Callable[..., Host]) -> None:
    """``driver`` is a timer for e1000 and a worker for virtio-net."""
    assert net_host(nic="e1000").nic.retry == "timer"
    assert net_host(nic="virtio-net").nic.retry == "worker"


def test_worker_that_fails_tries_again_in_half_a_second(net_host: Callable[..., Host]) -> None:
    """refill_work reclaims; an empty ring that it could not fill is tried again after 500 ms."""
    host = net_host(nic="virtio-net", ring=8)
    nic = host.nic

    async def body(task: Any) -> None:
        while nic._buffers:
            nic._buffers.popleft().put()
        nic._frag_left = 0
        refill, calls = host.skbs.skb_page_frag_refill, []

        async def fails(*args: Any) -> Any:
            calls.append(host.world.now_ns)
            return None if len(calls) < 3 else await refill(*args)

        host.skbs.skb_page_frag_refill = fails
        await nic.refill_work(task)
        await host.pause(task, 2 * NS_PER_S)
        assert nic.occupancy == 8
        assert [when // NS_PER_MS for when in calls] == [0, 512, 1024]

    host.run(body)


@pytest.mark.parametrize("recycle", [False, True])
def test_recycled_ring_needs_no_new_memory(net_host: Callable[..., Host], recycle: bool) -> None:
    """With recycling, blocks whose packets were freed go into the ring again; without, each refill allocates."""
    host = net_host(ring=32, recycle=recycle)
    sink = host.sink()
    for _ in range(400):
        host.arrive(sink, LARGE)
        sink.drop()
    assert host.nic.occupancy == 32
    assert (len(host.nic._recycled) > 0) == recycle
    taken = host.drain()
    for _ in range(200):
        host.arrive(sink, LARGE)
        sink.drop()
    assert (host.nic.occupancy == 32) == recycle
    host.give_back(taken)
    host.audit()


@pytest.mark.parametrize("fixed", [False, True])
def test_block_of_the_reserve_is_never_recycled(net_host: Callable[..., Host], fixed: bool) -> None:
    """rx_no_recycle_pfmemalloc: without it the reserve's mark stays in the ring long after memory is plenty."""
    host = net_host(ring=17, recycle=True, switches={"rx_no_recycle_pfmemalloc": fixed})
    sink = host.sink()
    for block in {id(frag): frag for frag in host.nic._buffers}.values():
        block.pfmemalloc = True
    host.nic._frag = host.nic._buffers[0]
    host.nic._frag.get()
    marks = []
    for _ in range(170):
        host.arrive(sink, LARGE)
        marks.append(sink.got[0][1].pfmemalloc)
        sink.drop()
    assert all(marks[:17])
    assert any(marks[17:]) == (not fixed)


def test_recycled_blocks_are_bounded(net_host: Callable[..., Host]) -> None:
    """A slow reader's packets do not make the card hoard: it keeps two rings' worth of blocks at most."""
    host = net_host(ring=32, recycle=True, free=2000)
    sink = host.sink()
    for _ in range(600):
        host.arrive(sink, LARGE)
    assert len(host.nic._recycled) == 2 * host.nic.blocks_at_boot()
    sink.drop()
    host.audit()


def test_burst_is_cut_to_the_ring(net_host: Callable[..., Host]) -> None:
    """Of a burst of more frames than there are descriptors the first ones arrive, the others are missed."""
    host = net_host(ring=8)
    sink = host.sink()
    segment = Segment(seq=1, ack=1, size_bytes=10 * LARGE, window_bytes=65535, flags=ACK)
    host.nic.packet_arrived(Packet(sink, segment, 10 * LARGE, 10))
    packet, skb = sink.got[0]
    assert (packet.nr_frames, packet.size_bytes, packet.segment.size_bytes) == (8, 8 * LARGE, 8 * LARGE)
    assert len(skb.frags) == 8
    assert skb.truesize == 8 * (1920 + 256)
    assert host.netstat.counts["rx_missed_errors"] == 2


def test_datagram_without_all_its_fragments_is_lost(net_host: Callable[..., Host]) -> None:
    """IP cannot put together what it has not: none of a datagram arrives if the ring had not room for all of it."""
    host = net_host(ring=8)
    sink = host.sink()
    host.arrive(sink, 10 * LARGE, nr_frames=10)
    assert sink.got == []
    assert host.netstat.counts["rx_missed_errors"] == 10
    assert host.nic.occupancy == 8


def test_software_gso_takes_a_linear_packet_a_frame(net_host: Callable[..., Host]) -> None:
    """virtio-net without offloads: a head and a kmalloc-4k object a frame until the wire has taken it; e1000 none."""
    for nic, nr in (("virtio-net", 45), ("e1000", 0)):
        host = net_host(nic=nic, bandwidth=10_000_000)

        async def body(task: Any, host: Host = host, nr: int = nr) -> None:
            sink = host.sink()
            assert host.nic.transmit(Packet(sink, None, 45 * 1448, 45)) == 0
            assert host.skbs.nr_skbs == nr
            assert host.slabs["kmalloc-4k"].nr_active == nr
            await host.pause(task, NS_PER_S)
            assert host.skbs.nr_skbs == 0
            assert len(sink.got) == 1

        host.run(body)


def test_burst_that_cannot_be_cut_is_dropped_below_tcp(net_host: Callable[..., Host]) -> None:
    """skb_segment fails: the burst is gone, all its parts are freed, and TCP is told it was sent."""
    host = net_host(nic="virtio-net")
    sink = host.sink()
    taken = host.drain()
    assert host.nic.transmit(Packet(sink, None, 45 * 1448, 45)) == 0
    assert host.netstat.counts["tx_dropped"] == 1
    assert host.skbs.nr_skbs == 0
    host.give_back(taken)
    assert host.up.nr_queued == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_frames_and_pages_add_up(net_host: Callable[..., Host], data: st.DataObject) -> None:
    """Whatever arrives while memory comes and goes: a frame is delivered, waits, or was counted as lost."""
    host = net_host(
        nic=data.draw(st.sampled_from(["e1000", "virtio-net"])), ring=16, retry="none", recycle=data.draw(st.booleans())
    )
    sink = host.sink()
    taken: list[int] = []
    sent = delivered = 0
    for action in data.draw(
        st.lists(st.sampled_from(["small", "large", "burst", "drain", "free", "read"]), max_size=40)
    ):
        if action == "drain":
            taken += host.drain()
        elif action == "free":
            host.give_back(taken, min(3, len(taken)))
        elif action == "read":
            delivered += sum(packet.nr_frames for packet, _ in sink.got)
            sink.drop()
        else:
            nr_frames = 5 if action == "burst" else 1
            host.arrive(sink, (SMALL if action == "small" else LARGE) * nr_frames, nr_frames)
            sent += nr_frames
    delivered += sum(packet.nr_frames for packet, _ in sink.got)
    waiting = sum(packet.nr_frames for packet in host.nic._pending)
    lost = host.netstat.counts.get("rx_missed_errors", 0) + host.netstat.counts.get("rx_drops", 0)
    assert delivered + waiting + lost == sent
    assert waiting <= host.nic.occupancy <= 16
    sink.drop()
    host.audit()


def test_a_burst_copied_in_part_goes_on_where_it_stopped(net_host: Callable[..., Host]) -> None:
    """Small frames of one burst: once memory for copies is out, only those that are left use up buffers."""
    host = net_host(ring=8, retry="none")
    sink = host.sink()
    copied = iter([True, True])
    alloc = host.skbs.napi_alloc_skb
    host.skbs.napi_alloc_skb = lambda task: alloc(task) if next(copied, False) else None  # type: ignore[method-assign]
    host.arrive(sink, 5 * SMALL, 5)
    assert len(sink.got) == 1
    assert host.nic._pending_frames == 0
    assert len(sink.got[0][1].frags) == 3


@pytest.mark.parametrize("nic", ["e1000", "igb"])
def test_only_igb_fills_its_ring_from_the_reserve(net_host: Callable[..., Host], nic: str) -> None:
    """dev_alloc_page goes below the GFP_ATOMIC floor, 3/8 of min, where e1000's buffers and all heads stop."""
    host = net_host(nic=nic, free=400, marks=(64, 80, 96))
    sink = host.sink()
    for _ in range(1200):
        host.arrive(sink, 1448)
    assert (host.node.nr_free < 23) == (nic == "igb")
    sink.drop()
    host.audit()


@pytest.mark.parametrize("held", [False, True])
def test_igb_recycles_a_page_that_is_free_and_forgets_one_that_is_held(
    net_host: Callable[..., Host], held: bool
) -> None:
    """With its packets freed the ring goes round in the same pages; else others take their place."""
    host = net_host(nic="igb", ring=16, recycle=True)
    sink = host.sink()
    for _ in range(200):
        host.arrive(sink, 1448)
        if not held:
            sink.drop()
    before = {buffer.pfn for buffer in host.nic._buffers} | {page.pfn for page in host.nic._recycled}
    for _ in range(50):
        host.arrive(sink, 1448)
        if not held:
            sink.drop()
    after = {buffer.pfn for buffer in host.nic._buffers}
    assert after <= before if not held else not after & before
    sink.drop()
    host.audit()


@pytest.mark.parametrize("keeps", [False, True])
def test_a_recycled_page_of_the_reserve_keeps_its_mark_unless_it_is_given_back(
    net_host: Callable[..., Host], keeps: bool
) -> None:
    """Long after memory has come back, as long as packets in it are freed at once."""
    host = net_host(
        nic="igb", ring=16, recycle=True, free=120, marks=(64, 80, 96), switches={"rx_no_recycle_pfmemalloc": not keeps}
    )
    sink = host.sink()
    while not host.nic.nr_pfmemalloc:
        host.arrive(sink, 1448)
    sink.drop()
    for _ in range(200):
        host.arrive(sink, 1448)
        sink.drop()
    assert bool(host.nic.nr_pfmemalloc) == keeps
