"""`netvm check`: results, exit codes, JSON, and the reproducer that `netvm replay` runs."""

import itertools
import json
import signal
from pathlib import Path

import pytest

from netvm.cli.app import main
from netvm.explore.subject import Schedule, Subject
from netvm.runtime.oracle import Oracle

HANGS = ["--set", "abstract.frames=4", "--set", "abstract.reserve=1"]


def test_a_safe_machine_is_proved(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and every key of the JSON object is there."""
    assert main(["check", "abstract/reserve", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["result"] == "proved"
    assert told["failures"] == 0
    assert told["first_failure_at"] is None
    assert told["reproducer"] is None
    assert {"strategy", "schedules", "states", "bound"} <= set(told)


def test_a_refuted_machine_leaves_a_reproducer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1; the file replays to the byte with exit 0, and --step tells every step."""
    path = tmp_path / "r.toml"
    arguments = ["check", "abstract/reserve", *HANGS, "--strategy", "random", "--output", str(path), "--json"]
    assert main(arguments) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["result"], told["reproducer"], told["first_failure_at"]) == ("refuted", str(path), 1)
    assert main(["replay", str(path), "--step"]) == 0
    out = capsys.readouterr().out
    assert "user-1 runs, not writer/0-2" in out
    assert "byte for byte" in out


def test_a_reproducer_of_something_else_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 where the result is not the recorded one, or where the tape names what is not offered."""
    path = tmp_path / "r.toml"
    main(["check", "abstract/reserve", *HANGS, "--output", str(path)])
    text = path.read_text()
    path.write_text(text.replace("frames = 4", "frames = 6"))
    assert main(["replay", str(path)]) == 1
    assert "NOT the result" in capsys.readouterr().out
    path.write_text(text.replace("tape = [", "tape = [99, "))
    assert main(["replay", str(path)]) == 1
    assert "choice 0 of the tape is 99" in capsys.readouterr().out


def test_nothing_run_decides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3: a limit is never a pass."""
    assert main(["check", "abstract/reserve", "--strategy", "random", "--schedules", "0"]) == 3
    assert "nothing decided" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--mishap", "fire=1"], "KIND one of packet, alloc, complete"),
        (["--strategy", "luck"], "must be one of random"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
    ],
)
def test_what_is_typed_wrong_is_told(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and one line."""
    assert main(["check", "abstract/reserve", *arguments]) == 2
    assert what in capsys.readouterr().err


def test_an_interrupted_search_tells_what_it_has_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first Ctrl-C lets the schedule end; the three that were run are told, and the exit code is 130."""
    run, numbers = Subject.run, itertools.count(1)

    def run_and_interrupt(subject: Subject, oracle: Oracle) -> Schedule:
        if next(numbers) == 3:
            signal.raise_signal(signal.SIGINT)
        return run(subject, oracle)

    monkeypatch.setattr(Subject, "run", run_and_interrupt)
    before = signal.getsignal(signal.SIGINT)
    arguments = ["--strategy", "random", "--schedules", "9", "--set", "run.max_steps=30"]
    assert main(["check", "abstract/reserve", *arguments]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    captured = capsys.readouterr()
    assert "3 schedules (3 distinct)" in captured.out
    assert captured.err.startswith("netvm: interrupted: the search ends")


PROPERTY = """
from netvm.explore.properties import always, sometimes

@always("no more than one page of the reserve is used")
def one(run):
    used = run.machine.ledger.reserve_peak
    return f"{used} pages" if used > 1 else None

@sometimes("never")
def never(run):
    return False
"""


def test_properties_of_a_file_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that fails refutes; one that is never seen is told."""
    path = tmp_path / "mine.py"
    path.write_text(PROPERTY)
    arguments = ["check", "abstract/reserve", "--strategy", "random", "--schedules", "3", "--property", str(path)]
    assert main([*arguments, "--output", str(tmp_path / "r.toml"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["failure"]["property"] == "no more than one page of the reserve is used"
    assert "never" in told["vacuous"]


def test_a_reproducer_names_the_file_of_its_property(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replay looks at it where it was, beside the reproducer, or where --property says; else it asks for it.

    A file with other properties is not run unless it is asked for.
    """
    path, reproducer = tmp_path / "mine.py", tmp_path / "saved" / "r.toml"
    reproducer.parent.mkdir()
    path.write_text(PROPERTY)
    arguments = ["check", "abstract/reserve", "--strategy", "random", "--schedules", "3", "--property", str(path)]
    assert main([*arguments, "--output", str(reproducer)]) == 1
    capsys.readouterr()

    assert main(["replay", str(reproducer)]) == 0
    assert "fails: no more than one page of the reserve is used: " in capsys.readouterr().out

    path.rename(tmp_path / "moved.py")
    assert main(["replay", str(reproducer)]) == 2
    assert f"the properties of {path}, which is not there; say where with --property FILE" in capsys.readouterr().err
    assert main(["replay", str(reproducer), "--property", str(tmp_path / "moved.py")]) == 0
    assert "not the properties" not in capsys.readouterr().out

    beside, mark = reproducer.parent / "mine.py", tmp_path / "was-run"
    beside.write_text(PROPERTY.replace("> 1", "> 100") + f"\nopen({str(mark)!r}, 'w').close()\n")
    assert main(["replay", str(reproducer)]) == 2
    assert f"to look at them none the less: --property {beside}" in capsys.readouterr().err
    assert not mark.exists()

    assert main(["replay", str(reproducer), "--property", str(beside)]) == 1
    assert mark.exists()
    told = capsys.readouterr().out
    assert "mine.py: not the properties that the reproducer was written with" in told
    assert "holds in it" in told


@pytest.mark.parametrize(
    ("text", "blame"),
    [
        (None, "No such file"),
        ("x = ", "SyntaxError"),
        ("x = 1", "no function under @always"),
        (PROPERTY.replace("run.machine", "run.host"), "'no more than one page of the reserve is used': AttributeError"),
    ],
)
def test_a_file_without_properties_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, blame: str
) -> None:
    """In one line that names it, with exit 2."""
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    assert main(["check", "abstract/reserve", "--strategy", "random", "--property", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"netvm: --property {path}: ")
    assert blame in told
