"""Socket memory: the protocol's limits, who is guaranteed what between them, and that every charge comes back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.net.sk_memory import SOCK_MIN_SNDBUF, ProtoMemory, SockMemory
from netvm.trace.vmstat import NetStat
from netvm.units import PAGE_SIZE


def proto(*limits: int, has_pressure: bool = True) -> ProtoMemory:
    """Return a protocol with these limits in pages and minimums of 4096 bytes."""
    return ProtoMemory(
        "TCP", limits or (10, 15, 20), rmem_min=4096, wmem_min=4096, netstat=NetStat(), has_pressure=has_pressure
    )


def sock(memory: ProtoMemory, **options: Any) -> SockMemory:
    """Return a stream socket with buffers of 64 KiB."""
    return SockMemory(memory, **({"rcvbuf": 65536, "sndbuf": 65536} | options))


def test_pages_are_bought_whole_and_used_up_first() -> None:
    """A charge takes whole pages from the protocol; what is left of them serves the next one."""
    memory = proto()
    one = sock(memory)
    assert one.mem_schedule(1, receive=True)
    assert (memory.allocated, one.forward_alloc) == (1, PAGE_SIZE)
    one.charge_receive(1)
    assert one.mem_schedule(PAGE_SIZE - 1, receive=True)
    assert memory.allocated == 1
    assert one.mem_schedule(PAGE_SIZE, receive=True)
    assert memory.allocated == 2


def test_uncharge_returns_every_whole_page() -> None:
    """sk_mem_uncharge keeps less than a page."""
    memory = proto()
    one = sock(memory)
    one.forced_mem_schedule(3 * PAGE_SIZE)
    one.charge_receive(3 * PAGE_SIZE)
    one.uncharge_receive(PAGE_SIZE - 1)
    assert (memory.allocated, one.forward_alloc) == (3, PAGE_SIZE - 1)
    one.uncharge_receive(2 * PAGE_SIZE + 1)
    assert (memory.allocated, one.forward_alloc, one.rmem_alloc) == (0, 0, 0)


@pytest.mark.parametrize(
    ("allocated", "granted", "pressure"),
    [(9, True, False), (10, True, False), (14, True, False), (15, True, True), (19, False, True), (20, False, True)],
)
def test_receive_meets_the_three_limits(allocated: int, granted: bool, pressure: bool) -> None:
    """One more page for a socket that holds much: free to the second limit, a question of shares to the third."""
    memory = proto()
    one, other = sock(memory), sock(memory)
    one.rmem_alloc = 9 * PAGE_SIZE
    memory.allocated = allocated
    assert one.mem_schedule(PAGE_SIZE, receive=True) == (granted and (allocated < 15 or 20 > 2 * 10))
    assert memory.under_pressure == pressure
    del other


@pytest.mark.parametrize("held", [0, 4095, 4096])
def test_small_receivers_are_guaranteed_a_minimum_under_pressure(held: int) -> None:
    """Between the limits a socket below tcp_rmem[0] gets its packet, whatever its share."""
    memory = proto(10, 15, 20)
    memory.nr_sockets = 1000
    one = sock(memory)
    one.rmem_alloc = held
    memory.allocated = 17
    assert one.mem_schedule(PAGE_SIZE, receive=True) == (held < 4096)


@pytest.mark.parametrize("queued", [0, 4095, 4096])
def test_small_senders_are_guaranteed_a_minimum_under_pressure(queued: int) -> None:
    """Likewise below tcp_wmem[0]; above, a sender whose buffer has room is refused."""
    memory = proto(10, 15, 20)
    memory.nr_sockets = 1000
    one = sock(memory, sndbuf_locked=True)
    one.wmem_queued = queued
    memory.allocated = 17
    assert one.mem_schedule(PAGE_SIZE, receive=False) == (queued < 4096)


@pytest.mark.parametrize(("nr_sockets", "granted"), [(9, True), (10, False)])
def test_fair_share_under_pressure(nr_sockets: int, granted: bool) -> None:
    """A socket gets more while the third limit exceeds the number of sockets times what it holds."""
    memory = proto(10, 15, 20)
    one = sock(memory)
    one.rmem_alloc = PAGE_SIZE
    memory.allocated = 16
    memory.nr_sockets = nr_sockets
    assert one.mem_schedule(PAGE_SIZE, receive=True) == granted


def test_refusal_takes_nothing() -> None:
    """A refused charge leaves the books as they were."""
    memory = proto(10, 15, 20)
    one = sock(memory)
    one.rmem_alloc = 20 * PAGE_SIZE
    memory.allocated = 20
    assert not one.mem_schedule(PAGE_SIZE, receive=True)
    assert (memory.allocated, one.forward_alloc) == (20, 0)


def test_sender_that_must_wait_anyway_is_granted() -> None:
    """Suppressed, a stream sender's buffer shrinks to half of what is queued; if that is full it gets this one."""
    memory = proto(10, 15, 20)
    one = sock(memory)
    one.wmem_queued = 3 * PAGE_SIZE
    memory.allocated = 20
    assert one.mem_schedule(PAGE_SIZE, receive=False)
    assert one.sndbuf == 3 * PAGE_SIZE // 2
    assert memory.allocated == 21


def test_suppression_between_the_limits_moderates_too() -> None:
    """A sender refused for its share, below the third limit, has its buffer shrunk just the same."""
    memory = proto(10, 15, 20)
    memory.nr_sockets = 1000
    one = sock(memory)
    one.wmem_queued = 2 * PAGE_SIZE
    memory.allocated = 16
    assert one.mem_schedule(100, receive=False)
    assert one.sndbuf == SOCK_MIN_SNDBUF
    locked = sock(memory, sndbuf_locked=True)
    locked.wmem_queued = 2 * PAGE_SIZE
    assert not locked.mem_schedule(100, receive=False)
    assert locked.sndbuf == 65536


def test_datagrams_know_no_pressure() -> None:
    """UDP above its first limit: only sockets below the minimum get more, and nothing is counted as pressure."""
    memory = proto(10, 15, 20, has_pressure=False)
    one = sock(memory, stream=False)
    memory.allocated = 10
    one.rmem_alloc = 4096
    assert not one.mem_schedule(PAGE_SIZE, receive=True)
    one.rmem_alloc = 4095
    memory.allocated = 18
    assert one.mem_schedule(PAGE_SIZE, receive=True)
    assert not memory.under_pressure
    assert memory.netstat.counts == {}


def test_pressure_begins_above_the_second_limit_and_ends_below_the_first() -> None:
    """Hysteresis, and one count each time it begins."""
    memory = proto(10, 15, 20)
    one = sock(memory)
    one.mem_schedule(15 * PAGE_SIZE, receive=True)
    assert not memory.under_pressure
    one.charge_receive(15 * PAGE_SIZE)
    one.mem_schedule(PAGE_SIZE, receive=True)
    one.charge_receive(PAGE_SIZE)
    assert memory.under_pressure
    one.uncharge_receive(6 * PAGE_SIZE)
    assert memory.under_pressure
    one.uncharge_receive(PAGE_SIZE)
    assert not memory.under_pressure
    memory.enter_pressure()
    memory.enter_pressure()
    assert memory.netstat["TCPMemoryPressures"] == 2


def test_exempt_packet_goes_into_debt() -> None:
    """A reserve packet of a storage socket is taken above every limit, and the books are even once it is freed."""
    memory = proto(10, 15, 20)
    one = sock(memory)
    memory.allocated = 20
    assert not one.rmem_schedule(2176, exempt=False)
    assert one.rmem_schedule(2176, exempt=True)
    one.charge_receive(2176)
    assert one.forward_alloc == -2176
    one.uncharge_receive(2176)
    assert (one.forward_alloc, memory.allocated) == (0, 20)


@pytest.mark.parametrize(("cwnd", "sndbuf"), [(1, 46080), (10, 46080), (20, 92160), (10_000, 1 << 20)])
def test_send_buffer_grows_with_the_window(cwnd: int, sndbuf: int) -> None:
    """tcp_sndbuf_expand: twice ten segments of 1460 at 2304 bytes each is 46080; capped, and never less than it was."""
    one = sock(proto(), sndbuf=16384)
    one.expand_sndbuf(cwnd, 1460, 1 << 20)
    assert one.sndbuf == sndbuf
    one.expand_sndbuf(1, 1460, 1 << 20)
    assert one.sndbuf == sndbuf


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.integers(1, 9000), st.booleans()), max_size=60))
def test_books_add_up(steps: list[tuple[int, bool, int, bool]]) -> None:
    """Whatever is charged and given back: the protocol's pages are those its sockets hold and have prepaid."""
    memory = proto(6, 9, 14)
    socks = [sock(memory), sock(memory)]
    held: list[list[tuple[bool, int]]] = [[], []]
    for which, receive, size, free in steps:
        one = socks[which]
        if free and held[which]:
            was_receive, size = held[which].pop(0)
            (one.uncharge_receive if was_receive else one.uncharge_write)(size)
        elif one.mem_schedule(size, receive=receive):
            (one.charge_receive if receive else one.charge_write)(size)
            held[which].append((receive, size))
        for index, each in enumerate(socks):
            assert each.rmem_alloc == sum(size for was, size in held[index] if was)
            assert each.wmem_queued == sum(size for was, size in held[index] if not was)
            assert each.forward_alloc >= 0
        total = sum(each.rmem_alloc + each.wmem_queued + each.forward_alloc for each in socks)
        assert memory.allocated * PAGE_SIZE == total
    for index, each in enumerate(socks):
        for was_receive, size in held[index]:
            (each.uncharge_receive if was_receive else each.uncharge_write)(size)
        each.release()
    assert memory.allocated == 0
