"""The critical path of a stall: from the allocation to the reply that ended it.

An allocation that stalls reclaims; reclaim finds pages under writeback and waits, in a throttle or in a mempool whose
elements are with requests under way; the write request whose completion came last before the stall's end, and within
it, is the one that gave back a bio, a tag and pages. Its own time has two parts that its events tell apart: until its
last byte was with the socket (memory for the packets, room in the send buffer), and until the reply had come.

# MODEL: which page an allocation got, and whose completion freed just that one, is not recorded: the last completion
# is the nearest that the events can say. Traces of a real machine have block_rq or NFS events, or no request at all.
"""

from typing import Any

from netvm.report.waits import Span
from netvm.trace.records import Recorded

__all__ = ["chain_of"]

_WAITS = ("mempool", "throttled")


def chain_of(span: Span, recorded: Recorded) -> list[dict[str, Any]]:
    """Return the steps of a stall's critical path; empty if nothing but the stall itself is known."""
    request = span.freed_by
    if request is None:
        return []
    steps = [_step("allocation", span, span.begin_ns, span.duration_ns, recorded.tasks.label(span.task))]
    reclaim_ns = sum(link.total_ns for name, link in span.links.items() if name.startswith("scanning"))
    if reclaim_ns:
        steps.append(_step("reclaim", span, span.begin_ns, reclaim_ns, f"{span.nr_scanned} pages scanned"))
    met = [link for name, link in span.links.items() if name.startswith("scanning, pages under writeback")]
    if met:
        who = f"{sum(link.pages for link in met)} scanned"
        steps.append(_step("pages under writeback", span, span.begin_ns, sum(link.total_ns for link in met), who))
    waits = [(link.total_ns, name) for name, link in span.links.items() if name.startswith(_WAITS)]
    if waits:
        longest_ns, name = max(waits)
        holder = f"held by {span.nr_in_flight} writes under way, given back by {recorded.tasks.label(request.task)}'s"
        steps.append(_step(name, span, span.begin_ns, longest_ns, holder))
    who = f"{request.nr_scanned} pages, issued by {recorded.tasks.label(request.task)}"
    steps.append(_step("request", span, request.begin_ns, request.duration_ns, who))
    if request.sent_ns >= 0:
        steps.append(_step("to the socket", span, request.begin_ns, request.sent_ns - request.begin_ns, "skbs"))
        steps.append(_step("wire, storage, reply", span, request.sent_ns, request.end_ns - request.sent_ns, ""))
    steps.append(_step("page to the allocation", span, request.end_ns, span.end_ns - request.end_ns, ""))
    return steps


def _step(name: str, span: Span, begin_ns: int, length_ns: int, who: str) -> dict[str, Any]:
    return {"step": name, "at_us": (begin_ns - span.begin_ns) / 1000, "us": length_ns / 1000, "who": who}
