"""Mounting: what mount.nfs and ``nfs_get_root`` say to the server before anything can be read or written.

The export's handle comes from MOUNT (which the mount helper asks on a connection of its own; here the procedures share
one), then NULL, FSINFO and ACCESS on the root, and LOOKUP of the file, made if it is not there. wsize and rsize are
what was asked for, cut to what the server can take.
"""

from math import isqrt
from typing import Any, Final

from netvm.errors import UsageError
from netvm.runtime.task import Task
from netvm.units import PAGE_SIZE
from storage_backends.nfs.client.clnt import RpcClient
from storage_backends.nfs.connection.procedures import (
    ACCESS,
    CREATE,
    FSINFO,
    GETATTR,
    LOOKUP,
    MNT,
    MOUNT_NULL,
    NULL,
    Procedure,
)
from storage_backends.nfs.messages.attributes import Fattr3, Sattr3
from storage_backends.nfs.messages.files import AccessArgs, CreateArgs, FsinfoRes, LookupArgs
from storage_backends.nfs.messages.mount import MountArgs
from storage_backends.nfs.messages.nfs3 import FhArgs, NfsStat3

__all__ = ["Mount", "nfs_congestion_kb"]

ALL_ACCESS = 0x3F
MAX_CONGESTION_KB: Final = 256 * 1024


def nfs_congestion_kb(total_pages: int) -> int:
    """Return how much may be under writeback on a mount before it counts as congested (nfs_init_writepagecache)."""
    return min(16 * isqrt(total_pages) * (PAGE_SIZE // 1024), MAX_CONGESTION_KB)


class Mount:
    """``struct nfs_server``: one mounted export."""

    def __init__(self, client: RpcClient, *, wsize_bytes: int, rsize_bytes: int) -> None:
        self.client = client
        self.wsize_bytes = wsize_bytes
        self.rsize_bytes = rsize_bytes
        self.root = b""

    async def mount(self, task: Task, path: str) -> None:
        """Mount an export. Raises UsageError if the server will not have it."""
        await self._call(task, MOUNT_NULL, None)
        self.root = (await self._call(task, MNT, MountArgs(dirpath=path))).fh
        await self._call(task, NULL, None)
        info: FsinfoRes = await self._call(task, FSINFO, FhArgs(fh=self.root))
        self.wsize_bytes = min(self.wsize_bytes, info.wtmax)
        self.rsize_bytes = min(self.rsize_bytes, info.rtmax)
        await self._call(task, ACCESS, AccessArgs(fh=self.root, access=ALL_ACCESS))

    async def open(self, task: Task, name: str, *, create: bool = False) -> tuple[bytes, Fattr3 | None]:
        """Return the handle and attributes of a file in the root directory. Raises UsageError."""
        if create:
            made = await self._call(
                task, CREATE, CreateArgs(dir_fh=self.root, name=name, attributes=Sattr3(size_bytes=0))
            )
            assert made.fh is not None
            return made.fh, made.attributes
        found = await self._call(task, LOOKUP, LookupArgs(dir_fh=self.root, name=name))
        attributes = (await self._call(task, GETATTR, FhArgs(fh=found.fh))).attributes
        return found.fh, attributes

    async def _call(self, task: Task, procedure: Procedure, args: Any) -> Any:
        result = await self._result(task, procedure, args)
        status = getattr(result, "status", NfsStat3.NFS3_OK)
        if status:
            raise UsageError(f"storage: the NFS server answered {procedure.name} with status {status}")
        return result

    async def _result(self, task: Task, procedure: Procedure, args: Any) -> Any:
        """Make a call and return what it came to. Raises UsageError if it was not executed."""
        reply = await self.client.call_sync(task, procedure, args)
        if reply is None or reply.refusal:
            why = "no memory" if reply is None else reply.refusal
            raise UsageError(f"storage: NFS {procedure.name} failed: {why}")
        return reply.result
