"""Programs that use files, over a whole host: they finish, what they wrote is stored, and the books balance."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from netvm.errors import UsageError
from netvm.scenario.against import compare
from netvm.scenario.imported import import_run
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import Outcome, outcome_json
from netvm.scenario.recorded import read_recorded_run
from netvm.scenario.run import run_scenario

_RUNS = Path(__file__).parents[2] / "data" / "runs"


def _run(*workload: dict[str, Any], storage: dict[str, Any] | None = None, **tables: Any) -> Outcome:
    data = {
        "machine": {"ram_mib": 48},
        "nic": {"kind": "loopback"},
        "storage": {
            "kind": "disk",
            "role": "fs",
            "size_mib": 128,
            "disk": {"bandwidth_bytes_per_s": 20_000_000},
            **(storage or {}),
        },
        "workload": list(workload),
        **tables,
    }
    outcome = run_scenario(scenario_from(data, origin="test"), name="test")
    assert outcome.audit == []
    return outcome


@pytest.mark.parametrize("how", [{}, {"pattern": "rand"}, {"mmap": True}, {"fsync": "never"}])
def test_a_writer_larger_than_memory_finishes(how: dict[str, Any]) -> None:
    """Twice the machine's free memory is written: dirtied, throttled, written back, reclaimed."""
    outcome = _run({"kind": "file-writer", "mib": 40, **how})
    assert outcome.verdict == "COMPLETED"
    (writer,) = outcome.workload
    assert (writer.finished, writer.kind, writer.passes[0].touches) == (True, "file-writer", 640)
    assert outcome.vmstat["nr_written"] > 0
    if how.get("pattern") != "rand":
        assert outcome.vmstat["pgsteal_file"] > 1000
        assert outcome.vmstat["nr_dirtied"] >= 10_240
    if how.get("fsync") != "never":
        assert outcome.vmstat["nr_dirty"] == outcome.vmstat["nr_writeback"] == 0
    assert outcome.vmstat["oom_kill"] == 0


def test_a_log_is_stored_chunk_by_chunk() -> None:
    """With fsync after each chunk no more than a chunk is ever dirty, and the device sets the pace."""
    outcome = _run({"kind": "file-writer", "mib": 4, "fsync": "each"})
    assert outcome.verdict == "COMPLETED"
    assert outcome.workload[0].passes[0].total_ns > 4 * 1024 * 1024 * 1e9 / 20_000_000
    assert outcome.vmstat["nr_written"] == outcome.vmstat["nr_dirtied"] == 1024


@pytest.mark.parametrize("pattern", ["seq", "rand"])
def test_a_reader_gets_back_what_it_wrote(pattern: str) -> None:
    """Every page read is the newest version; the reading is reported, not the writing before it."""
    outcome = _run({"kind": "file-reader", "mib": 8, "pattern": pattern})
    assert outcome.verdict == "COMPLETED"
    assert outcome.workload[0].passes[0].touches == 128
    assert outcome.vmstat["pgpgin"] > 0


@pytest.mark.parametrize(("kind", "counted"), [("disk", True), ("nfs", False)])
def test_what_goes_to_a_block_device_is_counted_as_paged(kind: str, counted: bool) -> None:
    """Kilobytes of bios, of files and of swap; over NFS there are none, as in the recorded runs."""
    reader = {"kind": "file-reader", "mib": 2}
    hog = {"kind": "anon-hog", "mib": 23, "passes": 2}
    card = {"kind": "e1000" if kind == "nfs" else "loopback"}
    vmstat = _run(reader, hog, storage={"kind": kind, "swap_mib": 48}, nic=card, vm={"min_free_kbytes": 4096}).vmstat
    assert vmstat["nr_written"] > vmstat["pswpout"] > 0
    assert vmstat["pswpin"] > 0
    assert vmstat["pgpgout"] == (4 * (vmstat["nr_written"] + vmstat["nr_writeback"]) if counted else 0)
    assert vmstat["pgpgin"] >= 4 * vmstat["pswpin"] if counted else vmstat["pgpgin"] == 0


@pytest.mark.slow
def test_a_writer_and_a_hog_share_a_device() -> None:
    """Files and swap on one device, both under pressure: both programs finish and nothing is lost."""
    outcome = _run(
        {"kind": "file-writer", "mib": 16},
        {"kind": "anon-hog", "mib": 40},
        storage={"swap_mib": 48},
    )
    assert outcome.verdict == "COMPLETED"
    assert outcome.vmstat["pswpout"] > 0
    assert outcome.vmstat["pgsteal_file"] > 0


def test_two_processes_have_two_files() -> None:
    """Each process writes a file of its own."""
    outcome = _run({"kind": "file-writer", "mib": 2, "processes": 2})
    assert [report.name for report in outcome.workload] == ["fwriter0", "fwriter1"]
    assert outcome.vmstat["nr_dirtied"] == 1024


def test_writers_that_name_a_file_share_it() -> None:
    """Two write the same pages, so memory holds one file; what each has on its heap is anonymous."""
    outcome = _run({"kind": "file-writer", "mib": 2, "file": "log", "processes": 2, "fsync": "never", "heap_mib": 3})
    assert outcome.verdict == "COMPLETED"
    assert outcome.vmstat["nr_file_pages"] == 512
    assert outcome.vmstat["pgfault"] == 2 * 768


@pytest.mark.parametrize("pinned_one_in", [0, 32])
def test_a_metadata_storm_is_reclaimed(pinned_one_in: int) -> None:
    """More paths than memory holds: the shrinker frees them, with and without some that are held open."""
    storm = {"kind": "metadata-storm", "files": 30_000, "pinned_one_in": pinned_one_in}
    outcome = _run(storm, machine={"ram_mib": 32})
    assert outcome.verdict == "COMPLETED"
    assert outcome.vmstat["slabs_scanned"] > 1000
    assert outcome.workload[0].passes[0].touches == 30_000


@pytest.mark.slow
def test_an_encrypted_device_keeps_what_is_written() -> None:
    """Files and swap go through dm-crypt and come back the same."""
    outcome = _run(
        {"kind": "file-reader", "mib": 4},
        {"kind": "anon-hog", "mib": 20},
        storage={"swap_mib": 48, "encrypted": True},
        machine={"ram_mib": 32},
    )
    assert outcome.verdict == "COMPLETED"
    assert outcome.vmstat["pswpin"] > 0


def test_a_writer_whose_server_is_gone_is_told() -> None:
    """NBD has no way back after a closed connection: fsync says so, what was not written is counted, nothing hangs."""
    outcome = _run(
        {"kind": "file-writer", "mib": 8},
        storage={"kind": "nbd", "disk": {"bandwidth_bytes_per_s": 4_000_000}},
        nic={"kind": "e1000"},
        fault=[{"kind": "reset", "at_ms": 300}],
    )
    assert outcome.verdict == "IO_ERROR"
    assert not outcome.workload[0].finished
    assert any("file pages were lost" in line for line in outcome.explanation)


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes() -> None:
    """A run with files, reclaim and swap beside them repeats to the byte; another seed differs."""
    writer = {"kind": "file-writer", "mib": 6, "pattern": "rand"}
    how: dict[str, Any] = {"storage": {"swap_mib": 32}, "machine": {"ram_mib": 32}}
    one, two, other = (
        outcome_json(_run(writer, {"kind": "anon-hog", "mib": 18}, run={"seed": seed, "oracle": "random"}, **how))
        for seed in (7, 7, 8)
    )
    assert one == two
    assert one != other


def test_files_need_a_file_system() -> None:
    """A writer over a swap device is refused, with the key to change."""
    with pytest.raises(UsageError, match=r'uses files, .* must be storage.role "fs", with .* storage.swap_mib'):
        _run({"kind": "file-writer", "mib": 1}, storage={"role": "swap"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["D8-guestnbd-fw-10MBs-dr20", "M08-gt128-fw-10MBs-dr20", "N65-NBDcontrol-fw-10MBs-dr60-hog40"]
)
def test_recorded_writers_end_as_recorded(name: str) -> None:
    """An imported writer completes without an OOM kill, in about its time, with every page dirtied and written once."""
    run = read_recorded_run(_RUNS / name)
    scenario = scenario_from(tomllib.loads(import_run(_RUNS / name)), origin=name)
    outcome = run_scenario(scenario, name=name)
    compared = compare(run, outcome)
    assert (outcome.verdict, compared.agree, outcome.audit) == ("COMPLETED", True, [])
    assert outcome.vmstat["oom_kill"] == 0
    ratios = {row.name: row.ratio for row in compared.counters + compared.times_s}
    assert all(0.95 < (ratios[key] or 0) < 1.05 for key in ("nr_dirtied", "nr_written", "pgpgout"))
    assert 0.85 < (ratios["program"] or 0) < 1.15
    if name.startswith("D8"):
        # the machine whose clock counted instructions: its reclaim can be held to more
        assert 0.97 < (ratios["pgscan_kswapd"] or 0) < 1.03
