"""Mounting with version 4.1."""

from collections.abc import Callable
from typing import Any

import pytest

from netvm.errors import UsageError
from netvm.runtime.task import Task
from storage_backends.nfs.client.nfs4_recovery import OPEN_OWNER
from storage_backends.nfs.connection.client import Reply
from storage_backends.nfs.connection.procedures import NULL4
from storage_backends.nfs.messages.compound import MAX_OPERATIONS
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4
from storage_backends.nfs.messages.operations import Claim
from storage_backends.nfs.server.nfs4 import PSEUDO_ROOT_FH
from storage_backends.nfs.server.service import ROOT_FH

MakeHost = Callable[..., Any]


async def nothing(_task: Task) -> None:
    """Do nothing: booting and mounting is enough."""


def test_the_way_to_the_export(nfs4: MakeHost) -> None:
    """The client says who it is, makes a session, has nothing to claim back, and looks the export up from the root."""
    host = nfs4().run(nothing)
    assert [call.names for call in host.served] == [
        ["EXCHANGE_ID"],
        ["CREATE_SESSION"],
        ["SEQUENCE", "RECLAIM_COMPLETE"],
        ["SEQUENCE", "PUTROOTFH", "GETFH"],
        ["SEQUENCE", "PUTFH", "LOOKUP", "GETFH"],
        ["SEQUENCE", "PUTFH", "GETATTR"],
        ["SEQUENCE", "PUTFH", "OPEN", "GETFH", "GETATTR"],
    ]
    assert all(call.res.status == NfsStat4.NFS4_OK for call in host.served)
    assert [call.slot for call in host.served[2:]] == [(0, number) for number in range(1, 6)]
    lookup, info = host.served[4:6]
    assert (lookup.of(Nfs4Op.PUTFH).fh, lookup.of(Nfs4Op.LOOKUP).name) == (PSEUDO_ROOT_FH, "export")
    assert info.of(Nfs4Op.PUTFH).fh == host.mount.root == ROOT_FH


def test_the_client_says_who_it_is(nfs4: MakeHost) -> None:
    """The session is made for the id that the server gave, with as many slots as are asked for and granted."""
    host = nfs4()
    host.state.nr_slots = 5
    host.run(nothing)
    exchange, create = (host.served[i].of(op) for i, op in enumerate((Nfs4Op.EXCHANGE_ID, Nfs4Op.CREATE_SESSION)))
    assert (exchange.ownerid, exchange.verifier) == (host.state.owner, host.state.verifier)
    identified = host.served[0].res.of(Nfs4Op.EXCHANGE_ID)
    made = host.served[1].res.of(Nfs4Op.CREATE_SESSION)
    assert create.clientid == identified.clientid == host.state.clientid
    assert create.sequenceid == identified.sequenceid
    assert host.state.session_sequenceid == identified.sequenceid + 1
    assert (create.fore.maxrequests, create.fore.maxoperations) == (5, MAX_OPERATIONS)
    assert len(host.state.table.slots) == 5
    assert host.state.sessionid == made.sessionid
    assert host.served[2].of(Nfs4Op.SEQUENCE).sessionid == made.sessionid


@pytest.mark.parametrize(
    ("asked", "granted", "had"), [(65536, 1 << 20, 65536), (1 << 20, 32768, 32768), (65536, 65536, 65536)]
)
def test_the_server_decides_how_much_goes_at_once(nfs4: MakeHost, asked: int, granted: int, had: int) -> None:
    """Wsize and rsize are what was asked for, cut to the server's maxwrite and maxread."""
    host = nfs4(f"storage.wsize_bytes={asked}", f"storage.rsize_bytes={asked}")
    host.backend.service.io_size_bytes = granted
    host.run(nothing)
    assert (host.mount.wsize_bytes, host.mount.rsize_bytes) == (had, had)
    assert (host.backend.driver.wsize_bytes, host.backend.driver.rsize_bytes) == (had, had)


def test_open_finds_a_file_or_makes_it(nfs4: MakeHost) -> None:
    """Its handle and size come back, and it is open with the stateid that the server gave, until the end."""
    host = nfs4()

    async def script(task: Task) -> None:
        fh, attributes = await host.mount.open(task, "swapfile")
        assert fh == host.backend.file.fh
        assert attributes.size_bytes == attributes.used_bytes == host.backend.file.size_bytes
        found = host.served[-1]
        fh, attributes = await host.mount.open(task, "made", create=True)
        assert host.backend.service.files[fh].name == "made"
        assert (attributes.size_bytes, attributes.used_bytes) == (0, 0)
        for served, name, made in ((found, "swapfile", False), (host.served[-1], "made", True)):
            args = served.of(Nfs4Op.OPEN)
            assert (args.name, args.claim, args.owner) == (name, Claim.NULL, OPEN_OWNER)
            assert args.clientid == host.state.clientid
            assert (args.create is not None) is made
            assert served.of(Nfs4Op.PUTFH).fh == ROOT_FH
            assert served.of(Nfs4Op.SEQUENCE).cachethis
            opened = host.state.opens[served.res.of(Nfs4Op.GETFH).fh]
            assert (opened.name, opened.stateid) == (name, served.res.of(Nfs4Op.OPEN).stateid)

    host.run(script)
    assert len(host.state.opens) == 2


def test_open_outlasts_a_server_that_has_forgotten_the_client(nfs4: MakeHost) -> None:
    """Who opens a file waits for the recovery and opens it then in the new session."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.forget()
        fh, _ = await host.mount.open(task, "made", create=True)
        assert host.state.opens[fh].name == "made"

    host.run(script)
    assert host.since(7) == [
        "SEQUENCE BADSESSION",
        "DESTROY_SESSION BADSESSION",
        "CREATE_SESSION STALE_CLIENTID",
        "EXCHANGE_ID OK",
        "CREATE_SESSION OK",
        "OPEN OK",
        "RECLAIM_COMPLETE OK",
        "OPEN OK",
    ]


def test_what_the_server_refuses_is_said(nfs4: MakeHost) -> None:
    """A path that is not exported and a file that is not there are the user's to see, by operation and status."""
    host = nfs4()

    async def script(task: Task) -> None:
        with pytest.raises(UsageError, match="answered LOOKUP with NFS4ERR_NOENT"):
            await host.mount.mount(task, "/nowhere")
        with pytest.raises(UsageError, match="answered LOOKUP with NFS4ERR_NOTDIR"):
            await host.mount.mount(task, "/export/swapfile/below")
        await host.mount.mount(task, "/export/")
        with pytest.raises(UsageError, match="answered OPEN with NFS4ERR_NOENT"):
            await host.mount.open(task, "nothing")
        assert list(host.state.opens) == [host.fh]
        host.fail(Nfs4Op.PUTROOTFH, NfsStat4.NFS4ERR_SERVERFAULT)
        with pytest.raises(UsageError, match="answered LOOKUP_ROOT with NFS4ERR_SERVERFAULT"):
            await host.mount.mount(task, "/export")
        host.fail(Nfs4Op.GETATTR, NfsStat4.NFS4ERR_ACCESS)
        with pytest.raises(UsageError, match="answered FSINFO with NFS4ERR_ACCESS"):
            await host.mount.mount(task, "/export")

    host.run(script)


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        (Nfs4Op.EXCHANGE_ID, "lease confirm"),
        (Nfs4Op.CREATE_SESSION, "reset session"),
        (Nfs4Op.RECLAIM_COMPLETE, "reclaim reboot"),
    ],
)
def test_a_mount_without_a_session_is_refused(nfs4: MakeHost, operation: Nfs4Op, what: str) -> None:
    """A server that will not have the client is an error that says which step failed and with which status."""
    host = nfs4()

    async def script(task: Task) -> None:
        host.fail(operation, NfsStat4.NFS4ERR_SERVERFAULT)
        with pytest.raises(UsageError, match=f"NFS {what} failed with status {int(NfsStat4.NFS4ERR_SERVERFAULT)}"):
            await host.mount.mount(task, "/export")

    host.run(script)


def test_a_claim_that_was_completed_before_is_no_error(nfs4: MakeHost) -> None:
    """NFS4ERR_COMPLETE_ALREADY is as good as NFS4_OK: mounting again works."""
    host = nfs4()

    async def script(task: Task) -> None:
        await host.mount.mount(task, "/export")

    host.run(script)
    assert "RECLAIM_COMPLETE COMPLETE_ALREADY" in host.since(7)


@pytest.mark.parametrize(("refusal", "why"), [(None, "no memory"), ("PROC_UNAVAIL", "PROC_UNAVAIL")])
def test_a_call_that_cannot_be_made_is_said(nfs4: MakeHost, refusal: str | None, why: str) -> None:
    """Without memory for the call, or refused before it is a compound, OPEN is an error that says so."""
    host = nfs4()

    async def script(task: Task) -> None:
        reply = None if refusal is None else Reply(1, NULL4, None, refusal)

        async def call_sync(*_args: Any) -> Any:
            return reply

        host.client.call_sync = call_sync
        with pytest.raises(UsageError, match=f"NFS OPEN failed: {why}"):
            await host.mount.open(task, "swapfile")

    host.run(script)
