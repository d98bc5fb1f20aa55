"""The transport: writing under its lock, and connecting again."""

import pytest

from netvm.mm.gfp import GFP_ATOMIC, GFP_MEMALLOC, GFP_NOWARN, PF_MEMALLOC
from netvm.pagecache.ports import WritebackControl
from storage_backends.nfs.client.xprt import XS_TCP_INIT_REEST_TO_NS
from storage_backends.nfs.connection.procedures import NULL

_BOTH = ("rpc_swap_memalloc", "nfs_swap_memalloc")


async def _null(host, task) -> None:
    reply = await host.client.call_sync(task, NULL, None)
    assert reply is not None


def test_a_closed_connection_is_made_again_at_once(mounted) -> None:
    """A call that was out is sent again on the next connection, and data flows within a third of a second."""
    host = mounted()

    async def script(task) -> None:
        await host.pause(task, 4000)
        host.backend.reset_connection()
        before_ns = host.world.now_ns
        await host.pause(task, 10)
        await _null(host, task)
        assert host.world.now_ns - before_ns < 300_000_000
        assert host.xprt.nr_connects == 2
        assert host.xprt.sock.memalloc

    host.run(script)


def test_a_server_that_is_away_is_tried_again_after_three_seconds(mounted) -> None:
    """Its host accepts and closes: the client backs off, and goes on when the server is back."""
    host = mounted()

    async def script(task) -> None:
        await host.pause(task, 4000)
        begun_ns = host.world.now_ns
        host.backend.restart_server(begun_ns + 2_000_000_000)
        await host.pause(task, 10)
        await _null(host, task)
        assert XS_TCP_INIT_REEST_TO_NS <= host.world.now_ns - begun_ns < 2 * XS_TCP_INIT_REEST_TO_NS
        assert host.xprt.nr_connects == 3

    host.run(script)


def test_a_silent_server_is_told_to_the_operator(mounted) -> None:
    """Calls are sent again after 60 s; after 180 s the log says so, and says when it is over."""
    host = mounted()

    async def script(task) -> None:
        host.backend.stall(host.world.now_ns + 200_000_000_000)
        await _null(host, task)
        await host.pause(task, 1000)

    host.run(script)
    told = [line for line in host.log if line.startswith("nfs: server")]
    assert [line.split(" ", 3)[3] for line in told] == ["not responding, still trying", "OK"]
    assert host.client.connection.nr_stray_replies >= 1


def test_a_full_send_buffer_is_waited_for_without_the_lock(mounted) -> None:
    """Whoever finds no room leaves; the rest goes when the socket has room, and every batch arrives."""
    host = mounted("storage.proxy_bandwidth_bytes_per_s=4000000")
    seen = []

    async def script(task) -> None:
        host.take_completions()
        for i in range(30):
            await host.swap_rw(task, 1 + 32 * i, [1 + i] * 32)
        await host.pause(task, 20)
        seen.append((host.xprt.write_space or bool(host.xprt.sending), len(host.xprt.xmit) > 0))
        await host.until_ended(task, 30)

    host.run(script)
    assert seen == [(True, True)]
    assert host.backend.stored()[1 : 1 + 32 * 30 : 32].tolist() == list(range(1, 31))
    assert len(host.xprt.xmit) == 0
    assert host.xprt.locked_by is None


def test_calls_in_the_queue_share_packets(mounted) -> None:
    """Until the queue is empty the socket is corked; before 5.13 each call ended with a packet of its own."""
    packets = {}
    for fixes in ((), ("rpc_cork",)):
        host = mounted("storage.proxy_bandwidth_bytes_per_s=4000000", fixes=fixes)

        async def script(task, host=host, fixes=fixes) -> None:
            host.take_completions()
            for i in range(60):
                await host.swap_rw(task, 1 + 32 * i, [1 + i] * 11)
            await host.until_ended(task, 60)
            packets[fixes] = host.host.stack.tcp_counters["TCPOrigDataSent"]

        host.run(script)
    assert packets[()] < packets["rpc_cork",] - 15


def test_connecting_for_swap_may_use_the_reserve(mounted) -> None:
    """The worker that makes a new socket runs with PF_MEMALLOC since either fix; without both it does not."""
    for fixes, flags in (((), PF_MEMALLOC), (("rpc_swap_memalloc",), PF_MEMALLOC), (_BOTH, 0)):
        host = mounted(fixes=fixes)
        seen = []
        alloc = host.xprt._sock_alloc

        async def spy(task, alloc=alloc, seen=seen) -> bool:
            seen.append(task.flags & PF_MEMALLOC)
            return await alloc(task)

        async def script(task, host=host, spy=spy) -> None:
            host.xprt._sock_alloc = spy
            host.backend.reset_connection()
            await _null(host, task)

        host.run(script)
        assert seen == [flags]


@pytest.mark.parametrize("fixed", [True, False])
def test_who_connects_again_waits_for_no_commit(mounted, fixed) -> None:
    """A new socket takes a page that only reclaim can find: a file's, which waits for a COMMIT on that very socket.

    Since 3.6 it leaves such pages alone and connects when there is memory; before, it waited for its own connection.
    """
    host = mounted(
        "storage.role=fs",
        'kernel.preset="2.6.11"',
        f"kernel.fixes.nfs_connect_nofs={str(fixed).lower()}",
        "kernel.fixes.nfs_commit_after_writeback=false",
        "kernel.fixes.nfs_check_dirty_writeback=false",
        "kernel.fixes.dirtyable_memory=true",
        "vm.dirty_writeback_centisecs=0",
    )
    connected = []

    async def script(task) -> None:
        files, slabs = host.host.files, host.host.slabs
        mapping = files.cache.create(files.fs, "log")
        await files.cache.generic_perform_write(task, mapping, 0, 256)
        await files.fs.writepages(task, mapping, WritebackControl(nr_to_write=256, reason="background"))
        await files.cache.wait_on_writeback(task, mapping)
        pages = host.drain()
        for name in ("kmalloc-2k", "kmalloc-1k"):
            while slabs[name].try_alloc(host.host.softirq, 0) >= 0:
                pass
        host.xprt._objects = []
        host.backend.reset_connection()
        await host.pause(task, 100)
        rpc = await host.client.call_async(task, NULL, None, done=lambda _rpc, _task: None)
        assert rpc is not None
        await host.pause(task, 8000)
        host.give_back(pages)
        await host.pause(task, 30_000)
        connected.append(host.xprt.is_connected)

    host.run(script)
    assert connected == [fixed]


@pytest.mark.parametrize(
    ("fixes", "comes_again"), [((), False), (("rpc_send_nofs",), True), (("rpc_send_nofs", "rpc_send_atomic"), False)]
)
def test_a_sender_without_a_page_reclaims_or_comes_again(mounted, fixes, comes_again) -> None:
    """With no page free a worker reclaims for its packets; with GFP_ATOMIC it does not, and the call is delayed."""
    host = mounted(fixes=[*fixes, "rpc_swap_memalloc"])
    seen = []

    async def script(task) -> None:
        rpc = await host.client.call_async(task, NULL, None, done=lambda rpc, context: None)
        pages = host.drain()
        heads = host.host.skbs.fclone_cache
        taken = []
        while (found := heads.try_alloc(host.host.softirq, GFP_ATOMIC | GFP_MEMALLOC | GFP_NOWARN)) >= 0:
            taken.append(found)
        await host.pause(task, 20)
        seen.append(rpc.sleeps_on == "rpc_delay: no memory for the socket's packets")
        for found in taken:
            heads.free(found)
        host.give_back(pages)
        await host.pause(task, 6000)
        assert rpc.reply is not None

    host.run(script)
    assert seen == [comes_again]
