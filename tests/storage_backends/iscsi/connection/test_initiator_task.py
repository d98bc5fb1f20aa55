"""Data transfer of one command, as its initiator does and checks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.iscsi.connection.initiator_task import InitiatorTask
from storage_backends.iscsi.login.keys import SessionParameters, Value, parameters_of
from storage_backends.iscsi.messages.pdus import RESERVED_TAG, CommandFlag, DataFlag, DataIn, DataOut, R2t
from storage_backends.wire import BLOCK_SIZE, Blocks, Chunk, RemoteProtocolError, join

EIGHT = Blocks.of(tuple(range(1, 9)))


def parameters(**results: Value) -> SessionParameters:
    """Return a session in which these keys were settled."""
    return parameters_of(results, max_recv_data_length=8192)


def r2t(*, r2tsn: int = 0, offset: int = 0, data_length: int = BLOCK_SIZE, ttt: int = 7) -> R2t:
    """Return an R2T of task 1."""
    return R2t(
        lun=0,
        itt=1,
        ttt=ttt,
        statsn=1,
        exp_cmdsn=1,
        max_cmdsn=1,
        r2tsn=r2tsn,
        offset=offset,
        data_length=data_length,
    )


def data_in(*, datasn: int = 0, offset: int = 0, payload: Blocks = EIGHT, flags: int = 0) -> DataIn:
    """Return a Data-In of task 1."""
    return DataIn(flags=flags, itt=1, exp_cmdsn=1, max_cmdsn=1, datasn=datasn, offset=offset, payload=payload)


def write(agreed: SessionParameters) -> InitiatorTask:
    """Return a write of eight blocks whose command was sent."""
    task = InitiatorTask(1, 0, bytes(16), payload=EIGHT)
    task.command(agreed, cmdsn=1, exp_statsn=1)
    return task


def read() -> InitiatorTask:
    """Return a read of eight blocks whose command was sent."""
    task = InitiatorTask(1, 0, bytes(16), read_length=EIGHT.size_bytes)
    task.command(parameters(), cmdsn=1, exp_statsn=1)
    return task


def drain(task: InitiatorTask, agreed: SessionParameters) -> list[DataOut]:
    """Return every Data-Out the task sends now."""
    sent = []
    while task.has_data_to_send:
        sent.append(task.next_data_out(agreed, exp_statsn=1))
    return sent


@pytest.mark.parametrize(
    ("agreed", "immediate", "unsolicited"),
    [
        (parameters(ImmediateData=True, MaxRecvDataSegmentLength=65536), 32768, []),
        (parameters(ImmediateData=True, MaxRecvDataSegmentLength=8192), 8192, []),
        (parameters(ImmediateData=True, InitialR2T=False, MaxRecvDataSegmentLength=8192), 8192, [8192] * 3),
        (parameters(ImmediateData=True, InitialR2T=False, FirstBurstLength=12288), 8192, [4096]),
        (parameters(ImmediateData=False, InitialR2T=False, FirstBurstLength=12288), None, [8192, 4096]),
        (parameters(ImmediateData=False), None, []),
        (parameters(ImmediateData=True, FirstBurstLength=4096, MaxRecvDataSegmentLength=65536), 4096, []),
    ],
)
def test_what_travels_unasked(agreed: SessionParameters, immediate: int | None, unsolicited: list[int]) -> None:
    """ImmediateData, InitialR2T, FirstBurstLength and the target's limit decide what needs no R2T."""
    task = InitiatorTask(1, 0, bytes(16), payload=EIGHT)
    command = task.command(agreed, cmdsn=5, exp_statsn=6)
    assert (None if command.payload is None else command.payload.size_bytes) == immediate
    assert command.data_length == EIGHT.size_bytes
    assert command.flags == CommandFlag.WRITE | CommandFlag.SIMPLE | (0 if unsolicited else CommandFlag.FINAL)
    sent = drain(task, agreed)
    assert [data_out.payload.size_bytes for data_out in sent if data_out.payload is not None] == unsolicited
    assert [data_out.datasn for data_out in sent] == list(range(len(sent)))
    assert all(data_out.ttt == RESERVED_TAG for data_out in sent)
    assert [data_out.flags for data_out in sent] == ([0] * (len(sent) - 1) + [DataFlag.FINAL] if sent else [])


def test_a_read_and_a_command_without_data_say_so() -> None:
    """READ is flagged with what it expects; a flush expects nothing."""
    command = InitiatorTask(1, 0, bytes(16), read_length=512).command(parameters(), cmdsn=1, exp_statsn=1)
    assert (command.flags, command.data_length) == (CommandFlag.FINAL | CommandFlag.READ | CommandFlag.SIMPLE, 512)
    command = InitiatorTask(1, 0, bytes(16)).command(parameters(), cmdsn=1, exp_statsn=1)
    assert (command.flags, command.data_length) == (CommandFlag.FINAL | CommandFlag.SIMPLE, 0)


@given(
    immediate=st.booleans(),
    initial_r2t=st.booleans(),
    first_burst=st.integers(512, 40000),
    max_burst=st.integers(512, 40000),
    max_xmit=st.integers(512, 40000),
)
def test_every_byte_is_sent_once_and_in_order(
    *, immediate: bool, initial_r2t: bool, first_burst: int, max_burst: int, max_xmit: int
) -> None:
    """Immediate, unsolicited and solicited data make up the payload, whatever was negotiated."""
    agreed = parameters(
        ImmediateData=immediate,
        InitialR2T=initial_r2t,
        FirstBurstLength=first_burst,
        MaxBurstLength=max_burst,
        MaxRecvDataSegmentLength=max_xmit,
    )
    task = InitiatorTask(1, 0, bytes(16), payload=EIGHT)
    command = task.command(agreed, cmdsn=1, exp_statsn=1)
    parts: list[Chunk] = [] if command.payload is None else [command.payload]
    offset = 0 if command.payload is None else command.payload.size_bytes
    for data_out in drain(task, agreed):
        assert data_out.payload is not None
        parts.append(data_out.payload)
        offset += data_out.payload.size_bytes
    assert offset <= first_burst
    r2tsn = 0
    while offset < EIGHT.size_bytes:
        desired = min(max_burst, EIGHT.size_bytes - offset)
        task.take_r2t(r2t(r2tsn=r2tsn, offset=offset, data_length=desired, ttt=r2tsn), agreed)
        for data_out in drain(task, agreed):
            assert data_out.payload is not None
            assert data_out.payload.size_bytes <= max_xmit
            assert (data_out.ttt, data_out.offset) == (r2tsn, offset)
            parts.append(data_out.payload)
            offset += data_out.payload.size_bytes
        r2tsn += 1
    assert join(parts) == EIGHT


def test_sequences_are_answered_in_the_order_they_were_asked_for() -> None:
    """With MaxOutstandingR2T above 1 each R2T gets its own sequence, DataSN beginning anew."""
    agreed = parameters(ImmediateData=False, MaxOutstandingR2T=2, MaxRecvDataSegmentLength=4096)
    task = write(agreed)
    task.take_r2t(r2t(data_length=8192, ttt=5), agreed)
    task.take_r2t(r2t(r2tsn=1, offset=8192, data_length=4096, ttt=6), agreed)
    assert [(d.ttt, d.datasn, d.offset, d.flags) for d in drain(task, agreed)] == [
        (5, 0, 0, 0),
        (5, 1, 4096, DataFlag.FINAL),
        (6, 0, 8192, DataFlag.FINAL),
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (r2t(r2tsn=1), "R2TSN 1 of task 0x1, expected 0"),
        (r2t(data_length=0), "R2T of task 0x1 desires 0 bytes, MaxBurstLength 16384"),
        (r2t(data_length=20000), "R2T of task 0x1 desires 20000 bytes, MaxBurstLength 16384"),
        (r2t(offset=4096), r"desires bytes 4096..8192 of 32768, 0 are promised"),
    ],
)
def test_targets_that_ask_for_what_they_may_not_are_named(asked: R2t, message: str) -> None:
    """An R2T out of number, out of order or beyond a burst is the target's fault."""
    agreed = parameters(ImmediateData=False, MaxBurstLength=16384)
    with pytest.raises(RemoteProtocolError, match=message):
        write(agreed).take_r2t(asked, agreed)


def test_targets_that_ask_beyond_the_command_are_named() -> None:
    """An R2T for more than the write has, or for a read's data, is the target's fault."""
    agreed = parameters(ImmediateData=False)
    with pytest.raises(RemoteProtocolError, match=r"desires bytes 0..40960 of 32768"):
        write(agreed).take_r2t(r2t(data_length=40960), agreed)
    with pytest.raises(RemoteProtocolError, match=r"desires bytes 0..4096 of 0"):
        read().take_r2t(r2t(), agreed)


def test_targets_that_ask_too_often_are_named() -> None:
    """More R2Ts at a time than MaxOutstandingR2T are the target's fault."""
    agreed = parameters(ImmediateData=False, MaxOutstandingR2T=1)
    task = write(agreed)
    task.take_r2t(r2t(), agreed)
    with pytest.raises(RemoteProtocolError, match="R2T of task 0x1 exceeds MaxOutstandingR2T 1"):
        task.take_r2t(r2t(r2tsn=1, offset=4096), agreed)


def test_a_read_is_put_together() -> None:
    """Data-In in order make up the read; what is short must be announced."""
    task = read()
    task.take_data_in(data_in(payload=EIGHT.part(0, 12288)))
    task.take_data_in(data_in(datasn=1, offset=12288, payload=EIGHT.part(12288, 32768)))
    assert task.data_received(underflow=0) == EIGHT
    short = read()
    short.take_data_in(data_in(payload=EIGHT.part(0, 12288)))
    assert short.data_received(underflow=20480) == EIGHT.part(0, 12288)
    assert read().data_received(underflow=32768) is None


def test_a_read_that_ends_early_is_named() -> None:
    """Status GOOD with data missing and no residual is the target's fault."""
    task = read()
    task.take_data_in(data_in(payload=EIGHT.part(0, 12288)))
    with pytest.raises(RemoteProtocolError, match="task 0x1 ended with 12288 of 32768 bytes, residual 0"):
        task.data_received(underflow=0)


@pytest.mark.parametrize(
    ("brought", "message"),
    [
        (data_in(datasn=1), "DataSN 1 of task 0x1, expected 0"),
        (data_in(offset=512), r"brings bytes 512..33280 of 32768, 0 have come"),
        (data_in(payload=Blocks.of(tuple(range(9)))), r"brings bytes 0..36864 of 32768, 0 have come"),
    ],
)
def test_targets_that_send_what_they_may_not_are_named(brought: DataIn, message: str) -> None:
    """Data-In out of number, out of order or beyond the read is the target's fault."""
    with pytest.raises(RemoteProtocolError, match=message):
        read().take_data_in(brought)
