"""Other traffic: what arrives at sockets of this host and what its programs send, all of which takes its memory."""

from collections.abc import Callable
from typing import Any

from netvm.host.machine import Host
from netvm.mm.gfp import GFP_KERNEL
from netvm.net.ip_fragment import Datagram, fragments_of
from netvm.net.remote import RemoteSocket
from netvm.net.sock import TcpSock
from netvm.net.tcp.config import TcpConfig
from netvm.net.udp import UdpSock
from netvm.net.wire import Packet, connect_streams
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import NEVER_NS, TimerKind
from netvm.scenario.schema import Flood, Readers, Senders, Traffic
from netvm.units import NS_PER_MS, NS_PER_S, NS_PER_US

__all__ = ["start_traffic"]

_PACE = Resource("timer", "the reader's own pause", external=True)
_IDLE = Resource("timer", "the next message", external=True)


def start_traffic(host: Host, traffic: list[Traffic]) -> None:
    """Start every source, reader and sender."""
    for spec in traffic:
        nr = spec.processes if isinstance(spec, Senders) else spec.sockets
        for i in range(nr):
            _STARTS[type(spec)](host, spec, spec.name if nr == 1 else f"{spec.name}{i}")


def _stop_ns(host: Host, spec: Traffic) -> int:
    """Return when it ends."""
    return host.world.now_ns + spec.stop_ms * NS_PER_MS if spec.stop_ms else NEVER_NS


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
        self.stop_ns = _stop_ns(host, spec)
        self._ident = 0
        host.world.call_after(spec.start_ms * NS_PER_MS, self._send)
        if spec.reader != "never":
            host.world.spawn(name, _read_loop, host, spec, self._read, self._wait, cpus=host.cpus)

    def _send(self) -> None:
        world = self.host.world
        if world.now_ns >= self.stop_ns:
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
        self.stop_ns = _stop_ns(host, spec)
        self.piece_bytes = max(1448, spec.bytes_per_s // 1000)
        self.interval_ns = max(1, self.piece_bytes * NS_PER_S // spec.bytes_per_s)
        self.sock.connect()
        host.world.call_after(spec.start_ms * NS_PER_MS, self._send, kind=TimerKind.CLOCK)
        if spec.reader != "never":
            host.world.spawn(name, _read_loop, host, spec, self._read, self.sock.sk_wait_data, cpus=host.cpus)

    def _send(self) -> None:
        world = self.host.world
        if world.now_ns >= self.stop_ns:
            return
        if self.remote.is_open and self.remote.unsent_bytes < 1 << 20:
            self.remote.write([bytes(self.piece_bytes)])
        world.call_after(self.interval_ns, self._send, kind=TimerKind.CLOCK)

    async def _read(self, task: Task) -> None:
        await self.sock.recvmsg(task, 65536, wait_all=False)


class _Peer:
    """The way to a peer of a sender, which is longer than the link or ends once the connection is made."""

    def __init__(self, remote: RemoteSocket, spec: Senders) -> None:
        self.remote = remote
        self.delay_ns = 2 * spec.peer_delay_us * NS_PER_US
        self.is_gone = spec.peer == "gone"

    def take(self, packet: Packet, skb: object) -> None:
        """Deliver a packet as late as its answer would have come all the way back."""
        if self.delay_ns:
            self.remote.world.call_after(self.delay_ns, self._arrived, packet, skb)
        else:
            self._arrived(packet, skb)

    def _arrived(self, packet: Packet, skb: object) -> None:
        if not (self.is_gone and self.remote.is_open):
            self.remote.take(packet, skb)


class _TcpSender:
    """A program that sends messages on connections of its own.

    # MODEL: it has no memory but its packets', so the OOM killer never takes it.
    """

    def __init__(self, host: Host, spec: Senders, name: str) -> None:
        self.host = host
        self.spec = spec
        self.message = bytes(spec.bytes)
        self.interval_ns = max(1, NS_PER_S // spec.messages_per_s)
        self.start_ns = host.world.now_ns + spec.start_ms * NS_PER_MS
        self.stop_ns = _stop_ns(host, spec)
        self.socks = [self._connect(f"{name}-{i}", name) for i in range(spec.sockets)]
        host.world.spawn(name, self._run, cpus=host.cpus)

    def _connect(self, name: str, program: str) -> TcpSock:
        host, spec = self.host, self.spec
        assert host.link is not None
        sock = TcpSock(host.stack, name, config=TcpConfig(nodelay=spec.nodelay), kernel=False, holder=program)
        # each message is sent with MSG_DONTWAIT: without room it is dropped, while memory is waited for
        sock.sndtimeo_ns = 0
        remote = RemoteSocket(host.world, f"{name}-peer", link=host.link.down)
        connect_streams(sock, remote)
        sock.peer = _Peer(remote, spec)
        remote.reads_at_once = spec.peer != "stops"
        sock.connect()
        return sock

    async def _run(self, task: Task) -> None:
        """Send each message when it is due, or as soon after as its memory is there."""
        world = self.host.world
        due_ns, turn = self.start_ns, 0
        while due_ns < self.stop_ns:
            if due_ns > world.now_ns:
                # that it will send again is no sign that anything gets done
                await world.sleep_ns(task, due_ns - world.now_ns, _IDLE, kind=TimerKind.CLOCK)
            sock = self.socks[turn % len(self.socks)]
            if sock.established:
                await sock.sendmsg(task, [self.message], more=False)
            due_ns += self.interval_ns
            turn += 1


_STARTS: dict[type, Callable[[Host, Any, str], object]] = {
    Flood: _UdpFlood,
    Readers: _TcpStream,
    Senders: _TcpSender,
}
