"""The server's end of an NBD connection: it greets, answers options, and delivers requests whose data has arrived.

What cannot be served is answered by the core itself, with the error proto.md asks for: a range outside the export, a
write to a read-only one, a request the export does not advertise. Only a breach of the protocol ends the connection.

A client must not have two requests of one cookie in flight. proto.md only advises that, but no reply could then be told
from the other.
"""

from typing import NamedTuple, TypeAlias

from storage_backends.nbd import messages as nbd
from storage_backends.nbd.connection.end import NbdEnd
from storage_backends.nbd.messages import CmdFlag, CmdType, NbdError, Opt, Rep, TransmissionFlag
from storage_backends.nbd.state import Disconnected, Message, Negotiated, State
from storage_backends.wire import Chunk, LocalProtocolError, Payload, RemoteProtocolError

__all__ = ["NbdServerConnection", "Request", "ServerEvent"]

_HANDSHAKE_FLAGS = nbd.HandshakeFlag.FIXED_NEWSTYLE | nbd.HandshakeFlag.NO_ZEROES
_CLIENT_FLAGS = nbd.ClientFlag.FIXED_NEWSTYLE | nbd.ClientFlag.NO_ZEROES
_CMD_TYPES: dict[int, CmdType] = {cmd_type: cmd_type for cmd_type in CmdType}
_NEEDED_FLAG: dict[int, int] = {CmdType.FLUSH: TransmissionFlag.SEND_FLUSH, CmdType.TRIM: TransmissionFlag.SEND_TRIM}


class Request(NamedTuple):
    """A request to serve; its data has arrived."""

    kind: CmdType
    cookie: int
    offset: int
    length: int
    payload: Payload | None
    """What a WRITE brings."""
    fua: bool


ServerEvent: TypeAlias = Negotiated | Request | Disconnected


class NbdServerConnection(NbdEnd[Negotiated | Request]):
    """The server's end of one connection, which exports one device."""

    __slots__ = ("_export", "_export_name", "_writing")

    def __init__(self, size_bytes: int, flags: int, *, export_name: str = "") -> None:
        """Greet. Any name a client asks for will do if ``export_name`` is empty, the default export."""
        super().__init__()
        self._export = nbd.Export(size_bytes=size_bytes, flags=flags | TransmissionFlag.HAS_FLAGS)
        self._export_name = export_name
        self._state.sent(Message.GREETING)
        self._to_send.append(nbd.push_greeting(nbd.Greeting(flags=_HANDSHAKE_FLAGS)))
        # invariant: the WRITE whose header has arrived and whose data has not
        self._writing: nbd.Request | None = None
        # so that bytes_wanted is right before the first byte
        self._advance([])

    def reply(self, cookie: int, *, error: int = 0, payload: Payload | None = None) -> list[Chunk]:
        """Return the chunks of a reply: 16 bytes, then what a READ found."""
        if cookie not in self._in_flight:
            raise LocalProtocolError(f"reply to cookie {cookie:#x}, which is not in flight")
        expected = 0 if error else self._in_flight[cookie]
        if (0 if payload is None else payload.size_bytes) != expected:
            raise LocalProtocolError(f"reply to cookie {cookie:#x} must bring {expected} bytes of data")
        del self._in_flight[cookie]
        header = nbd.push_simple_reply(nbd.SimpleReply(error=error, cookie=cookie))
        return [header] if payload is None else [header, payload]

    def _is_inside(self) -> bool:
        return self._writing is not None

    def _advance(self, events: list[ServerEvent]) -> bool:
        """Consume one message; return False when more bytes are needed."""
        match self._state.current:
            case State.TRANSMISSION:
                return self._on_request(events)
            case State.AWAIT_CLIENT_FLAGS:
                return self._on_client_flags()
            case State.OPTION_HAGGLING:
                return self._on_option(events)
            case _:
                return self._close()

    def _on_client_flags(self) -> bool:
        flags = nbd.pull_client_flags(self._buffer)
        if flags is None:
            return False
        self._state.received(Message.CLIENT_FLAGS)
        # proto.md, "Client flags": unknown ones close the connection
        if flags & ~_CLIENT_FLAGS:
            raise RemoteProtocolError(f"client flags {flags:#x} have unknown bits")
        self._no_zeroes = bool(flags & nbd.ClientFlag.NO_ZEROES)
        return True

    def _on_option(self, events: list[ServerEvent]) -> bool:
        request = nbd.pull_option_request(self._buffer)
        if request is None:
            return False
        match request.option:
            case Opt.EXPORT_NAME:
                self._state.received(Message.OPT_EXPORT_NAME)
                self._on_export_name(request.data.decode(errors="replace"), events)
            case Opt.GO | Opt.INFO:
                self._state.received(Message.OPT_GO if request.option == Opt.GO else Message.OPT_OTHER)
                self._on_go(request, events)
            case Opt.ABORT:
                self._state.received(Message.OPT_ABORT)
                self._send_option_reply(request.option, Rep.ACK)
                events.append(Disconnected("client sent NBD_OPT_ABORT"))
            case _:
                self._state.received(Message.OPT_OTHER)
                self._send_option_reply(request.option, Rep.ERR_UNSUP)
        return True

    def _on_export_name(self, name: str, events: list[ServerEvent]) -> None:
        # this option has no way to say no: an unwilling server ends the session (proto.md, NBD_OPT_EXPORT_NAME)
        if self._export_name not in ("", name):
            self._state.sent(Message.EOF)
            events.append(Disconnected(f"client asked for export {name!r}"))
            return
        self._state.sent(Message.EXPORT_REPLY)
        self._to_send.append(nbd.push_export_reply(self._export, no_zeroes=self._no_zeroes))
        events.append(Negotiated(self._export.size_bytes, self._export.flags))

    def _on_go(self, request: nbd.OptionRequest, events: list[ServerEvent]) -> None:
        go = nbd.pull_go_data(request.data)
        if go is None:
            self._send_option_reply(request.option, Rep.ERR_INVALID)
        elif self._export_name not in ("", go.name):
            self._send_option_reply(request.option, Rep.ERR_UNKNOWN)
        else:
            self._send_option_reply(request.option, Rep.INFO, nbd.push_info_export(self._export))
            self._send_option_reply(request.option, Rep.ACK)
            if self._state.current is State.TRANSMISSION:
                events.append(Negotiated(self._export.size_bytes, self._export.flags))

    def _send_option_reply(self, option: int, reply_type: Rep, data: bytes = b"") -> None:
        message = {Rep.ACK: Message.REP_ACK, Rep.INFO: Message.REP_INFO}.get(reply_type, Message.REP_ERR)
        self._state.sent(message)
        self._to_send.append(nbd.push_option_reply(nbd.OptionReply(option=option, reply_type=reply_type, data=data)))

    def _on_request(self, events: list[ServerEvent]) -> bool:
        request = self._writing
        if request is None:
            request = nbd.pull_request(self._buffer)
            if request is None:
                return False
            if request.cmd_type == CmdType.DISC:
                self._state.received(Message.CMD_DISC)
                events.append(Disconnected("client sent NBD_CMD_DISC"))
                return True
            if request.cookie in self._in_flight:
                raise RemoteProtocolError(f"cookie {request.cookie:#x} is in flight")
        payload = None
        if request.cmd_type == CmdType.WRITE:
            if request.length > nbd.MAX_PAYLOAD_BYTES:
                raise RemoteProtocolError(f"WRITE of {request.length} bytes, more than {nbd.MAX_PAYLOAD_BYTES}")
            payload = self._buffer.pull_payload(request.length)
            if payload is None:
                self._writing = request
                return False
            self._writing = None
        self._deliver(request, payload, events)
        return True

    def _deliver(self, request: nbd.Request, payload: Payload | None, events: list[ServerEvent]) -> None:
        error = self._refusal(request)
        self._in_flight[request.cookie] = request.length if request.cmd_type == CmdType.READ else 0
        if error:
            self._to_send.extend(self.reply(request.cookie, error=error))
            return
        kind = _CMD_TYPES[request.cmd_type]
        fua = request.flags & CmdFlag.FUA != 0
        events.append(Request(kind, request.cookie, request.offset, request.length, payload, fua))

    def _refusal(self, request: nbd.Request) -> int:
        """Return the error of a request that cannot be served ("Error values", "Request types"), or 0."""
        flags = self._export.flags
        cmd_type = request.cmd_type
        if cmd_type not in _CMD_TYPES or request.flags & ~(CmdFlag.FUA if flags & TransmissionFlag.SEND_FUA else 0):
            return NbdError.EINVAL
        if cmd_type in _NEEDED_FLAG and not flags & _NEEDED_FLAG[cmd_type]:
            return NbdError.EINVAL
        if flags & TransmissionFlag.READ_ONLY and cmd_type in (CmdType.WRITE, CmdType.TRIM):
            return NbdError.EPERM
        if request.offset + request.length > self._export.size_bytes:
            return NbdError.ENOSPC if cmd_type == CmdType.WRITE else NbdError.EINVAL
        if cmd_type == CmdType.READ and request.length > nbd.MAX_PAYLOAD_BYTES:
            return NbdError.EINVAL
        return 0
