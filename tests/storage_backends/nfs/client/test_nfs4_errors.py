"""Statuses of version 4.1: what a call waits out, has recovered, is made again for, or ends with."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from netvm.runtime.task import Task
from netvm.units import NS_PER_S
from storage_backends.nfs.client.nfs4_proc import Call4
from storage_backends.nfs.connection.procedures import compound
from storage_backends.nfs.messages.data import WriteRes
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4, VoidArgs

MakeHost = Callable[..., Any]

MOUNTED = 7
"""Compounds until the swap file is open."""
ROOT = ((Nfs4Op.PUTROOTFH, VoidArgs()),)
RECOVERY = ["EXCHANGE_ID OK", "CREATE_SESSION OK", "OPEN OK", "RECLAIM_COMPLETE OK"]
STATE_LOST = {
    NfsStat4.NFS4ERR_STALE_CLIENTID,
    NfsStat4.NFS4ERR_STALE_STATEID,
    NfsStat4.NFS4ERR_BAD_STATEID,
    NfsStat4.NFS4ERR_EXPIRED,
}
LATER = {NfsStat4.NFS4ERR_DELAY, NfsStat4.NFS4ERR_GRACE}
SESSION_LOST = {NfsStat4.NFS4ERR_BADSESSION, NfsStat4.NFS4ERR_DEADSESSION}
EXECUTED = {NfsStat4.NFS4ERR_RETRY_UNCACHED_REP, NfsStat4.NFS4ERR_SEQ_FALSE_RETRY}
AGAIN = EXECUTED | {NfsStat4.NFS4ERR_OLD_STATEID}
ERRORS = sorted(set(NfsStat4) - {NfsStat4.NFS4_OK} - STATE_LOST - LATER - SESSION_LOST - AGAIN)


@pytest.mark.parametrize("status", sorted(LATER))
def test_a_server_that_asks_for_time_has_it(nfs4: MakeHost, status: NfsStat4) -> None:
    """The call is made again after a tenth of a second, twice as long each time up to fifteen, the next one as well."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.fail(Nfs4Op.WRITE, status, times=10)
        rpc = await host.write(task, 1, 5)
        await host.pause(task, 50)
        assert rpc.sleeps_on == f"rpc_delay: {status.name}"
        assert (rpc.buffer, host.client.tasks, host.client.xprt.slots.nr_taken) == (None, {}, 0)
        assert host.state.table.used == {}
        await host.until_ended(task, 1)
        assert host.ended[0].status == 0
        host.fail(Nfs4Op.WRITE, status)
        await host.write(task, 1, 6)
        await host.until_ended(task, 2)

    host.run(script)
    served = host.served[MOUNTED:]
    waited = [(b.at_ns - a.at_ns) / NS_PER_S for a, b in pairwise(served)]
    expected = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15, 15]
    assert all(want <= found < 1.15 * want + 0.01 for found, want in zip(waited, expected, strict=False))
    assert 0.1 <= waited[-1] < 0.125
    assert [one.slot[1] for one in served] == list(range(6, 6 + len(served)))
    assert host.ops._delays_ns == {}
    assert host.state.nr_recoveries == 0


@pytest.mark.parametrize("status", ERRORS, ids=lambda status: status.name)
def test_any_other_status_is_the_callers(nfs4: MakeHost, status: NfsStat4) -> None:
    """A call is over with it and was made once; the state manager has nothing to do."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.fail(Nfs4Op.WRITE, status)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)
        assert host.ended == [WriteRes(status=status)]

    host.run(script)
    assert len(host.served) == MOUNTED + 1
    assert host.state.nr_recoveries == 0


@pytest.mark.parametrize("status", sorted(STATE_LOST), ids=lambda status: status.name)
def test_a_lost_client_or_file_is_recovered(nfs4: MakeHost, status: NfsStat4) -> None:
    """The call waits until the client is known and the file open again, and is made with the new stateid."""
    host = nfs4()

    async def script(task: Task) -> None:
        old = host.state.opens[host.fh].stateid
        host.fail(Nfs4Op.WRITE, status, then=host.forget)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)
        assert host.ended[0].status == 0
        assert old != host.state.opens[host.fh].stateid == host.served[-1].of(Nfs4Op.WRITE).stateid

    host.run(script)
    assert host.since(MOUNTED) == [f"WRITE {status.name.removeprefix('NFS4ERR_')}", *RECOVERY, "WRITE OK"]
    assert host.backend.stored()[1] == 5
    assert host.state.nr_recoveries == 1


@pytest.mark.parametrize("status", sorted(SESSION_LOST), ids=lambda status: status.name)
def test_a_lost_session_is_made_anew(nfs4: MakeHost, status: NfsStat4) -> None:
    """Is only the session gone, it is destroyed and made for the same client, and the file stays open."""
    host = nfs4()

    async def script(task: Task) -> None:
        stateid, sessionid = host.state.opens[host.fh].stateid, host.state.sessionid
        host.fail(Nfs4Op.SEQUENCE, status)
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)
        assert host.ended[0].status == 0
        assert host.state.opens[host.fh].stateid == stateid
        assert host.served[-1].of(Nfs4Op.SEQUENCE).sessionid == host.state.sessionid != sessionid

    host.run(script)
    why = status.name.removeprefix("NFS4ERR_")
    assert host.since(MOUNTED) == [f"SEQUENCE {why}", "DESTROY_SESSION OK", "CREATE_SESSION OK", "WRITE OK"]
    assert [host.served[i].slot for i in (MOUNTED, -1)] == [(0, 6), (0, 1)]
    assert host.server.nr_sessions == 1


@pytest.mark.parametrize(
    ("status", "slot", "after_s"),
    [
        (NfsStat4.NFS4ERR_DELAY, (0, 6), 15),
        (NfsStat4.NFS4ERR_SEQ_MISORDERED, (0, 6), 15),
        (NfsStat4.NFS4ERR_BADSLOT, (0, 6), 0),
        (NfsStat4.NFS4ERR_RETRY_UNCACHED_REP, (0, 7), 0),
        (NfsStat4.NFS4ERR_SEQ_FALSE_RETRY, (0, 7), 0),
    ],
)
def test_what_the_server_says_of_a_slot(nfs4: MakeHost, status: NfsStat4, slot: tuple[int, int], after_s: int) -> None:
    """A slot that is busy is asked again later, of an executed call the number is over, of another it is not."""
    host = nfs4()

    def answer(args: Any) -> Any:
        if args.operations[0][0] != Nfs4Op.SEQUENCE:
            return None
        if slot == (0, 7):
            host.execute(args)
        return refusal(args)

    async def script(task: Task) -> None:
        nonlocal refusal
        host.fail(Nfs4Op.SEQUENCE, status)
        refusal = host.answers.pop()
        host.answers.append(answer)
        await host.write(task, 1, 5)
        await host.pause(task, 1)
        assert (0 in host.state.table.used) is bool(after_s)
        await host.until_ended(task, 1)
        assert host.ended[0].status == 0

    refusal: Any = None
    host.run(script)
    first, second = host.served[MOUNTED:]
    assert (first.slot, second.slot) == ((0, 6), slot)
    assert after_s <= (second.at_ns - first.at_ns) / NS_PER_S < 1.15 * after_s + 0.01


@pytest.mark.parametrize("status", sorted(set(NfsStat4) - {NfsStat4.NFS4_OK} - AGAIN), ids=lambda status: status.name)
def test_errors_of_the_managers_calls_are_its_own(nfs4: MakeHost, status: NfsStat4) -> None:
    """A privileged call, or one outside a session, is over with whatever status an operation of it has."""
    host = nfs4()

    async def script(task: Task) -> None:
        for about in ({"privileged": True}, {"in_session": False}):
            host.fail(Nfs4Op.PUTROOTFH, status)
            reply = await host.client.call_sync(task, compound("TEST"), Call4(operations=ROOT, **about))
            assert reply.result.status == status
            assert ("SEQUENCE" in host.served[-1].names) is ("privileged" in about)

    host.run(script)
    assert len(host.served) == MOUNTED + 2
    assert host.state.nr_recoveries == 0
