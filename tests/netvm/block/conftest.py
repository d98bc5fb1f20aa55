"""The small host of the tests of ``mm``, for the rooms that stand on it."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from netvm.block.blk_mq import RequestQueue
from netvm.block.stacked import StackedDevice
from netvm.runtime.task import Task

_spec = spec_from_file_location("mini_host", Path(__file__).parents[1] / "mm" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

make_host = _module.make_host
host = _module.host


def queue_above(host: Any, device: StackedDevice) -> None:
    """Give a device that stands on the small host's device its own queue."""
    device.queue = RequestQueue(
        host.world,
        device.name,
        device,
        kblockd=host.kblockd,
        costs=host.costs,
        max_pages=host.queue.max_pages,
        nr_requests=256,
        queue_depth=256,
        wake_singly=True,
    )


@pytest.fixture(scope="session")
def put_above() -> Callable[[Any, StackedDevice], None]:
    """Return what gives a stacked device its queue."""
    return queue_above


async def submit_to(device: StackedDevice, task: Task, *, write: bool, slot: int, nr: int) -> list[Any]:
    """Send pages down; return the list that the ended requests go to."""
    ended: list[Any] = []
    plug = device.queue.start_plug(task)
    await device.queue.submit_pages(
        task,
        plug,
        write=write,
        slot=slot,
        pfns=list(range(slot, slot + nr)),
        bios=[],
        versions=list(range(1000 + slot, 1000 + slot + nr)) if write else [0] * nr,
        end_io=lambda rq, error, task: ended.append((rq.slot, rq.nr_pages, rq.versions, error)),
    )
    plug.finish()
    return ended


@pytest.fixture(scope="session")
def submit() -> Callable[..., Any]:
    """Return what sends pages down a stacked device."""
    return submit_to
