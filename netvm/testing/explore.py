"""``@explore``: a test that searches the schedules of a scenario, and fails with a reproducer.

The decorated function is given each finished run and asserts what must hold; a *policy* of one's own takes the place of
the product's before the run. A policy is any object with the doors of what it replaces:

- a reserve policy: :class:`ReservePolicy`, asked for what an ordinary request must leave in a zone;
- a throttle: :class:`Throttle`, asked before each direct reclaim whether the task must wait first;
- a backend: the entry point ``netvm.storage_backends`` (see :mod:`netvm.host.backend`).

Example::

    @explore("A2/nbd-fixed", schedules=20, overrides=["workload.0.mib=70"])
    def test_nothing_hangs(run):
        assert run.verdict() == "COMPLETED"
"""

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from netvm.errors import UsageError
from netvm.explore.properties import PROPERTIES, Always, Explorable, Property
from netvm.explore.reproducer import reproducer_of, text_of
from netvm.explore.result import CheckResult
from netvm.explore.search import Budget, check
from netvm.explore.subject import Subject
from netvm.mm.zone import Zone
from netvm.runtime.task import Task
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.catalog import find
from netvm.scenario.load import load_scenario
from netvm.scenario.schema import Scenario

__all__ = ["RefutedError", "ReservePolicy", "Throttle", "explore", "with_reserve", "with_throttle"]


class ReservePolicy(Protocol):
    """How much an ordinary request must leave free."""

    @abstractmethod
    def min_pages(self, zone: Zone) -> int:
        """Return the min watermark of a zone in pages; asked once, when the machine has booted."""
        ...


class Throttle(Protocol):
    """Whether a task must wait before it may reclaim for itself."""

    @abstractmethod
    async def before_direct_reclaim(self, task: Task, run: Explorable) -> None:
        """Sleep as long as the task must wait; called before each direct reclaim.

        A nap of a millisecond, in which the task says what it waits for::

            pause = Resource("timer", "the throttle", external=True)  # netvm.runtime.task
            await run.world.sleep_on(task, pause, timeout_ns=1_000_000, kind=TimerKind.RETRY)  # netvm.runtime.timer
        """
        ...


class RefutedError(AssertionError):
    """A schedule was found in which a property does not hold; the message ends with the reproducer."""

    def __init__(self, result: CheckResult, reproducer: str, *, policy: bool = False) -> None:
        failure = result.failure
        assert failure is not None
        again = "save this and run `netvm replay` on it"
        if policy:
            again = "this test finds it again; `netvm replay` would run it without the test's policy"
        super().__init__(
            f"{result.scenario}: schedule {failure.schedule} of {result.strategy} (seed {result.seed}) fails\n"
            f"  {failure.property}: {failure.what}\n"
            f"replayed {failure.replays} times, the same each time; {again}:\n\n"
            f"{reproducer}"
        )
        self.result = result
        self.reproducer = reproducer
        self.has_policy = policy


def explore(
    scenario: str | Path | Scenario,
    *,
    strategy: str = "random",
    schedules: int = 100,
    seed: int = 0,
    overrides: Sequence[str] = (),
    mishaps: dict[str, int] | None = None,
    properties: Sequence[Property] = PROPERTIES,
    replace: Callable[[Explorable], None] | None = None,
    window_us: int = 0,
    calm_boot: bool = False,
    allow_vacuous: bool = True,
) -> Callable[[Callable[[Explorable], None]], Callable[[], None]]:
    """Make a test that searches ``schedules`` schedules of a scenario by ``strategy``.

    The decorated function is called with each run that has ended; an AssertionError of its own is a failing schedule
    like any other. ``replace`` puts a policy in place before each run. Events within ``window_us`` may swap, and with
    ``calm_boot`` only what comes after a host's boot is explored, as `netvm check` has it. The test raises RefutedError
    with the reproducer, AssertionError if nothing was decided or, without ``allow_vacuous``, something was never seen,
    and UsageError for a name, strategy or mishap that does not exist.
    """

    def decorate(function: Callable[[Explorable], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def test() -> None:
            __tracebackhide__ = True
            own = Always(f"{function.__name__} holds", lambda run: _complaint(function, run))
            subject = Subject(
                scenario=_loaded(scenario, overrides),
                name=scenario if isinstance(scenario, str) else function.__name__,
                mishaps=mishaps or {},
                properties=[*properties, own],
                replace=replace,
                window_ns=window_us * 1000,
                calm_boot=calm_boot,
            )
            budget = Budget(nr_schedules=None if strategy == "exhaustive" else schedules)
            result = check(subject, strategy=strategy, seed=seed, budget=budget)
            if result.failure is not None:
                text = text_of(reproducer_of(subject, result), subject)
                raise RefutedError(result, text, policy=replace is not None)
            assert result.decided, result.statement
            assert allow_vacuous or not result.vacuous, f"never seen: {', '.join(result.vacuous)}"

        # pytest would take the run for a fixture
        del test.__wrapped__
        return test

    return decorate


def _loaded(scenario: str | Path | Scenario, overrides: Sequence[str]) -> Scenario:
    if isinstance(scenario, Scenario):
        return scenario
    if isinstance(scenario, Path):
        return load_scenario(scenario, overrides=overrides)
    named = find(scenario)
    if len(named) > 1:
        names = ", ".join(entry.name for entry in named)
        raise UsageError(f"explore: {scenario} is several scenarios: {names}; name one")
    return load_scenario(named[0].path, overrides=overrides)


def _complaint(function: Callable[[Explorable], None], run: Explorable) -> str | None:
    try:
        function(run)
    except AssertionError as error:
        return str(error).partition("\n")[0] or "an assertion failed"
    return None


def with_reserve(policy: ReservePolicy) -> Callable[[Explorable], None]:
    """Return a ``replace`` that sets every zone's min watermark as a policy says; low and high keep their distance."""

    def replace(run: Explorable) -> None:
        zones = [run.machine.zone] if isinstance(run, AbstractExperiment) else run.host.node.zones
        for zone in zones:
            distance = policy.min_pages(zone) - zone.watermark[0]
            zone.watermark[:] = [mark + distance for mark in zone.watermark]

    return replace


def with_throttle(throttle: Throttle) -> Callable[[Explorable], None]:
    """Return a ``replace`` that asks a throttle before each direct reclaim of a host. An abstract machine has none."""

    def replace(run: Explorable) -> None:
        assert not isinstance(run, AbstractExperiment), "an abstract machine does not reclaim"
        vmscan = run.host.vmscan
        reclaim = vmscan.try_to_free_pages

        async def try_to_free_pages(task: Task, order: int, gfp: int) -> int:
            await throttle.before_direct_reclaim(task, run)
            return await reclaim(task, order, gfp)

        vmscan.try_to_free_pages = try_to_free_pages  # type: ignore[method-assign]  # that is what it is for

    return replace
