"""The pytest plugin: reproducers of failed explorations, saved and named at the end of the session.

``--netvm-reproducers FOLDER`` saves the reproducer of each test that fails with
:class:`netvm.testing.explore.RefutedError` as ``FOLDER/<test>.toml``. Without it the reproducer is in the failure's
message only. The plugin imports nothing of the model until a test has failed.
"""

import re
from collections.abc import Generator
from pathlib import Path

import pytest

__all__ = ["pytest_addoption", "pytest_runtest_makereport", "pytest_terminal_summary"]

_SAVED = pytest.StashKey[list[tuple[Path, bool]]]()
"""Reproducers, and whether the test has put a policy of its own in place, which the file cannot hold."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option."""
    group = parser.getgroup("netvm", "exploring schedules")
    group.addoption(
        "--netvm-reproducers", metavar="FOLDER", type=Path, help="save the reproducer of each refuted exploration here"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save the reproducer of a test that has been refuted."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    reproducer = getattr(error, "reproducer", None)
    folder: Path | None = item.config.getoption("--netvm-reproducers")
    if isinstance(reproducer, str) and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (re.sub(r"[^\w.-]+", "-", item.name) + ".toml")
        path.write_text(reproducer, encoding="utf-8")
        item.config.stash.setdefault(_SAVED, []).append((path, getattr(error, "has_policy", False)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was saved."""
    saved = config.stash.get(_SAVED, [])
    if saved:
        terminalreporter.section("netvm reproducers")
        for path, has_policy in saved:
            without = "  # without the test's policy; the test finds it again" if has_policy else ""
            terminalreporter.line(f"netvm replay {path}{without}")
