"""The transport of one connection: how PDUs enter a socket without memory, and leave it in softirq.

Mirrors drivers/scsi/iscsi_tcp.c of 6.1. The socket is made and connected by iscsid; ``iscsi_sw_tcp_conn_bind`` then
marks it: ``sk_allocation`` is GFP_ATOMIC and SOCK_MEMALLOC is set, so nothing that is sent ever enters reclaim and all
of it may use the reserve. The mark comes after the TCP handshake and before the login, as in open-iscsi. It is never
taken back: no storage driver calls ``sk_clear_memalloc`` when its socket goes, so once there was a session the host
counts as one with SOCK_MEMALLOC sockets and receives into the reserve.

*Sending.* ``iscsi_sw_tcp_pdu_xmit`` runs each PDU under PF_MEMALLOC: the header is copied into the socket's page
fragment, the data is sent by page reference (sendpage) and stays pinned until it is acknowledged. When the send buffer
is full the rest of the PDU is kept and ``write_space`` calls the worker back; when a packet's own memory was refused
the worker sleeps in ``sk_stream_wait_memory``, 8 to 204 ms, and tries again.

*Receiving.* ``data_ready`` reads everything from the socket in softirq and needs no memory.

# MODEL: with a full send buffer the kernel's worker sleeps inside sendpage, for 15 s at most, and not outside; the same
# bytes go out at the same time. A header is sent by itself, since iscsi_tcp does not say MSG_MORE after it, unless
# packets wait at the card, where the kernel's tcp_autocorking holds it back and joins it to its data; that it does so
# only while something is unacknowledged is left out.
"""

from collections.abc import Callable
from typing import Final

from netvm.mm.frames import PfnArray
from netvm.mm.gfp import GFP_ATOMIC, PF_MEMALLOC, GfpScope
from netvm.net.sock import TcpSock
from netvm.net.wire import LinkDirection
from netvm.runtime.task import Task
from netvm.units import PAGE_SIZE
from storage_backends.iscsi.connection.facts import ConnectionFailed, InitiatorEvent
from storage_backends.iscsi.connection.initiator import InitiatorConnection
from storage_backends.iscsi.messages.framing import Pdu
from storage_backends.iscsi.messages.pdus import DataOut
from storage_backends.wire import Payload, RemoteProtocolError

__all__ = ["TCP_WINDOW_BYTES", "IscsiTcpConn"]

TCP_WINDOW_BYTES: Final = 2 * min(524288, 212992)
"""node.conn[0].tcp.window_size of iscsid.conf as SO_SNDBUF and SO_RCVBUF: bounded by wmem_max, then doubled."""


class IscsiTcpConn:
    """One bound socket with the protocol on it."""

    __slots__ = (
        "_header",
        "_nospace",
        "_page_offset",
        "_payload",
        "_pfns",
        "_queue_xmit",
        "_trailer",
        "_uplink",
        "core",
        "failed",
        "itt_sending",
        "sock",
    )

    def __init__(
        self, sock: TcpSock, core: InitiatorConnection, *, uplink: LinkDirection | None, queue_xmit: Callable[[], None]
    ) -> None:
        self.sock = sock
        self.core = core
        self.failed = False
        self.itt_sending: int | None = None
        """Task of the PDU that has entered the socket in part."""
        self._uplink = uplink
        self._queue_xmit = queue_xmit
        # the rest of the PDU being sent
        self._header = b""
        self._payload: Payload | None = None
        self._pfns: PfnArray | None = None
        self._page_offset = 0
        self._trailer = b""
        self._nospace = False

    def bind(self, data_ready: Callable[[], None], state_change: Callable[[], None]) -> None:
        """Take the socket over and make it a priority one (iscsi_sw_tcp_conn_bind)."""
        sock = self.sock
        sock.allocation = GFP_ATOMIC
        sock.sk_set_memalloc()
        sock.data_ready = data_ready
        sock.state_change = state_change
        sock.write_space = self.write_space

    def stop(self) -> None:
        """Let go of the socket; it stays with iscsid (iscsi_sw_tcp_conn_stop)."""
        self.failed = True
        self.itt_sending = None
        self._header = self._trailer = b""
        self._payload = self._pfns = None
        sock = self.sock
        sock.data_ready = sock.state_change = sock.write_space = None
        # whoever waits for space has nothing more to send
        sock.send_space_wait.wake_all()

    # -- sending --------------------------------------------------------------------------------------------------

    @property
    def is_sending(self) -> bool:
        """Whether a PDU has been begun and not wholly sent."""
        return bool(self._header) or self._payload is not None

    @property
    def waits_for_space(self) -> bool:
        """Whether the send buffer is full and the worker is to be called back."""
        return self._nospace

    def begin(self, pdu: Pdu, pfns: PfnArray | None) -> None:
        """Take the next PDU to send; ``pfns`` are the pages of its task's data."""
        assert not self.is_sending
        chunks = pdu.chunks
        header = chunks[0]
        assert isinstance(header, bytes)
        self._header = header
        self.itt_sending = pdu.message.itt
        if len(chunks) == 1:
            return
        payload = chunks[1]
        assert not isinstance(payload, bytes)
        assert pfns is not None
        first, self._page_offset = divmod(pdu.message.offset if isinstance(pdu.message, DataOut) else 0, PAGE_SIZE)
        self._payload = payload
        self._pfns = pfns[first:]
        if len(chunks) > 2:
            trailer = chunks[2]
            assert isinstance(trailer, bytes)
            self._trailer = trailer

    def write_space(self) -> None:
        """The send buffer has room again: go on (iscsi_sw_tcp_write_space)."""
        if self._nospace:
            self._nospace = False
            self._queue_xmit()

    async def iscsi_sw_tcp_pdu_xmit(self, task: Task) -> bool:
        """Send the rest of the PDU; False if it cannot go on now."""
        if not self.sock.memalloc:
            return await self._xmit(task)
        with GfpScope(task, PF_MEMALLOC):
            return await self._xmit(task)

    async def _xmit(self, task: Task) -> bool:
        sock = self.sock
        while self.is_sending:
            if not sock.established:
                return False
            if self._try_send(task):
                continue
            if sock.mem.wmem_queued >= sock.mem.sndbuf:
                self._nospace = True
                return False
            await self.sk_stream_wait_memory(task)
        self.itt_sending = None
        return not self.failed

    def _try_send(self, task: Task) -> bool:
        """Put the next part of the PDU into the socket; False if not all of the part went in."""
        sock = self.sock
        header, payload = self._header, self._payload
        if payload is None or (header and not self._autocorks()):
            if sock.try_sendpages(task, header, None, None, more=False) < 0:
                return False
            self._header = b""
            return True
        sent = sock.try_sendpages(
            task, header, payload, self._pfns, page_offset=self._page_offset, more=bool(self._trailer)
        )
        if sent < 0:
            return False
        self._header = b""
        if sent < payload.size_bytes:
            assert self._pfns is not None
            first, self._page_offset = divmod(self._page_offset + sent, PAGE_SIZE)
            self._pfns = self._pfns[first:]
            self._payload = payload.part(sent, payload.size_bytes)
            return False
        self._payload = self._pfns = None
        self._header, self._trailer = self._trailer, b""
        return True

    def _autocorks(self) -> bool:
        """Whether a small packet waits for the card to be done with those before it (tcp_should_autocork)."""
        uplink = self._uplink
        return uplink is not None and uplink.free_at_ns > self.sock.world.now_ns

    async def sk_stream_wait_memory(self, task: Task) -> None:
        """Sleep a moment, or until something is acknowledged: a packet's memory was refused."""
        sock = self.sock
        sock.mem.proto.enter_pressure()
        sock.mem.moderate_sndbuf()
        sock.short_of = "a page"
        await sock.send_space_wait.wait(
            task, timeout_ns=sock.world.wheel_ns(sock.stack.vm_wait_ns()), interruptible=True
        )

    # -- receiving ------------------------------------------------------------------------------------------------

    def receive(self) -> list[InitiatorEvent]:
        """Read all there is (iscsi_sw_tcp_data_ready, tcp_read_sock)."""
        sock, core = self.sock, self.core
        events: list[InitiatorEvent] = []
        try:
            if sock.readable_bytes:
                now_ns = sock.world.now_ns
                for chunk in sock.consume(sock.readable_bytes, sock.stack.softirq):
                    events += core.receive(chunk, now_ns)
            if sock.eof:
                events += core.receive_eof()
                events.append(ConnectionFailed("the target closed the TCP connection"))
        except RemoteProtocolError as error:
            events.append(ConnectionFailed(str(error)))
        return events
