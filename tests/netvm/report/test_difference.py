"""Two profiles side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netvm.report.difference import compare_profiles, difference_text

_DATA = Path(__file__).parents[2] / "data" / "traces"
_A, _B = (_DATA / name / "ftrace.txt.gz" for name in ("D2-guestnbd-2ms-a", "D4-guestnbd-10MBs"))


def test_a_recording_against_itself(profile_of: Callable[[Path], Any]) -> None:
    """Nothing has changed: every ratio is 1, and its interval holds 1."""
    profile = profile_of(_A)
    same = compare_profiles(profile, profile, names=("a", "b"))
    assert {ratio.ratio for ratio in same.ratios} == {1.0}
    assert all(ratio.low <= 1 <= ratio.high for ratio in same.ratios)
    assert any("no change that can be told" in text for text in same.sentences)


def test_a_recording_that_is_not_whole(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Its counts are too small for a comparison, so that is a sentence; of whole ones there is none."""
    whole = profile_of(_A)
    assert not any("whole" in text for text in compare_profiles(whole, whole, names=("a", "b")).sentences)
    cut = tmp_path / "cut"
    cut.write_bytes(_A.read_bytes()[:20_000])
    sentences = compare_profiles(whole, profile_of(cut), names=("a", "b")).sentences
    assert [text for text in sentences if "whole" in text] == [
        "b is not whole: 1 skipped as malformed, the file ends too early"
    ]


def test_a_slower_disk(profile_of: Callable[[Path], Any]) -> None:
    """A link of 10 MB/s makes the tail of direct reclaim many times longer, and the interval says it is no chance."""
    a, b = profile_of(_A), profile_of(_B)
    difference = compare_profiles(a, b, names=("A", "B"))
    (p99,) = [ratio for ratio in difference.ratios if (ratio.kind, ratio.quantile) == ("direct_reclaim", "p99")]
    assert p99.ratio == pytest.approx(b.latency_us["direct_reclaim"].p99 / a.latency_us["direct_reclaim"].p99, rel=0.02)
    assert 10 < p99.low <= p99.ratio <= p99.high
    text = difference_text(difference)
    assert "x longer" in text
    assert "140 times before, 55 after" in text
    assert difference.figures["kswapd_wakes"] == [50, 102]


def test_the_same_seed_gives_the_same_intervals(profile_of: Callable[[Path], Any]) -> None:
    """Redrawing is seeded: two comparisons are equal to the last bit."""
    a, b = profile_of(_A), profile_of(_B)
    assert compare_profiles(a, b, names=("A", "B")) == compare_profiles(a, b, names=("A", "B"))
