"""The network as it comes up: limits sized by memory, the card's ring, and the wire."""

from typing import Any

import pytest

from netvm.host.boot import boot
from netvm.host.machine import Host
from netvm.host.network import nr_free_buffer_pages
from netvm.mm.zone import calculate_min_free_kbytes
from netvm.net.wire import Packet
from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.units import NS_PER_S

RECORDED = {
    "name": "DMA32",
    "present_pages": 24479,
    "managed_pages": 19835,
    "free_pages": 12195,
}
"""The recorded machine of 96 MiB."""


def booted(**tables: Any) -> Host:
    """Return a host with these tables in its scenario."""
    scenario = scenario_from(
        {
            "machine": {"ram_mib": 96, "zones": [RECORDED]},
            "storage": {"kind": "disk", "size_mib": 16},
            "workload": [{"kind": "anon-hog", "mib": 1}],
        }
        | tables,
        origin="test",
    )
    return boot(World(seeds=Seeds(0)), scenario, log=lambda *_args, **_facts: None)


def test_tcp_memory_is_sized_as_on_the_recorded_machine() -> None:
    """96 MB: tcp_mem is 909, about 1214, 1818 pages and the largest buffers about 621 kB; udp_mem is twice that."""
    stack = booted().stack
    assert (stack.tcp_memory.low, stack.tcp_memory.high) == (909, 1818)
    assert abs(stack.tcp_memory.pressure - 1214) <= 1
    assert stack.tcp_wmem[:2] == (4096, 16384)
    assert stack.tcp_rmem[:2] == (4096, 131072)
    assert 615_000 < stack.tcp_wmem[2] == stack.tcp_rmem[2] < 625_000
    udp = stack.udp_memory
    assert (udp.low, udp.high) == (2 * 909, 2 * 1818)
    assert stack.tcp_memory.has_pressure
    assert not udp.has_pressure


@pytest.mark.parametrize("min_free_kbytes", [0, 512, 8192])
def test_sysctls_come_after_tcp_init(min_free_kbytes: int) -> None:
    """Raising min_free_kbytes changes no socket limit, and sizing changes no watermark."""
    vm = {"min_free_kbytes": min_free_kbytes} if min_free_kbytes else {}
    host = booted(vm=vm)
    assert (host.stack.tcp_memory.low, host.stack.tcp_memory.high) == (909, 1818)
    zone = host.node.zones[0]
    marks = list(zone.watermark)
    nr_free_buffer_pages(host.node.zones, host.fixes)
    assert list(zone.watermark) == marks


def test_init_memory_counts_for_nothing_while_the_machine_boots() -> None:
    """What is freed when the boot is over is not in tcp_mem, tcp_wmem and min_free_kbytes, but in the zones."""
    plain, late = booted(), booted(machine={"ram_mib": 96, "zones": [RECORDED], "boot": {"init_pages": 1600}})
    assert late.node.zones[0].managed == plain.node.zones[0].managed
    managed = late.node.zones[0].managed - 1600
    assert late.node.zones[0].watermark[0] == calculate_min_free_kbytes(managed) // 4
    assert late.stack.tcp_memory.low < plain.stack.tcp_memory.low
    assert late.stack.tcp_wmem[2] == 32 * nr_free_buffer_pages(late.node.zones, late.fixes, init_pages=1600)


def test_limits_of_the_scenario_are_taken_as_they_are() -> None:
    """vm.tcp_mem, udp_mem, tcp_wmem and tcp_rmem."""
    stack = booted(
        vm={
            "tcp_mem": [1, 2, 3],
            "udp_mem": [4, 5, 6],
            "tcp_wmem": [4097, 8192, 16384],
            "tcp_rmem": [4098, 8192, 16384],
        }
    ).stack
    assert (stack.tcp_memory.low, stack.tcp_memory.high) == (1, 3)
    assert (stack.udp_memory.low, stack.udp_memory.high) == (4, 6)
    assert (stack.tcp_memory.wmem_min, stack.tcp_memory.rmem_min) == (4097, 4098)
    assert (stack.tcp_wmem, stack.tcp_rmem) == ((4097, 8192, 16384), (4098, 8192, 16384))


@pytest.mark.parametrize(
    ("kernel", "high_kib", "evicts"), [("2.6.11", 256, True), ("3.6", 256, True), ("6.1", 4096, False)]
)
def test_fragments_have_the_kernels_bounds(kernel: str, high_kib: int, evicts: bool) -> None:
    """256 KiB and an evictor, later 4 MiB, then no evictor; the low threshold is three quarters. Sysctls go first."""
    cache = booted(kernel={"preset": kernel}).stack.ip_frags
    assert cache is not None
    memory = cache.memory
    assert memory is not None
    assert (memory.high_bytes, memory.low_bytes) == (high_kib * 1024, high_kib * 768)
    assert memory.evicts == evicts
    assert cache.time_ns == 30 * NS_PER_S
    vm = {"ipfrag_high_thresh": 8000, "ipfrag_low_thresh": 4000, "ipfrag_time": 2}
    cache = booted(kernel={"preset": kernel}, vm=vm).stack.ip_frags
    assert cache is not None
    assert cache.memory is not None
    assert (cache.memory.high_bytes, cache.memory.low_bytes, cache.time_ns) == (8000, 4000, 2 * NS_PER_S)


def test_ring_belongs_to_the_card() -> None:
    """The pages of a full ring are the card's in the ledger."""
    host = booted(nic={"kind": "e1000", "ring": 64})
    assert host.nic is not None
    assert host.nic.occupancy == 64
    assert host.ledger.table()["rx_ring:eth0"] == 8 * 4


def test_wire_has_the_links_figures_both_ways() -> None:
    """Bandwidth, delay, queue and chances are the scenario's; up goes to the packet's endpoint, down to the card."""
    host = booted(link={"bandwidth_bytes_per_s": 1_000_000, "delay_us": 250, "queue_packets": 7, "loss": 0.5})
    assert host.link is not None
    assert host.nic is not None
    for way in (host.link.up, host.link.down):
        assert (way.bandwidth, way.delay_ns, way.queue_packets, way.loss) == (1_000_000, 250_000, 7, 0.5)
    assert host.nic.link is host.link.up

    class End:
        """An endpoint elsewhere."""

        got: Any = None

        def take(self, packet: Packet, skb: Any) -> None:
            """Keep what arrives."""
            self.got = (packet, skb)

    end = End()
    packet = Packet(end, None, 10)
    host.link.up.deliver(packet)
    assert end.got == (packet, None)
    host.link.down.deliver(packet)
    assert end.got[1] is not None, "what comes down was received into memory"


def test_loopback_alone_has_no_card() -> None:
    """nic.kind = loopback."""
    host = booted(nic={"kind": "loopback"})
    assert (host.nic, host.link, host.stack.nic) == (None, None, None)
