"""``--trace FILE``: the recording of one run, to netvm's own file or through it to another format.

While the run goes on records go to a native file, so a long run needs no more memory than a short one. Unless FILE is
to be that file, it is turned into FILE's format when the run has ended.
"""

import argparse
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from netvm.user_file import writing

if TYPE_CHECKING:
    from netvm.report.native import NativeWriter
    from netvm.runtime.world import World
    from netvm.scenario.outcome import Outcome
    from netvm.trace.recorder import Recorder
    from netvm.trace.records import RecordArray

__all__ = ["Recording"]


class Recording:
    """One run being recorded."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from netvm.report.export import NATIVE_SUFFIXES

        self.path: Path = arguments.trace
        self._full: bool = arguments.trace_groups == "full"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._native = self.path
        if self.path.suffix not in NATIVE_SUFFIXES:
            self._folder = tempfile.TemporaryDirectory(prefix="netvm-trace-")
            self._native = Path(self._folder.name) / "recording.nvt"
        self._recorder: Recorder | None = None
        self._writer: NativeWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        if self._folder is not None:
            with suppress(OSError):
                self._folder.cleanup()

    def start(self, world: "World") -> "Recorder":
        """Return the recorder of a world."""
        from netvm.report.native import NativeWriter
        from netvm.trace.recorder import DEFAULT_GROUPS, FULL_GROUPS, Recorder

        recorder = Recorder(world, groups=FULL_GROUPS if self._full else DEFAULT_GROUPS, sink=self._write)
        self._recorder = recorder
        self._writer = NativeWriter(self._native, recorder.recorded)
        return recorder

    def _write(self, records: "RecordArray") -> None:
        assert self._writer is not None
        with writing(self._native):
            self._writer.write(records)

    def finish(self, outcome: "Outcome") -> None:
        """Write the last records and what the recording is of, and turn it into the format asked for."""
        from netvm.report.export import export

        if self._recorder is None or self._writer is None:
            return
        self._recorder.sample()
        self._recorder.finish()
        facts = {
            "scenario": outcome.scenario,
            "kernel": outcome.kernel,
            "seed": outcome.seed,
            "version": outcome.version,
            "verdict": outcome.verdict or outcome.partial or "",
            "explanation": outcome.explanation,
            "reserve_pages": outcome.reserve.pages,
            "reserve_by_owner": outcome.reserve.by_owner,
        }
        with writing(self._native):
            self._writer.about(facts)
            self._writer.close()
        if self._native != self.path:
            export(self._native, self.path)
