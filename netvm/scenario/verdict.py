"""The verdict of a run, and why, in kernel words.

The verdicts are those of the documented history: COMPLETED, STALL (finished, but nothing got done for a while), OOM,
HANG (no enabled event can ever release what is waited for), LIVELOCK (the same, but somebody runs round and round),
OVER_THROTTLE (tasks sleep although the reserve is whole), DROP_FOREVER (packets for an ordinary socket are dropped as
reserve packets while memory is plentiful), LOST_WRITE, CORRUPT, IO_ERROR.

The explanation of a hang is read off the machine as it stands: what each stuck task is in (its functions are named
after the kernel's), what that waits for, who could provide it, and the figures that say why nobody can.
"""

import re
from collections.abc import Sequence
from typing import Final

from netvm.host.machine import Host
from netvm.mm.gfp import PF_KTHREAD, PF_MEMALLOC_NOIO, gfp_name
from netvm.mm.zone import ZONE_NORMAL, Zone
from netvm.net.sock import TcpSock
from netvm.runtime.hang import Knot, find_knot, shortest_chain
from netvm.runtime.task import NOT_WAITING, Provider, Resource, Task, TaskState
from netvm.scenario.outcome import ReserveReport
from netvm.scenario.schema import Verdict
from netvm.scenario.workload import Program
from netvm.units import NS_PER_S

__all__ = [
    "explain_hang",
    "explain_hung_task",
    "explain_io_error",
    "explain_oom",
    "explain_reserve",
    "explain_standstill",
    "hang_kind",
    "has_io_errors",
    "judge",
    "lost_writes",
]

_DIGITS = re.compile(r"\d+")
_NAMES_MAX = 6
"""Waiters of a pool that are named; further ones are counted."""
_LOG_LINES = 3
"""Lines of the kernel log that an error of the storage is explained with."""
_TOLD_ELSEWHERE = ("Out of memory: ", "page allocation failure ", "INFO: task ")
_DROPS_TOLD = ("PFMemallocDrop", "TCPBacklogDrop", "TCPOFODrop", "TCPRcvQDrop", "UdpRcvbufErrors", "rx_missed_errors")
_STACK_END = ("kswapd", "worker_thread", "kthreadd", "recv_work", "rescuer_thread")


def judge(
    host: Host,
    programs: list[Program],
    *,
    hang: Verdict | None,
    standstill_ns: int,
    stall_ns: int,
    nr_hung_tasks: int = 0,
    dropping_ns: int = 0,
) -> Verdict:
    """Return the verdict of a run that was not cut short; ``hang`` is what kind of hang ended it, if one did.

    ``nr_hung_tasks`` is how often khungtaskd had a sleep of a program to report, ``dropping_ns`` for how long at a time
    packets of ordinary sockets were dropped as reserve packets while memory was plentiful.
    """
    cache = host.files.cache
    if host.swap.corrupt or cache.corrupt:
        return "CORRUPT"
    if hang is not None:
        return hang
    if host.oom.kills or host.oom.panicked:
        return "OOM"
    if has_io_errors(host, programs):
        return "IO_ERROR"
    if lost_writes(host):
        return "LOST_WRITE"
    if dropping_ns >= stall_ns:
        return "DROP_FOREVER"
    return "STALL" if standstill_ns >= stall_ns or nr_hung_tasks else "COMPLETED"


def has_io_errors(host: Host, programs: list[Program]) -> bool:
    """Whether anything could not be read or written, or a program was told so."""
    swap, cache = host.swap, host.files.cache
    if swap.read_errors or swap.write_errors or cache.read_errors or cache.write_errors:
        return True
    return any(program.bus_error or program.io_errno for program in programs)


def hang_kind(host: Host) -> Verdict:
    """Return what kind of hang a host is in as it stands, its tasks still where they are stuck."""
    stuck = [task for task in host.world.tasks.values() if _is_stuck(task)]
    if any(task.spins_at for task in stuck):
        return "LIVELOCK"
    throttled = set(host.vmscan.pfmemalloc_wait.waiters)
    waiting = [task for task in stuck if task.state is TaskState.SLEEPING]
    if throttled and not host.ledger.reserve_used and all(task in throttled for task in waiting):
        return "OVER_THROTTLE"
    plenty = all(zone.nr_free > zone.high_wmark_pages() for zone in host.node.zones)
    if plenty and host.netstat["PFMemallocDrop"]:
        return "DROP_FOREVER"
    return "HANG"


def lost_writes(host: Host) -> list[str]:
    """Return what the storage holds that is not the newest acknowledged version.

    Of a swap area with failed writes nothing can be said: a batch that failed may be there in part, and its pages are
    still dirty.
    """
    lost_files = [line for fs in host.files.cache.filesystems for line in fs.lost_writes()]
    swap = host.swap
    if swap.read_errors or swap.write_errors or swap.nr_write_refused:
        return lost_files
    stored = host.backend.stored()
    nr = min(len(stored), len(swap.stored_version))
    wrong = [slot for slot in range(nr) if swap.stored_version[slot] != stored[slot]] if nr < 4096 else None
    if wrong is None:
        wrong = (swap.stored_version[:nr] != stored[:nr]).nonzero()[0].tolist()
    in_flight = {slot for rq in swap.io.outstanding.values() if rq.write for slot in range(rq.slot, rq.end_slot)}
    return lost_files + [
        f"slot {slot}: the storage holds version {int(stored[slot])}, acknowledged was {int(swap.stored_version[slot])}"
        for slot in wrong
        if slot not in in_flight
    ]


# -- a hang ---------------------------------------------------------------------------------------------------------


def explain_hang(host: Host, programs: list[Program], *, proved: bool, timeout_s: int) -> list[str]:
    """Say why nothing moves any more: the machine's figures, each stuck task, and the shortest chain of the knot.

    ``timeout_s`` is after how long a standstill that is not ``proved`` was reported.
    """
    how = (
        "proved: only retries are left and they change nothing"
        if proved
        else f"reported: nothing got done for {timeout_s} s"
    )
    lines = [f"hung at {host.world.now_ns / NS_PER_S:.3f} s ({how})"]
    tasks = [task for task in host.world.tasks.values() if _is_stuck(task)]
    lines += _as_it_stands(host, tasks)
    knot = find_knot(tasks)
    chain = _chain(knot, programs)
    # without a knot it is what is on its way that never arrives
    lines += [f"the knot: {chain}"] if chain else _awaited_lines(host, tasks)
    return lines + _server_lines(knot)


def explain_standstill(host: Host, programs: list[Program], *, since_ns: int) -> list[str]:
    """Say who waits for what while nothing gets done since ``since_ns``, as of a hang; it need not be a knot."""
    now_ns = host.world.now_ns
    lines = [f"at {now_ns / NS_PER_S:.3f} s, {(now_ns - since_ns) / NS_PER_S:.3f} s into it:"]
    tasks = [task for task in host.world.tasks.values() if _is_stuck(task)]
    lines += _as_it_stands(host, tasks)
    lines += _awaited_lines(host, tasks)
    knot = find_knot(tasks)
    chain = _chain(knot, programs)
    if chain:
        lines.append(f"the wait: {chain}")
    return lines + _server_lines(knot)


def _awaited_lines(host: Host, tasks: list[Task]) -> list[str]:
    awaited = (_awaited(task) for task in tasks if task not in host.swap.io.pool.waiters)
    return [f"under way: {names}" for names in dict.fromkeys(awaited) if names]


def _awaited(task: Task) -> str:
    """Name what is under way that would end a wait, which may be all right, but slow or lost; empty if nothing is."""
    found = task.resource.providers() if task.resource.providers is not None else ()
    names = [one.name for one in found if isinstance(one, Provider)]
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else "".join(names)


def _as_it_stands(host: Host, tasks: list[Task]) -> list[str]:
    return [
        *_memory_lines(host),
        *_task_lines(sorted(tasks, key=lambda task: task.number)),
        *_why_lines(host, tasks),
    ]


def _chain(knot: Knot, programs: list[Program]) -> str:
    """Return the shortest chain of a knot, from a program if one is in it; empty if no task is."""
    start = _start_of_chain(knot, programs)
    return "" if start is None else " -> ".join(_node_name(node) for node in shortest_chain(knot, start))


_IO_FLUSHER: Final = {"iscsid": "io_flusher_iscsid"}
"""The switch of a daemon that is part of the storage, where it has one of its own."""


def _server_lines(knot: Knot) -> list[str]:
    """Name the processes that requests need, and that reclaim into the very device."""
    needed = dict.fromkeys(need for node, needs in knot.edges.items() if isinstance(node, Provider) for need in needs)
    return [
        f"{task.comm}-{task.pid} is needed for what it waits for: it reclaims with __GFP_IO and __GFP_FS, as it has "
        f"not called prctl(PR_SET_IO_FLUSHER); kernel.fixes.{_IO_FLUSHER.get(task.comm, 'io_flusher_servers')} is a "
        "daemon that has"
        for task in needed
        if isinstance(task, Task)
        and not task.flags & (PF_KTHREAD | PF_MEMALLOC_NOIO)
        and "try_to_free_pages" in task.stack()
    ]


def explain_hung_task(task: Task, since_ns: int, timeout_s: int) -> list[str]:
    """Say what khungtaskd says of a task that has slept in state D for so long, and where those are it waits for."""
    since = f"blocked for more than {timeout_s} seconds, since {since_ns / NS_PER_S:.3f} s"
    lines = [f"INFO: task {task.comm}:{task.pid} {since}: {_place(task)}"]
    providers = task.resource.providers() if task.resource.providers is not None else ()
    lines += [f"... held by {one.comm}-{one.pid} {_place(one)}" for one in providers if isinstance(one, Task)][:3]
    return lines


def _is_stuck(task: Task) -> bool:
    """Whether a task waits for something that the machine itself must provide."""
    if task.spins_at:
        return True
    return task.state is TaskState.SLEEPING and task.resource is not NOT_WAITING and not task.resource.external


def _memory_lines(host: Host) -> list[str]:
    """The figures that a sysrq memory dump would show."""
    vmstat = host.vmstat
    nr_pages = host.lruvec.nr_pages
    counts = (
        f"writeback:{vmstat.nr_writeback} isolated_anon:{vmstat.nr_isolated_anon} inactive_anon:{nr_pages(0)} "
        f"active_anon:{nr_pages(1)} swapcached:{vmstat.nr_swapcached} "
        f"swap free:{host.swap.nr_free_slots()} of {host.swap.nr_total_slots()} pages"
    )
    lines = [counts]
    lines += [_zone_line(zone) for zone in host.node.zones]
    if host.pages.memcg is not None:
        lines += [
            f"memory group {group.name}: {group.usage_pages} of {group.limit_pages} pages, max {group.nr_max}, oom "
            f"{group.nr_oom}"
            for group in host.pages.memcg.groups
        ]
    reserve = host.ledger.reserve_table()
    if reserve:
        held = ", ".join(f"{name} {n}" for name, n in sorted(reserve.items(), key=lambda item: -item[1]))
        lines.append(f"reserve pages in use: {host.ledger.reserve_used} ({held})")
    return lines


def _zone_line(zone: Zone) -> str:
    marks = "/".join(str(zone.wmark_pages(i)) for i in range(3))
    boost = f", boost {zone.watermark_boost} in them" if zone.watermark_boost else ""
    line = f"{zone.name} free:{zone.nr_free} min/low/high:{marks}{boost} free_pcp:{sum(p.count for p in zone.pcp)}"
    if zone.nr_reserved_highatomic:
        line += f" reserved_highatomic:{zone.nr_reserved_highatomic} (free in them: {zone.nr_highatomic_free})"
    return line


def _task_lines(tasks: list[Task]) -> list[str]:
    """Return a line for each place where tasks are stuck; those of one program in one place share it."""
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        groups.setdefault((_DIGITS.sub("", task.comm), _DIGITS.sub("", _place(task))), []).append(task)
    lines = []
    for first, *others in groups.values():
        names = f"{first.comm}-{first.pid}"
        if others:
            names += f" and {len(others)} more ({', '.join(f'{task.comm}-{task.pid}' for task in others[:3])}"
            names += ", ...)" if len(others) > 3 else ")"
        lines.append(f"{names} {_place(first)}")
    return lines


def _place(task: Task) -> str:
    """Say what a task waits for, and in which functions."""
    state = "R, spinning" if task.spins_at else "D"
    stack = [name for name in task.stack() if not name.startswith("_")]
    for end in _STACK_END:
        if end in stack:
            stack = stack[stack.index(end) :]
            break
    where = " < ".join(reversed(stack[-9:]))
    waits = task.spins_at or task.resource.name
    return f"({state}) waits for {waits} in {where}"


def _why_lines(host: Host, tasks: list[Task]) -> list[str]:
    """Say which mechanism is at work, from the figures."""
    lines = []
    zone = host.node.zones[-1]
    pool = host.swap.io.pool
    if pool.waiters:
        names = ", ".join(f"{task.comm}-{task.pid}" for task in list(pool.waiters)[:_NAMES_MAX])
        if len(pool.waiters) > _NAMES_MAX:
            names += f" and {len(pool.waiters) - _NAMES_MAX} more"
        lines.append(
            f"{pool.name}: {pool.nr_out} in flight for {host.vmstat.nr_writeback} pages under writeback, pool "
            f"{len(pool.elements)} of {pool.min_nr}; waiting: {names}. Its slab cannot grow: mempool masks carry "
            f"__GFP_NOMEMALLOC, so they need free {zone.nr_free} > min {zone.min_wmark_pages()}"
            f"{_boost_note(zone)}{_highatomic_note(zone)}"
        )
        lines += _request_lines(next(iter(pool.waiters)).resource)
    for task in tasks:
        stack = task.stack()
        if task.spins_at and "skb_page_frag_refill" in stack:
            lines.append(
                f"{task.comm}-{task.pid} sends a page out and needs one to do it: GFP_NOIO without __GFP_MEMALLOC "
                "enters direct reclaim, where no anonymous page may be written (no __GFP_IO), finds nothing, and "
                "retries; without __GFP_FS nobody is OOM-killed"
            )
        if "sk_stream_wait_memory" in stack:
            lines.append(_sender_line(host, task, zone))
    if any("throttle_direct_reclaim" in task.stack() for task in tasks):
        lines.append(_throttle_line(host))
    if any("balance_dirty_pages" in task.stack() for task in tasks):
        lines.append(_dirt_line(host))
    if host.nic is not None and host.nic.is_stuck:
        lines.append(f"replies cannot be received on {host.nic.name}: {host.nic.stuck_on}")
    for (comm, order, gfp), count in sorted(host.pages.failures.items()):
        lines.append(f"page allocation failure {count} times: {comm} order:{order} mode:{gfp:#x}({gfp_name(gfp)})")
    lines += [f"{name} dropped {count}" for name, count in host.netstat.as_dict().items() if name in _DROPS_TOLD]
    return lines


def _throttle_line(host: Host) -> str:
    """What reclaimers are held back by, zone by zone, and what kswapd thinks of it."""
    vmscan = host.vmscan
    counted = vmscan.zones_with_reserve()
    free = sum(zone.nr_free for zone in counted)
    reserve = sum(zone.min_wmark_pages() for zone in counted)
    line = f"reclaimers are throttled: free {free} must be above half of min {reserve}"
    if len(host.node.zones) > 1:
        line += f", of {' and '.join(zone.name for zone in counted)}"
        passed = [zone.name for zone in host.node.zones if zone.index <= ZONE_NORMAL and zone not in counted]
        if passed:
            line += f" (none of {' and '.join(passed)} can be reclaimed)"
    balanced = [zone.name for zone in host.node.zones if vmscan.pgdat_balanced(0, highest=zone.index)]
    return line + (f"; to kswapd the node is balanced, by {balanced[0]}" if balanced else "")


def _dirt_line(host: Host) -> str:
    """The figures that writers are held back by, in pages: everybody's, then each device's."""
    throttle = host.files.throttle
    look = throttle.limits()
    devices = "; ".join(f"{wb.name} {wb.nr_reclaimable} and {wb.nr_writeback}" for wb in throttle.devices)
    return (
        f"writers are held back: {look.nr_dirty} pages are dirty and {look.dirty - look.nr_dirty} under writeback, "
        f"limit {look.thresh}, background {look.bg_thresh}; of {devices}"
    )


def _request_lines(resource: Resource) -> list[str]:
    """Say how far the first of the requests is that a pool's waiters wait for."""
    providers = resource.providers() if resource.providers is not None else ()
    requests = [provider for provider in providers if isinstance(provider, Provider)]
    if not requests:
        return []
    return [f"the first of {len(requests)} requests under way: {requests[0].name}"]


def _boost_note(zone: Zone) -> str:
    return f" ({zone.watermark[0]} + boost {zone.watermark_boost})" if zone.watermark_boost else ""


def _highatomic_note(zone: Zone) -> str:
    if not zone.nr_reserved_highatomic:
        return ""
    return f", and {zone.nr_reserved_highatomic} reserved HIGHATOMIC pages do not count"


def _sender_line(host: Host, task: Task, zone: Zone) -> str:
    line = f"{task.comm}-{task.pid} "
    sockets = (sock for sock in host.stack.sockets if isinstance(sock, TcpSock))
    sock = next((sock for sock in sockets if sock.send_memory is task.resource), None)
    if sock is not None and sock.short_of == "room":
        queued = f"{sock.mem.wmem_queued} bytes are in its send buffer of {sock.mem.sndbuf}"
        return f"{line}sleeps in sk_stream_wait_memory: {queued}, and the other end acknowledges nothing"
    if sock is not None and sock.short_of == "tcp_mem":
        pages = f"{sock.mem.proto.allocated} pages of {sock.mem.proto.high}"
        return f"{line}sleeps in sk_stream_wait_memory: tcp_mem gives its socket no more; all sockets have {pages}"
    line += "found no page for a packet and sleeps in sk_stream_wait_memory"
    if zone.nr_highatomic_free and zone.nr_highatomic_free >= zone.nr_free - 32:
        line += (
            f": all {zone.nr_free} free pages lie in HIGHATOMIC pageblocks, which a blocking __GFP_MEMALLOC request "
            "may not take"
        )
    elif not zone.nr_free:
        line += ": no page is free"
    return line


def _start_of_chain(knot: Knot, programs: list[Program]) -> Task | None:
    mine = [program.task for program in programs if program.task in knot.tasks]
    if mine:
        return mine[0]
    return knot.tasks[0] if knot.tasks else None


def _node_name(node: Task | Resource | Provider) -> str:
    if isinstance(node, Task):
        return f"{node.comm}-{node.pid}"
    return f"[{node.name}]" if isinstance(node, Resource) else node.name


# -- an OOM kill ----------------------------------------------------------------------------------------------------


def explain_oom(host: Host) -> list[str]:
    """Say who was killed for whose request, and whether it was early: swap free or writeback under way.

    With a swap device that fails what it is given, it was not: what it has free is of no use.
    """
    lines = []
    for kill in host.oom.kills:
        early = ""
        if kill.swap_write_errors:
            early = f" Swap failed: {kill.swap_write_errors} times a page could not be written"
        elif kill.free_swap_pages > 0 or kill.pages_under_writeback:
            early = (
                f" EARLY: swap had {kill.free_swap_pages} pages free and {kill.pages_under_writeback} pages were under "
                "writeback"
            )
        group = f" memory group {kill.memcg} at {kill.memcg_pages} pages," if kill.memcg else ""
        lines.append(
            f"at {kill.time_ns / NS_PER_S:.3f} s {kill.invoked_by} invoked oom-killer:{group} order={kill.order}, "
            f"gfp_mask={kill.gfp:#x}({gfp_name(kill.gfp)}), free {kill.free_pages} pages; killed {kill.victim} "
            f"(anon-rss {kill.anon_rss_pages * 4} kB, swap {kill.swap_pages * 4} kB).{early}"
        )
    if host.oom.panicked:
        lines += [line for line in host.log_lines if host.oom.panicked in line]
    return lines


# -- what is left of the reserve --------------------------------------------------------------------------------------


def explain_reserve(reserve: ReserveReport, owners: Sequence[str]) -> str:
    """Say how many pages that were drawn from below min ``owners`` hold at the end."""
    held = {name: reserve.still_by_owner.get(name, 0) for name in owners}
    told = ", ".join(f"{name} {nr}" for name, nr in held.items())
    return f"reserve pages held at the end: {sum(held.values())}, with {reserve.pages} below min ({told})"


# -- errors of the storage ------------------------------------------------------------------------------------------


def explain_io_error(host: Host, programs: list[Program]) -> list[str]:
    """Say what could not be written or read, who died of it, and what the kernel log has last."""
    swap, cache = host.swap, host.files.cache
    failed = (("swap", swap.write_errors, swap.read_errors), ("files", cache.write_errors, cache.read_errors))
    lines = [
        f"{where}: writes of {nr_written} pages failed, and reads of {nr_read}"
        for where, nr_written, nr_read in failed
        if nr_written or nr_read
    ]
    lines += [f"{program.name} was killed by SIGBUS" for program in programs if program.bus_error]
    log = [line for line in host.log_lines if not any(told in line for told in _TOLD_ELSEWHERE)]
    return lines + [f"kernel log: {line}" for line in log[-_LOG_LINES:]]
