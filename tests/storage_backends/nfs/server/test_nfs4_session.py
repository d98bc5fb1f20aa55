"""Sessions on an export: their slots, and the clients that make them."""

from typing import Any

import pytest

from storage_backends.nfs.messages import session
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, Nfs4Op, NfsStat4, VoidArgs
from storage_backends.nfs.server.nfs4 import NFSD_MAX_SLOTS_PER_SESSION, Nfs4Service
from storage_backends.wire import BLOCK_SIZE

Op = tuple[int, Any]
ROOT: Op = (Nfs4Op.PUTROOTFH, VoidArgs())
NOBODYS = bytes(16)


def test_a_call_that_comes_again_is_answered_from_its_slot(server: Nfs4Service, client: Any) -> None:
    """The reply that was to be kept is given once more and nothing is executed; the next number is executed."""
    fh, stateid = client.opened()
    first = client.call(client.put(fh), client.write(stateid, 7), slot=1, cachethis=True)
    assert server.service.written_bytes == BLOCK_SIZE
    assert client.call(client.put(fh), client.write(stateid, 7), slot=1, number=1, cachethis=True) == first
    assert server.service.written_bytes == BLOCK_SIZE
    assert client.call(client.put(fh), client.write(stateid, 8), slot=1).status == NfsStat4.NFS4_OK
    assert server.service.written_bytes == 2 * BLOCK_SIZE
    failed = client.call(client.put(b"?"), slot=1, cachethis=True)
    assert failed.status == NfsStat4.NFS4ERR_STALE
    assert client.call(client.put(b"?"), slot=1, number=3, cachethis=True) == failed


def test_a_reply_that_was_not_to_be_kept_is_gone(server: Nfs4Service, client: Any) -> None:
    """A call that comes again without having asked for it is refused behind its SEQUENCE and not executed."""
    fh, stateid = client.opened()
    client.call(client.put(fh), client.write(stateid, 7), slot=1, cachethis=True)
    first = client.call(client.put(fh), client.write(stateid, 8), slot=1)
    for cachethis in (False, True, False):
        res = client.call(client.put(fh), client.write(stateid, 8), slot=1, number=2, cachethis=cachethis)
        assert res.status == NfsStat4.NFS4ERR_RETRY_UNCACHED_REP
        assert [number for number, _ in res.results] == [Nfs4Op.SEQUENCE, Nfs4Op.PUTFH]
        assert res.of(Nfs4Op.SEQUENCE) == first.of(Nfs4Op.SEQUENCE)
        assert res.of(Nfs4Op.PUTFH).status == NfsStat4.NFS4ERR_RETRY_UNCACHED_REP
    assert server.service.written_bytes == 2 * BLOCK_SIZE
    assert client.call(ROOT, slot=1).status == NfsStat4.NFS4_OK


def test_each_operation_can_say_that_its_reply_is_gone(server: Nfs4Service, client: Any) -> None:
    """Whichever is behind SEQUENCE is refused in its own words, and what it would do is not done once more."""
    ends: Op = (Nfs4Op.DESTROY_SESSION, session.DestroySessionArgs(sessionid=client.sessionid))
    again: Op = (Nfs4Op.RECLAIM_COMPLETE, session.ReclaimCompleteArgs())
    client.call(ROOT, slot=1)
    for operation in (ends, again, client.open(), client.read(ANONYMOUS), client.write(ANONYMOUS, 7), (4, VoidArgs())):
        res = client.call(operation, ROOT, slot=1, number=1)
        assert res.status == NfsStat4.NFS4ERR_RETRY_UNCACHED_REP
        assert [each.status for _, each in res.results] == [0, NfsStat4.NFS4ERR_RETRY_UNCACHED_REP]
    assert (server.nr_sessions, server.service.written_bytes) == (1, 0)


@pytest.mark.parametrize("cachethis", [False, True])
def test_a_lone_sequence_is_answered_again(client: Any, cachethis: bool) -> None:
    """Nothing is behind it that could have been done, so that its answer is the same, kept or not."""
    first = client.call(slot=1, cachethis=cachethis)
    assert first.status == NfsStat4.NFS4_OK
    assert client.call(slot=1, number=1, cachethis=cachethis) == first
    assert client.call(ROOT, slot=1).of(Nfs4Op.SEQUENCE).sequenceid == 2


def test_the_first_number_of_a_slot_is_one(client: Any) -> None:
    """Zero is not that of a call that came before, and the slot is as it was."""
    for _ in range(2):
        for operations in ((), (ROOT,)):
            res = client.call(*operations, slot=1, number=0)
            assert res.status == NfsStat4.NFS4ERR_SEQ_MISORDERED
            assert [number for number, _ in res.results] == [Nfs4Op.SEQUENCE]
    assert client.call(ROOT, slot=1, number=1).status == NfsStat4.NFS4_OK
    assert client.call(ROOT, slot=1, number=0).status == NfsStat4.NFS4ERR_SEQ_MISORDERED


def test_slots_count_for_themselves(client: Any) -> None:
    """A number that is neither the last nor the next is refused, as is no slot and no session; nothing moves."""
    assert client.call(ROOT, slot=2).status == NfsStat4.NFS4_OK
    assert client.call(ROOT, slot=2).status == NfsStat4.NFS4_OK
    for number in (0, 1, 4, 0xFFFFFFFF):
        assert client.call(ROOT, slot=2, number=number).status == NfsStat4.NFS4ERR_SEQ_MISORDERED
    assert client.call(ROOT, slot=3, number=2).status == NfsStat4.NFS4ERR_SEQ_MISORDERED
    res = client.call(ROOT, slot=3).of(Nfs4Op.SEQUENCE)
    assert (res.sessionid, res.sequenceid, res.slotid) == (client.sessionid, 1, 3)
    assert (res.highest_slotid, res.target_highest_slotid) == (3, 3)
    assert client.call(ROOT, slot=4).status == NfsStat4.NFS4ERR_BADSLOT
    assert client.call(ROOT, slot=2).status == NfsStat4.NFS4_OK
    client.sessionid = NOBODYS
    assert client.call(ROOT, slot=2).status == NfsStat4.NFS4ERR_BADSESSION


def test_numbers_of_a_slot_begin_again(server: Nfs4Service, client: Any) -> None:
    """Zero follows the highest number."""
    server._sessions[client.sessionid].slots[1].sequenceid = 0xFFFFFFFF
    assert client.call(ROOT, slot=1, number=1).status == NfsStat4.NFS4ERR_SEQ_MISORDERED
    first = client.call(ROOT, slot=1, number=0, cachethis=True)
    assert first.status == NfsStat4.NFS4_OK
    assert client.call(ROOT, slot=1, number=0) == first
    assert client.call(ROOT, slot=1, number=1).status == NfsStat4.NFS4_OK


def test_a_session_is_made_once(server: Nfs4Service, make_client: Any) -> None:
    """CREATE_SESSION that comes again is answered the same; other numbers and clients nobody knows are refused."""
    client = make_client()
    assert client.create_session(1).status == NfsStat4.NFS4ERR_STALE_CLIENTID
    number = client.exchange_id().sequenceid
    for wrong in (number - 1, number + 1):
        assert client.create_session(wrong).status == NfsStat4.NFS4ERR_SEQ_MISORDERED
    made = client.create_session(number)
    assert made.sequenceid == number
    assert client.create_session(number) == made
    assert server.nr_sessions == 1
    assert client.create_session(number + 2).status == NfsStat4.NFS4ERR_SEQ_MISORDERED
    assert client.create_session(number + 1).sessionid != made.sessionid
    assert server.nr_sessions == 2


@pytest.mark.parametrize("asked", [1, 64, NFSD_MAX_SLOTS_PER_SESSION, NFSD_MAX_SLOTS_PER_SESSION + 1, 1 << 20])
def test_a_session_has_so_many_slots(make_client: Any, asked: int) -> None:
    """As many as were asked for, up to the server's limit, and no more; the rest of the channel is as was asked."""
    client = make_client()
    res = client.create_session(client.exchange_id().sequenceid, maxrequests=asked)
    client.sessionid = res.sessionid
    granted = min(asked, NFSD_MAX_SLOTS_PER_SESSION)
    assert res.fore == session.ChannelAttrs(maxoperations=8, maxrequests=granted, maxresponse_cached_bytes=4096)
    assert client.call(ROOT, slot=granted - 1).status == NfsStat4.NFS4_OK
    assert client.call(ROOT, slot=granted).status == NfsStat4.NFS4ERR_BADSLOT


def test_a_session_ends(client: Any) -> None:
    """What was destroyed is not there, is not destroyed again, and its client makes another."""
    end: Op = (Nfs4Op.DESTROY_SESSION, session.DestroySessionArgs(sessionid=client.sessionid))
    assert client.compound(end).status == NfsStat4.NFS4_OK
    assert client.call(ROOT).status == NfsStat4.NFS4ERR_BADSESSION
    assert client.compound(end).status == NfsStat4.NFS4ERR_BADSESSION
    assert client.connect().call(ROOT).status == NfsStat4.NFS4_OK


def test_a_client_that_is_known_stays_who_it_is(make_client: Any) -> None:
    """The number of one that has made a session is said again, with the flag for it; others have numbers of theirs."""
    client = make_client()
    assert client.exchange_id().flags & session.EXCHGID4_FLAG_CONFIRMED_R == 0
    first = client.exchange_id()
    assert first.flags & session.EXCHGID4_FLAG_CONFIRMED_R == 0
    assert client.create_session(first.sequenceid).status == NfsStat4.NFS4_OK
    again = client.exchange_id()
    assert (again.clientid, again.sequenceid) == (first.clientid, first.sequenceid + 1)
    assert again.flags & session.EXCHGID4_FLAG_CONFIRMED_R
    assert make_client(ownerid=b"another").exchange_id().clientid != first.clientid


@pytest.mark.parametrize("verifier", [b"verifier", b"new boot"])
def test_a_client_without_a_session_is_replaced(server: Nfs4Service, make_client: Any, verifier: bytes) -> None:
    """Who says again who it is before it made a session has another number, and the first one is nobody's."""
    another = make_client(ownerid=b"another")
    others = another.exchange_id()
    first, second = make_client(), make_client(verifier=verifier)
    number = first.exchange_id().sequenceid
    res = second.exchange_id()
    assert res.clientid != first.clientid
    assert res.flags & session.EXCHGID4_FLAG_CONFIRMED_R == 0
    assert first.create_session(number).status == NfsStat4.NFS4ERR_STALE_CLIENTID
    assert second.create_session(res.sequenceid).status == NfsStat4.NFS4_OK
    assert another.create_session(others.sequenceid).status == NfsStat4.NFS4_OK
    assert server.nr_sessions == 2


def test_a_client_with_a_session_is_not_replaced(client: Any, make_client: Any) -> None:
    """However often it is said to have been started again, it is there until one of those makes a session."""
    booted, twice = make_client(verifier=b"new boot"), make_client(verifier=b"boot two")
    number = booted.exchange_id().sequenceid
    twice.exchange_id()
    assert booted.create_session(number).status == NfsStat4.NFS4ERR_STALE_CLIENTID
    assert client.call(ROOT).status == NfsStat4.NFS4_OK
    assert client.exchange_id().flags & session.EXCHGID4_FLAG_CONFIRMED_R
    assert twice.create_session(number).status == NfsStat4.NFS4_OK
    assert client.call(ROOT).status == NfsStat4.NFS4ERR_BADSESSION


def test_a_client_that_was_started_again_loses_what_it_had(server: Nfs4Service, client: Any, make_client: Any) -> None:
    """Once it makes a session with another verifier its old one and what it had open are gone; until then they work."""
    other = make_client(ownerid=b"another").begin()
    fh, stateid = client.opened()
    _, others = other.opened()
    booted = make_client(verifier=b"new boot")
    res = booted.exchange_id()
    assert res.clientid != client.clientid
    assert res.flags & session.EXCHGID4_FLAG_CONFIRMED_R == 0
    assert client.call(client.put(fh), client.write(stateid, 7)).status == NfsStat4.NFS4_OK
    booted.connect()
    assert client.call(ROOT).status == NfsStat4.NFS4ERR_BADSESSION
    assert client.create_session(2).status == NfsStat4.NFS4ERR_STALE_CLIENTID
    assert booted.call(client.put(fh), client.write(stateid, 7)).status == NfsStat4.NFS4ERR_BAD_STATEID
    assert other.call(client.put(fh), client.write(others, 7)).status == NfsStat4.NFS4_OK
    assert server.nr_sessions == 2
