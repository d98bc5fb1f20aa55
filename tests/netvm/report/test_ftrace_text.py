"""ftrace text, out."""

import gzip
from pathlib import Path

import pytest

from netvm.report.ftrace_text import HEAD, ftrace_lines
from netvm.report.source import open_trace

_DATA = Path(__file__).parents[2] / "data" / "traces"


@pytest.mark.parametrize("name", ["D2-guestnbd-2ms-a", "N65-NBDcontrol-fw-10MBs-dr60-hog40", "U4-knob0-noflood"])
def test_what_the_kernel_printed_comes_out_again(name: str) -> None:
    """Every line of a recorded trace is written as the kernel wrote it, to the byte."""
    path = _DATA / name / "ftrace.txt.gz"
    with open_trace(path, keep_payload=True) as (recorded, batches):
        written = "".join(ftrace_lines(batches, recorded)).splitlines()
    right = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert written[: len(HEAD.splitlines())] == HEAD.splitlines()
    assert [line for line in written if not line.startswith("#")] == [
        line.rstrip() for line in right if line and not line.startswith("#")
    ]
