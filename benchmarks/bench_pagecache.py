"""The page cache: pages written a second beside SimPy's events.

One writer and a local disk that is no hindrance: what does a page cost from ``write`` to the store?
"""

import argparse

from yardstick import print_rates, seconds, simpy_rate

from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment

PAGES_PER_MIB = 256


def rate(mib: int) -> float:
    """Return pages a second of CPU time that a writer gets to the store."""
    data = {
        "machine": {"ram_mib": 256},
        "nic": {"kind": "loopback"},
        "storage": {"kind": "disk", "role": "fs", "size_mib": mib + 16},
        "workload": [{"kind": "file-writer", "mib": mib}],
    }
    experiment = Experiment(scenario_from(data, origin="bench_pagecache"), name="bench_pagecache")
    begun = seconds()
    run_virtual(experiment.run)
    return mib * PAGES_PER_MIB / (seconds() - begun)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of the file")
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the best counts")
    options = parser.parse_args()
    simpy = max(simpy_rate() for _ in range(options.rounds))
    best = max(rate(options.mib) for _ in range(options.rounds))
    print_rates("pages", [("SimPy events", simpy), ("written, a file on a local disk", best)], simpy)


if __name__ == "__main__":
    main()
