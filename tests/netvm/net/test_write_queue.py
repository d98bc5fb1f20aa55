"""The write queue: packets filled, split, refused and freed, with every page accounted for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_MEMALLOC, GFP_NOWARN
from netvm.net.sock import TcpSock
from netvm.net.tcp.segment import ACK, Segment
from netvm.units import NS_PER_MS, NS_PER_S

Host = Any


async def connected(host: Host, task: Any, **options: Any) -> tuple[TcpSock, Any]:
    """Return a connected socket and its remote peer."""
    sock, remote = host.remote_pair(**options)
    sock.connect()
    await host.pause(task, 100 * NS_PER_MS)
    assert sock.established
    return sock, remote


def test_copied_data_fills_the_last_packet(net_host: Callable[..., Host]) -> None:
    """Small writes under MSG_MORE share one packet and one block; it is freed when acknowledged."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        queue = sock.write_queue
        for _ in range(10):
            await sock.sendmsg(task, [b"x" * 100], more=True)
        assert len(queue) == 1
        assert queue.tail_bytes == 1000
        assert sock.mem.wmem_queued == 1280 + 1000
        assert host.owned("skb:local") == 8
        await sock.sendmsg(task, [b"."], more=False)
        await host.pause(task, NS_PER_S)
        assert len(queue) == 0
        assert sock.mem.wmem_queued == 0
        assert host.owned("skb:local") == 8, "the socket keeps its block"
        sock.abort()
        assert host.owned("skb:local") == 0

    host.run(body)
    assert host.skbs.nr_skbs == 0
    assert host.stack.tcp_memory.allocated == 0
    host.audit()


def test_block_is_used_again_from_its_start(net_host: Callable[..., Host]) -> None:
    """Once no packet refers to it, a block's offset goes back to 0: many small requests need one block."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        for _ in range(100):
            await sock.sendmsg(task, [b"x" * 1000], more=False)
            await host.pause(task, 50 * NS_PER_MS)
            assert host.owned("skb:local") == 8

    host.run(body)


@pytest.mark.parametrize(("kernel", "fixed", "own"), [(True, True, True), (True, False, False), (False, True, False)])
def test_kernel_sockets_leave_the_tasks_block_alone(
    net_host: Callable[..., Host], kernel: bool, fixed: bool, own: bool
) -> None:
    """task_frag_off: a kernel socket that may sleep cuts from its own block, not from the task's."""
    host = net_host(switches={"task_frag_off": fixed})

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task, kernel=kernel)
        await sock.sendmsg(task, [b"x"], more=False)
        assert (host.stack.task_frag(task).frag is None) == own

    host.run(body)


def test_pages_by_reference_are_pinned_until_acknowledged(net_host: Callable[..., Host]) -> None:
    """sendpage: 16 pages are 16 fragments, pinned once each; nothing is copied."""
    host = net_host()
    pfns = np.array([host.alloc() for _ in range(16)])

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        sock.allocation = GFP_ATOMIC
        sent = sock.try_sendpages(task, b"header", bytes(16 * 4096), pfns, more=False)
        assert sent > 0
        assert host.frames.pins[pfns[0]] == 1
        await host.pause(task, NS_PER_S)
        assert sent == 16 * 4096 or not host.frames.pins[pfns].any()
        assert not host.frames.pins[pfns].any()

    host.run(body)


@pytest.mark.parametrize("offset", [0, 1000])
def test_attached_pages_respect_the_fragment_limit(net_host: Callable[..., Host], offset: int) -> None:
    """17 fragments a packet at most, and the halves of one page in one packet are one fragment."""
    host = net_host()
    pfns = np.array([host.alloc() for _ in range(40)])

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task, sndbuf=1 << 20)
        sock.allocation = GFP_ATOMIC
        sock.core.set_cork(True)
        want = 30 * 4096
        got = sock.write_queue.try_attach(task, pfns, offset, want)
        assert got == want
        for skb in sock.write_queue._skbs:
            fragments = len(skb.frags) + (0 if skb.pinned is None else len(skb.pinned))
            assert fragments <= 17
        pinned = sum(int(pins) for pins in host.frames.pins[pfns])
        pages = -(-(offset + want) // 4096)
        assert pages <= pinned <= pages + len(sock.write_queue)
        sock.abort()
        assert not host.frames.pins[pfns].any()

    host.run(body)


def test_packet_that_gets_no_page_is_taken_back(net_host: Callable[..., Host]) -> None:
    """Without a page for the header the empty packet goes, and its charge with it."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        sock.allocation = GFP_ATOMIC | GFP_NOWARN
        spare = host.skbs.try_alloc_tx(task, GFP_ATOMIC)
        host.skbs.kfree_skb(spare)
        before = (sock.mem.wmem_queued, host.skbs.nr_skbs)
        taken = host.drain()
        assert sock.try_sendpages(task, b"header", None, None, more=False) == -11
        assert (sock.mem.wmem_queued, host.skbs.nr_skbs) == before
        assert len(sock.write_queue) == 0
        host.give_back(taken)
        assert sock.try_sendpages(task, b"header", None, None, more=False) == 0

    host.run(body)


@pytest.mark.parametrize(("retransmission", "may"), [(False, True), (True, False)])
def test_splitting_for_a_retransmission_has_no_reserve(
    net_host: Callable[..., Host], retransmission: bool, may: bool
) -> None:
    """A segment that ends inside a packet takes a head: from the reserve when new, without it when sent again."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        sock.sk_set_memalloc()
        host.up.is_down = True
        await sock.sendmsg(task, [bytes(3000)], more=True)
        queue = sock.write_queue
        skb = queue._skbs[0]
        core = sock.core
        seq = core.snd_nxt - 1000 if retransmission else core.snd_nxt
        segment = Segment(seq=seq, ack=1, size_bytes=500, window_bytes=1, flags=ACK)
        assert queue.can_transmit(segment._replace(seq=skb.end_seq - 500), skb, task), "the whole rest needs nothing"
        while host.skbs.try_alloc_tx(task, GFP_ATOMIC | GFP_NOWARN) is not None:
            pass
        host.zone.watermark[:] = (8000, 8100, 8200)
        while host.skbs.try_alloc_tx(task, GFP_ATOMIC | GFP_NOWARN) is not None:
            pass
        nr = len(queue)
        assert queue.can_transmit(segment, skb, task) == may
        assert len(queue) == nr + may
        if not may:
            core.send_failed(segment, host.world.now_ns, congestion=False)
        assert host.stack.netstat_values().get("TCPRetransFail", 0) == int(not may)

    host.run(body)


def test_sender_sleeps_for_a_page_of_its_mask(net_host: Callable[..., Host]) -> None:
    """frag_refill gives a block with room, and a new one when it is used up."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        assert sock.allocation == GFP_KERNEL
        first = await sock.write_queue.frag_refill(task)
        assert await sock.write_queue.frag_refill(task) is first
        first.get()
        first.offset = first.size_bytes
        second = await sock.write_queue.frag_refill(task)
        assert second is not first
        first.put()
        sock.sk_set_memalloc()
        assert sock.allocation & GFP_MEMALLOC

    host.run(body)
