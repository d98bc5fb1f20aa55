"""Verdicts: what each kind of end is called, and that the explanation names who holds and who waits."""

import re
from functools import cache
from typing import Any

import pytest

from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.oom import OomKill
from netvm.net.sock import TcpSock
from netvm.runtime.clock import run_virtual
from netvm.runtime.task import Resource, Task, TaskState
from netvm.scenario.catalog import find
from netvm.scenario.load import load_scenario, scenario_from
from netvm.scenario.outcome import Outcome
from netvm.scenario.run import Experiment, run_scenario
from netvm.scenario.schema import Scenario
from netvm.scenario.verdict import (
    explain_hang,
    explain_hung_task,
    explain_oom,
    explain_reserve,
    hang_kind,
    judge,
    lost_writes,
)
from netvm.units import NS_PER_S


def small(**tables: Any) -> Scenario:
    """Return the scenario of a small machine whose hog needs a little more than there is."""
    tables = {
        "machine": {"ram_mib": 24},
        "storage": {"kind": "disk", "size_mib": 64},
        "workload": [{"kind": "anon-hog", "mib": 24, "passes": 1}],
    } | tables
    return scenario_from(tables, origin="small")


@cache
def livelocked() -> Outcome:
    """Run a hog into a hang without priority sockets, on a slow machine, so that spinning is few steps."""
    scenario = small(
        machine={"ram_mib": 24, "costs": {"scale": 50.0}},
        kernel={"fixes": {"memalloc_sockets": False}},
        storage={"kind": "nbd", "size_mib": 64},
    )
    return run_scenario(scenario, name="small")


@pytest.fixture
def idle() -> Experiment:
    """A booted machine on which nothing has run."""
    return Experiment(small(), name="small")


def verdict(idle: Experiment, **how: Any) -> str:
    """Judge a run that ended in good order, but for what is named."""
    return judge(idle.host, [], **{"hang": None, "standstill_ns": 0, "stall_ns": 10} | how)


def stuck(idle: Experiment, name: str, resource: Resource) -> Task:
    """Put a sleeping task on the machine."""
    number = len(idle.world.tasks) + 1
    task = Task(world=idle.world, number=number, comm=name, pid=None, cpus=None, flags=0, nice=0)
    task.state = TaskState.SLEEPING
    task.resource = resource
    idle.world.tasks[number] = task
    return task


def kill(**facts: int) -> OomKill:
    """Return one kill with swap and writeback as named."""
    facts = {"free_swap_pages": 0, "pages_under_writeback": 0} | facts
    return OomKill(
        time_ns=2_000_000_000,
        invoked_by="hog-13",
        gfp=GFP_KERNEL,
        order=0,
        victim="hog",
        anon_rss_pages=10,
        swap_pages=5,
        free_pages=7,
        **facts,
    )


def test_a_run_that_ends_has_completed(idle: Experiment) -> None:
    """Unless nothing got done for as long as counts as a stall."""
    assert verdict(idle, standstill_ns=9) == "COMPLETED"
    assert verdict(idle, standstill_ns=10) == "STALL"


def test_a_hang_is_called_what_it_was_when_it_was_found(idle: Experiment) -> None:
    """The tasks are gone when the run is judged, so its kind is handed in."""
    assert verdict(idle, hang="LIVELOCK", standstill_ns=99) == "LIVELOCK"


def test_errors_and_kills(idle: Experiment) -> None:
    """A kill is an OOM; a failed read or write is an IO_ERROR; whichever is found, wrong content is worse."""
    idle.host.swap.write_errors = 1
    assert verdict(idle) == "IO_ERROR"
    idle.host.oom.kills.append(kill())
    assert verdict(idle) == "OOM"
    idle.host.swap.corrupt.append("slot 3")
    assert verdict(idle, hang="HANG") == "CORRUPT"


def test_an_acknowledged_write_that_is_not_stored_is_lost(idle: Experiment) -> None:
    """The storage must hold the newest version whose write was acknowledged."""
    assert lost_writes(idle.host) == []
    idle.host.swap.stored_version[5] = 7
    assert lost_writes(idle.host) == ["slot 5: the storage holds version 0, acknowledged was 7"]
    assert verdict(idle) == "LOST_WRITE"


def test_kinds_of_hang(idle: Experiment) -> None:
    """Sleepers alone are a HANG; one that goes round makes it a LIVELOCK."""
    task = stuck(idle, "hog", Resource("memory", "a free page"))
    assert hang_kind(idle.host) == "HANG"
    task.spins_at = "should_reclaim_retry"
    task.state = TaskState.RUNNABLE
    assert hang_kind(idle.host) == "LIVELOCK"


def test_packets_dropped_for_nothing(idle: Experiment) -> None:
    """With memory above its marks, packets dropped as reserve packets are why nobody goes on."""
    stuck(idle, "hog", Resource("reply", "a reply"))
    idle.host.netstat.add("PFMemallocDrop")
    assert hang_kind(idle.host) == "DROP_FOREVER"
    for zone in idle.host.node.zones:
        zone.watermark_boost = zone.managed
    assert hang_kind(idle.host) == "HANG"


def test_who_waits_for_the_world_is_not_stuck(idle: Experiment) -> None:
    """A task whose provider is outside the machine is no part of a hang."""
    task = stuck(idle, "sleeper", Resource("timer", "a pause", external=True))
    task.spins_at = ""
    assert hang_kind(idle.host) == "HANG"
    task.resource = Resource("lock", "a lock")
    task.spins_at = "a loop"
    assert hang_kind(idle.host) == "LIVELOCK"


def test_a_hang_is_proved_or_reported(idle: Experiment) -> None:
    """What is not proved says after how long it was reported: the scenario's limit."""
    proved, reported = (explain_hang(idle.host, [], proved=how, timeout_s=30)[0] for how in (True, False))
    assert proved == "hung at 0.000 s (proved: only retries are left and they change nothing)"
    assert reported == "hung at 0.000 s (reported: nothing got done for 30 s)"


def test_a_stall_says_when_and_who_waited() -> None:
    """Which fault was on, and who waited for what while it lasted; without a stall nothing is said."""
    fault = {"at_ms": 20, "kind": "stall", "for_ms": 4000}
    stalls = run_scenario(small(fault=[fault], run={"stall_s": 2}), name="small")
    assert stalls.verdict == "STALL"
    began, fault_line, into, *rest = stalls.explanation
    assert began.startswith(("nothing got done for 3.", "nothing got done for 4."))
    assert began.endswith(" s on")
    assert fault_line.startswith("fault.0 (stall) was on from 0.0")
    assert into.endswith(" s into it:")
    assert any(line.startswith("hog-") and "waits for" in line for line in rest)
    patient = run_scenario(small(fault=[fault], run={"stall_s": 20}), name="small")
    assert (patient.verdict, patient.explanation) == ("COMPLETED", [])


def restarted(**tables: Any) -> Scenario:
    """Return a scenario whose iSCSI target restarts while its initiator's daemon cannot have a page."""
    tables = {
        "kernel": {"fixes": {"io_flusher_iscsid": False}},
        "storage": {"kind": "iscsi", "size_mib": 64, "timeout_s": 6},
        "workload": [{"kind": "anon-hog", "mib": 10, "passes": 1, "processes": 3}],
        "fault": [{"kind": "server-restart", "at_ms": 60, "for_ms": 500}],
        "run": {"stall_s": 4},
    } | tables
    return small(**tables)


def test_an_error_after_a_standstill_tells_of_both() -> None:
    """Why the session was not brought back in time is who waited for what; and whose reclaim that was."""
    outcome = run_scenario(restarted(), name="small")
    assert outcome.verdict == "IO_ERROR"
    began, fault_line, *rest = outcome.explanation
    assert began.startswith("nothing got done for 5.")
    assert fault_line == "fault.0 (server-restart) was on from 0.111 to 0.611 s"
    wait = next(line for line in rest if line.startswith("the wait: "))
    assert wait.startswith("the wait: hog0-15 -> [fs_bio_set bio-160 (min_nr 2)] -> sda: WRITE of ")
    assert wait.endswith("recovery by iscsid -> iscsid-14 -> [fs_bio_set bio-160 (min_nr 2)]")
    daemon = next(line for line in rest if line.startswith("iscsid-14 is needed for what it waits for: "))
    assert "kernel.fixes.io_flusher_iscsid" in daemon
    assert rest.index(wait) < next(i for i, line in enumerate(rest) if line.startswith("swap: writes of "))
    assert any(line.endswith("session1: session recovery timed out after 6 secs") for line in rest)


def test_a_daemon_that_does_not_reclaim_into_its_device_brings_it_back() -> None:
    """With PR_SET_IO_FLUSHER the same target is found again 2 s (Time2Wait) after it was lost."""
    outcome = run_scenario(restarted(kernel={"fixes": {"io_flusher_iscsid": True}}), name="small")
    assert (outcome.verdict, outcome.explanation) == ("COMPLETED", [])
    assert outcome.longest_standstill_s < 2.5


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"vm": {"panic_on_oom": 1}}, "Out of memory: system-wide panic_on_oom is enabled"),
        ({"workload": [{"kind": "anon-hog", "mib": 64, "oom_score_adj": -1000}]}, "System is deadlocked on memory"),
    ],
)
def test_a_panic_is_an_oom(tables: dict[str, Any], said: str) -> None:
    """Without anybody killed: the machine has stopped, and says why."""
    hog = {"workload": [{"kind": "anon-hog", "mib": 64}]}
    outcome = run_scenario(small(storage={"kind": "disk", "size_mib": 8}, **(hog | tables)), name="small")
    assert (outcome.verdict, outcome.vmstat["oom_kill"]) == ("OOM", 0)
    assert any(f"Kernel panic - not syncing: {said}" in line for line in outcome.explanation)


def test_an_error_ends_a_standstill() -> None:
    """Whoever waits for as long as it takes to be told of an error has not hung."""
    assert run_scenario(restarted(vm={"hung_task_timeout_secs": 6}), name="small").verdict == "IO_ERROR"


@pytest.mark.parametrize(
    ("short_of", "said"),
    [
        ("room", "0 bytes are in its send buffer of 16384, and the other end acknowledges nothing"),
        ("tcp_mem", "tcp_mem gives its socket no more"),
        ("a page", "found no page for a packet"),
    ],
)
def test_a_sender_says_what_it_was_short_of(monkeypatch: pytest.MonkeyPatch, short_of: str, said: str) -> None:
    """Room in its buffer, a page, or leave by tcp_mem: who sleeps in sk_stream_wait_memory may be short of any."""
    idle = Experiment(small(storage={"kind": "nbd", "size_mib": 64}), name="small")
    sock = next(sock for sock in idle.host.stack.sockets if isinstance(sock, TcpSock))
    sock.short_of = short_of
    stuck(idle, "sender", sock.send_memory)
    monkeypatch.setattr(Task, "stack", lambda _task: ["sendmsg", "sk_stream_wait_memory"])
    assert any(said in line for line in explain_hang(idle.host, [], proved=True, timeout_s=30))


def test_who_is_held_back_for_dirt_is_told_the_figures(idle: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dirty, under writeback, and allowed; for all and for each device."""
    stuck(idle, "writer", Resource("timer", "balance_dirty_pages"))
    assert not any("held back" in line for line in explain_hang(idle.host, [], proved=True, timeout_s=30))
    monkeypatch.setattr(Task, "stack", lambda _task: ["balance_dirty_pages", "_sleep"])
    wb = idle.host.files.throttle.add_device("vda")
    wb.nr_reclaimable, wb.nr_writeback = 7, 9
    idle.host.vmstat.nr_dirty, idle.host.vmstat.nr_writeback = 7, 9
    look = idle.host.files.throttle.limits()
    line = f"writers are held back: 7 pages are dirty and 9 under writeback, limit {look.thresh}, "
    told = [line for line in explain_hang(idle.host, [], proved=True, timeout_s=30) if "held back" in line]
    assert told == [line + f"background {look.bg_thresh}; of vda 7 and 9"]


def test_a_kill_is_explained(idle: Experiment) -> None:
    """Who asked for what and who died; EARLY only if swap was left that works, or pages were being written."""
    idle.host.oom.kills += [kill(), kill(free_swap_pages=3), kill(pages_under_writeback=4)]
    idle.host.oom.kills.append(kill(free_swap_pages=3, swap_write_errors=8))
    plain, swap_left, writing, failed = explain_oom(idle.host)
    assert plain == (
        "at 2.000 s hog-13 invoked oom-killer: order=0, gfp_mask=0xcc0(GFP_KERNEL), free 7 pages; "
        "killed hog (anon-rss 40 kB, swap 20 kB)."
    )
    assert swap_left.endswith("EARLY: swap had 3 pages free and 0 pages were under writeback")
    assert "EARLY: swap had 0 pages free and 4 pages" in writing
    assert failed == f"{plain} Swap failed: 8 times a page could not be written"


def test_who_holds_the_reserve_is_told_for_the_owners_asked_for(idle: Experiment) -> None:
    """Each with its pages, none included, in the order asked for; what others hold does not count."""
    host = idle.host
    host.ledger.drew_reserve(host.ledger.owner("skb:nbd0"), 9)
    host.ledger.drew_reserve(host.ledger.owner("slab:kmalloc-1k"), 4)
    pages = sum(zone["min"] for zone in host.boot_zones)
    assert explain_reserve(idle.outcome().reserve, ["slab:bio-160", "slab:kmalloc-1k"]) == (
        f"reserve pages held at the end: 4, with {pages} below min (slab:bio-160 0, slab:kmalloc-1k 4)"
    )


def test_a_hog_too_large_for_swap_is_killed() -> None:
    """Swap is used up to the last page first, so the kill is not early."""
    outcome = run_scenario(small(storage={"kind": "disk", "size_mib": 2}), name="small")
    assert outcome.verdict == "OOM"
    assert outcome.audit == []
    assert "invoked oom-killer" in outcome.explanation[0]
    assert "EARLY" not in outcome.explanation[0]


def test_without_priority_sockets_the_sender_spins() -> None:
    """The stacks of the recorded hangs: the sender reclaims without IO for ever, all others wait for bios it holds.

    21 pages are under writeback, one slab page of bios; memory is free, below the boosted min; swap is all but free.
    """
    outcome = livelocked()
    assert outcome.verdict == "LIVELOCK"
    assert outcome.audit == []
    why = "\n".join(outcome.explanation)
    lines = {line.split(" ", 1)[0]: line for line in reversed(outcome.explanation)}
    assert "(proved: only retries are left and they change nothing)" in outcome.explanation[0]
    assert outcome.vmstat["nr_writeback"] == 21
    assert "writeback:21 " in why
    for sleeper in ("kswapd0", "hog"):
        (line,) = (line for name, line in lines.items() if name.startswith(f"{sleeper}-"))
        assert "(D) waits for fs_bio_set bio-160 (min_nr 2) in mempool_alloc" in line
    (sender,) = (line for name, line in lines.items() if name.startswith("kworker/0:1H-"))
    assert "(R, spinning)" in sender
    assert "GFP_NOIO without __GFP_MEMALLOC enters direct reclaim" in why
    zone = outcome.zones[0]
    free = outcome.vmstat["nr_free_pages"]
    boost = int(why.split("boost ")[1].split(" ")[0])
    assert 0 < free <= zone.min + boost
    assert outcome.vmstat.get("oom_kill", 0) == 0


def test_the_knot_of_a_livelock_comes_back_to_its_sender() -> None:
    """The chain starts at the program and goes over the pool and a write to who sends it."""
    (knot,) = (line for line in livelocked().explanation if line.startswith("the knot: "))
    assert knot.startswith("the knot: hog-")
    assert "[fs_bio_set bio-160 (min_nr 2)] -> nbd0: WRITE of" in knot
    assert ", being sent by kworker/0:1H -> kworker/0:1H-" in knot


def test_a_task_that_stood_still_makes_a_run_a_stall(idle: Experiment) -> None:
    """What khungtaskd would have reported counts, although others got on; a kill counts more."""
    assert verdict(idle, nr_hung_tasks=1) == "STALL"
    idle.host.oom.kills.append(kill())
    assert verdict(idle, nr_hung_tasks=1) == "OOM"


def test_a_hung_task_is_told_with_who_holds_what_it_waits_for(idle: Experiment) -> None:
    """The words of khungtaskd, and a line for each holder."""
    holder = stuck(idle, "holder", Resource("request", "vda: a write token of blk-wbt"))
    waiter = stuck(idle, "waiter", Resource("lock", "mmap_lock: prog", lambda: [holder]))
    first, second = explain_hung_task(waiter, 1_500_000_000, 120)
    assert first.startswith(f"INFO: task waiter:{waiter.pid} blocked for more than 120 seconds, since 1.500 s: (D)")
    assert "waits for mmap_lock: prog" in first
    assert second.startswith(f"... held by holder-{holder.pid} (D) waits for vda: a write token of blk-wbt")


def test_a_standstill_of_one_program_is_found_while_another_gets_on() -> None:
    """Its fault takes five seconds in state D; a second program maps memory all the time."""
    scenario = small(
        machine={"ram_mib": 24, "cpus": 2},
        vm={"hung_task_timeout_secs": 2},
        storage={"kind": "disk", "size_mib": 64, "role": "fs", "swap_mib": 16},
        workload=[
            {"kind": "anon-hog", "mib": 1, "passes": 1},
            {"kind": "anon-pulse", "name": "other", "mib": 1, "hold_ms": 20, "idle_ms": 20, "repeats": 150},
        ],
    )
    experiment = Experiment(scenario, name="small")
    memory = experiment.host.memory
    fault = memory.do_anonymous_page
    first: list[Task] = []

    async def slow_fault(task: Task, space: Any, vpn: int) -> int:
        if task.comm == "hog" and not first:
            first.append(task)
            await experiment.world.sleep_ns(task, 5 * NS_PER_S, Resource("memory", "a slow page"))
        return await fault(task, space, vpn)

    memory.do_anonymous_page = slow_fault  # type: ignore[method-assign]  a fault that takes five seconds
    run_virtual(experiment.run)
    outcome = experiment.outcome()
    assert outcome.verdict == "STALL"
    assert outcome.longest_standstill_s < 1
    assert any("INFO: task hog:" in line and "waits for a slow page" in line for line in outcome.explanation)


def test_reserve_packets_dropped_for_long_with_memory_to_spare_are_a_verdict(idle: Experiment) -> None:
    """For as long as counts as a stall; a kill counts more, a stall less."""
    assert verdict(idle, dropping_ns=9) == "COMPLETED"
    assert verdict(idle, dropping_ns=10, nr_hung_tasks=1) == "DROP_FOREVER"
    idle.host.oom.kills.append(kill())
    assert verdict(idle, dropping_ns=10) == "OOM"


def test_drops_are_watched_second_by_second() -> None:
    """Seconds without a drop, or with memory at the high mark, do not count."""
    pulse = {"kind": "anon-pulse", "mib": 1, "hold_ms": 500, "idle_ms": 500, "repeats": 20}
    experiment = Experiment(small(workload=[pulse]), name="small")
    world, host = experiment.world, experiment.host
    for second in (*range(2, 7), *range(9, 16)):
        world.call_at(second * NS_PER_S + NS_PER_S // 2, host.netstat.add, "PFMemallocDrop")
    run_virtual(experiment.run)
    assert experiment.longest_dropping_ns == 7 * NS_PER_S
    assert experiment.outcome().verdict == "COMPLETED"


def test_a_throttle_that_kswapd_cannot_end_is_a_livelock() -> None:
    """DMA32 is balanced and passed over, Normal is short: kswapd and who is throttled wake each other."""
    (entry,) = find("A10/dma32-broken")
    outcome = run_scenario(load_scenario(entry.path), name="A10")
    assert outcome.verdict == "LIVELOCK"
    assert outcome.audit == []
    why = "\n".join(outcome.explanation)
    assert "throttle_direct_reclaim and kswapd wake each other" in why
    assert outcome.explanation[-1].startswith("the knot: late-17 -> [kswapd, which is awake for it alone")
    assert (
        "reclaimers are throttled: free 332 must be above half of min 890, of Normal (none of DMA32 can be reclaimed); "
        "to kswapd the node is balanced, by DMA32" in why
    )
    assert outcome.vmstat["kswapd_low_wmark_hit_quickly"] > 1_000


@pytest.mark.parametrize("late", [{"hold_ms": 300_000}, {"start_ms": 300_000}])
def test_a_program_that_sleeps_because_it_wants_to_is_not_hung(late: dict[str, int]) -> None:
    """It holds its memory, or has not started yet: nobody waits for anything, however long that is."""
    pulse = {"kind": "anon-pulse", "mib": 2, "repeats": 1} | late
    outcome = run_scenario(small(workload=[pulse]), name="small")
    assert (outcome.verdict, outcome.longest_standstill_s) == ("COMPLETED", 0.0)
    assert outcome.virtual_seconds > 300


def test_a_hang_without_a_knot_names_what_never_arrives() -> None:
    """A datagram of 23 fragments does not fit in a link's queue of 20 packets, however often it is sent."""
    storage = {"kind": "nfs", "role": "fs", "transport": "udp", "wsize_bytes": 32768, "size_mib": 64}
    scenario = small(
        kernel={"preset": "2.6.11"},
        link={"queue_packets": 20},
        storage=storage,
        workload=[{"kind": "file-writer", "mib": 1}],
    )
    outcome = run_scenario(scenario, name="small")
    assert outcome.verdict == "HANG"
    assert outcome.drops["link_overflowed"] > 0
    assert not any("knot" in line for line in outcome.explanation)
    (way,) = (line for line in outcome.explanation if line.startswith("under way: nfs: WRITE"))
    assert re.search(r"the reply, sent [2-9]\d times$", way)
