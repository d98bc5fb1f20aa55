"""The cures of memory groups, of who reclaims or sends for others, of when memory is out, and a few more rows.

See :mod:`netvm.fix_table`, which these rows follow.
"""

from typing import Final

from netvm.fix_table import Fix

__all__ = ["GROUP_TABLE"]

GROUP_TABLE: Final = (
    Fix(
        name="isolated_wait_once",
        year=2017,
        version="4.14",
        source='db73ee0d4637 "mm, vmscan: do not loop on too_many_isolated for ever", Michal Hocko',
        summary="a reclaimer that meets too many isolated pages waits once, then goes without; before, until there are "
        "fewer",
    ),
    Fix(
        name="memcg_wait_enters_fs",
        year=2015,
        version="4.2",
        source='ecf5fc6e9654 "mm, vmscan: Do not wait for page writeback for GFP_NOFS allocations", Michal Hocko',
        summary="reclaim for a memory group waits for a page under writeback only if it may enter the file system; "
        "before, if it may do IO",
    ),
    Fix(
        name="memcg_oom_in_faults",
        year=2013,
        version="3.12",
        source='3812c8c8f395 "mm: memcg: do not trap chargers with full callstack on OOM", Johannes Weiner',
        summary="of charges that a memory group has no room for only those of page faults call the OOM killer; others "
        "fail",
    ),
    Fix(
        name="memcg_oom_in_charges",
        year=2018,
        version="4.19",
        source='29ef680ae7c2 "memcg, oom: move out_of_memory back to the charge path", Michal Hocko',
        summary="any charge that a memory group has no room for calls the OOM killer, as before 3.12",
    ),
    Fix(
        name="memcg_sixteen_retries",
        year=2020,
        version="5.9",
        source='d977aa9390b4 "mm/memcg: unify reclaim retry limits with page allocator", Chris Down',
        summary="a charge reclaims sixteen times without success before the OOM killer is called; before, five times",
    ),
    Fix(
        name="memcg_dirty_throttle",
        year=2022,
        version="6.2",
        source='81a70c21d917 "mm/cgroup/reclaim: fix dirty pages throttling on cgroup v1", Aneesh Kumar K.V',
        summary="reclaim for a memory group that meets nothing but dirt nobody writes yet sleeps until some is written",
    ),
    Fix(
        name="ext4_page_before_handle",
        year=2013,
        version="3.9",
        source='47564bfb95bf "ext4: grab page before starting transaction handle in write_begin()", Theodore Ts\'o',
        summary="a page for a write is taken with a full mask, before the transaction starts; before, inside it, with "
        "GFP_NOFS",
    ),
    Fix(
        name="rpc_send_atomic",
        year=2005,
        version="2.6.16",
        source='b079fa7baa86 "RPC: Do not block on skb allocation", Trond Myklebust',
        summary="a call's packets are allocated with GFP_ATOMIC: a worker of rpciod never reclaims for them, and "
        "without a page the call comes again later",
    ),
    Fix(
        name="rpc_send_nofs",
        year=2019,
        version="5.1",
        source='a1231fda7e94 "SUNRPC: Set memalloc_nofs_save() on all rpciod/xprtiod jobs", Trond Myklebust',
        summary="a call's packets are allocated with GFP_KERNEL again, in the worker's NOFS scope, and it may reclaim",
    ),
    Fix(
        name="compaction",
        year=2010,
        version="2.6.35",
        source='56de7263fcf3 "mm: compaction: direct compact when a high-order allocation fails", Mel Gorman',
        summary="who needs a block and finds memory in pieces moves pages together, as kswapd does for the order it "
        "was woken for; before, both reclaim until a block is there",
    ),
    Fix(
        name="kcompactd",
        year=2016,
        version="4.6",
        source='698b1b30642f "mm, compaction: introduce kcompactd", Vlastimil Babka',
        summary="a thread of its own compacts in the background, woken by kswapd on its way to sleep",
    ),
    Fix(
        name="proactive_compaction",
        year=2020,
        version="5.9",
        source='facdaa917c4d "mm: proactive compaction", Nitin Gupta',
        summary="kcompactd looks by itself, twice a second, whether free memory is in too small pieces",
    ),
    Fix(
        name="compaction_isolation_limit",
        year=2023,
        version="6.5",
        source='"mm: compaction: avoid GFP_NOFS ABBA deadlock", Johannes Weiner, May 2023',
        summary="compaction that may enter a file system stops at an eighth of the isolated pages, so that one that "
        "may not never waits for it",
    ),
    Fix(
        name="oom_unreclaimable_info",
        year=2006,
        version="2.6.19",
        source='408d85441cd5 "oom: use unreclaimable info", Nick Piggin',
        summary="direct reclaim that got little calls the OOM killer only when all zones were scanned six times in "
        "vain; before, whenever its passes got fewer than 32 pages",
    ),
    Fix(
        name="oom_zone_reclaimable",
        year=2013,
        version="3.12",
        source='6e543d5780e3 "mm: vmscan: fix do_try_to_free_pages() livelock", Lisa Du and KOSAKI Motohiro',
        summary="direct reclaim sees by itself that a zone was scanned in vain; before, only by kswapd's mark, and "
        "without it reclaims for ever",
    ),
    Fix(
        name="oom_detection",
        year=2016,
        version="4.7",
        source='0a0337e0d1d1 "mm, oom: rework oom detection", Michal Hocko',
        summary="sixteen rounds of direct reclaim without progress call the OOM killer, if what could be reclaimed "
        "would not do; before, pages scanned since one was freed are counted",
    ),
    Fix(
        name="flusher_tries_more",
        year=2011,
        version="3.1",
        source='e6fb6da2e106 "writeback: try more writeback as long as something was written", Wu Fengguang',
        summary="writeback in the background goes on while it writes anything and there is too much dirt; before, a "
        "round that wrote less than it might, 1024 pages, was the last",
    ),
    Fix(
        name="nfs_congestion",
        year=2007,
        version="2.6.21",
        source='89a09141df6d "[PATCH] nfs: fix congestion control", Peter Zijlstra',
        summary="the end of a WRITE ends naps in congestion_wait, and what a writer of NFS has done is counted once; "
        "before, no WRITE did, and pages counted again when they were sent and again with their COMMIT",
    ),
    Fix(
        name="slub_fast_path",
        year=2012,
        version="3.6",
        source='5091b74a95d4 "mm: slub: optimise the SLUB fast path to avoid pfmemalloc checks", Christoph Lameter',
        summary="a CPU's current slab serves every request, also when its pages came from the reserve",
    ),
    Fix(
        name="blk_mq_only",
        year=2018,
        version="5.0",
        source='Jonathan Corbet, "Replacing congestion_wait()", LWN, Oct 2021: the old request queues, which told of '
        "congestion, went in 5.0",
        summary="no device is congested, so reclaimers do not nap for one; before 5.16 and without it, as if one was",
    ),
)
"""Every cure of this kind, in the order of the fields of :class:`netvm.fixes.Fixes`."""
