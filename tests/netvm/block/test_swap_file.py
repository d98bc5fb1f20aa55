"""Swapping to a file."""

from typing import Any

import pytest

from netvm.block.blk_mq import Request
from netvm.block.swap_file import SIO_POOL_SIZE, SWAP_CLUSTER_MAX, FileSwapIo, SwapFilePlug, SwapFileSystem
from netvm.mm.gfp import GFP_KERNEL, GFP_NOFS
from netvm.mm.scan_control import ScanControl
from netvm.runtime.task import Provider, Task


class Files:
    """A file system of versions: reads give what was written, when the test lets them."""

    name = "files"

    def __init__(self, io: FileSwapIo | None = None) -> None:
        self.io = io
        self.held: list[Request] = []
        self.errors: list[int] = []
        self.shapes: list[tuple[str, int, int]] = []
        self.content: dict[int, int] = {}
        self.hold = False

    async def swap_rw(self, task: Task, rq: Request) -> int:
        """Take a request, or refuse it with the next of the errors."""
        self.shapes.append(("W" if rq.write else "R", rq.slot, rq.nr_pages))
        if self.errors:
            return self.errors.pop(0)
        self.held.append(rq)
        if not self.hold:
            self.release(task)
        return 0

    def release(self, task: Task) -> None:
        """Complete what is held."""
        assert self.io is not None
        held, self.held = self.held, []
        for rq in held:
            for i, slot in enumerate(range(rq.slot, rq.end_slot)):
                if rq.write:
                    self.content[slot] = rq.versions[i]
                else:
                    rq.versions[i] = self.content.get(slot, 0)
            self.io.complete(rq, 0, task)

    def needs(self, rq: Request) -> Provider:
        """The test."""
        return Provider(name=f"files: {rq}", needs=())


@pytest.fixture
def made(make_host: Any) -> tuple[Any, Files]:
    """Return a host that swaps to a file, and its file system."""
    files = Files()
    host = make_host(swap_pages=1024, marks=(1, 2, 3), swap_file=files)
    files.io = host.swap.io
    return host, files


async def _scan(host: Any, task: Task, nr: int, gfp: int = GFP_KERNEL) -> SwapFilePlug:
    sc = ScanControl(gfp=gfp, order=0, priority=0)
    plug = host.swap.start_plug(task)
    await host.shrinker.shrink_inactive_list(task, host.lruvec, nr, sc, plug)
    plug.finish()
    return plug


def test_a_file_system_is_one_by_what_it_offers() -> None:
    """Whoever has ``swap_rw`` can be swapped to."""
    assert isinstance(Files(), SwapFileSystem)


def test_pages_that_follow_each_other_go_together(made: tuple[Any, Files]) -> None:
    """A list of pages is one batch of at most 32, sent at the end of the list although nobody slept."""
    host, files = made

    async def script(task: Task) -> None:
        await host.mapped(task, 40, young=False)
        await _scan(host, task, 32)
        await _scan(host, task, 8)

    host.run(script)
    assert [(shape[0], shape[2]) for shape in files.shapes] == [("W", SWAP_CLUSTER_MAX), ("W", 8)]
    assert files.shapes[1][1] == files.shapes[0][1] + SWAP_CLUSTER_MAX
    assert host.vmstat.nr_writeback == 0
    assert len(host.swap.io.pool.elements) == SIO_POOL_SIZE
    assert not host.swap.io.outstanding
    host.audit()


def test_reclaim_that_may_not_enter_the_file_system_writes_nothing(made: tuple[Any, Files]) -> None:
    """GFP_NOFS keeps the page: writing it enters NFS (may_enter_fs)."""
    host, files = made

    async def script(task: Task) -> None:
        await host.mapped(task, 8, young=False)
        await _scan(host, task, 8, GFP_NOFS)

    host.run(script)
    assert files.shapes == []
    host.audit()


def test_what_was_written_is_read_back(made: tuple[Any, Files]) -> None:
    """A fault reads a window of pages in one batch and finds the newest content."""
    host, files = made

    async def script(task: Task) -> None:
        space = await host.mapped(task, 16, young=False)
        await _scan(host, task, 16)
        await _scan(host, task, 16)
        assert await host.memory.touch_run(task, space, 0, 16, write=False)

    host.run(script)
    assert {shape[0] for shape in files.shapes} == {"W", "R"}
    assert max(shape[2] for shape in files.shapes if shape[0] == "R") > 1
    assert host.swap.corrupt == []
    host.audit()


def test_a_refused_batch_is_dirty_again(made: tuple[Any, Files]) -> None:
    """No memory for the file system's own requests: the pages stay, the log says so, and the next try succeeds."""
    host, files = made
    files.errors = [-12]

    async def script(task: Task) -> None:
        await host.mapped(task, 8, young=False)
        await _scan(host, task, 8)
        assert (host.swap.write_errors, host.swap.nr_write_refused) == (0, 8)
        assert host.vmstat.nr_writeback == 0
        await _scan(host, task, 8)

    host.run(script)
    assert len(files.content) == 8
    assert any("Write error -12 on dio swapfile" in event for event, _ in host.logged)
    host.audit()


def test_who_is_waited_for_is_told(made: tuple[Any, Files]) -> None:
    """A batch that is under way is the file system's to complete."""
    host, files = made
    files.hold = True

    async def script(task: Task) -> None:
        await host.mapped(task, 8, young=False)
        await _scan(host, task, 8)
        (rq,) = host.swap.io.outstanding.values()
        assert [p.name for p in host.swap.io.providers(rq.pfns[0])] == [f"files: {rq}"]
        assert host.swap.io.providers(0) == []
        files.release(task)

    host.run(script)
    host.audit()


def test_without_batches_a_page_is_written_alone_waited_for_and_freed(made: tuple[Any, Files]) -> None:
    """Before there were batches each page was written by itself, and reclaim freed it in the same pass."""
    host, files = made
    host.swap.io.batches = False
    host.swap.writes_synchronously = host.swap.io.writes_synchronously
    files.hold = True

    async def script(task: Task) -> None:
        space = await host.mapped(task, 6, young=False)
        for number in range(6):
            # nobody else writes: one write is under way at a time
            host.world.call_after(1_000_000 * (number + 1), files.release, task)
        await _scan(host, task, 6)
        assert [shape[2] for shape in files.shapes] == [1] * 6
        assert host.world.now_ns >= 6_000_000
        assert (host.vmstat.pgsteal_direct, host.vmstat.nr_swapcached, space.nr_swap) == (6, 0, 6)
        files.hold = False
        assert await host.memory.touch_run(task, space, 0, 6, write=False)

    host.run(script)
    assert max(shape[2] for shape in files.shapes) == 1
    assert len(host.swap.io.pool.elements) == SIO_POOL_SIZE
    assert host.swap.corrupt == []
    host.audit()
