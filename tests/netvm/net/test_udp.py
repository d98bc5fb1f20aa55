"""UDP sockets under a flood: what is queued, what is dropped, and by which name."""

from collections.abc import Callable
from typing import Any

import pytest

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
