"""A host's two summaries: what could make a retry succeed, and what got done."""

from typing import Any

from netvm.host.boot import boot
from netvm.host.machine import Host
from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World
from netvm.scenario.load import scenario_from
from netvm.units import NS_PER_S


def small_host() -> Host:
    """Return a small host with a local disk."""
    table: dict[str, Any] = {
        "machine": {"ram_mib": 64},
        "storage": {"kind": "disk", "size_mib": 16},
        "workload": [{"kind": "anon-hog", "mib": 1}],
    }
    return boot(World(seeds=Seeds(0)), scenario_from(table, origin="test"), log=lambda *_args, **_facts: None)


def test_digest_leaves_clocks_out() -> None:
    """Time alone changes nothing that a retry could see."""
    host = small_host()
    before = host.digest()
    host.world.now_ns += 100 * NS_PER_S
    assert host.digest() == before


def test_digest_sees_what_a_retry_would() -> None:
    """A page, a slab object, a boost, a slot or a kill: each makes another state."""
    host = small_host()
    zone = host.node.zones[0]
    digests = [host.digest()]

    def note() -> None:
        digests.append(host.digest())

    pfn = host.pages.try_alloc_pages(host.softirq, 3, 0, host.ledger.owner("test"))
    note()
    assert pfn >= 0
    zone.watermark_boost += 8
    note()
    zone.watermark_boost -= 8
    host.slabs["kmalloc-4k"].try_alloc(host.softirq, 0)
    note()
    host.swap.nr_cleaned += 1
    note()
    host.node.kswapd_failures = 16
    note()
    host.vmstat.nr_writeback += 1
    note()
    assert len(set(digests)) == len(digests)


def test_progress_grows_with_each_kind_of_work() -> None:
    """Pages cleaned, read, mapped, and victims killed; a slot's writes that fail are one, however many they are."""
    host = small_host()
    seen = [host.progress()]
    host.swap.nr_cleaned += 1
    seen.append(host.progress())
    host.swap.nr_read += 1
    seen.append(host.progress())
    host.vmstat.pgfault += 1
    seen.append(host.progress())
    host.vmstat.oom_kill += 1
    seen.append(host.progress())
    host.swap.failed_slots.add(3)
    seen.append(host.progress())
    assert seen == sorted(set(seen))
    host.swap.failed_slots.add(3)
    assert host.progress() == seen[-1]
