"""What every swap device behind ``netvm.host.backend.Backend`` must do, whatever its protocol and wherever it is."""

import pytest

from netvm.block.blk_mq import BLK_STS_OK
from netvm.host.backend import load_backend
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC
from netvm.units import NS_PER_S

DISK = '[storage]\nkind = "disk"\nsize_mib = 64\n'
REMOTE = {kind: f'[storage]\nkind = "{kind}"\nsize_mib = 64\n' for kind in ("nbd", "iscsi")}
LOCAL = {
    kind: f'[nic]\nkind = "loopback"\n[storage]\nkind = "{kind}"\nplace = "local"\nsize_mib = 64\n' for kind in REMOTE
}
DEVICES = [
    pytest.param(DISK, id="disk"),
    *(pytest.param(text, id=f"{kind}-remote") for kind, text in REMOTE.items()),
    *(pytest.param(text, id=f"{kind}-local") for kind, text in LOCAL.items()),
]
over_any_device = pytest.mark.parametrize("text", DEVICES)
over_a_socket = pytest.mark.parametrize("text", [pytest.param(text, id=kind) for kind, text in REMOTE.items()])


@pytest.mark.parametrize("kind", ["disk", "nbd", "iscsi", "nfs"])
def test_the_entry_point_is_the_door(kind):
    """``storage.kind`` finds the plugin of that name."""
    assert load_backend(kind).__module__ == f"storage_backends.{kind}.plugin"


@over_any_device
def test_read_returns_what_was_written(device, text):
    """Writes land at their slot, and a read brings their versions back, also out of the middle of a write."""

    async def script(d, task):
        d.submit(5, [7, 8, 9])
        d.submit(64, list(range(100, 132)))
        assert await d.until_ended(task, 2) == [BLK_STS_OK, BLK_STS_OK]
        d.submit(5, nr_pages=3)
        d.submit(65, nr_pages=8)
        assert await d.until_ended(task, 4) == [BLK_STS_OK] * 4
        assert sorted(rq.versions for rq, _ in d.ended[2:]) == [[7, 8, 9], list(range(101, 109))]

    d = device(text).run(script)
    assert d.host.backend.stored()[4:9].tolist() == [0, 7, 8, 9, 0]
    assert d.host.backend.stored()[64:96].tolist() == list(range(100, 132))
    assert d.queue.digest()[1:3] == (0, 0)


@over_any_device
def test_same_script_takes_the_same_time_twice(device, text):
    """Two runs of one script end at the same nanosecond after the same steps."""

    async def script(d, task):
        for slot in range(0, 320, 32):
            d.submit(slot, [slot + 1] * 32)
        await d.until_ended(task, 10)

    ends = {(d.world.now_ns, d.world.nr_steps, d.world.nr_events) for d in (device(text).run(script) for _ in "12")}
    assert len(ends) == 1


@over_any_device
def test_a_stall_is_survived(device, text):
    """While the storage does nothing no request ends; afterwards each does, without a word in the log."""

    async def script(d, task):
        until_ns = d.world.now_ns + 3 * NS_PER_S
        d.host.backend.stall(until_ns)
        d.submit(0, [1])
        assert not await d.until(task, lambda: bool(d.ended), within_ms=2900)
        assert await d.until_ended(task, 1) == [BLK_STS_OK]
        assert d.world.now_ns >= until_ns

    assert not device(text).run(script).log


@over_any_device
def test_only_a_server_on_the_host_has_threads_there(device, text):
    """Who serves elsewhere is no task of this host."""

    async def script(d, _task):
        assert bool(d.host.backend.tasks()) is (text in LOCAL.values())

    device(text).run(script)


@over_a_socket
def test_the_digest_changes_with_what_is_in_flight(device, text):
    """Two looks at an idle backend are equal; with a request under way they are not."""

    async def script(d, task):
        d.host.backend.stall(d.world.now_ns + NS_PER_S)
        before = d.host.backend.digest()
        assert d.host.backend.digest() == before
        d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=5)
        assert d.host.backend.digest() != before

    device(text).run(script)


@over_a_socket
def test_a_sender_without_any_page_waits_in_tcp(device, text):
    """Not even the reserve has a page: a worker sleeps in sk_stream_wait_memory, is named, and goes on with memory."""

    async def script(d, task):
        held = d.drain()
        skbs = d.host.skbs
        taken = []
        while (skb := skbs.try_alloc_tx(d.host.softirq, GFP_ATOMIC | GFP_MEMALLOC)) is not None:
            taken.append(skb)
        rq = d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=20)
        sender = next(t for t in d.world.tasks.values() if "sk_stream_wait_memory" in t.stack())
        assert sender.comm.startswith("kworker/")
        assert d.queue.driver.needs(rq).needs == (sender,)
        assert f"being sent by {sender.comm}" in d.queue.driver.needs(rq).name
        for skb in taken:
            skbs.kfree_skb(skb)
        d.give_back(held)
        assert await d.until_ended(task, 1, within_ms=400) == [BLK_STS_OK]

    device(text).run(script)
