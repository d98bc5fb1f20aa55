"""XDR, held against bytes written out by hand from RFC 4506."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.xdr import XdrReader, XdrWriter, fill_bytes
from storage_backends.wire import Blocks, Octets, RemoteProtocolError, render


def test_items_are_the_rfcs_bytes() -> None:
    """Integers are big-endian, opaque data is filled up to four bytes, a boolean is a word (sections 4.1 to 4.11)."""
    writer = XdrWriter()
    writer.uint(262144)
    writer.hyper(1 << 32)
    writer.boolean(True)
    writer.fixed(b"\x01\x02\x03")
    writer.opaque(b"\xff" * 5)
    writer.string("sillyprog")
    expected = (
        "00040000 0000000100000000 00000001 01020300 00000005 ffffffff ff000000 00000009 73696c6c 7970726f 67000000"
    )
    assert render(writer.chunks()) == bytes.fromhex(expected)


def test_payload_stays_by_reference() -> None:
    """Data is the very object that was pushed, between its length and its fill."""
    blocks = Blocks.of((7, 8))
    writer = XdrWriter()
    writer.payload(blocks)
    writer.uint(1)
    chunks = writer.chunks()
    assert chunks[1] is blocks
    reader = XdrReader.of(*chunks)
    assert reader.payload(8192) is blocks
    assert reader.uint() == 1
    reader.done()


@given(st.binary(max_size=40))
def test_payload_of_any_length_comes_back(data: bytes) -> None:
    """What is pushed as payload is pulled again, and takes whole words."""
    writer = XdrWriter()
    writer.payload(Octets(data))
    wire = render(writer.chunks())
    assert len(wire) == 4 + len(data) + fill_bytes(len(data))
    assert len(wire) % 4 == 0
    assert XdrReader.of(wire).payload(40).to_bytes() == data


@pytest.mark.parametrize(
    ("pull", "wire"),
    [
        (lambda r: r.uint(), "000000"),
        (lambda r: r.boolean(), "00000002"),
        (lambda r: r.opaque(8), "00000009" + "00" * 12),
        (lambda r: r.opaque(8), "00000003 01020301"),
        (lambda r: r.payload(8), "00000003 01020301"),
        (lambda r: r.payload(8), "00000008 01020304"),
        (lambda r: r.done(), "00"),
    ],
)
def test_what_is_no_xdr_is_the_peers_fault(pull: object, wire: str) -> None:
    """Short messages, other booleans, lengths above the limit, fill that is not zero and leftovers are refused."""
    with pytest.raises(RemoteProtocolError):
        pull(XdrReader.of(bytes.fromhex(wire)))  # type: ignore[operator]
