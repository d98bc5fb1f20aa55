"""Failures: whose they are, and the kernel's numbers."""

import errno

import pytest

from netvm.errors import BudgetExceededError, Errno, NetvmError, UsageError


@pytest.mark.parametrize("error", list(Errno))
def test_numbers_are_the_kernels(error: Errno) -> None:
    """Each has the number Linux gives that name."""
    assert errno.errorcode[error.value] == error.name


@pytest.mark.parametrize("kind", [UsageError, BudgetExceededError])
def test_what_is_raised_on_purpose_is_one_family(kind: type[NetvmError]) -> None:
    """Who wants to tell our failures from bugs catches one class, and gets the line to print."""
    with pytest.raises(NetvmError, match=r"run\.seed: -1") as caught:
        raise kind("run.seed: -1 should be 0 or more")
    assert str(caught.value) == "run.seed: -1 should be 0 or more"


def test_blame_is_in_the_type() -> None:
    """A user's mistake is no budget that ran out, nor the other way round."""
    assert not issubclass(UsageError, BudgetExceededError)
    assert not issubclass(BudgetExceededError, UsageError)
