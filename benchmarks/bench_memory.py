"""What a page costs: first touches a second, booting a large host, and whether a run pays for RAM it does not use.

*First touch*: a program writes to a million pages of fresh anonymous memory for the first time; nothing is short, so
each is a fault served by the fast path. *Boot*: a host of 64 GiB, and how much larger that makes this process
(resident set, read from the system), booted and again when every frame it can give is in use by a program. *Same
work*: the same program, run to its audited end on hosts of different size.

Each of the last two is measured in a process of its own, since memory that was once in use colours what comes after.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter  # noqa: TID251  a benchmark reads the machine's clocks
from typing import Any

from yardstick import print_rates, seconds, simpy_rate

from netvm.host.boot import boot, start_threads
from netvm.host.machine import Host
from netvm.runtime.clock import run_virtual
from netvm.runtime.task import Task
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.scenario.run import run_scenario
from netvm.scenario.schema import Scenario
from netvm.units import MIB, PAGE_SIZE

_PAGES_PER_MIB = MIB // PAGE_SIZE
_PAGE_TABLE_BYTES = 13
"""What a program's page tables take here for each of its pages: PTE, its bits, and the version of the content."""


def scenario(ram_mib: int, hog_mib: int = 1) -> Scenario:
    """Return a host of this size with a local disk and one program."""
    return scenario_from(
        {
            "machine": {"ram_mib": ram_mib},
            "storage": {"kind": "disk", "size_mib": 64},
            "workload": [{"kind": "anon-hog", "mib": hog_mib, "passes": 2}],
        },
        origin="benchmark",
    )


def touch(host: Host, nr_pages: int) -> float:
    """Let a program touch fresh pages in order; return the CPU seconds it took."""
    took = 0.0

    async def program(task: Task) -> None:
        nonlocal took
        space = host.memory.map_anonymous(task, nr_pages)
        begun = seconds()
        assert await host.memory.touch_run(task, space, 0, nr_pages, write=True)
        took = seconds() - begun
        host.world.stop()

    def main() -> None:
        start_threads(host)
        host.world.spawn("program", program, cpus=host.cpus)

    async def run() -> None:
        await host.world.run(main)

    run_virtual(run)
    return took


def touch_rate(nr_pages: int) -> float:
    """Return first touches a second on a host with twice the memory."""
    host = boot(World(), scenario(max(2 * nr_pages // _PAGES_PER_MIB, 64)), log=_no_log)
    return nr_pages / touch(host, nr_pages)


def measure_boot(ram_mib: int) -> dict[str, float]:
    """Boot a host and then put all of its memory to use; return CPU seconds and bytes a frame."""
    boot(World(), scenario(64), log=_no_log)  # what is loaded and made once is not the large host's
    before = _resident_bytes()
    begun = seconds()
    host = boot(World(), scenario(ram_mib), log=_no_log)
    boot_s = seconds() - begun
    booted = _resident_bytes()
    nr_frames = host.frames.nr_frames
    nr_pages = host.node.nr_free - 4 * sum(zone.high_wmark_pages() for zone in host.node.zones)
    touch(host, nr_pages)
    tables = _PAGE_TABLE_BYTES * nr_pages
    return {
        "boot_s": boot_s,
        "booted": (booted - before) / nr_frames,
        "used": (_resident_bytes() - before - tables) / nr_frames,
        "with_tables": (_resident_bytes() - before) / nr_frames,
        "share": nr_pages / nr_frames,
    }


def measure_run(ram_mib: int, hog_mib: int) -> dict[str, float]:
    """Run the same program on a host of this size to its audited end; return wall and CPU seconds and peak MiB."""
    options = scenario(ram_mib, hog_mib)
    begun, cpu_begun = perf_counter(), seconds()
    outcome = run_scenario(options, name="benchmark")
    assert outcome.verdict == "COMPLETED"
    assert not outcome.audit
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall_s": perf_counter() - begun, "cpu_s": seconds() - cpu_begun, "peak_mib": peak}


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _no_log(event: str, **facts: Any) -> None:
    """Forget what the kernel logs."""


def _apart(*arguments: object) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--apart", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="first touches, boot, and the cost of RAM that is not used")
    parser.add_argument("--pages", type=int, default=1_000_000, help="pages touched for the first time")
    parser.add_argument("--ram", type=int, default=64 * 1024, help="MiB of the host that is booted")
    parser.add_argument("--hog", type=int, default=128, help="MiB of the program that is run on hosts of each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 4096, 65536], help="MiB of those hosts")
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts")
    parser.add_argument("--apart", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apart:
        ram_mib, *hog = arguments.apart
        print(json.dumps(measure_run(ram_mib, *hog) if hog else measure_boot(ram_mib)))
        return
    yardstick = touches = 0.0
    for _ in range(arguments.rounds):
        yardstick = max(yardstick, simpy_rate())
        touches = max(touches, touch_rate(arguments.pages))
    rows = [("SimPy, bare events", yardstick), (f"first touch of {arguments.pages:,} pages", touches)]
    print_rates("", rows, yardstick)
    boots = [_apart(arguments.ram) for _ in range(arguments.rounds)]
    one = min(boots, key=lambda boot: boot["boot_s"])
    print(f"\nhost of {arguments.ram / 1024:g} GiB: boots in {one['boot_s']:.2f} CPU s and takes")
    print(f"{one['booted']:8.1f} bytes a frame, booted")
    print(f"{one['used']:8.1f} bytes a frame when a program uses {one['share']:.0%} of them")
    print(f"{one['with_tables']:8.1f} with that program's own page tables and contents")
    print(f"\n{'the same program on':>20} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9}")
    for ram_mib in arguments.sizes:
        runs = [_apart(ram_mib, arguments.hog) for _ in range(arguments.rounds)]
        run = min(runs, key=lambda run: run["cpu_s"])
        print(f"{ram_mib:16,} MiB {run['wall_s']:8.2f} {run['cpu_s']:8.2f} {run['peak_mib']:9.0f}")


if __name__ == "__main__":
    main()
