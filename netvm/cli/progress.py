"""Progress of a run on standard error: a live line on a terminal, else a plain line every few seconds.

It goes to standard error so that a result on standard output stays a result. Nothing here may end a run: if the reader
of standard error goes away, the progress falls silent.
"""

import sys
import time  # noqa: TID251  # progress is told by the wall clock: it is the user who waits
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from netvm.cli.output import is_coloured
from netvm.printable import printable

if TYPE_CHECKING:
    from rich.live import Live

    from netvm.scenario.outcome import Progress

__all__ = ["ProgressLine", "progress_text"]

_PLAIN_INTERVAL_S: Final = 5.0
_LIVE_INTERVAL_S: Final = 0.1


def progress_text(name: str, progress: "Progress") -> str:
    """Return where a run stands, in one line."""
    marks = f"min {progress.min_pages} low {progress.low_pages} high {progress.high_pages}"
    return (
        f"{name}: {progress.virtual_seconds:.3f} s virtual, free {progress.free_pages} pages ({marks}), "
        f"cleaned {progress.pages_cleaned}, swap used {progress.swap_used_pages}"
    )


class ProgressLine:
    """The callback a run tells its progress to; a context manager, because a live line has to be taken away again."""

    def __init__(self, name: str, *, no_color: bool) -> None:
        self._name = name
        self._no_color = no_color
        self._told_s = time.monotonic()
        self._live: Live | None = None
        self._silent = sys.stderr is None

    def __enter__(self) -> Self:
        if not self._silent and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            plain = not is_coloured(sys.stderr, no_color=self._no_color)
            self._live = Live(console=Console(stderr=True, no_color=plain), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __call__(self, progress: "Progress") -> None:
        """Show ``progress`` if the last line is old enough."""
        now_s = time.monotonic()
        interval_s = _PLAIN_INTERVAL_S if self._live is None else _LIVE_INTERVAL_S
        if self._silent or now_s - self._told_s < interval_s:
            return
        self._told_s = now_s
        text = printable(progress_text(self._name, progress))
        try:
            if self._live is None:
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
            else:
                self._show(self._live, text)
        except OSError:
            self._silent = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, live: "Live", text: str) -> None:
        from rich.text import Text

        live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
