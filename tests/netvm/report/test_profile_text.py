"""A profile in the terminal."""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netvm.report.profile_text import histogram_rows, profile_csv, profile_text, sparkline
from netvm.trace.histogram import Histogram

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D4-guestnbd-10MBs" / "ftrace.txt.gz"


@given(st.lists(st.integers(0, 10**9), max_size=2000))
def test_a_sparkline_fits_and_hides_nothing(values: list[int]) -> None:
    """A line is at most 80 wide; a column is blank only where everything is zero, full at the largest."""
    line = sparkline(values)
    assert len(line) <= 80
    assert (set(line) <= {" "}) == (not any(values))
    assert "█" in line or not any(values)
    assert sparkline([-1, -(2**63)]) == "  "


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=50))
def test_histogram_rows_count_everything(values_ns: list[int]) -> None:
    """Every value is in the row of its power of two of microseconds, and rows follow without a gap."""
    histogram = Histogram()
    for value in values_ns:
        histogram.add(value)
    index, counts = histogram.sparse()
    rows = histogram_rows({"index": index, "count": counts})
    assert sum(count for _, _, count in rows) == len(values_ns)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(rows))


def test_the_text_tells_the_figures(profile_of: Callable[[Path], Any]) -> None:
    """The figures of the profile are in the text, the losses first."""
    profile = profile_of(_TRACE)
    text = profile_text(profile, name="D4")
    lines = text.splitlines()
    assert lines[0].startswith(f"D4: {profile.events} events")
    assert lines[1] == "  nothing skipped or lost"
    assert f"{profile.kswapd.wakes} wakes" in text
    assert "worst waits" in text
    assert any("direct reclaim" in line and str(profile.direct_reclaim_latency_us.count) in line for line in lines)


def test_csv_has_a_line_for_every_latency(profile_of: Callable[[Path], Any]) -> None:
    """The CSV is as wide as its head everywhere and holds every group."""
    profile = profile_of(_TRACE)
    rows = list(csv.DictReader(profile_csv(profile).splitlines()))
    assert {row["group"] for row in rows} == {"all", "task", "cause"}
    (direct,) = [row for row in rows if row["kind"] == "direct_reclaim" and row["group"] == "all"]
    assert float(direct["max"]) == profile.direct_reclaim_latency_us.max
    assert int(direct["count"]) == profile.direct_reclaim_latency_us.count
