"""Storage backends: how a host finds the driver of its swap device.

A backend is a package that stands on netvm (``storage_backends.iscsi``, ``.nbd``, ``.disk``) and announces itself
under the entry point group ``netvm.storage_backends``. The host gives it a :class:`BackendContext` and gets a
:class:`Backend`; it knows nothing else about protocols.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from netvm.block.blk_mq import BlockDriver, RequestQueue
from netvm.block.swap_file import SwapFileSystem
from netvm.errors import UsageError
from netvm.fixes import Fixes
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.ports import LogPort
from netvm.mm.slab import SlabCaches
from netvm.mm.vmscan import Vmscan
from netvm.net.stack import NetStack
from netvm.net.wire import LinkDirection
from netvm.pagecache.block_fs import BlockFileSystem
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.flusher import Flusher
from netvm.pagecache.ports import FileSystem
from netvm.pagecache.readahead import FileReader
from netvm.pagecache.throttle import DirtyThrottle
from netvm.runtime.costs import CpuCosts
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Task
from netvm.runtime.workqueue import Workqueue
from netvm.runtime.world import World
from netvm.trace.recorder import Recorder

__all__ = [
    "Backend",
    "BackendContext",
    "DiskDriver",
    "FileBackend",
    "LinkPair",
    "MountContext",
    "TellingBackend",
    "TracedBackend",
    "load_backend",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPair:
    """Both ways of the wire to the storage server."""

    up: LinkDirection
    """From the host."""
    down: LinkDirection
    """To the host."""
    acks_every_frame: bool = False
    """The server acknowledges every frame by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendContext:
    """What a host offers a backend."""

    world: World
    stack: NetStack
    cpus: Cpus | None
    link: LinkPair | None
    """The wire to a server outside; None for a server on this host or local hardware."""
    options: Any
    """The ``[storage]`` table of the scenario (its attributes are the table's keys)."""
    slabs: SlabCaches
    unbound: Workqueue
    """A WQ_UNBOUND, WQ_MEM_RECLAIM queue for the driver's workers."""
    log: LogPort
    transmit_inherits_memalloc: bool = True


class Backend(Protocol):
    """A storage protocol or device, plugged in."""

    @property
    def driver(self) -> BlockDriver | SwapFileSystem:
        """What the request queue sends requests to; or, for a file, what writes and reads it."""
        ...

    def attach(self, queue: Any) -> None:
        """Be told whose requests the driver serves: a RequestQueue for a block driver, a FileSwapIo for a file's."""
        ...

    async def start(self, task: Task) -> None:
        """Bring the device up: start its threads, connect, negotiate. Raises UsageError if it cannot come up."""
        ...

    def stored(self) -> npt.NDArray[np.int64]:
        """Return the content version the device holds of each page; shape ``(nr_pages,)``."""
        ...

    def reset_connection(self) -> None:
        """Fault: the connection is closed once."""
        ...

    def stall(self, until_ns: int) -> None:
        """Fault: the server does nothing until then."""
        ...

    def set_fault(self, errno: int) -> None:
        """Fault: the server's disk is full (ENOSPC) or answers everything with an error (EIO); 0: it is well again."""
        ...

    def restart_server(self, until_ns: int) -> None:
        """Fault: the server loses its connections and what it had not written, and is back then."""
        ...

    def tasks(self) -> list[Task]:
        """Return the threads that serve the device on this host."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...


class DiskDriver(BlockDriver, Protocol):
    """A disk of this host, as a file server uses it."""

    def attach(self, queue: RequestQueue) -> None:
        """Take the queue whose requests are the disk's."""
        ...

    def stored(self) -> npt.NDArray[np.int64]:
        """Return the version the disk holds of each block."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MountContext:
    """What a host offers a file system that is mounted on it."""

    world: World
    cpus: Cpus | None
    cache: PageCache
    reader: FileReader
    throttle: DirtyThrottle
    flusher: Flusher
    pages: PageAllocator
    slabs: SlabCaches
    vmscan: Vmscan
    fixes: Fixes
    costs: CpuCosts
    log: LogPort
    init_pages: int
    """Of this host's pages, those that were not free yet when its file systems were registered."""
    mount_disk: Callable[[DiskDriver, int], BlockFileSystem]
    """Mounts a file system on a disk of this host, with so many blocks."""


@runtime_checkable
class FileBackend(Protocol):
    """A backend that is a file server, not a device: it keeps files by itself (``[storage] role = "fs"``)."""

    def export(self, context: MountContext) -> None:
        """Make the server's side of it on this host (``[storage] place = "local"``)."""
        ...

    def mount(self, context: MountContext) -> FileSystem:
        """Make the client's side of the file system; the server is up after :meth:`Backend.start`."""
        ...

    def slow_commit(self, delay_ns: int) -> None:
        """Fault: making data durable takes so much longer; 0: as long as before."""
        ...

    def half_open(self, until_ns: int) -> None:
        """Fault: the server's end of the connection is gone without a word, and silent until then."""
        ...


@runtime_checkable
class TellingBackend(Protocol):
    """A backend that has something to say of a run."""

    def notes(self) -> list[str]:
        """Return what a reader of the verdict should know, a line each."""
        ...


@runtime_checkable
class TracedBackend(Protocol):
    """A backend with tracepoints of its own."""

    def trace(self, recorder: Recorder) -> None:
        """Have them recorded."""
        ...


def load_backend(kind: str) -> Callable[[BackendContext], Backend]:
    """Return the factory of a backend by its entry point name. Raises UsageError if none is installed."""
    found = entry_points(group="netvm.storage_backends", name=kind)
    for entry in found:
        factory: Callable[[BackendContext], Backend] = entry.load()
        return factory
    names = sorted(entry.name for entry in entry_points(group="netvm.storage_backends"))
    raise UsageError(f"storage.kind = {kind!r}: no such backend is installed; installed: {', '.join(names)}")
