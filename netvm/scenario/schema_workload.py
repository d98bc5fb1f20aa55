"""What a scenario file may say of its programs: the ``[[workload]]`` tables.

See :mod:`netvm.scenario.schema`, of which this is the part that names programs.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "AnonHog",
    "AnonPulse",
    "FileReader",
    "FileWriter",
    "MemoryGroup",
    "MetadataStorm",
    "Natural",
    "Positive",
    "Ratio",
    "Workload",
]

Positive = Annotated[int, Meta(gt=0)]
Natural = Annotated[int, Meta(ge=0)]
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table: immutable, strict about its keys."""


class MemoryGroup(_Table, frozen=True, kw_only=True):
    """``[[memory_group]]``: a limit on the memory of the programs that name it (cgroup v1 ``memory``)."""

    name: Annotated[str, Meta(min_length=1)]
    """What workloads call it."""
    limit_kib: Annotated[int, Meta(ge=64, le=17_179_869_184, multiple_of=4)]
    """memory.limit_in_bytes: anonymous pages and page cache of its programs together."""
    swap: bool = True
    """Its anonymous pages may be swapped out."""


class AnonHog(_Table, frozen=True, kw_only=True, tag="anon-hog", tag_field="kind"):
    """``[[workload]] kind = "anon-hog"``: maps anonymous memory and touches it, pass after pass.

    Pass 0 writes one word a page in order; later passes read and verify (and with ``write`` rewrite) by ``pattern``.
    """

    name: str = "hog"
    """Name of its tasks in reports."""
    mib: Annotated[int, Meta(ge=1, le=16_777_216)]
    """Memory each process maps; more than RAM and swap together is a way to an OOM kill."""
    touch_kib: Annotated[int, Meta(ge=0, le=17_179_869_184, multiple_of=4)] = 0
    """How much of that it touches, from its start: a small program; 0: all of it."""
    passes: Positive = 2
    """Times the memory is gone through, the first touch included."""
    pattern: Literal["seq", "rand", "hot", "zipf"] = "seq"
    """Order of later passes: ``seq``; ``rand`` uniform; ``hot``: 80 % of touches to the first fifth; ``zipf``."""
    write: bool = True
    """Later passes write each page they touch."""
    processes: Annotated[int, Meta(ge=1, le=1024)] = 1
    """How many of it run, each with its own memory."""
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    """Threads of each process, each with its part of the memory. With more than one there is an mmap lock: faults take
    it for reading, and for writing a thread that goes on, in order, to its next 128 KiB (malloc or free)."""
    think_ns: Natural = 0
    """Pause after each touch."""
    image: bool = False
    """Its stack and data are pages too, which can be swapped out, as recorded; false: they stay in memory (mlock)."""
    start_ms: Natural = 0
    """When it starts."""
    seed: Natural = 1
    """Seed of the touch order of ``rand``, ``hot`` and ``zipf``."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """/proc/PID/oom_score_adj; -1000: never killed."""
    memory_group: str = ""
    """Name of the ``[[memory_group]]`` that its pages are charged to; empty: none."""


class AnonPulse(_Table, frozen=True, kw_only=True, tag="anon-pulse", tag_field="kind"):
    """``[[workload]] kind = "anon-pulse"``: maps and touches memory, holds it, unmaps, idles, again and again."""

    name: str = "pulse"
    """Name of its task in reports."""
    mib: Annotated[int, Meta(ge=1, le=16_777_216)]
    """Memory it maps each time."""
    hold_ms: Natural = 500
    """How long it keeps it."""
    idle_ms: Natural = 500
    """Pause between two pulses."""
    repeats: Positive = 10
    """Number of pulses."""
    start_ms: Natural = 0
    """When it starts."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """/proc/PID/oom_score_adj; -1000: never killed."""
    memory_group: str = ""
    """Name of the ``[[memory_group]]`` that its pages are charged to; empty: none."""


class FileWriter(_Table, frozen=True, kw_only=True, tag="file-writer", tag_field="kind"):
    """``[[workload]] kind = "file-writer"``: writes a file in chunks, pass after pass."""

    name: str = "fwriter"
    """Name of its tasks in reports."""
    mib: Annotated[int, Meta(ge=1, le=16_777_216)]
    """Size of each process's file."""
    file: str = ""
    """Name of the file, which all who name it write; empty: each process has one of its own."""
    files: Positive = 1
    """Files that each process writes one after another (a copy of a tree), all of one size; passes are over each."""
    heap_mib: Annotated[int, Meta(ge=0, le=16_777_216)] = 0
    """Anonymous memory it touches before it begins, and keeps."""
    chunk_kib: Annotated[int, Meta(ge=4, le=1_048_576, multiple_of=4)] = 64
    """Bytes of one write."""
    passes: Positive = 1
    """Times the file is written."""
    pattern: Literal["seq", "rand"] = "seq"
    """Order of the chunks: ``seq``; ``rand`` uniform."""
    fsync: Literal["end", "each", "never"] = "end"
    """When it calls fsync: after each pass, after each chunk (a log), or never."""
    mmap: bool = False
    """Writes by stores to a shared mapping of the file instead of write()."""
    processes: Annotated[int, Meta(ge=1, le=256)] = 1
    """How many of it run, each with its own file unless ``file`` names one."""
    think_ns: Natural = 0
    """Pause after each chunk."""
    local_throttle: bool = False
    """It is a server or lower layer of this host: PF_LOCAL_THROTTLE (before 5.7 PF_LESS_THROTTLE)."""
    start_ms: Natural = 0
    """When it starts."""
    seed: Natural = 1
    """Seed of the order of ``rand``."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """/proc/PID/oom_score_adj; -1000: never killed."""
    memory_group: str = ""
    """Name of the ``[[memory_group]]`` that its pages are charged to; empty: none."""


class FileReader(_Table, frozen=True, kw_only=True, tag="file-reader", tag_field="kind"):
    """``[[workload]] kind = "file-reader"``: writes a file and syncs it, drops it from the cache, then reads it."""

    name: str = "freader"
    """Name of its tasks in reports."""
    mib: Annotated[int, Meta(ge=1, le=16_777_216)]
    """Size of each process's file."""
    chunk_kib: Annotated[int, Meta(ge=4, le=1_048_576, multiple_of=4)] = 64
    """Bytes of one read."""
    passes: Positive = 1
    """Times the file is read."""
    pattern: Literal["seq", "rand"] = "seq"
    """Order of the chunks: ``seq``; ``rand`` uniform."""
    processes: Annotated[int, Meta(ge=1, le=256)] = 1
    """How many of it run, each with its own file."""
    think_ns: Natural = 0
    """Pause after each chunk."""
    start_ms: Natural = 0
    """When it starts."""
    seed: Natural = 1
    """Seed of the order of ``rand``."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """/proc/PID/oom_score_adj; -1000: never killed."""
    memory_group: str = ""
    """Name of the ``[[memory_group]]`` that its pages are charged to; empty: none."""


class MetadataStorm(_Table, frozen=True, kw_only=True, tag="metadata-storm", tag_field="kind"):
    """``[[workload]] kind = "metadata-storm"``: looks up many paths, as ``find`` or a backup does, pass after pass."""

    name: str = "storm"
    """Name of its tasks in reports."""
    files: Annotated[int, Meta(ge=1, le=16_777_216)]
    """Paths it looks up in each pass; each takes a dentry and an inode."""
    passes: Positive = 1
    """Times it goes over them."""
    pinned_one_in: Natural = 0
    """One path in so many is held open until the end, and keeps its slab pages; 0: none."""
    think_ns: Natural = 0
    """Pause after each path."""
    start_ms: Natural = 0
    """When it starts."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """/proc/PID/oom_score_adj; -1000: never killed."""
    memory_group: str = ""
    """Name of the ``[[memory_group]]`` that its pages are charged to; empty: none."""


Workload = AnonHog | AnonPulse | FileWriter | FileReader | MetadataStorm
