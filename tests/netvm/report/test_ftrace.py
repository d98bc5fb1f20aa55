"""The fast reader of ftrace text, held against the careful one, and against text that is not as it should be."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.report.ftrace import FtraceReader
from netvm.report.ftraceline import LineReader
from netvm.trace.records import RECORD, Recorded
from netvm.trace.tracepoints import BY_NAME, OTHER

_DATA = Path(__file__).parents[2] / "data" / "traces"
_TEXT = gzip.decompress((_DATA / "D2-guestnbd-2ms-a" / "ftrace.txt.gz").read_bytes())
_WRITER = gzip.decompress((_DATA / "N65-NBDcontrol-fw-10MBs-dr60-hog40" / "ftrace.txt.gz").read_bytes())

_GOOD = b"             hog-155     [000] .....     4.605268: mm_vmscan_kswapd_wake: nid=0 order=3\n"


def _read(text: bytes, *, piece: int = 1 << 20) -> tuple[list[tuple[object, ...]], Recorded]:
    """Return records as comparable rows, strings in place of their numbers."""
    recorded = Recorded()
    reader = FtraceReader(recorded, keep_payload=True)
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    return [_row(record, recorded) for batch in reader.batches(pieces) for record in batch], recorded


def _read_by_line(text: bytes) -> tuple[list[tuple[object, ...]], Recorded]:
    recorded = Recorded()
    reader = LineReader(recorded, keep_payload=True)
    rows = []
    for line in text.decode("utf-8", "backslashreplace").split("\n"):
        record = np.zeros(1, dtype=RECORD)[0]
        if line.startswith("#") or not line:
            continue
        if reader.read(line, record):
            rows.append(_row(record, recorded))
    return rows, recorded


def _row(record: np.void, recorded: Recorded) -> tuple[object, ...]:
    names = recorded.names
    args: list[object] = record["args"].tolist()
    event = int(record["event"])
    if event == OTHER:
        told: list[object] = [names[int(record["args"][0])], names[int(record["args"][1])]]
    else:
        point = next(point for point in BY_NAME.values() if point.number == event)
        told = [
            names[int(arg)] if field.kind == "s" else arg
            for field, arg in zip(point.fields, record["args"].tolist(), strict=False)
        ]
    del args
    task = recorded.tasks.label(int(record["task"]))
    return (int(record["time_ns"]), event, int(record["cpu"]), task, names[int(record["flags"])], *told)


@pytest.mark.parametrize("text", [_TEXT[:200_000], _WRITER[:200_000]])
def test_the_fast_reader_reads_what_the_careful_one_does(text: bytes) -> None:
    """Reading thousands of lines at once gives the records of reading them one by one."""
    fast, recorded = _read(text)
    careful, also = _read_by_line(text)
    assert fast == careful
    assert len(fast) > 300
    assert recorded.losses.skipped == also.losses.skipped <= 1, "the cut line at the end"


@given(st.integers(200, 9000))
@settings(max_examples=15, deadline=None)
def test_the_cut_of_the_input_does_not_matter(piece: int) -> None:
    """Text that arrives in pieces gives the same records, wherever it is cut."""
    assert _read(_TEXT[:20_000], piece=piece)[0] == _read(_TEXT[:20_000])[0]


@given(st.lists(st.tuples(st.integers(800, 11_900), st.binary(max_size=3), st.integers(0, 5)), max_size=12))
@settings(max_examples=30, deadline=None)
def test_damage_is_counted(damages: list[tuple[int, bytes, int]]) -> None:
    """Whatever bytes are lost or changed: what cannot be read is counted, and the rest is read as line by line."""
    text = bytearray(_TEXT[:12_000])
    for place, junk, gone in damages:
        text[place : place + gone] = junk.replace(b"\r", b"?")
    fast, recorded = _read(bytes(text))
    careful, also = _read_by_line(bytes(text))
    assert fast == careful
    assert recorded.losses.skipped == also.losses.skipped


def test_what_is_no_event_is_not_malformed() -> None:
    """Comments, blank lines, stacks and what trace-cmd prints first are passed over; losses are counted."""
    text = (
        b"# entries-in-buffer/entries-written: 90/100   #P:1\ncpus=1\n\n"
        b"CPU:0 [LOST 12 EVENTS]\n" + _GOOD + b" => __alloc_pages\nCPU 3 is empty\nCPU:2 [LOST 3 EVENTS]\n"
        b"             hog-155     [000] .....     4.605268: <stack trace>\n => kswapd\n"
        b"             hog-155     [000] .....     4.605268: <user stack trace>\n =>  <00007f12>\n"
    )
    rows, recorded = _read(text)
    assert len(rows) == 1
    assert (recorded.losses.skipped, recorded.losses.lost) == (0, 25)
    assert recorded.losses.lost_by_cpu == {-1: 10, 0: 12, 2: 3}


def test_losses_of_an_unknown_number() -> None:
    """A buffer that only knows that it lost something has lost one event or more; one is counted."""
    _, recorded = _read(_GOOD + b"CPU:1 [LOST EVENTS]\nCPU:2 [EVENTS DROPPED]\nCPU:3 [4 EVENTS DROPPED]\n")
    assert recorded.losses.skipped == 0, recorded.losses.examples
    assert recorded.losses.lost_by_cpu == {1: 1, 2: 1, 3: 4}


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b" 4.605268:", b" 18446744073.605268:"),
        (b" 4.605268:", b" 9223372037.605268:"),
        (b" 4.605268:", b" " + b"9" * 5000 + b".605268:"),
        (b"-155 ", b"-4294967295 "),
        (b"-155 ", b"-" + b"9" * 5000 + b" "),
        (b"[000]", b"[" + b"9" * 5000 + b"]"),
    ],
)
@pytest.mark.parametrize("times", [1, 8, 40])
def test_numbers_that_no_kernel_has_are_malformed(good: bytes, bad: bytes, times: int) -> None:
    """A time that 64 bits of nanoseconds do not hold, as of a clock set back below zero, and a pid or CPU too large."""
    odd = _GOOD.replace(good, bad)
    hexadecimal = odd.replace(b"mm_vmscan_kswapd_wake: nid=0 order=3", b"mm_page_free: page=0x12 pfn=0x12 order=0")
    rows, recorded = _read(_GOOD * 40 + (odd + hexadecimal) * times)
    assert {row[0] for row in rows} == {4_605_268_000}
    assert (len(rows), recorded.losses.skipped) == (40, 2 * times)


def test_a_cpu_with_a_large_number() -> None:
    """A CPU beyond 16 bits is the last one, however many lines there are of it."""
    odd = _GOOD.replace(b"[000]", b"[70000]")
    hexadecimal = odd.replace(b"mm_vmscan_kswapd_wake: nid=0 order=3", b"mm_page_free: page=0x12 pfn=0x12 order=0")
    assert {row[2] for times in (1, 40) for row in _read((odd + hexadecimal) * times)[0]} == {65535}


def test_malformed_lines_are_shown() -> None:
    """A truncated line, a key too few, a number that is none: each is skipped, counted, and kept as an example."""
    bad = [
        b"             hog-155     [000] .....     4.605268: mm_vmscan_kswapd_wa",
        b"             hog-155     [000] .....     4.605268: mm_vmscan_kswapd_wake: nid=0",
        b"             hog-155     [000] .....     4.605268: mm_vmscan_kswapd_wake: nid=zero order=0",
        b"             hog-155     [000] .....     4.6052: mm_vmscan_kswapd_wake: nid=0 order=0",
        b"\x00\xff garbage",
    ]
    rows, recorded = _read(_GOOD * 9 + b"\n".join(bad) + b"\n" + _GOOD)
    assert len(rows) == 10
    assert recorded.losses.skipped == 5
    assert recorded.losses.examples[1].endswith("nid=0")


def test_layouts_may_change_within_a_text() -> None:
    """Other widths of pid, CPU, flags and time are read too: older kernels, trace-cmd, nanoseconds, tgid."""
    lines = [
        b"             hog-155     [000] .....     4.605268: mm_vmscan_kswapd_wake: nid=0 order=1",
        b"          <idle>-0     [011] d.h3 99999.605268: mm_vmscan_kswapd_wake: nid=0 order=2",
        b"   kworker/u2:1-12      [000] ..... 100000.605268: mm_vmscan_kswapd_wake: nid=0 order=3",
        b"  a b-c d-e 1-4194303 [1023] .....  7.000000001: mm_vmscan_kswapd_wake: nid=0 order=4",
        b"             hog-155     (    155) [000] .....     4.605268: mm_vmscan_kswapd_wake: nid=0 order=5",
        b"             hog-155   [000]   4.605268: mm_vmscan_kswapd_wake:    nid=0 order=6",
    ]
    text = b"".join(line + b"\n" for line in lines for _ in range(6))
    rows, recorded = _read(text)
    assert recorded.losses.skipped == 0, recorded.losses.examples
    assert [row[-1] for row in rows] == [order for order in range(1, 7) for _ in range(6)]
    assert {row[3] for row in rows} == {"hog-155", "<idle>-0", "kworker/u2:1-12", "a b-c d-e 1-4194303"}
    assert {row[0] for row in rows} >= {7_000_000_001, 100_000_605_268_000}


def test_fields_of_other_kernels() -> None:
    """A renamed field is found, a new one left out, and one that some kernels do not print may be missing."""
    prefix = b"             hog-155     [000] .....     4.605268: "
    dirty = (
        b"balance_dirty_pages: bdi 43:0: limit=3623 setpoint=2415 dirty=1223 wb_setpoint=2410 wb_dirty=1224 "
        b"dirty_ratelimit=102400 task_ratelimit=201400 dirtied=16 dirtied_pause=16 paused=0 pause=-56 period=0 "
        b"think=56 cgroup_ino=1"
    )
    new = b"mm_vmscan_direct_reclaim_end: nr_reclaimed=32 memcg_id=1"
    rows, recorded = _read((prefix + dirty + b"\n" + prefix + new + b"\n") * 5)
    assert recorded.losses.skipped == 0, recorded.losses.examples
    assert rows[0][5:] == ("43:0", 3623, 2415, 1223, 2410, 1224, 102400, 201400, 16, 16, 0, -56, 0, 56, 1)
    assert rows[1][5:] == (32,)


def test_requests_as_the_kernel_prints_them() -> None:
    """They have no keys: device, operation, bytes, sector and length have their places; newer kernels add one."""
    prefix = b"             hog-155     [000] .....     4.605268: "
    lines = [
        b"block_rq_issue: 43,0 WS 86016 () 51200 + 168 [kworker/0:1H a]",
        b"block_rq_issue: 43,0 WS 86016 () 51200 + 168 none,0,0 [kworker/0:1H a]",
        b"block_rq_complete: 43,0 WS () 51200 + 168 [0]",
        b"block_rq_complete: 43,0 WS () 51200 + 168 be,0,4 [-5]",
    ]
    for times in (1, 50):
        rows, recorded = _read(b"".join((prefix + line + b"\n") * times for line in lines))
        assert recorded.losses.skipped == 0, recorded.losses.examples
        assert {row[5:] for row in rows} == {
            ("43,0", "WS", 86016, 51200, 168, "kworker/0:1H a"),
            ("43,0", "WS", 51200, 168, 0),
            ("43,0", "WS", 51200, 168, -5),
        }


def test_drops_of_newer_kernels() -> None:
    """Where the place of a drop is printed as a symbol, and the socket is, the reason is still read."""
    prefix = b"          <idle>-0       [000] ..s2.     4.605268: "
    new = (
        b"kfree_skb: skbaddr=00000000e1b2c3d4 rx_sk=0000000000000000 protocol=2048 location=tcp_rcv+0x1a2/0x9 reason: "
    )
    for times in (1, 50):
        rows, recorded = _read((prefix + new + b"PFMEMALLOC\n") * times)
        assert recorded.losses.skipped == 0, recorded.losses.examples
        assert {row[5:] for row in rows} == {(0xE1B2C3D4, 2048, 0, "PFMEMALLOC")}


def test_pointers_and_page_frames() -> None:
    """Pages are read as pointers and frame numbers, hashed pointers too; a pointer that is not printed is -1."""
    prefix = b"             hog-155     [000] .....     4.605268: "
    lines = [
        b"mm_page_free: page=00000000e1b2c3d4 pfn=0x1a2b order=0",
        b"mm_page_free: page=0xffffea0000a1b2c0 pfn=0x54ad order=0",
        b"mm_page_free: page=(____ptrval____) pfn=1234 order=9",
    ]
    rows, recorded = _read(b"".join(prefix + line + b"\n" for line in lines) * 3)
    assert recorded.losses.skipped == 0, recorded.losses.examples
    assert [row[5:] for row in rows[:3]] == [
        (0xE1B2C3D4, 0x1A2B, 0),
        (0xFFFFEA0000A1B2C0 - 2**64, 0x54AD, 0),
        (-1, 1234, 9),
    ]
