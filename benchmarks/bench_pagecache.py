"""The page cache: dirty throttling against the kernel's setpoint, and pages written a second beside SimPy's events.

One writer and a local disk that is slower than it: where do dirty pages settle, and how long are the pauses? Then the
same program on a disk that is no hindrance: what does a page cost from ``write`` to the store?
"""

import argparse

from yardstick import print_rates, seconds, simpy_rate

from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment
from netvm.units import NS_PER_MS

PAGES_PER_MIB = 256


def _experiment(mib: int, *, bandwidth: int, dirty_ratio: int = 20) -> Experiment:
    data = {
        "machine": {"ram_mib": 256},
        "vm": {"dirty_ratio": dirty_ratio, "dirty_background_ratio": dirty_ratio // 2},
        "nic": {"kind": "loopback"},
        "storage": {
            "kind": "disk",
            "role": "fs",
            "size_mib": mib + 16,
            "disk": {"bandwidth_bytes_per_s": bandwidth},
        },
        "workload": [{"kind": "file-writer", "mib": mib}],
    }
    return Experiment(scenario_from(data, origin="bench_pagecache"), name="bench_pagecache")


def settle(mib: int) -> tuple[float, float]:
    """Return mean dirty pages over the setpoint in the second half of a run, and the longest pause in milliseconds."""
    experiment = _experiment(mib, bandwidth=20_000_000)
    throttle = experiment.host.files.throttle
    seen: list[float] = []
    look = throttle.limits

    def noted() -> object:
        if throttle.setpoint_seen:
            seen.append(throttle.dirty_seen / throttle.setpoint_seen)
        return look()

    throttle.limits = noted  # type: ignore[assignment,method-assign]  # a look from outside
    run_virtual(experiment.run)
    half = seen[len(seen) // 2 :]
    return sum(half) / len(half), throttle.max_pause_ns / NS_PER_MS


def rate(mib: int) -> float:
    """Return pages a second of CPU time that a writer gets to the store."""
    experiment = _experiment(mib, bandwidth=0)
    begun = seconds()
    run_virtual(experiment.run)
    return mib * PAGES_PER_MIB / (seconds() - begun)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file that settles")
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the best counts")
    options = parser.parse_args()
    ratio, pause_ms = settle(options.mib)
    print(f"dirty pages over the setpoint, second half of the run: {ratio:.3f}; longest pause {pause_ms:.0f} ms\n")
    simpy = max(simpy_rate() for _ in range(options.rounds))
    best = max(rate(options.mib // 4) for _ in range(options.rounds))
    print_rates("pages", [("SimPy events", simpy), ("written, a file on a local disk", best)], simpy)


if __name__ == "__main__":
    main()
