"""The plugin in a project of somebody's own: a folder that has nothing but a test, and netvm installed."""

import sys

import pytest

pytest_plugins = ["pytester"]

QUIET = ("-q", "-p", "no:cacheprovider")
TEST = '''
"""Tests of somebody's own."""
from netvm.testing.explore import explore

@explore("abstract/reserve", overrides=["abstract.reserve=2"])
def test_nothing_hangs(run):
    """It does with two frames."""

@explore("abstract/reserve", schedules=3, overrides=["run.max_steps=50"])
def test_mine(run):
    """An assertion of one's own is a property like any other."""
    assert run.world.nr_steps < 40, "so long"

@explore("abstract/reserve", schedules=2, overrides=["run.max_steps=50"])
def test_passes(run):
    """Nothing is asked for."""
'''


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return a fresh folder with a test in it; the plugin comes by its entry point."""
    pytester.makepyfile(test_own=TEST)
    return pytester


def netvm(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the command line there."""
    return project.run(sys.executable, "-m", "netvm", *arguments)


def test_a_reproducer_is_saved_and_replays_to_the_byte(project: pytest.Pytester) -> None:
    """The file is there, the summary says how to run it, and running it gives the same failure to the byte."""
    done = project.runpytest_subprocess(*QUIET, "-k", "hangs", "--netvm-reproducers", "saved")
    done.assert_outcomes(failed=1, deselected=2)
    done.stdout.fnmatch_lines(["*nothing hangs and nothing goes round for ever: HANG*", "*tape = *"])
    done.stdout.fnmatch_lines(["*netvm reproducers*", "netvm replay saved/test_nothing_hangs.toml"])
    again = netvm(project, "replay", "saved/test_nothing_hangs.toml")
    again.stdout.fnmatch_lines(["*fails: *HANG*", "*the same result as saved/test_nothing_hangs.toml, byte for byte*"])


@pytest.mark.slow
def test_a_reproducer_can_be_walked_through(project: pytest.Pytester) -> None:
    """`--step` tells each step of the schedule: who runs, and who could have instead."""
    project.runpytest_subprocess(*QUIET, "-k", "hangs", "--netvm-reproducers", "saved")
    walked = netvm(project, "replay", "--step", "saved/test_nothing_hangs.toml")
    walked.stdout.fnmatch_lines(["*1 * choice 0 * user-1 runs, not *"])


@pytest.mark.slow
def test_what_a_test_asserts_itself_is_a_property(project: pytest.Pytester) -> None:
    """It fails with a reproducer; without the option nothing is written, and what is printed is the file."""
    done = project.runpytest_subprocess(*QUIET, "-k", "not hangs")
    done.assert_outcomes(failed=1, passed=1, deselected=1)
    done.stdout.fnmatch_lines(["*test_mine holds: so long*", "*save this and run `netvm replay` on it*"])
    assert not (project.path / "saved").exists()
