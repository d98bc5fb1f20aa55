"""Calls of version 4.1."""

from collections.abc import Callable
from typing import Any

from netvm.runtime.task import Task
from storage_backends.export.store import BlockStore
from storage_backends.nfs.connection.procedures import COMMIT, NULL4, READ, WRITE, Procedure
from storage_backends.nfs.messages.data import CommitArgs, CommitRes, ReadArgs, ReadRes, StableHow, WriteArgs, WriteRes
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, Nfs4Op, NfsStat4
from storage_backends.wire import BLOCK_SIZE, Blocks

MakeHost = Callable[..., Any]

MOUNTED = 7
"""Compounds until the swap file is open."""


async def call(host: Any, task: Task, procedure: Procedure, args: object) -> Any:
    """Make a call and return what its maker is told."""
    reply = await host.client.call_sync(task, procedure, args)
    return reply.result


def test_reads_and_writes_are_compounds(nfs4: MakeHost) -> None:
    """SEQUENCE is first, with the slot's number, then the file, then the operation with the stateid of the OPEN."""
    host = nfs4()

    async def script(task: Task) -> None:
        data = Blocks.of((8, 9))
        offset, size = 3 * BLOCK_SIZE, 2 * BLOCK_SIZE
        written = await call(host, task, WRITE, WriteArgs(fh=host.fh, offset=offset, stable=0, data=data))
        assert written == WriteRes(count=size, committed=0, verifier=host.backend.service.boot_verifier)
        safe = await call(host, task, COMMIT, CommitArgs(fh=host.fh, offset=offset, count=size))
        assert safe == CommitRes(verifier=host.backend.service.boot_verifier)
        read = await call(host, task, READ, ReadArgs(fh=host.fh, offset=offset, count=size))
        assert read == ReadRes(eof=False, data=data)
        last = host.backend.file.size_bytes - BLOCK_SIZE
        assert (await call(host, task, READ, ReadArgs(fh=host.fh, offset=last, count=BLOCK_SIZE))).eof

    host.run(script)
    stateid = host.state.opens[host.fh].stateid
    assert stateid != ANONYMOUS
    write, commit, read = host.served[MOUNTED : MOUNTED + 3]
    assert write.names == ["SEQUENCE", "PUTFH", "WRITE", "GETATTR"]
    assert commit.names == ["SEQUENCE", "PUTFH", "COMMIT"]
    assert read.names == ["SEQUENCE", "PUTFH", "READ"]
    assert [served.slot for served in (write, commit, read)] == [(0, 6), (0, 7), (0, 8)]
    for served in (write, commit, read):
        assert served.of(Nfs4Op.PUTFH).fh == host.fh
        assert served.of(Nfs4Op.SEQUENCE).sessionid == host.state.sessionid
        assert not served.of(Nfs4Op.SEQUENCE).cachethis
    assert write.of(Nfs4Op.WRITE).stateid == read.of(Nfs4Op.READ).stateid == stateid
    assert write.of(Nfs4Op.WRITE).stable == StableHow.UNSTABLE
    assert (write.of(Nfs4Op.WRITE).offset, commit.of(Nfs4Op.COMMIT).offset) == (3 * BLOCK_SIZE, 3 * BLOCK_SIZE)


def test_a_file_that_is_not_open_is_nobodys(nfs4: MakeHost) -> None:
    """Without an OPEN a call has the anonymous stateid."""
    host = nfs4()

    async def script(task: Task) -> None:
        store = BlockStore(BLOCK_SIZE, write_cache=True)
        file = host.backend.service.add_file("other", BLOCK_SIZE, store)
        found = await call(host, task, READ, ReadArgs(fh=file.fh, offset=0, count=BLOCK_SIZE))
        assert found.status == 0

    host.run(script)
    assert host.served[-1].of(Nfs4Op.READ).stateid == ANONYMOUS


def test_errors_come_back_as_version_3_says_them(nfs4: MakeHost) -> None:
    """A READ, WRITE or COMMIT that failed has the result of its procedure, with the status alone."""
    host = nfs4()

    async def script(task: Task) -> None:
        for procedure, op, args, res in (
            (READ, Nfs4Op.READ, ReadArgs(fh=host.fh, offset=0, count=1), ReadRes),
            (WRITE, Nfs4Op.WRITE, WriteArgs(fh=host.fh, offset=0, stable=0, data=Blocks.of((1,))), WriteRes),
            (COMMIT, Nfs4Op.COMMIT, CommitArgs(fh=host.fh), CommitRes),
        ):
            host.fail(op, NfsStat4.NFS4ERR_IO)
            assert await call(host, task, procedure, args) == res(status=NfsStat4.NFS4ERR_IO)
        host.fail(Nfs4Op.PUTFH, NfsStat4.NFS4ERR_STALE)
        assert (await call(host, task, READ, ReadArgs(fh=host.fh, offset=0, count=1))).status == NfsStat4.NFS4ERR_STALE

    host.run(script)


def test_calls_at_the_same_time_have_slots_of_their_own(nfs4: MakeHost) -> None:
    """Each has the lowest slot that is free and says which is the highest in use."""
    host = nfs4("storage.disk.latency_us=1000")

    async def script(task: Task) -> None:
        for page in range(3):
            await host.write(task, page, 1)
        await host.until_ended(task, 3)
        await host.write(task, 3, 1)
        await host.until_ended(task, 4)

    host.run(script)
    served = host.served[MOUNTED:]
    assert [one.slot for one in served] == [(0, 6), (1, 1), (2, 1), (0, 7)]
    assert [one.of(Nfs4Op.SEQUENCE).highest_slotid for one in served[1:]] == [1, 2, 0]


def test_more_calls_than_slots_wait_for_one(nfs4: MakeHost) -> None:
    """They sleep without anything of the transport, say for whose slots, and are made in order."""
    host = nfs4("storage.disk.latency_us=1000")
    host.state.nr_slots = 2

    async def script(task: Task) -> None:
        calls = [await host.write(task, page, 1) for page in range(5)]
        await host.pause(task, 0.5)
        assert [rpc.sleeps_on for rpc in calls[2:]] == ["nfs4: a session slot"] * 3
        assert len(host.client.tasks) == host.xprt.slots.nr_taken == 2
        (needed,) = calls[4].provider().needs
        assert needed is host.state.slot_resource
        assert [holder.name for holder in needed.providers()] == [rpc.provider().name for rpc in calls[:2]]
        await host.until_ended(task, 5)

    host.xprt = host.client.xprt
    host.run(script)
    writes = [served.of(Nfs4Op.WRITE).offset // BLOCK_SIZE for served in host.served[MOUNTED:]]
    assert writes == [0, 1, 2, 3, 4]
    assert {served.slot[0] for served in host.served[MOUNTED:]} == {0, 1}


def test_a_lost_reply_is_asked_for_again_under_another_number(nfs4: MakeHost) -> None:
    """A call was executed and its reply was neither had nor kept: it is executed once more."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.lose_reply(Nfs4Op.WRITE)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)
        assert host.ended[0].status == 0

    host.run(script)
    assert host.since(MOUNTED) == ["WRITE OK", "PUTFH RETRY_UNCACHED_REP", "WRITE OK"]
    assert [served.slot for served in host.served[MOUNTED:]] == [(0, 6), (0, 6), (0, 7)]


def test_a_lost_reply_that_was_kept_comes_again(nfs4: MakeHost) -> None:
    """An OPEN asks the server to keep its reply, and is executed once though the reply is lost."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.lose_reply(Nfs4Op.OPEN)
        fh, _ = await host.mount.open(task, "made", create=True)
        assert host.state.opens[fh].stateid == host.served[MOUNTED].res.of(Nfs4Op.OPEN).stateid

    host.run(script)
    assert [served.slot for served in host.served[MOUNTED:]] == [(0, 6), (0, 6)]


def test_a_call_without_arguments_is_no_compound(nfs4: MakeHost) -> None:
    """NULL takes no slot and is made while the session drains as well."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.state.table.draining = True
        assert await call(host, task, NULL4, None) is None
        host.state.table.end_drain()

    host.run(script)
    assert len(host.served) == MOUNTED


def test_each_try_is_another_call(nfs4: MakeHost) -> None:
    """A call that is made again has another xid, and what it took is given back in the end."""
    host = nfs4()
    seen = []
    encode = host.ops.encode

    def spy(rpc: Any) -> Any:
        seen.append(rpc.xid)
        return encode(rpc)

    host.ops.encode = spy

    async def script(task: Task) -> None:
        pools = host.backend.pools
        before = [cache.nr_active for cache in pools.caches.values()]
        seen.clear()
        host.fail(Nfs4Op.WRITE, NfsStat4.NFS4ERR_DELAY, times=3)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)
        await host.pause(task, 10)
        assert [cache.nr_active for cache in pools.caches.values()] == before
        assert (host.client.tasks, host.client.xprt.slots.nr_taken) == ({}, 0)
        assert len(seen) == len(set(seen)) == 4

    host.run(script)
