"""What the tests of every codec share."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from storage_backends.wire import Chunk, ChunkBuffer

Pull: TypeAlias = Callable[[ChunkBuffer], object]
CheckPull: TypeAlias = Callable[[Pull, bytes, object], None]


def pull_whole_bytewise_and_trailing(pull: Pull, wire: bytes, expected: object) -> None:
    """Pull one message that arrives whole, byte by byte, and with the beginning of the next."""
    whole = ChunkBuffer()
    whole.push(wire)
    assert pull(whole) == expected
    assert whole.size_bytes == 0

    bytewise = ChunkBuffer()
    for index in range(len(wire)):
        assert pull(bytewise) is None
        assert bytewise.size_bytes == index
        assert bytewise.bytes_missing > 0
        bytewise.push(wire[index : index + 1])
    assert pull(bytewise) == expected

    trailing = ChunkBuffer()
    trailing.push(wire + b"the next one")
    assert pull(trailing) == expected
    assert trailing.pull_bytes(12) == b"the next one"


@pytest.fixture(scope="session")
def check_pull() -> CheckPull:
    """Return the check every ``pull_x`` must pass."""
    return pull_whole_bytewise_and_trailing


def cut_stream(chunks: list[Chunk], cuts: list[int]) -> list[Chunk]:
    """Cut a stream as a transport might, at every multiple of each size in turn; payload stays by reference."""
    buffer = ChunkBuffer()
    for chunk in chunks:
        buffer.push(chunk)
    pieces: list[Chunk] = []
    while buffer.size_bytes:
        size = min(cuts[len(pieces) % len(cuts)], buffer.size_bytes)
        pieces.extend(buffer.pull(size) or [])
    return pieces


@pytest.fixture(scope="session")
def recut() -> Callable[[list[Chunk], list[int]], list[Chunk]]:
    """Return a transport that cuts a stream into pieces of the sizes given."""
    return cut_stream
