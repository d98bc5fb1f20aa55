"""The columns: what a frame costs, and that both views are the same memory."""

import sys
from pathlib import Path

import numpy as np
import pytest

from netvm.mm import frames as frames_module
from netvm.mm import frames as module
from netvm.mm.frames import BYTES_PER_FRAME, Frames, common_item, grown, is_blank

COLUMNS = ("flags", "block", "owner", "mapping", "index", "swap", "lru_slot", "pins", "memcg")


def test_every_column_starts_at_zero() -> None:
    """Zero means none everywhere: no owner but ``free``, no mapping, no slot."""
    frames = Frames(64)
    for name in COLUMNS:
        column = getattr(frames, name)
        assert column.shape == (64,)
        assert not column.any()


def test_a_frame_takes_what_the_module_says() -> None:
    """64 GiB of frames are emulated in a fraction of a gigabyte: 23 bytes each."""
    frames = Frames(64)
    assert sum(getattr(frames, name).itemsize for name in COLUMNS) == BYTES_PER_FRAME == 23


def test_single_frames_are_plain_integers_of_the_same_memory() -> None:
    """What is written through one view is read through the other, as int."""
    frames = Frames(64)
    for number, name in enumerate(COLUMNS, start=1):
        column, one = getattr(frames, name), getattr(frames, f"{name}_of")
        one[7] = number
        assert column[7] == number
        column[8] = number + 1
        assert one[8] == number + 1
        assert type(one[8]) is int


def test_flags_are_distinct_bits_of_the_column() -> None:
    """Sixteen marks in sixteen bits: none shares a bit with another."""
    flags = [value for name, value in vars(frames_module).items() if name.startswith("PG_")]
    assert len(flags) == 16
    assert np.bitwise_or.reduce(flags) == 0xFFFF
    assert all(value.bit_count() == 1 for value in flags)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_a_piece_is_blank_that_is_all_zero(dtype: type) -> None:
    """As numpy's any() has it, wherever the one item stands that is not zero, and whichever of its bytes."""
    column = np.zeros(9, dtype=dtype)
    assert is_blank(column)
    assert is_blank(column[:0])
    for place in range(9):
        column[:] = 0
        column[place] = np.iinfo(dtype).max ^ 0x7F
        assert is_blank(column) is not bool(column.any())
        assert is_blank(column[place + 1 :])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("items", [[], [0], [7, 7, 7], [7, 7, 8], [0, 7], [127] * 32])
def test_what_a_batch_has_in_common(dtype: type, items: list[int]) -> None:
    """The one item of a batch, whatever its width; a file's negative number keeps its sign."""
    signs = (1, -1) if dtype is np.int32 else (1,)
    for sign in signs:
        alike = {sign * item for item in items} or {0}
        found = common_item(np.array([sign * item for item in items], dtype=dtype))
        assert found == (alike.pop() if len(alike) == 1 else None)


@pytest.mark.parametrize("large_bytes", [0, 1 << 30])
def test_a_column_that_grows_keeps_its_items(monkeypatch: pytest.MonkeyPatch, large_bytes: int) -> None:
    """The old items come first, behind them all is blank, and both can be written, in a large column as in a small."""
    monkeypatch.setattr(module, "_LARGE_BYTES", large_bytes)
    monkeypatch.setattr(module, "_GROWN_ITEMS", 4)
    old = np.array([0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 9], dtype=np.int32)
    found = grown(old, 20)
    assert found.dtype == old.dtype
    assert found.tolist() == [*old.tolist(), *[0] * 9]
    found[19] = found[0] = 1
    assert old[0] == 0
    assert found[[0, 4, 19]].tolist() == [1, 7, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is resident")
def test_a_large_column_takes_the_memory_that_is_used() -> None:
    """Sixteen items here and there in 4 GiB are sixteen pages of memory, not as many huge ones."""
    before = _resident_pages()
    column = grown(np.ones(3, dtype=np.int8), 1 << 32)
    column[:: 1 << 28] = 1
    assert int(column[1 << 28]) == 1
    assert _resident_pages() - before < 2000


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
