"""The transport over UDP: one datagram a call, a window, and calls that are sent again."""

from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOWARN
from netvm.units import NS_PER_S
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.congestion import RPC_CWNDSCALE
from storage_backends.nfs.connection.procedures import NULL, WRITE

_UDP = "storage.transport=udp"


async def _null(host, task) -> None:
    reply = await host.client.call_sync(task, NULL, None)
    assert reply is not None


def test_batches_arrive_in_datagrams_of_32_kib(mounted) -> None:
    """A batch of 32 pages is four WRITEs, each in 23 fragments, and all of it is at the server."""
    host = mounted(_UDP)

    async def script(task) -> None:
        host.take_completions()
        for i in range(4):
            await host.swap_rw(task, 1 + 32 * i, [1 + i] * 32)
        assert await host.until_ended(task, 4) == [0] * 4
        back = await host.swap_rw(task, 33, None, nr_pages=8)
        assert await host.until_ended(task, 5) == [0] * 5
        assert back.versions == [2] * 8

    host.run(script)
    assert host.backend.stored()[1:129:32].tolist() == [1, 2, 3, 4]
    assert host.host.netstat["IpFragCreates"] == 16 * 23
    assert (host.host.netstat["IpReasmReqds"], host.host.netstat["IpReasmOKs"]) == (23, 1)
    assert host.xprt.window.cwnd > RPC_CWNDSCALE
    assert host.xprt.locked_by is None
    assert host.xprt.sock.memalloc


def test_the_window_and_the_table_bound_what_is_out(mounted) -> None:
    """Never more calls than the window, never a window wider than the slot table."""
    host = mounted(_UDP, "storage.udp_slot_table_entries=4", "storage.disk.latency_us=2000")
    most = []

    async def script(task) -> None:
        host.take_completions()
        for i in range(12):
            await host.swap_rw(task, 1 + 32 * i, [1 + i] * 32)
        while len(host.ended) < 12:
            most.append((host.xprt.window.cong, host.xprt.window.cwnd, host.xprt.slots.nr_taken))
            await host.pause(task, 0.5)

    host.run(script)
    assert all(cong <= 4 * RPC_CWNDSCALE and taken <= 4 for cong, _cwnd, taken in most)
    assert max(cong for cong, _cwnd, _taken in most) == 4 * RPC_CWNDSCALE
    assert host.xprt.nr_retransmitted == 0


def test_who_waits_for_the_window_says_so(mounted) -> None:
    """Calls that the window keeps back name it, and how wide it is; the transport's lock is free."""
    host = mounted(_UDP, "storage.disk.latency_us=2000")
    waiting = []

    async def script(task) -> None:
        host.take_completions()
        for i in range(4):
            await host.swap_rw(task, 1 + 32 * i, [1 + i] * 32)
        await host.pause(task, 1)
        waiting.extend(rpc.sleeps_on for rpc in host.client.tasks.values() if rpc.need_xmit)
        assert waiting
        assert set(waiting) == {f"xprt sending: a unit of the window (cwnd {host.xprt.window.cwnd})"}
        assert host.xprt.locked_by is None
        await host.until_ended(task, 4)

    host.run(script)


def test_what_was_lost_is_sent_again_until_it_is_there(mounted) -> None:
    """Over a wire that loses a packet in twenty every batch ends, and none is written twice by the server."""
    host = mounted(_UDP, "link.loss=0.05")

    async def script(task) -> None:
        host.take_completions()
        for i in range(8):
            await host.swap_rw(task, 1 + 32 * i, [1 + i] * 32)
        await host.until_ended(task, 8, within_ms=600_000)

    host.run(script)
    assert host.backend.stored()[1 : 1 + 32 * 8 : 32].tolist() == list(range(1, 9))
    assert host.xprt.nr_retransmitted > 0
    assert [error for _, error in host.ended] == [0] * 8


def test_a_silent_server_is_asked_again_and_told_to_the_operator(mounted) -> None:
    """After 1.1, 3.3, 7.7 and 16.5 s, then from 1.1 s on; the log says so after the major time-out and at the end."""
    host = mounted(_UDP)
    seen = []

    async def script(task) -> None:
        await _null(host, task)
        host.backend.stall(host.world.now_ns + 20 * NS_PER_S)
        begun_ns = host.world.now_ns
        await _null(host, task)
        seen.append((host.world.now_ns - begun_ns) // NS_PER_S)

    host.run(script)
    told = [line for line in host.log if line.startswith("nfs: server")]
    assert [line.split(" ", 3)[3] for line in told] == ["not responding, still trying", "OK"]
    assert seen == [20]
    assert host.xprt.nr_retransmitted == 6


def test_a_call_answered_before_it_is_sent_again_keeps_no_unit(mounted) -> None:
    """Calls that timed out wait for the lock; when their late replies come first, the window is free for others."""
    host = mounted(_UDP)

    async def script(task) -> None:
        xprt, world = host.xprt, host.world
        await _null(host, task)
        xprt.window.cwnd = 3 * RPC_CWNDSCALE
        host.backend.stall(world.now_ns + 3 * NS_PER_S)
        for i in range(3):
            world.spawn(f"caller{i}", lambda caller: _null(host, caller))
        world.call_after(2 * NS_PER_S, setattr, xprt, "locked_by", host)
        world.call_after(4 * NS_PER_S, xprt.release_write, host)
        await host.pause(task, 5_000)
        assert (xprt.window.cong, len(xprt.resend), len(xprt.sending)) == (0, 0, 0)
        await _null(host, task)

    host.run(script)


def test_a_server_that_was_restarted_is_asked_again(mounted) -> None:
    """Nobody is told of it: calls go nowhere, and the next one that is sent again is answered."""
    host = mounted(_UDP)

    async def script(task) -> None:
        host.backend.restart_server(host.world.now_ns + 2 * NS_PER_S)
        begun_ns = host.world.now_ns
        await _null(host, task)
        assert 2 * NS_PER_S <= host.world.now_ns - begun_ns < 8 * NS_PER_S

    host.run(script)


def test_a_call_without_memory_for_its_packets_comes_again(mounted) -> None:
    """GFP_ATOMIC fails at once; a quarter of a second later the call is tried again."""
    host = mounted(_UDP, "storage.role=fs", "storage.swap_mib=0")

    async def script(task) -> None:
        await _null(host, task)
        begun_ns = host.world.now_ns
        pages = host.drain()
        while host.host.slabs["kmalloc-1k"].try_alloc(host.host.softirq, 0) >= 0:
            pass
        host.world.call_after(NS_PER_S // 10, host.give_back, pages)
        await _null(host, task)
        assert host.world.now_ns - begun_ns >= NS_PER_S // 4

    host.run(script)
    assert host.host.netstat["IpOutDiscards"] == 1


def test_a_reserve_that_counts_fragments_is_larger_by_them(mounted) -> None:
    """256 KiB apart from the marks: neither an ordinary request nor GFP_ATOMIC gets at them, __GFP_MEMALLOC does."""
    off, on = (
        mounted(_UDP, 'kernel.preset="3.6"'),
        mounted(_UDP, 'kernel.preset="3.6"', "kernel.fixes.reserve_counts_fragments=true"),
    )
    left = []

    async def nothing(_task) -> None:
        return

    for host in (off, on):
        host.run(nothing)
        pages, softirq = host.host.pages, host.host.softirq
        owner = host.host.ledger.owner("test")
        while pages.try_alloc_pages(softirq, 0, GFP_ATOMIC | GFP_NOWARN, owner) >= 0:
            pass
        left.append(host.host.node.nr_free)
        host.drain()
        assert host.host.node.nr_free == 0
    assert left[1] - left[0] == 64


def test_a_datagram_without_a_vector_is_not_sent(mounted) -> None:
    """Without ``rpc_bvec_before_lock`` a call whose vector cannot be had lets go of the transport and comes again."""
    host = mounted(_UDP, fixes=("rpc_bvec_before_lock",))
    failed = []
    alloc_bvec = RpcTask.alloc_bvec

    async def never_at_first(rpc, task, gfp) -> bool:
        if rpc.procedure is WRITE and len(failed) < 3:
            failed.append((gfp, host.xprt.locked_by is rpc))
            return False
        return await alloc_bvec(rpc, task, gfp)

    async def script(task) -> None:
        host.take_completions()
        await host.swap_rw(task, 1, [7] * 8)
        assert await host.until_ended(task, 1) == [0]

    RpcTask.alloc_bvec = never_at_first
    try:
        host.run(script)
    finally:
        RpcTask.alloc_bvec = alloc_bvec
    assert failed == [(GFP_KERNEL, True)] * 3
    assert host.backend.stored()[1:9].tolist() == [7] * 8
    assert host.xprt.locked_by is None
