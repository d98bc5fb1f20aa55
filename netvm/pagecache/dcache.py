"""Dentries and inodes: names and files that the kernel remembers, in slab memory, until reclaim asks for it.

Mirrors fs/dcache.c, fs/inode.c and ``super_cache_count``/``super_cache_scan`` of fs/super.c for one file system. A path
that is looked up gets a dentry (192 bytes, 21 to a page) and an inode (1008 bytes, 8 to two pages, as ext4's in the
recorded kernel). Nobody holds them afterwards, but they stay, on two LRU lists; a dentry that is looked up again is
referenced and gets a second round. An inode is on its list only when its dentry is gone.

The shrinker counts both, times ``vfs_cache_pressure`` percent, and frees them in proportion, oldest first; without
``__GFP_FS`` it does nothing. A path that is held open is pinned: its objects are on no list, and keep their slab pages.

# MODEL: looking a path up costs memory and CPU, and reads nothing: directories and inode tables are in no page cache.
"""

from collections import OrderedDict
from typing import Final

from netvm.mm.gfp import GFP_FS, GFP_KERNEL
from netvm.mm.shrinker import DEFAULT_SEEKS
from netvm.mm.slab import SlabCache
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Task

__all__ = ["DentryCache"]

SUPER_BATCH: Final = 1024
"""sb->s_shrink.batch."""


class DentryCache:
    """The names and inodes of one mounted file system."""

    seeks = DEFAULT_SEEKS
    batch = SUPER_BATCH

    def __init__(
        self, name: str, *, dentries: SlabCache, inodes: SlabCache, costs: CpuCosts, vfs_cache_pressure: int
    ) -> None:
        self.name = f"sb-{name}"
        self.vfs_cache_pressure = vfs_cache_pressure
        self._dentries = dentries
        self._inodes = inodes
        self._costs = costs
        self._dentry_slab: dict[int, int] = {}
        """Slab of each path's dentry."""
        self._inode_slab: dict[int, int] = {}
        self._dentry_lru: OrderedDict[int, bool] = OrderedDict()
        """Unpinned dentries, oldest first, and whether they were looked up again (DCACHE_REFERENCED)."""
        self._inode_lru: OrderedDict[int, None] = OrderedDict()
        self._pinned: dict[int, int] = {}
        """Paths that are held, and how often."""
        self.nr_hits = 0
        self.nr_misses = 0

    @property
    def nr_dentry(self) -> int:
        """Dentries in memory."""
        return len(self._dentry_slab)

    @property
    def nr_inodes(self) -> int:
        """Inodes in memory."""
        return len(self._inode_slab)

    async def lookup(self, task: Task, path: int, *, pin: bool = False) -> bool:
        """Look a path up, making what is not there; False if there was no memory (path_lookupat)."""
        task.charge_ns += self._costs.lookup
        if path in self._dentry_slab:
            self.nr_hits += 1
            if path in self._dentry_lru:
                self._dentry_lru[path] = True
        else:
            self.nr_misses += 1
            if not await self._instantiate(task, path):
                return False
        if pin:
            self._dentry_lru.pop(path, None)
            self._pinned[path] = self._pinned.get(path, 0) + 1
        return True

    async def _instantiate(self, task: Task, path: int) -> bool:
        """Make a dentry, and an inode unless one is left from an earlier dentry (d_alloc, iget)."""
        task.charge_ns += self._costs.new_inode
        dentry = await self._dentries.alloc(task, GFP_KERNEL)
        if dentry < 0:
            return False
        if path in self._dentry_slab:
            # somebody else was faster while we slept
            self._dentries.free(dentry)
            return True
        self._dentry_slab[path] = dentry
        if path not in self._inode_slab:
            inode = await self._inodes.alloc(task, GFP_KERNEL)
            if inode < 0:
                self._dentries.free(self._dentry_slab.pop(path))
                return False
            self._inode_slab[path] = inode
        self._inode_lru.pop(path, None)
        self._dentry_lru[path] = False
        return True

    def unpin(self, path: int) -> None:
        """Let go of a path (dput of the last holder puts it on the list)."""
        self._pinned[path] -= 1
        if not self._pinned[path]:
            del self._pinned[path]
            self._dentry_lru[path] = True

    # -- the shrinker ---------------------------------------------------------------------------------------------

    def count_objects(self) -> int:
        """Return what could be freed, as vfs_cache_pressure would have it (super_cache_count)."""
        return (len(self._dentry_lru) + len(self._inode_lru)) * self.vfs_cache_pressure // 100

    def scan_objects(self, task: Task, nr_to_scan: int, gfp: int) -> int:
        """Free from both lists in proportion; -1 without ``__GFP_FS`` (super_cache_scan)."""
        if not gfp & GFP_FS:
            return -1
        nr_dentries, nr_inodes = len(self._dentry_lru), len(self._inode_lru)
        total = nr_dentries + nr_inodes + 1
        freed = self._prune_dcache(nr_to_scan * nr_dentries // total + 1)
        freed += self._prune_icache(nr_to_scan * nr_inodes // total + 1)
        task.charge_ns += nr_to_scan * self._costs.prune_object
        return freed

    def _prune_dcache(self, nr_to_scan: int) -> int:
        """Free the oldest dentries; those looked up again go round once more (prune_dcache_sb)."""
        freed = 0
        for _ in range(min(nr_to_scan, len(self._dentry_lru))):
            path, referenced = self._dentry_lru.popitem(last=False)
            if referenced:
                self._dentry_lru[path] = False
                continue
            self._dentries.free(self._dentry_slab.pop(path))
            if path in self._inode_slab:
                self._inode_lru[path] = None
            freed += 1
        return freed

    def _prune_icache(self, nr_to_scan: int) -> int:
        """Free the oldest inodes without a dentry (prune_icache_sb)."""
        nr = min(nr_to_scan, len(self._inode_lru))
        for _ in range(nr):
            path, _ = self._inode_lru.popitem(last=False)
            self._inodes.free(self._inode_slab.pop(path))
        return nr
