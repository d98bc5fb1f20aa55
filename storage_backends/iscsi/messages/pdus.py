"""What the PDUs of iSCSI say: one dataclass for each section of RFC 7143 chapter 11, and the numbers they use.

Fields bear the names of include/scsi/iscsi_proto.h. Data comes in two kinds: SCSI Command, Data-Out and Data-In carry a
``payload`` by reference, which nobody looks at; the others carry a few ``data`` bytes to be read: login keys, sense, a
rejected header. Flags are one bit each; a field of them is a plain int, and a bit that is always set is no flag.

Left out: Text (only discovery needs it), SNACK (no use at ErrorRecoveryLevel 0), and the second data segment of
bidirectional commands.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from storage_backends.wire import Payload

__all__ = [
    "BHS_SIZE",
    "RESERVED_TAG",
    "AsyncEvent",
    "AsyncMessage",
    "CommandFlag",
    "DataFlag",
    "DataIn",
    "DataOut",
    "LoginFlag",
    "LoginRequest",
    "LoginResponse",
    "LogoutRequest",
    "LogoutResponse",
    "Message",
    "NopIn",
    "NopOut",
    "Opcode",
    "R2t",
    "Reject",
    "RejectReason",
    "ResponseFlag",
    "ScsiCommand",
    "ScsiResponse",
    "TmfFunction",
    "TmfRequest",
    "TmfResponse",
    "TmfStatus",
]

BHS_SIZE = 48
RESERVED_TAG = 0xFFFFFFFF
"""An initiator or target task tag that names no task."""


class Opcode(IntEnum):
    """Six bits of the first byte (11.2.1.2): below 0x20 the initiator's, from 0x20 the target's."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TMF_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK_REQUEST = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TMF_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


class CommandFlag(IntEnum):
    """Flags of a SCSI Command (11.3.1); the low three bits are the task attribute."""

    FINAL = 0x80
    READ = 0x40
    WRITE = 0x20
    SIMPLE = 0x01


class ResponseFlag(IntEnum):
    """Flags of a SCSI Response (11.4.1)."""

    OVERFLOW = 0x04
    UNDERFLOW = 0x02


class DataFlag(IntEnum):
    """Flags of Data-Out, of which it has only the first, and of Data-In (11.7.1, 11.7.2)."""

    FINAL = 0x80
    ACKNOWLEDGE = 0x40
    OVERFLOW = 0x04
    UNDERFLOW = 0x02
    STATUS = 0x01


class LoginFlag(IntEnum):
    """Flags of a login PDU (11.12.1, 11.12.2); bits 2-3 are the current stage, bits 0-1 the next."""

    TRANSIT = 0x80
    CONTINUE = 0x40


class TmfFunction(IntEnum):
    """What a task management function does (11.5.1)."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8


class TmfStatus(IntEnum):
    """How it ended (11.6.1)."""

    COMPLETE = 0
    NO_TASK = 1
    NO_LUN = 2
    TASK_ALLEGIANT = 3
    NO_FAILOVER = 4
    NOT_SUPPORTED = 5
    AUTH_FAILED = 6
    REJECTED = 255


class AsyncEvent(IntEnum):
    """What an Asynchronous Message announces (11.9.1)."""

    SCSI_EVENT = 0
    REQUEST_LOGOUT = 1
    DROPPING_CONNECTION = 2
    DROPPING_ALL_CONNECTIONS = 3
    PARAM_NEGOTIATION = 4
    VENDOR_SPECIFIC = 255


class RejectReason(IntEnum):
    """Why a PDU was rejected (11.17.1): those this code says itself."""

    PROTOCOL_ERROR = 0x04
    CMD_NOT_SUPPORTED = 0x05


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiCommand:
    """11.3: a CDB for a logical unit, with the first of its data if it is a write."""

    immediate: bool = False
    flags: int
    lun: int
    itt: int
    data_length: int
    """Expected Data Transfer Length."""
    cmdsn: int
    exp_statsn: int
    cdb: bytes
    ahs: bytes = b""
    payload: Payload | None = None
    """Immediate data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiResponse:
    """11.4: how a command ended."""

    flags: int = 0
    response: int = 0
    """0 is completed at target; after anything else the status means nothing."""
    status: int
    itt: int
    statsn: int
    exp_cmdsn: int
    max_cmdsn: int
    exp_datasn: int = 0
    residual: int = 0
    data: bytes = b""
    """SenseLength and sense data (11.4.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TmfRequest:
    """11.5: abort a task, or every task of a logical unit."""

    immediate: bool = True
    function: int
    lun: int
    itt: int
    rtt: int = RESERVED_TAG
    """Referenced task tag."""
    cmdsn: int
    exp_statsn: int
    refcmdsn: int = 0
    exp_datasn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TmfResponse:
    """11.6: how a task management function ended."""

    response: int
    itt: int
    statsn: int
    exp_cmdsn: int
    max_cmdsn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOut:
    """11.7: data of a write that did not travel with its command.

    FINAL ends a sequence: the unsolicited burst, or what one R2T asked for.
    """

    flags: int
    lun: int
    itt: int
    ttt: int
    """The R2T's tag; reserved in the unsolicited burst."""
    exp_statsn: int
    datasn: int
    offset: int
    payload: Payload | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIn:
    """11.7: data of a read. With STATUS it ends the command as well, and no SCSI Response follows."""

    flags: int
    status: int = 0
    lun: int = 0
    itt: int
    ttt: int = RESERVED_TAG
    statsn: int = 0
    """Valid only with STATUS."""
    exp_cmdsn: int
    max_cmdsn: int
    datasn: int
    offset: int
    residual: int = 0
    payload: Payload | None


@dataclass(frozen=True, slots=True, kw_only=True)
class R2t:
    """11.8: the target is ready for a part of a write's data."""

    lun: int
    itt: int
    ttt: int
    statsn: int
    """The next StatSN; it does not advance."""
    exp_cmdsn: int
    max_cmdsn: int
    r2tsn: int
    offset: int
    data_length: int
    """Desired Data Transfer Length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncMessage:
    """11.9: the target announces something by itself."""

    lun: int = 0
    itt: int = RESERVED_TAG
    statsn: int
    exp_cmdsn: int
    max_cmdsn: int
    async_event: int
    async_vcode: int = 0
    param1: int = 0
    param2: int = 0
    param3: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """11.12: keys of the login negotiation, and the stage the initiator is in."""

    immediate: bool = True
    flags: int
    version_max: int = 0
    version_min: int = 0
    isid: bytes
    """Six bytes that tell the initiator's sessions apart."""
    tsih: int = 0
    itt: int
    cid: int = 0
    cmdsn: int
    exp_statsn: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginResponse:
    """11.13: the target's answer to one."""

    flags: int
    version_max: int = 0
    version_active: int = 0
    isid: bytes
    tsih: int
    itt: int
    statsn: int
    exp_cmdsn: int
    max_cmdsn: int
    status_class: int = 0
    status_detail: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutRequest:
    """11.14: close the session (reason 0) or the connection (1)."""

    immediate: bool = True
    reason: int
    itt: int
    cid: int = 0
    cmdsn: int
    exp_statsn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutResponse:
    """11.15: 0 is closed successfully."""

    response: int = 0
    itt: int
    statsn: int
    exp_cmdsn: int
    max_cmdsn: int
    time2wait: int = 0
    time2retain: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """11.17: a PDU was not understood; its header comes back as data."""

    reason: int
    itt: int = RESERVED_TAG
    statsn: int
    exp_cmdsn: int
    max_cmdsn: int
    datasn: int = 0
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NopOut:
    """11.18: a ping of the initiator (itt valid), or its answer to one of the target (ttt valid)."""

    immediate: bool = True
    lun: int = 0
    itt: int
    ttt: int = RESERVED_TAG
    cmdsn: int
    exp_statsn: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class NopIn:
    """11.19: the answer to a ping (itt valid), a ping of the target (ttt valid), or only news of its window."""

    lun: int = 0
    itt: int = RESERVED_TAG
    ttt: int = RESERVED_TAG
    statsn: int
    exp_cmdsn: int
    max_cmdsn: int
    data: bytes = b""


Message: TypeAlias = (
    ScsiCommand
    | ScsiResponse
    | TmfRequest
    | TmfResponse
    | DataOut
    | DataIn
    | R2t
    | AsyncMessage
    | LoginRequest
    | LoginResponse
    | LogoutRequest
    | LogoutResponse
    | Reject
    | NopOut
    | NopIn
)
