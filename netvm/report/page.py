"""``report.html``: one page that shows a recording, without a network and without a library.

The page is three files put into one: a style sheet, a script that draws with SVG, and the data as JSON, whose
``profile`` is that of ``netvm profile --json`` to the last digit. One pass over the records collects what the profile
does not hold: levels of the counters, the longest stalls one by one with their links, waiting time by stack, drops and
kills. All of it is bounded, so the page of a long run is no larger than that of a short one.
"""

import html
import json
from collections.abc import Iterable
from heapq import heappush, heapreplace
from importlib.resources import files
from typing import Any, Final

import msgspec
import numpy as np

from netvm import __version__
from netvm.printable import printable
from netvm.report.chain import chain_of
from netvm.report.difference import Difference
from netvm.report.folded import Folder
from netvm.report.levels import Levels
from netvm.report.profile import Profile, Profiler
from netvm.report.profile_text import TITLES
from netvm.report.waits import Span
from netvm.trace.records import RecordArray, Recorded
from netvm.trace.tracepoints import number_of

__all__ = ["PageData", "page_html"]

STALLS_MAX: Final = 1500
EVENTS_MAX: Final = 200
STACKS_MAX: Final = 400
_COUNTER: Final = number_of("counter")
_OWNER: Final = number_of("reserve_owner")
_EVENTS: Final = {number_of("skb_drop"): "packet dropped:", number_of("mark_victim"): "OOM kill"}
_STALLS: Final = ("alloc_stall", "direct_reclaim", "memcg_reclaim", "dirty_throttle")
"""What is shown point by point: the first of these that there are any of."""
_DIRTY: Final = number_of("global_dirty_state")
_DIRTY_LEVELS: Final = {"dirty": 0, "writeback": 1, "bg_thresh": 2, "thresh": 3, "limit": 4}
_PAUSE: Final = number_of("balance_dirty_pages")
_PAUSE_LEVELS: Final = {"limit": 1, "setpoint": 2, "dirty_or_writeback": 3}
"""What a recording without the other event still says: where the levels are in the arguments."""
_UNITS: Final = {"rx_ring": "buffers", "bio_pool": "elements", "kswapd_failures": "runs in vain"}


class PageData:
    """Everything that one page shows of a recording."""

    def __init__(self, recorded: Recorded, batches: Iterable[RecordArray]) -> None:
        self.recorded = recorded
        self._profiler = Profiler(recorded, on_span=self._span)
        self._folder = Folder(recorded)
        self._levels: Levels | None = None
        self._owners: Levels | None = None
        self._dirty: Levels | None = None
        self._events: list[dict[str, Any]] = []
        self._nr_events = 0
        self._stalls: dict[str, list[tuple[int, int, Span]]] = {kind: [] for kind in _STALLS}
        self._nr_stalls = dict.fromkeys(_STALLS, 0)
        for batch in batches:
            self._add(batch)
        for span in self._profiler.unfinished():
            self._folder.span(span)
            if span.kind in self._stalls:
                self._nr_stalls[span.kind] += 1
                heappush(self._stalls[span.kind], (span.duration_ns, -self._nr_stalls[span.kind], span))
        self.profile: Profile = self._profiler.profile()

    def _add(self, records: RecordArray) -> None:
        self._profiler.add(records)
        if self._levels is None or self._owners is None or self._dirty is None:
            begin_ns = int(records["time_ns"][0])
            self._levels, self._owners, self._dirty = Levels(begin_ns), Levels(begin_ns), Levels(begin_ns)
        events = records["event"]
        for event, levels in ((_COUNTER, self._levels), (_OWNER, self._owners)):
            rows = records[events == event]
            for time_ns, name, value in zip(
                rows["time_ns"].tolist(), rows["args"][:, 0].tolist(), rows["args"][:, 1].tolist(), strict=True
            ):
                levels.add(self.recorded.names[name], time_ns, value)
        places = _DIRTY_LEVELS if _DIRTY in events or self._dirty.names()[:1] == ["dirty"] else _PAUSE_LEVELS
        state = records[events == (_DIRTY if places is _DIRTY_LEVELS else _PAUSE)]
        for time_ns, args in zip(state["time_ns"].tolist(), state["args"].tolist(), strict=True):
            for name, column in places.items():
                self._dirty.add(name, time_ns, args[column])
        for event, told in _EVENTS.items():
            for row in np.flatnonzero(events == event).tolist():
                self._nr_events += 1
                if len(self._events) < EVENTS_MAX:
                    what = int(records["args"][row, 0])
                    self._events.append(
                        {
                            "name": told,
                            "told": self.recorded.names[what] if told.endswith(":") else f"of pid {what}",
                            "time_s": int(records["time_ns"][row]) / 1e9,
                        }
                    )

    def _span(self, span: Span) -> None:
        self._folder.span(span)
        longest = self._stalls.get(span.kind)
        if longest is None:
            return
        self._nr_stalls[span.kind] += 1
        entry = span.duration_ns, -self._nr_stalls[span.kind], span
        if len(longest) < STALLS_MAX:
            heappush(longest, entry)
        elif entry > longest[0]:
            heapreplace(longest, entry)

    def as_dict(self, *, other: Profile | None = None, difference: Difference | None = None) -> dict[str, Any]:
        """Return what the script draws."""
        kind = next((kind for kind in _STALLS if self._nr_stalls[kind]), _STALLS[0])
        chain, loop = _chain(self.profile.about.get("explanation", []))
        levels, owners, dirty = self._levels, self._owners, self._dirty
        return {
            "profile": msgspec.to_builtins(self.profile),
            "losses": self.profile.losses.account(),
            "sentences": list(_sentences(self.profile)),
            "levels": {name: levels.points(name) for name in levels.names()} if levels is not None else {},
            "lows": {"free": levels.points("free", lowest=True)} if levels is not None else {},
            "owners": {name: owners.points(name) for name in owners.names()} if owners is not None else {},
            "dirty": {name: dirty.points(name) for name in dirty.names()} if dirty is not None else {},
            "titles": TITLES,
            "units": _UNITS,
            "events": self._events,
            "stalls": [self._stall(span) for _, _, span in sorted(self._stalls[kind], reverse=True)],
            "stall_kind": kind,
            "nr_stalls": self._nr_stalls[kind],
            "stacks": [
                [list(stack), time_ns / 1000]
                for stack, time_ns in sorted(self._folder.stacks.items(), key=lambda item: (-item[1], item[0]))
            ][:STACKS_MAX],
            "chain": chain,
            "chain_loops": loop,
            "other": None if other is None else {"histograms": other.histograms},
            "difference": None if difference is None else msgspec.to_builtins(difference),
        }

    def _stall(self, span: Span) -> dict[str, Any]:
        links = sorted(span.links.items(), key=lambda item: (-item[1].total_ns, item[0]))
        return {
            "kind": span.kind,
            "task": self.recorded.tasks.label(span.task),
            "begin_s": span.begin_ns / 1e9,
            "duration_us": span.duration_ns / 1000,
            "cause": span.cause,
            "order": span.order,
            "scanned": span.nr_scanned,
            "pages": span.nr_reclaimed,
            "unfinished": span.unfinished,
            "chain": chain_of(span, self.recorded),
            "path": [
                {"link": name, "us": link.total_ns / 1000, "detail": _times(link.count, link.pages)}
                for name, link in links
            ],
        }


def _times(count: int, pages: int) -> str:
    return f"{count} times" + (f", {pages} pages" if pages else "")


def _sentences(profile: Profile) -> Iterable[str]:
    """Say in words what the recording shows."""
    direct = profile.direct_reclaim_latency_us
    if direct.count and direct.max is not None and direct.p50 is not None:
        yield (
            f"{direct.count} allocations had to reclaim memory themselves and spent {direct.total / 1e6:.3f} s at it, "
            f"half of them {direct.p50 / 1000:.2f} ms or less, the longest {direct.max / 1000:.2f} ms."
        )
    else:
        yield "No task had to reclaim memory itself." if profile.events else "There is no event in the trace."
    worst = next(iter(profile.worst), None)
    if worst is not None and worst.path:
        share = 100 * worst.path[0]["us"] / worst.duration_us if worst.duration_us else 0.0
        yield f"Of the longest, {share:.0f} % went to: {worst.path[0]['link']}."
    yield from _writer_sentences(profile)
    throttled = profile.by_cause_us.get("throttle", {})
    if throttled:
        reason, row = next(iter(throttled.items()))
        times = sum(of_reason.count for of_reason in throttled.values())
        yield f"Tasks slept in reclaim {times} times, most for {reason} ({row.count})."


def _writer_sentences(profile: Profile) -> Iterable[str]:
    """Say what became of those who dirty pages, and of the pages."""
    pauses = profile.latency_us.get("dirty_throttle")
    if pauses is not None and pauses.count and pauses.max is not None:
        yield (
            f"Writers were held back {pauses.count} times in balance_dirty_pages, for {pauses.total / 1e6:.3f} s in "
            f"all and {pauses.max / 1000:.0f} ms at most."
        )
    for kind, told in (("page_dirty", "Dirty pages were written after"), ("nfs", "NFS calls took")):
        row = profile.latency_us.get(kind)
        if row is not None and row.count and row.p50 is not None and row.max is not None:
            yield (f"{told} {row.p50 / 1000:.1f} ms in the median and {row.max / 1000:.0f} ms at most.")


def _chain(explanation: list[str]) -> tuple[list[str], int]:
    """Return the wait-for chain that an explanation tells, and where its end comes back to (-1 if it does not)."""
    line = next((text for text in explanation if text.startswith("the knot: ")), "")
    nodes = [node for node in line.removeprefix("the knot: ").split(" -> ") if node]
    if len(nodes) > 1 and nodes[-1] in nodes[:-1]:
        return nodes[:-1], nodes.index(nodes[-1])
    return nodes, -1


def page_html(data: dict[str, Any], *, name: str) -> str:
    """Return the page."""
    room = files("netvm.report")
    name = printable(name)
    style, script = ((room / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    # with a "<" a tag or a comment could begin that ends the script element, or keeps it from ending
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    about = data["profile"]["about"]
    facts = ", ".join(f"{key} {about[key]}" for key in ("scenario", "kernel", "seed") if key in about)
    head = f"{facts}; {data['losses']}" if facts else data["losses"]
    within = f"{100 * data['profile']['quantile_error']:.1f}&nbsp;%"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(name)}: waiting for memory</title>
<style>
{style}</style>
</head>
<body>
<h1>{html.escape(name)}</h1>
<p class="dim">{html.escape(head)}. Quantiles are within {within}.</p>
<div id="verdict"></div>
<div id="tiles" class="tiles"></div>
<nav aria-label="sections"></nav>
<main></main>
<p class="note">netvm {__version__}</p>
<div id="tip" aria-hidden="true"></div>
<script type="application/json" id="data">{text}</script>
<script>
{script}</script>
</body>
</html>
"""
