"""Other words for keys: what people type is answered by the key that holds this quantity."""

import msgspec.inspect as shape
import pytest

from netvm.scenario.schema import Scenario
from netvm.scenario.synonyms import SYNONYMS, meant_keys, stem_of


def _tables(kind: shape.Type) -> list[list[str]]:
    """Return the keys of every table below a type."""
    if isinstance(kind, shape.UnionType):
        return [table for member in kind.types for table in _tables(member)]
    if isinstance(kind, shape.ListType):
        return _tables(kind.item_type)
    if not isinstance(kind, shape.StructType):
        return []
    tag = [kind.tag_field] if kind.tag_field else []
    own = [*(field.encode_name for field in kind.fields), *tag]
    return [own, *(table for field in kind.fields for table in _tables(field.type))]


_TABLES = _tables(shape.type_info(Scenario))


@pytest.mark.parametrize(
    ("key", "known", "meant"),
    [
        ("duration_ms", ["at_ms", "for_ms", "commit_ms"], ["for_ms"]),
        ("lasts_s", ["at_ms", "for_ms"], ["for_ms"]),
        ("size_mb", ["kind", "size_mib"], ["size_mib"]),
        ("latency_ms", ["bandwidth_bytes_per_s", "delay_us"], ["delay_us"]),
        ("latency_ms", ["proxy_latency_us", "disk.latency_us"], ["disk.latency_us"]),
        ("bandwidth", ["delay_us", "bandwidth_bytes_per_s"], ["bandwidth_bytes_per_s"]),
        ("bandwidth_mb_s", ["bandwidth_bytes_per_s"], ["bandwidth_bytes_per_s"]),
        ("rate_mbit", ["bandwidth_bytes_per_s"], ["bandwidth_bytes_per_s"]),
        ("memory_gb", ["ram_mib", "cpus"], ["ram_mib"]),
        ("pps", ["packets_per_s", "reads_per_s"], ["packets_per_s"]),
        ("dirty_background", ["dirty_background_ratio", "dirty_background_bytes"], None),
        ("touch_kb", ["mib", "touch_kib"], ["touch_kib"]),
        ("mbi", ["mib"], ["mib"]),
        ("swapiness", ["swappiness"], ["swappiness"]),
        ("SIZE", ["size_mib"], ["size_mib"]),
    ],
)
def test_what_is_typed_is_answered_by_the_key_of_the_quantity(
    key: str, known: list[str], meant: list[str] | None
) -> None:
    """A synonym, another unit, none at all and a misspelling all find the key; None: all that are known."""
    assert meant_keys(key, known) == (known if meant is None else meant)


@pytest.mark.parametrize(
    ("key", "known"),
    [("frob_ms", ["at_ms", "for_ms"]), ("rate", ["write"]), ("size_ms", ["at_ms"]), ("mtu", ["ring", "kind"])],
)
def test_a_shared_unit_or_a_few_shared_letters_are_no_likeness(key: str, known: list[str]) -> None:
    """Where no key holds the quantity none is named."""
    assert meant_keys(key, known) == []


@pytest.mark.parametrize("known", _TABLES, ids=lambda known: known[0])
def test_every_key_stands_for_itself(known: list[str]) -> None:
    """A word that is another key's synonym is still its own key where there is one."""
    for key in known:
        assert meant_keys(key, known)[0] == key


def test_every_stem_with_synonyms_is_one_of_a_key() -> None:
    """No word leads to a key that there is not."""
    stems = {stem_of(key) for table in _TABLES for key in table}
    assert set(SYNONYMS) <= stems
