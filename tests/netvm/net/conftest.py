"""A host of memory and network only, and a wire that does what a test says.

:class:`NetHost` is the small host of the tests of ``mm`` with packets, sockets, a card and a link to elsewhere. What
arrives on the link comes from :meth:`NetHost.arrive` or a remote socket; a :class:`Sink` takes what is addressed to it.
"""

from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, GFP_NOWARN, PF_KTHREAD
from netvm.net.nic import Nic
from netvm.net.nic_model import NicModel
from netvm.net.remote import RemoteSocket
from netvm.net.sk_memory import ProtoMemory
from netvm.net.skb import Skb, SkbAllocator
from netvm.net.sock import TcpSock
from netvm.net.stack import NetStack
from netvm.net.udp import UdpSock
from netvm.net.wire import Endpoint, LinkDirection, Packet, connect_streams
from netvm.runtime.workqueue import WorkerPool, Workqueue
from netvm.trace.vmstat import NetStat

_spec = spec_from_file_location("mini_host", Path(__file__).parents[1] / "mm" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

MiniHost: Any = _module.MiniHost


class Sink:
    """An endpoint that keeps what it gets, and the memory it came in."""

    def __init__(self, host: "NetHost") -> None:
        self.host = host
        self.got: list[tuple[Packet, Skb | None]] = []

    def take(self, packet: Packet, skb: Skb | None) -> None:
        """Keep a packet."""
        self.got.append((packet, skb))

    def drop(self) -> None:
        """Free everything."""
        while self.got:
            skb = self.got.pop()[1]
            if skb is not None:
                self.host.skbs.kfree_skb(skb)


class NetHost(MiniHost):  # type: ignore[misc]  # a class that is loaded by path
    """One machine with a network; ``nic`` is a card's scenario name or empty for loopback alone."""

    def __init__(
        self,
        *,
        nic: str = "e1000",
        ring: int = 256,
        retry: str = "driver",
        recycle: bool = False,
        tcp_mem: Sequence[int] = (1000, 1500, 2000),
        udp_mem: Sequence[int] = (1000, 1500, 2000),
        bandwidth: int = 0,
        delay_us: int = 1000,
        **memory: Any,
    ) -> None:
        super().__init__(**{"free": 1800, "marks": (64, 80, 96)} | memory)
        self.netstat = NetStat()
        self.skbs = SkbAllocator(self.pages, self.slabs)
        self.stack = NetStack(
            self.world,
            pages=self.pages,
            skbs=self.skbs,
            netstat=self.netstat,
            costs=self.costs,
            tcp_memory=self.proto("TCP", tcp_mem),
            udp_memory=self.proto("UDP", udp_mem, has_pressure=False),
            tcp_wmem=[4096, 16384, 1 << 20],
            tcp_rmem=[4096, 131072, 1 << 20],
            random=self.world.seeds.stream("sk_stream_wait_memory"),
        )
        self.events_pool = WorkerPool(
            self.world, "0", self.creator, cpus=self.cpus, bound=True, nr_workers=2, nice=0, flags=PF_KTHREAD
        )
        self.events = Workqueue("events", self.events_pool, mem_reclaim=False)
        self.bandwidth, self.delay_us = bandwidth, delay_us
        self.up = self.link("up", lambda packet: packet.to.take(packet, None))
        self.down = self.link("down", self._arrived)
        if nic:
            self.nic = self._open_nic(nic, ring=ring, retry=retry, recycle=recycle)
            self.stack.nic = self.nic

    def _arrived(self, packet: Packet) -> None:
        self.nic.packet_arrived(packet)

    def proto(self, name: str, limits: Sequence[int], *, has_pressure: bool = True) -> ProtoMemory:
        """Return a protocol's memory with these limits."""
        return ProtoMemory(name, limits, rmem_min=4096, wmem_min=4096, netstat=self.netstat, has_pressure=has_pressure)

    def _open_nic(self, kind: str, *, ring: int, retry: str, recycle: bool) -> Nic:
        nic = Nic(
            self.world,
            "eth0",
            NicModel.named(kind),
            ring=ring,
            retry=retry,
            recycle=recycle,
            skbs=self.skbs,
            pages=self.pages,
            netstat=self.netstat,
            costs=self.costs,
            receive=self.stack.netif_receive,
            workqueue=self.events,
        )
        blocks = []
        for _ in range(nic.blocks_at_boot()):
            pfn = self.alloc(3)
            assert pfn >= 0
            self.ledger.change_owner(self.frames, pfn, 8, nic.owner)
            blocks.append(pfn)
        nic.fill_at_boot(blocks)
        nic.link = self.up
        return nic

    def link(self, name: str, deliver: Any, **chances: Any) -> LinkDirection:
        """Return one way of a wire."""
        options = {"bandwidth_bytes_per_s": self.bandwidth, "delay_us": self.delay_us, "queue_packets": 1000} | chances
        return LinkDirection(self.world, name, deliver=deliver, **options)

    def sink(self) -> Sink:
        """Return an endpoint to send to."""
        return Sink(self)

    def arrive(self, to: Endpoint, size_bytes: int, nr_frames: int = 1) -> None:
        """Let a datagram come off the wire now."""
        self.nic.packet_arrived(Packet(to, None, size_bytes, nr_frames))

    def drain(self) -> list[int]:
        """Take every free page there is, reserve and all; return them."""
        taken = []
        gfp = GFP_ATOMIC | GFP_MEMALLOC | GFP_NOWARN
        while (pfn := self.pages.try_alloc_pages(self.softirq, 0, gfp, self.owner_test)) >= 0:
            taken.append(pfn)
        return taken

    def give_back(self, pfns: list[int], nr: int | None = None) -> None:
        """Free drained pages: all of them, or ``nr``."""
        for _ in range(len(pfns) if nr is None else nr):
            self.pages.free_pages(pfns.pop(), 0)

    def remote_pair(self, **options: Any) -> tuple[TcpSock, RemoteSocket]:
        """Return a socket here and its peer elsewhere, not connected yet."""
        sock = TcpSock(self.stack, "local", **options)
        remote = RemoteSocket(self.world, "remote", link=self.down)
        connect_streams(sock, remote)
        return sock, remote

    def loopback_pair(self, **options: Any) -> tuple[TcpSock, TcpSock]:
        """Return two sockets of this host, the second one listening, not connected yet."""
        one = TcpSock(self.stack, "one", loopback=True, **options)
        other = TcpSock(self.stack, "other", loopback=True, **options)
        connect_streams(one, other)
        other.listening = True
        return one, other

    def udp(self, *, rcvbuf: int = 212992) -> UdpSock:
        """Return a UDP socket."""
        return UdpSock(self.stack, "udp", rcvbuf=rcvbuf)

    def run(self, body: Any, **options: Any) -> Any:
        """Run a program until it returns, with the workers of the card's queue."""

        async def main(task: Any) -> Any:
            self.events_pool.start()
            self.events.start()
            return await body(task)

        return super().run(main, **options)


@pytest.fixture(scope="session")
def net_host() -> type[NetHost]:
    """Return the class of hosts: ``net_host(nic="virtio-net", free=100)``."""
    return NetHost
