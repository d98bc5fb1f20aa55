"""What surrounds a header on the wire: data, padding and digests."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_backends.iscsi.messages import pdus
from storage_backends.iscsi.messages.framing import PduReader, crc32c, frame
from storage_backends.wire import Blocks, Chunk, RemoteProtocolError, render

NOP = pdus.NopOut(itt=0x14, cmdsn=0x22, exp_statsn=0x33)
PING = pdus.NopOut(itt=0x14, cmdsn=0x22, exp_statsn=0x33, data=b"hello")
WRITE = pdus.ScsiCommand(
    flags=0xA1,
    lun=0,
    itt=1,
    data_length=8192,
    cmdsn=1,
    exp_statsn=1,
    cdb=bytes(16),
    ahs=bytes.fromhex("0005 01 00 00001000"),
    payload=Blocks.of((7, 8)),
)
MESSAGES = [NOP, PING, WRITE]
DIGESTS = [(False, False), (True, False), (False, True), (True, True)]


def reader(*, header_digest: bool = False, data_digest: bool = False) -> PduReader:
    """Return a reader for these digests."""
    made = PduReader(65536)
    made.header_digest = header_digest
    made.data_digest = data_digest
    return made


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(range(31, -1, -1)), "5cdb3f11"),
        (
            bytes.fromhex(
                "01c00000 00000000 00000000 00000000 14000000 00000400"
                "00000014 00000018 28000000 00000000 02000000 00000000"
            ),
            "563a96d9",
        ),
    ],
)
def test_crc_examples_of_the_rfc(data: bytes, digest: str) -> None:
    """The CRC32C of each example is the one RFC 3720 B.4 prints, in the order of the wire."""
    assert crc32c(data).to_bytes(4, "little").hex() == digest


def test_without_data_a_pdu_is_its_header() -> None:
    """A PDU of nothing but a header is 48 bytes."""
    assert render(frame(NOP).chunks) == bytes.fromhex(
        "40800000" + "00" * 12 + "00000014 ffffffff 00000022 00000033"
    ) + (bytes(16))


def test_data_is_padded_to_words() -> None:
    """Five bytes of data are followed by three zeros that no length counts (11.2.4)."""
    wire = render(frame(PING).chunks)
    assert wire[5:8] == b"\0\0\5"
    assert wire[48:] == b"hello\0\0\0"


def test_digests_cover_what_they_follow() -> None:
    """The header digest covers BHS and AHS, the data digest data and padding (11.2.3)."""
    wire = render(frame(PING, header_digest=True, data_digest=True).chunks)
    assert wire[48:52] == crc32c(wire[:48]).to_bytes(4, "little")
    assert wire[60:] == crc32c(b"hello\0\0\0").to_bytes(4, "little")
    wire = render(frame(WRITE, header_digest=True).chunks)
    assert wire[48:56] == WRITE.ahs
    assert wire[56:60] == crc32c(wire[:56]).to_bytes(4, "little")


def test_no_data_has_no_data_digest() -> None:
    """A PDU without data segment ends behind its header."""
    assert frame(NOP, data_digest=True).size_bytes == 48


def test_blocks_go_by_reference() -> None:
    """What the kernel copies is bytes, what it sends by page is the payload itself."""
    pdu = frame(WRITE)
    assert pdu.chunks[1] is WRITE.payload
    assert [type(chunk) for chunk in pdu.chunks] == [bytes, Blocks]
    assert (pdu.itt, pdu.size_bytes) == (1, 48 + 8 + 8192)
    assert [type(chunk) for chunk in frame(WRITE, data_digest=True).chunks] == [bytes, Blocks, bytes]


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize(("header_digest", "data_digest"), DIGESTS)
def test_pdus_are_pulled_however_they_arrive(message: pdus.Message, header_digest: bool, data_digest: bool) -> None:
    """A PDU is read whole, byte by byte, and with the next one behind it."""
    wire = render(frame(message, header_digest=header_digest, data_digest=data_digest).chunks)
    whole = reader(header_digest=header_digest, data_digest=data_digest)
    whole.push(wire)
    first = whole.pull()
    assert first is not None
    assert render(frame(first, header_digest=header_digest, data_digest=data_digest).chunks) == wire
    assert not whole.inside

    bytewise = reader(header_digest=header_digest, data_digest=data_digest)
    for index in range(len(wire)):
        assert bytewise.pull() is None
        assert bytewise.inside == (index > 0)
        assert 0 < bytewise.bytes_wanted <= len(wire) - index
        bytewise.push(wire[index : index + 1])
    assert bytewise.pull() == first

    trailing = reader(header_digest=header_digest, data_digest=data_digest)
    trailing.push(wire + wire[:20])
    assert trailing.pull() == first
    assert trailing.pull() is None
    assert trailing.bytes_wanted == 28


def test_bytes_wanted_is_the_next_header_or_what_follows_it() -> None:
    """A receiver that asks for no more than this never reads into the next PDU."""
    pdus_in = reader()
    wire = render(frame(PING).chunks)
    assert pdus_in.bytes_wanted == 48
    pdus_in.push(wire[:48])
    assert pdus_in.pull() is None
    assert pdus_in.bytes_wanted == 8
    pdus_in.push(wire[48:])
    assert pdus_in.pull() == PING


@settings(deadline=None, max_examples=50)
@given(
    sent=st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=4),
    cuts=st.lists(st.integers(10, 5000), min_size=1, max_size=4),
)
def test_any_cut_gives_the_same_pdus(
    sent: list[pdus.Message], cuts: list[int], recut: Callable[[list[Chunk], list[int]], list[Chunk]]
) -> None:
    """However a stream of PDUs is cut, its PDUs come out, blocks by reference."""
    stream = [chunk for message in sent for chunk in frame(message).chunks]
    pdus_in = reader()
    pulled: list[pdus.Message] = []
    for piece in recut(stream, cuts):
        pdus_in.push(piece)
        pulled.extend(iter(pdus_in.pull, None))
    assert pulled == sent


def test_a_data_segment_too_long_is_refused() -> None:
    """More data than was declared as MaxRecvDataSegmentLength is refused before it is waited for."""
    pdus_in = PduReader(8191)
    pdus_in.push(frame(WRITE).chunks[0])
    with pytest.raises(
        RemoteProtocolError, match="data segment of 8192 bytes, more than MaxRecvDataSegmentLength 8191"
    ):
        pdus_in.pull()


@pytest.mark.parametrize(("place", "what"), [(16, "header"), (50, "data")])
def test_a_wrong_digest_is_named(place: int, what: str) -> None:
    """A bit that fell over on the way is noticed and says where."""
    kinds = {"header_digest": what == "header", "data_digest": what == "data"}
    wire = bytearray(render(frame(PING, **kinds).chunks))
    wire[place] ^= 1
    pdus_in = reader(**kinds)
    pdus_in.push(bytes(wire))
    with pytest.raises(RemoteProtocolError, match=rf"{what} digest is [0-9a-f]{{8}}, computed [0-9a-f]{{8}}"):
        pdus_in.pull()
