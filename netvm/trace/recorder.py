"""The recorder: tracepoints of an emulated host, written down as they are passed.

A room that has tracepoints has an attribute ``tracer``, which is None or a :class:`Recorder`; so a tracepoint that is
off costs one test. On, it packs one fixed-size record (:mod:`netvm.trace.records`) into a preallocated array. Nothing
is formatted. A full array goes to ``sink``, which may write it to disk, or is kept.

A record's time is its task's own: the world's, and what the task has used of a CPU and not paid yet, as a clock read in
the kernel at that place would show. Records of different tasks may so stand out of order by as much as a task may owe;
readers put them in order (:mod:`netvm.report.reorder`).

Counters are sampled on change: at most once every :data:`SAMPLE_NS`, with the first record after it, and only those
that have another value than before are written.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence, Sized
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from netvm.runtime.task import Task
from netvm.runtime.world import World
from netvm.trace.records import RECORD, RecordArray, Recorded
from netvm.trace.tracepoints import ARGS_MAX, COUNTERS, TRACEPOINTS, number_of

__all__ = ["DEFAULT_GROUPS", "FULL_GROUPS", "SAMPLE_NS", "Recorder"]

CHUNK_RECORDS: Final = 1 << 14
SAMPLE_NS: Final = 1_000_000
DEFAULT_GROUPS: Final = ("vmscan", "compaction", "oom", "writeback", "nfs", "sunrpc", "sched", "netvm")
FULL_GROUPS: Final = (*DEFAULT_GROUPS, "sock", "skb", "tcp", "workqueue", "kmem")

_STALL_BEGIN: Final = number_of("alloc_stall_begin")
_STALL_END: Final = number_of("alloc_stall_end")
_RETRY_ZONE: Final = number_of("reclaim_retry_zone")
_SWAPIN_BEGIN: Final = number_of("swapin_begin")
_SWAPIN_END: Final = number_of("swapin_end")
_RESERVE_OWNER: Final = number_of("reserve_owner")
_COUNTER: Final = number_of("counter")
_PACK: Final = tuple(Struct(f"<qHHiH6x{nr}q").pack_into for nr in range(ARGS_MAX + 1))
_SIZE: Final = RECORD.itemsize
_CHUNK_BYTES: Final = CHUNK_RECORDS * _SIZE
assert Struct(f"<qHHiH6x{ARGS_MAX}q").size == _SIZE


class Recorder:
    """Records of one host."""

    def __init__(
        self,
        world: World,
        *,
        groups: Iterable[str] = DEFAULT_GROUPS,
        sink: Callable[[RecordArray], None] | None = None,
    ) -> None:
        self.world = world
        self.recorded = Recorded(source="netvm")
        self.name: Callable[[str], int] = self.recorded.names.intern
        """Returns the number of a string, for an argument."""
        self.groups = frozenset(groups)
        self.nr_records = 0
        self.counters: Callable[[], Sequence[int]] | None = None
        """Returns the values of :data:`~netvm.trace.tracepoints.COUNTERS`, in their order."""
        self.owners: Callable[[], tuple[Sequence[str], list[int]]] | None = None
        """Returns names, and how many pages of the reserve each holds; sampled with the counters."""
        self.pools: list[tuple[str, Sized]] = []
        """Mempools by name, and the elements each has left; sampled with the counters."""
        self._pool_levels: dict[str, int] = {}
        self.gfp_name: Callable[[int], str] = hex
        """Spells a mask; set by the host, whose masks they are."""
        self.may_stall: Callable[[Task, int], bool] = lambda _task, _gfp: True
        """Says whether an allocation may reclaim and wait; set by the host."""
        self.at_end: list[Callable[[], None]] = []
        """Called when the recording ends, for what is held back until something follows it."""
        self._sink = sink
        self._full: list[RecordArray] = []
        self._enabled = [point.group in self.groups for point in TRACEPOINTS]
        self._chunk: RecordArray = np.zeros(CHUNK_RECORDS, dtype=RECORD)
        self._buffer = self._chunk.view(np.uint8).data
        self._at_bytes = 0
        """Where the next record of the array begins."""
        self._tasks: dict[Task, int] = {}
        self._stamped_ns: dict[int, int] = {}
        """The last time that a task's record has, by its number."""
        self._masks: dict[int, int] = {}
        self._due_ns = 0
        """When the counters are to be sampled again."""
        self._values: Sequence[int | None] = [None] * len(COUNTERS)
        self._owner_pages: list[int] = []
        self._counter_names = [self.name(name) for name in COUNTERS]
        self.name("")
        self._idle = self.recorded.tasks.intern("<idle>", 0)

    def wants(self, group: str) -> bool:
        """Say whether a group of tracepoints is on."""
        return group in self.groups

    def mask(self, gfp: int) -> int:
        """Return the number of a mask's name, for an argument."""
        number = self._masks.get(gfp)
        if number is None:
            number = self._masks[gfp] = self.name(self.gfp_name(gfp))
        return number

    def emit(self, event: int, task: Task | None, *args: int) -> None:
        """Write one record."""
        if not self._enabled[event]:
            return
        time_ns = self.world.now_ns
        cpu = 0
        number = self._idle
        if task is not None:
            if task.cpu is not None:
                cpu = task.cpu.index
            try:
                number = self._tasks[task]
            except KeyError:
                number = self._meet(task)
            time_ns = self._stamp_ns(number, task.time_ns)
        at_bytes = self._at_bytes
        if at_bytes == _CHUNK_BYTES:
            at_bytes = self._rotate()
        _PACK[len(args)](self._buffer, at_bytes, time_ns, event, cpu, number, _NO_FLAGS, *args)
        self._at_bytes = at_bytes + _SIZE
        if time_ns >= self._due_ns and self.counters is not None:
            self._sample(time_ns)

    def emit_at(self, time_ns: int, cpu: int, task: Task | None, event: int, *args: int) -> None:
        """Write one record of a time and CPU that are known."""
        if not self._enabled[event]:
            return
        number = self._idle
        if task is not None:
            try:
                number = self._tasks[task]
            except KeyError:
                number = self._meet(task)
        at_bytes = self._at_bytes
        if at_bytes == _CHUNK_BYTES:
            at_bytes = self._rotate()
        _PACK[len(args)](self._buffer, at_bytes, time_ns, event, cpu, number, _NO_FLAGS, *args)
        self._at_bytes = at_bytes + _SIZE

    def _stamp_ns(self, number: int, time_ns: int) -> int:
        """Return a time not before the task's last record: what is paid may be less than was reckoned, by its noise."""
        last_ns = self._stamped_ns.get(number, 0)
        if time_ns < last_ns:
            return last_ns
        self._stamped_ns[number] = time_ns
        return time_ns

    def _meet(self, task: Task) -> int:
        """Return the number of a task, met for the first time."""
        number = self._tasks[task] = self.recorded.tasks.intern(task.comm, task.pid)
        return number

    def emit_many(self, event: int, task: Task | None, args: npt.NDArray[np.int64]) -> None:
        """Write a record for each row of ``args``, all of the same time."""
        if not self._enabled[event] or not len(args):
            return
        first = np.zeros(1, dtype=RECORD)
        time_ns = self.world.now_ns
        number = self._idle
        if task is not None:
            number = self.recorded.tasks.intern(task.comm, task.pid)
            time_ns = self._stamp_ns(number, task.time_ns)
        first["time_ns"] = time_ns
        first["event"] = event
        first["task"] = number
        first["flags"] = _NO_FLAGS
        done = 0
        while done < len(args):
            if self._at_bytes == _CHUNK_BYTES:
                self._rotate()
            begin = self._at_bytes // _SIZE
            room = min(CHUNK_RECORDS - begin, len(args) - done)
            here = self._chunk[begin : begin + room]
            here[:] = first
            here["args"][:, : args.shape[1]] = args[done : done + room]
            self._at_bytes += room * _SIZE
            done += room

    def retry_zone(self, task: Task, zone: str, *values: int) -> None:
        """A zone was looked at after reclaim in vain: order, reclaimable and available pages, mark, loops, worth it."""
        self.emit(_RETRY_ZONE, task, 0, self.name(zone), *values)

    def begin_stall(self, task: Task, order: int, gfp: int) -> bool:
        """An allocation that has found no page goes on to wait for one; False if it may not."""
        if not self.may_stall(task, gfp):
            return False
        self.emit(_STALL_BEGIN, task, order, self.mask(gfp))
        return True

    def end_stall(self, task: Task, order: int, pfn: int) -> None:
        """An allocation that waited has a page, or -1."""
        self.emit(_STALL_END, task, order, pfn)

    async def wait(self, task: Task, pfn: int, waiting: Awaitable[object]) -> None:
        """A task waits for a page that it has faulted on and that is being read."""
        self.emit(_SWAPIN_BEGIN, task, pfn)
        await waiting
        self.emit(_SWAPIN_END, task, pfn)

    def sample(self) -> None:
        """Sample the counters now, whenever that was done last."""
        if self.counters is not None:
            self._sample(self.world.now_ns)

    def _sample(self, time_ns: int) -> None:
        """Write the counters that have changed."""
        assert self.counters is not None
        self._due_ns = time_ns + SAMPLE_NS
        values = tuple(self.counters())
        for number, value, last in zip(self._counter_names, values, self._values, strict=True):
            if value != last:
                self.emit_at(time_ns, 0, None, _COUNTER, number, value)
        self._values = values
        for name, elements in self.pools:
            left = len(elements)
            if left != self._pool_levels.get(name):
                self._pool_levels[name] = left
                self.emit(_COUNTER, None, self.name(name), left)
        if self.owners is not None:
            names, held = self.owners()
            before = self._owner_pages
            if held != before:
                before += [0] * (len(held) - len(before))
                for number, pages in enumerate(held):
                    if pages != before[number]:
                        before[number] = pages
                        self.emit(_RESERVE_OWNER, None, self.name(names[number]), pages)

    def _rotate(self) -> int:
        """Hand a full array on and begin another; return where its first record begins."""
        nr_records = self._at_bytes // _SIZE
        chunk = self._chunk[:nr_records]
        self.nr_records += nr_records
        if self._sink is not None:
            self._sink(chunk)
        else:
            self._full.append(chunk)
        self._chunk = np.zeros(CHUNK_RECORDS, dtype=RECORD)
        self._buffer = self._chunk.view(np.uint8).data
        self._at_bytes = 0
        return 0

    def finish(self) -> None:
        """Hand on what is left."""
        at_end, self.at_end = self.at_end, []
        for held in at_end:
            held()
        if self._at_bytes:
            self._rotate()

    def batches(self) -> list[RecordArray]:
        """Return what was kept, in the order of recording."""
        self.finish()
        return self._full


_NO_FLAGS: Final = len(COUNTERS)
"""The empty string, interned after the counters' names."""
