"""One machine, assembled: the rooms of an emulated host, wired together.

A :class:`Host` holds its zones, lists, caches, card, sockets and threads, and nothing here decides anything: policy
lives in the rooms. :func:`netvm.host.boot.boot` makes one from a scenario's tables. Two hosts can live in one world.
"""

from dataclasses import dataclass, field
from typing import Any

from netvm.block.bdev import BlockDevice
from netvm.block.bio import BioSet
from netvm.block.crypt import CryptDevice
from netvm.block.swap import SwapArea
from netvm.fixes import Fixes
from netvm.host.backend import Backend, LinkPair
from netvm.host.files import Files
from netvm.host.memory_map import MemoryMap
from netvm.mm.buddy import Buddy
from netvm.mm.frames import Frames
from netvm.mm.kcompactd import Kcompactd
from netvm.mm.kswapd import Kswapd
from netvm.mm.ledger import Ledger
from netvm.mm.lru import Lruvec
from netvm.mm.memory import Memory
from netvm.mm.oom import OomKiller
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import SlabCaches
from netvm.mm.vmscan import Vmscan
from netvm.mm.zone import Node
from netvm.net.nic import Nic
from netvm.net.skb import SkbAllocator
from netvm.net.stack import NetStack
from netvm.runtime.costs import CpuCosts
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Task
from netvm.runtime.workqueue import KthreadCreator, WorkerPool, Workqueue
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat, VmStat

__all__ = ["Host"]


@dataclass(slots=True, kw_only=True)
class Host:
    """The parts of one emulated machine."""

    world: World
    fixes: Fixes
    costs: CpuCosts
    cpus: Cpus | None
    node: Node
    frames: Frames
    ledger: Ledger
    vmstat: VmStat
    netstat: NetStat
    buddy: Buddy
    memory_map: MemoryMap
    pages: PageAllocator
    slabs: SlabCaches
    lruvec: Lruvec
    bios: BioSet
    creator: KthreadCreator
    pools: list[WorkerPool]
    kblockd: Workqueue
    events: Workqueue
    unbound: Workqueue
    skbs: SkbAllocator
    stack: NetStack
    nic: Nic | None
    link: LinkPair | None
    backend: Backend
    queue: BlockDevice | None
    """The swap device's; None if swap is a file."""
    swap: SwapArea
    vmscan: Vmscan
    kswapd: Kswapd
    kcompactd: Kcompactd | None
    oom: OomKiller
    memory: Memory
    files: Files
    softirq: Task
    kcryptd: Workqueue | None = None
    """dm-crypt's queue, if the storage is encrypted."""
    crypt: CryptDevice | None = None
    """dm-crypt itself."""
    rescuer: Workqueue | None = None
    """The rescuer of a stacking driver's bios, if there is such a driver."""
    boot_zones: list[dict[str, Any]] = field(default_factory=list)
    """Marks of the zones as at boot, for the report."""
    log_lines: list[str] = field(default_factory=list)

    def digest(self) -> tuple[Any, ...]:
        """Return everything that could make a retry succeed, clocks left out: equal if nothing has changed."""
        zones = tuple(
            (
                zone.nr_free,
                zone.watermark_boost,
                zone.nr_reserved_highatomic,
                zone.nr_highatomic_free,
                tuple(p.count for p in zone.pcp),
                tuple(len(blocks) for lists in zone.free_lists for blocks in lists),
            )
            for zone in self.node.zones
        )
        slabs = tuple((cache.name, cache.nr_active, cache.nr_slabs) for cache in self.slabs.caches())
        tasks = tuple((task.comm, task.state.value[0], task.resource.name) for task in self.world.tasks.values())
        return (
            zones,
            slabs,
            tuple(self.ledger.counts),
            self.vmstat.nr_writeback,
            self.files.digest(),
            self.vmstat.nr_swapcached,
            self.node.kswapd_failures >= 16,
            self.swap.digest(),
            self.stack.digest(),
            self.backend.digest(),
            tasks,
            len(self.oom.kills),
            tuple(group.usage_pages for group in self.pages.memcg.groups) if self.pages.memcg is not None else (),
        )

    def progress(self) -> int:
        """Return a number that grows whenever something got done: pages cleaned, read, or mapped.

        A write that fails ends a wait too, but the same page's failing again and again is no progress.
        """
        done = self.swap.nr_cleaned + self.swap.nr_read + self.vmstat.pgfault + self.vmstat.oom_kill
        done += len(self.swap.failed_slots)
        return done + self.files.progress()
