"""The critical path of a stall."""

from netvm.report.chain import chain_of
from netvm.report.waits import Link, Span
from netvm.trace.records import Recorded


def test_from_the_allocation_to_the_reply() -> None:
    """The steps are in order, and the request's two parts are its whole."""
    recorded = Recorded()
    hog, worker = recorded.tasks.intern("hog", 1), recorded.tasks.intern("kworker", 2)
    request = Span("request", worker, 500, "W", end_ns=8000, nr_scanned=21, sent_ns=2500)
    stall = Span("alloc_stall", hog, 1000, "GFP_KERNEL", end_ns=9000, nr_scanned=64, freed_by=request)
    stall.links = {
        "scanning": Link(2000, 2, 44),
        "scanning, pages under writeback": Link(1000, 1, 20),
        "mempool: bio": Link(5000, 1),
    }
    stall.nr_in_flight = 3
    chain = chain_of(stall, recorded)
    steps = {step["step"]: (step["at_us"], step["us"]) for step in chain}
    assert list(steps) == [
        "allocation",
        "reclaim",
        "pages under writeback",
        "mempool: bio",
        "request",
        "to the socket",
        "wire, storage, reply",
        "page to the allocation",
    ]
    assert steps["request"] == (-0.5, 7.5)
    assert steps["to the socket"][1] + steps["wire, storage, reply"][1] == steps["request"][1]
    assert steps["page to the allocation"] == (7.0, 1.0)
    assert steps["reclaim"][1] == 3.0, "pages under writeback are a part of it"
    assert chain[3]["who"] == "held by 3 writes under way, given back by kworker-2's"


def test_without_a_request_there_is_no_path() -> None:
    """Where no completion is known nothing is claimed."""
    recorded = Recorded()
    assert chain_of(Span("direct_reclaim", recorded.tasks.intern("a", 1), 0, "", end_ns=5), recorded) == []
