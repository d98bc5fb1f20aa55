"""The table of cures: rows in the board's order, dated and sourced."""

from dataclasses import fields

from netvm.fix_table import TABLE
from netvm.fixes import Fixes


def test_a_row_a_switch() -> None:
    """The table lists what the board has, in the same order, each once; groups have the rows after it."""
    assert [fix.name for fix in TABLE] == [field.name for field in fields(Fixes)][: len(TABLE)]


def test_every_row_says_since_when_and_where_it_is_documented() -> None:
    """A year of Linux 2.6 or later, a version unless it was never merged, and words."""
    for fix in TABLE:
        assert 2003 <= fix.year <= 2026, fix.name
        assert fix.version is None or fix.version[0].isdigit(), fix.name
        assert len(fix.source) > 5, fix.name
        assert not fix.summary.endswith("."), fix.name
