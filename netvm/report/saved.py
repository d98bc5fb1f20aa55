"""A profile out of a trace, or as ``netvm profile --json`` wrote it.

A trace never begins with a brace, so the first byte of what a file holds, packed or not, tells. What is saved is
checked as far as it is used: a profile that was edited, cut off, or written by a version with other fields is refused.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from netvm.errors import UsageError
from netvm.printable import printable_strings
from netvm.report.profile import Profile, Profiler
from netvm.report.source import open_pieces, read_trace
from netvm.trace.histogram import SUB_BITS, bucket_index
from netvm.trace.records import Recorded

__all__ = ["read_profile"]

_INDEX_MAX: Final = int(bucket_index(np.array([2**62]))[0])


class _Histogram(msgspec.Struct, kw_only=True):
    """The buckets of one kind of wait that are not empty."""

    sub_bits: int
    index: list[int]
    count: list[int]
    min_ns: int
    max_ns: int


def read_profile(path: Path) -> Profile:
    """Return the profile of a trace, or one that `netvm profile --json` has written; ``-`` is standard input.

    The file is opened once and read once, so it may be a pipe. Raises UsageError if it cannot be read or is neither.
    """
    recorded = Recorded()
    with open_pieces(path, recorded) as (head, pieces):
        if head.startswith(b"{"):
            try:
                return _saved(b"".join(pieces))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise UsageError(
                    f"{path}: no trace, and no profile that `netvm profile --json` wrote: {error}"
                ) from error
        profiler = Profiler(recorded)
        for batch in read_trace(pieces, path, recorded):
            profiler.add(batch)
    return profiler.profile()


def _saved(content: bytes) -> Profile:
    """Return a saved profile. Raises MsgspecError or ValueError, which say where it is wrong."""
    profile = msgspec.convert(printable_strings(msgspec.json.decode(content)), Profile)
    for who in ("direct", "kswapd"):
        if who not in profile.lru:
            raise ValueError(f"missing `{who}` - at `$.lru`")
    for kind, latency in profile.latency_us.items():
        if latency.count and kind not in profile.histograms:
            raise ValueError(f"missing `{kind}` - at `$.histograms`")
    for kind, stored in profile.histograms.items():
        try:
            histogram = msgspec.convert(stored, _Histogram)
        except msgspec.ValidationError as error:
            raise ValueError(f"{error} - at `$.histograms.{kind}`") from error
        counts = histogram.count
        if histogram.sub_bits != SUB_BITS:
            raise ValueError(f"{histogram.sub_bits}: must be {SUB_BITS} - at `$.histograms.{kind}.sub_bits`")
        if len(counts) != len(histogram.index) or any(count <= 0 for count in counts):
            raise ValueError(f"`count` must be positive and as many as `index` - at `$.histograms.{kind}`")
        if any(not 0 <= index <= _INDEX_MAX for index in histogram.index):
            raise ValueError(f"`index` must be from 0 to {_INDEX_MAX} - at `$.histograms.{kind}`")
        if kind in profile.latency_us and profile.latency_us[kind].count != sum(counts):
            raise ValueError(f"`count` must sum to that of `$.latency_us.{kind}` - at `$.histograms.{kind}`")
    return profile
