"""Recording this machine, on a /proc and /sys made of files."""

import json
import os
import signal
import subprocess
import sys
import time  # noqa: TID251  # a killed process dies in real time
from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.report.capture import capture

_VMSTAT = "nr_free_pages 100\npgscan_kswapd 7\nallocstall_normal 1\n"


def _host(root: Path, *, tracefs: bool) -> Path:
    """Make a small /proc and, if asked for, a tracefs whose instances are plain folders."""
    files = {
        "proc/vmstat": _VMSTAT,
        "proc/zoneinfo": "Node 0, zone   Normal\n  pages free     100\n",
        "proc/meminfo": "MemTotal: 1000 kB\n",
        "proc/buddyinfo": "Node 0, zone   Normal      1\n",
        "proc/net/netstat": "TcpExt: SyncookiesSent PFMemallocDrop\nTcpExt: 0 5\n",
        "proc/pressure/memory": "some avg10=1.00 avg60=0.00 avg300=0.00 total=9\n",
        "proc/sys/vm/swappiness": "60\n",
        "proc/sys/kernel/osrelease": "6.1.0\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if tracefs:
        (root / "sys/kernel/tracing/instances").mkdir(parents=True)
    return root


def test_without_tracefs_the_counters_are_recorded(tmp_path: Path) -> None:
    """What cannot be had is said, and everything else is in the directory."""
    naps: list[float] = []
    told = capture(tmp_path / "out", seconds=2.5, sleep=naps.append, root=_host(tmp_path / "root", tracefs=False))
    assert naps == [1.0, 1.0, 0.5]
    assert any(line.startswith("no events: tracefs is not there") for line in told)
    assert any(line.startswith("no slabinfo") for line in told)
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [sample["t"] for sample in samples] == [0.0, 1.0, 2.0, 2.5]
    assert samples[0]["PFMemallocDrop"] == 5
    assert samples[0]["pgscan_kswapd"] == 7
    assert samples[0]["pressure_some"].startswith("avg10=1.00")
    assert (tmp_path / "out/vmstat_after").read_text() == _VMSTAT
    assert (tmp_path / "out/sysctl_vm.txt").read_text() == "vm.swappiness = 60\n"
    assert json.loads((tmp_path / "out/capture.json").read_text())["kernel"] == "6.1.0"
    assert not (tmp_path / "out/ftrace.txt").exists()


def test_ctrl_c_ends_it_with_what_there_is(tmp_path: Path) -> None:
    """An interrupted recording is a shorter one."""

    def interrupted(_pause_s: float) -> None:
        raise KeyboardInterrupt

    capture(tmp_path / "out", seconds=60, sleep=interrupted, root=_host(tmp_path / "root", tracefs=False))
    assert len((tmp_path / "out/samples.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "out/vmstat_after").exists()


def test_an_instance_that_fails_is_removed(tmp_path: Path) -> None:
    """Our instance is gone after the recording, also when it ends in an error (here there is no trace_pipe)."""
    root = _host(tmp_path / "root", tracefs=True)
    with pytest.raises(UsageError, match="cannot be written"):
        capture(tmp_path / "out", seconds=1, sleep=lambda _s: None, root=root)
    assert list((root / "sys/kernel/tracing/instances").iterdir()) == []


@pytest.mark.slow
def test_an_instance_is_removed_when_we_are_killed(tmp_path: Path) -> None:
    """SIGKILL cannot be caught: the guard notices that we are gone and removes the instance."""
    root = _host(tmp_path / "root", tracefs=True)
    code = (
        "import sys, time; from pathlib import Path; import netvm.report.capture as c\n"
        "with c._tracing(Path(sys.argv[1]), []) as instance: print(instance, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    instance = Path(process.stdout.readline().strip())
    for name in ("tracing_on", "events"):
        (instance / name).unlink(missing_ok=True)
    assert instance.is_dir()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for _ in range(100):
        if not instance.exists():
            break
        time.sleep(0.05)
    assert not instance.exists()
