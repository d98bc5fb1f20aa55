"""Chunks, payload by reference, and the buffer every core reads from."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_backends.wire import BLOCK_SIZE, Blocks, Chunk, ChunkBuffer, Octets, join, render, size_of

VERSIONS = st.lists(st.integers(0, 2**40), min_size=1, max_size=5).map(tuple)


@st.composite
def cut(draw: st.DrawFn, size_bytes: int) -> list[int]:
    """Draw the places where a transport cuts ``size_bytes``, both ends included."""
    inner = draw(st.lists(st.integers(0, size_bytes), max_size=6))
    return sorted([0, size_bytes, *inner])


def test_block_renders_as_its_version_repeated() -> None:
    """A block is its version as a little-endian 64-bit word, 512 times."""
    assert Blocks.of((0x0102,)).to_bytes() == (b"\x02\x01" + bytes(6)) * 512


def test_version_zero_is_zeros() -> None:
    """A block never written reads as zeros."""
    assert Blocks.of((0,)).to_bytes() == bytes(BLOCK_SIZE)


@settings(deadline=None)
@given(VERSIONS)
def test_rendering_is_reversible(versions: tuple[int, ...]) -> None:
    """Whole blocks are recovered from the bytes a real wire carried."""
    assert Blocks.from_bytes(Blocks.of(versions).to_bytes()) == Blocks.of(versions)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(100), "100 bytes are not whole blocks of 4096"),
        (bytes(4095) + b"\x01", "the block at byte 0 is not one 64-bit word repeated"),
        (bytes(4096 + 4095) + b"\x01", "the block at byte 4096 is not one 64-bit word repeated"),
    ],
)
def test_bytes_that_are_no_rendering_are_refused(data: bytes, message: str) -> None:
    """Bytes that no version renders to are named, not guessed at."""
    with pytest.raises(ValueError, match=message):
        Blocks.from_bytes(data)


@settings(deadline=None)
@given(st.data(), VERSIONS)
def test_a_part_is_a_slice_of_the_rendering(data: st.DataObject, versions: tuple[int, ...]) -> None:
    """Cutting by reference and cutting the bytes agree, also for a part of a part."""
    blocks = Blocks.of(versions)
    start = data.draw(st.integers(0, blocks.size_bytes))
    stop = data.draw(st.integers(start, blocks.size_bytes))
    part = blocks.part(start, stop)
    assert part.size_bytes == stop - start
    assert part.to_bytes() == blocks.to_bytes()[start:stop]
    half = part.size_bytes // 2
    assert part.part(half, part.size_bytes).to_bytes() == part.to_bytes()[half:]


@pytest.mark.parametrize("payload", [Blocks.of((1, 2)), Octets(bytes(8192))])
@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (5, 4), (0, 8193)])
def test_a_part_outside_is_refused(payload: Blocks | Octets, start: int, stop: int) -> None:
    """A cut outside the payload names itself and the payload's size."""
    with pytest.raises(ValueError, match=rf"part {start}\.\.{stop} of a payload of 8192 bytes"):
        payload.part(start, stop)


def test_an_empty_part_touches_no_block() -> None:
    """A part of no bytes refers to no version."""
    assert Blocks.of((1, 2)).part(5000, 5000) == Blocks((), 0, 0)


@settings(deadline=None)
@given(st.data(), VERSIONS)
def test_parts_join_into_the_run_they_were(data: st.DataObject, versions: tuple[int, ...]) -> None:
    """However a run of blocks is cut, joining gives the run back, by reference."""
    blocks = Blocks.of(versions)
    places = data.draw(cut(blocks.size_bytes))
    parts: list[Chunk] = [blocks.part(a, b) for a, b in pairwise(places) if a < b]
    assert join(parts) == blocks


@settings(deadline=None)
@given(st.lists(st.one_of(VERSIONS.map(Blocks.of), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_join_never_changes_the_bytes(chunks: list[Chunk]) -> None:
    """Whatever is joined renders as the bytes it was made of."""
    assert join(chunks).to_bytes() == render(chunks)


def test_halves_of_two_writes_stay_bytes() -> None:
    """A block made of two versions is not one version; its bytes are kept for someone to notice."""
    torn = join([Blocks.of((1,)).part(0, 2048), Blocks.of((2,)).part(2048, 4096)])
    assert isinstance(torn, Octets)
    assert torn.to_bytes() == Blocks.of((1,)).to_bytes()[:2048] + Blocks.of((2,)).to_bytes()[2048:]


def test_parts_out_of_place_stay_bytes() -> None:
    """Parts that do not follow each other inside a block are not taken for one."""
    assert isinstance(join([Blocks.of((1,)).part(0, 100), Blocks.of((1,)).part(200, 300)]), Octets)


@settings(deadline=None)
@given(st.data(), st.lists(st.one_of(VERSIONS.map(Blocks.of), st.binary(max_size=50)), max_size=4))
def test_buffer_gives_back_what_went_in(data: st.DataObject, chunks: list[Chunk]) -> None:
    """Bytes pulled in any sizes are the bytes pushed, in order, and the size always adds up."""
    buffer = ChunkBuffer()
    for chunk in chunks:
        buffer.push(chunk)
    total = sum(map(size_of, chunks))
    assert buffer.size_bytes == total
    pulled = []
    places = data.draw(cut(total))
    for start, stop in pairwise(places):
        piece = buffer.pull_bytes(stop - start)
        assert piece is not None
        pulled.append(piece)
    assert b"".join(pulled) == render(chunks)
    assert buffer.size_bytes == 0


def test_payload_passes_by_reference() -> None:
    """A payload that arrived between headers is the same object when pulled."""
    blocks = Blocks.of((7, 8))
    buffer = ChunkBuffer()
    buffer.push(b"head")
    buffer.push(blocks)
    buffer.push(b"tail")
    assert buffer.pull_bytes(4) == b"head"
    assert buffer.pull_payload(8192) is blocks
    assert buffer.pull_bytes(4) == b"tail"


def test_a_refused_pull_consumes_nothing_and_says_what_it_lacks() -> None:
    """A pull that must wait leaves the buffer as it was and counts the bytes missing as they come in."""
    buffer = ChunkBuffer()
    buffer.push(b"abc")
    assert buffer.pull(10) is None
    assert buffer.bytes_missing == 7
    buffer.push(b"defgh")
    assert buffer.bytes_missing == 2
    buffer.push(b"ijklm")
    assert buffer.bytes_missing == 0
    assert buffer.pull_bytes(10) == b"abcdefghij"
    assert buffer.size_bytes == 3


def test_empty_chunks_vanish() -> None:
    """A chunk of no bytes leaves no trace."""
    buffer = ChunkBuffer()
    buffer.push(b"")
    buffer.push(Blocks((), 0, 0))
    assert buffer.pull(0) == []
    assert buffer.size_bytes == 0
