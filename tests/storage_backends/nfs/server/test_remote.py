"""The link in front of a server."""

import pytest

from netvm.runtime.clock import run_virtual
from netvm.runtime.oracle import RandomOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World
from storage_backends.nfs.server.remote import LINK_QUANTUM_BYTES, TokenLink


def test_a_link_lets_bytes_through_at_its_rate() -> None:
    """In order, a quantum at a time, a latency later; a stall holds them, and forgetting drops them."""
    world = World(seeds=Seeds(1))
    arrived: list[tuple[int, int]] = []
    taken: list[int] = []
    link = TokenLink(
        world,
        bandwidth_bytes_per_s=1_000_000,
        latency_ns=5_000,
        deliver=lambda content: arrived.append((world.now_ns, len(content))),
    )
    link.taken = taken.append

    def begin() -> None:
        link.push(bytes(LINK_QUANTUM_BYTES + 1000))
        world.call_after(100_000_000, stalled)
        world.call_after(1_000_000_000, world.stop)

    def stalled() -> None:
        link.stalled_until_ns = world.now_ns + 50_000_000
        link.push(bytes(1000))

    run_virtual(lambda: world.run(begin))
    assert taken == [LINK_QUANTUM_BYTES, 1000, 1000]
    first_ns = LINK_QUANTUM_BYTES * 1000 + 5_000
    assert arrived == [(first_ns, LINK_QUANTUM_BYTES), (first_ns + 1_000_000, 1000), (151_005_000, 1000)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("latency_ns", [0, 5_000])
def test_a_link_keeps_the_order_of_a_stream(seed: int, latency_ns: int) -> None:
    """Without a rate everything goes through at one instant, and arrives as it was sent whatever the schedule."""
    seeds = Seeds(seed)
    world = World(seeds=seeds, oracle=RandomOracle(seeds))
    arrived: list[bytes] = []
    link = TokenLink(world, bandwidth_bytes_per_s=0, latency_ns=latency_ns, deliver=arrived.append)
    sent = [bytes([i]) for i in range(20)]

    def begin() -> None:
        for content in sent:
            link.push(content)
        world.call_after(1_000_000, world.stop)

    run_virtual(lambda: world.run(begin))
    assert arrived == sent
