"""The SCSI commands of a disk, held against bytes written out by hand from SPC-4 and SBC-3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.iscsi import scsi
from storage_backends.iscsi.scsi import Answer, LogicalUnit, MediumAccess, MediumKind, Sense, Status, execute

UNIT = LogicalUnit(size_blocks=0x8000, vendor="netvm", product="swap", revision="1", serial="s-1", write_cache=True)


def cdb(written_out: str) -> bytes:
    """Return a CDB padded to the 16 bytes of a SCSI Command PDU."""
    return bytes.fromhex(written_out).ljust(16, b"\0")


def check_condition(sense: Sense) -> Answer:
    """Return the answer that refuses a command."""
    return Answer(Status.CHECK_CONDITION, b"", scsi.push_sense(sense))


@pytest.mark.parametrize(
    ("pushed", "written_out"),
    [
        (scsi.push_read(0x1234, 8), "28 00 00001234 00 0008 00"),
        (scsi.push_write(0x1234, 256), "2a 00 00001234 00 0100 00"),
        (scsi.push_write(0x1234, 256, fua=True), "2a 08 00001234 00 0100 00"),
        (scsi.push_read(0x123456789, 8), "88 00 0000000123456789 00000008 00 00"),
        (scsi.push_write(0, 0x10000), "8a 00 0000000000000000 00010000 00 00"),
        (scsi.push_flush(), "35 00 00000000 00 0000 00"),
    ],
)
def test_cdbs_are_the_standards_bytes(pushed: bytes, written_out: str) -> None:
    """Each command is the descriptor block SBC-3 draws, short ones where they suffice."""
    assert pushed == cdb(written_out)


@given(st.integers(0, 2**40), st.integers(0, 2**20), st.booleans())
def test_reads_and_writes_round_trip(lba: int, nr_blocks: int, fua: bool) -> None:
    """Whatever form a command takes, the target sees the same access."""
    unit = LogicalUnit(size_blocks=2**41)
    assert execute(unit, scsi.push_read(lba, nr_blocks)) == MediumAccess(MediumKind.READ, lba, nr_blocks, fua=False)
    write = MediumAccess(MediumKind.WRITE, lba, nr_blocks, fua)
    assert execute(unit, scsi.push_write(lba, nr_blocks, fua=fua)) == write


def test_a_flush_is_for_the_disk() -> None:
    """SYNCHRONIZE CACHE moves no data and still takes the medium's time."""
    assert execute(UNIT, scsi.push_flush()) == MediumAccess(MediumKind.FLUSH, 0, 0, fua=False)


@pytest.mark.parametrize(
    ("command", "sense"),
    [
        ("28 00 00007fff 00 0002 00", scsi.LBA_OUT_OF_RANGE),
        ("8a 00 0000000000008000 00000001", scsi.LBA_OUT_OF_RANGE),
        ("42", scsi.INVALID_OPCODE),
        ("9e 11", scsi.INVALID_OPCODE),
        ("12 00 83 00ff", scsi.INVALID_FIELD_IN_CDB),
        ("12 01 b0 00ff", scsi.INVALID_FIELD_IN_CDB),
        ("1a 00 1c 00 ff", scsi.INVALID_FIELD_IN_CDB),
        ("1a 00 c8 00 ff", scsi.INVALID_FIELD_IN_CDB),
    ],
)
def test_what_it_cannot_do_is_refused_with_sense(command: str, sense: Sense) -> None:
    """A command outside the medium or unknown ends in CHECK CONDITION with the sense SPC-4 prescribes."""
    assert execute(UNIT, cdb(command)) == check_condition(sense)


@pytest.mark.parametrize(
    ("command", "data"),
    [
        ("00", ""),
        ("03 00 00 00 fc", "70 00 00 00000000 0a 00000000 00 00 00 000000"),
        (
            "12 00 00 0024",
            "00 00 05 12 1f 00 00 02" + b"netvm   ".hex() + b"swap            ".hex() + b"1   ".hex(),
        ),
        ("12 01 00 00ff", "00 00 0003 00 80 83"),
        ("12 01 80 00ff", "00 80 0003" + b"s-1".hex()),
        ("12 01 83 00ff", "00 83 000f 02 01 00 0b" + b"netvm   s-1".hex()),
        ("25", "00007fff 00000200"),
        ("9e 10 0000000000000000 00000020", "0000000000007fff 00000200 00 03" + "00" * 18),
        ("a0 00 00 000000 00000010", "00000008 00000000 0000000000000000"),
        ("1a 00 08 00 ff", "17 00 10 00 08 12 04" + "00" * 17),
        ("1a 00 48 00 ff", "17 00 10 00 08 12 00" + "00" * 17),
        ("1a 00 3f 00 04", "17 00 10 00"),
    ],
)
def test_questions_about_the_unit_are_answered(command: str, data: str) -> None:
    """Each answer is the standard's bytes, cut to the allocation length."""
    assert execute(UNIT, cdb(command)) == Answer(Status.GOOD, bytes.fromhex(data))


def test_a_disk_too_large_for_ten_bytes_says_so() -> None:
    """READ CAPACITY (10) answers all ones where only (16) can tell (SBC-3 5.15)."""
    assert execute(LogicalUnit(size_blocks=2**40), cdb("25")) == Answer(Status.GOOD, bytes.fromhex("ffffffff 00000200"))


def test_a_unit_that_is_not_there_answers_three_questions() -> None:
    """INQUIRY, REPORT LUNS and REQUEST SENSE work on any LUN, everything else is refused."""
    inquiry = execute(None, cdb("12 00 00 0024"))
    assert isinstance(inquiry, Answer)
    assert inquiry.data[0] == 0x7F
    assert execute(None, cdb("a0 00 00 000000 00000008")) == Answer(Status.GOOD, bytes.fromhex("00000008 00000000"))
    sense = scsi.push_sense(scsi.LUN_NOT_SUPPORTED)
    assert execute(None, cdb("03 00 00 00 fc")) == Answer(Status.GOOD, sense)
    assert execute(None, scsi.push_read(0, 1)) == check_condition(scsi.LUN_NOT_SUPPORTED)


def test_sense_data_is_the_fixed_format() -> None:
    """Sense data has key, code and qualifier where SPC-4 table 53 puts them, and is read back."""
    data = scsi.push_sense(scsi.LBA_OUT_OF_RANGE)
    assert data == bytes.fromhex("70 00 05 00000000 0a 00000000 21 00 00 000000")
    assert scsi.pull_sense(data) == scsi.LBA_OUT_OF_RANGE
    assert scsi.pull_sense(b"\xf1" + data[1:]) == scsi.LBA_OUT_OF_RANGE
    assert scsi.pull_sense(b"\x72" + data[1:]) is None
    assert scsi.pull_sense(data[:10]) is None


def test_a_lun_is_eight_bytes() -> None:
    """A LUN below 256 stands in the second byte (SAM-5 4.7)."""
    assert scsi.push_lun(5).to_bytes(8, "big") == bytes.fromhex("0005000000000000")
    with pytest.raises(ValueError, match="LUN 256 is not between 0 and 255"):
        scsi.push_lun(256)
