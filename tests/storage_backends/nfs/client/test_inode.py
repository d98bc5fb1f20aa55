"""What the client keeps of a file."""

import numpy as np

from storage_backends.nfs.client.inode import REQ_HELD, REQ_NONE, Inode, IoCompletion, PgioHeader, pages_of
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
