"""The numbers of RFC 7143 chapter 11, and what holds for every PDU."""

import dataclasses
import typing

import pytest

from storage_backends.iscsi.messages import pdus

PDUS = typing.get_args(pdus.Message)


@pytest.mark.parametrize(
    ("enum", "numbers"),
    [
        (pdus.Opcode, [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, *range(0x20, 0x27), 0x31, 0x32, 0x3F]),
        (pdus.CommandFlag, [0x80, 0x40, 0x20, 0x01]),
        (pdus.DataFlag, [0x80, 0x40, 0x04, 0x02, 0x01]),
        (pdus.ResponseFlag, [0x04, 0x02]),
        (pdus.LoginFlag, [0x80, 0x40]),
        (pdus.TmfFunction, list(range(1, 9))),
        (pdus.TmfStatus, [*range(7), 255]),
        (pdus.AsyncEvent, [*range(5), 255]),
    ],
)
def test_numbers_are_the_rfcs(enum: type[pdus.Opcode], numbers: list[int]) -> None:
    """Opcodes, flags and codes have the values their sections list, none twice."""
    assert [member.value for member in enum] == numbers
    assert len(enum.__members__) == len(numbers)


@pytest.mark.parametrize("pdu", PDUS)
def test_pdus_are_facts(pdu: type) -> None:
    """Every PDU is frozen, has no dictionary, is made by keyword, and belongs to a task or says that it does not."""
    assert dataclasses.is_dataclass(pdu)
    assert pdu.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(pdu)
    assert all(field.kw_only for field in dataclasses.fields(pdu))
    assert "itt" in {field.name for field in dataclasses.fields(pdu)}
