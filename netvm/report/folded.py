"""Folded stacks, out: where waiting time went, for any flame graph.

A line is ``task;kind of wait;cause;link microseconds``, the form that flamegraph.pl, speedscope and inferno read. A
wait inside another one is a link of the outer one and counted there only, so the sum of a task's lines is the time it
waited.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from netvm.report.calls import CALL_KINDS
from netvm.report.spans import SpanBuilder
from netvm.report.waits import Span
from netvm.trace.records import RecordArray, Recorded

__all__ = ["Folder", "folded_stacks"]

_NOT_WAITING: Final = frozenset({"kswapd", "request", "writeback", *CALL_KINDS})
"""Kinds that are no wait of the task they are told of: work, and what is under way elsewhere."""


class Folder:
    """Adds waits up by stack."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.stacks: dict[tuple[str, ...], int] = {}
        """Nanoseconds by stack, outermost first."""

    def span(self, span: Span) -> None:
        """Take one wait."""
        if span.kind in _NOT_WAITING or span.depth:
            return
        head = (self.recorded.tasks.label(span.task), span.kind, span.cause)
        rest_ns = span.duration_ns
        for name, link in span.links.items():
            self._count((*head, name), link.total_ns)
            rest_ns -= link.total_ns
        if rest_ns > 0:
            self._count(head, rest_ns)

    def _count(self, stack: tuple[str, ...], time_ns: int) -> None:
        self.stacks[stack] = self.stacks.get(stack, 0) + time_ns


def folded_stacks(batches: Iterable[RecordArray], recorded: Recorded) -> Iterator[str]:
    """Generate the lines of a trace, each with its end."""
    folder = Folder(recorded)
    builder = SpanBuilder(recorded, folder.span)
    for batch in batches:
        builder.add(batch)
    for stack, time_ns in sorted(folder.stacks.items()):
        yield f"{';'.join(part.replace(';', ',') for part in stack)} {time_ns // 1000}\n"
