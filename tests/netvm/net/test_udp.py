"""UDP sockets: what is queued and what is dropped, by which name, and what sending takes."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.errors import Errno
from netvm.net.remote import RemoteDatagramSocket
from netvm.net.skb import SKB_HEAD_TRUESIZE
from netvm.net.udp import UdpSock
from netvm.units import NS_PER_MS

Host = Any


def test_datagrams_are_read_in_order_and_their_memory_comes_back(net_host: Callable[..., Host]) -> None:
    """A reader gets what arrived, first come first, and nothing stays charged."""
    host = net_host()
    sock = host.udp()
    for size in (10, 1400, 100):
        host.arrive(sock, size)
    assert (sock.nr_received, sock.nr_dropped) == (3, 0)
    assert sock.mem.rmem_alloc == 1280 + 2176 + 1280
    assert sock.digest() == (3, sock.mem.rmem_alloc)
    assert [sock.read_one().size_bytes for _ in range(3)] == [10, 1400, 100]
    assert sock.read_one() is None
    assert sock.mem.rmem_alloc == 0
    assert host.stack.udp_memory.allocated == 0
    assert host.skbs.nr_skbs == 0
    host.audit()


def test_flood_fills_the_receive_buffer_and_no_more(net_host: Callable[..., Host]) -> None:
    """One datagram may cross the limit; the next are dropped as UdpRcvbufErrors and hold no memory."""
    host = net_host()
    sock = host.udp(rcvbuf=10 * 2176)
    for _ in range(50):
        host.arrive(sock, 1448)
    assert sock.nr_received == 11
    assert (sock.nr_dropped, host.netstat["UdpRcvbufErrors"]) == (39, 39)
    assert host.skbs.nr_skbs == 11


def test_flood_meets_the_limits_of_all_datagrams(net_host: Callable[..., Host]) -> None:
    """Above udp_mem[0] a socket that holds its minimum gets no more, however large its own buffer is."""
    host = net_host(udp_mem=(10, 15, 20))
    sock = host.udp(rcvbuf=1 << 24)
    for _ in range(50):
        host.arrive(sock, 1448)
    assert host.stack.udp_memory.allocated == 10
    assert sock.nr_received == 10 * 4096 // 2176
    assert host.netstat["UdpMemErrors"] == sock.nr_dropped == 50 - sock.nr_received


@pytest.mark.parametrize(("fixed", "memalloc"), [(True, False), (False, False), (True, True)])
def test_reserve_packet_is_dropped_at_an_ordinary_socket(
    net_host: Callable[..., Host], fixed: bool, memalloc: bool
) -> None:
    """sk_filter: what came in reserve memory is for SOCK_MEMALLOC sockets only, where pfmemalloc_drop is."""
    host = net_host(switches={"pfmemalloc_drop": fixed})
    sock = host.udp()
    sock.memalloc = memalloc
    skb = host.skbs.napi_alloc_skb(host.softirq)
    skb.pfmemalloc = True
    sock.take(None, skb)
    dropped = fixed and not memalloc
    assert (len(sock.queue), host.netstat["PFMemallocDrop"]) == (0 if dropped else 1, int(dropped))
    assert host.skbs.nr_skbs == (0 if dropped else 1)


def test_waiting_reader_is_woken(net_host: Callable[..., Host]) -> None:
    """A datagram ends the wait of who reads."""
    host = net_host()
    sock = host.udp()

    async def body(task: Any) -> int:
        host.world.call_after(5_000_000, host.arrive, sock, 100)
        await sock.readable_wait.wait(task)
        assert sock.read_one() is not None
        return int(host.world.now_ns)

    assert host.run(body) == 5_000_000


def _wired(host: Host, **options: Any) -> tuple[Any, RemoteDatagramSocket]:
    """Return a socket here and its peer elsewhere."""
    sock = UdpSock(host.stack, "here", rcvbuf=1 << 20, **options)
    remote = RemoteDatagramSocket(host.world, "there", link=host.down)
    sock.peer, sock.peer_fragments = remote, remote.fragments
    return sock, remote


def test_a_datagram_travels_in_fragments_and_its_packets_go_when_the_wire_has_them(
    net_host: Callable[..., Host],
) -> None:
    """The peer gets it whole; meanwhile a packet a fragment is charged, and afterwards none."""
    host = net_host(bandwidth=1_000_000)
    sock, remote = _wired(host)
    got: list[Any] = []
    remote.on_datagram = got.append

    async def body(task: Any) -> None:
        assert sock.sendmsg_nowait(task, [b"call"], 8000) == 0
        assert sock.wmem_alloc == 6 * SKB_HEAD_TRUESIZE
        assert host.skbs.nr_skbs == 6
        await host.pause(task, 100 * NS_PER_MS)

    host.run(body)
    assert got == [[b"call"]]
    assert (sock.wmem_alloc, host.skbs.nr_skbs, host.netstat["IpFragCreates"]) == (0, 0, 6)


def test_without_room_or_memory_nothing_of_a_datagram_is_sent(net_host: Callable[..., Host]) -> None:
    """A full buffer is -EAGAIN and its end is told; a packet that cannot be had throws the others away."""
    host = net_host(bandwidth=1_000_000)
    sock, _remote = _wired(host, sndbuf=2 * SKB_HEAD_TRUESIZE)
    told: list[int] = []
    sock.write_space = lambda: told.append(sock.wmem_alloc)

    async def body(task: Any) -> None:
        assert sock.sendmsg_nowait(task, [b""], 8000) == 0
        assert sock.sendmsg_nowait(task, [b""], 10) == -Errno.EAGAIN
        await host.pause(task, 100 * NS_PER_MS)
        assert told == [0]
        pages = host.drain()
        while host.slabs["kmalloc-1k"].try_alloc(host.softirq, 0) >= 0:
            pass
        assert sock.sendmsg_nowait(task, [b""], 8000) == -Errno.ENOBUFS
        assert (sock.wmem_alloc, host.skbs.nr_skbs, host.netstat["IpOutDiscards"]) == (0, 0, 1)
        host.give_back(pages)

    host.run(body)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_marked_socket_may_exceed_the_limits_with_reserve_packets(net_host: Callable[..., Host], fixed: bool) -> None:
    """Above udp_mem a SOCK_MEMALLOC socket takes a packet of the reserve, where rmem_exempt is."""
    host = net_host(udp_mem=(0, 0, 0), switches={"rmem_exempt": fixed})
    sock = host.udp()
    sock.sk_set_memalloc()
    sock.sk_set_memalloc()
    assert host.skbs.nr_memalloc_socks == 1
    skb = host.skbs.napi_alloc_skb(host.softirq)
    skb.pfmemalloc = True
    told: list[int] = []
    sock.data_ready = lambda: told.append(len(sock.queue))
    sock.take(None, skb)
    assert (len(sock.queue), told, host.netstat["UdpMemErrors"]) == ((1, [1], 0) if fixed else (0, [], 1))
