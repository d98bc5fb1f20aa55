"""The NBD server: promises kept in the disk's time, on a machine of its own and as a process of the host."""

import pytest

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK
from netvm.mm.gfp import PF_LOCAL_THROTTLE, PF_MEMALLOC_NOIO
from netvm.net.stack import NetStack
from netvm.scenario.load import scenario_from
from netvm.scenario.run import run_scenario
from netvm.units import MIB, NS_PER_MS, PAGE_SIZE
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nbd.server import NbdService

REMOTE = """
[storage]
kind = "nbd"
size_mib = 64
[storage.disk]
latency_us = 5000
"""
LOCAL = """
[nic]
kind = "loopback"
[storage]
kind = "nbd"
place = "local"
size_mib = 64
[storage.disk]
latency_us = 5000
"""


@pytest.mark.parametrize("text", [REMOTE, LOCAL])
def test_replies_come_when_the_disk_is_done(device, text):
    """A read brings what was written, each after the disk's latency, wherever the server runs."""

    async def script(d, task):
        began_ns = d.world.now_ns
        d.submit(0, [3] * 8)
        assert await d.until_ended(task, 1) == [BLK_STS_OK]
        assert 5 * NS_PER_MS <= d.world.now_ns - began_ns <= 9 * NS_PER_MS
        read = d.submit(2, nr_pages=2)
        await d.until_ended(task, 2)
        assert read.versions == [3, 3]

    device(text).run(script)


def test_a_local_server_reads_on_while_its_disk_is_busy(device):
    """A request that comes while another one is under way is answered as long after it came as that one."""

    async def script(d, task):
        began_ns = d.world.now_ns
        d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=3)
        d.submit(8, [2])
        assert await d.until_ended(task, 2) == [BLK_STS_OK] * 2
        assert 8 * NS_PER_MS <= d.world.now_ns - began_ns < 10 * NS_PER_MS

    device(LOCAL).run(script)


def test_a_local_server_sends_a_header_and_then_its_data(device, monkeypatch):
    """The header of a read's reply is a packet of its own: the client may have it while there is no memory for data."""
    sizes = []
    xmit = NetStack.xmit

    def listen(stack, to, segment, *args, **kwargs):
        if to.name != "nbd-server" and segment.size_bytes:
            sizes.append(segment.size_bytes)
        return xmit(stack, to, segment, *args, **kwargs)

    async def script(d, task):
        d.submit(0, [1, 2])
        await d.until_ended(task, 1)
        monkeypatch.setattr(NetStack, "xmit", listen)
        d.submit(0, nr_pages=2)
        await d.until_ended(task, 2)

    device(LOCAL).run(script)
    assert sizes == [16, 2 * PAGE_SIZE]


@pytest.mark.parametrize("seed", [0, 2])
def test_a_local_server_greets_whoever_runs_first(seed):
    """In any order of server and client at the start the device comes up."""
    tables = {
        "machine": {"ram_mib": 20, "cpus": 4, "costs": {"scale": 20.0}},
        "nic": {"kind": "loopback"},
        "storage": {"kind": "nbd", "place": "local", "size_mib": 4},
        "workload": [{"kind": "anon-hog", "mib": 1}],
        "run": {"oracle": "random", "seed": seed, "max_virtual_s": 1.0},
    }
    assert run_scenario(scenario_from(tables, origin="test"), name="nbd").verdict == "COMPLETED"


def test_promises_of_an_old_connection_are_forgotten(device):
    """What the disk would have served for a connection that is gone is neither written nor answered."""

    async def script(d, task):
        d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=2)
        d.host.backend.reset_connection()
        assert await d.until_ended(task, 1, within_ms=100) == [BLK_STS_IOERR]
        await d.until(task, lambda: False, within_ms=20)

    assert device(REMOTE).run(script).host.backend.stored()[0] == 0


@pytest.mark.parametrize("flusher", [True, False])
def test_a_local_server_may_opt_out_of_its_own_io(device, flusher):
    """With io_flusher_servers it runs in a NOIO scope and is throttled locally."""

    async def script(d, task):
        wanted = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE if flusher else 0
        assert [t.flags & (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE) for t in d.host.backend.tasks()] == [wanted]

    device(LOCAL, [f"kernel.fixes.io_flusher_servers={str(flusher).lower()}"]).run(script)


def test_a_local_server_is_named_as_what_a_request_waits_for(device):
    """Whoever waits for a request that was sent waits for the server's thread."""

    async def script(d, task):
        rq = d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=3)
        needed = d.queue.driver.needs(rq)
        assert needed.needs == tuple(d.host.backend.tasks())
        assert "served on this host" in needed.name
        await d.until_ended(task, 1)

    device(LOCAL).run(script)


def test_service_says_hello_once_for_each_connection():
    """A new connection begins with the greeting again, whatever the old one had come to."""
    service = NbdService(BlockStore(MIB), DiskModel(latency_ns=0, bandwidth_bytes_per_s=0, queue_depth=1), MIB)
    first = service.connection.chunks_to_send()
    assert first
    assert service.connection.chunks_to_send() == []
    service.reconnect()
    assert service.connection.chunks_to_send() == first
