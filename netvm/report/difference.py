"""Two profiles side by side: what became longer, what shorter, and how sure that is.

For every kind of wait that both have, the quantiles of the second are divided by those of the first. How far a ratio
can be trusted is estimated by the bootstrap (Efron 1979): both sets of waits are drawn again, with replacement and by
a fixed seed, and the middle 95 % of the ratios so found are the interval. A ratio whose interval has 1 inside it is no
change that the recordings can show. The waits come from the profiles' histograms, so two profiles on disk are enough.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from netvm.report.profile import Latency, Profile
from netvm.trace.histogram import bucket_bounds

__all__ = ["Difference", "Ratio", "compare_profiles", "difference_text"]

DRAWS: Final = 1000
_SEED: Final = 20_041
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Floats = npt.NDArray[np.float64]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One quantile of one kind of wait in both profiles, in microseconds."""

    kind: str
    quantile: str
    a: float
    b: float
    ratio: float | None
    """``b / a``; ``None`` if ``a`` is 0."""
    low: float | None
    """The interval that holds 95 % of the ratios of redrawn waits."""
    high: float | None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What ``netvm diff --json`` prints."""

    a: str
    b: str
    latency_us: dict[str, dict[str, Latency]]
    """By kind of wait, then ``a`` and ``b``."""
    ratios: list[Ratio]
    figures: dict[str, list[float]]
    """Sums and counts of both: ``[a, b]``."""
    sentences: list[str]


def compare_profiles(a: Profile, b: Profile, *, names: tuple[str, str]) -> Difference:
    """Return the difference of two profiles."""
    kinds = [kind for kind in {**a.latency_us, **b.latency_us} if kind in a.latency_us or kind in b.latency_us]
    latencies = {
        kind: {"a": a.latency_us.get(kind, Latency()), "b": b.latency_us.get(kind, Latency())} for kind in sorted(kinds)
    }
    ratios = [
        ratio
        for kind in sorted(kinds)
        if kind in a.histograms and kind in b.histograms
        for ratio in _ratios(kind, a.histograms[kind], b.histograms[kind])
    ]
    figures = {name: [x, y] for (name, x), (_, y) in zip(_figures(a), _figures(b), strict=True)}
    return Difference(
        a=names[0],
        b=names[1],
        latency_us=latencies,
        ratios=ratios,
        figures=figures,
        sentences=[*_sentences(latencies, ratios), *_figure_sentences(figures), *_loss_sentences(a=a, b=b)],
    )


def _figures(profile: Profile) -> Iterator[tuple[str, float]]:
    yield "span_s", profile.span_s
    yield "events", profile.events
    yield "kswapd_wakes", profile.kswapd.wakes
    yield "kswapd_active_us", profile.kswapd.active_us
    for who, lru in sorted(profile.lru.items()):
        yield f"scanned_{who}", lru.scanned
        yield f"reclaimed_{who}", lru.reclaimed
        yield f"efficiency_{who}", lru.efficiency or 0.0
    yield "pressure_some_us", profile.pressure.some.total_us


def _ratios(kind: str, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Ratio]:
    """Generate the ratios of a kind of wait that both have."""
    if not a["index"] or not b["index"]:
        return
    generator = np.random.Generator(np.random.PCG64(_SEED))
    redrawn = {"a": _redrawn(a, generator), "b": _redrawn(b, generator)}
    for name, q in _QUANTILES.items():
        x, y = (float(_quantiles(side, _counts(side)[None, :], q)[0]) for side in (a, b))
        below, above = (_quantiles(side, redrawn[key], q) for key, side in (("a", a), ("b", b)))
        spread = above[below > 0] / below[below > 0]
        low, high = (float(np.quantile(spread, share)) for share in (0.025, 0.975)) if len(spread) else (None, None)
        yield Ratio(
            kind=kind,
            quantile=name,
            a=x / 1000,
            b=y / 1000,
            ratio=y / x if x else None,
            low=low,
            high=high,
        )


def _counts(side: dict[str, Any]) -> npt.NDArray[np.int64]:
    return np.array(side["count"], dtype=np.int64)


def _redrawn(side: dict[str, Any], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the buckets' counts of waits drawn again; shape ``(DRAWS, buckets)``."""
    counts = _counts(side)
    drawn: npt.NDArray[np.int64] = generator.multinomial(int(counts.sum()), counts / counts.sum(), size=DRAWS)
    return drawn


def _quantiles(side: dict[str, Any], counts: npt.NDArray[np.int64], q: float) -> Floats:
    """Return the quantile of each row of counts, nearest rank, in nanoseconds."""
    bounds = [bucket_bounds(index) for index in side["index"]]
    middles = np.array([min(max((low + high - 1) / 2, side["min_ns"]), side["max_ns"]) for low, high in bounds])
    totals = counts.sum(axis=1, keepdims=True)
    ranks = np.maximum(1, np.ceil(q * totals - 1e-9))
    found: Floats = middles[np.argmax(np.cumsum(counts, axis=1) >= ranks, axis=1)]
    return found


def _sentences(latencies: dict[str, dict[str, Latency]], ratios: list[Ratio]) -> Iterator[str]:
    for kind, both in latencies.items():
        a, b = both["a"], both["b"]
        name = kind.replace("_", " ")
        if not a.count or not b.count:
            if a.count != b.count:
                yield f"{name}: {a.count} times before, {b.count} after"
            continue
        of_kind = {ratio.quantile: ratio for ratio in ratios if ratio.kind == kind}
        clauses = "; ".join(_clause(of_kind[quantile], told) for quantile, told in (("p50", "median"), ("p99", "p99")))
        yield f"{name}: {_times(a.count, b.count)}; {clauses}"


def _times(a: int, b: int) -> str:
    return f"{b} times as before" if a == b else f"{a} times before, {b} after"


def _clause(ratio: Ratio, name: str) -> str:
    """Say what became of one quantile."""
    figures = f"{name} {_told(ratio.a)} -> {_told(ratio.b)}"
    if ratio.ratio is None or ratio.low is None or ratio.high is None:
        return figures
    interval = f"95 % interval {ratio.low:.2f} to {ratio.high:.2f}"
    if ratio.low <= 1.0 <= ratio.high:
        return f"{figures}, no change that can be told ({ratio.ratio:.2f} x, {interval})"
    word = "longer" if ratio.ratio > 1 else "as long"
    return f"{figures}, {ratio.ratio:.2f} x {word} ({interval})"


def _told(value_us: float) -> str:
    return f"{value_us / 1000:.2f} ms" if value_us >= 1000 else f"{value_us:.1f} us"


def _figure_sentences(figures: dict[str, list[float]]) -> Iterator[str]:
    for who in ("kswapd", "direct"):
        (a, b), (s, t) = figures[f"scanned_{who}"], figures[f"reclaimed_{who}"]
        if a or b:
            yield (
                f"{who} scanned {a:.0f} pages before, {b:.0f} after, and reclaimed {s:.0f} and {t:.0f} "
                f"({_share(s, a)}, {_share(t, b)})"
            )


def _loss_sentences(**profiles: Profile) -> Iterator[str]:
    """Say which of the two is not whole: its counts are too small."""
    for side, profile in profiles.items():
        told = profile.losses.told()
        if told:
            yield f"{side} is not whole: {told}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def difference_text(difference: Difference) -> str:
    """Return a difference for a reader: sentences first, then the table."""
    lines = [f"a: {difference.a}", f"b: {difference.b}", *(f"- {text}" for text in difference.sentences)]
    if difference.ratios:
        lines.append(f"{'latency (us)':22}{'':5}{'a':>12}{'b':>12}{'b/a':>9}   95 % interval")
    for ratio in difference.ratios:
        told = "-" if ratio.ratio is None else f"{ratio.ratio:.3f}"
        interval = "-" if ratio.low is None else f"{ratio.low:.3f} .. {ratio.high:.3f}"
        kind = ratio.kind.replace("_", " ")
        lines.append(f"  {kind:20}{ratio.quantile:5}{ratio.a:12.1f} {ratio.b:11.1f}{told:>9}   {interval}")
    lines.append(f"{'figures':27}{'a':>12}{'b':>12}")
    for name, (a, b) in difference.figures.items():
        lines.append(f"  {name:25}{_plain(a):>12} {_plain(b):>11}")
    return "\n".join(lines)


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"
