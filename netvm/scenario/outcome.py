"""What a run came to: the object that ``netvm run --json`` prints, and the progress on the way to it.

Names and units are the kernel's, so that a number can be held against a real machine's: ``vmstat`` has the keys of
/proc/vmstat (counters since the start, and the gauges at the end), a zone has the marks of /proc/zoneinfo in pages, a
pass of a workload has the figures of the recorded programs' own report.

The same seed gives the same bytes: :func:`outcome_json` sorts every map, and of all fields only ``wall_seconds`` is
not of the emulated world (:func:`differences` leaves it out). ``options`` is the whole resolved scenario, so a result
file is also what ``netvm replay`` runs again.
"""

from typing import Any

import msgspec

from netvm.scenario.schema import Verdict

__all__ = [
    "LatencyReport",
    "Outcome",
    "PassReport",
    "Progress",
    "ReserveReport",
    "WorkloadReport",
    "ZoneReport",
    "differences",
    "outcome_json",
]


class _Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every part of a result."""


class Progress(_Report, frozen=True, kw_only=True):
    """Where a run stands, told while it runs."""

    virtual_seconds: float
    free_pages: int
    """Free pages of all zones."""
    min_pages: int
    """Sum of the zones' marks, boost included, as the next three."""
    low_pages: int
    high_pages: int
    pages_cleaned: int
    """Pages whose write to the storage has completed."""
    swap_used_pages: int


class ZoneReport(_Report, frozen=True, kw_only=True):
    """One populated zone as at boot, in pages."""

    name: str
    managed: int
    min: int
    low: int
    high: int
    protection: list[int] = []


class LatencyReport(_Report, frozen=True, kw_only=True):
    """Quantiles of a span in microseconds; ``None`` where nothing was measured."""

    count: int = 0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    max: float | None = None


class ReserveReport(_Report, frozen=True, kw_only=True):
    """Use of the memory below the min watermarks."""

    pages: int = 0
    """Sum of the zones' min marks at boot."""
    peak_used: int = 0
    """Most of it that was in use at once."""
    by_owner: dict[str, int] = {}
    """Who held how many of its pages at that moment."""
    still_used: int = 0
    """Pages drawn from there that are held at the end of the run."""
    still_by_owner: dict[str, int] = {}
    """Who holds how many of those."""


class PassReport(_Report, frozen=True, kw_only=True):
    """One pass of a workload over its memory, as the recorded programs report it."""

    index: int
    touches: int
    total_ns: int
    max_ns: int
    """The slowest single touch."""
    minflt: int = 0
    majflt: int = 0
    hist_log2ns: dict[str, int] = {}
    """Touches by the power of two that bounds their time: ``"21"`` counts 2**21..2**22 ns."""


class WorkloadReport(_Report, frozen=True, kw_only=True):
    """What became of one workload."""

    name: str
    kind: str
    finished: bool
    """False if it was killed, hung, or cut off by the end of the run."""
    oom_killed: bool = False
    bad: int = 0
    """Pages that did not hold what was last written to them."""
    total_s: float = 0.0
    passes: list[PassReport] = []


class Outcome(_Report, frozen=True, kw_only=True):
    """The result of one run; field by field the object of ``netvm run --json``."""

    scenario: str
    """Name in the catalogue, or the path of the file."""
    kernel: str
    seed: int
    version: str
    """Version of netvm."""
    verdict: Verdict | None
    """``None`` if the run was cut off before one was reached."""
    expected: list[Verdict]
    partial: str | None = None
    """Why the run was cut off: ``"interrupted"`` or ``"budget"``; ``None`` if it was not."""
    virtual_seconds: float
    wall_seconds: float = 0.0
    """Real time it took; the command line measures it."""
    longest_standstill_s: float = 0.0
    """Longest span without a page cleaned, read, or touched."""
    explanation: list[str] = []
    """Why, in kernel words: for a hang who waits for what, and who holds it."""
    zones: list[ZoneReport] = []
    vmstat: dict[str, int] = {}
    direct_reclaim_latency_us: LatencyReport = LatencyReport()
    reserve: ReserveReport = ReserveReport()
    memory_groups: dict[str, dict[str, int]] = {}
    """By group, in pages and times: memory.current, its peak and limit, memory.events and the lists of memory.stat."""
    netstat: dict[str, int] = {}
    """Counters of /proc/net/netstat and snmp under their kernel names, since boot; only what was counted."""
    drops: dict[str, int] = {}
    """Packets dropped, by the kernel's reason; `link_lost` and `link_overflowed` are the wire's, both ways."""
    workload: list[WorkloadReport] = []
    audit: list[str] = []
    """What does not add up at the end; empty if everything does."""
    replay: str = ""
    """The command that runs this again."""
    options: dict[str, Any] = {}
    """The resolved scenario."""

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is one of the expected and the books balance."""
        return self.verdict in self.expected and not self.audit


def outcome_json(outcome: Outcome, **beside: object) -> str:
    """Return the one line of ``netvm run --json``, with further keys ``beside`` the fields; equal data, equal text."""
    fields = msgspec.to_builtins(outcome, order="deterministic")
    return msgspec.json.encode(fields | msgspec.to_builtins(beside)).decode()


def differences(recorded: Outcome, replayed: Outcome) -> list[str]:
    """Return the fields in which two results of the same options differ; wall time does not count."""
    fields = [field.encode_name for field in msgspec.structs.fields(Outcome) if field.name != "wall_seconds"]
    old, new = (msgspec.to_builtins(outcome, order="deterministic") for outcome in (recorded, replayed))
    return [name for name in fields if old[name] != new[name]]
