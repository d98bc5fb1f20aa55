"""Swap slots: batches, clusters, and that each slot has one user."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.block.swap_slots import SWAPFILE_CLUSTER, SwapSlots
from netvm.runtime.seeds import Seeds


def slots_of(nr_pages: int, seed: int = 1) -> SwapSlots:
    """Return the slots of a device of so many pages."""
    return SwapSlots(nr_pages, random=Seeds(seed).stream("swapon"))


def test_header_is_never_handed_out_and_everything_else_is() -> None:
    """A device of n pages has n - 1 slots."""
    slots = slots_of(1000)
    got = slots.alloc(2000)
    assert sorted(got) == list(range(1, 1000))
    assert slots.nr_free == 0
    assert slots.alloc(1) == []


def test_slots_are_consecutive_within_a_cluster() -> None:
    """Pages swapped out one after another lie one after another, 256 at a time."""
    slots = slots_of(128 * SWAPFILE_CLUSTER)
    got = slots.alloc(3 * SWAPFILE_CLUSTER)
    jumps = [index for index, (one, next_one) in enumerate(pairwise(got), start=1) if next_one != one + 1]
    assert jumps in ([256, 512], [255, 511], [256, 511])


def test_each_cpu_fills_a_cluster_of_its_own() -> None:
    """Two CPUs that take slots by turns each get consecutive ones."""
    slots = slots_of(128 * SWAPFILE_CLUSTER)
    got: tuple[list[int], list[int]] = ([], [])
    for turn in range(400):
        got[turn % 2].extend(slots.alloc(1, turn % 2))
    assert all(next_one == one + 1 for own in got for one, next_one in pairwise(own))
    assert not set(got[0]) & set(got[1])


def test_clusters_begin_at_a_random_column() -> None:
    """Where swapping begins is drawn at swapon, so it depends on the seed."""
    assert len({slots_of(64 * SWAPFILE_CLUSTER, seed).alloc(1)[0] // SWAPFILE_CLUSTER for seed in range(20)}) > 5


def test_free_slots_are_counted_when_batches_are_taken() -> None:
    """64 at a time leave nr_swap_pages, whoever uses them."""
    slots = slots_of(1000)
    slots.alloc(1)
    assert slots.nr_free == 999 - 64
    slots.alloc(63)
    assert slots.nr_free == 999 - 64
    slots.alloc(1)
    assert slots.nr_free == 999 - 128


def test_freed_slots_come_back_64_at_a_time() -> None:
    """The 65th freed slot returns the 64 before it."""
    slots = slots_of(1000)
    got = slots.alloc(128)
    slots.free(got[:64])
    assert slots.nr_free == 999 - 128
    slots.free(got[64:65])
    assert slots.nr_free == 999 - 64


def test_full_means_less_than_half_is_free() -> None:
    """vm_swap_full()."""
    slots = slots_of(257)
    assert not slots.is_full()
    slots.nr_free = 128
    assert not slots.is_full()
    slots.nr_free = 127
    assert slots.is_full()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 1500), st.lists(st.tuples(st.booleans(), st.integers(1, 300), st.integers(0, 2)), max_size=30))
def test_no_slot_has_two_users(nr_pages: int, steps: list[tuple[bool, int, int]]) -> None:
    """Whatever is taken and freed: a slot is out once, and what is nowhere else is free."""
    slots = slots_of(nr_pages)
    out: list[int] = []
    for take, nr, cpu in steps:
        if take:
            got = slots.alloc(nr, cpu)
            assert not set(got) & set(out)
            assert all(1 <= slot < nr_pages for slot in got)
            out += got
        else:
            given_back, out = out[:nr], out[nr:]
            slots.free(given_back)
        assert slots.nr_free == int((~slots.taken).sum())
        assert slots.taken[out].all()


@given(taken=st.lists(st.integers(1, 80), max_size=12), freed=st.sets(st.integers(1, 500)), nr=st.integers(1, 40))
@settings(deadline=None)
def test_what_comes_next_is_known_before_it_is_taken(taken: list[int], freed: set[int], nr: int) -> None:
    """The slots that are upcoming are those that are then handed out, as far as they follow each other."""
    slots = slots_of(1000)
    used = [slot for nr_slots in taken for slot in slots.alloc(nr_slots)]
    slots.free([slot for slot in used if slot in freed])
    first, nr_upcoming = slots.upcoming(nr)
    assert nr_upcoming <= nr
    got = slots.alloc(nr)
    if nr_upcoming:
        assert got[:nr_upcoming] == list(range(first, first + nr_upcoming))


def test_nothing_is_upcoming_where_a_cpu_has_taken_nothing() -> None:
    """A CPU's cache is empty until its first slot is taken."""
    slots = slots_of(1000)
    assert slots.upcoming(4, 1) == (0, 0)
    (slot,) = slots.alloc(1, 1)
    assert slots.upcoming(4, 1) == (slot + 1, 4)
    assert slots.upcoming(4, 0) == (0, 0)
