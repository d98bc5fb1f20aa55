"""CPU time as a resource: N CPUs, charges that add up, and who gets a CPU next.

Work charges nanoseconds to the task that does it (:meth:`Cpus.charge`). Charges are not events: they add up and are
paid where the task blocks or where the kernel would look at ``need_resched`` (:meth:`Cpus.cond_resched`). While
nothing else can happen before a charge is paid, paying is one addition to the clock; interrupts that fall into it run
under the task and take their own time from its CPU (:meth:`Cpus.steal`), which counts as the task's own runtime, as in
a kernel without CONFIG_IRQ_TIME_ACCOUNTING.

Who runs next follows CFS (kernel/sched/fair.c of 6.1) as far as it shows in recorded runs: virtual runtime divided by
weight, the smallest runs; a task that slept is placed half a latency before the queue's minimum and preempts the
current one when it is behind by more than the wake-up granularity; a slice is a task's share of the latency by weight,
and only the timer tick looks whether it is used up, so that two equal tasks change places every 4 ms, not every 3.

# MODEL: one queue for all CPUs instead of one each with balancing, and what a timer tick finds takes effect where the
# running task pays next. With one CPU, as recorded, the first is no difference.
"""

import math
from typing import TYPE_CHECKING, Protocol

from netvm.runtime.task import Task, TaskState
from netvm.runtime.timer import NEVER_NS, TimerHandle, TimerKind
from netvm.units import JIFFY_NS

if TYPE_CHECKING:
    from netvm.runtime.world import World

__all__ = ["PAY_QUANTUM_NS", "Cpu", "Cpus", "SchedProbe"]

SCHED_LATENCY_NS = 6_000_000
SCHED_MIN_GRANULARITY_NS = 750_000
SCHED_WAKEUP_GRANULARITY_NS = 1_000_000
_NICE_0_WEIGHT = 1024
_CLOCK = int(TimerKind.CLOCK)
PAY_QUANTUM_NS = 20_000
"""A charge smaller than this is carried on at a cond_resched; nothing that is modelled happens faster."""


class Cpu:
    """One processor."""

    __slots__ = ("current", "free_at_ns", "index", "kick", "last")

    def __init__(self, index: int) -> None:
        self.index = index
        self.current: Task | None = None
        self.last: Task | None = None
        """Who ran last: going on with the same task costs nothing."""
        self.free_at_ns = 0
        """Until then its time is spent."""
        # invariant: pending, or None
        self.kick: TimerHandle | None = None


class SchedProbe(Protocol):
    """Who is told of the scheduler's steps; a recorder listens."""

    def enqueued(self, task: Task) -> None:
        """A task is runnable: it was woken, or has let go of its CPU without sleeping."""
        ...

    def released(self, cpu: Cpu, task: Task) -> None:
        """A task has let go of a CPU."""
        ...

    def switched(self, cpu: Cpu, task: Task, now_ns: int) -> None:
        """A task gets a CPU."""
        ...


class Cpus:
    """The processors of one host and their run queue."""

    def __init__(
        self,
        world: "World",
        nr_cpus: int,
        *,
        scale: float = 1.0,
        noise: float = 0.0,
        switch_ns: int = 0,
        name: str = "host",
    ) -> None:
        assert nr_cpus >= 1
        self.world = world
        self.cpus = [Cpu(i) for i in range(nr_cpus)]
        self.scale = scale
        self.noise = noise
        self.switch_ns = switch_ns
        self._noise = world.seeds.stream(f"{name}.cpu.noise") if noise else None
        self._queue: list[Task] = []
        self._min_vruntime_ns = 0
        self.need_resched = False
        self.probe: SchedProbe | None = None
        self.busy_ns = 0
        self.softirq_ns = 0
        world.add_cpus(self)

    # -- charging -------------------------------------------------------------------------------------------------

    def charge(self, task: Task, cost_ns: int) -> None:
        """Add CPU time to a task's bill."""
        task.charge_ns += cost_ns

    def steal(self, cost_ns: int) -> None:
        """Charge time in atomic context to the CPU that takes interrupts (CPU 0)."""
        cost_ns = int(cost_ns * self.scale) if self._noise is None else self._scaled(cost_ns)
        cpu = self.cpus[0]
        now_ns = self.world.now_ns
        cpu.free_at_ns = max(now_ns, cpu.free_at_ns) + cost_ns
        self.softirq_ns += cost_ns
        interrupted = cpu.current
        if interrupted is not None:
            interrupted.vruntime_ns += cost_ns * _NICE_0_WEIGHT // interrupted.weight
        if self._queue:
            self._arm(cpu)

    def _scaled(self, cost_ns: int) -> int:
        """Return what a cost comes to on this machine with its noise."""
        assert self._noise is not None
        return int(cost_ns * self.scale * (1.0 + self.noise * (2.0 * self._noise.uniform() - 1.0)))

    def _bill(self, task: Task) -> None:
        """Turn a task's charge into time spent on its CPU."""
        cpu = task.cpu
        assert cpu is not None
        cost_ns = task.charge_ns
        if cost_ns:
            cost_ns = int(cost_ns * self.scale) if self._noise is None else self._scaled(cost_ns)
        task.charge_ns = 0
        now_ns = self.world.now_ns
        cpu.free_at_ns = max(now_ns, cpu.free_at_ns) + cost_ns
        task.vruntime_ns += cost_ns * _NICE_0_WEIGHT // task.weight
        self.busy_ns += cost_ns

    async def cond_resched(self, task: Task) -> None:
        """Pay what is due and give way if another task should run.

        Costs nothing to call often: a small charge is carried on unless somebody waits.
        """
        if self.should_pay(task):
            await self.pay(task)

    def should_pay(self, task: Task) -> bool:
        """Return whether a :meth:`cond_resched` would do anything: loops over pages ask, which is cheaper."""
        return self.need_resched or task.charge_ns * self.scale >= PAY_QUANTUM_NS

    def nr_undisturbed(self, task: Task, cost_ns: int) -> int:
        """Return how many steps of a cost the running task makes before an interrupt or a preemption falls between two.

        The last of them is the one in which it falls; that is the next one if the task should give way already. While
        another task is waiting that may be the next tick, which looks at slices. Never are they more than fit into the
        time from tick to tick; steps that cost nothing have no end.
        """
        cpu = task.cpu
        cost_ns = int(cost_ns * self.scale)
        if self.need_resched:
            return 1
        if cpu is None or not cost_ns:
            return NEVER_NS
        begin_ns = self._own_time_ns(task, cpu)
        left_ns = min(self.world.horizon_ns() - begin_ns, JIFFY_NS - cost_ns)
        if self._queue:
            left_ns = min(left_ns, JIFFY_NS - begin_ns % JIFFY_NS)
        return max(left_ns, 0) // cost_ns + 1

    def nr_unlooked(self, task: Task, cost_ns: int) -> int:
        """Return how many steps of a cost, each followed by a :meth:`cond_resched`, nobody looks in between.

        As :meth:`nr_undisturbed`, but for an interrupt that is due already: it waits until the task pays.
        """
        cpu = task.cpu
        if cpu is not None and self._own_time_ns(task, cpu) >= self.world.horizon_ns():
            return self.nr_until_paid(task, cost_ns)
        return self.nr_undisturbed(task, cost_ns)

    def _own_time_ns(self, task: Task, cpu: Cpu) -> int:
        """The running task's own clock: what it has used and not paid for is over there."""
        return max(cpu.free_at_ns, self.world.now_ns) + int(task.charge_ns * self.scale)

    def nr_until_paid(self, task: Task, cost_ns: int) -> int:
        """Return after how many steps of a cost the first :meth:`cond_resched` pays; nobody else runs before."""
        step_ns = cost_ns * self.scale
        if self.need_resched:
            return 1
        if not step_ns:
            return NEVER_NS
        return max(1, math.ceil((PAY_QUANTUM_NS - task.charge_ns * self.scale) / step_ns))

    def nr_paid(self, task: Task, cost_ns: int, nr_steps: int) -> int:
        """Return how many of so many steps of a cost are paid for when a :meth:`cond_resched` follows each of them."""
        step_ns = cost_ns * self.scale
        if self.need_resched:
            return nr_steps
        if not step_ns:
            return 0
        first = self.nr_until_paid(task, cost_ns)
        each = math.ceil(PAY_QUANTUM_NS / step_ns)
        return first + (nr_steps - first) // each * each if nr_steps >= first else 0

    async def pay(self, task: Task) -> None:
        """Let the time pass that the task has used, then give way if another task should run."""
        world = self.world
        cpu = task.cpu
        if cpu is None:
            assert world.stopped, f"{task} pays without a CPU"
            return
        self._bill(task)
        while world.now_ns < cpu.free_at_ns:
            if not world.advance_inline(cpu.free_at_ns):
                if world.is_turn_over():
                    await world.give_trio_a_turn(task)
                    continue
                if world.now_ns >= cpu.free_at_ns:
                    break
                await self._stay(task, cpu)
                return
        if self._should_give_way(task):
            await world.yield_cpu(task)

    async def _stay(self, task: Task, cpu: Cpu) -> None:
        """Keep the CPU while time passes outside: park until it is spent."""
        # The task releases its CPU at a time in the future and competes for one again then, not before. A kernel would
        # let it run on unless it should be preempted: its virtual runtime decides, as it would at the tick.
        task.pays_on = cpu
        await self.world.yield_cpu(task)

    def _should_give_way(self, task: Task) -> bool:
        queue = self._queue
        if not queue:
            self.need_resched = False
            return False
        if self.need_resched:
            return True
        # what the last timer tick saw (task_tick_fair, check_preempt_tick); between ticks nobody looks at slices
        since_tick_ns = self.world.now_ns % JIFFY_NS
        ran_ns = self.world.now_ns - since_tick_ns - task.exec_start_ns
        if ran_ns < SCHED_MIN_GRANULARITY_NS:
            return False
        lag_ns = task.vruntime_ns - since_tick_ns * _NICE_0_WEIGHT // task.weight
        lag_ns -= min(queue, key=_preference).vruntime_ns
        return lag_ns > 0 and max(ran_ns, lag_ns) > self._slice_ns(task)

    def _slice_ns(self, task: Task) -> int:
        """Return how long a running task may go on before another has its turn (sched_slice): its share by weight."""
        queue = self._queue
        period_ns = max(SCHED_LATENCY_NS, (len(queue) + 1) * SCHED_MIN_GRANULARITY_NS)
        share_ns = period_ns * task.weight // (task.weight + sum(other.weight for other in queue))
        return max(share_ns, SCHED_MIN_GRANULARITY_NS)

    # -- the run queue --------------------------------------------------------------------------------------------

    def enqueue(self, task: Task, *, new: bool) -> None:
        """Put a runnable task in the queue (place_entity, check_preempt_wakeup)."""
        assert task not in self._queue
        if self.probe is not None:
            self.probe.enqueued(task)
        self._update_min_vruntime()
        if new:
            task.vruntime_ns = self._min_vruntime_ns
        elif task.vruntime_ns < self._min_vruntime_ns - SCHED_LATENCY_NS // 2:
            task.vruntime_ns = self._min_vruntime_ns - SCHED_LATENCY_NS // 2
        self._queue.append(task)
        # the granularity is the waking task's: a kworker at nice -20 does not wait (wakeup_gran)
        granularity_ns = SCHED_WAKEUP_GRANULARITY_NS * _NICE_0_WEIGHT // task.weight
        now_ns = self.world.now_ns
        for cpu in self.cpus:
            current = cpu.current
            if current is None:
                if cpu.free_at_ns > now_ns:
                    self._arm(cpu)
            elif current is not task:
                used_ns = int(current.charge_ns * self.scale) * _NICE_0_WEIGHT // current.weight
                if current.vruntime_ns + used_ns - task.vruntime_ns > granularity_ns:
                    self.need_resched = True

    def _update_min_vruntime(self) -> None:
        min_ns = self._min_vruntime_ns
        lowest_ns = -1
        for task in self._queue:
            if task.vruntime_ns <= min_ns:
                return
            if task.vruntime_ns < lowest_ns or lowest_ns < 0:
                lowest_ns = task.vruntime_ns
        for cpu in self.cpus:
            current = cpu.current
            if current is not None:
                if current.vruntime_ns <= min_ns:
                    return
                if current.vruntime_ns < lowest_ns or lowest_ns < 0:
                    lowest_ns = current.vruntime_ns
        if lowest_ns > min_ns:
            self._min_vruntime_ns = lowest_ns

    def _arm(self, cpu: Cpu) -> None:
        """Make sure the dispatcher looks again when this CPU's time is spent."""
        world = self.world
        free_at_ns = cpu.free_at_ns
        if cpu.current is not None or free_at_ns <= world.now_ns:
            return
        kick = cpu.kick
        if kick is not None:
            if kick[0] >= free_at_ns:
                return
            world.cancel(kick)
        cpu.kick = world.call_at(free_at_ns, self._kicked, cpu, kind=_CLOCK)

    def _kicked(self, cpu: Cpu) -> None:
        cpu.kick = None
        self.world.attention = True
        if self._queue:
            self._arm(cpu)

    def is_eligible(self) -> bool:
        """Return whether a queued task could start to run at this instant."""
        if not self._queue:
            return False
        now_ns = self.world.now_ns
        for cpu in self.cpus:
            if cpu.current is None and cpu.free_at_ns <= now_ns:
                if len(self.cpus) == 1:
                    return True
                for task in self._queue:  # noqa: SIM110  a generator takes twice as long
                    if task.pays_on is None or task.pays_on.free_at_ns <= now_ns:
                        return True
                return False
        return False

    def _has_paid(self, task: Task) -> bool:
        return task.pays_on is None or task.pays_on.free_at_ns <= self.world.now_ns

    def candidates(self) -> list[Task]:
        """Return the queued tasks that may run, the one the kernel would run first."""
        if len(self._queue) == 1:
            return self._queue
        return sorted(filter(self._has_paid, self._queue), key=_preference)

    def take(self, task: Task) -> None:
        """Give a queued task a free CPU."""
        self._queue.remove(task)
        now_ns = self.world.now_ns
        for cpu in self.cpus:
            if cpu.current is None and cpu.free_at_ns <= now_ns:
                if self.probe is not None:
                    self.probe.switched(cpu, task, now_ns)
                cpu.current = task
                if cpu.last is not task:
                    cpu.last = task
                    task.charge_ns += self.switch_ns
                cpu.free_at_ns = now_ns
                task.cpu = cpu
                task.pays_on = None
                task.exec_start_ns = now_ns
                self.need_resched = False
                for other in self._queue:
                    if other.pays_on is cpu:
                        other.pays_on = None
                return
        raise AssertionError(f"no CPU is free for {task}")

    def release(self, task: Task) -> None:
        """Take the CPU from a task that blocks, yields or ends; its charge keeps the CPU busy."""
        cpu = task.cpu
        if cpu is None:
            return
        self._bill(task)
        if self.probe is not None:
            self.probe.released(cpu, task)
        cpu.current = None
        task.cpu = None
        self.need_resched = False
        if self._queue:
            self.world.attention = True
            self._arm(cpu)

    @property
    def runnable(self) -> list[Task]:
        """Tasks that wait for a CPU."""
        return [task for task in self._queue if task.state is TaskState.RUNNABLE]


def _preference(task: Task) -> tuple[int, int]:
    return (task.vruntime_ns, task.number)
