"""The unit of every table here: SimPy's bare event rate, and clocks that a busy machine disturbs least.

SimPy is what one would otherwise write such a model with. Its bare rate is one process (or a hundred) that yields
timeouts: nothing can be modelled in it faster than that. It says how fast this machine is just now, so a figure divided
by it can be compared with the same figure of another machine.
"""

from time import process_time  # noqa: TID251  a benchmark reads the machine's clocks

import simpy

__all__ = ["print_rates", "seconds", "simpy_rate"]


def seconds() -> float:
    """Return the CPU time this process has used, in seconds: other programs on the machine do not count."""
    return process_time()


def simpy_rate(nr_events: int = 200_000, nr_processes: int = 1) -> float:
    """Return SimPy's events a second for processes that yield timeouts."""
    env = simpy.Environment()

    def process(nr: int) -> simpy.events.ProcessGenerator:
        for _ in range(nr):
            yield env.timeout(1)

    for _ in range(nr_processes):
        env.process(process(nr_events // nr_processes))
    begun = seconds()
    env.run()
    return nr_events / (seconds() - begun)


def print_rates(unit: str, rows: list[tuple[str, float]], yardstick: float) -> None:
    """Print one line a rate: how many a second, what each takes, and the ratio to SimPy's events."""
    width = max(len(name) for name, _ in rows)
    print(f"{'':{width}} {unit + '/s':>14} {'us each':>9} {'x SimPy':>8}")
    for name, rate in rows:
        print(f"{name:{width}} {rate:14,.0f} {1e6 / rate:9.3f} {rate / yardstick:8.2f}")
