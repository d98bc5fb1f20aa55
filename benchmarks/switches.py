"""What a single switch of preset 6.18 does: the second table of ``docs/finding-power.md``.

Each fix of the newest kernel is switched off by itself in its *carriers*, scenarios that pass with all of them on, and
each is searched: the calm schedule, then ``--random`` random ones, which the carrier passes with all switches on. Of a
switch that nothing is found for the table says which of two things was seen: with it off not a byte of the carriers'
results changes, so nothing in them reaches it; or runs change and still pass. ``--everywhere`` tries every switch in
every carrier. Every result is a line of ``--cells``, so the table can be interrupted and gone on with.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench_explore import SMALL_A2, subject_of
from finding_power import show

from netvm.explore.oracles import SteeredOracle
from netvm.explore.properties import PROPERTIES, no_early_oom
from netvm.explore.reproducer import digest_of
from netvm.explore.sampling import oracle_of
from netvm.explore.subject import Subject
from netvm.fixes import FIXES, preset

__all__ = ["CARRIERS", "NOTES", "Carrier", "table"]

_MADE_BY = "benchmarks/switches.py --update docs/finding-power.md"
_KERNEL = ("kernel.fixes={}", 'kernel.preset="6.18"', "kernel.fixes.rx_head_memalloc=true")
"""6.18 as it is hangs by mechanism R3, whose cure nobody has merged: with it nothing is left to be found."""

_USUAL = ("A2/nbd, small", "R1/nbd", "R3/nbd")


class Carrier(NamedTuple):
    """A scenario that passes on 6.18."""

    title: str
    name: str
    overrides: tuple[str, ...] = ()
    may_kill: bool = False
    """Its programs need more than there is: that one of them is killed is as expected."""


_OVER_NFS = ('storage.kind="nfs"', "vm.hung_task_timeout_secs=5")
_RELEASED_LATER = ("kernel.fixes.nfs_release_async=true",)
"""6.18 as it is hangs in B6 too, as B6/relapse tells: the cure is 6.19's."""
_TINY_CRYPT = (
    'storage.kind="disk"',
    "storage.encrypted=true",
    "storage.size_mib=16",
    "machine.ram_mib=8",
    "machine.reserved_pages=700",
    "machine.cpus=12",
    "machine.costs.scale=1.0",
    "workload.0.mib=5",
)
_FRAGMENTS = (
    "machine.ram_mib=48",
    "workload.0.mib=36",
    "vm.min_free_kbytes=4096",
    "vm.hung_task_timeout_secs=10",
    "link.loss=0.02",
    'traffic=[{kind="udp-flood", packets_per_s=3000, bytes=8192}]',
)
_IN_A_GROUP = (
    'memory_group=[{name="small",limit_kib=16384}]',
    'workload.0.memory_group="small"',
    "storage.size_mib=8",
)
_BESIDE_A_HOG = (
    (
        'workload=[{kind="file-writer",name="dd",mib=32,chunk_kib=1024,memory_group="small"},'
        '{kind="anon-hog",name="hog",mib=24,memory_group="small"}]'
    ),
)
CARRIERS = (
    Carrier("A2/nbd, small", "A2/nbd-fixed", SMALL_A2),
    Carrier("A2/iscsi, small", "A2/iscsi-fixed", SMALL_A2),
    Carrier("A13/nbd", "A13/nbd-fixed"),
    Carrier("R1/nbd", "R1/nbd-fixed"),
    Carrier("R2/nbd", "R2/nbd-fixed"),
    Carrier("R3/nbd", "R3/nbd-fixed"),
    Carrier("R6/nbd", "R6/swap-fixed"),
    Carrier("R1 over NFS", "R1/nbd-fixed", _OVER_NFS),
    Carrier(
        "R1 over NFS, wsize of 16 KiB",
        "R1/nbd-fixed",
        (*_OVER_NFS, "storage.wsize_bytes=16384", "storage.commit_ms=20"),
    ),
    Carrier("A2/nbd, small, pages recycled", "A2/nbd-fixed", (*SMALL_A2, "nic.recycle=true")),
    Carrier("A2/nbd, small, dm-crypt", "A2/nbd-fixed", (*SMALL_A2, "storage.encrypted=true")),
    Carrier("C1/loop", "C1/loop-fixed", ("workload.0.mib=24",)),
    Carrier("R5/nbd", "R5/writer-fixed"),
    Carrier("R4/nbd, io_flusher", "R4/nbd-cure", ("kernel.fixes.io_flusher_servers=true",)),
    Carrier("A4/nbd", "A4/nbd-fixed", ("traffic.0.stop_ms=400",)),
    Carrier("A6/nbd", "A6/nbd-fixed"),
    *(Carrier(name, name, _RELEASED_LATER, may_kill=True) for name in ("B6/release-fixed", "B6/relapse-fixed")),
    *(Carrier(name, name) for name in ("B8/unstable-fixed", "B8/nofs-fixed")),
    *(Carrier(name, name) for name in ("B1/commit-fixed", "B2/transport-fixed", "C3/fuse-fixed", "R4/iscsi-fixed")),
    *(Carrier(name, name, may_kill=True) for name in ("F1/lock-fixed", "C4/strict-fixed", "C4/flush-fixed")),
    *(Carrier(name, name) for name in ("C3/group-fixed", "C6/wbt-fixed", "A12/ring-fixed")),
    Carrier("R1/nbd, a group with too little swap", "R1/nbd-fixed", _IN_A_GROUP, may_kill=True),
    Carrier("C4/strict-fixed, a hog in the group", "C4/strict-fixed", _BESIDE_A_HOG, may_kill=True),
    Carrier("R1/nbd, fragments on a lossy link", "R1/nbd-fixed", _FRAGMENTS),
    Carrier("tiny, requests cut into pages", "tiny/nbd", ("machine.costs.scale=1.0", "storage.split_kib=4")),
    Carrier("tiny, dm-crypt, 12 CPUs", "tiny/nbd", _TINY_CRYPT),
)


class Cell(NamedTuple):
    """One switch in one carrier; an empty switch is the base."""

    switch: str
    carrier: str
    changed: bool
    """The calm schedule's result differs from the base's."""
    schedule: int | None
    """The first that fails, counted from 1; the first is the calm one."""
    what: str


def cells_of(path: Path) -> list[Cell]:
    """Return what has been measured so far."""
    if not path.exists():
        return []
    return [Cell(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def subject_with(carrier: Carrier, switch: str) -> Subject:
    """Return a carrier on 6.18 with one switch off."""
    off = [f"kernel.fixes.{switch}=false"] if switch else []
    # the kernel first: what a carrier says of single fixes holds
    subject = subject_of(carrier.name, *_KERNEL, *carrier.overrides, *off)
    if not carrier.may_kill:
        return subject
    return dataclasses.replace(subject, properties=[prop for prop in PROPERTIES if prop is not no_early_oom])


def search(carrier: Carrier, switch: str, nr_random: int, base: str) -> tuple[Cell, str]:
    """Run the calm schedule and some random ones; return also the digest of the calm result."""
    subject = subject_with(carrier, switch)
    calm = subject.run(SteeredOracle(()))
    outcome = calm.experiment.outcome()
    # the options name the switch itself
    digest = digest_of(type(outcome)(**{**_fields(outcome), "options": {}, "kernel": ""}))
    broken, schedule = calm.broken, 1
    for number in range(nr_random):
        if broken is None:
            broken = subject.run(oracle_of(subject, "random", 0, number, (1, 1))).broken
            schedule = number + 2
    changed = bool(switch) and digest != base
    if broken is None:
        return Cell(switch, carrier.title, changed, None, ""), digest
    return Cell(switch, carrier.title, changed, schedule, _told(broken)), digest


def _fields(outcome: object) -> dict[str, object]:
    return {name: getattr(outcome, name) for name in outcome.__struct_fields__}  # type: ignore[attr-defined]  # msgspec's


def _told(broken: tuple[str, str]) -> str:
    prop, what = broken
    first = what.partition(":")[0]
    return first if first.isupper() else f"{prop}: {first}"


def measure(path: Path, nr_random: int, *, everywhere: bool) -> None:
    """Measure what is missing, each switch until it is found; the bases are run once a session."""
    cells = cells_of(path)
    done = {(cell.switch, cell.carrier) for cell in cells}
    found = {cell.switch for cell in cells if cell.switch and cell.schedule is not None}
    bases: dict[str, tuple[Cell, str]] = {}

    def keep(cell: Cell) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell._asdict()) + "\n")

    for switch in switches():
        expected = NOTES.get(switch, (_USUAL, ""))[0]
        carriers = [carrier for carrier in CARRIERS if carrier.title in expected]
        if everywhere:
            carriers += [carrier for carrier in CARRIERS if carrier.title not in expected]
        for carrier in carriers:
            if switch in found or (switch, carrier.title) in done:
                continue
            if carrier.title not in bases:
                bases[carrier.title] = search(carrier, "", nr_random, "")
                if ("", carrier.title) not in done:
                    keep(bases[carrier.title][0])
            base, digest = bases[carrier.title]
            if base.schedule is None:
                cell, _ = search(carrier, switch, nr_random, digest)
                keep(cell)
                if cell.schedule is not None:
                    found.add(switch)


def switches() -> list[str]:
    """Return the fixes of 6.18."""
    kernel = preset("6.18")
    return [name for name in FIXES if getattr(kernel, name)]


_FRAGMENTED = ("R1/nbd, fragments on a lossy link",)
_GROUPS = (
    "C3/group-fixed",
    "C4/strict-fixed",
    "C4/flush-fixed",
    "R1/nbd, a group with too little swap",
    "C4/strict-fixed, a hog in the group",
)
_OF_GROUPS = {
    "memcg_wait_enters_fs": "with `memcg_dirty_throttle` off as well C4/flush-fixed hangs",
    "memcg_oom_in_faults": "read only without `memcg_oom_in_charges`",
    "memcg_oom_in_charges": "off, a write fails where a member would be killed",
    "memcg_sixteen_retries": "off, a member is killed after five rounds",
    "memcg_dirty_throttle": "",
    "ext4_page_before_handle": "",
}
_RELEASE = ("B6/release-fixed", "B6/relapse-fixed")
_RULE = "hangs by rule, {}, once no page is free at all (`tests/netvm/block/test_{}.py`); no whole host came to that"
NOTES: dict[str, tuple[tuple[str, ...], str]] = {
    "throttle_direct_reclaim": (
        ("R6/nbd", "A2/nbd, small"),
        "keeps many reclaimers from the reserve; here there are few",
    ),
    "rmem_exempt": (("A2/nbd, small", "A13/nbd"), ""),
    "rx_no_recycle_pfmemalloc": (("A12/ring-fixed", "A2/nbd, small, pages recycled"), ""),
    "rx_refill_retry": (("A13/nbd",), ""),
    "highatomic_reserve": (("R2/nbd",), "what broke R2 is a reserve too large; without one nothing is kept back"),
    "highatomic_exact_cap": (("R2/nbd",), ""),
    "highatomic_free_only": (("R2/nbd",), ""),
    "oom_reaper": (("F1/lock-fixed",), ""),
    "oom_half_reserve": (("F1/lock-fixed",), "off, a victim may take all of the reserve; none here takes so much"),
    **{name: (_GROUPS, note) for name, note in _OF_GROUPS.items()},
    "dirtyable_memory": (
        ("C1/loop", "R5/nbd", "B8/nofs-fixed", "B6/release-fixed"),
        "before it the limits are parts of all memory",
    ),
    "nfs_connect_nofs": (("R1 over NFS",), ""),
    "nfs_check_dirty_writeback": (_RELEASE, ""),
    "bio_any_size": (("R5/nbd",), ""),
    "multipage_bvecs": (("R5/nbd",), ""),
    "ext4_dioread_nolock": (("C4/strict-fixed", "C4/flush-fixed"), ""),
    "cached_stacks": (("R5/nbd", "R1 over NFS"), "few workers are made once memory is short"),
    "mempool_nomemalloc": (("A2/nbd, small", "R6/nbd"), ""),
    "less_throttle": (("C1/loop",), ""),
    "less_throttle_margin": (("C1/loop",), ""),
    "per_bdi_dirty_limits": (("C1/loop",), ""),
    "io_less_throttle": (("C1/loop", "R5/nbd"), ""),
    "loop_less_throttle": (("C1/loop",), ""),
    "loop_noio": (("C1/loop",), ""),
    "swap_bios_limit": (("A2/nbd, small, dm-crypt",), ""),
    "wbt_swap_requests": (("C6/wbt-fixed",), "who waits for a token holds no lock of others since `per_vma_lock`"),
    "per_vma_lock": (("C6/wbt-fixed",), ""),
    "local_throttle": (("C1/loop",), ""),
    "nfs_release_bounded": (_RELEASE, ""),
    "nfs_release_no_commit": (_RELEASE, ""),
    "nfs_release_writes": (_RELEASE, ""),
    "nfs_release_async": (("B6/relapse-fixed",), ""),
    "nfs_commit_after_writeback": (("B8/unstable-fixed", "B8/nofs-fixed"), ""),
    "unstable_is_writeback": (("B8/unstable-fixed", "B8/nofs-fixed"), ""),
    "no_vm_writeout_throttle": (("B8/nofs-fixed", "C3/fuse-fixed"), ""),
    "vm_writeout_nofs_naps": (("B8/nofs-fixed", "C3/fuse-fixed"), ""),
    "ipfrag_4mib": (_FRAGMENTED, "it raises a limit: without it fragments hold less memory, not more"),
    "ipfrag_no_evictor": (_FRAGMENTED, "with or without an evictor the limit is the same"),
    "fuse_temp_pages": (("C3/fuse-fixed",), ""),
    "fuse_strictlimit": (("C3/fuse-fixed",), ""),
    "fuse_writeback_indeterminate": (("C3/fuse-fixed",), ""),
    "loopback_target_noio": (("R4/nbd, io_flusher", "R4/iscsi-fixed"), "NBD's server takes no such scope"),
    "nfs_swap_memalloc": (("R1 over NFS", "R1 over NFS, wsize of 16 KiB"), ""),
    "rpc_swap_memalloc": (("B2/transport-fixed", "R1 over NFS"), ""),
    "rpc_sends_bvec": (("B2/transport-fixed",), ""),
    "rpc_bvec_before_lock": (("R1 over NFS",), "without `rpc_swap_memalloc` as well B2/transport hangs"),
    "nfs_alloc_nowait": (("B2/transport-fixed", "R1 over NFS"), ""),
    "rpc_alloc_nowait": (("B2/transport-fixed", "R1 over NFS", "R1 over NFS, wsize of 16 KiB"), ""),
    "rpc_send_atomic": ((), "rpc_send_nofs has taken its place"),
    "rpc_send_nofs": (("R1 over NFS", "R1 over NFS, wsize of 16 KiB"), ""),
    "nfs_swap_stable": (("B1/commit-fixed", "R1 over NFS", "R1 over NFS, wsize of 16 KiB"), ""),
    "swap_file_batches": (("R1 over NFS", "R1 over NFS, wsize of 16 KiB"), ""),
    "tcp_one_skb": (("A6/nbd",), ""),
    "bio_rescuer": (
        ("tiny, requests cut into pages",),
        _RULE.format("parts of a request above the pool of 16", "split"),
    ),
    "crypt_alloc_mutex": (
        ("tiny, dm-crypt, 12 CPUs",),
        _RULE.format("pages of a request times workers above the pool of 256", "crypt"),
    ),
}
"""In which carriers a switch is expected to matter most; and what is known of it beyond what was seen."""


def table(cells: Sequence[Cell]) -> list[str]:
    """Return the lines of the table."""
    failing = [cell.carrier for cell in cells if not cell.switch and cell.schedule is not None]
    passing = [cell.carrier for cell in cells if not cell.switch and cell.schedule is None]
    lines = [
        f"Carriers that pass with everything on: {', '.join(passing)}.",
        "",
        "| switched off | found | in | what was seen |",
        "|---|---|---|---|",
    ]
    for switch in switches():
        mine = [cell for cell in cells if cell.switch == switch]
        found = next((cell for cell in mine if cell.schedule is not None), None)
        note = NOTES.get(switch, ((), ""))[1]
        if found is not None:
            lines.append(f"| `{switch}` | at schedule {found.schedule} | {found.carrier} | {found.what} |")
            continue
        changed = [cell.carrier for cell in mine if cell.changed]
        tried = ", ".join(cell.carrier for cell in mine) if len(mine) < 5 else f"{len(mine)} carriers"
        seen = f"not a byte changes in {tried}"
        if changed:
            seen = f"other runs in {', '.join(changed)}; all pass"
        elif not mine:
            fails = [title for title in NOTES.get(switch, (_USUAL, ""))[0] if title in failing]
            seen = f"not tried: {', '.join(fails)} fails with everything on" if fails else "not tried yet"
        lines.append(f"| `{switch}` | no | | {seen}{'; ' + note if note else ''} |")
    return lines


def main() -> None:
    """Measure what is missing and print or renew the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=Path, default=Path("switches.jsonl"), help="what has been measured so far")
    parser.add_argument("--update", metavar="PAGE", type=Path, help="renew the table in this page")
    parser.add_argument("--only-print", action="store_true", help="measure nothing")
    parser.add_argument("--random", type=int, default=0, help="random schedules of each, beside the calm one")
    parser.add_argument("--everywhere", action="store_true", help="try every switch in every carrier")
    arguments = parser.parse_args()
    if not arguments.only_print:
        measure(arguments.cells, arguments.random, everywhere=arguments.everywhere)
    show(table(cells_of(arguments.cells)), arguments.update, _MADE_BY)


if __name__ == "__main__":
    main()
