"""Tracepoints of writeback: what the flushers and the throttle tell a recorder.

Mirrors include/trace/events/writeback.h of 6.1, with its units: times in jiffies and milliseconds, rates in KiB/s. The
kernel has no event for the end of a page's writeback; ours, ``pages_written``, says of each run of pages how long its
oldest one had been dirty, and how long it was under writeback. For that, while a host is recorded, each file has two
columns of times beside its tags.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from netvm.pagecache.bdi import BackingDevice, jiffies
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.ports import WritebackControl
from netvm.pagecache.position import DirtyLimits
from netvm.runtime.task import Task
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of
from netvm.units import HZ, PAGE_SHIFT

if TYPE_CHECKING:
    from netvm.pagecache.flusher import WritebackWork
    from netvm.pagecache.throttle import DirtyThrottle

__all__ = ["WritebackTrace"]

_DIRTY_INODE: Final = number_of("writeback_dirty_inode")
_QUEUE_IO: Final = number_of("writeback_queue_io")
_START: Final = number_of("writeback_start")
_WRITTEN: Final = number_of("writeback_written")
_SINGLE_INODE_START: Final = number_of("writeback_single_inode_start")
_SINGLE_INODE: Final = number_of("writeback_single_inode")
_PAGES_WRITTEN: Final = number_of("pages_written")
_BALANCE: Final = number_of("balance_dirty_pages")
_GLOBAL: Final = number_of("global_dirty_state")
_RATELIMIT: Final = number_of("bdi_dirty_ratelimit")
_MS_PER_JIFFY: Final = 1000 // HZ
_KIB_SHIFT: Final = PAGE_SHIFT - 10
_ROOT_CGROUP: Final = 1


class WritebackTrace:
    """Writes writeback's events to the recorder of a host."""

    def __init__(self, recorder: Recorder, throttle: "DirtyThrottle") -> None:
        self.recorder = recorder
        self.throttle = throttle
        self.world = recorder.world
        self._times: dict[int, npt.NDArray[np.int64]] = {}
        """By file: when each page was dirtied, and for those under writeback when they were before that and when it
        began; shape ``(3, pages)``, nanoseconds."""

    # -- pages ----------------------------------------------------------------------------------------------------

    def _times_of(self, mapping: Mapping, nr_pages: int) -> npt.NDArray[np.int64]:
        times = self._times.get(mapping.id)
        if times is None or times.shape[1] < nr_pages:
            wider = np.full((3, max(nr_pages, mapping.nr_pages, 64) * 2), self.world.now_ns, dtype=np.int64)
            if times is not None:
                wider[:, : times.shape[1]] = times
            times = self._times[mapping.id] = wider
        return times

    def dirtied(self, mapping: Mapping, indices: npt.NDArray[np.intp]) -> None:
        """Pages were clean and are dirty."""
        self._times_of(mapping, int(indices.max()) + 1)[0, indices] = self.world.now_ns

    def started(self, mapping: Mapping, index: int, nr_pages: int) -> None:
        """Pages are under writeback."""
        times = self._times_of(mapping, index + nr_pages)
        times[1, index : index + nr_pages] = times[0, index : index + nr_pages]
        times[2, index : index + nr_pages] = self.world.now_ns

    def ended(self, task: Task, mapping: Mapping, indices: npt.NDArray[np.intp], error: int) -> None:
        """Pages were written, or could not be."""
        times = self._times_of(mapping, int(indices.max()) + 1)
        dirty_ns, began_ns = times[1:, indices].min(axis=1).tolist()
        name = self.recorder.name(mapping.fs.bdi.name)
        now_ns = self.world.now_ns
        ages_us = (now_ns - dirty_ns) // 1000, (now_ns - began_ns) // 1000
        self.recorder.emit(_PAGES_WRITTEN, task, name, mapping.id, len(indices), *ages_us, error)

    # -- files ----------------------------------------------------------------------------------------------------

    def dirty_inode(self, mapping: Mapping) -> None:
        """A file has its first dirty page."""
        recorder = self.recorder
        flags = recorder.name("I_DIRTY_PAGES")
        recorder.emit(
            _DIRTY_INODE,
            self.world.current,
            recorder.name(mapping.fs.bdi.name),
            mapping.id,
            self._state(mapping),
            flags,
        )

    def queue_io(self, task: Task, wb: BackingDevice, before_ns: int, nr_files: int, reason: str) -> None:
        """Files that are due were moved to ``b_io``."""
        recorder = self.recorder
        age_ms = (self.world.now_ns - before_ns) // 1_000_000
        older = jiffies(self.world) - age_ms // _MS_PER_JIFFY
        recorder.emit(
            _QUEUE_IO,
            task,
            recorder.name(wb.name),
            older,
            age_ms,
            nr_files,
            recorder.name(reason),
            _ROOT_CGROUP,
        )

    def work(self, task: Task, wb: BackingDevice, work: "WritebackWork", *, over: bool) -> None:
        """A round of a flusher begins, or is over."""
        recorder = self.recorder
        recorder.emit(
            _WRITTEN if over else _START,
            task,
            recorder.name(wb.name),
            0,
            0,
            work.nr_pages,
            work.sync_mode,
            work.for_kupdate,
            work.range_cyclic,
            work.for_background,
            recorder.name(work.reason),
            _ROOT_CGROUP,
        )

    def single_inode(
        self, task: Task, mapping: Mapping, wbc: WritebackControl, nr_to_write: int, *, over: bool
    ) -> None:
        """A chunk of one file is to be written, or was submitted."""
        recorder = self.recorder
        age_ms = (self.world.now_ns - mapping.dirtied_when_ns) // 1_000_000
        recorder.emit(
            _SINGLE_INODE if over else _SINGLE_INODE_START,
            task,
            recorder.name(mapping.fs.bdi.name),
            mapping.id,
            self._state(mapping),
            jiffies(self.world) - age_ms // _MS_PER_JIFFY,
            age_ms,
            mapping.writeback_index,
            nr_to_write,
            nr_to_write - wbc.nr_to_write,
            _ROOT_CGROUP,
        )

    def _state(self, mapping: Mapping) -> int:
        bits = ["I_DIRTY_PAGES"] * bool(mapping.nr_dirty) + ["I_SYNC"] * mapping.syncing
        return self.recorder.name("|".join(bits) or "0x0")

    # -- the throttle ---------------------------------------------------------------------------------------------

    def global_dirty_state(self, task: Task | None, look: DirtyLimits) -> None:
        """The limits were looked at."""
        vmstat = self.throttle.vmstat
        self.recorder.emit(
            _GLOBAL,
            task,
            look.nr_dirty,
            vmstat.nr_writeback,
            look.bg_thresh,
            look.thresh,
            self.throttle.dirty_limit,
            vmstat.nr_dirtied,
            vmstat.nr_written,
        )

    def balance_dirty_pages(
        self,
        task: Task,
        wb: BackingDevice,
        look: DirtyLimits,
        *,
        task_ratelimit: int,
        dirtied: int,
        dirtied_pause: int,
        paused_when: int,
        since: int,
        pause: int | None,
    ) -> None:
        """A writer is about to sleep for ``pause`` jiffies, or not to (None); ``since`` is when it came."""
        now = jiffies(self.world)
        setpoint = self.throttle.setpoint(look)
        period = HZ * dirtied // task_ratelimit if task_ratelimit else 0
        think = now - paused_when if paused_when else 0
        if pause is None:
            pause = min(period - think, 0)
        self.recorder.emit(
            _BALANCE,
            task,
            self.recorder.name(wb.name),
            self.throttle.dirty_limit,
            setpoint,
            look.dirty,
            setpoint * look.wb_thresh // (look.thresh + 1),
            look.wb_dirty,
            wb.dirty_ratelimit << _KIB_SHIFT,
            task_ratelimit << _KIB_SHIFT,
            dirtied,
            dirtied_pause,
            (now - since) * _MS_PER_JIFFY,
            pause * _MS_PER_JIFFY,
            period * _MS_PER_JIFFY,
            think * _MS_PER_JIFFY,
            _ROOT_CGROUP,
        )

    def dirty_ratelimit(self, task: Task, wb: BackingDevice, *, pos_ratio: int, elapsed: int) -> None:
        """A device's ratelimit was stepped; call before the stamps are renewed."""
        dirty_rate = (wb.nr_dirtied - wb.dirtied_stamp) * HZ // elapsed
        rates = (
            wb.write_bandwidth,
            wb.avg_write_bandwidth,
            dirty_rate,
            wb.dirty_ratelimit,
            wb.dirty_ratelimit * pos_ratio >> 10,
            wb.balanced_dirty_ratelimit,
        )
        name = self.recorder.name(wb.name)
        self.recorder.emit(_RATELIMIT, task, name, *(rate << _KIB_SHIFT for rate in rates), _ROOT_CGROUP)
