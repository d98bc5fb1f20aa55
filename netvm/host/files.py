"""The file side of a host: page cache, throttle, flusher, and the file system on its storage.

``[storage] role = "fs"`` puts a file system on the device, with ``swap_mib`` of it in front as swap; a backend that is
a file server mounts its own, and swaps to a file on it. A host whose storage is swap alone has a page cache too, with
nothing in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from netvm.block.bdev import BlockDevice
from netvm.block.bio import BioSet
from netvm.block.blk_mq import BlockDriver, RequestQueue
from netvm.block.swap_io import BlockSwapIo, SwapIo
from netvm.host.backend import Backend, DiskDriver, FileBackend, MountContext
from netvm.host.memory_map import PAGES_PER_MIB
from netvm.mm.lru import Lruvec
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import SlabCaches
from netvm.mm.vmscan import Vmscan
from netvm.pagecache.block_fs import BlockFileSystem
from netvm.pagecache.dcache import DentryCache
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.flusher import Flusher
from netvm.pagecache.fuse import FuseConnection, FuseFileSystem
from netvm.pagecache.fuse_server import FuseServer
from netvm.pagecache.loop import LoopDevice
from netvm.pagecache.ports import FileSystem
from netvm.pagecache.position import DirtySysctls
from netvm.pagecache.readahead import FileReader
from netvm.pagecache.reclaim import FileReclaim
from netvm.pagecache.throttle import DirtyThrottle
from netvm.runtime.cpu import Cpus
from netvm.runtime.workqueue import WorkerPool, Workqueue
from netvm.units import PAGE_SIZE

__all__ = ["Files", "make_files", "swap_pages"]


@dataclass(slots=True, kw_only=True)
class Files:
    """What a host knows of files."""

    throttle: DirtyThrottle
    flusher: Flusher
    cache: PageCache
    dcache: DentryCache
    reader: FileReader
    reclaim: FileReclaim
    writeback: Workqueue
    loop_queue: Workqueue | None = None
    fs: FileSystem | None = None
    """The mounted file system; None if the storage is swap alone."""
    fuse_server: FuseServer | None = None
    """The process behind a FUSE mount."""

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        vmstat = self.cache.vmstat
        return (
            vmstat.nr_dirty,
            self.dcache.nr_dentry + self.dcache.nr_inodes,
            self.cache.nr_cleaned,
            self.cache.nr_read,
            self.fs.digest() if self.fs else (),
        )

    def progress(self) -> int:
        """Return a number that grows when something got done: pages dirtied, cleaned, lost or read, paths looked up."""
        done = self.cache.nr_cleaned + self.cache.nr_lost + self.cache.nr_read + self.cache.vmstat.nr_dirtied
        return done + self.dcache.nr_hits + self.dcache.nr_misses


def swap_pages(storage: Any) -> int:
    """Return the size of the swap area with its header: all of the device, or what a file system leaves it."""
    mib: int = storage.size_mib if storage.role == "swap" else storage.swap_mib
    return max(mib * PAGES_PER_MIB, 1)


def make_files(
    options: Any,
    backend: Backend,
    *,
    pages: PageAllocator,
    lruvec: Lruvec,
    slabs: SlabCaches,
    vmscan: Vmscan,
    io: SwapIo,
    bios: BioSet,
    kblockd: Workqueue,
    unbound: WorkerPool,
    cpus: Cpus | None,
) -> Files:
    """Make the page cache and what is mounted on it."""
    world, vm = pages.world, options.vm
    throttle = _throttle(options, pages, lruvec)
    writeback = Workqueue("writeback", unbound, mem_reclaim=True)
    flusher = Flusher(world, throttle, writeback)
    cache = PageCache(
        world,
        pages=pages,
        lruvec=lruvec,
        radix_nodes=slabs["radix_tree_node"],
        vmstat=pages.vmstat,
        costs=pages.costs,
        throttle=throttle,
        flusher=flusher,
    )
    cache.vmscan = vmscan
    throttle.reclaim_throttles = vmscan.throttles
    flusher.fdatawait = cache.wait_on_writeback
    reclaim = FileReclaim(cache)
    vmscan.attach_files(reclaim)
    dcache = DentryCache(
        options.storage.kind,
        dentries=slabs["dentry"],
        inodes=slabs["ext4_inode_cache"],
        costs=pages.costs,
        vfs_cache_pressure=vm.vfs_cache_pressure,
    )
    vmscan.slab_shrinkers.register(dcache)
    files = Files(
        throttle=throttle,
        flusher=flusher,
        cache=cache,
        dcache=dcache,
        reader=FileReader(cache),
        reclaim=reclaim,
        writeback=writeback,
    )
    mounts = None
    if isinstance(backend, FileBackend):
        mounts = _mount_context(options, files, slabs, bios, kblockd, vmscan, cpus)
        if options.storage.place == "local":
            backend.export(mounts)
    if options.storage.role == "fs":
        if isinstance(backend, FileBackend):
            assert mounts is not None
            files.fs = backend.mount(mounts)
        else:
            assert isinstance(io, BlockSwapIo)
            extent_pages = 0 if options.storage.loop_mib else options.storage.extent_kib * 1024 // PAGE_SIZE
            files.fs = _on_device(options, files, slabs, io.queue, bios, backend.stored, extent_pages=extent_pages)
        if options.storage.loop_mib:
            files.fs = _on_loop(options, files, slabs, bios, kblockd, unbound)
        if options.storage.fuse is not None:
            files.fs = _on_fuse(options.storage.fuse, files, slabs)
    return files


def _throttle(options: Any, pages: PageAllocator, lruvec: Lruvec) -> DirtyThrottle:
    """Make the dirty throttle with the ``vm.dirty_*`` settings."""
    vm = options.vm
    return DirtyThrottle(
        pages.world,
        node=pages.node,
        lruvec=lruvec,
        vmstat=pages.vmstat,
        fixes=pages.fixes,
        costs=pages.costs,
        sysctls=DirtySysctls(
            background_ratio=vm.dirty_background_ratio,
            ratio=vm.dirty_ratio,
            background_bytes=vm.dirty_background_bytes,
            bytes=vm.dirty_bytes,
            writeback_centisecs=vm.dirty_writeback_centisecs,
            expire_centisecs=vm.dirty_expire_centisecs,
        ),
        nr_cpus=options.machine.cpus,
        laptop_mode=bool(vm.laptop_mode),
    )


def _on_device(
    options: Any,
    files: Files,
    slabs: SlabCaches,
    queue: BlockDevice,
    bios: BioSet,
    stored: Callable[[], npt.NDArray[np.int64]],
    *,
    extent_pages: int,
) -> BlockFileSystem:
    """Mount a file system on the storage, behind the swap area."""
    nr_blocks = options.storage.size_mib * PAGES_PER_MIB
    first_block = swap_pages(options.storage)
    return _block_fs(
        files,
        slabs,
        queue,
        bios,
        nr_blocks=nr_blocks,
        first_block=first_block,
        stored=stored,
        extent_pages=extent_pages,
    )


def _on_loop(
    options: Any, files: Files, slabs: SlabCaches, bios: BioSet, kblockd: Workqueue, unbound: WorkerPool
) -> BlockFileSystem:
    """Mount a file system on a loop device on a file of the one below."""
    assert files.fs is not None
    cache = files.cache
    nr_pages = options.storage.loop_mib * PAGES_PER_MIB
    files.loop_queue = Workqueue("loop0", unbound, mem_reclaim=True)
    # a file of a server is made empty and grows: its blocks are given to it where it is written
    backing = cache.create(files.fs, "loop0", nr_pages if isinstance(files.fs, BlockFileSystem) else 0)
    backing.extend(nr_pages)
    device = LoopDevice(
        cache,
        files.reader,
        backing,
        name="loop0",
        workqueue=files.loop_queue,
        fixes=cache.pages.fixes,
    )
    queue = device.queue = _queue(options, cache, device, kblockd)
    return _block_fs(
        files,
        slabs,
        queue,
        bios,
        nr_blocks=nr_pages,
        first_block=1,
        stored=lambda: device.backing.version,
        extent_pages=options.storage.extent_kib * 1024 // PAGE_SIZE,
    )


def _on_fuse(fuse: Any, files: Files, slabs: SlabCaches) -> FuseFileSystem:
    """Mount a FUSE file system whose server keeps its files in the one below."""
    assert files.fs is not None
    cache, reader = files.cache, files.reader
    connection = FuseConnection(
        cache, "fuse", max_background=fuse.max_background, congestion_threshold=fuse.congestion_threshold
    )
    files.fuse_server = FuseServer(
        cache,
        reader,
        connection,
        files.fs,
        buffer_pages=fuse.max_pages + 1,
        oom_score_adj=fuse.oom_score_adj,
        memory_group=fuse.memory_group,
    )
    bdi = files.throttle.add_device(
        connection.name, max_ratio=fuse.max_ratio, strictlimit=cache.pages.fixes.fuse_strictlimit
    )
    files.flusher.add_device(bdi)
    return FuseFileSystem(cache, reader, connection, bdi=bdi, requests=slabs["kmalloc-1k"], max_pages=fuse.max_pages)


def _mount_context(
    options: Any,
    files: Files,
    slabs: SlabCaches,
    bios: BioSet,
    kblockd: Workqueue,
    vmscan: Vmscan,
    cpus: Cpus | None,
) -> MountContext:
    pages = files.cache.pages

    def mount_disk(driver: DiskDriver, nr_blocks: int) -> BlockFileSystem:
        queue = _queue(options, files.cache, driver, kblockd)
        driver.attach(queue)
        return _block_fs(files, slabs, queue, bios, nr_blocks=nr_blocks, first_block=1, stored=driver.stored)

    return MountContext(
        world=pages.world,
        cpus=cpus,
        cache=files.cache,
        reader=files.reader,
        throttle=files.throttle,
        flusher=files.flusher,
        pages=pages,
        slabs=slabs,
        vmscan=vmscan,
        fixes=pages.fixes,
        costs=pages.costs,
        log=pages.log,
        init_pages=options.machine.boot.init_pages,
        mount_disk=mount_disk,
    )


def _queue(options: Any, cache: PageCache, driver: BlockDriver, kblockd: Workqueue) -> RequestQueue:
    """Return a request queue with the storage's limits."""
    return RequestQueue(
        cache.world,
        driver.name,
        driver,
        kblockd=kblockd,
        costs=cache.costs,
        max_pages=max(1, options.storage.max_sectors_kb // 4),
        nr_requests=options.storage.nr_requests,
        queue_depth=options.storage.queue_depth,
        wake_singly=cache.pages.fixes.tags_woken_singly,
    )


def _block_fs(
    files: Files,
    slabs: SlabCaches,
    queue: BlockDevice,
    bios: BioSet,
    *,
    nr_blocks: int,
    first_block: int,
    stored: Callable[[], npt.NDArray[np.int64]],
    extent_pages: int = 0,
) -> BlockFileSystem:
    """Mount a file system on a block device."""
    bdi = files.throttle.add_device(queue.name)
    files.flusher.add_device(bdi)
    if queue.wbt is not None:
        queue.wbt.dirty_sleep_ns = lambda: bdi.dirty_sleep_ns
    return BlockFileSystem(
        files.cache,
        files.reader,
        name=queue.name,
        queue=queue,
        bios=bios,
        biovecs=_biovecs(files, slabs, bios),
        buffer_heads=slabs["buffer_head"],
        nr_blocks=nr_blocks,
        first_block=first_block,
        bdi=bdi,
        stored=stored,
        extent_pages=extent_pages,
    )


def _biovecs(files: Files, slabs: SlabCaches, bios: BioSet) -> BioSet:
    """Make the vectors of large bios, two of them kept."""
    pages = files.cache.pages
    biovecs = BioSet(
        pages.world,
        slabs["biovec-max"],
        nomemalloc=pages.fixes.mempool_nomemalloc,
        providers=bios.pool.resource.providers or list,
    )
    biovecs.fill(pages.softirq)
    return biovecs
