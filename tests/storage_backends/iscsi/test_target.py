"""The target: what it promises, what it keeps, and its threads when it lives on the host itself."""

from collections.abc import Iterator

import pytest

from netvm.mm.gfp import GFP_FS, GFP_IO, PF_KTHREAD, PF_MEMALLOC_NOIO
from netvm.units import NS_PER_MS, NS_PER_S
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.iscsi.connection.facts import InitiatorEvent, TaskDone, TaskManagementDone
from storage_backends.iscsi.connection.initiator import InitiatorConfig, InitiatorConnection
from storage_backends.iscsi.connection.target import TargetConnection
from storage_backends.iscsi.login.keys import LoginOffer
from storage_backends.iscsi.scsi import Status
from storage_backends.iscsi.state import State
from storage_backends.iscsi.target import IscsiService, Promise
from storage_backends.wire import Blocks, RemoteProtocolError, render

LOCAL = """
[storage]
kind = "iscsi"
place = "local"
size_mib = 64
[nic]
kind = "loopback"
"""
REMOTE = """
[storage]
kind = "iscsi"
size_mib = 64
"""
MIB = 1 << 20


class Conversation:
    """An initiator core and a connection of a service, joined without any network."""

    def __init__(self, service: IscsiService) -> None:
        self.service = service
        self.initiator = InitiatorConnection(InitiatorConfig(), now_ns=0)
        self.connection: TargetConnection = service.accept()
        self.promises: list[Promise] = []
        self.events: list[InitiatorEvent] = []
        self.initiator.login()
        self.exchange(0)

    def exchange(self, now_ns: int) -> None:
        """Carry PDUs both ways until neither side has more to say."""
        moved = True
        while moved:
            moved = False
            while (pdu := self.initiator.next_pdu()) is not None:
                moved = True
                for chunk in pdu.chunks:
                    self.promises += self.service.receive(self.connection, chunk, now_ns)
            for chunk in self.service.answers(self.connection):
                moved = True
                self.events += self.initiator.receive(chunk, now_ns)

    def keep(self, now_ns: int) -> list[bool]:
        """Let the disk do what is due."""
        due = [promise for promise in self.promises if promise.due_ns <= now_ns]
        self.promises = [promise for promise in self.promises if promise.due_ns > now_ns]
        kept = [self.service.complete(promise) for promise in due]
        self.exchange(now_ns)
        return kept

    def ended(self) -> Iterator[TaskDone]:
        """Generate the commands that ended, in order."""
        return (event for event in self.events if isinstance(event, TaskDone))


@pytest.fixture
def service() -> IscsiService:
    """Return one logical unit of 1 MiB on a disk of one millisecond."""
    return IscsiService(BlockStore(MIB), DiskModel(latency_ns=NS_PER_MS))


# -- the service ------------------------------------------------------------------------------------------------------


def test_a_promise_is_due_when_the_disk_is_done(service):
    """A command is promised when its data is there, for the instant the disk says, and done no earlier."""
    talk = Conversation(service)
    assert service.session is talk.connection
    talk.initiator.write(8, Blocks.of((11, 12)))
    talk.exchange(5)
    assert [promise.due_ns for promise in talk.promises] == [5 + NS_PER_MS]
    assert service.store.versions[1:3].tolist() == [0, 0]
    assert talk.keep(5 + NS_PER_MS) == [True]
    assert service.store.versions[1:3].tolist() == [11, 12]
    assert [done.status for done in talk.ended()] == [Status.GOOD]


def test_reads_bring_data_and_flushes_make_it_stable():
    """A read's answer carries the newest versions; after a SYNCHRONIZE CACHE nothing is lost with the power."""
    service = IscsiService(BlockStore(MIB, write_cache=True), DiskModel())
    talk = Conversation(service)
    talk.initiator.write(0, Blocks.of((1, 2, 3)))
    talk.exchange(0)
    talk.keep(0)
    talk.initiator.flush()
    talk.initiator.write(8, Blocks.of((9,)), fua=True)
    talk.initiator.write(16, Blocks.of((4,)))
    talk.initiator.read(0, 24)
    talk.exchange(0)
    talk.keep(0)
    assert [done.payload for done in talk.ended()][-1] == Blocks.of((1, 9, 4))
    assert service.store.lose_uncommitted() == 1
    assert service.store.versions[:3].tolist() == [1, 9, 3]


def test_write_is_promised_only_when_all_its_data_has_come():
    """What InitialR2T and small bursts keep back is asked for first."""
    offer = LoginOffer(initial_r2t=True, immediate_data=False, max_burst_length=4096)
    service = IscsiService(BlockStore(MIB), DiskModel(), offer)
    talk = Conversation(service)
    talk.initiator.write(0, Blocks.of((1, 2, 3)))
    pdu = talk.initiator.next_pdu()
    assert pdu is not None
    assert service.receive(talk.connection, pdu.chunks[0], 0) == []
    for chunk in service.answers(talk.connection):
        talk.initiator.receive(chunk, 0)
    talk.exchange(0)
    assert len(talk.promises) == 1
    assert talk.keep(0) == [True]
    assert service.store.versions[:3].tolist() == [1, 2, 3]


def test_part_of_a_block_is_refused(service):
    """The store holds blocks of 4 KiB; a command for less is answered with CHECK CONDITION."""
    talk = Conversation(service)
    talk.initiator.read(1, 8)
    talk.initiator.read(8, 1)
    talk.exchange(0)
    talk.keep(NS_PER_S)
    assert [done.status for done in talk.ended()] == [Status.CHECK_CONDITION] * 2


def test_an_abort_is_answered_behind_what_it_aborts(service):
    """Task management is answered when the disk has done all it had: no aborted write comes late."""
    talk = Conversation(service)
    itt = talk.initiator.write(0, Blocks.of((1,)))
    talk.exchange(0)
    talk.initiator.abort_task(itt)
    talk.exchange(0)
    assert talk.promises[1].due_ns >= talk.promises[0].due_ns
    assert talk.keep(NS_PER_S) == [True, True]
    assert isinstance(talk.events[-1], TaskManagementDone)


def test_a_login_makes_old_promises_void(service):
    """Session reinstatement: an old write does not happen after the same write was sent again and overtaken."""
    old = Conversation(service)
    old.initiator.write(0, Blocks.of((5,)))
    old.exchange(0)
    new = Conversation(service)
    new.initiator.write(0, Blocks.of((5,)))
    new.exchange(1)
    assert new.keep(2 * NS_PER_MS) == [True]
    new.initiator.write(0, Blocks.of((6,)))
    new.exchange(2 * NS_PER_MS)
    new.keep(NS_PER_S)
    assert old.keep(NS_PER_S) == [False]
    assert service.store.versions[0] == 6


def test_logout_ends_the_session(service):
    """After a logout no connection is the session."""
    talk = Conversation(service)
    talk.initiator.logout()
    talk.exchange(0)
    assert talk.initiator.state is State.FREE
    assert service.session is None


def test_breach_is_answered_with_a_reject(service):
    """A PDU that breaks the protocol raises, and the Reject that shows its header is there to be sent."""
    talk = Conversation(service)
    with pytest.raises(RemoteProtocolError):
        service.receive(talk.connection, b"\xff" * 48, 0)
    assert b"\xff" * 48 in render(service.answers(talk.connection))


# -- outside the host -------------------------------------------------------------------------------------------------


def test_stalled_disk_answers_when_the_stall_is_over(device):
    """A promise made before a stall is kept at its end."""

    async def script(d, task):
        until_ns = d.world.now_ns + 30 * NS_PER_MS
        d.submit(0, [1])
        d.host.backend.stall(until_ns)
        d.submit(8, [2])
        await d.until_ended(task, 2)
        assert until_ns <= d.world.now_ns < until_ns + 5 * NS_PER_MS

    device(REMOTE, ["storage.disk.latency_us=100"]).run(script)


def test_restarted_target_is_deaf_until_it_is_back(device):
    """A restart resets what there is; SYNs go unheard until then, and the first login after it is the only session."""

    async def script(d, task):
        target = d.host.backend.remote
        first = target.current
        until_ns = d.world.now_ns + 2500 * NS_PER_MS
        d.host.backend.restart_server(until_ns)
        assert target.current is None
        await d.until(task, lambda: bool(target._open), within_ms=2400)
        assert not target._open[0].sock.is_open
        assert not target.digest()[0]
        assert await d.until(task, lambda: target.current is not None, within_ms=3000)
        assert d.world.now_ns >= until_ns
        assert target.current is not first
        assert target._open == [target.current]

    device(REMOTE).run(script)


def test_new_login_closes_the_connection_before_it(device):
    """When a host comes back without having closed, its old connection is reset."""

    async def script(d, task):
        target, session = d.host.backend.remote, d.host.backend.driver
        old = target.current
        d.host.link.up.is_down = True
        session.iscsi_conn_failure(session.conn, "a test")
        assert await d.until(task, lambda: d.host.backend.iscsid._sock is not session.conn, within_ms=1000)
        d.host.link.up.is_down = False
        assert await d.until(task, lambda: target.current is not old, within_ms=20_000)
        assert await d.until(task, lambda: target._open == [target.current], within_ms=100)
        assert old.sock.core is None

    device(REMOTE).run(script)


# -- on the host ------------------------------------------------------------------------------------------------------


def test_local_target_serves_over_loopback(device):
    """Kernel threads of the host serve the session, and the pages they received into are given back."""

    async def script(d, task):
        target = d.host.backend.local
        seen = []
        rqs = [d.submit(32 * i, [i + 1] * 32) for i in range(4)]
        waited_for = set()
        while len(d.ended) < 4:
            seen.append(len(target._pages))
            waited_for.add(d.queue.driver.needs(rqs[0]).name)
            await d.until(task, lambda: len(seen) % 2 == 0, within_ms=1)
        assert max(seen) >= 32
        d.submit(32, nr_pages=8)
        await d.until_ended(task, 5)
        assert d.ended[-1][0].versions == [2] * 8
        assert not target._pages
        assert any("served on this host" in name for name in waited_for)

    d = device(LOCAL, ["storage.disk.latency_us=3000"]).run(script)
    assert d.host.backend.stored()[:128].tolist() == [i + 1 for i in range(4) for _ in range(32)]
    assert [task.comm for task in d.host.backend.tasks()] == ["iscsi_trx", "iscsi_ttx"]


@pytest.mark.parametrize("noio", [True, False])
def test_loopback_target_allocates_in_a_noio_scope(device, noio):
    """With loopback_target_noio what the target allocates for a write carries neither __GFP_IO nor __GFP_FS."""

    async def script(d, task):
        d.submit(0, [1] * 8)
        await d.until_ended(task, 1)
        flags = [thread.flags & (PF_MEMALLOC_NOIO | PF_KTHREAD) for thread in d.host.backend.tasks()]
        assert flags == [PF_KTHREAD | (PF_MEMALLOC_NOIO if noio else 0)] * 2

    device(LOCAL, [f"kernel.fixes.loopback_target_noio={str(noio).lower()}"]).run(script)


@pytest.mark.parametrize("noio", [True, False])
def test_loopback_target_never_waits_for_its_own_device(device, noio):
    """Short of memory, iscsi_trx reclaims; without the fix it may write to the device it serves, with it it may not."""
    masks: set[bool] = set()

    async def script(d, task):
        vmscan = d.host.vmscan
        reclaim = vmscan.try_to_free_pages

        async def try_to_free_pages(who, order, gfp):
            if who.comm == "iscsi_trx":
                masks.add(bool(gfp & (GFP_IO | GFP_FS)))
            return await reclaim(who, order, gfp)

        vmscan.try_to_free_pages = try_to_free_pages
        held = d.drain()
        d.give_back(held[:32])
        d.submit(0, [1] * 2)
        await d.until(task, lambda: bool(masks), within_ms=50)

    device(LOCAL, [f"kernel.fixes.loopback_target_noio={str(noio).lower()}"]).run(script)
    assert masks == {not noio}


@pytest.mark.parametrize("fault", ["reset_connection", "restart_server"])
def test_local_target_takes_the_next_connection(device, fault):
    """After a reset or a restart the threads serve the connection that comes then."""

    async def script(d, task):
        until_ns = d.world.now_ns + 4 * NS_PER_S
        d.submit(0, [1] * 32)
        if fault == "reset_connection":
            d.host.backend.reset_connection()
        else:
            d.host.backend.restart_server(until_ns)
        d.submit(64, [2])
        assert await d.until_ended(task, 2, within_ms=8000) == [0, 0]
        assert fault == "reset_connection" or d.world.now_ns >= until_ns

    d = device(LOCAL).run(script)
    assert d.host.backend.stored()[[0, 64]].tolist() == [1, 2]
    assert len(d.host.stack.sockets) == 2


def test_reset_waits_for_the_thread_that_owns_the_socket(device):
    """A reset while iscsi_ttx allocates with the socket locked takes effect when it lets go."""

    async def script(d, task):
        target = d.host.backend.local
        d.submit(0, [1] * 32)
        await d.until_ended(task, 1)
        sock = target.sock
        sock.lock.owner = target.tx
        d.host.backend.reset_connection()
        await d.until(task, lambda: False, within_ms=20)
        assert sock.established
        sock.lock.owner = None
        assert await d.until(task, lambda: not sock.established, within_ms=10)

    device(LOCAL).run(script)
