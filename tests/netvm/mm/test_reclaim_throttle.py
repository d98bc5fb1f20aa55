"""The naps of reclaimers: how long, for whom, what ends them sooner, and what they were before 5.16."""

import numpy as np
import pytest

from netvm.mm.gfp import GFP_KERNEL, PF_KSWAPD, PF_KTHREAD
from netvm.mm.lru import INACTIVE_ANON
from netvm.mm.reclaim_throttle import FruitlessLooks, wait_without_end
from netvm.mm.scan_control import ScanControl
from netvm.runtime.hang import HangDetector
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

P = 1024
THROTTLES = [
    ("VMSCAN_THROTTLE_WRITEBACK", 104 * NS_PER_MS),
    ("VMSCAN_THROTTLE_ISOLATED", 24 * NS_PER_MS),
    ("VMSCAN_THROTTLE_NOPROGRESS", 2 * JIFFY_NS),
    ("VMSCAN_THROTTLE_CONGESTED", 2 * JIFFY_NS),
]
"""Each reason, and what its timeout comes to by the timer wheel: a jiffy more."""


def _throttle_ns(host, reason: str, *, flags: int = 0) -> int:
    async def body(task):
        await host.vmscan.throttles.reclaim_throttle(task, reason)

    host.run(body, flags=flags)
    return host.world.now_ns


def _much_under_write(host) -> None:
    host.swap.nr_free = host.swap.nr_total = 1000
    host.lruvec.lists[INACTIVE_ANON].add_head(np.full(100, P))
    host.zone.nr_write_pending = 51


@pytest.mark.parametrize(("reason", "timeout_ns"), THROTTLES)
def test_each_reason_has_its_time(make_host, reason: str, timeout_ns: int) -> None:
    """A tenth of a second, a fiftieth, a jiffy, each to the end of the timer's bucket."""
    host = make_host()
    _much_under_write(host)
    assert _throttle_ns(host, reason) == timeout_ns
    assert host.vmscan.throttles.slept_ns == {reason: timeout_ns}
    assert host.vmscan.throttles.count == {reason: 1}


@pytest.mark.parametrize(("reason", "timeout_ns"), THROTTLES)
def test_kswapd_is_throttled_and_other_threads_are_not(make_host, reason: str, timeout_ns: int) -> None:
    """Kblockd and the like never sleep here: somebody may wait for them."""
    for flags, slept_ns in ((PF_KTHREAD, 0), (PF_KTHREAD | PF_KSWAPD, timeout_ns)):
        host = make_host()
        _much_under_write(host)
        assert _throttle_ns(host, reason, flags=flags) == slept_ns


@pytest.mark.parametrize("reason", ["VMSCAN_THROTTLE_NOPROGRESS", "VMSCAN_THROTTLE_CONGESTED"])
@pytest.mark.parametrize(
    ("pending", "failures", "slept_ns"), [(51, 0, 2 * JIFFY_NS), (50, 0, 0), (51, 15, 2 * JIFFY_NS), (51, 16, 0)]
)
def test_some_throttles_are_skipped(make_host, reason: str, pending: int, failures: int, slept_ns: int) -> None:
    """No sleep unless more than half of what is reclaimable is under write, nor on a hopeless node."""
    host = make_host()
    _much_under_write(host)
    host.zone.nr_write_pending = pending
    host.node.kswapd_failures = failures
    assert _throttle_ns(host, reason) == slept_ns


@pytest.mark.parametrize(("pending", "slept_ns"), [(50, 0), (51, 2 * JIFFY_NS)])
def test_free_pages_count_when_nothing_else_does(make_host, pending: int, slept_ns: int) -> None:
    """zone_reclaimable_pages falls back to the free pages, in the rule for skipping as well."""
    host = make_host(free=100)
    host.zone.nr_write_pending = pending
    assert _throttle_ns(host, "VMSCAN_THROTTLE_NOPROGRESS") == slept_ns


@pytest.mark.parametrize(
    ("nr_waiters", "written", "early"), [(1, 32, False), (1, 33, True), (3, 96, False), (3, 97, True)]
)
def test_written_pages_end_a_writeback_throttle(make_host, nr_waiters: int, written: int, early: bool) -> None:
    """More than 32 pages for each who waits, counted since the first began."""
    host = make_host()
    host.vmscan.throttles.acct_reclaim_writeback(1000)
    ended_ns = []

    async def waiter(task):
        await host.vmscan.throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_WRITEBACK")
        ended_ns.append(host.world.now_ns)

    async def body(task):
        for i in range(nr_waiters):
            host.world.spawn(f"waiter{i}", waiter)
        await host.pause(task, 10 * NS_PER_MS)
        for _ in range(written):
            host.vmscan.throttles.acct_reclaim_writeback(1)
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert ended_ns == [(10 if early else 104) * NS_PER_MS] * nr_waiters
    assert host.vmscan.throttles.nr_writeback_throttled == 0
    assert host.vmstat.nr_throttled_written == written


@pytest.mark.parametrize("blk_mq_only", [True, False])
@pytest.mark.parametrize("reason", [reason for reason, _ in THROTTLES])
def test_before_5_16_everybody_slept_it_out(make_host, reason: str, blk_mq_only: bool) -> None:
    """Without fix ``reclaim_throttle`` each is a congestion_wait of 100 ms, whatever is written meanwhile.

    Fix ``blk_mq_only``: naps for a congested device are none since 5.0, as no device is.
    """
    host = make_host(switches={"reclaim_throttle": False, "blk_mq_only": blk_mq_only})

    async def writer(task):
        await host.pause(task, 10 * NS_PER_MS)
        host.vmscan.throttles.acct_reclaim_writeback(1000)
        host.vmscan.throttles.clear_bdi_congested()

    async def body(task):
        host.world.spawn("writer", writer)
        await host.vmscan.throttles.reclaim_throttle(task, reason)

    host.run(body)
    naps = not blk_mq_only or reason in ("VMSCAN_THROTTLE_WRITEBACK", "VMSCAN_THROTTLE_ISOLATED")
    assert host.world.now_ns == (104 * NS_PER_MS if naps else 0)


@pytest.mark.parametrize(
    ("switches", "pending_pages", "naps"),
    [
        ({"reclaim_throttle": False}, 51, True),
        ({"reclaim_throttle": False}, 50, False),
        ({"reclaim_throttle": False, "blk_mq_only": False}, 51, False),
        ({}, 51, False),
    ],
)
def test_before_5_16_a_retry_waited_for_what_is_being_written(
    make_host, switches: dict[str, bool], pending_pages: int, naps: bool
) -> None:
    """Where more than half of what a zone could give is dirty or under writeback: 100 ms, and then once more."""
    host = make_host(switches=switches)
    host.zone.nr_write_pending = pending_pages

    async def body(task):
        return await host.vmscan.throttles.naps_before_retry(task, host.zone, 100)

    assert host.run(body) is naps
    assert host.world.now_ns == (104 * NS_PER_MS if naps else 0)


@pytest.mark.parametrize("reason", [reason for reason, _ in THROTTLES])
def test_before_5_16_kernel_threads_slept_for_isolated_pages(make_host, reason: str) -> None:
    """congestion_wait asks nobody who they are; other naps depended on a congested device."""
    host = make_host(switches={"reclaim_throttle": False})
    slept_ns = 104 * NS_PER_MS if reason == "VMSCAN_THROTTLE_ISOLATED" else 0
    assert _throttle_ns(host, reason, flags=PF_KTHREAD) == slept_ns


def test_before_4_14_a_kernel_thread_naps_until_fewer_pages_are_isolated(make_host) -> None:
    """It sleeps between its looks, so that time goes on and others can give their pages back."""
    host = make_host(free=100, switches={"reclaim_throttle": False, "isolated_wait_once": False})
    host.lru_pages(64)
    host.vmstat.nr_isolated_anon = 500

    async def body(task):
        sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
        await host.vmscan.shrink_list(task, host.lruvec, INACTIVE_ANON, 32, sc, host.swap.start_plug(task))

    def fewer() -> None:
        host.vmstat.nr_isolated_anon = 0

    host.world.call_after(NS_PER_S, fewer)
    host.run(body, flags=PF_KTHREAD)
    assert host.world.now_ns == 1040 * NS_PER_MS


@pytest.mark.parametrize(("reason", "proved"), [("NOPROGRESS", False), ("ISOLATED", True)])
def test_a_step_of_a_first_round_proves_no_hang(make_host, reason: str, proved: bool) -> None:
    """Before 5.16 twelve naps one after another are one round, not twelve retries; those for isolated pages are."""
    host = make_host(switches={"reclaim_throttle": False, "blk_mq_only": False})
    told: list[bool] = []

    async def body(task):
        HangDetector(host.world, digest=int, progress=int, timeout_ns=3600 * NS_PER_S, hung=told.append)
        for _ in range(12):
            await host.vmscan.throttles.reclaim_throttle(task, f"VMSCAN_THROTTLE_{reason}")

    host.run(body)
    assert told == [True] * proved


def test_who_naps_for_isolated_pages_waits_for_those_who_reclaim(make_host) -> None:
    """Pages off the lists come back from a program's reclaim or from kswapd's while it is awake, from nobody else."""
    host = make_host()
    vmscan = host.vmscan
    reclaimer, vmscan.kswapd = host.task("hog"), host.task("kswapd0")
    vmscan.reclaimers.append(reclaimer)
    providers = vmscan.throttles.queues["VMSCAN_THROTTLE_ISOLATED"].resource.providers
    assert providers is not None
    assert providers() == [reclaimer, vmscan.kswapd]

    async def body(task):
        await vmscan.kswapd_wait.wait(task, timeout_ns=NS_PER_S)

    host.world.call_after(NS_PER_MS, lambda: asleep.extend(providers()))
    asleep: list[object] = []
    host.run(body)
    assert asleep == [reclaimer]


def test_who_looked_in_vain_goes_on_as_before(make_host) -> None:
    """After a thousand looks at the same memory a task goes round with kswapd; past that, for what it did before."""
    host = make_host()

    async def body(task):
        task.spins_at, task.spins_on = "should_reclaim_retry", host.pages.memory
        with FruitlessLooks(host.vmscan, task) as looks:
            for _ in range(1000):
                await looks.woken()
            assert task.spins_at == "should_reclaim_retry"
            await looks.woken()
            assert "kswapd wake each other" in task.spins_at
            assert list(task.spins_on.providers()) == [task]
        assert (task.spins_at, task.spins_on) == ("should_reclaim_retry", host.pages.memory)

    host.run(body)


def test_a_wait_without_end_is_no_part_of_the_round(make_host) -> None:
    """Who goes round for memory and must wait for something else wants that alone, and goes on as before."""
    host = make_host()

    async def body(task):
        task.spins_at = "a round"
        with wait_without_end(task):
            within = task.spins_at
        after, task.spins_at = task.spins_at, ""
        return within, after

    assert host.run(body) == ("", "a round")


@pytest.mark.parametrize("oom_detection", [True, False])
@pytest.mark.parametrize("reason", [reason for reason, _ in THROTTLES])
def test_a_nap_of_old_is_for_its_reason_as_well(make_host, reason: str, oom_detection: bool) -> None:
    """Who naps because pages are isolated waits for those who hold them, not for memory as such."""
    host = make_host(switches={"reclaim_throttle": False, "blk_mq_only": False, "oom_detection": oom_detection})
    seen = []

    async def body(task):
        host.world.call_after(NS_PER_MS, lambda: seen.append(task.resource))
        await host.vmscan.throttles.reclaim_throttle(task, reason)

    host.run(body)
    assert seen == [host.vmscan.throttles.queues[reason].resource]
