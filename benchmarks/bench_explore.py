"""How fast schedules are explored: schedules and states a second, and how many of a strategy's schedules are repeats.

Three subjects: the abstract machine (``abstract/reserve``), the small form of exhibit A2 (a host of 24 MiB whose flood
ends), and the packed search in numpy. ``--table`` instead proves every machine of N <= 8, W <= 3, B <= 2 with both
searches; ``--distinct N`` counts the different schedules among the first N of each strategy.
"""

import argparse
from collections.abc import Iterator
from time import perf_counter as wall  # noqa: TID251  a benchmark reads the machine's clocks

from msgspec.structs import replace
from yardstick import print_rates, seconds, simpy_rate

from netvm.explore.packed_reserve import search
from netvm.explore.result import CheckResult
from netvm.explore.search import STRATEGIES, Budget, check
from netvm.explore.subject import Subject
from netvm.scenario.catalog import find
from netvm.scenario.load import load_scenario
from netvm.scenario.schema import Abstract

SMALL_A2 = (
    "machine.ram_mib=24",
    "machine.reserved_pages=1024",
    "nic.ring=32",
    "storage.size_mib=64",
    "workload.0.mib=20",
    "vm.min_free_kbytes=256",
    "vm.udp_mem=[8192,8192,8192]",
    "traffic.0.rcvbuf_bytes=8388608",
    "traffic.0.stop_ms=400",
    "vm.hung_task_timeout_secs=10",
)
"""What makes exhibit A2 small enough to be run often."""


def subject_of(name: str, *overrides: str) -> Subject:
    """Load a shipped scenario to be explored."""
    return Subject(scenario=load_scenario(find(name)[0].path, overrides=overrides), name=name)


def machines() -> Iterator[Abstract]:
    """Generate every small abstract machine."""
    for frames in range(1, 9):
        for reserve in range(frames + 1):
            for writebacks in range(4):
                for bystanders in range(3):
                    for priority in (False, True):
                        for drop in (False, True):
                            yield Abstract(
                                frames=frames,
                                reserve=reserve,
                                writebacks=writebacks,
                                bystanders=bystanders,
                                priority=priority,
                                drop=drop,
                            )


def plainest(machine: Abstract) -> Abstract:
    """Return the machine without the keys that nobody reads in it: several configurations are one machine.

    Without bystanders nothing is dropped, and where they are dropped none is parked, so how many may be is not asked.
    """
    if machine.drop and machine.bystanders:
        return replace(machine, bystanders=1)
    return replace(machine, drop=False)


def table() -> None:
    """Prove or refute every small machine by both searches; the product looks at each machine once."""
    base = subject_of("abstract/reserve").scenario
    counts = {"product": 0.0, "packed": 0.0}
    began = wall()
    states = schedules = steps = disagree = nr = 0
    searched: dict[Abstract, CheckResult] = {}
    packed_states = 0
    for abstract in machines():
        begun = seconds()
        alike = plainest(abstract)
        result = searched.get(alike)
        if result is None:
            subject = Subject(scenario=replace(base, abstract=alike), name="m")
            result = searched[alike] = check(subject, strategy="exhaustive", budget=Budget())
            schedules += result.schedules
            states += result.states or 0
            steps += result.steps
        middle = seconds()
        packed = search(
            frames=abstract.frames,
            reserve=abstract.reserve,
            writebacks=abstract.writebacks,
            bystanders=abstract.bystanders,
            priority=abstract.priority,
            drop=abstract.drop,
        )
        counts["product"] += middle - begun
        counts["packed"] += seconds() - middle
        packed_states += packed.nr_states
        disagree += packed.safe != (result.result == "proved")
        nr += 1
    print(f"{nr} configurations, {len(searched)} machines: {disagree} disagreements")
    print(f"product: {schedules} schedules, {steps} steps, {states} states in {counts['product']:.1f} s of CPU")
    print(f"packed: {packed_states} states in {counts['packed']:.1f} s of CPU; all in {wall() - began:.1f} s of time")


def rates(yardstick: float) -> None:
    """Print schedules, steps and states a second."""
    rows: list[tuple[str, float]] = []
    abstract = subject_of("abstract/reserve", "run.max_steps=100")
    for strategy in ("random", "pct", "pos", "delay"):
        begun = seconds()
        result = check(abstract, strategy=strategy, budget=Budget(nr_schedules=300))
        rows.append((f"abstract, 100 steps: {strategy}", result.schedules / (seconds() - begun)))
    machine = subject_of(
        "abstract/reserve",
        "abstract.frames=12",
        "abstract.reserve=6",
        "abstract.writebacks=3",
        "abstract.bystanders=2",
        "abstract.drop=false",
    )
    begun = seconds()
    result = check(machine, strategy="exhaustive", budget=Budget())
    rows.append((f"abstract, exhaustive ({result.result})", result.schedules / (seconds() - begun)))
    for arm, nr in (("broken", 4), ("fixed", 4)):
        subject = subject_of(f"A2/nbd-{arm}", *SMALL_A2)
        begun = seconds()
        found = check(subject, strategy="random", budget=Budget(nr_schedules=nr), keep_going=True)
        runs = found.schedules + (10 if found.failures else 0)
        rows.append((f"A2 small, {arm}: {found.result}", runs / (seconds() - begun)))
    print_rates("schedules", rows, yardstick)
    begun = seconds()
    assert result.states is not None
    check(machine, strategy="exhaustive", budget=Budget())
    states = [("abstract, exhaustive", result.states / (seconds() - begun))]
    begun = seconds()
    packed = search(frames=400, reserve=60, writebacks=24, bystanders=12, priority=True, drop=False)
    states.append((f"packed, {packed.nr_states} states", packed.nr_states / (seconds() - begun)))
    print_rates("states", states, yardstick)


def distinct(nr: int) -> None:
    """Print how many of the first schedules of each strategy are different."""
    subject = subject_of("abstract/reserve", "run.max_steps=20")
    for strategy in STRATEGIES[:-1]:
        result = check(subject, strategy=strategy, budget=Budget(nr_schedules=nr))
        print(f"{strategy:8} {result.distinct} different of the first {result.schedules} schedules of 20 steps")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="prove every small machine with both searches")
    parser.add_argument("--distinct", type=int, default=0, help="schedules a strategy to look for repeats in")
    arguments = parser.parse_args()
    yardstick = simpy_rate()
    print(f"SimPy: {yardstick:,.0f} events/s")
    if not arguments.table and not arguments.distinct:
        rates(yardstick)
    if arguments.distinct:
        distinct(arguments.distinct)
    if arguments.table:
        table()


if __name__ == "__main__":
    main()
