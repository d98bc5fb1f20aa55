"""What the tests of every codec share, and those of every backend."""

import tomllib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import pytest

from netvm.block.blk_mq import Request
from netvm.host.boot import boot, start_threads
from netvm.host.machine import Host
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, GFP_NOWARN
from netvm.runtime.clock import run_virtual
from netvm.runtime.oracle import FifoOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.units import NS_PER_MS
from storage_backends.wire import Chunk, ChunkBuffer

Pull: TypeAlias = Callable[[ChunkBuffer], object]
CheckPull: TypeAlias = Callable[[Pull, bytes, object], None]


def pull_whole_bytewise_and_trailing(pull: Pull, wire: bytes, expected: object) -> None:
    """Pull one message that arrives whole, byte by byte, and with the beginning of the next."""
    whole = ChunkBuffer()
    whole.push(wire)
    assert pull(whole) == expected
    assert whole.size_bytes == 0

    bytewise = ChunkBuffer()
    for index in range(len(wire)):
        assert pull(bytewise) is None
        assert bytewise.size_bytes == index
        assert bytewise.bytes_missing > 0
        bytewise.push(wire[index : index + 1])
    assert pull(bytewise) == expected

    trailing = ChunkBuffer()
    trailing.push(wire + b"the next one")
    assert pull(trailing) == expected
    assert trailing.pull_bytes(12) == b"the next one"


@pytest.fixture(scope="session")
def check_pull() -> CheckPull:
    """Return the check every ``pull_x`` must pass."""
    return pull_whole_bytewise_and_trailing


def cut_stream(chunks: list[Chunk], cuts: list[int]) -> list[Chunk]:
    """Cut a stream as a transport might, at every multiple of each size in turn; payload stays by reference."""
    buffer = ChunkBuffer()
    for chunk in chunks:
        buffer.push(chunk)
    pieces: list[Chunk] = []
    while buffer.size_bytes:
        size = min(cuts[len(pieces) % len(cuts)], buffer.size_bytes)
        pieces.extend(buffer.pull(size) or [])
    return pieces


@pytest.fixture(scope="session")
def recut() -> Callable[[list[Chunk], list[int]], list[Chunk]]:
    """Return a transport that cuts a stream into pieces of the sizes given."""
    return cut_stream


class Device:
    """A small host whose swap device is driven by a test, without programs."""

    def __init__(self, text: str, overrides: Sequence[str] = ()) -> None:
        scenario = scenario_from(tomllib.loads(WORKLOAD + text), origin="test", overrides=overrides)
        self.world = World(seeds=Seeds(scenario.run.seed), oracle=FifoOracle())
        self.log: list[str] = []
        self.host: Host = boot(self.world, scenario, log=self.note)
        assert self.host.queue is not None
        self.queue = self.host.queue
        self.ended: list[tuple[Request, int]] = []
        """Requests that are done, and their status, in order."""
        self._next_number = 1
        self._wait = WaitQueue(self.world, Resource("work", "test", external=True))

    def note(self, event: str, **_facts: object) -> None:
        """Keep a line of the log."""
        self.log.append(event)

    def run(self, script: Callable[["Device", Task], Awaitable[None]]) -> "Device":
        """Boot, bring the device up, and run ``script(device, task)`` to its end."""

        async def main(task: Task) -> None:
            await self.host.backend.start(task)
            await script(self, task)
            self.world.stop()

        def begin() -> None:
            start_threads(self.host)
            self.world.spawn("test", main, cpus=self.host.cpus)

        run_virtual(lambda: self.world.run(begin))
        return self

    def submit(self, slot: int, versions: list[int] | None = None, *, nr_pages: int = 0) -> Request:
        """Give the queue a write of ``versions``, or a read of ``nr_pages``."""
        nr_pages = len(versions or ()) or nr_pages
        rq = Request(
            write=versions is not None,
            slot=slot,
            pfns=list(range(2000 + slot, 2000 + slot + nr_pages)),
            bios=[],
            versions=versions or [0] * nr_pages,
        )
        rq.number = self._next_number
        self._next_number += 1
        rq.end_io = self._end
        self.queue.sched_tags.nr_used += 1
        self.queue.insert_requests([rq], async_run=False)
        return rq

    def _end(self, rq: Request, error: int, _task: Task) -> None:
        self.ended.append((rq, error))
        self._wait.wake_all()

    async def until(self, task: Task, is_so: Callable[[], bool], *, within_ms: int = 10_000) -> bool:
        """Sleep until something is so, looking every millisecond; return whether it became so in time."""
        for _ in range(within_ms):
            if is_so():
                return True
            await self._wait.wait(task, timeout_ns=NS_PER_MS, kind=TimerKind.PROGRESS)
        return is_so()

    async def until_ended(self, task: Task, nr: int, *, within_ms: int = 10_000) -> list[int]:
        """Sleep until so many requests are done; return their statuses."""
        assert await self.until(task, lambda: len(self.ended) >= nr, within_ms=within_ms), self.ended
        return [error for _rq, error in self.ended]

    def drain(self) -> list[int]:
        """Take every page there is; return them."""
        pages = self.host.pages
        owner = self.host.ledger.owner("test")
        taken = []
        while (pfn := pages.try_alloc_pages(self.host.softirq, 0, GFP_ATOMIC | GFP_MEMALLOC | GFP_NOWARN, owner)) >= 0:
            taken.append(pfn)
        return taken

    def give_back(self, pfns: list[int]) -> None:
        """Free pages that were drained."""
        while pfns:
            self.host.pages.free_pages(pfns.pop(), 0)


WORKLOAD = """
workload = [{kind = "anon-hog", mib = 1}]
machine = {ram_mib = 32}
"""


@pytest.fixture(scope="session")
def device() -> type[Device]:
    """Return what boots a small host with one swap device for a test to drive."""
    return Device
