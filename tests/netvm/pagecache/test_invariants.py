"""The audit of the page cache notices every kind of disagreement."""

from typing import Any

import pytest

from netvm.mm.frames import PG_DIRTY
from netvm.pagecache.invariants import audit_pagecache
from netvm.pagecache.mapping import TAG_DIRTY
from netvm.runtime.task import Task


def _break_tag(host: Any, mapping: Any) -> None:
    mapping.tags[1] &= 0xFF & ~TAG_DIRTY


def _break_flag(host: Any, mapping: Any) -> None:
    host.frames.flags_of[mapping.pfn_of[1] - 1] &= 0xFFFF & ~PG_DIRTY


def _break_owner(host: Any, mapping: Any) -> None:
    host.frames.mapping_of[mapping.pfn_of[1] - 1] = -9


def _break_count(host: Any, mapping: Any) -> None:
    host.vmstat.nr_dirty += 1


def _break_node(host: Any, mapping: Any) -> None:
    mapping.node_entries[0] += 1


def _break_list(host: Any, mapping: Any) -> None:
    mapping.io_list = ""


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (_break_tag, "carry tag"),
        (_break_flag, "flag differ"),
        (_break_owner, "belongs to somebody else"),
        (_break_count, "nr_dirty is"),
        (_break_node, "counts other entries"),
        (_break_list, "on no flusher list"),
    ],
)
def test_a_disagreement_is_told(host: Any, break_it: Any, told: str) -> None:
    """A file in order has nothing to tell; broken in one place it tells which."""
    fs = host.slow_store()

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 4)
        assert audit_pagecache(host.cache) == []
        saved = (mapping.tags.copy(), host.frames.flags.copy(), host.frames.mapping.copy(), mapping.node_entries.copy())
        io_list, nr_dirty = mapping.io_list, host.vmstat.nr_dirty
        break_it(host, mapping)
        (line,) = audit_pagecache(host.cache)
        assert told in line
        mapping.tags[:], host.frames.flags[:], host.frames.mapping[:], mapping.node_entries[:] = saved
        mapping.io_list, host.vmstat.nr_dirty = io_list, nr_dirty

    host.run(body)
