"""A server that has forgotten its client, and the state manager that gets everything back."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.runtime.task import Task
from netvm.units import NS_PER_S
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4
from storage_backends.nfs.messages.operations import Claim

MakeHost = Callable[..., Any]

MOUNTED = 7
"""Compounds until the swap file is open."""
FORGOTTEN = ["SEQUENCE BADSESSION", "DESTROY_SESSION BADSESSION", "CREATE_SESSION STALE_CLIENTID"]
RECOVERED = ["EXCHANGE_ID OK", "CREATE_SESSION OK", "OPEN OK", "RECLAIM_COMPLETE OK"]
AGAIN_S = 1
"""After so long a recovery that failed is tried again."""


def test_a_restarted_server_is_told_everything_again(nfs4: MakeHost) -> None:
    """The session is thrown away, the client says who it is, makes another, claims its file back and writes it."""
    host = nfs4()

    async def script(task: Task) -> None:
        await host.write(task, 1, 4)
        await host.until_ended(task, 1)
        before = (host.state.clientid, host.state.sessionid, host.state.opens[host.fh].stateid)
        host.restart(for_ms=500)
        for page, version in ((1, 5), (2, 6), (3, 7)):
            await host.write(task, page, version)
        await host.until_ended(task, 4)
        assert [result.status for result in host.ended] == [0] * 4
        after = (host.state.clientid, host.state.sessionid, host.state.opens[host.fh].stateid)
        assert all(old != new for old, new in zip(before, after, strict=True))
        await host.pause(task, 10)

    host.run(script)
    told = host.since(MOUNTED + 1)
    assert told == [told[0]] * told.count(told[0]) + FORGOTTEN[1:] + RECOVERED + ["WRITE OK"] * 3
    assert told[0] == FORGOTTEN[0]
    assert host.backend.stored()[1:4].tolist() == [5, 6, 7]
    assert (host.state.nr_recoveries, host.state.session_reset, host.state.lease_expired) == (1, False, False)
    assert host.backend.notes() == ["1 times the state manager made the session with the server anew"]
    assert host.log == []


def test_what_the_manager_says(nfs4: MakeHost) -> None:
    """Each step has what the one before brought; the file is claimed by its handle as one that was open before."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.old = host.state.sessionid, host.state.clientid, host.state.session_sequenceid
        host.forget()
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)

    host.run(script)
    sessionid, clientid, number = host.old
    destroy, stale, exchange, create, claim, complete = host.served[MOUNTED + 1 : -1]
    assert destroy.of(Nfs4Op.DESTROY_SESSION).sessionid == sessionid
    args = stale.of(Nfs4Op.CREATE_SESSION)
    assert (args.clientid, args.sequenceid) == (clientid, number)
    args = exchange.of(Nfs4Op.EXCHANGE_ID)
    assert (args.ownerid, args.verifier) == (host.state.owner, host.state.verifier)
    assert create.of(Nfs4Op.CREATE_SESSION).clientid == host.state.clientid
    assert claim.of(Nfs4Op.OPEN).claim == Claim.PREVIOUS
    assert claim.of(Nfs4Op.PUTFH).fh == host.fh
    assert claim.of(Nfs4Op.SEQUENCE).sessionid == host.state.sessionid
    assert [claim.slot, complete.slot, host.served[-1].slot] == [(0, 1), (0, 2), (0, 3)]


def test_every_open_file_is_claimed_back(nfs4: MakeHost) -> None:
    """There are as many claims as files, before the client says that it has no more."""
    host = nfs4()

    async def script(task: Task) -> None:
        others = [(await host.mount.open(task, name, create=True))[0] for name in "ab"]
        host.forget()
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)
        claims = [one.of(Nfs4Op.PUTFH).fh for one in host.served[MOUNTED + 2 :] if "OPEN" in one.names]
        assert claims == [host.fh, *others]
        assert len({opened.stateid for opened in host.state.opens.values()}) == 3

    host.run(script)
    assert host.since(MOUNTED + 2) == [*FORGOTTEN, *RECOVERED[:2], *["OPEN OK"] * 3, *RECOVERED[3:], "WRITE OK"]


def test_the_manager_waits_until_nobody_has_a_slot(nfs4: MakeHost) -> None:
    """It begins when the last call of the old session is answered, and says what it waits for until then."""
    host = nfs4("storage.disk.latency_us=50000")

    async def script(task: Task) -> None:
        host.when(Nfs4Op.WRITE, host.forget)
        await host.write(task, 1, 5)
        await host.pause(task, 30)
        await host.write(task, 2, 6)
        slow = await host.write(task, 3, 7)
        await host.pause(task, 40)
        assert host.state.table.draining
        (manager,) = host.threads()
        assert manager.resource is host.state.slot_resource
        assert slow.provider().name in [found.name for found in manager.resource.providers()]
        assert host.since(MOUNTED) == ["SEQUENCE BADSESSION"]
        await host.until_ended(task, 3)

    host.run(script)
    assert host.since(MOUNTED) == ["SEQUENCE BADSESSION"] * 2 + FORGOTTEN + RECOVERED + ["WRITE OK"] * 3


@pytest.mark.parametrize(
    "operation",
    [
        Nfs4Op.DESTROY_SESSION,
        Nfs4Op.CREATE_SESSION,
        Nfs4Op.EXCHANGE_ID,
        Nfs4Op.OPEN,
        Nfs4Op.RECLAIM_COMPLETE,
    ],
)
@pytest.mark.parametrize("kept", [True, False])
def test_a_second_restart_in_the_middle(nfs4: MakeHost, operation: Nfs4Op, kept: bool) -> None:
    """Whichever step of the recovery the server is restarted at, it is recovered, and the file is right."""
    host = nfs4(fixes=() if kept else ("nfs4_manager_kept",))

    async def script(task: Task) -> None:
        host.restart(for_ms=200)
        host.when(operation, lambda: host.restart(for_ms=200))
        await host.write(task, 1, 5)
        await host.write(task, 2, 6)
        await host.until_ended(task, 2)
        assert [result.status for result in host.ended] == [0, 0]
        await host.pause(task, 10)
        assert (host.state.running, host.state.table.draining, len(host.threads())) == (False, False, kept)

    host.run(script)
    assert host.since(MOUNTED)[-5:] == [*RECOVERED[1:], *["WRITE OK"] * 2]
    assert host.backend.stored()[1:3].tolist() == [5, 6]
    assert not host.server.in_grace


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        (Nfs4Op.DESTROY_SESSION, "reset session"),
        (Nfs4Op.CREATE_SESSION, "reset session"),
        (Nfs4Op.EXCHANGE_ID, "lease confirm"),
        (Nfs4Op.OPEN, "reclaim reboot"),
    ],
)
@pytest.mark.parametrize("frozen", [True, False])
def test_a_step_that_fails_is_tried_again(nfs4: MakeHost, operation: Nfs4Op, what: str, frozen: bool) -> None:
    """A second later, after a line in the log, others may call again, and the first that fails has it tried again."""
    host = nfs4(fixes=() if frozen else ("nfs4_freeze_session",))
    status = NfsStat4.NFS4ERR_SERVERFAULT

    async def script(task: Task) -> None:
        host.forget()
        host.fail(operation, status)
        await host.write(task, 1, 5)
        await host.pause(task, 500)
        waiting = await host.write(task, 2, 6)
        await host.pause(task, 1)
        assert waiting.sleeps_on == "nfs4: the end of the recovery"
        assert host.log == [f"NFS: state manager: {what} failed on NFSv4 server 10.0.2.2 with error {int(status)}"]
        await host.until_ended(task, 2)

    host.run(script)
    failed = next(i for i, one in enumerate(host.served) if one.res.status == status)
    waited_ns = host.served[failed + 1].at_ns - host.served[failed].at_ns
    assert AGAIN_S * NS_PER_S <= waited_ns < 1.2 * NS_PER_S
    assert host.since(MOUNTED)[-5:] == [*RECOVERED[1:], *["WRITE OK"] * 2]
    assert len(host.log) == 1
    assert host.state.nr_recoveries == 1


def test_a_step_without_memory_is_tried_again(nfs4: MakeHost) -> None:
    """A call of the manager that cannot be made is -ENOMEM in the log, and made when the next call fails."""
    host = nfs4()

    async def script(task: Task) -> None:
        call_sync = host.client.call_sync
        host.forget()

        async def none(*_args: Any) -> None:
            host.client.call_sync = call_sync

        host.client.call_sync = none
        await host.write(task, 1, 5)
        await host.until_ended(task, 1)

    host.run(script)
    assert host.log == ["NFS: state manager: reset session failed on NFSv4 server 10.0.2.2 with error -12"]
    assert host.since(MOUNTED) == [FORGOTTEN[0], *FORGOTTEN, *RECOVERED, "WRITE OK"]
