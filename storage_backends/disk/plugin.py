"""Local hardware as a swap device (virtio-blk in the recorded control run).

The driver never sleeps: a request is handed to the disk model and completes by interrupt. It needs no memory on the
way.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from netvm.block.blk_mq import BLK_STS_OK, Request, RequestQueue, errno_to_blk_status
from netvm.host.backend import Backend, BackendContext
from netvm.runtime.task import Provider, Task
from netvm.units import MIB, NS_PER_US, PAGE_SIZE
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.wire import Blocks

__all__ = ["LocalDisk", "backend"]

INTERRUPT_NS = 10_000
"""Least time from submission to completion."""


class LocalDisk:
    """``/dev/vda``: driver and device in one."""

    blocking = False

    def __init__(self, context: BackendContext) -> None:
        options = context.options
        self.name = "vda"
        self.world = context.world
        self.softirq = context.stack.softirq
        self.costs = context.stack.costs
        self.queue: RequestQueue
        self.store = BlockStore(options.size_mib * MIB)
        self.disk = DiskModel(
            latency_ns=options.disk.latency_us * NS_PER_US + INTERRUPT_NS,
            bandwidth_bytes_per_s=options.disk.bandwidth_bytes_per_s,
            queue_depth=options.disk.queue_depth,
            in_order=options.disk.in_order,
        )

    @property
    def driver(self) -> "LocalDisk":
        """The disk drives itself."""
        return self

    def attach(self, queue: RequestQueue) -> None:
        """Take the queue whose requests are ours."""
        self.queue = queue

    async def start(self, task: Task) -> None:
        """There is nothing to bring up."""

    async def queue_rq(self, task: Task, rq: Request) -> int:  # noqa: ARG002  the driver's shape
        """Hand a request to the disk."""
        return self.queue_rq_nowait(rq)

    def queue_rq_nowait(self, rq: Request) -> int:
        """Hand a request to the disk."""
        due_ns = self.disk.submit(rq.nr_pages * PAGE_SIZE, self.world.now_ns)
        self.world.call_at(due_ns, self._interrupt, rq)
        return BLK_STS_OK

    def _interrupt(self, rq: Request) -> None:
        due_ns = self.disk.due_ns(self.world.now_ns)
        if due_ns > self.world.now_ns:
            self.world.call_at(due_ns, self._interrupt, rq)
            return
        error = self.store.refusal(rq.slot * PAGE_SIZE, rq.nr_pages * PAGE_SIZE, write=rq.write)
        if error:
            pass
        elif rq.write:
            self.store.write(rq.slot * PAGE_SIZE, Blocks.of(tuple(rq.versions)))
        else:
            rq.versions = list(self.store.read(rq.slot * PAGE_SIZE, rq.nr_pages * PAGE_SIZE).versions)
        self.softirq.charge_ns += self.costs.complete_request
        self.queue.end_request(rq, errno_to_blk_status(error), self.softirq)
        if self.softirq.cpus is not None:
            self.softirq.cpus.steal(self.softirq.charge_ns)
        self.softirq.charge_ns = 0

    def needs(self, rq: Request) -> Provider:
        """A request waits for the disk and nothing else."""
        return Provider(name=f"{self.name}: {rq}, at the disk")

    def stored(self) -> npt.NDArray[np.int64]:
        """Return the version the disk holds of each page."""
        return self.store.versions

    def reset_connection(self) -> None:
        """There is no connection."""

    def stall(self, until_ns: int) -> None:
        """Let the disk do nothing until then."""
        self.disk.stall(until_ns)

    def set_fault(self, errno: int) -> None:
        """Let the disk be full, or fail."""
        self.store.fault = errno

    def restart_server(self, until_ns: int) -> None:
        """There is no server: the disk is away for that long."""
        self.disk.stall(until_ns)

    def tasks(self) -> list[Task]:
        """No thread serves it."""
        return []

    def digest(self) -> tuple[Any, ...]:
        """Return nothing: the queue's own state says all."""
        return ()


def backend(context: BackendContext) -> Backend:
    """Make the backend (entry point ``netvm.storage_backends``: ``disk``)."""
    return LocalDisk(context)
