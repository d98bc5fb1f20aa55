"""The door to NBD: what the host gets, and what faults do to it."""

import pytest

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK
from netvm.units import NS_PER_S

REMOTE = '[storage]\nkind = "nbd"\nsize_mib = 64\n'
LOCAL = '[nic]\nkind = "loopback"\n[storage]\nkind = "nbd"\nplace = "local"\nsize_mib = 64\n'


@pytest.mark.parametrize(("text", "nr_threads"), [(REMOTE, 0), (LOCAL, 1)])
def test_a_server_on_the_host_has_a_thread_there(device, text, nr_threads):
    """A local server is a thread of the host, a remote one none."""

    async def script(d, task):
        assert len(d.host.backend.tasks()) == nr_threads
        d.submit(0, [1])
        assert await d.until_ended(task, 1) == [BLK_STS_OK]

    device(text).run(script)


@pytest.mark.parametrize("text", [REMOTE, LOCAL])
def test_a_restart_loses_the_connection_for_good(device, text):
    """NBD has no way back: after a restart of the server every request fails."""

    async def script(d, task):
        d.submit(0, [1])
        await d.until_ended(task, 1)
        d.host.backend.restart_server(d.world.now_ns + NS_PER_S)
        await d.until(task, lambda: d.queue.driver.dead, within_ms=100)
        d.submit(8, [2])
        assert await d.until_ended(task, 2, within_ms=2000) == [BLK_STS_OK, BLK_STS_IOERR]

    device(text).run(script)
