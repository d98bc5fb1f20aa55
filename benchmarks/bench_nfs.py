"""Steady buffered writing over NFS: pages a second of CPU time beside SimPy's events, and how full the link is.

One program writes a file that is larger than memory to a server outside the host, whose disk is no hindrance, in WRITEs
of 1 MiB. After the first second or two it is the link that sets the pace, and the throttle that holds the writer to it.
"""

import argparse

from yardstick import print_rates, seconds, simpy_rate

from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment
from netvm.units import MIB, NS_PER_S

PAGES_PER_MIB = 256
LINK_BYTES_PER_S = 125_000_000


def experiment(mib: int) -> Experiment:
    """Return a writer of ``mib`` over a mount."""
    data = {
        "machine": {"ram_mib": 256},
        "storage": {"kind": "nfs", "role": "fs", "size_mib": mib + 16},
        "link": {"bandwidth_bytes_per_s": LINK_BYTES_PER_S},
        "workload": [{"kind": "file-writer", "mib": mib, "chunk_kib": 1024}],
    }
    return Experiment(scenario_from(data, origin="bench_nfs"), name="bench_nfs")


def rate(mib: int) -> tuple[float, float]:
    """Return pages a second of CPU time, and the part of the link's rate that the file took."""
    made = experiment(mib)
    begun = seconds()
    run_virtual(made.run)
    pages_per_s = mib * PAGES_PER_MIB / (seconds() - begun)
    return pages_per_s, mib * MIB * NS_PER_S / made.world.now_ns / LINK_BYTES_PER_S


def main() -> None:
    """Print rate and load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the file")
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the best counts")
    options = parser.parse_args()
    simpy = max(simpy_rate() for _ in range(options.rounds))
    runs = [rate(options.mib) for _ in range(options.rounds)]
    best = max(pages_per_s for pages_per_s, _ in runs)
    print_rates("pages", [("SimPy events", simpy), ("written, a file over NFS", best)], simpy)
    print(f"\nload of the link: {runs[0][1]:.2f}")


if __name__ == "__main__":
    main()
