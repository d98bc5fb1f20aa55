"""The plugin saves the reproducer of a test that was refuted and names it at the end."""

import subprocess
import sys
from pathlib import Path

TEST = '''
"""A test of somebody's own."""
from netvm.testing.explore import explore

@explore("abstract/reserve", overrides=["abstract.reserve=0"])
def test_hangs(run):
    """It does."""
'''


def test_a_reproducer_is_saved_and_named(tmp_path: Path) -> None:
    """`--netvm-reproducers` writes a file, and the summary says how to run it."""
    (tmp_path / "test_own.py").write_text(TEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:netvm",
        "-p",
        "netvm.testing.plugin",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "--netvm-reproducers", "saved", "test_own.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "netvm replay saved/test_hangs.toml" in done.stdout
    assert "[reproducer]" in (tmp_path / "saved" / "test_hangs.toml").read_text()
