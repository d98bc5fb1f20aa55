"""The two cores talk to each other over a transport that cuts the streams anywhere, whatever they negotiated."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from storage_backends.export.store import BlockStore
from storage_backends.iscsi.connection.facts import Command, InitiatorEvent, TargetEvent, TaskDone
from storage_backends.iscsi.connection.initiator import InitiatorConfig, InitiatorConnection
from storage_backends.iscsi.connection.target import TargetConfig, TargetConnection
from storage_backends.iscsi.login.keys import LoginOffer
from storage_backends.iscsi.messages.framing import Pdu
from storage_backends.iscsi.scsi import LogicalUnit, MediumKind
from storage_backends.iscsi.state import State
from storage_backends.wire import BLOCK_SIZE, Blocks, Chunk, RemoteProtocolError, render

NR_BLOCKS = 64
SECTORS = BLOCK_SIZE // 512
Recut: TypeAlias = Callable[[list[Chunk], list[int]], list[Chunk]]

OFFERS = st.builds(
    LoginOffer,
    header_digest=st.sampled_from([("None",), ("CRC32C", "None")]),
    initial_r2t=st.booleans(),
    immediate_data=st.booleans(),
    max_recv_data_length=st.integers(512, 20000),
    max_burst_length=st.integers(512, 20000),
    first_burst_length=st.integers(512, 20000),
    max_outstanding_r2t=st.integers(1, 4),
)
REQUESTS = st.lists(
    st.tuples(st.sampled_from(MediumKind), st.integers(0, NR_BLOCKS - 8), st.integers(1, 8)), min_size=1, max_size=12
)


class Conversation:
    """Both ends, and a server that answers in an order the test draws."""

    def __init__(self, host: LoginOffer, target: LoginOffer, queue_depth: int, cuts: list[int], recut: Recut) -> None:
        self.initiator = InitiatorConnection(InitiatorConfig(offer=host), now_ns=0)
        unit = LogicalUnit(size_blocks=NR_BLOCKS * SECTORS)
        self.target = TargetConnection(TargetConfig(offer=target, queue_depth=queue_depth), unit)
        self.store = BlockStore(NR_BLOCKS * BLOCK_SIZE)
        self.commands: list[Command] = []
        self.done: dict[int, TaskDone] = {}
        self.cuts = cuts
        self.recut = recut
        self.initiator.login()
        self.run()
        assert self.initiator.state is self.target.state is State.LOGGED_IN

    def run(self) -> None:
        """Carry everything that is to be said, until both fall silent."""
        while said := self._carry(iter(self.initiator.next_pdu, None)) + self._answer(iter(self.target.next_pdu, None)):
            assert said < 1000

    def ask(self, kind: MediumKind, first: int, count: int, *, version: int) -> int:
        """Ask for one access to ``count`` blocks and return its task tag."""
        match kind:
            case MediumKind.WRITE:
                return self.initiator.write(first * SECTORS, Blocks.of(tuple(range(version, version + count))))
            case MediumKind.READ:
                return self.initiator.read(first * SECTORS, count * SECTORS)
            case MediumKind.FLUSH:
                return self.initiator.flush()

    def serve(self, index: int) -> None:
        """Serve one of the commands that were delivered."""
        command = self.commands.pop(index)
        payload = None
        match command.kind:
            case MediumKind.WRITE:
                assert command.payload is not None
                self.store.write(command.lba * 512, command.payload)
            case MediumKind.READ:
                payload = self.store.read(command.lba * 512, command.nr_blocks * 512)
        self.target.respond(command.itt, payload=payload)

    def _carry(self, pdus: Iterator[Pdu]) -> int:
        chunks = [chunk for pdu in pdus for chunk in pdu.chunks]
        for piece in self.recut(chunks, self.cuts):
            events: list[TargetEvent] = self.target.receive(piece)
            self.commands.extend(event for event in events if isinstance(event, Command))
        return len(chunks)

    def _answer(self, pdus: Iterator[Pdu]) -> int:
        chunks = [chunk for pdu in pdus for chunk in pdu.chunks]
        for piece in self.recut(chunks, self.cuts):
            events: list[InitiatorEvent] = self.initiator.receive(piece, 0)
            self.done.update((event.itt, event) for event in events if isinstance(event, TaskDone))
        return len(chunks)


@settings(deadline=None, max_examples=120)
@given(
    data=st.data(),
    host=OFFERS,
    target=OFFERS,
    queue_depth=st.integers(1, 8),
    requests=REQUESTS,
    cuts=st.lists(st.integers(30, 9000), min_size=1, max_size=4),
)
def test_reads_find_what_writes_left(
    data: st.DataObject,
    host: LoginOffer,
    target: LoginOffer,
    queue_depth: int,
    requests: list[tuple[MediumKind, int, int]],
    cuts: list[int],
    recut: Recut,
) -> None:
    """Every command ends once, in whatever order the server takes them, and reads what the store held then."""
    talk = Conversation(host, target, queue_depth, cuts, recut)
    asked = {}
    for number, (kind, first, count) in enumerate(requests, 1):
        asked[talk.ask(kind, first, count, version=number * 100)] = (kind, first, count)
    expected = {}
    while len(talk.done) < len(requests):
        talk.run()
        assert len(talk.commands) <= queue_depth
        index = data.draw(st.integers(0, len(talk.commands) - 1))
        command = talk.commands[index]
        _, first, count = asked[command.itt]
        expected[command.itt] = talk.store.read(first * BLOCK_SIZE, count * BLOCK_SIZE)
        talk.serve(index)
        talk.run()
    for itt, (kind, _, _) in asked.items():
        assert talk.done[itt].status == 0
        assert talk.done[itt].payload == (expected[itt] if kind is MediumKind.READ else None)
    assert talk.initiator.task_tags == ()


def test_both_digests_survive_a_conversation(recut: Recut) -> None:
    """With every byte under a digest, a write and a read of it come through."""
    offer = LoginOffer(header_digest=("CRC32C",), data_digest=("CRC32C",))
    talk = Conversation(offer, offer, 4, [1000], recut)
    talk.initiator.write(0, Blocks.of((1, 2)))
    talk.run()
    talk.serve(0)
    itt = talk.initiator.read(0, 2 * SECTORS)
    talk.run()
    talk.serve(0)
    talk.run()
    assert talk.done[itt].payload == Blocks.of((1, 2))


def test_a_silent_wire_is_pinged(recut: Recut) -> None:
    """A ping goes out and its answer comes back, and the connection goes on."""
    talk = Conversation(LoginOffer(), LoginOffer(), 4, [7], recut)
    due_ns = talk.initiator.timer_ns()
    assert due_ns is not None
    assert talk.initiator.handle_timer(due_ns) == []
    talk.run()
    assert talk.initiator.handle_timer(due_ns + due_ns) == []
    assert talk.initiator.state is State.LOGGED_IN


MUTATIONS = st.lists(st.tuples(st.integers(0, 47), st.integers(0, 255)), min_size=1, max_size=3)


def mutate(pdu: Pdu, mutations: list[tuple[int, int]]) -> bytes:
    """Return the bytes of a PDU with some of its header overwritten."""
    wire = bytearray(render(pdu.chunks))
    for place, byte in mutations:
        wire[place] = byte
    return bytes(wire)


@settings(deadline=None)
@given(kind=st.sampled_from(MediumKind), immediate=st.booleans(), mutations=MUTATIONS)
def test_a_target_blames_the_initiator_and_nobody_else(
    *, kind: MediumKind, immediate: bool, mutations: list[tuple[int, int]], recut: Recut
) -> None:
    """Whatever a header says, the target makes facts of it or a RemoteProtocolError."""
    offer = LoginOffer(immediate_data=immediate)
    talk = Conversation(offer, offer, 4, [9000], recut)
    talk.ask(kind, 0, 2, version=1)
    for pdu in iter(talk.initiator.next_pdu, None):
        with suppress(RemoteProtocolError):
            talk.target.receive(mutate(pdu, mutations))


@settings(deadline=None)
@given(kind=st.sampled_from(MediumKind), immediate=st.booleans(), mutations=MUTATIONS)
def test_an_initiator_blames_the_target_and_nobody_else(
    *, kind: MediumKind, immediate: bool, mutations: list[tuple[int, int]], recut: Recut
) -> None:
    """Whatever a header says, the initiator makes facts of it or a RemoteProtocolError."""
    offer = LoginOffer(immediate_data=immediate, initial_r2t=True)
    talk = Conversation(offer, offer, 4, [9000], recut)
    talk.ask(kind, 0, 2, version=1)
    for pdu in iter(talk.initiator.next_pdu, None):
        for chunk in pdu.chunks:
            talk.commands.extend(event for event in talk.target.receive(chunk) if isinstance(event, Command))
    if talk.commands:
        talk.serve(0)
    for pdu in iter(talk.target.next_pdu, None):
        with suppress(RemoteProtocolError):
            talk.initiator.receive(mutate(pdu, mutations), 0)
    while talk.initiator.next_pdu() is not None:
        pass
