"""What people type for a key: other words for the same quantity, other units, none at all.

A key is a stem and a unit: ``for_ms``, ``size_mib``, ``bandwidth_bytes_per_s``. Two keys that share their unit look
alike letter by letter and mean different things (``duration_ms`` is not ``at_ms``), so keys are compared by stem, and
by the words that kernel and storage people have for that stem: ``duration`` is what ``for`` says here, ``bs`` is what
``chunk`` says. Among several keys of a stem the one in a unit of the same dimension is meant.
"""

import difflib
from collections.abc import Sequence
from typing import Final

__all__ = ["SYNONYMS", "WAYS", "meant_keys", "stem_of"]

_UNITS: Final = {
    "time": (
        "ns",
        "us",
        "usec",
        "usecs",
        "ms",
        "msec",
        "msecs",
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "ds",
        "cs",
        "centisecs",
    ),
    "size": ("b", "byte", "bytes", "k", "kb", "kib", "kbytes", "m", "mb", "mib", "g", "gb", "gib", "pages"),
    "share": ("ratio", "percent", "pct"),
    "rate": ("bps", "kbps", "mbps", "gbps", "kbit", "mbit", "gbit", "mbs", "pps", "qps"),
}
_DIMENSION: Final = {unit: dimension for dimension, units in _UNITS.items() for unit in units}

SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "at": ("start", "begin", "when", "after", "time", "offset"),
    "for": ("duration", "length", "lasts", "last", "period", "lasting"),
    "start": ("at", "begin", "delay", "after", "when", "offset", "start at"),
    "stop": ("end", "until", "duration", "stop at"),
    "max virtual": ("duration", "runtime", "timeout", "time", "limit", "max time", "virtual"),
    "delay": ("latency", "rtt", "owd", "lag"),
    "latency": ("delay", "service time", "seek"),
    "proxy latency": ("rtt",),
    "bandwidth": ("rate", "speed", "throughput", "bw"),
    "loss": ("drop", "packet loss", "loss rate", "loss ratio", "drop rate", "probability"),
    "duplicate": ("dup", "duplication"),
    "queue packets": ("queue", "queue length", "txqueuelen", "qlen", "limit"),
    "ram": ("memory", "mem", "size", "total", "memsize"),
    "cpus": ("cpu", "nr cpus", "ncpus", "smp", "cores", "nproc", "vcpus"),
    "size": ("mib", "mb", "capacity", "disk", "device", "swap size"),
    "mib": ("mb", "size", "memory", "mem", "ram", "file size", "filesize", "total", "map"),
    "touch": ("touched", "working set", "wss", "rss", "use"),
    "heap": ("memory", "mem", "anon", "ram"),
    "limit": ("memory limit", "limit in", "max", "memory max", "size", "mem"),
    "swap": ("swapfile", "swap size"),
    "chunk": ("bs", "block size", "blocksize", "block", "io size", "write size", "request size", "chunk size"),
    "processes": ("procs", "nproc", "count", "nr", "numjobs", "instances", "tasks", "workers", "jobs", "threads"),
    "passes": ("loops", "iterations", "rounds", "repeat", "repeats", "times"),
    "repeats": ("loops", "iterations", "rounds", "passes", "times", "count"),
    "pattern": ("order", "access", "rw", "mode"),
    "think": ("thinktime", "think time", "sleep", "pause"),
    "hold": ("keep", "sleep"),
    "idle": ("pause", "sleep", "wait"),
    "files": ("count", "nr files", "nrfiles", "inodes", "paths"),
    "fsync": ("sync",),
    "kind": ("type", "model", "driver", "protocol", "backend", "name", "workload"),
    "role": ("use", "usage", "purpose", "as"),
    "place": ("location", "where", "server", "host"),
    "encrypted": ("crypt", "dm crypt", "luks", "encryption"),
    "ring": ("rx ring", "ring size", "rx", "descriptors", "rx descriptors"),
    "queue depth": ("iodepth", "depth", "tags", "tag", "qd"),
    "max sectors": ("max request", "request size"),
    "timeout": ("timeo", "io timeout"),
    "wsize": ("write size",),
    "rsize": ("read size",),
    "nfsd threads": ("threads", "nfsd", "nfsds", "servers"),
    "packets per": ("rate", "pps", "packet rate", "packets"),
    "bytes": ("size", "packet size", "payload", "length"),
    "rcvbuf": ("buffer", "receive buffer", "so rcvbuf", "rmem"),
    "reads per": ("rate", "read rate"),
    "messages per": ("rate", "message rate", "messages", "sends", "requests"),
    "sockets": ("connections", "conns", "clients", "streams", "flows"),
    "peer": ("client", "remote", "receiver", "reader"),
    "peer delay": ("delay", "rtt", "latency"),
    "nodelay": ("tcp nodelay", "no nagle"),
    "bytes per": ("rate", "bandwidth", "speed", "throughput", "bw"),
    "preset": ("version", "release", "kernel"),
    "fixes": ("fix", "patches", "switches"),
    "seed": ("random seed", "rng"),
    "oracle": ("scheduler", "order", "policy"),
    "max steps": ("steps", "budget"),
}
"""By the stem of a key, its words parted by spaces: what else it is called."""
WAYS: Final = {("role", "both"): '"fs" with a storage.swap_mib is both'}
"""By a key and a value that it does not have: how to say what is meant."""
_ALIKE: Final = 0.7
"""Two stems closer than this are one of them misspelt (``difflib``'s ratio)."""

_SWAPPED: Final = 0.9


def meant_keys(key: str, known: Sequence[str], *, alike: float = _ALIKE) -> list[str]:
    """Return the keys of ``known`` that ``key`` may stand for: those whose stem, or a word for it, is closest.

    Keys of a table inside the table are dotted.
    """
    stem, unit = _split(key)
    ranks: list[tuple[float, bool, bool, bool, int, str]] = []
    for number, name in enumerate(known):
        other, other_unit = _split(name.rpartition(".")[2])
        own = _likeness(stem, other)
        likeness = max([own, *(_likeness(stem, word) for word in SYNONYMS.get(other, ()))])
        is_other_kind = bool(unit and other_unit) and _DIMENSION[unit] != _DIMENSION[other_unit]
        # what is asked in milliseconds is no size, unless it is that by name
        if likeness >= (1.0 if is_other_kind else alike):
            ranks.append((-likeness, is_other_kind, own < likeness, unit != other_unit, number, name))
    ranks.sort()
    return [rank[-1] for rank in ranks if rank[:3] == ranks[0][:3]]


def stem_of(key: str) -> str:
    """Return what a key is about, without its unit."""
    return _split(key)[0]


def _split(key: str) -> tuple[str, str]:
    """Return the stem of a key, its words parted by spaces, and its unit, if it has one; a lone unit is a stem."""
    words = key.casefold().replace("-", "_").strip("_").split("_")
    if words[-1] in ("s", "sec", "second") and len(words) > 2 and _DIMENSION.get(words[-2]) == "size":
        words = [*words[:-2], "bps"]  # bandwidth_mb_s
    elif words[-2:-1] == ["per"] and len(words) > 3:
        words = [*words[:-3], "bps"]  # bandwidth_bytes_per_s; in packets_per_s the first word says what is counted
    if len(words) > 1 and words[-1] in _DIMENSION:
        return " ".join(words[:-1]), words[-1]
    return " ".join(words), ""


def _likeness(one: str, other: str) -> float:
    if one == other:
        return 1.0
    if sorted(one) == sorted(other):
        return _SWAPPED
    if min(len(one), len(other)) < 3:
        return 0.0  # two letters of three are no likeness
    return difflib.SequenceMatcher(a=one, b=other, autojunk=False).ratio()
