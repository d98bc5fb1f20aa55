"""Data transfer of one command, as its target does and checks it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.iscsi.connection.target_task import TargetTask
from storage_backends.iscsi.login.keys import SessionParameters, Value, parameters_of
from storage_backends.iscsi.messages.pdus import RESERVED_TAG, CommandFlag, DataFlag, DataOut, ScsiCommand
from storage_backends.iscsi.scsi import MediumAccess, MediumKind
from storage_backends.wire import Blocks, Payload, RemoteProtocolError, join

EIGHT = Blocks.of(tuple(range(1, 9)))
WRITE = MediumAccess(MediumKind.WRITE, 0, 64, fua=False)
ASKED = parameters_of({"ImmediateData": False, "MaxBurstLength": 16384}, max_recv_data_length=8192)
UNASKED = parameters_of({"InitialR2T": False, "FirstBurstLength": 12288}, max_recv_data_length=8192)


def command(*, final: bool = True, payload: Payload | None = None, data_length: int = 32768) -> ScsiCommand:
    """Return a write command of task 1."""
    return ScsiCommand(
        flags=CommandFlag.WRITE | (CommandFlag.FINAL if final else 0),
        lun=0,
        itt=1,
        data_length=data_length,
        cmdsn=1,
        exp_statsn=1,
        cdb=bytes(16),
        payload=payload,
    )


def data_out(start: int, stop: int, *, ttt: int = RESERVED_TAG, datasn: int = 0, final: bool = True) -> DataOut:
    """Return a Data-Out of task 1 with these bytes."""
    return DataOut(
        flags=DataFlag.FINAL if final else 0,
        lun=0,
        itt=1,
        ttt=ttt,
        exp_statsn=1,
        datasn=datasn,
        offset=start,
        payload=EIGHT.part(start, stop),
    )


def test_a_write_with_all_its_data_is_complete_at_once() -> None:
    """Immediate data of the whole command leaves nothing to ask for, and passes by reference."""
    agreed = parameters_of({}, max_recv_data_length=65536)
    task = TargetTask(command(payload=EIGHT), WRITE, agreed)
    assert task.has_all_data
    assert task.next_r2t(agreed, 0) is None
    assert task.data_written() is EIGHT


def test_unsolicited_data_is_waited_for() -> None:
    """Without the F bit more comes unasked, and no R2T is due before it has come."""
    task = TargetTask(command(final=False, payload=EIGHT.part(0, 4096)), WRITE, UNASKED)
    assert task.is_unsolicited_open
    task.take_data_out(data_out(4096, 8192, final=False), UNASKED)
    assert task.is_unsolicited_open
    task.take_data_out(data_out(8192, 12288, datasn=1), UNASKED)
    assert not task.is_unsolicited_open
    assert task.next_r2t(UNASKED, 9) == (0, 12288, 20480)


def test_r2ts_ask_for_bursts() -> None:
    """Each R2T asks for at most MaxBurstLength, at most MaxOutstandingR2T at a time."""
    agreed = dataclasses.replace(ASKED, max_outstanding_r2t=2, max_burst_length=12288)
    task = TargetTask(command(), WRITE, agreed)
    assert [task.next_r2t(agreed, ttt) for ttt in (5, 6, 7)] == [(0, 0, 12288), (1, 12288, 12288), None]
    task.take_data_out(data_out(0, 12288, ttt=5), agreed)
    assert task.next_r2t(agreed, 7) == (2, 24576, 8192)
    task.take_data_out(data_out(12288, 16384, ttt=6, final=False), agreed)
    task.take_data_out(data_out(16384, 24576, ttt=6, datasn=1), agreed)
    task.take_data_out(data_out(24576, 32768, ttt=7), agreed)
    assert task.has_all_data
    assert task.data_written() == EIGHT


@pytest.mark.parametrize(
    ("sent", "agreed", "message"),
    [
        (command(payload=EIGHT.part(0, 512)), ASKED, "brings immediate data, ImmediateData=No"),
        (command(final=False), ASKED, "announces unsolicited data, InitialR2T=Yes"),
        (command(payload=EIGHT.part(0, 16384)), UNASKED, r"sends bytes 0..16384 of 32768, its burst ends at 12288"),
        (command(payload=EIGHT, data_length=512), UNASKED, r"sends bytes 0..32768 of 512"),
    ],
)
def test_commands_that_bring_what_they_may_not_are_named(
    sent: ScsiCommand, agreed: SessionParameters, message: str
) -> None:
    """Data that was not negotiated, or is too much, is the initiator's fault."""
    with pytest.raises(RemoteProtocolError, match=message):
        TargetTask(sent, WRITE, agreed)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (data_out(0, 4096, ttt=8), "TTT 0x8 of task 0x1, expected 0x5"),
        (data_out(0, 4096), "TTT 0xffffffff of task 0x1, expected 0x5"),
        (data_out(0, 4096, ttt=5, datasn=1), "DataSN 1 of task 0x1, expected 0"),
        (data_out(4096, 8192, ttt=5), "Data-Out of task 0x1 begins at byte 4096, expected 0"),
        (data_out(0, 20480, ttt=5), r"sends bytes 0..20480 of 32768, its burst ends at 16384"),
        (data_out(0, 4096, ttt=5), "Data-Out of task 0x1 ends at byte 4096, asked for up to 16384"),
        (data_out(0, 16384, ttt=5, final=False), "Data-Out of task 0x1 goes on at byte 16384, asked for up to 16384"),
    ],
)
def test_data_that_was_not_asked_for_is_named(sent: DataOut, message: str) -> None:
    """Data-Out out of number, place, burst or under another tag is the initiator's fault."""
    task = TargetTask(command(), WRITE, ASKED)
    task.next_r2t(ASKED, 5)
    with pytest.raises(RemoteProtocolError, match=message):
        task.take_data_out(sent, ASKED)


def test_data_nobody_waits_for_is_named() -> None:
    """Data-Out without an R2T, or beyond the unsolicited burst, is the initiator's fault."""
    with pytest.raises(RemoteProtocolError, match="Data-Out of task 0x1, which asked for none"):
        TargetTask(command(), WRITE, ASKED).take_data_out(data_out(0, 4096), ASKED)
    task = TargetTask(command(final=False), WRITE, UNASKED)
    with pytest.raises(RemoteProtocolError, match=r"sends bytes 0..16384 of 32768, its burst ends at 12288"):
        task.take_data_out(data_out(0, 16384), UNASKED)


@given(
    max_burst=st.integers(512, 40000),
    max_xmit=st.integers(512, 40000),
    data_length=st.integers(1, 32768),
)
def test_a_read_is_cut_to_pdus(max_burst: int, max_xmit: int, data_length: int) -> None:
    """The PDUs of a read are its data in order, none too long, F at the end of each burst, status with the last."""
    results: dict[str, Value] = {"MaxBurstLength": max_burst, "MaxRecvDataSegmentLength": max_xmit}
    agreed = parameters_of(results, max_recv_data_length=8192)
    read = dataclasses.replace(command(data_length=data_length), flags=CommandFlag.READ | CommandFlag.FINAL)
    task = TargetTask(read, MediumAccess(MediumKind.READ, 0, 64, fua=False), agreed)
    parts = list(task.data_in(EIGHT, agreed))
    assert join([part.payload for part in parts]).to_bytes() == EIGHT.to_bytes()[:data_length]
    assert [part.datasn for part in parts] == list(range(len(parts)))
    assert all(part.payload.size_bytes <= max_xmit for part in parts)
    burst = 0
    for part in parts:
        burst += part.payload.size_bytes
        assert burst <= max_burst
        if part.flags & DataFlag.FINAL:
            burst = 0
    assert burst == 0
    assert [part.flags & DataFlag.STATUS != 0 for part in parts] == [False] * (len(parts) - 1) + [True]
