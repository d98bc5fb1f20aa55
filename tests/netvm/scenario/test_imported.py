"""Import: every recorded run becomes a scenario that loads; what is not emulated is refused."""

import json
import shutil
import tomllib
from math import isqrt
from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.scenario.imported import import_run
from netvm.scenario.load import scenario_from
from netvm.scenario.recorded import read_recorded_run
from netvm.scenario.schema import AnonPulse, FileWriter, Flood, Link, Run, Scenario

_RUNS = Path(__file__).parents[2] / "data" / "runs"
_NFS = ("N10-gt96-swap-0ms", "N24-gt96-swap-10MBs-stall10")
_HOGS = sorted(path.name for path in _RUNS.iterdir() if path.name not in _NFS)


def _imported(name: str) -> Scenario:
    return scenario_from(tomllib.loads(import_run(_RUNS / name)), origin=name)


def test_all_recorded_runs_are_here() -> None:
    """The test data holds every recorded anonymous hog, and the file writers over NBD."""
    assert len(_HOGS) == 30


@pytest.mark.parametrize("name", ["D8-guestnbd-fw-10MBs-dr20", "M08-gt128-fw-10MBs-dr20"])
def test_a_file_writer_gets_a_file_system(name: str) -> None:
    """The device holds files, nothing is swap, and the program writes as the recorded one did."""
    scenario, run = _imported(name), read_recorded_run(_RUNS / name)
    (writer,) = scenario.workload
    assert isinstance(writer, FileWriter)
    assert (scenario.storage.role, scenario.storage.swap_mib) == ("fs", 0)
    assert (writer.mib, writer.chunk_kib, writer.fsync) == (run.config.workload.mib, 64, "end")


def test_the_program_beside_a_writer_comes_too(tmp_path: Path) -> None:
    """A recorded second program becomes a second workload, with a remark where it is guessed."""
    run = tmp_path / "run"
    shutil.copytree(_RUNS / "M08-gt128-fw-10MBs-dr20", run)
    config = json.loads((run / "config.json").read_text())
    config["second_workload"] = {"kind": "anon-pulse", "mib": 40, "hold_ms": 1000, "idle_ms": 1000}
    (run / "config.json").write_text(json.dumps(config))
    text = import_run(run)
    writer, pulse = scenario_from(tomllib.loads(text), origin="run").workload
    assert isinstance(writer, FileWriter)
    assert isinstance(pulse, AnonPulse)
    assert (pulse.mib, pulse.hold_ms, pulse.idle_ms) == (40, 1000, 1000)
    assert "its repeats are a guess" in text
    (run / "hog2.txt").write_text("START ns=1\n" + "CYCLE 0 t0=1\n" * 8 + "DONE\n")
    text = import_run(run)
    assert tomllib.loads(text)["workload"][1]["repeats"] == 8
    assert "its repeats are those it had time for" in text


@pytest.mark.parametrize("name", _HOGS)
def test_every_hog_is_imported(name: str) -> None:
    """The scenario loads unmodified, expects the recorded verdict, and has the recorded program and machine."""
    scenario, run = _imported(name), read_recorded_run(_RUNS / name)
    assert scenario.expect[0] == ("COMPLETED" if run.config.verdict == "completed" else "HANG")
    assert scenario.workload[0].mib == run.config.workload.mib
    assert scenario.machine.ram_mib == int(run.config.ram.removesuffix("M"))
    assert scenario.storage.disk.latency_us == run.config.backend.latency_us
    assert scenario.storage.disk.bandwidth_bytes_per_s == run.config.backend.rate_bytes_per_s
    if run.zones:
        assert [(zone.name, zone.managed_pages) for zone in scenario.machine.zones] == [
            (zone.name, zone.managed) for zone in run.zones
        ]
    for zone in scenario.machine.zones:
        assert sum(blocks << order for order, blocks in enumerate(zone.buddyinfo)) == zone.free_pages


@pytest.mark.parametrize("name", _HOGS)
def test_watermarks_follow_from_min_free_kbytes(name: str) -> None:
    """The kernel's formulas over the imported figures give the recorded marks; no mark itself is in the file.

    Over two zones they were taken while init memory still counted, so there only their sum is the recorded one.
    """
    scenario, run = _imported(name), read_recorded_run(_RUNS / name)
    managed = sum(zone.managed_pages for zone in scenario.machine.zones) - scenario.machine.boot.init_pages
    kbytes = scenario.vm.min_free_kbytes or isqrt(16 * 4 * managed)
    assert not run.zones or kbytes == int(run.sysctls["min_free_kbytes"])
    if len(run.zones) == 1:
        zone = run.zones[0]
        step = max(kbytes // 4 // 4, zone.managed * scenario.vm.watermark_scale_factor // 10_000)
        assert (zone.min, zone.low, zone.high) == (kbytes // 4, kbytes // 4 + step, kbytes // 4 + 2 * step)
    elif run.zones:
        assert sum(zone.min for zone in run.zones) == pytest.approx(kbytes // 4, abs=1)


def test_the_small_build() -> None:
    """4 MiB pageblocks, bios of 192 bytes, the server inside the machine, and its costs as calibrated."""
    scenario = _imported("D2-guestnbd-2ms-a")
    assert (scenario.kernel.pageblock_order, scenario.kernel.bio_object_bytes) == (10, 192)
    assert (scenario.nic.kind, scenario.storage.kind, scenario.storage.place) == ("loopback", "nbd", "local")
    assert scenario.storage.server_memory_locked
    assert (scenario.machine.costs.scale, scenario.machine.costs.noise) == (1.0, 0.02)
    assert scenario.machine.boot.slab_objects["bio-160"] == 21
    assert scenario.machine.boot.anon_pages == 18
    assert scenario.machine.boot.start_in_jiffy_ns == (4_555_373_288 + 140_000) % 4_000_000
    assert scenario.vm.min_free_kbytes == 8192


def test_the_debian_build_over_iscsi() -> None:
    """2 MiB pageblocks, bios of 256 bytes, two zones, a rotational disk, large requests, blk-wbt, a slow noisy CPU."""
    scenario = _imported("M15-deb192-iscsi-seq")
    assert (scenario.kernel.pageblock_order, scenario.kernel.bio_object_bytes) == (9, 256)
    assert [zone.name for zone in scenario.machine.zones] == ["DMA", "DMA32"]
    assert (scenario.nic.kind, scenario.storage.kind, scenario.storage.place) == ("e1000", "iscsi", "remote")
    assert (scenario.storage.max_sectors_kb, scenario.storage.nr_requests) == (1280, 226)
    assert scenario.storage.rotational
    assert (scenario.storage.wbt_lat_usec, scenario.storage.write_cache) == (75_000, "write back")
    assert (scenario.machine.costs.scale, scenario.machine.costs.noise) == (2.3, 0.5)
    assert scenario.machine.boot.start_in_jiffy_ns is None


def test_the_speed_of_a_machine_in_real_time() -> None:
    """Reclaim ran as with counted instructions, faults twice as long, and the way to the server was slow."""
    counted, real = _imported("I1-gt96-icount-e1000-hostnbd"), _imported("M01-gt96-0ms-seq")
    assert (counted.machine.costs.scale, counted.machine.costs.faults) == (1.0, 1.0)
    assert (real.machine.costs.scale, real.machine.costs.faults) == (1.0, 1.9)
    assert counted.link.peer_acks == real.link.peer_acks == "frame"
    assert _imported("N10-gt96-swap-0ms").link == real.link
    assert counted.link.bandwidth_bytes_per_s == 0 < real.link.bandwidth_bytes_per_s < 20_000_000
    virtio = _imported("H1-gt96-virtio-stock").link
    assert (virtio.bandwidth_bytes_per_s, virtio.peer_acks) == (real.link.bandwidth_bytes_per_s, Link().peer_acks)
    assert _imported("D2-guestnbd-2ms-a").link == Link()


def test_two_recordings_of_one_machine_are_two_draws() -> None:
    """The stock virtio machines have the same kernel, card and memory: what else they are is the seed's."""
    one, four = (_imported(f"H{number}-gt96-virtio-stock") for number in (1, 4))
    assert one.run == four.run == Run(seed=164)
    assert (one.kernel, one.vm, one.nic) == (four.kernel, four.vm, four.nic)
    assert one.machine.zones[0].managed_pages == four.machine.zones[0].managed_pages


def test_a_local_disk() -> None:
    """A virtio-blk device is a disk: no network stands before it."""
    disk = _imported("M12-gt128-vda-seq")
    assert (disk.storage.kind, disk.link) == ("disk", Link())


def test_sysctls_that_were_set() -> None:
    """What the recording set is set, under the kernel's name; what has its default is left out."""
    assert _imported("D10-guestnbd-5ms-pc0").vm.page_cluster == 0
    assert _imported("D15-guestnbd-2ms-boost0").vm.watermark_boost_factor == 0
    vm = tomllib.loads(import_run(_RUNS / "D10-guestnbd-5ms-pc0"))["vm"]
    assert vm == {"min_free_kbytes": 8192, "page-cluster": 0}


def test_switches() -> None:
    """Removed priority sockets, the missing drop, and cleared PF_MEMALLOC arrive as switches."""
    assert _imported("U1-knob3-noflood").kernel.fixes == {"memalloc_sockets": False, "pfmemalloc_drop": False}
    assert _imported("T4-knob1-noflood-boost0").kernel.fixes == {"memalloc_sockets": False}
    assert not _imported("S4-knob2-noflood").kernel.transmit_inherits_memalloc
    assert _imported("T8-knob0-noflood-boost0").kernel.fixes == {}
    assert _imported("T8-knob0-noflood-boost0").kernel.transmit_inherits_memalloc


def test_the_flood() -> None:
    """Datagrams that nobody reads fill a buffer of 24 MiB; udp_mem is not what stops them."""
    scenario = _imported("S2-knob0-flood")
    (flood,) = scenario.traffic
    assert isinstance(flood, Flood)
    assert (flood.packets_per_s, flood.bytes, flood.reader) == (4000, 1400, "never")
    assert flood.rcvbuf_bytes == 24 << 20
    assert min(scenario.vm.udp_mem) * 4096 > flood.rcvbuf_bytes


def test_a_run_without_proc_gets_the_machine_of_its_build() -> None:
    """A run that hung before /proc was saved begins as another of the same kernel and RAM, and the file says so."""
    text = import_run(_RUNS / "L1-loopback-nbd-deadlock")
    assert "# /proc was not saved in this run: these are the figures of run D2, same kernel and RAM." in text
    assert _imported("L1-loopback-nbd-deadlock").machine.zones == _imported("D2-guestnbd-2ms-a").machine.zones
    boot = _imported("L1-loopback-nbd-deadlock").machine.boot
    assert boot.init_pages == 19867 - 1083**2 // 16 // 4 - 1
    assert _imported("D3-guestnbd-0ms").vm.min_free_kbytes == 8192


def test_remarks_stand_beside_what_is_not_as_recorded() -> None:
    """A derived figure, a guess, and a later free list are each marked in the file."""
    assert "# Not recorded: min_free_kbytes was 1083, and its formula over these zones is 1126." in import_run(
        _RUNS / "M01-gt96-0ms-seq"
    )
    assert "# Not recorded: open-iscsi's default.\nqueue_depth = 32\n" in import_run(_RUNS / "M15-deb192-iscsi-seq")
    assert "# buddyinfo was read a moment after zoneinfo (12256 pages free); it counts." in import_run(
        _RUNS / "T4-knob1-noflood-boost0"
    )


def test_an_nfs_server_is_behind_its_proxy(tmp_path: Path) -> None:
    """Rate and latency of the recording are the proxied link's, sizes the mount's, faults come after so much."""
    run = tmp_path / "run"
    shutil.copytree(_RUNS / _NFS[0], run)
    config = json.loads((run / "config.json").read_text())
    config["backend"] |= {"rate_bytes_per_s": 10485760, "latency_us": 5000}
    config["nfs"]["mount_options"] += ",wsize=65536"
    config["fault"] = {"kind": "restart", "when_mib_written": 40.0, "seconds": 2.0, "uncommitted_bytes_lost": 0}
    (run / "config.json").write_text(json.dumps(config))
    scenario = scenario_from(tomllib.loads(import_run(run)), origin="run")
    storage = scenario.storage
    assert (storage.kind, storage.role, storage.size_mib) == ("nfs", "swap", 256)
    assert (storage.proxy_bandwidth_bytes_per_s, storage.proxy_latency_us) == (8388608, 5000)
    assert (storage.wsize_bytes, storage.rsize_bytes) == (65536, 1 << 20)
    assert storage.disk.bandwidth_bytes_per_s == 0
    (fault,) = scenario.fault
    assert (fault.kind, fault.at_ms, fault.after_mib, fault.for_ms) == ("server-restart", 0, 40, 2000)


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    """In one line that says what would be right."""
    run = tmp_path / "run"
    shutil.copytree(_RUNS / _NFS[0], run)
    config = json.loads((run / "config.json").read_text())
    config["fault"] = {"kind": "fire"}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match='"fire": must be one of stall, close, restart'):
        import_run(run)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"kernel": "5.4.1 x"},
            'config.json: kernel = "5.4.1 x": no preset for this kernel; must be one of 2.6.11, 3.6, 6.1, 6.18',
        ),
        ({"ram": "96"}, 'config.json: ram = "96": must be a size such as "96M"'),
        ({"nic": "wlan0"}, 'config.json: nic = "wlan0": must begin with "e1000", "virtio-net" or "loopback"'),
        (
            {"second_workload": {"kind": "file-writer", "mib": 1}},
            'config.json: second_workload.kind = "file-writer": must be "anon-pulse"',
        ),
        (
            {"ram": "64M"},
            "machine.zones.0.present_pages = 24478: with the other zones 24478 pages; ram_mib = 64 is 16384",
        ),
    ],
)
def test_a_config_that_cannot_be_imported(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    """What the recording says and no scenario can is told with key, value and what would be right."""
    run = tmp_path / "run"
    shutil.copytree(_RUNS / "D2-guestnbd-2ms-a", run)
    config = json.loads((run / "config.json").read_text()) | changes
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError) as caught:
        import_run(run)
    assert str(caught.value).endswith(line)


def test_an_unknown_machine_needs_its_zoneinfo(tmp_path: Path) -> None:
    """Without zoneinfo only the build that was measured elsewhere can be imported."""
    run = tmp_path / "run"
    run.mkdir()
    config = json.loads((_RUNS / "L1-loopback-nbd-deadlock" / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"ram": "128M"}))
    with pytest.raises(UsageError, match=r"zoneinfo_before: no such file; must be there for this machine"):
        import_run(run)


def test_sysctls_that_are_not_emulated_are_remarked(tmp_path: Path) -> None:
    """A setting of the recording that netvm does not know is not lost in silence."""
    run = tmp_path / "run"
    shutil.copytree(_RUNS / "D2-guestnbd-2ms-a", run)
    config = json.loads((run / "config.json").read_text())
    config["sysctls"]["vm.overcommit_memory"] = "1"
    (run / "config.json").write_text(json.dumps(config))
    assert "# Set in the recording, not emulated: vm.overcommit_memory = 1.\n[vm]\n" in import_run(run)
