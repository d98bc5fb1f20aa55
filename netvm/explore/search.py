"""The search: schedule after schedule of one subject, by a strategy, until something fails or the budget is spent.

Five strategies: ``random``, ``pct`` and ``pos`` draw each schedule (:mod:`netvm.explore.sampling`); ``delay`` runs all
schedules with at most k delays, k = 0, 1, 2, ... (Emmi, Qadeer, Rakamarić, POPL 2011: choosing option i instead of 0
costs i delays); ``exhaustive`` visits every state (:mod:`netvm.explore.statespace`).

A failing schedule is replayed ten times before anybody hears of it. The product is deterministic: a replay that differs
is a bug of ours and is raised as one. What an exhaustive search refutes is a state that no path leads out of: there a
replay has shown it when it has come to the same state again, what follows being decided.
"""

import math
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec.structs import replace

from netvm.errors import NetvmError, UsageError
from netvm.explore.fingerprint import fingerprint, is_complete
from netvm.explore.oracles import ForkingOracle, RandomWalk, SteeredOracle
from netvm.explore.properties import Explorable
from netvm.explore.result import CheckResult, Failure, knuth
from netvm.explore.sampling import replayed, sample
from netvm.explore.statespace import ENDED, StateSpace, Visited
from netvm.explore.subject import Broken, Schedule, Subject, execute, rerun
from netvm.runtime.choices import MISHAPS
from netvm.runtime.seeds import Seeds

__all__ = ["REPLAYS", "STRATEGIES", "Budget", "UnsteadyError", "check", "confirmed"]

STRATEGIES = ("random", "pct", "pos", "delay", "exhaustive")
REPLAYS = 10
_KNUTH_WALKS = 32
_STEPS_MIN = 1500
"""Budget of a run in which the replay of a livelock shows that it is one."""


class UnsteadyError(NetvmError):
    """A failing schedule did not fail again when it was replayed: the product is not deterministic there."""


@dataclass(slots=True)
class Budget:
    """How much a search may cost. ``is_spent`` is asked before each schedule."""

    nr_schedules: int | None = None
    is_out_of_time: Callable[[], bool] = field(default=lambda: False)

    def is_spent(self, nr_run: int) -> bool:
        """Whether a search that has run so many schedules must stop."""
        return (self.nr_schedules is not None and nr_run >= self.nr_schedules) or self.is_out_of_time()


class _Tally:
    """What an enumerating search has seen so far."""

    def __init__(self, subject: Subject, strategy: str, seed: int) -> None:
        self.subject = subject
        self.strategy = strategy
        self.seed = seed
        self.nr_schedules = 0
        self.nr_steps = 0
        self.nr_partial = 0
        self.tapes: set[int] = set()
        self.failure: Failure | None = None
        self.seen: set[str] = set()
        self.bound: dict[str, Any] = {}
        self.states: int | None = None
        self.comes_to: Hashable = None
        """The stuck state that the failure leads to, if it was found as one."""

    def ran(self, run: Explorable) -> None:
        """Take note of one schedule, whole or not."""
        self.nr_schedules += 1
        self.nr_steps += run.world.nr_steps
        self.tapes.add(hash(tuple(run.world.choices)))
        if len(self.seen) < len(self.subject.guards()):
            self.seen |= self.subject.sights(run)

    def ended(self, schedule: Schedule) -> bool:
        """Take note of one schedule that has ended; return whether it failed."""
        self.ran(schedule.experiment)
        self.nr_partial += schedule.experiment.partial is not None
        if schedule.broken is None:
            return False
        self.failed(schedule.broken, schedule.tape)
        return True

    def failed(self, broken: Broken, tape: Sequence[int]) -> None:
        """Keep the failure."""
        self.failure = Failure(schedule=self.nr_schedules, property=broken.property, what=broken.what, tape=list(tape))

    def result(self, kind: Literal["proved", "bounded"], statement: str, *, decided: bool = True) -> CheckResult:
        """Return the result so far."""
        failure = self.failure
        return CheckResult(
            scenario=self.subject.name,
            result="refuted" if failure is not None else kind,
            strategy=self.strategy,
            seed=self.seed,
            schedules=self.nr_schedules,
            distinct=len(self.tapes),
            states=self.states,
            steps=self.nr_steps,
            failures=int(failure is not None),
            first_failure_at=failure.schedule if failure is not None else None,
            failure=failure,
            bound=self.bound,
            vacuous=[name for name in self.subject.guards() if name not in self.seen],
            decided=failure is not None or decided,
            statement=statement if failure is None else failure.statement(),
        )


def check(
    subject: Subject,
    *,
    strategy: str = "random",
    seed: int = 0,
    budget: Budget | None = None,
    jobs: int = 1,
    keep_going: bool = False,
    confirm: bool = True,
) -> CheckResult:
    """Search for a schedule of ``subject`` in which a property fails.

    ``jobs`` processes and ``keep_going`` (count all failures) are for the random strategies. Without ``confirm`` what
    a schedule refutes has not been replayed: who reports it calls :func:`confirmed`. Raises UsageError for an
    unknown strategy or kind of mishap, UnsteadyError if a failure does not replay.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy {strategy!r}: must be one of {', '.join(STRATEGIES)}")
    for kind in subject.mishaps:
        if kind not in MISHAPS:
            raise UsageError(f"mishap {kind!r}: must be one of {', '.join(MISHAPS)}")
    max_steps = subject.scenario.run.max_steps
    if strategy == "exhaustive" and max_steps < _STEPS_MIN:
        raise UsageError(f"run.max_steps = {max_steps}: must be at least {_STEPS_MIN} to show what a search has found")
    budget = budget if budget is not None else Budget(nr_schedules=1000)
    tally = _Tally(subject, strategy, seed)
    if strategy == "exhaustive":
        result = _exhaustive(tally, budget)
    elif strategy == "delay":
        result = _delays(tally, budget)
    else:
        result = sample(
            subject,
            strategy,
            seed,
            budget.is_spent,
            nr_schedules=budget.nr_schedules,
            jobs=jobs,
            keep_going=keep_going,
        )
    if not confirm and strategy != "exhaustive":
        return result
    return confirmed(subject, result, comes_to=tally.comes_to, jobs=jobs)


def confirmed(subject: Subject, result: CheckResult, *, comes_to: Hashable = None, jobs: int = 1) -> CheckResult:
    """Replay a refutation ten times before it is reported, in ``jobs`` processes.

    ``comes_to`` is the stuck state that an exhaustive search says it leads to. Raises UnsteadyError if it does not come
    again.
    """
    failure = result.failure
    if failure is None or failure.replays:
        return result
    for replay, other in enumerate(_replays(subject, failure, comes_to, jobs), 1):
        if other:
            raise UnsteadyError(
                f"{subject.name}: schedule {failure.schedule} failed ({failure.what}), replay {replay} did not "
                f"({other}); the run is not deterministic, please report it"
            )
    return replace(result, failure=replace(failure, replays=REPLAYS))


def _replays(subject: Subject, failure: Failure, comes_to: Hashable, jobs: int) -> Iterator[str]:
    """Generate what each replay came to instead; empty if it showed the failure again."""
    if comes_to is not None:
        for _ in range(REPLAYS):
            yield "" if _arrives(subject, failure.tape, comes_to) else "it came to another state"
        return
    for again in replayed(subject, failure.tape, REPLAYS, jobs=jobs):
        yield "" if again == (failure.property, failure.what) else str(again)


def _arrives(subject: Subject, tape: Sequence[int], state: Hashable) -> bool:
    """Return whether the schedule of a tape comes to a state where the tape ends."""
    run = subject.experiment(SteeredOracle(tape, window_ns=subject.window_ns))
    choices = run.world.choices
    arrived = False

    def picking(_nr_candidates: int) -> None:
        nonlocal arrived
        if len(choices) < len(tape):
            return
        arrived = fingerprint(run) == state
        if arrived or len(choices) > len(tape):
            raise Visited

    run.world.picking = picking
    try:
        execute(run)
    except Visited:
        return arrived
    # it ended where nothing could step any more
    return fingerprint(run) == state


# -- enumerated -----------------------------------------------------------------------------------------------------


def _delays(tally: _Tally, budget: Budget) -> CheckResult:
    """Run all schedules of 0 delays, then of 1, of 2, ..."""
    subject = tally.subject
    levels: list[deque[Iterator[tuple[int, ...]]]] = [deque([iter([()])])]
    delays = 0
    done = -1
    while delays < len(levels) and not budget.is_spent(tally.nr_schedules):
        if not levels[delays]:
            done = delays
            delays += 1
            continue
        prefix = next(levels[delays][0], None)
        if prefix is None:
            levels[delays].popleft()
            continue
        oracle = SteeredOracle(prefix, window_ns=subject.window_ns)
        schedule = subject.run(oracle)
        if tally.ended(schedule):
            break
        _keep_delayed(levels, schedule.tape, oracle.widths, len(prefix), delays)
    exhausted = delays >= len(levels) and not tally.nr_partial
    tally.bound = {"delays": done, "schedules": tally.nr_schedules} if done >= 0 else {"schedules": tally.nr_schedules}
    if tally.failure is not None:
        return tally.result("bounded", "")
    whole = tally.nr_schedules - tally.nr_partial
    if exhausted:
        begin = " from the first program on" if subject.calm_boot else ""
        return tally.result("proved", f"proved: all {whole} schedules{begin} were run")
    # an estimate need not cost more than what it is about
    sample = knuth([_walk(tally, number) for number in range(min(_KNUTH_WALKS, whole))]) if whole else 0.0
    tally.bound["log10_schedules_knuth"] = sample
    share = min(1.0, 10.0 ** (math.log10(max(1, whole)) - sample))
    tally.bound["share_explored"] = share
    statement = (
        f"bounded: no failure in any schedule of at most {done} delays, {whole} schedules run, about {share:.1e} of all"
        if done >= 0
        else f"bounded: no failure in {whole} schedules; not even those without a delay were completed"
    )
    return tally.result("bounded", statement, decided=whole > 0)


def _walk(tally: _Tally, number: int) -> float:
    walk = RandomWalk(Seeds(tally.seed).stream(f"knuth.{number}"), window_ns=tally.subject.window_ns)
    execute(tally.subject.experiment(walk))
    return walk.log_size


def _keep_delayed(
    levels: list[deque[Iterator[tuple[int, ...]]]], tape: list[int], widths: list[int], first: int, delays: int
) -> None:
    """Keep the schedules that delay more at one of the choices behind the prefix, one row for each option.

    A schedule of a whole host has tens of thousands of choices: rows share its tape, and a prefix is cut from it when
    its turn comes.
    """
    kept, widest = array("H", tape), array("H", widths)
    for option in range(1, max(widths[first:], default=1)):
        while len(levels) <= delays + option:
            levels.append(deque())
        levels[delays + option].append(_delayed(kept, widest, first, option))


def _delayed(tape: Sequence[int], widths: Sequence[int], first: int, option: int) -> Iterator[tuple[int, ...]]:
    """Generate the prefixes that follow a tape up to a choice and take ``option`` there."""
    for position in range(first, len(widths)):
        if option < widths[position]:
            yield (*tape[:position], option)


class _StateSearch:
    """One exhaustive search."""

    def __init__(self, tally: _Tally) -> None:
        self.tally = tally
        self.subject = tally.subject
        self.space = StateSpace()
        self.complete = True
        self.cut = False

    def run(self, prefix: tuple[int, ...]) -> bool:
        """Run along one prefix until nothing new comes; return whether something failed."""
        space = self.space
        oracle = ForkingOracle(
            prefix,
            step_of=lambda number: run.step_of(number),  # noqa: PLW0108  the run comes after its oracle
            forked=lambda options: space.branch(choices, options),
            window_ns=self.subject.window_ns,
        )
        run = self.subject.experiment(oracle)
        choices = run.world.choices
        last_on_prefix = len(prefix) - 1
        here = -1
        made = 0
        self.complete = self.complete and is_complete(run)

        def picking(_nr_candidates: int) -> None:
            nonlocal here, made
            if len(choices) < last_on_prefix:
                return
            number, new = space.arrive(fingerprint(run), choices)
            progress = run.progress_made()
            if here >= 0:
                space.step(here, number, progress=progress > made)
            here, made = number, progress
            if not new and len(choices) > last_on_prefix:
                raise Visited

        run.world.picking = picking
        try:
            execute(run)
        except Visited:
            self.tally.ran(run)
            return False
        if run.partial is not None:
            self.cut = True
        elif here >= 0 and run.hang is None:
            space.step(here, ENDED, progress=True)
        return self.tally.ended(Schedule(run, choices, self.subject.judge(run)))

    def stuck(self) -> bool:
        """Look for states that no path leads out of to progress; return whether there is one."""
        stuck = self.space.stuck()
        if not stuck:
            return False
        state = min(stuck, key=lambda number: len(self.space.first_path[number]))
        tape = self.space.first_path[state]
        if self.complete:
            self.tally.comes_to = self.space.fingerprint_of(state)
        broken = rerun(self.subject, tape).broken
        what = "deadlock" if any(self.space.is_deadlock(state) for state in stuck) else "livelock"
        self.tally.failed(broken or Broken("every state leads to progress", f"{what} in {len(stuck)} states"), tape)
        return True


def _exhaustive(tally: _Tally, budget: Budget) -> CheckResult:
    search = _StateSearch(tally)
    space = search.space
    failed = False
    while space.nr_pending and not failed and not budget.is_spent(tally.nr_schedules):
        failed = search.run(space.next_prefix())
    tally.states = space.nr_states
    exhausted = not space.nr_pending and not search.cut and not failed
    tally.bound = {"states": space.nr_states, "steps": space.nr_steps, "untried": space.nr_pending}
    if exhausted:
        search.stuck()
        if search.complete:
            return tally.result("proved", f"proved: all {space.nr_states} reachable states were visited; none is stuck")
        return tally.result(
            "bounded",
            f"bounded: all {space.nr_states} states that differ in the host's digest, the tasks' places or the timers "
            "were visited, none is stuck; the digest does not tell all states apart",
        )
    statement = f"bounded: {space.nr_states} states visited, {space.nr_pending} branches not tried; nothing failed"
    return tally.result("bounded", statement, decided=tally.nr_schedules > 0)
