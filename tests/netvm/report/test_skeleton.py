"""Lines read by their skeleton, held against the careful reader of one line."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.report.digits import PAD, Chunk
from netvm.report.ftrace import FtraceReader
from netvm.report.ftraceline import LineReader
from netvm.report.skeleton import SkeletonReader
from netvm.trace.records import RECORD, Recorded
from netvm.trace.tracepoints import OTHER, TRACEPOINTS

_DATA = Path(__file__).parents[2] / "data" / "traces"
_LEFTS = (
    "             hog-152     [000] .....     4.934485: ",
    "             hog-152     [000] .N.2.     4.934485: ",
    "    kworker/u2:1-12      [001] .....    14.000001: ",
    "         kswapd0-22      [000] d....  2004.934705: ",
    "   x-1-9 -3       (     12) [000] .....     1.000000: ",
    "           swapon-7      [003]     4.123456789: ",
)
_FIELDS = (
    "mm_vmscan_direct_reclaim_end: nr_reclaimed=32",
    "mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_KERNEL|__GFP_ZERO",
    "mm_vmscan_throttled: nid=0 usec_timeout=20000 usect_delayed=8000 reason=VMSCAN_THROTTLE_WRITEBACK",
    (
        "balance_dirty_pages: bdi 8:16: limit=9 setpoint=8 dirty=7 bdi_setpoint=6 bdi_dirty=5 dirty_ratelimit=4 "
        "task_ratelimit=3 dirtied=2 dirtied_pause=1 paused=0 pause=-12 period=0 think=12 cgroup_ino=1"
    ),
    (
        "writeback_start: bdi 0:16: sb_dev 0:0 nr_pages=9223372036854775807 sync_mode=0 kupdate=0 range_cyclic=1 "
        "background=1 reason=background cgroup_ino=1"
    ),
    "rpc_stats_latency: task:00000001@00000001 xid=0x3e101976 nfsv3 NULL backlog=139 rtt=141 execute=289",
    "writeback_pages_written: 17",
    "mm_vmscan_kswapd_wake: nid=0 order=",
    "unheard_of: a=1",
)


def _same(text: str) -> int:
    """Read some text both ways; return how many records there are."""
    ways = []
    for by_skeleton in (True, False):
        recorded = Recorded()
        if by_skeleton:
            records = FtraceReader(recorded).read(text.encode())
        else:
            reader = LineReader(recorded)
            records = np.zeros(text.count("\n"), dtype=RECORD)
            good = [reader.read(line, record) for line, record in zip(text.splitlines(), records, strict=True) if line]
            records = records[np.array(good, dtype=np.bool_)]
        told = []
        for record in records:
            kinds = _kinds(int(record["event"]))
            args = [
                recorded.names[int(arg)] if kind == "s" else int(arg)
                for kind, arg in zip(kinds, record["args"], strict=False)
            ]
            flags = recorded.names[int(record["flags"])]
            task = recorded.tasks[int(record["task"])]
            told.append((int(record["time_ns"]), int(record["event"]), int(record["cpu"]), task, flags, args))
        ways.append((told, recorded.losses.skipped))
    assert ways[0] == ways[1]
    return len(ways[0][0])


def _kinds(event: int) -> list[str]:
    return ["s"] if event == OTHER else [field.kind for field in TRACEPOINTS[event].fields]


@given(
    st.lists(
        st.tuples(st.sampled_from(_LEFTS), st.sampled_from(_FIELDS), st.integers(0, 10**6)), min_size=1, max_size=12
    )
)
def test_lines_say_what_the_careful_reader_says(lines: list[tuple[str, str, int]]) -> None:
    """Whatever lines stand together, and whatever their numbers, both ways read the same."""
    text = "".join(
        (left + field.replace("32", str(number)).replace("17", str(number)) + "\n") * 5 for left, field, number in lines
    )
    _same(text)


@given(st.data())
def test_damage_is_never_read_over(data: st.DataObject) -> None:
    """A character changed, lost or doubled in a line of known shape: what is read is what a careful reader reads."""
    left, field = data.draw(st.sampled_from(_LEFTS)), data.draw(st.sampled_from(_FIELDS))
    good = left + field
    place = data.draw(st.integers(0, len(good) - 1))
    with_what = data.draw(st.sampled_from(["", "0", "7", "-", " ", "=", ":", "x", ".", good[place] * 2]))
    damaged = good[:place] + with_what + good[place + 1 :]
    _same((good + "\n") * 6 + (damaged + "\n") * 5 + good + "\n")


@pytest.mark.parametrize("name", ["D2-guestnbd-2ms-a", "N65-NBDcontrol-fw-10MBs-dr60-hog40"])
def test_recorded_lines_are_read_by_their_skeleton(name: str) -> None:
    """Of a recorded trace all but the first lines of a kind are read here, and say what the careful reader says."""
    text = gzip.decompress((_DATA / name / "ftrace.txt.gz").read_bytes())[: 1 << 17]
    lines = [line for line in text.decode().split("\n")[:-1] if not line.startswith("#")]
    assert _same("\n".join(lines) + "\n") == len(lines)
    recorded = Recorded()
    reader = SkeletonReader(recorded, LineReader(recorded))
    content = ("\n".join(lines) + "\n").encode()
    chunk = Chunk(content)
    ends = chunk.find(b"\n")
    starts = np.concatenate([[PAD], ends[:-1] + 1])
    done = reader.read(chunk, starts, ends, np.zeros(len(lines), dtype=RECORD))
    assert done.mean() > 0.95
