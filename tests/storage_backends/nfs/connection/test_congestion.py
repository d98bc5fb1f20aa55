"""The window of calls over UDP."""

from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.connection.congestion import RPC_CWNDSCALE, CongestionWindow


def test_it_begins_at_one_call_and_grows_by_one_a_window() -> None:
    """While it is kept full it is two, three and four calls wide after one, two and three answers more."""
    window = CongestionWindow(16)
    xid = 0
    widths = []
    for nr_answers in (1, 2, 3):
        for _ in range(nr_answers):
            while window.get(xid):
                xid += 1
            window.answered(xid - 1)
        widths.append(round(window.cwnd / RPC_CWNDSCALE))
    assert widths == [2, 3, 4]


def test_a_time_out_halves_it_down_to_one_call() -> None:
    """And a call that timed out asks for its unit again."""
    window = CongestionWindow(16)
    window.cwnd = 5 * RPC_CWNDSCALE
    assert window.get(1)
    assert window.get(1)
    assert window.cong == RPC_CWNDSCALE
    for wanted in (640, 320, 256, 256):
        window.timed_out(1)
        assert (window.cwnd, window.cong) == (wanted, 0)


@given(st.lists(st.tuples(st.sampled_from(["get", "answered", "timed_out", "put"]), st.integers(0, 5)), max_size=60))
def test_it_never_leaves_its_bounds(steps: list[tuple[str, int]]) -> None:
    """One call to the slot table wide, and never more calls out than a set of them holds."""
    window = CongestionWindow(4)
    out: set[int] = set()
    for what, xid in steps:
        if what == "get":
            had = xid in out or len(out) * RPC_CWNDSCALE < window.cwnd
            assert window.get(xid) == had
            if had:
                out.add(xid)
        else:
            getattr(window, what)(xid)
            out.discard(xid)
        assert window.cong == len(out) * RPC_CWNDSCALE
        assert RPC_CWNDSCALE <= window.cwnd <= 4 * RPC_CWNDSCALE
