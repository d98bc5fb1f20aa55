"""trace.dat, read back by trace-cmd where it is at hand, and page by page."""

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netvm.report.export import export
from netvm.report.tracedat import PAGE_BYTES, format_file, write_trace_dat
from netvm.trace.records import RECORD, Recorded
from netvm.trace.tracepoints import BY_NAME, OTHER

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"


@pytest.mark.skipif(shutil.which("trace-cmd") is None, reason="no trace-cmd")
def test_trace_cmd_reads_it(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """What trace-cmd reports of our file has the profile of the trace it was made of."""
    export(_TRACE, tmp_path / "t.dat")
    ran = subprocess.run(["trace-cmd", "report", "-i", tmp_path / "t.dat"], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    (tmp_path / "report.txt").write_text(ran.stdout)
    assert profile_of(tmp_path / "report.txt") == profile_of(_TRACE)


def test_a_format_file() -> None:
    """Fields stand one behind the other, strings as __data_loc, and the print format has an argument for each."""
    text = format_file(BY_NAME["mm_vmscan_throttled"])
    assert "\tfield:long nid;\toffset:8;\tsize:8;\tsigned:1;\n" in text
    assert "\tfield:__data_loc char[] reason;\toffset:32;\tsize:4;\tsigned:1;\n" in text
    assert text.endswith(
        'print fmt: "nid=%ld usec_timeout=%ld usect_delayed=%ld reason=%s", REC->nid, REC->usec_timeout, '
        "REC->usect_delayed, __get_str(reason)\n"
    )


def test_times_survive_pages_and_pauses(tmp_path: Path) -> None:
    """Every event is found in the pages of its CPU at its time, however long the pause before it."""
    random = np.random.Generator(np.random.PCG64(7))
    recorded = Recorded()
    recorded.tasks.intern("a", 5)
    records = np.zeros(2000, dtype=RECORD)
    records["time_ns"] = np.cumsum(random.choice([0, 1, 5000, 2**27 - 1, 2**27, 2**40], size=2000))
    records["time_ns"][1000:] += 2**60
    records["event"] = BY_NAME["mm_vmscan_kswapd_wake"].number
    records["cpu"] = random.integers(0, 3, size=2000)
    records["event"][7] = OTHER
    path = tmp_path / "t.dat"
    assert write_trace_dat([records], recorded, path) == 1
    data = path.read_bytes()
    table = data.index(b"flyrecord\0") + len(b"flyrecord\0")
    for cpu in range(3):
        offset, size = struct.unpack_from("<QQ", data, table + 16 * cpu)
        assert offset % PAGE_BYTES == size % PAGE_BYTES == 0
        times = [time for at in range(offset, offset + size, PAGE_BYTES) for time in _times(data[at : at + PAGE_BYTES])]
        mine = (records["cpu"] == cpu) & (records["event"] != OTHER)
        assert times == records["time_ns"][mine].tolist()


def _times(page: bytes) -> list[int]:
    now, commit = struct.unpack_from("<QQ", page)
    at, found = 16, []
    while at < 16 + commit:
        (word,) = struct.unpack_from("<I", page, at)
        now += word >> 5
        if word & 31 == 30:
            now += struct.unpack_from("<I", page, at + 4)[0] << 27
            at += 8
            continue
        assert word & 31
        found.append(now)
        at += 4 + 4 * (word & 31)
    return found


@pytest.mark.skipif(shutil.which("trace-cmd") is None, reason="no trace-cmd")
def test_switches_survive_trace_cmds_plugins(
    tmp_path: Path, trace_file: Any, profile_of: Callable[[Path], Any]
) -> None:
    """The scheduler's events are read by trace-cmd's plugins, which print them their own way, and by us after that."""
    trace = trace_file(
        "# tracer: nop\n#\n"
        "          <idle>-0       [000] .....     1.000000: sched_wakeup: comm=hog pid=7 prio=120 target_cpu=000\n"
        "          <idle>-0       [000] .....     1.000010: sched_switch: prev_comm=swapper prev_pid=0 prev_prio=120 "
        "prev_state=R ==> next_comm=hog next_pid=7 next_prio=120\n"
        "             hog-7       [000] .....     1.000020: mm_vmscan_direct_reclaim_begin: "
        "order=0 gfp_flags=GFP_NOIO\n"
        "             hog-7       [000] .....     1.000050: sched_switch: prev_comm=hog prev_pid=7 prev_prio=120 "
        "prev_state=D ==> next_comm=b:1 next_pid=8 next_prio=120\n"
        "             b:1-8       [000] .....     1.000060: sched_switch: prev_comm=b:1 prev_pid=8 prev_prio=120 "
        "prev_state=S ==> next_comm=hog next_pid=7 next_prio=120\n"
        "             hog-7       [000] .....     1.000090: mm_vmscan_direct_reclaim_end: nr_reclaimed=1\n"
    )
    export(trace, tmp_path / "t.dat")
    ran = subprocess.run(["trace-cmd", "report", "-i", tmp_path / "t.dat"], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    (tmp_path / "report.txt").write_text(ran.stdout)
    profile = profile_of(tmp_path / "report.txt")
    assert profile == profile_of(trace)
    assert profile.skipped == 0
    assert (profile.pressure.some.total_us, profile.pressure.full.total_us) == (70, 60)
