"""The initiator core against targets written out by hand, well and badly behaved."""

from typing import Any

import pytest

from storage_backends.iscsi import scsi
from storage_backends.iscsi.connection.facts import (
    AsyncNotice,
    ConnectionFailed,
    InitiatorEvent,
    LoggedIn,
    LoggedOut,
    Rejected,
    TaskDone,
    TaskManagementDone,
)
from storage_backends.iscsi.connection.initiator import InitiatorConfig, InitiatorConnection
from storage_backends.iscsi.login.keys import LoginOffer, pull_text, push_text
from storage_backends.iscsi.messages import pdus
from storage_backends.iscsi.messages.framing import frame
from storage_backends.iscsi.messages.pdus import RESERVED_TAG, AsyncEvent, DataFlag, TmfStatus
from storage_backends.iscsi.state import State
from storage_backends.wire import Blocks, LocalProtocolError, Octets, RemoteProtocolError, render

NS_PER_S = 1_000_000_000
WINDOW: dict[str, Any] = {"exp_cmdsn": 1, "max_cmdsn": 64}
CONFIG = InitiatorConfig()


def login_response(flags: int, statsn: int, keys: dict[str, str], **fields: Any) -> pdus.LoginResponse:
    """Return a Login Response."""
    values: dict[str, Any] = {"isid": bytes(6), "tsih": 1, "itt": 0} | WINDOW | fields
    return pdus.LoginResponse(flags=flags, statsn=statsn, data=push_text(keys), **values)


class Target:
    """A target that says what the test tells it to, with an initiator at the other end."""

    def __init__(self, initiator: InitiatorConnection) -> None:
        self.initiator = initiator
        self.statsn = 2
        self.now_ns = 0

    def sent(self) -> list[pdus.Message]:
        """Return what the initiator has to say."""
        return [pdu.message for pdu in iter(self.initiator.next_pdu, None)]

    def says(self, message: pdus.Message) -> list[InitiatorEvent]:
        """Return the facts a PDU makes."""
        return self.initiator.receive(render(frame(message).chunks), self.now_ns)

    def responds(self, itt: int, **fields: Any) -> list[InitiatorEvent]:
        """Return the facts a SCSI Response with the next StatSN makes."""
        values = {"status": 0, "itt": itt} | WINDOW | fields
        self.statsn += 1
        return self.says(pdus.ScsiResponse(statsn=self.statsn - 1, **values))


def logged_in(config: InitiatorConfig = CONFIG, keys: dict[str, str] | None = None, max_cmdsn: int = 64) -> Target:
    """Return a target whose initiator has just logged in; unless told otherwise it takes all it is offered."""
    initiator = InitiatorConnection(config, now_ns=0)
    initiator.login()
    target = Target(initiator)
    target.sent()
    target.says(login_response(0x81, 0, {"AuthMethod": "None"}))
    (second,) = target.sent()
    assert isinstance(second, pdus.LoginRequest)
    offered = pull_text(second.data)
    target.says(login_response(0x87, 1, offered | (keys or {}), max_cmdsn=max_cmdsn))
    return target


def test_login_opens_the_full_feature_phase() -> None:
    """Two exchanges, StatSN acknowledged, and commands may be sent as far as the window allows."""
    initiator = InitiatorConnection(CONFIG, now_ns=0)
    assert initiator.next_pdu() is None
    assert initiator.bytes_wanted == 48
    initiator.login()
    assert initiator.state.name == "IN_LOGIN"
    target = Target(initiator)
    assert len(target.sent()) == 1
    assert target.says(login_response(0x81, 7, {})) == []
    (second,) = target.sent()
    assert isinstance(second, pdus.LoginRequest)
    assert second.exp_statsn == 8
    (event,) = target.says(login_response(0x87, 8, {}))
    assert event == LoggedIn(initiator.parameters)  # type: ignore[arg-type]
    assert initiator.state is State.LOGGED_IN
    assert initiator.is_window_open


def test_a_refused_login_is_a_failure() -> None:
    """A status class says why, and the connection is back where it began."""
    initiator = InitiatorConnection(CONFIG, now_ns=0)
    initiator.login()
    target = Target(initiator)
    target.sent()
    refusal = login_response(0, 0, {}, status_class=2, status_detail=3)
    assert target.says(refusal) == [ConnectionFailed("login refused with status 0x0203 (not found)")]
    assert initiator.state is State.FREE


def test_a_write_from_request_to_status() -> None:
    """The command carries its data by reference; its status ends it and gives the tag back."""
    target = logged_in()
    initiator = target.initiator
    blocks = Blocks.of((1, 2))
    free = initiator.nr_free_tasks
    itt = initiator.write(16, blocks, fua=True)
    assert initiator.task_tags == (itt,)
    (command,) = target.sent()
    assert command == pdus.ScsiCommand(
        flags=0xA1,
        lun=0,
        itt=itt,
        data_length=8192,
        cmdsn=1,
        exp_statsn=2,
        cdb=scsi.push_write(16, 16, fua=True),
        payload=blocks,
    )
    assert target.responds(itt) == [TaskDone(itt, 0, 0, None, b"", 0)]
    assert not initiator.task_tags
    assert initiator.nr_free_tasks == free == 113


def test_reads_end_with_status_of_their_own_or_collapsed() -> None:
    """Data-In is put together, the status comes with its last PDU or in a SCSI Response."""
    target = logged_in()
    blocks = Blocks.of((1, 2))
    for collapsed in (True, False):
        itt = target.initiator.read(0, 16)
        (command,) = target.sent()
        assert isinstance(command, pdus.ScsiCommand)
        assert (command.cdb, command.data_length) == (scsi.push_read(0, 16), 8192)
        data: dict[str, Any] = {"itt": itt, "payload": blocks, "datasn": 0, "offset": 0} | WINDOW
        if collapsed:
            events = target.initiator.receive(
                frame(pdus.DataIn(flags=DataFlag.FINAL | DataFlag.STATUS, statsn=2, **data)).chunks[0], 0
            )
            target.statsn = 3
            events += target.initiator.receive(blocks, 0)
        else:
            assert target.says(pdus.DataIn(flags=DataFlag.FINAL, **data)) == []
            events = target.responds(itt)
        (done,) = events
        assert isinstance(done, TaskDone)
        assert (done.itt, done.status) == (itt, 0)
        assert done.payload is not None
        assert done.payload.to_bytes() == blocks.to_bytes()


def test_a_failed_command_brings_its_sense() -> None:
    """CHECK CONDITION ends a read without data, with the sense and the residual the target sent."""
    target = logged_in()
    itt = target.initiator.read(0, 16)
    target.sent()
    sense = scsi.push_sense(scsi.LBA_OUT_OF_RANGE)
    data = len(sense).to_bytes(2, "big") + sense
    assert target.responds(itt, status=2, data=data, flags=0x02, residual=8192) == [
        TaskDone(itt, 0, 2, None, sense, 8192)
    ]
    itt = target.initiator.flush()
    target.sent()
    assert target.responds(itt, response=1) == [TaskDone(itt, 1, 0, None, b"", 0)]


def test_data_is_sent_when_it_is_asked_for() -> None:
    """What an R2T asks for goes out in PDUs of the size the target takes, headers apart from payload."""
    keys = {"ImmediateData": "No", "InitialR2T": "Yes", "MaxRecvDataSegmentLength": "4096"}
    target = logged_in(keys=keys)
    blocks = Blocks.of((1, 2, 3))
    itt = target.initiator.write(0, blocks)
    (command,) = target.sent()
    assert isinstance(command, pdus.ScsiCommand)
    assert command.payload is None
    r2t = pdus.R2t(lun=0, itt=itt, ttt=9, statsn=2, r2tsn=0, offset=0, data_length=12288, **WINDOW)
    assert target.says(r2t) == []
    outs = list(iter(target.initiator.next_pdu, None))
    assert [pdu.chunks[1] for pdu in outs] == [Blocks.of((1,)), Blocks.of((2,)), Blocks.of((3,))]
    assert [len(pdu.chunks) for pdu in outs] == [2, 2, 2]
    assert {pdu.itt for pdu in outs} == {itt}
    assert target.responds(itt) == [TaskDone(itt, 0, 0, None, b"", 0)]


def test_a_shut_window_holds_commands_back() -> None:
    """Commands beyond MaxCmdSN wait, in order, for a PDU that moves it."""
    target = logged_in(max_cmdsn=2)
    tags = [target.initiator.flush() for _ in range(4)]
    assert not target.initiator.is_window_open
    assert [message.itt for message in target.sent()] == tags[:2]
    assert target.responds(tags[0], exp_cmdsn=3, max_cmdsn=3)
    (third,) = target.sent()
    assert isinstance(third, pdus.ScsiCommand)
    assert (third.itt, third.cmdsn) == (tags[2], 3)
    target.says(pdus.NopIn(statsn=3, exp_cmdsn=4, max_cmdsn=10))
    assert [message.itt for message in target.sent()] == tags[3:]
    assert target.initiator.is_window_open


def test_an_open_window_counts_the_commands_that_wait() -> None:
    """A queue that would fill the window is told so before it overfills it, as iscsi_queuecommand does."""
    target = logged_in(max_cmdsn=2)
    target.initiator.flush()
    assert target.initiator.is_window_open
    target.initiator.flush()
    assert not target.initiator.is_window_open


def test_tags_run_out() -> None:
    """113 commands are taken; the other 15 tasks are management's."""
    target = logged_in()
    for _ in range(113):
        target.initiator.flush()
    assert target.initiator.nr_free_tasks == 0
    with pytest.raises(LocalProtocolError, match="only 15 task tags are free"):
        target.initiator.flush()
    target.initiator.reset_lun()


def test_any_command_may_be_sent() -> None:
    """A disk's discovery asks with CDBs of its own, padded to the 16 bytes of the PDU; a short answer is a residual."""
    target = logged_in()
    itt = target.initiator.command(bytes.fromhex("120000006000"), read_length=96)
    (command,) = target.sent()
    assert isinstance(command, pdus.ScsiCommand)
    assert (command.cdb, command.data_length) == (bytes.fromhex("120000006000" + "00" * 10), 96)
    data = pdus.DataIn(
        flags=DataFlag.FINAL | DataFlag.STATUS | DataFlag.UNDERFLOW,
        itt=itt,
        statsn=2,
        datasn=0,
        offset=0,
        residual=60,
        payload=Octets(bytes(36)),
        **WINDOW,
    )
    assert target.says(data) == [TaskDone(itt, 0, 0, Octets(bytes(36)), b"", 60)]


def test_a_tag_may_be_chosen() -> None:
    """A caller that numbers its requests may name the tag, if it is free."""
    target = logged_in()
    assert target.initiator.read(0, 8, itt=77) == 77
    with pytest.raises(LocalProtocolError, match="task tag 77 is in use"):
        target.initiator.flush(itt=77)


def test_silence_is_pinged_and_then_fails() -> None:
    """A ping after five seconds; unanswered for five more it is the end, and the tasks are known to the caller."""
    target = logged_in()
    initiator = target.initiator
    itt = initiator.flush()
    target.sent()
    assert initiator.timer_ns() == 5 * NS_PER_S
    assert initiator.handle_timer(NS_PER_S) == []
    assert target.sent() == []
    assert initiator.handle_timer(5 * NS_PER_S) == []
    (ping,) = target.sent()
    assert isinstance(ping, pdus.NopOut)
    assert (ping.immediate, ping.ttt, ping.cmdsn) == (True, RESERVED_TAG, 2)
    assert initiator.timer_ns() == 10 * NS_PER_S
    assert initiator.handle_timer(10 * NS_PER_S) == [ConnectionFailed("ping timed out: nothing received since 0 ns")]
    assert initiator.state is State.CLEANUP_WAIT
    assert initiator.task_tags == (itt,)
    assert initiator.timer_ns() is None
    assert initiator.handle_timer(20 * NS_PER_S) == []


def test_an_answered_ping_begins_anew() -> None:
    """The answer takes a StatSN, gives the tag back and moves the timer."""
    target = logged_in()
    target.initiator.handle_timer(5 * NS_PER_S)
    (ping,) = target.sent()
    target.now_ns = 6 * NS_PER_S
    assert target.says(pdus.NopIn(itt=ping.itt, statsn=2, **WINDOW)) == []
    assert target.initiator.timer_ns() == 11 * NS_PER_S
    itt = target.initiator.flush()
    (command,) = target.sent()
    assert isinstance(command, pdus.ScsiCommand)
    assert (command.itt, command.exp_statsn) == (itt, 3)


def test_a_ping_of_the_target_is_answered() -> None:
    """A NOP-In with a target transfer tag gets it back, and takes no StatSN (11.19)."""
    target = logged_in()
    assert target.says(pdus.NopIn(ttt=0x55, lun=0, statsn=2, **WINDOW)) == []
    assert target.sent() == [pdus.NopOut(itt=RESERVED_TAG, ttt=0x55, cmdsn=1, exp_statsn=2)]


def test_an_aborted_task_is_gone_when_the_target_says_so() -> None:
    """ABORT TASK names the task and its CmdSN; its data stops, and with COMPLETE its tag is free."""
    target = logged_in(keys={"ImmediateData": "No", "InitialR2T": "Yes", "MaxRecvDataSegmentLength": "4096"})
    initiator = target.initiator
    itt = initiator.write(0, Blocks.of((1, 2)))
    target.sent()
    target.says(pdus.R2t(lun=0, itt=itt, ttt=9, statsn=2, r2tsn=0, offset=0, data_length=8192, **WINDOW))
    first = initiator.next_pdu()
    assert first is not None
    assert isinstance(first.message, pdus.DataOut)
    tmf = initiator.abort_task(itt)
    (request,) = target.sent()
    assert isinstance(request, pdus.TmfRequest)
    assert (request.itt, request.function, request.rtt, request.refcmdsn) == (tmf, 1, itt, 1)
    done = pdus.TmfResponse(response=TmfStatus.COMPLETE, itt=request.itt, statsn=2, **WINDOW)
    assert target.says(done) == [TaskManagementDone(request.itt, 0, (itt,))]
    assert initiator.task_tags == ()


def test_a_refused_abort_lets_the_task_go_on() -> None:
    """When the target will not abort, the data held back is sent after all."""
    target = logged_in(keys={"ImmediateData": "No", "InitialR2T": "Yes", "MaxRecvDataSegmentLength": "4096"})
    itt = target.initiator.write(0, Blocks.of((1, 2)))
    target.sent()
    tmf = target.initiator.abort_task(itt)
    assert tmf is not None
    target.sent()
    target.says(pdus.R2t(lun=0, itt=itt, ttt=9, statsn=2, r2tsn=0, offset=0, data_length=8192, **WINDOW))
    assert target.sent() == []
    refused = pdus.TmfResponse(response=TmfStatus.NOT_SUPPORTED, itt=tmf, statsn=2, **WINDOW)
    assert target.says(refused) == [TaskManagementDone(tmf, 5, ())]
    assert len(target.sent()) == 2


def test_a_task_not_yet_sent_is_simply_dropped() -> None:
    """Aborting what the target never heard of needs no function."""
    target = logged_in(max_cmdsn=0)
    itt = target.initiator.flush()
    assert target.initiator.abort_task(itt) is None
    assert target.initiator.task_tags == ()
    with pytest.raises(LocalProtocolError, match=f"task {itt:#x} is not in use"):
        target.initiator.abort_task(itt)


def test_a_reset_aborts_what_was_sent_and_holds_the_rest() -> None:
    """LOGICAL UNIT RESET ends every task sent before it; new commands wait for its answer."""
    target = logged_in()
    old = target.initiator.flush()
    target.sent()
    tmf = target.initiator.reset_lun()
    new = target.initiator.flush()
    (request,) = target.sent()
    assert isinstance(request, pdus.TmfRequest)
    assert (request.function, request.rtt) == (5, RESERVED_TAG)
    done = pdus.TmfResponse(response=0, itt=tmf, statsn=2, **WINDOW)
    assert target.says(done) == [TaskManagementDone(tmf, 0, (old,))]
    assert [message.itt for message in target.sent()] == [new]


def test_a_task_that_ends_during_its_abort_stays_ended() -> None:
    """A status that crosses the abort counts, and the tag's next task is not mistaken for it."""
    target = logged_in()
    itt = target.initiator.flush(itt=40)
    target.sent()
    tmf = target.initiator.abort_task(itt)
    assert tmf is not None
    target.sent()
    assert target.responds(itt) == [TaskDone(itt, 0, 0, None, b"", 0)]
    assert target.initiator.flush(itt=40) == 40
    target.sent()
    done = pdus.TmfResponse(response=0, itt=tmf, statsn=3, **WINDOW)
    assert target.says(done) == [TaskManagementDone(tmf, 0, ())]
    assert target.initiator.task_tags == (40,)


def test_a_logout_ends_in_good_order() -> None:
    """After the answer the connection is free and says nothing more."""
    target = logged_in()
    target.initiator.logout()
    with pytest.raises(LocalProtocolError, match="command in state IN_LOGOUT"):
        target.initiator.flush()
    (request,) = target.sent()
    assert isinstance(request, pdus.LogoutRequest)
    assert target.says(pdus.LogoutResponse(itt=request.itt, statsn=2, **WINDOW)) == [LoggedOut()]
    assert target.initiator.state is State.FREE
    assert target.initiator.receive_eof() == []


def test_a_target_may_ask_for_a_logout() -> None:
    """An Async Message is passed on; asked to log out, no new command is taken but what is queued still goes."""
    target = logged_in()
    itt = target.initiator.flush()
    message = pdus.AsyncMessage(statsn=2, async_event=AsyncEvent.REQUEST_LOGOUT, param3=10, **WINDOW)
    assert target.says(message) == [AsyncNotice(1, 0, (0, 0, 10))]
    assert target.initiator.state is State.LOGOUT_REQUESTED
    assert [sent.itt for sent in target.sent()] == [itt]
    with pytest.raises(LocalProtocolError, match="command in state LOGOUT_REQUESTED"):
        target.initiator.flush()
    target.initiator.logout()


def test_a_target_may_announce_that_it_leaves() -> None:
    """A connection that is announced dropped has failed."""
    target = logged_in()
    message = pdus.AsyncMessage(statsn=2, async_event=AsyncEvent.DROPPING_CONNECTION, **WINDOW)
    assert target.says(message)[1:] == [ConnectionFailed("target announced that it drops the connection")]
    assert target.initiator.state is State.CLEANUP_WAIT


def test_other_announcements_are_passed_on() -> None:
    """An Async Message that is only news changes nothing."""
    target = logged_in()
    message = pdus.AsyncMessage(statsn=2, async_event=AsyncEvent.VENDOR_SPECIFIC, async_vcode=4, **WINDOW)
    assert target.says(message) == [AsyncNotice(255, 4, (0, 0, 0))]
    assert target.initiator.state is State.LOGGED_IN


def test_a_reject_is_passed_on() -> None:
    """What the target did not take comes back as a fact with its header."""
    target = logged_in()
    assert target.says(pdus.Reject(reason=9, statsn=2, data=bytes(48), **WINDOW)) == [Rejected(9, bytes(48))]


def test_digests_begin_with_the_full_feature_phase() -> None:
    """Login PDUs have none; every PDU after has those that were agreed."""
    offer = LoginOffer(header_digest=("CRC32C",), data_digest=("CRC32C",))
    target = logged_in(InitiatorConfig(offer=offer))
    initiator = target.initiator
    itt = initiator.write(0, Blocks.of((1,)))
    pdu = initiator.next_pdu()
    assert pdu is not None
    assert pdu.size_bytes == 48 + 4 + 4096 + 4
    response = pdus.ScsiResponse(status=0, itt=itt, statsn=2, **WINDOW)
    with pytest.raises(RemoteProtocolError, match="header digest"):
        initiator.receive(render(frame(response).chunks) + bytes(4), 0)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (pdus.ScsiResponse(status=0, itt=0, statsn=5, **WINDOW), "StatSN 5, expected 2"),
        (
            pdus.ScsiResponse(status=0, itt=0x60, statsn=2, **WINDOW),
            "SCSI Response for task tag 0x60, which is not in use",
        ),
        (
            pdus.DataIn(flags=0, itt=0x60, datasn=0, offset=0, payload=None, **WINDOW),
            "Data-In for task tag 0x60, which is not in use",
        ),
        (
            pdus.R2t(lun=0, itt=0x60, ttt=1, statsn=2, r2tsn=0, offset=0, data_length=1, **WINDOW),
            "R2T for task tag 0x60, which is not in use",
        ),
        (pdus.NopIn(itt=0x60, statsn=2, **WINDOW), "NOP-In for task tag 0x60, which is no ping"),
        (pdus.TmfResponse(response=0, itt=0x60, statsn=2, **WINDOW), "TMF Response for task tag 0x60"),
        (pdus.LogoutResponse(itt=0x60, statsn=2, **WINDOW), "LOGOUT_DONE received in state LOGGED_IN"),
        (pdus.LogoutResponse(itt=0x60, response=2, statsn=2, **WINDOW), "logout answered with 2"),
        (login_response(0x87, 2, {}), "LoginResponse from a target"),
        (pdus.NopOut(itt=1, cmdsn=1, exp_statsn=1), "NopOut from a target"),
    ],
)
def test_targets_that_break_the_protocol_are_named(message: pdus.Message, fault: str) -> None:
    """A PDU that cannot be says what was wrong, and the connection has failed."""
    target = logged_in()
    with pytest.raises(RemoteProtocolError, match=fault):
        target.says(message)
    assert target.initiator.state is State.CLEANUP_WAIT


def test_nothing_but_login_before_login() -> None:
    """A target that speaks of commands before the full feature phase is at fault."""
    initiator = InitiatorConnection(CONFIG, now_ns=0)
    with pytest.raises(RemoteProtocolError, match="ScsiResponse in state FREE"):
        Target(initiator).says(pdus.ScsiResponse(status=0, itt=0, statsn=0, **WINDOW))
    with pytest.raises(LocalProtocolError, match="command in state FREE"):
        initiator.flush()
    with pytest.raises(LocalProtocolError, match="LOGICAL_UNIT_RESET in state FREE"):
        initiator.reset_lun()


def test_writes_are_whole_blocks() -> None:
    """A payload that is no number of blocks cannot be written."""
    with pytest.raises(LocalProtocolError, match="100 bytes are not whole blocks of 512"):
        logged_in().initiator.write(0, Blocks.of((1,)).part(0, 100))


def test_the_end_of_the_stream_is_a_failure() -> None:
    """A target that closes leaves the tasks to the caller; cutting a PDU in two is a fault as well."""
    target = logged_in()
    itt = target.initiator.flush()
    target.sent()
    assert target.initiator.receive_eof() == [ConnectionFailed("target closed the connection in state LOGGED_IN")]
    assert target.initiator.task_tags == (itt,)
    assert target.initiator.next_pdu() is None

    target = logged_in()
    target.initiator.receive(bytes(20), 0)
    with pytest.raises(RemoteProtocolError, match="target closed the connection 28 bytes short of a PDU"):
        target.initiator.receive_eof()
