"""The queueing model of the medium."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.export.disk import DiskModel

ARRIVALS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 10_000_000)), min_size=1, max_size=30)
"""Requests as (size, nanoseconds since the one before)."""


def submit_all(disk: DiskModel, arrivals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Submit every request and return (submitted, done) of each."""
    now_ns = 0
    spans = []
    for size_bytes, gap_ns in arrivals:
        now_ns += gap_ns
        spans.append((now_ns, disk.submit(size_bytes, now_ns)))
    return spans


def test_a_disk_of_no_latency_is_done_at_once() -> None:
    """Without latency and bandwidth a request is done when it is submitted."""
    assert DiskModel().submit(1 << 20, 5) == 5


def test_the_link_pipelines_its_latency() -> None:
    """Payloads follow each other on the link; the latency of one overlaps the transfer of the next."""
    disk = DiskModel(latency_ns=1_000_000, bandwidth_bytes_per_s=4096 * 1000)
    assert disk.submit(4096, 0) == 2_000_000
    assert disk.submit(4096, 0) == 3_000_000
    assert disk.submit(4096, 500_000) == 4_000_000


def test_the_link_rests_between_requests() -> None:
    """A link left idle starts the next request when it comes, not when the last one ended."""
    disk = DiskModel(latency_ns=10, bandwidth_bytes_per_s=1_000_000_000)
    assert disk.submit(100, 0) == 110
    assert disk.submit(100, 1000) == 1110


def test_the_link_admits_queue_depth_requests() -> None:
    """One request more than the depth starts when the oldest is done."""
    disk = DiskModel(latency_ns=100, queue_depth=2)
    assert [disk.submit(1, 0) for _ in range(5)] == [100, 100, 200, 200, 300]


def test_servers_work_side_by_side() -> None:
    """Requests up to the depth are served at once, the rest waits for the first server that is free."""
    disk = DiskModel(latency_ns=100, queue_depth=2, in_order=False)
    assert [disk.submit(1, 0) for _ in range(5)] == [100, 100, 200, 200, 300]


def test_a_small_request_overtakes_a_large_one() -> None:
    """Servers complete out of order when their payloads differ."""
    disk = DiskModel(latency_ns=10, bandwidth_bytes_per_s=1_000_000_000, queue_depth=2, in_order=False)
    assert disk.submit(1000, 0) == 1010
    assert disk.submit(10, 0) == 20


@given(arrivals=ARRIVALS, queue_depth=st.integers(1, 4), latency_ns=st.integers(0, 5_000_000), in_order=st.booleans())
def test_never_more_than_queue_depth_inside(
    arrivals: list[tuple[int, int]], queue_depth: int, latency_ns: int, *, in_order: bool
) -> None:
    """A request is inside for its service time only, and starts when fewer than the depth are unfinished."""
    rate = 0 if in_order else 10**9
    disk = DiskModel(latency_ns=latency_ns, bandwidth_bytes_per_s=rate, queue_depth=queue_depth, in_order=in_order)
    spans = submit_all(disk, arrivals)
    for index, ((size_bytes, _), (submitted_ns, done_ns)) in enumerate(zip(arrivals, spans, strict=True)):
        start_ns = done_ns - latency_ns - (size_bytes if rate else 0)
        assert start_ns >= submitted_ns
        assert sum(earlier_ns > start_ns for _, earlier_ns in spans[:index]) < queue_depth


@given(ARRIVALS, st.integers(1, 4), st.integers(0, 5_000_000), st.sampled_from([0, 1_000_000, 10**9]))
def test_the_link_completes_in_order(
    arrivals: list[tuple[int, int]], queue_depth: int, latency_ns: int, rate: int
) -> None:
    """A link never completes a later request before an earlier one."""
    disk = DiskModel(latency_ns=latency_ns, bandwidth_bytes_per_s=rate, queue_depth=queue_depth)
    done = [done_ns for _, done_ns in submit_all(disk, arrivals)]
    assert done == sorted(done)


@pytest.mark.parametrize("in_order", [True, False])
def test_nothing_completes_inside_a_stall(*, in_order: bool) -> None:
    """A stall moves what is inside to its end and starts what comes during it at its end."""
    disk = DiskModel(latency_ns=100, in_order=in_order)
    promised_ns = disk.submit(1, 0)
    disk.stall(1000)
    disk.stall(500)
    assert disk.due_ns(promised_ns) == 1000
    assert disk.submit(1, 50) == 1100
    assert disk.due_ns(1100) == 1100
    assert disk.submit(1, 2000) == 2100


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ((-1, 0, 1), "latency_ns -1 is negative"),
        ((0, -5, 1), "bandwidth_bytes_per_s -5 is negative"),
        ((0, 0, 0), "queue_depth 0 is less than 1"),
    ],
)
def test_a_disk_that_cannot_be_is_refused(config: tuple[int, int, int], message: str) -> None:
    """Values no disk has are named."""
    latency_ns, bandwidth_bytes_per_s, queue_depth = config
    with pytest.raises(ValueError, match=message):
        DiskModel(latency_ns=latency_ns, bandwidth_bytes_per_s=bandwidth_bytes_per_s, queue_depth=queue_depth)
