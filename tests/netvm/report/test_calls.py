"""Calls that begin in one task and end in another."""

from typing import Any

from netvm.report.calls import Calls
from netvm.report.waits import Span
from netvm.trace.records import Recorded
from netvm.trace.tracepoints import BY_NAME


class _Recording:
    """Events by hand, given to :class:`Calls` one by one."""

    def __init__(self) -> None:
        self.recorded = Recorded()
        self.found: list[Span] = []
        self.orphans: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.calls = Calls(self.recorded, self.found.append, self.orphans, self.dropped)

    def add(self, time_us: int, event: str, *args: int | str, task: int = 1) -> None:
        numbers = [self.recorded.names.intern(arg) if isinstance(arg, str) else arg for arg in args]
        numbers += [0] * (16 - len(numbers))
        self.calls.event(BY_NAME[event].number, time_us * 1000, task, 0, numbers)

    def told(self) -> list[tuple[Any, ...]]:
        return [(span.kind, span.cause, span.begin_ns // 1000, span.end_ns // 1000) for span in self.found]


def test_nfs_calls_are_paired_by_place() -> None:
    """Calls for other places may overtake; those for the same place are answered in order."""
    rec = _Recording()
    rec.add(0, "nfs_initiate_write", 0, 16, 7, 99, 0, 8192, "UNSTABLE")
    rec.add(1, "nfs_initiate_write", 0, 16, 7, 99, 8192, 4096, "UNSTABLE")
    rec.add(2, "nfs_initiate_commit", 0, 16, 7, 99, 0, 0)
    rec.add(3, "nfs_initiate_commit", 0, 16, 7, 99, 0, 0)
    rec.add(10, "nfs_writeback_done", 4096, 0, 16, 7, 99, 8192, 4096, 4096, "UNSTABLE", "00")
    rec.add(20, "nfs_writeback_done", 8192, 0, 16, 7, 99, 0, 8192, 8192, "UNSTABLE", "00")
    rec.add(30, "nfs_commit_done", 0, 0, 16, 7, 99, 0, "FILE_SYNC", "00")
    assert rec.told() == [
        ("nfs", "WRITE UNSTABLE", 1, 10),
        ("nfs", "WRITE UNSTABLE", 0, 20),
        ("nfs", "COMMIT", 2, 30),
    ]
    assert rec.found[1].nr_scanned == 2
    assert [span.begin_ns for span in rec.calls.unfinished()] == [3000]
    rec.add(40, "nfs_writeback_done", 4096, 0, 16, 7, 99, 8192, 4096, 4096, "UNSTABLE", "00")
    assert rec.orphans == {"nfs": 1}


def test_rpc_tasks_are_paired_by_number_and_by_xid() -> None:
    """A task's time is divided as the kernel says; on the wire it counts from the first transmission."""
    rec = _Recording()
    rec.add(0, "nfs_initiate_read", 0, 16, 7, 99, 0, 4096)
    rec.add(1, "rpc_request", 5, 1, "nfs", 3, "READ", "a")
    rec.add(4, "xprt_transmit", 5, 1, 0xABC, 0, 0, task=2)
    rec.add(9, "xprt_transmit", 5, 1, 0xABC, 0, 0, task=2)
    rec.add(14, "xprt_lookup_rqst", "10.0.2.2", "2049", 0xABC, 0, task=3)
    rec.add(16, "rpc_stats_latency", 5, 1, 0xABC, "nfs", 3, "READ", 3, 10, 15, task=4)
    rec.add(17, "nfs_readpage_done", 4096, 0, 16, 7, 99, 0, 4096, 4096, task=4)
    assert rec.told() == [("rpc_reply", "10.0.2.2", 4, 14), ("rpc", "READ", 1, 16), ("nfs", "READ", 0, 17)]
    assert {name: link.total_ns for name, link in rec.found[1].links.items()} == {
        "queues": 3000,
        "wire and server": 10_000,
        "taking the reply": 2000,
    }
    assert rec.found[2].sent_ns == 9000


def test_ends_that_stand_alone_are_no_orphans() -> None:
    """What tells its whole length is taken; an end whose beginning is not recorded at all is passed over."""
    rec = _Recording()
    rec.add(5000, "rpc_stats_latency", 5, 1, 0xABC, "nfs", 3, "WRITE", 1000, 2000, 4000)
    rec.add(6000, "writeback_single_inode", "8:0", 11, "0x0", 0, 4, 0, 1024, 16, 1)
    rec.add(7000, "pages_written", "8:0", 11, 16, 3000, 2000, 0)
    rec.add(8000, "xprt_lookup_rqst", "10.0.2.2", "2049", 0xABC, 0)
    rec.add(9000, "xprt_transmit", 6, 1, 0xDEF, 0, 0)
    assert rec.told() == [
        ("rpc", "WRITE", 1000, 5000),
        ("dirty_age", "8:0 ino 11", 2000, 6000),
        ("page_dirty", "8:0 ino 11", 4000, 7000),
        ("page_writeback", "8:0 ino 11", 5000, 7000),
    ]
    assert not rec.orphans


def test_lanes_are_reused() -> None:
    """Calls that overlap lie in lanes of their own; one that is free is taken again."""
    rec = _Recording()
    for time_us, number in ((0, 1), (1, 2)):
        rec.add(time_us, "rpc_request", number, 1, "nfs", 3, "NULL", "")
    rec.add(2, "rpc_stats_latency", 1, 1, 0, "nfs", 3, "NULL", 0, 0, 2)
    rec.add(3, "rpc_request", 3, 1, "nfs", 3, "NULL", "")
    assert [span.lane for span in rec.calls.unfinished()] == [1, 0]
