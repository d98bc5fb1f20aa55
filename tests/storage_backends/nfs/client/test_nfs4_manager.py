"""The thread of the state manager: when it is made, when it ends, and what calls do until it begins."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from netvm.mm.gfp import PF_KTHREAD
from netvm.runtime.task import Task
from storage_backends.nfs.messages.nfs4 import Nfs4Op

MakeHost = Callable[..., Any]

MOUNTED = 7
"""Compounds until the swap file is open."""
MANAGER = "10.0.2.2-manager"
FORGOTTEN = ["SEQUENCE BADSESSION", "DESTROY_SESSION BADSESSION", "CREATE_SESSION STALE_CLIENTID"]


class Kthreadd:
    """What is asked of kthreadd."""

    def __init__(self, host: Any, *, takes_ms: float = 0) -> None:
        self.made: list[str] = []
        """Names of the threads that were asked for."""
        self.asked_by: list[str] = []
        creator = host.host.host.creator
        queued: deque[str] = deque()
        create, allocate = creator.kthread_create, creator._allocate_stack

        async def kthread_create(task: Task, name: str) -> None:
            self.made.append(name)
            self.asked_by.append(task.comm)
            queued.append(name)
            await create(task, name)

        async def allocate_stack(task: Task) -> None:
            await allocate(task)
            if queued.popleft() == MANAGER and takes_ms:
                await host.pause(task, takes_ms)

        creator.kthread_create, creator._allocate_stack = kthread_create, allocate_stack


@pytest.mark.parametrize("kept", [True, False])
def test_a_mount_with_swap_keeps_its_manager(nfs4: MakeHost, kept: bool) -> None:
    """The thread is there from swapon on and stays; without the fix kthreadd makes it when needed, and it ends."""
    host = nfs4(fixes=() if kept else ("nfs4_manager_kept",))
    kthreadd = Kthreadd(host)
    seen = []

    async def script(task: Task) -> None:
        made = [*kthreadd.made]
        seen.append(host.threads())
        for turn in range(2):
            host.forget()
            host.when(Nfs4Op.RECLAIM_COMPLETE, lambda: seen.append(host.threads()))
            await host.write(task, 1, turn)
            await host.until_ended(task, turn + 1)
            await host.pause(task, 10)
            seen.append(host.threads())
        assert made.count(MANAGER) == kept
        assert kthreadd.made.count(MANAGER) == (1 if kept else 2)

    host.run(script)
    assert host.state.nr_recoveries == 2
    if kept:
        assert seen == [seen[0]] * 5
        assert len(seen[0]) == 1
    else:
        assert [len(found) for found in seen] == [0, 1, 0, 1, 0]
        assert seen[1] != seen[3]
    assert all(thread.flags & PF_KTHREAD for found in seen for thread in found)
    assert (host.state.manager is not None) is kept


def test_a_mount_without_swap_has_no_manager_that_rests(nfs4: MakeHost) -> None:
    """The thread is made when it is needed, by kthreadd, and ends with the recovery, whatever is fixed."""
    host = nfs4("storage.role=fs")
    kthreadd = Kthreadd(host)

    async def script(task: Task) -> None:
        assert host.threads() == []
        host.forget()
        await host.mount.open(task, "made", create=True)
        await host.pause(task, 10)
        assert host.threads() == []
        assert MANAGER in kthreadd.made
        assert kthreadd.asked_by[kthreadd.made.index(MANAGER)] == task.comm

    host.run(script)
    told = host.since(MOUNTED - 1)
    assert told == [*FORGOTTEN, "EXCHANGE_ID OK", "CREATE_SESSION OK", "RECLAIM_COMPLETE OK", "OPEN OK"]


def test_one_thread_is_enough(nfs4: MakeHost) -> None:
    """Whoever else notices while it is made or runs asks for no other; calls wait for it, or for who makes it."""
    host = nfs4(fixes=("nfs4_manager_kept",))
    kthreadd = Kthreadd(host, takes_ms=2000)

    async def script(task: Task) -> None:
        host.forget()
        calls = [await host.write(task, page, 5) for page in range(4)]
        await host.pause(task, 900)
        assert kthreadd.made.count(MANAGER) == 1
        assert host.threads() == []
        asleep = [rpc for rpc in calls if rpc.sleeps_on]
        assert [rpc.sleeps_on for rpc in asleep] == ["nfs4: the end of the recovery"] * 3
        assert all(rpc.provider().needs == (host.host.host.creator.done,) for rpc in asleep)
        host.when(Nfs4Op.EXCHANGE_ID, lambda: seen.append([rpc.provider().needs for rpc in calls]))
        await host.until_ended(task, 4)
        ((first, *others),) = seen
        (manager,) = first
        assert manager.comm == MANAGER
        assert others == [first] * 3

    seen: list[Any] = []
    host.run(script)
    assert kthreadd.made.count(MANAGER) == 1
    assert host.state.nr_recoveries == 1


@pytest.mark.parametrize("frozen", [True, False])
def test_nobody_calls_in_a_session_that_is_lost(nfs4: MakeHost, frozen: bool) -> None:
    """From the first NFS4ERR_BADSESSION on a new call sleeps; without the fix it is made until the manager begins."""
    host = nfs4(fixes=("nfs4_manager_kept", *(() if frozen else ("nfs4_freeze_session",))))
    Kthreadd(host, takes_ms=2000)

    async def script(task: Task) -> None:
        host.forget()
        await host.write(task, 1, 5)
        await host.pause(task, 400)
        assert host.since(MOUNTED) == ["SEQUENCE BADSESSION"]
        assert host.state.table.draining is frozen
        assert host.threads() == []
        late = await host.write(task, 2, 6)
        await host.pause(task, 400)
        assert host.threads() == []
        assert host.since(MOUNTED) == ["SEQUENCE BADSESSION"] * (1 if frozen else 2)
        assert late.sleeps_on == "nfs4: the end of the recovery"
        assert host.state.table.nr_waiting == frozen
        await host.until_ended(task, 2)

    host.run(script)
    assert host.since(MOUNTED)[-2:] == ["WRITE OK"] * 2
    assert host.backend.stored()[1:3].tolist() == [5, 6]
