"""The session: its queue, its window, its pings, and what it does when the connection fails."""

from typing import Any

import pytest

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK, BLK_STS_RESOURCE, Request
from netvm.runtime.task import Task
from netvm.units import NS_PER_MS, NS_PER_S
from storage_backends.iscsi.initiator.session import SessionState
from storage_backends.iscsi.initiator.sg_pool import SgPools

ISCSI = """
[storage]
kind = "iscsi"
size_mib = 64
"""


def test_queue_depth_bounds_what_is_outstanding(device):
    """A request beyond ``storage.queue_depth`` is told BLK_STS_RESOURCE, and goes when another has come back."""

    async def script(d, task):
        d.queue.queue_depth = 100
        d.host.link.up.stalled_until_ns = d.world.now_ns + 20 * NS_PER_MS
        for slot in range(5):
            d.submit(10 * slot, [slot + 1])
        assert len(d.host.backend.driver.tasks) == 2
        assert d.queue.nr_queued == 3
        assert await d.until_ended(task, 5) == [BLK_STS_OK] * 5

    device(ISCSI, ["storage.queue_depth=2"]).run(script)


def test_commands_are_bounded_by_the_preallocated_tasks(device):
    """Of 128 tasks 15 are kept for management, so 113 commands are outstanding at most, and each is answered."""

    async def script(d, task):
        d.host.link.up.stalled_until_ns = d.world.now_ns + 20 * NS_PER_MS
        for slot in range(120):
            d.submit(2 * slot, [slot + 1])
        assert len(d.host.backend.driver.tasks) == 113
        assert not d.host.backend.driver.conn.core.nr_free_tasks
        assert await d.until_ended(task, 120) == [BLK_STS_OK] * 120

    device(ISCSI, ["storage.queue_depth=256"]).run(script)


def test_shut_window_is_busy(device):
    """While the target's command window is shut a request is told BLK_STS_RESOURCE."""

    async def script(d, task):
        window = d.host.backend.driver.conn.core._window
        window.max_cmdsn = window.cmdsn - 1
        rq = Request(write=True, slot=0, pfns=[2000], bios=[], versions=[1])
        assert d.host.backend.driver.queue_rq_nowait(rq) == BLK_STS_RESOURCE
        assert not d.host.backend.driver.tasks

    device(ISCSI).run(script)


def test_idle_session_is_pinged_and_lives(device):
    """A minute without a request is a minute of pings, and the session is the one it was."""

    async def script(d, task):
        conn = d.host.backend.driver.conn
        before = d.host.backend.driver.digest()
        await d.world.sleep_ns(task, 60 * NS_PER_S, d._wait.resource)
        assert d.host.backend.driver.conn is conn
        assert conn.core._liveness.last_recv_ns > 50 * NS_PER_S
        assert d.host.backend.driver.digest() == before

    d = device(ISCSI).run(script)
    assert not d.log


def test_silent_target_is_given_up_after_interval_and_timeout(device):
    """A target that is silent for the ping's interval and timeout has failed, and not before."""

    async def script(d, task):
        session = d.host.backend.driver
        d.host.link.up.is_down = d.host.link.down.is_down = True
        began_ns = d.world.now_ns
        assert await d.until(task, lambda: session.state is SessionState.FAILED, within_ms=6000)
        assert 5 * NS_PER_S <= d.world.now_ns - began_ns + NS_PER_S // 10 <= 5.5 * NS_PER_S
        assert "ping timed out" in d.log[0]

    device(ISCSI, ["storage.noop_interval_s=2", "storage.noop_timeout_s=3"]).run(script)


def test_without_an_interval_nothing_is_pinged(device):
    """With noop_interval_s = 0 the silence of a target is no failure."""

    async def script(d, task):
        d.host.link.up.is_down = d.host.link.down.is_down = True
        await d.world.sleep_ns(task, 60 * NS_PER_S, d._wait.resource)
        assert d.host.backend.driver.state is SessionState.LOGGED_IN

    device(ISCSI, ["storage.noop_interval_s=0"]).run(script)


def test_reset_session_sends_its_tasks_again(device):
    """What was outstanding when the connection was reset is answered over the next one, DefaultTime2Wait later."""

    async def script(d, task):
        d.host.link.up.stalled_until_ns = d.world.now_ns + 5 * NS_PER_MS
        d.submit(0, [1] * 32)
        d.submit(64, [2] * 8)
        read = d.submit(0, nr_pages=4)
        await d.until(task, lambda: False, within_ms=1)
        old = d.host.backend.driver.conn
        d.host.backend.reset_connection()
        d.host.backend.reset_connection()
        await d.until(task, lambda: d.host.backend.driver.state is SessionState.FAILED, within_ms=50)
        assert "session failed, recovery by iscsid" in d.queue.driver.needs(read).name
        assert d.queue.driver.needs(read).needs == (d.host.backend.iscsid.task,)
        assert await d.until_ended(task, 3, within_ms=2500) == [BLK_STS_OK] * 3
        assert d.world.now_ns > 2 * NS_PER_S
        assert d.host.backend.driver.conn is not old
        assert read.versions == [1] * 4
        assert d.host.stack.sockets == [d.host.backend.driver.conn.sock]

    d = device(ISCSI).run(script)
    assert "detected conn error" in d.log[0]
    assert "3 tasks are sent again" in d.log[1]
    assert d.host.frames.pins.sum() == 0


def test_failed_session_is_busy(device):
    """While the session is down a request is told BLK_STS_RESOURCE, and goes when it is up again."""

    async def script(d, task):
        d.host.backend.reset_connection()
        await d.until(task, lambda: d.host.backend.driver.state is SessionState.FAILED, within_ms=50)
        d.submit(0, [1])
        assert d.queue.nr_queued == 1
        await d.until(task, lambda: False, within_ms=10)
        # nothing is out, and yet the bios of what waits come back when iscsid has logged in
        [waits] = d.queue.providers()
        assert waits.name == "sda: WRITE of 1 pages at slot 0, session failed, recovery by iscsid"
        assert waits.needs == (d.host.backend.iscsid.task,)
        assert await d.until_ended(task, 1, within_ms=2500) == [BLK_STS_OK]
        assert d.queue.providers() == []

    device(ISCSI).run(script)


def test_a_request_that_the_driver_refuses_waits_for_memory(device, monkeypatch):
    """A session that is up takes none without a scatter-gather list: what waits for it waits for pages."""

    async def script(d, task):
        monkeypatch.setattr(SgPools, "try_alloc", lambda _pools, _task, _nr: None)
        d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=10)
        [waits] = d.queue.providers()
        assert waits.name == "sda: WRITE of 1 pages at slot 0, refused by the driver"
        assert waits.needs == (d.host.pages.memory,)
        monkeypatch.undo()
        assert await d.until_ended(task, 1, within_ms=2500) == [BLK_STS_OK]

    device(ISCSI).run(script)


@pytest.mark.parametrize("how", ["garbage", "close"])
def test_any_end_of_the_connection_is_a_failure(device, how):
    """A PDU that cannot be one, or the end of the stream, ends the connection as a reset does."""

    async def script(d, task):
        sock = d.host.backend.remote.current.sock
        if how == "garbage":
            sock.write([b"\xff" * 48])
        else:
            sock.close()
        assert await d.until(task, lambda: d.host.backend.driver.state is SessionState.FAILED, within_ms=100)
        d.submit(0, [1])
        assert await d.until_ended(task, 1, within_ms=3000) == [BLK_STS_OK]

    d = device(ISCSI).run(script)
    assert len(d.log) == 2


def test_recovery_that_comes_too_late_fails_everything(device):
    """After timeout_s without a session all tasks and new requests fail, until a login succeeds after all."""

    async def script(d, task):
        session = d.host.backend.driver
        d.host.link.up.is_down = d.host.link.down.is_down = True
        d.submit(0, [1])
        d.submit(8, [2])
        d.host.backend.reset_connection()
        session._state_changed()
        session.conn.sock.abort()
        session_failed_ns = d.world.now_ns
        assert await d.until_ended(task, 2, within_ms=11_000) == [BLK_STS_IOERR] * 2
        assert session.state is SessionState.RECOVERY_FAILED
        d.submit(16, [3])
        assert await d.until_ended(task, 3, within_ms=1) == [BLK_STS_IOERR] * 3
        assert d.world.now_ns >= session_failed_ns + 3 * NS_PER_S
        d.host.link.up.is_down = d.host.link.down.is_down = False
        assert await d.until(task, lambda: session.state is SessionState.LOGGED_IN, within_ms=30_000)
        d.submit(24, [4])
        assert (await d.until_ended(task, 4))[-1] == BLK_STS_OK

    d = device(ISCSI, ["storage.timeout_s=3"]).run(script)
    assert d.log[1] == "session1: session recovery timed out after 3 secs"
    assert d.host.backend.stored()[[0, 8, 16, 24]].tolist() == [0, 0, 0, 4]


async def _nothing(_device: Any, _task: Task) -> None:
    """A script that only brings the device up."""
