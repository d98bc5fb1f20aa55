"""What must hold in every schedule, and what must happen in some.

An *always* property looks at one finished run and says what is wrong, or nothing. A *sometimes* property guards against
vacuity: a search in which nobody ever entered direct reclaim has not shown that direct reclaim is safe. A user's own is
one decorated function::

    @always("no more than half of the reserve is used at once")
    def half(run):
        ledger = run.host.ledger
        return "more than half" if ledger.reserve_peak > 16 else None

The run is a :class:`netvm.scenario.run.Experiment` (or :class:`netvm.scenario.abstract.AbstractExperiment`) that has
ended; ``run.host`` holds the machine as it stands.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

from netvm.errors import UsageError
from netvm.mm.ledger import Ledger
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.run import Experiment
from netvm.units import NS_PER_S

__all__ = [
    "PROPERTIES",
    "Always",
    "Explorable",
    "Property",
    "PropertyFile",
    "Sometimes",
    "always",
    "load_properties",
    "no_early_oom",
    "sometimes",
]

Explorable: TypeAlias = Experiment | AbstractExperiment

_STANDSTILLS = ("HANG", "LIVELOCK", "OVER_THROTTLE", "DROP_FOREVER")


@dataclass(frozen=True, slots=True)
class Always:
    """Must hold at the end of every run."""

    name: str
    wrong: Callable[[Explorable], str | None]
    """What is wrong with a run; None if nothing is."""

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        """Travel to another process by name: the decorated name is the property, not the function."""
        return _named, (self.wrong.__module__, self.wrong.__qualname__)


@dataclass(frozen=True, slots=True)
class Sometimes:
    """Must be seen in at least one run of a search."""

    name: str
    seen: Callable[[Explorable], bool]

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        """Travel to another process by name, as ``Always`` does."""
        return _named, (self.seen.__module__, self.seen.__qualname__)


def _named(module: str, name: str) -> object:
    return getattr(import_module(module), name)


Property: TypeAlias = Always | Sometimes


def always(name: str) -> Callable[[Callable[[Explorable], str | None]], Always]:
    """Make a property of a function that returns what is wrong with a run, or None."""
    return lambda wrong: Always(name, wrong)


def sometimes(name: str) -> Callable[[Callable[[Explorable], bool]], Sometimes]:
    """Make a guard against vacuity of a function that says whether a run has seen something."""
    return lambda seen: Sometimes(name, seen)


class PropertyFile(NamedTuple):
    """A user's file of properties."""

    properties: list[Property]
    digest: str
    """SHA-256 of its text."""


def load_properties(path: Path, *, digest_wanted: str | None = None) -> PropertyFile:
    """Return the properties of a Python file, in its order.

    With ``digest_wanted`` a file whose text has another digest is not run. Raises UsageError if that is so, if the file
    cannot be run, or has no property.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"--property {path}: {getattr(error, 'strerror', None) or error}") from None
    digest = hashlib.sha256(source.encode()).hexdigest()
    if digest_wanted not in (None, digest):
        raise UsageError(
            f"{path}: not the properties that the reproducer was written with, and not run; "
            f"to look at them none the less: --property {path}"
        )
    names: dict[str, object] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), names)
    except Exception as error:  # noqa: BLE001  whatever the file raises is told as its own
        raise UsageError(f"--property {path}: {type(error).__name__}: {error}") from None
    found = [_blaming(path, value) for value in names.values() if isinstance(value, Always | Sometimes)]
    if not found:
        raise UsageError(f"--property {path}: has no function under @always or @sometimes of netvm.explore.properties")
    return PropertyFile(found, digest)


T = TypeVar("T")


def _blaming(path: Path, prop: Property) -> Property:
    """Return a property whose own errors are told as those of its file."""

    def guarded(look: Callable[[Explorable], T]) -> Callable[[Explorable], T]:
        def looking(run: Explorable) -> T:
            try:
                return look(run)
            except Exception as error:  # noqa: BLE001  the user's own function
                raise UsageError(f"--property {path}: {prop.name!r}: {type(error).__name__}: {error}") from None

        return looking

    if isinstance(prop, Always):
        return Always(prop.name, guarded(prop.wrong))
    return Sometimes(prop.name, guarded(prop.seen))


def _first(explanation: list[str]) -> str:
    return f": {explanation[0]}" if explanation else ""


@always("nothing hangs and nothing goes round for ever")
def no_standstill(run: Explorable) -> str | None:
    """No HANG, LIVELOCK, OVER_THROTTLE or DROP_FOREVER."""
    verdict = run.verdict()
    return f"{verdict}{_first(run.explanation)}" if verdict in _STANDSTILLS else None


@always("OOM only when reclaim has nothing left")
def no_early_oom(run: Explorable) -> str | None:
    """Nobody is killed while swap is free or pages are on their way to it."""
    if isinstance(run, AbstractExperiment):
        return None
    for kill in run.host.oom.kills:
        if kill.free_swap_pages > 0 or kill.pages_under_writeback:
            return (
                f"{kill.victim} was killed with {kill.free_swap_pages} pages of swap free and "
                f"{kill.pages_under_writeback} under writeback"
            )
    return None


@always("nothing is lost and nothing corrupt")
def nothing_lost(run: Explorable) -> str | None:
    """What the storage acknowledged it holds, and a page read back is the page written."""
    verdict = run.verdict()
    return verdict if verdict in ("LOST_WRITE", "CORRUPT") else None


@always("every page and every reserve page has its owner, and the reserve is never overdrawn")
def books_balance(run: Explorable) -> str | None:
    """The audit finds nothing; no program's own page comes out of the reserve while nobody is being killed."""
    found = run.audit()
    if found:
        return found[0]
    ledger = _ledger(run)
    killed = not isinstance(run, AbstractExperiment) and bool(run.host.oom.kills)
    ordinary = [owner for owner in ("anon", "dirty", "reader") if ledger.by_owner_at_peak.get(owner)]
    if ordinary and not killed:
        return f"{ordinary[0]} held {ledger.by_owner_at_peak[ordinary[0]]} pages of the reserve"
    return None


@always("mempools refill")
def mempools_refill(run: Explorable) -> str | None:
    """A pool whose elements have all come back is full."""
    if isinstance(run, AbstractExperiment) or run.hang is not None:
        return None
    pool = run.host.bios.pool
    if not pool.nr_out and len(pool.elements) < pool.min_nr:
        return f"{pool.name} holds {len(pool.elements)} of {pool.min_nr} and none is out"
    return None


@always("everything drains in time when faults have stopped")
def drains(run: Explorable) -> str | None:
    """A run that ends has never stood still for as long as ``run.stall_s``."""
    if isinstance(run, AbstractExperiment) or run.verdict() != "STALL":
        return None
    return f"STALL: nothing got done for {run.standstill_ns() / NS_PER_S:.3f} s at the longest"


@sometimes("direct reclaim was entered")
def direct_reclaim(run: Explorable) -> bool:
    """Somebody reclaimed for itself."""
    return isinstance(run, AbstractExperiment) or run.host.vmscan.direct_reclaim_latency.summary().count > 0


@sometimes("the reserve was used")
def reserve_used(run: Explorable) -> bool:
    """A page was taken that an ordinary request must leave."""
    return _ledger(run).reserve_peak > 0


def _ledger(run: Explorable) -> Ledger:
    return run.machine.ledger if isinstance(run, AbstractExperiment) else run.host.ledger


@sometimes("a packet was dropped at demux")
def dropped_at_demux(run: Explorable) -> bool:
    """A packet for somebody else was received in reserve memory and dropped."""
    if isinstance(run, AbstractExperiment):
        return run.machine.dropped
    return run.host.netstat["PFMemallocDrop"] > 0


PROPERTIES: tuple[Property, ...] = (
    no_standstill,
    no_early_oom,
    nothing_lost,
    books_balance,
    mempools_refill,
    drains,
    direct_reclaim,
    reserve_used,
    dropped_at_demux,
)
"""What ``netvm check`` looks at."""
