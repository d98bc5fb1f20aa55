"""The headers of iSCSI PDUs, held against bytes written out by hand from the diagrams of RFC 7143 chapter 11."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.iscsi.messages import pdus
from storage_backends.iscsi.messages.codec import data_of, pull, push
from storage_backends.iscsi.messages.pdus import BHS_SIZE, CommandFlag, DataFlag, LoginFlag, ResponseFlag
from storage_backends.wire import Blocks, Chunk, RemoteProtocolError, size_of

LUN = 0x0001000000000000
BLOCKS = Blocks.of((1, 2))

HEADERS: dict[str, tuple[pdus.Message, str]] = {
    "SCSI Command, 11.3": (
        pdus.ScsiCommand(
            flags=CommandFlag.FINAL | CommandFlag.WRITE | CommandFlag.SIMPLE,
            lun=LUN,
            itt=0x11,
            data_length=0x20000,
            cmdsn=0x22,
            exp_statsn=0x33,
            cdb=bytes(range(16)),
            payload=BLOCKS,
        ),
        "01 a1 0000 00 002000 0001000000000000 00000011 00020000 00000022 00000033 000102030405060708090a0b0c0d0e0f",
    ),
    "SCSI Response, 11.4": (
        pdus.ScsiResponse(
            flags=ResponseFlag.UNDERFLOW,
            response=0,
            status=2,
            itt=0x11,
            statsn=0x44,
            exp_cmdsn=0x55,
            max_cmdsn=0x66,
            exp_datasn=0x77,
            residual=0x88,
            data=b"\0\1\2",
        ),
        (
            "21 82 00 02 00 000003 0000000000000000 00000011 00000000 "
            "00000044 00000055 00000066 00000077 00000000 00000088"
        ),
    ),
    "Task Management Function Request, 11.5": (
        pdus.TmfRequest(function=1, lun=LUN, itt=0x12, rtt=0x11, cmdsn=0x22, exp_statsn=0x33, refcmdsn=0x20),
        "42 81 0000 00 000000 0001000000000000 00000012 00000011 00000022 00000033 00000020 00000000 0000000000000000",
    ),
    "Task Management Function Response, 11.6": (
        pdus.TmfResponse(response=1, itt=0x12, statsn=0x44, exp_cmdsn=0x55, max_cmdsn=0x66),
        "22 80 01 00 00 000000 0000000000000000 00000012 00000000 00000044 00000055 00000066 " + "00" * 12,
    ),
    "SCSI Data-Out, 11.7": (
        pdus.DataOut(
            flags=DataFlag.FINAL,
            lun=LUN,
            itt=0x11,
            ttt=0x99,
            exp_statsn=0x33,
            datasn=3,
            offset=0x4000,
            payload=BLOCKS,
        ),
        "05 80 0000 00 002000 0001000000000000 00000011 00000099 00000000 00000033 00000000 00000003 00004000 00000000",
    ),
    "SCSI Data-In, 11.7": (
        pdus.DataIn(
            flags=DataFlag.FINAL | DataFlag.STATUS | DataFlag.UNDERFLOW,
            status=0,
            itt=0x11,
            statsn=0x44,
            exp_cmdsn=0x55,
            max_cmdsn=0x66,
            datasn=3,
            offset=0x4000,
            residual=0x10,
            payload=BLOCKS,
        ),
        (
            "25 83 00 00 00 002000 0000000000000000 00000011 ffffffff "
            "00000044 00000055 00000066 00000003 00004000 00000010"
        ),
    ),
    "Ready To Transfer, 11.8": (
        pdus.R2t(
            lun=LUN,
            itt=0x11,
            ttt=0x99,
            statsn=0x44,
            exp_cmdsn=0x55,
            max_cmdsn=0x66,
            r2tsn=1,
            offset=0x4000,
            data_length=0x8000,
        ),
        "31 80 0000 00 000000 0001000000000000 00000011 00000099 00000044 00000055 00000066 00000001 00004000 00008000",
    ),
    "Asynchronous Message, 11.9": (
        pdus.AsyncMessage(
            statsn=0x44, exp_cmdsn=0x55, max_cmdsn=0x66, async_event=1, async_vcode=2, param1=3, param2=4, param3=5
        ),
        (
            "32 80 0000 00 000000 0000000000000000 ffffffff 00000000 "
            "00000044 00000055 00000066 01 02 0003 0004 0005 00000000"
        ),
    ),
    "Login Request, 11.12": (
        pdus.LoginRequest(
            flags=LoginFlag.TRANSIT | 1,
            isid=bytes.fromhex("00023d000000"),
            itt=0,
            cid=7,
            cmdsn=0x22,
            exp_statsn=0x33,
            data=b"A=B\0",
        ),
        "43 81 00 00 00 000004 00023d000000 0000 00000000 0007 0000 00000022 00000033 " + "00" * 16,
    ),
    "Login Response, 11.13": (
        pdus.LoginResponse(
            flags=LoginFlag.TRANSIT | 0x07,
            isid=bytes.fromhex("00023d000000"),
            tsih=1,
            itt=0,
            statsn=0x44,
            exp_cmdsn=0x55,
            max_cmdsn=0x66,
            status_class=2,
            status_detail=3,
        ),
        "23 87 00 00 00 000000 00023d000000 0001 00000000 00000000 00000044 00000055 00000066 02 03 0000 " + "00" * 8,
    ),
    "Logout Request, 11.14": (
        pdus.LogoutRequest(reason=1, itt=0x13, cid=7, cmdsn=0x22, exp_statsn=0x33),
        "46 81 0000 00 000000 0000000000000000 00000013 0007 0000 00000022 00000033 " + "00" * 16,
    ),
    "Logout Response, 11.15": (
        pdus.LogoutResponse(itt=0x13, statsn=0x44, exp_cmdsn=0x55, max_cmdsn=0x66, time2wait=2, time2retain=20),
        (
            "26 80 00 00 00 000000 0000000000000000 00000013 00000000 "
            "00000044 00000055 00000066 00000000 0002 0014 00000000"
        ),
    ),
    "Reject, 11.17": (
        pdus.Reject(reason=4, statsn=0x44, exp_cmdsn=0x55, max_cmdsn=0x66, data=bytes(48)),
        "3f 80 04 00 00 000030 0000000000000000 ffffffff 00000000 00000044 00000055 00000066 00000000 " + "00" * 8,
    ),
    "NOP-Out, 11.18": (
        pdus.NopOut(itt=0x14, cmdsn=0x22, exp_statsn=0x33, data=b"ping"),
        "40 80 0000 00 000004 0000000000000000 00000014 ffffffff 00000022 00000033 " + "00" * 16,
    ),
    "NOP-In, 11.19": (
        pdus.NopIn(ttt=0x99, statsn=0x44, exp_cmdsn=0x55, max_cmdsn=0x66),
        "20 80 0000 00 000000 0000000000000000 ffffffff 00000099 00000044 00000055 00000066 " + "00" * 12,
    ),
}

READ_COMMAND_OF_THE_RFC = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 28000000 00000000 02000000 00000000"
)
"""The SCSI Read (10) Command PDU among the CRC examples of RFC 3720 B.4."""


def data_chunks(message: pdus.Message) -> list[Chunk]:
    """Return the data segment of a PDU as it was received."""
    data = data_of(message)
    return [data] if size_of(data) else []


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_the_diagrams_of_the_rfc(name: str) -> None:
    """Each header is exactly the 48 bytes its section draws."""
    message, written_out = HEADERS[name]
    assert push(message).hex() == bytes.fromhex(written_out).hex()
    assert len(push(message)) == BHS_SIZE


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_read_back(name: str) -> None:
    """Each header with its data says what was pushed."""
    message, _ = HEADERS[name]
    assert pull(push(message), b"", data_chunks(message)) == message


def test_every_pdu_has_its_example() -> None:
    """No PDU is left without a header written out by hand."""
    assert {type(message) for message, _ in HEADERS.values()} == set(pdus.Message.__args__)


def test_a_command_of_the_rfc() -> None:
    """The one whole header that the RFC prints is understood and reproduced."""
    command = pull(READ_COMMAND_OF_THE_RFC, b"", [])
    assert command == pdus.ScsiCommand(
        flags=CommandFlag.FINAL | CommandFlag.READ,
        lun=0,
        itt=0x14000000,
        data_length=0x400,
        cmdsn=0x14,
        exp_statsn=0x18,
        cdb=bytes.fromhex("28000000000000000200000000000000"),
    )
    assert push(command) == READ_COMMAND_OF_THE_RFC


def test_an_additional_header_is_counted_in_words() -> None:
    """TotalAHSLength is the length of the AHS in units of four bytes (11.2.1.5)."""
    command, _ = HEADERS["SCSI Command, 11.3"]
    assert isinstance(command, pdus.ScsiCommand)
    with_ahs = dataclasses.replace(command, ahs=bytes(8))
    assert push(with_ahs)[4:8] == bytes.fromhex("02002000")
    assert pull(push(with_ahs), bytes(8), [BLOCKS]) == with_ahs


@pytest.mark.parametrize("opcode", [0x04, 0x10, 0x1C, 0x24, 0x3E])
def test_other_opcodes_are_named(opcode: int) -> None:
    """Text, SNACK, vendor and reserved opcodes are not guessed at."""
    with pytest.raises(RemoteProtocolError, match=f"opcode {opcode:#04x} is none of the PDUs known here"):
        pull(bytes([opcode]) + bytes(47), b"", [])


def test_reserved_fields_are_ignored() -> None:
    """Bits the RFC reserves may be anything (11.1)."""
    message, _ = HEADERS["Ready To Transfer, 11.8"]
    header = bytearray(push(message))
    header[2:4] = b"\xff\xff"
    assert pull(bytes(header), b"", []) == message


WIDTHS = {
    "flags": 7,
    "response": 8,
    "status": 8,
    "function": 7,
    "reason": 7,
    "lun": 64,
    "cid": 16,
    "tsih": 16,
    "version_max": 8,
    "version_min": 8,
    "version_active": 8,
    "status_class": 8,
    "status_detail": 8,
    "async_event": 8,
    "async_vcode": 8,
    "param1": 16,
    "param2": 16,
    "param3": 16,
    "time2wait": 16,
    "time2retain": 16,
}
"""Bits of the fields that are not 32 wide; the flag that shares its byte with a constant is left out."""


@st.composite
def messages(draw: st.DrawFn) -> pdus.Message:
    """Draw any PDU with any values."""
    cls = draw(st.sampled_from(sorted(pdus.Message.__args__, key=lambda cls: cls.__name__)))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        match field.name:
            case "immediate":
                values[field.name] = draw(st.booleans())
            case "cdb":
                values[field.name] = draw(st.binary(min_size=16, max_size=16))
            case "isid":
                values[field.name] = draw(st.binary(min_size=6, max_size=6))
            case "ahs":
                values[field.name] = b""
            case "data":
                values[field.name] = draw(st.binary(max_size=20))
            case "payload":
                values[field.name] = draw(st.sampled_from([None, BLOCKS, BLOCKS.part(1, 99)]))
            case name:
                values[name] = draw(st.integers(0, 2 ** WIDTHS.get(name, 32) - 1))
    return cls(**values)  # type: ignore[no-any-return]


@given(messages())
def test_any_pdu_round_trips(message: pdus.Message) -> None:
    """Every value of every field survives."""
    assert pull(push(message), b"", data_chunks(message)) == message
