"""A restart of the server: what it knows no more, and the grace in which it is claimed back."""

from typing import Any

import pytest

from netvm.units import NS_PER_S
from storage_backends.nfs.messages import session
from storage_backends.nfs.messages.attributes4 import Fattr4
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, Nfs4Op, NfsStat4, VoidArgs
from storage_backends.nfs.messages.operations import Claim, Commit4Args, Lookup4Args
from storage_backends.nfs.server.nfs4 import LEASE_S, Nfs4Service
from storage_backends.wire import Blocks

Op = tuple[int, Any]
ROOT: Op = (Nfs4Op.PUTROOTFH, VoidArgs())
EXPORT: tuple[Op, ...] = (ROOT, (Nfs4Op.LOOKUP, Lookup4Args(name="export")))
COMMIT: Op = (Nfs4Op.COMMIT, Commit4Args())
RECLAIM_COMPLETE: Op = (Nfs4Op.RECLAIM_COMPLETE, session.ReclaimCompleteArgs())
BACK_NS = 5 * NS_PER_S


def test_a_restart_forgets_sessions_and_clients(server: Nfs4Service, client: Any) -> None:
    """A call in the old session and a session for the old client are refused; the client is somebody new."""
    old = client.clientid
    server.service.restart(BACK_NS)
    assert server.nr_sessions == 0
    assert client.call(ROOT, number=1).status == NfsStat4.NFS4ERR_BADSESSION
    assert client.create_session(2).status == NfsStat4.NFS4ERR_STALE_CLIENTID
    res = client.exchange_id()
    assert res.clientid != old
    assert res.flags & session.EXCHGID4_FLAG_CONFIRMED_R == 0
    assert client.create_session(res.sequenceid).status == NfsStat4.NFS4_OK


def test_a_session_of_another_boot_is_not_taken_for_one_of_this(server: Nfs4Service, client: Any) -> None:
    """Numbers begin again with each boot, but what is made of them does not come again."""
    _fh, stateid = client.opened()
    old = (client.clientid, client.sessionid, stateid)
    server.service.restart(BACK_NS)
    client.begin()
    _fh, stateid = client.opened()
    assert client.clientid != old[0]
    assert client.sessionid != old[1]
    assert stateid != old[2]


def test_what_was_open_is_claimed_back_in_the_grace(server: Nfs4Service, client: Any) -> None:
    """Nothing new is granted until the client has claimed back everything; from then on nothing is claimed."""
    fh, _stateid = client.opened()
    server.service.restart(BACK_NS)
    client.connect()
    assert server.in_grace
    assert client.call(*EXPORT, client.open()).status == NfsStat4.NFS4ERR_GRACE
    for operation in (client.write(ANONYMOUS, 7), client.read(ANONYMOUS)):
        assert client.call(client.put(fh), operation).status == NfsStat4.NFS4ERR_GRACE
    claim = client.open(claim=Claim.PREVIOUS)
    claimed = client.call(client.put(fh), claim)
    assert claimed.status == NfsStat4.NFS4_OK
    stateid = claimed.of(Nfs4Op.OPEN).stateid
    assert client.call(client.put(fh), client.write(stateid, 7), COMMIT).status == NfsStat4.NFS4_OK
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    assert not server.in_grace
    assert client.call(client.put(fh), claim).status == NfsStat4.NFS4ERR_NO_GRACE
    assert client.call(*EXPORT, client.open()).status == NfsStat4.NFS4_OK
    assert client.call(client.put(fh), client.read(stateid)).of(Nfs4Op.READ).data == Blocks.of((7,))
    assert client.call(client.put(fh), client.write(ANONYMOUS, 8)).status == NfsStat4.NFS4_OK


def test_nothing_is_opened_before_all_is_claimed_back(server: Nfs4Service, make_client: Any) -> None:
    """A client says that it has nothing more to claim before it opens by name, though no restart was; it may write."""
    client = make_client().connect()
    assert not server.in_grace
    for create in (None, Fattr4(mode=0o600)):
        for path in ((ROOT,), EXPORT):
            res = client.call(*path, client.open("new", create=create))
            assert res.status == res.of(Nfs4Op.OPEN).status == NfsStat4.NFS4ERR_GRACE
    assert [file.name for file in server.service.files.values()] == ["f"]
    fh = next(iter(server.service.files))
    assert client.call(client.put(fh), client.write(ANONYMOUS, 7)).status == NfsStat4.NFS4_OK
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    client.opened("new", create=Fattr4(mode=0o600))


def test_each_client_has_claimed_back_for_itself(client: Any, make_client: Any) -> None:
    """What one said does not hold for another, nor for the same one once it was started again."""
    client.opened()
    for about in ({"ownerid": b"another"}, {"verifier": b"new boot"}):
        fresh = make_client(**about).connect()
        assert fresh.call(*EXPORT, fresh.open()).status == NfsStat4.NFS4ERR_GRACE
        assert fresh.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
        fresh.opened()


def test_only_a_file_is_claimed_back(server: Nfs4Service, client: Any) -> None:
    """No directory was open, and without a handle nothing is meant; the grace and the client are as before."""
    fh, _stateid = client.opened()
    server.service.restart(BACK_NS)
    client.connect()
    claim = client.open(claim=Claim.PREVIOUS)
    for path in ((ROOT,), EXPORT):
        assert client.call(*path, claim).status == NfsStat4.NFS4ERR_ISDIR
    assert client.call(claim).status == NfsStat4.NFS4ERR_NOFILEHANDLE
    assert client.call(client.put(fh), claim).status == NfsStat4.NFS4_OK
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    for path in ((ROOT,), EXPORT):
        assert client.call(*path, claim).status == NfsStat4.NFS4ERR_NO_GRACE
    assert client.call(claim).status == NfsStat4.NFS4ERR_NOFILEHANDLE


@pytest.mark.parametrize("introduced", [False, True])
def test_only_who_had_a_session_claims_back(
    server: Nfs4Service, client: Any, make_client: Any, introduced: bool
) -> None:
    """A client that the server has not had a session with before the restart claims nothing in another's grace."""
    fresh = make_client(ownerid=b"another")
    if introduced:
        fresh.exchange_id()
    fh, _stateid = client.opened()
    server.service.restart(BACK_NS)
    fresh.connect()
    assert fresh.call(fresh.put(fh), fresh.open(claim=Claim.PREVIOUS)).status == NfsStat4.NFS4ERR_NO_GRACE
    assert fresh.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    assert server.in_grace
    assert fresh.call(*EXPORT, fresh.open()).status == NfsStat4.NFS4ERR_GRACE
    assert client.connect().call(client.put(fh), client.open(claim=Claim.PREVIOUS)).status == NfsStat4.NFS4_OK
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    fresh.opened()


def test_a_client_that_was_started_again_claims_back(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """It is known by who it is and not by its boot, and it is done once for both."""
    fh, _stateid = client.opened()
    server.service.restart(BACK_NS)
    booted = make_client(verifier=b"new boot").connect()
    assert booted.call(booted.put(fh), booted.open(claim=Claim.PREVIOUS)).status == NfsStat4.NFS4_OK
    assert booted.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    assert not server.in_grace


def test_what_was_unstable_is_lost_and_another_verifier_says_so(server: Nfs4Service, client: Any) -> None:
    """A COMMIT after the restart does not have the verifier of the WRITE before it, and the page is as it was."""
    fh, stateid = client.opened()
    assert client.call(client.put(fh), client.write(stateid, 7, stable=StableHow.FILE_SYNC)).status == NfsStat4.NFS4_OK
    wrote = client.call(client.put(fh), client.write(stateid, 8)).of(Nfs4Op.WRITE)
    server.service.restart(BACK_NS)
    client.connect()
    claimed = client.call(client.put(fh), client.open(claim=Claim.PREVIOUS)).of(Nfs4Op.OPEN)
    assert client.call(client.put(fh), COMMIT).of(Nfs4Op.COMMIT).verifier != wrote.verifier
    assert client.call(client.put(fh), client.read(claimed.stateid)).of(Nfs4Op.READ).data == Blocks.of((7,))


def test_nothing_is_claimed_where_no_grace_was(client: Any) -> None:
    """A server that was not restarted has nothing to give back, and all was claimed back of it only once."""
    fh, _stateid = client.opened()
    assert client.call(client.put(fh), client.open(claim=Claim.PREVIOUS)).status == NfsStat4.NFS4ERR_NO_GRACE
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4ERR_COMPLETE_ALREADY


def test_all_is_claimed_back_once_a_boot(server: Nfs4Service, client: Any) -> None:
    """RECLAIM_COMPLETE is said once after each restart; a second session of the client does not say it again."""
    server.service.restart(BACK_NS)
    client.connect()
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4ERR_COMPLETE_ALREADY
    client.connect()
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4ERR_COMPLETE_ALREADY


def test_the_grace_is_everybodys(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """It lasts until the last of those that were there is done; who is done claims no more and gets nothing new."""
    other = make_client(ownerid=b"another").begin()
    fh, _stateid = client.opened()
    server.service.restart(BACK_NS)
    client.begin()
    claim = client.open(claim=Claim.PREVIOUS)
    assert client.call(*EXPORT, client.open()).status == NfsStat4.NFS4ERR_GRACE
    assert client.call(client.put(fh), claim).status == NfsStat4.NFS4ERR_NO_GRACE
    other.begin()
    assert client.call(*EXPORT, client.open()).status == NfsStat4.NFS4_OK


def test_the_grace_ends_by_itself(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """A client that does not come back is waited for as long as a lease, from when the server is back."""
    make_client(ownerid=b"another").begin()
    fh, _stateid = client.opened()
    world = server.service.world
    server.service.restart(BACK_NS)
    world.now_ns = BACK_NS
    client.connect()
    world.now_ns = BACK_NS + LEASE_S * NS_PER_S - 1
    assert client.call(client.put(fh), client.open(claim=Claim.PREVIOUS)).status == NfsStat4.NFS4_OK
    assert client.call(*EXPORT, client.open()).status == NfsStat4.NFS4ERR_GRACE
    world.now_ns += 1
    assert not server.in_grace
    assert client.call(client.put(fh), client.open(claim=Claim.PREVIOUS)).status == NfsStat4.NFS4ERR_NO_GRACE
    assert client.call(RECLAIM_COMPLETE).status == NfsStat4.NFS4_OK
    assert client.call(*EXPORT, client.open()).status == NfsStat4.NFS4_OK


def test_a_restart_in_the_grace_begins_another(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """Who had not come back before the second restart is waited for still."""
    other = make_client(ownerid=b"another").begin()
    server.service.restart(BACK_NS)
    client.begin()
    server.service.restart(2 * BACK_NS)
    client.begin()
    assert server.in_grace
    server.service.world.now_ns = BACK_NS + LEASE_S * NS_PER_S
    assert server.in_grace
    other.begin()
    assert not server.in_grace


def test_who_did_not_come_back_in_time_is_forgotten(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """A restart after a grace that ran out does not wait for a client that was absent in it, nor may that claim."""
    other = make_client(ownerid=b"another").begin()
    fh, _stateid = client.opened()
    world = server.service.world
    server.service.restart(BACK_NS)
    client.begin()
    assert server.in_grace
    world.now_ns = BACK_NS + LEASE_S * NS_PER_S
    assert not server.in_grace
    client.opened()
    server.service.restart(world.now_ns + BACK_NS)
    assert server.in_grace
    other.connect()
    assert other.call(other.put(fh), other.open(claim=Claim.PREVIOUS)).status == NfsStat4.NFS4ERR_NO_GRACE
    client.begin()
    assert not server.in_grace
    client.opened()


def test_who_came_back_late_is_waited_for(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """A client that has all it wants of this boot is there, though it came when the grace had run out."""
    other = make_client(ownerid=b"another").begin()
    world = server.service.world
    server.service.restart(BACK_NS)
    client.begin()
    world.now_ns = BACK_NS + LEASE_S * NS_PER_S
    other.begin()
    server.service.restart(world.now_ns + BACK_NS)
    client.begin()
    assert server.in_grace
    other.begin()
    assert not server.in_grace


@pytest.mark.parametrize("introduced", [False, True])
def test_there_is_no_grace_for_nobody(server: Nfs4Service, make_client: Any, introduced: bool) -> None:
    """A server without a client that had a session grants at once after a restart."""
    client = make_client()
    if introduced:
        client.exchange_id()
    assert not server.in_grace
    server.service.restart(BACK_NS)
    assert not server.in_grace
    client.begin()
    client.opened()


def test_a_file_is_opened_by_its_handle_outside_the_grace(server: Nfs4Service, client: Any) -> None:
    """CLAIM_FH grants what CLAIM_NULL would, of a file and when that is granted."""
    fh, _stateid = client.opened()
    claim = client.open(claim=Claim.FH)
    found = client.call(client.put(fh), claim)
    assert found.status == NfsStat4.NFS4_OK
    stateid = found.of(Nfs4Op.OPEN).stateid
    assert client.call(client.put(fh), client.write(stateid, 7)).status == NfsStat4.NFS4_OK
    assert client.call(*EXPORT, claim).status == NfsStat4.NFS4ERR_ISDIR
    server.service.restart(BACK_NS)
    client.connect()
    assert client.call(client.put(fh), claim).status == NfsStat4.NFS4ERR_GRACE
