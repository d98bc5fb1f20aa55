"""The state machine over a host's memory and sockets, run as a user would."""

from hypothesis import settings

from netvm.mm.gfp import GFP_ATOMIC, GFP_NOWARN
from netvm.testing.machine import HostMachine


class TestHost(HostMachine.TestCase):  # type: ignore[name-defined,misc]  # made by Hypothesis while running
    """Rules in any order leave the books balanced."""

    settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


def test_reserve_memory_reaches_the_marked_socket_only() -> None:
    """With only the reserve left a marked socket still receives; the bystander drops what comes in reserve pages."""
    machine = HostMachine()
    machine.boot()
    assert machine.host.node.zones[0].nr_free > 500
    machine.mark()
    # heads for what comes; their slab cannot grow once memory is short
    machine.receive("storage", 1)
    machine.allocate(0, GFP_ATOMIC | GFP_NOWARN, 10_000)
    machine.receive("bystander", 8)
    machine.receive("storage", 8)
    machine.sockets_are_charged()
    machine.books_balance()
    storage, bystander = machine.sockets["storage"], machine.sockets["bystander"]
    assert any(skb.pfmemalloc for _, skb in storage.queue)
    assert bystander.nr_dropped
    machine.read("storage", 32)
    assert storage.mem.rmem_alloc == 0
