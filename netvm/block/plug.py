"""A task's plug: requests that it collects before it submits them.

Mirrors ``struct blk_plug`` (block/blk-core.c, blk-mq.c of 6.1) of a task that submits to one device. What merges into
the plug's last request needs no tag. The plug is flushed when its owner is through, and before its owner sleeps.
"""

from typing import TYPE_CHECKING

from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.block.blk_mq import Request, RequestQueue

__all__ = ["Plug"]


class Plug:
    """Requests a task collects before it submits them (``struct blk_plug``)."""

    __slots__ = ("queue", "requests", "task")

    def __init__(self, queue: "RequestQueue", task: Task) -> None:
        self.queue = queue
        self.task = task
        self.requests: list[Request] = []
        task.sleep_hooks = (*task.sleep_hooks, self.going_to_sleep)

    def going_to_sleep(self, _task: Task) -> None:
        """Submit before sleeping: somebody may wait for these requests (blk_flush_plug from schedule)."""
        if self.requests:
            self.flush(from_schedule=True)

    def flush(self, *, from_schedule: bool) -> None:
        """Submit what was collected."""
        requests, self.requests = self.requests, []
        if requests:
            self.queue.insert_requests(requests, async_run=from_schedule)

    def finish(self) -> None:
        """Submit the rest and end the plug (blk_finish_plug)."""
        self.flush(from_schedule=False)
        hooks = self.task.sleep_hooks
        if hooks[-1] == self.going_to_sleep:
            self.task.sleep_hooks = hooks[:-1]
        else:
            self.task.sleep_hooks = tuple(hook for hook in hooks if hook != self.going_to_sleep)
