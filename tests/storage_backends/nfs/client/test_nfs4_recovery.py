"""What the state manager does when it comes too late, loses a reply, or is asked for without a restart."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.mm.gfp import PF_MEMALLOC_NOFS
from netvm.runtime.task import Task
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4

MakeHost = Callable[..., Any]

MOUNTED = 7
"""Compounds until the swap file is open."""


def test_a_restart_noticed_after_the_grace_is_recovered(nfs4: MakeHost) -> None:
    """A client that was idle for longer than the grace opens its file anew, by its handle."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.restart(for_ms=500)
        await host.pause(task, 100_000)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1, within_ms=20_000)

    host.run(script)
    told = host.since(MOUNTED)
    assert told[-4:] == ["OPEN NO_GRACE", "RECLAIM_COMPLETE OK", "OPEN OK", "WRITE OK"]
    assert host.backend.stored()[1] == 5


def test_a_lost_reply_to_reclaim_complete_is_asked_for_again(nfs4: MakeHost) -> None:
    """It was executed and its reply not kept: under its next number it is complete already."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.forget()
        host.lose_reply(Nfs4Op.RECLAIM_COMPLETE)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1, within_ms=20_000)

    host.run(script)
    assert host.since(MOUNTED)[-2:] == ["RECLAIM_COMPLETE COMPLETE_ALREADY", "WRITE OK"]
    assert host.log == []


def test_a_reclaim_complete_that_is_not_taken_is_let_be(nfs4: MakeHost) -> None:
    """The server waits out its grace then; files that were claimed back are written at once."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.forget()
        host.fail(Nfs4Op.RECLAIM_COMPLETE, NfsStat4.NFS4ERR_SERVERFAULT)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)

    host.run(script)
    assert host.since(MOUNTED)[-2:] == ["RECLAIM_COMPLETE SERVERFAULT", "WRITE OK"]
    assert host.log == []


def test_a_stateid_that_is_lost_outside_a_grace_is_got_anew(nfs4: MakeHost) -> None:
    """A file whose stateid the server does not know, without a restart, is opened again by its handle."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.fail(Nfs4Op.WRITE, NfsStat4.NFS4ERR_BAD_STATEID)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1, within_ms=20_000)

    host.run(script)
    assert host.backend.stored()[1] == 5
    assert host.state.nr_recoveries == 1


@pytest.mark.parametrize("on", [True, False])
def test_the_manager_recovers_in_a_nofs_scope(nfs4: MakeHost, on: bool) -> None:
    """With ``nfs4_manager_nofs`` what it asks memory for enters no file system; without, it may."""
    host = nfs4(fixes=() if on else ("nfs4_manager_nofs",))
    seen: list[bool] = []
    new_task = host.client._new_task

    async def spy(task: Task, *args: Any, **how: Any) -> Any:
        if task.comm.endswith("-manager"):
            seen.append(bool(task.flags & PF_MEMALLOC_NOFS))
        return await new_task(task, *args, **how)

    host.client._new_task = spy

    async def script(task: Task) -> None:
        host.forget()
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)

    host.run(script)
    assert seen == [on] * len(seen)
    assert seen


def test_a_server_that_is_down_executes_nothing(nfs4: MakeHost) -> None:
    """What still comes on the old connection is nobody's."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.restart(for_ms=500)
        nr = len(host.served)
        await host.write(task, 1, 5)
        await host.pause(task, 400)
        assert len(host.served) == nr
        await host.until_ended(task, 1)

    host.run(script)


def test_a_recovery_that_is_not_over_is_told(nfs4: MakeHost) -> None:
    """How many calls sleep for it, and whether there is a thread that could end it."""
    host = nfs4(fixes=("nfs4_manager_kept",))
    told: list[str] = []

    async def script(task: Task) -> None:
        host.forget()
        create = host.state._creator.kthread_create

        async def spy(*about: Any) -> None:
            told.extend(host.backend.notes())
            await create(*about)

        host.state._creator.kthread_create = spy
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)

    host.run(script)
    assert told == ["0 calls sleep until the state manager, whose thread is being made, has made the session anew"]
    assert host.backend.notes()[-1] == "1 times the state manager made the session with the server anew"
