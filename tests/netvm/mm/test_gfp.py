"""Masks: their values and names, and the scopes that narrow them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.mm import gfp
from netvm.mm.gfp import (
    GFP_ATOMIC,
    GFP_COMP,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_MEMALLOC,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWAIT,
    GFP_NOWARN,
    GFP_ZERO,
    PF_KSWAPD,
    PF_MEMALLOC,
    PF_MEMALLOC_NOFS,
    PF_MEMALLOC_NOIO,
    GfpScope,
    current_gfp_context,
    gfp_name,
)

PRINTED = [
    (0xCC0, "GFP_KERNEL", GFP_KERNEL),
    (0xC40, "GFP_NOFS", GFP_NOFS),
    (0xC00, "GFP_NOIO", GFP_NOIO),
    (0x800, "GFP_NOWAIT", GFP_NOWAIT),
    (0xA20, "GFP_ATOMIC", GFP_ATOMIC),
    (0x100CCA, "GFP_HIGHUSER_MOVABLE", GFP_HIGHUSER_MOVABLE),
    (0x140CCA, "GFP_HIGHUSER_MOVABLE|__GFP_COMP", GFP_HIGHUSER_MOVABLE | GFP_COMP),
    (0x140DCA, "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO", GFP_HIGHUSER_MOVABLE | GFP_COMP | GFP_ZERO),
    (0xDC0, "GFP_KERNEL|__GFP_ZERO", GFP_KERNEL | GFP_ZERO),
    (0x20C00, "GFP_NOIO|__GFP_MEMALLOC", GFP_NOIO | GFP_MEMALLOC),
    (0x20A20, "GFP_ATOMIC|__GFP_MEMALLOC", GFP_ATOMIC | GFP_MEMALLOC),
    (0x2800, "GFP_NOWAIT|__GFP_NOWARN", GFP_NOWAIT | GFP_NOWARN),
    (
        0x92C00,
        "GFP_NOIO|__GFP_NOWARN|__GFP_NORETRY|__GFP_NOMEMALLOC",
        GFP_NOIO | GFP_NOMEMALLOC | GFP_NORETRY | GFP_NOWARN,
    ),
]


@pytest.mark.parametrize(("value", "name", "mask"), PRINTED)
def test_masks_have_the_values_and_names_of_the_kernel_log(value: int, name: str, mask: int) -> None:
    """``mode:0x...(...)`` of a failure report reads as the recorded kernel prints it."""
    assert mask == value
    assert gfp_name(mask) == name


def test_no_mask_is_none() -> None:
    """The boost's wake-up carries no mask: its trace says ``gfp_flags=none``."""
    assert gfp_name(0) == "none"


def test_single_bits_are_printed_in_the_order_of_the_kernels_table() -> None:
    """Bits that no base covers follow in the order of __def_gfpflag_names."""
    # a hard-wall bit alone, and the reclaim bits apart
    mask = 0x80000 | 0x20000 | 0x100000 | 0x10 | 0x08 | 0x400 | 0x40000 | 0x100 | 0x10000 | 0x40 | 0x20 | 0x02
    assert gfp_name(mask) == (
        "__GFP_HIGHMEM|__GFP_HIGH|__GFP_IO|__GFP_NORETRY|__GFP_COMP|__GFP_ZERO|__GFP_NOMEMALLOC|__GFP_MEMALLOC|"
        "__GFP_HARDWALL|__GFP_RECLAIMABLE|__GFP_MOVABLE|__GFP_DIRECT_RECLAIM"
    )


def test_a_scope_leaves_the_hardwall_bit_visible() -> None:
    """A NOIO scope turns a user's mask into one that no base covers; nothing of it is dropped from the name."""
    assert gfp_name(GFP_HIGHUSER_MOVABLE & ~0xC0) == "GFP_NOIO|__GFP_HIGHMEM|__GFP_HARDWALL|__GFP_MOVABLE"


def test_a_bit_without_a_name_is_printed_as_a_number() -> None:
    """What the table does not know stands at the end in hex."""
    assert gfp_name(GFP_KERNEL | 0x1) == "GFP_KERNEL|0x1"
    assert gfp_name(0x1) == "0x1"


_VALUES = dict(gfp._BASES) | dict(gfp._BITS)


@given(st.integers(0, (1 << 21) - 1))
def test_a_name_says_the_whole_mask(mask: int) -> None:
    """Adding up what the name lists gives the mask again."""
    if mask:
        parts = gfp_name(mask).split("|")
        assert sum(_VALUES[part] if part in _VALUES else int(part, 16) for part in parts) == mask


def test_alloc_flags_share_bits_with_the_mask() -> None:
    """ALLOC_MIN_RESERVE and ALLOC_KSWAPD are __GFP_HIGH and __GFP_KSWAPD_RECLAIM: the kernel copies them."""
    assert gfp.ALLOC_MIN_RESERVE == gfp.GFP_HIGH
    assert gfp.ALLOC_KSWAPD == gfp.GFP_KSWAPD_RECLAIM
    assert [gfp.ALLOC_WMARK_MIN, gfp.ALLOC_WMARK_LOW, gfp.ALLOC_WMARK_HIGH] == [0, 1, 2]
    assert [gfp.ALLOC_NO_WATERMARKS, gfp.ALLOC_OOM, gfp.ALLOC_NON_BLOCK, gfp.ALLOC_HIGHATOMIC] == [4, 8, 0x10, 0x200]
    assert gfp.ALLOC_RESERVES == 0x238


def test_task_flags_are_distinct_bits() -> None:
    """No two PF_* share a bit: one scope never ends another."""
    flags = [value for name, value in vars(gfp).items() if name.startswith("PF_")]
    assert len(flags) == 7
    assert all(value.bit_count() == 1 for value in flags)
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize(
    ("flags", "mask", "narrowed"),
    [
        (0, GFP_KERNEL, GFP_KERNEL),
        (PF_MEMALLOC, GFP_KERNEL, GFP_KERNEL),
        (PF_MEMALLOC_NOFS, GFP_KERNEL, GFP_NOFS),
        (PF_MEMALLOC_NOIO, GFP_KERNEL, GFP_NOIO),
        (PF_MEMALLOC_NOIO | PF_MEMALLOC_NOFS, GFP_KERNEL, GFP_NOIO),
        (PF_MEMALLOC_NOFS, GFP_NOIO, GFP_NOIO),
        (PF_MEMALLOC_NOIO, GFP_ATOMIC, GFP_ATOMIC),
        (PF_MEMALLOC_NOIO, GFP_HIGHUSER_MOVABLE, 0x100C0A),
    ],
)
def test_a_scope_narrows_the_mask(host, flags: int, mask: int, narrowed: int) -> None:
    """PF_MEMALLOC_NOIO strips IO and FS, _NOFS strips FS, and PF_MEMALLOC does not touch the mask."""
    assert current_gfp_context(host.task(flags=flags), mask) == narrowed


def test_scopes_nest(host) -> None:
    """Leaving an inner scope of the same flag leaves the outer one standing."""
    task = host.task(flags=PF_KSWAPD)
    with GfpScope(task, PF_MEMALLOC):
        with GfpScope(task, PF_MEMALLOC):
            assert task.flags == PF_KSWAPD | PF_MEMALLOC
        assert task.flags == PF_KSWAPD | PF_MEMALLOC
    assert task.flags == PF_KSWAPD


def test_a_scope_restores_what_was_there(host) -> None:
    """A task that always has PF_MEMALLOC keeps it: the flag-clobber bug is a scope that clears instead of restoring."""
    task = host.task(flags=PF_MEMALLOC | PF_KSWAPD)
    with GfpScope(task, PF_MEMALLOC), GfpScope(task, PF_MEMALLOC_NOIO):
        pass
    assert task.flags == PF_MEMALLOC | PF_KSWAPD


def test_a_scope_ends_with_an_exception(host) -> None:
    """A task that is killed inside a scope does not take the flag along."""
    task = host.task()
    with pytest.raises(ZeroDivisionError), GfpScope(task, PF_MEMALLOC):
        _ = 1 // 0
    assert task.flags == 0


def test_a_scope_leaves_flags_set_inside_alone(host) -> None:
    """Only the scope's own flag is restored: others may come and go within it."""
    task = host.task()
    with GfpScope(task, PF_MEMALLOC):
        task.flags |= PF_MEMALLOC_NOIO
    assert task.flags == PF_MEMALLOC_NOIO
