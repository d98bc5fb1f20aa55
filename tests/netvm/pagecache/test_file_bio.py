"""Bios of file pages: parts, and bios that end together."""

from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netvm.pagecache.file_bio import FileBio, IoEnd
from netvm.runtime.task import Task


def _bio(serial: int, block: int, nr_pages: int, io_end: IoEnd | None = None) -> FileBio:
    bio = FileBio(serial, block, np.zeros(nr_pages, dtype=np.int64), nr_pages, 0, 0, io_end)
    if io_end is not None:
        io_end.bios.append(bio)
    return bio


@given(parts=st.lists(st.integers(1, 5), min_size=1, max_size=8), data=st.data())
def test_a_bio_ends_with_its_last_part(parts: list[int], data: Any) -> None:
    """In whatever order its parts end, the last ends it, with all content and the error of the first that failed."""
    cuts = np.cumsum([0, *parts]).tolist()
    order = data.draw(st.permutations(range(len(parts))))
    errors = data.draw(st.lists(st.sampled_from([0, 5, 7]), min_size=len(parts), max_size=len(parts)))
    bio = _bio(1, 100, cuts[-1])
    content = np.arange(1, cuts[-1] + 1)
    for left, part in zip(range(len(parts) - 1, -1, -1), order, strict=True):
        ended = bio.end_part(100 + cuts[part], content[cuts[part] : cuts[part + 1]], errors[part])
        assert ended == ([] if left else [bio])
    assert bio.versions.tolist() == content.tolist()
    assert bio.error == next((errors[part] for part in order if errors[part]), 0)


def test_a_request_may_hold_parts_of_two_bios() -> None:
    """Of a request that goes on in the next bio each bio takes what is its own."""
    first, second = _bio(1, 10, 4), _bio(2, 14, 4)
    content = np.arange(12, 16)
    assert first.end_part(12, content, 0) == []
    assert second.end_part(12, content, 0) == []
    assert (first.versions.tolist(), second.versions.tolist()) == ([0, 0, 12, 13], [14, 15, 0, 0])
    assert (first.nr_left, second.nr_left) == (2, 2)


def test_bios_of_a_run_end_when_nobody_adds_to_it() -> None:
    """Two bios that are written end when the task lets go of the run, or with the last of them if it already has."""
    for lets_go_first in (True, False):
        io_end = IoEnd(cast("Task", object()))
        bios = [_bio(1, 0, 2, io_end), _bio(2, 2, 2, io_end)]
        assert bios[0].together == bios
        ends = []
        steps = [lambda bio=bio: bio.end_part(bio.block, np.zeros(2), 0) for bio in bios]

        def let_go(io_end: IoEnd = io_end) -> list[FileBio]:
            io_end.task = None
            return io_end.put()

        steps.insert(0 if lets_go_first else 2, let_go)
        ends = [step() for step in steps]
        assert ends == [[], [], bios]
