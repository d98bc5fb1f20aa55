"""The numbers of NFS version 3."""

import pytest

from storage_backends.nfs.messages import nfs3
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError, render


def test_a_handle_alone_is_an_argument() -> None:
    """GETATTR and FSINFO are asked with a handle and nothing else."""
    writer = XdrWriter()
    nfs3.push_fh_args(writer, nfs3.FhArgs(fh=b"12345"))
    wire = render(writer.chunks())
    assert wire == bytes.fromhex("00000005 31323334 35000000")
    assert nfs3.pull_fh_args(XdrReader.of(wire)) == nfs3.FhArgs(fh=b"12345")


@pytest.mark.parametrize("number", [3, 9999, 10009])
def test_a_status_that_does_not_exist_is_refused(number: int) -> None:
    """Only the statuses of section 2.6 are statuses."""
    writer = XdrWriter()
    writer.uint(number)
    with pytest.raises(RemoteProtocolError, match=f"nfsstat3 {number}"):
        nfs3.pull_status(XdrReader.of(*writer.chunks()))


def test_a_status_is_its_number() -> None:
    """NFS3ERR_NOSPC is 28 and NFS3ERR_JUKEBOX 10008."""
    reader = XdrReader.of(bytes.fromhex("0000001c 00002718"))
    assert nfs3.pull_status(reader) == nfs3.NfsStat3.NFS3ERR_NOSPC
    assert nfs3.pull_status(reader) == nfs3.NfsStat3.NFS3ERR_JUKEBOX
