"""Folded stacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from netvm.report.export import export

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D4-guestnbd-10MBs" / "ftrace.txt.gz"


def test_the_sum_of_the_stacks_is_the_time_waited(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Every wait is in one stack only: a throttle inside a reclaim is not counted twice."""
    export(_TRACE, tmp_path / "t.folded")
    lines = (tmp_path / "t.folded").read_text().splitlines()
    total_us = sum(int(line.rpartition(" ")[2]) for line in lines)
    profile = profile_of(_TRACE)
    outside = sum(
        row.total for task, row in profile.by_task_us.get("throttle", {}).items() if task.startswith("kswapd")
    )
    assert abs(total_us - profile.direct_reclaim_latency_us.total - outside) <= len(lines)
    assert all(line.count(";") >= 2 for line in lines)
