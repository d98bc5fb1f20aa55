"""Mounting."""

import pytest

from netvm.errors import UsageError
from storage_backends.nfs.client.mount import nfs_congestion_kb
from storage_backends.nfs.messages.nfs3 import NfsStat3


def test_the_server_decides_how_much_goes_at_once(mounted) -> None:
    """Wsize and rsize are what was asked for, cut to what FSINFO allows."""
    host = mounted("storage.wsize_bytes=65536")

    async def script(task) -> None:
        return

    host.run(script)
    assert (host.backend.server.wsize_bytes, host.backend.server.rsize_bytes) == (65536, 1 << 20)


def test_what_the_server_refuses_is_said(mounted) -> None:
    """A path that is not exported and a file that is not there are the user's to see."""
    host = mounted()

    async def script(task) -> None:
        with pytest.raises(UsageError, match="MNT with status 2"):
            await host.backend.server.mount(task, "/nowhere")
        await host.backend.server.mount(task, "/export")
        with pytest.raises(UsageError, match=f"LOOKUP with status {int(NfsStat3.NFS3ERR_NOENT)}"):
            await host.backend.server.open(task, "nothing")
        fh, attributes = await host.backend.server.open(task, "made", create=True)
        assert fh in host.backend.service.files
        assert attributes.size_bytes == 0

    host.run(script)


@pytest.mark.parametrize(
    ("mib", "kb"),
    [(64, 8192), (128, 11584), (256, 16384), (512, 23168), (1024, 32768), (4096, 65536), (1 << 20, 262144)],
)
def test_the_congestion_limit_is_the_kernels(mib: int, kb: int) -> None:
    """16 times the root of all pages, in pages, and 256 MiB at most."""
    assert nfs_congestion_kb(mib * 256) == kb
