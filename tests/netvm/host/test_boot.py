"""A host that has booted: everything wired, everything accounted for, and its threads."""

from typing import Any

import pytest

from netvm.errors import UsageError
from netvm.host.boot import boot, start_threads
from netvm.host.machine import Host
from netvm.mm.invariants import audit_memory
from netvm.runtime.clock import run_virtual
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Task
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from


def booted(world: World | None = None, **tables: Any) -> Host:
    """Return a small host with these tables in its scenario."""
    scenario = scenario_from(
        {
            "machine": {"ram_mib": 64},
            "storage": {"kind": "disk", "size_mib": 16},
            "workload": [{"kind": "anon-hog", "mib": 1}],
        }
        | tables,
        origin="test",
    )
    return boot(world or World(seeds=Seeds(0)), scenario, log=lambda *_args, **_facts: None)


@pytest.mark.parametrize("nic", ["e1000", "virtio-net", "loopback"])
@pytest.mark.parametrize("kind", ["disk", "nbd", "iscsi"])
def test_books_balance_at_boot(nic: str, kind: str) -> None:
    """Every card and backend: zones, lists, frames and ledger agree before anything runs."""
    place = {"place": "local"} if nic == "loopback" and kind != "disk" else {}
    host = booted(nic={"kind": nic}, storage={"kind": kind, "size_mib": 16, **place})
    found = audit_memory(host.node.zones, host.frames, host.ledger, host.lruvec, host.vmscan.shrinker)
    assert found == []
    assert (host.nic is None) == (nic == "loopback")
    if host.nic is not None:
        assert host.nic.occupancy == host.nic.ring
    assert host.skbs.nr_skbs == 0


def test_caches_of_the_cleaning_path_have_a_slab_page() -> None:
    """What a running system has at hand is there before the first request."""
    host = booted()
    for name in ("skbuff_head_cache", "skbuff_fclone_cache", "radix_tree_node", "kmalloc-1k", "kmalloc-4k"):
        assert host.slabs[name].nr_slabs == 1, name
    assert host.bios.nr_ready() > 0


def test_idle_programs_pages_are_on_the_inactive_list() -> None:
    """machine.boot.anon_pages are evictable, belong to a space nobody touches, and are counted."""
    before = booted()
    host = booted(machine={"ram_mib": 64, "boot": {"anon_pages": 100}})
    assert host.vmstat.nr_anon_pages == before.vmstat.nr_anon_pages + 100
    assert host.ledger.table()["anon"] == before.ledger.table().get("anon", 0) + 100
    assert audit_memory(host.node.zones, host.frames, host.ledger, host.lruvec, host.vmscan.shrinker) == []


def test_ring_that_boot_cannot_hold_is_refused_in_one_line() -> None:
    """Too little is held for the ring: the message names the key and what would be right."""
    all_free = {"name": "DMA32", "present_pages": 16384, "managed_pages": 16000, "free_pages": 16000}
    with pytest.raises(UsageError, match=r"machine\.ram_mib"):
        booted(machine={"ram_mib": 64, "zones": [all_free]})


def test_threads_start_and_wait_for_work() -> None:
    """kswapd, the workers and kthreadd exist after start_threads and sleep where they should."""
    world = World(seeds=Seeds(0))
    host = booted(world)
    names: list[str] = []

    async def main(_task: Task) -> None:
        names.extend(task.comm for task in world.tasks.values())
        world.stop()

    def begin() -> None:
        start_threads(host)
        world.spawn("test", main, cpus=host.cpus)

    run_virtual(lambda: world.run(begin))
    assert "kswapd0" in names
    assert any(name.startswith("kworker") for name in names)


@pytest.mark.parametrize(
    ("kernel", "there"),
    [
        ({"preset": "3.6"}, False),
        ({"preset": "6.1"}, True),
        ({"fixes": {"kcompactd": False}}, False),
        ({"fixes": {"compaction": False}}, False),
    ],
)
def test_who_cannot_compact_has_no_thread_for_it(kernel: dict[str, Any], there: bool) -> None:
    """Kcompactd came with 4.6, and is nothing without compaction; vm.compaction_proactiveness reaches it."""
    host = booted(kernel=kernel, vm={"compaction_proactiveness": 35})
    assert (host.kcompactd is not None) == there
    assert host.vmscan.compaction.proactiveness == 35


@pytest.mark.parametrize(("cached", "nr_pages"), [(True, [0, 0, 4]), (False, [4, 8, 12])])
def test_new_threads_take_the_stacks_of_ended_ones_first(cached: bool, nr_pages: list[int]) -> None:
    """Two workers on one CPU are made without a page, the third takes four; without the cache each takes four."""
    world = World(seeds=Seeds(0))
    host = booted(world, kernel={"fixes": {"cached_stacks": cached}})
    taken: list[int] = []

    async def main(task: Task) -> None:
        owner = host.ledger.owner("kernel_stack")
        at_boot = host.ledger.counts[owner]
        for _ in nr_pages:
            await host.pools[0].creator.kthread_create(task, "0")
            taken.append(host.ledger.counts[owner] - at_boot)
        world.stop()

    def begin() -> None:
        start_threads(host)
        world.spawn("test", main, cpus=host.cpus)

    run_virtual(lambda: world.run(begin))
    assert taken == nr_pages


def test_hosts_in_one_world_are_strangers() -> None:
    """Two hosts of one process share time and nothing else: one's memory, sockets and counters are not the other's."""
    world = World(seeds=Seeds(0))
    one, other = booted(world), booted(world)
    before = other.digest()
    pfn = one.pages.try_alloc_pages(one.softirq, 3, 0, one.ledger.owner("test"))
    assert pfn >= 0
    one.netstat.add("PFMemallocDrop")
    one.skbs.nr_memalloc_socks += 1
    assert other.digest() == before
    assert other.netstat.counts == {}
    assert not other.skbs.memalloc_socks
    assert other.frames is not one.frames


def test_same_seed_boots_the_same_host() -> None:
    """Digest and swap's random start are the seed's."""
    assert booted().digest() == booted().digest()
    assert booted().swap.slots.alloc(1) == booted().swap.slots.alloc(1)


def test_a_machine_too_small_for_its_pools_is_told() -> None:
    """No memory is left at boot for what must be set aside: the key to change is named."""
    with pytest.raises(UsageError, match=r"machine\.ram_mib: no memory at boot for the 2 elements of fs_bio_set"):
        booted(
            machine={"ram_mib": 24, "reserved_pages": 4700},
            storage={"kind": "iscsi", "size_mib": 16, "role": "fs"},
        )
    full = {"name": "DMA32", "present_pages": 9000, "managed_pages": 8000, "free_pages": 0}
    with pytest.raises(UsageError, match=r"no memory at boot for the 32 elements of sio_pool"):
        booted(machine={"ram_mib": 40, "zones": [full]}, storage={"kind": "nfs", "size_mib": 16})
    with pytest.raises(UsageError, match=r"no memory at boot for the 256 elements of crypt page_pool"):
        booted(machine={"ram_mib": 2, "reserved_pages": 300}, storage={"kind": "disk", "encrypted": True})
