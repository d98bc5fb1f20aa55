"""The store of block versions, told in examples; its stateful test is beside it."""

import pytest

from netvm.errors import Errno
from storage_backends.export.store import BlockStore
from storage_backends.wire import BLOCK_SIZE, Blocks, Octets


def test_a_new_store_reads_as_never_written() -> None:
    """Every block of a new export has version 0."""
    assert BlockStore(3 * BLOCK_SIZE).read(0, 3 * BLOCK_SIZE) == Blocks.of((0, 0, 0))


def test_what_is_written_is_read() -> None:
    """A read returns the versions of the newest writes, block by block."""
    store = BlockStore(4 * BLOCK_SIZE)
    store.write(0, Blocks.of((1, 2, 3)))
    store.write(BLOCK_SIZE, Blocks.of((9,)))
    assert store.read(0, 4 * BLOCK_SIZE) == Blocks.of((1, 9, 3, 0))


def test_versions_are_shown_and_not_given_away() -> None:
    """An audit sees every block's newest version and cannot change it."""
    store = BlockStore(3 * BLOCK_SIZE)
    store.write(BLOCK_SIZE, Blocks.of((7,)))
    assert store.versions.tolist() == [0, 7, 0]
    with pytest.raises(ValueError, match="read-only"):
        store.versions[0] = 1


def test_a_payload_of_bytes_is_recognised() -> None:
    """A write that came over a real socket stores the versions its bytes render."""
    store = BlockStore(2 * BLOCK_SIZE)
    store.write(0, Octets(Blocks.of((5, 6)).to_bytes()))
    assert store.read(0, 2 * BLOCK_SIZE) == Blocks.of((5, 6))


def test_trimmed_blocks_read_as_never_written() -> None:
    """A trim forgets what its blocks held, and only those."""
    store = BlockStore(3 * BLOCK_SIZE)
    store.write(0, Blocks.of((1, 2, 3)))
    store.trim(BLOCK_SIZE, BLOCK_SIZE)
    assert store.read(0, 3 * BLOCK_SIZE) == Blocks.of((1, 0, 3))


@pytest.mark.parametrize(
    ("offset_bytes", "size_bytes", "message"),
    [
        (100, BLOCK_SIZE, "4096 bytes at 100 are not whole blocks of 4096"),
        (0, 100, "100 bytes at 0 are not whole blocks of 4096"),
        (BLOCK_SIZE, 2 * BLOCK_SIZE, "8192 bytes at 4096 are outside an export of 8192"),
        (-BLOCK_SIZE, BLOCK_SIZE, "4096 bytes at -4096 are outside an export of 8192"),
    ],
)
def test_ranges_it_cannot_hold_are_refused(offset_bytes: int, size_bytes: int, message: str) -> None:
    """Reads, writes and trims that are unaligned or outside name the range and the export."""
    store = BlockStore(2 * BLOCK_SIZE)
    with pytest.raises(ValueError, match=message):
        store.read(offset_bytes, size_bytes)
    with pytest.raises(ValueError, match=message):
        store.trim(offset_bytes, size_bytes)
    with pytest.raises(ValueError, match=message):
        store.write(offset_bytes, Octets(bytes(size_bytes)))


def test_a_payload_out_of_step_with_its_blocks_is_refused() -> None:
    """Whole blocks in length but beginning inside one are not whole blocks."""
    with pytest.raises(ValueError, match="beginning 512 bytes into a block"):
        BlockStore(2 * BLOCK_SIZE).write(0, Blocks.of((1, 2)).part(512, 512 + BLOCK_SIZE))


@pytest.mark.parametrize("size_bytes", [0, -BLOCK_SIZE, BLOCK_SIZE + 1])
def test_an_export_is_whole_blocks(size_bytes: int) -> None:
    """A size that is no positive number of blocks is refused and named."""
    with pytest.raises(ValueError, match=f"an export of {size_bytes} bytes is not whole blocks"):
        BlockStore(size_bytes)


def test_without_a_cache_nothing_is_lost() -> None:
    """By default a write is stable when it returns."""
    store = BlockStore(BLOCK_SIZE)
    store.write(0, Blocks.of((1,)))
    assert store.lose_uncommitted() == 0
    assert store.read(0, BLOCK_SIZE) == Blocks.of((1,))


def test_a_cache_loses_what_was_not_flushed() -> None:
    """After a power cut each block holds what it held at the last flush, however often it was written since."""
    store = BlockStore(2 * BLOCK_SIZE, write_cache=True)
    store.write(0, Blocks.of((1, 1)))
    store.flush()
    store.write(0, Blocks.of((2,)))
    store.write(0, Blocks.of((3,)))
    assert store.nr_uncommitted == 1
    assert store.lose_uncommitted() == 1
    assert store.read(0, 2 * BLOCK_SIZE) == Blocks.of((1, 1))


def test_a_forced_write_passes_the_cache() -> None:
    """A write with FUA is on the medium at once, over an older one that was not."""
    store = BlockStore(BLOCK_SIZE, write_cache=True)
    store.write(0, Blocks.of((1,)))
    store.write(0, Blocks.of((2,)), fua=True)
    assert store.lose_uncommitted() == 0
    assert store.read(0, BLOCK_SIZE) == Blocks.of((2,))


def test_a_full_disk_refuses_new_blocks_alone() -> None:
    """Blocks that were written once can be written and read; one that never was makes a write fail; EIO fails all."""
    store = BlockStore(4 * BLOCK_SIZE)
    store.write(0, Blocks.of((1, 2)))
    assert store.refusal(0, 4 * BLOCK_SIZE, write=True) == 0
    store.fault = Errno.ENOSPC
    assert store.refusal(0, 2 * BLOCK_SIZE, write=True) == 0
    assert store.refusal(BLOCK_SIZE, 2 * BLOCK_SIZE, write=True) == Errno.ENOSPC
    assert store.refusal(BLOCK_SIZE, 2 * BLOCK_SIZE, write=False) == 0
    store.fault = Errno.EIO
    assert store.refusal(0, BLOCK_SIZE, write=False) == Errno.EIO
