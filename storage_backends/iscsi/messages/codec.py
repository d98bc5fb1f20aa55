"""Where the fields of each PDU stand in its basic header segment: RFC 7143 11.2.1 and the diagrams of 11.3 to 11.19.

A BHS is 48 bytes. The first eight are alike in all PDUs: the opcode with the immediate bit, up to three bytes of the
PDU's own, and the lengths of what follows. :data:`_LAYOUTS` holds the rest, a line a PDU, in the order of the wire;
:func:`push` and :func:`pull` walk it. Lengths are computed from the fields while pushing.

A receiver must ignore reserved fields (11.1), so they are padding here, neither kept nor checked.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from struct import Struct
from typing import Any

from storage_backends.iscsi.messages.pdus import (
    BHS_SIZE,
    AsyncMessage,
    DataIn,
    DataOut,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    Message,
    NopIn,
    NopOut,
    Opcode,
    R2t,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TmfRequest,
    TmfResponse,
)
from storage_backends.wire import Chunk, RemoteProtocolError, join, render, size_of

__all__ = ["data_of", "pull", "push"]

_IMMEDIATE = 0x40
_OPCODE_MASK = 0x3F
_ALWAYS_SET = 0x80


class _Layout:
    """Where the fields of one PDU stand in its BHS.

    ``head`` names the fields of bytes 1 to 3 and ``tail`` those from byte 8 on, in the order of ``struct``. The first
    word of ``head`` is byte 1: a field, ``0x80`` where only that bit is set, or ``0x80|field``.
    """

    __slots__ = (
        *("always_set", "byte1", "cls", "get", "names", "nr_head", "opcode", "struct"),
        *("has_data", "has_immediate", "has_payload"),
    )

    def __init__(self, cls: type[Message], opcode: Opcode, struct: str, head: str, tail: str) -> None:
        byte1, *rest = head.split()
        self.cls: Callable[..., Message] = cls
        self.opcode = int(opcode)
        self.struct = Struct(struct)
        self.always_set = _ALWAYS_SET if byte1.startswith("0x80") else 0
        self.byte1 = byte1.removeprefix("0x80").removeprefix("|")
        self.nr_head = len(rest)
        self.names = (*rest, *tail.split())
        self.get: Callable[[Message], tuple[Any, ...]] = attrgetter(*self.names)
        fields = cls.__dataclass_fields__
        self.has_immediate = "immediate" in fields
        self.has_payload = "payload" in fields
        self.has_data = "data" in fields
        assert self.struct.size == BHS_SIZE, f"{cls.__name__} is {self.struct.size} bytes"


_LAYOUTS = (
    _Layout(
        ScsiCommand,
        Opcode.SCSI_COMMAND,
        ">BBxxIQIIII16s",
        "flags",
        "lun itt data_length cmdsn exp_statsn cdb",
    ),
    _Layout(
        ScsiResponse,
        Opcode.SCSI_RESPONSE,
        ">BBBBI8xI4xIIII4xI",
        "0x80|flags response status",
        "itt statsn exp_cmdsn max_cmdsn exp_datasn residual",
    ),
    _Layout(
        TmfRequest,
        Opcode.TMF_REQUEST,
        ">BBxxIQIIIIII8x",
        "0x80|function",
        "lun itt rtt cmdsn exp_statsn refcmdsn exp_datasn",
    ),
    _Layout(
        TmfResponse,
        Opcode.TMF_RESPONSE,
        ">BBBxI8xI4xIII12x",
        "0x80 response",
        "itt statsn exp_cmdsn max_cmdsn",
    ),
    _Layout(
        DataOut,
        Opcode.DATA_OUT,
        ">BBxxIQII4xI4xII4x",
        "flags",
        "lun itt ttt exp_statsn datasn offset",
    ),
    _Layout(
        DataIn,
        Opcode.DATA_IN,
        ">BBxBIQIIIIIIII",
        "flags status",
        "lun itt ttt statsn exp_cmdsn max_cmdsn datasn offset residual",
    ),
    _Layout(
        R2t,
        Opcode.R2T,
        ">BBxxIQIIIIIIII",
        "0x80",
        "lun itt ttt statsn exp_cmdsn max_cmdsn r2tsn offset data_length",
    ),
    _Layout(
        AsyncMessage,
        Opcode.ASYNC_MESSAGE,
        ">BBxxIQI4xIIIBBHHH4x",
        "0x80",
        "lun itt statsn exp_cmdsn max_cmdsn async_event async_vcode param1 param2 param3",
    ),
    _Layout(
        LoginRequest,
        Opcode.LOGIN_REQUEST,
        ">BBBBI6sHIHxxII16x",
        "flags version_max version_min",
        "isid tsih itt cid cmdsn exp_statsn",
    ),
    _Layout(
        LoginResponse,
        Opcode.LOGIN_RESPONSE,
        ">BBBBI6sHI4xIIIBBxx8x",
        "flags version_max version_active",
        "isid tsih itt statsn exp_cmdsn max_cmdsn status_class status_detail",
    ),
    _Layout(
        LogoutRequest,
        Opcode.LOGOUT_REQUEST,
        ">BBxxI8xIHxxII16x",
        "0x80|reason",
        "itt cid cmdsn exp_statsn",
    ),
    _Layout(
        LogoutResponse,
        Opcode.LOGOUT_RESPONSE,
        ">BBBxI8xI4xIII4xHH4x",
        "0x80 response",
        "itt statsn exp_cmdsn max_cmdsn time2wait time2retain",
    ),
    _Layout(
        Reject,
        Opcode.REJECT,
        ">BBBxI8xI4xIIII8x",
        "0x80 reason",
        "itt statsn exp_cmdsn max_cmdsn datasn",
    ),
    _Layout(
        NopOut,
        Opcode.NOP_OUT,
        ">BBxxIQIIII16x",
        "0x80",
        "lun itt ttt cmdsn exp_statsn",
    ),
    _Layout(
        NopIn,
        Opcode.NOP_IN,
        ">BBxxIQIIIII12x",
        "0x80",
        "lun itt ttt statsn exp_cmdsn max_cmdsn",
    ),
)
_BY_CLASS: dict[Callable[..., Message], _Layout] = {layout.cls: layout for layout in _LAYOUTS}
_BY_OPCODE = {layout.opcode: layout for layout in _LAYOUTS}


def data_of(message: Message) -> Chunk:
    """Return the data segment of a PDU, empty if it has none."""
    if isinstance(message, ScsiCommand | DataOut | DataIn):
        return b"" if message.payload is None else message.payload
    return _data(message) if _BY_CLASS[type(message)].has_data else b""


_is_immediate: Callable[[Message], bool] = attrgetter("immediate")
_data: Callable[[Message], bytes] = attrgetter("data")


def push(message: Message) -> bytes:
    """Return the BHS of a PDU; its AHS and data are fields of the message and follow on the wire."""
    layout = _BY_CLASS[type(message)]
    values = list(layout.get(message))
    ahs_words = len(message.ahs) >> 2 if isinstance(message, ScsiCommand) else 0
    values.insert(layout.nr_head, ahs_words << 24 | size_of(data_of(message)))
    return layout.struct.pack(
        layout.opcode | _IMMEDIATE if layout.has_immediate and _is_immediate(message) else layout.opcode,
        layout.always_set | getattr(message, layout.byte1) if layout.byte1 else layout.always_set,
        *values,
    )


def pull(bhs: bytes, ahs: bytes, data: Sequence[Chunk]) -> Message:
    """Read a PDU whose parts have arrived. Raises RemoteProtocolError for an opcode this code does not know."""
    layout = _BY_OPCODE.get(bhs[0] & _OPCODE_MASK)
    if layout is None:
        raise RemoteProtocolError(f"opcode {bhs[0] & _OPCODE_MASK:#04x} is none of the PDUs known here")
    first, byte1, *values = layout.struct.unpack(bhs)
    del values[layout.nr_head]
    fields = dict(zip(layout.names, values, strict=True))
    if layout.byte1:
        fields[layout.byte1] = byte1 & ~layout.always_set
    if layout.has_immediate:
        fields["immediate"] = first & _IMMEDIATE != 0
    if layout.has_payload:
        fields["payload"] = join(data) if data else None
    elif layout.has_data:
        fields["data"] = render(data)
    if ahs and layout.cls is ScsiCommand:
        fields["ahs"] = ahs
    return layout.cls(**fields)
