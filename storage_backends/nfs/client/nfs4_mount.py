"""Mounting with NFS version 4.1: who the client is, a session, and the way from the server's root to the export.

There is no mount protocol: an export is a directory below the server's root, found by LOOKUP (``nfs4_get_root``,
``nfs4_path_walk``). A file is opened before it is used, and stays open as long as the mount.
"""

from typing import Any, Final

from netvm.errors import UsageError
from netvm.runtime.task import Task
from storage_backends.nfs.client.mount import Mount
from storage_backends.nfs.client.nfs4_proc import Call4
from storage_backends.nfs.client.nfs4_recovery import OPEN_OWNER, Recovery
from storage_backends.nfs.client.nfs4_state import Nfs4Client, OpenState
from storage_backends.nfs.connection.procedures import NULL4, compound
from storage_backends.nfs.messages.attributes import Fattr3
from storage_backends.nfs.messages.attributes4 import ALL_ATTRIBUTES, Fattr4
from storage_backends.nfs.messages.compound import CompoundRes
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4, VoidArgs
from storage_backends.nfs.messages.operations import Getattr4Args, Lookup4Args, OpenArgs, PutFhArgs

__all__ = ["Nfs4Mount"]

_GETFH: Final = (Nfs4Op.GETFH, VoidArgs())
_GETATTR: Final = (Nfs4Op.GETATTR, Getattr4Args(numbers=ALL_ATTRIBUTES))


class Nfs4Mount(Mount):
    """``struct nfs_server`` of version 4.1."""

    def __init__(self, state: Nfs4Client, *, wsize_bytes: int, rsize_bytes: int) -> None:
        super().__init__(state.client, wsize_bytes=wsize_bytes, rsize_bytes=rsize_bytes)
        self.state = state
        state.recovery = Recovery(state)

    async def mount(self, task: Task, path: str) -> None:
        """Mount an export. Raises UsageError if the server will not have it."""
        await self.client.call_sync(task, NULL4, None)
        failed = await self.state.recovery.establish(task) or await self.state.recovery.complete(task)
        if failed:
            raise UsageError(f"storage: NFS {failed[0]} failed with status {failed[1]}")
        root = await self._compound(task, "LOOKUP_ROOT", (Nfs4Op.PUTROOTFH, VoidArgs()), _GETFH)
        fh: bytes = root.of(Nfs4Op.GETFH).fh
        for name in path.strip("/").split("/"):
            put, lookup = (Nfs4Op.PUTFH, PutFhArgs(fh=fh)), (Nfs4Op.LOOKUP, Lookup4Args(name=name))
            fh = (await self._compound(task, "LOOKUP", put, lookup, _GETFH)).of(Nfs4Op.GETFH).fh
        self.root = fh
        info = await self._compound(task, "FSINFO", (Nfs4Op.PUTFH, PutFhArgs(fh=fh)), _GETATTR)
        attributes: Fattr4 = info.of(Nfs4Op.GETATTR).attributes
        assert attributes.maxwrite_bytes is not None
        assert attributes.maxread_bytes is not None
        self.wsize_bytes = min(self.wsize_bytes, attributes.maxwrite_bytes)
        self.rsize_bytes = min(self.rsize_bytes, attributes.maxread_bytes)

    async def open(self, task: Task, name: str, *, create: bool = False) -> tuple[bytes, Fattr3 | None]:
        """Open a file in the root directory; return its handle and attributes. Raises UsageError."""
        args = OpenArgs(
            clientid=self.state.clientid,
            owner=OPEN_OWNER,
            create=Fattr4(size_bytes=0) if create else None,
            name=name,
        )
        put = (Nfs4Op.PUTFH, PutFhArgs(fh=self.root))
        result = await self._compound(task, "OPEN", put, (Nfs4Op.OPEN, args), _GETFH, _GETATTR, cachethis=True)
        fh: bytes = result.of(Nfs4Op.GETFH).fh
        self.state.opens[fh] = OpenState(name, fh, result.of(Nfs4Op.OPEN).stateid)
        found: Fattr4 = result.of(Nfs4Op.GETATTR).attributes
        attributes = Fattr3(size_bytes=found.size_bytes or 0, used_bytes=found.space_used_bytes or 0)
        return fh, attributes

    async def _compound(
        self, task: Task, name: str, *operations: tuple[int, Any], cachethis: bool = False
    ) -> CompoundRes:
        call = Call4(operations=operations, cachethis=cachethis)
        result: CompoundRes = await self._result(task, compound(name), call)
        if result.status:
            raise UsageError(f"storage: the NFS server answered {name} with {NfsStat4(result.status).name}")
        return result
