"""What the two ends of an iSCSI connection tell their caller.

Facts are named tuples because one is made for every command.
"""

from typing import NamedTuple, TypeAlias

from storage_backends.iscsi.login.keys import SessionParameters
from storage_backends.iscsi.scsi import MediumKind
from storage_backends.wire import Payload

__all__ = [
    "AsyncNotice",
    "Command",
    "ConnectionFailed",
    "InitiatorEvent",
    "LoggedIn",
    "LoggedOut",
    "Rejected",
    "TargetEvent",
    "TaskDone",
    "TaskManagement",
    "TaskManagementDone",
]


class LoggedIn(NamedTuple):
    """The full feature phase has begun."""

    parameters: SessionParameters


class TaskDone(NamedTuple):
    """A command ended."""

    itt: int
    response: int
    """0, or a failure of the target that makes the status meaningless."""
    status: int
    """See :class:`~storage_backends.iscsi.scsi.Status`."""
    payload: Payload | None
    """What a read found."""
    sense: bytes
    residual: int
    """Bytes that were expected and not transferred."""


class TaskManagementDone(NamedTuple):
    """A task management function ended."""

    itt: int
    response: int
    """See :class:`~storage_backends.iscsi.messages.pdus.TmfStatus`."""
    task_tags: tuple[int, ...]
    """Tasks that ended with it and get no :class:`TaskDone`."""


class AsyncNotice(NamedTuple):
    """The target announced something (RFC 7143 11.9)."""

    async_event: int
    async_vcode: int
    params: tuple[int, int, int]


class Rejected(NamedTuple):
    """The target did not take a PDU (RFC 7143 11.17)."""

    reason: int
    header: bytes


class LoggedOut(NamedTuple):
    """The session was closed in good order."""


class ConnectionFailed(NamedTuple):
    """The connection is of no further use."""

    reason: str


class Command(NamedTuple):
    """A command for the disk; what it writes has arrived."""

    itt: int
    kind: MediumKind
    lba: int
    nr_blocks: int
    payload: Payload | None
    """What a write brings."""
    fua: bool


class TaskManagement(NamedTuple):
    """Tasks are to be aborted; the answer is due when none of them touches the disk any more."""

    itt: int
    function: int
    """See :class:`~storage_backends.iscsi.messages.pdus.TmfFunction`."""
    task_tags: tuple[int, ...]
    """Commands delivered and not yet responded to."""


InitiatorEvent: TypeAlias = (
    LoggedIn | TaskDone | TaskManagementDone | AsyncNotice | Rejected | LoggedOut | ConnectionFailed
)
TargetEvent: TypeAlias = LoggedIn | Command | TaskManagement | LoggedOut | ConnectionFailed
