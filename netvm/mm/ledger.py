"""Who holds which page: the ledger of page owners and of the reserve.

Every frame has one owner at any time: ``free`` (in the buddy lists), ``pcp`` (on a per-cpu list), or whoever it was
handed to: ``anon``, ``slab:bio-160``, ``skb:nbd0``, ``rx_ring:eth0``, and so on. The counts per owner always add up
to the managed pages; :func:`netvm.mm.invariants.check_ledger` proves it against the frames.

The reserve is kept beside it. A page is drawn from the *reserve* when the attempt that got it would have failed
without a privilege (ALLOC_NO_WATERMARKS, ALLOC_MIN_RESERVE and ALLOC_NON_BLOCK, ALLOC_OOM): the frame carries
PG_RESERVE until it is freed, whoever holds it. So ``reserve_used`` is the number of such frames, by owner, exactly.
"""

from netvm.mm.frames import PG_RESERVE, Frames

__all__ = ["FREE", "PCP", "Ledger"]

FREE = 0
PCP = 1


class Ledger:
    """Counts of pages by owner."""

    __slots__ = ("_ids", "by_owner_at_peak", "counts", "names", "reserve_by_owner", "reserve_peak", "reserve_used")

    def __init__(self) -> None:
        self.names: list[str] = ["free", "pcp"]
        self._ids: dict[str, int] = {"free": FREE, "pcp": PCP}
        self.counts: list[int] = [0, 0]
        self.reserve_by_owner: list[int] = [0, 0]
        self.reserve_used = 0
        """Reserve pages in use now."""
        self.reserve_peak = 0
        self.by_owner_at_peak: dict[str, int] = {}

    def owner(self, name: str) -> int:
        """Return the id of an owner, made on first use."""
        found = self._ids.get(name)
        if found is None:
            found = len(self.names)
            assert found < 1 << 16
            self._ids[name] = found
            self.names.append(name)
            self.counts.append(0)
            self.reserve_by_owner.append(0)
        return found

    def drew_reserve(self, owner: int, nr_pages: int) -> None:
        """Note that ``nr_pages`` came out of the reserve."""
        self.reserve_by_owner[owner] += nr_pages
        self.reserve_used += nr_pages
        if self.reserve_used > self.reserve_peak:
            self.reserve_peak = self.reserve_used
            self.by_owner_at_peak = self.reserve_table()

    def returned_reserve(self, owner: int, nr_pages: int) -> None:
        """Note that ``nr_pages`` of the reserve came back."""
        self.reserve_by_owner[owner] -= nr_pages
        self.reserve_used -= nr_pages
        assert self.reserve_used >= 0

    def table(self) -> dict[str, int]:
        """Return pages by owner, owners without any left out."""
        return {name: n for name, n in zip(self.names, self.counts, strict=True) if n}

    def reserve_table(self) -> dict[str, int]:
        """Return reserve pages by owner."""
        return {name: n for name, n in zip(self.names, self.reserve_by_owner, strict=True) if n}

    def change_owner(self, frames: Frames, pfn: int, nr_pages: int, owner: int) -> None:
        """Hand a block from its owner to another without freeing it."""
        old = frames.owner_of[pfn]
        frames.owner[pfn : pfn + nr_pages] = owner
        self.counts[old] -= nr_pages
        self.counts[owner] += nr_pages
        if frames.flags_of[pfn] & PG_RESERVE:
            self.reserve_by_owner[old] -= nr_pages
            self.reserve_by_owner[owner] += nr_pages
