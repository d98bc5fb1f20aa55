"""Attributes of NFS version 4.1, held against bytes written out by hand from RFC 5662."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages.attributes4 import (
    ALL_ATTRIBUTES,
    NO_ATTRIBUTES,
    Fattr4,
    pull_bitmap4,
    push_bitmap4,
)
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError, render

U32 = st.none() | st.integers(0, 2**32 - 1)
U64 = st.none() | st.integers(0, 2**64 - 1)
TIME_NS = st.none() | st.integers(0, 2**63 * 10**9 - 1)
NUMBERS = st.sets(st.integers(0, 95)).map(tuple)
FATTR = st.builds(
    Fattr4,
    ftype=U32,
    change=U64,
    size_bytes=U64,
    fsid=U64,
    lease_time_s=U32,
    fileid=U64,
    maxread_bytes=U64,
    maxwrite_bytes=U64,
    mode=U32,
    numlinks=U32,
    space_used_bytes=U64,
    time_metadata_ns=TIME_NS,
    time_modify_ns=TIME_NS,
)


@pytest.mark.parametrize(
    ("numbers", "wire"),
    [
        ((), "00000000"),
        ((4,), "00000001 00000010"),
        ((31,), "00000001 80000000"),
        ((32,), "00000002 00000000 00000001"),
        ((1, 3, 4, 20, 33), "00000002 0010001a 00000002"),
        ((33, 4, 33, 20, 3, 1), "00000002 0010001a 00000002"),
        ((75,), "00000003 00000000 00000000 00000800"),
        (ALL_ATTRIBUTES, "00000002 c010051a 0030200a"),
    ],
)
def test_a_bitmap_is_the_rfcs_bytes(numbers: tuple[int, ...], wire: str) -> None:
    """Attribute n is bit n mod 32 of word n / 32; there are no more words than it takes."""
    writer = XdrWriter()
    push_bitmap4(writer, numbers)
    assert render(writer.chunks()) == bytes.fromhex(wire)


def test_attributes_are_the_rfcs_bytes() -> None:
    """A map, the length of the values, and the values in ascending order of their numbers."""
    writer = XdrWriter()
    Fattr4(time_modify_ns=1_500_000_000, mode=0o600, fileid=5, size_bytes=1 << 24, change=7, ftype=1).push(writer)
    expected = (
        "00000002 0010001a 00200002 0000002c "
        "00000001 0000000000000007 0000000001000000 0000000000000005 00000180 0000000000000001 1dcd6500"
    )
    assert render(writer.chunks()) == bytes.fromhex(expected)


def test_every_attribute_is_the_rfcs_bytes() -> None:
    """Each has the type the RFC gives it: a file system is two numbers, a time seconds and nanoseconds."""
    writer = XdrWriter()
    Fattr4(
        ftype=2,
        change=3,
        size_bytes=4,
        fsid=8,
        lease_time_s=90,
        fileid=20,
        maxread_bytes=1 << 20,
        maxwrite_bytes=1 << 19,
        mode=0o755,
        numlinks=35,
        space_used_bytes=4096,
        time_metadata_ns=52 * 10**9 + 1,
        time_modify_ns=53 * 10**9 + 999_999_999,
    ).push(writer)
    expected = (
        "00000002 c010051a 0030200a 00000068 00000002 0000000000000003 0000000000000004 "
        "0000000000000008 0000000000000000 0000005a 0000000000000014 0000000000100000 0000000000080000 "
        "000001ed 00000023 0000000000001000 0000000000000034 00000001 0000000000000035 3b9ac9ff"
    )
    assert render(writer.chunks()) == bytes.fromhex(expected)


def test_no_attributes_are_two_words() -> None:
    """An empty map and no values."""
    writer = XdrWriter()
    NO_ATTRIBUTES.push(writer)
    assert render(writer.chunks()) == bytes(8)


@given(NUMBERS)
def test_a_bitmap_comes_back(numbers: tuple[int, ...]) -> None:
    """Whatever the order it was said in, it is read in ascending order."""
    writer = XdrWriter()
    push_bitmap4(writer, numbers)
    reader = XdrReader.of(*writer.chunks())
    assert pull_bitmap4(reader) == tuple(sorted(numbers))
    reader.done()


def test_words_without_a_bit_say_nothing() -> None:
    """A peer may send more words than it takes."""
    assert pull_bitmap4(XdrReader.of(bytes.fromhex("00000003 00000010 00000000 00000000"))) == (4,)
    assert pull_bitmap4(XdrReader.of(bytes.fromhex("00000001 00000000"))) == ()


@given(FATTR)
def test_attributes_come_back(attributes: Fattr4) -> None:
    """Those that were said are read, and no others."""
    writer = XdrWriter()
    attributes.push(writer)
    reader = XdrReader.of(*writer.chunks())
    assert Fattr4.pull(reader) == attributes
    reader.done()


@given(FATTR, NUMBERS)
def test_only_what_was_asked_for_is_answered(attributes: Fattr4, numbers: tuple[int, ...]) -> None:
    """The map of a choice is the intersection of what was asked for and what there is."""
    writer, whole = XdrWriter(), XdrWriter()
    attributes.only(numbers).push(writer)
    attributes.push(whole)
    there = set(pull_bitmap4(XdrReader.of(*whole.chunks())))
    assert set(pull_bitmap4(XdrReader.of(*writer.chunks()))) == there & set(numbers)
    assert attributes.only(ALL_ATTRIBUTES) == attributes
    assert attributes.only(()) == NO_ATTRIBUTES


@given(FATTR, st.data())
def test_attributes_that_are_cut_short_are_refused(attributes: Fattr4, data: st.DataObject) -> None:
    """No proper beginning of them is attributes."""
    writer = XdrWriter()
    attributes.push(writer)
    wire = render(writer.chunks())
    with pytest.raises(RemoteProtocolError):
        Fattr4.pull(XdrReader.of(wire[: data.draw(st.integers(0, len(wire) - 1))]))


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ("00000001 00000004 00000004 00000000", "attribute 2,"),
        ("00000002 00000000 00000010 00000004 00000000", "attribute 36,"),
        ("00000001 00000010 0000000c 0000000000001000 00000000", "4 bytes left over"),
        ("00000000 00000004 00000000", "4 bytes left over"),
        ("00000001 00000010 00000004 00000000", "4 left"),
        ("00000001 0000001a 00000004 00000001", "0 left"),
        ("00000002 00000000 00200000 0000000c 0000000000000001 3b9aca00", "1000000000 nanoseconds"),
        ("00000004 00000000 00000000 00000000 00000000", "length 4"),
        ("00000000 00000404" + "00" * 1028, "length 1028"),
    ],
)
def test_what_are_no_attributes_is_refused(wire: str, reason: str) -> None:
    """An attribute nobody knows, values that do not fill their list, no time, and lengths beyond the limits."""
    with pytest.raises(RemoteProtocolError, match=reason):
        Fattr4.pull(XdrReader.of(bytes.fromhex(wire)))
