"""Giving a page up that waits for a COMMIT: whether reclaim sends one, and how long it waits for it.

Mirrors ``nfs_release_folio`` (fs/nfs/file.c), whose history is a line of cures and relapses. A page that was written
UNSTABLE keeps its request until a COMMIT, so reclaim finds it clean and cannot have it.

- To 3.17 a reclaimer with a full mask sends a COMMIT and waits for its answer. If the server is on this machine and the
  reclaimer is its thread, it waits for itself.
- ``nfs_release_bounded`` (3.18): it waits one second at most; a mount that did not answer by then counts as congested,
  and reclaimers do not wait for a congested mount.
- ``nfs_release_no_commit`` (4.5): the page is left alone, without a COMMIT.
- ``nfs_release_writes`` (6.3): it is written and waited for again, without a bound.
- ``nfs_release_async`` (6.19): it is written or committed, and not waited for.

kswapd never waits; to 3.17 it sends the COMMIT all the same.

# MODEL: reclaim asks for the pages of a batch that are of one file at once, where the kernel asks page by page.
"""

from enum import Enum, auto

from netvm.fixes import Fixes
from netvm.mm.gfp import GFP_KERNEL

__all__ = ["RELEASE_WAIT_NS", "Release", "nfs_release"]

RELEASE_WAIT_NS = 1_000_000_000
"""HZ: how long a bounded wait is."""


class Release(Enum):
    """What reclaim does about a page that waits for a COMMIT."""

    LEAVE = auto()
    COMMIT = auto()
    """Send a COMMIT, and go on."""
    WAIT_BRIEFLY = auto()
    WAIT = auto()


def nfs_release(fixes: Fixes, gfp: int, *, kswapd: bool, congested: bool) -> Release:
    """Return what a reclaimer with this mask does."""
    is_full_mask = gfp & GFP_KERNEL == GFP_KERNEL
    if fixes.nfs_release_writes:
        if not is_full_mask or kswapd:
            return Release.LEAVE
        return Release.COMMIT if fixes.nfs_release_async else Release.WAIT
    if fixes.nfs_release_no_commit:
        return Release.LEAVE
    if fixes.nfs_release_bounded:
        return Release.COMMIT if kswapd or congested else Release.WAIT_BRIEFLY
    if not is_full_mask:
        return Release.LEAVE
    return Release.COMMIT if kswapd else Release.WAIT
