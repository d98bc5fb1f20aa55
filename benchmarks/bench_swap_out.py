"""Steady swap-out over iSCSI with the link saturated: pages a second, beside what a SimPy user would write for it.

*Ours* is the whole emulated host: a program touches more memory than there is, kswapd and the program itself reclaim,
32 pages merge into a request, the session sends it as RFC 7143's PDUs through TCP with memory for every packet, the
target's disk writes, reply and acknowledgements come in through the card's ring, pages rotate and are freed. Counted
are the pages whose write has ended, from the moment the link is busy to the end.

*SimPy's* is the model a good SimPy user would write instead: a pool of free pages, request tags, the link as a
resource that each segment of 64 KiB holds for the time of its frames, acknowledgements and the reply with theirs on
the way back, the disk's service, and one event for a batch of 32 touches. There is no LRU, no allocator, no window and
no verdict in it.

Both have the same link, disk, memory and costs of the program; the machine is five times faster than the recorded one,
so that the link and not the CPU is what is waited for.
"""

import argparse
from dataclasses import dataclass

import simpy
from yardstick import print_rates, seconds, simpy_rate

from netvm.runtime.clock import run_virtual
from netvm.runtime.costs import CpuCosts
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import Progress
from netvm.scenario.run import Experiment
from netvm.units import MIB, PAGE_SIZE

_BANDWIDTH = 125_000_000
_DELAY_US = 50
_DISK_LATENCY_US = 100
_TAGS = 128
_CLUSTER = 32
_SEGMENT_BYTES = 64 * 1024
_FRAME_BYTES = 1448
_HEADER_BYTES = 66
_COMMAND_BYTES = 48
_RAM_MIB = 96
_COST_SCALE = 0.2


@dataclass(slots=True)
class Swapped:
    """What a run came to."""

    pages: int
    cpu_s: float
    virtual_s: float

    @property
    def rate(self) -> float:
        """Pages swapped out in a second of this machine's time."""
        return self.pages / self.cpu_s

    @property
    def link_share(self) -> float:
        """How much of the link's bandwidth the pages and their frames took."""
        frames = -(-_SEGMENT_BYTES // _FRAME_BYTES)
        per_page = PAGE_SIZE * (1 + frames * _HEADER_BYTES / _SEGMENT_BYTES)
        return self.pages * per_page / self.virtual_s / _BANDWIDTH


def ours(mib: int) -> Swapped:
    """Run the emulated host until the program has touched ``mib`` of memory."""
    scenario = scenario_from(
        {
            "machine": {"ram_mib": _RAM_MIB, "cpus": 2, "costs": {"scale": _COST_SCALE}},
            "vm": {"min_free_kbytes": 8192},
            "link": {"bandwidth_bytes_per_s": _BANDWIDTH, "delay_us": _DELAY_US},
            "storage": {
                "kind": "iscsi",
                "size_mib": 2 * mib,
                "queue_depth": _TAGS,
                "disk": {"latency_us": _DISK_LATENCY_US},
            },
            "workload": [{"kind": "anon-hog", "mib": mib, "passes": 1}],
        },
        origin="benchmark",
    )
    samples: list[Swapped] = []

    def sample(progress: Progress) -> None:
        if progress.pages_cleaned:
            samples.append(Swapped(progress.pages_cleaned, seconds(), progress.virtual_seconds))

    experiment = Experiment(scenario, name="benchmark", progress=sample)
    run_virtual(experiment.run)
    sample(experiment.progress())
    outcome = experiment.outcome()
    assert outcome.verdict == "COMPLETED", outcome
    assert not outcome.audit, outcome.audit
    first, last = samples[0], samples[-1]
    return Swapped(last.pages - first.pages, last.cpu_s - first.cpu_s, last.virtual_s - first.virtual_s)


class SimpyHost:
    """The same in SimPy; times are in nanoseconds."""

    def __init__(self, nr_pages: int) -> None:
        self.env = env = simpy.Environment()
        self.free = simpy.Container(env, capacity=_RAM_MIB * MIB // PAGE_SIZE, init=_RAM_MIB * MIB // PAGE_SIZE)
        self.tags = simpy.Resource(env, _TAGS)
        self.up = simpy.Resource(env)
        self.down = simpy.Resource(env)
        self.nr_pages = nr_pages
        self.nr_cleaned = 0
        self.touch_ns = int(CpuCosts().fault_anon * _COST_SCALE) * _CLUSTER
        env.process(self.program())

    def program(self) -> simpy.events.ProcessGenerator:
        """Touch memory in batches; each batch beyond what is free pushes one of those before it out."""
        for touched in range(0, self.nr_pages, _CLUSTER):
            yield self.free.get(_CLUSTER)
            yield self.env.timeout(self.touch_ns)
            if touched * PAGE_SIZE > _RAM_MIB * MIB // 2:
                self.env.process(self.swap_out())

    def swap_out(self) -> simpy.events.ProcessGenerator:
        """Write one cluster: tag, segments, disk, reply."""
        env = self.env
        with self.tags.request() as tag:
            yield tag
            left = _COMMAND_BYTES + _CLUSTER * PAGE_SIZE
            while left:
                size = min(left, _SEGMENT_BYTES)
                yield from self.transmit(self.up, size)
                env.process(self.acknowledge())
                left -= size
            yield env.timeout(_DELAY_US * 1000)
            yield env.timeout(_DISK_LATENCY_US * 1000)
            yield from self.transmit(self.down, _COMMAND_BYTES)
            yield env.timeout(_DELAY_US * 1000)
        self.nr_cleaned += _CLUSTER
        yield self.free.put(_CLUSTER)

    def acknowledge(self) -> simpy.events.ProcessGenerator:
        """Acknowledge a segment when it has arrived."""
        yield self.env.timeout(_DELAY_US * 1000)
        yield from self.transmit(self.down, 0)
        yield self.env.timeout(_DELAY_US * 1000)

    def transmit(self, wire: simpy.Resource, size_bytes: int) -> simpy.events.ProcessGenerator:
        """Hold the wire for as long as the frames of a segment take."""
        nr_frames = max(1, -(-size_bytes // _FRAME_BYTES))
        with wire.request() as turn:
            yield turn
            yield self.env.timeout((size_bytes + nr_frames * _HEADER_BYTES) * 1_000_000_000 // _BANDWIDTH)


def simpys(mib: int) -> Swapped:
    """Run the SimPy model until its program has touched ``mib`` of memory."""
    host = SimpyHost(mib * MIB // PAGE_SIZE)
    begun = seconds()
    host.env.run()
    return Swapped(host.nr_cleaned, seconds() - begun, host.env.now / 1e9)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="steady swap-out over iSCSI, beside a SimPy model of it")
    parser.add_argument("--mib", type=int, default=192, help="memory the program touches")
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts")
    arguments = parser.parse_args()
    yardstick = 0.0
    emulated: list[Swapped] = []
    modelled: list[Swapped] = []
    for _ in range(arguments.rounds):
        yardstick = max(yardstick, simpy_rate())
        emulated.append(ours(arguments.mib))
        modelled.append(simpys(arguments.mib))
    one = max(emulated, key=lambda run: run.rate)
    other = max(modelled, key=lambda run: run.rate)
    rows = [
        ("SimPy, bare events", yardstick),
        ("swap-out, emulated host", one.rate),
        ("swap-out, SimPy model", other.rate),
    ]
    print_rates("", rows, yardstick)
    print(f"\nlink: {one.link_share:.0%} busy in the emulated host, {other.link_share:.0%} in the SimPy model")
    print(f"emulated host: {one.rate / other.rate:.2f} times as fast as the SimPy model")


if __name__ == "__main__":
    main()
