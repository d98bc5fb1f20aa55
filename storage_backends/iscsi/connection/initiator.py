"""The initiator's end of an iSCSI connection: login, tasks, the command window and the ping.

The caller asks for reads and writes by block, hands in what the socket delivered, and sends the PDUs that
:meth:`InitiatorConnection.next_pdu` returns, in the order :mod:`~storage_backends.iscsi.connection.transmit` explains.

**Numbers.** StatSN must come without a gap; at ErrorRecoveryLevel 0 a gap is the end of the connection. CmdSN is given
to a command when it is sent, so one waiting for the window has none. Management PDUs are immediate: they carry the next
CmdSN, do not use it up, and wait for nothing.

**Task tags** come from one pool, as the kernel's tasks do: a SCSI command leaves the last 15 to management, and task
management leaves the last one to the ping.

**Failure.** A failed connection is of no further use: the tasks it still knows, :attr:`InitiatorConnection.task_tags`,
are to be sent again on another. A breach of the protocol raises; facts of the same chunk before the breach are lost
with the connection, which at worst makes a command be sent twice.

**Aborts** follow FastAbort=Yes: while a task management function is out, no more data is sent for its tasks, and during
a reset no new command.

Left out: bidirectional commands, more than one logical unit, text and SNACK.
"""

from dataclasses import dataclass, field

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
from storage_backends.iscsi.connection.initiator_task import InitiatorTask
from storage_backends.iscsi.connection.liveness import Liveness, Verdict
from storage_backends.iscsi.connection.transmit import TransmitQueue
from storage_backends.iscsi.login.keys import LoginOffer, SessionParameters
from storage_backends.iscsi.login.phase import LOGIN_DATA_LENGTH_MAX, InitiatorLogin, LoginRefused
from storage_backends.iscsi.messages import pdus
from storage_backends.iscsi.messages.framing import Pdu, PduReader, frame
from storage_backends.iscsi.messages.pdus import RESERVED_TAG, AsyncEvent, DataFlag, ResponseFlag, TmfFunction
from storage_backends.iscsi.state import (
    CMDS_MAX,
    MGMT_CMDS_MAX,
    CommandWindow,
    ConnectionState,
    Event,
    State,
    TaskTags,
    serial_add,
    serial_le,
)
from storage_backends.wire import Chunk, LocalProtocolError, Payload, RemoteProtocolError

__all__ = ["InitiatorConfig", "InitiatorConnection"]

_NS_PER_S = 1_000_000_000
_PING_TAGS = 1
_SENSE_LENGTH_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class InitiatorConfig:
    """Who an initiator is and what it wants; the defaults are those of etc/iscsid.conf."""

    initiator_name: str = "iqn.2005-03.org.netvm:host"
    target_name: str = "iqn.2005-03.org.netvm:swap"
    isid: bytes = bytes.fromhex("00023d000000")
    """Open-iscsi's vendor qualifier."""
    lun: int = 0
    block_size: int = 512
    offer: LoginOffer = field(default_factory=LoginOffer)
    cmds_max: int = CMDS_MAX
    noop_out_interval_ns: int = 5 * _NS_PER_S
    """Silence before a ping; 0 is never."""
    noop_out_timeout_ns: int = 5 * _NS_PER_S
    """Silence after a ping before the connection fails."""


class InitiatorConnection:
    """The initiator's end of one connection, which is also its session."""

    __slots__ = (
        "_config",
        "_exp_statsn",
        "_liveness",
        "_login",
        "_queue",
        "_reader",
        "_resets",
        "_state",
        "_tags",
        "_tasks",
        "_tmfs",
        "_window",
        "parameters",
    )

    def __init__(self, config: InitiatorConfig, *, now_ns: int) -> None:
        self._config = config
        self._state = ConnectionState()
        self._reader = PduReader(LOGIN_DATA_LENGTH_MAX)
        self._window = CommandWindow(cmdsn=1)
        self._exp_statsn = 0
        self._liveness = Liveness(
            interval_ns=config.noop_out_interval_ns, timeout_ns=config.noop_out_timeout_ns, now_ns=now_ns
        )
        self._login: InitiatorLogin | None = None
        self.parameters: SessionParameters | None = None
        """What was agreed, once logged in."""
        self._tags = TaskTags(config.cmds_max)
        # invariant: every SCSI task that was asked for and has not ended
        self._tasks: dict[int, InitiatorTask] = {}
        # invariant: each task management function in flight with the tasks it aborts
        self._tmfs: dict[int, tuple[InitiatorTask, ...]] = {}
        # invariant: those of them that reset the logical unit
        self._resets: set[int] = set()
        self._queue = TransmitQueue()

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state.current

    @property
    def bytes_wanted(self) -> int:
        """How many more bytes complete the next header, or what follows it."""
        return self._reader.bytes_wanted

    @property
    def nr_free_tasks(self) -> int:
        """How many SCSI commands can still be taken; iscsi_queuecommand answers busy at 0."""
        return max(0, self._tags.nr_free - MGMT_CMDS_MAX)

    @property
    def is_window_open(self) -> bool:
        """Whether one more command could be sent, those waiting counted; iscsi_queuecommand answers busy if not."""
        return serial_le(serial_add(self._window.cmdsn, self._queue.nr_commands), self._window.max_cmdsn)

    @property
    def task_tags(self) -> tuple[int, ...]:
        """SCSI tasks that have not ended, oldest first."""
        return tuple(self._tasks)

    def login(self) -> None:
        """Begin: queue the first Login Request."""
        self._state.sent(Event.LOGIN)
        config = self._config
        self._login = InitiatorLogin(
            config.offer,
            initiator_name=config.initiator_name,
            target_name=config.target_name,
            isid=config.isid,
            cmdsn=self._window.cmdsn,
        )
        self._queue.push_mgmt(self._login.request(self._exp_statsn))

    def write(self, lba: int, payload: Payload, *, itt: int | None = None, fua: bool = False) -> int:
        """Queue a WRITE and return its task tag."""
        cdb = scsi.push_write(lba, self._nr_blocks(payload.size_bytes), fua=fua)
        return self._begin(itt, cdb, payload=payload)

    def read(self, lba: int, nr_blocks: int, *, itt: int | None = None) -> int:
        """Queue a READ and return its task tag."""
        return self._begin(itt, scsi.push_read(lba, nr_blocks), read_length=nr_blocks * self._config.block_size)

    def flush(self, *, itt: int | None = None) -> int:
        """Queue a SYNCHRONIZE CACHE and return its task tag."""
        return self._begin(itt, scsi.push_flush())

    def command(self, cdb: bytes, *, read_length: int = 0, itt: int | None = None) -> int:
        """Queue any other command, such as those of a disk's discovery, and return its task tag."""
        return self._begin(itt, cdb.ljust(scsi.CDB_SIZE, b"\0"), read_length=read_length)

    def abort_task(self, itt: int) -> int | None:
        """Abort a task; return the function's tag, or None if the task was not sent yet and is simply gone."""
        task = self._tasks.get(itt)
        if task is None:
            raise LocalProtocolError(f"task {itt:#x} is not in use")
        if not task.is_sent:
            self._end(task)
            return None
        return self._manage(TmfFunction.ABORT_TASK, (task,), rtt=itt, refcmdsn=task.cmdsn)

    def reset_lun(self) -> int:
        """Abort every task that was sent; commands wait until the answer. Return the function's tag."""
        tasks = tuple(task for task in self._tasks.values() if task.is_sent)
        itt = self._manage(TmfFunction.LOGICAL_UNIT_RESET, tasks, rtt=RESERVED_TAG, refcmdsn=0)
        self._resets.add(itt)
        return itt

    def logout(self) -> None:
        """Close the session in good order; commands not yet sent will not be."""
        self._state.sent(Event.LOGOUT)
        itt = self._tags.get(keep=_PING_TAGS)
        self._queue.push_mgmt(
            pdus.LogoutRequest(reason=0, itt=itt, cmdsn=self._window.cmdsn, exp_statsn=self._exp_statsn)
        )

    def next_pdu(self) -> Pdu | None:
        """Return the next PDU to send, or None while there is none."""
        parameters = self.parameters
        if parameters is None or self._state.current not in (State.LOGGED_IN, State.LOGOUT_REQUESTED):
            message = self._queue.pull_mgmt() if self._state.current in (State.IN_LOGIN, State.IN_LOGOUT) else None
            return None if message is None else self._frame(message)
        due = self._queue.pull(commands=self._window.is_open and not self._resets)
        if not isinstance(due, InitiatorTask):
            return None if due is None else self._frame(due)
        if due.is_sent:
            message = due.next_data_out(parameters, exp_statsn=self._exp_statsn)
        else:
            message = due.command(parameters, cmdsn=self._window.take(), exp_statsn=self._exp_statsn)
        self._queue.begin_data(due)
        return self._frame(message)

    def receive(self, chunk: Chunk, now_ns: int) -> list[InitiatorEvent]:
        """Take a chunk from the target. Raises RemoteProtocolError if it breaks the protocol: the connection failed."""
        self._liveness.last_recv_ns = now_ns
        self._reader.push(chunk)
        events: list[InitiatorEvent] = []
        try:
            while (message := self._reader.pull()) is not None:
                self._take(message, events)
        except RemoteProtocolError:
            self._state.sent(Event.FAILED)
            raise
        return events

    def receive_eof(self) -> list[InitiatorEvent]:
        """Take the end of the stream. Raises RemoteProtocolError if it cuts a PDU in two."""
        was = self._state.current
        self._state.sent(Event.FAILED)
        if self._reader.inside:
            raise RemoteProtocolError(f"target closed the connection {self.bytes_wanted} bytes short of a PDU")
        return [] if was is State.FREE else [ConnectionFailed(f"target closed the connection in state {was.name}")]

    def timer_ns(self) -> int | None:
        """Return when :meth:`handle_timer` is due, or None for never."""
        return self._liveness.timer_ns if self._state.full_feature else None

    def handle_timer(self, now_ns: int) -> list[InitiatorEvent]:
        """Ping a silent target, or give up on it."""
        if not self._state.full_feature:
            return []
        match self._liveness.check(now_ns):
            case Verdict.PING:
                itt = self._liveness.ping_itt = self._tags.get(keep=0)
                self._queue.push_mgmt(pdus.NopOut(itt=itt, cmdsn=self._window.cmdsn, exp_statsn=self._exp_statsn))
            case Verdict.DEAD:
                self._state.sent(Event.FAILED)
                return [ConnectionFailed(f"ping timed out: nothing received since {self._liveness.last_recv_ns} ns")]
            case Verdict.WAIT:
                pass
        return []

    def _nr_blocks(self, size_bytes: int) -> int:
        nr_blocks, rest = divmod(size_bytes, self._config.block_size)
        if rest:
            raise LocalProtocolError(f"{size_bytes} bytes are not whole blocks of {self._config.block_size}")
        return nr_blocks

    def _begin(self, itt: int | None, cdb: bytes, *, payload: Payload | None = None, read_length: int = 0) -> int:
        if self._state.current is not State.LOGGED_IN:
            raise LocalProtocolError(f"command in state {self._state.current.name}")
        tag = self._tags.get(keep=MGMT_CMDS_MAX, itt=itt)
        task = InitiatorTask(tag, self._config.lun, cdb, payload=payload, read_length=read_length)
        self._tasks[tag] = task
        self._queue.push_command(task)
        return tag

    def _manage(self, function: TmfFunction, tasks: tuple[InitiatorTask, ...], *, rtt: int, refcmdsn: int) -> int:
        """Queue a task management function and hold back what its tasks still have to send."""
        if not self._state.full_feature:
            raise LocalProtocolError(f"{function.name} in state {self._state.current.name}")
        itt = self._tags.get(keep=_PING_TAGS)
        self._tmfs[itt] = tasks
        for task in tasks:
            task.held = True
            self._queue.drop(task)
        self._queue.push_mgmt(
            pdus.TmfRequest(
                function=function,
                lun=scsi.push_lun(self._config.lun),
                itt=itt,
                rtt=rtt,
                cmdsn=self._window.cmdsn,
                exp_statsn=self._exp_statsn,
                refcmdsn=refcmdsn,
            )
        )
        return itt

    def _end(self, task: InitiatorTask) -> None:
        self._queue.drop(task)
        del self._tasks[task.itt]
        self._tags.put(task.itt)

    def _frame(self, message: pdus.Message) -> Pdu:
        if self.parameters is None:
            return frame(message)
        return frame(message, header_digest=self.parameters.header_digest, data_digest=self.parameters.data_digest)

    def _take(self, message: pdus.Message, events: list[InitiatorEvent]) -> None:
        """Take a PDU."""
        if isinstance(message, pdus.LoginResponse) and self._state.current is State.IN_LOGIN:
            self._on_login_response(message, events)
            return
        if not self._state.full_feature or self.parameters is None:
            raise RemoteProtocolError(f"{type(message).__name__} in state {self._state.current.name}")
        match message:
            case pdus.ScsiResponse():
                self._on_scsi_response(message, events)
            case pdus.DataIn():
                self._on_data_in(message, events)
            case pdus.R2t():
                self._on_r2t(message, self.parameters)
            case pdus.NopIn():
                self._on_nop_in(message)
            case pdus.TmfResponse():
                self._on_tmf_response(message, events)
            case pdus.LogoutResponse():
                self._on_logout_response(message, events)
            case pdus.AsyncMessage():
                self._on_async_message(message, events)
            case pdus.Reject():
                self._take_statsn(message.statsn)
                events.append(Rejected(message.reason, message.data))
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} from a target")
        self._window.update(message.exp_cmdsn, message.max_cmdsn)

    def _take_statsn(self, statsn: int) -> None:
        """Count a status. At ErrorRecoveryLevel 0 a missing one cannot be had again (4.2.2.2, 7.9)."""
        if statsn != self._exp_statsn:
            raise RemoteProtocolError(f"StatSN {statsn}, expected {self._exp_statsn}")
        self._exp_statsn = serial_add(statsn)

    def _task(self, itt: int, what: str) -> InitiatorTask:
        task = self._tasks.get(itt)
        if task is None or not task.is_sent:
            raise RemoteProtocolError(f"{what} for task tag {itt:#x}, which is not in use")
        return task

    def _on_login_response(self, response: pdus.LoginResponse, events: list[InitiatorEvent]) -> None:
        assert self._login is not None
        self._exp_statsn = serial_add(response.statsn)
        outcome = self._login.receive(response)
        if isinstance(outcome, LoginRefused):
            self._state.received(Event.LOGIN_FAILED)
            events.append(ConnectionFailed(outcome.reason))
        elif isinstance(outcome, SessionParameters):
            self._state.received(Event.LOGIN_FINAL)
            self._window.update(response.exp_cmdsn, response.max_cmdsn)
            self._reader.max_data_length = outcome.max_recv_data_length
            self._reader.header_digest = outcome.header_digest
            self._reader.data_digest = outcome.data_digest
            self.parameters = outcome
            events.append(LoggedIn(outcome))
        else:
            self._queue.push_mgmt(outcome)

    def _on_scsi_response(self, response: pdus.ScsiResponse, events: list[InitiatorEvent]) -> None:
        self._take_statsn(response.statsn)
        task = self._task(response.itt, "SCSI Response")
        residual = response.residual if response.flags & ResponseFlag.UNDERFLOW else 0
        is_good = response.response == 0 and response.status == scsi.Status.GOOD
        payload = task.data_received(underflow=residual) if is_good else None
        # 11.4.7: the data segment is SenseLength and then so many bytes of sense
        sense_end = _SENSE_LENGTH_SIZE + int.from_bytes(response.data[:_SENSE_LENGTH_SIZE], "big")
        sense = response.data[_SENSE_LENGTH_SIZE:sense_end]
        self._end(task)
        events.append(TaskDone(task.itt, response.response, response.status, payload, sense, residual))

    def _on_data_in(self, data_in: pdus.DataIn, events: list[InitiatorEvent]) -> None:
        task = self._task(data_in.itt, "Data-In")
        task.take_data_in(data_in)
        if not data_in.flags & DataFlag.STATUS:
            return
        self._take_statsn(data_in.statsn)
        residual = data_in.residual if data_in.flags & DataFlag.UNDERFLOW else 0
        payload = task.data_received(underflow=residual) if data_in.status == scsi.Status.GOOD else None
        self._end(task)
        events.append(TaskDone(task.itt, 0, data_in.status, payload, b"", residual))

    def _on_r2t(self, r2t: pdus.R2t, parameters: SessionParameters) -> None:
        task = self._task(r2t.itt, "R2T")
        task.take_r2t(r2t, parameters)
        self._queue.push_data(task)

    def _on_nop_in(self, nop_in: pdus.NopIn) -> None:
        if nop_in.itt != RESERVED_TAG:
            # 11.19: the answer to a ping takes a StatSN, a ping of the target does not
            self._take_statsn(nop_in.statsn)
            if nop_in.itt != self._liveness.ping_itt:
                raise RemoteProtocolError(f"NOP-In for task tag {nop_in.itt:#x}, which is no ping")
            self._liveness.ping_itt = None
            self._tags.put(nop_in.itt)
        elif nop_in.ttt != RESERVED_TAG:
            self._queue.push_mgmt(
                pdus.NopOut(
                    lun=nop_in.lun,
                    itt=RESERVED_TAG,
                    ttt=nop_in.ttt,
                    cmdsn=self._window.cmdsn,
                    exp_statsn=self._exp_statsn,
                )
            )

    def _on_tmf_response(self, response: pdus.TmfResponse, events: list[InitiatorEvent]) -> None:
        self._take_statsn(response.statsn)
        if response.itt not in self._tmfs:
            raise RemoteProtocolError(f"TMF Response for task tag {response.itt:#x}, which is not in use")
        # a task that ended meanwhile is gone, and its tag may already be another's
        tasks = [task for task in self._tmfs.pop(response.itt) if self._tasks.get(task.itt) is task]
        self._tags.put(response.itt)
        self._resets.discard(response.itt)
        if response.response == pdus.TmfStatus.COMPLETE:
            for task in tasks:
                self._end(task)
        else:
            for task in tasks:
                task.held = False
                self._queue.push_data(task)
            tasks = []
        events.append(TaskManagementDone(response.itt, response.response, tuple(task.itt for task in tasks)))

    def _on_logout_response(self, response: pdus.LogoutResponse, events: list[InitiatorEvent]) -> None:
        self._take_statsn(response.statsn)
        if response.response:
            raise RemoteProtocolError(f"logout answered with {response.response}")
        self._state.received(Event.LOGOUT_DONE)
        events.append(LoggedOut())

    def _on_async_message(self, message: pdus.AsyncMessage, events: list[InitiatorEvent]) -> None:
        self._take_statsn(message.statsn)
        events.append(
            AsyncNotice(message.async_event, message.async_vcode, (message.param1, message.param2, message.param3))
        )
        if message.async_event == AsyncEvent.REQUEST_LOGOUT:
            self._state.received(Event.ASYNC_LOGOUT)
        elif message.async_event in (AsyncEvent.DROPPING_CONNECTION, AsyncEvent.DROPPING_ALL_CONNECTIONS):
            self._state.received(Event.FAILED)
            events.append(ConnectionFailed("target announced that it drops the connection"))
