"""Sending a PDU: by reference, under PF_MEMALLOC, out of the reserve, and what it waits for."""

from typing import Any

import pytest

from netvm.block.blk_mq import BLK_STS_OK
from netvm.mm.gfp import GFP_ATOMIC, PF_MEMALLOC
from netvm.runtime.task import Task
from netvm.units import NS_PER_MS

ISCSI = """
[storage]
kind = "iscsi"
size_mib = 64
"""


@pytest.mark.parametrize(
    "options",
    [
        ["storage.first_burst_bytes=8192", "storage.initial_r2t=true", "storage.immediate_data=false"],
        [
            "storage.first_burst_bytes=20000",
            "storage.max_burst_bytes=50000",
            "storage.max_recv_data_segment_bytes=5000",
        ],
        ["storage.max_recv_data_segment_bytes=1001", "storage.first_burst_bytes=513"],
    ],
)
def test_data_is_cut_anywhere_and_pages_are_let_go(device, options):
    """However a write is cut into PDUs it arrives whole, and when it is acknowledged no page is pinned any more."""

    async def script(d, task):
        d.submit(0, list(range(1, 33)))
        d.submit(40, [50, 51, 52])
        await d.until_ended(task, 2)
        d.submit(0, nr_pages=32)
        await d.until_ended(task, 3)
        assert d.ended[-1][0].versions == list(range(1, 33))
        assert await d.until(task, lambda: not d.host.frames.pins.any(), within_ms=300)

    d = device(ISCSI, options).run(script)
    assert d.host.backend.stored()[40:43].tolist() == [50, 51, 52]


def test_pages_stay_pinned_until_acknowledged(device):
    """The pages of a write are referenced by its packets while these are not acknowledged (sendpage)."""

    async def script(d, task):
        d.host.link.up.stalled_until_ns = d.world.now_ns + 50 * NS_PER_MS
        rq = d.submit(0, [1] * 16)
        await d.until(task, lambda: False, within_ms=10)
        # the last page lies in two packets
        assert d.host.frames.pins[rq.pfns].tolist() == [1] * 15 + [2]
        await d.until_ended(task, 1)
        await d.until(task, lambda: not d.host.frames.pins.any(), within_ms=300)
        assert not d.host.frames.pins.any()

    device(ISCSI).run(script)


@pytest.mark.parametrize("priority", [True, False])
def test_priority_socket_sends_without_free_memory(device, priority):
    """With memory down to the last reserve pages a write still leaves over a priority socket, and over no other."""

    async def script(d, task):
        held = d.drain()
        d.give_back(held[:8])
        # the slabs' free objects are no reserve: use them up
        skbs = d.host.skbs
        while skbs.try_alloc_tx(d.host.softirq, GFP_ATOMIC) is not None:
            pass
        rq = d.submit(0, [1] * 2)
        await d.until(task, lambda: bool(d.ended), within_ms=30)
        assert rq.cookie.is_sent
        assert d.host.backend.driver.conn.is_sending is not priority
        assert int(d.host.backend.stored()[0]) == priority

    device(ISCSI, [f"kernel.fixes.memalloc_sockets={str(priority).lower()}"]).run(script)


def test_each_pdu_is_sent_under_pf_memalloc(device):
    """The worker has PF_MEMALLOC inside a PDU's transmission, and not outside."""
    seen: list[tuple[bool, bool]] = []

    async def script(d, task):
        session = d.host.backend.driver
        sock = session.conn.sock
        send = sock.try_sendpages

        def try_sendpages(worker: Task, *args: Any, **kwargs: Any) -> int:
            seen.append((bool(worker.flags & PF_MEMALLOC), "kworker/u2" in worker.comm))
            return send(worker, *args, **kwargs)

        sock.try_sendpages = try_sendpages
        d.submit(0, [1] * 32)
        await d.until_ended(task, 1)
        assert not any(t.flags & PF_MEMALLOC for t in d.world.tasks.values() if "kworker" in t.comm)

    device(ISCSI).run(script)
    assert set(seen) == {(True, True)}


def test_full_send_buffer_calls_the_worker_back(device):
    """When the send buffer is full the rest of the PDU waits and goes out as acknowledgements make room."""

    async def script(d, task):
        d.host.link.up.stalled_until_ns = d.world.now_ns + 30 * NS_PER_MS
        rqs = [d.submit(32 * i, [i + 1] * 32) for i in range(8)]
        await d.until(task, lambda: False, within_ms=5)
        conn = d.host.backend.driver.conn
        assert conn.waits_for_space
        assert conn.sock.mem.wmem_queued >= conn.sock.mem.sndbuf
        names = [d.queue.driver.needs(rq).name for rq in rqs]
        assert "sent, reply awaited" in names[0]
        assert sum("sent in part, send buffer full" in name for name in names) == 1
        assert "in the send queue" in names[-1]
        assert await d.until_ended(task, 8) == [BLK_STS_OK] * 8

    d = device(ISCSI).run(script)
    assert d.host.backend.stored()[:256].tolist() == [i + 1 for i in range(8) for _ in range(32)]
