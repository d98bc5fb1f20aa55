"""Dirty throttling of whole machines: where dirty pages settle, how long pauses are, and how two devices share.

One writer on a server that is slower than it: the time mean, in the second half of the run, of dirty pages over the
kernel's setpoint as ``balance_dirty_pages`` sees both. Two writers, one on a slower server and one on a disk of a
quarter of its speed in the same host: what each device gets of the dirty pages, beside its part of the bandwidth.

What to expect of the two follows from the control itself. A ratelimit comes to rest where it is the device's bandwidth
(``balanced_dirty_ratelimit`` of one writer is the write bandwidth), so ``pos_ratio`` is 1 on both devices then. It is
the global curve times the device's line, and the curve is the same for both; so both lines have one value,
1 - (wb_dirty - wb_setpoint) / span, and unless that value is 1 both devices are above their setpoints, or both below,
and with them the curve is below 1, or above. Only wb_dirty = wb_setpoint on each is left: dirty pages by the share of
the limit, which is the share of completions, which is the bandwidth's. Neither ``bdi_min_ratio`` (0) nor the floor of
wb_thresh, (limit - dirty) / 8 = 1.6 % of the limit, comes in between.

That holds at rest. Every device is first taken for one of 100 MB/s (INIT_BW), and the estimate comes down by an average
over 4 s and one behind that: a device of 1 MB/s is known for what it is after some 25 s. Until then its writer is let
run, its dirty pages are far above its share, and they drain no faster than it writes. So the two are looked at in the
second half of two minutes. In the first half minute the slow device has most of what is dirty.

What is left of the difference is in the lumps: the server's pages go and are committed 4 to 8 MiB at a time
(MIN_WRITEBACK_PAGES, ``writeback_chunk_size``), and where such a lump is much of the limit dirty pages dip below the
freerun ceiling, where nobody is held back and the slow device's writer gains. The more memory, the nearer to the share:
0.71 of 0.80 with 128 MiB, 0.75 with 384.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from netvm.host.backend import MountContext
from netvm.pagecache.bdi import BackingDevice
from netvm.runtime.clock import run_virtual
from netvm.runtime.task import Task
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment
from netvm.units import NS_PER_MS
from storage_backends.disk.plugin import LocalDisk
from storage_backends.nfs.plugin import NfsBackend

WRITER_BYTES_PER_S = 20_000_000
"""What one writer by itself writes to."""
SERVER_BYTES_PER_S = 4_000_000
DISK_BYTES_PER_S = 1_000_000
"""The disk beside the server."""
SHARE_RAM_MIB = 384
SHARE_MIB = 480
"""Two minutes at the server's speed."""
LOOK_NS = 10 * NS_PER_MS
CHUNK_PAGES = 16


def machine(kind: str, ram_mib: int, mib: int, bytes_per_s: int = WRITER_BYTES_PER_S) -> Experiment:
    """Return a writer of ``mib`` to a slow server, or to a disk as slow."""
    slow = {"disk": {"bandwidth_bytes_per_s": bytes_per_s}}
    if kind == "nfs":
        slow = {"proxy_bandwidth_bytes_per_s": bytes_per_s}
    data = {
        "machine": {"ram_mib": ram_mib},
        "storage": {"kind": kind, "role": "fs", "size_mib": mib + 16} | slow,
        "workload": [{"kind": "file-writer", "mib": mib}],
    }
    if kind == "disk":
        data["nic"] = {"kind": "loopback"}
    return Experiment(scenario_from(data, origin="bench_throttle"), name="bench_throttle")


class Observer:
    """Looks at the throttle every ten milliseconds of virtual time."""

    def __init__(self, experiment: Experiment, devices: list[BackingDevice]) -> None:
        self.world = experiment.world
        self.throttle = experiment.host.files.throttle
        self.devices = devices
        self.ratios: list[float] = []
        self.shares: list[list[int]] = []
        self.written: list[list[int]] = []
        self.limits: list[float] = []
        self.world.call_after(LOOK_NS, self.look)

    def look(self) -> None:
        """Note dirty pages over the setpoint, and what each device has of them."""
        now = self.throttle.limits()
        setpoint = self.throttle.setpoint(now)
        self.ratios.append(now.dirty / setpoint)
        self.shares.append([wb.nr_reclaimable + wb.nr_writeback for wb in self.devices])
        self.written.append([wb.nr_written for wb in self.devices])
        if self.devices:
            part, whole = self.devices[0].fraction()
            self.limits.append(part / whole)
        self.world.call_after(LOOK_NS, self.look)

    def mean_ratio(self) -> float:
        """Return the mean of the second half."""
        half = self.ratios[len(self.ratios) // 2 :]
        return sum(half) / len(half)


def settle(kind: str, ram_mib: int, mib: int) -> tuple[float, float]:
    """Return the mean over the setpoint and the longest pause in milliseconds."""
    experiment = machine(kind, ram_mib, mib)
    observer = Observer(experiment, [])
    run_virtual(experiment.run)
    return observer.mean_ratio(), observer.throttle.max_pause_ns / NS_PER_MS


@contextmanager
def mounts() -> Iterator[list[tuple[NfsBackend, MountContext]]]:
    """Note what hosts offer the NFS file systems that are mounted meanwhile."""
    noted: list[tuple[NfsBackend, MountContext]] = []
    mount = NfsBackend.mount

    def noting(backend: NfsBackend, context: MountContext) -> object:
        noted.append((backend, context))
        return mount(backend, context)

    NfsBackend.mount = noting  # type: ignore[method-assign,assignment]  # a look from outside
    yield noted
    NfsBackend.mount = mount  # type: ignore[method-assign]


def share(ram_mib: int, mib: int) -> dict[str, float]:
    """Return the server's part of the limit, and of the pages dirty and written, in the second half."""
    with mounts() as noted:
        experiment = machine("nfs", ram_mib, mib, SERVER_BYTES_PER_S)
    backend, context = noted[0]
    options = backend.context.options
    slow = msgspec.structs.replace(options.disk, bandwidth_bytes_per_s=DISK_BYTES_PER_S)
    disk = LocalDisk(dataclasses.replace(backend.context, options=msgspec.structs.replace(options, disk=slow)))
    fs = context.mount_disk(disk, len(disk.stored()))
    mapping = context.cache.create(fs, "beside", 0)
    nr_pages = options.size_mib * 256 - 256

    async def write(task: Task) -> None:
        for index in range(0, nr_pages, CHUNK_PAGES):
            assert not await context.cache.generic_perform_write(task, mapping, index, CHUNK_PAGES)

    world = experiment.world
    world.call_after(LOOK_NS, lambda: world.spawn("beside", write, cpus=experiment.host.cpus))
    assert backend.files is not None
    observer = Observer(experiment, [backend.files.bdi, fs.bdi])
    run_virtual(experiment.run)
    half = observer.shares[len(observer.shares) // 2 :]
    served, local = (sum(column) for column in zip(*half, strict=True))
    first, last = observer.written[len(observer.written) // 2], observer.written[-1]
    written, beside = (end - start for start, end in zip(first, last, strict=True))
    limits = observer.limits[len(observer.limits) // 2 :]
    return {
        "limit": sum(limits) / len(limits),
        "dirty": served / (served + local),
        "written": written / (written + beside),
        "pause_ms": observer.throttle.max_pause_ns / NS_PER_MS,
    }


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ram", type=int, default=256, help="MiB of memory")
    parser.add_argument("--mib", type=int, default=768, help="size of the file that settles")
    options = parser.parse_args()
    for kind in ("disk", "nfs"):
        ratio, pause_ms = settle(kind, options.ram, options.mib)
        print(f"one writer, {kind:4}: dirty pages {ratio:.3f} of the setpoint, longest pause {pause_ms:.0f} ms")
    found = share(SHARE_RAM_MIB, SHARE_MIB)
    part = SERVER_BYTES_PER_S / (SERVER_BYTES_PER_S + DISK_BYTES_PER_S)
    print(
        f"two devices: the server has {part:.2f} of the bandwidth, and in the second half "
        f"{found['limit']:.2f} of the limit, {found['written']:.2f} of the pages written and {found['dirty']:.2f} of "
        f"those dirty; longest pause {found['pause_ms']:.0f} ms"
    )


if __name__ == "__main__":
    main()
