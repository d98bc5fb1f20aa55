"""Records in order of time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.report import reorder
from netvm.report.reorder import in_order
from netvm.trace.records import RECORD, Losses, RecordArray


def _batches(times: list[list[int]]) -> list[RecordArray]:
    batches = []
    number = 0
    for part in times:
        batch = np.zeros(len(part), dtype=RECORD)
        batch["time_ns"] = part
        batch["cpu"] = np.arange(number, number + len(part))
        number += len(part)
        batches.append(batch)
    return batches


_TIMES = st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=8)


@given(_TIMES)
def test_within_the_window_everything_is_sorted(times: list[list[int]]) -> None:
    """What fits the window comes out in order, equally old records as they stood, and disorder is counted."""
    losses = Losses()
    told = list(in_order(iter(_batches(times)), losses))
    flat = [time for part in times for time in part]
    rows = [(int(r["time_ns"]), int(r["cpu"])) for batch in told for r in batch]
    assert rows == sorted((time, number) for number, time in enumerate(flat))
    newest = [max(flat[:index], default=-1) for index in range(len(flat))]
    assert losses.reordered == sum(time < before for time, before in zip(flat, newest, strict=True))
    assert losses.late == 0


@given(_TIMES)
def test_beyond_the_window_nothing_is_dropped(times: list[list[int]]) -> None:
    """A record that comes too late is counted and handed on all the same."""
    losses = Losses()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reorder, "WINDOW", 6)
        told = list(in_order(iter(_batches(times)), losses))
    got = [int(time) for batch in told for time in batch["time_ns"]]
    assert sorted(got) == sorted(time for part in times for time in part)
    assert bool(losses.late) == (got != sorted(got))
