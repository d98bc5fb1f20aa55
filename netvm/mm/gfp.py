"""Allocation masks and task flags: who may do what to get a page.

Mirrors include/linux/gfp_types.h, mm/internal.h (ALLOC_*) and the allocation-related part of include/linux/sched.h
(PF_*). Values are those of 6.1 where the kernel prints them (``gfp_flags=...`` in tracepoints, ``mode:0x...`` in
failure reports), so a number can be carried to a real log.

The bits ``__GFP_X`` are spelled ``GFP_X`` here, since Python mangles leading double underscores inside classes; the old
``__GFP_ATOMIC`` bit is ``GFP_ATOMIC_BIT``, because ``GFP_ATOMIC`` is the mask.

``current_gfp_context`` applies the task's scopes: PF_MEMALLOC_NOIO strips ``__GFP_IO`` and ``__GFP_FS``,
PF_MEMALLOC_NOFS strips ``__GFP_FS``. :class:`GfpScope` saves and restores a task flag, so that leaving a scope never
clears what an outer one has set (the flag-clobber class of bugs).
"""

from netvm.runtime.task import Task

__all__ = [
    "ALLOC_HIGHATOMIC",
    "ALLOC_KSWAPD",
    "ALLOC_MIN_RESERVE",
    "ALLOC_NON_BLOCK",
    "ALLOC_NO_WATERMARKS",
    "ALLOC_OOM",
    "ALLOC_RESERVES",
    "ALLOC_WMARK_HIGH",
    "ALLOC_WMARK_LOW",
    "ALLOC_WMARK_MASK",
    "ALLOC_WMARK_MIN",
    "GFP_ATOMIC",
    "GFP_ATOMIC_BIT",
    "GFP_AT_BOOT",
    "GFP_COMP",
    "GFP_DIRECT_RECLAIM",
    "GFP_FS",
    "GFP_HARDWALL",
    "GFP_HIGH",
    "GFP_HIGHMEM",
    "GFP_HIGHUSER_MOVABLE",
    "GFP_IO",
    "GFP_KERNEL",
    "GFP_KSWAPD_RECLAIM",
    "GFP_MEMALLOC",
    "GFP_MOVABLE",
    "GFP_NOFAIL",
    "GFP_NOFS",
    "GFP_NOIO",
    "GFP_NOMEMALLOC",
    "GFP_NORETRY",
    "GFP_NOWAIT",
    "GFP_NOWARN",
    "GFP_RECLAIM",
    "GFP_RECLAIMABLE",
    "GFP_RETRY_MAYFAIL",
    "GFP_WRITE",
    "GFP_ZERO",
    "PF_KSWAPD",
    "PF_KTHREAD",
    "PF_LOCAL_THROTTLE",
    "PF_MEMALLOC",
    "PF_MEMALLOC_NOFS",
    "PF_MEMALLOC_NOIO",
    "PF_OOM_VICTIM",
    "GfpScope",
    "current_gfp_context",
    "gfp_migratetype",
    "gfp_name",
    "gfp_to_alloc_flags",
    "gfp_zone",
]

GFP_HIGHMEM = 0x02
GFP_MOVABLE = 0x08
GFP_RECLAIMABLE = 0x10
GFP_HIGH = 0x20
GFP_IO = 0x40
GFP_FS = 0x80
GFP_ZERO = 0x100
GFP_ATOMIC_BIT = 0x200
GFP_DIRECT_RECLAIM = 0x400
GFP_KSWAPD_RECLAIM = 0x800
GFP_WRITE = 0x1000
"""The page will be dirtied: spread it over nodes that are not full of dirt."""
GFP_NOWARN = 0x2000
GFP_RETRY_MAYFAIL = 0x4000
GFP_NOFAIL = 0x8000
GFP_NORETRY = 0x10000
GFP_MEMALLOC = 0x20000
GFP_COMP = 0x40000
GFP_NOMEMALLOC = 0x80000
GFP_HARDWALL = 0x100000

GFP_RECLAIM = GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM
GFP_ATOMIC = GFP_HIGH | GFP_ATOMIC_BIT | GFP_KSWAPD_RECLAIM
GFP_KERNEL = GFP_RECLAIM | GFP_IO | GFP_FS
GFP_NOWAIT = GFP_KSWAPD_RECLAIM
GFP_AT_BOOT = 0
"""What is left of a mask while nobody is there to reclaim or to be woken (gfp_allowed_mask)."""
GFP_NOIO = GFP_RECLAIM
GFP_NOFS = GFP_RECLAIM | GFP_IO
GFP_HIGHUSER_MOVABLE = GFP_KERNEL | GFP_HARDWALL | GFP_HIGHMEM | GFP_MOVABLE

ALLOC_WMARK_MIN = 0
ALLOC_WMARK_LOW = 1
ALLOC_WMARK_HIGH = 2
ALLOC_WMARK_MASK = 3
ALLOC_NO_WATERMARKS = 0x04
ALLOC_OOM = 0x08
ALLOC_NON_BLOCK = 0x10
ALLOC_MIN_RESERVE = 0x20
ALLOC_HIGHATOMIC = 0x200
ALLOC_KSWAPD = 0x800
ALLOC_RESERVES = ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_HIGHATOMIC | ALLOC_OOM

PF_MEMALLOC = 0x00000800
PF_KSWAPD = 0x00020000
PF_MEMALLOC_NOFS = 0x00040000
PF_MEMALLOC_NOIO = 0x00080000
PF_LOCAL_THROTTLE = 0x00100000
PF_KTHREAD = 0x00200000
PF_OOM_VICTIM = 0x80000000
"""Not a kernel bit: stands for tsk_is_oom_victim()."""

_BASES = (
    ("GFP_HIGHUSER_MOVABLE", GFP_HIGHUSER_MOVABLE),
    ("GFP_KERNEL", GFP_KERNEL),
    ("GFP_NOFS", GFP_NOFS),
    ("GFP_ATOMIC", GFP_ATOMIC),
    ("GFP_NOIO", GFP_NOIO),
    ("GFP_NOWAIT", GFP_NOWAIT),
)
_BITS = (
    ("__GFP_HIGHMEM", GFP_HIGHMEM),
    ("__GFP_HIGH", GFP_HIGH),
    ("__GFP_ATOMIC", GFP_ATOMIC_BIT),
    ("__GFP_IO", GFP_IO),
    ("__GFP_FS", GFP_FS),
    ("__GFP_NOWARN", GFP_NOWARN),
    ("__GFP_RETRY_MAYFAIL", GFP_RETRY_MAYFAIL),
    ("__GFP_NOFAIL", GFP_NOFAIL),
    ("__GFP_NORETRY", GFP_NORETRY),
    ("__GFP_COMP", GFP_COMP),
    ("__GFP_ZERO", GFP_ZERO),
    ("__GFP_NOMEMALLOC", GFP_NOMEMALLOC),
    ("__GFP_MEMALLOC", GFP_MEMALLOC),
    ("__GFP_HARDWALL", GFP_HARDWALL),
    ("__GFP_WRITE", GFP_WRITE),
    ("__GFP_RECLAIMABLE", GFP_RECLAIMABLE),
    ("__GFP_MOVABLE", GFP_MOVABLE),
    ("__GFP_DIRECT_RECLAIM", GFP_DIRECT_RECLAIM),
    ("__GFP_KSWAPD_RECLAIM", GFP_KSWAPD_RECLAIM),
)


def gfp_name(gfp: int) -> str:
    """Return the mask as the kernel's ``%pGg`` prints it: a named base, then single bits, then what has no name."""
    if not gfp:
        return "none"
    names = []
    for name, mask in (*_BASES, *_BITS):
        if gfp & mask == mask:
            names.append(name)
            gfp &= ~mask
    if gfp:
        names.append(f"{gfp:#x}")
    return "|".join(names)


_NORMAL = 2
_MOVABLE = 3


def gfp_zone(gfp: int) -> int:
    """Return the index of the highest zone a mask may take from (gfp_zone): Movable if it may move, else Normal.

    # MODEL: nobody asks for __GFP_DMA or __GFP_DMA32 memory.
    """
    return _MOVABLE if gfp & (GFP_HIGHMEM | GFP_MOVABLE) == GFP_HIGHMEM | GFP_MOVABLE else _NORMAL


def gfp_migratetype(gfp: int) -> int:
    """Return the migrate type a mask asks for: 1 movable, 2 reclaimable, else 0 (gfp_migratetype)."""
    return 1 if gfp & GFP_MOVABLE else 2 if gfp & GFP_RECLAIMABLE else 0


def gfp_to_alloc_flags(gfp: int, order: int) -> int:
    """Return the slow path's flags for a mask (gfp_to_alloc_flags)."""
    alloc_flags = ALLOC_WMARK_MIN
    if gfp & GFP_HIGH:
        alloc_flags |= ALLOC_MIN_RESERVE
    if gfp & GFP_KSWAPD_RECLAIM:
        alloc_flags |= ALLOC_KSWAPD
    if not gfp & GFP_DIRECT_RECLAIM and not gfp & GFP_NOMEMALLOC:
        alloc_flags |= ALLOC_NON_BLOCK
        if order > 0 and alloc_flags & ALLOC_MIN_RESERVE:
            alloc_flags |= ALLOC_HIGHATOMIC
    return alloc_flags


def current_gfp_context(task: Task, gfp: int) -> int:
    """Apply the NOIO and NOFS scopes of a task to a mask (include/linux/sched/mm.h)."""
    flags = task.flags
    if flags & (PF_MEMALLOC_NOIO | PF_MEMALLOC_NOFS):
        if flags & PF_MEMALLOC_NOIO:
            return gfp & ~(GFP_IO | GFP_FS)
        return gfp & ~GFP_FS
    return gfp


class GfpScope:
    """Sets a ``PF_*`` flag of a task and restores what was there (memalloc_noreclaim_save and its kin)."""

    __slots__ = ("_flag", "_saved", "_task")

    def __init__(self, task: Task, flag: int) -> None:
        self._task = task
        self._flag = flag
        self._saved = 0

    def __enter__(self) -> None:
        self._saved = self._task.flags & self._flag
        self._task.flags |= self._flag

    def __exit__(self, *_exc: object) -> None:
        self._task.flags = (self._task.flags & ~self._flag) | self._saved
