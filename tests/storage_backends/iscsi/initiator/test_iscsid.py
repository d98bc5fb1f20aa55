"""The daemon: its socket, its messages, the memory it has not, and its attempts to log in again."""

from typing import Any, cast

import pytest

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK
from netvm.errors import UsageError
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, PF_LOCAL_THROTTLE, PF_MEMALLOC, PF_MEMALLOC_NOIO
from netvm.runtime.task import Task
from netvm.units import NS_PER_MS, NS_PER_S
from storage_backends.iscsi.connection.facts import LoggedIn
from storage_backends.iscsi.initiator.session import SessionState
from storage_backends.iscsi.initiator.tcp import TCP_WINDOW_BYTES
from storage_backends.iscsi.login.keys import SessionParameters

ISCSI = """
[storage]
kind = "iscsi"
size_mib = 64
"""


def test_socket_is_marked_when_bound(device):
    """The session's socket asks with GFP_ATOMIC | __GFP_MEMALLOC and has iscsid's window, doubled and bounded."""
    sock = device(ISCSI).run(_nothing).host.backend.iscsid._sock
    assert sock.memalloc
    assert sock.allocation == GFP_ATOMIC | GFP_MEMALLOC
    assert sock.mem.sndbuf == sock.mem.rcvbuf == TCP_WINDOW_BYTES == 425984


def test_daemon_is_never_told_without_memory_for_the_message(device):
    """If the failure's netlink message cannot be allocated the kernel shrugs, and only the recovery timer ends it."""

    async def script(d, task):
        rq = d.submit(0, [1])
        await d.until_ended(task, 1)
        session = d.host.backend.driver
        d.host.link.up.stalled_until_ns = d.world.now_ns + 20 * NS_PER_MS
        rq = d.submit(8, [2])
        held = d.drain()
        taken = []
        while (skb := d.host.skbs.try_alloc_tx(d.host.softirq, GFP_ATOMIC, fclone=False)) is not None:
            taken.append(skb)
        session.iscsi_conn_failure(session.conn, "a test")
        for skb in taken:
            d.host.skbs.kfree_skb(skb)
        d.give_back(held)
        assert not session.was_told
        assert "iscsid was never told" in d.queue.driver.needs(rq).name
        assert (await d.until_ended(task, 2, within_ms=8000))[-1] == BLK_STS_IOERR
        assert session.state is SessionState.RECOVERY_FAILED

    d = device(ISCSI, ["storage.timeout_s=7"]).run(script)
    assert d.log[:2] == [
        "connection1:0: detected conn error (a test)",
        "connection1:0: gracefully ignored conn error",
    ]
    assert len(d.log) == 3


@pytest.mark.parametrize("drops", [True, False])
def test_daemon_may_not_have_a_message_out_of_the_reserve(device, drops):
    """A message allocated while a reserve packet is processed is dropped at iscsid's ordinary socket."""

    async def script(d, task):
        session, softirq, skbs = d.host.backend.driver, d.host.softirq, d.host.skbs
        held = d.drain()
        while skbs.try_alloc_tx(softirq, GFP_ATOMIC, fclone=False) is not None:
            pass
        d.give_back(held[:16])
        softirq.flags |= PF_MEMALLOC
        session.iscsi_conn_failure(session.conn, "a test")
        softirq.flags &= ~PF_MEMALLOC
        assert session.was_told is not drops
        assert d.host.netstat["PFMemallocDrop"] == drops

    device(ISCSI, [f"kernel.fixes.pfmemalloc_drop={str(drops).lower()}"]).run(script)


async def reconnect_slowly(d: Any, task: Task) -> Any:
    """Reset the session on a wire that takes 20 ms and return the new socket while it waits for its SYN-ACK."""
    session, iscsid = d.host.backend.driver, d.host.backend.iscsid
    d.host.link.down.delay_ns = 20 * NS_PER_MS
    d.host.backend.reset_connection()
    assert await d.until(task, lambda: session.state is SessionState.FAILED, within_ms=50)
    before = iscsid._sock
    assert await d.until(task, lambda: iscsid._sock not in (before, None), within_ms=3000)
    assert not iscsid._sock.memalloc
    return iscsid._sock


def leave_the_reserve(d: Any, nr_pages: int) -> list[int]:
    """Take all memory but so many pages, with the objects that lie ready in slabs; return what was taken."""
    held: list[int] = d.drain()
    skbs = d.host.skbs
    while skbs.try_alloc_tx(d.host.softirq, GFP_ATOMIC, fclone=False) is not None:
        pass
    skbs._slices_left = 0
    for _ in range(nr_pages):
        d.host.pages.free_pages(held.pop(), 0)
    return held


@pytest.mark.parametrize("is_told", [True, False])
def test_login_response_without_memory_ends_the_attempt(device, is_told):
    """A Login Response that cannot be handed to iscsid ends the attempt: at once, or untold by login_timeout."""

    async def script(d, task):
        sock = await reconnect_slowly(d, task)
        assert await d.until(task, lambda: sock.memalloc, within_ms=1_500)
        session = d.host.backend.driver
        held = leave_the_reserve(d, 0)
        session._take(session.conn, LoggedIn(cast("SessionParameters", None)))
        assert session.conn.failed
        assert d.log[-3:] == [
            "connection1:0: can not deliver control PDU: OOM",
            "connection1:0: detected conn error (no memory to deliver a control PDU)",
            "connection1:0: gracefully ignored conn error",
        ]
        d.give_back(held)
        failed_ns = d.world.now_ns
        if is_told:
            session._deliver(session._alloc_event())
        assert await d.until(task, lambda: session.state is SessionState.LOGGED_IN, within_ms=20_000)
        waited_s = (d.world.now_ns - failed_ns) // NS_PER_S
        # the connection takes longer than a look does, so it is seen a second later
        assert waited_s == (1 if is_told else 15)

    device(ISCSI).run(script)


def test_answer_to_an_unmarked_socket_is_lost_in_the_reserve(device):
    """A SYN-ACK received into reserve memory is dropped: until it is bound the new socket is no priority one."""

    async def script(d, task):
        sock = await reconnect_slowly(d, task)
        assert d.host.skbs.memalloc_socks
        held = leave_the_reserve(d, 40)
        assert await d.until(task, lambda: d.host.netstat["PFMemallocDrop"] > 0, within_ms=50)
        assert not sock.established
        d.give_back(held)
        session = d.host.backend.driver
        assert await d.until(task, lambda: session.state is SessionState.LOGGED_IN, within_ms=20_000)
        # the SYN was sent again, a second later
        assert d.host.backend.iscsid._sock is sock

    device(ISCSI).run(script)


@pytest.mark.parametrize("flusher", [True, False])
def test_daemon_opts_out_of_its_own_io(device, flusher):
    """With io_flusher_iscsid iscsid runs in a NOIO scope and is throttled locally."""
    d = device(ISCSI, [f"kernel.fixes.io_flusher_iscsid={str(flusher).lower()}"]).run(_nothing)
    flags = d.host.backend.iscsid.task.flags & (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE)
    assert flags == (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE if flusher else 0)


def test_target_that_is_not_there_is_the_user_s_mistake(device):
    """If the first login never succeeds the run is refused with one line."""
    d = device(ISCSI)
    d.host.link.up.is_down = True
    with pytest.raises(UsageError, match="could not log in"):
        d.run(_nothing)


@pytest.mark.parametrize(("down_ms", "back_after_s"), [(100, 2), (4_900, 6), (22_000, 25)])
def test_how_soon_a_target_is_found_again(device, down_ms, back_after_s):
    """Time2Wait (2 s), SYNs after 0, 1, 3, 7 s of it, looked after every second; all anew after login_timeout."""

    async def script(d, task):
        begun_ns = d.world.now_ns
        d.host.backend.restart_server(begun_ns + down_ms * NS_PER_MS)
        d.submit(0, [1])
        assert await d.until_ended(task, 1, within_ms=60_000) == [BLK_STS_OK]
        assert (d.world.now_ns - begun_ns) // NS_PER_S == back_after_s

    device(ISCSI).run(script)


@pytest.mark.parametrize("how", ["refused", "no memory"])
def test_an_attempt_without_a_connection_is_tried_again_in_three_seconds(device, monkeypatch, how):
    """A connection refused, or no memory for its socket: ISCSI_CONN_ERR_REOPEN_DELAY."""

    async def script(d, task):
        iscsid, session = d.host.backend.iscsid, d.host.backend.driver
        attempts_ns = []
        connect = iscsid._ep_connect

        async def ep_connect(task):
            attempts_ns.append(d.world.now_ns)
            if len(attempts_ns) > 1:
                return await connect(task)
            if how == "no memory":
                return None
            sock = await connect(task)
            d.world.call_after(100_000, sock.abort)
            return sock

        monkeypatch.setattr(iscsid, "_ep_connect", ep_connect)
        d.host.link.down.delay_ns = NS_PER_MS // 2
        d.host.backend.reset_connection()
        assert await d.until(task, lambda: session.state is SessionState.FAILED, within_ms=50)
        assert await d.until(task, lambda: session.state is SessionState.LOGGED_IN, within_ms=20_000)
        first_ns, second_ns = attempts_ns
        assert (second_ns - first_ns) // (100 * NS_PER_MS) == 30

    device(ISCSI).run(script)


def test_login_refused_while_the_target_restarts(device):
    """Connections while the target is down come to nothing; the first one after it is taken."""

    async def script(d, task):
        session = d.host.backend.driver
        until_ns = d.world.now_ns + 6 * NS_PER_S
        d.host.backend.restart_server(until_ns)
        d.submit(0, [1])
        assert await d.until_ended(task, 1, within_ms=20_000) == [BLK_STS_OK]
        assert d.world.now_ns >= until_ns
        assert session.state is SessionState.LOGGED_IN

    device(ISCSI).run(script)


async def _nothing(_device: Any, _task: Task) -> None:
    """A script that only brings the device up."""
