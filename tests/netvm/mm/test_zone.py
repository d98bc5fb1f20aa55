"""Marks, protection, per-cpu sizes, and the reserve ladder, against the tables of real machines."""

import pytest

from netvm.fixes import Fixes
from netvm.mm.compact_control import CompactResult
from netvm.mm.gfp import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MIN,
)
from netvm.mm.zone import (
    HIGHATOMIC,
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    Node,
    Zone,
    calculate_min_free_kbytes,
    setup_lowmem_reserve,
    setup_watermarks,
    zone_batchsize,
)

RATIOS = {"DMA": 256, "DMA32": 256, "Normal": 32, "Movable": 0}
PAGES_PER_MIB = 256


def _zone(name: str, managed: int, **switches: bool) -> Zone:
    fixes = Fixes().switched(switches)
    return Zone(name=name, start_pfn=0, present=managed, managed=managed, pageblock_order=9, fixes=fixes)


def _live() -> list[Zone]:
    """Return the zones of the live 6.18 machine."""
    return [_zone("DMA", 3840), _zone("DMA32", 772918), _zone("Normal", 688128)]


# -- min_free_kbytes and the marks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mib", "kbytes"),
    [
        (16, 512),
        (64, 1024),
        (128, 1448),
        (256, 2048),
        (512, 2896),
        (1024, 4096),
        (2048, 5792),
        (4096, 8192),
        (8192, 11585),
        (16384, 16384),
        (65536, 32768),
    ],
)
def test_min_free_kbytes_is_the_root_of_lowmem(mib: int, kbytes: int) -> None:
    """Four times the square root of lowmem in kB: the kernel's own table."""
    assert calculate_min_free_kbytes(mib * PAGES_PER_MIB) == kbytes


def test_min_free_kbytes_is_clamped() -> None:
    """128 kB at least and 256 MiB at most; kernels before 5.8 stopped at 64 MiB."""
    assert calculate_min_free_kbytes(100) == 128
    assert calculate_min_free_kbytes(8 << 28) == 262144
    assert calculate_min_free_kbytes(8 << 28, ceiling=65536) == 65536


@pytest.mark.parametrize(
    ("managed", "mfk", "marks"),
    [
        (64 * PAGES_PER_MIB, 1024, (256, 320, 384)),
        (128 * PAGES_PER_MIB, 1448, (362, 452, 542)),
        (256 * PAGES_PER_MIB, 2048, (512, 640, 768)),
        (512 * PAGES_PER_MIB, 2896, (724, 905, 1086)),
        (1024 * PAGES_PER_MIB, 4096, (1024, 1286, 1548)),
        # the recorded machines
        (19835, 1083, (270, 337, 404)),
        (28027, 1300, (325, 406, 487)),
        (43851, 1645, (411, 513, 615)),
        (19867, 8192, (2048, 2560, 3072)),
    ],
)
def test_marks_of_a_machine_with_one_zone(managed: int, mfk: int, marks: tuple[int, int, int]) -> None:
    """Min is a quarter of min_free_kbytes, low and high follow in steps of max(min/4, 0.1 % of the zone)."""
    zone = _zone("DMA32", managed)
    setup_watermarks([zone], min_free_kbytes=mfk, scale_factor=10, fixes=Fixes())
    assert tuple(zone.watermark) == marks


def test_marks_and_protection_of_the_live_machine() -> None:
    """Zones share min by their size, and are protected by the size of the zones above them over the ratio."""
    zones = _live()
    setup_watermarks(zones, min_free_kbytes=67584, scale_factor=10, fixes=Fixes())
    setup_lowmem_reserve(zones, RATIOS)
    assert [zone.watermark for zone in zones] == [[44, 55, 66], [8914, 11142, 13370], [7936, 9920, 11904]]
    assert [zone.lowmem_reserve for zone in zones] == [[0, 3019, 5707, 5707], [0, 0, 2688, 2688], [0, 0, 0, 0]]


def test_marks_are_older_than_the_last_pages_of_boot() -> None:
    """The recorded Debian machine: its zones' shares are those of before 4,263 pages of init sections were freed."""
    zones = [_zone("DMA", 3840), _zone("DMA32", 32_464)]
    setup_watermarks(zones, min_free_kbytes=1432, scale_factor=10, fixes=Fixes(), init_pages=4263)
    setup_lowmem_reserve(zones, RATIOS)
    assert [zone.watermark for zone in zones] == [[42, 52, 62], [315, 393, 471]]
    assert zones[0].lowmem_reserve == [0, 126, 126, 126]


def test_a_ratio_of_zero_protects_nothing() -> None:
    """vm.lowmem_reserve_ratio = 0 switches a zone's protection off."""
    zones = _live()
    setup_lowmem_reserve(zones, RATIOS | {"DMA32": 0})
    assert zones[1].lowmem_reserve == [0, 0, 0, 0]
    assert zones[0].lowmem_reserve == [0, 3019, 5707, 5707]


def test_a_movable_zone_has_a_small_mark_of_its_own() -> None:
    """Movable memory is no lowmem: min is managed/1024 within 32 and 128, and takes nothing from the others' share."""
    normal, movable = _zone("Normal", 10_000), _zone("Movable", 200_000)
    setup_watermarks([normal, movable], min_free_kbytes=4000, scale_factor=10, fixes=Fixes())
    assert normal.watermark == [1000, 1250, 1500]
    assert movable.watermark[ALLOC_WMARK_MIN] == 128
    small = _zone("Movable", 1000)
    setup_watermarks([normal, small], min_free_kbytes=4000, scale_factor=10, fixes=Fixes())
    assert small.watermark[ALLOC_WMARK_MIN] == 32


def test_without_the_scale_factor_marks_stand_closer() -> None:
    """Fix ``watermark_scale``: before 4.6 the step was a quarter of min however large the zone."""
    zone = _zone("Normal", 1024 * PAGES_PER_MIB)
    fixes = Fixes().switched({"watermark_scale": False})
    setup_watermarks([zone], min_free_kbytes=4096, scale_factor=10, fixes=fixes)
    assert zone.watermark == [1024, 1280, 1536]
    setup_watermarks([zone], min_free_kbytes=4096, scale_factor=10, fixes=Fixes())
    assert zone.watermark == [1024, 1286, 1548]


def test_setting_the_marks_ends_a_boost() -> None:
    """__setup_per_zone_wmarks clears watermark_boost: writing min_free_kbytes does."""
    zone = _zone("DMA32", 19835)
    zone.watermark_boost = 1024
    setup_watermarks([zone], min_free_kbytes=1083, scale_factor=10, fixes=Fixes())
    assert zone.watermark_boost == 0


def test_every_mark_in_use_carries_the_boost() -> None:
    """Min, low and high rise together while a zone is boosted."""
    zone = _zone("DMA32", 19835)
    zone.watermark[:] = [270, 337, 404]
    zone.watermark_boost = 1024
    assert [zone.wmark_pages(w) for w in (ALLOC_WMARK_MIN, ALLOC_WMARK_LOW, ALLOC_WMARK_HIGH)] == [1294, 1361, 1428]
    assert (zone.min_wmark_pages(), zone.high_wmark_pages()) == (1294, 1428)


@pytest.mark.parametrize(
    ("managed", "batch"), [(3840, 1), (19835, 3), (19867, 3), (28027, 7), (43851, 7), (688128, 63), (772918, 63)]
)
def test_per_cpu_batch(managed: int, batch: int) -> None:
    """The batch of the recorded machines and of the live one: 1 in a DMA zone, 63 in a large one."""
    assert zone_batchsize(managed) == batch


# -- the watermark test ------------------------------------------------------------------------------------------------


def _ok(zone: Zone, free: int, alloc_flags: int = 0, *, order: int = 0, index: int = 3) -> bool:
    return zone.watermark_ok(order, zone.wmark_pages(ALLOC_WMARK_MIN), index, alloc_flags, free)


def test_the_test_is_strict() -> None:
    """At free = min + 1 an ordinary request passes, at free = min it fails."""
    zone = _zone("DMA32", 10_000)
    zone.watermark[:] = [1000, 1250, 1500]
    assert _ok(zone, 1001)
    assert not _ok(zone, 1000)


LADDER = [
    # caller, flags, floor since 6.3, floor before
    ("GFP_KERNEL, NOIO, NOFS", 0, 1000, 1000),
    ("GFP_NOWAIT", ALLOC_NON_BLOCK, 1000, 750),
    ("HIGH that may block", ALLOC_MIN_RESERVE, 500, 500),
    ("GFP_ATOMIC", ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK, 375, 375),
    ("GFP_ATOMIC of a high order", ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK | ALLOC_HIGHATOMIC, 375, 375),
    ("GFP_ATOMIC | NOMEMALLOC", ALLOC_MIN_RESERVE, 500, 500),
    ("OOM victim", ALLOC_OOM, 500, 500),
    ("OOM victim, HIGH", ALLOC_OOM | ALLOC_MIN_RESERVE, 250, 250),
    ("OOM victim, atomic", ALLOC_OOM | ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK, 188, 250),
]


@pytest.mark.parametrize("fix", [True, False], ids=["6.3", "before"])
@pytest.mark.parametrize(("caller", "flags", "new", "old"), LADDER, ids=[row[0] for row in LADDER])
def test_the_reserve_ladder(caller: str, flags: int, new: int, old: int, fix: bool) -> None:
    """Each privilege's floor at min = 1000, at its exact boundary; fix ``min_reserve_ladder`` changes two rows."""
    zone = _zone("DMA32", 10_000, min_reserve_ladder=fix)
    zone.watermark[:] = [1000, 1250, 1500]
    floor = new if fix else old
    assert zone.reserve_floor(1000, flags) == floor, caller
    assert _ok(zone, floor + 1, flags | ALLOC_KSWAPD), caller
    assert not _ok(zone, floor, flags | ALLOC_KSWAPD), caller


def test_the_ladder_divides_in_the_kernels_order() -> None:
    """Integer division at each step: the floors that stuck machines show, min 270 and min 32."""
    zone = _zone("DMA32", 10_000)
    atomic = ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK
    assert [zone.reserve_floor(mark, atomic) for mark in (270, 1294, 32)] == [102, 486, 12]
    assert [zone.reserve_floor(mark, ALLOC_MIN_RESERVE) for mark in (270, 1294)] == [135, 647]


def test_protection_counts_on_top_of_the_floor() -> None:
    """A request that may use a higher zone sees a lower one as poorer, privileges or not."""
    zone = _zone("DMA32", 772918)
    zone.watermark[:] = [8914, 11142, 13370]
    zone.lowmem_reserve[:] = [0, 0, 2688, 2688]
    assert _ok(zone, 8915, index=1)
    assert not _ok(zone, 8915, index=2)
    assert _ok(zone, 8914 + 2688 + 1, index=2)
    assert not _ok(zone, 4457 + 2688, ALLOC_MIN_RESERVE, index=2)


@pytest.mark.parametrize("order", [1, 3, 10])
def test_a_block_must_leave_the_mark_behind(host, order: int) -> None:
    """Of a block all pages but one are taken off before the comparison."""
    zone = host.zone
    mark = 100
    least = mark + (1 << order)
    assert zone.watermark_ok(order, mark, 3, 0, least)
    assert not zone.watermark_ok(order, mark, 3, 0, least - 1)


def test_a_block_must_exist(make_host) -> None:
    """Any amount of small blocks does not make a large one: some list of the order or above must hold one."""
    host = make_host(free=0)
    for pfn in range(host.zone.start_pfn, host.zone.start_pfn + 512, 8):
        host.put(pfn, 2)
    assert host.zone.watermark_ok(2, 0, 3, 0, host.zone.nr_free)
    assert not host.zone.watermark_ok(3, 0, 3, 0, host.zone.nr_free)
    host.put(host.zone.start_pfn + 1024, 5, RECLAIMABLE)
    assert host.zone.watermark_ok(3, 0, 3, 0, host.zone.nr_free)


@pytest.mark.parametrize("kind", [UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC])
def test_a_highatomic_block_counts_for_few(make_host, kind: int) -> None:
    """A block on the HIGHATOMIC list satisfies only high-order atomic requests and OOM victims."""
    host = make_host(free=0)
    host.put(host.zone.start_pfn, 4, kind)
    for flags in (0, ALLOC_NON_BLOCK, ALLOC_MIN_RESERVE, ALLOC_HIGHATOMIC, ALLOC_OOM):
        privileged = flags in (ALLOC_HIGHATOMIC, ALLOC_OOM)
        assert host.zone.watermark_ok(2, 0, 3, flags, 1000) == (kind != HIGHATOMIC or privileged)


@pytest.mark.parametrize(("fix", "unusable"), [(True, 16), (False, 32)])
def test_the_high_order_reserve_is_not_counted(make_host, fix: bool, unusable: int) -> None:
    """Fix ``highatomic_free_only``: of two reserved blocks only what is free in them is taken off, else all of them."""
    host = make_host(free=0, pageblock_order=4, kernel="6.18", switches={"highatomic_free_only": fix})
    zone = host.zone
    zone.nr_reserved_highatomic = 32
    host.put(zone.start_pfn, 4, HIGHATOMIC)
    for flags in (ALLOC_NON_BLOCK, ALLOC_MIN_RESERVE, ALLOC_HIGHATOMIC, ALLOC_OOM):
        assert zone.unusable_free(flags) == 0
    assert zone.unusable_free(0) == zone.unusable_free(ALLOC_KSWAPD | ALLOC_WMARK_LOW) == unusable
    assert zone.watermark_ok(0, 100, 3, 0, 100 + unusable + 1)
    assert not zone.watermark_ok(0, 100, 3, 0, 100 + unusable)


def test_before_the_ladder_high_alone_could_not_count_the_reserve(make_host) -> None:
    """Before 6.3 only ALLOC_HARDER and OOM victims counted HIGHATOMIC pages; __GFP_HIGH by itself did not."""
    host = make_host(free=0, switches={"min_reserve_ladder": False})
    host.zone.nr_reserved_highatomic = 32
    assert host.zone.unusable_free(ALLOC_MIN_RESERVE) == 32
    assert host.zone.unusable_free(ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK) == 0
    assert host.zone.unusable_free(ALLOC_OOM) == 0


# -- high orders -------------------------------------------------------------------------------------------------------


def _pieces(make_host, counts: dict[int, int], **options):
    """Return a host whose free memory is so many blocks of each order, no two of them buddies."""
    host = make_host(free=0, zones=(("DMA32", 8192),), **options)
    pfn = host.zone.start_pfn
    for order, count in sorted(counts.items(), reverse=True):
        for _ in range(count):
            pfn = -(-pfn // (2 << order)) * (2 << order)
            host.put(pfn, order)
            pfn += 1 << order
    return host


@pytest.mark.parametrize(
    ("counts", "order", "index"),
    [
        ({}, 3, 0),
        ({4: 1}, 3, -1000),
        # a thousandth for each page, in so many blocks
        ({0: 1}, 5, 1000 - (1000 + 31) // 1),
        ({0: 1000}, 5, 1000 - (1000 + 31250) // 1000),
        ({2: 10, 1: 10}, 3, 1000 - (1000 + 7500) // 20),
    ],
)
def test_fragmentation_index(make_host, counts: dict[int, int], order: int, index: int) -> None:
    """Toward 0 memory is short, toward 1000 it is in pieces; -1000 if a block is there, 0 if nothing is free."""
    assert _pieces(make_host, counts).zone.fragmentation_index(order) == index


@pytest.mark.parametrize(
    ("counts", "order", "suitable"),
    [
        # a block is there and the mark stays
        ({3: 1, 0: 93}, 3, False),
        ({3: 1, 0: 100}, 3, True),
        # none is there: single pages above min + twice the block, for costly orders above low
        ({0: 116}, 3, False),
        ({0: 117}, 3, True),
        ({0: 264}, 5, False),
        ({0: 265}, 5, True),
        # enough pages, but in few large pieces: too little memory rather than fragmentation
        ({7: 4}, 8, False),
    ],
)
def test_when_compaction_could_help(make_host, counts: dict[int, int], order: int, suitable: bool) -> None:
    """compaction_suitable: the watermark for the order, else order 0 above min (low) and a gap of two blocks."""
    host = _pieces(make_host, counts, marks=(100, 200, 300))
    result = host.vmscan.compaction.suitable_at_min(host.zone, order)
    assert (result != CompactResult.SKIPPED) == suitable


# -- layout ------------------------------------------------------------------------------------------------------------


def test_pageblocks_are_counted_from_aligned_frames() -> None:
    """A zone that begins inside a pageblock has a first block that is short."""
    zone = Zone(name="DMA32", start_pfn=1000, present=600, managed=500, pageblock_order=9, fixes=Fixes())
    assert zone.end_pfn == 1600
    zone.set_pageblock_type(1023, RECLAIMABLE)
    assert [zone.pageblock_type(pfn) for pfn in (1000, 1023, 1024, 1599)] == [
        RECLAIMABLE,
        RECLAIMABLE,
        MOVABLE,
        MOVABLE,
    ]
    zone.set_pageblock_type(1599, UNMOVABLE)
    assert zone.pageblock_type(1536) == UNMOVABLE
    assert zone.pageblock_type(1535) == MOVABLE


def test_a_zone_may_span_a_hole() -> None:
    """Spanned pages are more than present ones where the BIOS has its hole."""
    zone = Zone(name="DMA32", start_pfn=1, present=900, managed=800, pageblock_order=9, fixes=Fixes(), spanned=1000)
    assert (zone.end_pfn, zone.present, zone.managed) == (1001, 900, 800)


def test_a_node_knows_its_zones(make_host) -> None:
    """A frame is in one zone, and the node's numbers are the sums."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 256)), free=100)
    node = host.node
    low, high = node.zones
    assert node.zone_of(low.start_pfn) is low
    assert node.zone_of(low.end_pfn - 1) is low
    assert node.zone_of(low.end_pfn) is high
    assert (node.managed, node.nr_free) == (768, 612)
    with pytest.raises(AssertionError, match="in no zone"):
        Node(node.zones).zone_of(high.end_pfn)
