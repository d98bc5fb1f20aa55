"""The target's end of an iSCSI connection: login, R2Ts, status, and the window it grants.

It serves one logical unit, LUN 0. What is asked about the unit itself the core answers; what moves blocks becomes a
:class:`~storage_backends.iscsi.connection.facts.Command`, delivered when everything it writes has arrived, and is ended
by :meth:`TargetConnection.respond`. Commands are delivered in the order of their completeness, not of their CmdSN:
tasks are SIMPLE and may be reordered.

**The window.** MaxCmdSN leaves room for ``queue_depth`` commands: it moves on when a command is responded to, never
back. With one connection over TCP commands arrive in order; one that is missing is a fault, one outside the window is
silently ignored, and so is its data (4.2.2.1).

**Task management** is answered by whoever serves the disk, for only they know when an aborted write has stopped:
until :meth:`TargetConnection.respond_task_management` the tasks live on and may even be responded to.

**A breach** of the protocol raises, with a Reject queued that shows the initiator the header that broke it; the caller
sends it and closes.

Left out: more than one LUN, CHAP, discovery sessions, noticing that an initiator has gone silent.
"""

from collections import deque
from dataclasses import dataclass, field

from storage_backends.iscsi import scsi
from storage_backends.iscsi.connection.facts import (
    Command,
    ConnectionFailed,
    LoggedIn,
    LoggedOut,
    TargetEvent,
    TaskManagement,
)
from storage_backends.iscsi.connection.target_task import TargetTask
from storage_backends.iscsi.login.keys import LoginOffer, SessionParameters
from storage_backends.iscsi.login.phase import LOGIN_DATA_LENGTH_MAX, LoginRefused, TargetLogin
from storage_backends.iscsi.messages import pdus
from storage_backends.iscsi.messages.framing import Pdu, PduReader, frame
from storage_backends.iscsi.messages.pdus import RESERVED_TAG, DataFlag, ResponseFlag, TmfFunction, TmfStatus
from storage_backends.iscsi.scsi import Answer, LogicalUnit, MediumAccess, MediumKind, Sense, Status
from storage_backends.iscsi.state import ConnectionState, Event, State, serial_add, serial_le
from storage_backends.wire import Chunk, LocalProtocolError, Octets, Payload, RemoteProtocolError

__all__ = ["TargetConfig", "TargetConnection"]

_ABORT_ALL = (
    TmfFunction.ABORT_TASK_SET,
    TmfFunction.CLEAR_TASK_SET,
    TmfFunction.LOGICAL_UNIT_RESET,
    TmfFunction.TARGET_WARM_RESET,
    TmfFunction.TARGET_COLD_RESET,
)
"""With one initiator and one logical unit these are the same tasks (11.5.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """Who a target is and what it grants."""

    target_name: str = "iqn.2005-03.org.netvm:swap"
    offer: LoginOffer = field(default_factory=LoginOffer)
    queue_depth: int = 128
    """Commands the window has room for."""
    tsih: int = 1
    """Handle of the session."""


class TargetConnection:
    """The target's end of one connection, which is also its session."""

    __slots__ = (
        "_config",
        "_discarded",
        "_exp_cmdsn",
        "_login",
        "_max_cmdsn",
        "_next_ttt",
        "_reader",
        "_state",
        "_statsn",
        "_tasks",
        "_tmfs",
        "_to_send",
        "_unit",
        "parameters",
    )

    def __init__(self, config: TargetConfig, unit: LogicalUnit) -> None:
        self._config = config
        self._unit = unit
        self._state = ConnectionState()
        self._reader = PduReader(LOGIN_DATA_LENGTH_MAX)
        self._login = TargetLogin(config.offer, target_name=config.target_name)
        self.parameters: SessionParameters | None = None
        """What was agreed, once logged in."""
        self._statsn = 0
        self._exp_cmdsn = 0
        self._max_cmdsn = 0
        self._next_ttt = 0
        # invariant: every command that arrived and was not responded to
        self._tasks: dict[int, TargetTask] = {}
        # invariant: each task management function to answer, with the delivered tasks it aborts
        self._tmfs: dict[int, tuple[TargetTask, ...]] = {}
        # invariant: tags of tasks that are no more but whose data may still be under way
        self._discarded: set[int] = set()
        self._to_send: deque[Pdu] = deque()

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state.current

    @property
    def bytes_wanted(self) -> int:
        """How many more bytes complete the next header, or what follows it."""
        return self._reader.bytes_wanted

    def next_pdu(self) -> Pdu | None:
        """Return the next PDU to send, or None while there is none."""
        return self._to_send.popleft() if self._to_send else None

    def respond(
        self, itt: int, *, status: int = Status.GOOD, payload: Payload | None = None, sense: Sense | None = None
    ) -> None:
        """End a command that was delivered; ``payload`` is what a read found."""
        task = self._tasks.get(itt)
        if task is None or not task.is_delivered or not isinstance(task.outcome, MediumAccess):
            raise LocalProtocolError(f"response to task tag {itt:#x}, which is not in use")
        is_read = task.outcome.kind is MediumKind.READ and status == Status.GOOD
        expected = task.outcome.nr_blocks * self._unit.block_size if is_read else 0
        if (0 if payload is None else payload.size_bytes) != expected:
            raise LocalProtocolError(f"response to task tag {itt:#x} must bring {expected} bytes of data")
        self._finish(task, status, payload, b"" if sense is None else scsi.push_sense(sense))

    def respond_task_management(self, itt: int, *, response: int = TmfStatus.COMPLETE) -> None:
        """Answer a task management function; with COMPLETE its tasks are no more."""
        if itt not in self._tmfs:
            raise LocalProtocolError(f"response to task management {itt:#x}, which is not in use")
        for task in self._tmfs.pop(itt):
            if response == TmfStatus.COMPLETE and self._tasks.get(task.command.itt) is task:
                self._drop(task)
        self._send_tmf_response(itt, response)

    def ping(self) -> None:
        """Ask the initiator for a sign of life; whatever it sends next is one (11.19)."""
        self._require_full_feature("ping")
        self._send(
            pdus.NopIn(ttt=self._ttt(), statsn=self._statsn, exp_cmdsn=self._exp_cmdsn, max_cmdsn=self._max_cmdsn)
        )

    def receive(self, chunk: Chunk) -> list[TargetEvent]:
        """Take a chunk from the initiator. Raises RemoteProtocolError if it breaks the protocol."""
        self._reader.push(chunk)
        events: list[TargetEvent] = []
        try:
            while (message := self._reader.pull()) is not None:
                self._take(message, events)
        except RemoteProtocolError:
            if self._state.full_feature:
                self._reject(self._reader.header)
            self._state.sent(Event.FAILED)
            raise
        return events

    def receive_eof(self) -> list[TargetEvent]:
        """Take the end of the stream. Raises RemoteProtocolError if it cuts a PDU in two."""
        was = self._state.current
        self._state.sent(Event.FAILED)
        if self._reader.inside:
            raise RemoteProtocolError(f"initiator closed the connection {self.bytes_wanted} bytes short of a PDU")
        return [] if was is State.FREE else [ConnectionFailed(f"initiator closed the connection in state {was.name}")]

    def _require_full_feature(self, what: str) -> SessionParameters:
        if not self._state.full_feature or self.parameters is None:
            raise LocalProtocolError(f"{what} in state {self._state.current.name}")
        return self.parameters

    def _send(self, message: pdus.Message) -> None:
        parameters = self.parameters
        if parameters is None:
            self._to_send.append(frame(message))
        else:
            self._to_send.append(
                frame(message, header_digest=parameters.header_digest, data_digest=parameters.data_digest)
            )

    def _take_statsn(self) -> int:
        """Return the number of a status being sent."""
        statsn = self._statsn
        self._statsn = serial_add(statsn)
        return statsn

    def _ttt(self) -> int:
        """Return a target transfer tag that was not used for a long time."""
        ttt = self._next_ttt
        self._next_ttt = (ttt + 1) % RESERVED_TAG
        return ttt

    def _reject(self, header: bytes) -> None:
        self._send(
            pdus.Reject(
                reason=pdus.RejectReason.PROTOCOL_ERROR,
                statsn=self._take_statsn(),
                exp_cmdsn=self._exp_cmdsn,
                max_cmdsn=self._max_cmdsn,
                data=header,
            )
        )

    def _take(self, message: pdus.Message, events: list[TargetEvent]) -> None:
        """Take a PDU."""
        if isinstance(message, pdus.LoginRequest) and self.parameters is None:
            self._on_login_request(message, events)
            return
        if not self._state.full_feature or self.parameters is None:
            raise RemoteProtocolError(f"{type(message).__name__} in state {self._state.current.name}")
        match message:
            case pdus.ScsiCommand():
                self._on_scsi_command(message, self.parameters, events)
            case pdus.DataOut():
                self._on_data_out(message, self.parameters, events)
            case pdus.NopOut():
                self._on_nop_out(message, self.parameters)
            case pdus.TmfRequest():
                self._on_tmf_request(message, events)
            case pdus.LogoutRequest():
                self._on_logout_request(message, events)
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} from an initiator")

    def _accept(self, cmdsn: int, *, immediate: bool) -> bool:
        """Count a command; return whether it is to be served (4.2.2.1)."""
        if immediate:
            return True
        if not (serial_le(self._exp_cmdsn, cmdsn) and serial_le(cmdsn, self._max_cmdsn)):
            return False
        if cmdsn != self._exp_cmdsn:
            raise RemoteProtocolError(f"CmdSN {cmdsn}, expected {self._exp_cmdsn}")
        self._exp_cmdsn = serial_add(cmdsn)
        return True

    def _release(self, *, immediate: bool) -> None:
        """Make room in the window for the command that takes the place of one that ended."""
        if not immediate:
            self._max_cmdsn = serial_add(self._max_cmdsn)

    def _on_login_request(self, request: pdus.LoginRequest, events: list[TargetEvent]) -> None:
        if self._state.current is State.FREE:
            self._state.received(Event.LOGIN)
        self._exp_cmdsn = request.cmdsn
        self._max_cmdsn = serial_add(request.cmdsn, self._config.queue_depth - 1)
        response = self._login.receive(request, tsih=self._config.tsih, max_cmdsn=self._max_cmdsn)
        self._send(response)
        if self._login.refused is not None:
            self._state.sent(Event.LOGIN_FAILED)
            events.append(ConnectionFailed(LoginRefused(self._login.refused).reason))
        elif self._login.parameters is not None:
            self._state.received(Event.LOGIN_FINAL)
            parameters = self.parameters = self._login.parameters
            self._statsn = self._login.statsn
            self._reader.max_data_length = parameters.max_recv_data_length
            self._reader.header_digest = parameters.header_digest
            self._reader.data_digest = parameters.data_digest
            events.append(LoggedIn(parameters))

    def _on_scsi_command(
        self, command: pdus.ScsiCommand, parameters: SessionParameters, events: list[TargetEvent]
    ) -> None:
        if not self._accept(command.cmdsn, immediate=command.immediate):
            self._discarded.add(command.itt)
            return
        if command.itt in self._tasks:
            raise RemoteProtocolError(f"task tag {command.itt:#x} is in use")
        self._discarded.discard(command.itt)
        unit = self._unit if command.lun == 0 else None
        outcome = scsi.execute(unit, command.cdb)
        task = TargetTask(command, outcome, parameters)
        if isinstance(outcome, MediumAccess):
            nr_bytes = outcome.nr_blocks * self._unit.block_size if outcome.kind is MediumKind.WRITE else 0
            if nr_bytes != task.write_length:
                task.outcome = Answer(Status.CHECK_CONDITION, b"", scsi.push_sense(scsi.INVALID_FIELD_IN_CDB))
        self._tasks[command.itt] = task
        self._go_on(task, parameters, events)

    def _on_data_out(self, data_out: pdus.DataOut, parameters: SessionParameters, events: list[TargetEvent]) -> None:
        task = self._tasks.get(data_out.itt)
        if task is None:
            if data_out.itt not in self._discarded:
                raise RemoteProtocolError(f"Data-Out for task tag {data_out.itt:#x}, which is not in use")
            return
        task.take_data_out(data_out, parameters)
        self._go_on(task, parameters, events)

    def _go_on(self, task: TargetTask, parameters: SessionParameters, events: list[TargetEvent]) -> None:
        """Do what is next for a task after something of it arrived: wait, ask for data, answer or deliver."""
        if task.is_unsolicited_open:
            return
        itt, outcome = task.command.itt, task.outcome
        if isinstance(outcome, Answer):
            data = Octets(outcome.data) if outcome.data else None
            self._finish(task, outcome.status, data, outcome.sense)
            return
        if not task.has_all_data:
            self._ask(task, parameters)
            return
        task.is_delivered = True
        events.append(Command(itt, outcome.kind, outcome.lba, outcome.nr_blocks, task.data_written(), outcome.fua))

    def _ask(self, task: TargetTask, parameters: SessionParameters) -> None:
        """Send the R2Ts that may be outstanding now."""
        while (r2t := task.next_r2t(parameters, self._next_ttt)) is not None:
            r2tsn, offset, data_length = r2t
            self._send(
                pdus.R2t(
                    lun=task.command.lun,
                    itt=task.command.itt,
                    ttt=self._ttt(),
                    statsn=self._statsn,
                    exp_cmdsn=self._exp_cmdsn,
                    max_cmdsn=self._max_cmdsn,
                    r2tsn=r2tsn,
                    offset=offset,
                    data_length=data_length,
                )
            )

    def _finish(self, task: TargetTask, status: int, payload: Payload | None, sense: bytes) -> None:
        """Send the data and the status of a command."""
        del self._tasks[task.command.itt]
        self._release(immediate=task.command.immediate)
        has_data = payload is not None and status == Status.GOOD
        transferred = task.received if payload is None else payload.size_bytes
        # 11.4.1: what the initiator expected and what there was to transfer may differ either way
        residual = transferred - task.command.data_length
        flags = 0
        if residual:
            flags = ResponseFlag.OVERFLOW if residual > 0 else ResponseFlag.UNDERFLOW
        if payload is not None and has_data and task.command.data_length:
            self._send_data_in(task, payload, flags, abs(residual))
            return
        self._send(
            pdus.ScsiResponse(
                flags=flags,
                status=status,
                itt=task.command.itt,
                statsn=self._take_statsn(),
                exp_cmdsn=self._exp_cmdsn,
                max_cmdsn=self._max_cmdsn,
                residual=abs(residual),
                data=len(sense).to_bytes(2, "big") + sense if sense else b"",
            )
        )

    def _send_data_in(self, task: TargetTask, payload: Payload, residual_flags: int, residual: int) -> None:
        """Send what a read found, the status with its last PDU."""
        parameters = self._require_full_feature("Data-In")
        for part in task.data_in(payload, parameters):
            has_status = part.flags & DataFlag.STATUS != 0
            self._send(
                pdus.DataIn(
                    flags=part.flags | residual_flags if has_status else part.flags,
                    itt=task.command.itt,
                    statsn=self._take_statsn() if has_status else 0,
                    exp_cmdsn=self._exp_cmdsn,
                    max_cmdsn=self._max_cmdsn,
                    datasn=part.datasn,
                    offset=part.offset,
                    residual=residual if has_status else 0,
                    payload=part.payload,
                )
            )

    def _drop(self, task: TargetTask) -> None:
        """Forget an aborted task; its data may still come."""
        del self._tasks[task.command.itt]
        self._discarded.add(task.command.itt)
        self._release(immediate=task.command.immediate)

    def _on_nop_out(self, nop_out: pdus.NopOut, parameters: SessionParameters) -> None:
        if not self._accept(nop_out.cmdsn, immediate=nop_out.immediate):
            return
        self._release(immediate=nop_out.immediate)
        if nop_out.itt == RESERVED_TAG:
            return
        self._send(
            pdus.NopIn(
                itt=nop_out.itt,
                lun=nop_out.lun,
                statsn=self._take_statsn(),
                exp_cmdsn=self._exp_cmdsn,
                max_cmdsn=self._max_cmdsn,
                data=nop_out.data[: parameters.max_xmit_data_length],
            )
        )

    def _on_tmf_request(self, request: pdus.TmfRequest, events: list[TargetEvent]) -> None:
        if not self._accept(request.cmdsn, immediate=request.immediate):
            return
        self._release(immediate=request.immediate)
        tasks = tuple(self._tasks.values())
        if request.function == TmfFunction.ABORT_TASK:
            tasks = tuple(task for task in tasks if task.command.itt == request.rtt)
            if not tasks:
                self._send_tmf_response(request.itt, TmfStatus.NO_TASK)
                return
        elif request.function not in _ABORT_ALL:
            self._send_tmf_response(request.itt, TmfStatus.NOT_SUPPORTED)
            return
        for task in tasks:
            if not task.is_delivered:
                self._drop(task)
        delivered = tuple(task for task in tasks if task.is_delivered)
        self._tmfs[request.itt] = delivered
        tags = tuple(task.command.itt for task in delivered)
        events.append(TaskManagement(request.itt, request.function, tags))

    def _send_tmf_response(self, itt: int, response: int) -> None:
        self._send(
            pdus.TmfResponse(
                response=response,
                itt=itt,
                statsn=self._take_statsn(),
                exp_cmdsn=self._exp_cmdsn,
                max_cmdsn=self._max_cmdsn,
            )
        )

    def _on_logout_request(self, request: pdus.LogoutRequest, events: list[TargetEvent]) -> None:
        self._state.received(Event.LOGOUT)
        self._send(
            pdus.LogoutResponse(
                itt=request.itt,
                statsn=self._take_statsn(),
                exp_cmdsn=self._exp_cmdsn,
                max_cmdsn=self._max_cmdsn,
            )
        )
        self._state.sent(Event.LOGOUT_DONE)
        self._tasks.clear()
        events.append(LoggedOut())
