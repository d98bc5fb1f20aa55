"""What the client keeps of a file."""

import numpy as np

from storage_backends.nfs.client.inode import (
    REQ_HELD,
    REQ_NONE,
    REQ_UNSTABLE,
    Inode,
    IoCompletion,
    PgioHeader,
    pages_of,
)
from storage_backends.nfs.connection.commit import Unstable


def test_an_inode_grows_and_forgets_nothing() -> None:
    """Requests, states and contents stay where they are; new pages have no request."""
    inode = Inode(None)  # type: ignore[arg-type]
    inode.states[3], inode.requests[3], inode.sent[3] = REQ_HELD, 7, 99
    inode.grow(5000)
    assert (inode.states[3], inode.requests[3], inode.sent[3]) == (REQ_HELD, 7, 99)
    assert len(inode.states) == len(inode.requests) == len(inode.sent) >= 5000
    assert not (inode.states[64:] != REQ_NONE).any()


def test_a_range_is_its_pages() -> None:
    """Offsets and lengths are bytes, whole pages."""
    assert pages_of(Unstable(8192, 12288, b"")).tolist() == [2, 3, 4]


def test_a_call_knows_its_pages() -> None:
    """A header begins at its first page; a completion begins with its submitter."""
    header = PgioHeader(np.arange(5, 9), 1, -1, write=True)
    assert (header.first, header.nr, header.write) == (5, 4, True)
    assert IoCompletion().nr_out == 1


def test_pages_without_a_request_are_counted_and_named() -> None:
    """A range that has none at all is named as a whole, any other page by page."""
    inode = Inode(None)  # type: ignore[arg-type]
    assert inode.without_request(4, 9) == (slice(4, 9), 5)
    inode.requests[[5, 7]] = 1
    bare, nr = inode.without_request(4, 9)
    assert isinstance(bare, np.ndarray)
    assert (bare.tolist(), nr) == ([4, 6, 8], 3)


def test_pages_that_wait_for_a_commit_are_counted() -> None:
    """Held ones do not wait for it; a range may be a slice or a list of pages."""
    inode = Inode(None)  # type: ignore[arg-type]
    assert inode.nr_unstable(slice(0, 8)) == 0
    inode.states[2:6] = (REQ_HELD, REQ_UNSTABLE, REQ_UNSTABLE, REQ_HELD)
    assert inode.nr_unstable(slice(0, 5)) == inode.nr_unstable(np.array([3, 4])) == 2
