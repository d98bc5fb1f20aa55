"""What an iSCSI connection tells its caller."""

import typing

import pytest

from storage_backends.iscsi.connection import facts

FACTS = sorted({*typing.get_args(facts.InitiatorEvent), *typing.get_args(facts.TargetEvent)}, key=lambda f: f.__name__)


def test_every_fact_is_told_by_one_end_or_both() -> None:
    """No fact is defined that neither end's union lists."""
    assert sorted(fact.__name__ for fact in FACTS) == [
        name for name in facts.__all__ if name not in ("InitiatorEvent", "TargetEvent")
    ]


@pytest.mark.parametrize("fact", FACTS)
def test_facts_are_values(fact: type[tuple[object, ...]]) -> None:
    """Facts with equal fields are equal, cannot be changed and say their fields by name."""
    fields: tuple[str, ...] = fact._fields  # type: ignore[attr-defined]
    made = fact(*fields)
    assert made == fact(*fields)
    assert all(f"{field}={field!r}" in repr(made) for field in fields)
    with pytest.raises(AttributeError):
        made.anything = 1  # type: ignore[attr-defined]
