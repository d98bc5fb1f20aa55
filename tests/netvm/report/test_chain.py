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
    stall.links = {"scanning": Link(3000, 2, 64), "mempool: bio": Link(5000, 1)}
    steps = {step["step"]: (step["at_us"], step["us"]) for step in chain_of(stall, recorded)}
    assert list(steps) == [
        "allocation",
        "reclaim",
        "mempool: bio",
        "request",
        "to the socket",
        "wire, storage, reply",
        "page to the allocation",
    ]
    assert steps["request"] == (-0.5, 7.5)
    assert steps["to the socket"][1] + steps["wire, storage, reply"][1] == steps["request"][1]
    assert steps["page to the allocation"] == (7.0, 1.0)


def test_without_a_request_there_is_no_path() -> None:
    """Where no completion is known nothing is claimed."""
    recorded = Recorded()
    assert chain_of(Span("direct_reclaim", recorded.tasks.intern("a", 1), 0, "", end_ns=5), recorded) == []
