"""netvm's own file."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netvm.report.native import MAGIC, NativeWriter, read_native
from netvm.report.page import PageData
from netvm.report.source import open_trace
from netvm.trace.records import RECORD, Recorded

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"


def _written(path: Path) -> Path:
    with open_trace(_TRACE, keep_payload=True) as (recorded, batches), NativeWriter(path, recorded) as writer:
        for batch in batches:
            for start in range(0, len(batch), 1000):
                writer.write(batch[start : start + 1000])
        writer.about({"scenario": "x"})
    return path


def test_a_trace_comes_back(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Records, strings and tasks are the same again, in a fraction of the text's size."""
    path = _written(tmp_path / "t.nvt")
    again, first = profile_of(path), profile_of(_TRACE)
    assert again.about == {"scenario": "x"}
    assert (again.source, again.events) == ("netvm", first.events)
    assert again.histograms == first.histograms
    assert again.by_task_us == first.by_task_us
    assert again.events_by_name == first.events_by_name
    assert path.stat().st_size < 3 * _TRACE.stat().st_size


def test_a_cut_file_is_read_as_far_as_it_goes(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """A recording that was interrupted gives its whole blocks and says that it is cut off."""
    whole = _written(tmp_path / "t.nvt").read_bytes()
    seen = set()
    for size in range(len(MAGIC), len(whole), 7001):
        (tmp_path / "cut.nvt").write_bytes(whole[:size])
        profile = profile_of(tmp_path / "cut.nvt")
        seen.add(profile.events)
        assert profile.truncated or profile.events in (0, 1000, 2000, 3000, 4000, 5000)
    assert len(seen) > 3


def test_damage_is_no_crash(tmp_path: Path) -> None:
    """Any byte may be wrong: reading ends, and says so."""
    whole = bytearray(_written(tmp_path / "t.nvt").read_bytes())
    random = np.random.Generator(np.random.PCG64(1))
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[int(random.integers(len(MAGIC), len(whole)))] ^= int(random.integers(1, 256))
        recorded = Recorded()
        nr = sum(len(batch) for batch in read_native(iter([bytes(damaged)]), recorded))
        assert nr <= 5208
        assert recorded.losses.truncated or nr == 5208


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (b"INFO", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        (b"INFO", b"[1, 2]"),
        (b"INFO", b'{"explanation": 5}'),
        (b"INFO", b'{"explanation": ["the knot: a", null]}'),
        (b"STRS", b'{"names": [], "tasks": [["a", 1e400]]}'),
    ],
)
def test_a_block_that_is_not_what_it_should_be_is_damage(tmp_path: Path, tag: bytes, content: bytes) -> None:
    """It is noted, nothing of it is taken, and a page can be made of what comes before."""
    path = tmp_path / "t.nvt"
    packed = zlib.compress(content)
    path.write_bytes(MAGIC + struct.pack("<4sI", tag, len(packed)) + packed)
    with open_trace(path) as (recorded, batches):
        data = PageData(recorded, batches).as_dict()
    assert data["losses"] == "1 skipped as malformed, the file ends too early"
    assert recorded.facts == {}


def test_wide_values(tmp_path: Path) -> None:
    """Columns are as wide as their largest value needs, up to 64 bits."""
    recorded = Recorded()
    recorded.tasks.intern("a", 1)
    records = np.zeros(3, dtype=RECORD)
    records["event"] = 17
    records["args"][:, 0] = [-(2**63), 0, 2**63 - 1]
    records["time_ns"] = [0, 2**40, 2**41]
    with NativeWriter(tmp_path / "w.nvt", recorded) as writer:
        writer.write(records)
    (again,) = read_native(iter([(tmp_path / "w.nvt").read_bytes()]), Recorded())
    assert again["time_ns"].tolist() == records["time_ns"].tolist()
    assert again["args"][:, 0].tolist() == records["args"][:, 0].tolist()
