"""Recorded runs: what the machine printed is read as it stands, and what is wrong with a directory is told."""

import json
from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.scenario.recorded import (
    RecordedZone,
    SlabCache,
    TaskState,
    read_buddyinfo,
    read_console,
    read_recorded_run,
    read_slabinfo,
    read_zoneinfo,
)

_RUNS = Path(__file__).parents[2] / "data" / "runs"


def test_a_completed_run_is_read_whole() -> None:
    """Config, machine, limits, counters and the program's passes are all there, and no console."""
    run = read_recorded_run(_RUNS / "D2-guestnbd-2ms-a")
    assert run.config.backend.latency_us == 2000
    assert run.zones == (
        RecordedZone(
            name="DMA32",
            present=24478,
            managed=19867,
            free=12203,
            min=2048,
            low=2560,
            high=3072,
            protection=(0, 0, 0),
            pcp=106,
            inactive_anon=18,
            buddyinfo=(3, 4, 6, 3, 5, 5, 8, 5, 2, 4, 8),
        ),
    )
    assert run.sysctls["min_free_kbytes"] == "8192"
    assert run.queue["max_sectors_kb"] == "128"
    assert run.vmstat["pswpout"] == run.summary["pswpout"] == 42187
    assert len(run.passes_ns) == 2
    assert run.console is None


def test_two_zones_are_read_in_order() -> None:
    """A machine with a DMA zone has both, with what each keeps from higher requests; empty zones are left out."""
    dma, dma32 = read_recorded_run(_RUNS / "M15-deb192-iscsi-seq").zones
    assert (dma.name, dma.protection[:2], dma.inactive_anon) == ("DMA", (0, 126), 0)
    assert (dma32.name, dma32.managed, dma32.pcp, dma32.inactive_anon) == ("DMA32", 32464, 352, 18)


def test_a_hung_run_has_a_console_and_no_end() -> None:
    """Of a run that hung there are the dumps, and neither counters nor a summary."""
    run = read_recorded_run(_RUNS / "U6-knob3-noflood-stacks")
    assert run.console is not None
    assert (run.summary, run.vmstat, run.passes_ns) == ({}, {}, ())


def test_the_last_dump_of_a_console_counts() -> None:
    """Pages under writeback, free pages, boost and the last heartbeat are those of the last dump."""
    console = read_recorded_run(_RUNS / "U6-knob3-noflood-stacks").console
    assert console is not None
    assert (console.writeback, console.free, console.boost_kb) == (21, 841, 4096)
    assert console.reached == "hog pass=0 idx=11393"
    assert (console.allocation_failures, console.panic) == ((), "")


def test_stuck_tasks_have_their_stacks() -> None:
    """Tasks in D state, and the one that reclaims for ever; frames of the scheduler and guesses are left out."""
    console = read_recorded_run(_RUNS / "U6-knob3-noflood-stacks").console
    assert console is not None
    tasks = {task.name: task for task in console.tasks}
    assert list(tasks) == ["kthreadd", "kworker/0:0H", "kswapd0", "kworker/u3:0", "kworker/0:1H", "hog"]
    assert tasks["kswapd0"].stack[:4] == ("mempool_alloc", "bio_alloc_bioset", "__swap_writepage", "pageout")
    assert tasks["kworker/0:1H"].state == "R"
    assert "skb_page_frag_refill" in tasks["kworker/0:1H"].stack


def test_a_console_that_ends_in_a_panic() -> None:
    """A run that was ended by a panic has that line, and no dump."""
    console = read_recorded_run(_RUNS / "L1-loopback-nbd-deadlock").console
    assert console is not None
    assert console.panic == "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000007"
    assert (console.writeback, console.free, console.tasks) == (None, None, ())


def test_a_garbled_console_is_still_read() -> None:
    """A serial line that doubles characters does not hide what is said."""
    console = read_console(
        "[   50.834552]  D         kswapd0    22      4098.502065        37   120         0.000000\n"
        "[   50.876641] >R    kworker/0:2H   156      4111.191216       720   100         0.000000\n"
        "[   30.436957] task:hog             state:D stack:0     pid:2     ppid:0      flags:0x000044000\n"
        "[   30.437000]  <TASK>\n"
        "[   30.4388777]  schedule_timeouut+0x81/0x100\n"
        "[   30.438900]  mempool_alloc+0xx144/0x160\n"
        "[   30.438950]  ? call_timer_fn+0xd0/0xd0\n"
        "[   30.439000]  </TASK>\n"
        "[   75.780018]  unevictable:2038 dirty:0 writeback:105\n"
        "[   75.780018]  free:23 freee_pcp:11 free_cma:0\n"
        "[    7.913916] hog: page allocation failure: order:0, mode:0xa20(GFP_ATOMIC), nodemask=(null)\n"
    )
    assert (console.writeback, console.free) == (105, 23)
    assert console.tasks == (
        TaskState(name="hog", state="D", stack=("mempool_alloc",)),
        TaskState(name="kswapd0", state="D"),
    )
    assert console.allocation_failures == ("hog: order:0 GFP_ATOMIC",)


def test_small_files_of_proc() -> None:
    """Free lists and caches are read by name; lines that are neither are passed over."""
    assert read_buddyinfo("Node 0, zone    DMA32      3      4 \nrubbish\n") == {"DMA32": (3, 4)}
    text = (
        "slabinfo - version: 2.1\n# name <active_objs> ...\n"
        "bio-160               21     42    192   21    1 : tunables    0    0    0 : slabdata      1      1      0\n"
    )
    assert read_slabinfo(text) == {"bio-160": SlabCache(21, 192)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Node 0, zone DMA32\n  pages free 1\n", "z: zone DMA32: no line for 'min'; must be a whole /proc/zoneinfo"),
        ("rubbish\n", "z: no populated zone; must be a whole /proc/zoneinfo"),
    ],
)
def test_a_truncated_zoneinfo_is_refused(text: str, line: str) -> None:
    """A zone without its figures is told; nothing is guessed."""
    with pytest.raises(UsageError) as caught:
        read_zoneinfo(text, origin="z")
    assert str(caught.value) == line


def _config(**changes: object) -> dict[str, object]:
    data: dict[str, object] = json.loads((_RUNS / "D2-guestnbd-2ms-a" / "config.json").read_text())
    return data | changes


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "run/config.json: not JSON: Input data was truncated"),
        ('{"run": "x"', "run/config.json: not JSON: Input data was truncated"),
        ("[]", "run/config.json: must be a JSON object"),
        ('{"run": "x"}', "run/config.json: kernel: missing; must be a string"),
        (
            json.dumps(_config(workload={"kind": "anon-hog", "mib": "many"})),
            'run/config.json: workload.mib = "many": must be an integer above 0',
        ),
        (json.dumps(_config(cpus=0)), "run/config.json: cpus = 0: must be an integer above 0"),
    ],
)
def test_a_garbled_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str) -> None:
    """What is wrong with config.json is one line with file, key, value and what would be right."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_recorded_run(Path("run"))
    assert str(caught.value) == line


def test_a_directory_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing directory, a file, and a directory without config.json are each told."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("empty").mkdir()
    told = []
    for name in ("gone", "file", "empty"):
        with pytest.raises(UsageError) as caught:
            read_recorded_run(Path(name))
        told.append(str(caught.value))
    assert told == [
        "gone: no such file or directory; must be the directory of a recorded run, with its config.json",
        "file: not a directory; must be the directory of a recorded run, with its config.json",
        "empty: no config.json in it; must be the directory of a recorded run",
    ]
