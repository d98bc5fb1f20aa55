"""Operational keys and what two offers of one become: RFC 7143 6.1, 6.2 and chapter 13.

Login PDUs carry text: ``key=value`` pairs, each ended by a NUL. A key is offered once and answered once, and
:data:`KEYS` says what the answer is made of: the smaller number, the logical AND, the first digest both know. One
function, :func:`result_of`, serves both sides: the target computes the result, and the initiator accepts a result only
if it is one the function could have given (6.2.2).

MaxRecvDataSegmentLength is the exception: each side declares its own, and it binds the other.
"""

from dataclasses import dataclass, fields
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from storage_backends.wire import RemoteProtocolError

__all__ = [
    "KEYS",
    "RFC_DEFAULTS",
    "Key",
    "LoginOffer",
    "Rule",
    "SessionParameters",
    "Value",
    "parameters_of",
    "pull_text",
    "pull_value",
    "push_text",
    "push_value",
    "result_of",
]

Value: TypeAlias = bool | int | tuple[str, ...]


class Rule(Enum):
    """How two values become one (6.2, "Result function is")."""

    AND = auto()
    OR = auto()
    MINIMUM = auto()
    MAXIMUM = auto()
    FIRST_OF_LIST = auto()
    DECLARATION = auto()


class Key(NamedTuple):
    """One operational key: the field it fills, how, and the range of its numbers."""

    field: str
    rule: Rule
    low: int = 0
    high: int = 0


KEYS = {
    "HeaderDigest": Key("header_digest", Rule.FIRST_OF_LIST),  # 13.1
    "DataDigest": Key("data_digest", Rule.FIRST_OF_LIST),  # 13.1
    "MaxConnections": Key("max_connections", Rule.MINIMUM, 1, 65535),  # 13.2
    "InitialR2T": Key("initial_r2t", Rule.OR),  # 13.10
    "ImmediateData": Key("immediate_data", Rule.AND),  # 13.11
    "MaxRecvDataSegmentLength": Key("max_recv_data_length", Rule.DECLARATION, 512, 2**24 - 1),  # 13.12
    "MaxBurstLength": Key("max_burst_length", Rule.MINIMUM, 512, 2**24 - 1),  # 13.13
    "FirstBurstLength": Key("first_burst_length", Rule.MINIMUM, 512, 2**24 - 1),  # 13.14
    "DefaultTime2Wait": Key("default_time2wait", Rule.MAXIMUM, 0, 3600),  # 13.15
    "DefaultTime2Retain": Key("default_time2retain", Rule.MINIMUM, 0, 3600),  # 13.16
    "MaxOutstandingR2T": Key("max_outstanding_r2t", Rule.MINIMUM, 1, 65535),  # 13.17
    "DataPDUInOrder": Key("data_pdu_in_order", Rule.OR),  # 13.18
    "DataSequenceInOrder": Key("data_sequence_in_order", Rule.OR),  # 13.19
    "ErrorRecoveryLevel": Key("error_recovery_level", Rule.MINIMUM, 0, 2),  # 13.20
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOffer:
    """The operational values one side brings; the defaults are those of etc/iscsid.conf in open-iscsi."""

    header_digest: tuple[str, ...] = ("None",)
    data_digest: tuple[str, ...] = ("None",)
    max_connections: int = 1
    initial_r2t: bool = False
    immediate_data: bool = True
    max_recv_data_length: int = 262144
    max_burst_length: int = 16776192
    first_burst_length: int = 262144
    default_time2wait: int = 2
    default_time2retain: int = 0
    max_outstanding_r2t: int = 1
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    error_recovery_level: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers outside their key's range. Raises ValueError naming key and value."""
        for name, key in KEYS.items():
            value = getattr(self, key.field)
            if key.high and not key.low <= value <= key.high:
                raise ValueError(f"{name}={value} is not between {key.low} and {key.high}")


RFC_DEFAULTS = LoginOffer(
    initial_r2t=True,
    max_recv_data_length=8192,
    max_burst_length=262144,
    first_burst_length=65536,
    default_time2retain=20,
)
"""What a key is that nobody mentioned (chapter 13)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParameters:
    """What the two sides agreed on, as one of them sees it."""

    header_digest: bool
    data_digest: bool
    max_connections: int
    initial_r2t: bool
    immediate_data: bool
    max_recv_data_length: int
    """Data segment this side accepts."""
    max_xmit_data_length: int
    """Data segment the peer accepts."""
    max_burst_length: int
    first_burst_length: int
    default_time2wait: int
    default_time2retain: int
    max_outstanding_r2t: int
    data_pdu_in_order: bool
    data_sequence_in_order: bool
    error_recovery_level: int


def push_text(pairs: dict[str, str]) -> bytes:
    """Return pairs as the data of a login PDU (6.1)."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs.items())


def pull_text(data: bytes) -> dict[str, str]:
    """Read the data of a login PDU. Raises RemoteProtocolError for what are not pairs."""
    if data and not data.endswith(b"\0"):
        raise RemoteProtocolError("login text does not end in NUL")
    pairs: dict[str, str] = {}
    # empty pairs between NULs are harmless and some peers pad with them
    for pair in filter(None, data.decode(errors="replace").split("\0")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise RemoteProtocolError(f"login text {pair!r} is no key=value")
        if key in pairs:
            raise RemoteProtocolError(f"login key {key} is given twice")
        pairs[key] = value
    return pairs


def push_value(value: Value) -> str:
    """Return a value as text."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value) if isinstance(value, int) else ",".join(value)


def pull_value(name: str, text: str) -> Value:
    """Read a value of an operational key. Raises RemoteProtocolError naming the key if it cannot be one."""
    key = KEYS[name]
    if key.rule in (Rule.AND, Rule.OR):
        if text not in ("Yes", "No"):
            raise RemoteProtocolError(f"{name}={text} is neither Yes nor No")
        return text == "Yes"
    if key.rule is Rule.FIRST_OF_LIST:
        return tuple(text.split(","))
    try:
        number = int(text, 0)
    except ValueError:
        raise RemoteProtocolError(f"{name}={text} is no number") from None
    if not key.low <= number <= key.high:
        raise RemoteProtocolError(f"{name}={text} is not between {key.low} and {key.high}")
    return number


def result_of(name: str, offered: Value, accepted: Value) -> Value | None:
    """Return what a key becomes when one side offers and the other answers; None if there is no agreement."""
    rule = KEYS[name].rule
    if isinstance(offered, tuple) and isinstance(accepted, tuple):
        return next(((choice,) for choice in offered if choice in accepted), None)
    assert not isinstance(offered, tuple)
    assert not isinstance(accepted, tuple)
    match rule:
        case Rule.AND:
            return bool(offered and accepted)
        case Rule.OR:
            return bool(offered or accepted)
        case Rule.MINIMUM:
            return min(offered, accepted)
        case Rule.MAXIMUM:
            return max(offered, accepted)
        case _:
            return accepted


def parameters_of(results: dict[str, Value], *, max_recv_data_length: int) -> SessionParameters:
    """Return the parameters of a session in which these keys were settled and no others."""
    values = {field.name: getattr(RFC_DEFAULTS, field.name) for field in fields(RFC_DEFAULTS)}
    values.update({KEYS[name].field: value for name, value in results.items()})
    values["max_xmit_data_length"] = values["max_recv_data_length"]
    values["max_recv_data_length"] = max_recv_data_length
    # 13.14: the first burst is part of a burst, though the two are negotiated apart
    values["first_burst_length"] = min(values["first_burst_length"], values["max_burst_length"])
    for name in ("header_digest", "data_digest"):
        values[name] = values[name] == ("CRC32C",)
    return SessionParameters(**values)
