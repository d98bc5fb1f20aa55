"""The quantities every floor shares: time in nanoseconds, memory in pages, and their conversions.

Time is integer nanoseconds of virtual time (exact for the 104 days below 2**53 ns that a trio clock's floats can
carry). Memory is counted in pages of 4096 bytes; a size that is not in pages says ``_bytes`` or ``_kib`` in its name.
``HZ`` is the recorded kernel's: a jiffy is 4 ms.
"""

from typing import NewType

__all__ = [
    "HZ",
    "JIFFY_NS",
    "KIB",
    "MIB",
    "NS_PER_MS",
    "NS_PER_S",
    "NS_PER_US",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "SECTOR_SIZE",
    "Nanoseconds",
    "Order",
    "Pfn",
    "Sector",
    "jiffies_ns",
    "pages_of",
]

Pfn = NewType("Pfn", int)
"""Page frame number: an index into the frame columns."""
Order = NewType("Order", int)
"""A block of 2**order pages."""
Sector = NewType("Sector", int)
"""A 512-byte unit of a block device."""
Nanoseconds = NewType("Nanoseconds", int)
"""A point or span of virtual time."""

KIB = 1024
MIB = 1024 * 1024
PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
SECTOR_SIZE = 512

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

HZ = 250
"""Jiffies per second (CONFIG_HZ of the recorded kernel)."""
JIFFY_NS = NS_PER_S // HZ


def jiffies_ns(jiffies: int) -> int:
    """Return the span of ``jiffies`` timer ticks in nanoseconds."""
    return jiffies * JIFFY_NS


def pages_of(size_bytes: int) -> int:
    """Return how many pages hold ``size_bytes``, rounded up."""
    return (size_bytes + PAGE_SIZE - 1) >> PAGE_SHIFT
