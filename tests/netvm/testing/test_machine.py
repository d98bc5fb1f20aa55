"""The state machine over a host's memory and packets, run as a user would."""

from hypothesis import settings

from netvm.testing.machine import HostMachine


class TestHost(HostMachine.TestCase):  # type: ignore[name-defined,misc]  # made by Hypothesis while running
    """Rules in any order leave the books balanced."""

    settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
