"""Finding, making and describing files, held against bytes written out by hand from RFC 1813."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import files as nfs
from storage_backends.nfs.messages.attributes import Fattr3, Sattr3, WccAttr, WccData
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError, render

FH = st.binary(max_size=64)
NAME = st.text(max_size=20)
U32 = st.integers(0, 2**32 - 1)
ERROR = st.sampled_from([status for status in NfsStat3 if status])
ATTR = st.none() | st.builds(Fattr3, size_bytes=U32)
WCC = st.builds(WccData, before=st.none() | st.just(WccAttr(size_bytes=1, mtime_ns=2, ctime_ns=3)), after=ATTR)
SATTR = st.builds(Sattr3, mode=st.none() | U32, size_bytes=st.none() | U32)
GUARD = st.none() | st.integers(0, 10**18)


def test_a_file_is_found_and_made_with_the_rfcs_bytes() -> None:
    """LOOKUP says directory and name; CREATE adds how, and what attributes or which verifier."""
    writer = XdrWriter()
    nfs.push_lookup_args(writer, nfs.LookupArgs(dir_fh=b"root", name="swapfile"))
    assert render(writer.chunks()) == bytes.fromhex("00000004 726f6f74 00000008 73776170 66696c65")
    writer = XdrWriter()
    nfs.push_create_args(writer, nfs.CreateArgs(dir_fh=b"root", name="f", exclusive_verifier=b"8 bytes!"))
    assert render(writer.chunks()) == bytes.fromhex("00000004 726f6f74 00000001 66000000 00000002 38206279 74657321")


def test_what_the_server_can_do_is_the_rfcs_bytes() -> None:
    """FSINFO answers 48 bytes behind its attributes: with a file's, the 164 of the recorded replies less RPC's 24."""
    writer = XdrWriter()
    nfs.push_fsinfo_res(writer, nfs.FsinfoRes(attributes=Fattr3()))
    assert len(render(writer.chunks())) == 164 - 24
    writer = XdrWriter()
    nfs.push_fsinfo_res(writer, nfs.FsinfoRes())
    expected = (
        "00000000 00000000 00100000 00100000 00000200 00100000 00100000 00000200 00004000 7fffffffffffffff "
        "00000000 00000001 0000001b"
    )
    assert render(writer.chunks()) == bytes.fromhex(expected)


@given(
    st.builds(nfs.LookupArgs, dir_fh=FH, name=NAME),
    st.builds(nfs.AccessArgs, fh=FH, access=U32),
    st.builds(nfs.SetattrArgs, fh=FH, attributes=SATTR, guard_ctime_ns=GUARD),
    st.builds(nfs.CreateArgs, dir_fh=FH, name=NAME, attributes=SATTR, guarded=st.booleans())
    | st.builds(nfs.CreateArgs, dir_fh=FH, name=NAME, exclusive_verifier=st.binary(min_size=8, max_size=8)),
)
def test_arguments_come_back(
    lookup: nfs.LookupArgs, access: nfs.AccessArgs, setattr_: nfs.SetattrArgs, create: nfs.CreateArgs
) -> None:
    """What is asked is understood."""
    writer = XdrWriter()
    nfs.push_lookup_args(writer, lookup)
    nfs.push_access_args(writer, access)
    nfs.push_setattr_args(writer, setattr_)
    nfs.push_create_args(writer, create)
    reader = XdrReader.of(*writer.chunks())
    assert nfs.pull_lookup_args(reader) == lookup
    assert nfs.pull_access_args(reader) == access
    assert nfs.pull_setattr_args(reader) == setattr_
    assert nfs.pull_create_args(reader) == create
    reader.done()


@given(
    st.builds(nfs.GetattrRes, attributes=st.builds(Fattr3, size_bytes=U32)) | st.builds(nfs.GetattrRes, status=ERROR),
    st.builds(nfs.LookupRes, fh=FH, attributes=ATTR, dir_attributes=ATTR)
    | st.builds(nfs.LookupRes, status=ERROR, dir_attributes=ATTR),
    st.builds(nfs.AccessRes, attributes=ATTR, access=U32) | st.builds(nfs.AccessRes, status=ERROR, attributes=ATTR),
    st.builds(nfs.SetattrRes, status=ERROR, wcc=WCC),
    st.builds(nfs.CreateRes, fh=st.none() | FH, attributes=ATTR, dir_wcc=WCC)
    | st.builds(nfs.CreateRes, status=ERROR, dir_wcc=WCC),
    st.builds(nfs.FsinfoRes, attributes=ATTR, wtmax=U32, rtmax=U32) | st.builds(nfs.FsinfoRes, status=ERROR),
)
def test_answers_come_back(
    getattr_: nfs.GetattrRes,
    lookup: nfs.LookupRes,
    access: nfs.AccessRes,
    setattr_: nfs.SetattrRes,
    create: nfs.CreateRes,
    fsinfo: nfs.FsinfoRes,
) -> None:
    """Every status brings what belongs to it and no more."""
    writer = XdrWriter()
    nfs.push_getattr_res(writer, getattr_)
    nfs.push_lookup_res(writer, lookup)
    nfs.push_access_res(writer, access)
    nfs.push_setattr_res(writer, setattr_)
    nfs.push_create_res(writer, create)
    nfs.push_fsinfo_res(writer, fsinfo)
    reader = XdrReader.of(*writer.chunks())
    assert nfs.pull_getattr_res(reader) == getattr_
    assert nfs.pull_lookup_res(reader) == lookup
    assert nfs.pull_access_res(reader) == access
    assert nfs.pull_setattr_res(reader) == setattr_
    assert nfs.pull_create_res(reader) == create
    assert nfs.pull_fsinfo_res(reader) == fsinfo
    reader.done()


def test_a_way_to_create_that_does_not_exist_is_refused() -> None:
    """There are three."""
    with pytest.raises(RemoteProtocolError, match="createmode3 3"):
        nfs.pull_create_args(XdrReader.of(bytes.fromhex("00000000 00000000 00000003")))
