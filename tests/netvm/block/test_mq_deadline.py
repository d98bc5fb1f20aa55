"""The elevator: requests that touch become one, within the limit, and each page goes out once, in its direction."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.block.blk_mq import Request
from netvm.block.mq_deadline import FIFO_BATCH, WRITES_STARVED, MqDeadline
from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World

_MAX_PAGES = 8


def forget(_rq: Any, _error: int, _task: Any) -> None:
    """Take the end of a request."""


def request(slot: int, nr: int, *, write: bool = True, number: int = 0) -> Request:
    """Return a request of pages whose frames are told by their slots."""
    rq = Request(
        write=write, slot=slot, pfns=list(range(slot, slot + nr)), bios=[0] * nr, versions=list(range(slot, slot + nr))
    )
    rq.number = number
    rq.end_io = forget
    return rq


def elevator() -> tuple[MqDeadline, list[Request]]:
    """Return an elevator and the list of what it joined to something else."""
    joined: list[Request] = []
    return MqDeadline(World(seeds=Seeds(1)), max_pages=_MAX_PAGES, joined=joined.append), joined


def shapes(queue: MqDeadline) -> list[tuple[int, int]]:
    """Dispatch everything; return where each request was, and its length."""
    out = []
    while len(queue):
        rq = queue.next_request()
        out.append((rq.slot, rq.nr_pages))
    return out


def test_writers_by_turns_leave_one_request() -> None:
    """Single pages inserted in order join the request they continue, and give their tags back."""
    queue, joined = elevator()
    for slot in range(6):
        queue.insert(request(slot, 1, number=slot))
    assert len(joined) == 5
    assert shapes(queue) == [(0, 6)]


def test_a_page_between_two_requests_joins_them() -> None:
    """Merged at the end of one it closes the gap to the next."""
    queue, joined = elevator()
    queue.insert(request(0, 2))
    queue.insert(request(3, 2, number=1))
    assert queue.merge(request(2, 1)) == 1
    assert [rq.number for rq in joined] == [1]
    assert shapes(queue) == [(0, 5)]


def test_a_page_is_merged_in_front() -> None:
    """One right before a request that waits becomes its first; two such would begin a request of their own."""
    queue, _ = elevator()
    queue.insert(request(5, 2))
    assert queue.merge(request(3, 2)) == 0
    assert queue.merge(request(4, 1)) == 1
    assert shapes(queue) == [(4, 3)]


def test_what_does_not_fit_stays_apart() -> None:
    """A request at the limit takes no more, nor do two join whose sum is over it; a bio fills what room there is."""
    queue, joined = elevator()
    queue.insert(request(0, 5))
    queue.insert(request(5, 5, number=1))
    assert not joined
    queue.insert(request(20, 6, number=2))
    assert queue.merge(request(26, 4)) == 2
    assert shapes(queue) == [(0, 5), (5, 5), (20, 8)]


def test_reads_go_first_and_writes_starve_for_two_batches() -> None:
    """Batches of 16 go up by sector."""
    queue, _ = elevator()
    for number in range(64):
        queue.insert(request(1000 + 2 * number, 1, write=False, number=number))
        queue.insert(request(2 * number, 1, number=100 + number))
    directions = [queue.next_request().write for _ in range(64)]
    reads = WRITES_STARVED * FIFO_BATCH
    assert directions[:reads] == [False] * reads
    assert directions[reads : reads + FIFO_BATCH] == [True] * FIFO_BATCH


@settings(max_examples=80, deadline=None)
@given(st.permutations(range(24)), st.lists(st.sampled_from(["insert", "bio", "dispatch"]), min_size=24, max_size=24))
def test_every_page_goes_out_once(slots: list[int], ways: list[str]) -> None:
    """Whatever is inserted, merged and dispatched in between: no page is lost, none doubled, no request too long."""
    queue, joined = elevator()
    out: list[Request] = []
    made = 0
    for slot, way in zip(slots, ways, strict=True):
        if way == "dispatch" and len(queue):
            out.append(queue.next_request())
        bio = request(slot, 1, number=slot)
        if way == "bio" and queue.merge(bio):
            continue
        queue.insert(bio)
        made += 1
    while len(queue):
        out.append(queue.next_request())
    assert sorted(pfn for rq in out for pfn in rq.pfns) == sorted(slots)
    assert all(rq.pfns == rq.versions == list(range(rq.slot, rq.end_slot)) for rq in out)
    assert max(rq.nr_pages for rq in out) <= _MAX_PAGES
    assert len(out) + len(joined) == made


@given(
    waiting=st.lists(st.tuples(st.integers(0, 40), st.integers(1, _MAX_PAGES)), max_size=6),
    slot=st.integers(1, 45),
    nr=st.integers(1, _MAX_PAGES),
)
@settings(deadline=None)
def test_pages_with_room_are_as_if_merged_one_by_one(waiting: list[tuple[int, int]], slot: int, nr: int) -> None:
    """As many as there is room for go to the end of the same request, and nothing is joined for it."""
    (queue, joined), (other, joined_by_one) = elevator(), elevator()
    used: set[int] = set()
    for number, (start, length) in enumerate(waiting):
        pages = set(range(start, start + length))
        if not pages & used and slot not in pages:
            used |= pages
            queue.insert(request(start, length, number=number))
            other.insert(request(start, length, number=number))
    before = len(joined)
    fit = queue.room_behind(slot, forget, nr)
    assert 0 <= fit <= nr
    assert not queue.room_behind(slot, print, nr), "another's request"
    if fit:
        pages = list(range(slot, slot + fit))
        queue.merge_behind(slot, pages, [0] * fit, list(pages))
        for page in pages:
            assert other.merge(request(page, 1)) == 1
    assert len(joined) == len(joined_by_one) == before
    assert shapes(queue) == shapes(other)
