"""What elementary work costs in CPU time: the machine's parameters.

The defaults are calibrated on one recorded run, D2 (uniprocessor, instruction-counted at 2 ns each, vmscan tracing on),
by the spacing of its trace points and the histogram of its touches.
They are the machine's, not the model's: a scenario scales them (``machine.costs.scale``) and leaves them otherwise.
"""

from dataclasses import dataclass, replace

__all__ = ["CpuCosts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuCosts:
    """Nanoseconds of CPU time per unit of work."""

    touch: int = 100
    """The program's own work on a page it finds mapped."""
    fault_anon: int = 4_100
    """First touch: exception, page allocated and zeroed, mapped."""
    fault_swapcache: int = 4_600
    """Minor fault that finds the page in the swap cache, and the write-protect fault that follows."""
    fault_wp: int = 1_600
    """Write-protect fault on a page mapped read-only."""
    fault_major: int = 9_000
    """A major fault without its pages: readahead window, plug, sleep, retry."""
    swapin_page: int = 3_500
    """One page of a readahead window: allocation, swap cache, bio."""
    scan_keep: int = 1_480
    """A page looked at and put back: isolate, reference walk, put back."""
    scan_pageout: int = 5_600
    """A page of the swap cache sent out: two rmap walks, bio, merge, put back."""
    add_to_swap: int = 1_750
    """What a page pays before that if it has no slot yet: slot, place in the tree, swap cache."""
    scan_free: int = 2_250
    """A clean page freed."""
    scan_activate: int = 900
    """A page met under writeback and activated."""
    compact_scan: int = 50
    """A frame that a scanner of compaction passes; no recorded run that counts instructions has any."""
    shrink_call: int = 2_500
    """A batch of its own: list locks, drain, trace."""
    reclaim_pass: int = 4_000
    """One priority of a reclaim: counting, slab shrinkers."""
    end_swap_page: int = 1_100
    """Completion of one page of a swap request: bio end, rotation."""
    end_writeback_page: int = 1_800
    """Completion of one page of a file: more than a bio hangs on it, and on each page that NFS swaps."""
    end_read_page: int = 1_200
    write_page: int = 15_000
    """Writing a file page: looked up, allocated, buffer heads, block, copied, dirtied; this and the next three by the
    spacing of trace points in D8."""
    writepage: int = 6_000
    """A page put under writeback: write-protected, tagged, in a bio."""
    balance_dirty_pages: int = 7_000
    """One look at a writer, traced."""
    read_page: int = 2_000
    """Reading a cached file page: looked up, copied."""
    crypt_page: int = 4_000
    """Encrypting or decrypting 4 KiB."""
    lookup: int = 2_000
    """A path walked to its dentry."""
    new_inode: int = 8_000
    """A dentry and an inode made and filled in."""
    prune_object: int = 400
    """A dentry or inode looked at by its shrinker, and mostly freed."""
    alloc_slow: int = 500
    """One pass through the allocator's slow path."""
    sendmsg: int = 2_500
    """One call into the socket: lock, frag, bookkeeping."""
    copy_page: int = 1_300
    """Copying 4 KiB."""
    tx_skb: int = 6_000
    """One skb through TCP, IP and the driver."""
    tx_segment: int = 900
    """One MTU frame made by software GSO."""
    rx_loopback: int = 3_000
    """One packet from the backlog through IP and TCP."""
    rx_frame: int = 8000
    """One frame through interrupt, driver, IP and TCP; this and the next calibrated on I1: D2 has no card."""
    rx_gro_frame: int = 1_500
    """A further frame of a burst, which travels on in the first one's packet."""
    recvmsg: int = 1_800
    dispatch_request: int = 4_000
    """One request through the scheduler and the driver."""
    complete_request: int = 3_000
    context_switch: int = 3_000
    server_request: int = 5_000
    """A storage server's own work on one request: system calls, not copies."""

    def with_faults(self, factor: float) -> "CpuCosts":
        """Return the costs of a machine whose page faults take so many times as long."""
        faults = ("fault_anon", "fault_swapcache", "fault_wp", "fault_major")
        return replace(self, **{name: int(getattr(self, name) * factor) for name in faults})
