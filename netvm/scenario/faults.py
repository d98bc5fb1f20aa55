"""What goes wrong, and when: faults of the network and of the storage server."""

from typing import Final, NamedTuple

from netvm.errors import Errno
from netvm.host.backend import FileBackend
from netvm.host.machine import Host
from netvm.runtime.timer import TimerKind
from netvm.scenario.schema import Fault
from netvm.units import MIB, NS_PER_MS, PAGE_SIZE

__all__ = ["FaultSpan", "schedule_faults"]

_DISK_FAULTS: Final = {"disk-full": int(Errno.ENOSPC), "io-error": int(Errno.EIO)}
LOOK_EVERY_NS = NS_PER_MS
"""How often a fault that waits for an amount looks whether it was written."""


class FaultSpan(NamedTuple):
    """A fault that has begun, in the world's time."""

    number: int
    """Its place in the scenario."""
    fault: Fault
    begin_ns: int
    end_ns: int


def schedule_faults(host: Host, faults: list[Fault]) -> list[FaultSpan]:
    """Put every fault on the host's time, counted from now; return the list of those that will have begun."""
    begun: list[FaultSpan] = []
    for number, fault in enumerate(faults):
        at_ns = fault.at_ms * NS_PER_MS
        host.world.call_after(at_ns, _begin_when_due, host, fault, number, begun, kind=TimerKind.PROGRESS)
    return begun


def _begin_when_due(host: Host, fault: Fault, number: int, begun: list[FaultSpan]) -> None:
    if host.vmstat.nr_written * PAGE_SIZE < fault.after_mib * MIB:
        # whoever looks at the clock is no progress: a run in which nothing is written hangs
        host.world.call_after(LOOK_EVERY_NS, _begin_when_due, host, fault, number, begun, kind=TimerKind.CLOCK)
        return
    now_ns = host.world.now_ns
    begun.append(
        FaultSpan(number, fault, now_ns, now_ns if fault.kind == "reset" else now_ns + fault.for_ms * NS_PER_MS)
    )
    _begin(host, fault)


def _begin(host: Host, fault: Fault) -> None:
    until_ns = host.world.now_ns + fault.for_ms * NS_PER_MS
    link = host.link
    if fault.kind == "reset":
        host.backend.reset_connection()
    elif fault.kind in _DISK_FAULTS:
        host.backend.set_fault(_DISK_FAULTS[fault.kind])
        host.world.call_at(until_ns, host.backend.set_fault, 0, kind=TimerKind.PROGRESS)
    elif fault.kind == "slow-commit":
        assert isinstance(host.backend, FileBackend)
        host.backend.slow_commit(fault.commit_ms * NS_PER_MS)
        host.world.call_at(until_ns, host.backend.slow_commit, 0, kind=TimerKind.PROGRESS)
    elif fault.kind == "half-open":
        assert isinstance(host.backend, FileBackend)
        host.backend.half_open(until_ns)
    elif fault.kind == "server-restart":
        host.backend.restart_server(until_ns)
    elif fault.kind == "stall":
        host.backend.stall(until_ns)
        if link is not None:
            link.up.stalled_until_ns = link.down.stalled_until_ns = until_ns
    elif link is not None:
        for direction in (link.up, link.down):
            if fault.kind == "link-down":
                direction.is_down = True
            else:
                direction.burst_loss = fault.loss
        host.world.call_at(until_ns, _end, host, fault, kind=TimerKind.PROGRESS)


def _end(host: Host, fault: Fault) -> None:
    assert host.link is not None
    for direction in (host.link.up, host.link.down):
        if fault.kind == "link-down":
            direction.is_down = False
        else:
            direction.burst_loss = 0.0
