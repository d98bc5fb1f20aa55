"""One failing schedule as one file: made small, written, read back, and run again to the byte.

A reproducer is a scenario file with one more table, ``[reproducer]``: the tape of choices, the mishaps that were
allowed, what fails, and a digest of the whole result. The tape is *shrunk* first: a choice that can be 0 (what a kernel
would do) becomes 0, choices behind the failure go. What is left are the deviations that matter; with the last of them
undone the schedule passes, so the file names that choice as the one where it leaves the last passing schedule.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from netvm import __version__
from netvm.errors import UsageError
from netvm.explore.oracles import Name, SteeredOracle
from netvm.explore.properties import PROPERTIES, load_properties
from netvm.explore.result import CheckResult, Failure
from netvm.explore.subject import Broken, Subject, execute, rerun
from netvm.runtime.oracle import TapeMismatchError
from netvm.scenario.blame import blames, refuse
from netvm.scenario.load import options_of, read_toml, scenario_from
from netvm.scenario.outcome import Outcome, outcome_json
from netvm.scenario.tomltext import toml_text

__all__ = [
    "Reproducer",
    "Step",
    "digest_of",
    "load",
    "reproducer_of",
    "reproducer_with",
    "shrink",
    "text_of",
    "walk",
]

_SHRINKING_RUNS_MAX = 400


class Reproducer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``[reproducer]`` table."""

    scenario: str
    """What was explored."""
    version: str
    """Version of netvm that wrote it."""
    property: str
    what: str
    tape: list[int]
    """The choices; after the last one always 0."""
    leaves_at: int | None = None
    """The choice at which it leaves the last passing schedule, counted from 0; None: the calm schedule fails too."""
    leaves_how: str = ""
    """What runs there, and what runs in the passing schedule."""
    mishaps: dict[str, int] = {}
    window_ns: int = 0
    calm_boot: bool = False
    """The tape begins with the first program."""
    property_files: dict[str, str] = {}
    """Files of properties that were looked at beside the product's own, each with its SHA-256."""
    digest: str
    """SHA-256 of the run's whole result."""


class Step(NamedTuple):
    """One step of a schedule, told."""

    number: int
    choice: int | None
    """Which choice it was; None if there was nothing to choose."""
    who: str
    instead_of: list[str]
    at_ns: int


def digest_of(outcome: Outcome) -> str:
    """Return a digest of a result, wall time and the command that made it left out."""
    bare = msgspec.structs.replace(outcome, wall_seconds=0.0, replay="")
    return hashlib.sha256(outcome_json(bare).encode()).hexdigest()


def shrink(subject: Subject, failure: Failure) -> list[int]:
    """Return a tape that fails in the same property with as few deviations as a bounded effort finds."""
    runs = 0

    def fails(tape: list[int]) -> list[int] | None:
        nonlocal runs
        runs += 1
        try:
            schedule = rerun(subject, tape)
        except TapeMismatchError:
            return None
        if schedule.broken is None or schedule.broken.property != failure.property:
            return None
        return _trimmed(schedule.tape)

    best = _trimmed(failure.tape)
    size = max(1, len(best) // 2)
    while size and runs < _SHRINKING_RUNS_MAX:
        shorter = None
        for start in range(0, len(best), size):
            if runs >= _SHRINKING_RUNS_MAX or not any(best[start : start + size]):
                continue
            zeroed = [0 if start <= i < start + size else choice for i, choice in enumerate(best)]
            shorter = fails(_trimmed(zeroed))
            if shorter is not None and _cost(shorter) < _cost(best):
                best = shorter
                break
            shorter = None
        if shorter is None:
            size //= 2
    return best


def _trimmed(tape: list[int]) -> list[int]:
    end = len(tape)
    while end and not tape[end - 1]:
        end -= 1
    return tape[:end]


def _cost(tape: list[int]) -> tuple[int, int]:
    return sum(1 for choice in tape if choice), len(tape)


def reproducer_of(subject: Subject, result: CheckResult) -> Reproducer:
    """Return the reproducer of a refutation."""
    assert result.failure is not None
    broken = Broken(result.failure.property, result.failure.what)
    return reproducer_with(subject, shrink(subject, result.failure), broken)


def reproducer_with(subject: Subject, tape: Sequence[int], broken: Broken) -> Reproducer:
    """Return the reproducer of a schedule that fails in ``broken``, its tape as small as it has been made."""
    tape = _trimmed(list(tape))
    schedule = rerun(subject, tape)
    leaves_at = None
    if tape and rerun(subject, tape[:-1]).broken is None:
        leaves_at = len(tape) - 1
    broken = schedule.broken or broken
    return Reproducer(
        scenario=subject.name,
        version=__version__,
        property=broken.property,
        what=broken.what,
        tape=tape,
        leaves_at=leaves_at,
        leaves_how=_how(subject, tape) if leaves_at is not None else "",
        mishaps=dict(subject.mishaps),
        window_ns=subject.window_ns,
        calm_boot=subject.calm_boot,
        property_files=dict(subject.property_files),
        digest=digest_of(schedule.experiment.outcome()),
    )


def _how(subject: Subject, tape: list[int]) -> str:
    last = next((step for step in walk(subject, tape) if step.choice == len(tape) - 1), None)
    if last is None:
        return "another event or mishap"
    return f"{last.who} runs instead of {last.instead_of[0]}" if last.instead_of else last.who


def text_of(reproducer: Reproducer, subject: Subject) -> str:
    """Return the file."""
    table = msgspec.to_builtins(reproducer)
    notes = {
        "": f"netvm replay runs this to the byte; netvm replay --step walks through it.\n{reproducer.what}",
        "reproducer": "The schedule: at each choice point which option was taken, 0 being what a kernel would do.",
    }
    return toml_text({"reproducer": table, **options_of(subject.scenario)}, comments=notes)


def load(path: Path, property_files: Sequence[Path] = ()) -> tuple[Reproducer, Subject]:
    """Return what a reproducer's file holds.

    The files of properties that it names are looked for where they were and beside it, and run only if they are what
    they were; ``property_files`` are taken instead of them, whatever they are. Raises UsageError.
    """
    data = read_toml(path)
    table = data.pop("reproducer", {})
    for blame in blames(table, Reproducer):
        raise refuse(f"{path}: [reproducer]", blame)
    reproducer = msgspec.convert(table, Reproducer)
    if any(choice < 0 for choice in reproducer.tape):
        raise UsageError(f"{path}: reproducer.tape: a choice must be 0 or more")
    scenario = scenario_from(data, origin=str(path))
    if property_files:
        files = {str(file): load_properties(file) for file in property_files}
    else:
        named = {_found(path, name): digest for name, digest in reproducer.property_files.items()}
        files = {str(file): load_properties(file, digest_wanted=digest) for file, digest in named.items()}
    subject = Subject(
        scenario=scenario,
        name=reproducer.scenario,
        properties=(*PROPERTIES, *(found for file in files.values() for found in file.properties)),
        property_files={name: file.digest for name, file in files.items()},
        mishaps=reproducer.mishaps,
        window_ns=reproducer.window_ns,
        calm_boot=reproducer.calm_boot,
    )
    return reproducer, subject


def _found(path: Path, name: str) -> Path:
    """Return where a file of properties is that a reproducer names. Raises UsageError."""
    for file in (Path(name), path.parent / Path(name).name):
        if file.exists():
            return file
    raise UsageError(f"{path}: looks at the properties of {name}, which is not there; say where with --property FILE")


class _TellingOracle(SteeredOracle):
    """Plays a tape and tells what there was to choose from."""

    def __init__(self, tape: list[int], window_ns: int, tell: Callable[[str, int, Sequence[Name]], None]) -> None:
        super().__init__(tape, window_ns=window_ns)
        self._tell = tell

    def choose_among(self, kind: str, names: Sequence[Name]) -> int:
        """Play the tape."""
        index = self.choose(kind, len(names))
        self._tell(kind, index, names)
        return index


def walk(subject: Subject, tape: list[int]) -> Iterator[Step]:
    """Generate the steps of a schedule at which a task runs: who, and who could have instead."""
    steps: list[Step] = []
    chosen: tuple[int, list[str]] | None = None

    def tell(kind: str, index: int, names: Sequence[Name]) -> None:
        nonlocal chosen
        if kind == "task":
            others = [_comm(number) for i, (number, _) in enumerate(names) if i != index]
            chosen = (len(oracle.widths) - 1, others)

    def _comm(number: int) -> str:
        task = run.world.tasks.get(number)
        return f"{task.comm}-{task.pid}" if task is not None else f"task {number}"

    oracle = _TellingOracle(tape, subject.window_ns, tell)
    run = subject.experiment(oracle)
    world = run.world
    picking = world.picking

    def note() -> None:
        nonlocal chosen
        task = world.current
        if task is not None and world.nr_steps:
            choice, others = chosen if chosen is not None else (None, [])
            steps.append(Step(world.nr_steps, choice, f"{task.comm}-{task.pid}", others, world.now_ns))
            chosen = None

    def listen(nr_candidates: int) -> None:
        note()
        if picking is not None:
            picking(nr_candidates)
        elif hasattr(run, "picking"):
            run.picking(nr_candidates)

    world.picking = listen
    execute(run)
    note()
    yield from steps
