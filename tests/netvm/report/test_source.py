"""Opening a trace: packed or not, whole or not, known or not."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netvm.errors import UsageError

_PACKED = Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"


def test_plain_gzip_and_zstd_are_the_same(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """How a trace is packed makes no difference, and its name neither."""
    text = gzip.decompress(_PACKED.read_bytes())
    plain = tmp_path / "plain.gz"
    plain.write_bytes(text)
    assert profile_of(plain) == profile_of(_PACKED)
    zstandard = pytest.importorskip("zstandard")
    packed = tmp_path / "packed"
    packed.write_bytes(zstandard.compress(text[:100_000]) + zstandard.compress(text[100_000:]))
    assert profile_of(packed) == profile_of(_PACKED)


def test_a_file_that_ends_too_early(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """What is there is read, and that something is missing is said."""
    cut = tmp_path / "cut"
    cut.write_bytes(_PACKED.read_bytes()[:20_000])
    profile = profile_of(cut)
    assert profile.truncated
    assert 1000 < profile.events < 5208
    damaged = bytearray(_PACKED.read_bytes())
    damaged[20_000:20_050] = bytes(50)
    cut.write_bytes(bytes(damaged))
    assert profile_of(cut).truncated


def test_a_zstd_file_that_ends_too_early(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """What could be unpacked is read; that the rest is cut off, or damaged, is said."""
    zstandard = pytest.importorskip("zstandard")
    packed = bytearray(zstandard.compress(gzip.decompress(_PACKED.read_bytes())))
    cut = tmp_path / "cut"
    cut.write_bytes(packed[: len(packed) // 2])
    whole = profile_of(_PACKED).events
    assert profile_of(cut).truncated
    assert 1000 < profile_of(cut).events < whole
    packed[len(packed) // 2] ^= 0xFF
    cut.write_bytes(packed)
    assert profile_of(cut).truncated
    assert profile_of(cut).skipped


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"\x17\x08Dtracing6\0", "trace-cmd report"),
        (b"PERFILE2xxxx", "perf script"),
        (b"hello\nworld\n", "no event in its first lines"),
        (bytes(range(256)), "no event"),
    ],
)
def test_what_is_no_trace_is_refused(
    tmp_path: Path, profile_of: Callable[[Path], Any], content: bytes, remedy: str
) -> None:
    """A file of another kind is refused in one line that says what would be right."""
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=remedy):
        profile_of(path)
    with pytest.raises(UsageError, match="cannot be read"):
        profile_of(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be read"):
        profile_of(tmp_path)
