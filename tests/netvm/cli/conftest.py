"""The command line in this process, with a model that answers at once in place of the emulator."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netvm import __version__
from netvm.cli import main, run
from netvm.scenario.load import options_of
from netvm.scenario.outcome import LatencyReport, Outcome, Progress, ReserveReport
from netvm.scenario.schema import Scenario


@dataclass
class FakeModel:
    """Answers what it is told to, and remembers what it was asked."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the outcome that are not the usual ones."""
    error: BaseException | None = None
    """Raised instead of answering."""
    asked: list[Scenario] = field(default_factory=list)

    def __call__(self, scenario: Scenario, *, name: str, progress: Callable[[Progress], None] | None) -> Outcome:
        """Return an outcome as the emulator would."""
        self.asked.append(scenario)
        if progress is not None:
            marks = {"min_pages": 270, "low_pages": 337, "high_pages": 404}
            progress(Progress(virtual_seconds=1.5, free_pages=300, pages_cleaned=64, swap_used_pages=96, **marks))
        if self.error is not None:
            raise self.error
        outcome = Outcome(
            scenario=name,
            kernel=scenario.kernel.preset,
            seed=scenario.run.seed,
            version=__version__,
            verdict="COMPLETED",
            expected=scenario.expect,
            virtual_seconds=12.5,
            vmstat={"pswpout": 42, "oom_kill": 0},
            direct_reclaim_latency_us=LatencyReport(count=2, p50=10.0, p90=20.0, p99=20.0, max=20.0),
            reserve=ReserveReport(pages=270, peak_used=20, by_owner={"bio": 8, "skb": 12}),
            drops={"PFMemallocDrop": 3},
            options=options_of(scenario),
        )
        return msgspec.structs.replace(outcome, **self.changes)


@dataclass
class Called:
    """What one call of the command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """Put a fake in the place of the emulator."""
    fake = FakeModel()
    monkeypatch.setattr(run, "runner", lambda: fake)
    return fake


@pytest.fixture
def netvm(
    model: FakeModel, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Called]:
    """Call the command line in an empty directory that holds one scenario, ``a.toml``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    Path("a.toml").write_text('title = "T"\n[storage]\nkind = "nbd"\n[[workload]]\nkind = "anon-hog"\nmib = 120\n')

    def call(*argv: str) -> Called:
        code = main(list(argv))
        captured = capsys.readouterr()
        return Called(code=code, out=captured.out, err=captured.err)

    return call
