"""What is written and not yet safe."""

from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.connection.commit import CommitList

OLD, NEW = b"oldboot\0", b"newboot\0"


def test_a_commit_with_the_same_verifier_makes_safe() -> None:
    """Nothing is written twice while the server stays up."""
    commits = CommitList()
    commits.add(4096, 4096, OLD)
    commits.add(0, 4096, OLD)
    batch = commits.scan()
    assert [unstable.offset for unstable in batch] == [0, 4096]
    assert commits.nr_out == 1
    assert commits.answered(batch, OLD) == (batch, [])
    assert (commits.nr_out, commits.nr_bytes, len(commits)) == (0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from([OLD, NEW]))))
def test_exactly_the_writes_of_another_boot_are_lost(writes: list[tuple[int, bytes]]) -> None:
    """Those answered before the restart are written again, those answered after it are not, and none is forgotten."""
    commits = CommitList()
    for offset, verifier in writes:
        commits.add(offset, 1, verifier)
    batch = commits.scan()
    if not batch:
        assert commits.nr_out == 0
        return
    safe, lost = commits.answered(batch, NEW)
    assert sorted(u.offset for u in safe) == sorted(offset for offset, verifier in writes if verifier == NEW)
    assert sorted(u.offset for u in lost) == sorted(offset for offset, verifier in writes if verifier == OLD)


def test_what_is_written_during_a_commit_waits_for_the_next() -> None:
    """A COMMIT answers for what was written before it; one that could not be sent gives its writes back."""
    commits = CommitList()
    commits.add(0, 10, OLD)
    first = commits.scan()
    commits.add(10, 10, OLD)
    assert len(commits) == 1
    commits.failed(first)
    assert commits.nr_bytes == 20
    assert [unstable.offset for unstable in commits.scan()] == [0, 10]
