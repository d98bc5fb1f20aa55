"""The reclaim-order checker: learn from a calm run where cleaning memory would wait for memory.

lockdep's ``fs_reclaim`` warns of a lock that is held where memory is allocated and taken where memory is cleaned,
though nobody has ever waited. This does the same for what swap over a network is made of: daemons, workers, sockets,
rings, slots and pools. A calm run is watched: no traffic beside the storage's, from the moment the swap device is there
until some pages have been cleaned (or, where not even that goes well, until nothing has got done for a while):

- each *request for memory* at the door of its allocator (pages, packets, page fragments): who asks, in which function,
  with which mask and task flags; whether it is *backed*, i.e. its mask or its task opens the reserve, or a mempool
  stands behind it;
- each *wait*: who waits for which resource, and who could provide it.

Reclaim waits for the write of a dirty page; the write is done by kernel threads, softirqs and, for a local server, by
processes of this host: everybody who asked for memory and is no program of the workload. A request of theirs that is
not backed closes the cycle: memory -> the write of a dirty page -> who does it -> its request -> memory. If it may
sleep it would enter reclaim itself; if it may not it fails and is tried again, and each try needs a page that is not
there.

Only what the calm run has passed through is seen: paths of recovery (a lost connection, a new worker thread) are not.
Of the exhibits of swap over a network it sees A2, R1 and R4 so. Two more are *latent*: a calm run has what it needs
from stock, and the report says that the stock is not backed, which is no cycle until it is used up:

- heads of received packets come from slab pages taken in advance, and the next slab page is asked for with plain
  GFP_ATOMIC (R3); that is so in every kernel, so other exhibits' fixed arms have it too;
- the pages of the HIGHATOMIC pageblocks are as many as the reserve: all that is free may come to lie in blocks that a
  blocking request may not take from, whatever its privilege (R2).
"""

import re
import sys
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from netvm.errors import UsageError
from netvm.explore.driver import DirectWorld
from netvm.explore.oracles import SteeredOracle
from netvm.mm.gfp import GFP_DIRECT_RECLAIM, GFP_FS, GFP_IO, GFP_MEMALLOC, GFP_NOMEMALLOC, PF_MEMALLOC, gfp_name
from netvm.mm.page_alloc import PageAllocator
from netvm.net.skb import SkbAllocator
from netvm.runtime.task import Resource, Task
from netvm.scenario.run import Experiment
from netvm.scenario.schema import Scenario

__all__ = ["Cycle", "OrderReport", "check_order", "text_of"]

CALM_PAGES: Final = 256
"""Pages cleaned after which the calm run has shown the paths it will show."""
_STANDSTILL_STEPS: Final = 500
"""Steps without anything done after which the run is over: no calm run comes near."""
_STANDSTILL_S: Final = 2
_STACK_MAX: Final = 12
_BOTTOM: Final = frozenset({"_run_events", "_task_main"})
"""Where a stack ends: below an interrupt lies whoever it interrupted."""
_EACH: Final = re.compile(
    r" of \d+ pages at (?:slot )?\d+| \(min_nr \d+\)|(?<=<)rq\d+ | \d+\+\d+(?=>)| 0x[0-9a-f]{8}|, sent \d+ times"
)
"""What tells one wait of a kind from another."""
_SERVERS: Final = ("nbd-server", "iscsi_t", "nfsd")
"""Threads of a storage server on this host."""

_HEADS: Final = "napi_skb_cache_get"
_HIGHATOMIC: Final = "reserve_highatomic_pageblock"
_STOCKS: Final = {
    _HEADS: "heads of received packets come from slab pages taken in advance; {who} asks for the next",
    _HIGHATOMIC: "HIGHATOMIC pageblocks hold as many pages as the reserve; {who} may not take from them, asking",
}
"""What a calm run lives on."""

_HISTORY: Final = (
    ("_segment_skb", "software GSO takes its frames without the reserve", ""),
    (_HIGHATOMIC, "R2: the last free pages lie in HIGHATOMIC pageblocks", "highatomic_exact_cap"),
    (_HEADS, "R3: heads of received packets are plain GFP_ATOMIC", "rx_head_memalloc"),
    ("receive", "A2: the receive side has no reserve (LWN 129703, 2005)", "rx_memalloc"),
    ("server", "R4: the storage's server runs on the host it serves", "storage.place"),
    ("send", "R1: the storage's socket sends without the reserve (Gorman 2012)", "memalloc_sockets"),
)
"""Where in the path: the historic entry it resembles, and what cut it."""


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which memory waits for memory."""

    who: str
    """The thread or context that cleaning waits for."""
    request: str
    """The function that asks for memory."""
    gfp: str
    sleeps: bool
    """It may enter reclaim itself; else it fails and is tried again."""
    asked_in: list[str]
    """The code path of the request, innermost first."""
    cleaning: list[str]
    """The code path on which reclaim comes to depend on it."""
    cut_by: str
    """The gfp context that would cut the cycle."""
    resembles: str
    """The historic entry."""
    fix: str


class OrderReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of ``netvm order``; field by field the object of its JSON."""

    scenario: str
    pages_cleaned: int
    """Pages that the calm run cleaned: 0 means it has shown nothing."""
    nr_requests: int
    """Different requests for memory on the cleaning path."""
    nr_backed: int
    cycles: list[Cycle]
    latent: list[Cycle] = []
    """What was served from a stock that is not backed: a cycle when the stock is used up."""
    waits: list[str] = []
    """Waits between threads that the run has passed through: who, for what, provided by whom."""


@dataclass(slots=True)
class _Request:
    """One kind of request for memory."""

    who: str
    function: str
    gfp: int
    backed: bool
    stack: list[str]


class _Watch:
    """Listens at the doors of the allocators of one host."""

    def __init__(self, run: Experiment) -> None:
        self.run = run
        self.requests: dict[Hashable, _Request] = {}
        self.waits: dict[str, None] = {}
        names = "|".join(re.escape(program.name) for program in run.scenario.workload if program.name)
        self._process = re.compile(rf"\b({names or '(?!)'})\d+\b")
        """The name of one process of a program that has several."""
        self._inside: dict[int, int] = {}
        self.cleaning: list[str] = []
        host = run.host
        self._patch(host.pages, ("alloc_pages",), ("try_alloc_pages",), PageAllocator, 1)
        skbs = host.skbs
        self._patch(skbs, ("alloc_tx", "skb_page_frag_refill"), ("try_alloc_tx", "try_page_frag"), SkbAllocator, 0)
        self._patch(skbs, (), ("kmalloc_reserve",), SkbAllocator, 1)
        self.heads: _Request | None = None
        self._refill = skbs.has_napi_head
        skbs.has_napi_head = self._has_head  # type: ignore[method-assign]  # a listener, as at the other doors

    def note(self, task: Task, function: str, gfp: int) -> None:
        """Take note of a request at its outermost door."""
        if not self.run.programs:
            return
        host = self.run.host
        # what a softirq has from the task it interrupts it has by chance
        allowed = bool(gfp & GFP_MEMALLOC) if task is host.softirq else host.pages.gfp_pfmemalloc_allowed(task, gfp)
        stack = _stack()
        key = (self._who(task), function, gfp, allowed, *stack[:3])
        if key not in self.requests:
            backed = allowed or any(name.startswith("Mempool.") for name in stack)
            self.requests[key] = _Request(self._who(task), function, gfp, backed, stack)
        if task.flags & PF_MEMALLOC and not self.cleaning:
            self.cleaning = _stack()

    def _has_head(self, task: Task) -> bool:
        """Take note of what the next slab page for heads will be asked with: in a calm run there is always one."""
        gfp = self.run.host.skbs.rx_head_gfp()
        if self.run.programs and self.heads is None and not gfp & GFP_MEMALLOC:
            self.heads = _Request("softirq", _HEADS, gfp, False, _stack())
        return self._refill(task)

    def _who(self, task: Task) -> str:
        if task is self.run.host.softirq:
            return "softirq"
        return task.comm

    def _patch(self, thing: Any, sleeping: tuple[str, ...], atomic: tuple[str, ...], kind: type, gfp_at: int) -> None:
        """Put a listener before functions of one object; ``gfp_at`` is the mask's place among their arguments."""
        for name in sleeping:
            setattr(thing, name, self._sleeping(name, getattr(kind, name).__get__(thing), gfp_at))
        for name in atomic:
            setattr(thing, name, self._atomic(name, getattr(kind, name).__get__(thing), gfp_at))

    def _sleeping(
        self, name: str, function: Callable[..., Awaitable[Any]], gfp_at: int
    ) -> Callable[..., Awaitable[Any]]:
        async def listen(task: Task, *rest: Any, **named: Any) -> Any:
            if not self._enter(task):
                self.note(task, name, rest[gfp_at])
            try:
                return await function(task, *rest, **named)
            finally:
                self._leave(task)

        return listen

    def _atomic(self, name: str, function: Callable[..., Any], gfp_at: int) -> Callable[..., Any]:
        def listen(task: Task, *rest: Any, **named: Any) -> Any:
            if not self._enter(task):
                self.note(task, name, rest[gfp_at])
            try:
                return function(task, *rest, **named)
            finally:
                self._leave(task)

        return listen

    def _enter(self, task: Task) -> int:
        depth = self._inside.get(task.number, 0)
        self._inside[task.number] = depth + 1
        return depth

    def _leave(self, task: Task) -> None:
        self._inside[task.number] -= 1

    def waited(self, task: Task, resource: Resource) -> None:
        """Take note of a wait that a thread of the host may provide for."""
        if resource.external or resource.providers is None:
            return
        for provider in resource.providers():
            name = provider.comm if isinstance(provider, Task) else provider.name
            wait = f"{task.comm} waits for {resource.name}, provided by {name}"
            self.waits.setdefault(self._process.sub(r"\1", _EACH.sub("", wait)))


def _stack() -> list[str]:
    """Return the functions of the model that are running, innermost first, from the door outwards."""
    names: list[str] = []
    frame = sys._getframe(2)  # noqa: SLF001  documented, if not for every Python
    while frame.f_back is not None and len(names) < _STACK_MAX:
        if frame.f_code.co_name in _BOTTOM:
            break
        module = str(frame.f_globals.get("__name__", ""))
        inside = module.startswith(("netvm.", "storage_backends."))
        if inside and not module.startswith(("netvm.explore", "netvm.runtime")):
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return names


class _LearningWorld(DirectWorld):
    """A world that tells who waits for what."""

    watch: _Watch | None = None

    async def sleep_on(self, task: Task, resource: Resource, **options: Any) -> Any:
        """Sleep as ever, and tell it."""
        if self.watch is not None:
            self.watch.waited(task, resource)
        return await super().sleep_on(task, resource, **options)


def check_order(scenario: Scenario, name: str) -> OrderReport:
    """Watch a calm run of a scenario and report every cycle. Raises UsageError if it has no host."""
    if scenario.abstract is not None:
        raise UsageError(f"order: {name}: an abstract machine has no code paths; see docs/reserve.md")
    vm = msgspec.structs.replace(scenario.vm, hung_task_timeout_secs=_STANDSTILL_S)
    calm = msgspec.structs.replace(scenario, traffic=[], fault=[], vm=vm)
    run = Experiment(calm, name=name, oracle=SteeredOracle([]), make_world=_LearningWorld)
    watch = _Watch(run)
    world = run.world
    assert isinstance(world, _LearningWorld)
    world.watch = watch

    done, since = 0, 0

    def picking(_nr_candidates: int) -> None:
        nonlocal done, since
        if run.host.progress() != done:
            done, since = run.host.progress(), world.nr_steps
        stands_still = bool(run.programs) and world.nr_steps - since > _STANDSTILL_STEPS
        if stands_still or run.host.swap.nr_cleaned >= CALM_PAGES:
            world.stop()

    world.picking = picking
    world.run_directly(run.main)
    own = {program.name for program in run.programs} | {"swapon"}
    path = [request for request in watch.requests.values() if request.who not in own and _is_cleaning(request)]
    cycles = [_cycle(request, watch) for request in _unbacked(path)]
    latent = [_cycle(request, watch) for request in (watch.heads, _highatomic(run, path)) if request is not None]
    return OrderReport(
        scenario=name,
        pages_cleaned=run.host.swap.nr_cleaned,
        nr_requests=len(path),
        nr_backed=sum(request.backed for request in path),
        cycles=cycles,
        latent=latent,
        waits=list(watch.waits),
    )


def _highatomic(run: Experiment, path: list[_Request]) -> _Request | None:
    """Return a request that counts on the reserve and may not take it where HIGHATOMIC pageblocks hold as much."""
    for zone in run.host.node.zones:
        if zone.nr_reserved_highatomic < max(1, zone.min_wmark_pages()):
            continue
        for request in path:
            if request.backed and request.gfp & GFP_DIRECT_RECLAIM:
                stack = [_HIGHATOMIC, *request.stack]
                return _Request(request.who, request.function, request.gfp, False, stack)
    return None


def _bare(qualname: str) -> str:
    """Return a function's name without its class."""
    return qualname.rpartition(".")[2]


def _is_cleaning(request: _Request) -> bool:
    """Whether cleaning waits for this request: a new kernel thread is the rescuer's business."""
    return request.who != "kthreadd"


def _unbacked(requests: list[_Request]) -> list[_Request]:
    """Return one request for each place where no attempt is backed."""
    places: dict[tuple[str, str], list[_Request]] = {}
    for request in requests:
        places.setdefault((request.who.partition("/")[0], _place(request)), []).append(request)
    return [group[-1] for group in places.values() if not any(request.backed for request in group)]


def _place(request: _Request) -> str:
    """Return the function beyond the allocators that asks."""
    return next((name for name in map(_bare, request.stack) if name not in _DOORS), request.function)


_DOORS: Final = frozenset(
    {
        "alloc",
        "alloc_pages",
        "alloc_tx",
        "kmalloc_reserve",
        "listen",
        "mempool_alloc",
        "skb_page_frag_refill",
        "try_alloc",
        "try_alloc_pages",
        "try_alloc_tx",
        "try_page_frag",
    }
)


def _cycle(request: _Request, watch: _Watch) -> Cycle:
    where = _where(request)
    path = [where, *map(_bare, request.stack)]
    entry = next(((text, fix) for key, text, fix in _HISTORY if key in path), ("none known", ""))
    if not request.gfp & GFP_DIRECT_RECLAIM or where in ("receive", "send"):
        cut = "__GFP_MEMALLOC (a SOCK_MEMALLOC socket)"
    elif request.gfp & GFP_IO:
        cut = "PF_MEMALLOC_NOIO (memalloc_noio_save), and a mempool behind it"
    elif request.gfp & GFP_FS:
        cut = "PF_MEMALLOC_NOFS"
    else:
        cut = "PF_MEMALLOC (memalloc_noreclaim_save) or a mempool"
    return Cycle(
        who=request.who,
        request=_place(request),
        gfp=gfp_name(request.gfp & ~GFP_NOMEMALLOC),
        sleeps=bool(request.gfp & GFP_DIRECT_RECLAIM),
        asked_in=[_bare(name) for name in request.stack],
        cleaning=[_bare(name) for name in watch.cleaning],
        cut_by=cut,
        resembles=entry[0],
        fix=entry[1],
    )


def _where(request: _Request) -> str:
    if request.who.startswith(_SERVERS):
        return "server"
    if request.who == "softirq" and request.function != "try_alloc_tx":
        return "receive"
    return "send"


def text_of(report: OrderReport) -> str:
    """Return what a user reads."""
    lines = [
        f"{report.scenario}: {len(report.cycles)} cycles",
        f"  {report.nr_backed} of {report.nr_requests} kinds of requests for memory on the cleaning path are backed",
        f"  the calm run cleaned {report.pages_cleaned} pages",
    ]
    if not report.pages_cleaned:
        lines.append("  nothing was cleaned: the run shows the way to the first write at most")
    for number, cycle in enumerate(report.cycles, start=1):
        how = "would enter reclaim and wait" if cycle.sleeps else "fails and is tried again"
        lines += [
            f"  {number}. memory -> the write of a dirty page -> {cycle.who} -> {cycle.request} -> memory",
            f"     asks with {cycle.gfp}, not backed: it {how}",
            f"     asked in: {' < '.join(cycle.asked_in)}",
            f"     cleaning: {' < '.join(cycle.cleaning) or 'not seen'}",
            f"     cut by: {cycle.cut_by}" + (f"; switch {cycle.fix}" if cycle.fix else ""),
            f"     resembles {cycle.resembles}",
        ]
    for cycle in report.latent:
        lines += [
            f"  latent: {_STOCKS[cycle.request].format(who=cycle.who)} with {cycle.gfp}",
            f"     asked in: {' < '.join(cycle.asked_in)}",
            f"     resembles {cycle.resembles}; switch {cycle.fix}",
        ]
    lines += [f"  {wait}" for wait in report.waits]
    return "\n".join(lines)
