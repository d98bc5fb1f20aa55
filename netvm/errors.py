"""The failures netvm reports: of the user's input, of the emulated world, and of the run itself.

An ``assert`` in the model is our own bug. What a user typed wrong is a :class:`UsageError`: one line that names the
place, the value and what would be right. What goes wrong inside the emulated host is a kernel errno carried as a value
(:class:`Errno`), never a Python exception that crosses a room.
"""

from enum import IntEnum

__all__ = ["BudgetExceededError", "Errno", "NetvmError", "UsageError"]


class NetvmError(Exception):
    """Any failure netvm raises on purpose."""


class UsageError(NetvmError):
    """The user's input cannot be used; the message is one line fit to print. Exit code 2."""


class BudgetExceededError(NetvmError):
    """A run ended because its budget of virtual time or steps ran out. Exit code 3."""


class Errno(IntEnum):
    """Kernel error numbers as the emulated kernel returns them (include/uapi/asm-generic/errno*.h), negated on use."""

    EPERM = 1
    EINTR = 4
    EIO = 5
    EAGAIN = 11
    ENOMEM = 12
    EBUSY = 16
    EINVAL = 22
    ENOSPC = 28
    EPIPE = 32
    ENOBUFS = 105
    ECONNRESET = 104
    ETIMEDOUT = 110
    ECONNREFUSED = 111
