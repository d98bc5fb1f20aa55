"""Reading traces, recording them, and showing them: how fast, how much memory, how large.

*Reading*: ftrace text, beside the straightforward way in the same run: one regular expression for the left part of a
line and one for its fields. *Memory*: the peak of a process that profiles a long text from a pipe. *Recording*: CPU
time of one scenario without a recorder, with the default groups and with all, in pairs of neighbouring runs. *Page*:
size, and time to write it.
"""

import argparse
import gzip
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time  # noqa: TID251  # a benchmark measures real time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from netvm.report.ftrace import FtraceReader
from netvm.report.page import PageData, page_html
from netvm.report.profile import Profiler
from netvm.report.reorder import in_order
from netvm.report.source import open_trace
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.scenario.run import run_scenario
from netvm.trace.recorder import DEFAULT_GROUPS, FULL_GROUPS, Recorder
from netvm.trace.records import Recorded

_TRACES = Path(__file__).parents[1] / "tests" / "data" / "traces"
_LEFT = re.compile(r"^\s*(.+)-(\d+)\s+\[(\d+)\]\s+(\S+)\s+(\d+)\.(\d+): (\w+): (.*)$")
_FIELD = re.compile(r"(\w+)=(\S+)")
_SCENARIO = """
[kernel]
preset = "6.1"
[machine]
ram_mib = 64
cpus = 1
[storage]
kind = "nbd"
[[workload]]
kind = "anon-hog"
mib = 80
passes = 2
"""


def text_of(path: Path | None, megabytes: int) -> bytes:
    """Return ftrace text of about so many megabytes: a trace, again and again."""
    name = path or _TRACES / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"
    text = gzip.decompress(name.read_bytes()) if name.suffix == ".gz" else name.read_bytes()
    return text * max(1, (megabytes << 20) // len(text))


def by_regex(text: bytes) -> int:
    """Read every line with two regular expressions; return events."""
    events = 0
    for line in text.decode().split("\n"):
        match = _LEFT.match(line)
        if match is None:
            continue
        _, pid, cpu, _, second, fraction, _, rest = match.groups()
        fields = {key: int(value) if value.isdigit() else value for key, value in _FIELD.findall(rest)}
        events += bool(int(pid) + int(cpu) + int(second) * 10**9 + int(fraction) * 1000 >= 0 and fields is not None)
    return events


def by_reader(text: bytes) -> int:
    """Read every line with netvm's reader; return events."""
    pieces = (text[start : start + (1 << 18)] for start in range(0, len(text), 1 << 18))
    return sum(len(batch) for batch in FtraceReader(Recorded()).batches(pieces))


def by_profile(text: bytes) -> int:
    """Read and profile; return events."""
    recorded = Recorded()
    pieces = (text[start : start + (1 << 18)] for start in range(0, len(text), 1 << 18))
    profiler = Profiler(recorded)
    for batch in in_order(FtraceReader(recorded).batches(pieces), recorded.losses):
        profiler.add(batch)
    return profiler.profile().events


def rate(function: Callable[[bytes], int], text: bytes) -> float:
    """Return events a second of CPU time."""
    began = time.process_time()
    events = function(text)
    return events / (time.process_time() - began)


def peak_mib(megabytes: int, text: bytes) -> tuple[int, float]:
    """Return the peak memory of a process that profiles so much text from a pipe, and its seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "netvm", "profile", "-"], stdin=subprocess.PIPE, stdout=out, stderr=out
        )
        assert process.stdin is not None
        sent = 0
        while sent < megabytes << 20:
            process.stdin.write(text)
            sent += len(text)
        process.stdin.close()
        process.wait()
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, time.perf_counter() - began


def run_seconds(groups: tuple[str, ...] | None) -> tuple[float, int]:
    """Return CPU seconds of the scenario and records written."""
    scenario = scenario_from(tomllib.loads(_SCENARIO), origin="benchmark")
    recorders: list[Recorder] = []

    def tracer(world: World) -> Recorder:
        recorders.append(Recorder(world, groups=groups or ()))
        return recorders[0]

    began = time.process_time()
    run_scenario(scenario, name="benchmark", tracer=None if groups is None else tracer)
    seconds = time.process_time() - began
    nr_records = sum(len(batch) for batch in recorders[0].batches()) if recorders else 0
    return seconds, nr_records


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """Generate the lines of the table."""
    text = text_of(arguments.trace, arguments.megabytes)
    ways = {"regex": by_regex, "reader": by_reader, "reader + profile": by_profile}
    best = dict.fromkeys(ways, 0.0)
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            best[name] = max(best[name], rate(way, text))
    for name, events in best.items():
        yield f"{name:20}{events / 1000:10.0f} k events/s{events / best['regex']:8.1f} x"
    if arguments.long:
        mib, seconds = peak_mib(arguments.long, text)
        yield f"profile of {arguments.long} MB from a pipe: peak {mib} MiB, {seconds:.0f} s"
    groups = {"no recorder": None, "default groups": DEFAULT_GROUPS, "all groups": FULL_GROUPS}
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in groups}
    for turn in range(arguments.rounds):
        # there and back: a machine that grows slower meanwhile is no part of the difference
        for name in list(groups)[:: -1 if turn % 2 else 1]:
            runs[name].append(run_seconds(groups[name]))
    without = [seconds for seconds, _ in runs["no recorder"]]
    for name, taken in runs.items():
        spent = [seconds for seconds, _ in taken]
        ratio = statistics.median(a / b for a, b in zip(spent, without, strict=True))
        best = min(spent) / min(without)
        yield (
            f"{name:20}{statistics.median(spent):10.2f} s{100 * (ratio - 1):8.1f} % (median of pairs)"
            f"{100 * (best - 1):8.1f} % (best of each){taken[0][1]:10} records"
        )
    began = time.process_time()
    trace = arguments.trace or _TRACES / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"
    with open_trace(trace) as (recorded, batches):
        page = page_html(PageData(recorded, batches).as_dict(), name="benchmark")
    yield f"page: {len(page.encode()) / 1000:.0f} kB in {time.process_time() - began:.2f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="ftrace text to read")
    parser.add_argument("--megabytes", type=int, default=20, help="text to read in each round")
    parser.add_argument("--long", type=int, default=0, metavar="MB", help="also profile so much from a pipe")
    parser.add_argument("--rounds", type=int, default=3)
    for row in rows(parser.parse_args()):
        print(row, flush=True)
