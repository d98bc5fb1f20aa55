"""The target core against initiators written out by hand, well and badly behaved."""

from typing import Any

import pytest

from storage_backends.iscsi import scsi
from storage_backends.iscsi.connection.facts import (
    Command,
    ConnectionFailed,
    LoggedIn,
    LoggedOut,
    TargetEvent,
    TaskManagement,
)
from storage_backends.iscsi.connection.target import TargetConfig, TargetConnection
from storage_backends.iscsi.login.keys import push_text
from storage_backends.iscsi.messages import pdus
from storage_backends.iscsi.messages.framing import frame
from storage_backends.iscsi.messages.pdus import (
    RESERVED_TAG,
    CommandFlag,
    DataFlag,
    ResponseFlag,
    TmfFunction,
    TmfStatus,
)
from storage_backends.iscsi.scsi import LogicalUnit, MediumKind, Status
from storage_backends.iscsi.state import State
from storage_backends.wire import Blocks, LocalProtocolError, Octets, RemoteProtocolError, render

UNIT = LogicalUnit(size_blocks=1024)
NAMES = {"InitiatorName": "iqn.host", "TargetName": TargetConfig().target_name, "SessionType": "Normal"}
TO_FULL_FEATURE = 0x87


class Initiator:
    """An initiator that says what the test tells it to, with a target at the other end."""

    def __init__(self, config: TargetConfig) -> None:
        self.target = TargetConnection(config, UNIT)
        self.cmdsn = 1

    def received(self) -> list[pdus.Message]:
        """Return what the target has to say."""
        return [pdu.message for pdu in iter(self.target.next_pdu, None)]

    def says(self, message: pdus.Message) -> list[TargetEvent]:
        """Return the facts a PDU makes, its payload passed by reference."""
        return [event for chunk in frame(message).chunks for event in self.target.receive(chunk)]

    def logs_in(self, **keys: str) -> list[TargetEvent]:
        """Return the facts of a login in one step, with these keys and the RFC's defaults."""
        request = pdus.LoginRequest(
            flags=TO_FULL_FEATURE, isid=bytes(6), itt=0, cmdsn=1, exp_statsn=0, data=push_text(NAMES | keys)
        )
        return self.says(request)

    def commands(self, cdb: bytes, *, itt: int = 1, **fields: Any) -> list[TargetEvent]:
        """Return the facts a command with the next CmdSN makes."""
        values: dict[str, Any] = {"flags": CommandFlag.FINAL, "lun": 0, "data_length": 0} | fields
        self.cmdsn += 1
        return self.says(pdus.ScsiCommand(itt=itt, cmdsn=self.cmdsn - 1, exp_statsn=1, cdb=cdb, **values))

    def writes(self, blocks: Blocks, *, itt: int = 1, immediate: int = 0, final: bool = True) -> list[TargetEvent]:
        """Return the facts a write of these blocks makes, ``immediate`` bytes of them travelling along."""
        return self.commands(
            scsi.push_write(8, blocks.size_bytes // 512),
            itt=itt,
            flags=CommandFlag.WRITE | (CommandFlag.FINAL if final else 0),
            data_length=blocks.size_bytes,
            payload=blocks.part(0, immediate) if immediate else None,
        )

    def reads(self, nr_blocks: int, *, itt: int = 1, data_length: int | None = None) -> list[TargetEvent]:
        """Return the facts a read makes."""
        length = nr_blocks * 512 if data_length is None else data_length
        cdb = scsi.push_read(0, nr_blocks)
        return self.commands(cdb, itt=itt, flags=CommandFlag.FINAL | CommandFlag.READ, data_length=length)


def logged_in(config: TargetConfig | None = None, **keys: str) -> Initiator:
    """Return an initiator whose target has just let it in."""
    initiator = Initiator(config or TargetConfig())
    initiator.logs_in(**keys)
    initiator.received()
    return initiator


def test_login_grants_a_window() -> None:
    """The login ends with the session's handle and room for queue_depth commands."""
    initiator = Initiator(TargetConfig(queue_depth=4, tsih=7))
    assert initiator.target.state is State.FREE
    (event,) = initiator.logs_in(MaxBurstLength="4096")
    assert isinstance(event, LoggedIn)
    assert event.parameters.max_burst_length == 4096
    (response,) = initiator.received()
    assert isinstance(response, pdus.LoginResponse)
    assert (response.tsih, response.exp_cmdsn, response.max_cmdsn, response.statsn) == (7, 1, 4, 0)


def test_a_refused_login_is_a_failure() -> None:
    """The initiator is told, and so is the caller."""
    initiator = Initiator(TargetConfig(target_name="iqn.other"))
    assert initiator.logs_in() == [ConnectionFailed("login refused with status 0x0203 (not found)")]
    (response,) = initiator.received()
    assert isinstance(response, pdus.LoginResponse)
    assert (response.status_class, response.status_detail) == (2, 3)
    assert initiator.target.state is State.FREE


def test_a_write_with_its_data_is_delivered() -> None:
    """A command whose data came along is delivered at once, the data by reference; its status ends it."""
    initiator = logged_in()
    blocks = Blocks.of((5,))
    (command,) = initiator.writes(blocks, immediate=4096)
    assert command == Command(1, MediumKind.WRITE, 8, 8, blocks, fua=False)
    assert isinstance(command, Command)
    assert command.payload is blocks
    assert initiator.received() == []
    initiator.target.respond(1)
    assert initiator.received() == [pdus.ScsiResponse(status=0, itt=1, statsn=1, exp_cmdsn=2, max_cmdsn=129)]


def test_the_rest_of_a_write_is_asked_for() -> None:
    """R2Ts ask for what did not come along, and the command is delivered when the last of it has come."""
    initiator = logged_in(ImmediateData="No", MaxBurstLength="8192")
    blocks = Blocks.of((5, 6, 7))
    assert initiator.writes(blocks) == []
    (r2t,) = initiator.received()
    assert r2t == pdus.R2t(
        lun=0, itt=1, ttt=0, statsn=1, exp_cmdsn=2, max_cmdsn=128, r2tsn=0, offset=0, data_length=8192
    )
    sequence: dict[str, Any] = {"flags": DataFlag.FINAL, "lun": 0, "itt": 1, "exp_statsn": 1, "datasn": 0}
    assert initiator.says(pdus.DataOut(ttt=0, offset=0, payload=blocks.part(0, 8192), **sequence)) == []
    (r2t,) = initiator.received()
    assert isinstance(r2t, pdus.R2t)
    assert (r2t.ttt, r2t.r2tsn, r2t.offset, r2t.data_length) == (1, 1, 8192, 4096)
    (command,) = initiator.says(pdus.DataOut(ttt=1, offset=8192, payload=blocks.part(8192, 12288), **sequence))
    assert isinstance(command, Command)
    assert command.payload == blocks


def test_a_read_is_cut_to_what_the_initiator_takes() -> None:
    """Data-In PDUs carry at most what the initiator declared, and the last carries the status."""
    initiator = logged_in(MaxRecvDataSegmentLength="4096")
    (command,) = initiator.reads(24)
    assert command == Command(1, MediumKind.READ, 0, 24, None, fua=False)
    blocks = Blocks.of((1, 2, 3))
    initiator.target.respond(1, payload=blocks)
    parts = [part for part in initiator.received() if isinstance(part, pdus.DataIn)]
    assert [part.payload for part in parts] == [blocks.part(0, 4096), blocks.part(4096, 8192), blocks.part(8192, 12288)]
    assert [part.flags for part in parts] == [0, 0, DataFlag.FINAL | DataFlag.STATUS]
    assert (parts[2].statsn, parts[2].max_cmdsn) == (1, 129)


@pytest.mark.parametrize(
    ("data_length", "sent", "flag", "residual"),
    [(4096, 4096, 0, 0), (8192, 4096, ResponseFlag.UNDERFLOW, 4096), (512, 512, ResponseFlag.OVERFLOW, 3584)],
)
def test_residuals_tell_the_difference(data_length: int, sent: int, flag: int, residual: int) -> None:
    """A read of more or less than the initiator expected says by how much (11.4.1)."""
    initiator = logged_in()
    initiator.reads(8, data_length=data_length)
    initiator.target.respond(1, payload=Blocks.of((1,)))
    (part,) = initiator.received()
    assert isinstance(part, pdus.DataIn)
    assert part.payload is not None
    assert part.payload.size_bytes == sent
    assert part.flags == DataFlag.FINAL | DataFlag.STATUS | flag
    assert part.residual == residual


def test_a_failed_command_carries_its_sense() -> None:
    """CHECK CONDITION comes with SenseLength and sense, and everything expected as residual (11.4.7)."""
    initiator = logged_in()
    initiator.reads(8)
    initiator.target.respond(1, status=Status.CHECK_CONDITION, sense=scsi.LBA_OUT_OF_RANGE)
    (response,) = initiator.received()
    assert isinstance(response, pdus.ScsiResponse)
    assert response.data == b"\x00\x12" + scsi.push_sense(scsi.LBA_OUT_OF_RANGE)
    assert (response.status, response.flags, response.residual) == (2, ResponseFlag.UNDERFLOW, 4096)


def test_questions_about_the_unit_are_answered_without_the_disk() -> None:
    """What a driver asks at discovery makes no fact."""
    initiator = logged_in()
    capacity = bytes.fromhex("25").ljust(16, b"\0")
    assert initiator.commands(capacity, flags=CommandFlag.FINAL | CommandFlag.READ, data_length=8) == []
    (answer,) = initiator.received()
    assert isinstance(answer, pdus.DataIn)
    assert answer.payload == Octets(bytes.fromhex("000003ff 00000200"))
    assert initiator.commands(bytes(16), itt=2) == []
    (answer,) = initiator.received()
    assert isinstance(answer, pdus.ScsiResponse)
    assert answer.status == 0


@pytest.mark.parametrize(
    ("cdb", "lun", "sense"),
    [
        (scsi.push_write(1024, 8), 0, scsi.LBA_OUT_OF_RANGE),
        (scsi.push_write(0, 16), 0, scsi.INVALID_FIELD_IN_CDB),
        (scsi.push_write(0, 8), scsi.push_lun(1), scsi.LUN_NOT_SUPPORTED),
        (bytes([0x15]).ljust(16, b"\0"), 0, scsi.INVALID_OPCODE),
    ],
)
def test_a_write_that_cannot_be_is_refused_after_its_data(cdb: bytes, lun: int, sense: scsi.Sense) -> None:
    """The unsolicited data is let in before the refusal, and no R2T asks for more."""
    config = TargetConfig()
    initiator = logged_in(config, InitialR2T="No")
    blocks = Blocks.of((1,))
    flags = CommandFlag.WRITE
    assert initiator.commands(cdb, lun=lun, flags=flags, data_length=4096, payload=blocks.part(0, 2048)) == []
    assert initiator.received() == []
    rest = pdus.DataOut(
        flags=DataFlag.FINAL,
        lun=lun,
        itt=1,
        ttt=RESERVED_TAG,
        exp_statsn=1,
        datasn=0,
        offset=2048,
        payload=blocks.part(2048, 4096),
    )
    assert initiator.says(rest) == []
    (response,) = initiator.received()
    assert isinstance(response, pdus.ScsiResponse)
    assert response.data[2:] == scsi.push_sense(sense)


def test_the_window_moves_on_with_each_status() -> None:
    """MaxCmdSN leaves room for queue_depth commands, counted from the oldest not responded to."""
    initiator = logged_in(TargetConfig(queue_depth=2))
    initiator.commands(scsi.push_flush(), itt=1)
    initiator.commands(scsi.push_flush(), itt=2)
    assert initiator.commands(scsi.push_flush(), itt=3) == []
    assert initiator.received() == []
    initiator.target.respond(2)
    (response,) = initiator.received()
    assert isinstance(response, pdus.ScsiResponse)
    assert (response.exp_cmdsn, response.max_cmdsn) == (3, 3)
    initiator.cmdsn = 3
    assert len(initiator.commands(scsi.push_flush(), itt=3)) == 1


def test_data_of_a_command_outside_the_window_is_ignored_too() -> None:
    """A command the window had no room for leaves no trace, nor does what follows it (4.2.2.1)."""
    initiator = logged_in(TargetConfig(queue_depth=1), InitialR2T="No")
    initiator.commands(scsi.push_flush(), itt=1)
    blocks = Blocks.of((1,))
    assert initiator.writes(blocks, itt=2, final=False) == []
    data: dict[str, Any] = {"lun": 0, "ttt": RESERVED_TAG, "exp_statsn": 1, "datasn": 0, "offset": 0}
    assert initiator.says(pdus.DataOut(flags=DataFlag.FINAL, itt=2, payload=blocks, **data)) == []
    assert initiator.received() == []


@pytest.mark.parametrize(
    "message",
    [
        pdus.NopOut(itt=5, cmdsn=9, exp_statsn=1, immediate=False),
        pdus.TmfRequest(function=TmfFunction.ABORT_TASK, lun=0, itt=9, rtt=3, cmdsn=9, exp_statsn=1, immediate=False),
    ],
)
def test_management_outside_the_window_is_ignored(message: pdus.Message) -> None:
    """Whatever is not immediate must be in the window to be heard."""
    initiator = logged_in(TargetConfig(queue_depth=4))
    assert initiator.says(message) == []
    assert initiator.received() == []


def test_management_in_the_window_takes_a_number_and_gives_the_room_back() -> None:
    """A ping that is not immediate moves both ends of the window."""
    initiator = logged_in(TargetConfig(queue_depth=4))
    initiator.says(pdus.NopOut(itt=5, cmdsn=1, exp_statsn=1, immediate=False))
    (answer,) = initiator.received()
    assert isinstance(answer, pdus.NopIn)
    assert (answer.exp_cmdsn, answer.max_cmdsn) == (2, 5)


def test_an_immediate_command_takes_no_number() -> None:
    """A command with the I bit is served whatever the window, and moves nothing."""
    initiator = logged_in(TargetConfig(queue_depth=1))
    initiator.commands(scsi.push_flush(), itt=1)
    assert len(initiator.commands(scsi.push_flush(), itt=2, immediate=True)) == 1
    initiator.target.respond(2)
    (response,) = initiator.received()
    assert isinstance(response, pdus.ScsiResponse)
    assert (response.exp_cmdsn, response.max_cmdsn) == (2, 1)


def test_pings_are_echoed_and_sent() -> None:
    """A ping comes back with its data and a StatSN; the answer to one of ours makes no fact."""
    initiator = logged_in()
    assert initiator.says(pdus.NopOut(itt=5, cmdsn=1, exp_statsn=1, data=b"hello")) == []
    assert initiator.received() == [pdus.NopIn(itt=5, statsn=1, exp_cmdsn=1, max_cmdsn=128, data=b"hello")]
    initiator.target.ping()
    assert initiator.received() == [pdus.NopIn(ttt=0, statsn=2, exp_cmdsn=1, max_cmdsn=128)]
    assert initiator.says(pdus.NopOut(itt=RESERVED_TAG, ttt=0, cmdsn=1, exp_statsn=2)) == []
    assert initiator.received() == []


def test_an_abort_is_answered_by_who_serves_the_disk() -> None:
    """The delivered task is named; until the answer it may be responded to, after it is gone and its data ignored."""
    initiator = logged_in()
    initiator.writes(Blocks.of((1,)), itt=3, immediate=4096)
    abort = pdus.TmfRequest(function=TmfFunction.ABORT_TASK, lun=0, itt=9, rtt=3, cmdsn=2, exp_statsn=1)
    assert initiator.says(abort) == [TaskManagement(9, TmfFunction.ABORT_TASK, (3,))]
    assert initiator.received() == []
    initiator.target.respond_task_management(9)
    assert initiator.received() == [pdus.TmfResponse(response=0, itt=9, statsn=1, exp_cmdsn=2, max_cmdsn=129)]
    with pytest.raises(LocalProtocolError, match="response to task tag 0x3, which is not in use"):
        initiator.target.respond(3)
    with pytest.raises(LocalProtocolError, match="response to task management 0x9, which is not in use"):
        initiator.target.respond_task_management(9)


def test_an_aborted_task_may_still_be_responded_to() -> None:
    """A write that had stopped anyway gets its status before the answer to the abort."""
    initiator = logged_in()
    initiator.commands(scsi.push_flush(), itt=3)
    initiator.says(pdus.TmfRequest(function=TmfFunction.ABORT_TASK, lun=0, itt=9, rtt=3, cmdsn=2, exp_statsn=1))
    initiator.target.respond(3)
    initiator.target.respond_task_management(9)
    assert [type(message) for message in initiator.received()] == [pdus.ScsiResponse, pdus.TmfResponse]


def test_a_task_still_collecting_is_dropped_at_once() -> None:
    """What the disk never saw needs no waiting for; data still under way is let in and thrown away."""
    initiator = logged_in(ImmediateData="No")
    blocks = Blocks.of((1,))
    initiator.writes(blocks, itt=3)
    (r2t,) = initiator.received()
    assert isinstance(r2t, pdus.R2t)
    reset = pdus.TmfRequest(function=TmfFunction.LOGICAL_UNIT_RESET, lun=0, itt=9, cmdsn=2, exp_statsn=1)
    assert initiator.says(reset) == [TaskManagement(9, TmfFunction.LOGICAL_UNIT_RESET, ())]
    late = pdus.DataOut(
        flags=DataFlag.FINAL, lun=0, itt=3, ttt=r2t.ttt, exp_statsn=1, datasn=0, offset=0, payload=blocks
    )
    assert initiator.says(late) == []
    initiator.target.respond_task_management(9, response=TmfStatus.COMPLETE)
    assert len(initiator.received()) == 1


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (TmfFunction.ABORT_TASK, TmfStatus.NO_TASK),
        (TmfFunction.TASK_REASSIGN, TmfStatus.NOT_SUPPORTED),
        (TmfFunction.CLEAR_ACA, TmfStatus.NOT_SUPPORTED),
        (99, TmfStatus.NOT_SUPPORTED),
    ],
)
def test_functions_that_cannot_be_are_answered_at_once(function: int, response: TmfStatus) -> None:
    """An abort of nothing, or a function not supported, makes no fact."""
    initiator = logged_in()
    assert initiator.says(pdus.TmfRequest(function=function, lun=0, itt=9, rtt=3, cmdsn=1, exp_statsn=1)) == []
    (answer,) = initiator.received()
    assert isinstance(answer, pdus.TmfResponse)
    assert answer.response == response


def test_a_logout_ends_in_good_order() -> None:
    """The initiator is answered and its tasks are no more."""
    initiator = logged_in()
    initiator.commands(scsi.push_flush(), itt=3)
    assert initiator.says(pdus.LogoutRequest(reason=0, itt=4, cmdsn=2, exp_statsn=1)) == [LoggedOut()]
    assert initiator.received() == [pdus.LogoutResponse(itt=4, statsn=1, exp_cmdsn=2, max_cmdsn=128)]
    assert initiator.target.receive_eof() == []
    with pytest.raises(LocalProtocolError, match="which is not in use"):
        initiator.target.respond(3)


def test_responses_the_protocol_does_not_allow() -> None:
    """A response to nothing, or with the wrong amount of data, is the caller's fault."""
    initiator = logged_in(ImmediateData="No")
    with pytest.raises(LocalProtocolError, match="response to task tag 0x1, which is not in use"):
        initiator.target.respond(1)
    initiator.writes(Blocks.of((1,)), itt=1)
    with pytest.raises(LocalProtocolError, match="response to task tag 0x1, which is not in use"):
        initiator.target.respond(1)
    initiator.reads(8, itt=2)
    with pytest.raises(LocalProtocolError, match="response to task tag 0x2 must bring 4096 bytes of data"):
        initiator.target.respond(2)
    with pytest.raises(LocalProtocolError, match="ping in state FREE"):
        TargetConnection(TargetConfig(), UNIT).ping()


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (
            pdus.ScsiCommand(flags=0x80, lun=0, itt=1, data_length=0, cmdsn=2, exp_statsn=1, cdb=scsi.push_flush()),
            "CmdSN 2, expected 1",
        ),
        (
            pdus.ScsiCommand(
                flags=0xA0,
                lun=0,
                itt=1,
                data_length=4096,
                cmdsn=1,
                exp_statsn=1,
                cdb=scsi.push_write(0, 8),
                payload=Blocks.of((1, 2)),
            ),
            r"task 0x1 sends bytes 0..8192 of 4096",
        ),
        (
            pdus.DataOut(flags=0, lun=0, itt=1, ttt=0, exp_statsn=1, datasn=0, offset=0, payload=None),
            "Data-Out for task tag 0x1, which is not in use",
        ),
        (pdus.NopIn(statsn=1, exp_cmdsn=1, max_cmdsn=1), "NopIn from an initiator"),
        (
            pdus.LoginRequest(flags=TO_FULL_FEATURE, isid=bytes(6), itt=0, cmdsn=1, exp_statsn=1),
            "LoginRequest from an initiator",
        ),
    ],
)
def test_initiators_that_break_the_protocol_are_named(message: pdus.Message, fault: str) -> None:
    """A PDU that cannot be says what was wrong, and a Reject shows the initiator its header."""
    initiator = logged_in()
    with pytest.raises(RemoteProtocolError, match=fault):
        initiator.says(message)
    assert initiator.target.state is State.CLEANUP_WAIT
    (reject,) = initiator.received()
    assert isinstance(reject, pdus.Reject)
    assert reject.data == render(frame(message).chunks)[:48]


def test_a_task_tag_is_used_once_at_a_time() -> None:
    """A second command under a tag in use is the initiator's fault."""
    initiator = logged_in()
    initiator.commands(scsi.push_flush(), itt=1)
    with pytest.raises(RemoteProtocolError, match="task tag 0x1 is in use"):
        initiator.commands(scsi.push_flush(), itt=1)


def test_nothing_but_login_before_login() -> None:
    """An initiator that sends commands before the full feature phase is at fault, and gets no Reject."""
    initiator = Initiator(TargetConfig())
    with pytest.raises(RemoteProtocolError, match="NopOut in state FREE"):
        initiator.says(pdus.NopOut(itt=1, cmdsn=1, exp_statsn=1))
    assert initiator.received() == []


def test_the_end_of_the_stream_is_a_failure() -> None:
    """An initiator that closes without logout has gone; cutting a PDU in two is a fault as well."""
    initiator = logged_in()
    assert initiator.target.receive_eof() == [ConnectionFailed("initiator closed the connection in state LOGGED_IN")]
    initiator = logged_in()
    ping = pdus.NopOut(itt=1, cmdsn=1, exp_statsn=1, data=b"cut")
    initiator.target.receive(render(frame(ping).chunks)[:50])
    assert initiator.target.bytes_wanted == 2
    with pytest.raises(RemoteProtocolError, match="initiator closed the connection 2 bytes short of a PDU"):
        initiator.target.receive_eof()
