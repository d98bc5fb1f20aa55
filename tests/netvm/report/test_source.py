"""Opening a trace: packed or not, whole or not, known or not."""

import gzip
import sys
import zlib
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


def test_all_that_can_be_unpacked_is_read(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Of a packed file that is cut off or damaged every whole line before that place is read."""
    packed = _PACKED.read_bytes()
    cut = tmp_path / "cut"
    for nr_bytes in (1000, 20_000):
        cut.write_bytes(packed[:nr_bytes])
        there = zlib.decompressobj(31).decompress(packed[:nr_bytes]).decode().split("\n")[:-1]
        profile = profile_of(cut)
        assert (profile.events, profile.truncated) == (sum(not line.startswith("#") for line in there), True)
    cut.write_bytes(packed[:-8] + bytes(8))
    profile = profile_of(cut)
    assert (profile.events, profile.truncated, profile.skipped) == (profile_of(_PACKED).events, True, 1)


def test_members_follow_each_other(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Packed files that were put together are one text, padding or not."""
    text = gzip.decompress(_PACKED.read_bytes())
    both = tmp_path / "both"
    for padding in (b"", bytes(600)):
        both.write_bytes(gzip.compress(text[:100_000]) + padding + gzip.compress(text[100_000:]) + padding)
        assert profile_of(both) == profile_of(_PACKED)


@pytest.mark.parametrize("content", [b"\x1f\x8b", _PACKED.read_bytes()[:12], b"\x1f\x8b" + bytes(100)])
def test_a_file_of_which_nothing_can_be_unpacked(
    tmp_path: Path, profile_of: Callable[[Path], Any], content: bytes
) -> None:
    """It is refused: nothing is known of what was in it."""
    path = tmp_path / "packed"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="unpacked"):
        profile_of(path)


def test_a_text_that_ends_inside_a_line(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """It ends too early, though what is there of the line may be read: a number may have lost its last digits."""
    perf = b"hog 155 [000] 4.605268: vmscan:mm_vmscan_direct_reclaim_end: nr_reclaimed=32\n"
    path = tmp_path / "text"
    for text in (gzip.decompress(_PACKED.read_bytes()), perf):
        path.write_bytes(text)
        assert not profile_of(path).truncated
        path.write_bytes(text.rstrip(b"\n")[:-1])
        assert profile_of(path).truncated


def test_a_directory_is_not_its_trace(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Of a directory of a capture or a recorded run the error names the trace."""
    with pytest.raises(UsageError, match=r"Is a directory; its trace is .*/ftrace\.txt\.gz$"):
        profile_of(_PACKED.parent)
    with pytest.raises(UsageError, match=r"Is a directory$"):
        profile_of(tmp_path)


def test_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch, profile_of: Callable[[Path], Any]) -> None:
    """A file whose first read fails, and a standard input that is closed, are mistakes of the user's."""
    with pytest.raises(UsageError, match="/proc/self/mem: cannot be read: Input/output error"):
        profile_of(Path("/proc/self/mem"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        profile_of(Path("-"))


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
        (bytes(range(256)), "binary; must be ftrace text"),
        (b'{"source": "ftrace"}', "a profile; what is asked for needs the trace"),
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
