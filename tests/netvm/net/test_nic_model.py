"""Cards: the size of their buffers, and which of them takes pages from the reserve."""

import pytest

from netvm.net.nic_model import NicModel


@pytest.mark.parametrize(
    ("kind", "buffer_bytes", "copybreak", "retry"),
    [("e1000", 1920, 256, "timer"), ("virtio-net", 1536, 128, "worker"), ("igb", 2048, 256, "timer")],
)
def test_each_card_has_its_buffers(kind: str, buffer_bytes: int, copybreak: int, retry: str) -> None:
    """Only virtio-net takes high-order blocks atomically, only igb pages with __GFP_MEMALLOC."""
    model = NicModel.named(kind)
    assert (model.buffer_bytes, model.copybreak, model.retry) == (buffer_bytes, copybreak, retry)
    assert model.high_order_atomic == model.software_gso == (kind == "virtio-net")
    assert model.ring_memalloc == (kind == "igb")
