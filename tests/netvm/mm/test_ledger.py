"""Who holds which page, and what of it came from the reserve."""

import pytest

from netvm.mm.frames import PG_RESERVE, Frames
from netvm.mm.ledger import FREE, PCP, Ledger


def test_an_owner_keeps_its_number() -> None:
    """A name is one owner for ever; free and pcp are there from the start."""
    ledger = Ledger()
    assert (ledger.owner("free"), ledger.owner("pcp")) == (FREE, PCP)
    skb = ledger.owner("skb:nbd0")
    anon = ledger.owner("anon")
    assert ledger.owner("skb:nbd0") == skb != anon
    assert ledger.names == ["free", "pcp", "skb:nbd0", "anon"]


def test_the_table_leaves_out_who_has_nothing() -> None:
    """A report lists holders, not names."""
    ledger = Ledger()
    ledger.counts[ledger.owner("anon")] += 3
    ledger.owner("slab:bio-160")
    assert ledger.table() == {"anon": 3}


def test_the_peak_of_the_reserve_remembers_its_holders() -> None:
    """``by_owner_at_peak`` is the table at the highest use, not at the end."""
    ledger = Ledger()
    skb, slab = ledger.owner("skb"), ledger.owner("slab")
    ledger.drew_reserve(skb, 3)
    ledger.drew_reserve(slab, 2)
    ledger.returned_reserve(skb, 3)
    ledger.drew_reserve(slab, 1)
    assert (ledger.reserve_used, ledger.reserve_peak) == (3, 5)
    assert ledger.by_owner_at_peak == {"skb": 3, "slab": 2}
    assert ledger.reserve_table() == {"slab": 3}


def test_more_cannot_come_back_than_was_drawn() -> None:
    """A page that returns twice is our bug and stops the run."""
    ledger = Ledger()
    skb = ledger.owner("skb")
    ledger.drew_reserve(skb, 1)
    ledger.returned_reserve(skb, 1)
    with pytest.raises(AssertionError):
        ledger.returned_reserve(skb, 1)


@pytest.mark.parametrize("reserve", [False, True])
def test_a_block_changes_hands_with_its_mark(reserve: bool) -> None:
    """Whoever holds a reserve page owes it: the mark goes along, the number in use does not change."""
    frames, ledger = Frames(16), Ledger()
    ring, skb = ledger.owner("rx_ring"), ledger.owner("skb")
    frames.owner[4:8] = ring
    ledger.counts[ring] += 4
    if reserve:
        frames.flags[4] |= PG_RESERVE
        ledger.drew_reserve(ring, 4)
    ledger.change_owner(frames, 4, 4, skb)
    assert ledger.table() == {"skb": 4}
    assert frames.owner[4:8].tolist() == [skb] * 4
    assert ledger.reserve_table() == ({"skb": 4} if reserve else {})
    assert ledger.reserve_used == (4 if reserve else 0)
