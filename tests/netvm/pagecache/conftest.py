"""A small host with a page cache, and a file system whose storage does what a test says.

:class:`FileHost` stands on the small host of ``mm``. Its ``fs`` is a :class:`SlowStore`: so many pages a second, in
order, with a version for each page, so the throttle can be tried without a block device or a network; ``block_fs()``
gives a real file system on the small host's block device instead.
"""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netvm.block.bio import BioSet
from netvm.mm.frames import PfnArray
from netvm.mm.gfp import PF_KTHREAD
from netvm.pagecache.bdi import BackingDevice
from netvm.pagecache.block_fs import BlockFileSystem
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.flusher import Flusher
from netvm.pagecache.invariants import check_pagecache
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.ports import WritebackControl
from netvm.pagecache.position import DirtySysctls
from netvm.pagecache.readahead import FileReader
from netvm.pagecache.reclaim import FileReclaim
from netvm.pagecache.throttle import DirtyThrottle
from netvm.pagecache.walk import DirtyWalk
from netvm.runtime.task import Provider, Task
from netvm.runtime.workqueue import WorkerPool, Workqueue
from netvm.units import NS_PER_S

_spec = spec_from_file_location("mini_host", Path(__file__).parents[1] / "mm" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_mini = module_from_spec(_spec)
_spec.loader.exec_module(_mini)


class SlowStore:
    """A store that takes ``pages_per_s`` in order and remembers each page's version."""

    def __init__(self, host: "FileHost", name: str, *, pages_per_s: int, **share: int) -> None:
        self.host = host
        self.name = name
        self.pages_per_s = pages_per_s
        self.error = 0
        """What the next writes end with."""
        self.tells_nospc = False
        self.writeback_may_last = False
        self.busy_until_ns = 0
        self.store: dict[tuple[int, int], int] = {}
        self.private: set[int] = set()
        """Frames that carry private data."""
        self.releasable = True
        self._bdi = host.throttle.add_device(name, **share)
        host.flusher.add_device(self._bdi)

    @property
    def bdi(self) -> BackingDevice:
        """Its device."""
        return self._bdi

    def attach(self, mapping: Mapping) -> None:
        """There is always room."""

    async def write_begin(self, task: Task, mapping: Mapping, index: int, nr_pages: int) -> int:
        """Nothing to prepare."""
        return 0

    def write_end(self, task: Task, mapping: Mapping, index: int, pfns: PfnArray) -> None:
        """Nothing to note."""

    async def writepages(self, task: Task, mapping: Mapping, wbc: WritebackControl) -> int:
        """Send runs of up to 32 pages, each after the one before it."""
        walk = DirtyWalk(self.host.cache, mapping, wbc)
        while run := await walk.next_run(task, 32):
            index, nr = run
            _pfns, versions = self.host.cache.start_writeback(mapping, index, nr)
            now_ns = self.host.world.now_ns
            self.busy_until_ns = max(self.busy_until_ns, now_ns) + nr * NS_PER_S // self.pages_per_s
            indices = np.arange(index, index + nr)
            self.host.world.call_at(self.busy_until_ns, self._written, mapping, indices, versions)
        return 0

    def _written(self, mapping: Mapping, indices: npt.NDArray[np.intp], versions: list[int]) -> None:
        if not self.error:
            self.store.update(((mapping.id, i), v) for i, v in zip(indices.tolist(), versions, strict=True))
            self.host.cache.note_stored(mapping, indices, np.array(versions))
        self.host.cache.end_writeback(mapping, indices, error=self.error, task=self.host.softirq)

    async def write_inode(self, task: Task, mapping: Mapping, *, sync: bool) -> int:
        """Nothing more is needed."""
        return 0

    async def readpages(self, task: Task, mapping: Mapping, indices: npt.NDArray[np.intp], pfns: PfnArray) -> None:
        """Read after a millisecond."""
        versions = [self.store.get((mapping.id, i), 0) for i in indices.tolist()]
        self.host.world.call_after(1_000_000, self._has_read, mapping, indices, versions)

    def _has_read(self, mapping: Mapping, indices: npt.NDArray[np.intp], versions: list[int]) -> None:
        self.host.reader.end_read(mapping, indices, versions, error=self.error, task=self.host.softirq)

    def is_dirty_writeback(self, pfns: PfnArray) -> None:
        """As the flags say."""
        return

    def has_private(self, pfns: PfnArray) -> npt.NDArray[np.bool_] | None:
        """What the test says."""
        return np.isin(pfns, list(self.private)) if self.private else None

    async def release_folios(self, task: Task, pfns: PfnArray, gfp: int) -> npt.NDArray[np.bool_]:
        """What the test says."""
        return np.full(len(pfns), self.releasable)

    def forget_folios(self, pfns: PfnArray) -> None:
        """Nothing is kept."""

    def needs_page(self, mapping: Mapping, index: int) -> list[Provider | Task]:
        """The store itself."""
        return [Provider(name=self.name)]

    def notes(self) -> list[str]:
        """There is nothing to tell."""
        return []

    def lost_writes(self) -> list[str]:
        """What differs from what was acknowledged."""
        return []

    def digest(self) -> tuple[Any, ...]:
        """How much it holds."""
        return (len(self.store),)


class FileHost(_mini.MiniHost):  # type: ignore[misc, name-defined]  # the module is loaded by path
    """The small host with files."""

    def __init__(self, *, sysctls: DirtySysctls | None = None, **how: Any) -> None:
        super().__init__(**how)
        self.throttle = DirtyThrottle(
            self.world,
            node=self.node,
            lruvec=self.lruvec,
            vmstat=self.vmstat,
            fixes=self.fixes,
            costs=self.costs,
            sysctls=sysctls or DirtySysctls(),
        )
        self.unbound = WorkerPool(
            self.world, "u2", self.creator, cpus=self.cpus, bound=False, nr_workers=2, nice=0, flags=PF_KTHREAD
        )
        self.writeback = Workqueue("writeback", self.unbound, mem_reclaim=True)
        self.flusher = Flusher(self.world, self.throttle, self.writeback)
        self.cache = PageCache(
            self.world,
            pages=self.pages,
            lruvec=self.lruvec,
            radix_nodes=self.slabs["radix_tree_node"],
            vmstat=self.vmstat,
            costs=self.costs,
            throttle=self.throttle,
            flusher=self.flusher,
        )
        self.cache.vmscan = self.vmscan
        self.throttle.reclaim_throttles = self.vmscan.throttles
        self.flusher.fdatawait = self.cache.wait_on_writeback
        self.files = FileReclaim(self.cache)
        self.vmscan.attach_files(self.files)
        self.reader = FileReader(self.cache)

    def slow_store(self, name: str = "slow", *, pages_per_s: int = 2560, **share: int) -> SlowStore:
        """Mount a store of a given speed."""
        return SlowStore(self, name, pages_per_s=pages_per_s, **share)

    def block_fs(self, nr_blocks: int = 4096, *, extent_pages: int = 0) -> BlockFileSystem:
        """Make a file system on the small host's block device; with ``extent_pages`` blocks come at writeback."""
        bdi = self.throttle.add_device("fake0")
        self.flusher.add_device(bdi)
        bios, biovecs = (
            BioSet(self.world, self.slabs[name], nomemalloc=True, providers=list) for name in ("bio-160", "biovec-max")
        )
        for pool in (bios, biovecs):
            pool.fill(self.softirq)
        return BlockFileSystem(
            self.cache,
            self.reader,
            name="fake0",
            queue=self.queue,
            bios=bios,
            biovecs=biovecs,
            buffer_heads=self.slabs["buffer_head"],
            nr_blocks=nr_blocks,
            first_block=1,
            bdi=bdi,
            stored=lambda: self.stored(nr_blocks),
            extent_pages=extent_pages,
        )

    def stored(self, nr_blocks: int) -> npt.NDArray[np.int64]:
        """The device's content by block."""
        content = np.zeros(nr_blocks, dtype=np.int64)
        for slot, version in self.device.store.items():
            content[slot] = version
        return content

    def run(self, body: Callable[[Task], Any], **how: Any) -> Any:
        """Run a program with the flusher's threads beside it; then everything must add up."""

        async def main(task: Task) -> Any:
            self.unbound.start()
            self.writeback.start()
            return await body(task)

        result = super().run(main, **how)
        check_pagecache(self.cache)
        return result


@pytest.fixture
def make_host() -> type[FileHost]:
    """The class: a test says what its host is like."""
    return FileHost


@pytest.fixture
def host() -> FileHost:
    """Eight MiB, all free, without CPU costs."""
    return FileHost()
