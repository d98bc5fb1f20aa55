"""Files on NFS: dirty pages go out unstable, and are dirt until a COMMIT.

Mirrors fs/nfs/file.c, write.c and read.c of 6.1. A page that is written to gets a request (``struct nfs_page``), which
it keeps until its content is on the server's disk: a page with a request cannot be freed. ``writepages`` coalesces
dirty pages to calls of wsize bytes and sends them UNSTABLE; only a single call of a sync is FILE_SYNC. When a WRITE is
answered its pages leave writeback but count as such until the COMMIT, which is sent when all the calls of one
``writepages`` are answered, by the flusher when nothing of the file is under writeback, and by fsync. A verifier in the
COMMIT's answer that is not that of the WRITE means the server was restarted: exactly those pages are dirty again.
Before 4.13 (``nfs_commit_after_writeback``) none followed by itself: each ``writepages`` sent one for what had been
answered by then, so the last pages waited for who wrote next. Before 2.6.21 (``nfs_congestion``) a page was taken off
what a round may write when it was found dirty, when it was sent and when it was committed.

More than ``nfs_congestion_kb`` under writeback on a mount makes background writeback turn round at once.

Nobody here may use the reserve: a mount without swap has ordinary sockets and tasks.

# MODEL: one file is one inode and one writer's context; attributes are not cached, so nothing is revalidated.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netvm.errors import Errno, UsageError
from netvm.host.backend import MountContext
from netvm.mm.frames import PfnArray
from netvm.mm.gfp import GFP_KERNEL
from netvm.pagecache.bdi import BackingDevice
from netvm.pagecache.mapping import TAG_DIRTY, TAG_WRITEBACK, Mapping
from netvm.pagecache.ports import WB_SYNC_ALL, WB_SYNC_NONE, WritebackControl
from netvm.pagecache.walk import DirtyWalk
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.units import PAGE_SIZE
from storage_backends.nfs.client.inode import (
    REQ_COMMITTING,
    REQ_HELD,
    REQ_NONE,
    REQ_UNSTABLE,
    Inode,
    IoCompletion,
    PgioHeader,
    pages_of,
)
from storage_backends.nfs.client.mount import Mount, nfs_congestion_kb
from storage_backends.nfs.client.release import RELEASE_WAIT_NS, Release, nfs_release
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.coalesce import Coalescer
from storage_backends.nfs.connection.commit import Unstable
from storage_backends.nfs.connection.procedures import COMMIT, READ, WRITE
from storage_backends.nfs.messages.data import CommitArgs, ReadArgs, StableHow, WriteArgs
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.wire import Blocks

__all__ = ["NfsFileSystem"]

_NO_MEMORY: Final = -int(Errno.ENOMEM)
_IO_ERROR: Final = -int(Errno.EIO)

_U8 = np.uint8


class NfsFileSystem:
    """One mounted export as the page cache sees it."""

    name = "nfs"
    tells_nospc = True
    writeback_may_last = False

    def __init__(self, context: MountContext, mount: Mount) -> None:
        self.cache = context.cache
        self.reader = context.reader
        self.world = context.world
        self.mount, self.client = mount, mount.client
        self.pools = mount.client.pools
        self._bdi = context.throttle.add_device("nfs")
        self._bdi.clears_congestion = self._counts_once = mount.client.fixes.nfs_congestion
        context.flusher.add_device(self._bdi)
        total = sum(zone.managed for zone in context.pages.node.zones) - context.init_pages
        self.congestion_on_pages = nfs_congestion_kb(total) // (PAGE_SIZE // 1024)
        self.congestion_off_pages = self.congestion_on_pages - self.congestion_on_pages // 4
        self.nr_writeback = 0
        """Pages of this mount under writeback."""
        self.write_congested = False
        self.server_content: Callable[[str], npt.NDArray[np.int64] | None] = lambda _name: None
        """What the server keeps of a file, for the audit alone."""
        self.nr_resent_pages = 0
        """Pages written again because the server had lost them."""
        self.nr_release_timeouts = 0
        """Reclaimers that gave up waiting for a COMMIT."""
        self._vmscan = context.vmscan
        self._committed: dict[int, WaitQueue] = {}
        self._commits_by_itself = mount.client.fixes.nfs_commit_after_writeback
        self.cache.filesystems.append(self)

    @property
    def bdi(self) -> BackingDevice:
        """The mount, as the throttle sees it."""
        return self._bdi

    def attach(self, mapping: Mapping) -> None:
        """Note a file; it is made on the server when it is first used."""
        if mapping.nr_pages:
            raise UsageError(f"{mapping.name}: a file on NFS is made empty; only files that are written can be read")
        mapping.private = Inode(mapping)
        resource = Resource("reply", f"nfs_commit_inode: {mapping.name}", lambda: self._commit_providers(mapping))
        self._committed[mapping.id] = WaitQueue(self.world, resource)

    def _inode(self, mapping: Mapping) -> Inode:
        inode = mapping.private
        assert isinstance(inode, Inode)
        return inode

    async def _open(self, task: Task, inode: Inode) -> None:
        if not inode.fh:
            inode.fh, _ = await self.mount.open(task, inode.mapping.name, create=True)

    # -- dirtying -------------------------------------------------------------------------------------------------

    async def write_begin(self, task: Task, mapping: Mapping, index: int, nr_pages: int) -> int:
        """Give pages their requests (nfs_write_begin, nfs_setup_write_request); wait for one that is on its way."""
        inode = self._inode(mapping)
        await self._open(task, inode)
        end = index + nr_pages
        inode.grow(max(end, mapping.capacity_pages))
        if mapping.nr_writeback:
            await self.cache.wait_on_writeback(task, mapping, index, end)
        bare, nr = inode.without_request(index, end)
        if nr:
            taken = await self.pools.nfs_pages_alloc(task, nr, GFP_KERNEL)
            if taken is None:
                return _NO_MEMORY
            inode.requests[bare] = np.array(taken, dtype=np.int32) + 1
        return 0

    def write_end(self, task: Task, mapping: Mapping, index: int, pfns: PfnArray) -> None:  # noqa: ARG002
        """Pages are dirty: what was waiting for a COMMIT is not any more (nfs_clear_request_commit)."""
        inode = self._inode(mapping)
        here = slice(index, index + len(pfns))
        self._no_commit(inode, here)
        inode.states[here] = REQ_HELD

    def _no_commit(self, inode: Inode, indices: npt.NDArray[np.intp] | slice) -> None:
        """Take pages out of the count of those that wait for a COMMIT."""
        nr = inode.nr_unstable(indices)
        if nr:
            self.cache.account_unstable(inode.mapping, -nr)

    def _remove_requests(self, inode: Inode, indices: npt.NDArray[np.intp]) -> None:
        """Pages are safe, or lost: their requests go (nfs_inode_remove_request)."""
        held = indices[inode.requests[indices] != 0]
        self.pools.nfs_pages_free((inode.requests[held] - 1).tolist())
        inode.requests[held] = 0
        inode.states[indices] = REQ_NONE

    # -- writing --------------------------------------------------------------------------------------------------

    async def writepages(self, task: Task, mapping: Mapping, wbc: WritebackControl) -> int:
        """Coalesce dirty pages to wsize and send them (nfs_writepages)."""
        if wbc.sync_mode == WB_SYNC_NONE and self.write_congested:
            return 0
        inode = self._inode(mapping)
        completion = IoCompletion()
        walk = DirtyWalk(self.cache, mapping, wbc)
        coalescer = Coalescer(self.mount.wsize_bytes)
        pending: list[int] = []
        error = 0
        nr_sent = 0
        nr_to_write = wbc.nr_to_write
        while True:
            run = await walk.next_run(task, coalescer.nr_max)
            groups = coalescer.complete() if run is None else self._add(inode, coalescer, pending, run)
            for group in groups:
                versions, pending = pending[: len(group)], pending[len(group) :]
                stable = wbc.sync_mode == WB_SYNC_ALL and run is None and not nr_sent and not len(inode.commits)
                error = await self._write(task, inode, group, versions, completion, stable=stable) or error
                nr_sent += 1
            if run is None:
                break
        await self._completed(task, inode, completion)
        nr_committed = 0 if self._commits_by_itself else await self._commit(task, inode)
        if not self._counts_once:
            nr_sent_pages = nr_to_write - wbc.nr_to_write
            wbc.nr_to_write -= nr_sent_pages + nr_committed
        return 0 if error == _NO_MEMORY else error

    def _add(self, inode: Inode, coalescer: Coalescer, pending: list[int], run: tuple[int, int]) -> list[range]:
        """Put a run of dirty pages under writeback and in the group (nfs_page_async_flush)."""
        index, nr = run
        inode.grow(index + nr)
        _pfns, versions = self.cache.start_writeback(inode.mapping, index, nr)
        pending += versions
        self.nr_writeback += nr
        if self.nr_writeback > self.congestion_on_pages:
            self.write_congested = True
        return coalescer.add(index, nr)

    async def _write(
        self, task: Task, inode: Inode, group: range, versions: list[int], completion: IoCompletion, *, stable: bool
    ) -> int:
        """Send one WRITE; without memory for it its pages are dirty again (nfs_generic_pg_pgios)."""
        task.charge_ns += len(group) * self.cache.costs.writepage
        indices = np.arange(group.start, group.stop)
        header = await self._header_alloc(task, indices, write=True)
        if header is not None:
            header.versions = versions
            header.completion = completion
            completion.nr_out += 1
            how = StableHow.FILE_SYNC if stable else StableHow.UNSTABLE
            args = WriteArgs(fh=inode.fh, offset=header.first * PAGE_SIZE, stable=how, data=Blocks.of(tuple(versions)))
            if await self._call(task, WRITE, args, inode, header):
                return 0
            completion.nr_out -= 1
            self._header_free(header)
        self._end_writeback(inode, indices, error=0, task=task)
        self.cache.redirty(inode.mapping, indices)
        return _NO_MEMORY

    async def _header_alloc(self, task: Task, indices: npt.NDArray[np.intp], *, write: bool) -> PgioHeader | None:
        gfp = self.pools.io_gfp_mask(task, write=write)
        found = await self.pools.pgio_header_alloc(task, len(indices), gfp, write=write)
        return None if found is None else PgioHeader(indices, *found, write=write)

    def _header_free(self, header: PgioHeader) -> None:
        self.pools.pgio_header_free(header.object, header.array, header.nr, write=header.write)

    async def _call(self, task: Task, procedure: Any, args: Any, inode: Inode, header: PgioHeader) -> bool:
        inode.nr_calls += 1
        serial = inode.nr_calls

        async def done(rpc: RpcTask, context: Task) -> None:
            del inode.calls[serial]
            if header.write:
                await self._written(inode, header, rpc, context)
            else:
                self._read(inode, header, rpc, context)
            self._header_free(header)

        rpc = await self.client.call_async(task, procedure, args, nr_pages=header.nr, done=done)
        if rpc is None:
            return False
        header.object.holder = rpc.provider
        inode.calls[serial] = (header.first, header.nr, rpc)
        return True

    async def _written(self, inode: Inode, header: PgioHeader, rpc: RpcTask, task: Task) -> None:
        """A WRITE was answered (nfs_writeback_done, nfs_write_completion)."""
        assert rpc.reply is not None
        result = rpc.reply.result
        indices = header.indices
        if result is not None and result.status == NfsStat3.NFS3ERR_JUKEBOX:
            self._end_writeback(inode, indices, error=0, task=task)
            self.cache.redirty(inode.mapping, indices)
        elif result is None or result.status != NfsStat3.NFS3_OK or result.count != header.nr * PAGE_SIZE:
            is_full = result is not None and result.status == NfsStat3.NFS3ERR_NOSPC
            self._end_writeback(inode, indices, error=-int(Errno.ENOSPC) if is_full else _IO_ERROR, task=task)
            self._remove_requests(inode, indices)
        else:
            inode.sent[indices] = header.versions
            if result.committed == StableHow.FILE_SYNC:
                self.cache.note_stored(inode.mapping, indices, inode.sent[indices])
                self._remove_requests(inode, indices)
            else:
                inode.commits.add(header.first * PAGE_SIZE, header.nr * PAGE_SIZE, result.verifier)
                inode.states[indices] = REQ_UNSTABLE
                self.cache.account_unstable(inode.mapping, header.nr)
                self.cache.flusher.mark_inode_dirty(inode.mapping)
            self._end_writeback(inode, indices, error=0, task=task)
        assert header.completion is not None
        await self._completed(task, inode, header.completion)

    def _end_writeback(self, inode: Inode, indices: npt.NDArray[np.intp], *, error: int, task: Task) -> None:
        self.nr_writeback -= len(indices)
        if self.nr_writeback < self.congestion_off_pages:
            self.write_congested = False
        self.cache.end_writeback(inode.mapping, indices, error=error, task=task)

    async def _completed(self, task: Task, inode: Inode, completion: IoCompletion) -> None:
        """Count a part of a ``writepages`` as over; who ends the last sends the COMMIT (nfs_io_completion_commit)."""
        completion.nr_out -= 1
        if not completion.nr_out and self._commits_by_itself:
            await self._commit(task, inode)

    # -- making safe ----------------------------------------------------------------------------------------------

    async def _commit(self, task: Task, inode: Inode) -> int:
        """Send a COMMIT for everything on the list, the whole file being meant (nfs_commit_list); return its pages."""
        batch = inode.commits.scan()
        if not batch:
            return 0
        self._mark(inode, batch, REQ_UNSTABLE, REQ_COMMITTING)
        held = await self.pools.commitdata_alloc(task)
        inode.nr_calls += 1
        serial = inode.nr_calls

        def done(rpc: RpcTask, context: Task) -> None:
            assert held is not None
            del inode.calls[serial]
            self.pools.commit_headers.free(held)
            self._commit_done(inode, batch, rpc, context)

        rpc = await self.client.call_async(task, COMMIT, CommitArgs(fh=inode.fh), done=done) if held else None
        if rpc is None or held is None:
            if held is not None:
                self.pools.commit_headers.free(held)
            self._mark(inode, batch, REQ_COMMITTING, REQ_UNSTABLE)
            inode.commits.failed(batch)
            self._wake_committed(inode)
            return 0
        held.holder = rpc.provider
        inode.calls[serial] = (0, 0, rpc)
        return sum(len(pages_of(unstable)) for unstable in batch)

    def _mark(self, inode: Inode, batch: list[Unstable], old: int, new: int) -> None:
        for indices in map(pages_of, batch):
            mine = indices[inode.states[indices] == old]
            inode.states[mine] = new

    def _commit_done(self, inode: Inode, batch: list[Unstable], rpc: RpcTask, _task: Task) -> None:
        """A COMMIT was answered (nfs_commit_release_pages)."""
        assert rpc.reply is not None
        result = rpc.reply.result
        if result is None or result.status != NfsStat3.NFS3_OK:
            verifier = b""
        else:
            verifier = result.verifier
        safe, lost = inode.commits.answered(batch, verifier)
        for unstable in safe:
            indices = self._committing(inode, unstable)
            self._no_commit(inode, indices)
            self.cache.note_stored(inode.mapping, indices, inode.sent[indices])
            self._remove_requests(inode, indices)
        for unstable in lost:
            indices = self._committing(inode, unstable)
            self._no_commit(inode, indices)
            inode.states[indices] = REQ_HELD
            self.nr_resent_pages += len(indices)
            self.cache.redirty(inode.mapping, indices)
        if self.nr_writeback < self.congestion_off_pages:
            self.write_congested = False
        self._wake_committed(inode)

    def _committing(self, inode: Inode, unstable: Unstable) -> npt.NDArray[np.intp]:
        indices = pages_of(unstable)
        mine: npt.NDArray[np.intp] = indices[inode.states[indices] == REQ_COMMITTING]
        return mine

    def _wake_committed(self, inode: Inode) -> None:
        self._committed[inode.mapping.id].wake_all()

    def _commit_providers(self, mapping: Mapping) -> list[Provider | Task]:
        return [rpc.provider() for _first, nr, rpc in self._inode(mapping).calls.values() if not nr]

    async def write_inode(self, task: Task, mapping: Mapping, *, sync: bool) -> int:
        """Make what was written safe (nfs_write_inode, nfs_file_fsync)."""
        inode = self._inode(mapping)
        if not sync:
            if mapping.nr_writeback and self._commits_by_itself:
                # there will be more to commit soon
                self.cache.flusher.mark_inode_dirty(mapping)
            else:
                await self._commit(task, inode)
            return 0
        while True:
            await self._commit(task, inode)
            while inode.commits.nr_out:
                await self._committed[mapping.id].wait(task)
            if mapping.nr_dirty and not mapping.wb_err:
                # what the server has lost is written again
                wbc = WritebackControl(nr_to_write=1 << 62, sync_mode=WB_SYNC_ALL, reason="sync")
                await self.writepages(task, mapping, wbc)
                await self.cache.wait_on_writeback(task, mapping)
            if not len(inode.commits):
                return 0

    # -- reading --------------------------------------------------------------------------------------------------

    async def readpages(self, task: Task, mapping: Mapping, indices: npt.NDArray[np.intp], pfns: PfnArray) -> None:
        """Read locked pages, runs of them up to rsize in a call (nfs_readahead)."""
        inode = self._inode(mapping)
        await self._open(task, inode)
        assert len(indices) == len(pfns)
        coalescer = Coalescer(self.mount.rsize_bytes)
        groups = [group for index in indices.tolist() for group in coalescer.add(index)] + coalescer.complete()
        for group in groups:
            pages = np.arange(group.start, group.stop)
            header = await self._header_alloc(task, pages, write=False)
            args = ReadArgs(fh=inode.fh, offset=group.start * PAGE_SIZE, count=len(group) * PAGE_SIZE)
            if header is None or not await self._call(task, READ, args, inode, header):
                if header is not None:
                    self._header_free(header)
                self.reader.end_read(mapping, pages, [0] * len(group), error=_NO_MEMORY, task=task)

    def _read(self, inode: Inode, header: PgioHeader, rpc: RpcTask, task: Task) -> None:
        """A READ was answered (nfs_readpage_result); behind the end of the file are zeroes."""
        assert rpc.reply is not None
        result = rpc.reply.result
        versions = [0] * header.nr
        error = _IO_ERROR
        if result is not None and result.status == NfsStat3.NFS3_OK:
            error = 0
            if isinstance(result.data, Blocks):
                versions[: len(result.data.versions)] = result.data.versions
        self.reader.end_read(inode.mapping, header.indices, versions, error=error, task=task)

    # -- reclaim --------------------------------------------------------------------------------------------------

    def _of_pages(self, pfns: PfnArray) -> tuple[Inode, npt.NDArray[np.intp]]:
        frames = self.cache.frames
        mapping = self.cache.mappings[-frames.mapping_of[int(pfns[0])]]
        inode = self._inode(mapping)
        indices = (frames.index[pfns] - 1).astype(np.intp)
        inode.grow(int(indices.max()) + 1)
        return inode, indices

    def is_dirty_writeback(self, pfns: PfnArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
        """A page with a request counts as dirty, and as under writeback while a COMMIT is out.

        Mirrors ``nfs_check_dirty_writeback`` (3.11); before, reclaim saw but the page's own flags.
        """
        if not self.client.fixes.nfs_check_dirty_writeback:
            return None
        inode, indices = self._of_pages(pfns)
        tags = inode.mapping.tags[indices]
        dirty = (tags & _U8(TAG_DIRTY) != 0) | (inode.requests[indices] != 0)
        writeback = tags & _U8(TAG_WRITEBACK) != 0
        if inode.commits.nr_out:
            writeback = np.ones(len(pfns), dtype=np.bool_)
        return dirty, writeback

    def has_private(self, pfns: PfnArray) -> npt.NDArray[np.bool_]:
        """A page keeps its request until its content is safe."""
        inode, indices = self._of_pages(pfns)
        return np.not_equal(inode.requests[indices], 0)

    async def release_folios(self, task: Task, pfns: PfnArray, gfp: int) -> npt.NDArray[np.bool_]:
        """A page with a request is not freed; it may be worth a COMMIT (nfs_release_folio)."""
        how = nfs_release(self.client.fixes, gfp, kswapd=task is self._vmscan.kswapd, congested=self.write_congested)
        inode, _indices = self._of_pages(pfns)
        if how is not Release.LEAVE and self.has_private(pfns).any():
            await self._commit(task, inode)
        timeout_ns = task.world.wheel_ns(RELEASE_WAIT_NS) if how is Release.WAIT_BRIEFLY else None
        while how not in (Release.LEAVE, Release.COMMIT) and inode.commits.nr_out and self.has_private(pfns).any():
            if not await self._committed[inode.mapping.id].wait(task, timeout_ns=timeout_ns):
                self.nr_release_timeouts += 1
                self.write_congested = True
                break
        return ~self.has_private(pfns)

    def forget_folios(self, pfns: PfnArray) -> None:
        """Pages leave the cache; none of them has a request."""
        if len(pfns):
            inode, indices = self._of_pages(pfns)
            self._remove_requests(inode, indices[inode.states[indices] < REQ_UNSTABLE])

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs_page(self, mapping: Mapping, index: int) -> list[Provider | Task]:
        """Say who could end the I/O of a page: the call it is in."""
        calls = self._inode(mapping).calls.values()
        found = [rpc.provider() for first, nr, rpc in calls if first <= index < first + nr]
        return list(found) or [Provider(name="nfs: being submitted")]

    def notes(self) -> list[str]:
        """Tell of data that a server had lost and of reclaimers that gave up waiting."""
        told = (
            f"{self.nr_resent_pages * PAGE_SIZE} bytes were sent again: the server was killed before it committed them",
            f"{self.nr_release_timeouts} times reclaim waited a second for a COMMIT in vain",
        )
        return [line for line in told if not line.startswith("0 ")]

    def lost_writes(self) -> list[str]:
        """Return where the server does not hold the newest content that it has acknowledged for good."""
        found = []
        for mapping in self.cache.mappings.values():
            content = self.server_content(mapping.name) if mapping.fs is self else None
            if content is None:
                continue
            inode = self._inode(mapping)
            nr = min(mapping.nr_pages, len(content), len(inode.states))
            settled = np.flatnonzero(inode.states[:nr] == REQ_NONE)
            wrong = settled[content[settled] != mapping.stored[settled]]
            found += [
                f"{mapping.name} page {index}: the server holds version {int(content[index])}, acknowledged was "
                f"{int(mapping.stored[index])}"
                for index in wrong.tolist()
                if self.cache.is_lost(mapping, index, int(content[index]))
            ]
        return found

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.nr_writeback, self.write_congested, self.client.digest())
