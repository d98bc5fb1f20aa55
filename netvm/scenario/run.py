"""Running a scenario: a world, a host in it, its programs, and what it all came to.

:func:`run_scenario` is the one door. The host boots, its storage connects, its programs start; the run ends when the
last program has ended, when the host is hung (:mod:`netvm.runtime.hang`), or when a budget is spent. Then everything
is audited: the ledger against the frames, no packet leaked, the storage's content against what was acknowledged.
"""

from collections.abc import Callable, Hashable
from typing import Any

import structlog

from netvm import __version__
from netvm.block.bdev import read_first_page
from netvm.errors import Errno
from netvm.host.backend import TellingBackend
from netvm.host.boot import boot, start_threads
from netvm.host.machine import Host
from netvm.host.tracing import attach
from netvm.mm.invariants import audit_memory
from netvm.mm.lru import LRU_NAMES
from netvm.pagecache.invariants import audit_pagecache
from netvm.runtime.clock import run_virtual
from netvm.runtime.hang import HangDetector, HungTasks
from netvm.runtime.oracle import Oracle, oracle_named
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import World
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.faults import FaultSpan, schedule_faults
from netvm.scenario.load import options_of
from netvm.scenario.outcome import (
    LatencyReport,
    Outcome,
    PassReport,
    Progress,
    ReserveReport,
    WorkloadReport,
    ZoneReport,
)
from netvm.scenario.program import THINK
from netvm.scenario.schema import Scenario, Verdict
from netvm.scenario.traffic import start_traffic
from netvm.scenario.verdict import (
    explain_hang,
    explain_hung_task,
    explain_io_error,
    explain_oom,
    explain_reserve,
    explain_standstill,
    hang_kind,
    has_io_errors,
    judge,
    lost_writes,
)
from netvm.scenario.workload import Program, start_workloads
from netvm.trace.recorder import Recorder
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

__all__ = ["Experiment", "run_scenario"]

HUNG_TASK_WARNINGS = 10
"""kernel.hung_task_warnings: how many are told of in full."""
SWAPON_AFTER_NS = NS_PER_S // 20
"""How long after the connection its device is read first; a delayed acknowledgement of the handshake is gone then."""
DROPS_EVERY_NS = NS_PER_S
PROGRESS_EVERY_NS = 100 * NS_PER_MS
_DROPS = (
    "IpReasmFails",
    "IpReasmTimeout",
    "OfoPruned",
    "PFMemallocDrop",
    "TCPBacklogDrop",
    "TCPOFODrop",
    "TCPRcvQDrop",
    "UdpMemErrors",
    "UdpRcvbufErrors",
    "rx_dropped",
    "rx_missed_errors",
)


def run_scenario(
    scenario: Scenario,
    *,
    name: str,
    progress: Callable[[Progress], None] | None = None,
    oracle: Oracle | None = None,
    logger: Any = None,
    tracer: Callable[[World], Recorder] | None = None,
) -> Outcome:
    """Run a scenario to its end and return what it came to; on Ctrl-C what there is, marked as partial.

    ``logger`` is a structlog logger for what an operator would read in the kernel log; none is silence. ``tracer``
    makes the recorder of the run in its world; none records nothing.
    """
    experiment: Experiment | AbstractExperiment
    if scenario.abstract is not None:
        experiment = AbstractExperiment(scenario, name=name, oracle=oracle, logger=logger)
    else:
        experiment = Experiment(scenario, name=name, progress=progress, oracle=oracle, logger=logger, tracer=tracer)
    try:
        run_virtual(experiment.run)
    except KeyboardInterrupt:
        experiment.partial = "interrupted"
    return experiment.outcome()


class Experiment:
    """One run of one scenario."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        name: str,
        progress: Callable[[Progress], None] | None = None,
        oracle: Oracle | None = None,
        make_world: Callable[..., World] = World,
        logger: Any = None,
        tracer: Callable[[World], Recorder] | None = None,
    ) -> None:
        self.scenario = scenario
        self.name = name
        self.partial: str | None = None
        self.hang: Verdict | None = None
        """What kind of hang ended the run."""
        self.proved = False
        self.explanation: list[str] = []
        self.nr_hung_tasks = 0
        """Sleeps of programs in state D that khungtaskd would have reported."""
        self.hung_task_lines: list[str] = []
        self._drops_seen = self._dropping_ns = 0
        self.longest_dropping_ns = 0
        """Longest time in which reserve packets were dropped although memory was above the high mark."""
        self._standstill: list[str] = []
        """Who waited for what in the longest standstill that was a stall."""
        self._faults: list[FaultSpan] = []
        self.programs: list[Program] = []
        self.finished = False
        seeds = Seeds(scenario.run.seed)
        self.world = make_world(seeds=seeds, oracle=oracle or oracle_named(scenario.run.oracle, seeds))
        self._logger = logger if logger is not None else structlog.wrap_logger(structlog.ReturnLogger())
        self.host: Host = boot(self.world, scenario, log=self.log)
        if tracer is not None:
            attach(self.host, tracer(self.world))
        self._progress = progress
        self._detector: HangDetector | None = None
        self._begun_ns = 0
        self._zones = [ZoneReport(**zone) for zone in self.host.boot_zones]

    def log(self, event: str, **facts: Any) -> None:
        """Note what an operator would read in the kernel log, stamped with virtual time."""
        self._logger.info(event, t=f"{self.world.now_ns / NS_PER_S:.6f}", **facts)
        if hasattr(self, "host"):
            told = " ".join(f"{key}={value}" for key, value in facts.items())
            self.host.log_lines.append(f"[{self.world.now_ns / NS_PER_S:12.6f}] {event} {told}".rstrip())

    # -- running --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the world to its end (an async function for a trio loop on a VirtualClock)."""
        await self.world.run(self.main)

    def main(self) -> None:
        """Start the host's threads and bring its storage up; the world calls it once."""
        start_threads(self.host)
        self.world.spawn("swapon", self._bring_up, cpus=self.host.cpus)
        budget_ns = int(self.scenario.run.max_virtual_s * NS_PER_S)
        self.world.call_after(budget_ns + NS_PER_S, self._never_up, kind=TimerKind.CLOCK)

    async def _bring_up(self, task: Task) -> None:
        """Connect the storage, then let the scenario begin."""
        host, world, run = self.host, self.world, self.scenario.run
        await host.backend.start(task)
        if host.queue is not None:
            # swapon and mount are programs of their own, started after the one that connected
            await world.sleep_ns(task, SWAPON_AFTER_NS, THINK, kind=TimerKind.PROGRESS)
            await read_first_page(host.queue, task, host.pages)
        host.memory_map.restore_free()
        in_jiffy_ns = self.scenario.machine.boot.start_in_jiffy_ns
        if in_jiffy_ns is not None:
            await world.sleep_ns(task, (in_jiffy_ns - world.now_ns) % JIFFY_NS, THINK, kind=TimerKind.PROGRESS)
        self._begun_ns = world.now_ns
        self._detector = HangDetector(
            world,
            digest=host.digest,
            progress=host.progress,
            timeout_ns=self.scenario.vm.hung_task_timeout_secs * NS_PER_S,
            hung=self._hung,
            stall_ns=int(run.stall_s * NS_PER_S),
            stalled=self._stalled,
            at_rest=self._at_rest,
        )
        HungTasks(
            world,
            tasks=lambda: [program.task for program in self.programs if program.task is not None],
            timeout_ns=self.scenario.vm.hung_task_timeout_secs * NS_PER_S,
            report=self._task_hung,
        )
        world.observe_after(DROPS_EVERY_NS, self._watch_drops)
        world.call_after(int(run.max_virtual_s * NS_PER_S), self._out_of_time, kind=TimerKind.CLOCK)
        world.work_limit = run.max_steps
        world.work_over = self._out_of_time
        self._tell_progress()
        world.calm = False
        start_traffic(host, list(self.scenario.traffic))
        self._faults = schedule_faults(host, list(self.scenario.fault))
        self.programs = start_workloads(host, list(self.scenario.workload), self._all_ended)

    def _all_ended(self) -> None:
        self.finished = True
        self.world.stop()

    def _at_rest(self) -> bool:
        """Whether nobody wants anything: each program has ended or sleeps because it wants to."""
        return all(program.is_at_rest() for program in self.programs)

    def _hung(self, proved: bool) -> None:
        if self.hang is not None or self.world.stopped:
            return
        self.hang = hang_kind(self.host)
        self.proved = proved
        timeout_s = self.scenario.vm.hung_task_timeout_secs
        self.explanation = explain_hang(self.host, self.programs, proved=proved, timeout_s=timeout_s)
        self.world.stop()

    def _task_hung(self, task: Task, since_ns: int) -> None:
        """Note a program's task that has been in state D for long while others got on."""
        self.nr_hung_tasks += 1
        if self.nr_hung_tasks <= HUNG_TASK_WARNINGS:
            lines = explain_hung_task(task, since_ns, self.scenario.vm.hung_task_timeout_secs)
            self.hung_task_lines += lines
            self.log(lines[0])

    def _stalled(self) -> None:
        assert self._detector is not None
        since_ns = self._detector.longest_standstill_at_ns
        self._standstill = explain_standstill(self.host, self.programs, since_ns=since_ns)

    def _watch_drops(self) -> None:
        """Note for how long an ordinary socket's packets have been dropped as reserve packets with memory to spare."""
        drops = self.host.netstat["PFMemallocDrop"]
        plenty = all(zone.nr_free > zone.high_wmark_pages() for zone in self.host.node.zones)
        self._dropping_ns = self._dropping_ns + DROPS_EVERY_NS if plenty and drops > self._drops_seen else 0
        self.longest_dropping_ns = max(self.longest_dropping_ns, self._dropping_ns)
        self._drops_seen = drops
        self.world.observe_after(DROPS_EVERY_NS, self._watch_drops)

    def _never_up(self) -> None:
        """Give up a storage that has not answered in all the time that the whole run has, and a second."""
        if not self.is_up:
            self.explanation = ["the storage did not come up"]
            self._out_of_time()

    def _out_of_time(self) -> None:
        if not self.world.stopped:
            self.partial = "budget"
            self.world.stop()

    def _tell_progress(self) -> None:
        if self._progress is not None:
            self._progress(self.progress())
        self.world.observe_after(PROGRESS_EVERY_NS, self._tell_progress)

    def progress(self) -> Progress:
        """Return where the run stands."""
        host = self.host
        zones = host.node.zones
        return Progress(
            virtual_seconds=self._virtual_s(),
            free_pages=host.node.nr_free,
            min_pages=sum(zone.wmark_pages(0) for zone in zones),
            low_pages=sum(zone.wmark_pages(1) for zone in zones),
            high_pages=sum(zone.wmark_pages(2) for zone in zones),
            pages_cleaned=host.swap.nr_cleaned + host.files.cache.nr_cleaned,
            swap_used_pages=host.swap.nr_total_slots() - host.swap.nr_free_slots(),
        )

    @property
    def is_up(self) -> bool:
        """Whether the storage came up, and the scenario began."""
        return self._detector is not None

    def _virtual_s(self) -> float:
        return round((self.world.now_ns - self._begun_ns) / NS_PER_S, 9)

    def progress_made(self) -> int:
        """Return a number that grows with progress."""
        return self.host.progress()

    def step_of(self, number: int) -> Hashable:
        """Return what the next step of a task does; of a host's tasks no two are alike."""
        return number

    # -- what it came to ------------------------------------------------------------------------------------------

    def standstill_ns(self) -> int:
        """Return the longest span in which nothing got done."""
        return self._detector.longest_standstill_ns if self._detector is not None else 0

    def _has_stalled(self, verdict: Verdict | None) -> bool:
        """Whether there was a standstill to be told of, whatever came after it; a hang tells of itself."""
        if self._standstill:
            return self.hang is None
        return verdict == "STALL" and not self.nr_hung_tasks

    def _stall_lines(self) -> list[str]:
        """Say when nothing got done for longest, which faults were on, and who waited for what."""
        assert self._detector is not None
        began_ns, standstill_ns = self._detector.longest_standstill_at_ns, self.standstill_ns()
        lines = [
            f"nothing got done for {standstill_ns / NS_PER_S:.3f} s at the longest, from {began_ns / NS_PER_S:.3f} s on"
        ]
        lines += [
            f"fault.{span.number} ({span.fault.kind}) was on from {span.begin_ns / NS_PER_S:.3f} to "
            f"{span.end_ns / NS_PER_S:.3f} s"
            for span in self._faults
            if span.begin_ns <= began_ns + standstill_ns and span.end_ns >= began_ns
        ]
        return lines + self._standstill

    def verdict(self) -> Verdict | None:
        """Return what the run came to; None if it was cut short."""
        if self.partial is not None:
            return None
        return judge(
            self.host,
            self.programs,
            hang=self.hang,
            standstill_ns=self.standstill_ns(),
            stall_ns=int(self.scenario.run.stall_s * NS_PER_S),
            nr_hung_tasks=self.nr_hung_tasks,
            dropping_ns=self.longest_dropping_ns,
        )

    def outcome(self) -> Outcome:
        """Return the result of the run."""
        host, scenario = self.host, self.scenario
        standstill_ns = self.standstill_ns()
        verdict = self.verdict()
        explanation = [*self.explanation]
        if self.hang is None:
            explanation += explain_oom(host)
        if self._has_stalled(verdict):
            explanation += self._stall_lines()
        if verdict == "DROP_FOREVER" and self.hang is None:
            long = f"for {self.longest_dropping_ns // NS_PER_S} s with free pages above the high mark"
            explanation.append(f"packets of ordinary sockets dropped as reserve packets {long}{self._tagged_ring()}")
        if self.hang is None:
            explanation += self.hung_task_lines
        if has_io_errors(host, self.programs):
            explanation += explain_io_error(host, self.programs)
        explanation += host.swap.corrupt[:10] + host.files.cache.corrupt[:10]
        explanation += [
            f"{program.name} was told {Errno(-program.io_errno).name}" for program in self.programs if program.io_errno
        ]
        explanation += [note for fs in host.files.cache.filesystems for note in fs.notes()]
        explanation += host.backend.notes() if isinstance(host.backend, TellingBackend) else []
        explanation += host.stack.ip_frags.notes() if host.stack.ip_frags is not None else []
        if host.files.cache.nr_lost:
            explanation.append(f"{host.files.cache.nr_lost} file pages were lost in writes that failed")
        reserve = self._reserve()
        if scenario.exhibit is not None and scenario.exhibit.reserve_of:
            explanation.append(explain_reserve(reserve, scenario.exhibit.reserve_of))
        return Outcome(
            scenario=self.name,
            kernel=scenario.kernel.preset,
            seed=scenario.run.seed,
            version=__version__,
            verdict=verdict,
            expected=list(scenario.expect),
            partial=self.partial,
            virtual_seconds=self._virtual_s(),
            longest_standstill_s=round(standstill_ns / NS_PER_S, 9),
            explanation=explanation,
            zones=self._zones,
            vmstat=self._vmstat(),
            direct_reclaim_latency_us=self._latency(),
            reserve=reserve,
            memory_groups=self._memory_groups(),
            netstat=self.host.stack.netstat_values(),
            drops=self._drops(),
            workload=[self._workload(program) for program in self.programs],
            audit=self.audit(),
            options=options_of(scenario),
        )

    def _tagged_ring(self) -> str:
        nic = self.host.nic
        if nic is None or not nic.nr_pfmemalloc:
            return ""
        return f"; {nic.nr_pfmemalloc} of {nic.ring} receive buffers lie in pages of the reserve"

    def _vmstat(self) -> dict[str, int]:
        values = {"nr_free_pages": self.host.node.nr_free, **self.host.vmstat.as_dict()}
        for lru, name in enumerate(LRU_NAMES[:4]):
            values[f"nr_{name}"] = self.host.lruvec.nr_pages(lru)
        limits = self.host.files.throttle.limits()
        values["nr_dirty_threshold"] = limits.thresh
        values["nr_dirty_background_threshold"] = limits.bg_thresh
        return values

    def _latency(self) -> LatencyReport:
        summary = self.host.vmscan.direct_reclaim_latency.summary()
        if not summary.count:
            return LatencyReport()
        return LatencyReport(
            count=summary.count,
            p50=summary.p50_ns / 1000,
            p90=summary.p90_ns / 1000,
            p99=summary.p99_ns / 1000,
            max=summary.max_ns / 1000,
        )

    def _drops(self) -> dict[str, int]:
        """Count the packets that the host dropped, and those that did not come over the wire."""
        drops = {key: count for key, count in self.host.netstat.as_dict().items() if key in _DROPS}
        ways = [] if self.host.link is None else [self.host.link.up, self.host.link.down]
        wire = {
            "link_lost": sum(way.nr_lost for way in ways),
            "link_overflowed": sum(way.nr_overflowed for way in ways),
        }
        return drops | {key: count for key, count in wire.items() if count}

    def _reserve(self) -> ReserveReport:
        ledger = self.host.ledger
        return ReserveReport(
            pages=sum(zone["min"] for zone in self.host.boot_zones),
            peak_used=ledger.reserve_peak,
            by_owner=dict(sorted(ledger.by_owner_at_peak.items())),
            still_used=ledger.reserve_used,
            still_by_owner=dict(sorted(ledger.reserve_table().items())),
        )

    def _memory_groups(self) -> dict[str, dict[str, int]]:
        memcg = self.host.pages.memcg
        return {group.name: group.stat() for group in memcg.groups} if memcg is not None else {}

    def _workload(self, program: Program) -> WorkloadReport:
        ended_ns = program.ended_ns or self.world.now_ns
        return WorkloadReport(
            name=program.name,
            kind=str(program.spec.__struct_config__.tag),
            finished=program.finished,
            oom_killed=program.killed,
            bad=len(self.host.swap.corrupt),
            total_s=round((ended_ns - program.begun_ns) / NS_PER_S, 9),
            passes=[
                PassReport(
                    index=result.index,
                    touches=result.touches.nr_touches,
                    total_ns=result.touches.total_ns,
                    max_ns=result.touches.max_ns,
                    minflt=result.minflt,
                    majflt=result.majflt,
                    hist_log2ns={str(k): v for k, v in sorted(result.touches.histogram.items())},
                )
                for result in program.passes
            ],
        )

    def audit(self) -> list[str]:
        """Return what does not add up; the books must balance at the end of every run."""
        host = self.host
        found = audit_memory(host.node.zones, host.frames, host.ledger, host.lruvec, host.vmscan.shrinker)
        found += audit_pagecache(host.files.cache)
        found += lost_writes(host)[:10]
        writeback = sum(rq.nr_pages for rq in host.swap.io.outstanding.values() if rq.write)
        if writeback > host.vmstat.nr_writeback:
            found.append(f"{writeback} pages are being written, nr_writeback is {host.vmstat.nr_writeback}")
        return found
