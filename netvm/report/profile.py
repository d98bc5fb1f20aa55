"""The profile of a recording: who waited, for what, how long, and what the tail is made of.

One pass over the records, whatever their source, with bounded memory: :class:`Profiler` takes batches and gives a
:class:`Profile`, whose fields are the keys of ``netvm profile --json``. Latencies are in microseconds; quantiles come
from a log-linear histogram (:mod:`netvm.trace.histogram`), everything else is exact.

Pages scanned and reclaimed are those of ``mm_vmscan_lru_shrink_inactive``, kswapd's if a task named ``kswapd*`` emitted
it and a direct reclaimer's otherwise, as ``pgscan_kswapd`` and ``pgscan_direct`` count them. kswapd is *active* from a
wake to the sleep that follows; its event ``mm_vmscan_kswapd_wake`` comes at every run of ``balance_pgdat``, so several
may come before one sleep.
"""

from collections.abc import Callable
from heapq import heappush, heapreplace
from typing import Any, Final

import msgspec
import numpy as np

from netvm.report.activity import Activity, ActivityMeter
from netvm.report.chain import chain_of
from netvm.report.pressure import Pressure, PressureMeter, Stall
from netvm.report.series import Series
from netvm.report.spans import SpanBuilder
from netvm.report.waits import Span
from netvm.trace.histogram import RELATIVE_ERROR_MAX, SUB_BITS, Histogram
from netvm.trace.records import Losses, RecordArray, Recorded
from netvm.trace.tracepoints import BY_NAME, OTHER, TRACEPOINTS

__all__ = ["Latency", "Profile", "Profiler", "Reclaimer", "latency_of"]

WORST: Final = 20
"""Stalls of which the links are kept."""
_STALLS: Final = ("direct_reclaim", "memcg_reclaim", "alloc_stall")
_MEMSTALLS: Final = ("direct_reclaim", "memcg_reclaim", "swapin")
"""Waits that are sections of psi_memstall_enter."""
_HEAT_KINDS: Final = ("direct_reclaim", "alloc_stall", "dirty_throttle", "request", "nfs", "swapin", "socket")
"""Waits of which the lengths over time are kept, by the power of two."""
_SECTIONS_MAX: Final = 4_000_000

_SHRINK: Final = BY_NAME["mm_vmscan_lru_shrink_inactive"].number
_WAKEUP: Final = BY_NAME["mm_vmscan_wakeup_kswapd"].number
_COUNTER: Final = BY_NAME["counter"].number


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of wait, in microseconds; quantiles are ``None`` where nothing was measured."""

    count: int = 0
    unfinished: int = 0
    """Begun and not ended when the recording was."""
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None
    total: float = 0.0


class Reclaimer(msgspec.Struct, frozen=True, kw_only=True):
    """Pages that one kind of reclaimer looked at and got."""

    scanned: int = 0
    reclaimed: int = 0
    calls: int = 0
    efficiency: float | None = None
    """Reclaimed of those scanned."""


class Kswapd(msgspec.Struct, frozen=True, kw_only=True):
    """What kswapd did."""

    wakes: int = 0
    sleeps: int = 0
    active_us: float = 0.0
    """From a wake to the sleep that follows, all cycles."""
    working_us: float = 0.0
    """From each wake to the last event before the next wake or sleep: without the nap before a sleep."""
    last_wake_to_sleep_us: float = 0.0
    cycle_latency_us: Latency = Latency()
    woken_by: dict[str, int] = {}
    """``mm_vmscan_wakeup_kswapd`` events by task."""


class Worst(msgspec.Struct, frozen=True, kw_only=True):
    """One of the longest waits, with its critical path."""

    kind: str
    task: str
    begin_s: float
    duration_us: float
    cause: str
    order: int
    pages: int
    """Pages reclaimed."""
    scanned: int
    unfinished: bool
    """Not over when the recording was: its length is up to there."""
    path: list[dict[str, Any]]
    """Links in order of their share: ``link``, ``us``, ``count``, ``pages``."""
    chain: list[dict[str, Any]] = []
    """From the allocation to what ended it, in order of time, as far as the events show it: ``step``, ``at_us`` after
    the beginning (negative: before it), ``us``, ``who``."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording says; field by field the object of ``netvm profile --json``."""

    source: str
    events: int
    skipped: int
    lost: int
    reordered: int
    late: int
    truncated: bool
    skipped_examples: list[str]
    orphans: dict[str, int]
    begin_s: float
    end_s: float
    span_s: float
    events_by_name: dict[str, int]
    direct_reclaim_latency_us: Latency
    latency_us: dict[str, Latency]
    """By kind of wait."""
    by_task_us: dict[str, dict[str, Latency]]
    """By kind of wait, then task."""
    by_cause_us: dict[str, dict[str, Latency]]
    """By kind of wait, then cause: mask, reason, pool."""
    kswapd: Kswapd
    lru: dict[str, Reclaimer]
    lru_by_task: dict[str, Reclaimer]
    reclaimed_for: list[dict[str, Any]]
    """Who reclaimed for whom: ``reclaimer``, ``beneficiary``, ``pages``."""
    pressure: Pressure
    activity: Activity
    """What else went on: packets dropped and sent again, sockets over their limit, tasks killed."""
    worst: list[Worst]
    series: dict[str, Any]
    counters: dict[str, dict[str, int]]
    """Of an emulated run: first, last, min and max of each counter."""
    about: dict[str, Any]
    """Of an emulated run: scenario, seed, verdict, explanation."""
    quantile_error: float
    histograms: dict[str, dict[str, Any]]
    """By kind of wait, in nanoseconds: the buckets that are not empty, for ``netvm diff``."""

    @property
    def losses(self) -> Losses:
        """What is missing in the recording."""
        return Losses(
            skipped=self.skipped,
            lost=self.lost,
            reordered=self.reordered,
            late=self.late,
            truncated=self.truncated,
        )


def latency_of(histogram: Histogram, unfinished: int = 0) -> Latency:
    """Return a histogram of nanoseconds as a latency in microseconds."""
    if not histogram.count:
        return Latency(unfinished=unfinished)
    quantiles = {name: histogram.quantile(q) / 1000 for name, q in _QUANTILES.items()}
    return Latency(count=histogram.count, unfinished=unfinished, total=histogram.total / 1000, **quantiles)


_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "max": 1.0}


class Profiler:
    """Takes the batches of one recording."""

    def __init__(self, recorded: Recorded, *, on_span: Callable[[Span], None] | None = None) -> None:
        self.recorded = recorded
        self.spans = SpanBuilder(recorded, self._span)
        self.series = Series()
        self._on_span = on_span
        self._events = np.zeros(len(TRACEPOINTS), dtype=np.int64)
        self._others: dict[int, int] = {}
        self._begin_ns: int | None = None
        self._end_ns = 0
        self._by_kind: dict[str, Histogram] = {}
        self._by_task: dict[tuple[str, int], Histogram] = {}
        self._by_cause: dict[tuple[str, str], Histogram] = {}
        self._lru: dict[int, list[int]] = {}
        self._woken_by: dict[int, int] = {}
        self._stalls: list[Stall] = []
        self._pressure_meter = PressureMeter(recorded)
        self._activity = ActivityMeter(recorded)
        self._worst: list[tuple[int, int, Span]] = []
        self._nr_spans = 0
        self._counters: dict[str, dict[str, int]] = {}

    def add(self, records: RecordArray) -> None:
        """Take a batch."""
        times = records["time_ns"]
        if self._begin_ns is None:
            self._begin_ns = int(times[0])
            self.series.start(self._begin_ns)
        self._begin_ns = min(self._begin_ns, int(times.min()))
        self._end_ns = max(self._end_ns, int(times.max()))
        events = records["event"]
        self._events += np.bincount(events, minlength=len(TRACEPOINTS))
        if self._events[OTHER]:
            names, counts = np.unique(records["args"][events == OTHER, 0], return_counts=True)
            for name, count in zip(names.tolist(), counts.tolist(), strict=True):
                self._others[name] = self._others.get(name, 0) + count
        self._add_lru(records[events == _SHRINK])
        for task in records["task"][events == _WAKEUP].tolist():
            self._woken_by[task] = self._woken_by.get(task, 0) + 1
        if self._events[_COUNTER]:
            self._add_counters(records[events == _COUNTER])
        self._pressure_meter.add(records)
        self._activity.add(records)
        self.spans.add(records)

    def _add_lru(self, rows: RecordArray) -> None:
        if not len(rows):
            return
        tasks = rows["task"]
        for task in np.unique(tasks).tolist():
            mine = rows[tasks == task]
            scanned, reclaimed = (mine["args"][:, column] for column in (1, 2))
            sums = self._lru.setdefault(task, [0, 0, 0])
            sums[0] += int(scanned.sum())
            sums[1] += int(reclaimed.sum())
            sums[2] += len(mine)
            who = "kswapd" if self._kswapd(task) else "direct"
            self.series.add(f"scanned_{who}", mine["time_ns"], scanned)
            self.series.add(f"reclaimed_{who}", mine["time_ns"], reclaimed)

    def _kswapd(self, task: int) -> bool:
        return self.recorded.tasks[task][0].startswith("kswapd")

    def _add_counters(self, rows: RecordArray) -> None:
        for name in np.unique(rows["args"][:, 0]).tolist():
            mine = rows["args"][rows["args"][:, 0] == name, 1]
            low, high = int(mine.min()), int(mine.max())
            known = self._counters.setdefault(
                self.recorded.names[name], {"first": int(mine[0]), "last": 0, "min": low, "max": high}
            )
            known["last"] = int(mine[-1])
            known["min"] = min(known["min"], low)
            known["max"] = max(known["max"], high)

    def _span(self, span: Span) -> None:
        """Take one finished wait."""
        duration_ns = span.duration_ns
        for histogram in (
            self._by_kind.setdefault(span.kind, Histogram()),
            self._by_task.setdefault((span.kind, span.task), Histogram()),
            self._by_cause.setdefault((span.kind, span.cause), Histogram()),
        ):
            histogram.add(duration_ns)
        self.series.spread(f"{span.kind}_ns", span.begin_ns, span.end_ns)
        if span.kind in _MEMSTALLS and len(self._stalls) < _SECTIONS_MAX:
            self._stalls.append(Stall(span.begin_ns, span.end_ns, self.recorded.tasks[span.task][1], span.cpu))
        if span.kind in _HEAT_KINDS:
            self.series.add_one(f"latency_{span.kind}_{max(0, duration_ns.bit_length() - 10):02d}", span.end_ns)
        if span.kind in _STALLS:
            self._nr_spans += 1
            entry = duration_ns, -self._nr_spans, span
            if len(self._worst) < WORST:
                heappush(self._worst, entry)
            elif entry > self._worst[0]:
                heapreplace(self._worst, entry)
        if self._on_span is not None:
            self._on_span(span)

    # -- what it comes to -----------------------------------------------------------------------------------------

    def profile(self) -> Profile:
        """Return the profile of what was taken."""
        recorded, losses = self.recorded, self.recorded.losses
        unfinished: dict[str, int] = dict(self.spans.dropped)
        for span in self.spans.unfinished():
            unfinished[span.kind] = unfinished.get(span.kind, 0) + 1
        kinds = sorted({*self._by_kind, *unfinished})
        latencies = {kind: latency_of(self._by_kind.get(kind, Histogram()), unfinished.get(kind, 0)) for kind in kinds}
        begin_ns = self._begin_ns or 0
        return Profile(
            source=recorded.source,
            events=int(self._events.sum()),
            skipped=losses.skipped,
            lost=losses.lost,
            # what an emulated run records is put in order by design
            reordered=losses.reordered if recorded.source != "netvm" else 0,
            late=losses.late,
            truncated=losses.truncated,
            skipped_examples=losses.examples,
            orphans=dict(sorted(self.spans.orphans.items())),
            begin_s=begin_ns / 1e9,
            end_s=self._end_ns / 1e9,
            span_s=(self._end_ns - begin_ns) / 1e9 if self._begin_ns is not None else 0.0,
            events_by_name=self._events_by_name(),
            direct_reclaim_latency_us=latencies.get("direct_reclaim", Latency()),
            latency_us=latencies,
            by_task_us=self._grouped({key: (key[0], recorded.tasks.label(key[1])) for key in self._by_task}),
            by_cause_us=self._grouped({key: key for key in self._by_cause}),
            kswapd=self._kswapd_report(latencies.get("kswapd", Latency())),
            lru=self._lru_report(),
            lru_by_task={recorded.tasks.label(task): _reclaimer([sums]) for task, sums in _largest(self._lru)},
            reclaimed_for=self._reclaimed_for(),
            pressure=self._pressure(begin_ns),
            activity=self._activity.activity(),
            worst=[self._worst_of(span) for span in self._longest()],
            series=self._series(),
            counters=dict(sorted(self._counters.items())),
            about=recorded.facts,
            quantile_error=RELATIVE_ERROR_MAX,
            histograms={kind: _sparse(histogram) for kind, histogram in sorted(self._by_kind.items())},
        )

    def _longest(self) -> list[Span]:
        """Return the longest stalls, those that are not over among them."""
        open_ones = [span for span in self.unfinished() if span.kind in _STALLS]
        found = sorted([*open_ones, *(span for _, _, span in self._worst)], key=lambda span: -span.duration_ns)
        return found[:WORST]

    def unfinished(self) -> list[Span]:
        """Return the waits that were not over when the recording was, as long as they had been by then."""
        return self.spans.unfinished_at(self._end_ns)

    def _events_by_name(self) -> dict[str, int]:
        counts = {point.name: int(self._events[point.number]) for point in TRACEPOINTS[1:]}
        counts |= {self.recorded.names[name]: count for name, count in self._others.items()}
        return {name: count for name, count in sorted(counts.items()) if count}

    def _grouped(self, labels: dict[Any, tuple[str, str]]) -> dict[str, dict[str, Latency]]:
        source: dict[Any, Histogram] = self._by_task | self._by_cause
        groups: dict[str, dict[str, Histogram]] = {}
        for key, (kind, label) in labels.items():
            groups.setdefault(kind, {}).setdefault(label, Histogram()).merge(source[key])
        return {
            kind: {
                label: latency_of(histogram)
                for label, histogram in sorted(group.items(), key=lambda item: (-item[1].total, item[0]))
            }
            for kind, group in sorted(groups.items())
        }

    def _kswapd_report(self, cycles: Latency) -> Kswapd:
        woken_by: dict[str, int] = {}
        for task, count in self._woken_by.items():
            label = self.recorded.tasks.label(task)
            woken_by[label] = woken_by.get(label, 0) + count
        return Kswapd(
            wakes=self.spans.nr_wakes,
            sleeps=int(self._events[BY_NAME["mm_vmscan_kswapd_sleep"].number]),
            active_us=cycles.total,
            working_us=sum(end - begin for begin, end, _, _ in self.spans.kswapd_runs) / 1000,
            last_wake_to_sleep_us=self.spans.last_wake_to_sleep_ns / 1000,
            cycle_latency_us=cycles,
            woken_by=dict(sorted(woken_by.items(), key=lambda item: (-item[1], item[0]))),
        )

    def _lru_report(self) -> dict[str, Reclaimer]:
        parts: dict[str, list[list[int]]] = {"kswapd": [], "direct": []}
        for task, sums in self._lru.items():
            parts["kswapd" if self._kswapd(task) else "direct"].append(sums)
        return {who: _reclaimer(sums) for who, sums in parts.items()}

    def _reclaimed_for(self) -> list[dict[str, Any]]:
        """Direct reclaimers work for themselves; kswapd's pages are shared out by who woke it."""
        rows: list[dict[str, Any]] = []
        kswapd_pages = sum(sums[1] for task, sums in self._lru.items() if self._kswapd(task))
        wakeups = sum(self._woken_by.values())
        for task, count in _largest({task: [count] for task, count in self._woken_by.items()}):
            share = kswapd_pages * count[0] // wakeups if wakeups else 0
            rows.append({"reclaimer": "kswapd", "beneficiary": self.recorded.tasks.label(task), "pages": share})
        for task, sums in _largest(self._lru, column=1):
            if not self._kswapd(task):
                label = self.recorded.tasks.label(task)
                rows.append({"reclaimer": label, "beneficiary": label, "pages": sums[1]})
        return sorted(rows, key=lambda row: -row["pages"])

    def _pressure(self, begin_ns: int) -> Pressure:
        kswapd = [
            Stall(begin, end, self.recorded.tasks[task][1], cpu) for begin, end, task, cpu in self.spans.kswapd_runs
        ]
        # who is still waiting is stalled to the end
        waiting = [
            Stall(span.begin_ns, span.end_ns, self.recorded.tasks[span.task][1], span.cpu)
            for span in self.unfinished()
            if span.kind in _MEMSTALLS
        ]
        return self._pressure_meter.pressure([*self._stalls, *kswapd, *waiting], begin_ns, self._end_ns)

    def _worst_of(self, span: Span) -> Worst:
        links = sorted(span.links.items(), key=lambda item: -item[1].total_ns)
        return Worst(
            kind=span.kind,
            task=self.recorded.tasks.label(span.task),
            begin_s=span.begin_ns / 1e9,
            duration_us=span.duration_ns / 1000,
            cause=span.cause,
            order=span.order,
            pages=span.nr_reclaimed,
            scanned=span.nr_scanned,
            unfinished=span.unfinished,
            path=[
                {"link": name, "us": link.total_ns / 1000, "count": link.count, "pages": link.pages}
                for name, link in links
            ],
            chain=chain_of(span, self.recorded),
        )

    def _series(self) -> dict[str, Any]:
        used = self.series.used()
        return {
            "begin_s": self.series.begin_ns / 1e9,
            "interval_s": self.series.width_ns / 1e9,
            "columns": {name: column[:used].tolist() for name, column in sorted(self.series.columns.items())},
        }


def _largest(sums: dict[int, list[int]], *, column: int = 0) -> list[tuple[int, list[int]]]:
    return sorted(sums.items(), key=lambda item: (-item[1][column], item[0]))


def _reclaimer(sums: list[list[int]]) -> Reclaimer:
    scanned, reclaimed, calls = (sum(part[column] for part in sums) for column in range(3))
    return Reclaimer(
        scanned=scanned,
        reclaimed=reclaimed,
        calls=calls,
        efficiency=round(reclaimed / scanned, 6) if scanned else None,
    )


def _sparse(histogram: Histogram) -> dict[str, Any]:
    index, counts = histogram.sparse()
    return {
        "sub_bits": SUB_BITS,
        "index": index,
        "count": counts,
        "total_ns": histogram.total,
        "min_ns": histogram.min,
        "max_ns": histogram.max,
    }
