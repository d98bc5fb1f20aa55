"""A swap file on NFS: direct I/O without a page cache.

Mirrors ``nfs_swap_rw`` and the parts of fs/nfs/direct.c, pagelist.c and write.c of 6.1 behind it. A batch of pages
becomes a ``nfs_direct_req``, one ``nfs_page`` a page, and for each run of up to wsize bytes a header and a call; all
of that is allocated by whoever swaps, in reclaim and so without waiting. If any of it cannot be had the batch fails and
its pages stay dirty.

Writes are FILE_SYNC (fix ``nfs_swap_stable``, 2022). Without the fix a batch that is larger than wsize is UNSTABLE and
needs a COMMIT behind it, for which memory is needed again; if the server was restarted in between, exactly this batch
is written again. One that fits into a call was FILE_SYNC before as well (FLUSH_COND_STABLE).
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from netvm.block.blk_mq import Request
from netvm.errors import Errno
from netvm.runtime.task import Provider, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.workqueue import WorkItem
from netvm.units import NS_PER_S, PAGE_SIZE
from storage_backends.nfs.client.clnt import RpcClient
from storage_backends.nfs.client.pools import PoolObject, rpc_task_gfp_mask
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.coalesce import Coalescer
from storage_backends.nfs.connection.procedures import COMMIT, READ, WRITE
from storage_backends.nfs.messages.data import CommitArgs, ReadArgs, StableHow, WriteArgs
from storage_backends.nfs.messages.nfs3 import NfsStat3
from storage_backends.wire import Blocks

if TYPE_CHECKING:
    from netvm.block.swap_file import FileSwapIo

__all__ = ["NfsSwapFile"]

JUKEBOX_DELAY_NS: Final = 5 * NS_PER_S
"""NFS_JUKEBOX_RETRY_TIME: how long to wait when the server says it will take its time."""
_NO_MEMORY: Final = -int(Errno.ENOMEM)
_IO_ERROR: Final = -int(Errno.EIO)


class _Direct:
    """``struct nfs_direct_req``: one batch."""

    __slots__ = ("calls", "error", "nr_out", "objects", "pages", "rq", "unstable", "verifier", "work")

    def __init__(self, rq: Request, slab: int, pages: list[int]) -> None:
        self.rq = rq
        self.objects = slab
        self.pages = pages
        self.nr_out = 1
        """Calls that are not over, and the submitter itself."""
        self.error = 0
        self.calls: dict[int, RpcTask] = {}
        self.unstable = False
        """Some of it has to be committed."""
        self.verifier: bytes | None = None
        self.work: WorkItem | None = None
        """What nfsiod has to do for it."""


class _Header:
    """``struct nfs_pgio_header``: one call of a batch."""

    __slots__ = ("array", "direct", "nr", "object", "start")

    def __init__(self, direct: _Direct, group: range, held: PoolObject, array: int) -> None:
        self.direct = direct
        self.start = group.start
        self.nr = len(group)
        self.object = held
        self.array = array


class NfsSwapFile:
    """The swap file of one mount."""

    name = "nfs"

    def __init__(self, client: RpcClient, *, wsize_bytes: int, rsize_bytes: int) -> None:
        self.client = client
        self.pools = client.pools
        self.fh = b""
        """Known once the file was looked up."""
        self.io: FileSwapIo
        self.wsize_bytes = wsize_bytes
        self.rsize_bytes = rsize_bytes
        self._direct: dict[int, _Direct] = {}
        self._submitting: dict[int, Task] = {}
        self.nr_committed_again = 0
        """Batches written again because the server had lost them."""

    async def swap_rw(self, task: Task, rq: Request) -> int:
        """Write or read a batch (nfs_swap_rw); 0 if it is on its way, or a negative errno."""
        gfp = rpc_task_gfp_mask(task)
        self._submitting[rq.number] = task
        try:
            slab = await self.pools.direct_requests.alloc(task, gfp)
            if slab < 0:
                return _NO_MEMORY
            pages = await self.pools.nfs_pages_alloc(task, rq.nr_pages, gfp)
            if pages is None:
                self.pools.direct_requests.free(slab)
                return _NO_MEMORY
            direct = self._direct[rq.number] = _Direct(rq, slab, pages)
            await self._schedule(task, direct, gfp)
        finally:
            del self._submitting[rq.number]
        self._put(direct, task)
        return 0

    async def _schedule(self, task: Task, direct: _Direct, gfp: int) -> None:
        """Make the calls of a batch (nfs_direct_write_schedule_iovec, nfs_generic_pg_pgios)."""
        rq = direct.rq
        coalescer = Coalescer(self.wsize_bytes if rq.write else self.rsize_bytes)
        groups = coalescer.add(rq.slot, rq.nr_pages) + coalescer.complete()
        for group in groups:
            header = await self._header_alloc(task, direct, group, gfp)
            if header is None:
                direct.error = _NO_MEMORY
                return
            direct.nr_out += 1
            if not await self._initiate(task, header):
                self._header_free(header)
                direct.nr_out -= 1
                direct.error = _NO_MEMORY
                return

    async def _header_alloc(self, task: Task, direct: _Direct, group: range, gfp: int) -> _Header | None:
        found = await self.pools.pgio_header_alloc(task, len(group), gfp, write=direct.rq.write)
        return None if found is None else _Header(direct, group, *found)

    def _header_free(self, header: _Header) -> None:
        self.pools.pgio_header_free(header.object, header.array, header.nr, write=header.direct.rq.write)

    async def _initiate(self, task: Task, header: _Header) -> bool:
        """Begin the call of a header (nfs_initiate_pgio)."""
        direct = header.direct
        rq = direct.rq
        offset = header.start * PAGE_SIZE
        first = header.start - rq.slot

        def done(rpc: RpcTask, context: Task) -> None:
            del direct.calls[header.start]
            self._over(rpc, header, context)

        if rq.write:
            # FLUSH_COND_STABLE: what fits into one call needs no COMMIT behind it
            alone = rq.nr_pages * PAGE_SIZE <= self.wsize_bytes
            stable = StableHow.FILE_SYNC if alone or self.client.fixes.nfs_swap_stable else StableHow.UNSTABLE
            data = Blocks.of(tuple(rq.versions[first : first + header.nr]))
            args: Any = WriteArgs(fh=self.fh, offset=offset, stable=stable, data=data)
        else:
            args = ReadArgs(fh=self.fh, offset=offset, count=header.nr * PAGE_SIZE)
        procedure = WRITE if rq.write else READ
        rpc = await self.client.call_async(task, procedure, args, nr_pages=header.nr, done=done)
        if rpc is None:
            return False
        header.object.holder = rpc.provider
        direct.calls[header.start] = rpc
        return True

    def _over(self, rpc: RpcTask, header: _Header, task: Task) -> None:
        """Take the result of a call (nfs_pgio_result, nfs_direct_write_completion)."""
        direct = header.direct
        reply = rpc.reply
        assert reply is not None
        result = reply.result
        if result is not None and result.status == NfsStat3.NFS3ERR_JUKEBOX:
            self._again_later(header)
            return
        if result is None or result.status != NfsStat3.NFS3_OK:
            direct.error = _IO_ERROR
        elif direct.rq.write:
            if result.count != header.nr * PAGE_SIZE:
                direct.error = _IO_ERROR
            elif result.committed != StableHow.FILE_SYNC:
                if direct.verifier not in (None, result.verifier):
                    direct.error = _IO_ERROR
                direct.unstable = True
                direct.verifier = result.verifier
        else:
            self._read_result(header, result.data)
        self._header_free(header)
        self._put(direct, task)

    def _read_result(self, header: _Header, data: Any) -> None:
        direct = header.direct
        if not isinstance(data, Blocks) or data.size_bytes != header.nr * PAGE_SIZE:
            direct.error = _IO_ERROR
            return
        first = header.start - direct.rq.slot
        direct.rq.versions[first : first + header.nr] = data.versions

    def _again_later(self, header: _Header) -> None:
        """Make a call again that the server was not ready for (nfs3_async_handle_jukebox)."""

        async def again(task: Task) -> None:
            if not await self._initiate(task, header):
                self._again_later(header)

        world = self.client.world
        world.call_after(
            world.wheel_ns(JUKEBOX_DELAY_NS),
            lambda: world.spawn("nfs-jukebox", again, cpus=None),
            kind=TimerKind.RETRY,
            site="nfs: JUKEBOX",
        )

    def _put(self, direct: _Direct, task: Task) -> None:
        """Count a part of a batch as over; the last one ends it, or commits it first (put_dreq)."""
        direct.nr_out -= 1
        if direct.nr_out:
            return
        if direct.unstable and not direct.error:
            self._queue(direct, self.commit)
            return
        self._complete(direct, task)

    def _queue(self, direct: _Direct, function: Callable[[Task, _Direct], Awaitable[None]]) -> None:
        """Have nfsiod go on with a batch (nfs_direct_write_schedule_work)."""
        direct.work = WorkItem("nfs_direct_write_schedule_work", lambda task: function(task, direct))
        self.client.nfsiod.queue_work(direct.work)

    async def commit(self, task: Task, direct: _Direct) -> None:
        """Make a batch safe, or without memory for that, write it again (nfs_direct_commit_schedule)."""
        held = await self.pools.commitdata_alloc(task)
        if held is None:
            await self.resend(task, direct)
            return
        start = direct.rq.slot
        args = CommitArgs(fh=self.fh, offset=start * PAGE_SIZE, count=direct.rq.nr_pages * PAGE_SIZE)

        def done(rpc: RpcTask, context: Task) -> None:
            del direct.calls[start]
            self.pools.commit_headers.free(held)
            assert rpc.reply is not None
            result = rpc.reply.result
            if result is None or result.status != NfsStat3.NFS3_OK:
                direct.error = _IO_ERROR
            elif result.verifier != direct.verifier:
                self.nr_committed_again += 1
                self._queue(direct, self.resend)
                return
            self._complete(direct, context)

        rpc = await self.client.call_async(task, COMMIT, args, done=done)
        if rpc is None:
            self.pools.commit_headers.free(held)
            direct.error = _NO_MEMORY
            self._complete(direct, task)
            return
        held.holder = rpc.provider
        direct.calls[start] = rpc

    async def resend(self, task: Task, direct: _Direct) -> None:
        """Write a batch again that the server has lost (nfs_direct_write_reschedule)."""
        direct.unstable = False
        direct.verifier = None
        direct.nr_out = 1
        await self._schedule(task, direct, rpc_task_gfp_mask(task))
        self._put(direct, task)

    def _complete(self, direct: _Direct, task: Task) -> None:
        rq = direct.rq
        del self._direct[rq.number]
        self.pools.nfs_pages_free(direct.pages)
        self.pools.direct_requests.free(direct.objects)
        self.io.complete(rq, direct.error, task)

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs(self, rq: Request) -> Provider:
        """Say what an outstanding batch waits for."""
        pages = f"{self.name}: {'WRITE' if rq.write else 'READ'} of {rq.nr_pages} pages at {rq.slot}"
        submitter = self._submitting.get(rq.number)
        if submitter is not None:
            return Provider(name=f"{pages}, being submitted by {submitter.comm}", needs=(submitter,))
        direct = self._direct.get(rq.number)
        for rpc in direct.calls.values() if direct is not None else ():
            found = rpc.provider()
            return Provider(name=f"{pages}: {found.name}", needs=found.needs)
        work = direct.work if direct is not None else None
        if work is not None and work.pending:
            return Provider(name=f"{pages}, to be committed by nfsiod", needs=(self.client.nfsiod.pool.needs_worker,))
        worker = work.running_on if work is not None else None
        needs = (worker.task,) if worker is not None and worker.task is not None else ()
        return Provider(name=f"{pages}, being completed", needs=needs)

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self._direct), self.client.digest())
