"""The cures of NFS and its RPC client: more rows of the table of historic cures.

See :mod:`netvm.fix_table`, which these rows follow.
"""

from typing import Final

from netvm.fix_table import Fix

__all__ = ["NFS_TABLE"]

NFS_TABLE: Final = (
    Fix(
        name="nfs_release_bounded",
        year=2014,
        version="3.18",
        source='95905446 "NFS: avoid deadlocks with loop-back mounted NFS filesystems.", NeilBrown, 24 Sep 2014',
        summary="reclaim waits one second at most for the COMMIT that an NFS page needs; before, without a bound",
    ),
    Fix(
        name="nfs_release_no_commit",
        year=2016,
        version="4.5",
        source='4f52b6bb "NFS: Don\'t call COMMIT in ->releasepage()", Trond Myklebust',
        summary="reclaim leaves an NFS page that waits for a COMMIT alone",
    ),
    Fix(
        name="nfs_release_writes",
        year=2023,
        version="6.3",
        source='96780ca55e3c "NFS: fix up nfs_release_folio() to try to release the page"',
        summary="reclaim with a full mask sends the COMMIT of an NFS page again, and waits for it without a bound",
    ),
    Fix(
        name="nfs_release_async",
        year=2026,
        version="6.19",
        source='cce0be6 "NFS: Fix a deadlock involving nfs_release_folio()", Trond Myklebust; report of Wang Zhaolong',
        summary="reclaim that writes or commits an NFS page does not wait for it",
    ),
    Fix(
        name="nfs_connect_nofs",
        year=2012,
        version="3.6",
        source='5cf02d09b50b "nfs: skip commit in releasepage if we\'re freeing memory for fs-related reasons", '
        "Jeff Layton",
        summary="who connects a transport again waits for no COMMIT of pages it reclaims for the socket (PF_FSTRANS, "
        "later a NOFS scope); before, it allocated like any program",
    ),
    Fix(
        name="nfs_check_dirty_writeback",
        year=2013,
        version="3.11",
        source='f919b1968fa2 "fs: nfs: inform the VM about pages being committed or unstable", Mel Gorman',
        summary="reclaim takes an NFS page that waits for a COMMIT for dirty, and while one is out for under "
        "writeback; before, for clean",
    ),
    Fix(
        name="nfs_swap_memalloc",
        year=2012,
        version="3.6",
        source='a564b8f03986 "nfs: enable swap on NFS"; Mel Gorman, "Swap-over-NFS without deadlocking", 2012',
        summary="swap on an NFS mount makes its socket a SOCK_MEMALLOC one; it is connected again with PF_MEMALLOC",
    ),
    Fix(
        name="rpc_sends_bvec",
        year=2019,
        version="5.1",
        source='0472e4766049 "SUNRPC: Convert socket page send code to use iov_iter()", Trond Myklebust',
        summary="the pages of a call are sent from a vector of them, which takes memory; before, one after another",
    ),
    Fix(
        name="rpc_cork",
        year=2021,
        version="5.13",
        source='d737e5d41870 "SUNRPC: Set TCP_CORK until the transmit queue is empty", Trond Myklebust',
        summary="calls that wait to be sent share packets; before, an acknowledgement between two of them sent what "
        "there was, and so did the end of each",
    ),
    Fix(
        name="rpc_swap_memalloc",
        year=2022,
        version="5.18",
        source="8db55a032ac7 \"SUNRPC: improve 'swap' handling: scheduling and PF_MEMALLOC\", NeilBrown",
        summary="RPC tasks of a mount that is swapped over, and whoever holds its transport, run with PF_MEMALLOC",
    ),
    Fix(
        name="rpc_alloc_nowait",
        year=2022,
        version="5.18",
        source='c487216bec83 "SUNRPC/call_alloc: async tasks mustn\'t block waiting for memory", NeilBrown',
        summary="an RPC task's worker never waits in a mempool: it takes an element or comes again later",
    ),
    Fix(
        name="nfs_alloc_nowait",
        year=2022,
        version="5.18",
        source='515dcdcd4873 "NFS: nfsiod should not block forever in mempool_alloc()" and 0bae835b63c5 "NFS: Avoid '
        'writeback threads getting stuck in mempool_alloc()", Trond Myklebust',
        summary="the headers of NFS's WRITEs and COMMITs are asked for with GFP_KERNEL, and a worker gives up early; "
        "before, with GFP_NOIO, and waited for in their mempools",
    ),
    Fix(
        name="rpc_bvec_before_lock",
        year=2022,
        version="5.18",
        source='ff053dbbaffe "SUNRPC: Move the call to xprt_send_pagedata() out of xprt_sock_sendmsg()"',
        summary="a call has the vector of its data before it asks for the transport; before, who sent it asked for it "
        "with GFP_KERNEL and the lock held",
    ),
    Fix(
        name="nfs_swap_stable",
        year=2022,
        version="5.18",
        source='c265de257f55 "NFS: swap-out must always use STABLE writes.", NeilBrown',
        summary="swap over NFS writes FILE_SYNC, so that no COMMIT, which needs memory, has to follow",
    ),
    Fix(
        name="swap_file_batches",
        year=2022,
        version="5.19",
        source='"mm: submit multipage write for SWP_FS_OPS swap-space", NeilBrown',
        summary="pages for a swap file go to its file system in batches of 32 that nobody waits for; before, whoever "
        "reclaims wrote one page at a time and waited until it was written",
    ),
    Fix(
        name="nfs_commit_after_writeback",
        year=2017,
        version="4.13",
        source='919e3bd9a875 "NFS: Ensure we commit after writeback is complete", Trond Myklebust',
        summary="a COMMIT follows the WRITEs of one writepages by itself; before, whoever wrote next sent it for what "
        "had been answered by then",
    ),
    Fix(
        name="nfs4_manager_kept",
        year=2022,
        version="5.18",
        source='4dc73c679114 "NFSv4: keep state manager thread active if swap is enabled", NeilBrown',
        summary="the thread that gets lost state of NFS version 4 back is made when a file of the mount begins to be "
        "swapped to, and stays; before, it was made when it was needed",
    ),
    Fix(
        name="nfs4_manager_nofs",
        year=2022,
        version="5.18",
        source='3e17898aca29 "NFSv4: Protect the state recovery thread against direct reclaim", Trond Myklebust',
        summary="the thread that gets lost state of NFS version 4 back reclaims without entering a file system",
    ),
    Fix(
        name="nfs4_freeze_session",
        year=2023,
        version="6.5",
        source='c907e72f58ed "NFSv4.1: freeze the session table upon receiving NFS4ERR_BADSESSION", Olga Kornievskaia',
        summary="from the first answer that the server does not know the session nobody calls in it; before, from the "
        "state manager's first step",
        in_recorded=True,
    ),
)
