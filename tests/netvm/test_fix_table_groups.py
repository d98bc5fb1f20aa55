"""The rows of memory groups and of senders: they follow the table, dated and sourced like it."""

from dataclasses import fields

from netvm.fix_table import TABLE
from netvm.fix_table_groups import GROUP_TABLE
from netvm.fix_table_nfs import NFS_TABLE
from netvm.fixes import Fixes


def test_the_rows_follow_the_table() -> None:
    """Together with the table they are the board, in its order."""
    assert [fix.name for fix in (*TABLE, *NFS_TABLE, *GROUP_TABLE)] == [field.name for field in fields(Fixes)]


def test_every_row_says_since_when_and_where_it_is_documented() -> None:
    """A year of the kernels that are modelled, a kernel, a commit and words."""
    for fix in GROUP_TABLE:
        assert 2005 <= fix.year <= 2026, fix.name
        assert fix.version is not None, fix.name
        assert len(fix.source) > 20, fix.name
        assert not fix.summary.endswith("."), fix.name
