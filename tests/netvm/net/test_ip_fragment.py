"""Fragments: whatever order they come in, whole datagrams come out, and nothing of the others stays for good."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.net.ip_fragment import IPQ_BYTES, Datagram, FragmentCache, FragmentMemory, fragments_of
from netvm.units import NS_PER_S

Host = Any
FRAME_TRUESIZE = 2176
"""A full frame of e1000: its buffer and its head."""


def _cache(host: Host, **limits: Any) -> FragmentCache:
    values = {"high_bytes": 1 << 20, "low_bytes": 3 << 18, "evicts": True} | limits
    memory = FragmentMemory(
        **values, softirq=host.softirq, queues=lambda: host.slabs["kmalloc-256"], free=host.skbs.kfree_skb
    )
    return FragmentCache(host.world, netstat=host.netstat, memory=memory)


def _arrive(host: Host, packet: Any) -> None:
    """Let a packet come off the wire now."""
    host.nic.packet_arrived(packet)


def test_a_datagram_is_cut_at_the_wires_limit(net_host: Callable[..., Host]) -> None:
    """1472 bytes of payload go in one packet; each further fragment carries 1480, eight of them the UDP header."""
    host = net_host()
    sink, cache = host.sink(), host.sink()
    for size, sizes in [(1472, [1472]), (1473, [1480, 1]), (32768, [1480] * 22 + [216])]:
        packets = fragments_of(Datagram("a", 1, sink, size, b"x"), cache)
        assert [packet.size_bytes for packet in packets] == sizes
        assert {packet.to for packet in packets} == {sink if len(sizes) == 1 else cache}


@given(data=st.data())
def test_what_is_whole_comes_out_once_and_frees_everything(net_host: Callable[..., Host], data: st.DataObject) -> None:
    """Fragments of several datagrams, shuffled, some twice, some lost: those that are whole arrive, each once."""
    host = net_host()
    sink, cache = host.sink(), _cache(host)
    sizes = data.draw(st.lists(st.integers(1473, 9000), min_size=1, max_size=4))
    cut = [fragments_of(Datagram("a", ident, sink, size, ident), cache) for ident, size in enumerate(sizes)]
    sent = [(ident, packet) for ident, packets in enumerate(cut) for packet in packets]
    lost = data.draw(st.sets(st.integers(0, len(sent) - 1), max_size=2))
    come = [0] * len(sizes)
    whole = []
    for i in data.draw(st.permutations(range(len(sent)))):
        if i in lost:
            continue
        ident, packet = sent[i]
        _arrive(host, packet)
        come[ident] += 1
        if come[ident] == len(cut[ident]):
            whole.append(ident)
        elif data.draw(st.integers(0, 9)) == 0:
            _arrive(host, packet)
    assert [packet.content for packet, _ in sink.got] == whole
    assert host.netstat["IpReasmOKs"] == len(whole)
    waiting = [ident for ident, nr in enumerate(come) if nr and ident not in whole]
    assert len(cache) == len(waiting)
    most = sum(come[ident] for ident in waiting) * FRAME_TRUESIZE + len(waiting) * IPQ_BYTES
    assert len(waiting) * IPQ_BYTES <= cache.mem_bytes <= most
    sink.drop()
    while len(cache):
        cache._give_up(next(iter(cache._queues)))
    assert (cache.mem_bytes, host.skbs.nr_skbs) == (0, 0)
    host.audit()


def test_a_whole_datagram_is_charged_with_all_its_packets(net_host: Callable[..., Host]) -> None:
    """Until it is read a socket is charged the truesize of every fragment, and reading frees them all."""
    host = net_host()
    sock, cache = host.udp(), _cache(host)
    first, second, third = fragments_of(Datagram("a", 1, sock, 4000, b"data"), cache)
    _arrive(host, third)
    _arrive(host, first)
    assert cache.mem_bytes == 2 * FRAME_TRUESIZE + IPQ_BYTES
    _arrive(host, second)
    assert (cache.mem_bytes, len(cache), sock.mem.rmem_alloc) == (0, 0, 3 * FRAME_TRUESIZE)
    assert sock.read_one().content == b"data"
    assert (sock.mem.rmem_alloc, host.skbs.nr_skbs) == (0, 0)


def test_what_is_not_whole_in_time_is_given_up(net_host: Callable[..., Host]) -> None:
    """After thirty seconds the fragments are freed, and the kernel's counters say so."""
    host = net_host()
    cache = _cache(host)

    async def body(task: Any) -> None:
        _arrive(host, fragments_of(Datagram("a", 1, host.sink(), 4000, b""), cache)[0])
        await host.pause(task, 29 * NS_PER_S)
        assert (len(cache), host.skbs.nr_skbs) == (1, 1)
        await host.pause(task, 2 * NS_PER_S)

    host.run(body)
    assert (len(cache), cache.mem_bytes, host.skbs.nr_skbs) == (0, 0, 0)
    assert (host.netstat["IpReasmTimeout"], host.netstat["IpReasmFails"]) == (1, 1)
    (note,) = cache.notes()
    assert note.startswith("Ip: ReasmReqds 1, ReasmOKs 0, ReasmFails 1, ReasmTimeout 1; 0 datagrams with 0 bytes wait")
    assert note.endswith("2432 bytes at the peak")


@pytest.mark.parametrize("evicts", [True, False])
def test_a_full_cache_gives_up_the_oldest_or_refuses_the_newest(net_host: Callable[..., Host], evicts: bool) -> None:
    """Above the high threshold the evictor makes room down to the low one; a kernel without it takes no more."""
    host = net_host()
    each = FRAME_TRUESIZE + IPQ_BYTES
    cache = _cache(host, high_bytes=4 * each, low_bytes=2 * each, evicts=evicts)
    sink = host.sink()
    for ident in range(6):
        _arrive(host, fragments_of(Datagram("a", ident, sink, 4000, b""), cache)[0])
    idents = [ident for _source, ident in cache._queues]
    assert idents == ([3, 4, 5] if evicts else [0, 1, 2, 3, 4])
    assert host.netstat["IpReasmFails"] == (3 if evicts else 1)
    assert host.skbs.nr_skbs == len(idents)


def test_a_new_datagram_needs_memory_for_its_queue(net_host: Callable[..., Host]) -> None:
    """Without a struct ipq the fragment is freed and counted as failed."""
    host = net_host()
    cache = _cache(host)
    packets = fragments_of(Datagram("a", 1, host.sink(), 4000, b""), cache)
    skb = host.skbs.napi_alloc_skb(host.softirq)
    pages = host.drain()
    while host.slabs["kmalloc-256"].try_alloc(host.softirq, 0) >= 0:
        pass
    cache.take(packets[0], skb)
    assert (len(cache), host.netstat["IpReasmFails"], host.skbs.nr_skbs) == (0, 1, 0)
    host.give_back(pages)


def test_a_machine_that_is_never_short_keeps_what_it_gets(net_host: Callable[..., Host]) -> None:
    """Without memory to count there is no bound but time."""
    host = net_host()
    cache = FragmentCache(host.world, netstat=host.netstat, memory=None)
    sink = host.sink()
    for ident in range(100):
        cache.take(fragments_of(Datagram("a", ident, sink, 4000, b""), cache)[0], None)
    assert (len(cache), cache.mem_bytes) == (100, 0)
    for packet in fragments_of(Datagram("a", 7, sink, 4000, b"x"), cache)[1:]:
        cache.take(packet, None)
    assert (len(cache), [packet.content for packet, _ in sink.got]) == (99, [b"x"])
