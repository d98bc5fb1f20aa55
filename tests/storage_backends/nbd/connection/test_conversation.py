"""The two cores talk to each other over a transport that cuts the stream anywhere."""

from collections.abc import Callable
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from storage_backends.nbd.connection.client import NbdClientConnection, Reply
from storage_backends.nbd.connection.server import NbdServerConnection, Request
from storage_backends.nbd.messages import CmdType, TransmissionFlag
from storage_backends.nbd.state import State
from storage_backends.wire import BLOCK_SIZE, Blocks, Chunk, RemoteProtocolError

NR_BLOCKS = 64
CUTS = st.lists(st.integers(5, 9000), min_size=1, max_size=4)
REQUESTS = st.lists(
    st.tuples(st.sampled_from([CmdType.READ, CmdType.WRITE, CmdType.FLUSH, CmdType.TRIM]), st.integers(1, 8)),
    min_size=1,
    max_size=12,
)


def send(client: NbdClientConnection, cookie: int, kind: CmdType, count: int) -> list[Chunk]:
    """Return the chunks of one request at the block its cookie numbers."""
    offset = cookie * BLOCK_SIZE
    match kind:
        case CmdType.READ:
            return client.read(cookie, offset, count * BLOCK_SIZE)
        case CmdType.WRITE:
            return client.write(cookie, offset, Blocks.of(tuple(range(cookie, cookie + count))))
        case CmdType.FLUSH:
            return client.flush(cookie)
        case _:
            return client.trim(cookie, offset, count * BLOCK_SIZE)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), requests=REQUESTS, cuts=CUTS)
def test_requests_and_replies_survive_any_cut(
    data: st.DataObject,
    requests: list[tuple[CmdType, int]],
    cuts: list[int],
    recut: Callable[[list[Chunk], list[int]], list[Chunk]],
) -> None:
    """However the streams are cut and replies ordered, both sides see the same requests and the same payload."""
    server = NbdServerConnection(NR_BLOCKS * BLOCK_SIZE, TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_TRIM)
    client = NbdClientConnection("swap")
    while client.state is not State.TRANSMISSION:
        for piece in recut(server.chunks_to_send(), cuts):
            client.receive(piece)
        for piece in recut(client.chunks_to_send(), cuts):
            server.receive(piece)

    stream = [chunk for cookie, (kind, count) in enumerate(requests) for chunk in send(client, cookie, kind, count)]
    delivered = [event for piece in recut(stream, cuts) for event in server.receive(piece)]
    assert [(r.cookie, r.kind) for r in delivered if isinstance(r, Request)] == [
        (cookie, kind) for cookie, (kind, _) in enumerate(requests)
    ]

    stream = []
    for request in data.draw(st.permutations(delivered)):
        assert isinstance(request, Request)
        count = request.length // BLOCK_SIZE
        if request.kind is CmdType.WRITE:
            assert request.payload == Blocks.of(tuple(range(request.cookie, request.cookie + count)))
        found = Blocks.of((request.cookie,) * count) if request.kind is CmdType.READ else None
        stream += server.reply(request.cookie, payload=found)
    replies = [event for piece in recut(stream, cuts) for event in client.receive(piece)]

    assert client.cookies_in_flight == ()
    for reply in replies:
        assert isinstance(reply, Reply)
        kind, count = requests[reply.cookie]
        assert reply.payload == (Blocks.of((reply.cookie,) * count) if kind is CmdType.READ else None)
    assert len(replies) == len(requests)


@settings(deadline=None)
@given(noise=st.binary(max_size=80), nr_exchanges=st.integers(0, 3), to_server=st.booleans())
def test_bytes_of_any_kind_are_facts_or_the_peers_fault(*, noise: bytes, nr_exchanges: int, to_server: bool) -> None:
    """Whatever comes, in whatever state, either end makes facts of it or a RemoteProtocolError."""
    server = NbdServerConnection(NR_BLOCKS * BLOCK_SIZE, 0)
    client = NbdClientConnection("swap")
    for _ in range(nr_exchanges):
        for chunk in server.chunks_to_send():
            client.receive(chunk)
        for chunk in client.chunks_to_send():
            server.receive(chunk)
    if client.state is State.TRANSMISSION:
        client.read(1, 0, 8)
    with suppress(RemoteProtocolError):
        (server if to_server else client).receive(noise)
