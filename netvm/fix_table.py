"""The table of historic cures: what each does, since which kernel, and where that is documented.

A row a cure, in the order of the fields of :class:`netvm.fixes.Fixes`, which is the switch board itself.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["TABLE", "Fix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One historic cure."""

    name: str
    year: int
    version: str | None
    """First kernel that has it; ``None`` if it was proposed and never merged."""
    source: str
    """Commit, subject and author, or the list thread."""
    summary: str
    """What the emulated kernel does with it that it does not do without."""
    in_recorded: bool | None = None
    """Overrides the version comparison for the recorded kernel (a stable backport)."""


_GORMAN_2012 = 'Mel Gorman, "Swap-over-NBD without deadlocking", V15, 12 Jul 2012'

TABLE: Final = (
    Fix(
        name="memalloc_sockets",
        year=2012,
        version="3.6",
        source=f'"netvm: allow the use of __GFP_MEMALLOC by specific sockets" and "nbd: set SOCK_MEMALLOC for access '
        f'to PFMEMALLOC reserves"; {_GORMAN_2012}',
        summary="storage sockets carry SOCK_MEMALLOC: they allocate with __GFP_MEMALLOC and transmit under PF_MEMALLOC",
    ),
    Fix(
        name="pfmemalloc_drop",
        year=2012,
        version="3.6",
        source=f'"netvm: propagate page->pfmemalloc to skb", sk_filter rule; {_GORMAN_2012}',
        summary="a packet received in reserve memory is dropped at an ordinary socket (PFMemallocDrop)",
    ),
    Fix(
        name="softirq_memalloc",
        year=2012,
        version="3.6",
        source=f'"mm: allow PF_MEMALLOC from softirq context" and "netvm: set PF_MEMALLOC as appropriate during SKB '
        f'processing"; {_GORMAN_2012}',
        summary="a reserve packet is processed with PF_MEMALLOC, so answering it may use the reserve",
    ),
    Fix(
        name="slab_pfmemalloc",
        year=2012,
        version="3.6",
        source='072bb0aa5e06 "mm: sl[au]b: add knowledge of PFMEMALLOC reserve pages"',
        summary="objects of a slab page that came from the reserve go to privileged requests only",
    ),
    Fix(
        name="rmem_exempt",
        year=2012,
        version="3.6",
        source='c76562b6709f "netvm: prevent a stream-specific deadlock"',
        summary="a SOCK_MEMALLOC socket may exceed the global receive limit",
    ),
    Fix(
        name="tcp_one_skb",
        year=2015,
        version="4.2",
        source='76dfa6082032 "tcp: allow one skb to be received per socket under memory pressure", Eric Dumazet',
        summary="a TCP socket whose receive queue is empty takes one packet whatever the limits say",
    ),
    Fix(
        name="throttle_direct_reclaim",
        year=2012,
        version="3.6",
        source='5515061d22f0 "mm: throttle direct reclaimers if PF_MEMALLOC reserves are low and swap is backed by '
        'network storage"',
        summary="direct reclaimers sleep while less than half of the min reserve is left",
    ),
    Fix(
        name="throttle_noio_bounded",
        year=2012,
        version="3.6",
        source=f"5515061d22f0, series changelog; {_GORMAN_2012}",
        summary="a throttled reclaimer that may not enter the file system waits one second at most",
    ),
    Fix(
        name="throttle_skips_kthreads",
        year=2012,
        version="3.6",
        source=f"5515061d22f0, series changelog; {_GORMAN_2012}",
        summary="kernel threads and tasks with a fatal signal are never throttled",
    ),
    Fix(
        name="rx_memalloc",
        year=2012,
        version="3.6",
        source=f'"netvm: allow skb allocation to use PFMEMALLOC reserves"; {_GORMAN_2012}; the idea is the receive '
        "reserve of LWN 144273 (Kernel Summit 2005)",
        summary="receive data is allocated with __GFP_MEMALLOC while any SOCK_MEMALLOC socket exists",
    ),
    Fix(
        name="rx_no_recycle_pfmemalloc",
        year=2013,
        version="3.10",
        source='"igb: do not reuse pages with pfmemalloc flag" (SUSE bug 920016); dev_page_is_reusable(), 2021',
        summary="a receive page that came from the reserve is returned, never recycled into the ring",
    ),
    Fix(
        name="rx_refill_retry",
        year=2009,
        version="2.6.32",
        source='3161e453e496 "virtio: net refill on out-of-memory"; e1000 watchdog (ICS RXDMT0)',
        summary="an RX ring that could not be refilled is retried by a worker (virtio-net) or a timer (e1000)",
    ),
    Fix(
        name="rx_head_memalloc",
        year=2026,
        version=None,
        source="mechanism 3 of the recorded runs (T2): napi_skb_cache_get takes sk_buff heads with plain GFP_ATOMIC",
        summary="sk_buff heads for receive are allocated with __GFP_MEMALLOC like the data they head",
    ),
    Fix(
        name="rx_build_skb",
        year=2012,
        version="3.5",
        source='"net: netdev_alloc_skb() use build_skb()", Eric Dumazet, May 2012',
        summary="the sk_buff head of a receive packet is put around data that is there, with plain GFP_ATOMIC; before, "
        "alloc_skb took head and data with one mask",
    ),
    Fix(
        name="napi_skb_cache",
        year=2021,
        version="5.13",
        source='"skbuff: introduce {,__}napi_build_skb() which reuses NAPI cache heads", Alexander Lobakin, Feb 2021',
        summary="sk_buff heads for receive are taken sixteen at once, all or none, and kept in a per-CPU cache; "
        "before, one by one from the slab",
    ),
    Fix(
        name="highatomic_reserve",
        year=2015,
        version="4.4",
        source='0aaa29a56e4f "mm, page_alloc: reserve pageblocks for high-order atomic allocations on demand"',
        summary="a high-order atomic allocation reserves its pageblock as HIGHATOMIC",
    ),
    Fix(
        name="reclaimable_free_pages",
        year=2024,
        version="6.13",
        source='6aaced5abd32 "mm: vmscan: account for free pages to prevent infinite Loop in '
        'throttle_direct_reclaim()", Seiji Nishikawa, CVE-2024-57884',
        summary="a zone of whose pages none can be reclaimed counts its free ones as such, so that a throttled "
        "reclaimer sees them",
        in_recorded=True,
    ),
    Fix(
        name="highatomic_exact_cap",
        year=2023,
        version="6.8",
        source='9cd20f3fe045 "mm: page_alloc: enforce minimum zone size to do high atomic reserves" and d68e39fc45f7 '
        '"mm: page_alloc: correct high atomic reserve calculations"',
        summary="HIGHATOMIC is capped at 1 % of the zone; a zone whose 1 % is less than a pageblock reserves nothing",
    ),
    Fix(
        name="highatomic_free_only",
        year=2024,
        version="6.13",
        source="nr_free_highatomic in __zone_watermark_unusable_free",
        summary="the watermark test subtracts the free part of HIGHATOMIC blocks, not whole blocks",
    ),
    Fix(
        name="watermark_boost",
        year=2018,
        version="5.0",
        source='1c30844d2dfe "mm: reclaim small amounts of memory when an external fragmentation event occurs"',
        summary="a fallback that steals from another migrate type boosts the zone's watermarks",
    ),
    Fix(
        name="watermark_scale",
        year=2016,
        version="4.6",
        source='"mm: scale kswapd watermarks in proportion to memory"',
        summary="the distance between watermarks is at least watermark_scale_factor of the zone",
    ),
    Fix(
        name="min_reserve_ladder",
        year=2023,
        version="6.3",
        source='Mel Gorman, "Discard __GFP_ATOMIC", v3, 13 Jan 2023',
        summary="non-blocking __GFP_HIGH requests reach 3/8 of min by ALLOC_MIN_RESERVE and ALLOC_NON_BLOCK; before, "
        "ALLOC_HIGH and ALLOC_HARDER, and OOM victims took half",
        in_recorded=True,
    ),
    Fix(
        name="gfp_atomic_discarded",
        year=2023,
        version="6.3",
        source='NeilBrown, "mm: discard __GFP_ATOMIC", v3, 13 Jan 2023',
        summary="every __GFP_HIGH request for one page is held to the min mark without its boost; before, only one "
        "with __GFP_ATOMIC",
    ),
    Fix(
        name="oom_reaper",
        year=2016,
        version="4.6",
        source='aac453635549 "mm, oom: introduce oom reaper"',
        summary="a kernel thread frees an OOM victim's anonymous memory without the victim running",
    ),
    Fix(
        name="oom_half_reserve",
        year=2017,
        version="4.14",
        source="ALLOC_OOM",
        summary="an OOM victim may use half of the min reserve; before, all of it",
    ),
    Fix(
        name="reclaim_throttle",
        year=2021,
        version="5.16",
        source='Mel Gorman, "Remove dependency on congestion_wait in mm/"',
        summary="reclaimers wait for pages written or another task's progress; before, congestion_wait slept it out",
    ),
    Fix(
        name="bio_any_size",
        year=2015,
        version="4.3",
        source='54efd50bfd87 "block: make generic_make_request handle arbitrarily sized bios", Kent Overstreet',
        summary="a bio may be larger than a request; before, no page waited for the end of another request",
    ),
    Fix(
        name="cached_stacks",
        year=2016,
        version="4.9",
        source='ac496bf48d97 "fork: Optimize task creation by caching two thread stacks per CPU", Andy Lutomirski',
        summary="each CPU keeps two stacks of ended threads for new ones; before, every new worker needs pages",
    ),
    Fix(
        name="noncascading_timers",
        year=2016,
        version="4.8",
        source='500462a9de65 "timers: Switch to a non-cascading wheel", Thomas Gleixner',
        summary="a timer fires at the end of its bucket, late by a tick to an eighth of its time; before, at its tick",
    ),
    Fix(
        name="multipage_bvecs",
        year=2019,
        version="5.1",
        source='07173c3ec276 "block: enable multipage bvecs", Ming Lei',
        summary="a bio of file pages takes 256 runs of frames; before, 256 pages",
    ),
    Fix(
        name="ext4_dioread_nolock",
        year=2020,
        version="5.6",
        source='244adf6426ee "ext4: make dioread_nolock the default", Theodore Ts\'o',
        summary="new pages that ext4 maps at once are under writeback until all are written; before, bio by bio",
    ),
    Fix(
        name="mempool_nomemalloc",
        year=2016,
        version="2.6.12",
        source='revert of "mm, mempool: only set __GFP_NOMEMALLOC if there are free elements" (Mar to Jul 2016)',
        summary="a mempool never takes from the page reserve: the pool is the reserve",
    ),
    Fix(
        name="noio_isolation_limit",
        year=2012,
        version="3.8",
        source='3cf23841b4b7 "mm/vmscan.c: avoid possible deadlock caused by too_many_isolated()", Wu Fengguang; '
        '"mm: Avoid possible deadlock caused by too_many_isolated()", NeilBrown, 2010',
        summary="reclaimers that may not do IO have a higher isolation limit, so they never wait for those that may",
    ),
    Fix(
        name="less_throttle",
        year=2005,
        version="2.6.12",
        source="PF_LESS_THROTTLE (nfsd, the loop driver), mm/page-writeback.c; replaced by PF_LOCAL_THROTTLE",
        summary="a server or lower layer on this host may dirty a quarter more than its clients before it is held back",
    ),
    Fix(
        name="less_throttle_margin",
        year=2016,
        version="4.7",
        source='a53eaff8c119 "MM: increase safety margin provided by PF_LESS_THROTTLE", NeilBrown',
        summary="the quarter more of such a server grows by 1/32 of the hard limit, which lags when memory fills up",
    ),
    Fix(
        name="local_throttle",
        year=2020,
        version="5.7",
        source='a37b0715ddf3 "mm/writeback: replace PF_LESS_THROTTLE with PF_LOCAL_THROTTLE", NeilBrown',
        summary="a server or lower layer on this host is held back for the dirt of its own device only",
    ),
    Fix(
        name="dirtyable_memory",
        year=2007,
        version="2.6.21",
        source='1b4244647cea "Use ZVC counters to establish exact size of dirtyable pages", Christoph Lameter',
        summary="what may be dirty is a part of free and file pages; before, of all memory, and of it half of what is "
        "not mapped",
    ),
    Fix(
        name="per_bdi_dirty_limits",
        year=2007,
        version="2.6.24",
        source='04fbfdc14e5f "mm: per device dirty threshold", Peter Zijlstra',
        summary="a writer is held back for the dirt of its own device; before, for all dirt of the machine",
    ),
    Fix(
        name="io_less_throttle",
        year=2011,
        version="3.2",
        source='143dfe8611a6 "writeback: IO-less balance_dirty_pages()", Wu Fengguang',
        summary="a writer over the limit sleeps for a computed pause; before, it wrote pages itself and waited",
    ),
    Fix(
        name="loop_less_throttle",
        year=2017,
        version="4.13",
        source='b2ee7d46befc "loop: Add PF_LESS_THROTTLE to block/loop device thread", NeilBrown',
        summary="the loop device's worker is marked as a lower layer (PF_LESS_THROTTLE, from 5.7 PF_LOCAL_THROTTLE)",
    ),
    Fix(
        name="loop_noio",
        year=2019,
        version="5.4",
        source='d0a255e795ab "loop: set PF_MEMALLOC_NOIO for the worker thread", Mikulas Patocka',
        summary="the loop device's worker allocates in a NOIO scope",
    ),
    Fix(
        name="bio_rescuer",
        year=2012,
        version="3.10",
        source='df2cb6daa4cb "block: Avoid deadlocks with bio allocation by stacking drivers", Kent Overstreet',
        summary="before a stacking driver sleeps for a bio, a rescuer submits those it has taken and not sent",
    ),
    Fix(
        name="crypt_alloc_mutex",
        year=2015,
        version="2.6.12",
        source='7145c241a1bf "dm crypt: avoid deadlock in mempools", Mikulas Patocka, Feb 2015 (4.0); the series that '
        "encrypts in parallel brought the fault and its cure, and before it a request was encrypted in parts",
        summary="a dm-crypt worker that cannot have all pages of a request at once takes them alone, under a mutex",
    ),
    Fix(
        name="crypt_write_thread",
        year=2015,
        version="4.0",
        source='dc2676210c42 "dm crypt: offload writes to thread" and b3c5fd305249 "dm crypt: sort writes", Mikulas '
        "Patocka",
        summary="a thread of its own sends what dm-crypt has encrypted, in the order of the device; before, the worker",
    ),
    Fix(
        name="swap_bios_limit",
        year=2021,
        version="5.12",
        source='a666e5c05e7c "dm: fix deadlock when swapping to encrypted device", Mikulas Patocka',
        summary="no more than 2,048 bios of swap are on their way through dm-crypt at once",
    ),
    Fix(
        name="tags_woken_singly",
        year=2024,
        version="6.10",
        source='39823b47bbd4 "block/mq-deadline: Fix the tag reservation code", Bart Van Assche',
        summary="who waits for a request's tag is woken for each that is given back; before, for every eight",
        in_recorded=True,
    ),
    Fix(
        name="wbt_swap_requests",
        year=2024,
        version="6.11",
        source='4e63aeb5d010 "blk-wbt: don\'t throttle swap writes in direct reclaim", Baokun Li',
        summary="blk-wbt counts writes to swap apart and gives them the whole depth; before, only what kswapd writes",
    ),
    Fix(
        name="wbt_swap_untracked",
        year=2022,
        version=None,
        source='Hongchen Zhang, "blk-wbt: do not throttle swap write on processes other than kswapd", 11 Aug 2022',
        summary="blk-wbt leaves swap-out from direct reclaim alone: it needs no token",
    ),
    Fix(
        name="per_vma_lock",
        year=2023,
        version="6.4",
        source='5e31275cc997 "mm: add per-VMA lock and helper functions to control it", Suren Baghdasaryan',
        summary="a fault of a program with threads does without the mmap lock; before, it took it for reading",
    ),
    Fix(
        name="io_flusher_servers",
        year=2020,
        version=None,
        source="8d19f1c8e193 prctl(PR_SET_IO_FLUSHER), 5.6",
        summary="storage servers on this host, NBD's and FUSE's, run with PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE",
    ),
    Fix(
        name="io_flusher_iscsid",
        year=2021,
        version="5.14",
        source='open-iscsi 72949ef "iscsid: set PR_SET_IO_FLUSHER" (request 270, Jul 2021), on kernels of its time',
        summary="iscsid runs with PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE: its reclaim does not wait for its session",
    ),
    Fix(
        name="loopback_target_noio",
        year=2023,
        version="6.3",
        source='"scsi: target: iscsi: set memalloc_noio with loopback network connections", D. Jeffery, Feb 2023',
        summary="an iSCSI target thread whose initiator is on the same host allocates in a NOIO scope",
    ),
    Fix(
        name="task_frag_off",
        year=2022,
        version="6.2",
        source="sk_use_task_frag = false for kernel sockets",
        summary="kernel sockets cut their payload from sk_frag, not from the interrupted task's task_frag",
        in_recorded=True,
    ),
    Fix(
        name="unstable_is_writeback",
        year=2020,
        version="5.8",
        source='8d92890bd6b8 "mm/writeback: discard NR_UNSTABLE_NFS, use NR_WRITEBACK instead", NeilBrown',
        summary="NFS pages that wait for a COMMIT count as under writeback; before, apart, and writers and flusher "
        "took them for dirt that they could write",
    ),
    Fix(
        name="vm_writeout_not_unstable",
        year=2007,
        version=None,
        source='Peter Zijlstra, "[PATCH 29/29] balance_dirty_pages() vs throttle_vm_writeout() deadlock", 21 Feb 2007',
        summary="reclaimers do not wait in throttle_vm_writeout for pages that wait for a COMMIT",
    ),
    Fix(
        name="no_vm_writeout_throttle",
        year=2016,
        version="4.9",
        source='bf48438354a7 "mm, vmscan: get rid of throttle_vm_writeout", Michal Hocko',
        summary="reclaimers are not held back for writeback as such; before, until no more than 1.1 of the dirty limit "
        "was under writeback or waited for a COMMIT",
    ),
    Fix(
        name="vm_writeout_nofs_naps",
        year=2007,
        version="2.6.21",
        source='232ea4d69d81 "throttle_vm_writeout(): don\'t loop on GFP_NOFS and GFP_NOIO allocations", Andrew Morton',
        summary="a reclaimer that may not enter the file system waits in throttle_vm_writeout once, a tenth of a "
        "second; before, like any other",
    ),
    Fix(
        name="ipfrag_4mib",
        year=2013,
        version="3.9",
        source='c2a936600f78 "net: increase fragment memory usage limits", Jesper Dangaard Brouer',
        summary="fragments of datagrams may take 4 MiB until they are put together; before, 256 KiB",
    ),
    Fix(
        name="ipfrag_no_evictor",
        year=2018,
        version="4.17",
        source='648700f76b03 "inet: frags: use rhashtables for reassembly units", Eric Dumazet',
        summary="a fragment too many is refused; before, the datagrams that wait longest were given up for it",
    ),
    Fix(
        name="reserve_counts_fragments",
        year=2007,
        version=None,
        source='Peter Zijlstra, "Swap over NFS", -v10 to -v16 (2007-08): the reserve as a tree of declared maxima; '
        "NeilBrown's letter of 7 Mar 2008 in that thread",
        summary="swap over a socket raises the min mark by what the fragments of datagrams may take "
        "(ipfrag_high_thresh)",
    ),
    Fix(
        name="fuse_temp_pages",
        year=2008,
        version="2.6.26",
        source='3be5a52b30aa "fuse: support writable mmap", Miklos Szeredi',
        summary="what FUSE writes back is copied to a temporary page, and the page itself is clean at once",
    ),
    Fix(
        name="fuse_strictlimit",
        year=2013,
        version="3.12",
        source='5a53748568f7 "mm/page-writeback.c: add strictlimit feature", Maxim Patlasov',
        summary="writers to a FUSE mount are held to its own share of the dirty limit, whatever others have dirtied",
    ),
    Fix(
        name="fuse_writeback_indeterminate",
        year=2025,
        version="6.16",
        source='Joanne Koong, "fuse: remove temp page copies in writeback", v8 (Oct 2024 to 2025); '
        "AS_WRITEBACK_MAY_DEADLOCK_ON_RECLAIM",
        summary="FUSE pages stay under writeback until the server has answered, without copies, and reclaim must not "
        "wait for them",
    ),
)
