"""What every transport does for a call, whichever it is."""

import pytest

from storage_backends.nfs.connection.procedures import NULL


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_call_leaves_nothing_behind(mounted, transport) -> None:
    """It is answered, gives its slot and the lock back, and is in no queue; the digest is as before."""
    host = mounted(f"storage.transport={transport}")

    async def script(task) -> None:
        for _ in range(3):
            before = host.xprt.digest()
            reply = await host.client.call_sync(task, NULL, None)
            assert reply is not None
            assert host.xprt.digest() == before
        assert host.xprt.locked_by is None
        assert host.xprt.slots.nr_taken == 0
        assert host.xprt.is_connected

    host.run(script)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_only_the_locks_holder_sends(mounted, transport) -> None:
    """Whoever finds the lock taken sleeps for it and is let in when it is given up."""
    host = mounted(f"storage.transport={transport}")
    waited = []

    async def script(task) -> None:
        xprt = host.xprt
        await host.pause(task, 100)
        locked = xprt.lock_write

        def lock_write(rpc) -> bool:
            got = locked(rpc)
            waited.append((rpc.sleeps_on, got))
            return got

        xprt.lock_write = lock_write
        holder = await host.client._new_task(task, NULL, None, nr_pages=0, done=lambda _rpc, _task: None)
        holder.xid = host.client.next_xid()
        assert locked(holder)
        host.world.call_after(5_000_000, xprt.release_write, holder)
        reply = await host.client.call_sync(task, NULL, None)
        assert reply is not None
        assert waited[0] == ("xprt sending: the transport's lock", False)
        assert waited[-1] == ("", True)

    host.run(script)
