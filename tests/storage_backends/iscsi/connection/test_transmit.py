"""The order in which an initiator sends."""

from storage_backends.iscsi.connection.initiator_task import InitiatorTask
from storage_backends.iscsi.connection.transmit import TransmitQueue
from storage_backends.iscsi.login.keys import parameters_of
from storage_backends.iscsi.messages.pdus import NopOut, R2t
from storage_backends.wire import Blocks

PARAMETERS = parameters_of({"ImmediateData": False}, max_recv_data_length=8192)
PING = NopOut(itt=9, cmdsn=1, exp_statsn=1)


def sent_write(itt: int, *, r2t: bool = True) -> InitiatorTask:
    """Return a write that was sent and, maybe, asked for its data."""
    task = InitiatorTask(itt, 0, bytes(16), payload=Blocks.of((1, 2, 3, 4)))
    task.command(PARAMETERS, cmdsn=1, exp_statsn=1)
    if r2t:
        asked = R2t(lun=0, itt=itt, ttt=1, statsn=1, exp_cmdsn=1, max_cmdsn=1, r2tsn=0, offset=0, data_length=4 * 4096)
        task.take_r2t(asked, PARAMETERS)
    return task


def test_management_then_commands_then_data() -> None:
    """Each kind waits for the one before it, whatever came first."""
    queue = TransmitQueue()
    asked, new = sent_write(1), InitiatorTask(2, 0, bytes(16))
    queue.push_data(asked)
    queue.push_command(new)
    queue.push_mgmt(PING)
    assert [queue.pull(commands=True) for _ in range(4)] == [PING, new, asked, None]


def test_data_under_way_goes_first() -> None:
    """A task that has begun its data is returned until it has none left."""
    queue = TransmitQueue()
    task = sent_write(1)
    queue.begin_data(task)
    queue.push_mgmt(PING)
    while task.has_data_to_send:
        assert queue.pull(commands=True) is task
        task.next_data_out(PARAMETERS, exp_statsn=1)
        queue.begin_data(task)
    assert queue.pull(commands=True) is PING


def test_data_does_not_wait_for_the_window() -> None:
    """With the window shut commands wait and the data of those already sent goes."""
    queue = TransmitQueue()
    new, asked = InitiatorTask(2, 0, bytes(16)), sent_write(1)
    queue.push_command(new)
    queue.push_data(asked)
    assert queue.pull(commands=False) is asked
    assert queue.nr_commands == 1
    assert queue.pull(commands=True) is new


def test_a_task_is_queued_once_and_not_while_held() -> None:
    """Data is queued for a task that has any, is not held and is not waiting already."""
    queue = TransmitQueue()
    task, held, idle = sent_write(1), sent_write(2), sent_write(3, r2t=False)
    held.held = True
    for pushed in (task, task, held, idle):
        queue.push_data(pushed)
    assert [queue.pull(commands=True) for _ in range(2)] == [task, None]


def test_a_dropped_task_sends_nothing_more() -> None:
    """A task is dropped wherever it waits, and dropping it twice is harmless."""
    queue = TransmitQueue()
    sending, waiting, new = sent_write(1), sent_write(2), InitiatorTask(3, 0, bytes(16))
    queue.begin_data(sending)
    queue.push_data(waiting)
    queue.push_command(new)
    for task in (sending, waiting, new, sending, waiting):
        queue.drop(task)
    assert queue.pull(commands=True) is None


def test_outside_the_full_feature_phase_only_management_goes() -> None:
    """Login and logout are sent when commands are not."""
    queue = TransmitQueue()
    queue.push_command(InitiatorTask(3, 0, bytes(16)))
    assert queue.pull_mgmt() is None
    queue.push_mgmt(PING)
    assert queue.pull_mgmt() is PING
