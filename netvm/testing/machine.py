"""A Hypothesis state machine over one host's memory and sockets, in any order.

Blocks are allocated and freed, packets made and freed, datagrams received by two sockets and read: a *bystander*, and
one of the *storage*, whose mark lets what is received come out of the reserve (``sk_set_memalloc``).

Subclass :class:`HostMachine` to add rules and invariants, and give its ``TestCase`` to pytest::

    class TestMine(HostMachine):
        @invariant()
        def free_is_never_below(self):
            assert self.host.node.nr_free >= 0

    TestMine = TestMine.TestCase

The model it is held against is the dumbest there is: a dictionary of what was taken.
"""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netvm.explore.driver import DirectWorld
from netvm.host.machine import Host
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, GFP_NOWAIT, GFP_NOWARN
from netvm.mm.invariants import check_ledger, check_zone
from netvm.net.skb import Skb
from netvm.net.udp import UdpSock
from netvm.net.wire import Packet
from netvm.runtime.oracle import FifoOracle
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment

__all__ = ["HostMachine"]

_MASKS = (GFP_NOWAIT | GFP_NOWARN, GFP_ATOMIC | GFP_NOWARN, GFP_ATOMIC | GFP_MEMALLOC | GFP_NOWARN)


class HostMachine(RuleBasedStateMachine):
    """One host in atomic context: pages and packets come and go, and the books balance after every step."""

    tables: dict[str, Any] = {  # noqa: RUF012  a subclass overrides it whole
        "machine": {"ram_mib": 24, "reserved_pages": 3400},
        "storage": {"kind": "nbd", "size_mib": 8},
        "nic": {"kind": "e1000", "ring": 16},
        "workload": [{"kind": "anon-hog", "mib": 1}],
    }
    rcvbuf_bytes = 16384
    """Receive buffer of each socket."""
    host: Host

    @initialize()
    def boot(self) -> None:
        """Boot a host; nothing runs on it."""
        run = Experiment(
            scenario_from(self.tables, origin="machine"), name="machine", oracle=FifoOracle(), make_world=DirectWorld
        )
        self.host = run.host
        self.pages: dict[int, int] = {}
        self.packets: list[Skb] = []
        self.owner = self.host.ledger.owner("machine")
        self.sockets = {
            name: UdpSock(self.host.stack, name, rcvbuf=self.rcvbuf_bytes) for name in ("bystander", "storage")
        }

    @rule(order=st.integers(0, 3), mask=st.sampled_from(_MASKS), times=st.integers(1, 64))
    def allocate(self, order: int, mask: int, times: int) -> None:
        """Take blocks as far as the mask goes; no frame is handed out twice."""
        for _ in range(times):
            pfn = self.host.pages.try_alloc_pages(self.host.softirq, order, mask, self.owner)
            if pfn < 0:
                return
            assert pfn not in self.pages
            self.pages[pfn] = order

    @precondition(lambda self: self.pages)
    @rule(times=st.integers(1, 64), last=st.booleans())
    def free(self, times: int, last: bool) -> None:
        """Give blocks back, oldest or newest first."""
        for _ in range(min(times, len(self.pages))):
            pfn = list(self.pages)[-1 if last else 0]
            self.host.pages.free_pages(pfn, self.pages.pop(pfn))

    @rule(mask=st.sampled_from(_MASKS))
    def make_packet(self, mask: int) -> None:
        """Allocate a packet to be sent."""
        skb = self.host.skbs.try_alloc_tx(self.host.softirq, mask)
        if skb is not None:
            self.packets.append(skb)

    @precondition(lambda self: self.packets)
    @rule()
    def free_packet(self) -> None:
        """Free the oldest packet."""
        self.host.skbs.kfree_skb(self.packets.pop(0))

    @rule()
    def mark(self) -> None:
        """Make the storage's socket one that memory is freed through."""
        self.sockets["storage"].sk_set_memalloc()

    @rule(to=st.sampled_from(("bystander", "storage")), times=st.integers(1, 32))
    def receive(self, to: str, times: int) -> None:
        """Let datagrams come in as far as there is memory for them; the socket queues or drops each."""
        sock = self.sockets[to]
        for _ in range(times):
            skb = self.host.skbs.napi_alloc_skb(self.host.softirq)
            if skb is None:
                return
            before = sock.nr_received + sock.nr_dropped
            sock.take(Packet(to=sock, segment=None, size_bytes=512), skb)
            assert sock.nr_received + sock.nr_dropped == before + 1

    @rule(to=st.sampled_from(("bystander", "storage")), times=st.integers(1, 32))
    def read(self, to: str, times: int) -> None:
        """Read what a socket has queued, and give its memory back."""
        sock = self.sockets[to]
        for _ in range(min(times, len(sock.queue))):
            assert sock.read_one() is not None

    @invariant()
    def sockets_are_charged(self) -> None:
        """A socket is charged for what it has queued, and reserve memory lies on the storage's only."""
        if not hasattr(self, "host"):
            return
        for sock in self.sockets.values():
            assert sock.mem.rmem_alloc == sum(skb.truesize for _, skb in sock.queue)
        assert not any(skb.pfmemalloc for _, skb in self.sockets["bystander"].queue)

    @invariant()
    def books_balance(self) -> None:
        """Zones, ledger and frames agree, and what is ours is what we took."""
        if not hasattr(self, "host"):
            return
        for zone in self.host.node.zones:
            check_zone(zone, self.host.frames)
        check_ledger(self.host.ledger, self.host.frames, self.host.node.zones)
        assert self.host.ledger.counts[self.owner] == sum(1 << order for order in self.pages.values())
