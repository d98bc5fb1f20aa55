"""The text of a run for a reader: its options first, then verdict, explanation, counters, and the way to run it again.

Names are the kernel's, so a line can be searched for in the output and in /proc alike. Nothing is computed here.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from netvm import __version__
from netvm.scenario.against import Comparison, Row
from netvm.scenario.load import options_of
from netvm.scenario.outcome import LatencyReport, Outcome, ReserveReport, WorkloadReport
from netvm.scenario.schema import Scenario

__all__ = ["comparison_text", "options_text", "outcome_text", "paint_of"]

_WIDTH: Final = 118
_BAD: Final = "\x1b[1;31m"
_GOOD: Final = "\x1b[1;32m"


def options_text(name: str, scenario: Scenario) -> str:
    """Return seed, version, and every resolved option, a table of the file to a paragraph."""
    run = scenario.run
    head = f"netvm {__version__}: {name}, kernel {scenario.kernel.preset}, seed {run.seed}, oracle {run.oracle}"
    lines = [head, *([f"  {scenario.title}"] if scenario.title else [])]
    for table, value in options_of(scenario).items():
        if table not in ("title", "exhibit"):
            pairs = " ".join(_pairs(value, ""))
            lines += _wrapped(f"[{table}]", pairs) if isinstance(value, dict) else _wrapped(table, pairs)
    return "\n".join(lines)


def paint_of(outcome: Outcome) -> str:
    """Return what turns on the colour of a verdict."""
    return _GOOD if outcome.as_expected else _BAD


def outcome_text(outcome: Outcome) -> str:
    """Return what a run came to, the verdict first."""
    return "\n".join(
        [
            *_verdict(outcome),
            *_bullets("why:", outcome.explanation),
            *_bullets("audit:", outcome.audit),
            *(line for workload in outcome.workload for line in _workload(workload)),
            *_counters("vmstat:", outcome.vmstat),
            *_counters("netstat:", outcome.netstat),
            *_latency(outcome.direct_reclaim_latency_us),
            f"reserve: {outcome.reserve.pages} pages below min; drawn from there and held, at the peak: "
            f"{outcome.reserve.peak_used}" + _owners("; by owner: ", outcome.reserve.by_owner),
            *_still_held(outcome.reserve),
            "drops: " + (_owners("", outcome.drops) or "none"),
            f"replay: {outcome.replay}",
        ]
    )


def comparison_text(comparison: Comparison) -> str:
    """Return the recorded run and the emulated one side by side."""
    agree = {True: "they agree", False: "they DISAGREE", None: "not comparable"}[comparison.agree]
    emulated = comparison.emulated_verdict or "none"
    lines = [f"against {comparison.run}: recorded {comparison.recorded_verdict}, emulated {emulated}: {agree}"]
    for title, rows in (
        ("watermarks (pages)", comparison.watermarks),
        ("counters", comparison.counters),
        ("netstat", comparison.netstat),
        ("direct reclaim latency (us)", comparison.latencies_us),
        ("time (s)", comparison.times_s),
        ("at the hang (pages)", comparison.at_the_hang),
    ):
        lines += _rows(title, rows)
    if comparison.recorded_tasks:
        lines += _bullets("recorded tasks:", comparison.recorded_tasks)
        lines += _bullets("emulated:", comparison.emulated_explanation)
    return "\n".join([*lines, *_bullets("remarks:", comparison.remarks)])


def _verdict(outcome: Outcome) -> Iterator[str]:
    span = f"{outcome.virtual_seconds:.3f} s virtual, {outcome.wall_seconds:.2f} s wall"
    if outcome.verdict is None:
        why = {"interrupted": "interrupted", "budget": "the budget ran out"}.get(outcome.partial or "", "cut off")
        yield f"{outcome.scenario}: {why} after {span}: a partial summary, no verdict"
        return
    judged = f"as expected ({', '.join(outcome.expected)})"
    if outcome.verdict not in outcome.expected:
        judged = f"NOT {judged}"
    yield f"{outcome.scenario}: {outcome.verdict}, {judged}, after {span}"
    yield f"longest standstill: {outcome.longest_standstill_s:.3f} s"


def _workload(workload: WorkloadReport) -> Iterator[str]:
    end = (
        "OOM-killed"
        if workload.oom_killed
        else f"done in {workload.total_s:.3f} s"
        if workload.finished
        else "unfinished"
    )
    bad = f", {workload.bad} pages BAD" if workload.bad else ""
    yield f"{workload.kind} {workload.name}: {end}{bad}"
    for one in workload.passes:
        yield (
            f"  pass {one.index}: {one.touches} touches in {one.total_ns / 1e9:.3f} s, "
            f"worst {one.max_ns / 1e6:.3f} ms, {one.minflt} minor and {one.majflt} major faults"
        )


def _counters(title: str, values: Mapping[str, int]) -> Iterator[str]:
    counted = [(name, value) for name, value in values.items() if value]
    if not counted:
        return
    yield title
    width = max(len(name) for name, _ in counted)
    figures = max(len(str(value)) for _, value in counted)
    cells = [f"{name:{width}} {value:>{figures}}" for name, value in counted]
    columns = max(1, _WIDTH // (width + figures + 4))
    for start in range(0, len(cells), columns):
        yield "  " + "   ".join(cells[start : start + columns])


def _latency(latency: LatencyReport) -> Iterator[str]:
    quantiles = [(name, getattr(latency, name)) for name in ("p50", "p90", "p99", "max")]
    told = ", ".join(f"{name} {value:.0f}" for name, value in quantiles if value is not None)
    yield f"direct reclaim latency (us): {latency.count} times" + (f", {told}" if told else "")


def _still_held(reserve: ReserveReport) -> Iterator[str]:
    if reserve.still_used:
        yield f"reserve, at the end: {reserve.still_used} held" + _owners("; by owner: ", reserve.still_by_owner)


def _owners(head: str, pages: Mapping[str, int]) -> str:
    ranked = sorted(pages.items(), key=lambda item: (-item[1], item[0]))
    return head + ", ".join(f"{name} {count}" for name, count in ranked) if ranked else ""


def _rows(title: str, rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    width = max(len(title), *(len(row.name) for row in rows)) + 2
    yield f"{title:{width}}{'recorded':>12}{'emulated':>12}{'ratio':>9}"
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        yield f"  {row.name:{width - 2}}{_figure(row.recorded):>12}{_figure(row.emulated):>12}{ratio:>9}"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}" if value < 100 else f"{value:.0f}"


def _bullets(head: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield head
    for line in lines:
        yield from textwrap.wrap(
            line,
            _WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{head} {text}",
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _pairs(value: object, path: str) -> Iterator[str]:
    """Generate ``key=value`` for every leaf below ``value``."""
    if isinstance(value, dict) and (value or not path):
        for key, item in value.items():
            yield from _pairs(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _pairs(item, f"{path}.{index}" if path else str(index))
    else:
        text = "default" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        yield f"{path}={text}" if path else text
