"""Whether reclaim waits for a COMMIT."""

import pytest

from netvm.fixes import preset
from netvm.mm.gfp import GFP_KERNEL, GFP_NOFS
from storage_backends.nfs.client.release import Release, nfs_release


@pytest.mark.parametrize(
    ("kernel", "reclaimer", "nofs", "kswapd"),
    [
        ("3.6", Release.WAIT, Release.LEAVE, Release.COMMIT),
        ("6.1", Release.LEAVE, Release.LEAVE, Release.LEAVE),
        ("6.18", Release.WAIT, Release.LEAVE, Release.LEAVE),
    ],
)
def test_kernels_differ_in_how_long_they_wait(kernel: str, reclaimer: Release, nofs: Release, kswapd: Release) -> None:
    """A full mask waited, then did not, then did again; one that may not enter the file system never does."""
    fixes = preset(kernel)
    assert nfs_release(fixes, GFP_KERNEL, kswapd=False, congested=False) is reclaimer
    assert nfs_release(fixes, GFP_NOFS, kswapd=False, congested=False) is nofs
    assert nfs_release(fixes, GFP_KERNEL, kswapd=True, congested=False) is kswapd


def test_the_bound_of_2014_holds_until_the_mount_is_congested() -> None:
    """Whatever the mask, the wait is brief; a congested mount and kswapd do not wait."""
    fixes = preset("3.6").switched({"nfs_release_bounded": True})
    assert nfs_release(fixes, GFP_NOFS, kswapd=False, congested=False) is Release.WAIT_BRIEFLY
    assert nfs_release(fixes, GFP_KERNEL, kswapd=False, congested=True) is Release.COMMIT
    assert nfs_release(fixes, GFP_KERNEL, kswapd=True, congested=False) is Release.COMMIT


def test_the_last_cure_sends_a_commit_and_goes_on() -> None:
    """A full mask does not wait any more; who may not enter the file system, and kswapd, leave the page alone."""
    fixes = preset("6.18").switched({"nfs_release_async": True})
    assert nfs_release(fixes, GFP_KERNEL, kswapd=False, congested=False) is Release.COMMIT
    assert nfs_release(fixes, GFP_NOFS, kswapd=False, congested=False) is Release.LEAVE
    assert nfs_release(fixes, GFP_KERNEL, kswapd=True, congested=False) is Release.LEAVE
