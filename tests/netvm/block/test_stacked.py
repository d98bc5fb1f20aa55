"""Parts of requests below: each comes back once, in any pieces, and an error of one is an error of the whole."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK, Request
from netvm.block.stacked import Part, StackedDevice
from netvm.runtime.task import Task


class _Queue:
    """A queue that remembers what it is told."""

    name = "lower"

    def __init__(self) -> None:
        self.ended: list[tuple[int, int]] = []
        self.outstanding: dict[int, Request] = {}

    def end_request(self, rq: Request, status: int, _task: Task) -> None:
        self.ended.append((rq.number, status))


class _Device(StackedDevice):
    def __init__(self, queue: Any) -> None:
        super().__init__(queue)
        self.queue = queue
        self.done: list[int] = []

    def part_done(self, part: Part, _task: Task) -> None:
        self.done.append(part.slot)


def _request(number: int, slot: int, nr_pages: int) -> Request:
    rq = Request(write=False, slot=slot, pfns=[0] * nr_pages, bios=[], versions=[0] * nr_pages)
    rq.number = number
    return rq


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 7), st.data())
def test_requests_end_once_with_the_error_of_any_piece(
    sizes: list[int], part_pages: int, piece_pages: int, data: st.DataObject
) -> None:
    """Requests side by side, cut above and below differently, come back in any order: as the simplest model says."""
    queue: Any = _Queue()
    device = _Device(queue)
    nothing: Any = None
    end = 0
    requests = []
    for number, size in enumerate(sizes):
        rq = _request(number, end, size)
        requests.append(rq)
        end += size
        device._open[number] = (size, 0)
        for slot in range(rq.slot, rq.end_slot, part_pages):
            device._parts[slot] = Part(rq, slot, min(part_pages, rq.end_slot - slot), [])
    parts = sorted(device._parts)
    pieces = [range(slot, min(slot + piece_pages, end)) for slot in range(0, end, piece_pages)]
    failed = data.draw(st.sets(st.sampled_from(range(len(pieces)))))
    for index in data.draw(st.permutations(range(len(pieces)))):
        piece = pieces[index]
        below = _request(99, piece.start, len(piece))
        below.versions = [1000 + slot for slot in piece]
        device.clone_endio(below, 5 if index in failed else 0, nothing)
    bad = {slot for index in failed for slot in pieces[index]}
    expected = {rq.number: BLK_STS_IOERR if bad & set(range(rq.slot, rq.end_slot)) else BLK_STS_OK for rq in requests}
    assert sorted(queue.ended) == sorted(expected.items())
    assert sorted(device.done) == parts
    assert all(rq.versions == [1000 + slot for slot in range(rq.slot, rq.end_slot)] for rq in requests)
    assert not device._parts
    assert not device._open


def test_two_stacked_devices_have_two_names() -> None:
    """The second one on top of the first is dm-1."""
    lower: Any = _Queue()
    device = _Device(lower)
    assert device.name == "dm-0"
    lower.name = device.name
    assert _Device(lower).name == "dm-1"
