"""Scatter lists: inline entries, chains of pool objects, and what happens without memory for them."""

from netvm.block.blk_mq import BLK_STS_OK
from netvm.mm.gfp import GFP_ATOMIC
from netvm.units import NS_PER_MS
from storage_backends.iscsi.initiator.sg_pool import SgPools

ISCSI = """
[storage]
kind = "iscsi"
size_mib = 64
"""


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
