"""The states of one iSCSI connection and the numbers that order its PDUs.

**Connection states** are those of RFC 7143 8.1, a session having exactly one connection (MaxConnections=1), so that
session and connection live and die together. The states in which TCP connects (S2, S3) are the shell's; these tables
begin when it has. Both ends walk the same one, each with its own events: an event without an entry *is* the protocol
error. The login stages inside S4 (6.3) are a second table.

**Numbers** are 32-bit serial numbers (4.2.2, RFC 1982), compared by their difference. A :class:`CommandWindow` holds
what an initiator knows of the target's readiness: it may send a command while its CmdSN does not exceed MaxCmdSN. A
:class:`TaskTags` pool holds the initiator task tags, as many as the kernel preallocates tasks (``cmds_max``), of which
some are kept for management so that a ping never waits for a write.
"""

from collections import deque
from enum import Enum, IntEnum, auto

from storage_backends.wire import LocalProtocolError, ProtocolError, RemoteProtocolError

__all__ = [
    "CMDS_MAX",
    "LOGIN_TRANSITIONS",
    "MGMT_CMDS_MAX",
    "TRANSITIONS",
    "CommandWindow",
    "ConnectionState",
    "Event",
    "LoginStage",
    "State",
    "TaskTags",
    "serial_add",
    "serial_le",
    "serial_lt",
]

CMDS_MAX = 128
"""Tasks of a session (ISCSI_DEF_XMIT_CMDS_MAX, include/scsi/libiscsi.h)."""
MGMT_CMDS_MAX = 15
"""Those of them for NOP-Out, task management and logout (ISCSI_MGMT_CMDS_MAX)."""

_SERIAL_MASK = 0xFFFFFFFF
_SERIAL_HALF = 0x80000000


class State(Enum):
    """Connection states (8.1.3)."""

    FREE = auto()
    """S1: nothing has been said, or the connection ended in good order."""
    IN_LOGIN = auto()
    """S4"""
    LOGGED_IN = auto()
    """S5: the full feature phase."""
    IN_LOGOUT = auto()
    """S6: a logout was sent or received and not yet answered."""
    LOGOUT_REQUESTED = auto()
    """S7: the target asked for a logout."""
    CLEANUP_WAIT = auto()
    """S8: it broke; tasks are left to clean up."""


class Event(Enum):
    """What moves a connection from state to state (8.1.2)."""

    LOGIN = auto()
    """T4: the first Login Request."""
    LOGIN_FINAL = auto()
    """T5: the Login Response that leads to the full feature phase."""
    LOGIN_FAILED = auto()
    """T7: a Login Response with a status class, or the transport broke."""
    ASYNC_LOGOUT = auto()
    """T11, T12: an Async Message asks for a logout."""
    LOGOUT = auto()
    """T9, T10: a Logout Request."""
    LOGOUT_DONE = auto()
    """T13: a Logout Response saying success."""
    FAILED = auto()
    """T15 to T17: the transport broke, a ping went unanswered, or the peer broke the protocol."""


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.FREE: {Event.LOGIN: State.IN_LOGIN, Event.FAILED: State.FREE},
    State.IN_LOGIN: {
        Event.LOGIN_FINAL: State.LOGGED_IN,
        Event.LOGIN_FAILED: State.FREE,
        Event.FAILED: State.FREE,
    },
    State.LOGGED_IN: {
        Event.ASYNC_LOGOUT: State.LOGOUT_REQUESTED,
        Event.LOGOUT: State.IN_LOGOUT,
        Event.FAILED: State.CLEANUP_WAIT,
    },
    State.LOGOUT_REQUESTED: {
        Event.ASYNC_LOGOUT: State.LOGOUT_REQUESTED,
        Event.LOGOUT: State.IN_LOGOUT,
        Event.FAILED: State.CLEANUP_WAIT,
    },
    State.IN_LOGOUT: {
        Event.ASYNC_LOGOUT: State.IN_LOGOUT,
        Event.LOGOUT_DONE: State.FREE,
        Event.FAILED: State.CLEANUP_WAIT,
    },
    State.CLEANUP_WAIT: {Event.FAILED: State.CLEANUP_WAIT},
}


class ConnectionState:
    """Where one connection stands; only the table moves it."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = State.FREE

    @property
    def full_feature(self) -> bool:
        """Whether PDUs other than login's may flow."""
        return self.current in (State.LOGGED_IN, State.LOGOUT_REQUESTED, State.IN_LOGOUT)

    def sent(self, event: Event) -> None:
        """Step for something of our own. Raises LocalProtocolError if it may not happen now."""
        self._step(event, LocalProtocolError, "sent")

    def received(self, event: Event) -> None:
        """Step for something of the peer. Raises RemoteProtocolError if it may not happen now."""
        self._step(event, RemoteProtocolError, "received")

    def _step(self, event: Event, blame: type[ProtocolError], verb: str) -> None:
        try:
            self.current = TRANSITIONS[self.current][event]
        except KeyError:
            raise blame(f"{event.name} {verb} in state {self.current.name}") from None


class LoginStage(IntEnum):
    """Stages of the login phase as its PDUs number them (11.12.3)."""

    SECURITY_NEGOTIATION = 0
    LOGIN_OPERATIONAL_NEGOTIATION = 1
    FULL_FEATURE_PHASE = 3


LOGIN_TRANSITIONS: dict[LoginStage, tuple[LoginStage, ...]] = {
    LoginStage.SECURITY_NEGOTIATION: (LoginStage.LOGIN_OPERATIONAL_NEGOTIATION, LoginStage.FULL_FEATURE_PHASE),
    LoginStage.LOGIN_OPERATIONAL_NEGOTIATION: (LoginStage.FULL_FEATURE_PHASE,),
    LoginStage.FULL_FEATURE_PHASE: (),
}
"""The stages a PDU with the T bit may lead to (6.3)."""


def serial_add(number: int, increment: int = 1) -> int:
    """Return the serial number ``increment`` after ``number``."""
    return (number + increment) & _SERIAL_MASK


def serial_lt(a: int, b: int) -> bool:
    """Return whether ``a`` comes before ``b`` (RFC 1982 3.2)."""
    return a != b and (b - a) & _SERIAL_MASK < _SERIAL_HALF


def serial_le(a: int, b: int) -> bool:
    """Return whether ``a`` comes before ``b`` or is it."""
    return (b - a) & _SERIAL_MASK < _SERIAL_HALF


class CommandWindow:
    """The initiator's end of command numbering (4.2.2.1)."""

    __slots__ = ("cmdsn", "exp_cmdsn", "max_cmdsn")

    def __init__(self, cmdsn: int) -> None:
        self.cmdsn = cmdsn
        """Number of the next command that is not immediate."""
        # before the target has said anything it takes the login only, which is immediate
        self.exp_cmdsn = cmdsn
        self.max_cmdsn = serial_add(cmdsn, -1)

    @property
    def is_open(self) -> bool:
        """Whether the next command may be sent."""
        return serial_le(self.cmdsn, self.max_cmdsn)

    def take(self) -> int:
        """Return the number of a command being sent."""
        assert self.is_open
        cmdsn = self.cmdsn
        self.cmdsn = serial_add(cmdsn)
        return cmdsn

    def update(self, exp_cmdsn: int, max_cmdsn: int) -> None:
        """Take the target's numbers from a PDU; they only move forward, and a contradiction is ignored (4.2.2.1)."""
        if serial_lt(max_cmdsn, serial_add(exp_cmdsn, -1)):
            return
        if serial_lt(self.exp_cmdsn, exp_cmdsn):
            self.exp_cmdsn = exp_cmdsn
        if serial_lt(self.max_cmdsn, max_cmdsn):
            self.max_cmdsn = max_cmdsn


class TaskTags:
    """Initiator task tags not in use, handed out in the order they came back (the kernel's kfifo)."""

    __slots__ = ("_free",)

    def __init__(self, nr_tags: int) -> None:
        self._free = deque(range(nr_tags))

    @property
    def nr_free(self) -> int:
        """How many are left."""
        return len(self._free)

    def get(self, *, keep: int, itt: int | None = None) -> int:
        """Take the next tag, or ``itt``, and leave at least ``keep``. Raises LocalProtocolError if that cannot be."""
        if len(self._free) <= keep:
            raise LocalProtocolError(f"only {len(self._free)} task tags are free")
        if itt is None:
            return self._free.popleft()
        if itt not in self._free:
            raise LocalProtocolError(f"task tag {itt} is in use")
        self._free.remove(itt)
        return itt

    def put(self, itt: int) -> None:
        """Give a tag back."""
        self._free.append(itt)
