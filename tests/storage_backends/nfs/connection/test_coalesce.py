"""Which pages go together."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.connection.coalesce import Coalescer


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12), st.integers(1, 8))
def test_groups_are_runs_of_the_order_they_came_in(runs: list[tuple[int, int]], nr_max: int) -> None:
    """Every page is in exactly one group, in order, and a group ends only where it must."""
    coalescer = Coalescer(nr_max * 4096)
    groups = [group for index, nr in runs for group in coalescer.add(index, nr)] + coalescer.complete()
    pages = [page for index, nr in runs for page in range(index, index + nr)]
    assert [page for group in groups for page in group] == pages
    assert all(1 <= len(group) <= nr_max for group in groups)
    for group, following in pairwise(groups):
        assert len(group) == nr_max or following.start != group.stop


@pytest.mark.parametrize("wsize_bytes", [0, 1000, 6000, 2 << 20])
def test_a_size_that_is_no_wsize_is_refused(wsize_bytes: int) -> None:
    """Whole pages, one at least, and no more than NFS can carry."""
    with pytest.raises(ValueError, match=f"{wsize_bytes} bytes"):
        Coalescer(wsize_bytes)
