"""The door to iSCSI: what the host gets, and what faults do to it."""

import pytest

from netvm.block.blk_mq import BLK_STS_OK
from netvm.host.backend import load_backend
from netvm.units import NS_PER_S
from storage_backends.iscsi.plugin import backend

REMOTE = '[storage]\nkind = "iscsi"\nsize_mib = 64\n'
LOCAL = '[nic]\nkind = "loopback"\n[storage]\nkind = "iscsi"\nplace = "local"\nsize_mib = 64\n'


def test_the_entry_point_is_this_door():
    """``storage.kind = "iscsi"`` finds this backend."""
    assert load_backend("iscsi") is backend


@pytest.mark.parametrize("text", [REMOTE, LOCAL])
def test_a_target_is_there_wherever_it_runs(device, text):
    """A target on the host has threads of it, one elsewhere none; both answer."""

    async def script(d, task):
        assert bool(d.host.backend.tasks()) is (text is LOCAL)
        d.submit(0, [1, 2])
        assert await d.until_ended(task, 1) == [BLK_STS_OK]

    assert device(text).run(script).host.backend.stored()[:2].tolist() == [1, 2]


def test_a_stall_is_survived(device):
    """While the disk does nothing the session stays up, and its requests are answered afterwards."""

    async def script(d, task):
        until_ns = d.world.now_ns + 3 * NS_PER_S
        d.host.backend.stall(until_ns)
        d.submit(0, [1])
        assert await d.until_ended(task, 1) == [BLK_STS_OK]
        assert d.world.now_ns >= until_ns

    assert not device(REMOTE).run(script).log


def test_the_digest_changes_with_what_is_in_flight(device):
    """Two looks at an idle backend are equal; with a request under way they are not."""

    async def script(d, task):
        d.host.backend.stall(d.world.now_ns + NS_PER_S)
        before = d.host.backend.digest()
        assert d.host.backend.digest() == before
        d.submit(0, [1])
        await d.until(task, lambda: False, within_ms=5)
        assert d.host.backend.digest() != before

    device(REMOTE).run(script)
