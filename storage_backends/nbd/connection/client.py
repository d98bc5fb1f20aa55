"""The client's end of an NBD connection: the handshake, then requests and their replies by cookie.

In Linux the handshake is userspace's, which hands the connected socket to drivers/block/nbd.c; here one core speaks
both. It asks for the export with NBD_OPT_GO and falls back to NBD_OPT_EXPORT_NAME where the server does not know that
option or only knows newstyle without "fixed". A refusal ends in NBD_OPT_ABORT, the only way a client may leave.

A simple reply does not say whether data follows it: the core remembers, for each cookie in flight, how much a
successful reply brings. That also makes ``bytes_wanted`` exact, as recv_work needs it.
"""

from typing import NamedTuple, TypeAlias

from storage_backends.nbd import messages as nbd
from storage_backends.nbd.connection.end import NbdEnd
from storage_backends.nbd.messages import CmdFlag, CmdType, Opt, Rep, TransmissionFlag
from storage_backends.nbd.state import Disconnected, Message, Negotiated, State
from storage_backends.wire import Chunk, LocalProtocolError, Payload, RemoteProtocolError

__all__ = ["ClientEvent", "NbdClientConnection", "NegotiationFailed", "Reply"]

_CLIENT_FLAGS = nbd.ClientFlag.FIXED_NEWSTYLE | nbd.ClientFlag.NO_ZEROES
_NEEDED_FLAG: dict[int, int] = {CmdType.FLUSH: TransmissionFlag.SEND_FLUSH, CmdType.TRIM: TransmissionFlag.SEND_TRIM}


class NegotiationFailed(NamedTuple):
    """The server refused the export; the client has said goodbye."""

    error: int
    """The :class:`~storage_backends.nbd.messages.Rep` it refused with."""
    reason: str


class Reply(NamedTuple):
    """A request was served."""

    cookie: int
    error: int
    """0, or one of :class:`~storage_backends.nbd.messages.NbdError`."""
    payload: Payload | None
    """What a READ found."""


ClientEvent: TypeAlias = Negotiated | NegotiationFailed | Reply | Disconnected


class NbdClientConnection(NbdEnd[Negotiated | NegotiationFailed | Reply]):
    """The client's end of one connection."""

    __slots__ = ("_export_name", "_reading", "export")

    def __init__(self, export_name: str = "") -> None:
        super().__init__()
        self._export_name = export_name
        self.export: nbd.Export | None = None
        """What the server said of the export, once negotiated."""
        # invariant: the cookie of the READ whose header has arrived and whose data has not
        self._reading: int | None = None
        # so that bytes_wanted is right before the first byte
        self._advance([])

    @property
    def cookies_in_flight(self) -> tuple[int, ...]:
        """Requests not yet answered, oldest first: what a reconnecting shell must send again."""
        return tuple(self._in_flight)

    def read(self, cookie: int, offset: int, length: int) -> list[Chunk]:
        """Return the chunks of a READ."""
        return [self._request(CmdType.READ, cookie, offset, length, data_length=length)]

    def write(self, cookie: int, offset: int, payload: Payload, *, fua: bool = False) -> list[Chunk]:
        """Return the chunks of a WRITE: 28 bytes, then the payload by reference."""
        return [self._request(CmdType.WRITE, cookie, offset, payload.size_bytes, fua=fua), payload]

    def flush(self, cookie: int) -> list[Chunk]:
        """Return the chunks of a FLUSH."""
        return [self._request(CmdType.FLUSH, cookie, 0, 0)]

    def trim(self, cookie: int, offset: int, length: int) -> list[Chunk]:
        """Return the chunks of a TRIM."""
        return [self._request(CmdType.TRIM, cookie, offset, length)]

    def disconnect(self) -> list[Chunk]:
        """Return the chunks of a DISC, which gets no reply: the server closes the connection."""
        self._state.sent(Message.CMD_DISC)
        return [nbd.push_request(nbd.Request(flags=0, cmd_type=CmdType.DISC, cookie=0, offset=0, length=0))]

    def _is_inside(self) -> bool:
        return self._reading is not None

    def _request(
        self, cmd_type: int, cookie: int, offset: int, length: int, *, data_length: int = 0, fua: bool = False
    ) -> bytes:
        if self._state.current is not State.TRANSMISSION or self.export is None:
            raise LocalProtocolError(f"{CmdType(cmd_type).name} in state {self._state.current.name}")
        if cookie in self._in_flight:
            raise LocalProtocolError(f"cookie {cookie:#x} is in flight")
        if offset + length > self.export.size_bytes or length > nbd.MAX_PAYLOAD_BYTES:
            raise LocalProtocolError(f"{length} bytes at {offset} of an export of {self.export.size_bytes} bytes")
        needed = TransmissionFlag.SEND_FUA if fua else _NEEDED_FLAG.get(cmd_type, 0)
        if needed & ~self.export.flags:
            raise LocalProtocolError(f"{CmdType(cmd_type).name} to an export without {TransmissionFlag(needed).name}")
        self._in_flight[cookie] = data_length
        return nbd.push_request(
            nbd.Request(flags=CmdFlag.FUA if fua else 0, cmd_type=cmd_type, cookie=cookie, offset=offset, length=length)
        )

    def _advance(self, events: list[ClientEvent]) -> bool:
        """Consume one message; return False when more bytes are needed."""
        match self._state.current:
            case State.TRANSMISSION:
                return self._on_reply(events)
            case State.AWAIT_GREETING:
                return self._on_greeting()
            case State.AWAIT_GO_REPLY | State.AWAIT_ABORT_REPLY:
                return self._on_option_reply(events)
            case State.AWAIT_EXPORT_REPLY:
                return self._on_export_reply(events)
            case _:
                return self._close()

    def _on_greeting(self) -> bool:
        greeting = nbd.pull_greeting(self._buffer)
        if greeting is None:
            return False
        self._state.received(Message.GREETING)
        flags = greeting.flags & _CLIENT_FLAGS
        self._no_zeroes = bool(flags & nbd.ClientFlag.NO_ZEROES)
        self._state.sent(Message.CLIENT_FLAGS)
        self._to_send.append(nbd.push_client_flags(flags))
        if flags & nbd.ClientFlag.FIXED_NEWSTYLE:
            self._state.sent(Message.OPT_GO)
            self._send_option(Opt.GO, nbd.push_go_data(nbd.GoData(name=self._export_name)))
        else:
            self._send_export_name()
        return True

    def _on_option_reply(self, events: list[ClientEvent]) -> bool:
        reply = nbd.pull_option_reply(self._buffer)
        if reply is None:
            return False
        asked = Opt.GO if self._state.current is State.AWAIT_GO_REPLY else Opt.ABORT
        if reply.option != asked:
            raise RemoteProtocolError(f"reply to option {reply.option}, not to NBD_OPT_{asked.name}")
        if reply.reply_type == Rep.INFO:
            self._state.received(Message.REP_INFO)
            self.export = nbd.pull_info_export(reply.data) or self.export
        elif reply.reply_type == Rep.ACK:
            self._state.received(Message.REP_ACK)
            if asked is Opt.GO:
                events.append(self._negotiated())
        elif reply.reply_type in Rep.__members__.values() and reply.reply_type & 0x80000000:
            self._state.received(Message.REP_ERR)
            if asked is Opt.GO:
                self._on_go_refused(Rep(reply.reply_type), reply.data, events)
        else:
            raise RemoteProtocolError(f"option reply of type {reply.reply_type:#x}")
        return True

    def _on_go_refused(self, error: Rep, data: bytes, events: list[ClientEvent]) -> None:
        """Fall back where GO is unknown, else leave (proto.md: a soft disconnect is the only way to refuse)."""
        if error is Rep.ERR_UNSUP:
            self._send_export_name()
            return
        self._state.sent(Message.OPT_ABORT)
        self._send_option(Opt.ABORT, b"")
        reason = data.decode(errors="replace") or error.name
        events.append(NegotiationFailed(error, reason))

    def _on_export_reply(self, events: list[ClientEvent]) -> bool:
        self.export = nbd.pull_export_reply(self._buffer, no_zeroes=self._no_zeroes)
        if self.export is None:
            return False
        self._state.received(Message.EXPORT_REPLY)
        events.append(self._negotiated())
        return True

    def _negotiated(self) -> Negotiated:
        if self.export is None:
            raise RemoteProtocolError("NBD_OPT_GO acknowledged without NBD_INFO_EXPORT")
        return Negotiated(self.export.size_bytes, self.export.flags)

    def _on_reply(self, events: list[ClientEvent]) -> bool:
        cookie = self._reading
        if cookie is None:
            reply = nbd.pull_simple_reply(self._buffer)
            if reply is None:
                return False
            cookie = reply.cookie
            if cookie not in self._in_flight:
                raise RemoteProtocolError(f"reply to cookie {cookie:#x}, which is not in flight")
            if reply.error or not self._in_flight[cookie]:
                del self._in_flight[cookie]
                events.append(Reply(cookie, reply.error, None))
                return True
            self._reading = cookie
        payload = self._buffer.pull_payload(self._in_flight[cookie])
        if payload is None:
            return False
        self._reading = None
        del self._in_flight[cookie]
        events.append(Reply(cookie, 0, payload))
        return True

    def _send_option(self, option: Opt, data: bytes) -> None:
        self._to_send.append(nbd.push_option_request(nbd.OptionRequest(option=option, data=data)))

    def _send_export_name(self) -> None:
        self._state.sent(Message.OPT_EXPORT_NAME)
        self._send_option(Opt.EXPORT_NAME, self._export_name.encode())
