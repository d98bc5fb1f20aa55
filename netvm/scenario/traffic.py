"""What else arrives: floods and streams from outside into sockets of this host, all of which take its memory."""

from typing import Any

from netvm.host.machine import Host
from netvm.mm.gfp import GFP_KERNEL
from netvm.net.ip_fragment import Datagram, fragments_of
from netvm.net.remote import RemoteSocket
from netvm.net.sock import TcpSock
from netvm.net.udp import UdpSock
from netvm.net.wire import connect_streams
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.scenario.schema import Flood, Readers, Traffic
from netvm.units import NS_PER_MS, NS_PER_S

__all__ = ["start_traffic"]

_PACE = Resource("timer", "the reader's own pause", external=True)


def start_traffic(host: Host, traffic: list[Traffic]) -> None:
    """Start every source and reader."""
    for spec in traffic:
        for i in range(spec.sockets):
            name = spec.name if spec.sockets == 1 else f"{spec.name}{i}"
            if isinstance(spec, Flood):
                _UdpFlood(host, spec, name)
            else:
                _TcpStream(host, spec, name)


async def _read_loop(task: Task, host: Host, spec: Any, read: Any, wait: Any) -> None:
    """Read at the reader's pace; a ``blocked`` one must allocate before each read."""
    owner = host.ledger.owner(f"reader:{task.comm}")
    while True:
        await wait(task)
        if spec.reader == "slow":
            await host.world.sleep_ns(task, NS_PER_S // spec.reads_per_s, _PACE, kind=TimerKind.PROGRESS)
        elif spec.reader == "blocked":
            pfn = await host.pages.alloc_pages(task, 0, GFP_KERNEL, owner)
            if pfn >= 0:
                host.pages.free_pages(pfn, 0)
        task.charge_ns += host.costs.recvmsg
        await read(task)
        if task.cpus is not None:
            await task.cpus.cond_resched(task)


class _UdpFlood:
    """A source outside and a UDP socket here."""

    def __init__(self, host: Host, spec: Flood, name: str) -> None:
        self.host = host
        self.spec = spec
        self.sock = UdpSock(host.stack, name, rcvbuf=spec.rcvbuf_bytes)
        self.interval_ns = max(1, NS_PER_S * spec.sockets // spec.packets_per_s)
        self.stop_ns = host.world.now_ns + spec.stop_ms * NS_PER_MS if spec.stop_ms else 0
        self._ident = 0
        host.world.call_after(spec.start_ms * NS_PER_MS, self._send)
        if spec.reader != "never":
            host.world.spawn(name, _read_loop, host, spec, self._read, self._wait, cpus=host.cpus)

    def _send(self) -> None:
        world = self.host.world
        if self.stop_ns and world.now_ns >= self.stop_ns:
            return
        assert self.host.link is not None
        assert self.host.stack.ip_frags is not None
        self._ident += 1
        datagram = Datagram(f"{self.sock.name}-peer", self._ident, self.sock, self.spec.bytes, None)
        for packet in fragments_of(datagram, self.host.stack.ip_frags):
            self.host.link.down.send(packet)
        # a flood goes on whether or not anything gets done: it is no sign of progress
        world.call_after(self.interval_ns, self._send, kind=TimerKind.CLOCK)

    async def _wait(self, task: Task) -> None:
        while not self.sock.queue:
            await self.sock.readable_wait.wait(task)

    async def _read(self, _task: Task) -> None:
        self.sock.read_one()


class _TcpStream:
    """A sender outside and a TCP socket here."""

    def __init__(self, host: Host, spec: Readers, name: str) -> None:
        self.host = host
        self.spec = spec
        assert host.link is not None
        self.sock = TcpSock(host.stack, name, rcvbuf=spec.rcvbuf_bytes, kernel=False)
        self.remote = RemoteSocket(host.world, f"{name}-peer", link=host.link.down)
        connect_streams(self.sock, self.remote)
        self.stop_ns = host.world.now_ns + spec.stop_ms * NS_PER_MS if spec.stop_ms else 0
        self.piece_bytes = max(1448, spec.bytes_per_s // 1000)
        self.interval_ns = max(1, self.piece_bytes * NS_PER_S // spec.bytes_per_s)
        self.sock.connect()
        host.world.call_after(spec.start_ms * NS_PER_MS, self._send, kind=TimerKind.CLOCK)
        if spec.reader != "never":
            host.world.spawn(name, _read_loop, host, spec, self._read, self.sock.sk_wait_data, cpus=host.cpus)

    def _send(self) -> None:
        world = self.host.world
        if self.stop_ns and world.now_ns >= self.stop_ns:
            return
        if self.remote.is_open and self.remote.unsent_bytes < 1 << 20:
            self.remote.write([bytes(self.piece_bytes)])
        world.call_after(self.interval_ns, self._send, kind=TimerKind.CLOCK)

    async def _read(self, task: Task) -> None:
        await self.sock.recvmsg(task, 65536, wait_all=False)
