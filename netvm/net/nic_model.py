"""What tells network cards apart, as far as memory goes: buffers, masks, copies, and who retries.

See :mod:`netvm.net.nic`, whose docstring tells each card's way.
"""

from typing import Final

__all__ = ["NicModel"]

E1000_BUFFER_BYTES: Final = 1920
VIRTIO_BUFFER_BYTES: Final = 1536
IGB_BUFFER_BYTES: Final = 2048
COPYBREAK_BYTES: Final = 256
GOOD_COPY_BYTES: Final = 128


class NicModel:
    """What tells the cards apart."""

    __slots__ = ("buffer_bytes", "copybreak", "high_order_atomic", "kind", "retry", "ring_memalloc", "software_gso")

    def __init__(
        self,
        kind: str,
        *,
        buffer_bytes: int,
        copybreak: int = COPYBREAK_BYTES,
        high_order_atomic: bool = False,
        software_gso: bool = False,
        ring_memalloc: bool = False,
        retry: str = "timer",
    ) -> None:
        self.kind = kind
        self.buffer_bytes = buffer_bytes
        self.copybreak = copybreak
        self.high_order_atomic = high_order_atomic
        self.software_gso = software_gso
        self.ring_memalloc = ring_memalloc
        """Buffers come page by page and with ``__GFP_MEMALLOC`` (dev_alloc_page)."""
        self.retry = retry

    @classmethod
    def named(cls, kind: str) -> "NicModel":
        """Return the model of a card by its scenario name."""
        if kind == "virtio-net":
            return cls(
                kind,
                buffer_bytes=VIRTIO_BUFFER_BYTES,
                copybreak=GOOD_COPY_BYTES,
                high_order_atomic=True,
                software_gso=True,
                retry="worker",
            )
        if kind == "igb":
            return cls(kind, buffer_bytes=IGB_BUFFER_BYTES, ring_memalloc=True)
        assert kind == "e1000"
        return cls(kind, buffer_bytes=E1000_BUFFER_BYTES)
