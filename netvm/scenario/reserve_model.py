"""The abstract machine: frames, a reserve, and the shortest loop in which cleaning memory needs memory.

Small enough to reason about on paper (``docs/reserve.md`` does), and run on the same zones, allocator, ledger, tasks
and wait queues as every other scenario. Of N frames R are the *reserve*: an ordinary request leaves them free (all
three marks of the one zone stand at R). Around it:

- a *user* takes one frame after another for ever, each dirty at once, and waits when none is left above the reserve;
- W *writers*: each takes one dirty frame, then one frame to send it, holds both until the acknowledgement has been
  received, and frees both;
- one *receiver* takes one frame for each acknowledgement and gives it back at once;
- up to B *bystander* frames that the receiver must take at any time. With ``drop`` such a frame is given back at once;
  without it stays parked until its *reader*, who must make an ordinary allocation first, has run.

With ``priority`` the writers' sends and all receiving may use the reserve (they allocate with ``__GFP_MEMALLOC``);
without, they are ordinary requests like the user's.

Each actor's step is atomic: one allocation, or one release. Everything happens at time 0, and which actor steps next
is the schedule's choice. Progress is the user getting a frame. A state from which no schedule leads to progress is
*stuck*: a HANG if nothing can step in it, a LIVELOCK if something can.
"""

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from netvm.fixes import preset
from netvm.mm.buddy import Buddy
from netvm.mm.frames import Frames
from netvm.mm.gfp import GFP_MEMALLOC, GFP_NOMEMALLOC, GFP_NOWARN
from netvm.mm.ledger import FREE, Ledger
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.zone import UNMOVABLE, Node, PerCpuPages, Zone
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.scenario.schema import Abstract
from netvm.trace.vmstat import VmStat

if TYPE_CHECKING:
    from netvm.mm.ports import LogPort

__all__ = ["ReserveMachine"]

ORDINARY: Final = GFP_NOMEMALLOC | GFP_NOWARN
PRIVILEGED: Final = GFP_MEMALLOC | GFP_NOWARN
_FIXES: Final = preset("6.18")
_COSTS: Final = CpuCosts()

IDLE: Final = 0
TAKEN: Final = 1
SENT: Final = 2
ACKED: Final = 3
"""Stages of a writer: without work, with a dirty frame, waiting for the acknowledgement, with it."""


class _Writer:
    """One writer and what it holds."""

    __slots__ = ("page", "reply", "skb", "stage", "task")

    def __init__(self, reply: WaitQueue) -> None:
        self.page = -1
        self.skb = -1
        self.stage = IDLE
        self.reply = reply
        self.task: Task | None = None


class ReserveMachine:
    """The frames and the actors."""

    def __init__(self, world: World, options: Abstract, *, log: "LogPort") -> None:
        self.world = world
        self.options = options
        self.frames = Frames(1 + options.frames)
        self.ledger = Ledger()
        self.vmstat = VmStat()
        self.zone = self._zone()
        self.node = Node([self.zone])
        self._owners = {name: self.ledger.owner(name) for name in ("dirty", "skb:send", "skb:receive", "reader")}
        softirq = Task(world=world, number=0, comm="swapper/0", pid=0, cpus=None, flags=0, nice=0)
        buddy = Buddy(self.frames, self.ledger, self.vmstat, _FIXES, boost_factor=0)
        for pfn in range(1, 1 + options.frames):
            self.ledger.counts[FREE] += 1
            buddy.free_one_page(self.zone, pfn, 0, UNMOVABLE)
        self.pages = PageAllocator(
            world,
            frames=self.frames,
            node=self.node,
            ledger=self.ledger,
            buddy=buddy,
            vmstat=self.vmstat,
            fixes=_FIXES,
            costs=_COSTS,
            softirq=softirq,
            log=log,
        )
        self._privileged = PRIVILEGED if options.priority else ORDINARY
        memory = Resource("memory", "a frame above the reserve", self._memory_providers)
        self._above_reserve = WaitQueue(world, memory)
        reserve = Resource("memory", "a frame of the reserve", self._memory_providers)
        self._any_frame = WaitQueue(world, reserve) if options.priority else self._above_reserve
        self._dirty: deque[int] = deque()
        self._work = WaitQueue(world, Resource("work", "a dirty frame", lambda: [self.user] if self.user else []))
        self.writers = [_Writer(WaitQueue(world, self._reply_resource())) for _ in range(options.writebacks)]
        self._acks: deque[_Writer] = deque()
        self._arrived = WaitQueue(world, Resource("reply", "an acknowledgement", external=True))
        self.parked: deque[int] = deque()
        self._readable = WaitQueue(world, Resource("work", "a bystander's datagram", external=True))
        self._room = WaitQueue(world, Resource("work", "the reader of the bystanders", self._readers))
        self.user: Task | None = None
        self.actors: list[Task] = []
        self._writer_of: dict[int, _Writer] = {}
        self.nr_frames_got = 0
        """Frames that the user has got: the machine's progress."""
        self.dropped = False

    def _zone(self) -> Zone:
        frames = self.options.frames
        zone = Zone(name="DMA32", start_pfn=1, present=frames, managed=frames, pageblock_order=9, fixes=_FIXES)
        zone.watermark = [self.options.reserve] * 3
        # what is asked for here is kernel memory: no request has to fall back to another type's list
        zone.pageblocks[:] = bytes([UNMOVABLE]) * len(zone.pageblocks)
        # per-cpu lists of no length: a frame that is freed is free
        zone.pcp = [PerCpuPages(1, 0)]
        return zone

    def _reply_resource(self) -> Resource:
        def providers() -> list[Task | Provider]:
            return [Provider(name="the receiver", needs=(self._any_frame.resource,))]

        return Resource("reply", "the acknowledgement", providers)

    def _memory_providers(self) -> list[Task | Provider]:
        """Who could free a frame: writers that have work, and the reader."""
        busy: list[Task | Provider] = [w.task for w in self.writers if w.task is not None and w.stage != IDLE]
        return busy + (self._readers() if self.parked else [])

    def _readers(self) -> list[Task | Provider]:
        return [task for task in self.actors if task.comm == "reader"]

    # -- frames ---------------------------------------------------------------------------------------------------

    def _take(self, task: Task, gfp: int, owner: str) -> int:
        return self.pages.try_alloc_pages(task, 0, gfp, self._owners[owner])

    def _give_back(self, *pfns: int) -> None:
        for pfn in pfns:
            self.pages.free_pages(pfn, 0)
        self._any_frame.wake_all()
        if self._is_had(ORDINARY):
            self._above_reserve.wake_all()

    # -- actors ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every actor."""
        spawn, options = self.world.spawn, self.options
        self.user = spawn("user", self._user)
        self.actors = [self.user]
        for index, writer in enumerate(self.writers):
            writer.task = spawn(f"writer/{index}", self._write, writer)
            self.actors.append(writer.task)
            self._writer_of[writer.task.number] = writer
        if self.writers:
            self.actors.append(spawn("rx/ack", self._receive_acks))
        if options.bystanders:
            self.actors.append(spawn("rx/bystander", self._receive_bystanders))
            if not options.drop:
                self.actors.append(spawn("reader", self._read))

    async def _user(self, task: Task) -> None:
        while True:
            pfn = self._take(task, ORDINARY, "dirty")
            if pfn < 0:
                await self._above_reserve.wait(task)
                continue
            self.nr_frames_got += 1
            self._dirty.append(pfn)
            self._work.wake_one()
            await self.world.yield_cpu(task)

    async def _write(self, task: Task, writer: _Writer) -> None:
        while True:
            while not self._dirty:
                await self._work.wait(task)
            writer.page = self._dirty.popleft()
            writer.stage = TAKEN
            await self.world.yield_cpu(task)
            while (skb := self._take(task, self._privileged, "skb:send")) < 0:
                await self._any_frame.wait(task)
            writer.skb = skb
            writer.stage = SENT
            self._acks.append(writer)
            self._arrived.wake_one()
            await writer.reply.wait(task)
            writer.stage = IDLE
            self._give_back(writer.skb, writer.page)
            await self.world.yield_cpu(task)

    async def _receive_acks(self, task: Task) -> None:
        while True:
            while not self._acks:
                await self._arrived.wait(task)
            skb = self._take(task, self._privileged, "skb:receive")
            if skb < 0:
                await self._any_frame.wait(task)
                continue
            writer = self._acks.popleft()
            self._give_back(skb)
            writer.stage = ACKED
            writer.reply.wake_one()
            await self.world.yield_cpu(task)

    async def _receive_bystanders(self, task: Task) -> None:
        while True:
            while len(self.parked) == self.options.bystanders:
                await self._room.wait(task)
            skb = self._take(task, self._privileged, "skb:receive")
            if skb < 0:
                await self._any_frame.wait(task)
                continue
            if self.options.drop:
                self.dropped = True
                self._give_back(skb)
            else:
                self.parked.append(skb)
                self._readable.wake_one()
            await self.world.yield_cpu(task)

    async def _read(self, task: Task) -> None:
        while True:
            while not self.parked:
                await self._readable.wait(task)
            own = self._take(task, ORDINARY, "reader")
            if own < 0:
                await self._above_reserve.wait(task)
                continue
            self._give_back(own, self.parked.popleft())
            self._room.wake_one()
            await self.world.yield_cpu(task)

    # -- what state it is in --------------------------------------------------------------------------------------

    def fingerprint(self) -> tuple[int, ...]:
        """Return the state up to the names of frames and writers: equal states have equal futures.

        Who is asleep follows from the counts, but for actors that have been woken and would find nothing: their next
        step changes nothing, so it does not matter whether they have made it.
        """
        stages = [0, 0, 0, 0]
        for writer in self.writers:
            stages[writer.stage] += 1
        return (len(self._dirty), stages[TAKEN], stages[SENT], stages[ACKED], len(self.parked))

    def step_of(self, task: Task) -> Hashable:
        """Return what a runnable actor's next step does, equal for actors that differ in name only; None for nothing.

        A task without a frame to take goes to sleep, and a writer does what its stage says.
        """
        writer = self._writer_of.get(task.number)
        if writer is not None:
            if writer.stage == IDLE:
                return "take" if self._dirty else None
            if writer.stage == TAKEN:
                return "send" if self._is_had(self._privileged) else None
            return "release"
        if task is self.user:
            enabled = self._is_had(ORDINARY)
        elif task.comm == "reader":
            enabled = bool(self.parked) and self._is_had(ORDINARY)
        elif task.comm == "rx/ack":
            enabled = bool(self._acks) and self._is_had(self._privileged)
        else:
            enabled = len(self.parked) < self.options.bystanders and self._is_had(self._privileged)
        return task.comm if enabled else None

    def _is_had(self, gfp: int) -> bool:
        # the marks, not the options: a policy under test may have moved them
        return self.zone.nr_free > (self.zone.watermark[0] if gfp == ORDINARY else 0)
