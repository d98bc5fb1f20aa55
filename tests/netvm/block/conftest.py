"""The small host of the tests of ``mm``, for the rooms that stand on it."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from netvm.block.blk_mq import RequestQueue
from netvm.block.crypt import CRYPT_PAGE_POOL, CryptDevice
from netvm.block.dm import CRYPT_CLONE_CACHE, MappedDevice
from netvm.block.stacked import StackedDevice
from netvm.mm.slab import SlabCache
from netvm.runtime.task import Task

_spec = spec_from_file_location("mini_host", Path(__file__).parents[1] / "mm" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

make_host = _module.make_host
host = _module.host


def mapped(host: Any, device: CryptDevice) -> MappedDevice:
    """Make the mapped device that the small host's dm-crypt is the target of."""
    name, spec = CRYPT_CLONE_CACHE
    device.queue = MappedDevice(device, SlabCache(name, spec, host.pages), max_pages=CRYPT_PAGE_POOL)
    device.queue.fill(host.softirq)
    return device.queue


@pytest.fixture(scope="session")
def map_device() -> Callable[[Any, CryptDevice], MappedDevice]:
    """Return what makes dm-crypt's mapped device."""
    return mapped


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


async def submit_to(device: StackedDevice, task: Task, *, write: bool, slot: int, nr: int, opf: int = 0) -> list[Any]:
    """Send pages down, with ``opf`` in bios of one page; return the list that the ended requests go to."""
    ended: list[Any] = []
    queue: Any = device.queue
    plug = queue.start_plug(task)
    await queue.submit_pages(
        task,
        plug,
        write=write,
        slot=slot,
        pfns=list(range(slot, slot + nr)),
        bios=[0] * nr if opf else [],
        versions=list(range(1000 + slot, 1000 + slot + nr)) if write else [0] * nr,
        end_io=lambda rq, error, task: ended.append((rq.slot, rq.nr_pages, rq.versions, error)),
        opf=opf,
    )
    plug.finish()
    return ended


@pytest.fixture(scope="session")
def submit() -> Callable[..., Any]:
    """Return what sends pages down a stacked device."""
    return submit_to
