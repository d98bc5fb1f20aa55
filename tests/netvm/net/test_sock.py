"""TCP sockets: priority, drops by name, sleeping for memory, and nothing leaked at the end."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.errors import Errno
from netvm.mm.gfp import GFP_MEMALLOC, PF_MEMALLOC
from netvm.net.tcp.segment import ACK, Segment
from netvm.net.wire import Packet
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

Host = Any


async def connected(host: Host, task: Any, **options: Any) -> tuple[Any, Any]:
    """Return a connected socket and its remote peer."""
    sock, remote = host.remote_pair(**options)
    sock.connect()
    await host.pause(task, 100 * NS_PER_MS)
    assert sock.established
    return sock, remote


def data_packet(sock: Any, size_bytes: int = 100, *, ahead_bytes: int = 0) -> Packet:
    """Return the next segment of the peer's stream, or one after a gap."""
    segment = Segment(
        seq=sock.core.rcv_nxt + ahead_bytes, ack=sock.core.snd_una, size_bytes=size_bytes, window_bytes=65535, flags=ACK
    )
    return Packet(sock, segment, size_bytes)


@pytest.mark.parametrize("fixed", [False, True])
def test_priority_is_a_mask_and_a_count(net_host: Callable[..., Host], fixed: bool) -> None:
    """sk_set_memalloc: __GFP_MEMALLOC in the socket's mask and one more memalloc_sock, where memalloc_sockets is."""
    host = net_host(switches={"memalloc_sockets": fixed})
    sock, _ = host.remote_pair()
    for _ in range(2):
        sock.sk_set_memalloc()
        assert (sock.memalloc, bool(sock.allocation & GFP_MEMALLOC)) == (fixed, fixed)
        assert host.skbs.nr_memalloc_socks == int(fixed)
    for _ in range(2):
        sock.sk_clear_memalloc()
        assert (sock.memalloc, sock.allocation & GFP_MEMALLOC, host.skbs.nr_memalloc_socks) == (False, 0, 0)


def test_a_packet_over_loopback_is_half_of_the_window(net_host: Callable[..., Host]) -> None:
    """tcp_bound_to_half_wnd: half of the largest window seen.

    A buffer of 128 KiB is a window of one packet of 65,495 bytes, which counts in units of 16 on a small machine.
    """
    host = net_host()

    async def body(task: Any) -> None:
        one, other = host.loopback_pair()
        one.connect()
        await host.pause(task, 10 * NS_PER_MS)
        await one.sendmsg(task, [b"x"], more=False)
        # a softirq has received it as soon as the sender let softirqs run again
        assert other.readable_bytes == 1
        await host.pause(task, 10 * NS_PER_MS)
        assert (one.core.size_goal_bytes, other.core.size_goal_bytes) == (32_752, 32_752)

    host.run(body)


@pytest.mark.parametrize("nr_calls", [1, 15])
def test_acknowledgements_that_came_meanwhile_are_seen(net_host: Callable[..., Host], nr_calls: int) -> None:
    """A sender that lets go to wait for room does not wait if they made it, and each call takes the lock anew."""
    host = net_host()
    waits: list[str] = []

    async def body(task: Any) -> None:
        one, other = host.loopback_pair()
        one.connect()
        await host.pause(task, 10 * NS_PER_MS)
        began_ns = host.world.now_ns
        plain = one.sk_stream_wait_memory

        async def waited(task: Any, *how: Any) -> int:
            waits.append(one.short_of)
            return await plain(task, *how)

        one.sk_stream_wait_memory = waited
        await one.sendmsg(task, [bytes(60_000)], more=False, nr_calls=nr_calls)
        assert other.readable_bytes == 60_000
        assert host.world.now_ns - began_ns < NS_PER_MS

    host.run(body)
    assert bool(waits) == (nr_calls == 1)


@pytest.mark.parametrize(
    ("fixed", "memalloc", "dropped"), [(True, False, 1), (True, True, 0), (False, False, 0), (False, True, 0)]
)
def test_reserve_packet_is_dropped_at_an_ordinary_socket(
    net_host: Callable[..., Host], fixed: bool, memalloc: bool, dropped: int
) -> None:
    """PFMemallocDrop: what arrived in reserve memory is for SOCK_MEMALLOC sockets, where pfmemalloc_drop is."""
    host = net_host(switches={"pfmemalloc_drop": fixed})

    async def body(task: Any) -> None:
        sock, remote = await connected(host, task)
        if memalloc:
            sock.sk_set_memalloc()
        remote.outgoing.write(bytes(100))
        skb = host.skbs.napi_alloc_skb(host.softirq)
        skb.pfmemalloc = True
        sock.take(data_packet(sock), skb)
        assert host.netstat["PFMemallocDrop"] == dropped
        assert sock.readable_bytes == (0 if dropped else 100)

    host.run(body)


@pytest.mark.parametrize(("fixed", "taken"), [(True, True), (False, False)])
def test_storage_socket_may_exceed_the_protocols_limit(net_host: Callable[..., Host], fixed: bool, taken: bool) -> None:
    """rmem_exempt: above tcp_mem a reserve packet of a SOCK_MEMALLOC socket is taken; else it is TCPRcvQDrop."""
    host = net_host(switches={"rmem_exempt": fixed}, tcp_mem=(4, 6, 8))

    async def body(task: Any) -> None:
        sock, remote = await connected(host, task)
        sock.sk_set_memalloc()
        remote.outgoing.write(bytes(200))
        for pfmemalloc in (False, True):
            skb = host.skbs.napi_alloc_skb(host.softirq)
            skb.truesize, skb.pfmemalloc = 4096, pfmemalloc
            host.stack.tcp_memory.allocated += 0 if not pfmemalloc else 8
            sock.take(data_packet(sock), skb)
        assert sock.readable_bytes == (200 if taken else 100)
        assert host.netstat["TCPRcvQDrop"] == (0 if taken else 1)
        host.stack.tcp_memory.allocated -= 8

    host.run(body)


def test_reader_that_stopped_fills_the_window_not_memory(net_host: Callable[..., Host]) -> None:
    """A peer that sends for ever fills the receive buffer; the zero window stops it, and reading opens it again."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, remote = await connected(host, task, rcvbuf=32768)
        remote.write([bytes(200_000)])
        await host.pause(task, 5 * NS_PER_S)
        held = sock.mem.rmem_alloc
        assert 16384 <= held <= 32768 + 3 * 2176
        assert sock.readable_bytes < 200_000
        got = await sock.recvmsg(task, 200_000, wait_all=True)
        assert sum(len(chunk) for chunk in got) == 200_000
        assert sock.mem.rmem_alloc == 0

    host.run(body)
    host.audit()


def test_packets_for_an_owned_socket_wait(net_host: Callable[..., Host]) -> None:
    """Acknowledgements that come while a task has the lock are seen to when it lets go."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        await sock.sendmsg(task, [bytes(1000)], more=False)
        await sock.lock_sock(task)
        await host.pause(task, 50 * NS_PER_MS)
        assert len(sock.lock) > 0
        assert sock.core.snd_una < sock.core.write_seq
        sock.release_sock(task)
        assert len(sock.lock) == 0
        assert sock.core.snd_una == sock.core.write_seq

    host.run(body)


def test_sender_waits_two_to_51_jiffies_for_a_page(net_host: Callable[..., Host]) -> None:
    """sk_stream_wait_memory with room in the buffer: pages were short, so it sleeps a random moment, unlocked.

    From a tick, where each sleep begins and ends, the wheel makes it one jiffy more.
    """
    host = net_host()
    slept: list[int] = []

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        for _ in range(300):
            await sock.lock_sock(task)
            start_ns = host.world.now_ns
            await sock.sk_stream_wait_memory(task)
            assert sock.owner is task
            sock.release_sock(task)
            slept.append((host.world.now_ns - start_ns) // JIFFY_NS)

    host.run(body)
    assert (min(slept), max(slept)) == (3, 51)
    assert len(set(slept)) > 40


def test_sender_without_memory_shrinks_its_buffer_and_goes_on_later(net_host: Callable[..., Host]) -> None:
    """A storage socket that finds no page under PF_MEMALLOC enters pressure, moderates its buffer and tries again."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        sock.sk_set_memalloc()
        task.flags |= PF_MEMALLOC
        taken = host.drain()
        host.world.call_after(NS_PER_S, host.give_back, taken)
        start_ns = host.world.now_ns
        assert await sock.sendmsg(task, [bytes(20_000)], more=False) == 0
        assert host.world.now_ns - start_ns >= NS_PER_S
        assert host.netstat["TCPMemoryPressures"] == 1
        task.flags &= ~PF_MEMALLOC

    host.run(body)


def test_full_buffer_waits_for_acknowledgements(net_host: Callable[..., Host]) -> None:
    """With the buffer full and the link down nothing moves; the retransmission that gets through ends the wait."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task, sndbuf=8192)
        host.up.is_down = True
        host.world.call_after(2 * NS_PER_S, setattr, host.up, "is_down", False)
        start_ns = host.world.now_ns
        await sock.sendmsg(task, [bytes(200_000)], more=False)
        assert host.world.now_ns - start_ns > 2 * NS_PER_S

    host.run(body)


@pytest.mark.parametrize("short_of", ["room", "a page"])
def test_a_sender_whose_time_is_bounded_gives_up(net_host: Callable[..., Host], short_of: str) -> None:
    """sk_sndtimeo: -EAGAIN when all its waits for room or for pages have come to that, at the end of a wait."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task, sndbuf=8192)
        sock.sndtimeo_ns = 3 * NS_PER_S
        taken = host.drain() if short_of == "a page" else []
        host.up.is_down = True
        start_ns = host.world.now_ns
        assert await sock.sendmsg(task, [bytes(200_000)], more=False) == -Errno.EAGAIN
        waited_ns = host.world.now_ns - start_ns
        assert sock.short_of == short_of
        assert sock.owner is None
        if short_of == "room":
            assert 3 * NS_PER_S <= waited_ns < 3 * NS_PER_S + 8 * 8 * JIFFY_NS
        else:
            assert 3 * NS_PER_S <= waited_ns < 3 * NS_PER_S + 51 * JIFFY_NS
        host.give_back(taken)

    host.run(body)


def test_acknowledgement_needs_a_packet_of_its_own(net_host: Callable[..., Host]) -> None:
    """Without memory for it an ACK is not sent now but tried again; the peer learns later."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, remote = await connected(host, task)
        while host.skbs.try_alloc_tx(task, 0, fclone=False) is not None:
            pass
        taken = host.drain()
        remote.outgoing.write(bytes(3000))
        for _ in range(2):
            skb = host.skbs.napi_alloc_skb(host.softirq)
            if skb is None:
                host.give_back(taken, 8)
                skb = host.skbs.napi_alloc_skb(host.softirq)
                taken += host.drain()
            sock.take(data_packet(sock, 1448), skb)
        assert sock.readable_bytes == 2 * 1448
        host.give_back(taken)
        await host.pause(task, 2 * NS_PER_S)
        assert sock.core.timer_ns() is None

    host.run(body)


def test_closed_socket_sends_and_reads_nothing(net_host: Callable[..., Host]) -> None:
    """-EPIPE for a sender, the end for a reader, -EPIPE for pages by reference."""
    host = net_host()

    async def body(task: Any) -> None:
        sock, _ = await connected(host, task)
        sock.abort()
        assert await sock.sendmsg(task, [b"x"], more=False) == -Errno.EPIPE
        assert await sock.recvmsg(task, 1, wait_all=True) == []
        assert sock.try_sendpages(task, b"x", None, None, more=False) == -Errno.EPIPE

    host.run(body)
    assert host.skbs.nr_skbs == 0


@pytest.mark.parametrize("late", [False, True])
def test_data_nobody_will_read_is_answered_with_a_reset(net_host: Callable[..., Host], late: bool) -> None:
    """tcp_close with unread data, or data after it: the peer's connection is gone."""
    host = net_host()
    closed: list[str] = []

    async def body(task: Any) -> None:
        sock, remote = await connected(host, task)
        remote.on_closed = lambda: closed.append("closed")
        if late:
            sock.tcp_close()
        remote.write([b"hello"])
        await host.pause(task, 100 * NS_PER_MS)
        sock.tcp_close()
        await host.pause(task, 100 * NS_PER_MS)
        assert not remote.is_open

    host.run(body)
    assert closed
    assert host.skbs.nr_skbs == 0


def test_hosts_share_a_world_and_nothing_else(net_host: Callable[..., Host]) -> None:
    """Two hosts in one process: each has its own memory, sockets, counters and time."""
    one, other = net_host(), net_host()
    one.skbs.nr_memalloc_socks = 1
    one.netstat.add("PFMemallocDrop")
    one.arrive(one.udp(), 100)
    assert (other.skbs.nr_memalloc_socks, other.netstat.counts, other.skbs.nr_skbs) == (0, {}, 0)
    assert other.stack.sockets == []


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=6),
    loopback=st.booleans(),
    loss=st.sampled_from([0.0, 0.05]),
    duplicate=st.sampled_from([0.0, 0.2]),
    reorder=st.sampled_from([0.0, 0.2]),
    nic=st.sampled_from(["e1000", "virtio-net"]),
)
def test_stream_arrives_whole_and_all_memory_comes_back(
    net_host: Callable[..., Host],
    sizes: list[int],
    loopback: bool,
    loss: float,
    duplicate: float,
    reorder: float,
    nic: str,
) -> None:
    """Whatever the wire does: the bytes arrive in order, once; then no packet, page or charge is left."""
    host = net_host(nic=nic)
    for link in (host.up, host.down):
        link.loss, link.duplicate, link.reorder = loss, duplicate, reorder
    text = [bytes([index]) * size for index, size in enumerate(sizes)]
    got: list[Any] = []

    async def body(task: Any) -> None:
        if loopback:
            sock, peer = host.loopback_pair()
            sock.connect()
        else:
            sock, peer = host.remote_pair()
            peer.on_data = got.extend
            sock.connect()
        while not sock.established:
            await host.pause(task, NS_PER_S)
        for piece in text:
            await sock.sendmsg(task, [piece], more=False)
            if loopback:
                got.extend(await peer.recvmsg(task, len(piece), wait_all=True))
        await host.pause(task, 300 * NS_PER_S)
        sock.abort()
        await host.pause(task, 300 * NS_PER_S)
        if loopback:
            peer.abort()

    host.run(body)
    assert b"".join(got) == b"".join(text)
    assert host.skbs.nr_skbs == 0
    assert host.stack.tcp_memory.allocated == 0
    host.audit()
