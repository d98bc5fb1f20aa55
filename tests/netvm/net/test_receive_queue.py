"""The receive queue: what is taken, when it is freed, and how the buffer grows."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.net.receive_queue import ReceiveQueue
from netvm.net.sk_memory import SockMemory

Host = Any


def queue_of(host: Host, *, rcvbuf: int = 8192, locked: bool = False) -> tuple[ReceiveQueue, SockMemory]:
    """Return a receive queue of this host and the memory of its socket."""
    mem = SockMemory(host.stack.tcp_memory, rcvbuf=rcvbuf)
    return ReceiveQueue(mem, host.skbs, rmem_max=1 << 20, locked=locked), mem


def test_empty_queue_always_takes_a_packet(net_host: Callable[..., Host]) -> None:
    """Whatever the limits: a socket that has nothing to read takes one; the next one meets them."""
    host = net_host(tcp_mem=(0, 0, 0))
    queue, mem = queue_of(host)
    first, second = (host.skbs.napi_alloc_skb(host.softirq) for _ in range(2))
    first.truesize = second.truesize = 4096
    assert queue.try_rmem_schedule(first, exempt=False)
    queue.push(first, 100)
    assert not queue.try_rmem_schedule(second, exempt=False)
    assert mem.rmem_alloc == first.truesize
    assert len(queue) == 1


@pytest.mark.parametrize("exempt", [False, True])
def test_before_it_an_empty_queue_met_the_limit_too(net_host: Callable[..., Host], exempt: bool) -> None:
    """Without the fix a socket that has nothing to read is refused above tcp_mem, unless the packet is exempt."""
    host = net_host(tcp_mem=(0, 0, 0), switches={"tcp_one_skb": False})
    queue, mem = queue_of(host)
    skb = host.skbs.napi_alloc_skb(host.softirq)
    assert queue.try_rmem_schedule(skb, exempt=exempt) is exempt
    assert mem.rmem_alloc == (skb.truesize if exempt else 0)


@pytest.mark.parametrize("exempt", [False, True])
def test_reserve_packets_pass_the_protocols_limit_not_the_sockets(net_host: Callable[..., Host], exempt: bool) -> None:
    """An exempt packet is taken above tcp_mem, but not above the receive buffer."""
    host = net_host(tcp_mem=(0, 0, 0))
    queue, mem = queue_of(host, rcvbuf=3 * 1280)
    taken = 0
    for _ in range(8):
        skb = host.skbs.napi_alloc_skb(host.softirq)
        if queue.try_rmem_schedule(skb, exempt=exempt):
            queue.push(skb, taken)
            taken += 1
    assert taken == (4 if exempt else 3)
    assert mem.rmem_alloc == taken * 1280


def test_packets_go_when_all_their_data_is_read(net_host: Callable[..., Host]) -> None:
    """Half a packet read frees nothing; everything comes back at the end."""
    host = net_host()
    queue, mem = queue_of(host)
    for end_seq in (100, 200, 300):
        skb = host.skbs.napi_alloc_skb(host.softirq)
        queue.try_rmem_schedule(skb, exempt=False)
        queue.push(skb, end_seq)
    queue.free_read(199)
    assert (len(queue), host.skbs.nr_skbs) == (2, 2)
    queue.free_read(200)
    assert len(queue) == 1
    queue.purge()
    mem.release()
    assert (mem.rmem_alloc, host.skbs.nr_skbs, host.stack.tcp_memory.allocated) == (0, 0, 0)


def test_a_packet_that_grows_gives_back_what_it_was_charged(net_host: Callable[..., Host]) -> None:
    """Over loopback the sender adds to a packet that lies in the receive queue: the books balance nevertheless."""
    host = net_host()
    queue, mem = queue_of(host)
    skb = host.skbs.napi_alloc_skb(host.softirq)
    assert skb is not None
    assert queue.try_rmem_schedule(skb, exempt=False)
    queue.push(skb, 100)
    skb.truesize += 48
    queue.purge()
    assert mem.rmem_alloc == 0


def test_window_is_half_of_what_is_free(net_host: Callable[..., Host]) -> None:
    """tcp_win_from_space with the default scale; never negative."""
    host = net_host()
    queue, mem = queue_of(host, rcvbuf=8192)
    assert queue.space_bytes() == 4096
    mem.rmem_alloc = 8000
    assert queue.space_bytes() == 96
    mem.rmem_alloc = 9000
    assert queue.space_bytes() == 0


@pytest.mark.parametrize("locked", [False, True])
def test_buffer_grows_with_the_reader_unless_its_size_was_set(net_host: Callable[..., Host], locked: bool) -> None:
    """A reader that takes more in a round trip than ever gets a larger buffer, up to tcp_rmem[2]."""
    host = net_host()
    queue, mem = queue_of(host, rcvbuf=65536, locked=locked)
    adjust = {"rtt_ns": 5_000_000, "mss_bytes": 1448}
    queue.space_adjust(20_000, 5_000_000, **adjust)
    assert mem.rcvbuf == 65536, "less than half of the buffer"
    queue.space_adjust(30_000, 7_000_000, **adjust)
    assert mem.rcvbuf == 65536, "the round trip is not over"
    queue.space_adjust(30_000, 10_000_000, **adjust)
    assert (mem.rcvbuf > 65536) == (not locked)
    queue.space_adjust(10_000_000, 20_000_000, **adjust)
    assert mem.rcvbuf == (65536 if locked else 1 << 20)
