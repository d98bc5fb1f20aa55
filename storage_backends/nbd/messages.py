"""The bytes of the NBD protocol (doc/proto.md of the NBD project): fixed newstyle handshake and simple replies.

A connection has two phases. In the *handshake* the server greets, the client answers with its flags and then haggles
options until one of them enters the second phase. In *transmission* the client sends requests and the server answers
each with a simple reply, in any order, known by its cookie.

Each message is a dataclass with ``push_x`` and ``pull_x`` beside it. ``push_x`` returns the bytes, lengths computed
from the fields. ``pull_x`` consumes one message from a buffer, or nothing and returns None while it is incomplete. The
data of READ and WRITE is not part of the message: it is payload by reference, and how much of it follows a simple reply
is known only to the one who sent the request. Numbers are big-endian throughout. Flags are one bit each; a field of
them is a plain int.

Left out: structured and extended replies, TLS, metadata contexts, LIST: the kernel's client uses none of them. Options
of those kinds are understood well enough to be refused.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from storage_backends.wire import ChunkBuffer, RemoteProtocolError

__all__ = [
    "MAX_OPTION_DATA_BYTES",
    "MAX_PAYLOAD_BYTES",
    "ClientFlag",
    "CmdFlag",
    "CmdType",
    "Export",
    "GoData",
    "Greeting",
    "HandshakeFlag",
    "InfoType",
    "NbdError",
    "Opt",
    "OptionReply",
    "OptionRequest",
    "Rep",
    "Request",
    "SimpleReply",
    "TransmissionFlag",
    "pull_client_flags",
    "pull_export_reply",
    "pull_go_data",
    "pull_greeting",
    "pull_info_export",
    "pull_option_reply",
    "pull_option_request",
    "pull_request",
    "pull_simple_reply",
    "push_client_flags",
    "push_export_reply",
    "push_go_data",
    "push_greeting",
    "push_info_export",
    "push_option_reply",
    "push_option_request",
    "push_request",
    "push_simple_reply",
]

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698

MAX_PAYLOAD_BYTES = 32 * 1024 * 1024
"""Length every server takes in one request ("Block size constraints"): 32 MiB."""
MAX_OPTION_DATA_BYTES = 64 * 1024
"""Bound of ours on the data of one option or reply; a name has at most 4096 bytes ("Values")."""

_GREETING = Struct(">QQH")
_CLIENT_FLAGS = Struct(">I")
_OPTION_REQUEST = Struct(">QII")
_OPTION_REPLY = Struct(">QIII")
_EXPORT_REPLY = Struct(">QH")
_EXPORT_REPLY_ZEROES = 124
_INFO_EXPORT = Struct(">HQH")
_REQUEST = Struct(">IHHQQI")
_SIMPLE_REPLY = Struct(">IIQ")
_U16 = Struct(">H")
_U32 = Struct(">I")


class HandshakeFlag(IntEnum):
    """What the server can negotiate ("Handshake flags")."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class ClientFlag(IntEnum):
    """What the client took up of it ("Client flags")."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntEnum):
    """What the export can do ("Transmission flags")."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32


class Opt(IntEnum):
    """Options ("Option types")."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8


class Rep(IntEnum):
    """Replies to options ("Option reply types"); errors have the top bit."""

    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009


class InfoType(IntEnum):
    """Pieces of information about an export (``NBD_INFO_*``)."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class CmdType(IntEnum):
    """Requests ("Request types")."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4


class CmdFlag(IntEnum):
    """How a request is to be served ("Command flags")."""

    FUA = 1


class NbdError(IntEnum):
    """Error values of a reply ("Error values")."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The server's first word."""

    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionRequest:
    """One option the client asks for."""

    option: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionReply:
    """One reply to an option; some options get several."""

    option: int
    reply_type: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoData:
    """Data of NBD_OPT_GO and NBD_OPT_INFO: which export, and what the client wants to hear about it."""

    name: str
    info_types: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What the server says of an export: in an NBD_REP_INFO, or as the answer to NBD_OPT_EXPORT_NAME."""

    size_bytes: int
    flags: int
    """See :class:`TransmissionFlag`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The 28 bytes of a request; a WRITE's data follows."""

    flags: int
    cmd_type: int
    cookie: int
    """Chosen by the client; comes back in the reply."""
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleReply:
    """The 16 bytes of a simple reply; a successful READ's data follows."""

    error: int
    cookie: int


def push_greeting(x: Greeting) -> bytes:
    """Return the newstyle greeting."""
    return _GREETING.pack(NBDMAGIC, IHAVEOPT, x.flags)


def pull_greeting(buffer: ChunkBuffer) -> Greeting | None:
    """Consume a greeting; an oldstyle one has another second magic and is refused."""
    raw = buffer.pull_bytes(_GREETING.size)
    if raw is None:
        return None
    magic, style, flags = _GREETING.unpack(raw)
    _check_magic("greeting", magic, NBDMAGIC)
    _check_magic("newstyle greeting", style, IHAVEOPT)
    return Greeting(flags=flags)


def push_client_flags(flags: int) -> bytes:
    """Return the client's answer to the greeting."""
    return _CLIENT_FLAGS.pack(flags)


def pull_client_flags(buffer: ChunkBuffer) -> int | None:
    """Consume the client's flags."""
    raw = buffer.pull_bytes(_CLIENT_FLAGS.size)
    return None if raw is None else int.from_bytes(raw, "big")


def push_option_request(x: OptionRequest) -> bytes:
    """Return an option with its data."""
    return _OPTION_REQUEST.pack(IHAVEOPT, x.option, len(x.data)) + x.data


def pull_option_request(buffer: ChunkBuffer) -> OptionRequest | None:
    """Consume an option with its data."""
    header = buffer.peek_bytes(_OPTION_REQUEST.size)
    if header is None:
        return None
    magic, option, length = _OPTION_REQUEST.unpack(header)
    _check_magic("option", magic, IHAVEOPT)
    _check_length("option", option, length)
    raw = buffer.pull_bytes(_OPTION_REQUEST.size + length)
    return None if raw is None else OptionRequest(option=option, data=raw[_OPTION_REQUEST.size :])


def push_option_reply(x: OptionReply) -> bytes:
    """Return a reply to an option with its data."""
    return _OPTION_REPLY.pack(OPTION_REPLY_MAGIC, x.option, x.reply_type, len(x.data)) + x.data


def pull_option_reply(buffer: ChunkBuffer) -> OptionReply | None:
    """Consume a reply to an option with its data."""
    header = buffer.peek_bytes(_OPTION_REPLY.size)
    if header is None:
        return None
    magic, option, reply_type, length = _OPTION_REPLY.unpack(header)
    _check_magic("option reply", magic, OPTION_REPLY_MAGIC)
    _check_length("option reply", option, length)
    raw = buffer.pull_bytes(_OPTION_REPLY.size + length)
    return None if raw is None else OptionReply(option=option, reply_type=reply_type, data=raw[_OPTION_REPLY.size :])


def push_go_data(x: GoData) -> bytes:
    """Return the data of NBD_OPT_GO or NBD_OPT_INFO."""
    name = x.name.encode()
    infos = b"".join(map(_U16.pack, x.info_types))
    return _U32.pack(len(name)) + name + _U16.pack(len(x.info_types)) + infos


def pull_go_data(data: bytes) -> GoData | None:
    """Read the data of NBD_OPT_GO or NBD_OPT_INFO; None if its lengths do not add up (NBD_REP_ERR_INVALID)."""
    if len(data) < _U32.size:
        return None
    name_end = _U32.size + _U32.unpack_from(data)[0]
    if len(data) < name_end + _U16.size:
        return None
    infos = data[name_end + _U16.size :]
    if len(infos) != _U16.size * _U16.unpack_from(data, name_end)[0]:
        return None
    name = data[_U32.size : name_end].decode(errors="replace")
    return GoData(name=name, info_types=tuple(kind for (kind,) in _U16.iter_unpack(infos)))


def push_info_export(x: Export) -> bytes:
    """Return the data of an NBD_REP_INFO that says NBD_INFO_EXPORT."""
    return _INFO_EXPORT.pack(InfoType.EXPORT, x.size_bytes, x.flags)


def pull_info_export(data: bytes) -> Export | None:
    """Read the data of an NBD_REP_INFO; None if it is another piece of information."""
    if len(data) < _U16.size:
        raise RemoteProtocolError(f"NBD_REP_INFO with {len(data)} bytes has no information type")
    if _U16.unpack_from(data)[0] != InfoType.EXPORT:
        return None
    if len(data) != _INFO_EXPORT.size:
        raise RemoteProtocolError(f"NBD_INFO_EXPORT has {len(data)} bytes, not {_INFO_EXPORT.size}")
    _, size_bytes, flags = _INFO_EXPORT.unpack(data)
    return Export(size_bytes=size_bytes, flags=flags)


def push_export_reply(x: Export, *, no_zeroes: bool) -> bytes:
    """Return the answer to NBD_OPT_EXPORT_NAME, with its reserved zeroes unless both sides agreed to omit them."""
    return _EXPORT_REPLY.pack(x.size_bytes, x.flags) + bytes(0 if no_zeroes else _EXPORT_REPLY_ZEROES)


def pull_export_reply(buffer: ChunkBuffer, *, no_zeroes: bool) -> Export | None:
    """Consume the answer to NBD_OPT_EXPORT_NAME."""
    raw = buffer.pull_bytes(_EXPORT_REPLY.size + (0 if no_zeroes else _EXPORT_REPLY_ZEROES))
    if raw is None:
        return None
    size_bytes, flags = _EXPORT_REPLY.unpack_from(raw)
    return Export(size_bytes=size_bytes, flags=flags)


def push_request(x: Request) -> bytes:
    """Return the header of a request."""
    return _REQUEST.pack(REQUEST_MAGIC, x.flags, x.cmd_type, x.cookie, x.offset, x.length)


def pull_request(buffer: ChunkBuffer) -> Request | None:
    """Consume the header of a request."""
    raw = buffer.pull_bytes(_REQUEST.size)
    if raw is None:
        return None
    magic, flags, cmd_type, cookie, offset, length = _REQUEST.unpack(raw)
    if magic != REQUEST_MAGIC:
        _check_magic("request", magic, REQUEST_MAGIC)
    return Request(flags=flags, cmd_type=cmd_type, cookie=cookie, offset=offset, length=length)


def push_simple_reply(x: SimpleReply) -> bytes:
    """Return the header of a simple reply."""
    return _SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, x.error, x.cookie)


def pull_simple_reply(buffer: ChunkBuffer) -> SimpleReply | None:
    """Consume the header of a simple reply."""
    raw = buffer.pull_bytes(_SIMPLE_REPLY.size)
    if raw is None:
        return None
    magic, error, cookie = _SIMPLE_REPLY.unpack(raw)
    if magic != SIMPLE_REPLY_MAGIC:
        _check_magic("simple reply", magic, SIMPLE_REPLY_MAGIC)
    return SimpleReply(error=error, cookie=cookie)


def _check_magic(message: str, got: int, expected: int) -> None:
    """Refuse a message that does not begin as it must."""
    if got != expected:
        raise RemoteProtocolError(f"{message} begins with {got:#x}, not {expected:#x}")


def _check_length(message: str, option: int, length: int) -> None:
    """Refuse data nobody could want to send."""
    if length > MAX_OPTION_DATA_BYTES:
        raise RemoteProtocolError(f"{message} {option} announces {length} bytes, more than {MAX_OPTION_DATA_BYTES}")
