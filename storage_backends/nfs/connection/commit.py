"""What the server has and may lose: unstable writes, the COMMIT that makes them safe, and the write verifier.

Mirrors what fs/nfs/write.c does with ``nfs_page.wb_verf``. A WRITE that was answered UNSTABLE goes to the file's commit
list with the verifier of its answer. A COMMIT takes everything on the list (``nfs_scan_commit``); writes that are
answered meanwhile begin a new one. When it is answered each of its writes is compared (``nfs_write_match_verf``): the
same verifier means the data is on the medium; another one means that the server was restarted after it took the data
and may have lost it, so exactly those ranges are dirty again and will be written anew.
"""

from typing import Final, NamedTuple

__all__ = ["CommitList", "Unstable"]

MAX_UNSTABLE: Final = 1 << 24
"""Bound on the list: a terabyte and more in pages."""


class Unstable(NamedTuple):
    """A range the server holds in its cache."""

    offset: int
    size_bytes: int
    verifier: bytes
    """What the answer to the WRITE said."""


class CommitList:
    """``nfs_mds_commit_info`` of one file."""

    __slots__ = ("_list", "nr_bytes", "nr_out")

    def __init__(self) -> None:
        self._list: list[Unstable] = []
        self.nr_bytes = 0
        """On the list: written, and not in a COMMIT that is under way."""
        self.nr_out = 0
        """COMMITs under way (``rpcs_out``)."""

    def __len__(self) -> int:
        return len(self._list)

    def add(self, offset: int, size_bytes: int, verifier: bytes) -> None:
        """Put a range on the list (nfs_request_add_commit_list)."""
        assert len(self._list) < MAX_UNSTABLE
        self._list.append(Unstable(offset, size_bytes, verifier))
        self.nr_bytes += size_bytes

    def scan(self) -> list[Unstable]:
        """Take everything for one COMMIT, in the order of the file; empty if there is nothing (nfs_scan_commit)."""
        batch, self._list = sorted(self._list), []
        self.nr_bytes = 0
        if batch:
            self.nr_out += 1
        return batch

    def answered(self, batch: list[Unstable], verifier: bytes) -> tuple[list[Unstable], list[Unstable]]:
        """Return which ranges of a COMMIT are safe, and which may be lost (nfs_commit_release_pages)."""
        self._over()
        safe = [unstable for unstable in batch if unstable.verifier == verifier]
        lost = [unstable for unstable in batch if unstable.verifier != verifier]
        return safe, lost

    def failed(self, batch: list[Unstable]) -> None:
        """Note that a COMMIT could not be sent: its ranges are back on the list (nfs_retry_commit)."""
        self._over()
        self._list += batch
        self.nr_bytes += sum(unstable.size_bytes for unstable in batch)

    def _over(self) -> None:
        self.nr_out -= 1
        assert self.nr_out >= 0
