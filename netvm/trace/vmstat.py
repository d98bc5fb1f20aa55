"""The counters of ``/proc/vmstat`` under their kernel names, and those of ``/proc/net/netstat`` that matter here.

Counters are plain integer attributes: a hot path adds to them at the cost of an attribute. Gauges (``nr_*``) are in the
same object because the kernel prints them in the same file. ``pgalloc``, ``allocstall`` and ``pgskip`` are per zone and
so live in dictionaries keyed by the zone's lower-case name; :meth:`VmStat.as_dict` flattens them.
"""

from collections.abc import Callable

__all__ = ["NetStat", "VmStat", "read_netstat"]

_GAUGES = (
    "nr_isolated_anon",
    "nr_isolated_file",
    "nr_anon_pages",
    "nr_file_pages",
    "nr_mapped",
    "nr_dirty",
    "nr_writeback",
    "nr_swapcached",
    "nr_page_table_pages",
    "nr_kernel_stack",
    "nr_slab_reclaimable",
    "nr_slab_unreclaimable",
    "workingset_nodes",
)

_COUNTERS = (
    "nr_vmscan_write",
    "nr_vmscan_immediate_reclaim",
    "nr_dirtied",
    "nr_written",
    "nr_throttled_written",
    "workingset_refault_anon",
    "workingset_refault_file",
    "workingset_activate_anon",
    "workingset_activate_file",
    "workingset_restore_anon",
    "workingset_restore_file",
    "pgpgin",
    "pgpgout",
    "pswpin",
    "pswpout",
    "pgfree",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pgmajfault",
    "pgrefill",
    "pgreuse",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "pgscan_kswapd",
    "pgscan_direct",
    "pgscan_direct_throttle",
    "pgscan_anon",
    "pgscan_file",
    "pgsteal_anon",
    "pgsteal_file",
    "slabs_scanned",
    "kswapd_low_wmark_hit_quickly",
    "kswapd_high_wmark_hit_quickly",
    "pageoutrun",
    "pgrotated",
    "oom_kill",
    "pgmigrate_success",
    "pgmigrate_fail",
    "compact_migrate_scanned",
    "compact_free_scanned",
    "compact_isolated",
    "compact_stall",
    "compact_fail",
    "compact_success",
    "compact_daemon_wake",
    "compact_daemon_migrate_scanned",
    "compact_daemon_free_scanned",
    "swap_ra",
    "swap_ra_hit",
)

ZONE_NAMES = ("dma", "dma32", "normal", "movable")


class VmStat:
    """Counters and gauges of one host."""

    __slots__ = (*_GAUGES, *_COUNTERS, "allocstall", "pgalloc", "pgskip")

    nr_isolated_anon: int
    nr_isolated_file: int
    nr_anon_pages: int
    nr_file_pages: int
    nr_mapped: int
    nr_dirty: int
    nr_writeback: int
    nr_swapcached: int
    nr_page_table_pages: int
    nr_kernel_stack: int
    nr_slab_reclaimable: int
    nr_slab_unreclaimable: int
    workingset_nodes: int
    nr_vmscan_write: int
    nr_vmscan_immediate_reclaim: int
    nr_dirtied: int
    nr_written: int
    nr_throttled_written: int
    workingset_refault_anon: int
    workingset_refault_file: int
    workingset_activate_anon: int
    workingset_activate_file: int
    workingset_restore_anon: int
    workingset_restore_file: int
    pgpgin: int
    pgpgout: int
    pswpin: int
    pswpout: int
    pgfree: int
    pgactivate: int
    pgdeactivate: int
    pgfault: int
    pgmajfault: int
    pgrefill: int
    pgreuse: int
    pgsteal_kswapd: int
    pgsteal_direct: int
    pgscan_kswapd: int
    pgscan_direct: int
    pgscan_direct_throttle: int
    pgscan_anon: int
    pgscan_file: int
    pgsteal_anon: int
    pgsteal_file: int
    slabs_scanned: int
    kswapd_low_wmark_hit_quickly: int
    kswapd_high_wmark_hit_quickly: int
    pageoutrun: int
    pgrotated: int
    oom_kill: int
    pgmigrate_success: int
    pgmigrate_fail: int
    compact_migrate_scanned: int
    compact_free_scanned: int
    compact_isolated: int
    compact_stall: int
    compact_fail: int
    compact_success: int
    compact_daemon_wake: int
    compact_daemon_migrate_scanned: int
    compact_daemon_free_scanned: int
    swap_ra: int
    swap_ra_hit: int

    def __init__(self) -> None:
        for name in (*_GAUGES, *_COUNTERS):
            setattr(self, name, 0)
        self.allocstall = dict.fromkeys(ZONE_NAMES, 0)
        self.pgalloc = dict.fromkeys(ZONE_NAMES, 0)
        self.pgskip = dict.fromkeys(ZONE_NAMES, 0)

    def as_dict(self) -> dict[str, int]:
        """Return every name and value, as ``/proc/vmstat`` would print them."""
        values = {name: int(getattr(self, name)) for name in _GAUGES}
        values |= {f"pgalloc_{zone}": n for zone, n in self.pgalloc.items()}
        values |= {f"allocstall_{zone}": n for zone, n in self.allocstall.items()}
        values |= {f"pgskip_{zone}": n for zone, n in self.pgskip.items()}
        values["allocstall"] = sum(self.allocstall.values())
        values |= {name: int(getattr(self, name)) for name in _COUNTERS}
        return values


class NetStat:
    """Counters of ``/proc/net/netstat`` (TcpExt) and the drivers' own; only what was counted is kept."""

    __slots__ = ("counts", "told")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.told: Callable[[str, int], None] | None = None
        """Told of everything that is counted; a recorder listens for what is dropped."""

    def add(self, name: str, nr: int = 1) -> None:
        """Count ``nr`` under a kernel name."""
        self.counts[name] = self.counts.get(name, 0) + nr
        if self.told is not None:
            self.told(name, nr)

    def __getitem__(self, name: str) -> int:
        return self.counts.get(name, 0)

    def as_dict(self) -> dict[str, int]:
        """Return what was counted, by name in order."""
        return dict(sorted(self.counts.items()))


def read_netstat(text: str) -> dict[str, int]:
    """Return the counters of a /proc/net/netstat or snmp by name: each line of names is followed by one of values."""
    lines = text.splitlines()
    return {
        name: int(value)
        for names, values in zip(lines[::2], lines[1::2], strict=False)
        for name, value in zip(names.split()[1:], values.split()[1:], strict=False)
        if value.lstrip("-").isdecimal()
    }
