"""The MOUNT protocol, held against bytes written out by hand from RFC 1813, appendix I."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import mount
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError, render


def test_mounting_is_the_rfcs_bytes() -> None:
    """A path goes there; a handle and the flavours it may be used with come back."""
    writer = XdrWriter()
    mount.push_mount_args(writer, mount.MountArgs(dirpath="/export"))
    assert render(writer.chunks()) == bytes.fromhex("00000007 2f657870 6f727400")
    writer = XdrWriter()
    mount.push_mount_res(writer, mount.MountRes(fh=b"root", auth_flavors=(1,)))
    assert render(writer.chunks()) == bytes.fromhex("00000000 00000004 726f6f74 00000001 00000001")


@given(
    st.text(max_size=30),
    st.builds(
        mount.MountRes,
        fh=st.binary(max_size=64),
        auth_flavors=st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
    )
    | st.builds(mount.MountRes, status=st.sampled_from([s for s in mount.MountStat3 if s])),
)
def test_they_come_back(path: str, result: mount.MountRes) -> None:
    """What is pushed is pulled again."""
    writer = XdrWriter()
    mount.push_mount_args(writer, mount.MountArgs(dirpath=path))
    mount.push_mount_res(writer, result)
    reader = XdrReader.of(*writer.chunks())
    assert mount.pull_mount_args(reader).dirpath == path
    assert mount.pull_mount_res(reader) == result
    reader.done()


def test_a_status_that_does_not_exist_is_refused() -> None:
    """MOUNT has its own list of statuses."""
    with pytest.raises(RemoteProtocolError, match="mountstat3 28"):
        mount.pull_mount_res(XdrReader.of(bytes.fromhex("0000001c")))
