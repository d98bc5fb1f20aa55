"""Running the abstract machine: the experiment of a scenario with an ``[abstract]`` table.

It has the doors of :class:`netvm.scenario.run.Experiment`. The user never ends, so a run that lets it go on until the
budget of steps (``run.max_steps``) is spent has COMPLETED, if the user got a frame in the second half of it. A run in
which nothing can step any more is a HANG. One in which something steps for ever without a frame for the user is a
LIVELOCK; a single run cannot tell that from patience, so it is called one after a thousand steps without progress in
which every actor that can step has done so twenty times, and decided by an exhaustive search.
"""

from collections.abc import Callable, Hashable
from typing import Any

import structlog

from netvm import __version__
from netvm.runtime.hang import find_knot, shortest_chain
from netvm.runtime.oracle import Oracle, oracle_named
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Provider, Resource, Task, TaskState
from netvm.runtime.world import World
from netvm.scenario.load import options_of
from netvm.scenario.outcome import Outcome, ReserveReport, ZoneReport
from netvm.scenario.reserve_model import ReserveMachine
from netvm.scenario.schema import Scenario, Verdict

__all__ = ["AbstractExperiment"]

_PATIENCE_STEPS = 1000
"""Steps without progress after which a single run is called a livelock."""
_FAIR_STEPS = 20
"""Steps that each actor that can step must have had in them: a schedule that starves one shows nothing."""


class AbstractExperiment:
    """One run of the abstract machine."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        name: str,
        oracle: Oracle | None = None,
        make_world: Callable[..., World] = World,
        logger: Any = None,
    ) -> None:
        assert scenario.abstract is not None
        self.scenario = scenario
        self.name = name
        self.partial: str | None = None
        self.hang: Verdict | None = None
        self.proved = False
        seeds = Seeds(scenario.run.seed)
        self.world = make_world(seeds=seeds, oracle=oracle or oracle_named(scenario.run.oracle, seeds))
        self._logger = logger if logger is not None else structlog.wrap_logger(structlog.ReturnLogger())
        self.machine = ReserveMachine(self.world, scenario.abstract, log=self._logger.info)
        self.explanation: list[str] = []
        self._steps_of: dict[int, int] = {}
        self._last_progress = 0
        self._last_progress_step = 0

    async def run(self) -> None:
        """Run the world to its end (an async function for a trio loop on a VirtualClock)."""
        await self.world.run(self.main)

    def main(self) -> None:
        """Start the actors; the world calls it once."""
        world = self.world
        world.quiesced = self._quiesced
        if world.picking is None:
            world.picking = self.picking
        self.machine.start()

    def picking(self, _nr_candidates: int) -> None:
        """End the run when its budget is spent or its patience is out."""
        world = self.world
        if self.machine.nr_frames_got != self._last_progress:
            self._last_progress = self.machine.nr_frames_got
            self._last_progress_step = world.nr_steps
            self._steps_of.clear()
        elif world.current is not None:
            number = world.current.number
            self._steps_of[number] = self._steps_of.get(number, 0) + 1
            if world.nr_steps - self._last_progress_step > _PATIENCE_STEPS and self._was_fair():
                self._hang(proved=False)
        max_steps = self.scenario.run.max_steps
        if world.nr_steps >= max_steps and not world.stopped:
            if world.nr_steps - self._last_progress_step > max_steps // 2:
                self.partial = "budget"
            world.stop()

    def _was_fair(self) -> bool:
        """Whether every actor that can step has stepped often enough since the last progress."""
        runnable = (task for task in self.world.tasks.values() if task.state is TaskState.RUNNABLE)
        return all(self._steps_of.get(task.number, 0) >= _FAIR_STEPS for task in runnable)

    def _quiesced(self) -> None:
        self._hang(proved=True)

    def _hang(self, *, proved: bool) -> None:
        if self.world.stopped:
            return
        self.hang = "HANG" if proved else "LIVELOCK"
        self.proved = proved
        self.explanation = self._explain()
        self.world.stop()

    def _explain(self) -> list[str]:
        machine = self.machine
        how = "no actor can step" if self.proved else f"{_PATIENCE_STEPS} steps without a frame for the user"
        held = ", ".join(f"{name} {nr}" for name, nr in machine.ledger.table().items())
        tasks = [task for task in self.world.tasks.values() if task.state is TaskState.SLEEPING]
        lines = [
            f"hung after {self.world.nr_steps} steps ({how})",
            f"frames: {held}; an ordinary request leaves {machine.zone.watermark[0]}",
            *(f"{task.comm} waits for {task.resource.name}" for task in tasks if not task.resource.external),
        ]
        knot = find_knot(tasks)
        if machine.user in knot.tasks:
            assert machine.user is not None
            names = (_name(node) for node in shortest_chain(knot, machine.user))
            lines.append("the knot: " + " -> ".join(names))
        return lines

    def verdict(self) -> Verdict | None:
        """Return what the run came to."""
        if self.partial is not None:
            return None
        return self.hang or "COMPLETED"

    def outcome(self) -> Outcome:
        """Return the result of the run."""
        machine = self.machine
        reserve = machine.zone.watermark[0]
        return Outcome(
            scenario=self.name,
            kernel=self.scenario.kernel.preset,
            seed=self.scenario.run.seed,
            version=__version__,
            verdict=self.verdict(),
            expected=list(self.scenario.expect),
            partial=self.partial,
            virtual_seconds=0.0,
            explanation=self.explanation,
            zones=[ZoneReport(name="DMA32", managed=machine.zone.managed, min=reserve, low=reserve, high=reserve)],
            vmstat={"nr_free_pages": machine.zone.nr_free, **machine.vmstat.as_dict()},
            reserve=ReserveReport(
                pages=reserve,
                peak_used=machine.ledger.reserve_peak,
                by_owner=dict(sorted(machine.ledger.by_owner_at_peak.items())),
            ),
            audit=self.audit(),
            options=options_of(self.scenario),
        )

    def audit(self) -> list[str]:
        """Return what does not add up."""
        found = []
        counts = self.machine.ledger.counts
        if sum(counts) != self.machine.options.frames or min(counts) < 0:
            found.append(f"the ledger holds {self.machine.ledger.table()}, the machine {self.machine.options.frames}")
        return found

    # -- for exploring --------------------------------------------------------------------------------------------

    def fingerprint(self) -> tuple[int, ...]:
        """Return the state: equal states have equal futures."""
        return self.machine.fingerprint()

    def step_of(self, number: int) -> Hashable:
        """Return what the next step of a task does: equal for equal steps, None for one that changes nothing."""
        return self.machine.step_of(self.world.tasks[number])

    def progress_made(self) -> int:
        """Return a number that grows with progress."""
        return self.machine.nr_frames_got


def _name(node: "Task | Resource | Provider") -> str:
    if isinstance(node, Task):
        return node.comm
    return f"[{node.name}]" if isinstance(node, Resource) else node.name
