"""READ, WRITE and COMMIT, held against bytes written out by hand from RFC 1813."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import data as nfs
from storage_backends.nfs.messages.attributes import Fattr3, WccData
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Blocks, Octets, RemoteProtocolError, render

FH = st.binary(max_size=64)
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
ERROR = st.sampled_from([status for status in NfsStat3 if status])
VERF = st.binary(min_size=8, max_size=8)
WCC = st.builds(WccData, after=st.none() | st.builds(Fattr3, size_bytes=U64))
OCTETS = st.binary(max_size=30).map(Octets)


def test_a_write_is_the_rfcs_bytes() -> None:
    """Handle, offset, count, stable_how, and the data behind its length; the data stays by reference."""
    blocks = Blocks.of((9,))
    writer = XdrWriter()
    nfs.push_write_args(writer, nfs.WriteArgs(fh=b"fh01", offset=135168, stable=nfs.StableHow.FILE_SYNC, data=blocks))
    head, body = writer.chunks()
    assert head == bytes.fromhex("00000004 66683031 0000000000021000 00001000 00000002 00001000")
    assert body is blocks


def test_the_answers_are_the_rfcs_bytes() -> None:
    """A WRITE answers count, committed and verifier, a COMMIT the verifier, a READ count, eof and data."""
    writer = XdrWriter()
    nfs.push_write_res(writer, nfs.WriteRes(count=4096, committed=2, verifier=bytes.fromhex("6153036b00000000")))
    assert render(writer.chunks()) == bytes.fromhex("00000000 00000000 00000000 00001000 00000002 6153036b 00000000")
    writer = XdrWriter()
    nfs.push_commit_res(writer, nfs.CommitRes(verifier=bytes.fromhex("6153036b00000000")))
    assert render(writer.chunks()) == bytes.fromhex("00000000 00000000 00000000 6153036b 00000000")
    writer = XdrWriter()
    nfs.push_read_res(writer, nfs.ReadRes(eof=True, data=Octets(b"abc")))
    assert render(writer.chunks()) == bytes.fromhex("00000000 00000000 00000003 00000001 00000003 61626300")


@given(
    st.builds(nfs.WriteArgs, fh=FH, offset=U64, stable=st.sampled_from(list(nfs.StableHow)), data=OCTETS),
    st.builds(nfs.ReadArgs, fh=FH, offset=U64, count=U32),
    st.builds(nfs.CommitArgs, fh=FH, offset=U64, count=U32),
)
def test_arguments_come_back(write: nfs.WriteArgs, read: nfs.ReadArgs, commit: nfs.CommitArgs) -> None:
    """What is asked is understood."""
    writer = XdrWriter()
    nfs.push_write_args(writer, write)
    nfs.push_read_args(writer, read)
    nfs.push_commit_args(writer, commit)
    reader = XdrReader.of(*writer.chunks())
    assert nfs.pull_write_args(reader) == write
    assert nfs.pull_read_args(reader) == read
    assert nfs.pull_commit_args(reader) == commit
    reader.done()


@given(
    st.builds(nfs.WriteRes, wcc=WCC, count=U32, committed=st.sampled_from(list(nfs.StableHow)), verifier=VERF)
    | st.builds(nfs.WriteRes, status=ERROR, wcc=WCC),
    st.builds(nfs.ReadRes, eof=st.booleans(), data=OCTETS) | st.builds(nfs.ReadRes, status=ERROR),
    st.builds(nfs.CommitRes, wcc=WCC, verifier=VERF) | st.builds(nfs.CommitRes, status=ERROR, wcc=WCC),
)
def test_answers_come_back(write: nfs.WriteRes, read: nfs.ReadRes, commit: nfs.CommitRes) -> None:
    """Every status brings what belongs to it and no more."""
    writer = XdrWriter()
    nfs.push_write_res(writer, write)
    nfs.push_read_res(writer, read)
    nfs.push_commit_res(writer, commit)
    reader = XdrReader.of(*writer.chunks())
    assert nfs.pull_write_res(reader) == write
    assert nfs.pull_read_res(reader) == read
    assert nfs.pull_commit_res(reader) == commit
    reader.done()


def test_counts_and_data_must_agree() -> None:
    """A count that is not that of the data, and a stable_how that does not exist, break the protocol."""
    with pytest.raises(RemoteProtocolError, match="count 4097"):
        nfs.pull_write_args(XdrReader.of(bytes.fromhex("00000000 00000000 00000000 00001001 00000000 00000000")))
    with pytest.raises(RemoteProtocolError, match="stable_how 3"):
        nfs.pull_write_args(XdrReader.of(bytes.fromhex("00000000 00000000 00000000 00000000 00000003 00000000")))
    with pytest.raises(RemoteProtocolError, match="count 2"):
        nfs.pull_read_res(XdrReader.of(bytes.fromhex("00000000 00000000 00000002 00000001 00000001 61000000")))
    with pytest.raises(RemoteProtocolError, match="stable_how 9"):
        nfs.pull_write_res(XdrReader.of(bytes(12), bytes.fromhex("00001000 00000009 00000000 00000000")))
