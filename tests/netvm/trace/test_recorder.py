"""The recorder."""

import numpy as np

from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Task
from netvm.runtime.world import World
from netvm.trace import recorder as module
from netvm.trace.recorder import SAMPLE_NS, Recorder
from netvm.trace.records import RecordArray
from netvm.trace.tracepoints import COUNTERS, number_of

_SLEEP = number_of("mm_vmscan_kswapd_sleep")
_FREE = number_of("mm_page_free")


def _task(world: World) -> Task:
    return Task(world=world, number=3, comm="hog", pid=7, cpus=None, flags=0, nice=0)


def test_a_record_is_what_was_emitted() -> None:
    """Time, event, task and arguments are there, and what is not given is zero."""
    world = World()
    recorder = Recorder(world)
    world.now_ns = 1234
    recorder.emit(number_of("mm_vmscan_direct_reclaim_begin"), _task(world), 2, recorder.mask(0x20))
    recorder.emit(_SLEEP, None, 0)
    (batch,) = recorder.batches()
    first, second = batch
    assert (int(first["time_ns"]), int(first["args"][0])) == (1234, 2)
    assert recorder.recorded.names[int(first["args"][1])] == "0x20"
    assert recorder.recorded.names[int(first["flags"])] == ""
    assert recorder.recorded.tasks[int(first["task"])] == ("hog", 7)
    assert recorder.recorded.tasks[int(second["task"])] == ("<idle>", 0)
    assert not second["args"].any()


def test_a_tasks_records_are_in_the_order_of_their_times() -> None:
    """What a task has used and not paid is reckoned ahead; if noise makes the payment less, time does not go back."""
    world = World()
    recorder = Recorder(world, groups=("vmscan", "kmem"))
    hog = Task(world=world, number=3, comm="hog", pid=7, cpus=Cpus(world, 1), flags=0, nice=0)
    hog.charge_ns = 1000
    recorder.emit(_SLEEP, hog, 0)
    recorder.emit_many(_FREE, hog, np.array([[-1, 5, 0], [-1, 6, 0]]))
    world.now_ns, hog.charge_ns = 980, 0
    recorder.emit(_SLEEP, hog, 0)
    recorder.emit_many(_FREE, hog, np.array([[-1, 7, 0]]))
    recorder.emit(_SLEEP, _task(world), 0)
    world.now_ns = 1010
    recorder.emit(_SLEEP, hog, 0)
    times_ns = [int(record["time_ns"]) for batch in recorder.batches() for record in batch]
    assert times_ns == [1000, 1000, 1000, 1000, 1000, 1000, 1010]


def test_groups_that_are_off_cost_no_record() -> None:
    """Only the groups asked for are recorded."""
    world = World()
    recorder = Recorder(world, groups=("kmem",))
    recorder.emit(_SLEEP, None, 0)
    recorder.emit(_FREE, None, -1, 5, 0)
    assert recorder.wants("kmem")
    assert not recorder.wants("vmscan")
    assert [int(record["event"]) for batch in recorder.batches() for record in batch] == [_FREE]


def test_counters_are_sampled_on_change() -> None:
    """A counter is written when it has changed, at most once a millisecond."""
    world = World()
    recorder = Recorder(world)
    values = [0] * len(COUNTERS)
    recorder.counters = lambda: values
    recorder.emit(_SLEEP, None, 0)
    values[0] = 5
    recorder.emit(_SLEEP, None, 0)
    world.now_ns = SAMPLE_NS
    recorder.emit(_SLEEP, None, 0)
    recorder.sample()
    rows = [r["args"][:2].tolist() for b in recorder.batches() for r in b if r["event"] == number_of("counter")]
    names = [(recorder.recorded.names[name], value) for name, value in rows]
    assert names == [*((name, 0) for name in COUNTERS), ("free", 5)]


def test_full_arrays_go_to_the_sink() -> None:
    """However much is recorded, no more than one array is held; nothing is lost and order is kept."""
    world = World()
    told: list[RecordArray] = []
    recorder = Recorder(world, groups=("kmem", "vmscan"), sink=told.append)
    task = _task(world)
    nr = module.CHUNK_RECORDS
    args = np.stack([np.zeros(nr + 10, np.int64), np.arange(nr + 10), np.zeros(nr + 10, np.int64)], axis=1)
    recorder.emit(_FREE, task, -1, 7, 0)
    recorder.emit_many(_FREE, task, args)
    recorder.finish()
    assert [len(batch) for batch in told] == [nr, 11]
    assert [int(record["args"][1]) for batch in told for record in batch] == [7, *range(nr + 10)]
    assert recorder.nr_records == nr + 11
    assert recorder.batches() == []
