"""What a scenario file may say: the tables of ``scenarios/*.toml`` as frozen structs.

Every quantity carries its unit in its key (``_ms``, ``_mib``, ``_bytes_per_s``), except under ``[vm]``, where keys are
the kernel's own sysctl names and units. A key left out has the default written here: the kernel's or the recorded
machine's. :mod:`netvm.scenario.load` makes a :class:`Scenario` of a file, :mod:`netvm.scenario.jsonschema` the editors'
JSON Schema of these structs. Bounds stand here, what two keys may not be together in :mod:`netvm.scenario.sanity`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from netvm.scenario.schema_storage import Disk, Fuse, Storage
from netvm.scenario.schema_workload import (
    AnonHog,
    AnonPulse,
    FileReader,
    FileWriter,
    MemoryGroup,
    MetadataStorm,
    Natural,
    Positive,
    Ratio,
    Workload,
)
from netvm.units import JIFFY_NS

__all__ = [
    "Abstract",
    "AnonHog",
    "AnonPulse",
    "Boot",
    "Costs",
    "Disk",
    "Exhibit",
    "Fault",
    "FileReader",
    "FileWriter",
    "Flood",
    "Fuse",
    "Kernel",
    "Link",
    "Machine",
    "MemoryGroup",
    "MetadataStorm",
    "Nic",
    "Readers",
    "Run",
    "Scenario",
    "Senders",
    "Storage",
    "Traffic",
    "Verdict",
    "Vm",
    "Workload",
    "Zone",
]

Triple = Annotated[list[Positive], Meta(max_length=3)]
"""Empty, or the three values of a net.ipv4.*_mem sysctl."""

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


class Exhibit(_Table, frozen=True, kw_only=True):
    """``[exhibit]``: what the scenario shows and where that is documented."""

    id: str
    """The exhibit's code: R1 to R4 (recorded runs), or A2, A9, ... (documented history)."""
    arm: Literal["broken", "fixed", "cure"]
    """``broken`` and ``fixed`` differ by one switch; ``cure`` is another way: what an administrator can do without that
    switch, or a cure that costs something."""
    title: str
    """One line for the catalogue."""
    year: Natural = 0
    """Year of the report or of the fix."""
    source: str
    """Where it is documented: commit, list thread, article, or recorded run."""
    mechanism: str
    """The wait chain in a few sentences of kernel words."""
    fix: str = ""
    """What tells the arms apart: a switch of ``[kernel.fixes]``, or the dotted path of another key."""
    reserve_of: list[str] = []
    """Where the arms come to the same verdict: owners whose pages of the reserve, at the end, are what differs."""


class Kernel(_Table, frozen=True, kw_only=True):
    """``[kernel]``: which kernel runs on the emulated host."""

    preset: Literal["2.6.11", "3.6", "6.1", "6.18"] = "6.1"
    """Every fix merged up to this version is on; ``6.1`` is the recorded kernel."""
    fixes: dict[str, bool] = {}
    """Single switches over the preset; names are those of ``netvm.fixes``."""
    pageblock_order: Annotated[int, Meta(ge=1, le=10)] = 9
    """9 with huge pages configured (x86-64 stock kernels), 10 without."""
    bio_object_bytes: Annotated[int, Meta(ge=64, le=4096)] = 192
    """Slab stride of a one-page bio: 192 in the recorded small build (bio-160, 21 to a page), 256 in Debian's (bio-192,
    16 to a page)."""
    transmit_inherits_memalloc: bool = True
    """False clears PF_MEMALLOC that a sending task brought along from reclaim."""


class Zone(_Table, frozen=True, kw_only=True):
    """``[[machine.zones]]``: one zone of the host's only node, lowest first."""

    name: Literal["DMA", "DMA32", "Normal", "Movable"]
    """Name as in /proc/zoneinfo."""
    present_pages: Positive
    """Physical pages that exist."""
    managed_pages: Positive
    """Pages the buddy allocator got at boot: present without the kernel image and its tables."""
    free_pages: Natural | None = None
    """Free when the scenario starts; default: all that the boot image does not take."""
    buddyinfo: Annotated[list[Natural], Meta(max_length=11)] = []
    """Free blocks by order 0..10 at the start, as /proc/buddyinfo prints them; default: as few blocks as possible."""
    pcp_pages: Natural = 0
    """Pages on the per-cpu lists at the start."""


class Boot(_Table, frozen=True, kw_only=True):
    """``[machine.boot]``: what occupies memory before the scenario's own actors do."""

    anon_pages: Natural = 0
    """Reclaimable anonymous pages of other programs (inactive list)."""
    slab_objects: dict[str, Natural] = {}
    """Objects in use by cache at the start, as in /proc/slabinfo."""
    init_pages: Natural = 0
    """Pages of the kernel's init sections and initrd: not free yet while it sizes its marks and limits."""
    start_in_jiffy_ns: Annotated[int, Meta(ge=0, le=JIFFY_NS - 1)] | None = None
    """How long after a tick the programs start; as it comes if not given. The tick decides who is preempted when."""


class Costs(_Table, frozen=True, kw_only=True):
    """``[machine.costs]``: CPU ns of elementary work, calibrated on recorded run D2; abstract ones scale them to 0."""

    scale: Annotated[float, Meta(ge=0.0)] = 1.0
    """Factor on every cost: 1 is the calibrated machine, 10 one ten times slower."""
    noise: Ratio = 0.0
    """Relative spread of each charge, drawn from the run's seed: a machine that has other work beside it."""
    faults: Annotated[float, Meta(ge=0.0)] = 1.0
    """Factor on what a page fault costs, beside ``scale``: an exception is dear where an emulator translates code."""


class Machine(_Table, frozen=True, kw_only=True):
    """``[machine]``: the emulated host."""

    ram_mib: Annotated[int, Meta(ge=1, le=1_048_576)] = 96
    """All memory of the machine, the kernel image included."""
    cpus: Annotated[int, Meta(ge=1, le=64)] = 1
    """CPUs that tasks and softirqs compete for."""
    reserved_pages: Natural | None = None
    """Pages the kernel image, page tables of boot and programs hold for good; default: as in the recorded machine."""
    zones: list[Zone] = []
    """Default: one DMA32 zone up to 4 GiB, and Normal above."""
    boot: Boot = Boot()
    """What occupies memory at the start."""
    costs: Costs = Costs()
    """CPU time of elementary work."""


class Vm(_Table, frozen=True, kw_only=True, rename=lambda name: name.replace("page_cluster", "page-cluster")):
    """``[vm]``: sysctls under their own names, in their own units."""

    min_free_kbytes: Positive | None = None
    """Default: the kernel's formula, int_sqrt(16 * lowmem_kbytes) within 128..262144."""
    watermark_scale_factor: Annotated[int, Meta(ge=1, le=3000)] = 10
    """Distance between the watermarks, at least this many ten-thousandths of the zone."""
    watermark_boost_factor: Natural = 15000
    """Boost after a fragmenting fallback: at most this many ten-thousandths of the high mark; 0: no boost."""
    compaction_proactiveness: Annotated[int, Meta(ge=0, le=100)] = 20
    """How small the pieces of free memory may get before kcompactd compacts by itself; 0: it does not."""
    swappiness: Annotated[int, Meta(ge=0, le=200)] = 60
    """Relative cost of swapping against dropping file pages."""
    page_cluster: Annotated[int, Meta(ge=0, le=10)] = 3
    """Swap readahead reads 2**page-cluster pages at once."""
    lowmem_reserve_ratio: Annotated[list[Natural], Meta(max_length=4)] = field(
        default_factory=lambda: [256, 256, 32, 0]
    )
    """Share of higher zones kept free in DMA, DMA32, Normal, Movable (one in so many pages; 0: none)."""
    laptop_mode: Natural = 0
    """Non-zero: kswapd and direct reclaim first write nothing (may_writepage starts off)."""
    panic_on_oom: Annotated[int, Meta(ge=0, le=2)] = 0
    """1: an OOM ends the run instead of killing a task; 2: one of a memory group as well."""
    oom_kill_allocating_task: Natural = 0
    """Non-zero: the OOM killer takes the task that asked, not the one with the highest badness."""
    percpu_pagelist_high_fraction: Natural = 0
    """0: per-cpu lists are sized by the low mark; else, and 8 at least, by this fraction of the zone."""
    hung_task_timeout_secs: Positive = 120
    """kernel.hung_task_timeout_secs: a wait this long is reported as a hang."""
    tcp_mem: Triple = []
    """net.ipv4.tcp_mem in pages (low, pressure, high); default: the kernel's formula."""
    udp_mem: Triple = []
    """net.ipv4.udp_mem in pages (low, pressure, high); default: the kernel's formula."""
    ipfrag_high_thresh: Natural = 0
    """net.ipv4.ipfrag_high_thresh in bytes: most that fragments of datagrams may take; 0: the kernel's."""
    ipfrag_low_thresh: Natural = 0
    """net.ipv4.ipfrag_low_thresh in bytes: down to this the evictor goes; 0: three quarters of the other."""
    ipfrag_time: Positive = 30
    """net.ipv4.ipfrag_time in seconds: when a datagram that is not whole is given up."""
    tcp_wmem: Triple = []
    """net.ipv4.tcp_wmem in bytes (min, default, max); default: the kernel's formula."""
    tcp_rmem: Triple = []
    """net.ipv4.tcp_rmem in bytes (min, default, max); default: the kernel's formula."""
    dirty_background_ratio: Annotated[int, Meta(ge=0, le=100)] = 10
    """Percent of dirtyable memory above which the flusher writes in the background."""
    dirty_ratio: Annotated[int, Meta(ge=0, le=100)] = 20
    """Percent of dirtyable memory at which writers are held back for good."""
    dirty_background_bytes: Natural = 0
    """Instead of ``dirty_background_ratio``, if not 0."""
    dirty_bytes: Natural = 0
    """Instead of ``dirty_ratio``, if not 0."""
    dirty_writeback_centisecs: Natural = 500
    """How often the flusher looks for old data; 0: never."""
    dirty_expire_centisecs: Natural = 3000
    """Age at which dirty data is old."""
    vfs_cache_pressure: Natural = 100
    """Percent of dentries and inodes that reclaim is told of; 0: it never frees one."""


class Nic(_Table, frozen=True, kw_only=True):
    """``[nic]``: the network card the storage is reached through."""

    kind: Literal["e1000", "virtio-net", "igb", "loopback"] = "e1000"
    """``e1000`` fills its ring with order-0 buffers, ``virtio-net`` with high-order atomic ones, ``igb`` with pages
    that may come from the reserve; ``loopback``: the machine has no card."""
    ring: Annotated[int, Meta(ge=8, le=4096)] = 256
    """RX descriptors."""
    refill_retry: Literal["none", "timer", "worker", "driver"] = "driver"
    """What retries an RX refill that failed; ``driver`` is what the real driver of that kind does."""
    recycle: bool = False
    """RX pages are recycled into the ring when the stack has let go of them."""


class Link(_Table, frozen=True, kw_only=True):
    """``[link]``: the wire between the host and its storage server (both ways alike)."""

    bandwidth_bytes_per_s: Natural = 125_000_000
    """0 is infinitely fast."""
    delay_us: Natural = 50
    """One way."""
    queue_packets: Positive = 1000
    """Packets that may wait for the wire in one direction; further ones are dropped."""
    loss: Ratio = 0.0
    """Share of packets lost, drawn from the run's seed."""
    reorder: Ratio = 0.0
    """Share of packets delivered after their successor."""
    duplicate: Ratio = 0.0
    """Share of packets delivered twice."""
    peer_acks: Literal["burst", "frame"] = "burst"
    """What the server acknowledges: a burst that arrived together, or every frame (as user-mode emulators do)."""


class Flood(_Table, frozen=True, kw_only=True, tag="udp-flood", tag_field="kind"):
    """``[[traffic]] kind = "udp-flood"``: datagrams from outside into one socket of this host."""

    name: str = "flood"
    """Name of its sockets in reports."""
    packets_per_s: Annotated[int, Meta(ge=1, le=100_000_000)]
    """Datagrams that arrive, over all sockets."""
    bytes: Annotated[int, Meta(ge=1, le=65000)] = 1400
    """Payload of one datagram; above 1,472 it travels in fragments."""
    sockets: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Sockets they arrive at in turn."""
    reader: Literal["never", "slow", "blocked", "fast"] = "never"
    """``never`` reads; ``slow`` reads ``reads_per_s``; ``blocked`` must allocate (GFP_KERNEL) before each read."""
    reads_per_s: Positive = 100
    """Pace of a ``slow`` reader."""
    rcvbuf_bytes: Positive = 212992
    """sk_rcvbuf of each socket."""
    start_ms: Natural = 0
    """When the first one arrives."""
    stop_ms: Natural = 0
    """0: goes on to the end."""


class Readers(_Table, frozen=True, kw_only=True, tag="tcp-stream", tag_field="kind"):
    """``[[traffic]] kind = "tcp-stream"``: connections from outside that send as fast as their windows allow."""

    name: str = "stream"
    """Name of its sockets in reports."""
    sockets: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Connections."""
    bytes_per_s: Positive = 1_000_000
    """Most that each peer sends."""
    reader: Literal["never", "slow", "blocked", "fast"] = "never"
    """As of a ``udp-flood``."""
    reads_per_s: Positive = 100
    """Pace of a ``slow`` reader."""
    rcvbuf_bytes: Positive = 131072
    """sk_rcvbuf of each socket."""
    start_ms: Natural = 0
    """When the peers connect."""
    stop_ms: Natural = 0
    """0: goes on to the end."""


class Senders(_Table, frozen=True, kw_only=True, tag="tcp-sender", tag_field="kind"):
    """``[[traffic]] kind = "tcp-sender"``: programs that answer peers outside, on ordinary connections of their own.

    A message is a packet to be sent: an object of ``skbuff_fclone_cache`` and one of ``kmalloc-1k``, as the storage's
    packets take them, and a part of a page. All of it is held until the peer acknowledges it.
    """

    name: str = "sender"
    """Name of its tasks and sockets in reports."""
    processes: Annotated[int, Meta(ge=1, le=1024)] = 1
    """How many of it run."""
    sockets: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Connections of each process."""
    messages_per_s: Annotated[int, Meta(ge=1, le=10_000_000)] = 1000
    """Messages that each process has to send, over its connections in turn; those that fall due while it waits for
    memory it sends afterwards. One that finds its socket's buffer full is dropped (MSG_DONTWAIT)."""
    bytes: Annotated[int, Meta(ge=1, le=1_048_576)] = 100
    """Length of a message."""
    peer: Literal["reads", "stops", "gone"] = "reads"
    """``reads`` what comes; ``stops``: acknowledges but does not read, so that its window closes; ``gone``: lost its
    network once the connection was made, and acknowledges nothing until the connection is given up."""
    peer_delay_us: Natural = 0
    """How much further away the peers are than the storage's server, one way."""
    nodelay: bool = False
    """TCP_NODELAY: each message is a packet, instead of waiting for the acknowledgement of the last (Nagle)."""
    start_ms: Natural = 0
    """When the first one is sent."""
    stop_ms: Natural = 0
    """0: goes on to the end."""


Traffic = Flood | Readers | Senders


class Fault(_Table, frozen=True, kw_only=True):
    """``[[fault]]``: something that happens to the network or the server at a given time."""

    at_ms: Natural
    """When it begins."""
    after_mib: Natural = 0
    """Not 0: it begins when so much has been written to the storage, and not before ``at_ms``."""
    kind: Literal[
        "link-down",
        "stall",
        "reset",
        "half-open",
        "loss-burst",
        "server-restart",
        "slow-commit",
        "disk-full",
        "io-error",
    ]
    """``link-down``: no carrier. ``stall``: the storage answers nothing, the connection stays up. ``reset``: the
    connection is closed once. ``loss-burst``: packets are lost. ``server-restart``: the server is gone for a while.
    ``disk-full``: the server has no block for what was never written. ``io-error``: it answers with an error. Of an NFS
    server: ``half-open``: its end of the connection is gone without a word; what comes on it is not answered at first,
    and then with a RST. ``slow-commit``: each COMMIT takes ``commit_ms`` more."""
    for_ms: Positive = 1000
    """How long it lasts (``reset`` is an instant: the connection is closed once)."""
    loss: Ratio = 0.5
    """Share of packets lost in a ``loss-burst``."""
    commit_ms: Positive = 1000
    """What a COMMIT takes on top in a ``slow-commit``."""


class Abstract(_Table, frozen=True, kw_only=True):
    """``[abstract]``: the abstract machine of :mod:`netvm.scenario.reserve_model` in place of an emulated host."""

    frames: Annotated[int, Meta(ge=1, le=4096)] = 8
    """N: page frames of the machine."""
    reserve: Annotated[int, Meta(ge=0, le=4096)] = 4
    """R: frames that an ordinary allocation leaves free."""
    writebacks: Annotated[int, Meta(ge=0, le=256)] = 2
    """W: writers, each with one dirty frame and one to send it."""
    bystanders: Annotated[int, Meta(ge=0, le=256)] = 1
    """B: frames for others that the receiver must take at any time."""
    priority: bool = True
    """Sending and receiving may use the reserve."""
    drop: bool = True
    """A bystander's frame is given back at once; else it stays parked until its reader has allocated and run."""


class Run(_Table, frozen=True, kw_only=True):
    """``[run]``: how it is run and when it is given up."""

    seed: Natural = 0
    """Seed of every random stream."""
    oracle: Literal["fifo", "random"] = "fifo"
    """Who chooses among runnable tasks: first come, or the seed."""
    max_virtual_s: Annotated[float, Meta(gt=0, le=9_000_000)] = 3600.0
    """Budget of virtual time."""
    max_steps: Positive = 50_000_000
    """Budget of task steps and events."""
    stall_s: Annotated[float, Meta(gt=0, le=9_000_000)] = 10.0
    """A finished run whose longest standstill was this long is a STALL."""


class Scenario(_Table, frozen=True, kw_only=True):
    """A whole file."""

    title: str = ""
    """One line that says what is run."""
    expect: Annotated[list[Verdict], Meta(min_length=1)] = field(default_factory=lambda: ["COMPLETED"])
    """Verdicts that are as expected; the first is the usual one."""
    exhibit: Exhibit | None = None
    """What it shows, for scenarios of the catalogue."""
    kernel: Kernel = Kernel()
    """Which kernel runs on the emulated host."""
    machine: Machine = Machine()
    """The emulated host."""
    vm: Vm = Vm()
    """Sysctls."""
    nic: Nic = Nic()
    """The network card."""
    link: Link = Link()
    """The wire behind the card."""
    storage: Storage
    """Where dirty pages go."""
    workload: Annotated[list[Workload], Meta(min_length=1)]
    """Programs that take memory; the run ends when the last has ended."""
    memory_group: Annotated[list[MemoryGroup], Meta(max_length=255)] = []
    """Memory groups that programs can be put in."""
    traffic: list[Traffic] = []
    """What else arrives from the network."""
    fault: list[Fault] = []
    """What goes wrong, and when."""
    run: Run = Run()
    """How it is run and when it is given up."""
    abstract: Abstract | None = None
    """The abstract machine runs instead of a host: of the other tables only ``[run]`` means anything."""
