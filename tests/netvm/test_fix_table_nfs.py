"""The rows of NFS: dated and sourced like the table's."""

from netvm.fix_table import TABLE
from netvm.fix_table_nfs import NFS_TABLE


def test_every_row_says_since_when_and_where_it_is_documented() -> None:
    """A year in which Linux spoke NFS version 3, a kernel, a commit and words; no name of another theme again."""
    others = {fix.name for fix in TABLE}
    for fix in NFS_TABLE:
        assert fix.name not in others
        assert 2012 <= fix.year <= 2026, fix.name
        assert fix.version is not None, fix.name
        assert len(fix.source) > 20, fix.name
        assert not fix.summary.endswith("."), fix.name
