"""Random schedules: each is decided by seed and number, so a sample can be split among processes and told again.

What a sample without a failure says: at most a share of the schedules *drawn this way* fail, at 95 % confidence. PCT
adds a bound that does not depend on luck with rare schedules: with n tasks and k choices, one schedule finds a bug of
depth d with probability at least 1 / (n * k**(d - 1)).

A draw that would repeat a schedule is not run (:mod:`netvm.explore.known`): it is counted, and another is made, for PCT
of a greater depth where the smaller ones give nothing new. The draws of a *round* are made when it begins, knowing the
rounds before, so the answer does not depend on how many processes there are.
"""

import math
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any, NamedTuple

from netvm.explore.known import Asked, Known, Listening
from netvm.explore.oracles import PctOracle, PosOracle, RandomWalk
from netvm.explore.result import CheckResult, Failure, good_turing, knuth, most_that_fail
from netvm.explore.subject import Broken, Subject, rerun
from netvm.runtime.oracle import FifoOracle, Oracle
from netvm.runtime.seeds import Seeds

__all__ = ["PCT_DEPTH", "SAMPLED", "Sample", "measure", "oracle_of", "replayed", "sample"]

SAMPLED = ("random", "pct", "pos")
PCT_DEPTH = 3
"""``pct`` looks for bugs of depth 1, 2 and 3 in turn."""
_DRAWS = 32
"""Draws of one depth, all of them repeats, before the next depth is drawn or a repeat is run."""
_ROUNDS = ((32, 4), (128, 8), (1024, 32))
"""Up to so many schedules, rounds have so many; later ones have :data:`_ROUND_MAX`."""
_ROUND_MAX = 128


class Sample(NamedTuple):
    """What is kept of one schedule."""

    number: int
    tape_hash: int
    nr_steps: int
    partial: bool
    log_size: float
    sights: frozenset[str]
    broken: Broken | None
    tape: list[int] | None
    """The choices of a failing schedule."""
    repeats: tuple[int, ...] = ()
    """Hashes of the tapes that were drawn before it and not run again."""


class Draw(NamedTuple):
    """Which of the oracles of a schedule's number runs it, and what the ones before it would have repeated."""

    number: int
    attempt: int = 0
    repeats: tuple[int, ...] = ()


def oracle_of(
    subject: Subject, strategy: str, seed: int, number: int, size: tuple[int, int], *, attempt: int = 0
) -> Oracle:
    """Return the oracle of one schedule of a random strategy; ``size`` is (tasks, choices) of a calm run.

    ``attempt`` counts the draws made for this number.
    """
    stream = Seeds(seed).stream(f"{strategy}.{number}.{attempt}" if attempt else f"{strategy}.{number}")
    if strategy == "random":
        return RandomWalk(stream, window_ns=subject.window_ns)
    if strategy == "pos":
        return PosOracle(stream, window_ns=subject.window_ns)
    depth = 1 + number % PCT_DEPTH + attempt // _DRAWS
    return PctOracle(stream, depth=depth, nr_choices=size[1], window_ns=subject.window_ns)


class _Counting(FifoOracle):
    """What a kernel would do, counting who could have run."""

    explores_events = True

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def choose_among(self, kind: str, names: Sequence[tuple[int, str]]) -> int:  # noqa: ARG002  the protocol's shape
        """Return 0."""
        self.numbers.update(number for number, _ in names)
        return 0


def measure(subject: Subject) -> tuple[int, int]:
    """Return how many tasks and events, and how many choice points, a calm run has: n and k of PCT's bound."""
    oracle = _Counting()
    tape = subject.run(oracle).tape
    return max(1, len(oracle.numbers)), max(1, len(tape))


def run_part(
    subject: Subject, strategy: str, seed: int, draws: Sequence[Draw], size: tuple[int, int]
) -> list[tuple[Sample, list[Asked] | None, list[int]]]:
    """Run the schedules of these draws; return also what their oracles were asked and answered."""
    samples = []
    for number, attempt, repeats in draws:
        oracle = oracle_of(subject, strategy, seed, number, size, attempt=attempt)
        listening = Listening(oracle)
        schedule = subject.run(listening)
        sample = Sample(
            number,
            hash(tuple(schedule.tape)),
            schedule.experiment.world.nr_steps,
            schedule.experiment.partial is not None,
            oracle.log_size if isinstance(oracle, RandomWalk) else 0.0,
            frozenset(subject.sights(schedule.experiment)),
            schedule.broken,
            list(schedule.tape) if schedule.broken is not None else None,
            repeats,
        )
        samples.append((sample, listening.asked, list(schedule.tape)))
    return samples


def _drawn(subject: Subject, strategy: str, seed: int, number: int, size: tuple[int, int], known: Known | None) -> Draw:
    """Draw until a schedule is new; a depth that gives nothing but repeats is left for the next."""
    repeats: list[int] = []
    if known is not None:
        for attempt in range(_DRAWS * PCT_DEPTH):
            again = known.repeats(oracle_of(subject, strategy, seed, number, size, attempt=attempt))
            if again is None:
                return Draw(number, attempt, tuple(repeats))
            repeats.append(again)
    return Draw(number, 0, tuple(repeats[1:]))


def _round_at(nr_run: int) -> int:
    """Return how many schedules the round has that begins after so many."""
    return next((size for below, size in _ROUNDS if nr_run < below), _ROUND_MAX)


def sample(
    subject: Subject,
    strategy: str,
    seed: int,
    is_spent: Callable[[int], bool],
    *,
    nr_schedules: int | None,
    jobs: int = 1,
    keep_going: bool = False,
    size: tuple[int, int] | None = None,
) -> CheckResult:
    """Run random schedules until one fails or the budget is spent, in ``jobs`` processes.

    The answer depends on seed and number of schedules, not on how many processes there were. ``size`` is what
    :func:`measure` has said of the subject, where that is known.
    """
    if size is None:
        size = measure(subject) if strategy == "pct" else (1, 1)
    samples: list[Sample] = []
    # a failure rate is one of draws, so where failures are counted repeats are run
    known = None if keep_going else Known()
    with _pool(jobs) as pool:
        while not _is_over(samples, is_spent, keep_going=keep_going):
            first = len(samples)
            nr = _round_at(first) if nr_schedules is None else min(_round_at(first), nr_schedules - first)
            draws = [_drawn(subject, strategy, seed, number, size, known) for number in range(first, first + nr)]
            if pool is None:
                ran = []
                for draw in draws:
                    if _is_over(samples, is_spent, keep_going=keep_going):
                        break
                    ran += run_part(subject, strategy, seed, [draw], size)
                    samples.append(ran[-1][0])
            else:
                with _deaf():
                    futures = [
                        pool.submit(run_part, subject, strategy, seed, draws[job::jobs], size) for job in range(jobs)
                    ]
                ran = sorted((one for future in futures for one in future.result()), key=lambda one: one[0].number)
                samples += [one[0] for one in ran]
            if known is not None:
                for _, asked, tape in ran:
                    known.learn(asked, tape)
    if not keep_going:
        end = next((i + 1 for i, s in enumerate(samples) if s.broken is not None), len(samples))
        samples = samples[:end]
    return _result(subject, strategy, seed, samples, size)


def _is_over(samples: Sequence[Sample], is_spent: Callable[[int], bool], *, keep_going: bool) -> bool:
    return is_spent(len(samples)) or (not keep_going and any(s.broken is not None for s in samples[-_ROUND_MAX:]))


def _replay(subject: Subject, tape: list[int]) -> Broken | None:
    return rerun(subject, tape).broken


def replayed(subject: Subject, tape: list[int], nr: int, *, jobs: int = 1) -> Iterator[Broken | None]:
    """Replay a tape so many times, in ``jobs`` processes; generate what each replay broke."""
    with _pool(jobs) as pool:
        if pool is None:
            yield from (_replay(subject, tape) for _ in range(nr))
            return
        with _deaf():
            futures = [pool.submit(_replay, subject, tape) for _ in range(nr)]
        yield from (future.result() for future in futures)


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """Give so many processes, none for one; they are ended where the search is left by an exception."""
    if jobs == 1:
        yield None
        return
    others = set(active_children())
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(active_children()) - others:
                child.terminate()
            raise


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C, which reaches a whole group: who started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _result(
    subject: Subject, strategy: str, seed: int, samples: Sequence[Sample], size: tuple[int, int]
) -> CheckResult:
    failures = [s for s in samples if s.broken is not None]
    first = failures[0] if failures else None
    nr_whole = sum(1 for s in samples if not s.partial)
    tapes = Counter(s.tape_hash for s in samples)
    tapes.update(again for s in samples for again in s.repeats)
    failure = None
    if first is not None:
        assert first.broken is not None
        assert first.tape is not None
        failure = Failure(
            schedule=first.number + 1, property=first.broken.property, what=first.broken.what, tape=first.tape
        )
    seen = frozenset[str]().union(*(s.sights for s in samples))
    bound = (
        _bounds(strategy, nr_whole, tapes, [s.log_size for s in samples], size)
        if failure is None
        else {"failure_rate": len(failures) / len(samples)}
    )
    return CheckResult(
        scenario=subject.name,
        result="statistical" if failure is None else "refuted",
        strategy=strategy,
        seed=seed,
        schedules=len(samples),
        distinct=len(tapes),
        steps=sum(s.nr_steps for s in samples),
        failures=len(failures),
        first_failure_at=failure.schedule if failure is not None else None,
        failure=failure,
        bound=bound,
        vacuous=[name for name in subject.guards() if name not in seen] if samples else [],
        decided=failure is not None or nr_whole > 0,
        statement=_statement(nr_whole, len(samples) - nr_whole) if failure is None else failure.statement(),
    )


def _bounds(
    strategy: str, nr_whole: int, tapes: Counter[int], logs: Sequence[float], size: tuple[int, int]
) -> dict[str, Any]:
    """Return what so many random schedules without a failure bound."""
    nr_run = len(logs)
    bound: dict[str, Any] = {
        "failure_rate_at_most": most_that_fail(nr_whole),
        "confidence": 0.95,
        "unseen_share_good_turing": good_turing(list(tapes.values())),
    }
    nr_repeats = sum(tapes.values()) - nr_run
    if nr_repeats:
        bound["repeats_not_run"] = nr_repeats
    if strategy == "random" and logs:
        bound["log10_schedules_knuth"] = knuth(logs)
    if strategy == "pct":
        n, k = size
        bound["tasks_n"], bound["choices_k"] = n, k
        for depth in range(1, PCT_DEPTH + 1):
            each = 10.0 ** -(math.log10(n) + (depth - 1) * math.log10(k))
            bound[f"found_if_depth_{depth}"] = _chance(each, nr_whole // PCT_DEPTH)
    return bound


def _chance(each: float, runs: int) -> float:
    """Return how likely something is in so many runs that has this chance in each of them."""
    if not runs or each >= 1.0:
        return float(runs > 0)
    return -math.expm1(runs * math.log1p(-each))


def _statement(nr_whole: int, nr_cut: int) -> str:
    if not nr_whole:
        return "nothing decided: no schedule was completed within its budget"
    cut = f"; {nr_cut} more were cut short" if nr_cut else ""
    return (
        f"statistical: no failure in {nr_whole} random schedules{cut}: at most {most_that_fail(nr_whole):.2%} of the "
        "schedules drawn this way fail (95 % confidence); nothing is said about schedules that are hardly ever drawn"
    )
