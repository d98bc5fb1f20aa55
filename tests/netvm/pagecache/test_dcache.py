"""Dentries and inodes: second chances, proportions, pressure, and pages that a pinned object keeps."""

from typing import Any

import pytest

from netvm.mm.gfp import GFP_KERNEL, GFP_NOFS
from netvm.pagecache.dcache import DentryCache
from netvm.runtime.task import Task


def _cache(host: Any, pressure: int = 100) -> DentryCache:
    return DentryCache(
        "fake0",
        dentries=host.slabs["dentry"],
        inodes=host.slabs["ext4_inode_cache"],
        costs=host.costs,
        vfs_cache_pressure=pressure,
    )


def _with(host: Any, nr: int, body: Any, *, pressure: int = 100) -> Any:
    """Run ``body(task, dcache)`` after ``nr`` paths were looked up."""
    dcache = _cache(host, pressure)

    async def main(task: Task) -> Any:
        for path in range(nr):
            assert await dcache.lookup(task, path)
        return body(task, dcache)

    return host.run(main)


def test_a_path_takes_a_dentry_and_an_inode(host: Any) -> None:
    """Both from their slabs."""

    def body(task: Task, dcache: DentryCache) -> None:
        assert (dcache.nr_dentry, dcache.nr_inodes, dcache.nr_misses, dcache.nr_hits) == (40, 40, 40, 0)
        assert host.slabs["dentry"].nr_active == host.slabs["ext4_inode_cache"].nr_active == 40
        assert host.vmstat.nr_slab_reclaimable >= 2 + 10

    _with(host, 40, body)


def test_the_oldest_dentries_go_first_and_inodes_after_them(host: Any) -> None:
    """An inode can go only when its dentry has gone."""

    def body(task: Task, dcache: DentryCache) -> None:
        assert dcache.scan_objects(task, 9, GFP_KERNEL) == 10
        assert (dcache.nr_dentry, dcache.nr_inodes) == (91, 99)
        assert min(dcache._dentry_slab) == 9
        assert min(dcache._inode_slab) == 1

    _with(host, 100, body)


def test_a_path_looked_up_again_gets_a_second_round(host: Any) -> None:
    """Referenced dentries are passed over once."""
    dcache = _cache(host)

    async def main(task: Task) -> None:
        for path in (*range(10), *range(5)):
            await dcache.lookup(task, path)
        assert dcache.nr_hits == 5
        dcache.scan_objects(task, 10, GFP_KERNEL)
        assert sorted(dcache._dentry_slab) == [0, 1, 2, 3, 4]
        assert dcache.nr_inodes == 9

    host.run(main)


def test_without_gfp_fs_nothing_is_freed(host: Any) -> None:
    """A reclaimer that may not enter the file system stops at once."""

    def body(task: Task, dcache: DentryCache) -> None:
        assert dcache.scan_objects(task, 100, GFP_NOFS) == -1
        assert dcache.nr_dentry == 20

    _with(host, 20, body)


@pytest.mark.parametrize(("pressure", "counted"), [(0, 0), (50, 10), (100, 20), (200, 40)])
def test_pressure_scales_what_is_counted(host: Any, pressure: int, counted: int) -> None:
    """vfs_cache_pressure percent of the objects on the lists; 0 hides them all."""
    assert _with(host, 20, lambda _task, dcache: dcache.count_objects(), pressure=pressure) == counted


def test_a_pinned_object_keeps_its_page(host: Any) -> None:
    """With one path in 8 pinned all else is freed, and hardly a page comes back; unpinned they all do."""
    dcache = _cache(host)

    async def main(task: Task) -> None:
        for path in range(800):
            await dcache.lookup(task, path, pin=not path % 8)
        full = host.vmstat.nr_slab_reclaimable
        for _ in range(4):
            dcache.scan_objects(task, 2000, GFP_KERNEL)
        assert (dcache.nr_dentry, dcache.nr_inodes) == (100, 100)
        assert host.vmstat.nr_slab_reclaimable > 0.9 * full
        for path in range(0, 800, 8):
            dcache.unpin(path)
        for _ in range(4):
            dcache.scan_objects(task, 2000, GFP_KERNEL)
        assert (dcache.nr_dentry, dcache.nr_inodes) == (0, 0)
        assert host.vmstat.nr_slab_reclaimable < 0.2 * full

    host.run(main)
