"""A profile in the terminal: tables, histograms and sparklines; and as CSV.

Nothing is computed here but the shape of the drawing. A histogram has a row for each power of two, as ``funclatency``
and ``biolatency`` draw theirs; a sparkline has a column for each part of the recording.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from netvm.report.pressure import Averages
from netvm.report.profile import Latency, Profile
from netvm.trace.histogram import bucket_bounds

__all__ = ["TITLES", "histogram_rows", "profile_csv", "profile_text", "sparkline"]

_BARS: Final = " ▁▂▃▄▅▆▇█"
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_SPARK_CHARS: Final = 80
_BAR_CHARS: Final = 40
_ROWS: Final = 8

TITLES: Final = {
    "direct_reclaim": "direct reclaim",
    "memcg_reclaim": "memcg reclaim",
    "node_reclaim": "node reclaim",
    "alloc_stall": "allocation stalls",
    "kswapd": "kswapd cycles",
    "throttle": "throttled in reclaim",
    "dirty_throttle": "balance_dirty_pages",
    "writeback": "writeback rounds",
    "request": "storage requests",
    "swapin": "swap-in",
    "mempool": "mempool waits",
    "pfmemalloc": "waits for the reserve",
    "socket": "waits for socket memory",
    "nfs": "NFS calls",
    "rpc": "RPC tasks",
    "rpc_reply": "RPC, sent to answered",
    "page_dirty": "pages, dirty to written",
    "page_writeback": "pages under writeback",
    "dirty_age": "files, age of their dirt",
    "inode_writeback": "writeback of a file",
    "work": "work items",
}


def profile_text(profile: Profile, *, name: str) -> str:
    """Return a profile for a reader."""
    return "\n".join(
        [
            *_head(profile, name),
            *_latencies("latency (us)", {TITLES.get(k, k): v for k, v in profile.latency_us.items()}),
            *_groups(profile),
            *_histogram(profile, "direct_reclaim"),
            *_reclaim(profile),
            *_activity(profile),
            *_levels(profile),
            *_over_time(profile),
            *_worst(profile),
        ]
    )


def _head(profile: Profile, name: str) -> Iterator[str]:
    about = "".join(f", {key} {value}" for key, value in profile.about.items() if isinstance(value, str | int))
    yield f"{name}: {profile.events} events in {profile.span_s:.3f} s ({profile.source}{about})"
    yield f"  {profile.losses.account()}"
    for line in profile.skipped_examples:
        yield f"    skipped: {line!r}"
    for kind, count in profile.orphans.items():
        yield f"  {count} ends of {TITLES.get(kind, kind)} without a beginning"
    some, full = profile.pressure.some, profile.pressure.full
    yield f"  pressure some {_averages(some)}"
    yield "  pressure full not known: no sched_switch events" if full is None else f"  pressure full {_averages(full)}"


def _averages(line: Averages) -> str:
    return f"avg10={line.avg10:.2f} avg60={line.avg60:.2f} avg300={line.avg300:.2f} total={line.total_us:.0f}"


def _latencies(title: str, rows: Mapping[str, Latency], *, limit: int = 100) -> Iterator[str]:
    if not rows:
        return
    width = max(26, len(title), *(len(name) + 2 for name in list(rows)[:limit])) + 1
    width = min(width, 56)
    yield f"{title:{width}}{'count':>8}{'p50':>11}{'p90':>11}{'p99':>11}{'p99.9':>11}{'max':>11}{'total':>13}"
    for name, row in list(rows.items())[:limit]:
        figures = "".join(f"{_figure(value):>11}" for value in (row.p50, row.p90, row.p99, row.p99_9, row.max))
        open_ones = f"  {row.unfinished} unfinished" if row.unfinished else ""
        yield f"  {_cut(name, width - 3):{width - 2}}{row.count:>8}{figures}{_figure(row.total):>13}{open_ones}"
    if len(rows) > limit:
        yield f"  and {len(rows) - limit} more"


def _groups(profile: Profile) -> Iterator[str]:
    for kind in ("direct_reclaim", "alloc_stall", "memcg_reclaim"):
        if kind in profile.by_task_us:
            yield from _latencies(f"{TITLES[kind]} by task", profile.by_task_us[kind], limit=_ROWS)
            yield from _latencies(f"{TITLES[kind]} by mask", profile.by_cause_us[kind], limit=_ROWS)
    for kind, title in (
        ("throttle", "throttled by reason"),
        ("mempool", "mempool waits by pool"),
        ("writeback", "writeback by reason"),
        ("request", "requests by kind"),
        ("dirty_throttle", "balance_dirty_pages by device"),
        ("page_dirty", "pages, dirty to written, by device and file"),
        ("page_writeback", "pages under writeback by device and file"),
        ("dirty_age", "age of dirt when written back, by device and file"),
        ("nfs", "NFS calls by procedure"),
        ("rpc", "RPC tasks by procedure"),
        ("socket", "waits for socket memory by socket"),
        ("work", "work items by function"),
    ):
        if kind in profile.by_cause_us:
            yield from _latencies(title, profile.by_cause_us[kind], limit=_ROWS)


def histogram_rows(buckets: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Return ``(low_us, high_us, count)`` for each power of two of microseconds from the first used to the last."""
    counts: dict[int, int] = {}
    for index, count in zip(buckets["index"], buckets["count"], strict=True):
        low_ns, high_ns = bucket_bounds(index)
        power = max(0, ((low_ns + high_ns) // 2000).bit_length())
        counts[power] = counts.get(power, 0) + count
    if not counts:
        return []
    powers = range(min(counts), max(counts) + 1)
    return [((1 << power) >> 1, 1 << power, counts.get(power, 0)) for power in powers]


def _histogram(profile: Profile, kind: str) -> Iterator[str]:
    rows = histogram_rows(profile.histograms.get(kind, {"index": [], "count": []}))
    if not rows:
        return
    most = max(count for _, _, count in rows)
    yield f"{TITLES[kind]}: distribution (us)"
    for low, high, count in rows:
        yield f"  {f'{low} .. {high}':>24} {count:>8} |{_bar(count / most):{_BAR_CHARS}}|"


def _bar(share: float) -> str:
    eighths = round(share * _BAR_CHARS * 8)
    return _BLOCKS[8] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")


def _reclaim(profile: Profile) -> Iterator[str]:
    yield f"{'reclaim (pages)':40}{'calls':>9}{'scanned':>11}{'reclaimed':>11}{'efficiency':>12}"
    rows = {who: profile.lru[who] for who in ("kswapd", "direct")}
    rows |= {f"  {task}": row for task, row in list(profile.lru_by_task.items())[:_ROWS]}
    for who, row in rows.items():
        share = "-" if row.efficiency is None else f"{100 * row.efficiency:.1f} %"
        yield f"  {_cut(who, 37):38}{row.calls:>9}{row.scanned:>11}{row.reclaimed:>11}{share:>12}"
    kswapd = profile.kswapd
    yield (
        f"kswapd: {kswapd.wakes} wakes, {kswapd.sleeps} sleeps, active {kswapd.active_us / 1e6:.3f} s, "
        f"at work {kswapd.working_us / 1e6:.3f} s"
    )
    if any(pair["pages"] for pair in profile.reclaimed_for):
        yield "who reclaimed for whom (pages; kswapd's are shared by who woke it)"
        for pair in profile.reclaimed_for[:_ROWS]:
            if pair["pages"]:
                yield f"  {pair['reclaimer']:>24} -> {pair['beneficiary']:24} {pair['pages']:>10}"


def _activity(profile: Profile) -> Iterator[str]:
    activity = profile.activity
    for title, counts in (
        ("packets dropped", activity.drops),
        ("kfree_skb by reason", activity.kfree_skb),
        ("sockets refused memory", activity.buffer_limit),
        ("segments sent again", activity.retransmits),
        ("work queued", activity.work_queued),
    ):
        if counts:
            shown = list(counts.items())[:_ROWS]
            yield f"{title}: " + ", ".join(f"{reason} {count}" for reason, count in shown)
    if activity.oom_kills:
        yield f"OOM: {activity.oom_kills} killed, {activity.oom_reaped} reaped"


def _levels(profile: Profile) -> Iterator[str]:
    moving = {name: row for name, row in profile.counters.items() if row["max"] != row["min"]}
    if moving:
        yield f"{'levels':28}{'first':>11}{'lowest':>11}{'highest':>11}{'last':>11}"
    for name, row in moving.items():
        figures = "".join(f"{row[key]:>11}" for key in ("first", "min", "max", "last"))
        yield f"  {_cut(name, 25):26}{figures}"


def _over_time(profile: Profile) -> Iterator[str]:
    columns = profile.series["columns"]
    shown = [name for name in _SERIES if name in columns and any(columns[name])]
    if shown:
        yield f"over time ({profile.span_s:.3f} s across)"
    for name in shown:
        yield f"  {_SERIES[name]:24} |{sparkline(columns[name])}|"


_SERIES: Final = {
    "direct_reclaim_ns": "direct reclaim",
    "alloc_stall_ns": "allocation stalls",
    "throttle_ns": "throttled",
    "dirty_throttle_ns": "dirty throttled",
    "kswapd_ns": "kswapd awake",
    "scanned_kswapd": "scanned by kswapd",
    "scanned_direct": "scanned directly",
    "reclaimed_kswapd": "reclaimed by kswapd",
    "reclaimed_direct": "reclaimed directly",
    "request_ns": "requests in flight",
    "nfs_ns": "NFS calls in flight",
    "page_writeback_ns": "pages under writeback",
    "socket_ns": "waiting for sockets",
    "swapin_ns": "swap-in",
}


def sparkline(values: Sequence[int]) -> str:
    """Return values as columns of eighths, added up to at most 80 of them; for nothing or less none is drawn."""
    step = max(1, -(-len(values) // _SPARK_CHARS))
    sums = [sum(values[start : start + step]) for start in range(0, len(values), step)]
    most = max(sums, default=0)
    return "".join(_BARS[min(8, -(-value * 8 // most))] if value > 0 else " " for value in sums)


def _worst(profile: Profile) -> Iterator[str]:
    if not profile.worst:
        return
    yield "worst waits and where their time went"
    for worst in profile.worst[:5]:
        what = TITLES[worst.kind] + (", not over," if worst.unfinished else "")
        yield (
            f"  {worst.duration_us / 1000:.3f} ms {what} of {worst.task} at {worst.begin_s:.6f} s: "
            f"order={worst.order} {worst.cause}, scanned {worst.scanned}, reclaimed {worst.pages}"
        )
        for link in worst.path[:6]:
            pages = f", {link['pages']} pages" if link["pages"] else ""
            share = 100 * link["us"] / worst.duration_us if worst.duration_us else 0.0
            yield f"    {share:5.1f} % {link['us'] / 1000:10.3f} ms  {link['link']} ({link['count']} times{pages})"
        if worst.chain:
            steps = (f"{step['step']} {step['us'] / 1000:.3f} ms" for step in worst.chain)
            yield f"    critical path: {' -> '.join(steps)}"


def profile_csv(profile: Profile) -> str:
    """Return every latency of a profile as CSV: kind, group, label, and the fields of a latency."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = [field.name for field in msgspec.structs.fields(Latency)]
    writer.writerow(["kind", "group", "label", *fields])
    for kind, row in profile.latency_us.items():
        writer.writerow([kind, "all", "", *(getattr(row, field) for field in fields)])
    for group, table in (("task", profile.by_task_us), ("cause", profile.by_cause_us)):
        for kind, rows in table.items():
            for label, row in rows.items():
                writer.writerow([kind, group, label, *(getattr(row, field) for field in fields)])
    return stream.getvalue()


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 10_000 else f"{value:.0f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
