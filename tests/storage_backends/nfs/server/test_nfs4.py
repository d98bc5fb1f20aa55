"""Compounds on an export: files that are opened, written and read, and what ends a compound."""

from typing import Any

import pytest

from storage_backends.nfs.messages import session
from storage_backends.nfs.messages.attributes4 import Fattr4
from storage_backends.nfs.messages.compound import CompoundRes
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, Nfs4Op, NfsStat4, StateId, VoidArgs
from storage_backends.nfs.messages.operations import Claim, Commit4Args, Getattr4Args, Lookup4Args
from storage_backends.nfs.server.nfs4 import LEASE_S, Nfs4Service
from storage_backends.nfs.server.service import ROOT_FH
from storage_backends.wire import BLOCK_SIZE, Blocks

Op = tuple[int, Any]
ROOT: Op = (Nfs4Op.PUTROOTFH, VoidArgs())
EXPORT: tuple[Op, ...] = (ROOT, (Nfs4Op.LOOKUP, Lookup4Args(name="export")))
GETFH: Op = (Nfs4Op.GETFH, VoidArgs())
COMMIT: Op = (Nfs4Op.COMMIT, Commit4Args())
ILLEGAL: Op = (Nfs4Op.ILLEGAL, VoidArgs())
RECLAIM_COMPLETE: Op = (Nfs4Op.RECLAIM_COMPLETE, session.ReclaimCompleteArgs())


def test_a_path_leads_to_the_export(client: Any) -> None:
    """The export is in a directory of its own, and its attributes say how much a call may carry and the lease."""
    attributes: Op = (Nfs4Op.GETATTR, Getattr4Args(numbers=(1, 10, 30, 31)))
    res = client.call(*EXPORT, GETFH, attributes)
    assert [number for number, _ in res.results] == [53, 24, 15, 10, 9]
    assert res.of(Nfs4Op.GETFH).fh == ROOT_FH
    assert res.of(Nfs4Op.GETATTR).attributes == Fattr4(
        ftype=2, lease_time_s=LEASE_S, maxread_bytes=1 << 20, maxwrite_bytes=1 << 20
    )
    above = client.call(ROOT, GETFH, (Nfs4Op.GETATTR, Getattr4Args(numbers=(1,))))
    assert above.of(Nfs4Op.GETATTR).attributes == Fattr4(ftype=2)
    assert client.call(client.put(above.of(Nfs4Op.GETFH).fh), *EXPORT[1:], GETFH).of(Nfs4Op.GETFH).fh == ROOT_FH
    assert client.call(*EXPORT, (Nfs4Op.LOOKUP, Lookup4Args(name="f"))).status == NfsStat4.NFS4_OK


def test_what_is_not_there_is_said_to_be_so(client: Any) -> None:
    """A name that leads nowhere, a handle of nothing, and no handle at all are told apart."""
    fh, _stateid = client.opened()
    name: Op = (Nfs4Op.LOOKUP, Lookup4Args(name="nothing"))
    assert client.call(ROOT, name).status == NfsStat4.NFS4ERR_NOENT
    assert client.call(*EXPORT, name).status == NfsStat4.NFS4ERR_NOENT
    assert client.call(client.put(fh), name).status == NfsStat4.NFS4ERR_NOTDIR
    assert client.call(*EXPORT, client.open("nothing")).status == NfsStat4.NFS4ERR_NOENT
    assert client.call(client.put(b"?")).status == NfsStat4.NFS4ERR_STALE
    for create in (None, Fattr4(mode=0o600)):
        operation = client.open("nothing", create=create)
        assert client.call(client.put(fh), operation).status == NfsStat4.NFS4ERR_NOTDIR


@pytest.mark.parametrize("create", [None, Fattr4(mode=0o600)])
@pytest.mark.parametrize("claim", Claim)
def test_what_is_done_to_a_file_needs_its_handle(client: Any, create: Fattr4 | None, claim: Claim) -> None:
    """An operation on the current file handle is refused where there is none, and by its own name."""
    for operation in (
        GETFH,
        (Nfs4Op.LOOKUP, Lookup4Args(name="export")),
        (Nfs4Op.GETATTR, Getattr4Args(numbers=(1,))),
        client.open(create=create, claim=claim),
        client.read(ANONYMOUS),
        client.write(ANONYMOUS, 7),
        COMMIT,
    ):
        res = client.call(operation, ROOT)
        assert res.status == NfsStat4.NFS4ERR_NOFILEHANDLE
        assert [number for number, _ in res.results] == [Nfs4Op.SEQUENCE, operation[0]]
        assert res.of(operation[0]).status == NfsStat4.NFS4ERR_NOFILEHANDLE


def test_a_handle_is_that_of_its_compound(client: Any) -> None:
    """A call does not begin with the file handle that the one before it ended with."""
    assert client.call(*EXPORT, GETFH).status == NfsStat4.NFS4_OK
    assert client.call(GETFH).status == NfsStat4.NFS4ERR_NOFILEHANDLE


def test_a_directory_has_no_data(server: Nfs4Service, client: Any) -> None:
    """Neither the export nor what is above it is read, written or committed, whatever the stateid."""
    _fh, stateid = client.opened()
    unknown = StateId(1, b"twelve bytes")
    for path in ((ROOT,), EXPORT):
        for said in (ANONYMOUS, stateid, unknown):
            for operation in (client.read(said), client.write(said, 7), COMMIT):
                res = client.call(*path, operation)
                assert res.status == res.of(operation[0]).status == NfsStat4.NFS4ERR_ISDIR
    assert server.service.written_bytes == 0


def test_nothing_is_opened_above_the_export(server: Nfs4Service, client: Any) -> None:
    """The directory that holds the export has no file of any name, and none can be made there."""
    for name in ("f", "export", "new"):
        assert client.call(ROOT, client.open(name)).status == NfsStat4.NFS4ERR_NOENT
        assert client.call(ROOT, client.open(name, create=Fattr4(mode=0o600))).status == NfsStat4.NFS4ERR_ACCESS
    assert [file.name for file in server.service.files.values()] == ["f"]


def test_opening_makes_a_file_or_finds_it(server: Nfs4Service, client: Any) -> None:
    """A file is made once, each OPEN of it has a stateid of its own, and it becomes the current file handle."""
    made, first = client.opened("new", create=Fattr4(mode=0o600, size_bytes=0))
    assert server.service.files[made].name == "new"
    found, second = client.opened("new")
    again, third = client.opened("new", create=Fattr4(mode=0o600))
    assert made == found == again
    assert len({first, second, third, ANONYMOUS}) == 4
    assert len(server.service.files) == 2


def test_what_is_written_is_committed_and_read_back(server: Nfs4Service, client: Any) -> None:
    """UNSTABLE data and its COMMIT have one verifier, the server's; READ gives the data and says where it ends."""
    fh, stateid = client.opened()
    wrote = client.call(client.put(fh), client.write(stateid, 7, 8)).of(Nfs4Op.WRITE)
    assert (wrote.count, wrote.committed) == (2 * BLOCK_SIZE, StableHow.UNSTABLE)
    stable = client.call(client.put(fh), client.write(stateid, 9, offset=2 * BLOCK_SIZE, stable=StableHow.FILE_SYNC))
    assert stable.of(Nfs4Op.WRITE).committed == StableHow.FILE_SYNC
    committed = client.call(client.put(fh), COMMIT).of(Nfs4Op.COMMIT)
    assert committed.verifier == wrote.verifier == server.service.boot_verifier
    part = client.call(client.put(fh), client.read(stateid)).of(Nfs4Op.READ)
    assert (part.data, part.eof) == (Blocks.of((7,)), False)
    whole = client.call(client.put(fh), client.read(stateid, 1 << 20)).of(Nfs4Op.READ)
    assert (whole.data, whole.eof) == (Blocks.of((7, 8, 9)), True)
    size = client.call(client.put(fh), (Nfs4Op.GETATTR, Getattr4Args(numbers=(4,)))).of(Nfs4Op.GETATTR)
    assert size.attributes == Fattr4(size_bytes=3 * BLOCK_SIZE)


def test_a_stateid_that_nobody_has_is_refused(server: Nfs4Service, client: Any) -> None:
    """One that was not given is bad, and so is one of the boot before; the anonymous one may do all."""
    fh, stateid = client.opened()
    unknown = StateId(1, stateid.other[:-1] + b"\xff")
    assert client.call(client.put(fh), client.write(unknown, 7)).status == NfsStat4.NFS4ERR_BAD_STATEID
    assert client.call(client.put(fh), client.read(unknown)).status == NfsStat4.NFS4ERR_BAD_STATEID
    server.service.restart(0)
    client.connect()
    assert client.call(client.put(fh), client.write(stateid, 7)).status == NfsStat4.NFS4ERR_BAD_STATEID
    client.call(RECLAIM_COMPLETE)
    client.opened()
    assert client.call(client.put(fh), client.write(stateid, 7)).status == NfsStat4.NFS4ERR_BAD_STATEID
    assert client.call(client.put(fh), client.read(stateid)).status == NfsStat4.NFS4ERR_BAD_STATEID
    assert server.service.written_bytes == 0
    assert client.call(client.put(fh), client.write(ANONYMOUS, 7), client.read(ANONYMOUS)).of(
        Nfs4Op.READ
    ).data == Blocks.of((7,))


def test_a_stateid_is_of_one_file_and_one_client(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """What one client was given for one file does not serve for another file, nor another client."""
    other = make_client(ownerid=b"another").begin()
    fh, stateid = client.opened()
    another, of_another = client.opened("new", create=Fattr4(mode=0o600))
    _fh, others = other.opened()
    for who, file, said in ((client, fh, of_another), (client, another, stateid), (client, fh, others)):
        for operation in (who.read(said), who.write(said, 7)):
            assert who.call(who.put(file), operation).status == NfsStat4.NFS4ERR_BAD_STATEID
    assert other.call(other.put(fh), other.write(stateid, 7)).status == NfsStat4.NFS4ERR_BAD_STATEID
    assert server.service.written_bytes == 0
    for who, file, said in ((client, fh, stateid), (client, another, of_another), (other, fh, others)):
        assert who.call(who.put(file), who.write(said, 7), who.read(said)).status == NfsStat4.NFS4_OK


@pytest.mark.parametrize(
    ("seqid", "status"),
    [
        (0, NfsStat4.NFS4_OK),
        (1, NfsStat4.NFS4ERR_OLD_STATEID),
        (2, NfsStat4.NFS4ERR_OLD_STATEID),
        (3, NfsStat4.NFS4_OK),
        (4, NfsStat4.NFS4ERR_BAD_STATEID),
        (0xFFFFFFFF, NfsStat4.NFS4ERR_BAD_STATEID),
    ],
)
def test_a_stateid_is_of_a_moment(server: Nfs4Service, client: Any, seqid: int, status: NfsStat4) -> None:
    """One that has changed since is old, one that is yet to come bad, and zero means whatever it is now."""
    fh, stateid = client.opened()
    server._opens[stateid.other].seqid = 3
    said = StateId(seqid, stateid.other)
    assert client.call(client.put(fh), client.read(said)).status == status
    assert client.call(client.put(fh), client.write(said, 7)).status == status
    assert server.service.written_bytes == (0 if status else BLOCK_SIZE)


@pytest.mark.parametrize("seqid", [1, 0xFFFFFFFF])
def test_only_all_zeroes_are_anonymous(client: Any, seqid: int) -> None:
    """A stateid of no file is bad as soon as it says how often it has changed."""
    fh, _stateid = client.opened()
    assert client.call(client.put(fh), client.read(StateId(seqid))).status == NfsStat4.NFS4ERR_BAD_STATEID
    assert client.call(client.put(fh), client.read(ANONYMOUS)).status == NfsStat4.NFS4_OK


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (NfsStat3.NFS3ERR_ACCES, NfsStat4.NFS4ERR_ACCESS),
        (NfsStat3.NFS3ERR_FBIG, NfsStat4.NFS4ERR_FBIG),
        (NfsStat3.NFS3ERR_STALE, NfsStat4.NFS4ERR_STALE),
        (NfsStat3.NFS3ERR_BADHANDLE, NfsStat4.NFS4ERR_BADHANDLE),
        (NfsStat3.NFS3ERR_SERVERFAULT, NfsStat4.NFS4ERR_SERVERFAULT),
        (NfsStat3.NFS3ERR_JUKEBOX, NfsStat4.NFS4ERR_DELAY),
        (NfsStat3.NFS3ERR_NXIO, NfsStat4.NFS4ERR_SERVERFAULT),
        (NfsStat3.NFS3ERR_NOT_SYNC, NfsStat4.NFS4ERR_SERVERFAULT),
        (NfsStat3.NFS3ERR_BADTYPE, NfsStat4.NFS4ERR_SERVERFAULT),
        (max(NfsStat3) + 1, NfsStat4.NFS4ERR_SERVERFAULT),
    ],
)
def test_a_status_is_one_of_this_version(server: Nfs4Service, client: Any, refused: int, status: NfsStat4) -> None:
    """What version 3 refuses with is said by its number if this version has that, and as the server's fault if not."""
    fh, stateid = client.opened()
    server.service.error = refused
    for operation in (client.read(stateid), client.write(stateid, 7), COMMIT):
        res = client.call(client.put(fh), operation)
        assert res.status == res.of(operation[0]).status == status


def test_errors_of_the_server_pass_through(server: Nfs4Service, client: Any) -> None:
    """What READ, WRITE and COMMIT are refused with is the same in this version."""
    fh, stateid = client.opened()
    server.service.error = NfsStat3.NFS3ERR_IO
    for operation in (client.read(stateid), client.write(stateid, 7), COMMIT):
        res = client.call(client.put(fh), operation)
        assert (res.status, res.of(operation[0]).status) == (NfsStat4.NFS4ERR_IO, NfsStat4.NFS4ERR_IO)
    server.service.error = NfsStat3.NFS3_OK
    server.service.is_full = True
    assert client.call(client.put(fh), client.write(stateid, 7)).status == NfsStat4.NFS4ERR_NOSPC
    server.service.is_full = False
    assert client.call(client.put(fh), client.write(stateid, 7), COMMIT).status == NfsStat4.NFS4_OK


def test_a_compound_ends_with_its_first_failure(server: Nfs4Service, client: Any) -> None:
    """What came before is answered, what comes behind is not executed, and the status is that of the failure."""
    fh, stateid = client.opened()
    res = client.call(client.put(fh), client.put(b"?"), client.write(stateid, 7))
    assert (res.status, res.tag) == (NfsStat4.NFS4ERR_STALE, "tag")
    assert [(number, each.status) for number, each in res.results] == [(53, 0), (22, 0), (22, NfsStat4.NFS4ERR_STALE)]
    assert server.service.written_bytes == 0


@pytest.mark.parametrize(
    ("operations", "status"),
    [
        ((ROOT,), NfsStat4.NFS4ERR_OP_NOT_IN_SESSION),
        ((RECLAIM_COMPLETE,), NfsStat4.NFS4ERR_OP_NOT_IN_SESSION),
        ((COMMIT, ROOT), NfsStat4.NFS4ERR_OP_NOT_IN_SESSION),
        ((ILLEGAL,), NfsStat4.NFS4ERR_OP_ILLEGAL),
        (((4, VoidArgs()), ROOT), NfsStat4.NFS4ERR_OP_ILLEGAL),
    ],
)
def test_a_compound_begins_with_a_sequence(make_client: Any, operations: tuple[Op, ...], status: int) -> None:
    """What needs a session is refused without one, as its first operation's result."""
    res = make_client().compound(*operations)
    assert res.status == status
    assert [each.status for _, each in res.results] == [status]


def test_what_needs_no_session_is_alone(server: Nfs4Service, client: Any) -> None:
    """An operation that makes or ends a session and has company is refused, and does nothing."""
    alone: tuple[Op, ...] = (
        (Nfs4Op.EXCHANGE_ID, session.ExchangeIdArgs(verifier=b"8 bytes!", ownerid=b"another")),
        (Nfs4Op.CREATE_SESSION, session.CreateSessionArgs(clientid=client.clientid, sequenceid=2)),
        (Nfs4Op.DESTROY_SESSION, session.DestroySessionArgs(sessionid=client.sessionid)),
    )
    for operation in alone:
        res = client.compound(operation, ROOT)
        assert res.status == res.of(operation[0]).status == NfsStat4.NFS4ERR_NOT_ONLY_OP
        assert [number for number, _ in res.results] == [operation[0]]
        assert client.compound(operation, operation).status == NfsStat4.NFS4ERR_NOT_ONLY_OP
    assert server.nr_sessions == 1
    assert client.call(ROOT).status == NfsStat4.NFS4_OK
    assert client.compound().status == NfsStat4.NFS4_OK


def test_a_sequence_is_the_first_operation(client: Any) -> None:
    """Another one in the middle is refused, and what came before it was executed."""
    args = session.SequenceArgs(sessionid=client.sessionid, sequenceid=1, slotid=1)
    res = client.call(ROOT, (Nfs4Op.SEQUENCE, args), GETFH)
    assert [each.status for _, each in res.results] == [0, 0, NfsStat4.NFS4ERR_SEQUENCE_POS]
    assert client.call(ROOT, slot=1).status == NfsStat4.NFS4_OK


def test_what_the_server_does_not_know_is_refused(client: Any) -> None:
    """Another minor version is answered with nothing but that, an operation that is not here in its place."""
    for minorversion in (0, 2):
        res = client.compound(ROOT, minorversion=minorversion)
        assert res == CompoundRes(status=NfsStat4.NFS4ERR_MINOR_VERS_MISMATCH, tag="tag")
    res = client.call(ROOT, (4, VoidArgs()), GETFH)
    assert res.status == NfsStat4.NFS4ERR_OP_ILLEGAL
    assert [number for number, _ in res.results] == [Nfs4Op.SEQUENCE, Nfs4Op.PUTROOTFH, Nfs4Op.ILLEGAL]
