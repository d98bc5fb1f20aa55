"""A wait and what its time went to."""

from netvm.report.waits import Span, own_link


def test_links_add_up_to_the_wait() -> None:
    """What is spent on links, and what an inner wait took, is the length of the outer one."""
    outer = Span("alloc_stall", 1, 0, "GFP_KERNEL", last_ns=0)
    inner = Span("direct_reclaim", 1, 10, "GFP_KERNEL", last_ns=10)
    outer.spend(own_link(outer), 10)
    inner.spend("scanning", 30, pages=32)
    inner.end_ns = 30
    outer.take(inner)
    outer.end_ns = 50
    outer.spend(own_link(outer), 50)
    assert {name: link.total_ns for name, link in outer.links.items()} == {"allocating": 30, "scanning": 20}
    assert outer.duration_ns == sum(link.total_ns for link in outer.links.values())


def test_an_open_wait_is_as_long_as_it_was_by_now() -> None:
    """A copy ends now; the wait itself goes on."""
    span = Span("mempool", 1, 5, "bio", last_ns=5)
    so_far = span.so_far(25)
    assert (so_far.duration_ns, so_far.unfinished, so_far.links["mempool: bio"].total_ns) == (20, True, 20)
    assert span.end_ns == -1
    assert not span.links
