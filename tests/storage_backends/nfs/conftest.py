"""A small host with an NFS mount for tests to drive."""

import tomllib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from netvm.block.blk_mq import Request
from netvm.block.swap_file import FileSwapIo
from netvm.host.boot import boot, start_threads
from netvm.host.machine import Host
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, GFP_NOWARN
from netvm.runtime.clock import run_virtual
from netvm.runtime.oracle import FifoOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.units import NS_PER_MS
from storage_backends.nfs.plugin import NfsBackend

SCENARIO = """
workload = [{kind = "anon-hog", mib = 1}]
machine = {ram_mib = 32, costs = {scale = 0.0}}
storage = {kind = "nfs", size_mib = 16}
"""
PAUSE = Resource("timer", "the test pauses", external=True)


class Mounted:
    """A host whose swap file on NFS is driven by a test, without programs."""

    def __init__(self, *overrides: str, fixes: Sequence[str] = ()) -> None:
        switches = [f"kernel.fixes.{name}=false" for name in fixes]
        scenario = scenario_from(tomllib.loads(SCENARIO), origin="test", overrides=[*overrides, *switches])
        self.world = World(seeds=Seeds(1), oracle=FifoOracle())
        self.log: list[str] = []
        self.host: Host = boot(self.world, scenario, log=lambda event, **_facts: self.log.append(event))
        backend: Any = self.host.backend
        assert isinstance(backend, NfsBackend)
        self.backend = backend
        self.client = backend.client
        self.xprt = backend.client.xprt
        assert isinstance(self.host.swap.io, FileSwapIo)
        self.io = self.host.swap.io
        self.ended: list[tuple[Request, int]] = []
        self._numbers = 1000

    def run(self, script: Callable[[Task], Awaitable[None]]) -> "Mounted":
        """Boot, mount, and run ``script(task)`` to its end."""

        async def main(task: Task) -> None:
            await self.host.backend.start(task)
            await script(task)
            self.world.stop()

        def begin() -> None:
            start_threads(self.host)
            self.world.spawn("test", main, cpus=self.host.cpus)

        run_virtual(lambda: self.world.run(begin))
        return self

    async def pause(self, task: Task, ms: float) -> None:
        """Let virtual time pass."""
        await self.world.sleep_ns(task, int(ms * NS_PER_MS), PAUSE, kind=TimerKind.PROGRESS)

    async def swap_rw(self, task: Task, slot: int, versions: list[int] | None, nr_pages: int = 0) -> Request:
        """Give the file a batch of pages; how it ended is in ``ended``."""
        rq = Request(
            write=versions is not None,
            slot=slot,
            pfns=list(range(nr_pages or len(versions or ()))),
            bios=[],
            versions=list(versions or [0] * nr_pages),
        )
        self._numbers += 1
        rq.number = self._numbers
        error = await self.backend.driver.swap_rw(task, rq)
        if error:
            self.ended.append((rq, error))
        return rq

    def take_completions(self) -> None:
        """Have ended batches told to the test and not to the swap area."""
        self.io.complete = lambda rq, error, task: self.ended.append((rq, error))  # type: ignore[method-assign]

    async def until_ended(self, task: Task, nr: int, *, within_ms: int = 60_000) -> list[int]:
        """Sleep until so many batches have ended; return how."""
        for _ in range(within_ms):
            if len(self.ended) >= nr:
                break
            await self.pause(task, 1)
        assert len(self.ended) >= nr, (self.ended, self.xprt.digest())
        return [error for _, error in self.ended]

    def drain(self) -> list[int]:
        """Take every page there is; return them."""
        owner = self.host.ledger.owner("test")
        gfp = GFP_ATOMIC | GFP_MEMALLOC | GFP_NOWARN
        taken = []
        while (pfn := self.host.pages.try_alloc_pages(self.host.softirq, 0, gfp, owner)) >= 0:
            taken.append(pfn)
        return taken

    def give_back(self, pfns: list[int]) -> None:
        """Free pages that were drained."""
        while pfns:
            self.host.pages.free_pages(pfns.pop(), 0)


@pytest.fixture(scope="session")
def mounted() -> type[Mounted]:
    """Return what boots a small host with a swap file on NFS."""
    return Mounted
