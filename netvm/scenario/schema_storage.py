"""What a scenario file may say of where dirty pages go: ``[storage]``, ``[storage.disk]`` and ``[storage.fuse]``.

See :mod:`netvm.scenario.schema`, of which this is the part that names the device, and what stands on it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from netvm.scenario.schema_workload import Natural

__all__ = ["Disk", "Fuse", "Storage"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table: immutable, strict about its keys."""


class Fuse(_Table, frozen=True, kw_only=True):
    """``[storage.fuse]``: programs use a FUSE mount, whose server is a process of this host.

    The server has one thread and keeps its files in the file system on the storage.
    """

    max_ratio: Annotated[int, Meta(ge=1, le=100)] = 1
    """/sys/class/bdi/*/max_ratio: most percent of the dirty limit that are the mount's."""
    max_background: Annotated[int, Meta(ge=1, le=65535)] = 12
    """Background requests (writeback, read-ahead) that the server is given at once."""
    congestion_threshold: Annotated[int, Meta(ge=1, le=65535)] = 9
    """Background requests from which on the flusher sends no more of its own accord."""
    max_pages: Annotated[int, Meta(ge=1, le=256)] = 32
    """Pages of one request; 256 since 4.20, if the server asks for it."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """The server's /proc/PID/oom_score_adj; -1000: it is never killed."""
    memory_group: str = ""
    """Name of the ``[[memory_group]]`` that the server's pages are charged to; empty: none."""


class Disk(_Table, frozen=True, kw_only=True):
    """``[storage.disk]``: the device behind the server."""

    latency_us: Natural = 0
    """From the last byte of a request to its reply."""
    bandwidth_bytes_per_s: Natural = 0
    """0 is infinitely fast."""
    queue_depth: Annotated[int, Meta(ge=1, le=65536)] = 65536
    """Requests served at once; the recorded servers pipeline without a bound."""
    in_order: bool = True
    """One shared link served in order (payload at the rate, then the latency), replies in order."""


class Storage(_Table, frozen=True, kw_only=True):
    """``[storage]``: where dirty pages go."""

    kind: Literal["iscsi", "nbd", "nfs", "disk"]
    """``disk`` is a local disk without a network: the control."""
    role: Literal["swap", "fs"] = "swap"
    """What is kept there: swap, or a file system."""
    swap_mib: Natural = 0
    """With ``role = "fs"``: how much of it is swap all the same, in front of a device's file system, or as a file on
    an NFS mount."""
    encrypted: bool = False
    """Everything goes through dm-crypt, which needs a page for each page it writes."""
    split_kib: Annotated[int, Meta(ge=0, le=1_048_576, multiple_of=4)] = 0
    """Everything goes through a driver that cuts requests at multiples of this, with a bio for each part; 0: no such
    driver."""
    loop_mib: Natural = 0
    """Programs use a file system on a loop device of this size, whose blocks are a file of the one on the storage; 0:
    they use that one itself."""
    fuse: Fuse | None = None
    """Programs use a FUSE mount over the file system on the storage (or over the loop device's)."""
    extent_kib: Annotated[int, Meta(ge=0, le=1_048_576, multiple_of=4)] = 0
    """Programs use ext4 with delayed allocation on a device whose free space lies in pieces of this size: pages get
    blocks when they are written back; 0: when they are first written, in one piece."""
    place: Literal["remote", "local"] = "remote"
    """``remote``: a server outside the host. ``local``: a server process on this host, over loopback. A ``disk`` is
    always local hardware."""
    size_mib: Annotated[int, Meta(ge=1, le=16_777_216)] = 512
    """Size of the device, all of it swap."""
    queue_depth: Annotated[int, Meta(ge=1, le=4096)] = 128
    """Requests the client keeps in flight (driver tags)."""
    max_sectors_kb: Annotated[int, Meta(ge=4, le=32768)] = 128
    """Largest request, as in /sys/block/*/queue."""
    nr_requests: Annotated[int, Meta(ge=4, le=4096)] = 256
    """Requests the queue holds (scheduler tags), as in /sys/block/*/queue."""
    rotational: bool = False
    """As in /sys/block/*/queue: swap readahead goes by neighbouring slots on a rotational device, by VMA on others."""
    wbt_lat_usec: Natural = 0
    """blk-wbt: how long a read may take at most before writes are held back, as in /sys/block/*/queue; 0: never, as in
    the recorded small build (BLK_WBT=n). Others have 2,000, and 75,000 for a rotational device."""
    write_cache: Literal["write back", "write through"] = "write through"
    """As in /sys/block/*/queue: whether what is written may be in a volatile cache. Tells blk-wbt whom to wake when."""
    timeout_s: Natural = 0
    """NBD's request timeout (0: none, as recorded); iSCSI's replacement_timeout when its session is lost."""
    wsize_bytes: Annotated[int, Meta(ge=4096, le=1_048_576, multiple_of=4096)] = 1_048_576
    """NFS: most data in one WRITE."""
    rsize_bytes: Annotated[int, Meta(ge=4096, le=1_048_576, multiple_of=4096)] = 1_048_576
    """NFS: most data in one READ."""
    vers: Literal["3", "4.1"] = "3"
    """NFS: version of the protocol. 4.1 has a session, open files and a lease at the server, which a restart loses."""
    transport: Literal["tcp", "udp"] = "tcp"
    """NFS: what carries the calls. Over ``udp`` a call or reply is one datagram, sent in fragments, and wsize and rsize
    are 32 KiB at most."""
    timeo_ds: Annotated[int, Meta(ge=0, le=6000)] = 0
    """NFS: timeo, tenths of a second until a call is sent again; 0: the default of the transport, 600 or 11."""
    udp_slot_table_entries: Annotated[int, Meta(ge=2, le=128)] = 16
    """NFS: calls that may be out at once over UDP (sunrpc.udp_slot_table_entries)."""
    tcp_max_slot_table_entries: Annotated[int, Meta(ge=2, le=65536)] = 65536
    """NFS: calls that may be out at once (sunrpc.tcp_max_slot_table_entries)."""
    proxy_bandwidth_bytes_per_s: Natural = 0
    """NFS: rate of a link each way that ends the connection and pushes back with a window of 64 KiB; 0: no limit."""
    proxy_latency_us: Natural = 0
    """NFS: how long that link takes from client to server."""
    nfsd_threads: Annotated[int, Meta(ge=1, le=1024)] = 8
    """NFS: threads of a local server (/proc/fs/nfsd/threads)."""
    commit_ms: Natural = 0
    """NFS: what a COMMIT takes on top of the disk's own time."""
    server_memory_locked: bool = True
    """A local server's own memory is locked and its store lies outside managed RAM."""
    immediate_data: bool = True
    """iSCSI ImmediateData: a write command carries its first data."""
    initial_r2t: bool = False
    """iSCSI InitialR2T: no unsolicited data beyond the immediate."""
    first_burst_bytes: Annotated[int, Meta(ge=512, le=16_777_215)] = 262144
    """iSCSI FirstBurstLength: most unsolicited data of one command."""
    max_burst_bytes: Annotated[int, Meta(ge=512, le=16_777_215)] = 16776192
    """iSCSI MaxBurstLength: most data of one R2T or Data-In sequence."""
    max_recv_data_segment_bytes: Annotated[int, Meta(ge=512, le=16_777_215)] = 262144
    """iSCSI MaxRecvDataSegmentLength, both ways."""
    noop_interval_s: Natural = 5
    """iSCSI node.conn[0].timeo.noop_out_interval; 0: no NOP-Out pings."""
    noop_timeout_s: Natural = 5
    """iSCSI node.conn[0].timeo.noop_out_timeout: an unanswered ping this old drops the session."""
    disk: Disk = Disk()
    """The device behind the server."""
