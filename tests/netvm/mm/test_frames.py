"""The columns: what a frame costs, and that both views are the same memory."""

import numpy as np
import pytest

from netvm.mm import frames as frames_module
from netvm.mm.frames import BYTES_PER_FRAME, Frames, common_item, is_blank

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
