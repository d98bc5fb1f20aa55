"""Who runs: the switches of a recorded run make one story for each CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np

from netvm.trace.recorder import FULL_GROUPS
from netvm.trace.tracepoints import BY_NAME

_SCENARIO = """
[kernel]
preset = "6.1"
[machine]
ram_mib = 32
cpus = {cpus}
[storage]
kind = "nbd"
[[workload]]
kind = "anon-hog"
mib = 34
passes = 1
"""


def test_switches_follow_each_other(recorded_run: Callable[..., Any]) -> None:
    """On each CPU the task that is switched out is the one that was switched in last; nobody runs who was not woken."""
    for cpus in (1, 2):
        _, _, records = recorded_run(_SCENARIO.format(cpus=cpus), FULL_GROUPS)
        records = records[np.argsort(records["time_ns"], kind="stable")]
        switches = records[records["event"] == BY_NAME["sched_switch"].number]
        for cpu in range(cpus):
            mine = switches["args"][switches["cpu"] == cpu]
            before, after = mine[:, 0:2], mine[:, 4:6]
            assert len(mine) > 20
            assert (before[1:] == after[:-1]).all()
            assert (before != after).any(axis=1).all()
        woken = set(records["args"][records["event"] == BY_NAME["sched_wakeup"].number][:, 1].tolist())
        assert set(switches["args"][:, 5].tolist()) - {0} <= woken


def test_a_task_is_woken_for_a_cpu_it_ran_on(recorded_run: Callable[..., Any]) -> None:
    """The CPU a wake-up names is one that the task was on, or the first for a new task; of two, both are named."""
    _, _, records = recorded_run(_SCENARIO.format(cpus=2), FULL_GROUPS)
    switches = records[records["event"] == BY_NAME["sched_switch"].number]
    wakeups = records["args"][records["event"] == BY_NAME["sched_wakeup"].number]
    ran_on = set(zip(switches["args"][:, 5].tolist(), switches["cpu"].tolist(), strict=True))
    named = set(zip(wakeups[:, 1].tolist(), wakeups[:, 3].tolist(), strict=True))
    assert {(pid, cpu) for pid, cpu in named - ran_on if cpu} == set()
    assert {cpu for _pid, cpu in named} == {0, 1}


def test_work_items_begin_and_end(recorded_run: Callable[..., Any]) -> None:
    """A worker that begins with an item was given it, and only the last item of a worker may be open."""
    _, recorder, records = recorded_run(_SCENARIO.format(cpus=1), ("workqueue",))
    count = {
        name: int(np.count_nonzero(records["event"] == BY_NAME[f"workqueue_{name}"].number))
        for name in ("queue_work", "execute_start", "execute_end")
    }
    assert count["queue_work"] >= count["execute_start"] >= count["execute_end"] > 0
    assert count["execute_start"] - count["execute_end"] <= len(recorder.recorded.tasks)
