"""What a scenario file may say: the tables of ``scenarios/*.toml`` as frozen structs.

Every quantity carries its unit in its key (``_ms``, ``_mib``, ``_bytes_per_s``), except under ``[vm]``, where keys are the
kernel's own sysctl names and units. A key left out has the default written here, which is the kernel's or the
recorded machine's. :mod:`netvm.scenario.load` turns a file into :class:`Scenario` and says in one line what is wrong
with it; the JSON Schema for editors is made from these structs.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

__all__ = [
    "AnonHog",
    "AnonPulse",
    "Boot",
    "Costs",
    "Disk",
    "Exhibit",
    "Fault",
    "Flood",
    "Kernel",
    "Link",
    "Machine",
    "Nic",
    "Readers",
    "Run",
    "Scenario",
    "Storage",
    "Traffic",
    "Verdict",
    "Vm",
    "Workload",
    "Zone",
]

Positive = Annotated[int, Meta(gt=0)]
Natural = Annotated[int, Meta(ge=0)]
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]

Verdict = Literal[
    "COMPLETED",
    "STALL",
    "OOM",
    "HANG",
    "LIVELOCK",
    "DROP_FOREVER",
    "OVER_THROTTLE",
    "LOST_WRITE",
    "CORRUPT",
    "IO_ERROR",
]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table: immutable, strict about its keys."""


class Exhibit(_Table, kw_only=True):
    """``[exhibit]``: what the scenario shows and where that is documented."""

    id: str
    """The exhibit's code: R1 to R4 (recorded runs), or A2, A9, ... (documented history)."""
    arm: Literal["broken", "fixed", "cure"]
    title: str
    year: Natural = 0
    source: str
    """Where it is documented: commit, list thread, article, or recorded run."""
    mechanism: str
    """The wait chain in a few sentences of kernel words."""
    fix: str = ""
    """The switch in ``[kernel.fixes]`` that tells the arms apart."""


class Kernel(_Table, kw_only=True):
    """``[kernel]``: which kernel runs on the emulated host."""

    preset: Literal["2.6.11", "3.6", "6.1", "6.18"] = "6.1"
    fixes: dict[str, bool] = {}
    """Single switches over the preset; names are those of ``netvm.fixes``."""
    hz: Literal[100, 250, 300, 1000] = 250
    pageblock_order: Annotated[int, Meta(ge=1, le=10)] = 9
    """9 with huge pages configured (x86-64 stock kernels), 10 without."""
    bio_object_bytes: Positive = 192
    """Slab stride of a one-page bio (bio-160 in the recorded kernel): 21 to a page."""
    transmit_inherits_memalloc: bool = True
    """False clears PF_MEMALLOC that a sending task brought along from reclaim."""


class Zone(_Table, kw_only=True):
    """``[[machine.zones]]``: one zone of the host's only node, lowest first."""

    name: Literal["DMA", "DMA32", "Normal", "Movable"]
    present_pages: Positive
    managed_pages: Positive
    free_pages: Natural | None = None
    """Free when the scenario starts; default: all that the boot image does not take."""
    buddyinfo: list[Natural] = []
    """Free blocks by order 0..10 at the start, as /proc/buddyinfo prints them; default: as few blocks as possible."""
    pcp_pages: Natural = 0
    """Pages on the per-cpu lists at the start."""


class Boot(_Table, kw_only=True):
    """``[machine.boot]``: what occupies memory before the scenario's own actors do."""

    anon_pages: Natural = 0
    """Reclaimable anonymous pages of other programs (inactive list)."""
    slab_objects: dict[str, Natural] = {}
    """Objects in use by cache at the start, as in /proc/slabinfo."""


class Costs(_Table, kw_only=True):
    """``[machine.costs]``: CPU time of elementary work in nanoseconds; the defaults are calibrated on recorded run D2.

    An abstract scenario sets ``scale`` to zero and leaves time to the schedule.
    """

    scale: Annotated[float, Meta(ge=0.0)] = 1.0
    """Factor on every cost: 1 is the calibrated machine, 10 one ten times slower."""
    noise: Ratio = 0.0
    """Relative spread of each charge, drawn from the run's seed: a machine that has other work beside it."""


class Machine(_Table, kw_only=True):
    """``[machine]``: the emulated host."""

    ram_mib: Positive = 96
    cpus: Annotated[int, Meta(ge=1, le=64)] = 1
    reserved_pages: Natural | None = None
    """Pages the kernel image, page tables of boot and programs hold for good; default: as in the recorded machine."""
    zones: list[Zone] = []
    """Default: one DMA32 zone up to 4 GiB, and Normal above."""
    boot: Boot = Boot()
    costs: Costs = Costs()


class Vm(_Table, kw_only=True, rename=lambda name: name.replace("page_cluster", "page-cluster")):
    """``[vm]``: sysctls under their own names, in their own units."""

    min_free_kbytes: Positive | None = None
    """Default: the kernel's formula, int_sqrt(16 * lowmem_kbytes) within 128..262144."""
    watermark_scale_factor: Annotated[int, Meta(ge=1, le=3000)] = 10
    watermark_boost_factor: Natural = 15000
    swappiness: Annotated[int, Meta(ge=0, le=200)] = 60
    page_cluster: Annotated[int, Meta(ge=0, le=10)] = 3
    lowmem_reserve_ratio: list[Natural] = field(default_factory=lambda: [256, 256, 32, 0])
    laptop_mode: Natural = 0
    panic_on_oom: Natural = 0
    oom_kill_allocating_task: Natural = 0
    percpu_pagelist_high_fraction: Natural = 0
    hung_task_timeout_secs: Positive = 120
    """kernel.hung_task_timeout_secs: a wait this long is reported as a hang."""
    tcp_mem: list[Positive] = []
    """net.ipv4.tcp_mem in pages (low, pressure, high); default: the kernel's formula."""
    udp_mem: list[Positive] = []
    tcp_wmem: list[Positive] = []
    tcp_rmem: list[Positive] = []
    rmem_max: Positive = 212992


class Nic(_Table, kw_only=True):
    """``[nic]``: the network card the storage is reached through."""

    kind: Literal["e1000", "virtio-net", "loopback"] = "e1000"
    ring: Annotated[int, Meta(ge=8, le=4096)] = 256
    refill_retry: Literal["none", "timer", "worker", "driver"] = "driver"
    """What retries an RX refill that failed; ``driver`` is what the real driver of that kind does."""
    recycle: bool = False
    """RX pages are recycled into the ring when the stack has let go of them."""
    mtu: Annotated[int, Meta(ge=576, le=9000)] = 1500


class Link(_Table, kw_only=True):
    """``[link]``: the wire between the host and its storage server (both ways alike)."""

    bandwidth_bytes_per_s: Natural = 125_000_000
    """0 is infinitely fast."""
    delay_us: Natural = 50
    queue_packets: Positive = 1000
    loss: Ratio = 0.0
    reorder: Ratio = 0.0
    duplicate: Ratio = 0.0


class Disk(_Table, kw_only=True):
    """``[storage.disk]``: the device behind the server."""

    latency_us: Natural = 0
    bandwidth_bytes_per_s: Natural = 0
    """0 is infinitely fast."""
    queue_depth: Annotated[int, Meta(ge=1, le=65536)] = 65536
    """Requests served at once; the recorded servers pipeline without a bound."""
    in_order: bool = True
    """One shared link served in order (payload at the rate, then the latency), replies in order."""


class Storage(_Table, kw_only=True):
    """``[storage]``: where dirty pages go."""

    kind: Literal["iscsi", "nbd", "disk"]
    role: Literal["swap"] = "swap"
    place: Literal["remote", "local"] = "remote"
    """``remote``: a server outside the host. ``local``: a server process on this host, over loopback. A ``disk`` is
    always local hardware."""
    size_mib: Positive = 512
    queue_depth: Annotated[int, Meta(ge=1, le=4096)] = 128
    max_sectors_kb: Annotated[int, Meta(ge=4, le=32768)] = 128
    nr_requests: Annotated[int, Meta(ge=4, le=4096)] = 256
    timeout_s: Natural = 0
    """NBD's request timeout (0: none, as recorded); iSCSI's replacement_timeout when its session is lost."""
    server_memory_locked: bool = True
    """A local server's own memory is locked and its store lies outside managed RAM."""
    immediate_data: bool = True
    initial_r2t: bool = False
    first_burst_bytes: Positive = 262144
    max_burst_bytes: Positive = 16776192
    max_recv_data_segment_bytes: Positive = 262144
    noop_interval_s: Natural = 5
    noop_timeout_s: Natural = 5
    disk: Disk = Disk()


class AnonHog(_Table, kw_only=True, tag="anon-hog", tag_field="kind"):
    """``[[workload]] kind = "anon-hog"``: maps anonymous memory and touches it, pass after pass.

    Pass 0 writes one word a page in order; later passes read and verify (and with ``write`` rewrite) by ``pattern``.
    """

    name: str = "hog"
    mib: Positive
    passes: Positive = 2
    pattern: Literal["seq", "rand", "hot", "zipf"] = "seq"
    write: bool = True
    processes: Annotated[int, Meta(ge=1, le=256)] = 1
    think_ns: Natural = 0
    """Pause after each touch."""
    start_ms: Natural = 0
    seed: Natural = 1
    """Seed of the touch order of ``rand``, ``hot`` and ``zipf``."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0


class AnonPulse(_Table, kw_only=True, tag="anon-pulse", tag_field="kind"):
    """``[[workload]] kind = "anon-pulse"``: maps and touches memory, holds it, unmaps, idles, again and again."""

    name: str = "pulse"
    mib: Positive
    hold_ms: Natural = 500
    idle_ms: Natural = 500
    repeats: Positive = 10
    start_ms: Natural = 0
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0


Workload = AnonHog | AnonPulse


class Flood(_Table, kw_only=True, tag="udp-flood", tag_field="kind"):
    """``[[traffic]] kind = "udp-flood"``: datagrams from outside into one socket of this host."""

    name: str = "flood"
    packets_per_s: Positive
    bytes: Annotated[int, Meta(ge=1, le=65000)] = 1400
    sockets: Annotated[int, Meta(ge=1, le=4096)] = 1
    reader: Literal["never", "slow", "blocked", "fast"] = "never"
    """``never`` reads; ``slow`` reads ``reads_per_s``; ``blocked`` must allocate (GFP_KERNEL) before each read."""
    reads_per_s: Positive = 100
    rcvbuf_bytes: Positive = 212992
    start_ms: Natural = 0
    stop_ms: Natural = 0
    """0: goes on to the end."""


class Readers(_Table, kw_only=True, tag="tcp-stream", tag_field="kind"):
    """``[[traffic]] kind = "tcp-stream"``: connections from outside that send as fast as their windows allow."""

    name: str = "stream"
    sockets: Annotated[int, Meta(ge=1, le=4096)] = 1
    bytes_per_s: Positive = 1_000_000
    reader: Literal["never", "slow", "blocked", "fast"] = "never"
    reads_per_s: Positive = 100
    rcvbuf_bytes: Positive = 131072
    start_ms: Natural = 0
    stop_ms: Natural = 0


Traffic = Flood | Readers


class Fault(_Table, kw_only=True):
    """``[[fault]]``: something that happens to the network or the server at a given time."""

    at_ms: Natural
    kind: Literal["link-down", "stall", "reset", "loss-burst", "server-restart"]
    for_ms: Positive = 1000
    """How long it lasts (``reset`` is an instant: the connection is closed once)."""
    loss: Ratio = 0.5
    """Share of packets lost in a ``loss-burst``."""


class Run(_Table, kw_only=True):
    """``[run]``: how it is run and when it is given up."""

    seed: Natural = 0
    oracle: Literal["fifo", "random"] = "fifo"
    max_virtual_s: Annotated[float, Meta(gt=0)] = 3600.0
    max_steps: Positive = 50_000_000
    stall_s: Annotated[float, Meta(gt=0)] = 10.0
    """A finished run whose longest standstill was this long is a STALL."""


class Scenario(_Table, kw_only=True):
    """A whole file."""

    title: str = ""
    expect: list[Verdict] = field(default_factory=lambda: ["COMPLETED"])
    """Verdicts that are as expected; the first is the usual one."""
    exhibit: Exhibit | None = None
    kernel: Kernel = Kernel()
    machine: Machine = Machine()
    vm: Vm = Vm()
    nic: Nic = Nic()
    link: Link = Link()
    storage: Storage
    workload: list[Workload]
    traffic: list[Traffic] = []
    fault: list[Fault] = []
    run: Run = Run()
