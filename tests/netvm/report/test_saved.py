"""Profiles of traces, and profiles that were saved."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netvm.errors import UsageError
from netvm.report.saved import read_profile

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"


def test_a_saved_profile_stands_for_its_trace(tmp_path: Path) -> None:
    """What `netvm profile --json` writes is read as what it was written of."""
    profile = read_profile(_TRACE)
    saved = tmp_path / "saved.json"
    saved.write_bytes(msgspec.json.encode(profile))
    assert msgspec.json.encode(read_profile(saved)) == saved.read_bytes()


def test_a_saved_profile_may_be_packed(tmp_path: Path) -> None:
    """As a trace may; one that is cut off is refused, for a profile has no part that stands for itself."""
    content = msgspec.json.encode(read_profile(_TRACE))
    saved = tmp_path / "saved"
    saved.write_bytes(gzip.compress(content))
    assert msgspec.json.encode(read_profile(saved)) == content
    saved.write_bytes(gzip.compress(content)[:-2000])
    with pytest.raises(UsageError, match=r"saved: no trace, and no profile .*: Input data was truncated"):
        read_profile(saved)


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_pipe_is_read_from_its_beginning(tmp_path: Path, *, is_saved: bool) -> None:
    """To find out what a file holds nothing is read that cannot be read again, so a pipe loses nothing."""
    source = _TRACE
    if is_saved:
        source = tmp_path / "saved.json"
        source.write_bytes(msgspec.json.encode(read_profile(_TRACE)))
    with subprocess.Popen(["cat", source], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        profile = read_profile(Path(f"/dev/fd/{cat.stdout.fileno()}"))
    assert (profile.events, profile.skipped) == (5208, 0)


def test_a_dash_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is called like standard input is not read in its place."""
    monkeypatch.chdir(tmp_path)
    Path("-").write_bytes(msgspec.json.encode(read_profile(_TRACE)))
    Path("empty").touch()
    with Path("empty").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert read_profile(Path("-")).events == 0


def _without_histograms(profile: dict[str, Any]) -> None:
    profile["histograms"] = {}


def _without_direct(profile: dict[str, Any]) -> None:
    del profile["lru"]["direct"]


def _one_bucket_less(profile: dict[str, Any]) -> None:
    profile["histograms"]["direct_reclaim"]["index"].pop()


def _one_wait_more(profile: dict[str, Any]) -> None:
    profile["histograms"]["direct_reclaim"]["count"][0] += 1


def _other_buckets(profile: dict[str, Any]) -> None:
    profile["histograms"]["direct_reclaim"]["sub_bits"] = 3


def _no_such_bucket(profile: dict[str, Any]) -> None:
    profile["histograms"]["direct_reclaim"]["index"][0] = -1


def _no_buckets(profile: dict[str, Any]) -> None:
    profile["histograms"]["direct_reclaim"] = {}


def _older(profile: dict[str, Any]) -> None:
    del profile["activity"]


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (_without_histograms, "missing `direct_reclaim` - at `$.histograms`"),
        (_without_direct, "missing `direct` - at `$.lru`"),
        (_one_bucket_less, "`count` must be positive and as many as `index` - at `$.histograms.direct_reclaim`"),
        (_one_wait_more, "`count` must sum to that of `$.latency_us.direct_reclaim`"),
        (_other_buckets, "3: must be 7 - at `$.histograms.direct_reclaim.sub_bits`"),
        (_no_such_bucket, "`index` must be from 0 to "),
        (_no_buckets, "missing required field `sub_bits` - at `$.histograms.direct_reclaim`"),
        (_older, "missing required field `activity`"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], where: str
) -> None:
    """One that was edited or has other fields is refused in one line that names the place."""
    profile = json.loads(msgspec.json.encode(read_profile(_TRACE)))
    spoil(profile)
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(profile))
    with pytest.raises(UsageError) as refused:
        read_profile(path)
    assert str(refused.value).startswith(f"{path}: no trace, and no profile that `netvm profile --json` wrote: ")
    assert where in str(refused.value)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_what_is_nested_too_deep_is_no_profile(tmp_path: Path, depth: int) -> None:
    """Whoever reads it first, the decoder or we."""
    saved = tmp_path / "saved.json"
    saved.write_text('{"a":' + "[" * depth + "]" * depth + "}")
    with pytest.raises(UsageError, match=r"saved\.json: no trace, and no profile .*: maximum recursion depth"):
        read_profile(saved)
