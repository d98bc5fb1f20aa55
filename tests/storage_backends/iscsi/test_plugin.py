"""The door to iSCSI: what the host gets, and what faults do to it."""

from netvm.block.blk_mq import BLK_STS_OK
from netvm.units import NS_PER_S

REMOTE = '[storage]\nkind = "iscsi"\nsize_mib = 64\n'


def test_a_restart_is_survived(device):
    """A session finds its way back: after a restart of the target what was outstanding is answered, and what comes."""

    async def script(d, task):
        d.submit(0, [1])
        await d.until_ended(task, 1)
        d.host.backend.stall(d.world.now_ns + 30 * NS_PER_S)
        d.submit(8, [2])
        await d.until(task, lambda: False, within_ms=5)
        d.host.backend.restart_server(d.world.now_ns + NS_PER_S)
        assert await d.until_ended(task, 2, within_ms=60_000) == [BLK_STS_OK] * 2
        d.submit(16, [3])
        assert await d.until_ended(task, 3) == [BLK_STS_OK] * 3

    d = device(REMOTE).run(script)
    assert d.host.backend.stored()[[0, 8, 16]].tolist() == [1, 2, 3]
    assert d.log
