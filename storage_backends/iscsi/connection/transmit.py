"""What an initiator sends next: the queues of iscsi_data_xmit (drivers/scsi/libiscsi.c) and their order.

A task whose data is under way is finished first, then management PDUs go (login, pings, task management, logout), then
commands as far as the window is open, then the data that R2Ts asked for. So a ping waits for the data of one task at
most.
"""

from collections import deque

from storage_backends.iscsi.connection.initiator_task import InitiatorTask
from storage_backends.iscsi.messages.pdus import Message

__all__ = ["TransmitQueue"]


class TransmitQueue:
    """Everything an initiator still has to send."""

    __slots__ = ("_commands", "_mgmt", "_requeue", "_sending")

    def __init__(self) -> None:
        self._sending: InitiatorTask | None = None
        self._mgmt: deque[Message] = deque()
        self._commands: deque[InitiatorTask] = deque()
        # invariant: tasks with data to send, none of them held or being sent, each once
        self._requeue: deque[InitiatorTask] = deque()

    @property
    def nr_commands(self) -> int:
        """How many commands wait for their turn or the window."""
        return len(self._commands)

    def push_mgmt(self, message: Message) -> None:
        """Queue a management PDU."""
        self._mgmt.append(message)

    def push_command(self, task: InitiatorTask) -> None:
        """Queue a new command."""
        self._commands.append(task)

    def push_data(self, task: InitiatorTask) -> None:
        """Queue a task that has been asked for data, unless it is waiting already or held."""
        if task.has_data_to_send and not task.held and task is not self._sending and task not in self._requeue:
            self._requeue.append(task)

    def begin_data(self, task: InitiatorTask) -> None:
        """Let a task send its data before anything else."""
        assert self._sending in (None, task)
        self._sending = task if task.has_data_to_send else None

    def drop(self, task: InitiatorTask) -> None:
        """Send nothing more of a task."""
        if self._sending is task:
            self._sending = None
        elif task in self._requeue:
            self._requeue.remove(task)
        elif not task.is_sent:
            self._commands.remove(task)

    def pull(self, *, commands: bool) -> Message | InitiatorTask | None:
        """Return a management PDU, or the task whose command or data is next; ``commands`` lets new ones go."""
        if self._sending is not None:
            return self._sending
        if self._mgmt:
            return self._mgmt.popleft()
        if commands and self._commands:
            return self._commands.popleft()
        return self._requeue.popleft() if self._requeue else None

    def pull_mgmt(self) -> Message | None:
        """Return a management PDU, the only ones that may go outside the full feature phase."""
        return self._mgmt.popleft() if self._mgmt else None
