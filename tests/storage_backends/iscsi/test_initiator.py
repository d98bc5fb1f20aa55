"""The initiator's shell: its queue, its socket, its memory, and what it does when the connection fails."""

from typing import Any, cast

import pytest

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK, BLK_STS_RESOURCE, Request
from netvm.errors import UsageError
from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, PF_LOCAL_THROTTLE, PF_MEMALLOC, PF_MEMALLOC_NOIO
from netvm.runtime.task import Task
from netvm.units import NS_PER_MS, NS_PER_S
from storage_backends.iscsi.connection.facts import LoggedIn
from storage_backends.iscsi.initiator.session import SessionState
from storage_backends.iscsi.initiator.sg_pool import SgPools
from storage_backends.iscsi.initiator.tcp import TCP_WINDOW_BYTES
from storage_backends.iscsi.login.keys import SessionParameters

ISCSI = """
[storage]
kind = "iscsi"
size_mib = 64
"""


# -- requests ---------------------------------------------------------------------------------------------------------


def test_read_returns_what_was_written(device):
    """Writes land at their slot, one page being eight blocks of 512 bytes, and a read brings their versions back."""

    async def script(d, task):
        d.submit(5, [7, 8, 9])
        d.submit(64, list(range(100, 132)))
        assert await d.until_ended(task, 2) == [BLK_STS_OK, BLK_STS_OK]
        d.submit(5, nr_pages=3)
        d.submit(65, nr_pages=8)
        await d.until_ended(task, 4)
        assert sorted(rq.versions for rq, _ in d.ended[2:]) == [[7, 8, 9], list(range(101, 109))]

    d = device(ISCSI).run(script)
    assert d.host.backend.stored()[5:8].tolist() == [7, 8, 9]
    assert d.host.backend.stored()[64] == 100
    assert d.queue.digest()[1:3] == (0, 0)


def test_same_script_takes_the_same_time_twice(device):
    """Two runs of one script end at the same nanosecond after the same steps."""

    async def script(d, task):
        for slot in range(0, 320, 32):
            d.submit(slot, [slot + 1] * 32)
        await d.until_ended(task, 10)

    ends = {
        (d.world.now_ns, d.world.nr_steps, d.world.nr_events) for d in (device(ISCSI).run(script) for _ in range(2))
    }
    assert len(ends) == 1


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


# -- memory -----------------------------------------------------------------------------------------------------------


def test_socket_is_marked_when_bound(device):
    """The session's socket asks with GFP_ATOMIC | __GFP_MEMALLOC and has iscsid's window, doubled and bounded."""
    sock = device(ISCSI).run(_nothing).host.backend.iscsid._sock
    assert sock.memalloc
    assert sock.allocation == GFP_ATOMIC | GFP_MEMALLOC
    assert sock.mem.sndbuf == sock.mem.rcvbuf == TCP_WINDOW_BYTES == 425984


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


def test_refused_packet_memory_is_waited_for(device):
    """A worker that is refused memory sleeps in sk_stream_wait_memory and sends when there is memory again."""

    async def script(d, task):
        held = d.drain()
        skbs = d.host.skbs
        taken = []
        while (skb := skbs.try_alloc_tx(d.host.softirq, GFP_ATOMIC | GFP_MEMALLOC)) is not None:
            taken.append(skb)
        rq = d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=5)
        worker = next(t for t in d.world.tasks.values() if "sk_stream_wait_memory" in t.stack())
        assert d.queue.driver.needs(rq).needs == (worker,)
        assert "being sent by kworker/u2" in d.queue.driver.needs(rq).name
        for skb in taken:
            skbs.kfree_skb(skb)
        d.give_back(held)
        assert await d.until_ended(task, 1, within_ms=400) == [BLK_STS_OK]

    device(ISCSI).run(script)


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


def test_scatter_lists_are_inline_chained_and_given_back(device):
    """Two entries are inline; 32 pages chain 31 entries in one object of sgpool-32; 300 need three; all come back."""

    async def script(d, task):
        pools = SgPools(d.world, d.host.pages, max_pages=300)
        assert await pools.fill(task)
        assert pools.try_alloc(task, 2) == ()
        assert [index for index, _ in pools.try_alloc(task, 3) or ()] == [0]
        assert [index for index, _ in pools.try_alloc(task, 32) or ()] == [2]
        assert [index for index, _ in pools.try_alloc(task, 33) or ()] == [2]
        assert [index for index, _ in pools.try_alloc(task, 34) or ()] == [3]
        three = pools.try_alloc(task, 300)
        # 1 + 127 + 127 + 45: the last entry of each full part is the link to the next
        assert [index for index, _ in three or ()] == [4, 4, 3]
        before = pools.digest()
        again = pools.try_alloc(task, 300)
        assert again is not None
        pools.free(again)
        assert pools.digest() == before

    device(ISCSI).run(script)


def test_request_without_a_scatter_list_comes_again(device):
    """Without memory two lists of a size are in flight, the pool's; a third request waits for one to come back."""

    async def script(d, task):
        cache = d.host.backend.driver.sg_pools._caches[0]
        d.host.link.up.stalled_until_ns = d.world.now_ns + 20 * NS_PER_MS
        while cache.nr_ready():
            cache.try_alloc(task, GFP_ATOMIC)
        held = d.drain()
        for slot in range(3):
            d.submit(20 * slot, [slot + 1] * 4)
        assert len(d.host.backend.driver.tasks) == 2
        assert d.queue.nr_queued == 1
        d.give_back(held)
        assert await d.until_ended(task, 3) == [BLK_STS_OK] * 3

    device(ISCSI).run(script)


# -- liveness ---------------------------------------------------------------------------------------------------------


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
        assert 5 * NS_PER_S <= d.world.now_ns - began_ns + NS_PER_S // 10 <= 5.2 * NS_PER_S
        assert "ping timed out" in d.log[0]

    device(ISCSI, ["storage.noop_interval_s=2", "storage.noop_timeout_s=3"]).run(script)


def test_without_an_interval_nothing_is_pinged(device):
    """With noop_interval_s = 0 the silence of a target is no failure."""

    async def script(d, task):
        d.host.link.up.is_down = d.host.link.down.is_down = True
        await d.world.sleep_ns(task, 60 * NS_PER_S, d._wait.resource)
        assert d.host.backend.driver.state is SessionState.LOGGED_IN

    device(ISCSI, ["storage.noop_interval_s=0"]).run(script)


# -- failure and recovery ---------------------------------------------------------------------------------------------


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


def test_login_response_without_memory_ends_the_attempt(device):
    """A Login Response that cannot be handed to iscsid is the end of that connection; another attempt succeeds."""

    async def script(d, task):
        sock = await reconnect_slowly(d, task)
        assert await d.until(task, lambda: sock.memalloc, within_ms=50)
        session = d.host.backend.driver
        held = leave_the_reserve(d, 0)
        session._take(session.conn, LoggedIn(cast("SessionParameters", None)))
        assert session.conn.failed
        assert d.log[-1] == "connection1:0: can not deliver control PDU: OOM"
        d.give_back(held)
        assert await d.until(task, lambda: session.state is SessionState.LOGGED_IN, within_ms=5_000)

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
    """With io_flusher_servers iscsid runs in a NOIO scope and is throttled locally."""
    d = device(ISCSI, [f"kernel.fixes.io_flusher_servers={str(flusher).lower()}"]).run(_nothing)
    flags = d.host.backend.iscsid.task.flags & (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE)
    assert flags == (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE if flusher else 0)


def test_target_that_is_not_there_is_the_user_s_mistake(device):
    """If the first login never succeeds the run is refused with one line."""
    d = device(ISCSI)
    d.host.link.up.is_down = True
    with pytest.raises(UsageError, match="could not log in"):
        d.run(_nothing)


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
