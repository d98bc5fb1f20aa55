"""Calls of one mount."""

from netvm.mm.gfp import PF_MEMALLOC, GfpScope
from storage_backends.nfs.connection.procedures import GETATTR, NULL
from storage_backends.nfs.messages.nfs3 import FhArgs


def test_a_call_is_answered_to_who_waits(mounted) -> None:
    """A synchronous call is run by the caller; an asynchronous one ends in nfsiod."""
    host = mounted()
    over = []

    async def script(task) -> None:
        reply = await host.client.call_sync(task, GETATTR, FhArgs(fh=host.backend.file.fh))
        assert reply.result.attributes.size_bytes == host.backend.file.size_bytes
        await host.client.call_async(task, NULL, None, done=lambda rpc, context: over.append((rpc.reply, context.comm)))
        await host.pause(task, 100)

    host.run(script)
    ((reply, comm),) = over
    assert reply.refusal == ""
    assert comm.startswith("kworker/u2")
    assert host.client.tasks == {}


def test_without_memory_for_a_task_there_is_no_call(mounted) -> None:
    """The task's own mempool is the last resort; then the caller is told."""
    host = mounted()

    async def script(task) -> None:
        pages = host.drain()
        with GfpScope(task, PF_MEMALLOC):
            made = []
            while (rpc := await host.client.call_async(task, NULL, None, done=lambda rpc, context: None)) is not None:
                made.append(rpc)
        assert len(made) >= 8
        assert host.client.nr_failed == 1
        host.give_back(pages)
        await host.pause(task, 5000)
        assert host.client.tasks == {}

    host.run(script)


def test_xids_differ(mounted) -> None:
    """No two calls have the same, also where the numbers wrap."""
    client = mounted().client
    client._xid = 0xFFFFFFFE
    assert [client.next_xid() for _ in range(3)] == [0xFFFFFFFF, 0, 1]
