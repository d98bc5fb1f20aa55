"""Arrow and Parquet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netvm.report.export import export

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "N65-NBDcontrol-fw-10MBs-dr60-hog40" / "ftrace.txt.gz"


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_the_table_holds_the_records(tmp_path: Path, profile_of: Callable[[Path], Any], suffix: str) -> None:
    """Rows are events, columns their fields; what an event does not have is null."""
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / f"t.{suffix}"
    export(_TRACE, path)
    if suffix == "arrow":
        with path.open("rb") as file:
            table = pa.ipc.open_stream(file).read_all()
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
    profile = profile_of(_TRACE)
    rows = table.select(["event", "nr_reclaimed", "comm", "reason", "time_ns"]).to_pylist()
    assert len(rows) == profile.events
    ends = [row for row in rows if row["event"] == "mm_vmscan_direct_reclaim_end"]
    assert len(ends) == profile.direct_reclaim_latency_us.count
    assert all(row["nr_reclaimed"] is not None and row["reason"] is None for row in ends)
    reasons = {row["reason"] for row in rows if row["event"] == "mm_vmscan_throttled"}
    assert reasons == set(profile.by_cause_us["throttle"])
    assert rows[0]["time_ns"] / 1e9 == pytest.approx(profile.begin_s)
