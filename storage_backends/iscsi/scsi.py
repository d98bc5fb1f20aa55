"""The part of SCSI a block device over iSCSI needs: SPC-4 and SBC-3, as far as Linux' sd driver asks for it.

A command descriptor block (CDB) either moves data between host and medium, which takes the disk's time and is handed to
whoever serves the export as a :class:`MediumAccess`, or asks about the logical unit, which a :class:`LogicalUnit`
answers at once. :func:`execute` tells the two apart and refuses what is neither, with the sense data SPC-4 prescribes.

Implemented: READ and WRITE (10) and (16), SYNCHRONIZE CACHE (10), TEST UNIT READY, INQUIRY with the standard data and
the VPD pages 0x00, 0x80 and 0x83, READ CAPACITY (10) and (16), REPORT LUNS, MODE SENSE (6) with the caching page, and
REQUEST SENSE. Left out: reservations, UNMAP, unit attentions, more than one logical unit behind a target.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

__all__ = [
    "CDB_SIZE",
    "INVALID_FIELD_IN_CDB",
    "INVALID_OPCODE",
    "LBA_OUT_OF_RANGE",
    "LUN_NOT_SUPPORTED",
    "NO_SENSE",
    "SPACE_ALLOCATION_FAILED",
    "WRITE_ERROR",
    "Answer",
    "LogicalUnit",
    "MediumAccess",
    "MediumKind",
    "Op",
    "Sense",
    "SenseKey",
    "Status",
    "execute",
    "pull_sense",
    "push_flush",
    "push_lun",
    "push_read",
    "push_sense",
    "push_write",
]

CDB_SIZE = 16
"""Bytes an iSCSI command has for it (RFC 7143 11.3.5); shorter ones are padded."""

_RW10 = Struct(">BBIBHB6x")
_RW16 = Struct(">BBQIBB")
_LBA10_MAX = 0xFFFFFFFF
_BLOCKS10_MAX = 0xFFFF
_FUA = 0x08
_EVPD = 0x01
_SERVICE_ACTION_MASK = 0x1F
_SERVICE_ACTION_READ_CAPACITY_16 = 0x10
_PERIPHERAL_NOT_CONNECTED = 0x7F
_FIXED_SENSE = Struct(">BxB4xB4xBB4x")
_FIXED_SENSE_CURRENT = 0x70
_FIXED_SENSE_ADDITIONAL_LENGTH = 10
_STANDARD_INQUIRY = Struct(">BBBBBBBB8s16s4s")
_MODE_PAGE_MASK = 0x3F
_MODE_PAGE_CONTROL_SHIFT = 6
_MODE_CHANGEABLE_VALUES = 1
_MODE_SAVED_VALUES = 3
_CACHING_PAGE = 0x08
_ALL_PAGES = 0x3F
_CACHING_PAGE_LENGTH = 18
_WCE = 0x04
_DPOFUA = 0x10


class Op(IntEnum):
    """Operation codes."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1A
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_16 = 0x88
    WRITE_16 = 0x8A
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0


class Status(IntEnum):
    """How a command ended (SAM-5 5.3)."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40


class SenseKey(IntEnum):
    """What a CHECK CONDITION means (SPC-4 4.5.6)."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB


class Sense(NamedTuple):
    """Sense key with its additional sense code and qualifier."""

    key: int
    asc: int
    ascq: int


NO_SENSE = Sense(SenseKey.NO_SENSE, 0x00, 0x00)
INVALID_OPCODE = Sense(SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE = Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB = Sense(SenseKey.ILLEGAL_REQUEST, 0x24, 0x00)
WRITE_ERROR = Sense(SenseKey.MEDIUM_ERROR, 0x0C, 0x00)
SPACE_ALLOCATION_FAILED = Sense(SenseKey.DATA_PROTECT, 0x27, 0x07)
"""SBC-3 4.7.3.6: a thin unit has no block for a write."""
LUN_NOT_SUPPORTED = Sense(SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)


class Answer(NamedTuple):
    """The end of a command that needs no disk."""

    status: int
    data: bytes = b""
    sense: bytes = b""


class MediumKind(IntEnum):
    """What a command does to the medium."""

    READ = 0
    WRITE = 1
    FLUSH = 2


_ACCESS_10: dict[int, MediumKind] = {
    Op.READ_10: MediumKind.READ,
    Op.WRITE_10: MediumKind.WRITE,
    Op.SYNCHRONIZE_CACHE_10: MediumKind.FLUSH,
}
_ACCESS_16: dict[int, MediumKind] = {Op.READ_16: MediumKind.READ, Op.WRITE_16: MediumKind.WRITE}
"""The commands that move blocks, by the length of their CDB."""


class MediumAccess(NamedTuple):
    """A command for the disk."""

    kind: MediumKind
    lba: int
    nr_blocks: int
    fua: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalUnit:
    """What a disk says of itself."""

    size_blocks: int
    block_size: int = 512
    physical_block_exponent: int = 3
    """Logical blocks per physical block, as a power of two."""
    vendor: str = "netvm"
    product: str = "swap"
    revision: str = "1"
    serial: str = "netvm-0"
    write_cache: bool = False


def push_lun(lun: int) -> int:
    """Return a LUN below 256 as the eight bytes of a PDU: one level, peripheral device addressing (SAM-5 4.7)."""
    if not 0 <= lun <= 0xFF:
        raise ValueError(f"LUN {lun} is not between 0 and 255")
    return lun << 48


def push_read(lba: int, nr_blocks: int) -> bytes:
    """Return the CDB of a READ, the (10) if it can say it, as sd does."""
    if lba <= _LBA10_MAX and nr_blocks <= _BLOCKS10_MAX:
        return _RW10.pack(Op.READ_10, 0, lba, 0, nr_blocks, 0)
    return _RW16.pack(Op.READ_16, 0, lba, nr_blocks, 0, 0)


def push_write(lba: int, nr_blocks: int, *, fua: bool = False) -> bytes:
    """Return the CDB of a WRITE, with ``fua`` past the write cache."""
    flags = _FUA if fua else 0
    if lba <= _LBA10_MAX and nr_blocks <= _BLOCKS10_MAX:
        return _RW10.pack(Op.WRITE_10, flags, lba, 0, nr_blocks, 0)
    return _RW16.pack(Op.WRITE_16, flags, lba, nr_blocks, 0, 0)


def push_flush() -> bytes:
    """Return the CDB of a SYNCHRONIZE CACHE (10) of the whole medium."""
    return _RW10.pack(Op.SYNCHRONIZE_CACHE_10, 0, 0, 0, 0, 0)


def push_sense(sense: Sense) -> bytes:
    """Return sense data in fixed format (SPC-4 4.5.3)."""
    return _FIXED_SENSE.pack(_FIXED_SENSE_CURRENT, sense.key, _FIXED_SENSE_ADDITIONAL_LENGTH, sense.asc, sense.ascq)


def pull_sense(data: bytes) -> Sense | None:
    """Read sense data in fixed format; None if it is of another format or cut short."""
    if len(data) < _FIXED_SENSE.size or data[0] & 0x7E != _FIXED_SENSE_CURRENT:
        return None
    _, key, _, asc, ascq = _FIXED_SENSE.unpack_from(data)
    return Sense(key & 0x0F, asc, ascq)


def execute(unit: LogicalUnit | None, cdb: bytes) -> Answer | MediumAccess:
    """Return the answer of a logical unit, or what its disk has to do first; ``unit`` is None for a LUN not there."""
    op = cdb[0]
    if unit is None:
        return _execute_nowhere(op, cdb)
    if op in _ACCESS_10:
        kind = _ACCESS_10[op]
        _, flags, lba, _, nr_blocks, _ = _RW10.unpack(cdb)
    elif op in _ACCESS_16:
        kind = _ACCESS_16[op]
        _, flags, lba, nr_blocks, _, _ = _RW16.unpack(cdb)
    else:
        return _execute_at_once(unit, op, cdb)
    if lba + nr_blocks > unit.size_blocks:
        return _check_condition(LBA_OUT_OF_RANGE)
    return MediumAccess(kind, lba, nr_blocks, kind is not MediumKind.FLUSH and flags & _FUA != 0)


def _check_condition(sense: Sense) -> Answer:
    return Answer(Status.CHECK_CONDITION, b"", push_sense(sense))


def _execute_nowhere(op: int, cdb: bytes) -> Answer:
    """Answer for a LUN that is not there: these three must work anywhere (SPC-4 6.6.1, SAM-5 4.7)."""
    match op:
        case Op.INQUIRY:
            return Answer(Status.GOOD, _standard_inquiry(_PERIPHERAL_NOT_CONNECTED, LogicalUnit(size_blocks=0)))
        case Op.REPORT_LUNS:
            return _report_luns(cdb)
        case Op.REQUEST_SENSE:
            return Answer(Status.GOOD, push_sense(LUN_NOT_SUPPORTED)[: cdb[4]])
        case _:
            return _check_condition(LUN_NOT_SUPPORTED)


def _execute_at_once(unit: LogicalUnit, op: int, cdb: bytes) -> Answer:
    """Answer a command about the unit itself, its data cut to the allocation length (SPC-4 4.2.5.6)."""
    match op:
        case Op.TEST_UNIT_READY:
            return Answer(Status.GOOD)
        case Op.REQUEST_SENSE:
            return Answer(Status.GOOD, push_sense(NO_SENSE)[: cdb[4]])
        case Op.INQUIRY:
            return _inquiry(unit, cdb)
        case Op.MODE_SENSE_6:
            return _mode_sense(unit, cdb)
        case Op.READ_CAPACITY_10:
            last = min(unit.size_blocks - 1, 0xFFFFFFFF)
            return Answer(Status.GOOD, Struct(">II").pack(last, unit.block_size))
        case Op.SERVICE_ACTION_IN_16 if cdb[1] & _SERVICE_ACTION_MASK == _SERVICE_ACTION_READ_CAPACITY_16:
            capacity = Struct(">QIBB18x").pack(unit.size_blocks - 1, unit.block_size, 0, unit.physical_block_exponent)
            return Answer(Status.GOOD, capacity[: int.from_bytes(cdb[10:14], "big")])
        case Op.REPORT_LUNS:
            return _report_luns(cdb)
        case _:
            return _check_condition(INVALID_OPCODE)


def _report_luns(cdb: bytes) -> Answer:
    """SPC-4 6.33: the one LUN, 0."""
    luns = Struct(">I4xQ").pack(8, push_lun(0))
    return Answer(Status.GOOD, luns[: int.from_bytes(cdb[6:10], "big")])


def _inquiry(unit: LogicalUnit, cdb: bytes) -> Answer:
    """SPC-4 6.6 and, for vital product data, 7.8."""
    page = cdb[2]
    serial = unit.serial.encode()
    if not cdb[1] & _EVPD:
        if page:
            return _check_condition(INVALID_FIELD_IN_CDB)
        data = _standard_inquiry(0, unit)
    elif page == 0x00:
        data = bytes((0, page, 0, 3, 0x00, 0x80, 0x83))
    elif page == 0x80:
        data = bytes((0, page, 0, len(serial))) + serial
    elif page == 0x83:
        # one designator: ASCII (2), T10 vendor ID based (1), of the logical unit (0)
        name = _ascii(unit.vendor, 8) + serial
        data = bytes((0, page, 0, 4 + len(name), 2, 1, 0, len(name))) + name
    else:
        return _check_condition(INVALID_FIELD_IN_CDB)
    return Answer(Status.GOOD, data[: int.from_bytes(cdb[3:5], "big")])


def _standard_inquiry(peripheral: int, unit: LogicalUnit) -> bytes:
    """SPC-4 6.6.2: a disk (type 0) of SPC-3 that queues commands."""
    names = (_ascii(unit.vendor, 8), _ascii(unit.product, 16), _ascii(unit.revision, 4))
    return _STANDARD_INQUIRY.pack(peripheral, 0, 0x05, 0x12, _STANDARD_INQUIRY.size - 5, 0, 0, 0x02, *names)


def _mode_sense(unit: LogicalUnit, cdb: bytes) -> Answer:
    """SPC-4 6.14 with the caching page of SBC-3 6.4.5: whether there is a write cache to flush."""
    control, page = cdb[2] >> _MODE_PAGE_CONTROL_SHIFT, cdb[2] & _MODE_PAGE_MASK
    if page not in (_CACHING_PAGE, _ALL_PAGES) or control == _MODE_SAVED_VALUES:
        return _check_condition(INVALID_FIELD_IN_CDB)
    flags = _WCE if unit.write_cache and control != _MODE_CHANGEABLE_VALUES else 0
    pages = bytes((_CACHING_PAGE, _CACHING_PAGE_LENGTH, flags)) + bytes(_CACHING_PAGE_LENGTH - 1)
    return Answer(Status.GOOD, (bytes((3 + len(pages), 0, _DPOFUA, 0)) + pages)[: cdb[4]])


def _ascii(text: str, size: int) -> bytes:
    """Return a field of ASCII padded with spaces (SPC-4 4.4.1)."""
    return text.encode("ascii")[:size].ljust(size)
