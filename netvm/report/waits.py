"""A wait, and what its time went to: the facts that every picture and table of a recording is made of."""

from dataclasses import dataclass, field, replace
from typing import Final

__all__ = ["RECLAIMS", "Link", "Span", "own_link"]

RECLAIMS: Final = frozenset({"direct_reclaim", "memcg_reclaim", "node_reclaim"})
_OWN_LINKS: Final = {
    "alloc_stall": "allocating",
    "swapin": "waiting for the page to be read",
    "pfmemalloc": "throttled: the reserve is half used",
    "socket": "waiting for room in the socket",
}


@dataclass(slots=True)
class Link:
    """What a task did during part of a span."""

    total_ns: int = 0
    count: int = 0
    pages: int = 0


@dataclass(slots=True)
class Span:
    """One wait: whose, from when to when, why."""

    kind: str
    task: int
    begin_ns: int
    cause: str
    end_ns: int = -1
    order: int = 0
    cpu: int = 0
    nr_scanned: int = 0
    nr_reclaimed: int = 0
    lane: int = 0
    """Of waits of one kind that overlap, as requests do: the lowest number free when this one began."""
    last_ns: int = 0
    """When the task's last event inside the span was."""
    links: dict[str, Link] = field(default_factory=dict)

    unfinished: bool = False
    sent_ns: int = -1
    """Of a request: when its last byte had gone to the socket."""
    freed_by: "Span | None" = None
    """Of a stall: the request whose completion came last before its end, and within it."""

    nr_in_flight: int = 0
    """Of a stall: write requests and calls under way when it ended, the one that freed it among them."""

    depth: int = 0
    """Waits of the same task that it is inside of."""

    def so_far(self, now_ns: int, inner: "Span | None" = None) -> "Span":
        """Return a span that is still open as if it ended now, and the open one inside it too."""
        span = replace(self, links={name: replace(link) for name, link in self.links.items()}, unfinished=True)
        span.end_ns = max(now_ns, span.begin_ns)
        if inner is not None:
            span.take(inner)
        span.spend(own_link(span), max(span.end_ns, span.last_ns))
        return span

    @property
    def duration_ns(self) -> int:
        """How long it was."""
        return self.end_ns - self.begin_ns

    def spend(self, name: str, until_ns: int, pages: int = 0) -> None:
        """Put the time since the task's last event on a link."""
        link = self.links.get(name)
        if link is None:
            link = self.links[name] = Link()
        link.total_ns += max(0, until_ns - self.last_ns)
        link.count += 1
        link.pages += pages
        self.last_ns = until_ns

    def take(self, inner: "Span") -> None:
        """Make a wait inside this one part of it."""
        for name, link in inner.links.items():
            mine = self.links.setdefault(name, Link())
            mine.total_ns += link.total_ns
            mine.count += link.count
            mine.pages += link.pages
        self.nr_scanned += inner.nr_scanned
        self.nr_reclaimed += inner.nr_reclaimed
        self.last_ns = inner.end_ns


def own_link(span: Span) -> str:
    """Return what a task does in a wait when nothing else shows."""
    if span.kind in RECLAIMS:
        return "scanning"
    return f"mempool: {span.cause}" if span.kind == "mempool" else _OWN_LINKS.get(span.kind, span.kind)
