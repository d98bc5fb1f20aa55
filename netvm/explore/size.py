"""The smallest safe value of a knob: bisection, with the class of proof on both sides of the edge.

Each probe is a search of its own (:mod:`netvm.explore.search`), stopped at the first failure: a value is *unsafe* if it
is refuted, and *safe as far as the search says* otherwise. The edge is first bracketed by doubling, then bisected. That
finds the smallest safe value if safety is monotone in the knob between the bracket's ends; the curve around the edge
shows whether it looks so, and names every value tried that contradicts it. A refutation that the answer names has been
replayed ten times; those that only narrowed the bracket have not.

The *analytic bound* is the sum over the consumers of the cleaning path of what each declares as its maximum, as in the
reserve trees of the swap-over-network patches of 2007 to 2009 (Zijlstra): enough, if every declaration is kept. Its
slack is what it asks for beyond the edge.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import msgspec

from netvm.errors import UsageError
from netvm.explore.result import CheckResult
from netvm.explore.subject import Subject
from netvm.scenario.schema import Scenario
from netvm.units import PAGE_SIZE

__all__ = ["Knob", "Probe", "SizeResult", "consumers", "knob_of", "smallest_safe", "text_of"]

_CEILING = 1 << 24
"""No knob of a scenario is doubled beyond this."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One value of the knob and what a search said of it."""

    value: int
    result: str
    schedules: int
    failures: int
    failure_rate: float | None = None
    """Share of random schedules that fail, where it was measured."""
    failure_rate_at_most: float | None = None
    """Its upper end, at 95 %."""
    decided: bool = True

    @property
    def safe(self) -> bool:
        """Whether nothing failed."""
        return self.result != "refuted" and self.decided


class SizeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``netvm size``; field by field the object of its JSON."""

    scenario: str
    knob: str
    key: str
    """The key of the scenario that was set."""
    smallest_safe: int | None
    """None: no value up to the highest tried is safe."""
    at: Probe | None = None
    """What was said of it."""
    below: Probe | None = None
    """What was said of the value before."""
    curve: list[Probe] = []
    """Failure rates around the edge."""
    not_monotone_at: list[int] = []
    """Values above the edge that fail."""
    analytic: dict[str, int] = {}
    """Declared maximum of each consumer, in pages."""
    analytic_pages: int = 0
    slack_pages: int | None = None
    """Analytic bound minus the edge; None where the knob is no reserve."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A numeric key of a scenario, perhaps under another name and in other units."""

    name: str
    key: str
    factor: int = 1
    """Units of the key in one of the knob."""
    is_reserve: bool = False

    def pages(self, value: int) -> int:
        """Return a value of a reserve in pages."""
        return value * 1024 // PAGE_SIZE if self.name == "vm.min_free_kbytes" else value

    def override(self, value: int) -> str:
        """Return what ``--set`` takes for a value."""
        return f"{self.key}={value * self.factor}"


def knob_of(name: str, scenario: Scenario) -> Knob:
    """Return the knob of a name: ``reserve.pages``, or any numeric key. Raises UsageError."""
    if scenario.abstract is not None and name in ("reserve.pages", "abstract.reserve"):
        return Knob(name, "abstract.reserve", is_reserve=True)
    if name == "reserve.pages":
        return Knob(name, "vm.min_free_kbytes", factor=PAGE_SIZE // 1024, is_reserve=True)
    here: Any = msgspec.to_builtins(scenario)
    for part in name.split("."):
        if isinstance(here, list) and part.isdecimal() and int(part) < len(here):
            here = here[int(part)]
        elif isinstance(here, dict) and part in here:
            here = here[part]
        else:
            meant = get_close_matches(name, ["reserve.pages", *_numbers(msgspec.to_builtins(scenario))], n=1)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            raise UsageError(f"size: --knob {name}: no such key in this scenario{hint}")
    if here is not None and (isinstance(here, bool) or not isinstance(here, int)):
        raise UsageError(f"size: --knob {name}: must be a whole number, is {here!r}")
    return Knob(name, name, is_reserve=name == "vm.min_free_kbytes")


def _numbers(table: Any, path: str = "") -> list[str]:
    """Return the dotted paths of all whole numbers, also of those that are not set."""
    if isinstance(table, dict | list):
        items = table.items() if isinstance(table, dict) else enumerate(table)
        return [found for key, value in items for found in _numbers(value, f"{path}.{key}" if path else str(key))]
    return [path] if table is None or (isinstance(table, int) and not isinstance(table, bool)) else []


def consumers(scenario: Scenario) -> dict[str, int]:
    """Return how many pages each consumer of the cleaning path may hold of the reserve at once, as it declares."""
    abstract = scenario.abstract
    if abstract is not None:
        return {
            "sends in flight": abstract.writebacks,
            "the acknowledgement being received": 1,
            "parked bystanders": 0 if abstract.drop else abstract.bystanders,
        }
    storage, nic = scenario.storage, scenario.nic
    if storage.kind == "disk":
        return {}
    # a request's header: sk_buff and its kmalloc-1k data; its payload is the dirty pages themselves
    header_bytes = 512 + 1024
    rcvbuf_bytes = scenario.vm.tcp_rmem[2] if len(scenario.vm.tcp_rmem) == 3 else 131072
    table = {
        "headers of requests in flight": math.ceil(storage.queue_depth * header_bytes / PAGE_SIZE),
        "the fragment being filled": 8,
        "receive queue of the storage's socket": math.ceil(rcvbuf_bytes / PAGE_SIZE),
    }
    if nic.kind != "loopback":
        table["receive ring"] = nic.ring
    return table


def smallest_safe(
    subject_at: Callable[[str], Subject],
    knob: Knob,
    search: Callable[[Subject], CheckResult],
    rate: Callable[[Subject, CheckResult | None], CheckResult],
    *,
    confirm: Callable[[Subject, CheckResult], CheckResult],
    low: int = 0,
    high: int | None = None,
    around: int = 2,
) -> SizeResult:
    """Find the edge.

    ``subject_at`` makes the subject with one override more, ``search`` is the probe, ``rate`` measures how many random
    schedules fail, given what a probe has found there; ``confirm`` replays a refutation, and is asked of those that are
    told. ``low`` is the smallest value to try, ``high`` the largest (default: doubled until one is safe).
    Raises UsageError if no value can be set.
    """
    probes: dict[int, Probe] = {}
    found: dict[int, CheckResult] = {}

    def probe(value: int) -> Probe | None:
        if value not in probes:
            try:
                subject = subject_at(knob.override(value))
            except UsageError:
                return None
            found[value] = search(subject)
            probes[value] = _probe(value, found[value])
        return probes[value]

    low, first = _lowest(probe, low)
    edge, unsafe = _bracket(probe, low, first, high)
    if edge is not None and unsafe is not None:
        while edge - unsafe > 1:
            middle = (edge + unsafe) // 2
            tried = probe(middle)
            if tried is not None and tried.safe:
                edge = middle
            else:
                unsafe = middle
    subject = subject_at(knob.override(low if edge is None else edge))
    table = consumers(subject.scenario)
    bound = sum(table.values())
    below = max(probes) if edge is None else edge - 1
    told = sorted({value for value in probes if value == below or (edge is not None and value > edge)})
    for value in told:
        found[value] = confirm(subject_at(knob.override(value)), found[value])
    near = range(0) if edge is None else range(max(low, edge - around), edge + around + 1)
    curve = _curve(subject_at, knob, rate, found, near)
    return SizeResult(
        scenario=subject.name,
        knob=knob.name,
        key=knob.key,
        smallest_safe=edge,
        at=None if edge is None else probes[edge],
        below=probes.get(below),
        curve=curve,
        not_monotone_at=sorted(
            {p.value for p in [*probes.values(), *curve] if edge is not None and p.value > edge and p.failures}
        ),
        analytic=table,
        analytic_pages=bound,
        slack_pages=bound - knob.pages(edge) if edge is not None and knob.is_reserve else None,
    )


def _lowest(probe: Callable[[int], Probe | None], low: int) -> tuple[int, Probe]:
    """Return the smallest value that can be set, and its probe."""
    for value in (low, low + 1, max(1, low * 2), 8, 64, 128):
        tried = probe(value) if value >= low else None
        if tried is not None:
            return value, tried
    raise UsageError(f"size: no value from {low} on can be set; give --low")


def _bracket(
    probe: Callable[[int], Probe | None], low: int, first: Probe, high: int | None
) -> tuple[int | None, int | None]:
    """Return a safe value and an unsafe one below it; None for what there is not."""
    if first.safe:
        return low, None
    unsafe, step = low, 1
    ceiling = _CEILING if high is None else high
    while unsafe < ceiling:
        value = min(unsafe + step, ceiling)
        tried = probe(value)
        if tried is None:
            # too large to be set: look between
            ceiling = value - 1
            step = max(1, step // 2)
            if unsafe >= ceiling:
                break
            continue
        if tried.safe:
            return value, unsafe
        unsafe = value
        step *= 2
    return None, unsafe


def _probe(value: int, result: CheckResult) -> Probe:
    return Probe(
        value=value,
        result=result.result,
        schedules=result.schedules,
        failures=result.failures,
        failure_rate_at_most=result.bound.get("failure_rate_at_most"),
        decided=result.decided,
    )


def _curve(
    subject_at: Callable[[str], Subject],
    knob: Knob,
    rate: Callable[[Subject, CheckResult | None], CheckResult],
    found: Mapping[int, CheckResult],
    values: range,
) -> list[Probe]:
    """Measure the failure rate at the values around the edge."""
    curve = []
    for value in values:
        try:
            result = rate(subject_at(knob.override(value)), found.get(value))
        except UsageError:
            continue
        share = result.failures / result.schedules if result.schedules else None
        curve.append(
            Probe(
                value=value,
                result=result.result,
                schedules=result.schedules,
                failures=result.failures,
                failure_rate=share,
                failure_rate_at_most=_upper(result.failures, result.schedules),
                decided=result.decided,
            )
        )
    return curve


def _upper(failures: int, nr: int) -> float:
    """Return the upper end of the failure rate at 95 % (Wilson's score, one-sided)."""
    if not nr:
        return 1.0
    z = 1.645
    share = failures / nr
    middle = share + z * z / (2 * nr)
    spread = z * math.sqrt(share * (1 - share) / nr + z * z / (4 * nr * nr))
    return min(1.0, (middle + spread) / (1 + z * z / nr))


def text_of(result: SizeResult) -> str:
    """Return what a user reads."""
    if result.smallest_safe is None:
        lines = [f"{result.scenario}: no safe value of {result.knob} was found"]
    else:
        lines = [f"{result.scenario}: the smallest safe {result.knob} is {result.smallest_safe}"]
    for label, probe in (("at it", result.at), ("below it", result.below)):
        if probe is not None:
            lines.append(f"  {label} ({probe.value}): {probe.result} after {probe.schedules} schedules")
    if result.smallest_safe and result.below is None:
        lines.append("  below it: not tried, for --low or what the key may be ends there")
    lines += [
        f"  {probe.value:8}: {probe.failures} of {probe.schedules} random schedules fail "
        f"(at most {probe.failure_rate_at_most:.1%} at 95 %)"
        for probe in result.curve
    ]
    if result.not_monotone_at:
        lines.append(f"  not monotone: fails again at {', '.join(map(str, result.not_monotone_at))}")
    lines += _analytic_lines(result.analytic, result)
    return "\n".join(lines)


def _analytic_lines(table: Mapping[str, int], result: SizeResult) -> list[str]:
    if not table:
        return []
    parts = " + ".join(f"{name} {pages}" for name, pages in table.items())
    slack = f"; slack {result.slack_pages}" if result.slack_pages is not None else ""
    return [f"  analytic bound: {result.analytic_pages} pages = {parts}{slack}"]
