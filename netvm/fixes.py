"""The museum's light switches: one named boolean for each historic cure, and presets that are kernels.

A fix is something a kernel has or has not. A preset is a kernel version: every fix merged up to it is on. A scenario
picks a preset and may switch single fixes; no other module knows a kernel version. A fix that was proposed but never
merged belongs to no preset (``version`` is ``None``) and is switched on by name only.

Version order is the kernel's own, so a preset is a comparison and nothing else. The recorded kernel is 6.1.192, a
stable release: fixes that reached it as backports carry the version they arrived in (``backported``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from netvm.fix_table import TABLE, Fix
from netvm.fix_table_groups import GROUP_TABLE
from netvm.fix_table_nfs import NFS_TABLE

__all__ = ["FIXES", "PRESETS", "Fix", "Fixes", "preset"]

PRESETS = ("2.6.11", "3.6", "6.1", "6.18")
"""Kernel presets, oldest first; ``6.1`` is the recorded kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixes:
    """Which fixes one emulated kernel has. Field names are the keys of ``[kernel.fixes]`` in a scenario."""

    memalloc_sockets: bool = True
    pfmemalloc_drop: bool = True
    softirq_memalloc: bool = True
    slab_pfmemalloc: bool = True
    rmem_exempt: bool = True
    tcp_one_skb: bool = True
    throttle_direct_reclaim: bool = True
    throttle_noio_bounded: bool = True
    throttle_skips_kthreads: bool = True
    rx_memalloc: bool = True
    rx_no_recycle_pfmemalloc: bool = True
    rx_refill_retry: bool = True
    rx_head_memalloc: bool = False
    rx_build_skb: bool = True
    napi_skb_cache: bool = True
    highatomic_reserve: bool = True
    reclaimable_free_pages: bool = True
    highatomic_exact_cap: bool = True
    highatomic_free_only: bool = True
    watermark_boost: bool = True
    watermark_scale: bool = True
    min_reserve_ladder: bool = True
    gfp_atomic_discarded: bool = True
    oom_reaper: bool = True
    oom_half_reserve: bool = True
    reclaim_throttle: bool = True
    bio_any_size: bool = True
    cached_stacks: bool = True
    noncascading_timers: bool = True
    multipage_bvecs: bool = True
    ext4_dioread_nolock: bool = True
    mempool_nomemalloc: bool = True
    noio_isolation_limit: bool = True
    less_throttle: bool = True
    less_throttle_margin: bool = True
    local_throttle: bool = True
    dirtyable_memory: bool = True
    per_bdi_dirty_limits: bool = True
    io_less_throttle: bool = True
    loop_less_throttle: bool = True
    loop_noio: bool = True
    bio_rescuer: bool = True
    crypt_alloc_mutex: bool = True
    crypt_write_thread: bool = True
    swap_bios_limit: bool = True
    tags_woken_singly: bool = True
    wbt_swap_requests: bool = True
    wbt_swap_untracked: bool = False
    per_vma_lock: bool = True
    io_flusher_servers: bool = True
    io_flusher_iscsid: bool = True
    loopback_target_noio: bool = True
    task_frag_off: bool = True
    unstable_is_writeback: bool = True
    vm_writeout_not_unstable: bool = False
    no_vm_writeout_throttle: bool = True
    vm_writeout_nofs_naps: bool = True
    ipfrag_4mib: bool = True
    ipfrag_no_evictor: bool = True
    reserve_counts_fragments: bool = False
    fuse_temp_pages: bool = True
    fuse_strictlimit: bool = True
    fuse_writeback_indeterminate: bool = True
    nfs_release_bounded: bool = True
    nfs_release_no_commit: bool = True
    nfs_release_writes: bool = True
    nfs_release_async: bool = False
    nfs_connect_nofs: bool = True
    nfs_check_dirty_writeback: bool = True
    nfs_swap_memalloc: bool = True
    rpc_sends_bvec: bool = True
    rpc_cork: bool = True
    rpc_swap_memalloc: bool = True
    rpc_alloc_nowait: bool = True
    nfs_alloc_nowait: bool = True
    rpc_bvec_before_lock: bool = True
    nfs_swap_stable: bool = True
    swap_file_batches: bool = True
    nfs_commit_after_writeback: bool = True
    nfs4_manager_kept: bool = True
    nfs4_manager_nofs: bool = True
    nfs4_freeze_session: bool = True
    isolated_wait_once: bool = True
    memcg_wait_enters_fs: bool = True
    memcg_oom_in_faults: bool = True
    memcg_oom_in_charges: bool = True
    memcg_sixteen_retries: bool = True
    memcg_dirty_throttle: bool = True
    ext4_page_before_handle: bool = True
    rpc_send_atomic: bool = True
    rpc_send_nofs: bool = True
    compaction: bool = True
    kcompactd: bool = True
    proactive_compaction: bool = True
    compaction_isolation_limit: bool = True
    oom_unreclaimable_info: bool = True
    oom_zone_reclaimable: bool = True
    oom_detection: bool = True
    flusher_tries_more: bool = True
    nfs_congestion: bool = True
    slub_fast_path: bool = True
    blk_mq_only: bool = True

    def switched(self, switches: Mapping[str, bool]) -> "Fixes":
        """Return a copy with the named fixes switched. Raises KeyError for a name that is no fix."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, on in switches.items():
            if name not in values:
                raise KeyError(name)
            values[name] = on
        return Fixes(**values)


FIXES: Mapping[str, Fix] = {fix.name: fix for fix in (*TABLE, *NFS_TABLE, *GROUP_TABLE)}
"""Every fix by name, oldest theme first."""

assert list(FIXES) == [f.name for f in fields(Fixes)], "the switch board and its table list the same fixes"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def preset(kernel: str) -> Fixes:
    """Return the fixes of one of :data:`PRESETS`. Raises KeyError for any other kernel."""
    if kernel not in PRESETS:
        raise KeyError(kernel)
    have = {}
    for fix in FIXES.values():
        merged = fix.version is not None and _version(fix.version) <= _version(kernel)
        if kernel == "6.1" and fix.in_recorded is not None:
            merged = fix.in_recorded
        have[fix.name] = merged
    return Fixes(**have)
