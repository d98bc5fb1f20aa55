"""The matrix: every arm of every exhibit under a kernel, and what came of it.

An arm runs under its own kernel, as its file says. Under another preset it keeps the one switch that makes it this arm
(``exhibit.fix``) and nothing else of ``[kernel.fixes]``: the other switches of a file hold its pair alike under an old
preset, and would make of any preset the same kernel. So a row of the matrix says whether the cure still matters there.

Runs do not know each other and are spread over processes; the cells come as they are ready.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from netvm.errors import UsageError
from netvm.fixes import FIXES, preset
from netvm.scenario.catalog import Named
from netvm.scenario.load import load_scenario
from netvm.scenario.outcome import Outcome
from netvm.scenario.run import run_scenario
from netvm.scenario.schema import Scenario, Verdict

__all__ = ["KNOT", "Cell", "Job", "broken_arms", "jobs_of", "pair_of", "run_cell", "run_matrix", "under_preset"]

KNOT: Final = "the knot: "
"""How the line of an explanation begins that has the shortest chain of a hang."""


class Job(NamedTuple):
    """One cell to be run."""

    name: str
    kernel: str
    own: bool
    """Whether the arm runs under the kernel of its file."""
    scenario: Scenario


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One arm under one kernel, and what it came to."""

    name: str
    exhibit: str
    arm: str
    kernel: str
    own: bool
    """Whether this is the kernel of its file; only then a verdict is expected."""
    verdict: Verdict | None
    """``None`` if the budget ran out, or the run was interrupted, before there was one."""
    expected: list[Verdict]
    audit: list[str]
    virtual_seconds: float
    explanation: list[str]

    @property
    def as_expected(self) -> bool:
        """Whether nothing about it is a surprise: the books balance, and under its own kernel the verdict is right."""
        return not self.audit and self.verdict is not None and (not self.own or self.verdict in self.expected)

    @property
    def knot(self) -> str:
        """Return the shortest chain of the hang, else the first kill, hung task, standstill or level, if any."""
        for line in self.explanation:
            if line.startswith(KNOT):
                return line.removeprefix(KNOT)
        words = ("invoked oom-killer", "INFO: task ", "nothing got done for", "reserve pages held")
        told = [line for word in words for line in self.explanation if word in line]
        return told[0] if told else ""


def pair_of(name: str, arm: str) -> str:
    """Return what the arms of one pair are called: the name without its arm."""
    return name.removesuffix(arm).rstrip("-/") or name


def broken_arms(files: Sequence[Named]) -> list[Named]:
    """Return the broken arms of the pairs that ``files`` belong to, each once.

    Raises UsageError if there is none, or for a file that is no scenario.
    """
    found: dict[Path, Named] = {}
    for named in files:
        exhibit = load_scenario(named.path).exhibit
        if exhibit is None:
            continue
        broken = named
        if exhibit.arm != "broken":
            stem = named.path.stem.removesuffix(exhibit.arm)
            name = named.name.removesuffix(".toml").removesuffix(exhibit.arm)
            broken = Named(name=f"{name}broken", path=named.path.with_name(f"{stem}broken.toml"))
        if broken.path.is_file():
            found[broken.path] = broken
    if not found:
        names = ", ".join(named.name for named in files)
        raise UsageError(f"{names}: no exhibit with a broken arm; see `netvm list`")
    return list(found.values())


def under_preset(scenario: Scenario, kernel: str) -> Scenario:
    """Return ``scenario`` under the preset ``kernel``, keeping the switch of its own arm.

    ``exhibit.fix`` may be the path of another key; then the arm lies in that key, and no switch is kept.
    """
    assert scenario.exhibit is not None
    fix = scenario.exhibit.fix
    own = preset(scenario.kernel.preset).switched(scenario.kernel.fixes)
    kept = {fix: bool(getattr(own, fix))} if fix in FIXES else {}
    return msgspec.structs.replace(scenario, kernel=msgspec.structs.replace(scenario.kernel, preset=kernel, fixes=kept))


def jobs_of(files: Sequence[Named], kernels: Sequence[str] = ()) -> list[Job]:
    """Return the cells of a matrix: the exhibits among ``files``, each under each preset, or under its own kernel.

    Raises UsageError for a file that is no scenario.
    """
    jobs = []
    for named in files:
        scenario = load_scenario(named.path)
        if scenario.exhibit is None:
            continue
        if not kernels:
            jobs.append(Job(named.name, scenario.kernel.preset, own=True, scenario=scenario))
        jobs += [Job(named.name, kernel, own=False, scenario=under_preset(scenario, kernel)) for kernel in kernels]
    return jobs


def run_cell(job: Job, run: Callable[..., Outcome] = run_scenario) -> Cell:
    """Run one cell."""
    exhibit = job.scenario.exhibit
    assert exhibit is not None
    outcome = run(job.scenario, name=job.name)
    return Cell(
        name=job.name,
        exhibit=exhibit.id,
        arm=exhibit.arm,
        kernel=job.kernel,
        own=job.own,
        verdict=outcome.verdict,
        expected=outcome.expected,
        audit=outcome.audit,
        virtual_seconds=outcome.virtual_seconds,
        explanation=outcome.explanation,
    )


def run_matrix(jobs: Sequence[Job], *, nr_processes: int) -> Iterator[tuple[int, Cell]]:
    """Generate each cell with its place in ``jobs``, as they are ready, from ``nr_processes`` processes.

    If the caller leaves early, by Ctrl-C or otherwise, what still runs is ended.
    """
    if nr_processes == 1 or len(jobs) < 2:
        yield from ((place, run_cell(job)) for place, job in enumerate(jobs))
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(
        min(nr_processes, len(jobs)), mp_context=get_context("spawn"), initializer=_die_on_ctrl_c
    )
    with pool:
        try:
            futures = {pool.submit(run_cell, job): place for place, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(active_children()) - others:
                child.terminate()
            raise


def _die_on_ctrl_c() -> None:
    """Let Ctrl-C end a process of the pool at once and without a word; the one that asked tells the user."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
