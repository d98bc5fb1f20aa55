"""What a scenario file may put between its programs and the storage: the tables of stacked file systems.

See :mod:`netvm.scenario.schema`, of which this is the part that names what stands on the file system of ``[storage]``.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["Fuse"]


class Fuse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[storage.fuse]``: programs use a FUSE mount, whose server is a process of this host.

    The server has one thread and keeps its files in the file system on the storage.
    """

    max_ratio: Annotated[int, Meta(ge=1, le=100)] = 1
    """/sys/class/bdi/*/max_ratio: most percent of the dirty limit that are the mount's."""
    max_background: Annotated[int, Meta(ge=1, le=65535)] = 12
    """Background requests (writeback, read-ahead) that the server is given at once."""
    congestion_threshold: Annotated[int, Meta(ge=1, le=65535)] = 9
    """Background requests from which on the flusher sends no more of its own accord."""
    max_pages: Annotated[int, Meta(ge=1, le=256)] = 32
    """Pages of one request; 256 since 4.20, if the server asks for it."""
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """The server's /proc/PID/oom_score_adj; -1000: it is never killed."""
    memory_group: str = ""
    """Name of the ``[[memory_group]]`` that the server's pages are charged to; empty: none."""
